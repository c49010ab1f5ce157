"""A small published run, made by the model that needs no training, for tests of what is made of a run."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ktex_model.texture import TextureConfig
from pipeline import Settings, segment
from pipeline.results import Result
from tests.pipeline import grey_model
from tests.pipeline.rasters import write_raster

SHAPE = (300, 340)
K = 4
SOURCE = "a <b> & 'c'.tif"


def make_truth(shape: tuple[int, int] = SHAPE) -> np.ndarray[Any, np.dtype[np.uint8]]:
    """Fields of `K` classes, each 60 px wide."""
    rows, columns = np.indices(shape) // 60
    return ((rows + 2 * columns) % K).astype(np.uint8)


def make_run(folder: Path, **changes: Any) -> Result:
    """Publish a run of four bands in four blocks and more, with a corner of nodata; `changes` are of its settings."""
    rng, truth = np.random.default_rng(0), make_truth()
    grey = (truth.astype(int) * 2 + 1) * 255 // (2 * K)
    bands = np.stack([np.clip(grey + 9 * band + rng.integers(-6, 7, SHAPE), 1, 255) for band in range(4)])
    bands[:, :20, :20] = 0
    write_raster(folder / SOURCE, bands.astype(np.uint8), nodata=0)
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
            **changes,
        )
        result = segment(folder / SOURCE, settings, folder / "run <i>one")
    grey_model.load_model.cache_clear()
    return result
