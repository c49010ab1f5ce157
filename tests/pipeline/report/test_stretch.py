"""Colours of pixels: the same whatever type the values have, none where nothing is valid."""

from __future__ import annotations

import numpy as np
import pytest

from pipeline.pixels import Pixels
from pipeline.report.views import Stretch, picture

STRETCH = Stretch((2, 1, 0), (10.0, 20.0, 0.0), (200.0, 90.5, 77.0))


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.int32, np.float32])
def test_colours_do_not_depend_on_the_type(dtype: type) -> None:
    values = np.random.default_rng(0).integers(0, 256, (4, 30, 50))
    shown = STRETCH.apply(values.astype(dtype))
    for place, (band, low, high) in enumerate(zip(STRETCH.bands, STRETCH.low, STRETCH.high, strict=True)):
        expected = np.clip((values[band] - low) / (high - low), 0, 1) * 255
        assert np.abs(shown[..., place] - expected).max() <= 0.501
        assert {0, 255} <= set(shown[..., place].ravel().tolist())


def test_a_picture_is_clear_where_nothing_is_valid() -> None:
    rng = np.random.default_rng(0)
    view = Pixels(rng.integers(1, 9999, (3, 20, 30)).astype(np.uint16), rng.random((20, 30)) < 0.7)
    shown = picture(view, STRETCH)
    np.testing.assert_array_equal(shown[..., 3], np.where(view.valid, 255, 0))
    assert not shown[~view.valid].any()
    np.testing.assert_array_equal(shown[view.valid, :3], STRETCH.apply(view.data)[view.valid])


def test_limits_are_those_of_the_valid_pixels() -> None:
    rng = np.random.default_rng(0)
    values, valid = rng.integers(0, 5000, (4, 300, 200)).astype(np.uint16), rng.random((300, 200)) < 0.5
    values[:, ~valid] = 60_000
    for seen in (valid, np.ones_like(valid)):
        fitted = Stretch.fit(Pixels(values, seen), ("B", "G", "R", "N"))
        expected = np.percentile(values[[2, 1, 0]][:, seen], (1, 99), axis=1)
        np.testing.assert_allclose([fitted.low, fitted.high], expected)
