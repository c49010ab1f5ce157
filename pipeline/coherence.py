"""A score of a map without a truth: how much a pixel's class tells about the classes some way off.

Classes that form regions tell much, classes that scatter like noise nothing. The score is the mutual information of
the classes of pixels 16 and 32 px apart, in nats: 0 where nothing is told, at most the logarithm of the number of
classes. It ranks maps of one scene; scores of different scenes do not compare.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from pipeline.blocks import BlockGrid, Window
from pipeline.metrics import count_bytes

DISTANCES_PX = (16, 32)
LARGE_PX, LARGE_STEP = 1 << 24, 4
"""Of maps of so many pixels one row in so many is counted, which tells as much."""
WINDOW_PX = 2048

_FEW = 16
"""The square of so many values fits a byte."""

Labels = NDArray[np.uint8] | NDArray[np.uint16]


class Pairs:
    """Counts of the classes of pixels `DISTANCES_PX` apart, collected window by window.

    Examples
    --------
    >>> halves = np.repeat(np.array([[0, 1]], np.uint8), 80, axis=1).repeat(40, axis=0)
    >>> pairs = Pairs(nodata=255)
    >>> pairs.add(halves)
    >>> 0.3 < pairs.score() < 0.7
    True
    """

    def __init__(self, *, nodata: int) -> None:
        self._nodata = nodata
        self._counts: dict[tuple[int, int], int] = {}

    def add(self, labels: Labels, step: int = 1) -> None:
        """Count the pairs of one window ``(y, x)`` in which both pixels have a class; of one row in `step`."""
        few = _as_few(labels[::step], self._nodata) if all(px % step == 0 for px in DISTANCES_PX) else None
        if few is not None:
            for px in DISTANCES_PX:
                self._count_few(few[: -px // step], few[px // step :])
                self._count_few(few[:, :-px], few[:, px:])
            return
        rows = labels[::step]
        for px in DISTANCES_PX:
            for one, other in ((labels[:-px:step], labels[px::step]), (rows[:, :-px], rows[:, px:])):
                if one.shape == other.shape and one.size:
                    self._count(one, other)

    def _count(self, one: Labels, other: Labels) -> None:
        values = int(np.iinfo(one.dtype).max) + 1
        self._enter(*_frequencies(one.astype(np.uint32) * np.uint32(values) + other, values), values, self._nodata)

    def _count_few(self, one: NDArray[np.uint8], other: NDArray[np.uint8]) -> None:
        counts = count_bytes((one * np.uint8(_FEW) + other).ravel())
        self._enter(found := np.flatnonzero(counts), counts[found], _FEW, _FEW - 1)

    def _enter(self, keys: NDArray[np.integer], counts: NDArray[np.integer], values: int, nodata: int) -> None:
        for key, count in zip(keys.tolist(), counts.tolist(), strict=True):
            pair = divmod(key, values)
            if nodata not in pair:
                self._counts[pair] = self._counts.get(pair, 0) + count

    def score(self) -> float | None:
        """Return the score of all that was added; None where no pair was, or only one class is in use."""
        classes = sorted({number for pair in self._counts for number in pair})
        if len(classes) < 2:
            return None
        joint = np.zeros((len(classes), len(classes)))
        for (a, b), count in self._counts.items():
            joint[classes.index(a), classes.index(b)] = count
        joint = (joint + joint.T) / (2 * joint.sum())
        single = joint.sum(0)
        seen = joint > 0
        return max(0.0, float((joint[seen] * np.log((joint / np.outer(single, single))[seen])).sum()))


def _as_few(labels: Labels, nodata: int) -> NDArray[np.uint8] | None:
    """Return labels below 15 with 15 for nodata, so that two of them fit a byte; None where there are higher ones."""
    few = np.minimum(labels, _FEW - 1).astype(np.uint8)
    strangers = np.count_nonzero(few == _FEW - 1) - np.count_nonzero(labels == nodata)
    return few if strangers == 0 else None


def _frequencies(keys: NDArray[np.uint32], values: int) -> tuple[NDArray[np.integer], NDArray[np.integer]]:
    """Return the keys that occur, and how often; few are counted, because sorting takes so much longer."""
    if values > 256:
        return np.unique(keys, return_counts=True)
    counts = np.bincount(keys.ravel(), minlength=values * values)
    found = np.flatnonzero(counts)
    return found, counts[found]


def score_step(shape: tuple[int, int]) -> int:
    """Return of how many rows of a map of that shape one is counted."""
    return LARGE_STEP if shape[0] * shape[1] >= LARGE_PX else 1


def map_score(read: Callable[[Window], Labels], shape: tuple[int, int], *, nodata: int) -> float | None:
    """Score a map of any size; `read` is asked for windows of up to 2560 px. Pairs across windows are not counted."""
    pairs, step = Pairs(nodata=nodata), score_step(shape)
    for block in BlockGrid(shape, WINDOW_PX):
        pairs.add(read(block.core), step)
    return pairs.score()
