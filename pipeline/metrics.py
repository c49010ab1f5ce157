"""How good a map is: seams, overlaps, use of classes, and scores against a truth."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ktex_model.model import NO_CLASS
from pipeline.align.values import Alignment, BlockSignature, Overlap
from pipeline.blocks import BlockGrid, Window

Labels = NDArray[np.uint8] | NDArray[np.uint16]
Read = Callable[[Window], Labels]
_ASYMPTOTIC = 1_000_000
_FEW_CLASSES = 8
_AT_ONCE = 1 << 18


@dataclass(frozen=True)
class Seams:
    """Label changes across block borders and across equally oriented lines inside blocks.

    Rates are shares of the pairs of neighbouring pixels that are both valid; None where there is no such pair.
    """

    seam_change_rate: float | None
    interior_change_rate: float | None
    seam_pairs: int
    interior_pairs: int

    @property
    def seam_excess(self) -> float | None:
        """Rate across the borders, less the rate inside."""
        if self.seam_change_rate is None or self.interior_change_rate is None:
            return None
        return self.seam_change_rate - self.interior_change_rate

    def to_json(self) -> dict[str, float | int | None]:
        """Return plain values."""
        return {**asdict(self), "seam_excess": self.seam_excess}


def seams(read: Read, grid: BlockGrid, *, nodata: int = NO_CLASS) -> Seams:
    """Compare label changes across the nominal borders with those inside blocks.

    Parameters
    ----------
    read
        Returns the labels ``(y, x)`` of a window of the scene. Asked for one block at a time, with one pixel more.
    grid
        The blocks. Inside are the lines further than `overlap_px` from any border, because a cut may have been
        drawn up to there; all lines inside where overlaps fill the blocks.

    Returns
    -------
    Seams
        The interior rate takes vertical and horizontal lines in the proportion in which they are seams.

    Examples
    --------
    >>> labels = np.array([[0, 0, 1, 1], [0, 0, 1, 1]], dtype=np.uint8)
    >>> found = seams(lambda w: labels[w.slices], BlockGrid((2, 4), 2))
    >>> found.seam_change_rate, found.interior_change_rate
    (1.0, 0.0)
    """
    counts = SeamCounts(grid, nodata=nodata)
    for block in grid:
        counts.add(block.core, read(counts.window(block.core)))
    return counts.rates()


class SeamCounts:
    """Changes of label at the borders of blocks and inside of them, collected block by block; see `seams`."""

    def __init__(self, grid: BlockGrid, *, nodata: int = NO_CLASS) -> None:
        self._grid, self._nodata = grid, nodata
        # Rows: lines between columns, lines between rows. Columns: changes and pairs at seams, then inside.
        self._counts = np.zeros((2, 4), dtype=np.int64)

    def window(self, core: Window) -> Window:
        """Return what is looked at for a core: one pixel more, where there is one."""
        return Window(core.y0, core.x0, min(core.y1 + 1, self._grid.shape[0]), min(core.x1 + 1, self._grid.shape[1]))

    def add(self, core: Window, labels: Labels) -> None:
        """Count the lines of one core, and those that end it, from the labels of its `window`."""
        height, width = core.shape
        down = labels[:, :width].T
        self._counts[0] += _line_counts(labels[:height], width, _near(core, self._grid, 1), self._nodata)
        self._counts[1] += _line_counts(down, height, _near(core, self._grid, 0), self._nodata)

    def rates(self) -> Seams:
        """Return the shares of all that was added."""
        return _rates(self._counts)


def count_classes(labels: Labels) -> NDArray[np.int64]:
    """Return how many pixels have each id, ``(255,)``, or ``(65535,)`` of labels of uint16; nodata is left out.

    Examples
    --------
    >>> count_classes(np.array([[3, 3, 255]], np.uint8))[:5]
    array([0, 0, 0, 2, 0])
    """
    flat: NDArray[Any] = np.ascontiguousarray(labels).reshape(-1)
    if flat.dtype != np.uint8:
        return np.bincount(flat, minlength=65536)[:65535].astype(np.int64)
    counts: NDArray[np.int64] = np.zeros(NO_CLASS + 1, np.int64)
    for start in range(0, flat.size, _AT_ONCE):  # few enough for the processor's caches
        part = flat[start : start + _AT_ONCE]
        for number in (NO_CLASS, *range(_FEW_CLASSES)):  # to compare is so much faster than to count
            counts[number] += np.count_nonzero(part == number)
    return (counts if counts.sum() == flat.size else count_bytes(flat))[:NO_CLASS]


def count_bytes(flat: NDArray[np.uint8]) -> NDArray[np.int64]:
    """Return how often each value occurs, ``(256,)``, in contiguous ``(n,)`` uint8.

    Examples
    --------
    >>> count_bytes(np.array([3, 3, 255], np.uint8))[[3, 255]]
    array([2, 1])
    """
    even = flat.size // 2 * 2
    # Two at a time: half as many numbers to count.
    pairs = np.bincount(flat[:even].view(np.uint16), minlength=1 << 16).reshape(256, 256)
    counts: NDArray[np.int64] = (pairs.sum(axis=0) + pairs.sum(axis=1)).astype(np.int64)
    counts[flat[even:]] += 1
    return counts


def overlap_disagreement(
    alignment: Alignment, signatures: Iterable[BlockSignature], overlaps: Iterable[Overlap]
) -> float | None:
    """Return the share of shared pixels to which two blocks give different global ids; None where none are shared."""
    ids = {s.index: alignment.lookup[s.index][s.ids] for s in signatures}
    different = total = 0
    for o in overlaps:
        different += int(o.table[ids[o.a][:, None] != ids[o.b]].sum())
        total += int(o.table.sum())
    return different / total if total else None


def effective_classes(counts: ArrayLike) -> float:
    """Return ``exp(entropy)`` of the shares of the classes: how many equally large ones would be as diverse.

    >>> effective_classes([5, 5, 0])
    2.0
    >>> effective_classes([0])
    0.0
    """
    values = np.asarray(counts, dtype=np.float64)
    if values.sum() <= 0:
        return 0.0
    shares = values[values > 0] / values.sum()
    return round(float(np.exp(-(shares * np.log(shares)).sum())), 12)


@dataclass(frozen=True)
class TruthScores:
    """Scores of a labelling against a truth; class numbers need not correspond.

    Attributes
    ----------
    ari, ami
        Adjusted Rand index and adjusted mutual information (arithmetic mean).
    accuracy
        Share of pixels that are right under the best one-to-one matching of labels to true classes.
    miou
        Mean over the true classes of intersection over union under that matching, 0 for a class left over.
    pixels
        How many pixels have both.
    """

    ari: float
    ami: float
    accuracy: float
    miou: float
    pixels: int


class Contingency:
    """Counts of (label, true class), collected window by window.

    Examples
    --------
    >>> counts = Contingency()
    >>> counts.add(np.array([0, 0, 1, 255]), np.array([3, 3, 4, 4]))
    >>> counts.scores().ari
    1.0
    """

    def __init__(self, *, nodata: int = NO_CLASS, truth_nodata: int = NO_CLASS) -> None:
        self._nodata = nodata, truth_nodata
        self._counts: dict[tuple[int, int], int] = {}

    def add(self, labels: NDArray[np.integer], truth: NDArray[np.integer]) -> None:
        """Count the pixels of one window that have both.

        Raises
        ------
        ValueError
            The two differ in shape.
        """
        if labels.shape != truth.shape:
            raise ValueError(f"`labels` and `truth` must have one shape; got {labels.shape} and {truth.shape}")
        both = (labels != self._nodata[0]) & (truth != self._nodata[1])
        keys, counts = np.unique(
            labels[both].astype(np.int64) * 2**32 + truth[both].astype(np.int64), return_counts=True
        )
        for key, count in zip(keys.tolist(), counts.tolist(), strict=True):
            pair = key >> 32, key & 0xFFFFFFFF
            self._counts[pair] = self._counts.get(pair, 0) + count

    @property
    def table(self) -> NDArray[np.int64]:
        """``(labels in use, true classes in use)`` int64, both ascending."""
        rows, columns = (sorted({pair[side] for pair in self._counts}) for side in (0, 1))
        table = np.zeros((len(rows), len(columns)), dtype=np.int64)
        for (label, true), count in self._counts.items():
            table[rows.index(label), columns.index(true)] = count
        return table

    def scores(self) -> TruthScores:
        """Return the scores of all that was added.

        Raises
        ------
        ValueError
            No pixel has both a label and a truth.
        """
        return table_scores(self.table)


def truth_scores(
    labels: NDArray[np.integer],
    truth: NDArray[np.integer],
    *,
    nodata: int = NO_CLASS,
    truth_nodata: int = NO_CLASS,
) -> TruthScores:
    """Score labels against a truth of the same shape; see `Contingency` for what does not fit in memory."""
    counts = Contingency(nodata=nodata, truth_nodata=truth_nodata)
    counts.add(labels, truth)
    return counts.scores()


def table_scores(table: NDArray[np.integer]) -> TruthScores:
    """Score a contingency table ``(labels, true classes)`` of pixels.

    Raises
    ------
    ValueError
        The table is empty.
    """
    from scipy.optimize import linear_sum_assignment

    total = int(table.sum())
    if total == 0:
        raise ValueError("labels and truth must share a pixel; got none")
    values = table.astype(np.float64)
    rows, columns = linear_sum_assignment(-values)
    hits = values[rows, columns]
    union = values.sum(axis=1)[rows] + values.sum(axis=0)[columns] - hits
    iou = np.where(union > 0, hits / np.maximum(union, 1), 0.0)
    return TruthScores(
        ari=_adjusted_rand(values),
        ami=_adjusted_information(table),
        accuracy=float(hits.sum() / total),
        miou=float(iou.sum() / np.count_nonzero(values.sum(axis=0))),
        pixels=total,
    )


def _near(core: Window, grid: BlockGrid, axis: int) -> tuple[int, int]:
    """Return the half-open range of lines (line i lies after pixel i of the core) that count as inside."""
    start, stop = (core.y0, core.y1) if axis == 0 else (core.x0, core.x1)
    # Where overlaps fill the blocks no line is clear of them, and all have to do.
    clear = grid.overlap_px if grid.block_px > 2 * grid.overlap_px + 1 else 0
    first = 0 if start == 0 else clear
    last = stop - start - 1 - (0 if stop == grid.shape[axis] else clear)
    return first, max(first, last)


def _line_counts(labels: Labels, width: int, inside: tuple[int, int], nodata: int) -> NDArray[np.int64]:
    """Return changes and pairs at the line after column ``width - 1`` (if any), and at the lines inside."""
    seen, changes = labels != nodata, labels[:, :-1] != labels[:, 1:]
    at, within = slice(width - 1, None), slice(*inside)
    if seen.all():
        counts = [n for part in (at, within) for n in (np.count_nonzero(changes[:, part]), changes[:, part].size)]
    else:
        valid = seen[:, :-1] & seen[:, 1:]
        changes &= valid
        counts = [np.count_nonzero(lines[:, part]) for part in (at, within) for lines in (changes, valid)]
    return np.array(counts, dtype=np.int64)


def _rates(counts: NDArray[np.int64]) -> Seams:
    seam_changes, seam_pairs, changes, pairs = counts.astype(np.float64).T
    both = (seam_pairs > 0) & (pairs > 0)
    share = seam_pairs * both if both.any() else pairs
    inside = None
    if pairs.sum() > 0:
        inside = float((share * changes / np.maximum(pairs, 1)).sum() / share.sum())
    across = float(seam_changes.sum() / seam_pairs.sum()) if seam_pairs.sum() > 0 else None
    return Seams(across, inside, int(seam_pairs.sum()), int(pairs.sum()))


def _adjusted_rand(table: NDArray[np.float64]) -> float:
    def pairs(values: NDArray[np.float64]) -> float:
        return float((values * (values - 1) / 2).sum())

    total = float(table.sum())
    rows, columns = pairs(table.sum(axis=1)), pairs(table.sum(axis=0))
    expected = rows * columns / max(total * (total - 1) / 2, 1.0)
    most = (rows + columns) / 2
    return 1.0 if most == expected else float((pairs(table) - expected) / (most - expected))


def _adjusted_information(table: NDArray[np.integer]) -> float:
    """Return the AMI; of over a million pixels, what chance gives is taken from its leading term.

    The exact sum has a term for each possible count of each cell, and at that size differs in the sixth digit.
    """
    from sklearn.metrics import mutual_info_score
    from sklearn.metrics.cluster import expected_mutual_information

    used = table[table.sum(axis=1) > 0][:, table.sum(axis=0) > 0].astype(np.int64)
    total = int(used.sum())
    if 1 in used.shape:
        return 1.0 if used.shape == (1, 1) else 0.0
    if used.shape[0] == total == used.shape[1]:
        return 1.0
    found = float(mutual_info_score(None, None, contingency=used))
    chance = (used.shape[0] - 1) * (used.shape[1] - 1) / (2 * total)
    if total <= _ASYMPTOTIC:
        chance = float(expected_mutual_information(used, total))
    mean = (_entropy(used.sum(axis=1)) + _entropy(used.sum(axis=0))) / 2
    return float((found - chance) / max(mean - chance, np.finfo(np.float64).eps))


def _entropy(counts: NDArray[np.int64]) -> float:
    shares = counts / counts.sum()
    return float(-(shares * np.log(shares)).sum())
