"""A model that needs no training: it tells grey levels apart. For tests of the path, where the model is not the point.

Each block's ids are permuted by the block's seed, as those of independent trainings are.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

import ktex_model
from ktex_model.model import History, Prediction, Sample, Trained, Windows
from pipeline.models import load_model

SHUFFLE = {"salt": 0}
"""Changed by tests that want other permutations from the same seeds."""


class GreyModel:
    """Class i is the i-th of k equal steps of grey, under a permutation; context 0."""

    preset = "texture"
    context_px = 0

    def __init__(self, k: int, bands: int, seed: int) -> None:
        self.k, self.bands, self.seed = k, bands, seed
        self.config = SimpleNamespace(k=k, bands=bands)

    def predict(
        self,
        image: NDArray[np.float32],
        valid: NDArray[np.bool_],
        inner: tuple[slice, slice] | None = None,
        windows: Windows | None = None,
    ) -> Prediction:
        """Label the window `inner`."""
        window = inner or (slice(None), slice(None))
        order = np.random.default_rng((self.seed, SHUFFLE["salt"])).permutation(self.k).astype(np.uint8)
        steps = np.clip((image[window][..., 0] * self.k).astype(int), 0, self.k - 1)
        seen = valid[window]
        return Prediction(np.where(seen, order[steps], 255).astype(np.uint8), np.where(seen, 180, 255).astype(np.uint8))

    def textures(self, shape: tuple[int, int], seed: int = 0) -> NDArray[np.float32]:
        """Give each class its grey level, flat."""
        order = np.random.default_rng((self.seed, SHUFFLE["salt"])).permutation(self.k)
        levels = np.empty(self.k, np.float32)
        levels[order] = (np.arange(self.k) + 0.5) / self.k
        return np.broadcast_to(levels[:, None, None, None], (self.k, *shape, self.bands)).copy()

    def simulate(
        self, labels: NDArray[np.uint8], seed: int = 0, origin: tuple[int, int] = (0, 0)
    ) -> NDArray[np.float32]:
        """Show each class its grey level, with a weave by which a place is known."""
        levels = np.append(self.textures((1, 1))[:, 0, 0], np.zeros((1, self.bands), np.float32), axis=0)
        rows, columns = (np.arange(size) + start for size, start in zip(labels.shape, origin, strict=True))
        weave = ((3 * rows[:, None] + columns) % 7 + seed) / 100
        image = levels[np.minimum(labels, self.k)] + weave[..., None]
        return np.where(labels[..., None] < self.k, image, 0).astype(np.float32)


def install(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Put the grey model in the place of `ktex_model`'s; returns the list that its trainings are logged in."""
    trainings: list[str] = []

    def train(samples: Sequence[Sample], config: Any, seed: int = 0, progress: Any = None) -> Trained:
        trainings.append(str(seed))
        assert any(sample.valid.any() for sample in samples)
        return Trained(GreyModel(config.k, config.bands, seed), History("texture", "nothing to learn", 0.0, 0.0))

    def save(model: Any, directory: Path) -> str:
        directory.mkdir(parents=True, exist_ok=True)
        text = json.dumps([model.k, model.bands, model.seed])
        (directory / "grey.json").write_text(text)
        return text

    def load(directory: Path, digest: str | None = None) -> GreyModel:
        text = (Path(directory) / "grey.json").read_text()
        assert digest in (None, text)
        return GreyModel(*json.loads(text))

    monkeypatch.setattr(ktex_model, "train", train)
    monkeypatch.setattr(ktex_model, "save", save)
    monkeypatch.setattr(ktex_model, "load", load)
    monkeypatch.setattr(ktex_model, "load_config", load)  # it has k, context and preset as well
    load_model.cache_clear()
    return trainings
