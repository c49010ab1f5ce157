"""What a person should look at: classes taken for each other, and blocks that differ from their neighbours."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np

from pipeline.align.values import Alignment, BlockSignature, Confusion, Contested, Mixed, Overlap
from pipeline.blocks import Index

MOST_PAIRS, MOST_BLOCKS = 2000, 50
"""So many pairs of classes are listed, which is all of them up to 63 classes, and so many blocks to look at: those that
differ in the largest share of pixels."""


def find_confusions(
    alignment: Alignment, signatures: Iterable[BlockSignature], overlaps: Iterable[Overlap]
) -> tuple[Confusion, ...]:
    """Return the pairs of classes that two blocks give to the same pixels, the most confused first.

    Shares are of the shared pixels that either block gives to the rarer class of the two. `alignment` has to number
    its classes from 0.
    """
    ids = _ids(alignment, signatures)
    k = len(alignment.classes)
    table = np.zeros((k, k), dtype=np.int64)
    for each in overlaps:
        np.add.at(table, (ids[each.a][:, None], ids[each.b][None]), each.table)
    table += table.T
    total = table.sum(axis=1) - np.diag(table) // 2
    one, two = np.nonzero(np.triu(table, 1))
    share = table[one, two] / np.maximum(np.minimum(total[one], total[two]), 1)
    order = np.lexsort((two, one, -share))[:MOST_PAIRS]
    return tuple(
        Confusion((int(one[i]), int(two[i])), int(table[one[i], two[i]]), round(float(share[i]), 4)) for i in order
    )


def find_contested(
    alignment: Alignment, signatures: Iterable[BlockSignature], overlaps: Iterable[Overlap]
) -> tuple[Contested, ...]:
    """Return the blocks that give other ids to shared pixels than their neighbours, the most contested first."""
    ids = _ids(alignment, signatures)
    counts: dict[Index, tuple[int, int]] = {}
    for each in overlaps:
        differ = int(each.table[ids[each.a][:, None] != ids[each.b]].sum())
        for index in (each.a, each.b):
            before = counts.get(index, (0, 0))
            counts[index] = before[0] + int(each.table.sum()), before[1] + differ
    found = [Contested(i, total, round(differ / total, 4)) for i, (total, differ) in counts.items() if differ]
    return tuple(sorted(found, key=lambda each: (-each.share, each.block))[:MOST_BLOCKS])


def join_confusions(confusions: Iterable[Confusion]) -> tuple[Confusion, ...]:
    """Return one entry for each pair of ids, the most confused first, where some classes have become one.

    What is one class now is confused with nothing. Pixels are summed, and the share is the greatest of the parts: how
    many pixels the joined class shares with others is not known.

    Examples
    --------
    >>> join_confusions([Confusion((7, 9), 50, 0.5), Confusion((9, 7), 40, 0.2), Confusion((7, 7), 10, 0.1)])
    (Confusion(classes=(7, 9), pixels=90, share=0.5),)
    """
    found: dict[tuple[int, int], Confusion] = {}
    for each in confusions:
        pair = min(each.classes), max(each.classes)
        if pair[0] != pair[1]:
            before = found.get(pair, Confusion(pair, 0, 0.0))
            found[pair] = Confusion(pair, before.pixels + each.pixels, max(before.share, each.share))
    return tuple(sorted(found.values(), key=lambda each: (-each.share, each.classes)))


def tell_mixed(mixed: Sequence[Mixed]) -> list[str]:
    """Return the sentence on classes of single blocks that hold two of the map; none where there are none."""
    if not mixed:
        return []
    named = [f"{m.classes[0]} and {m.classes[1]} in {m.block}" for m in mixed[:8]]
    more = ", ..." if len(mixed) > 8 else ""
    return [
        f"{len(mixed)} class(es) of single blocks hold two of the map; --k may be too small: {', '.join(named)}{more}"
    ]


def _ids(alignment: Alignment, signatures: Iterable[BlockSignature]) -> dict[Index, np.typing.NDArray[np.intp]]:
    return {each.index: alignment.lookup[each.index][each.ids].astype(np.intp) for each in signatures}
