"""Two first assignments, from colours and from textures, and the choice between them without labels."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator

import numpy as np
from numpy.typing import NDArray

from ktex_model.texture.assignment import Assigned, Cells
from ktex_model.texture.clustering import Ints, kmeans, mutual_information, neighbour_counts
from ktex_model.texture.coherence import coherent_components, smoothed
from ktex_model.texture.filters import Floats

COLOURS, TEXTURES = "colours", "textures"
START_RUNS = 2
"""How often `choose` alternates: once from each start."""

PREFERENCE = 1.05
"""By so much labels must tell more than those that colours lead to. Less is noise, as it is between exchanges, and any
texture forms larger regions than single colours do: where it says no more, colours are what people see."""

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
    side, maps = max(1, TILE_PX // cells.stride), cells.maps(labels)
    tiles = [
        laid[y : y + side, x : x + side]
        for laid in maps
        for y in range(0, laid.shape[0], side)
        for x in range(0, laid.shape[1], side)
    ]
    joints = [neighbour_counts([tile], k, _steps(cells)) for tile in tiles]
    total = sum(float(joint.sum()) for joint in joints)
    if total == 0:
        return mutual_information(count_neighbours(cells, labels, k))
    return sum(float(joint.sum()) * mutual_information(joint) for joint in joints) / total


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
    The assignment, and for the record: which start it is from, and what the labels of each tell.
    """
    settled = {name: alternate(labels, k, rounds) for name, labels in propose(cells, spread, k, rng)}
    exchanged = {name: exchange(result, copy.deepcopy(rng)) for name, result in settled.items()}
    results = {name: result for name, (result, _) in exchanged.items()}
    tells = {name: label_information(cells, result.labels, k) for name, result in results.items()}
    best = max(results, key=lambda name: tells[name] * (PREFERENCE if name == COLOURS else 1))
    report: dict[str, object] = {
        "chosen": best,
        "information": {name: round(information, 6) for name, information in tells.items()},
        "changes": list(settled[best].changes),
        "steps": sum(len(result.changes) for result in settled.values()),
        "exchanges": exchanged[best][1],
    }
    return results[best], report
