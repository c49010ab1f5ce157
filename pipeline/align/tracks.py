"""Tracks: nodes of different blocks that are surely the same class, because they share pixels.

Matches on overlaps can be trusted only nearby, so that a track is a short chain; it never holds two classes of one
block.
"""

from __future__ import annotations

import numpy as np

from pipeline.align.graph import Float, Graph, Int

_MIN_JACCARD = 0.4
_MIN_SHARED_PX = 12
_BENEFIT = 0.1
"""Information, in nats a pixel, that a block is credited with: where all is one class, none can be shown."""


def block_quality(graph: Graph) -> Float:
    """Return ``(B,)`` in 0.05..1: how well the labels of a block agree with its neighbours', by mutual information.

    A block without overlaps, or whose overlaps hold hardly more than one class, has nothing that speaks against it: 1.
    """
    in_a, in_b, total = graph.side_pixels
    c = graph.cell_count
    n_blocks, n_pairs = len(graph.blocks), len(graph.pair_i)
    pixels = np.bincount(graph.cell_pair, c, minlength=n_pairs)
    mutual = np.bincount(graph.cell_pair, c * np.log(c * total / (in_a * in_b)), minlength=n_pairs)
    # Each side's entropy, counted once a node: a cell carries its share c / in_a of node a.
    entropy_a = np.bincount(graph.cell_pair, -c * np.log(in_a / total), minlength=n_pairs)
    entropy_b = np.bincount(graph.cell_pair, -c * np.log(in_b / total), minlength=n_pairs)
    most = (entropy_a + entropy_b) / 2
    shared, possible = (
        np.bincount(graph.pair_i, v, minlength=n_blocks) + np.bincount(graph.pair_j, v, minlength=n_blocks)
        for v in (mutual, most)
    )
    benefit = _BENEFIT * sum(np.bincount(side, pixels, minlength=n_blocks) for side in (graph.pair_i, graph.pair_j))
    nmi = np.where(possible > 1e-9, (shared + benefit) / np.maximum(possible + benefit, 1e-9), 1.0)
    return np.clip((nmi - 0.15) / 0.3, 0.05, 1.0)


def find_tracks(graph: Graph, features: Float) -> Int:
    """Return ``(N,)`` track of each node, numbered from 0 in the order of nodes.

    Candidates are cells in which each node is the other's best, with a Jaccard index above 0.4. They are joined
    best first, unless that would put two nodes of one block into one track.
    """
    in_a, in_b, _ = graph.side_pixels
    a, b, c = graph.cell_a, graph.cell_b, graph.cell_count
    jaccard = c / (in_a + in_b - c)
    # Above one half a cell is the best of both its nodes; below, the largest count has to be looked for.
    by_a, by_b = graph.sides
    best = (c >= by_a.max(c)) & (c >= by_b.max(c))
    keep = best & (jaccard > _MIN_JACCARD) & (c >= _MIN_SHARED_PX)
    a, b, score = a[keep], b[keep], (c * jaccard)[keep]
    both = graph.known[a] & graph.known[b]
    distance = np.einsum("nd,nd->n", features[a] - features[b], features[a] - features[b])
    if np.any(both):
        typical = max(float(np.median(distance[both])), 1e-12)
        distance = np.where(both, distance, typical)
        near = distance < 3 * typical
        a, b, score = a[near], b[near], (score * np.exp(-distance / (6 * typical)))[near]
    return _join(graph.node_block, a[(order := np.argsort(-score, kind="stable"))], b[order])


def _join(node_block: Int, first: Int, second: Int) -> Int:
    """Kruskal's algorithm with mutual exclusion inside blocks: sequential by nature, small sets into large."""
    parent = list(range(len(node_block)))
    members: dict[int, set[int]] = {}

    def root(n: int) -> int:
        while parent[n] != n:
            parent[n] = parent[parent[n]]
            n = parent[n]
        return n

    blocks = node_block.tolist()
    for one, two in zip(first.tolist(), second.tolist(), strict=True):
        i, j = root(one), root(two)
        if i == j:
            continue
        held_i, held_j = (members.get(n) or {blocks[n]} for n in (i, j))
        if held_i.isdisjoint(held_j):
            if len(held_i) < len(held_j):
                i, j, held_i, held_j = j, i, held_j, held_i
            parent[j] = i
            held_i |= held_j
            members[i] = held_i
            members.pop(j, None)
    roots = np.array([root(n) for n in range(len(parent))])
    _, first_seen, track = np.unique(roots, return_index=True, return_inverse=True)
    rank = np.argsort(np.argsort(first_seen))
    result: Int = rank[track]
    return result
