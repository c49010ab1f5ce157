"""The health check tells a machine that can work from one that cannot, and never takes a CPU for a GPU."""

from __future__ import annotations

import json
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

import ktex_model
from pipeline import health
from pipeline.errors import InputError
from pipeline.health import Health, check_health


@pytest.mark.slow
def test_the_real_model_works_here_and_a_missing_gpu_is_no_silent_fall_back() -> None:
    found = check_health()
    assert found.backend in {"tensorflow", "jax"}
    assert "cpu" in found.device.lower() or found.gpus
    assert json.loads(json.dumps(found.to_json()))["gpus"] == list(found.gpus)
    if not found.gpus:
        with pytest.raises(InputError, match="a GPU is required"):
            check_health(gpu=True)


def devices(device: str, *gpus: str) -> Any:
    return lambda: ("tensorflow", device, gpus)


def halves(model: Any) -> SimpleNamespace:
    return SimpleNamespace(model=model)


class Model:
    """Labels as a healthy model would, but for `broken` pixels."""

    def __init__(self, broken: int | None = None) -> None:
        self.broken = broken

    def predict(self, image: np.ndarray, valid: np.ndarray) -> SimpleNamespace:
        labels = np.where(valid, image[..., 0] > 0.5, 255).astype(np.uint8)
        if self.broken is not None:
            labels[-1, -1] = self.broken
        return SimpleNamespace(labels=labels)


@pytest.fixture
def model(monkeypatch: pytest.MonkeyPatch) -> Model:
    model = Model()
    monkeypatch.setattr(ktex_model, "train", lambda samples, config: halves(model))
    return model


def test_a_gpu_that_is_there_but_not_computed_on_is_refused(monkeypatch: pytest.MonkeyPatch, model: Model) -> None:
    monkeypatch.setattr(health, "find_devices", devices("/device:CPU:0", "gpu:0"))
    with pytest.raises(InputError, match="computes on /device:CPU:0"):
        check_health(gpu=True)
    monkeypatch.setattr(health, "find_devices", devices("/device:GPU:0", "gpu:0"))
    assert check_health(gpu=True) == Health("tensorflow", "/device:GPU:0", ("gpu:0",), pytest.approx(0, abs=5))


@pytest.mark.parametrize("broken", [2, 255])
def test_labels_that_cannot_be_are_found(monkeypatch: pytest.MonkeyPatch, model: Model, broken: int) -> None:
    monkeypatch.setattr(health, "find_devices", devices("cpu:0"))
    model.broken = broken
    with pytest.raises(RuntimeError, match=rf"gave classes .*{broken}"):
        check_health()


def test_a_disk_that_loses_labels_is_found(monkeypatch: pytest.MonkeyPatch, model: Model) -> None:
    monkeypatch.setattr(health, "find_devices", devices("cpu:0"))
    monkeypatch.setattr(np, "array_equal", lambda a, b: False)
    with pytest.raises(RuntimeError, match="do not survive a GeoTIFF"):
        check_health()
