"""Where a raster lies on the pixel grid of another, and how to get there where the grids differ."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Literal

import numpy as np
from affine import Affine
from numpy.typing import NDArray
from pyproj import CRS, Transformer
from pyproj.exceptions import CRSError, ProjError

from pipeline.blocks import Window
from pipeline.pixels import Pixels

Resampling = Literal["nearest", "bilinear"]
EDGE_POINTS = 65
"""Points per side on which the outline of a file is carried over to another CRS."""


def lattice_offset(
    affine: Affine, shape: tuple[int, int], reference: Affine, tolerance_px: float
) -> tuple[int, int] | None:
    """Return where a raster's first pixel lies on the grid of another, or None where the grids differ.

    All four corners must fall on corners of the reference within `tolerance_px`, so that neither a shift nor a
    difference in pixel size adds up to more anywhere in the file.

    Returns
    -------
    tuple of int or None
        ``(y, x)`` in whole pixels of the reference.

    Examples
    --------
    >>> a = Affine(2, 0, 100, 0, -2, 50)
    >>> lattice_offset(a @ Affine.translation(7.001, 3), (10, 10), a, 0.01)
    (3, 7)
    >>> lattice_offset(a @ Affine.translation(7.5, 3), (10, 10), a, 0.01) is None
    True
    """
    between = ~reference @ affine
    x0, y0 = (round(value) for value in between @ (0, 0))
    return (y0, x0) if lattice_error(affine, shape, reference) <= tolerance_px else None


def lattice_error(affine: Affine, shape: tuple[int, int], reference: Affine) -> float:
    """Return how far, in pixels, the corners of a raster are from the grid of another at most."""
    between = ~reference @ affine
    x0, y0 = (round(value) for value in between @ (0, 0))
    corners = [(0, 0), (shape[1], 0), (0, shape[0]), (shape[1], shape[0])]
    errors = [max(abs(at[0] - x - x0), abs(at[1] - y - y0)) for (x, y), at in ((c, between @ c) for c in corners)]
    return float(max(errors))


@lru_cache(maxsize=256)
def same_crs(first_wkt: str | None, second_wkt: str | None) -> bool:
    """Whether two CRS place coordinates alike, though their texts differ; None equals None alone."""
    if first_wkt is None or second_wkt is None or first_wkt == second_wkt:
        return first_wkt == second_wkt
    try:
        first, second = CRS.from_wkt(first_wkt), CRS.from_wkt(second_wkt)
    except CRSError:
        return False
    if first.equals(second, ignore_axis_order=True):
        return True
    codes = first.to_epsg(), second.to_epsg()
    return codes[0] is not None and codes[0] == codes[1]


@lru_cache(maxsize=64)
def _transformer(from_wkt: str, to_wkt: str) -> Transformer:
    return Transformer.from_crs(from_wkt, to_wkt, always_xy=True)


def transform_points(
    from_wkt: str | None, to_wkt: str | None, x: NDArray[np.float64], y: NDArray[np.float64]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Carry coordinates from one CRS to another; infinite where that is not possible."""
    if from_wkt is None or to_wkt is None or same_crs(from_wkt, to_wkt):
        return x, y
    tx, ty = _transformer(from_wkt, to_wkt).transform(x, y)
    return np.asarray(tx), np.asarray(ty)


@dataclass(frozen=True)
class Warp:
    """The exact way from the pixels of a scene to those of a file on another grid.

    Every pixel centre is carried over by itself, without interpolating between a few: what a pixel becomes does not
    depend on the window in which it is read.
    """

    scene_affine: Affine
    scene_crs: str | None
    file_affine: Affine
    file_crs: str | None
    resampling: Resampling = "nearest"

    def positions(
        self, rows: NDArray[np.int64], columns: NDArray[np.int64]
    ) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Return file coordinates ``(y, x)``, in pixels from its corner, of the centres of scene pixels."""
        across, down = np.meshgrid(columns + 0.5, rows + 0.5)
        x, y = transform_points(self.scene_crs, self.file_crs, *_apply(self.scene_affine, across, down))
        at_x, at_y = _apply(~self.file_affine, x, y)
        return at_y, at_x

    def outline(self, shape: tuple[int, int]) -> Window:
        """Return a window of the scene, which may reach beyond it, that holds a whole file of `shape`.

        Raises
        ------
        ValueError
            If no part of the file can be expressed in the CRS of the scene.
        """
        side = np.linspace(0.0, 1.0, EDGE_POINTS)
        zeros, ones = np.zeros_like(side), np.ones_like(side)
        across = np.concatenate([side, side, zeros, ones]) * shape[1]
        down = np.concatenate([zeros, ones, side, side]) * shape[0]
        try:
            x, y = transform_points(self.file_crs, self.scene_crs, *_apply(self.file_affine, across, down))
        except ProjError as error:
            raise ValueError("outline must be expressible in the CRS of the scene") from error
        px, py = _apply(~self.scene_affine, x, y)
        if not (np.isfinite(px).all() and np.isfinite(py).all()):
            raise ValueError("outline must be expressible in the CRS of the scene")
        # One pixel more on each side, for what bulges between the points of the outline.
        return Window(
            int(np.floor(py.min())) - 1,
            int(np.floor(px.min())) - 1,
            int(np.ceil(py.max())) + 1,
            int(np.ceil(px.max())) + 1,
        )


def _apply(
    affine: Affine, x: NDArray[np.float64], y: NDArray[np.float64]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    return affine.a * x + affine.b * y + affine.c, affine.d * x + affine.e * y + affine.f


def resample_nearest(pixels: Pixels, y: NDArray[np.float64], x: NDArray[np.float64]) -> Pixels:
    """Take the pixel in which each position falls.

    Parameters
    ----------
    pixels
        The source, data ``(band, y, x)``.
    y, x
        Positions ``(row, column)`` in pixels from the corner of the source, so that 0.5 is the first centre.

    Returns
    -------
    Pixels
        On the positions; invalid where they lie outside the source.
    """
    height, width = pixels.shape
    inside = (y >= 0) & (y < height) & (x >= 0) & (x < width)
    iy, ix = np.where(inside, y, 0).astype(np.int64), np.where(inside, x, 0).astype(np.int64)
    return Pixels(pixels.data[:, iy, ix], inside & pixels.valid[iy, ix])


def resample_bilinear(pixels: Pixels, y: NDArray[np.float64], x: NDArray[np.float64]) -> Pixels:
    """Interpolate between the four centres around each position; valid where all that carry weight are.

    Within half a pixel of the edge of the source the outermost pixels are repeated. Integers are rounded.
    """
    height, width = pixels.shape
    inside = (y >= 0) & (y < height) & (x >= 0) & (x < width)
    down = np.clip(np.where(inside, y, 0) - 0.5, 0, height - 1)
    across = np.clip(np.where(inside, x, 0) - 0.5, 0, width - 1)
    y0, x0 = down.astype(np.int64), across.astype(np.int64)
    total: NDArray[Any] = np.zeros((len(pixels.data), *y.shape))
    valid = inside.copy()
    for dy, dx in ((0, 0), (0, 1), (1, 0), (1, 1)):
        weight = np.abs(1 - dy - (down - y0)) * np.abs(1 - dx - (across - x0))
        iy, ix = np.minimum(y0 + dy, height - 1), np.minimum(x0 + dx, width - 1)
        used = (weight > 0) & pixels.valid[iy, ix]
        valid &= used | (weight == 0)
        total += np.where(used, weight * np.where(used, pixels.data[:, iy, ix], 0), 0)
    dtype = pixels.data.dtype
    return Pixels((np.rint(total) if dtype.kind in "ui" else total).astype(dtype), valid)
