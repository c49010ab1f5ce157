"""The scene of the comparison: made scenes of known truth laid side by side, and scores against it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import rasterio
from affine import Affine
from numpy.typing import NDArray
from rasterio.windows import Window

from benchmarks.quality.scenes import K, make_scene
from benchmarks.scores import adjusted_rand

NAME = "shared"
"""Which of the made scenes: two textures on each of three colours."""
TILE_PX = 1024
DRAWS = 4
TRAINING_SEED = 99
"""What a model learns from is no part of the scene that it is applied to."""
MAX_LABELS = 256


def make_mosaic(folder: Path, side_px: int) -> tuple[Path, Path]:
    """Write scene and truth, ``side_px`` a side, as GeoTIFFs, nothing where they are there; returns their paths."""
    scene, truth = folder / f"scene-{side_px}.tif", folder / f"truth-{side_px}.tif"
    if not truth.exists():
        drawn = [make_scene(NAME, TILE_PX, seed) for seed in range(DRAWS)]
        order = np.random.default_rng(0).integers(0, DRAWS, (side_px // TILE_PX, side_px // TILE_PX))
        _write(scene, [_to_integers(each.images[0]) for each in drawn], order)
        _write(truth, [each.truths[0][None] for each in drawn], order)
    return scene, truth


def make_sample(folder: Path) -> Path:
    """Write the scene that a model is trained on."""
    path = folder / "sample.tif"
    if not path.exists():
        drawn = make_scene(NAME, TILE_PX, TRAINING_SEED)
        _write(path, [_to_integers(drawn.images[0])], np.zeros((1, 1), int))
    return path


def _to_integers(image: NDArray[np.float32]) -> NDArray[np.uint16]:
    return np.clip(np.moveaxis(image, -1, 0) * 10_000, 1, 10_000).astype(np.uint16)


def _write(path: Path, tiles: list[NDArray[np.uint8]] | list[NDArray[np.uint16]], order: NDArray[np.int_]) -> None:
    profile = {
        "driver": "GTiff", "count": len(tiles[0]), "dtype": tiles[0].dtype, "height": order.shape[0] * TILE_PX,
        "width": order.shape[1] * TILE_PX, "crs": "EPSG:32622", "transform": Affine(5, 0, 3e5, 0, -5, 9.6e6),
        "tiled": True, "blockxsize": 512, "blockysize": 512, "interleave": "pixel", "compress": "DEFLATE",
        "zlevel": 1, "photometric": "MINISBLACK", "nodata": 0 if len(tiles[0]) > 1 else 255,
    }  # fmt: skip
    part = path.with_suffix(".partial")
    with rasterio.open(part, "w", **profile) as target:
        for (y, x), which in np.ndenumerate(order):
            target.write(tiles[which], window=Window(x * TILE_PX, y * TILE_PX, TILE_PX, TILE_PX))
    part.rename(path)


def score(labels: Path, truth: Path) -> float:
    """Return the adjusted Rand index of a map of labels against the truth."""
    table = np.zeros((MAX_LABELS, K), np.int64)
    with rasterio.open(labels) as found, rasterio.open(truth) as known:
        for _, window in known.block_windows(1):
            said, right = found.read(1, window=window).astype(np.intp), known.read(1, window=window)
            table += np.bincount((said * K + right).ravel(), minlength=table.size).reshape(table.shape)
    return float(adjusted_rand(table))
