"""Which class each node has: features and agreement on overlaps together, by EM with votes of neighbours."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy import sparse
from scipy.special import softmax

from pipeline.align.drift import fixed_effects
from pipeline.align.graph import Float, Graph, Int

_ROUNDS = 8
_SWEEPS = 4
_RIDGE = 0.05
_MIN_NODES_FOR_PLANE = 24
_VOTE = 6.0
_FULL_VOTE_PX = 48.0
_WORST = 40.0
_SETTLED = 1e-3


@dataclass(frozen=True, eq=False)
class Assignment:
    """Result of the inference: ``(N, K)`` probabilities, and ``(B, D)`` offsets of blocks."""

    probability: Float
    offsets: Float


def infer(
    graph: Graph, features: Float, label: Int, weight: Float, quality: Float, shift: Float, smoothness: float
) -> Assignment:
    """Fit classes, class planes, block offsets and node probabilities in turn.

    Parameters
    ----------
    features
        ``(N, D)`` white features, block offsets not removed.
    label
        ``(N,)`` first guess, 0..K-1.
    weight, quality
        ``(N,)`` weight of a node's features, ``(B,)`` trust in a block's overlaps.
    shift
        ``(B, D)`` first guess of the block offsets.
    smoothness
        See `fixed_effects`.
    """
    k = int(label.max()) + 1
    links = couplings(graph, quality)
    places = _places(graph)
    offsets = shift
    probability = np.eye(k)[label]
    planes, spread = _fit_planes(features - offsets[graph.node_block], probability, weight, places)
    fitted = None
    for step in range(_ROUNDS):
        temperature = 4.0 ** (1 - min(1.0, step / (_ROUNDS - 2)))
        hard = probability.argmax(axis=1)
        # Offsets cost most, and change with the labels alone.
        if step >= 1 and (fitted is None or np.mean(hard != fitted) > _SETTLED):
            detail = _evaluate(planes, places, hard) - planes[hard, 0]
            offsets, _ = fixed_effects(
                graph, features - detail, hard, weight, smoothness, across_parts=True, start=offsets
            )
            planes, spread = _fit_planes(features - offsets[graph.node_block], probability, weight, places)
            fitted = hard
        cost = _cost(graph, features - offsets[graph.node_block], planes, places, spread)
        for _ in range(_SWEEPS):
            fresh = softmax((links @ probability - cost) / temperature, axis=1)
            probability = 0.5 * probability + 0.5 * fresh
        if step == _ROUNDS - 1:
            probability = softmax(links @ probability - cost, axis=1)
    return Assignment(probability, offsets)


def couplings(graph: Graph, quality: Float) -> sparse.csr_array:
    """Return ``(N, N)``: what each node hears from the nodes of its neighbours, row from column.

    Each neighbour has one vote on a node, divided as it divides the pixels that they share: one that gives a tenth of
    them to another class, or that mixes two classes, is heard in that measure. Votes of few pixels, and of blocks that
    hardly agree with any other, count less.
    """
    in_a, in_b, _ = graph.side_pixels
    trust = quality[graph.pair_i[graph.cell_pair]] * quality[graph.pair_j[graph.cell_pair]]
    said = _VOTE * trust * graph.cell_count
    heard = np.concatenate([said / np.maximum(in_a, _FULL_VOTE_PX), said / np.maximum(in_b, _FULL_VOTE_PX)])
    by, of = np.concatenate([graph.cell_a, graph.cell_b]), np.concatenate([graph.cell_b, graph.cell_a])
    n = len(graph.node_block)
    return sparse.coo_array((heard, (by, of)), shape=(n, n)).tocsr()


def _places(graph: Graph) -> Float:
    """Return ``(N, 3)``: 1, y and x of each node's block, over the scene -0.5..0.5."""
    at = np.array(graph.blocks, dtype=np.float64)
    size = np.maximum(at.max(axis=0) - at.min(axis=0), 1.0)
    at = (at - (at.max(axis=0) + at.min(axis=0)) / 2) / size
    return np.column_stack([np.ones(len(at)), at])[graph.node_block]


def _fit_planes(features: Float, probability: Float, weight: Float, places: Float) -> tuple[Float, float]:
    """Return ``(K, 3, D)`` planes, ridged towards constants, and the variance around them."""
    dims = features.shape[1]
    w = probability * weight[:, None]
    total = np.maximum(w.sum(axis=0), 1e-12)
    many = probability.sum(axis=0) >= _MIN_NODES_FOR_PLANE
    ridge = np.where(many, _RIDGE, 1e9)[:, None] * [0.0, 1.0, 1.0] + [1e-9, 0.0, 0.0]
    normal = np.stack([w.T @ (places * place[:, None]) for place in places.T], axis=1)
    normal += (total[:, None] * ridge)[:, None] * np.eye(3)
    planes = np.linalg.solve(normal, np.stack([w.T @ (features * place[:, None]) for place in places.T], axis=1))
    hard = probability.argmax(axis=1)
    residual = features - _evaluate(planes, places, hard)
    use = weight > 0
    spread = np.median(np.einsum("nd,nd->n", residual, residual)[use]) / dims if use.any() else 1.0
    # White features have variance 1 inside a track; much less is the sign of a fit to few nodes.
    return planes, float(max(spread, 0.3))


def _evaluate(planes: Float, places: Float, label: Int) -> Float:
    result: Float = planes[label, 0]
    for p in (1, 2):
        result += places[:, p, None] * planes[label, p]
    return result


def _cost(graph: Graph, features: Float, planes: Float, places: Float, spread: float) -> Float:
    """Return ``(N, K)`` misfit of features, bounded; 0 where a node has none."""
    # |f - B p|^2 is expanded, because an (N, K, D) array would be the largest of all.
    cross = sum(places[:, p, None] * (features @ planes[:, p].T) for p in range(3))
    gram = np.einsum("kpd,kqd->pqk", planes, planes).reshape(9, -1)
    own = (places[:, :, None] * places[:, None]).reshape(-1, 9) @ gram
    distance = np.maximum(np.einsum("nd,nd->n", features, features)[:, None] - 2 * cross + own, 0.0)
    cost = 0.5 * distance / (spread * (1 + 16 / np.maximum(graph.node_pixels, 1)))[:, None]
    cost = np.minimum(cost, cost.min(axis=1, keepdims=True) + _WORST)
    return np.where(graph.known[:, None], cost, 0.0)
