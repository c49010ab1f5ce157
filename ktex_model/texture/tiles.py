"""Tiles: one shape for all windows of a run, as large as pays and as memory holds."""

from __future__ import annotations

from collections.abc import Sequence

from ktex_model.texture.network import Architecture

TILE_STEP_PX = 16
"""Sides of tiles are multiples of this, so that tiles start on the network's lattice."""

SMALL_TILE_PX, LARGE_TILE_PX, GPU_TILE_PX = 256, 576, 2048
"""Least side, and those beyond which nothing is won: context weighs less in larger tiles, until a processor's caches
are exceeded; on a GPU it is 6 % at 2048 px."""

SHARE_OF_FREE = 0.5
"""Of the free memory, for one tile: the rest is for what convolutions need for themselves, and for who else runs."""


def tile_side(sizes: Sequence[int], largest: int, context_px: int) -> int:
    """Return the one side of tiles with which windows of these sizes take the fewest pixels, context included.

    A window is cut into tiles from its beginning on, and the last of them reaches beyond it.

    Examples
    --------
    >>> [tile_side([size], 576, 28) for size in (40, 300, 576, 577, 2048, 2112)]
    [256, 304, 576, 304, 512, 528]
    >>> tile_side([2048, 2048, 2048, 1000], 576, 28)
    512
    """

    def cost(side: int) -> int:
        return (side + 2 * context_px) * sum(-(-size // side) for size in sizes)

    return min(range(SMALL_TILE_PX, max(largest, SMALL_TILE_PX) + 1, TILE_STEP_PX), key=cost)


def largest_side(architecture: Architecture, cap: int, free_bytes: int | None) -> int:
    """Return the largest side of a tile whose activations fit into a share of the free memory, `cap` at most.

    At least `SMALL_TILE_PX`, whatever is free; `cap` where that is not known, and what then does not fit is halved.

    Examples
    --------
    >>> [largest_side(Architecture(6, 4), 2048, free) for free in (None, 1 << 20, 1 << 28, 1 << 30, 1 << 34)]
    [2048, 256, 736, 1520, 2048]
    """
    if free_bytes is None:
        return cap
    pixels = SHARE_OF_FREE * free_bytes / architecture.activation_bytes
    side = int(pixels**0.5) - 2 * architecture.context_px
    return min(cap, max(SMALL_TILE_PX, side // TILE_STEP_PX * TILE_STEP_PX))


def half_side(side: int) -> int | None:
    """Return the side to try where memory ran out with one; None where that was the smallest."""
    return None if side <= SMALL_TILE_PX else max(SMALL_TILE_PX, side // 2 // TILE_STEP_PX * TILE_STEP_PX)
