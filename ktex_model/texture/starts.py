"""Several first assignments, and the choice among them without labels."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np

from ktex_model.texture.assignment import Assigned, Cells
from ktex_model.texture.clustering import Ints, kmeans, merge_to, mutual_information, neighbour_counts, whiten
from ktex_model.texture.features import standardise
from ktex_model.texture.filters import Floats, blur

START_RUNS = 6
"""How often `choose` alternates: once from each start, and once on many classes before they are merged."""

RANK_PX = (16, 32)
"""Distances over which labels should tell about each other."""


Alternate = Callable[[Ints, int, int], Assigned]
"""Runs the alternation: (labels, number of classes, rounds)."""


@dataclass(frozen=True)
class Context:
    """What the starts are clustered from: mean colours and log energies of the cells, ``(n, ...)`` each."""

    cells: Cells
    colour: Floats
    energy: Floats

    def joint(self) -> Floats:
        """Return colours and energies together, ``(n, 10)`` or fewer columns, decorrelated and of unit variance."""
        return whiten(standardise(np.concatenate([self.colour, self.energy], 1)), 10)


def label_information(cells: Cells, labels: Ints, k: int) -> float:
    """Return how much a label tells about those 16 and 32 px away, in nats: high where classes form regions."""
    return mutual_information(count_neighbours(cells, labels, k))


def count_neighbours(cells: Cells, labels: Ints, k: int) -> np.ndarray:
    """Count which classes lie 16 and 32 px from each other, ``(k, k)``; side by side where no window is so large."""
    distances = sorted({max(1, px // cells.stride) for px in RANK_PX})
    joint = neighbour_counts(cells.maps(labels), k, distances)
    return joint if joint.any() else neighbour_counts(cells.maps(labels), k, [1])


def _blurred(cells: Cells, values: Floats, sigma_px: float) -> Floats:
    out = []
    for mask, part in cells.parts():
        laid = np.zeros((*mask.shape, values.shape[1]), np.float32)
        laid[mask] = values[part]
        out.append(blur(laid, mask, [sigma_px / cells.stride])[0][mask])
    return np.concatenate(out)


def _balanced(context: Context) -> Floats:
    blocks = [standardise(block) for block in (context.colour, context.energy)]
    return np.concatenate([block / np.float32(np.sqrt(block.shape[1])) for block in blocks], 1)


def propose(context: Context, k: int, rng: np.random.Generator, alternate: Alternate) -> Iterator[tuple[str, Ints]]:
    """Yield named first assignments of the cells.

    Parameters
    ----------
    context
        Cells and what they are clustered from.
    k
        Number of classes.
    rng
        Source of the centres.
    alternate
        Runs (labels, number of classes, rounds); used on many classes before they are merged to k.
    """
    both = context.joint()
    yield "texture", kmeans(both, k, rng)
    yield "smooth texture", kmeans(_blurred(context.cells, both, 6.0), k, rng)
    yield "colour", kmeans(standardise(context.colour), k, rng)
    yield "balanced", kmeans(_balanced(context), k, rng)
    many = min(3 * k, k + 64)
    labels = alternate(kmeans(both, many, rng), many, 3).labels
    yield "merged", merge_to(count_neighbours(context.cells, labels, many), k)[labels]


def choose(
    context: Context, k: int, rng: np.random.Generator, alternate: Alternate, rounds: int
) -> tuple[Assigned, dict[str, object]]:
    """Alternate from every start and keep the result whose labels tell most about their neighbours."""
    results: dict[str, tuple[float, Assigned]] = {}
    for name, labels in propose(context, k, rng, alternate):
        result = alternate(labels, k, rounds)
        results[name] = (label_information(context.cells, result.labels, k), result)
    best = max(results, key=lambda name: results[name][0])
    report: dict[str, object] = {
        "chosen": best,
        "information": {name: round(information, 6) for name, (information, _) in results.items()},
        "changes": list(results[best][1].changes),
        "steps": sum(len(result.changes) for _, result in results.values()),
    }
    return results[best][1], report
