"""Scenes to measure on: mosaics of quads with textures in them, as large as wanted, and a model to apply."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import rasterio
from affine import Affine
from numpy.typing import NDArray
from rasterio.windows import Window

from pipeline import Settings, segment

QUAD_PX = 2048
TILE_PX = 512
CELL_PX = 64
TEXTURES = 6


def make_texture(kind: int, rng: np.random.Generator) -> NDArray[np.float32]:
    """Return one patch ``(TILE_PX, TILE_PX)`` of a texture: noise of some grain, stretched one way or the other."""
    grain = (1, 2, 4, 8, 4, 2)[kind % TEXTURES]
    stretch = (1, 1, 1, 1, 4, 4)[kind % TEXTURES]
    shape = TILE_PX // grain, TILE_PX // (grain * stretch)
    noise = rng.normal(0, 1, shape).astype(np.float32)
    return np.kron(noise, np.ones((grain, grain * stretch), np.float32))


def make_quads(folder: Path, side_px: int, seed: int = 0) -> Path:
    """Write a mosaic of ``side_px`` a side, 4 bands of uint16, as compressed quads; nothing where it is there already.

    Patches of a few textures and mean colours lie in a random pattern, so that a model finds something to tell apart.
    """
    done = folder / f".{side_px}-{seed}"
    if done.exists():
        return folder
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(seed)
    textures = [make_texture(kind, rng) for kind in range(TEXTURES)]
    means = rng.uniform(400, 3000, (TEXTURES, 4)).astype(np.float32)
    for y in range(0, side_px, QUAD_PX):
        for x in range(0, side_px, QUAD_PX):
            size = min(QUAD_PX, side_px - y), min(QUAD_PX, side_px - x)
            _write_quad(folder / f"{y:06d}-{x:06d}.tif", y, x, size, textures, means, rng)
    done.touch()
    return folder


def _write_quad(
    path: Path,
    y0: int,
    x0: int,
    size: tuple[int, int],
    textures: list[NDArray[np.float32]],
    means: NDArray[np.float32],
    rng: np.random.Generator,
) -> None:
    profile = {
        "driver": "GTiff", "count": 4, "dtype": "uint16", "height": size[0], "width": size[1], "crs": "EPSG:32622",
        "transform": Affine(5, 0, 300_000 + 5 * x0, 0, -5, 9_600_000 - 5 * y0), "nodata": 0, "tiled": True,
        "blockxsize": TILE_PX, "blockysize": TILE_PX, "interleave": "pixel", "compress": "ZSTD", "zstd_level": 1,
        "predictor": 2, "photometric": "MINISBLACK",
    }  # fmt: skip
    with rasterio.open(path, "w", **profile) as target:
        for y in range(0, size[0], TILE_PX):
            for x in range(0, size[1], TILE_PX):
                shape = min(TILE_PX, size[0] - y), min(TILE_PX, size[1] - x)
                tile = _tile(shape, textures, means, rng)
                target.write(tile, window=Window(x, y, shape[1], shape[0]))


def _tile(
    shape: tuple[int, int], textures: list[NDArray[np.float32]], means: NDArray[np.float32], rng: np.random.Generator
) -> NDArray[np.uint16]:
    cells = rng.integers(0, TEXTURES, (TILE_PX // CELL_PX, TILE_PX // CELL_PX))
    kinds = np.kron(cells, np.ones((CELL_PX, CELL_PX), np.intp))[: shape[0], : shape[1]]
    shift = int(rng.integers(TILE_PX))
    grey = np.choose(kinds, [np.roll(texture, shift, 1)[: shape[0], : shape[1]] for texture in textures])
    bands = means[kinds].transpose(2, 0, 1) * (1 + 0.15 * grey)
    return np.clip(bands, 1, 10_000).astype(np.uint16)


def make_model(folder: Path, *, quick: bool) -> Path:
    """Train a model on a small scene of this kind, once; returns the directory of its run."""
    out = folder / "model-run"
    if not (out / "run.json").exists():
        scene = make_quads(folder / "model-scene", 1024, seed=7)
        options = {"steps": 30, "rounds": 3, "refine_rounds": 1} if quick else {}
        settings = Settings(
            k=TEXTURES, mode="global", bands="R=3,G=2,B=1,N=4", scaling="reflectance", engine="serial",
            options=options, block_px=1024,
        )  # fmt: skip
        segment(scene, settings, out)
    return out
