"""The block graph as flat arrays, in an order that depends on content alone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

from pipeline.align.values import BlockSignature, Overlap
from pipeline.blocks import Index

Float = NDArray[np.float64]
Int = NDArray[np.intp]

_MIN_SHARED_PX = 12


@dataclass(frozen=True, eq=False)
class Graph:
    """Nodes, cells (pairs of nodes that share pixels) and pairs (of blocks that overlap).

    Attributes
    ----------
    blocks
        Sorted indices of blocks.
    node_block, node_id, node_pixels
        ``(N,)``: position in `blocks`, local id, and pixels (float) of each node.
    features
        ``(N, D)``; 0 where not `known`.
    spread
        ``(D,)``: median standard deviation of features inside a node.
    known
        ``(N,)`` bool: whether a node has features.
    shares
        ``(N, A)``: what share of a node's pixels the anchor gives to each of its classes; no columns without one.
    cell_a, cell_b, cell_count, cell_pair
        ``(E,)``: the nodes of a cell, their shared pixels (float, above 0), and the pair that it belongs to.
    pair_i, pair_j
        ``(P,)``: positions in `blocks`, ``pair_i < pair_j``.
    delta, delta_weight
        ``(P, D)`` and ``(P,)``: measured offset of the features of block i over those of block j.
    """

    blocks: list[Index]
    node_block: Int
    node_id: Int
    node_pixels: Float
    features: Float
    spread: Float
    known: NDArray[np.bool_]
    shares: Float
    cell_a: Int
    cell_b: Int
    cell_count: Float
    cell_pair: Int
    pair_i: Int
    pair_j: Int
    delta: Float
    delta_weight: Float

    @cached_property
    def sides(self) -> tuple[Groups, Groups]:
        """The cells of each pair by their node on side a, and by that on side b."""
        n = len(self.node_block)
        return Groups(self.cell_pair * n + self.cell_a), Groups(self.cell_pair * n + self.cell_b)

    @cached_property
    def side_pixels(self) -> tuple[Float, Float, Float]:
        """For each cell: shared pixels of its pair in node a, in node b, and in all."""
        by_a, by_b = self.sides
        return by_a.sum(self.cell_count), by_b.sum(self.cell_count), Groups(self.cell_pair).sum(self.cell_count)

    @cached_property
    def components(self) -> Int:
        """For each block the number of its connected part, largest part (in pixels) first."""
        n = len(self.blocks)
        links = sparse.coo_array((np.ones(len(self.pair_i)), (self.pair_i, self.pair_j)), shape=(n, n))
        _, part = sparse.csgraph.connected_components(links, directed=False)
        pixels = np.bincount(part[self.node_block], self.node_pixels)
        rank = np.empty(len(pixels), dtype=np.intp)
        rank[np.argsort(-pixels, kind="stable")] = np.arange(len(pixels))
        result: Int = rank[part]
        return result

    @cached_property
    def laplacian(self) -> sparse.csr_array:
        """``(B, B)`` float32: how blocks that overlap hang together, each pair with weight 1."""
        return laplacian(self.pair_i, self.pair_j, np.ones(len(self.pair_i)), len(self.blocks)).astype(np.float32)


class Groups:
    """Elements of equal keys; sums and maxima of a group are given to each of its elements."""

    def __init__(self, keys: Int) -> None:
        self._order = np.argsort(keys, kind="stable")
        ordered = keys[self._order]
        first = np.ones(len(keys), dtype=bool)
        first[1:] = ordered[1:] != ordered[:-1]
        self._starts = np.flatnonzero(first)
        self._group = np.empty(len(keys), dtype=np.intp)
        self._group[self._order] = np.cumsum(first) - 1

    def sum(self, values: Float) -> Float:
        """Return for each element the sum over its group."""
        return self._reduce(np.add, values)

    def max(self, values: Float) -> Float:
        """Return for each element the largest of its group."""
        return self._reduce(np.maximum, values)

    def _reduce(self, function: np.ufunc, values: Float) -> Float:
        if not len(values):
            return values.astype(np.float64)
        result: Float = function.reduceat(values[self._order], self._starts)[self._group]
        return result


def laplacian(i: Int, j: Int, weight: Float, n: int) -> sparse.csr_array:
    """Return the weighted Laplacian of a graph."""
    links = sparse.coo_array((weight, (i, j)), shape=(n, n)).tocsr()
    links = links + links.T
    return (sparse.diags_array(np.asarray(links.sum(axis=1)).ravel()) - links).tocsr()


def build(
    signatures: Sequence[BlockSignature],
    overlaps: Sequence[Overlap],
    tallies: Mapping[Index, NDArray[np.int64]] | None = None,
) -> Graph:
    """Flatten and sort.

    Raises
    ------
    ValueError
        A block occurs twice, features differ in length, or an overlap or tally does not fit its signatures.
    """
    order = sorted(signatures, key=lambda s: s.index)
    shares = _shares(order, tallies)
    blocks = [s.index for s in order]
    position = {index: i for i, index in enumerate(blocks)}
    _check(order, overlaps, position)
    start = np.concatenate([[0], np.cumsum([len(s.ids) for s in order])])
    # A handful of shared pixels ties nothing, and would hide that two parts of a scene are apart.
    telling = (o for o in overlaps if o.table.sum() >= _MIN_SHARED_PX)
    ordered = sorted(telling, key=lambda o: sorted((position[o.a], position[o.b])))
    ends = np.array([sorted((position[o.a], position[o.b])) for o in ordered], dtype=np.intp).reshape(-1, 2)
    swapped = np.array([position[o.a] for o in ordered], dtype=np.intp) != ends[:, 0]
    raw = _cells(ordered, start[ends], swapped)
    features = np.concatenate([s.features for s in order]).astype(np.float64)
    node_block = np.repeat(np.arange(len(order)), np.diff(start))
    pixels = np.concatenate([s.pixels for s in order]).astype(np.float64)
    known: NDArray[np.bool_] = np.asarray(np.isfinite(features).all(axis=1))
    features = np.where(known[:, None], features, 0.0)
    by_content = _content_order(node_block, pixels, features, raw)
    new = np.empty_like(by_content)
    new[by_content] = np.arange(len(by_content))
    a, b, pair = new[raw[0].astype(np.intp)], new[raw[1].astype(np.intp)], raw[3].astype(np.intp)
    cell_order = np.lexsort((b, a, pair))
    spread = np.concatenate([s.spread for s in order])[known]
    dims = features.shape[1]
    sign = np.where(swapped, -1.0, 1.0)
    return Graph(
        blocks=blocks,
        node_block=node_block[by_content],
        node_id=np.concatenate([s.ids for s in order]).astype(np.intp)[by_content],
        node_pixels=pixels[by_content],
        features=features[by_content],
        spread=np.median(spread, axis=0).astype(np.float64) if len(spread) else np.ones(dims),
        known=known[by_content],
        shares=shares[by_content],
        cell_a=a[cell_order],
        cell_b=b[cell_order],
        cell_count=raw[2][cell_order],
        cell_pair=pair[cell_order],
        pair_i=ends[:, 0],
        pair_j=ends[:, 1],
        delta=np.array([o.delta for o in ordered], dtype=np.float64).reshape(-1, dims) * sign[:, None],
        delta_weight=np.array([o.weight for o in ordered], dtype=np.float64),
    )


def _shares(order: Sequence[BlockSignature], tallies: Mapping[Index, NDArray[np.int64]] | None) -> Float:
    """Return ``(N, A)`` the tallies of all nodes as shares."""
    if not tallies:
        return np.zeros((sum(len(s.ids) for s in order), 0))
    tables = [tallies.get(s.index) for s in order]
    widths = {table.shape[1] for table in tables if table is not None}
    for signature, table in zip(order, tables, strict=True):
        if table is None or len(table) != len(signature.ids) or len(widths) != 1:
            found = "none" if table is None else f"{table.shape}"
            raise ValueError(
                f"`tallies` must have a row for each of {len(signature.ids)} ids, and columns for the classes of one "
                f"anchor; got {found} at block {signature.index}"
            )
    counts = np.concatenate([table for table in tables if table is not None]).astype(np.float64)
    result: Float = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    return result


def _cells(overlaps: Sequence[Overlap], first: Int, swapped: NDArray[np.bool_]) -> Float:
    """Return ``(4, cells)``: node of the first block, node of the second, count, pair.

    `first` ``(P, 2)`` are the first nodes of both blocks; where `swapped`, tables have the second block as rows.
    """
    if not overlaps:
        return np.zeros((4, 0))
    counts = np.concatenate([o.table.ravel() for o in overlaps]).astype(np.float64)
    sizes, widths = (
        np.array(column) for column in zip(*((o.table.size, o.table.shape[1]) for o in overlaps), strict=True)
    )
    there = np.flatnonzero(counts)
    pair = np.repeat(np.arange(len(overlaps)), sizes)[there]
    rows, columns = np.divmod(there - (np.cumsum(sizes) - sizes)[pair], widths[pair])
    turn = swapped[pair]
    one, two = np.where(turn, columns, rows), np.where(turn, rows, columns)
    return np.stack([one + first[pair, 0], two + first[pair, 1], counts[there], pair]).astype(np.float64)


def _content_order(node_block: Int, pixels: Float, features: Float, cells: Float) -> Int:
    """Sort nodes by block, size, features, and then by what they share with whom: never by their local id."""
    shared = np.zeros((len(pixels), 2))
    for side in (0, 1):
        np.add.at(shared[:, side], cells[side].astype(np.intp), cells[2] ** 2 * (cells[3] + 1))
    keys = (shared[:, 1], shared[:, 0], *features.T[::-1], -pixels, node_block)
    return np.lexsort(keys)


def _check(order: Sequence[BlockSignature], overlaps: Sequence[Overlap], position: dict[Index, int]) -> None:
    if not order:
        raise ValueError("`signatures` must hold at least one block; got none")
    if len(position) != len(order):
        raise ValueError("`signatures` must hold each block once; got one twice")
    dims = {s.features.shape[1] for s in order} | {len(o.delta) for o in overlaps}
    if len(dims) != 1:
        raise ValueError(f"`features` and `delta` must have one length; got {sorted(dims)}")
    sizes = {s.index: len(s.ids) for s in order}
    for o in overlaps:
        if o.a not in sizes or o.b not in sizes or o.table.shape != (sizes[o.a], sizes[o.b]):
            raise ValueError(f"`overlaps` must fit the signatures; got a table {o.table.shape} for {o.a} and {o.b}")
