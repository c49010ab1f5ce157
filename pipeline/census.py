"""What is counted over a whole map, from one reading of it: seams, areas and the score, region by region."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from pipeline.areas import REGION_PX, Areas, class_areas
from pipeline.blocks import BlockGrid, Window
from pipeline.borders import Border, Line, choose_lines, count_changes
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
    borders
        As of `pipeline.borders.measure_borders`.
    """

    seams: Seams
    areas_m2: dict[str, float] | None
    score: float | None
    borders: tuple[Border, ...]


def take_census(store: LabelStore, grid: BlockGrid) -> Census:
    """Count all figures of a map while its labels are read once; `grid` are the blocks that it was made of."""
    return Counting(store, grid).finish()


class Counting:
    """A census under way: regions are counted as they are read.

    What begins in a region is counted with it. Reaching further than a pixel beyond it, as blocks larger than a region
    do, it is read by itself.
    """

    def __init__(self, store: LabelStore, grid: BlockGrid) -> None:
        geobox, shape = store.geobox, store.shape
        self._store, self._grid = store, grid
        regions = BlockGrid(shape, REGION_PX)
        self._left: dict[Window, list[Line]] = {region.core: [] for region in regions}
        self._squares, self._step = BlockGrid(shape, WINDOW_PX), score_step(shape)
        self._seams, self._pairs = SeamCounts(grid, nodata=store.nodata), Pairs(nodata=store.nodata)
        self._areas = None if geobox.crs is None else Areas(geobox.transform, geobox.crs.proj)
        self._lines, self._borders = choose_lines(grid), dict[Line, Border]()
        for line in self._lines:
            y, x = line.window[:2]
            (region,) = regions.touching(Window(y, x, y + 1, x + 1))
            self._left[region.core].append(line)

    def read(self, window: Window) -> Labels:
        """Return the labels of a window; a whole region that has not been read before is counted."""
        if window not in self._left:
            return self._store.read(window)
        return self._count(window, self._left.pop(window))

    def finish(self) -> Census:
        """Count the regions that nobody has read, and return the figures."""
        for region in list(self._left):
            self.read(region)
        return Census(
            self._seams.rates(),
            None if self._areas is None else _by_class(self._areas.found(), self._store),
            self._pairs.score(),
            tuple(self._borders[line] for line in self._lines),
        )

    def _count(self, region: Window, lines: Sequence[Line]) -> Labels:
        near = _Near(self._store, region)
        labels = near.read(region)
        if self._areas is not None:
            self._areas.add(region, labels)
        for square in self._squares.touching(region):
            if near.begins(square.core):
                self._pairs.add(near.read(square.core), self._step)
        for block in self._grid.touching(region):
            if near.begins(block.core):
                self._seams.add(block.core, near.read(self._seams.window(block.core)))
        for line in lines:
            self._borders[line] = count_changes(line, near.read(line.window), self._store.nodata)
        return labels


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
