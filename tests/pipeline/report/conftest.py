"""One made run for all tests of the report, by the model that needs no training; and a browser to look at it with."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ktex_model.texture import TextureConfig
from pipeline import Settings, segment
from pipeline.results import Result
from tests.pipeline import grey_model
from tests.pipeline.rasters import write_raster

CHROMIUM = "/usr/bin/chromium"
FLAGS = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
SHAPE = (300, 340)
K = 4


def make_truth(shape: tuple[int, int] = SHAPE) -> np.ndarray[Any, np.dtype[np.uint8]]:
    """Fields of `K` classes, each 60 px wide."""
    rows, columns = np.indices(shape) // 60
    return ((rows + 2 * columns) % K).astype(np.uint8)


@pytest.fixture(scope="session")
def made(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Result]:
    """A published run of four bands in four blocks, with a corner of nodata."""
    folder = tmp_path_factory.mktemp("made")
    rng, truth = np.random.default_rng(0), make_truth()
    grey = (truth.astype(int) * 2 + 1) * 255 // (2 * K)
    bands = np.stack([np.clip(grey + 9 * band + rng.integers(-6, 7, SHAPE), 1, 255) for band in range(4)])
    bands[:, :20, :20] = 0
    write_raster(folder / "a <b> & 'c'.tif", bands.astype(np.uint8), nodata=0)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(TextureConfig, "context_px", 0)
        grey_model.install(patch)
        settings = Settings(
            k=K,
            global_classes=K,
            bands="rgbn",
            scaling="byte",
            block_px=128,
            chunk_px=64,
            overlap_px=8,
            engine="serial",
        )
        yield segment(folder / "a <b> & 'c'.tif", settings, folder / "run <i>one")
        grey_model.load_model.cache_clear()


@pytest.fixture
def run_copy(made: Result, tmp_path: Path) -> Path:
    """A copy of the run that a test may change."""
    return Path(shutil.copytree(made.path, tmp_path / "copy"))


@pytest.fixture(scope="session")
def browser() -> Iterator[Any]:
    """Start Chromium, with nothing to reach."""
    sync_api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed: make setup")
    if not Path(CHROMIUM).exists():
        pytest.skip("Chromium is not installed: apt-get install chromium")
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        yield browser
        browser.close()
