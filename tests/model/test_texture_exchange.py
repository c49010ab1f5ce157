"""Laws of exchange: classes that share a texture become one, a class of two is split, and all else stays."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray
from sklearn.metrics import adjusted_rand_score

from ktex_model.texture.assignment import Assigned, Cells
from ktex_model.texture.clustering import Ints
from ktex_model.texture.exchange import exchange_classes

HIGH, WIDE = 64, 40
TRUTH = np.repeat(np.arange(3), WIDE)[None].repeat(HIGH, 0)
"""Three fields side by side, two in each place within which labels should tell about each other; no trend is taken
off a window so low."""


def cells_of(apart: float) -> Cells:
    """Cells whose first feature sets the fields apart, by so many stds of the noise in all four."""
    features = np.random.default_rng(0).standard_normal((TRUTH.size, 4))
    features[:, 0] += apart * TRUTH.ravel()
    return Cells(features.astype(np.float32), (np.ones(TRUTH.shape, bool),), 4)


def kept(labels: Ints, _k: int, _rounds: int) -> Assigned:
    """The alternation left out: labels stay as proposed."""
    return Assigned(labels)


def exchanged(cells: Cells, labels: NDArray[np.int64]) -> tuple[Assigned, list[float]]:
    return exchange_classes(cells, Assigned(labels.ravel()), 3, np.random.default_rng(0), kept)


def test_two_classes_of_one_texture_become_one_and_a_class_of_two_is_split() -> None:
    coin = np.random.default_rng(1).integers(0, 2, TRUTH.shape)
    wrong = np.where(TRUTH == 0, coin, 2)  # the first field shared by two classes, the others in one
    found, gains = exchanged(cells_of(4.0), wrong)
    assert adjusted_rand_score(TRUTH.ravel(), wrong.ravel()) < 0.6
    assert adjusted_rand_score(TRUTH.ravel(), found.labels) > 0.95
    assert gains
    assert min(gains) > 0


def test_what_is_right_stays() -> None:
    found, gains = exchanged(cells_of(4.0), TRUTH)
    assert gains == []
    assert (found.labels == TRUTH.ravel()).all()


@pytest.mark.parametrize("apart", [0.0, 4.0])
def test_labels_that_tell_nothing_are_exchanged_like_others(apart: float) -> None:
    found, gains = exchanged(cells_of(apart), np.zeros_like(TRUTH))
    assert all(np.isfinite(gains))
    if apart:
        assert adjusted_rand_score(TRUTH.ravel(), found.labels) > 0.5
