"""Areas on the ground: what a class covers on the ellipsoid, whatever the projection of its map.

A pixel of EPSG:3857 stands for ``cos(latitude)`` squared of its nominal area, 18 % less at 25 degrees, so pixels are
never just counted. Areas are measured cell by cell in an equal-area projection.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from affine import Affine
from numpy.typing import NDArray
from pyproj import CRS, Transformer

from pipeline.blocks import BlockGrid, Window

CELL_PX = 64
REGION_PX = 4096
"""One equal-area projection serves so many pixels; it is centred on them, so that no scene is too large for it."""

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
    totals = np.zeros(65536)
    for block in BlockGrid(shape, REGION_PX):
        window = block.core
        areas, values = pixel_areas(transform, crs, window), read(window)
        if values.dtype not in (np.uint8, np.uint16):
            raise TypeError(f"`read` must return uint8 or uint16; got {values.dtype}")
        found = np.flatnonzero(np.bincount(values.ravel()))
        place = np.zeros(int(found[-1]) + 1, np.int32)
        place[found] = np.arange(len(found))
        cell = np.arange(values.shape[1]) // CELL_PX * len(found)
        for row, strip in enumerate(areas):
            part = place[values[row * CELL_PX : (row + 1) * CELL_PX]]
            counts = np.bincount((part + cell).ravel(), minlength=len(found) * strip.size)
            totals[found] += strip @ counts.reshape(strip.size, len(found))
    return {value: float(area) for value, area in enumerate(totals) if area > 0}
