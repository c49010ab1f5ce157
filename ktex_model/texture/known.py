"""A start from what is known of the ground: classes of an earlier date, as they look now.

Light, haze, season and water change how all classes look, while most of the ground stays what it was. So each class is
fitted to the cells that an earlier map gives to it, changed ones among them. What a free start would part into two, or
join, is parted as it was: only then can it be the same class. Few rounds follow, because alternating leads away from
the known classes (docs/method.md).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from ktex_model.texture.assignment import Cells, Sight, assign, fit_moments
from ktex_model.texture.clustering import Ints, mutual_information
from ktex_model.texture.exchange import GAIN, MIN_CELLS, halve
from ktex_model.texture.starts import count_neighbours, label_information

LEAST_CELLS = 50
"""Cells that must be known of a class; of fewer no covariance can be told."""

COVER_PX, LEAST_COVER = 128, 0.5
"""In this share of tiles of that side something must be known: a corner of a scene does not tell all its classes."""

REFINE_ROUNDS = 1
"""Rounds of assignment and refit when borders are drawn."""

Known = NDArray[np.int16]


def known_cells(known: Sequence[Known | None], cells: Cells) -> Ints | None:
    """Return what is known of each cell; None where that is too little to start from.

    Parameters
    ----------
    known
        For each window ``(y, x)`` the class of each pixel that is known, else -1; None where nothing is.
    cells
        Of the same windows.

    Returns
    -------
    ``(n,)`` class of each cell, -1 where none of its pixels is known. Classes of under `LEAST_CELLS` are left out; at
    least two must stay, and they must be known all over the windows.
    """
    parts, tiles = [], []
    for (mask, _), laid in zip(cells.parts(), known, strict=True):
        found = _pool_max(laid, cells.stride) if laid is not None else np.full(mask.shape, -1)
        parts.append(found[mask])
        tiles += _tiles(mask, found >= 0, max(1, COVER_PX // cells.stride))
    before = np.concatenate(parts).astype(np.int64)
    count = np.bincount(before[before >= 0])
    rare = np.flatnonzero(count < LEAST_CELLS)
    before[np.isin(before, rare)] = -1
    if (count >= LEAST_CELLS).sum() < 2 or np.mean(tiles) < LEAST_COVER:
        return None
    return before


def _pool_max(values: Known, stride: int) -> Ints:
    pad = [(0, -size % stride) for size in values.shape]
    padded = np.pad(values.astype(np.int64), pad, constant_values=-1)
    rows, columns = (size // stride for size in padded.shape)
    return np.asarray(padded.reshape(rows, stride, columns, stride).max(axis=(1, 3)))


def _tiles(mask: NDArray[np.bool_], known: NDArray[np.bool_], side: int) -> list[bool]:
    """Return of each tile with valid cells whether anything is known there."""
    corners = [(y, x) for y in range(0, mask.shape[0], side) for x in range(0, mask.shape[1], side)]
    held = [(mask[y : y + side, x : x + side], known[y : y + side, x : x + side]) for y, x in corners]
    return [bool((there & seen).any()) for there, seen in held if there.any()]


def start_from(cells: Cells, before: Ints, k: int, sight: Sight, rng: np.random.Generator) -> tuple[Ints, list[float]]:
    """Assign all cells to the classes that some are known by, and give numbers that are free to what is new.

    Parameters
    ----------
    cells, before
        What is assigned, and what is known of it, as of `known_cells`.
    k
        Number of classes.
    sight
        How cells are assigned.
    rng
        Of the halves that are looked at.

    Returns
    -------
    labels, gains
        ``(n,)`` classes; and by how many nats each new class raised what labels tell about their neighbours. A class
        is parted only if that is clearly more, and only while there are numbers that no known class has.
    """
    told = before >= 0
    labels = assign(cells, fit_moments(cells.features[told], before[told], k), sight)
    free, gains = np.setdiff1d(np.arange(k), before[told]), list[float]()
    information = label_information(cells, labels, k)
    for number in free:
        best = max(_parted(cells, labels, k, int(number), rng), key=lambda each: each[0], default=None)
        if best is None:
            break
        raised = label_information(cells, best[1], k)
        if raised < GAIN * information:
            break
        gains.append(round(raised - information, 6))
        labels, information = best[1], raised
    return labels, gains


def _parted(cells: Cells, labels: Ints, k: int, number: int, rng: np.random.Generator) -> list[tuple[float, Ints]]:
    """Return labels with a new class in each class that is large enough, and what they tell about neighbours."""
    found = []
    for c in np.flatnonzero(np.bincount(labels, minlength=k) >= 2 * MIN_CELLS):
        parted = labels.copy()
        parted[halve(cells, labels == c, rng)] = number
        found.append((mutual_information(count_neighbours(cells, parted, k)), parted))
    return found


def kept_share(before: Ints, labels: Ints) -> float:
    """Return the share of known cells that have the class that they are known by."""
    told = before >= 0
    return float((labels[told] == before[told]).mean())
