"""Clean-up of a map: majority smoothing, and a minimum mapping unit.

Both look at a pixel's surroundings only as far as they can matter, so a map is cleaned piece by piece and comes out
the same however it is divided.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from pipeline.blocks import BlockGrid, Tell, Window
from pipeline.errors import InputError

MAX_MMU_PX = 1024
MAX_MAJORITY_PX = 101

Labels = NDArray[Any]
Read = Callable[[Window], Labels]
Write = Callable[[Window, Labels], None]


@dataclass(frozen=True)
class CleanUp:
    """How a map is to be cleaned.

    Attributes
    ----------
    mmu_px
        Minimum mapping unit: patches of fewer pixels are given to their surroundings. 1 leaves all.
    majority_px
        Side of the square window whose most frequent class a pixel takes, odd. 1 leaves all.
    """

    mmu_px: int = 1
    majority_px: int = 1

    def __post_init__(self) -> None:
        if not 1 <= self.mmu_px <= MAX_MMU_PX:
            raise InputError(f"--mmu-px {self.mmu_px}: must be 1 to {MAX_MMU_PX} pixels")
        if not 1 <= self.majority_px <= MAX_MAJORITY_PX or self.majority_px % 2 == 0:
            raise InputError(f"--majority-px {self.majority_px}: must be odd, 1 to {MAX_MAJORITY_PX} pixels")
        if self.mmu_px == self.majority_px == 1:
            raise InputError("nothing to clean up; give --mmu-px N, --mmu-m2 N or --majority-px N")


def label_patches(labels: Labels, nodata: int) -> tuple[NDArray[np.int32], Labels]:
    """Give each patch of a map a number: pixels of one class that share sides.

    Parameters
    ----------
    labels, nodata
        ``(y, x)``, and the value that is no class.

    Returns
    -------
    tuple of ndarray
        Numbers ``(y, x)`` from 1, 0 where there is no class; and the class of each number, ``nodata`` for 0.

    Examples
    --------
    >>> label_patches(np.array([[3, 3, 4], [4, 3, 255]], np.uint8), 255)[0]
    array([[1, 1, 2],
           [3, 1, 0]], dtype=int32)
    """
    numbers = np.zeros(labels.shape, np.int32)
    classes = [np.array([nodata], labels.dtype)]
    count = 0
    for value in np.unique(labels[labels != nodata]):
        found, n = ndimage.label(labels == value)
        numbers += np.where(found > 0, found + count, 0).astype(np.int32)
        classes.append(np.full(n, value, labels.dtype))
        count += n
    return numbers, np.concatenate(classes)


def sieve_once(labels: Labels, mmu_px: int, nodata: int, open_sides: tuple[bool, bool, bool, bool]) -> Labels:
    """Give each patch of fewer than `mmu_px` pixels to the class of the large patches that it borders on most.

    Counted in sides of pixels; of equal ones the lower id wins. A patch that borders on no large one stays.

    Parameters
    ----------
    open_sides
        Whether the map goes on beyond the top, left, bottom and right: patches there count as large.
    """
    numbers, classes = label_patches(labels, nodata)
    sizes = np.bincount(numbers.ravel(), minlength=len(classes))
    small = sizes < mmu_px
    edges = numbers[0], numbers[:, 0], numbers[-1], numbers[:, -1]
    for edge, is_open in zip(edges, open_sides, strict=True):
        if is_open:
            small[edge] = False
    small[0] = False
    keys = []
    for one, other in ((numbers[:, 1:], numbers[:, :-1]), (numbers[1:], numbers[:-1])):
        for mine, theirs in ((one, other), (other, one)):
            borders = small[mine] & ~small[theirs] & (theirs > 0)
            keys.append(mine[borders].astype(np.int64) * 65536 + classes[theirs[borders]])
    found, shared = np.unique(np.concatenate(keys), return_counts=True)
    # By patch, then by sides shared, the most last, then by class, the lowest last: the last of each patch wins.
    order = np.lexsort((-(found % 65536), shared, found // 65536))
    winners = classes.copy()
    winners[(found // 65536)[order]] = (found % 65536)[order].astype(classes.dtype)
    cleaned: Labels = winners[numbers]
    return cleaned


def smooth(labels: Labels, majority_px: int, nodata: int) -> Labels:
    """Give each pixel the most frequent class of the window around it; of equal ones its own, else the lowest.

    Nodata does not vote and stays.

    Examples
    --------
    >>> smooth(np.array([[1, 1, 1], [1, 2, 1], [1, 1, 255]], np.uint8), 3, 255)
    array([[  1,   1,   1],
           [  1,   1,   1],
           [  1,   1, 255]], dtype=uint8)
    """
    best = np.zeros(labels.shape, np.int32)
    winner = labels.copy()
    for value in np.unique(labels[labels != nodata]):
        votes = _count(labels == value, majority_px)
        # One's own class wins where it is as frequent as the best: half a vote more than any equal one.
        votes = 2 * votes + (labels == value)
        better = votes > best
        winner[better], best[better] = value, votes[better]
    winner[labels == nodata] = nodata
    return winner


def _count(here: NDArray[np.bool_], window_px: int) -> NDArray[np.int32]:
    """Count the true pixels of the window around each pixel."""
    radius = window_px // 2
    sums = np.pad(here, ((radius + 1, radius), (radius + 1, radius))).astype(np.int32).cumsum(axis=0).cumsum(axis=1)
    n = window_px
    counted: NDArray[np.int32] = sums[n:, n:] - sums[:-n, n:] - sums[n:, :-n] + sums[:-n, :-n]
    return counted


def smooth_map(
    read: Read,
    write: Write,
    shape: tuple[int, int],
    majority_px: int,
    *,
    nodata: int,
    block_px: int,
    tell: Tell | None = None,
) -> int:
    """Smooth a map piece by piece; returns how many pixels changed."""
    changed = 0
    for block in BlockGrid(shape, block_px, context_px=majority_px // 2).each(tell):
        labels = read(block.read)
        core = block.core.relative_to(block.read).slices
        smoothed = smooth(labels, majority_px, nodata)[core]
        changed += int((smoothed != labels[core]).sum())
        write(block.core, smoothed)
    return changed


def sieve_map(
    read: Read,
    write: Write,
    shape: tuple[int, int],
    mmu_px: int,
    *,
    nodata: int,
    block_px: int,
    tell: Tell | None = None,
) -> int:
    """Sieve a map once, piece by piece; returns how many pixels changed.

    A patch of fewer than N pixels reaches less than N from a core, and one that borders on it is known to be large
    within N more: so far is read.
    """
    changed, (height, width) = 0, shape
    for block in BlockGrid(shape, block_px, context_px=2 * mmu_px).each(tell):
        labels, window = read(block.read), block.read
        sides = window.y0 > 0, window.x0 > 0, window.y1 < height, window.x1 < width
        core = block.core.relative_to(window).slices
        sieved = sieve_once(labels, mmu_px, nodata, sides)[core]
        changed += int((sieved != labels[core]).sum())
        write(block.core, sieved)
    return changed
