"""Two first assignments, from colours and from textures, and the choice between them without labels."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Sequence
from itertools import product

import numpy as np
from numpy.typing import NDArray

from ktex_model.texture.assignment import Assigned, Cells
from ktex_model.texture.clustering import Ints, kmeans, mutual_information, neighbour_counts
from ktex_model.texture.coherence import coherent_components, smoothed
from ktex_model.texture.filters import Floats

COLOURS, TEXTURES = "colours", "textures"
START_RUNS = 2
"""How often `choose` alternates: once from each start."""

COLOURS_PX, TEXTURES_PX = 4.0, 4.0
"""Stds of the smoothing before colours and coherent components are clustered."""

RANK_PX = (16, 32)
"""Distances over which labels should tell about each other."""

TILE_PX = 256
"""Side of the places within which they should: what sets one image or one side of a scene apart is no texture."""

Alternate = Callable[[Ints, int, int], Assigned]
"""Runs the alternation: (labels, number of classes, rounds)."""

Improve = Callable[[Assigned, np.random.Generator], tuple[Assigned, list[float]]]
"""Exchanges classes of an assignment; returns the gains of each, too."""


def label_information(cells: Cells, labels: Ints, k: int) -> float:
    """Return how much a label tells about those 16 and 32 px away in the same place, in nats.

    High where classes form regions. The mean over tiles of `TILE_PX`, each with its own shares of classes.
    """
    joints = [neighbour_counts([tile], k, _steps(cells)) for tile in _tiles(cells, labels)]
    if not any(joint.any() for joint in joints):
        return mutual_information(count_neighbours(cells, labels, k))
    return _mean_information(joints)


def information_without(cells: Cells, labels: Ints, k: int) -> NDArray[np.float64]:
    """Return what labels tell, see `label_information`, with the cells of each quarter of each tile left out in turn.

    Quarters without cells are passed over.
    """
    tiles, steps = _tiles(cells, labels), _steps(cells)
    joints, found = [neighbour_counts([tile], k, steps) for tile in tiles], list[float]()
    for i, tile in enumerate(tiles):
        middle = [size // 2 for size in tile.shape]
        for rows, columns in product(*((slice(half), slice(half, None)) for half in middle)):
            if (tile[rows, columns] >= 0).any():
                rest = tile.copy()
                rest[rows, columns] = -1
                found.append(_mean_information([*joints[:i], neighbour_counts([rest], k, steps), *joints[i + 1 :]]))
    return np.array(found)


def jackknife_error(without: NDArray[np.float64]) -> float:
    """Return the standard error of an estimate from those that leave out one part each; inf for under two parts.

    Tukey 1958. Of a mean of as many values as parts it is the standard error of the mean.

    Examples
    --------
    >>> values = np.array([1.0, 2.0, 3.0, 6.0])
    >>> left = (values.sum() - values) / 3
    >>> bool(np.isclose(jackknife_error(left), values.std(ddof=1) / 2))
    True
    """
    n = len(without)
    return float(np.sqrt((n - 1) * without.var())) if n > 1 else np.inf


def _tiles(cells: Cells, labels: Ints) -> list[Ints]:
    side = max(1, TILE_PX // cells.stride)
    return [
        laid[y : y + side, x : x + side]
        for laid in cells.maps(labels)
        for y in range(0, laid.shape[0], side)
        for x in range(0, laid.shape[1], side)
    ]


def _mean_information(joints: Sequence[NDArray[np.float64]]) -> float:
    total = sum(float(joint.sum()) for joint in joints)
    return sum(float(joint.sum()) * mutual_information(joint) for joint in joints) / max(total, 1.0)


def count_neighbours(cells: Cells, labels: Ints, k: int) -> NDArray[np.float64]:
    """Count which classes lie 16 and 32 px from each other, ``(k, k)``; side by side where no window is so large."""
    joint = neighbour_counts(cells.maps(labels), k, _steps(cells))
    return joint if joint.any() else neighbour_counts(cells.maps(labels), k, [1])


def _steps(cells: Cells) -> list[int]:
    return sorted({max(1, px // cells.stride) for px in RANK_PX})


def propose(cells: Cells, spread: Floats, k: int, rng: np.random.Generator) -> Iterator[tuple[str, Ints]]:
    """Yield named first assignments of the cells: from colours, and from all that is coherent.

    Parameters
    ----------
    cells
        What is clustered.
    spread
        ``(principal,)`` stds of the principal bands, which are the first features. Colours are clustered with the
        spread that they have in the image: of equal spread, the bands of least variance, which are mostly noise, would
        count as much as brightness.
    k
        Number of classes.
    rng
        Source of the centres.
    """
    colours = cells.features[:, : len(spread)] * (spread / spread.max())
    yield COLOURS, kmeans(smoothed(cells, colours, COLOURS_PX), k, rng)
    yield TEXTURES, kmeans(coherent_components(cells, TEXTURES_PX, RANK_PX[0]), k, rng)


def choose(
    cells: Cells,
    spread: Floats,
    k: int,
    rng: np.random.Generator,
    alternate: Alternate,
    rounds: int,
    exchange: Improve,
) -> tuple[Assigned, dict[str, object]]:
    """Alternate and exchange from both starts; keep what colours lead to, unless the other labels tell clearly more.

    Clearly is by more than the standard error of the difference, which the scene itself gives: the jackknife over
    quarters of tiles. Less is chance of what happens to lie in the scene, and any texture forms larger regions than
    single colours do: where it says no more, colours are what people see.

    Parameters
    ----------
    cells, spread, k, rng
        As of `propose`.
    alternate, rounds
        Runs (labels, number of classes, rounds); most rounds.
    exchange
        Improves what a start leads to; the same draws are made from either.

    Returns
    -------
    The assignment, and for the record: which start it is from, what the labels of each tell, and by how much more
    those of the other had to.
    """
    settled = {name: alternate(labels, k, rounds) for name, labels in propose(cells, spread, k, rng)}
    exchanged = {name: exchange(result, copy.deepcopy(rng)) for name, result in settled.items()}
    results = {name: result for name, (result, _) in exchanged.items()}
    tells = {name: label_information(cells, result.labels, k) for name, result in results.items()}
    best, *others = results
    margin = 0.0
    for other in others:
        one, two = (information_without(cells, results[name].labels, k) for name in (best, other))
        margin = jackknife_error(two - one)
        best = other if tells[other] - tells[best] > margin else best
    report: dict[str, object] = {
        "chosen": best,
        "information": {name: round(information, 6) for name, information in tells.items()},
        "margin": round(margin, 6) if np.isfinite(margin) else None,
        "changes": list(settled[best].changes),
        "steps": sum(len(result.changes) for result in settled.values()),
        "exchanges": exchanged[best][1],
    }
    return results[best], report
