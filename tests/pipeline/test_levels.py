"""Levels: the mode by a slow rule, for any size of the pieces, found by readers of the conventions."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
import xarray as xr
import zarr
from affine import Affine
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from numpy.typing import NDArray
from odc.geo.geobox import GeoBox

from pipeline.blocks import Window
from pipeline.cog import write_cog
from pipeline.legend import Legend
from pipeline.levels import reduce_mode, write_levels
from pipeline.results import open_store
from pipeline.stores import LabelStore, create_labels, set_legend

pytestmark = pytest.mark.filterwarnings("ignore:Use `@` matmul:PendingDeprecationWarning")

UTM = Affine(5, 0, 5e5, 0, -5, 4e6)
VALUES = st.sampled_from([0, 1, 2, 200, 255])


def first_to_win(votes: Iterable[int]) -> int:
    """The documented rule, slowly: whoever reaches the highest count first, in reading order."""
    counts: dict[int, int] = {}
    best = 255
    for vote in votes:
        if vote != 255:
            counts[vote] = counts.get(vote, 0) + 1
            if counts[vote] > counts.get(best, 0):
                best = vote
    return best


def slow_mode(labels: NDArray[Any]) -> NDArray[Any]:
    height, width = labels.shape
    cells = [
        [first_to_win(labels[y : y + 2, x : x + 2].ravel().tolist()) for x in range(0, width, 2)]
        for y in range(0, height, 2)
    ]
    return np.array(cells, labels.dtype)


@settings(deadline=None, max_examples=60)
@given(hnp.arrays(np.uint8, hnp.array_shapes(min_dims=2, max_dims=2, max_side=9), elements=VALUES))
def test_mode(labels: NDArray[np.uint8]) -> None:
    np.testing.assert_array_equal(reduce_mode(labels, 255), slow_mode(labels))


def filled(path: Path, labels: NDArray[Any], chunk_px: int = 64) -> LabelStore:
    create_labels(path, GeoBox(labels.shape, UTM, "EPSG:32618"), chunk_px=chunk_px, attrs={"license": "CC0-1.0"})
    store = LabelStore.open(path, "r+")
    store.write(Window(0, 0, *labels.shape), labels, np.full(labels.shape, 9, np.uint8))
    return store


def test_levels_do_not_depend_on_how_they_are_made(tmp_path: Path) -> None:
    labels = np.random.default_rng(0).choice(np.array([0, 1, 7, 255], np.uint8), (1300, 70))
    expected = [slow_mode(labels)]
    expected.append(slow_mode(expected[0]))
    for work_px in (64, 256, 2048):
        store = filled(tmp_path / f"{work_px}.zarr", labels)
        set_legend(store.path, Legend.from_counts({0: 1, 1: 1, 7: 1}, names={7: "lake"}))
        write_levels(LabelStore.open(store.path), work_px=work_px)
        found = LabelStore.open(store.path).levels()
        assert len(found) == 2
        for level, reference in zip(found, expected, strict=True):
            np.testing.assert_array_equal(np.asarray(level), reference)


def test_levels_equal_the_overviews_of_the_cog(tmp_path: Path) -> None:
    labels = np.random.default_rng(1).choice(np.array([0, 1, 2, 200, 255], np.uint8), (2080, 24))
    store = filled(tmp_path / "labels.zarr", labels)
    write_levels(LabelStore.open(store.path, "r+"))
    write_cog(store, tmp_path / "labels.tif")
    with rasterio.open(tmp_path / "labels.tif") as source:
        count = len(source.overviews(1))
    levels = LabelStore.open(store.path).levels()
    assert count >= 2
    for index in range(count):
        with rasterio.open(tmp_path / "labels.tif", overview_level=index) as source:
            np.testing.assert_array_equal(source.read(1), np.asarray(levels[index]), err_msg=f"level {index}")


def test_conventions_lead_to_the_levels(tmp_path: Path) -> None:
    labels = np.random.default_rng(2).choice(np.array([0, 7], np.uint8), (1100, 600))
    store = filled(tmp_path / "labels.zarr", labels)
    write_levels(LabelStore.open(store.path, "r+"))
    set_legend(store.path, Legend.from_counts({0: 1, 7: 1}, names={7: "lake"}))
    attrs: dict[str, Any] = dict(zarr.open_group(store.path, mode="r").attrs)
    assert {each["name"] for each in attrs["zarr_conventions"]} == {"multiscales", "spatial:", "proj:"}
    assert (attrs["proj:code"], attrs["license"]) == ("EPSG:32618", "CC0-1.0")
    layout = attrs["multiscales"]["layout"]
    assert [each["asset"] for each in layout] == ["labels", "levels/1/labels", "levels/2/labels"]
    assert [each.get("derived_from") for each in layout] == [None, "labels", "levels/1/labels"]
    for index, each in enumerate(layout):
        array = zarr.open_array(store.path, path=each["asset"], mode="r")
        assert list(array.shape) == each["spatial:shape"]
        place = each["spatial:transform"]
        assert place == [5.0 * 2**index, 0.0, 5e5, 0.0, -5.0 * 2**index, 4e6]
        data = open_store(store.path, each["asset"].rpartition("/")[0] or None)
        assert data.labels.attrs["flag_meanings"] == "class_0 lake"
        assert data.rio.crs.to_epsg() == data.odc.geobox.crs.epsg == 32618
        np.testing.assert_allclose(tuple(data.rio.transform())[:6], place)
        np.testing.assert_allclose(tuple(data.odc.geobox.transform)[:6], place)
    root = xr.open_zarr(store.path, mask_and_scale=False)
    assert set(root.data_vars) == {"labels", "confidence", "spatial_ref"} - set(root.coords)
    np.testing.assert_array_equal(root.labels, labels)
