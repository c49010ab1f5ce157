"""Under-split nodes: one class of a block that holds what its neighbours, and the map, call two.

No relabelling can mend such a node, because it has one id: it has to be found, so that its block is looked at.
"""

from __future__ import annotations

import numpy as np

from pipeline.align.graph import Float, Graph, Int
from pipeline.align.values import Mixed

_MIN_SHARED_PX = 120
_MIN_SHARE = 0.25
_MOST_OF_CLASS = 0.5
_MIN_QUALITY = 0.5


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
