"""The cut between blocks: along the path of least disagreement through the labels that neighbours share.

Blocks of one row are joined first, by paths from top to bottom over the full height of their wide windows. Rows are
then joined by paths from left to right, one for each block column, whose ends are pinned to the nominal border so
that the paths of neighbouring columns meet. All that decides the core of a block is in the blocks around it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from ktex_model.model import NO_CLASS
from pipeline.blocks import BlockGrid, Index, Window

NO_OWNER = -1
"""Owner of a pixel to which no block gives a label."""

SELF = 4
"""Owner code of the block itself."""

Labels = NDArray[np.uint8] | NDArray[np.uint16]
LabelsOf = Callable[[Index], Labels | None]
Bool = NDArray[np.bool_]
_T = TypeVar("_T", bound=np.generic)


def compose(grid: BlockGrid, index: Index, labels_of: LabelsOf, *, nodata: int = NO_CLASS) -> NDArray[np.int8]:
    """Say which block owns each pixel of a core.

    Parameters
    ----------
    grid
        The blocks.
    index
        The block whose core is composed.
    labels_of
        Returns the *global* labels ``(y, x)`` of a block's wide window, or None for a block without any. Called at
        most once for each of the blocks around `index`.
    nodata
        Value of `labels_of` where there is no label.

    Returns
    -------
    ``(y, x)`` int8 of the core: ``3 * (dy + 1) + (dx + 1)`` for the owner ``(iy + dy, ix + dx)``, so that 4 is the
    block itself; -1 where no block around has a label. An owner always has a label there. See `gather`.

    Examples
    --------
    >>> grid = BlockGrid((2, 8), 4, overlap_px=1)
    >>> left = np.array([[1, 1, 1, 2, 2]] * 2, dtype=np.uint8)
    >>> right = np.array([[2, 2, 2, 3, 3]] * 2, dtype=np.uint8)
    >>> compose(grid, (0, 0), {(0, 0): left, (0, 1): right}.get).tolist()
    [[4, 4, 4, 4], [4, 4, 4, 4]]
    """
    around = _Around(grid, index, labels_of, nodata)
    core = grid.block(index).core
    lateral = {dy: _lateral_owner(around, dy) for dy in (-1, 0, 1) if (index[0] + dy, index[1]) in grid}
    y = np.arange(core.y0, core.y1)[:, None]
    top = _row_border(around, lateral, -1)
    bottom = _row_border(around, lateral, 0)
    vertical = (y >= bottom).astype(np.int8) - (y < top).astype(np.int8)
    owner = np.full(core.shape, NO_OWNER, dtype=np.int8)
    for dy, (window, dx) in lateral.items():
        rows = core.intersect(window)
        mine = rows.relative_to(core).slices
        code = 3 * (dy + 1) + dx[rows.relative_to(window).slices] + 1
        owner[mine] = np.where(vertical[mine] == dy, code, owner[mine])
    return _with_labels(around, core, owner)


def owner_code(index: Index, owner: Index) -> int:
    """Return what `compose` calls the block `owner` in the core of `index`.

    >>> owner_code((3, 7), (3, 7)), owner_code((3, 7), (2, 8))
    (4, 2)
    """
    dy, dx = owner[0] - index[0], owner[1] - index[1]
    if max(abs(dy), abs(dx)) > 1:
        raise ValueError(f"`owner` must be a block around {index}; got {owner}")
    return 3 * (dy + 1) + dx + 1


def gather(
    grid: BlockGrid,
    index: Index,
    owners: NDArray[np.int8],
    values_of: Callable[[Index], NDArray[_T] | None],
    fill: int,
) -> NDArray[_T]:
    """Take each pixel of a core from its owner.

    Parameters
    ----------
    owners
        What `compose` returned for `index`.
    values_of
        Returns any array ``(y, x)`` of a block's wide window: labels, confidence.
    fill
        Value where there is no owner.

    Raises
    ------
    ValueError
        A block owns pixels but has no values.
    """
    core = grid.block(index).core
    result: NDArray[_T] | None = None
    for code in np.unique(owners[owners != NO_OWNER]).tolist():
        there = (index[0] + code // 3 - 1, index[1] + code % 3 - 1)
        values = values_of(there)
        if values is None:
            raise ValueError(f"a block that owns pixels must have values; got None at block {there}")
        result = np.full(core.shape, fill, dtype=values.dtype) if result is None else result
        wide = grid.block(there).wide
        shared = core.intersect(wide)
        mine = shared.relative_to(core).slices
        result[mine] = np.where(owners[mine] == code, values[shared.relative_to(wide).slices], result[mine])
    if result is None:
        own = values_of(index)
        kind = np.dtype(np.uint8) if own is None else own.dtype
        return np.full(core.shape, fill, dtype=kind)
    return result


def least_path(disagree: Bool, nominal: int, *, pinned: bool = False) -> NDArray[np.intp]:
    """Find the border of least disagreement from the first to the last row of a strip.

    Parameters
    ----------
    disagree
        ``(n, w)`` bool: the two blocks give different labels.
    nominal
        Column of the straight border, 0..w: pixels left of a border belong to the left block.
    pinned
        Hold both ends at `nominal`.

    Returns
    -------
    ``(n,)`` border of each row, 0..w, moving by at most one pixel a row. The number of disagreeing pixels that touch
    the border is the least possible, and among such borders the sum of distances from `nominal` is.

    Examples
    --------
    >>> least_path(np.array([[0, 0, 1, 0], [0, 0, 1, 0], [0, 0, 0, 0]], dtype=bool), 2).tolist()
    [1, 1, 2]
    """
    n, w = disagree.shape
    padded = np.pad(disagree, ((0, 0), (1, 1)), mode="edge") if w else np.zeros((n, 2), dtype=bool)
    touched = padded[:, :-1].astype(np.int64) + padded[:, 1:]
    # Disagreement comes first and straightness second, exactly: integers, of which one outweighs all of the other.
    cost = touched * (n * (w + 1) + 1) + np.abs(np.arange(w + 1) - nominal)
    far = np.iinfo(np.int64).max // 4
    if pinned:
        cost[[0, -1]] = np.where(np.arange(w + 1) == nominal, cost[[0, -1]], far)
    came = np.zeros((n, w + 1), dtype=np.int8)
    total = cost[0]
    for row in range(1, n):
        options = np.stack([total, np.append(far, total[:-1]), np.append(total[1:], far)])
        came[row] = options.argmin(axis=0)
        total = np.minimum(options.min(axis=0), far) + cost[row]
    return _trace(came, total)


def touched_disagreement(disagree: Bool, border: NDArray[np.intp]) -> int:
    """Count the disagreeing pixels on both sides of a border, at the edge of the strip the outermost one twice.

    >>> touched_disagreement(np.array([[True, False], [True, True]]), np.array([1, 1]))
    3
    """
    padded = np.pad(disagree, ((0, 0), (1, 1)), mode="edge")
    rows = np.arange(len(border))
    return int(padded[rows, border].sum() + padded[rows, border + 1].sum())


class _Around:
    """Labels of the blocks around one, each asked for once."""

    def __init__(self, grid: BlockGrid, index: Index, labels_of: LabelsOf, nodata: int) -> None:
        self.grid, self.index, self.nodata = grid, index, nodata
        self._labels_of = labels_of
        self._held: dict[Index, Labels | None] = {}

    def at(self, dy: int, dx: int) -> Index:
        return self.index[0] + dy, self.index[1] + dx

    def labels(self, dy: int, dx: int, window: Window) -> Labels:
        """Return the labels of a neighbour in a window of the scene, nodata where it has none."""
        there = self.at(dy, dx)
        held = self._all(there)
        result = np.full(window.shape, self.nodata, dtype=np.uint16 if held is None else held.dtype)
        if held is not None:
            wide = self.grid.block(there).wide
            shared = window.intersect(wide)
            if shared.size:
                result[shared.relative_to(window).slices] = held[shared.relative_to(wide).slices]
        return result

    def _all(self, there: Index) -> Labels | None:
        if there not in self._held:
            labels = self._labels_of(there)
            if labels is not None and labels.shape != self.grid.block(there).wide.shape:
                raise ValueError(
                    f"labels must cover the wide window {self.grid.block(there).wide.shape}; got {labels.shape} at "
                    f"block {there}"
                )
            self._held[there] = labels
        return self._held[there]


def _lateral_owner(around: _Around, dy: int) -> tuple[Window, NDArray[np.int8]]:
    """Return, for one row of blocks, who of left (-1), own (0) and right (1) owns the core columns of `index`.

    The window has the wide rows of that row, and the core columns.
    """
    grid = around.grid
    block = grid.block(around.at(dy, 0))
    window = Window(block.wide.y0, block.core.x0, block.wide.y1, block.core.x1)
    x = np.arange(window.x0, window.x1)[None]
    owner = np.zeros(window.shape, dtype=np.int8)
    if around.at(dy, -1) in grid:
        owner -= x < _column_border(around, dy, -1)[:, None]
    if around.at(dy, 1) in grid:
        owner += x >= _column_border(around, dy, 0)[:, None]
    return window, owner


def _column_border(around: _Around, dy: int, dx: int) -> NDArray[np.intp]:
    """Return for each wide row the column where block ``dx`` ends and ``dx + 1`` begins."""
    left, right = (around.grid.block(around.at(dy, d)) for d in (dx, dx + 1))
    strip = left.wide.intersect(right.wide)
    disagree = _disagreement(around.labels(dy, dx, strip), around.labels(dy, dx + 1, strip), around.nodata)
    return least_path(disagree, right.core.x0 - strip.x0) + strip.x0


def _row_border(around: _Around, lateral: dict[int, tuple[Window, NDArray[np.int8]]], dy: int) -> NDArray[np.intp]:
    """Return for each core column the row where block row ``dy`` ends and ``dy + 1`` begins."""
    core = around.grid.block(around.index).core
    if dy not in lateral:
        return np.full(core.shape[1], core.y0)
    if dy + 1 not in lateral:
        return np.full(core.shape[1], core.y1)
    strip = lateral[dy][0].intersect(lateral[dy + 1][0])
    upper, lower = (_joined(around, lateral[d], d, strip) for d in (dy, dy + 1))
    nominal = around.grid.block(around.at(dy + 1, 0)).core.y0
    disagree = _disagreement(upper, lower, around.nodata)
    return least_path(disagree.T, nominal - strip.y0, pinned=True) + strip.y0


def _joined(around: _Around, lateral: tuple[Window, NDArray[np.int8]], dy: int, strip: Window) -> Labels:
    """Return the labels of one row of blocks, joined, in a strip."""
    window, owner = lateral
    part = owner[strip.relative_to(window).slices]
    choices = [around.labels(dy, dx, strip) if np.any(part == dx) else None for dx in (-1, 0, 1)]
    result = np.full(strip.shape, around.nodata, dtype=np.uint16)
    for dx, labels in zip((-1, 0, 1), choices, strict=True):
        if labels is not None:
            result = np.where(part == dx, labels, result)
    return result


def _with_labels(around: _Around, core: Window, owner: NDArray[np.int8]) -> NDArray[np.int8]:
    """Hand pixels of owners without a label there to a block that has one: the block itself, then in reading order."""
    labelled = np.zeros(core.shape, dtype=bool)
    near = [SELF, *(c for c in range(9) if c != SELF)]
    has = {}
    for code in near:
        dy, dx = code // 3 - 1, code % 3 - 1
        if around.at(dy, dx) in around.grid:
            has[code] = around.labels(dy, dx, core) != around.nodata
            labelled |= (owner == code) & has[code]
    result = np.where(labelled, owner, np.int8(NO_OWNER))
    for code in (c for c in near if c in has):
        result = np.where((result == NO_OWNER) & has[code], np.int8(code), result)
    return result


def _disagreement(one: Labels, two: Labels, nodata: int) -> Bool:
    result: Bool = (one != two) & (one != nodata) & (two != nodata)
    return result


def _trace(came: NDArray[np.int8], total: NDArray[np.int64]) -> NDArray[np.intp]:
    """Follow the steps back from the cheapest end: 0 is straight, 1 from the left, 2 from the right."""
    border = np.empty(len(came), dtype=np.intp)
    border[-1] = int(np.argmin(total))
    for row in range(len(came) - 1, 0, -1):
        border[row - 1] = border[row] + (0, -1, 1)[came[row, border[row]]]
    return border
