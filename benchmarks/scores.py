"""Scores of label maps beyond those of `pipeline.metrics`, and how sure differences between two maps are."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from ktex_model.model import NO_CLASS


def count_pairs(
    labels: NDArray[np.integer], truth: NDArray[np.integer], weights: NDArray[np.integer] | None = None
) -> NDArray[np.int64]:
    """Count ``(label, true class)`` of all elements, each as often as `weights` say.

    Examples
    --------
    >>> count_pairs(np.array([7, 7, 900]), np.array([0, 1, 1])).tolist()
    [[1, 1], [0, 1]]
    """
    _, rows = np.unique(labels, return_inverse=True)
    _, columns = np.unique(truth, return_inverse=True)
    table = np.zeros((int(rows.max()) + 1, int(columns.max()) + 1), np.int64)
    np.add.at(table, (rows.ravel(), columns.ravel()), 1 if weights is None else weights.ravel())
    return table


def adjusted_rand(tables: NDArray[np.number]) -> NDArray[np.float64]:
    """Return the adjusted Rand index of contingency tables ``(..., label, true class)``; empty ones have 1.

    Examples
    --------
    >>> adjusted_rand(np.array([[[2, 0], [0, 2]], [[1, 1], [1, 1]]])).tolist()
    [1.0, -0.5]
    """

    def pairs(counts: NDArray[np.float64], axes: tuple[int, ...]) -> NDArray[np.float64]:
        return np.asarray((counts * (counts - 1) / 2).sum(axes))

    values = tables.astype(np.float64)
    total = values.sum((-2, -1))
    rows, columns = pairs(values.sum(-1), (-1,)), pairs(values.sum(-2), (-1,))
    expected = rows * columns / np.maximum(total * (total - 1) / 2, 1)
    spread = (rows + columns) / 2 - expected
    found = pairs(values, (-2, -1)) - expected
    return np.where(spread == 0, 1.0, found / np.where(spread == 0, 1.0, spread))


def majority_accuracy(tables: NDArray[np.number]) -> NDArray[np.float64]:
    """Return the share of pixels that are right where each label is given the true class that it holds most of.

    Of contingency tables ``(..., label, true class)``.

    >>> float(majority_accuracy(np.array([[3, 1], [2, 0], [0, 4]])))
    0.9
    """
    return np.asarray(tables.max(-1).sum(-1) / tables.sum((-2, -1)))


Measure = Callable[[NDArray[np.number]], NDArray[np.float64]]
"""A score of contingency tables ``(..., label, true class)``."""


def draw_boundaries(labels: NDArray[np.integer]) -> NDArray[np.bool_]:
    """Mark the pixels that differ from their right or lower neighbour; 255 borders on nothing.

    >>> draw_boundaries(np.array([[0, 0, 1, 255]])).astype(int).tolist()
    [[0, 1, 0, 0]]
    """
    marked = np.zeros(labels.shape, bool)
    right = (labels[:, :-1] != labels[:, 1:]) & (labels[:, :-1] != NO_CLASS) & (labels[:, 1:] != NO_CLASS)
    down = (labels[:-1] != labels[1:]) & (labels[:-1] != NO_CLASS) & (labels[1:] != NO_CLASS)
    marked[:, :-1] |= right
    marked[:-1] |= down
    return marked


class BoundaryCounts(NamedTuple):
    """Boundary pixels of a map and of a truth, and how many of each lie near one of the other."""

    drawn: int
    drawn_near: int
    true: int
    true_near: int

    @property
    def f_score(self) -> float:
        """Harmonic mean of precision and recall; 1 where neither has a boundary, 0 where only one has."""
        if self.drawn == self.true == 0:
            return 1.0
        precision, recall = self.drawn_near / max(self.drawn, 1), self.true_near / max(self.true, 1)
        return 2 * precision * recall / max(precision + recall, 1e-12)


def count_boundaries(
    labels: NDArray[np.integer], truth: NDArray[np.integer], tolerance_px: float = 3.0
) -> BoundaryCounts:
    """Compare the boundaries of two maps ``(y, x)``; where the truth is 255 nothing counts."""
    drawn = draw_boundaries(np.where(truth == NO_CLASS, NO_CLASS, labels))
    true = draw_boundaries(truth)
    near_true = _near(true, tolerance_px)
    near_drawn = _near(drawn, tolerance_px)
    return BoundaryCounts(
        int(drawn.sum()), int((drawn & near_true).sum()), int(true.sum()), int((true & near_drawn).sum())
    )


def add_boundaries(parts: Sequence[BoundaryCounts]) -> BoundaryCounts:
    """Sum the counts of several images."""
    return BoundaryCounts(*(sum(column) for column in zip(*parts, strict=True)))


def bootstrap_difference(
    first: Sequence[NDArray[np.int64]],
    second: Sequence[NDArray[np.int64]],
    measure: Measure = adjusted_rand,
    *,
    draws: int = 1000,
    seed: int = 0,
) -> NDArray[np.float64]:
    """Resample the difference in a score of two methods on one scene, paired, over seeds and image blocks.

    Parameters
    ----------
    first, second
        For each seed the counts ``(block, label, true class)`` of one method. Blocks and seeds correspond.
    measure
        The score of contingency tables ``(..., label, true class)``.
    draws
        How many resamples.

    Returns
    -------
    ``(draws,)`` float64: the score of `first` less that of `second`, each the mean over the seeds drawn of the score
    over the blocks drawn.
    """
    rng = np.random.default_rng(seed)
    blocks = len(first[0])
    counts = rng.multinomial(blocks, np.full(blocks, 1 / blocks), size=draws).astype(np.float64)
    picked = rng.multinomial(len(first), np.full(len(first), 1 / len(first)), size=draws) / len(first)
    gains = [
        measure(_resampled(a, counts)) - measure(_resampled(b, counts)) for a, b in zip(first, second, strict=True)
    ]
    return np.asarray((np.stack(gains, axis=1) * picked).sum(1))


def _resampled(tables: NDArray[np.int64], counts: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.tensordot(counts, tables.astype(np.float64), axes=1)


def _near(marked: NDArray[np.bool_], distance_px: float) -> NDArray[np.bool_]:
    if not marked.any():
        return np.zeros(marked.shape, bool)
    return np.asarray(ndimage.distance_transform_edt(~marked) <= distance_px)
