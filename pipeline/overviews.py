"""Overviews of a COG, made of its pixels as these are written: just those that GDAL would make, but sooner.

GDAL makes overviews of sides that do not halve evenly by rules of its own, and so all overviews of such a raster.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import rasterio
from numpy.typing import NDArray
from rasterio.io import DatasetWriter

from pipeline.blocks import Window
from pipeline.geotiff import raster_window

LEFT_OUT = frozenset({"crs", "transform", "compress", "zstd_level"})
"""Of the profile of a GeoTIFF that is of no use in those of its overviews."""

Halve = Callable[[NDArray[Any]], NDArray[Any]]
"""Makes one pixel of each 2 x 2."""


def count_halvings(shape: tuple[int, int], smallest_px: int) -> int | None:
    """Return how often a raster is halved until it is no larger than that; None where a side is odd before.

    Examples
    --------
    >>> [count_halvings(shape, 512) for shape in ((512, 512), (2048, 700), (2048, 701), (1024, 351))]
    [0, 2, None, None]
    """
    count, sides = 0, shape
    while max(sides) > smallest_px:
        if any(side % 2 for side in sides):
            return None
        count, sides = count + 1, (sides[0] // 2, sides[1] // 2)
    return count


def fits_halvings(windows: Iterable[Window], count: int) -> bool:
    """Whether windows begin where pixels of the coarsest level do, so that each can be halved by itself.

    >>> fits_halvings([Window(0, 0, 512, 9), Window(512, 0, 600, 9)], 9), fits_halvings([Window(100, 0, 200, 9)], 3)
    (True, False)
    """
    return all(window.y0 % 2**count == 0 and window.x0 % 2**count == 0 for window in windows)


@contextmanager
def filling_overviews(path: Path, profile: Mapping[str, Any], count: int) -> Iterator[Sequence[DatasetWriter]]:
    """Give so many rasters to write into, each half the one before it, where GDAL looks for the overviews of a GeoTIFF.

    `profile` is that of the GeoTIFF `path`. They are not compressed: a third of its pixels, read once and thrown away.
    """
    plain = {name: value for name, value in profile.items() if name not in LEFT_OUT}
    with ExitStack() as stack:
        levels = []
        for level in range(1, count + 1):
            path = path.with_name(f"{path.name}.ovr")
            sides = {side: profile[side] // 2**level for side in ("height", "width")}
            levels.append(stack.enter_context(rasterio.open(path, "w", **plain | sides)))
        yield levels


def write_halved(levels: Sequence[DatasetWriter], window: Window, pixels: NDArray[Any], halve: Halve) -> None:
    """Write the pixels ``(y, x)`` of a window of a raster into its overviews, each made of the one before it."""
    for level in levels:
        pixels, window = halve(pixels), Window(*(each // 2 for each in window))
        level.write(pixels, 1, window=raster_window(window))
