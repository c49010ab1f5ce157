"""Make the golden run of the present format version: ``python -m tests.golden.make [DIR]``.

A small scene is drawn, a run of mode 'global' begins a catalogue with it and labels it, and what the run publishes is
kept beside the scene and the catalogue, all as written. Left out are the report, which is made again from the rest, and
all textures but one. Golden runs stay in the repository for as long as their format is read: `tests/golden` reads each
with all that reads runs. A new format version gets a new directory, and the old ones stay as they are.
"""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

import numpy as np

from tests.pipeline.rasters import write_raster

HERE = Path(__file__).parent
PLACE = Path("/tmp/ktextures-golden")  # the run's paths are in its record, and its item has checksums
NEWEST = "v1"
SIDE_PX = 160
K = 3


def draw_scene(path: Path) -> Path:
    """Write three textures in diagonal fields, 4 bands of uint8, with a corner of nodata."""
    rng = np.random.default_rng(0)
    y, x = np.indices((SIDE_PX, SIDE_PX))
    field = ((x + y) // 54) % K
    noise = rng.normal(0, 1, (SIDE_PX, SIDE_PX))
    rows = np.sin(y / 1.2) + 0.2 * noise
    blocks = np.kron(rng.normal(0, 1, (SIDE_PX // 4, SIDE_PX // 4)), np.ones((4, 4)))
    grey = np.choose(field, [noise, rows, blocks])
    means = np.array([[60, 80, 50, 160], [60, 80, 50, 160], [130, 120, 110, 120]])[field].transpose(2, 0, 1)
    data = np.clip(means * (1 + 0.15 * grey), 8, 255).astype(np.uint8) // 8 * 8  # few values, so that it packs well
    data[:, :24, :24] = 0
    options = {"nodata": 0, "blockxsize": 128, "blockysize": 128, "compress": "DEFLATE", "zlevel": 9}
    return write_raster(path, data, **options)


def make(to: Path) -> None:
    """Make the run at its fixed place, and copy what is kept."""
    from flows.cli import main

    if to.exists():
        raise SystemExit(f"{to}: is there already, and must stay as it is; remove it if its format was never released")
    if PLACE.exists():
        raise SystemExit(f"{PLACE}: is in the way; remove it")
    scene = draw_scene(PLACE / "scene.tif")
    config = PLACE / "settings.yaml"
    config.write_text("options: {steps: 60, rounds: 4, refine_rounds: 1, texture_rounds: 1, texture_radius_px: 6}\n")
    arguments = [
        "run", str(scene), "--out", str(PLACE / "run"), "--catalogue", str(PLACE / "catalogue"), "--config",
        str(config), "--bands", "rgbn", "--scaling", "byte", "--mode", "global", "--k", str(K), "--block-px", "128",
        "--engine", "serial", "--license", "CC0-1.0",
    ]  # fmt: skip
    if code := main(arguments):
        raise SystemExit(code)
    shutil.copytree(
        PLACE, to, ignore=shutil.ignore_patterns("report.html", "[1-9].png", "run.log", "settings.yaml", "lock")
    )
    shutil.rmtree(PLACE)


if __name__ == "__main__":
    make(Path(sys.argv[1]) if len(sys.argv) > 1 else HERE / NEWEST)
