"""Where a device runs out of memory, work is done in parts, and comes out the same."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

import ktex_model
from ktex_model.model import Prediction
from ktex_model.texture import TextureConfig
from pipeline.gpu import predict_in_memory, train_in_memory

FULL = "RESOURCE_EXHAUSTED: Out of memory while trying to allocate 4294967296 bytes"


class Device:
    """Labels a window by the place of each pixel; has memory for windows of so many pixels."""

    def __init__(self, room: int, error: Exception | None = None) -> None:
        self.room, self.windows = room, list[tuple[int, int]]()
        self.error = error or RuntimeError(FULL)

    def predict(self, image: Any, valid: Any, inner: tuple[slice, slice]) -> Prediction:
        rows, columns = np.mgrid[inner]
        if rows.size > self.room:
            raise self.error
        self.windows.append(rows.shape)
        labels = ((rows * 31 + columns * 7) % 251).astype(np.uint8)
        return Prediction(labels, (labels // 2).astype(np.uint8))


def label(device: Device, inner: tuple[slice, slice] = (slice(16, 1100), slice(0, 700))) -> Prediction:
    shape = 1200, 800
    return predict_in_memory(device, np.zeros((*shape, 1), np.float32), np.ones(shape, bool), inner)  # type: ignore[arg-type]


def test_a_window_in_parts_is_the_window() -> None:
    whole, small = label(Device(10**9)), Device(256 * 512)
    parts = label(small)
    assert len(small.windows) >= 6
    np.testing.assert_array_equal(parts.labels, whole.labels)
    np.testing.assert_array_equal(parts.margin, whole.margin)


def test_what_cannot_be_cut_further_fails_as_it_did() -> None:
    with pytest.raises(RuntimeError, match="Out of memory"):
        label(Device(100))


def test_another_error_is_not_tried_again() -> None:
    device = Device(100, ValueError("wrong bands"))
    with pytest.raises(ValueError, match="wrong bands"):
        label(device)
    assert device.windows == []


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
