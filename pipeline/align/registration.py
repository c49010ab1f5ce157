"""Placing disconnected parts: what no overlap ties to the rest is shifted until its clusters meet known classes."""

from __future__ import annotations

import numpy as np

from pipeline.align.classes import over_cluster, squared_distances
from pipeline.align.graph import Float, Graph, Int

_MAX_LOCAL = 14
_PRIOR = 0.05
_MARGIN = 0.05


def register(
    graph: Graph, features: Float, weight: Float, prototypes: Float, offsets: Float, rng: np.random.Generator
) -> tuple[Float, list[tuple[int, float]]]:
    """Shift each part but the largest onto the prototypes of the largest.

    Parameters
    ----------
    features
        ``(N, D)`` white, block offsets removed inside each part.
    prototypes
        ``(K, D)`` classes of the largest part.
    offsets
        ``(B, D)`` block offsets inside each part; their trend over the largest says what to expect elsewhere.

    Returns
    -------
    shifts, margins
        ``(B, D)`` to subtract from the features, 0 in the largest part; for each other part its number and how far
        its best place scores before the best distinct other one.
    """
    part = graph.components
    shifts = np.zeros_like(offsets)
    margins = []
    plane, noise = _trend(graph, offsets, part == 0)
    at = np.column_stack([np.ones(len(graph.blocks)), np.array(graph.blocks, dtype=np.float64)])
    starts = np.searchsorted(np.sort(part, kind="stable"), np.arange(int(part.max()) + 2))
    by_part = np.argsort(part, kind="stable")
    node_part = part[graph.node_block]
    nodes_by_part = np.argsort(node_part, kind="stable")
    node_starts = np.searchsorted(node_part[nodes_by_part], np.arange(int(part.max()) + 2))
    for c in range(1, int(part.max()) + 1):
        blocks = by_part[starts[c] : starts[c + 1]]
        nodes = nodes_by_part[node_starts[c] : node_starts[c + 1]]
        nodes = nodes[weight[nodes] > 0]
        if len(nodes) == 0:
            continue
        local = over_cluster(features[nodes], weight[nodes], _MAX_LOCAL, rng)
        share = _shares(features[nodes], weight[nodes], local)
        expected = at[blocks].mean(axis=0) @ plane
        shift, margin = _place(local, share, prototypes, expected, noise)
        shifts[blocks] = shift
        margins.append((c, margin))
    return shifts, margins


def _place(local: Float, share: Float, prototypes: Float, expected: Float, noise: float) -> tuple[Float, float]:
    """Return the shift under which local clusters meet prototypes best, and its lead over a different one."""
    dims = local.shape[1]
    scale = 2.0 * dims
    to_try = np.concatenate([expected[None], (local[:, None] - prototypes[None]).reshape(-1, dims)])
    score = _score(to_try, local, share, prototypes, expected, noise, scale)
    keep = np.union1d(np.argsort(-score, kind="stable")[:10], [0])
    refined = np.array([_refine(t, local, share, prototypes, scale) for t in to_try[keep]])
    score = _score(refined, local, share, prototypes, expected, noise, scale)
    best = int(np.argmax(score))
    other = np.einsum("td,td->t", refined - refined[best], refined - refined[best]) > scale
    margin = float(score[best] - score[other].max()) if other.any() else 1.0
    place: Float = refined[best].astype(np.float64)
    return place, margin


def _score(
    shifts: Float, local: Float, share: Float, prototypes: Float, expected: Float, noise: float, scale: float
) -> Float:
    """Return ``(T,)``: share that falls on a prototype, less a bounded price of straying from what is expected."""
    placed = local[None] - shifts[:, None]
    nearest = squared_distances(placed.reshape(-1, local.shape[1]), prototypes).min(axis=1).reshape(len(shifts), -1)
    stray = np.einsum("td,td->t", shifts - expected, shifts - expected)
    price = _PRIOR * np.log1p(stray / (noise + float(expected @ expected)))
    result: Float = np.exp(-nearest / (2 * scale)) @ share - price
    return result


def _refine(shift: Float, local: Float, share: Float, prototypes: Float, scale: float) -> Float:
    """Iterate closest points, each cluster weighted by how near it is."""
    for _ in range(8):
        distance = squared_distances(local - shift, prototypes)
        match = distance.argmin(axis=1)
        pull = share * np.exp(-distance.min(axis=1) / (2 * scale))
        if pull.sum() < 1e-6:
            break
        shift = pull @ (local - prototypes[match]) / pull.sum()
    return shift


def _trend(graph: Graph, offsets: Float, inside: np.typing.NDArray[np.bool_]) -> tuple[Float, float]:
    """Return the ``(3, D)`` plane of block offsets over the largest part, and the variance around it."""
    at = np.column_stack([np.ones(len(graph.blocks)), np.array(graph.blocks, dtype=np.float64)])[inside]
    dims = offsets.shape[1]
    if len(at) < 12:
        return np.zeros((3, dims)), float(dims)
    plane, *_ = np.linalg.lstsq(at, offsets[inside], rcond=None)
    residual = offsets[inside] - at @ plane
    return np.asarray(plane, dtype=np.float64), float(np.mean(np.einsum("bd,bd->b", residual, residual))) + dims


def _shares(features: Float, weight: Float, centres: Float) -> Float:
    nearest: Int = squared_distances(features, centres).argmin(axis=1)
    total = np.bincount(nearest, weight, minlength=len(centres))
    result: Float = total / total.sum()
    return result
