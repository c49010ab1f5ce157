"""One global id for each local id of each block.

Steps: remove what moves a whole block (`drift`), on chains of sure matches (`tracks`); place disconnected parts
(`registration`); find the classes (`classes`), twice, because block offsets are better known once they are; then
decide each node from its features and its neighbours (`inference`). Where an anchor tells of each class what a model of
the whole scene calls it, all is done with and without it, and what overlaps confirm better is taken. Nodes are ordered
by content and never by local id, so that the map does not depend on how a model happened to number its classes, nor on
the order of the blocks.

References
----------
Overlaps are trusted near by and features far away; two-way fixed effects as a Laplacian solve: Gaure (2013).
Prediction strength as the measure of the number of clusters: Tibshirani and Walther (2005).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ktex_model.model import NO_CLASS
from pipeline.align.classes import Clusters, Limits, over_cluster, reduce_clusters, squared_distances
from pipeline.align.drift import (
    block_offsets,
    estimate_smoothness,
    fixed_effects,
    group_means,
    node_variance,
    whitening,
)
from pipeline.align.graph import Float, Graph, Int, build
from pipeline.align.inference import Assignment, infer
from pipeline.align.purity import find_mixed, find_suspects
from pipeline.align.registration import register
from pipeline.align.tracks import block_quality, find_tracks
from pipeline.align.values import Alignment, BlockSignature, ClassSummary, Merge, Overlap
from pipeline.blocks import Index

_ANCHOR = 10.0
"""What the shares that an anchor tells count for, beside filters in units of the spread inside a class: the square
roots of two nodes without a class in common are 1.4 apart."""
_LEAST_SHARE = 0.75
"""Least share of the typical number of classes of a block that the map has."""
_FEW_BLOCKS = (4, 16)
"""Of so many blocks the map has the typical number at least, or the least share of it, but for classes that look alike;
between the two along a straight line."""
_SAME_INFORMATION = 1e-9
"""Less than this, in nats, is rounding: of two vocabularies that are one the anchor's is taken."""
_SAME_LEVEL = 0.01
"""What brightness of the same pixels differs by at most, of two blocks that read the same."""


@dataclass(frozen=True, eq=False)
class _Prepared:
    """White features ``(N, D)`` with measured offsets removed, what is left to remove by block, and weights.

    `variance` ``(N,)`` is what a node's features scatter by around its class, in each dimension: 1 for a large one;
    `suspect` ``(N,)`` are nodes that seem to hold two classes.
    """

    features: Float
    variance: Float
    suspect: NDArray[np.bool_]
    offsets: Float
    track: Int
    weight: Float
    quality: Float
    smoothness: float


def align(
    signatures: Sequence[BlockSignature],
    overlaps: Sequence[Overlap],
    tallies: Mapping[Index, NDArray[np.int64]] | None = None,
    *,
    classes: int | None = None,
    seed: int = 0,
) -> Alignment:
    """Give every local id of every block a global id.

    Parameters
    ----------
    signatures
        One for each block that has valid pixels.
    overlaps
        What neighbours share; blocks or whole parts of the scene may have none.
    tallies
        For each block, where there is an anchor (a model that labelled all of the scene), ``(n, A)`` int64: how many
        pixels of each local id, in the order of the signature's `ids`, it gives to each of its own classes.
    classes
        Number of global classes; found from how well overlaps reproduce them where None.
    seed
        Of the k-means starts. Equal input and seed give an equal map.

    Raises
    ------
    ValueError
        `signatures` is empty or holds a block twice, `classes` is below 1, or overlaps or tallies do not fit them.
    """
    if classes is not None and classes < 1:
        raise ValueError(f"`classes` must be at least 1; got {classes}")
    graph = build(signatures, overlaps, tallies)
    if len(graph.blocks) == 1 and classes is None:
        return _number(graph, np.eye(len(graph.node_id)), (), (), np.ones(1))
    solved = _solve(graph, classes, seed)
    if graph.shares.shape[1]:
        # An anchor knows what matters in a scene, but may take for one what blocks tell apart.
        plain = _solve(replace(graph, shares=graph.shares[:, :0]), classes, seed)
        if _information(graph, plain) > _information(graph, solved) + _SAME_INFORMATION:
            solved = plain
    return _number(graph, solved.probability, solved.merges, solved.flags, solved.quality)


@dataclass(frozen=True, eq=False)
class _Solved:
    """``(N, K)`` probabilities, how clusters were joined, what to look at, and ``(B,)`` trust in blocks."""

    probability: Float
    merges: tuple[Merge, ...]
    flags: tuple[str, ...]
    quality: Float


def _solve(graph: Graph, classes: int | None, seed: int) -> _Solved:
    rng = np.random.default_rng(seed)
    ready = _prepare(graph)
    limits = _limits(graph, classes)
    ready, flags = _connect(graph, ready, limits, rng)
    everywhere = np.ones(len(graph.node_id), dtype=bool)
    ready = _tie(graph, ready, _cluster(graph, ready, everywhere, limits, rng))
    found = _cluster(graph, ready, everywhere, limits, rng)
    probability = _infer(graph, ready, found).probability
    told = (*flags, *_warnings(graph, found, probability, ready.quality, classes))
    return _Solved(probability, found.merges, told, ready.quality)


def _information(graph: Graph, solved: _Solved) -> float:
    """Return what the class that one block gives to a shared pixel tells of that which the other gives, in nats."""
    label, k = solved.probability.argmax(axis=1), solved.probability.shape[1]
    counts = np.bincount(label[graph.cell_a] * k + label[graph.cell_b], graph.cell_count, minlength=k * k).reshape(k, k)
    table: Float = (counts + counts.T) / max(2 * float(graph.cell_count.sum()), 1.0)
    alone = table.sum(axis=1)
    there = table > 0
    return float(np.sum(table[there] * np.log(table[there] / np.outer(alone, alone)[there])))


def _prepare(graph: Graph) -> _Prepared:
    """Tracks, offsets and the metric; the metric is learnt from tracks, and then tracks are found again with it."""
    quality = block_quality(graph)
    weight = np.where(graph.known, np.sqrt(graph.node_pixels) * quality[graph.node_block], 0.0)
    features = graph.features - block_offsets(graph)[graph.node_block]
    scale = np.maximum(graph.spread, 1e-6)
    features = np.hstack([features / scale, _ANCHOR * np.sqrt(graph.shares)])
    features = np.where(graph.known[:, None], features, 0.0)
    for _ in range(2):
        track = find_tracks(graph, features)
        smoothness = estimate_smoothness(graph, features, track)
        offsets, means = fixed_effects(graph, features, track, weight, smoothness)
        sizes = np.bincount(track[weight > 0], minlength=len(means))
        matched = (weight > 0) & (sizes[track] > 1)
        residual = features - offsets[graph.node_block] - means[track]
        freedom = float(matched.sum() - np.sum(sizes > 1) - len(graph.blocks) * 0.5)
        prior = np.full(features.shape[1], _prior_variance(features, graph))
        change = whitening(residual, np.where(matched, weight, 0.0), freedom, prior)
        features = np.where(graph.known[:, None], features @ change, 0.0)
        offsets = offsets @ change
    variance = node_variance(graph, features, weight)
    suspect = find_suspects(graph, features, variance)  # what moves a block moves all of its nodes alike
    return _Prepared(features, variance, suspect, offsets, track, weight, quality, smoothness)


def _prior_variance(features: Float, graph: Graph) -> float:
    """Return what two nodes of one class may differ by where tracks are too few to say: a part of the whole."""
    if graph.known.sum() < 2:
        return 1.0
    return max(0.05 * float(np.var(features[graph.known], axis=0).mean()), 1e-9)


def _limits(graph: Graph, classes: int | None) -> Limits:
    """Bound the number of classes by what single blocks found.

    Not under three quarters of the typical, because blocks may split classes; not over twice the most. The typical
    number is doubted the less the fewer blocks there are: overlaps of a few blocks are too few witnesses against what
    each of them saw in all of its pixels.
    """
    sizes = np.bincount(graph.node_block)
    typical = float(np.median(sizes))
    least = max(min(2, int(sizes.max())), round(_LEAST_SHARE * typical))
    clear = int(float(np.interp(len(graph.blocks), _FEW_BLOCKS, (1.0, _LEAST_SHARE))) * typical)
    return Limits(least, 2 * int(sizes.max()), classes, clear)


def _connect(graph: Graph, ready: _Prepared, limits: Limits, rng: np.random.Generator) -> tuple[_Prepared, list[str]]:
    """Shift disconnected parts onto the classes of the largest."""
    part = graph.components
    if part.max() == 0:
        return ready, []
    found = _cluster(graph, ready, part[graph.node_block] == 0, limits, rng)
    features = ready.features - ready.offsets[graph.node_block]
    label = _label(graph, ready, found)
    first = (part[graph.node_block] == 0) & (ready.weight > 0)
    means = group_means(features[first], label[first], ready.weight[first], len(found.classes))
    shifts, margins = register(graph, features, ready.weight, means, ready.offsets, rng)
    flags = [
        f"{int(np.sum(part == c))} block(s) around {graph.blocks[int(np.argmax(part == c))]} touch no others; their "
        f"classes were matched by features alone, and another match scores nearly as well (margin {margin:.3f})"
        for c, margin in margins
        if margin < 0.05
    ]
    return replace(ready, offsets=ready.offsets + shifts), flags


def _cluster(
    graph: Graph, ready: _Prepared, nodes: NDArray[np.bool_], limits: Limits, rng: np.random.Generator
) -> Clusters:
    """Find the classes of some nodes, those of `nodes`."""
    features = ready.features - ready.offsets[graph.node_block]
    weight = np.where(nodes & ~ready.suspect, ready.weight, 0.0)
    n_tracks = int(ready.track.max()) + 1
    points = group_means(features, ready.track, weight, n_tracks)
    track_weight = np.bincount(ready.track, weight, minlength=n_tracks).astype(np.float64)
    typical = max(2, limits.most // 2)
    count = max(24, 2 * typical + 8, 2 * (limits.fixed or 0) + 8)
    centres = over_cluster(points, track_weight, count, rng)
    if len(centres) == 0:
        centres = np.zeros((1, features.shape[1]))
    return reduce_clusters(graph, features, weight, ready.variance, graph.known & ~ready.suspect, centres, limits, rng)


def _label(graph: Graph, ready: _Prepared, found: Clusters) -> Int:
    """Return ``(N,)`` the class of each node by its features alone, 0..K-1."""
    features = ready.features - ready.offsets[graph.node_block]
    return np.searchsorted(found.classes, found.assign(squared_distances(features, found.centres)))


def _tie(graph: Graph, ready: _Prepared, found: Clusters) -> _Prepared:
    """Fit the block offsets again, on classes, which reach further than tracks and tie parts that are apart."""
    label = _label(graph, ready, found)
    offsets, _ = fixed_effects(
        graph, ready.features, label, ready.weight, ready.smoothness, across_parts=True, start=ready.offsets
    )
    return replace(ready, offsets=offsets)


def _infer(graph: Graph, ready: _Prepared, found: Clusters) -> Assignment:
    label = _label(graph, ready, found)
    return infer(graph, ready.features, label, ready.weight, ready.quality, ready.offsets, ready.smoothness)


def _number(
    graph: Graph, probability: Float, merges: tuple[Merge, ...], flags: tuple[str, ...], quality: Float
) -> Alignment:
    """Return the result with classes numbered by pixels, largest first, then by signature."""
    label = probability.argmax(axis=1)
    used, dense = np.unique(label, return_inverse=True)
    pixels = np.bincount(dense, graph.node_pixels)
    signature = group_means(graph.features, dense, graph.node_pixels * graph.known, len(used))
    order = np.lexsort((*np.round(signature, 6).T[::-1], -pixels))
    rank = np.argsort(order)
    blocks = [len(np.unique(graph.node_block[dense == c])) for c in order]
    summaries = tuple(
        ClassSummary(i, int(pixels[c]), n, tuple(float(v) for v in signature[c]))
        for i, (c, n) in enumerate(zip(order, blocks, strict=True))
    )
    own = rank[dense]
    top = np.sort(probability, axis=1)
    posterior = top[:, -1]
    margin = posterior - (top[:, -2] if top.shape[1] > 1 else 0.0)
    no_class = NO_CLASS if len(used) <= NO_CLASS else 65535
    second = np.full(len(own), no_class)
    if len(used) > 1:
        others = probability[:, used[order]]
        np.put_along_axis(others, own[:, None], -1.0, axis=1)
        second = others.argmax(axis=1)
    mixed = find_mixed(graph, own, quality)
    return Alignment(
        _tables(graph, own, no_class),
        _tables(graph, posterior, np.float32(0)),
        _tables(graph, margin, np.float32(0)),
        summaries,
        merges,
        flags,
        mixed,
        second=_tables(graph, second, no_class),
    )


def _tables(graph: Graph, values: Int | Float, unused: int | np.float32) -> dict[Index, Any]:
    """Turn one value a node into one table a block, by local id: uint8 or uint16 where `unused` is an id."""
    dtype = np.min_scalar_type(unused) if isinstance(unused, int) else np.float32
    edges = np.searchsorted(graph.node_block, np.arange(len(graph.blocks) + 1))
    found = {}
    for i, index in enumerate(graph.blocks):
        nodes = slice(edges[i], edges[i + 1])
        ids = graph.node_id[nodes]
        found[index] = table = np.full(int(ids.max()) + 1, unused, dtype)
        table[ids] = values[nodes]
    return found


def _warnings(graph: Graph, found: Clusters, probability: Float, quality: Float, classes: int | None) -> list[str]:
    used = len(np.unique(probability.argmax(axis=1)))
    flags = []
    if classes is not None and used != classes:
        flags.append(f"{classes} classes were asked for, and {used} could be told apart")
    if any(m.reason == "number of classes" for m in found.merges):
        flags.append("classes that overlaps could tell apart were joined to keep to the number of classes")
    apart = np.flatnonzero((np.abs(graph.delta) > _SAME_LEVEL).any(axis=1) & (graph.delta_weight > 0))
    if len(apart):
        worst = apart[np.argmax(np.abs(graph.delta[apart]).max(axis=1))]
        one, two = (graph.blocks[side[worst]] for side in (graph.pair_i, graph.pair_j))
        flags.append(
            f"{len(apart)} pair(s) of blocks read other values of the pixels that they share, first {one} and {two}: "
            "what they differ by was removed"
        )
    bad = [graph.blocks[i] for i in np.flatnonzero(quality < 0.2)]
    if bad:
        named = ", ".join(str(b) for b in bad[:8]) + (", ..." if len(bad) > 8 else "")
        flags.append(f"{len(bad)} block(s) hardly agree with their neighbours: {named}")
    return flags
