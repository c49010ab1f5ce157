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

DISTANCES_PX = (16, 32)
WINDOW_PX = 2048

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

    def add(self, labels: Labels) -> None:
        """Count the pairs of one window ``(y, x)`` in which both pixels have a class."""
        for step in DISTANCES_PX:
            for one, other in ((labels[:-step], labels[step:]), (labels[:, :-step], labels[:, step:])):
                if one.shape == other.shape and one.size:
                    self._count(one, other)

    def _count(self, one: Labels, other: Labels) -> None:
        held = (one != self._nodata) & (other != self._nodata)
        keys, counts = np.unique(one[held].astype(np.int64) * 65536 + other[held], return_counts=True)
        for key, count in zip(keys.tolist(), counts.tolist(), strict=True):
            pair = key >> 16, key & 0xFFFF
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


def map_score(read: Callable[[Window], Labels], shape: tuple[int, int], *, nodata: int) -> float | None:
    """Score a map of any size; `read` is asked for windows of up to 2560 px. Pairs across windows are not counted."""
    pairs = Pairs(nodata=nodata)
    for block in BlockGrid(shape, WINDOW_PX):
        pairs.add(read(block.core))
    return pairs.score()
