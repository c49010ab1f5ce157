"""The quicklook: the legend's colours at the right places, transparent where nothing is known."""

from __future__ import annotations

import warnings
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
from affine import Affine
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from odc.geo.geobox import GeoBox
from rasterio.errors import NotGeoreferencedWarning

from pipeline.blocks import Window
from pipeline.legend import Legend
from pipeline.levels import write_levels
from pipeline.quicklook import decimate_mode, decimated_labels, write_quicklook
from pipeline.stores import LabelStore, create_labels

LEGEND = Legend.from_counts({0: 1, 1: 1, 2: 1, 254: 1})


def filled(path: Path, labels: Any) -> LabelStore:
    create_labels(path, GeoBox(labels.shape, Affine(5, 0, 0, 0, -5, 0), None), dtype=labels.dtype.name, attrs={})
    store = LabelStore.open(path, "r+")
    store.write(Window(0, 0, *labels.shape), labels, labels.astype(np.uint8))
    return store


def read_png(path: Path) -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", NotGeoreferencedWarning)
        with rasterio.open(path, driver="PNG") as source:
            return np.moveaxis(source.read(), 0, -1)


def slow_mode(labels: Any, factor: int) -> Any:
    height, width = (-(-size // factor) for size in labels.shape)
    out = np.full((height, width), 255, labels.dtype)
    for y in range(height):
        for x in range(width):
            cell = labels[y * factor : (y + 1) * factor, x * factor : (x + 1) * factor].ravel().tolist()
            votes = Counter(value for value in cell if value != 255)
            if votes:
                out[y, x] = min(votes, key=lambda value: (-votes[value], value))
    return out


@settings(deadline=None, max_examples=100)
@given(
    arrays(np.uint8, st.tuples(st.integers(1, 9), st.integers(1, 9)), elements=st.sampled_from([0, 3, 254, 255])),
    st.integers(1, 5),
)
def test_mode_is_the_slow_mode(labels: Any, factor: int) -> None:
    np.testing.assert_array_equal(decimate_mode(labels, factor, 255), slow_mode(labels, factor))


def test_tiles_make_no_difference(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    labels = np.random.default_rng(0).choice(np.array([0, 1, 2, 255], np.uint8), (130, 217))
    store = filled(tmp_path / "labels.zarr", labels)
    for tile in (12, 40, 2048):
        monkeypatch.setattr("pipeline.quicklook._TILE_PX", tile)
        found = decimated_labels(store, 50)
        assert max(found.shape) <= 50
        np.testing.assert_array_equal(found, slow_mode(labels, 5))


def test_levels_that_are_fine_enough_are_used(tmp_path: Path) -> None:
    labels = np.random.default_rng(0).choice(np.array([0, 1, 2, 255], np.uint8), (520, 868))
    store = filled(tmp_path / "labels.zarr", labels)
    write_levels(store)
    level = np.asarray(store.levels()[0][:])
    assert level.shape == (260, 434)
    np.testing.assert_array_equal(decimated_labels(store, 220), slow_mode(level, 2))
    np.testing.assert_array_equal(decimated_labels(store, 868), labels)


@pytest.mark.parametrize(("dtype", "nodata"), [(np.uint8, 255), (np.uint16, 65535)])
def test_picture(tmp_path: Path, dtype: Any, nodata: int) -> None:
    labels = np.array([[0, 1, 2], [254, nodata, 0]], dtype)
    write_quicklook(filled(tmp_path / "labels.zarr", labels), LEGEND, tmp_path / "quicklook.png")
    found = read_png(tmp_path / "quicklook.png")
    expected = [
        [[*bytes.fromhex(LEGEND[i].colour[1:]), 255] if i != nodata else [0] * 4 for i in row] for row in labels
    ]
    assert found.tolist() == expected
    assert sorted(each.name for each in tmp_path.iterdir()) == ["labels.zarr", "quicklook.png"]


def test_scene_beside_the_map(tmp_path: Path) -> None:
    store = filled(tmp_path / "labels.zarr", np.zeros((20, 30), np.uint8))
    rgb = np.zeros((3, 4, 6), np.uint8)
    rgb[0, :, :3], rgb[1, :, 3:] = 200, 100
    write_quicklook(store, LEGEND, tmp_path / "quicklook.png", rgb)
    found = read_png(tmp_path / "quicklook.png")
    assert found.shape == (20, 60, 4)
    assert (found[:, :15] == [200, 0, 0, 255]).all()
    assert (found[:, 15:30] == [0, 100, 0, 255]).all()
    assert (found[:, 30:] == LEGEND.rgba()[0]).all()


def test_one_pixel(tmp_path: Path) -> None:
    write_quicklook(
        filled(tmp_path / "labels.zarr", np.full((1, 1), 2, np.uint8)), LEGEND, tmp_path / "q.png", max_px=1
    )
    assert read_png(tmp_path / "q.png").shape == (1, 1, 4)


def test_refusals(tmp_path: Path) -> None:
    store = filled(tmp_path / "labels.zarr", np.full((4, 4), 9, np.uint8))
    with pytest.raises(ValueError, match=r"every id of the map; \[9\] are not in it"):
        write_quicklook(store, LEGEND, tmp_path / "q.png")
    with pytest.raises(ValueError, match="`max_px` must be positive"):
        write_quicklook(store, LEGEND, tmp_path / "q.png", max_px=0)
    with pytest.raises(ValueError, match=r"must be \(3, y, x\) uint8"):
        write_quicklook(store, Legend.from_counts({9: 1}), tmp_path / "q.png", np.zeros((4, 4, 3), np.uint8))
    assert not (tmp_path / "q.png").exists()
