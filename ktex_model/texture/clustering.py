"""K-means, mutual information between neighbours, and what merging classes loses of it."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from ktex_model.texture.filters import Floats

Ints = NDArray[np.int64]


def squared_distances(values: Floats, centres: Floats) -> Floats:
    """Return squared Euclidean distances ``(n, k)``, exact up to float32 rounding and never negative."""
    cross = values @ centres.T
    squares = (values**2).sum(1)[:, None] + (centres**2).sum(1)[None, :]
    return np.asarray(np.maximum(squares - 2 * cross, 0), np.float32)


def seed_centres(values: Floats, k: int, rng: np.random.Generator) -> Floats:
    """Draw k starting centres, each with probability proportional to its squared distance to those before."""
    chosen = [int(rng.integers(len(values)))]
    nearest = squared_distances(values, values[chosen])[:, 0].astype(np.float64)
    for _ in range(k - 1):
        total = nearest.sum()
        weights = nearest / total if total > 0 else None
        chosen.append(int(rng.choice(len(values), p=weights)))
        nearest = np.minimum(nearest, squared_distances(values, values[chosen[-1:]])[:, 0])
    return values[chosen]


def kmeans(values: Floats, k: int, rng: np.random.Generator, tries: int = 3, rounds: int = 30) -> Ints:
    """Cluster ``(n, feature)`` into at most k clusters; the tightest of several tries.

    Where values are fewer than k and distinct, some of the numbers 0..k-1 remain unused.

    Examples
    --------
    >>> points = np.array([[0.0], [0.1], [9.0], [9.1]], np.float32)
    >>> labels = kmeans(points, 2, np.random.default_rng(0))
    >>> bool(labels[0] == labels[1] != labels[2] == labels[3])
    True
    """
    if values.shape[1] == 0:
        return np.zeros(len(values), np.int64)
    subset = values if len(values) <= 16384 else values[rng.choice(len(values), 16384, replace=False)]
    results = [_settle(subset, seed_centres(subset, k, rng), rounds) for _ in range(tries)]
    best, _ = min(results, key=lambda result: result[1])
    return np.asarray(squared_distances(values, best).argmin(1), np.int64)


def _settle(values: Floats, centres: Floats, rounds: int) -> tuple[Floats, float]:
    for _ in range(rounds):
        labels = squared_distances(values, centres).argmin(1)
        member = np.eye(len(centres), dtype=np.float32)[labels]
        count = member.sum(0)[:, None]
        moved = np.where(count > 0, member.T @ values / np.maximum(count, 1), centres).astype(np.float32)
        still = np.allclose(moved, centres, atol=1e-4)
        centres = moved
        if still:
            break
    return centres, float(squared_distances(values, centres).min(1).mean())


def neighbour_counts(maps: Sequence[Ints], k: int, distances: Sequence[int]) -> NDArray[np.float64]:
    """Count which classes lie at the given distances (in cells) right of and below each other.

    Parameters
    ----------
    maps
        ``(y, x)`` labels of windows; negative where not valid.
    k
        Number of classes.
    distances
        In cells; those that fit in no window count nothing.

    Returns
    -------
    ``(k, k)`` symmetric counts.

    Examples
    --------
    >>> neighbour_counts([np.array([[0, 0, 1]])], 2, [1]).tolist()
    [[2.0, 1.0], [1.0, 0.0]]
    """
    joint = np.zeros(k * k)
    for labels in maps:
        for step in distances:
            for one, other in ((labels[:-step], labels[step:]), (labels[:, :-step], labels[:, step:])):
                if one.size and one.shape == other.shape:
                    held = (one >= 0) & (other >= 0)
                    joint += np.bincount(one[held] * k + other[held], minlength=k * k)
    return joint.reshape(k, k) + joint.reshape(k, k).T


def _xlogx(values: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.asarray(values * np.log(np.maximum(values, 1e-300)), np.float64)


def mutual_information(joint: NDArray[np.float64]) -> float:
    """Return the mutual information in nats of symmetric counts; 0 where nothing was counted.

    Examples
    --------
    >>> round(mutual_information(np.eye(2)), 4), mutual_information(np.ones((2, 2)))
    (0.6931, 0.0)
    """
    if joint.sum() == 0:
        return 0.0
    share = joint / joint.sum()
    return max(0.0, float(_xlogx(share).sum() - 2 * _xlogx(share.sum(0)).sum()))


def merge_losses(joint: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the mutual information that is lost if classes i and j become one: ``(k, k)``, inf on the diagonal."""
    share = joint / max(joint.sum(), 1.0)
    single, cells, diagonal = share.sum(0), _xlogx(share), np.diag(share)
    rows = cells.sum(1)
    together = np.stack([_xlogx(share[i] + share).sum(1) for i in range(len(share))])
    # The columns i and j of both rows meet in one cell, so they are taken out of the sums and added once.
    at_i = _xlogx(diagonal[:, None] + share)
    outside = together - at_i - at_i.T
    lost_rows = (rows[:, None] - np.diag(cells)[:, None] - cells) + (rows[None, :] - np.diag(cells)[None, :] - cells)
    before = 2 * lost_rows + np.diag(cells)[:, None] + np.diag(cells)[None, :] + 2 * cells
    after = 2 * outside + _xlogx(diagonal[:, None] + diagonal[None, :] + 2 * share)
    marginal = _xlogx(single)[:, None] + _xlogx(single)[None, :] - _xlogx(single[:, None] + single[None, :])
    losses: NDArray[np.float64] = before - after - 2 * marginal
    np.fill_diagonal(losses, np.inf)
    return losses
