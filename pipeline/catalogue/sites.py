"""Sites: fixed points of the ground at which runs note which class they saw, so that runs of one place can be compared.

Points lie on a lattice of the coordinate system, whatever grid the pixels have. Each has a key that depends on where
it is alone; where there are too many, those with the smallest keys are kept, which are the same in every run.
"""

from __future__ import annotations

import hashlib
import math

import numpy as np
from numpy.typing import NDArray
from odc.geo.geobox import GeoBox

from ktex_model.model import NO_CLASS
from pipeline.blocks import Window
from pipeline.catalogue.values import Float, Sites

SPACING_PX = 16
"""About how far sites are apart, in pixels: rounded so that the distance is a power of two of the unit of the CRS."""
MAX_OF_BLOCK = 4096
MAX_KEPT = 1 << 18
"""Sites of a block, and of a catalogue, that are kept."""


def sites_of_block(blocks: int) -> int:
    """Return how many sites each of so many blocks notes: more than enough for what is kept of all of them.

    >>> [sites_of_block(blocks) for blocks in (1, 100, 100_000)]
    [4096, 4096, 64]
    """
    return min(MAX_OF_BLOCK, max(64, 4 * MAX_KEPT // blocks))


def see_sites(geobox: GeoBox, window: Window, labels: NDArray[np.uint8], most: int = MAX_OF_BLOCK) -> Sites:
    """Note the class at each site in a window.

    Parameters
    ----------
    geobox
        Grid of the scene. Without a CRS nobody knows which place it is, and there are no sites.
    window, labels
        Pixels of the scene, and their classes ``(y, x)``; 255 is nodata.
    most
        How many sites to note at most.
    """
    keys, rows, columns = sites_in(geobox, window)
    seen = labels[rows, columns]
    valid = seen != NO_CLASS
    return fewest(Sites(keys[valid], seen[valid].astype(np.int64)), most)


def lay_out(geobox: GeoBox, window: Window, known: Sites) -> NDArray[np.int64]:
    """Return ``(y, x)`` the class that is known of each pixel of a window: nearly everywhere none, -1."""
    laid = np.full(window.shape, -1, np.int64)
    keys, rows, columns = sites_in(geobox, window)
    _, here, there = np.intersect1d(keys, known.keys, return_indices=True)
    laid[rows[here], columns[here]] = known.ids[there]
    return laid


def sites_in(geobox: GeoBox, window: Window) -> tuple[NDArray[np.uint64], NDArray[np.int64], NDArray[np.int64]]:
    """Return the keys of the sites in a window, and the row and the column of each, counted from its corner."""
    if geobox.crs is None:
        return np.zeros(0, np.uint64), np.zeros(0, np.int64), np.zeros(0, np.int64)
    affine = geobox.affine
    step = 2.0 ** round(math.log2(SPACING_PX * math.sqrt(abs(affine.determinant))))
    corners = [affine @ corner for corner in ((window.x0, window.y0), (window.x1, window.y0), (window.x0, window.y1),
                                              (window.x1, window.y1))]  # fmt: skip
    x, y = (
        np.arange(math.floor(min(values) / step), math.ceil(max(values) / step) + 1) * step
        for values in zip(*corners, strict=True)
    )
    x, y = (grid.ravel() for grid in np.meshgrid(x, y))
    columns, rows = (np.floor(np.asarray(values)).astype(np.int64) for values in ~affine @ (x, y))
    inside = (rows >= window.y0) & (rows < window.y1) & (columns >= window.x0) & (columns < window.x1)
    keys = site_keys(x[inside], y[inside], str(geobox.crs))
    return keys, rows[inside] - window.y0, columns[inside] - window.x0


def site_keys(x: Float, y: Float, crs: str) -> NDArray[np.uint64]:
    """Return a key of each point: equal for equal points, and as if drawn by lot otherwise."""
    key = np.full(x.shape, int.from_bytes(hashlib.sha256(crs.encode()).digest()[:8], "little"), np.uint64)
    for each in (x, y):
        key ^= np.ascontiguousarray(each + 0.0, dtype=np.float64).view(np.uint64)  # + 0.0: there is no -0.0 left
        # The finaliser of SplitMix64.
        key = (key ^ (key >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        key = (key ^ (key >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        key ^= key >> np.uint64(31)
    return key


def fewest(sites: Sites, count: int) -> Sites:
    """Keep at most `count` sites, those of the smallest keys; of several sightings of one site the last counts."""
    keys, at = np.unique(sites.keys[::-1], return_index=True)
    return Sites(keys[:count], sites.ids[::-1][at[:count]])


def meetings(run: Sites, known: Sites) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return the ids that the run and the catalogue give to the sites that both have seen."""
    _, mine, theirs = np.intersect1d(run.keys, known.keys, assume_unique=False, return_indices=True)
    return run.ids[mine], known.ids[theirs]
