"""Exchange: where two classes share one texture and another holds two, merge the former and split the latter."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from ktex_model.texture.assignment import Assigned, Cells, mean_log_likelihood, remove_trend, shrink
from ktex_model.texture.clustering import Ints, kmeans, merge_losses, mutual_information
from ktex_model.texture.coherence import coherent_components
from ktex_model.texture.starts import Alternate, count_neighbours, label_information

GAIN = 1.05
"""Labels must tell so much more about their neighbours: less is noise."""

WORST_FIT = -0.1
"""How much worse, in nats a cell, the classes may then explain their cells: cuts along illumination lose far more."""

ROUNDS, TRIES, WAYS = 6, 8, 4
TRIAL_ROUNDS = 6
MIN_CELLS = 200

SPLIT_PX, SPLIT_FROM_PX, SPLIT_COMPONENTS = 6.0, 16, 3
"""A class is split by what stays the same over 16 px, smoothed by 6 px, in three components."""

STRAY = 4.0
"""Beyond so many stds a cell counts as one of so many."""


class Exchange(NamedTuple):
    """Class `gone` joins `kept`, and its number goes to some cells of another class; what that promises, in nats."""

    promise: float
    kept: int
    gone: int
    cells: NDArray[np.intp]


def exchange_classes(
    cells: Cells, start: Assigned, k: int, rng: np.random.Generator, alternate: Alternate
) -> tuple[Assigned, list[float]]:
    """Exchange classes as long as the labels then tell clearly more about their neighbours and fit hardly worse.

    Returns
    -------
    The assignment, and by how many nats each exchange that was kept raised the information.
    """
    state, gains = start, list[float]()
    for _ in range(ROUNDS):
        information = label_information(cells, state.labels, k)
        best, most = None, 0.0
        for trial in propose_exchanges(cells, state.labels, k, information, rng):
            labels = np.where(state.labels == trial.gone, trial.kept, state.labels)
            labels[trial.cells] = trial.gone
            result = alternate(labels, k, TRIAL_ROUNDS)
            found = label_information(cells, result.labels, k)
            if found > most:
                best, most = result, found
        if best is None or most < GAIN * information:
            break
        fit = [mean_log_likelihood(cells, labels, k) for labels in (state.labels, best.labels)]
        if fit[1] - fit[0] < WORST_FIT:
            break
        state = best
        gains.append(round(most - information, 6))
    return state, gains


def propose_exchanges(
    cells: Cells, labels: Ints, k: int, information: float, rng: np.random.Generator
) -> list[Exchange]:
    """Return the most promising exchanges: the cheapest merges with the splits that gain most, best first."""
    losses = np.triu(merge_losses(count_neighbours(cells, labels, k)), 1)
    order = np.argsort(np.where(np.triu(np.ones((k, k)), 1) > 0, losses, np.inf), axis=None)
    merges = [tuple(int(i) for i in np.unravel_index(place, (k, k))) for place in order[:WAYS]]
    flat, splits = remove_trend(cells, labels, k), list[tuple[float, int, NDArray[np.intp]]]()
    for c in range(k):
        if (labels == c).sum() < MIN_CELLS:
            continue
        half = halve(flat, labels == c, rng)
        parted = labels.copy()
        parted[half] = k
        gain = mutual_information(count_neighbours(cells, parted, k + 1)) - information
        splits.append((gain, c, half))
    splits = sorted(splits, key=lambda split: -split[0])[:WAYS]
    found = [
        Exchange(gain - float(losses[kept, gone]), kept, gone, half)
        for gain, c, half in splits
        for kept, gone in merges
        if kept < gone and c not in (kept, gone)
    ]
    return sorted(found, key=lambda exchange: -exchange.promise)[:TRIES]


def halve(cells: Cells, member: NDArray[np.bool_], rng: np.random.Generator) -> NDArray[np.intp]:
    """Return those cells of a class that are the other half of it, by what is most coherent within the class alone.

    Its own scatter is the unit, so that what tells classes apart, but not these two halves, has no say; and how far
    features stray counts beside what they are, as textures of one spectrum may differ in form alone.
    """
    own = cells.features[member].astype(np.float64)
    own = own - own.mean(0)
    factor = np.linalg.cholesky(shrink(own.T @ own / len(own), len(own)))
    unit = np.clip(own @ np.linalg.inv(factor).T, -STRAY, STRAY).astype(np.float32)
    masks = []
    for mask, part in cells.parts():
        laid = mask.copy()
        laid[mask] = member[part]
        masks.append(laid)
    within = Cells(np.concatenate([unit, np.abs(unit)], 1), tuple(masks), cells.stride)
    values = coherent_components(within, SPLIT_PX, SPLIT_FROM_PX)[:, :SPLIT_COMPONENTS]
    other = kmeans(values, 2, rng, tries=2, rounds=15) == 1
    return np.asarray(np.flatnonzero(member)[other], np.intp)
