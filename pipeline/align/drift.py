"""Removal of what moves the features of all classes of a block together: radiometry and smooth drift.

Offsets between neighbours that were measured on the same pixels are removed by least squares. What remains is
estimated without knowing any class, as two-way fixed effects: the feature of a node is that of its track plus that
of its block, and neighbouring blocks differ little.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from scipy import sparse

from pipeline.align.graph import Float, Graph, Int, laplacian

_SMOOTHNESS = 0.003, 3.0
_TOLERANCE = 1e-4
_TINY = 1e-30
_SAMPLING_PX = 16.0
_BORDER_PX = 8.0


def block_offsets(graph: Graph) -> Float:
    """Return ``(B, D)`` offsets of blocks, by least squares on the offsets measured on shared pixels."""
    shape = len(graph.blocks), graph.features.shape[1]
    if not np.any(graph.delta * graph.delta_weight[:, None]):
        return np.zeros(shape)
    weight = graph.delta_weight / graph.delta_weight.max()
    lap = laplacian(graph.pair_i, graph.pair_j, weight, shape[0]) + 1e-3 * sparse.eye_array(shape[0])
    right = np.zeros(shape)
    np.add.at(right, graph.pair_i, weight[:, None] * graph.delta)
    np.subtract.at(right, graph.pair_j, weight[:, None] * graph.delta)
    return solve_cg(lambda s: lap @ s, right, lap.diagonal())


def fixed_effects(
    graph: Graph,
    features: Float,
    group: Int,
    weight: Float,
    smoothness: float,
    *,
    across_parts: bool = False,
    start: Float | None = None,
) -> tuple[Float, Float]:
    """Split node features into a part of their group and a part of their block.

    Parameters
    ----------
    features
        ``(N, D)``.
    group
        ``(N,)``: track or class of each node.
    weight
        ``(N,)``, at least 0.
    smoothness
        What the difference of neighbouring blocks weighs, as `estimate_smoothness` finds it.
    across_parts
        Groups, as classes do, occur in several connected parts of the graph and tie their offsets to each other.
    start
        ``(B, D)`` guess of the offsets, near which the solution is found sooner.

    Returns
    -------
    blocks, groups
        ``(B, D)`` offsets, 0 on average over each connected part (over the scene where `across_parts`), and
        ``(G, D)`` weighted means of what remains.
    """
    n_blocks, n_groups = len(graph.blocks), int(group.max()) + 1
    of_group = sparse.csr_array((weight, (group, graph.node_block)), shape=(n_groups, n_blocks))
    total = np.maximum(of_group.sum(axis=1), 1e-12)
    scale = max(float(np.mean(of_group.sum(axis=0))), 1e-12)
    # A trace of plain ridge gives blocks that no track ties to any other an offset of 0, not of noise.
    diagonal = (of_group.sum(axis=0) + 1e-4 * scale).astype(np.float32)
    # Single precision is far finer than what is solved for, and half as much to move.
    smooth = np.float32(smoothness * scale) * graph.laplacian
    means_of = (sparse.diags_array(1 / total) @ of_group).astype(np.float32).tocsr()
    transposed = of_group.T.astype(np.float32).tocsr()

    def apply(s: Float) -> Float:
        result: Float = diagonal[:, None] * s - transposed @ (means_of @ s) + smooth @ s
        return result

    means = group_means(features, group, weight, n_groups)
    right = sums(weight[:, None] * (features - means[group]), graph.node_block, n_blocks)
    guess: Any = None if start is None else start.astype(np.float32)
    solved = solve_cg(apply, right.astype(np.float32), diagonal + smooth.diagonal(), guess, _TOLERANCE)
    blocks = solved.astype(np.float64)
    part = np.zeros(n_blocks, dtype=np.intp) if across_parts else graph.components
    blocks -= group_means(blocks, part, np.ones(n_blocks), int(part.max()) + 1)[part]
    return blocks, group_means(features - blocks[graph.node_block], group, weight, n_groups)


def whitening(residuals: Float, weight: Float, freedom: float, prior: Float) -> Float:
    """Return ``(D, D)`` that makes residuals of one and the same class white.

    The worst tenth is dropped, because some tracks are wrong. Few degrees of freedom fall back on `prior`, ``(D,)``
    variances; features of no variance at all count for nothing.
    """
    dims = len(prior)
    size = np.einsum("nd,nd->n", residuals, residuals / np.maximum(prior, 1e-12))
    keep = (weight > 0) & (size <= np.quantile(size[weight > 0], 0.9)) if np.any(weight > 0) else weight > 0
    w = weight[keep] / max(float(weight[keep].sum()), 1e-12)
    found = (residuals[keep] * w[:, None]).T @ residuals[keep]
    # Residuals were fitted: each track mean and block offset took a degree of freedom with it.
    found *= keep.sum() / max(freedom * 0.9, 1.0)
    strength = max(freedom, 0.0) / (max(freedom, 0.0) + 100.0)
    cov = strength * found + (1 - strength) * np.diag(prior)
    cov = 0.8 * cov + 0.2 * np.diag(np.diag(cov)) + 1e-9 * np.eye(dims) * max(float(np.trace(cov)) / dims, 1e-12)
    values, vectors = np.linalg.eigh(cov)
    result: Float = vectors / np.sqrt(np.maximum(values, 1e-12)) @ vectors.T
    return result


def estimate_smoothness(graph: Graph, features: Float, track: Int) -> float:
    """Return how much less neighbouring blocks differ than the nodes of a block are uncertain together.

    Of each pair of blocks, the tracks that both have differ by the step of the drift and by noise; how they differ
    among themselves is noise alone. The weight of a block's smoothness, relative to that of its nodes, is the ratio
    of the two variances.
    """
    same = (track[graph.cell_a] == track[graph.cell_b]) & graph.known[graph.cell_a] & graph.known[graph.cell_b]
    pair, n = graph.cell_pair[same], len(graph.pair_i)
    step = features[graph.cell_a[same]] - features[graph.cell_b[same]]
    count = np.bincount(pair, minlength=n)
    mean = group_means(step, pair, np.ones(len(pair)), n)
    rest = step - mean[pair]
    use = count >= 2
    if not use.any():
        return _SMOOTHNESS[0] * 10
    noise = np.bincount(pair, np.einsum("nd,nd->n", rest, rest), minlength=n)[use] / (count[use] - 1)
    drift = np.einsum("nd,nd->n", mean[use], mean[use]) - noise / count[use]
    per_block = len(graph.node_block) / len(graph.blocks)
    ratio = 3 * np.median(noise) / 2 / max(float(np.median(drift)), 1e-12) / per_block
    return float(np.clip(ratio, *_SMOOTHNESS))


def node_variance(graph: Graph, features: Float, weight: Float) -> Float:
    """Return ``(N,)``: the variance of white features around their class, 1 for a node of very many pixels.

    Along its borders a node holds pixels of others. That share falls with the root of its size, and what it adds to
    the variance is that share, squared, of the variance between the classes of a block.
    """
    n_blocks, dims = len(graph.blocks), features.shape[1]
    centred = features - group_means(features, graph.node_block, weight, n_blocks)[graph.node_block]
    between = float(weight @ np.einsum("nd,nd->n", centred, centred)) / max(float(weight.sum()), 1e-12) / dims
    result: Float = 1 + (_SAMPLING_PX + _BORDER_PX * between) / np.maximum(graph.node_pixels, 1)
    return result


def group_means(values: Float, group: Int, weight: Float, n: int) -> Float:
    """Return ``(n, D)`` weighted means; 0 where a group has no weight.

    >>> group_means(np.array([[1.0], [3.0], [7.0]]), np.array([0, 0, 2]), np.ones(3), 3).ravel().tolist()
    [2.0, 0.0, 7.0]
    """
    total = np.bincount(group, weight, minlength=n)
    result: Float = sums(values * weight[:, None], group, n) / np.where(total > 0, total, 1.0)[:, None]
    return result


def sums(values: Float, group: Int, n: int) -> Float:
    """Return ``(n, D)`` sums of the rows of each group."""
    each = np.arange(len(group) + 1)
    result: Float = sparse.csr_array((np.ones(len(group)), group, each), shape=(len(group), n)).T @ values
    return result


def solve_cg(
    apply: Callable[[Float], Float],
    right: Float,
    diagonal: Float,
    start: Float | None = None,
    tolerance: float = 1e-7,
    steps: int = 200,
) -> Float:
    """Solve a positive (semi)definite system for all right-hand sides ``(n, D)`` at once.

    SciPy's solver takes one at a time, which costs D times the passes over the graph.
    """
    scale = 1.0 / np.maximum(diagonal, 1e-12)[:, None]
    goal = tolerance**2 * np.einsum("nd,nd->d", right, right * scale)
    x = np.zeros_like(right) if start is None else start.copy()
    residual = right.copy() if start is None else right - apply(x)
    z = residual * scale
    direction, rz = z.copy(), np.einsum("nd,nd->d", residual, z)
    for _ in range(steps):
        if np.all(rz <= goal):
            break
        moved = apply(direction)
        curve = np.einsum("nd,nd->d", direction, moved)
        step = np.where(rz > goal, rz / np.maximum(curve, _TINY), 0.0)
        x += step * direction
        residual -= step * moved
        z = residual * scale
        rz, before = np.einsum("nd,nd->d", residual, z), rz
        direction = z + rz / np.maximum(before, _TINY) * direction
    return x
