"""Under-split nodes: one class of a block that holds what its neighbours, and the map, call two.

No relabelling can mend such a node, because it has one id: it has to be found, so that its pixels are looked at again
(`pipeline.repair`). Before there are classes such nodes are suspects, by what one neighbour tells apart in them; they
are no evidence on how many classes there are.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from pipeline.align.graph import Float, Graph, Int
from pipeline.align.values import Mixed

_MIN_SHARED_PX = 120
_MIN_SHARE = 0.25
_MOST_OF_CLASS = 0.5
_MIN_QUALITY = 0.5
_CONTAINED = 0.6
_LEAST_PART = 0.1
_MIN_PART_PX = 40
_APART = 4.0
_PARTS = 4


def find_suspects(graph: Graph, features: Float, variance: Float) -> NDArray[np.bool_]:
    """Return the nodes in which a neighbour tells two classes apart that look different.

    A suspect holds, of what it shares with one neighbour, most of each of two nodes, each of which is a tenth of it or
    more, and the features of the two differ by more than four times of what those of one class do. Where they
    differ by less, it is the neighbour that has split one class.

    Parameters
    ----------
    features, variance
        ``(N, D)`` white features and ``(N,)`` what those of a node scatter by around its class.

    Returns
    -------
    ``(N,)`` bool.
    """
    n, c = len(graph.node_block), graph.cell_count
    in_a, in_b, _ = graph.side_pixels
    found = np.zeros(n, dtype=bool)
    sides = (graph.cell_a, graph.cell_b, in_a, in_b), (graph.cell_b, graph.cell_a, in_b, in_a)
    for part, whole, of_part, of_whole in sides:
        keep = (c >= _CONTAINED * of_part) & (c >= _LEAST_PART * of_whole) & (c >= _MIN_PART_PX) & graph.known[part]
        group = (graph.cell_pair * n + whole)[keep]
        order = np.argsort(group, kind="stable")
        group, inner, outer = group[order], part[keep][order], whole[keep][order]
        # A node has few parts of that size: those that stand up to so many places apart are all pairs that matter.
        for step in range(1, _PARTS + 1):
            same = group[step:] == group[:-step]
            one, two = inner[step:][same], inner[:-step][same]
            gap = features[one] - features[two]
            apart = np.einsum("nd,nd->n", gap, gap) > _APART * features.shape[1] * (variance[one] + variance[two])
            found[outer[step:][same][apart]] = True
    return found


def find_mixed(graph: Graph, label: Int, quality: Float) -> tuple[Mixed, ...]:
    """Return the nodes that swallow another class.

    A node is mixed where neighbours give a quarter or more of its shared pixels to a second class (and as much to its
    own), most of what they call that class in the block lies in it, and no other node of the block stands for it.

    Parameters
    ----------
    label
        ``(N,)`` class of each node, 0..K-1.
    quality
        ``(B,)`` trust in a block's overlaps; blocks that hardly agree with any other say nothing.

    Returns
    -------
    tuple
        In the order of the nodes; `Mixed.classes` are numbered as `label` is.
    """
    n, k, n_blocks = len(label), int(label.max()) + 1, len(graph.blocks)
    node = np.concatenate([graph.cell_a, graph.cell_b])
    other = np.concatenate([graph.cell_b, graph.cell_a])
    count = np.concatenate([graph.cell_count, graph.cell_count])
    sound = quality[graph.node_block] >= _MIN_QUALITY
    told = sound[node] & sound[other]
    node, said, count = node[told], label[other[told]], count[told]
    table = np.bincount(node * k + said, count, minlength=n * k).reshape(n, k)
    in_block = np.bincount(graph.node_block[node] * k + said, count, minlength=n_blocks * k).reshape(n_blocks, k)
    stands = label[node] == said
    own = np.bincount(graph.node_block[node[stands]] * k + said[stands], count[stands], minlength=n_blocks * k)
    own = own.reshape(n_blocks, k)
    total = table.sum(axis=1)
    swallowed = table >= np.maximum(_MIN_SHARE * total[:, None], _MOST_OF_CLASS * in_block[graph.node_block])
    swallowed &= own[graph.node_block] < _MIN_SHARE * in_block[graph.node_block]
    swallowed[np.arange(n), label] = False
    both = (total >= _MIN_SHARED_PX) & (table[np.arange(n), label] >= _MIN_SHARE * total)
    return tuple(
        Mixed(
            graph.blocks[graph.node_block[u]],
            int(graph.node_id[u]),
            (int(label[u]), int(c)),
            round(float(table[u, c] / total[u]), 4),
        )
        for u, c in np.argwhere(swallowed & both[:, None])
    )
