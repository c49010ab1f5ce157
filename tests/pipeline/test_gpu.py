"""Where a device runs out of memory, training is tried with smaller batches."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

import ktex_model
from ktex_model.texture import TextureConfig
from pipeline.gpu import train_in_memory

FULL = "RESOURCE_EXHAUSTED: Out of memory while trying to allocate 4294967296 bytes"


@pytest.mark.parametrize(("room", "trained_with"), [(8, 4), (2, 2), (1, 1)])
def test_training_is_tried_with_half_the_batch_and_says_so(
    monkeypatch: pytest.MonkeyPatch, room: int, trained_with: int
) -> None:
    def train(samples: Any, config: TextureConfig, seed: int) -> Any:
        if config.batch > room:
            raise RuntimeError(FULL)
        return SimpleNamespace(config=config)

    monkeypatch.setattr(ktex_model, "train", train)
    found: Any = train_in_memory([], TextureConfig(k=3, bands=4, batch=4), 0)
    assert found.config.batch == trained_with


def test_training_that_never_fits_fails_as_it_did(monkeypatch: pytest.MonkeyPatch) -> None:
    tried = []

    def train(samples: Any, config: TextureConfig, seed: int) -> Any:
        tried.append(config.batch)
        raise RuntimeError(FULL)

    monkeypatch.setattr(ktex_model, "train", train)
    with pytest.raises(RuntimeError, match="Out of memory"):
        train_in_memory([], TextureConfig(k=3, bands=4, batch=4), 0)
    assert tried == [4, 2, 1]
