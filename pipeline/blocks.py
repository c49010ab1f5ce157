"""Windows and blocks: the only place where a scene is divided.

A scene of ``(y, x)`` pixels is cut into *cores*, which partition it exactly and are whole chunks of the stores.
Around its core a block keeps labels on a *wide* window (core and overlap, shared with the neighbours, from which
the blocks are aligned), and it reads a still larger *read* window (wide and context), so that every label it keeps
has seen the pixels that it depends on. All windows are clipped to the scene; neighbours are never passed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import NamedTuple

Index = tuple[int, int]
"""Position of a block in its grid: ``(iy, ix)``."""

Tell = Callable[[int, int], None]
"""Is called with how many pieces of some work are done, and how many there are."""


class Window(NamedTuple):
    """A half-open rectangle of pixels, ``y0 <= y < y1`` and ``x0 <= x < x1``.

    Examples
    --------
    >>> Window(2, 3, 6, 9).shape
    (4, 6)
    >>> Window(2, 3, 6, 9).expand(4, within=(8, 20))
    Window(y0=0, x0=0, y1=8, x1=13)
    """

    y0: int
    x0: int
    y1: int
    x1: int

    @property
    def shape(self) -> tuple[int, int]:
        """Height and width in pixels."""
        return self.y1 - self.y0, self.x1 - self.x0

    @property
    def size(self) -> int:
        """Number of pixels; 0 where the window is empty."""
        return max(0, self.y1 - self.y0) * max(0, self.x1 - self.x0)

    @property
    def slices(self) -> tuple[slice, slice]:
        """The window as an index into a ``(y, x)`` array."""
        return slice(self.y0, self.y1), slice(self.x0, self.x1)

    def expand(self, px: int, *, within: tuple[int, int]) -> Window:
        """Grow by `px` on each side, clipped to a scene of shape `within`."""
        return Window(
            max(0, self.y0 - px),
            max(0, self.x0 - px),
            min(within[0], self.y1 + px),
            min(within[1], self.x1 + px),
        )

    def intersect(self, other: Window) -> Window:
        """Return the shared rectangle; its `size` is 0 where there is none."""
        return Window(max(self.y0, other.y0), max(self.x0, other.x0), min(self.y1, other.y1), min(self.x1, other.x1))

    def relative_to(self, outer: Window) -> Window:
        """Return the same pixels, counted from the upper left corner of `outer`."""
        return self.shift(-outer.y0, -outer.x0)

    def shift(self, down: int, right: int) -> Window:
        """Return the window so many pixels further."""
        return Window(self.y0 + down, self.x0 + right, self.y1 + down, self.x1 + right)


@dataclass(frozen=True, order=True)
class Block:
    """The unit of work: one index and its three nested windows, in pixels of the scene."""

    index: Index
    core: Window
    wide: Window
    read: Window

    @property
    def name(self) -> str:
        """Stable name for files, logs and errors, such as ``0003_0012``."""
        return f"{self.index[0]:04d}_{self.index[1]:04d}"

    @property
    def core_in_wide(self) -> Window:
        """The core, counted from the corner of the wide window."""
        return self.core.relative_to(self.wide)

    @property
    def wide_in_read(self) -> Window:
        """The wide window, counted from the corner of the read window."""
        return self.wide.relative_to(self.read)


@dataclass(frozen=True)
class BlockGrid:
    """The division of a scene into blocks.

    Parameters
    ----------
    shape
        Scene height and width in pixels.
    block_px
        Side of a core. The last row and column hold what remains; a remainder under a quarter of a block is joined
        to the one before it, because a sliver is too little to train on.
    overlap_px
        How far labels are kept beyond the core. 0 where one model serves the whole scene.
    context_px
        How far pixels are read beyond the labels that are kept.
    """

    shape: tuple[int, int]
    block_px: int
    overlap_px: int = 0
    context_px: int = 0

    def __post_init__(self) -> None:
        if min(self.shape) < 1 or self.block_px < 1:
            raise ValueError(f"scene and blocks must have pixels; got {self.shape} and block_px={self.block_px}")
        if not 0 <= 2 * self.overlap_px <= self.block_px:
            raise ValueError(f"overlap_px must be 0 to block_px / 2 = {self.block_px // 2}; got {self.overlap_px}")
        if self.context_px < 0:
            raise ValueError(f"context_px must not be negative; got {self.context_px}")

    @property
    def counts(self) -> tuple[int, int]:
        """Number of rows and columns of blocks."""
        ny, nx = (max(1, (size + self.block_px - 1 - self.block_px // 4) // self.block_px) for size in self.shape)
        return ny, nx

    @property
    def widest(self) -> tuple[int, int]:
        """The least shape that holds the wide window of each block."""
        (ny, nx), px = self.counts, self.block_px
        cores = (max(size - (n - 1) * px, px) for n, size in zip((ny, nx), self.shape, strict=True))
        height, width = (min(core + 2 * self.overlap_px, size) for core, size in zip(cores, self.shape, strict=True))
        return height, width

    @property
    def windows(self) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """Heights of the wide windows in each row of blocks, and widths of those in each column.

        Examples
        --------
        >>> BlockGrid((2100, 1500), 1024).windows
        ((1024, 1076), (1024, 476))
        """
        rows, columns = ([(i, 0) for i in range(self.counts[0])], [(0, i) for i in range(self.counts[1])])
        heights = tuple(self.block(index).wide.shape[0] for index in rows)
        return heights, tuple(self.block(index).wide.shape[1] for index in columns)

    def __len__(self) -> int:
        return self.counts[0] * self.counts[1]

    def __iter__(self) -> Iterator[Block]:
        for iy in range(self.counts[0]):
            for ix in range(self.counts[1]):
                yield self.block((iy, ix))

    def in_turn(self, rows: int) -> Iterator[Block]:
        """Yield the blocks column by column of so many rows, then of the next rows.

        As many workers that take turns so go along a row each, and find the tiles that neighbours share read already.

        Examples
        --------
        >>> [block.index for block in BlockGrid((3, 2), 1).in_turn(2)]
        [(0, 0), (1, 0), (0, 1), (1, 1), (2, 0), (2, 1)]
        """
        ny, nx = self.counts
        for first in range(0, ny, rows):
            for ix in range(nx):
                for iy in range(first, min(first + rows, ny)):
                    yield self.block((iy, ix))

    def each(self, tell: Tell | None) -> Iterator[Block]:
        """Yield the blocks, and tell after each how many are done."""
        for done, block in enumerate(self, 1):
            yield block
            if tell is not None:
                tell(done, len(self))

    def __contains__(self, index: object) -> bool:
        return (
            isinstance(index, tuple)
            and len(index) == 2
            and 0 <= index[0] < self.counts[0]
            and 0 <= index[1] < self.counts[1]
        )

    def block(self, index: Index) -> Block:
        """Return the block at `index`; raises IndexError outside the grid."""
        if index not in self:
            raise IndexError(f"block index must lie in a grid of {self.counts}; got {index}")
        (iy, ix), px = index, self.block_px
        last_y, last_x = iy == self.counts[0] - 1, ix == self.counts[1] - 1
        core = Window(
            iy * px,
            ix * px,
            self.shape[0] if last_y else (iy + 1) * px,
            self.shape[1] if last_x else (ix + 1) * px,
        )
        wide = core.expand(self.overlap_px, within=self.shape)
        return Block(index, core, wide, wide.expand(self.context_px, within=self.shape))

    def touching(self, window: Window) -> Iterator[Block]:
        """Yield the blocks whose cores share pixels with `window`, in reading order."""
        (ny, nx), px = self.counts, self.block_px
        if not window.size:
            return
        for iy in range(min(window.y0 // px, ny - 1), min((window.y1 - 1) // px, ny - 1) + 1):
            for ix in range(min(window.x0 // px, nx - 1), min((window.x1 - 1) // px, nx - 1) + 1):
                yield self.block((iy, ix))

    def neighbours(self, index: Index) -> list[Index]:
        """Return the up to eight indices around `index`, in reading order."""
        iy, ix = index
        around = ((iy + dy, ix + dx) for dy in (-1, 0, 1) for dx in (-1, 0, 1) if (dy, dx) != (0, 0))
        return [there for there in around if there in self]

    def pairs(self) -> Iterator[tuple[Index, Index]]:
        """Yield each pair of blocks that share a side once: first right, then down, in reading order."""
        for iy in range(self.counts[0]):
            for ix in range(self.counts[1]):
                for there in ((iy, ix + 1), (iy + 1, ix)):
                    if there in self:
                        yield (iy, ix), there
