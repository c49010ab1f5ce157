"""Laws of the loop: textures that explain their classes keep them, and such as explain nothing do not undo them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from ktex_model.model import Sample
from ktex_model.texture import explanation
from ktex_model.texture.bank import fit_bank
from ktex_model.texture.config import TextureConfig
from ktex_model.texture.features import decompose, fit_rotation
from ktex_model.texture.generators import Generators, fit_generators

SIDE = 160


def agreement() -> tuple[float, tuple[float, ...]]:
    """Share of the pixels that keep their true class in the loop, and what the loop says of itself."""
    rng = np.random.default_rng(0)
    y, x = np.mgrid[:SIDE, :SIDE]
    truth = (x + 10 * np.sin(y / 20) > SIDE / 2).astype(np.int64)
    waves = np.stack([np.sin(2 * np.pi * x / 4), np.sin(2 * np.pi * y / 7)])
    grey = 0.4 + 0.08 * np.take_along_axis(waves, truth[None], 0)[0]
    image = (np.stack([grey, 0.9 * grey], -1) + 0.01 * rng.standard_normal((SIDE, SIDE, 2))).astype(np.float32)
    sample = Sample(image, np.ones((SIDE, SIDE), bool))
    rotation = fit_rotation([sample])
    bank = fit_bank([decompose(rotation.forward(sample.image), sample.valid)])
    cells = bank.cells(2)
    config = TextureConfig(2, 2, texture_radius_px=8, texture_rounds=1)
    found = explanation.explain(bank, cells, truth[1::2, 1::2].ravel(), rotation, config, 0)
    return float((found.maps[0] == truth).mean()), found.agreement


def test_textures_that_explain_their_classes_keep_them() -> None:
    kept, told = agreement()
    assert kept > 0.95
    assert len(told) == 2
    assert min(told) > 0.95


def test_textures_that_explain_nothing_do_not_undo_the_classes(monkeypatch: pytest.MonkeyPatch) -> None:
    def blind(windows: Any, maps: Sequence[NDArray[np.int64]], k: int, **settings: Any) -> Generators:
        rng = np.random.default_rng(0)
        return fit_generators(windows, [rng.integers(0, k, laid.shape) for laid in maps], k, **settings)

    monkeypatch.setattr(explanation, "fit_generators", blind)
    kept, told = agreement()
    assert kept > 0.9
    assert told[-1] < 0.9, "by themselves such textures do not tell the classes"


def test_the_original_itself_would_be_without_loss_and_a_grey_image_is_not() -> None:
    rng = np.random.default_rng(0)
    image = (0.4 + 0.1 * rng.standard_normal((64, 64, 2))).astype(np.float32)
    rotation = fit_rotation([sample := Sample(image, np.ones((64, 64), bool))])
    bank = fit_bank([decompose(rotation.forward(sample.image), sample.valid)])
    assert explanation.simulation_loss(bank, bank.features) == 0
    assert explanation.simulation_loss(bank, [np.zeros_like(bank.features[0])]) > 0.5
