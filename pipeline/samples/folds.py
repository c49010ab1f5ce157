"""Training, validation and test in separate places: neighbouring pixels are alike, and must not be on both sides."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from pipeline.blocks import Window
from pipeline.errors import InputError

FOLDS = ("train", "validation", "test")
PLACES = 10
"""So many places, on the longer side, a scene is divided into where the side of a place is not given."""


def divide(shape: tuple[int, int], place_px: int) -> list[Window]:
    """Cut a scene into places of `place_px` a side, those at its edges smaller.

    >>> len(divide((100, 130), 50))
    6
    """
    rows, columns = range(0, shape[0], place_px), range(0, shape[1], place_px)
    return [Window(y, x, min(y + place_px, shape[0]), min(x + place_px, shape[1])) for y in rows for x in columns]


def deal(places: int, shares: Sequence[float], seed: int) -> list[str]:
    """Deal places to the folds, at random but as close to their shares as whole places allow.

    A fold with a share gets at least one place.

    Raises
    ------
    InputError
        There are fewer places than folds.

    Examples
    --------
    >>> dealt = deal(10, (0.7, 0.15, 0.15), seed=0)
    >>> [dealt.count(fold) for fold in FOLDS]
    [7, 2, 1]
    """
    wanted = [fold for fold, share in zip(FOLDS, shares, strict=True) if share > 0]
    if places < len(wanted):
        raise InputError(
            f"--place-px: the scene has {places} places with chips, fewer than {len(wanted)} folds; make them smaller"
        )
    exact = np.array([share for share in shares if share > 0]) * places / sum(shares)
    counts = np.maximum(np.floor(exact).astype(int), 1)
    while counts.sum() < places:
        counts[np.argmax(exact - counts)] += 1
    while counts.sum() > places:
        counts[np.argmax(np.where(counts > 1, counts - exact, -np.inf))] -= 1
    dealt = np.repeat(wanted, counts)
    return [str(fold) for fold in np.random.default_rng((seed, 11)).permutation(dealt)]
