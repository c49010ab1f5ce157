"""A small series that is watched: scenes that are delivered and harmed, passes over them, and what came of each."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any

import numpy as np
import rasterio

from pipeline.ledger import Ledger
from pipeline.run import segment
from pipeline.settings import Settings
from pipeline.watch import Pass, WatchConfig, watch
from tests.pipeline.rasters import write_raster

BANDS = "R=1,G=2"
SIDE = 96
DATES = ("2010-06-29", "2012-07-31", "2014-07-20")


def scene(path: Path, seed: int = 0, **options: Any) -> Path:
    """A delivery of two bands, whose modification lies an hour back."""
    write_raster(path, options.pop("data", levels(seed, SIDE)), **options)
    return age(path)


def levels(seed: int, side: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(1, 255, (2, side, side)).astype(np.uint8)


def stepped(path: Path, seed: int, classes: int = 4, side: int = 128, noise: int | None = None, **options: Any) -> Path:
    """A scene of a few grey levels in patches, so that its classes are plain to see whatever the date."""
    levels_of = np.linspace(20, 235, classes).astype(np.uint8)
    patches = np.kron(
        np.random.default_rng(seed).integers(0, classes, (side // 16, side // 16)), np.ones((16, 16), int)
    )
    speckle = np.random.default_rng(noise or seed + 1).integers(-3, 4, (2, side, side))
    return scene(path, data=(levels_of[patches].astype(int) + speckle).clip(1, 255).astype(np.uint8), **options)


def pixels(path: Path) -> np.ndarray:
    with rasterio.open(path) as source:
        return np.asarray(source.read())


def age(path: Path, seconds: float = 3600) -> Path:
    then = time.time() - seconds
    os.utime(path, (then, then))
    return path


def truncate(path: Path) -> Path:
    content = path.read_bytes()
    path.write_bytes(content[: len(content) * 2 // 3])
    return age(path)


def flip(path: Path) -> None:
    """Change a byte in the middle of a file, as a bad disk does: its size and time stay."""
    found, then = bytearray(path.read_bytes()), path.stat()
    found[len(found) // 2] ^= 0xFF
    path.unlink()  # it may have other names
    path.write_bytes(bytes(found))
    os.utime(path, (then.st_atime, then.st_mtime))


def run_here(source: list[str], out: str, settings: dict[str, Any]) -> object:
    return segment(source, Settings.parse(settings), out)


def make_config(folder: Path, **changes: Any) -> WatchConfig:
    values = {
        "name": "nd",
        "out": folder / "out",
        "ids": "model",
        "sources": [{"kind": "folder", "name": "drop", "path": folder / "drop"}],
        "settings": {"k": 4, "bands": BANDS, "mode": "global", "block_px": 64, "chunk_px": 64, "engine": "serial"},
    }
    return WatchConfig.model_validate(values | changes)


def do_pass(config: WatchConfig, **options: Any) -> Pass:
    return watch(config, options.pop("segment", run_here), **options)


def kinds(done: Pass) -> dict[str, str]:
    return {each.acquisition: each.what for each in done.outcomes}


def states(config: WatchConfig) -> dict[str, str]:
    with Ledger(config.ledger_address, config.name) as ledger:
        return {row.name: row.state for row in ledger.rows()}
