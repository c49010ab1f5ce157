"""Each border between two blocks, looked at by itself: how often the class changes across it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

from numpy.typing import NDArray

from pipeline.blocks import BlockGrid, Window

Read = Callable[[Window], NDArray[Any]]

MAX_BORDERS = 4096
"""Of more borders, evenly many are measured: a drawing shows no more."""


@dataclass(frozen=True)
class Border:
    """The side that two blocks share, from ``(y0, x0)`` to ``(y1, x1)`` in pixels of the scene.

    `changes` of its `pairs` of valid neighbours across it have different classes.
    """

    y0: int
    x0: int
    y1: int
    x1: int
    changes: int
    pairs: int

    @property
    def rate(self) -> float | None:
        """Share of pairs that change; None where there is no pair."""
        return self.changes / self.pairs if self.pairs else None


class Line(NamedTuple):
    """Where a border lies: the two rows or columns of pixels beside it, and its ends as those of `Border`."""

    window: Window
    ends: tuple[int, int, int, int]


def choose_lines(grid: BlockGrid) -> list[Line]:
    """Return the borders of a grid that are measured."""
    pairs = list(grid.pairs())
    step = -(-len(pairs) // MAX_BORDERS) if pairs else 1
    found = []
    for a, b in pairs[::step]:
        core, after = grid.block(a).core, grid.block(b).core
        if a[0] == b[0]:
            window = Window(core.y0, after.x0 - 1, core.y1, after.x0 + 1)
            found.append(Line(window, (core.y0, after.x0, core.y1, after.x0)))
        else:
            window = Window(after.y0 - 1, core.x0, after.y0 + 1, core.x1)
            found.append(Line(window, (after.y0, core.x0, after.y0, core.x1)))
    return found


def count_changes(line: Line, labels: NDArray[Any], nodata: int) -> Border:
    """Count class changes across a border from the labels of its window."""
    across = line.ends[1] == line.ends[3]
    one, other = (labels[:, 0], labels[:, 1]) if across else (labels[0], labels[1])
    valid = (one != nodata) & (other != nodata)
    return Border(*line.ends, int((valid & (one != other)).sum()), int(valid.sum()))


def measure_borders(read: Read, grid: BlockGrid, nodata: int) -> list[Border]:
    """Count class changes across the borders of a grid; of each border two rows or columns of pixels are read.

    Examples
    --------
    >>> import numpy as np
    >>> labels = np.array([[0, 0, 1, 1], [0, 0, 0, 255]], np.uint8)
    >>> [border] = measure_borders(lambda w: labels[w.slices], BlockGrid((2, 4), 2), nodata=255)
    >>> border.changes, border.pairs
    (1, 2)
    """
    return [count_changes(line, read(line.window), nodata) for line in choose_lines(grid)]
