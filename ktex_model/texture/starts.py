"""Several first assignments, and the choice among them without labels."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
from numpy.typing import NDArray

from ktex_model.texture.assignment import Assigned, Cells, remove_trend
from ktex_model.texture.clustering import Ints, kmeans, merge_to, mutual_information, neighbour_counts
from ktex_model.texture.coherence import coherent_components, smoothed
from ktex_model.texture.features import standardise

START_RUNS = 6
"""How often `choose` alternates: once from each start, and once on many classes before they are merged."""

RANK_PX = (16, 32)
"""Distances over which labels should tell about each other."""

TILE_PX = 256
"""Side of the places within which they should: what sets one image or one side of a scene apart is no texture."""

Alternate = Callable[[Ints, int, int], Assigned]
"""Runs the alternation: (labels, number of classes, rounds)."""


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


def propose(
    cells: Cells, bands: int, k: int, rng: np.random.Generator, alternate: Alternate
) -> Iterator[tuple[str, Ints]]:
    """Yield named first assignments of the cells.

    Parameters
    ----------
    cells
        What is clustered.
    bands
        So many of the first features are colours.
    k
        Number of classes.
    rng
        Source of the centres.
    alternate
        Runs (labels, number of classes, rounds); used on many classes before they are merged to k.
    """
    fine = coherent_components(cells, 4.0, 16)
    yield "coherent", kmeans(fine, k, rng)
    yield "smooth", kmeans(coherent_components(cells, 8.0, 8), k, rng)
    yield "colour", kmeans(standardise(smoothed(cells, cells.features[:, :bands], 4.0)), k, rng)
    many = min(3 * k, k + 64)
    labels = alternate(kmeans(fine, many, rng), many, 3).labels
    yield "merged", merge_to(count_neighbours(cells, labels, many), k)[labels]


def choose(
    cells: Cells, bands: int, k: int, rng: np.random.Generator, alternate: Alternate, rounds: int
) -> tuple[Assigned, dict[str, object]]:
    """Alternate from every start, look once more without the trends that the best shows, and keep what tells most."""
    results: dict[str, tuple[float, Assigned]] = {}

    def keep(name: str, labels: Ints) -> None:
        result = alternate(labels, k, rounds)
        results[name] = (label_information(cells, result.labels, k), result)

    for name, labels in propose(cells, bands, k, rng, alternate):
        keep(name, labels)
    flat = remove_trend(cells, results[_best(results)][1].labels, k)
    keep("level", kmeans(coherent_components(flat, 4.0, 16), k, rng))
    best = _best(results)
    report: dict[str, object] = {
        "chosen": best,
        "information": {name: round(information, 6) for name, (information, _) in results.items()},
        "changes": list(results[best][1].changes),
        "steps": sum(len(result.changes) for _, result in results.values()),
    }
    return results[best][1], report


def _best(results: dict[str, tuple[float, Assigned]]) -> str:
    return max(results, key=lambda name: results[name][0])
