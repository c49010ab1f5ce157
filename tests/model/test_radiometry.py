"""Scaling: the published rule value by value, and laws of the linear ones."""

from __future__ import annotations

import json
from decimal import ROUND_HALF_UP, Decimal

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ktex_model import radiometry
from ktex_model.radiometry import Scaling


def published(value, band):
    """METHOD's rule in decimal arithmetic."""
    value = Decimal(int(value)) / (Decimal("3.937") if band == "N" else 1)
    level = (min(value, Decimal(2540)) / 10).quantize(Decimal(1), ROUND_HALF_UP)
    return float(np.float32(int(level) / 255.0))


@pytest.mark.parametrize("order", ["RGBN", "BGRN", "NRGB"])
def test_paper_scaling_is_the_published_rule(order):
    values = np.unique(np.r_[0:3000:7, 1235, 2534:2560, 9990:10050, 65535]).astype(np.uint16)
    scaled = radiometry.paper(order).apply(np.tile(values, (4, 1, 1)))
    for band, found in zip(order, scaled[:, 0], strict=True):
        np.testing.assert_array_equal(found, np.float32([published(value, band) for value in values]))
    assert scaled.dtype == np.float32
    assert scaled.max() == np.float32(254 / 255)


@pytest.mark.parametrize("bands", ["RGB", "RGBA", "RGBNN", "RRBN", ["red", "green", "blue", "nir"]])
def test_paper_scaling_refuses_other_bands(bands):
    with pytest.raises(ValueError, match="scaling 'paper' must have the bands"):
        radiometry.paper(bands)


@pytest.mark.parametrize("dtype", [np.uint8, np.int16, np.float32])
def test_paper_scaling_refuses_other_dtypes(dtype):
    with pytest.raises(ValueError, match=f"must have uint16 values; got {np.dtype(dtype)}"):
        radiometry.paper("RGBN").apply(np.zeros((4, 2, 2), dtype))


def test_byte_and_reflectance():
    np.testing.assert_allclose(
        radiometry.byte(1).apply(np.arange(256, dtype=np.uint8).reshape(1, 16, 16)).ravel(), np.arange(256) / 255
    )
    with pytest.raises(ValueError, match="must have uint8 values; got uint16"):
        radiometry.byte(1).apply(np.zeros((1, 2, 2), np.uint16))
    scaled = radiometry.reflectance(2).apply(np.array([[[-100.0, np.nan]], [[2500.0, 20000.0]]]))
    np.testing.assert_array_equal(scaled, np.float32([[[0, 0]], [[0.25, 1]]]))


@given(st.integers(1, 8), st.integers(0, 2**32 - 1))
@settings(deadline=None, max_examples=30)
def test_percentile_scaling_clips_what_it_says(bands, seed):
    rng = np.random.default_rng(seed)
    sample = rng.gamma(2.0, 500.0, (bands, 40, 50))
    low, high = radiometry.percentile_limits(sample, low=2, high=98)
    scaled = radiometry.percentile(low, high).apply(sample)
    assert scaled.shape == sample.shape
    assert scaled.min() == 0
    assert scaled.max() == 1
    for band in range(bands):
        assert (scaled[band] == 0).mean() == pytest.approx(0.02, abs=0.001)
        assert (scaled[band] == 1).mean() == pytest.approx(0.02, abs=0.001)
        order = np.argsort(sample[band], axis=None)
        assert (np.diff(scaled[band].ravel()[order]) >= 0).all()


def test_percentile_limits_see_valid_pixels_only():
    sample = np.full((2, 10, 10), 1e9)
    valid = np.zeros((10, 10), bool)
    valid[2:4] = True
    sample[:, valid] = np.arange(20)
    sample[1, 3, 9] = np.nan
    low, high = radiometry.percentile_limits(sample, valid, 0, 100)
    assert (low, high) == ((0, 0), (18, 18))
    assert radiometry.percentile_limits(np.full((1, 3, 3), 7)) == ((7.0,), (8.0,))


@pytest.mark.parametrize(
    ("arguments", "match"),
    [
        ((np.zeros((1, 2, 2)), np.zeros((2, 2), bool)), "must hold valid pixels"),
        ((np.zeros((1, 2, 2)), np.zeros((3, 2), bool)), "must have the shape"),
        ((np.zeros((2, 2)),), "must be \\(band, y, x\\)"),
        ((np.zeros((1, 2, 2)), None, 60, 40), "0 <= low < high <= 100"),
    ],
)
def test_percentile_limits_refuse(arguments, match):
    with pytest.raises(ValueError, match=match):
        radiometry.percentile_limits(*arguments)


@pytest.mark.parametrize(
    "scaling",
    [radiometry.paper("BGRN"), radiometry.reflectance(3), radiometry.byte(8), radiometry.percentile([0.1], [7 / 3])],
)
def test_scaling_survives_json(scaling):
    assert Scaling.from_json(json.loads(json.dumps(scaling.to_json()))) == scaling


@pytest.mark.parametrize(
    ("make", "match"),
    [
        (lambda: Scaling("other", (0,), (1,)), "`name` must be one of"),
        (lambda: Scaling("percentile", (0, 1), (1,)), "one value for each band"),
        (lambda: Scaling("percentile", (), ()), "one value for each band"),
        (lambda: Scaling("percentile", (1,), (1,)), "below `high`"),
        (lambda: Scaling("percentile", (0,), (float("inf"),)), "finite"),
        (lambda: Scaling.from_json({"name": "byte"}), "keys name, low and high"),
        (lambda: radiometry.byte(3).apply(np.zeros((4, 2, 2), np.uint8)), "with 3 bands; got shape"),
        (lambda: radiometry.reflectance(1).apply(np.zeros((1, 2, 2), complex)), "must be real numbers"),
    ],
)
def test_scaling_refuses(make, match):
    with pytest.raises(ValueError, match=match):
        make()


@pytest.mark.parametrize(
    ("scaling", "dtype"),
    [
        (radiometry.byte(2), np.uint8), (radiometry.reflectance(2), np.uint16), (radiometry.reflectance(2), np.int16),
        (Scaling("percentile", (13.7, 200.0), (6789.1, 201.5)), np.uint16), (radiometry.reflectance(2), np.float32),
    ],
)  # fmt: skip
def test_a_large_image_is_scaled_as_its_pixels_are(scaling, dtype):
    values = np.random.default_rng(0).integers(0, 9000, (2, 300, 301)).astype(dtype)
    whole = scaling.apply(values)
    assert whole.dtype == np.float32
    pieces = np.concatenate([scaling.apply(values[:, row : row + 1, :100]) for row in range(300)], axis=1)
    np.testing.assert_array_equal(whole[:, :, :100], pieces)
    expected = (values.astype(float) - np.array(scaling.low)[:, None, None]) / np.subtract(scaling.high, scaling.low)[
        :, None, None
    ]
    np.testing.assert_allclose(whole, np.clip(expected, 0, 1), atol=1e-7)
