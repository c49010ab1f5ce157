"""One reading of a map gives the figures that several readings give."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from affine import Affine
from odc.geo.geobox import GeoBox

from pipeline.blocks import BlockGrid, Window
from pipeline.borders import measure_borders
from pipeline.census import Counting, measure_areas, take_census
from pipeline.coherence import map_score
from pipeline.levels import write_levels
from pipeline.metrics import seams
from pipeline.stores import LabelStore, create_labels

REGION_PX, SQUARE_PX = 128, 64


@pytest.fixture(autouse=True)
def _small_regions(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in ("areas", "census"):
        monkeypatch.setattr(f"pipeline.{module}.REGION_PX", REGION_PX)
    for module in ("coherence", "census"):
        monkeypatch.setattr(f"pipeline.{module}.WINDOW_PX", SQUARE_PX)


def filled(path: Path, shape: tuple[int, int], crs: str | None, values: int) -> LabelStore:
    rng = np.random.default_rng(shape[0])
    labels = np.kron(rng.integers(0, values, shape), np.ones((5, 3), int))[: shape[0], : shape[1]].astype(np.uint8)
    labels[rng.random(shape) < 0.05] = 255
    create_labels(path, GeoBox(shape, Affine(5, 0, 5e5, 0, -5, 4e6), crs), chunk_px=32, attrs={})
    store = LabelStore.open(path, "r+")
    store.write(Window(0, 0, *shape), labels, labels)
    return store


@pytest.mark.parametrize("block_px", [32, 96, 200, 512])  # smaller than a region, across regions, larger, all
@pytest.mark.parametrize(("shape", "crs", "values"), [((300, 410), "EPSG:32618", 6), ((257, 129), None, 40)])
def test_a_census_is_what_each_figure_is_by_itself(
    tmp_path: Path, shape: tuple[int, int], crs: str | None, values: int, block_px: int
) -> None:
    store, grid = filled(tmp_path / "labels.zarr", shape, crs, values), BlockGrid(shape, block_px, overlap_px=4)
    found = take_census(store, grid)
    assert found.seams == seams(store.read, grid)
    assert found.areas_m2 == measure_areas(store)
    assert found.score == map_score(store.read, shape, nodata=255)
    assert found.borders == tuple(measure_borders(store.read, grid, 255))
    assert len(found.borders) == len(list(grid.pairs()))
    assert (found.score or 0) > 0


def test_labels_are_read_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store, read = filled(tmp_path / "labels.zarr", (384, 256), "EPSG:32618", 6), LabelStore.read
    seen: list[Window] = []

    def noted(self: LabelStore, window: Window) -> Any:
        seen.append(window)
        return read(self, window)

    monkeypatch.setattr(LabelStore, "read", noted)
    take_census(store, BlockGrid(store.shape, 64))
    assert len(seen) == 6
    assert max(window.size for window in seen) <= (REGION_PX + 1) ** 2


@pytest.mark.parametrize("work_px", [REGION_PX // 2, 96])  # regions by regions, and pieces that are none
def test_a_census_is_taken_while_levels_are_written(tmp_path: Path, work_px: int) -> None:
    shape = (700, 610)
    store, grid = filled(tmp_path / "labels.zarr", shape, "EPSG:32618", 6), BlockGrid(shape, 96)
    alone = filled(tmp_path / "alone.zarr", shape, "EPSG:32618", 6)
    write_levels(alone, work_px=work_px)
    counting, seen = Counting(store, grid), list[Window]()

    def noted(window: Window) -> Any:
        seen.append(window)
        return counting.read(window)

    write_levels(store, work_px=work_px, read=noted)
    assert sum(window.size for window in seen) == shape[0] * shape[1]
    for level, expected in zip(LabelStore.open(store.path).levels(), LabelStore.open(alone.path).levels(), strict=True):
        np.testing.assert_array_equal(np.asarray(level), np.asarray(expected))
    found, expected_census = counting.finish(), take_census(alone, grid)
    assert found.areas_m2 == pytest.approx(expected_census.areas_m2, abs=2e-3)
    assert replace(found, areas_m2=None) == replace(expected_census, areas_m2=None)
