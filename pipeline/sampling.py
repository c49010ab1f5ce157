"""Windows to learn from, so that the cost of training does not grow with the scene.

The candidates are the cells of one lattice, anchored to the scene (or block). They are described by a decimated
view, grouped by it, and drawn from the groups in turn: what is rare in the scene is not rare in the sample.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from threadpoolctl import threadpool_limits

from pipeline.blocks import Window

MIN_VALID_SHARE = 0.5


def lattice(window: Window, side_px: int) -> list[Window]:
    """Cut `window` into cells of `side_px`; cells at the far edges are moved inwards so that all have full size.

    Examples
    --------
    >>> [tuple(cell) for cell in lattice(Window(0, 0, 4, 10), 4)]
    [(0, 0, 4, 4), (0, 4, 4, 8), (0, 6, 4, 10)]
    """
    height, width = min(side_px, window.shape[0]), min(side_px, window.shape[1])
    ys = sorted({min(y, window.y1 - height) for y in range(window.y0, window.y1, side_px)})
    xs = sorted({min(x, window.x1 - width) for x in range(window.x0, window.x1, side_px)})
    return [Window(y, x, y + height, x + width) for y in ys for x in xs]


def draw(
    cells: list[Window],
    view: NDArray[np.floating],
    view_valid: NDArray[np.bool_],
    shape: tuple[int, int],
    *,
    count: int,
    seed: int,
) -> list[Window]:
    """Draw up to `count` of `cells`, stratified by what a decimated view shows in them.

    Parameters
    ----------
    cells
        Candidates, in pixels of a scene of `shape`.
    view, view_valid
        ``(band, y, x)`` and ``(y, x)``: the same scene, decimated by any factor.
    count, seed
        How many at most, and the seed of the draw.

    Returns
    -------
    list of Window
        In reading order. Cells of which less than half is valid are drawn only where there are no others; cells
        without any valid pixel never.
    """
    from sklearn.cluster import KMeans  # takes seconds to import, and only training draws samples

    described = [_describe(cell, view, view_valid, shape) for cell in cells]
    share = np.array([valid for valid, _ in described])
    usable = np.flatnonzero(share >= MIN_VALID_SHARE)
    if not usable.size:
        usable = np.flatnonzero(share > 0)
    if usable.size <= count:
        return [cells[i] for i in usable]
    features = np.stack([described[i][1] for i in usable])
    features = (features - features.mean(axis=0)) / (features.std(axis=0) + 1e-9)
    strata = min(max(2, count // 2), len(np.unique(features, axis=0)))
    with threadpool_limits(limits=1):  # sums in one order, whatever the machine
        group = KMeans(n_clusters=strata, n_init=3, random_state=seed).fit_predict(features)
    rng = np.random.default_rng(seed)
    queues = [list(rng.permutation(usable[group == g])) for g in range(strata)]
    drawn: list[int] = []
    while len(drawn) < count and any(queues):
        drawn += [int(queue.pop()) for queue in queues if queue][: count - len(drawn)]
    return [cells[i] for i in sorted(drawn)]


def _describe(
    cell: Window, view: NDArray[np.floating], view_valid: NDArray[np.bool_], shape: tuple[int, int]
) -> tuple[float, NDArray[np.float64]]:
    scale_y, scale_x = view_valid.shape[0] / shape[0], view_valid.shape[1] / shape[1]
    y0, x0 = int(cell.y0 * scale_y), int(cell.x0 * scale_x)
    y1, x1 = max(y0 + 1, round(cell.y1 * scale_y)), max(x0 + 1, round(cell.x1 * scale_x))
    valid = view_valid[y0:y1, x0:x1]
    if not valid.any():
        return 0.0, np.zeros(2 * view.shape[0])
    pixels = view[:, y0:y1, x0:x1][:, valid].astype(np.float64)
    return float(valid.mean()), np.concatenate([pixels.mean(axis=1), pixels.std(axis=1)])
