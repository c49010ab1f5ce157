"""What tests of passes share: a folder of deliveries, a model without training, and series that are watched."""

from __future__ import annotations

from pathlib import Path

import pytest

from pipeline.watch import WatchConfig
from tests.pipeline import grey_model
from tests.pipeline.watch.watched import BANDS, make_config


@pytest.fixture
def drop(tmp_path: Path) -> Path:
    folder = tmp_path / "drop"
    folder.mkdir()
    return folder


@pytest.fixture
def trainings(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    return grey_model.install(monkeypatch)


@pytest.fixture
def config(tmp_path: Path, drop: Path) -> WatchConfig:
    return make_config(tmp_path)


@pytest.fixture
def attached(tmp_path: Path, drop: Path, trainings: list[str]) -> WatchConfig:
    settings = {"k": 4, "bands": BANDS, "block_px": 64, "chunk_px": 64, "overlap_px": 16, "engine": "serial"}
    return make_config(tmp_path, ids="catalogue", settings=settings)
