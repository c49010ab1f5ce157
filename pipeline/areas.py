"""Areas on the ground: what a class covers on the ellipsoid, whatever the projection of its map.

A pixel of EPSG:3857 stands for ``cos(latitude)`` squared of its nominal area, 18 % less at 25 degrees, so pixels are
never just counted. Areas are measured cell by cell in an equal-area projection.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from affine import Affine
from numpy.typing import NDArray
from pyproj import CRS, Transformer

from pipeline.blocks import BlockGrid, Window
from pipeline.metrics import count_classes
from pipeline.stores import NODATA

CELL_PX = 64
REGION_PX = 4096
"""One equal-area projection serves so many pixels; it is centred on them, so that no scene is too large for it."""

FEW = 16
"""So many values are sooner compared one by one than counted all at once."""

Read = Callable[[Window], NDArray[np.integer]]


def pixel_areas(transform: Affine, crs: CRS, window: Window) -> NDArray[np.float64]:
    """Return the area of a pixel, in square metres, for each cell of up to 64 x 64 pixels of a window.

    Examples
    --------
    >>> areas = pixel_areas(Affine(0.01, 0, 10, 0, -0.01, 60.01), CRS(4326), Window(0, 0, 2, 2))
    >>> areas.shape, round(float(areas[0, 0]) / 1e4, 1)
    ((1, 1), 62.2)
    """
    y = np.append(np.arange(window.y0, window.y1, CELL_PX), window.y1)
    x = np.append(np.arange(window.x0, window.x1, CELL_PX), window.x1)
    cols, rows = np.meshgrid(x, y)
    east = transform.a * cols + transform.b * rows + transform.c
    north = transform.d * cols + transform.e * rows + transform.f
    east, north = _to_equal_area(crs, east, north)
    # Shoelace over the diagonals of each cell.
    one = (east[1:, 1:] - east[:-1, :-1]) * (north[1:, :-1] - north[:-1, 1:])
    other = (east[1:, :-1] - east[:-1, 1:]) * (north[1:, 1:] - north[:-1, :-1])
    return np.asarray(np.abs(one - other) / 2 / np.outer(np.diff(y), np.diff(x)))


def _to_equal_area(
    crs: CRS, east: NDArray[np.float64], north: NDArray[np.float64]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    degrees = Transformer.from_crs(crs, CRS(4326), always_xy=True)
    lon, lat = degrees.transform((east.min() + east.max()) / 2, (north.min() + north.max()) / 2)
    plane = CRS.from_proj4(f"+proj=laea +lat_0={lat} +lon_0={lon} +datum=WGS84 +units=m")
    return Transformer.from_crs(crs, plane, always_xy=True).transform(east, north)


def class_areas(read: Read, shape: tuple[int, int], transform: Affine, crs: CRS) -> dict[int, float]:
    """Return the area of each value of a map, in square metres; values that do not occur are absent.

    Parameters
    ----------
    read
        Returns the ``(y, x)`` uint8 or uint16 values of a window of up to 5120 x 5120 pixels.
    shape, transform, crs
        The grid of the map.

    Raises
    ------
    TypeError
        Where the values are neither.
    """
    totals = Areas(transform, crs)
    for block in BlockGrid(shape, REGION_PX):
        totals.add(block.core, read(block.core))
    return totals.found()


class Areas:
    """Areas of the values of a map, collected region by region; see `class_areas`."""

    def __init__(self, transform: Affine, crs: CRS) -> None:
        self._grid = transform, crs
        self._totals = np.zeros(65536)
        self._seen = np.zeros(0, np.intp)

    def add(self, window: Window, values: NDArray[np.integer]) -> None:
        """Count the values ``(y, x)`` of one region."""
        if values.dtype not in (np.uint8, np.uint16):
            raise TypeError(f"`values` must be uint8 or uint16; got {values.dtype}")
        for row, areas in enumerate(pixel_areas(*self._grid, window)):
            strip = values[row * CELL_PX : (row + 1) * CELL_PX]
            counts = _count_cells(strip, self._seen)
            if counts.sum() < strip.size:  # a value that was not seen so far
                self._seen = np.union1d(self._seen, _values_in(strip))
                counts = _count_cells(strip, self._seen)
            self._totals[self._seen] += areas @ counts

    def found(self) -> dict[int, float]:
        """Return square metres by value; values that do not occur are absent."""
        return {value: float(area) for value, area in enumerate(self._totals) if area > 0}


def _values_in(values: NDArray[Any]) -> NDArray[np.intp]:
    """Return the values that occur, ascending."""
    counts = count_classes(values)
    found = np.flatnonzero(counts)
    return found if counts.sum() == values.size else np.append(found, NODATA[values.dtype.name])


def _count_cells(strip: NDArray[Any], found: NDArray[np.intp]) -> NDArray[np.int64]:
    """Return how often each value of `found` is in each cell of a strip, ``(cell, value)``; others are left out."""
    starts = np.arange(0, strip.shape[1], CELL_PX)
    if len(found) <= FEW:
        counts = np.zeros((len(starts), len(found)), np.int64)
        for at, value in enumerate(found):
            column = (strip == value).view(np.uint8).sum(axis=0, dtype=np.uint8)
            np.add.reduceat(column, starts, dtype=np.int64, out=counts[:, at])
        return counts
    place = np.full(int(np.iinfo(strip.dtype).max) + 1, len(found), np.int32)
    place[found] = np.arange(len(found))
    width = len(found) + 1
    cell = np.arange(strip.shape[1]) // CELL_PX * width
    counted = np.bincount((place[strip] + cell).ravel(), minlength=width * len(starts))
    return counted.reshape(len(starts), width)[:, :-1]
