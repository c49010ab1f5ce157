"""What is counted over a whole map, from one reading of it: seams, areas and the score, region by region."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from pipeline.areas import REGION_PX, Areas, class_areas
from pipeline.blocks import BlockGrid, Window
from pipeline.coherence import WINDOW_PX, Pairs, score_step
from pipeline.metrics import SeamCounts, Seams
from pipeline.stores import Labels, LabelStore


@dataclass(frozen=True)
class Census:
    """Figures of a whole map.

    Attributes
    ----------
    seams
        As of `pipeline.metrics.seams`.
    areas_m2
        Of each class, by id; None where the map has no CRS.
    score
        As of `pipeline.coherence.map_score`.
    """

    seams: Seams
    areas_m2: dict[str, float] | None
    score: float | None


def take_census(store: LabelStore, grid: BlockGrid) -> Census:
    """Count all figures of a map while its labels are read once; `grid` are the blocks that it was made of.

    What begins in a region is counted with it. Reaching further than a pixel beyond it, as blocks larger than a region
    do, it is read by itself.
    """
    geobox, squares, step = store.geobox, BlockGrid(store.shape, WINDOW_PX), score_step(store.shape)
    lines, pairs = SeamCounts(grid, nodata=store.nodata), Pairs(nodata=store.nodata)
    areas = None if geobox.crs is None else Areas(geobox.transform, geobox.crs.proj)
    for region in BlockGrid(store.shape, REGION_PX):
        near = _Near(store, region.core)
        if areas is not None:
            areas.add(region.core, near.read(region.core))
        for square in squares.touching(region.core):
            if near.begins(square.core):
                pairs.add(near.read(square.core), step)
        for block in grid.touching(region.core):
            if near.begins(block.core):
                lines.add(block.core, near.read(lines.window(block.core)))
    return Census(lines.rates(), None if areas is None else _by_class(areas.found(), store), pairs.score())


class _Near:
    """The labels of a region and of one pixel more to the right and below, read once."""

    def __init__(self, store: LabelStore, region: Window) -> None:
        height, width = store.shape
        self._store, self._region = store, region
        self._window = Window(region.y0, region.x0, min(region.y1 + 1, height), min(region.x1 + 1, width))
        self._labels = store.read(self._window)

    def begins(self, window: Window) -> bool:
        """Whether the first pixel of a window lies in the region."""
        y0, x0, y1, x1 = self._region
        return y0 <= window.y0 < y1 and x0 <= window.x0 < x1

    def read(self, window: Window) -> Labels:
        """Return the labels of a window that begins in the region."""
        if window.y1 <= self._window.y1 and window.x1 <= self._window.x1:
            return self._labels[window.relative_to(self._window).slices]
        return self._store.read(window)


def measure_areas(store: LabelStore) -> dict[str, float] | None:
    """Return the area of each class in square metres, by id; None where the map has no CRS."""
    geobox = store.geobox
    if geobox.crs is None:
        return None
    return _by_class(class_areas(store.read, store.shape, geobox.transform, geobox.crs.proj), store)


def _by_class(areas: Mapping[int, float], store: LabelStore) -> dict[str, float]:
    return {str(i): round(area, 3) for i, area in areas.items() if i != store.nodata}
