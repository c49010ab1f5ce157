"""Plain ways to give nodes global ids, which the solver has to beat.

Each takes signatures, overlaps, the true number of classes (which only the k-means use) and a seed, and returns for
each block the global ids of its nodes, in the order of the ids of its signature.
"""

from __future__ import annotations

import heapq
import itertools
from collections import deque
from collections.abc import Callable, Iterator, Sequence

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import linear_sum_assignment
from scipy.sparse import coo_array, identity
from scipy.sparse.csgraph import breadth_first_order, minimum_spanning_tree
from scipy.sparse.linalg import spsolve
from scipy.spatial import cKDTree
from sklearn.cluster import KMeans

from pipeline.align.values import BlockSignature, Overlap
from pipeline.blocks import Index

Ids = dict[Index, NDArray[np.intp]]
Table = NDArray[np.int64]
Edge = tuple[int, int, float]
_MOST = 6.0
"""What one overlap can say at most for or against two nodes."""
_APART = 25.0
"""By how much two nodes of one block repel each other: more than four overlaps can say for them."""


def raster_hungarian(signatures: Sequence[BlockSignature], overlaps: Sequence[Overlap], classes: int, seed: int) -> Ids:
    """Match each block, in raster order, to all its neighbours that already have ids; the unmatched open new ones."""
    del classes, seed
    tables = _both_ways(overlaps)
    given: Ids = {}
    fresh = 0
    for signature in sorted(signatures, key=lambda s: s.index):
        before = [other for other in tables.get(signature.index, {}) if other in given]
        shared = {other: tables[signature.index][other] for other in before}
        given[signature.index], fresh = _match(len(signature.ids), shared, given, fresh)
    return given


def tree_hungarian(signatures: Sequence[BlockSignature], overlaps: Sequence[Overlap], classes: int, seed: int) -> Ids:
    """Match along the spanning tree of greatest agreement, each block to its parent only."""
    del classes, seed
    nodes = {s.index: len(s.ids) for s in sorted(signatures, key=lambda s: s.index)}
    number = {index: i for i, index in enumerate(nodes)}
    tables = _both_ways(overlaps)
    # Distances have to be positive to be edges of a sparse graph.
    edges = [(number[o.a], number[o.b], 2.0 - _agreement(o.table)) for o in overlaps]
    a, b, distance = (np.array(column) for column in zip(*edges, strict=True)) if edges else (np.zeros(0, int),) * 3
    tree = minimum_spanning_tree(coo_array((distance, (a, b)), shape=(len(nodes), len(nodes))).tocsr())
    names = list(nodes)
    given: Ids = {}
    fresh = 0
    for root in names:
        if root in given:
            continue
        order, parents = breadth_first_order(tree, number[root], directed=False)
        for child in order:
            index = names[child]
            above = [names[parents[child]]] if parents[child] >= 0 else []
            given[index], fresh = _match(nodes[index], {p: tables[index][p] for p in above}, given, fresh)
    return given


def kmeans_signatures(
    signatures: Sequence[BlockSignature], overlaps: Sequence[Overlap], classes: int, seed: int
) -> Ids:
    """Cluster the features of all nodes, weighted by their pixels."""
    del overlaps
    return _kmeans(signatures, np.concatenate([s.features for s in signatures]), classes, seed)


def kmeans_radiometric(
    signatures: Sequence[BlockSignature], overlaps: Sequence[Overlap], classes: int, seed: int
) -> Ids:
    """Remove the offset of each block that shared pixels measure, then cluster."""
    return _kmeans(signatures, _level(signatures, overlaps), classes, seed)


def contract_overlaps(
    signatures: Sequence[BlockSignature], overlaps: Sequence[Overlap], classes: int, seed: int
) -> Ids:
    """Greedy additive edge contraction on how much more two nodes share than chance would have them share.

    Two nodes of one block repel each other.
    """
    del classes, seed
    first = _first_nodes(signatures)
    edges = [*_overlap_edges(overlaps, first), *_block_edges(signatures, first, _APART)]
    return _split(signatures, contract(sum(len(s.ids) for s in signatures), edges))


def contract_all(signatures: Sequence[BlockSignature], overlaps: Sequence[Overlap], classes: int, seed: int) -> Ids:
    """Do the same with edges to the nearest and to random nodes in feature space, attractive where alike.

    Alike is what is as near as matched nodes of neighbours are: 3.5 times the median of their squared distances,
    after the offsets that shared pixels measure. Two nodes of one block repel each other by as much as one overlap can
    say for them.
    """
    del classes
    rng = np.random.default_rng(seed)
    first = _first_nodes(signatures)
    features = _level(signatures, overlaps)
    edges = list(_overlap_edges(overlaps, first))
    matched = np.array([(a, b) for a, b, weight in edges if weight > 0]).reshape(-1, 2)
    limit = 3.5 * float(np.median(((features[matched[:, 0]] - features[matched[:, 1]]) ** 2).sum(1)))
    count = min(11, len(features))
    near = cKDTree(features).query(features, count)[1].reshape(len(features), -1)[:, 1:]
    far = rng.integers(len(features), size=(len(features), 30))
    for others in (near, far):
        a = np.arange(len(features)).repeat(others.shape[1])
        b = others.ravel()
        distance = ((features[a] - features[b]) ** 2).sum(1)
        weights = np.clip(1 - distance / limit, -1, 1)
        edges += [(int(i), int(j), float(w)) for i, j, w in zip(a, b, weights, strict=True) if i != j]
    edges += _block_edges(signatures, first, _MOST)
    return _split(signatures, contract(len(features), edges))


BASELINES: dict[str, Callable[[Sequence[BlockSignature], Sequence[Overlap], int, int], Ids]] = {
    "raster Hungarian": raster_hungarian,
    "tree Hungarian": tree_hungarian,
    "k-means": kmeans_signatures,
    "k-means, radiometry": kmeans_radiometric,
    "GAEC, overlaps": contract_overlaps,
    "GAEC, overlaps + features": contract_all,
}


def contract(count: int, edges: Sequence[Edge] | Iterator[Edge]) -> NDArray[np.intp]:
    """Join the two clusters with the greatest sum of weights between them, while there are any with more than 0.

    References
    ----------
    Keuper et al. (2015), Efficient decomposition of image and mesh graphs by lifted multicuts.

    Examples
    --------
    >>> contract(3, [(0, 1, 2.0), (1, 2, 1.0), (0, 2, -1.5)]).tolist()
    [0, 0, 1]
    """
    links: list[dict[int, float]] = [{} for _ in range(count)]
    for a, b, weight in edges:
        links[a][b] = links[b][a] = links[a].get(b, 0.0) + weight
    heap = [(-w, a, b) for a in range(count) for b, w in links[a].items() if a < b and w > 0]
    heapq.heapify(heap)
    parent = np.arange(count)
    while heap:
        weight, a, b = heapq.heappop(heap)
        if links[a].get(b) != -weight:
            continue
        keep, gone = (a, b) if len(links[a]) >= len(links[b]) else (b, a)
        parent[gone] = keep
        for other, more in links[gone].items():
            del links[other][gone]
            if other == keep:
                continue
            total = links[keep].get(other, 0.0) + more
            links[keep][other] = links[other][keep] = total
            if total > 0:
                heapq.heappush(heap, (-total, keep, other))
        links[gone] = {}
    while not np.array_equal(parent, parent[parent]):
        parent = parent[parent]
    return np.unique(parent, return_inverse=True)[1]


def _both_ways(overlaps: Sequence[Overlap]) -> dict[Index, dict[Index, Table]]:
    tables: dict[Index, dict[Index, Table]] = {}
    for o in overlaps:
        tables.setdefault(o.a, {})[o.b] = o.table
        tables.setdefault(o.b, {})[o.a] = o.table.T
    return tables


def _match(nodes: int, shared: dict[Index, Table], given: Ids, fresh: int) -> tuple[NDArray[np.intp], int]:
    """Return ids of a block by the assignment that shares most pixels, and the next unused id."""
    used = np.unique(np.concatenate([given[other] for other in shared])) if shared else np.zeros(0, np.intp)
    counts = np.zeros((nodes, len(used)), np.int64)
    for other, table in shared.items():
        np.add.at(counts.T, np.searchsorted(used, given[other]), table.T)
    ids = np.full(nodes, -1, np.intp)
    for row, column in zip(*linear_sum_assignment(-counts), strict=True):
        if counts[row, column] > 0:
            ids[row] = used[column]
    opened = np.flatnonzero(ids < 0)
    ids[opened] = fresh + np.arange(len(opened))
    return ids, fresh + len(opened)


def _agreement(table: Table) -> float:
    """Return the share of pixels that agree under the best assignment, 0..1."""
    return float(table[linear_sum_assignment(-table)].sum() / max(int(table.sum()), 1))


def _level(signatures: Sequence[BlockSignature], overlaps: Sequence[Overlap]) -> NDArray[np.float64]:
    """Return the features of all nodes less the offset of each block, by least squares over the shared pixels."""
    number = {s.index: i for i, s in enumerate(signatures)}
    features = np.concatenate([s.features for s in signatures]).astype(np.float64)
    if not overlaps:
        return features
    delta = np.stack([o.delta for o in overlaps]).astype(np.float64)
    weight = np.array([o.weight for o in overlaps])[:, None]
    columns = np.array([[number[o.a], number[o.b]] for o in overlaps]).ravel()
    places = np.arange(len(overlaps)).repeat(2), columns
    joins = coo_array((np.tile([1.0, -1.0], len(overlaps)), places), shape=(len(overlaps), len(number))).tocsr()
    normal = joins.T @ joins.multiply(weight) + 1e-3 * identity(len(number))
    offsets = np.asarray(spsolve(normal.tocsc(), joins.T @ (delta * weight))).reshape(len(number), -1)
    return features - offsets.repeat([len(s.ids) for s in signatures], axis=0)


def _kmeans(signatures: Sequence[BlockSignature], features: NDArray[np.floating], classes: int, seed: int) -> Ids:
    weights = np.concatenate([s.pixels for s in signatures]).astype(float)
    labels = KMeans(classes, n_init=5, random_state=seed).fit_predict(features.astype(float), sample_weight=weights)
    return _split(signatures, labels)


def _overlap_edges(overlaps: Sequence[Overlap], first: dict[Index, int]) -> Iterator[Edge]:
    for o in overlaps:
        expected = o.table.sum(1)[:, None] * o.table.sum(0) / max(int(o.table.sum()), 1)
        weights = np.clip((o.table - expected) / 8, -_MOST, _MOST)
        for (i, j), weight in np.ndenumerate(weights):
            if weight:
                yield first[o.a] + i, first[o.b] + j, float(weight)


def _block_edges(signatures: Sequence[BlockSignature], first: dict[Index, int], apart: float) -> Iterator[Edge]:
    for s in signatures:
        for i, j in itertools.combinations(range(len(s.ids)), 2):
            yield first[s.index] + i, first[s.index] + j, -apart


def _first_nodes(signatures: Sequence[BlockSignature]) -> dict[Index, int]:
    starts = np.cumsum([0, *(len(s.ids) for s in signatures)])
    return {s.index: int(start) for s, start in zip(signatures, starts[:-1], strict=True)}


def _split(signatures: Sequence[BlockSignature], labels: NDArray[np.integer]) -> Ids:
    rest = deque(np.split(labels.astype(np.intp), np.cumsum([len(s.ids) for s in signatures])[:-1]))
    return {s.index: rest.popleft() for s in signatures}
