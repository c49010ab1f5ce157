"""Grids of maps: how they are named, and when two are one."""

from __future__ import annotations

import numpy as np
from odc.geo.geobox import GeoBox

TOLERANCE_PX = 0.01
"""Quads lie off their ideal grid by less than that, and not always by the same."""


def name_crs(geobox: GeoBox) -> str | None:
    """Return the CRS of a grid as ``EPSG:32618``, by its name where it has no such code, None where there is none.

    Examples
    --------
    >>> from affine import Affine
    >>> name_crs(GeoBox((2, 3), Affine(5, 0, 0, 0, -5, 0), "EPSG:32618"))
    'EPSG:32618'
    """
    return None if geobox.crs is None else ":".join(geobox.crs.proj.to_authority() or [geobox.crs.proj.name])


def describe_grid(geobox: GeoBox) -> str:
    """Return the size, upper left corner, pixel and CRS of a grid in a few words.

    Examples
    --------
    >>> from affine import Affine
    >>> describe_grid(GeoBox((2, 3), Affine(5, 0, 500000, 0, -4, 0), "EPSG:32618"))
    '2 x 3 px at (500000, 0), pixel 5 x 4, EPSG:32618'
    """
    a, b, c, d, e, f = tuple(geobox.transform)[:6]
    place = f"{geobox.shape[0]} x {geobox.shape[1]} px at ({c:.10g}, {f:.10g})"
    return f"{place}, pixel {np.hypot(a, d):.6g} x {np.hypot(b, e):.6g}, {name_crs(geobox) or 'no CRS'}"


def same_grid(one: GeoBox, other: GeoBox) -> bool:
    """Whether the pixels of two grids are the same ones, to a hundredth of a pixel.

    Examples
    --------
    >>> from affine import Affine
    >>> grid = GeoBox((200, 300), Affine(5, 0, 0, 0, -5, 0), "EPSG:32618")
    >>> [same_grid(grid, GeoBox((200, 300), Affine(5, 0, off, 0, -5, 0), "EPSG:32618")) for off in (0.001, 1)]
    [True, False]
    """
    if one.shape != other.shape or one.crs != other.crs:
        return False
    height, width = one.shape
    corners = [(0, 0), (width, 0), (0, height)]
    found = [~one.transform @ (other.transform @ corner) for corner in corners]
    return bool(np.allclose(found, corners, rtol=0, atol=TOLERANCE_PX))
