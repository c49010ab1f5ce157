"""The scene at a size for looking: for the quicklook, and as the ground of the report's map.

While a run is under way it is made of what the blocks have read anyway; afterwards it is read again.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.blocks import Block
from pipeline.pixels import Pixels, Scene, sample_positions
from pipeline.plan import OVERVIEW_PX, Plan
from pipeline.workspace import whole

MAX_PX = 2560
"""Longest side of a view. Halving the scene until it fits leaves 1281 to 2560 pixels of a large one."""


def view_factor(shape: tuple[int, int], max_px: int = MAX_PX) -> int:
    """Return the power of two that brings a scene to at most `max_px` a side.

    >>> [view_factor((size, 300)) for size in (2560, 2561, 10_000)]
    [1, 2, 4]
    """
    factor = 1
    while -(-max(shape) // factor) > max_px:
        factor *= 2
    return factor


def read_image(scene: Scene, factor: int) -> Pixels:
    """Read the scene on the grid of the view that has `factor`: one pixel near the middle of each cell."""
    height, width = (int(size) for size in scene.geobox.shape)
    return scene.overview(-(-max(height, width) // factor))


def keep_view(plan: Plan, block: Block, pixels: Pixels) -> None:
    """Keep, of the pixels that a block has read, those that stand for its core in a view of the whole scene."""
    core = block.core
    rows, columns = _places(plan)
    rows = rows[(rows >= core.y0) & (rows < core.y1)] - block.read.y0
    columns = columns[(columns >= core.x0) & (columns < core.x1)] - block.read.x0
    at = _evenly(rows), _evenly(columns)
    data, valid = pixels.data[:, at[0]][:, :, at[1]], pixels.valid[at[0]][:, at[1]]
    path = plan.folders.view(block.name)
    path.parent.mkdir(exist_ok=True)
    _keep(path, np.concatenate([data, valid[None].astype(data.dtype)]))


def _keep(path: Path, layers: NDArray[Any]) -> None:
    """Write bands with their validity as the last, ``(band + 1, y, x)``."""
    with whole(path) as partial, partial.open("wb") as file:
        np.save(file, layers, allow_pickle=False)


def _kept(path: Path) -> NDArray[Any]:
    """Return what `_keep` wrote, read where it is looked at."""
    return np.asarray(np.load(path, mmap_mode="r", allow_pickle=False))


def _evenly(places: NDArray[np.int64]) -> slice | NDArray[np.int64]:
    """Return places as a slice, if they are evenly far apart: nothing is gathered then."""
    if len(places) < 2 or len(np.unique(np.diff(places))) > 1:
        return places
    return slice(int(places[0]), int(places[-1]) + 1, int(places[1] - places[0]))


def assemble_ground(plan: Plan) -> Pixels:
    """Put the scene at a size for looking together from what its blocks kept, and keep that; the rest is invalid."""
    rows, columns = _places(plan)
    layers = np.zeros((len(plan.scene.bands) + 1, len(rows), len(columns)), plan.scene.dtype)
    for block in plan.grid:
        path = plan.folders.view(block.name)
        if path.exists():
            y, x = np.searchsorted(rows, block.core.y0), np.searchsorted(columns, block.core.x0)
            view = _kept(path)
            layers[:, y : y + view.shape[1], x : x + view.shape[2]] = view
    _keep(plan.folders.ground, layers)
    return Pixels(layers[:-1], layers[-1] != 0)


def _places(plan: Plan) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return the rows and the columns of the scene that a view shows."""
    height, width = (int(size) for size in plan.scene.geobox.shape)
    factor = view_factor((height, width))
    return sample_positions(0, height, factor), sample_positions(0, width, factor)


def kept_ground(plan: Plan) -> Pixels:
    """Return what `assemble_ground` kept."""
    layers = _kept(plan.folders.ground)
    return Pixels(layers[:-1], layers[-1] != 0)


def colour_view(plan: Plan, ground: Pixels) -> NDArray[np.uint8] | None:
    """Return a small natural-colour view of the scene ``(3, y, x)`` uint8; None where it has no three bands."""
    bands = plan.scene.bands
    if len(bands) < 3:
        return None
    chosen = [bands.index(name) for name in "RGB"] if {"R", "G", "B"} <= set(bands) else [0, 1, 2]
    step = -(-max(ground.shape) // OVERVIEW_PX)
    valid, scaled = ground.valid[::step, ::step], plan.scaling.apply(ground.data[:, ::step, ::step])[chosen]
    return np.where(valid, np.rint(scaled * 255), 0).astype(np.uint8)
