"""Where each class shows itself best: windows of the imagery that are of one class, sure, and far from each other."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from pipeline.blocks import Window
from pipeline.report.views import MapView

PATCH_PX = 96
"""Side of a patch in pixels of the scene."""

_SPREAD = 0.2
"""Patches of a class keep this share of the scene's longer side apart, where there are enough."""


def find_places(view: MapView, ids: list[int], shape: tuple[int, int], count: int) -> dict[int, list[Window]]:
    """Choose up to `count` windows for each class.

    Windows are `PATCH_PX` a side (less where the scene is smaller), on a lattice of half that, ranked by how many of
    their pixels have the class, weighted by confidence.

    Parameters
    ----------
    view
        The decimated map.
    ids
        Classes that are looked for.
    shape
        Height and width of the scene in pixels.
    count
        How many windows of each class.

    Returns
    -------
    dict
        Windows by class, the best first; none for a class that the view does not show.
    """
    side = min(PATCH_PX, *shape)
    half = max(1, side // 2 // view.factor)
    score = _scores(view, ids, half)
    places = {}
    for row, class_id in enumerate(ids):
        cells = _spread_out(score[row], count, _SPREAD * max(score.shape[1:]))
        step = half * view.factor
        places[class_id] = [_window(y * step, x * step, side, shape) for y, x in cells]
    return places


def _scores(view: MapView, ids: list[int], half: int) -> NDArray[np.float32]:
    """Return the summed confidence of each class in each window of 2 x 2 cells, ``(class, y, x)``."""
    height, width = (max(2, -(-size // half)) for size in view.labels.shape)
    row_of = np.full(int(np.iinfo(view.labels.dtype).max) + 1, len(ids), np.intp)
    row_of[ids] = np.arange(len(ids))
    sums = np.zeros((len(ids) + 1, height, width), np.float32)
    for cell_y in range(-(-view.labels.shape[0] // half)):
        strip = slice(cell_y * half, (cell_y + 1) * half)
        labels = view.labels[strip]
        cells = row_of[labels] * width + np.arange(labels.shape[1]) // half
        sure = np.where(view.confidence[strip] == 255, 0, view.confidence[strip]).astype(np.float32)
        counted = np.bincount(cells.ravel(), sure.ravel(), minlength=(len(ids) + 1) * width)
        sums[:, cell_y] = counted.reshape(len(ids) + 1, width)
    windows = sums[:-1, :-1] + sums[:-1, 1:]
    return np.asarray(windows[..., :-1] + windows[..., 1:])


def _spread_out(score: NDArray[np.float32], count: int, apart: float) -> list[tuple[int, int]]:
    """Pick the highest cells in turn, keeping them `apart`; where that leaves too few, closer by and by."""
    rows, columns = np.indices(score.shape)
    chosen: list[tuple[int, int]] = []
    while True:
        left = score.copy()
        for y, x in chosen:
            left[np.maximum(abs(rows - y), abs(columns - x)) < max(apart, 2)] = 0
        best = int(left.argmax())
        if len(chosen) == count or (left.flat[best] <= 0 and apart <= 2):
            return chosen
        if left.flat[best] <= 0.85 * (score.max() if chosen else 0) and apart > 2:
            apart /= 2
        else:
            chosen.append((best // score.shape[1], best % score.shape[1]))


def _window(y: int, x: int, side: int, shape: tuple[int, int]) -> Window:
    y, x = min(y, shape[0] - side), min(x, shape[1] - side)
    return Window(y, x, y + side, x + side)
