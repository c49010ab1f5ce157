"""How many classes there are, and where: over-cluster the tracks, then join what overlaps cannot tell apart.

Two clusters are two classes only if independent blocks agree on which is which in the pixels that they share. For
that test nodes are labelled by their features alone, so that agreement on overlaps is evidence, not construction.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from pipeline.align.drift import group_means
from pipeline.align.graph import Float, Graph, Int
from pipeline.align.values import Merge

_MIN_SHARE = 0.001
_MIN_LOG_ODDS = 0.5
_MIN_CONTACT_PX = 60
_MIN_REPLICATION = 0.5
_MIN_SEPARATION = 4.0
_WANDER = 5.0
_SAMPLE = 8192
_PAIRS = 16384
_STARTS = 3
_SETTLED = 1e-4


@dataclass(frozen=True)
class Limits:
    """Bounds on the number of classes: `fixed` where the user gave it, else `least` and `most`.

    With no more than `clear` classes, only such as look alike become one, whatever overlaps say.
    """

    least: int
    most: int
    fixed: int | None = None
    clear: int = 0


@dataclass(frozen=True, eq=False)
class Clusters:
    """Centres in feature space, and the class that each belongs to.

    Attributes
    ----------
    centres
        ``(C, D)``.
    owner
        ``(C,)`` class of each centre, named by its first centre; -1 where a centre was dissolved.
    merges
        What was done, in order.
    """

    centres: Float
    owner: Int
    merges: tuple[Merge, ...] = ()

    @property
    def classes(self) -> Int:
        """The names of the classes."""
        return np.unique(self.owner[self.owner >= 0])

    def assign(self, distance: Float) -> Int:
        """Return ``(N,)`` class of the nearest living centre, from ``(N, C)`` squared distances."""
        result: Int = self.owner[self.nearest(distance)]
        return result

    def nearest(self, distance: Float) -> Int:
        """Return ``(N,)`` the nearest living centre."""
        alive = np.flatnonzero(self.owner >= 0)
        result: Int = alive[np.argmin(distance[:, alive], axis=1)]
        return result


@dataclass(frozen=True, eq=False)
class Evidence:
    """What speaks for and against each class and each pair of classes.

    `names` are the classes; all arrays are ``(K,)`` or ``(K, K)`` in their order. `log_odds` is infinite where two
    classes never met enough. `distance` is Ashman's D, in units of the spread inside a class, and says which
    classes are nearest; `separation`, the part of it that is certain, whether they are two.
    """

    names: Int
    share: Float
    replication: Float
    log_odds: Float
    contact: Float
    distance: Float
    separation: Float


def over_cluster(points: Float, weight: Float, count: int, rng: np.random.Generator) -> Float:
    """Return the ``(C, D)`` centres of weighted k-means, ``C <= count``.

    With no more points than `count`, each is a centre. Of very many points a sample is clustered.
    """
    use = np.flatnonzero(weight > 0)
    if len(use) > _SAMPLE:
        use = np.sort(rng.choice(use, _SAMPLE, replace=False))
    points, weight = points[use], weight[use]
    if len(points) <= count:
        return points.copy()
    best, least = points[:count], np.inf
    for _ in range(_STARTS):
        centres, cost = _lloyd(points, weight, _seed(points, weight, count, rng))
        if cost < least:
            best, least = centres, cost
    return best


def reduce_clusters(
    graph: Graph,
    features: Float,
    weight: Float,
    variance: Float,
    telling: NDArray[np.bool_],
    centres: Float,
    limits: Limits,
    rng: np.random.Generator,
) -> Clusters:
    """Dissolve and join clusters until each can be told from the others, or the number asked for is reached.

    `telling` ``(N,)`` are the nodes that are evidence: those with features that hold one class.
    """
    distance = squared_distances(features, centres)
    found = Clusters(centres, np.arange(len(centres)))
    nearest = found.nearest(distance)
    ground = Ground.of(graph, features, weight, variance, telling, rng)
    while len(found.classes) > 1:
        seen = weigh(ground, found.owner[nearest])
        missing = np.setdiff1d(found.classes, seen.names)
        if len(missing):
            # A centre that is the nearest of no node describes nothing.
            found = replace(found, owner=np.where(np.isin(found.owner, missing), -1, found.owner))
            continue
        step = _next_step(seen, limits)
        if step is None:
            break
        kept, gone, reason = step
        merge = _record(seen, kept, gone, reason)
        if reason in ("rare", "not reproduced"):
            owner = np.where(found.owner == seen.names[gone], -1, found.owner)
            lost = np.flatnonzero(owner[nearest] < 0)
            nearest[lost] = Clusters(centres, owner).nearest(distance[lost])
        else:
            owner = np.where(found.owner == seen.names[gone], seen.names[kept], found.owner)
        found = Clusters(centres, owner, (*found.merges, merge))
    return found


@dataclass(frozen=True, eq=False)
class Ground:
    """What evidence rests on: nodes that tell, and cells between them; of very many pairs of blocks a sample.

    Attributes
    ----------
    nodes
        ``(M,)`` such nodes; `features`, `weight`, `variance` and `pixels` are theirs.
    vague
        ``(M,)`` pixels that each shares with nodes that tell nothing.
    cell_a, cell_b, cell_count, cell_pair
        Cells between such nodes (positions in `nodes`), and which of the `pairs` they belong to.
    """

    nodes: Int
    features: Float
    weight: Float
    variance: Float
    pixels: Float
    vague: Float
    cell_a: Int
    cell_b: Int
    cell_count: Float
    cell_pair: Int
    pairs: int

    @classmethod
    def of(
        cls,
        graph: Graph,
        features: Float,
        weight: Float,
        variance: Float,
        telling: NDArray[np.bool_],
        rng: np.random.Generator,
    ) -> Ground:
        """Collect it; a few ten thousand pairs say as much of a few classes as all of them."""
        pairs = len(graph.pair_i)
        number = np.arange(pairs)
        if pairs > _PAIRS:
            drawn = np.sort(rng.choice(pairs, _PAIRS, replace=False))
            number = np.full(pairs, -1)
            number[drawn] = np.arange(_PAIRS)
        a, b, seen = graph.cell_a, graph.cell_b, number[graph.cell_pair] >= 0
        use = seen & telling[a] & telling[b]
        vague = np.zeros(len(telling))
        for one, two in ((a, b), (b, a)):
            half = seen & telling[one] & ~telling[two]
            vague += np.bincount(one[half], graph.cell_count[half], minlength=len(telling))
        nodes = np.flatnonzero(telling)
        position = np.cumsum(telling) - 1
        return cls(
            nodes,
            features[nodes],
            weight[nodes],
            variance[nodes],
            graph.node_pixels[nodes],
            vague[nodes],
            position[a[use]],
            position[b[use]],
            graph.cell_count[use],
            number[graph.cell_pair[use]],
            min(pairs, _PAIRS),
        )


def weigh(ground: Ground, label: Int) -> Evidence:
    """Collect the evidence for labels ``(N,)``, at least 0, that were given by features alone."""
    label = label[ground.nodes]
    there = np.bincount(label) > 0
    names, dense = np.flatnonzero(there), (np.cumsum(there) - 1)[label]
    k = len(names)
    share = np.bincount(dense, ground.pixels, minlength=k) / ground.pixels.sum()
    a, b = dense[ground.cell_a], dense[ground.cell_b]
    table = np.bincount(a * k + b, ground.cell_count, minlength=k * k).reshape(k, k)
    table = table + table.T
    occurs, agreed = _by_pair(a, b, ground.cell_count, ground.cell_pair, ground.pairs, k)
    together = agreed.T @ occurs
    cross = table * (1 - np.eye(k))
    # What neighbours did not tell apart is nothing that they disagree on.
    vague = np.bincount(dense, ground.vague, minlength=k)
    total = table.sum(axis=1) + vague
    replication = np.where(total >= _MIN_CONTACT_PX, (np.diag(table) + vague) / np.maximum(total, 1.0), 1.0)
    contact = together + together.T + cross
    odds = np.log((2 * together + 4) * (2 * together.T + 4) / (cross + 4) ** 2)
    odds = np.where((contact >= _MIN_CONTACT_PX) & ~np.eye(k, dtype=bool), odds, np.inf)
    distance, separation = _separation(ground.features, ground.weight, ground.variance, dense, k)
    return Evidence(names, share, replication, odds, contact, distance, separation)


def squared_distances(points: Float, centres: Float) -> Float:
    """Return ``(N, C)`` squared Euclidean distances."""
    result: Float = np.maximum(
        np.einsum("nd,nd->n", points, points)[:, None]
        + np.einsum("cd,cd->c", centres, centres)
        - 2 * points @ centres.T,
        0.0,
    )
    return result


def _by_pair(a: Int, b: Int, count: Float, pair: Int, pairs: int, k: int) -> tuple[Float, Float]:
    """Return, for each pair of blocks and class, whether it occurs, and the pixels that both give to it."""
    occurs = np.zeros((pairs, k))
    occurs[pair, a] = 1
    occurs[pair, b] = 1
    same = a == b
    agreed = np.bincount(pair[same] * k + a[same], count[same], minlength=pairs * k).reshape(pairs, k)
    return occurs, agreed.astype(np.float64, copy=False)


def _separation(features: Float, weight: Float, node_variance: Float, label: Int, k: int) -> tuple[Float, Float]:
    """Return twice ``(K, K)`` Ashman's D between classes, along the line that joins their means: plain, and certain.

    Features are white: the spread inside a class is shrunk to 1. Certain is what two means differ by beyond chance, or
    single nodes would look far apart in many dimensions. Chance counts fivefold, because the metric is learnt from
    neighbours, and a class wanders further from its mean than from one block to the next.
    """
    dims = features.shape[1]
    means = group_means(features, label, weight, k)
    total = np.maximum(np.bincount(label, weight, minlength=k), 1e-12)
    of_mean = np.bincount(label, weight**2 * node_variance, minlength=k) / total**2
    # Of very many nodes every n-th tells the spread as well.
    few = slice(None, None, 1 + len(label) // _SAMPLE)
    features, label = features[few], label[few]
    centred = (features - means[label]) / np.sqrt(node_variance[few])[:, None]
    size = np.einsum("nd,nd->n", centred, centred)
    # The worst tenth of nodes is not what a class looks like.
    inner = size <= np.quantile(size, 0.9)
    outer = np.zeros((k, dims, dims))
    for c in range(k):
        mine = centred[inner & (label == c)]
        outer[c] = (mine.T @ mine + 5 * np.eye(dims)) / (len(mine) + 5)
    gap = means[:, None] - means[None]
    squared = np.einsum("abd,abd->ab", gap, gap)
    unit = gap / np.sqrt(np.maximum(squared, 1e-12))[..., None]
    variance = np.einsum("abd,ade,abe->ab", unit, outer, unit)
    chance = _WANDER * dims * (of_mean[:, None] + of_mean[None])
    spread = np.maximum(variance + variance.T, 1e-12)
    distance: Float = np.sqrt(2 * squared / spread)
    separation: Float = np.sqrt(2 * np.maximum(squared - chance, 0) / spread)
    for each in (distance, separation):
        np.fill_diagonal(each, np.inf)
    return distance, separation


def _next_step(seen: Evidence, limits: Limits) -> tuple[int, int, str] | None:
    """Return positions (kept, gone) and the reason of the most urgent step; None where there is none left."""
    k = len(seen.names)
    if k <= (limits.fixed or limits.least):
        return None
    rarest = int(np.argmin(seen.share))
    if seen.share[rarest] < _MIN_SHARE:
        return _nearest(seen, rarest), rarest, "rare"
    confused = seen.log_odds < _MIN_LOG_ODDS
    if limits.fixed is None and k <= limits.clear:
        return _next_merge(seen, limits, confused & (seen.separation < _MIN_SEPARATION))
    worst = int(np.argmin(seen.replication))
    if not confused.any() and seen.replication[worst] < _MIN_REPLICATION:
        return _nearest(seen, worst), worst, "not reproduced"
    return _next_merge(seen, limits, confused)


def _next_merge(seen: Evidence, limits: Limits, confused: NDArray[np.bool_]) -> tuple[int, int, str] | None:
    """Return the two classes to join: of the pairs that nothing tells apart, the nearest."""
    k = len(seen.names)
    joinable = confused | (np.isinf(seen.log_odds) & (seen.separation < _MIN_SEPARATION))
    if joinable.any():
        pair = np.unravel_index(np.argmin(np.where(joinable, seen.distance, np.inf)), (k, k))
        return (*_larger_first(seen, pair), "confused" if confused[pair] else "alike")
    if k > (limits.fixed or limits.most):
        least = np.where(np.isinf(seen.log_odds), seen.distance, seen.log_odds)
        return (*_larger_first(seen, np.unravel_index(np.argmin(least), (k, k))), "number of classes")
    return None


def _nearest(seen: Evidence, position: int) -> int:
    return int(np.argmin(seen.distance[position]))


def _larger_first(seen: Evidence, pair: tuple[np.intp, ...]) -> tuple[int, int]:
    one, two = (int(p) for p in pair)
    return (one, two) if seen.share[one] >= seen.share[two] else (two, one)


def _record(seen: Evidence, kept: int, gone: int, reason: str) -> Merge:
    odds = float(seen.log_odds[kept, gone])
    return Merge(
        int(seen.names[kept]),
        int(seen.names[gone]),
        reason,
        round(odds, 4) if np.isfinite(odds) else None,
        round(float(seen.distance[kept, gone]), 4),
        int(seen.contact[kept, gone]),
    )


def _seed(points: Float, weight: Float, count: int, rng: np.random.Generator) -> Float:
    """k-means++: each next centre is drawn by weight times squared distance to the nearest so far."""
    chosen = [int(rng.choice(len(points), p=weight / weight.sum()))]
    nearest = squared_distances(points, points[chosen])[:, 0]
    for _ in range(count - 1):
        chance = weight * nearest
        if chance.sum() <= 0:
            break
        chosen.append(int(rng.choice(len(points), p=chance / chance.sum())))
        nearest = np.minimum(nearest, squared_distances(points, points[chosen[-1:]])[:, 0])
    return points[chosen]


def _lloyd(points: Float, weight: Float, centres: Float) -> tuple[Float, float]:
    cost = np.inf
    for _ in range(50):
        distance = squared_distances(points, centres)
        new = np.argmin(distance, axis=1)
        before, cost = cost, float(weight @ distance[np.arange(len(points)), new])
        if cost > (1 - _SETTLED) * before:
            break
        mine = (new[:, None] == np.arange(len(centres))) * weight[:, None]
        total = mine.sum(axis=0)[:, None]
        centres = np.where(total > 0, mine.T @ points / np.where(total > 0, total, 1.0), centres)
    return centres, cost
