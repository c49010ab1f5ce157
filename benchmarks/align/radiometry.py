"""Whether a gain and an offset for each file help: a made scene, cut into files that were each lit otherwise.

The scene is cut into 3 x 3 files that overlap. Each band of each file gets a gain and an offset of its own, drawn at
random. The same run is made of the files as they were, of the uneven ones, and of the uneven ones with
``radiometry_match``; the truth says which map is better, and how far the corrections are from what was done.
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import rasterio
from affine import Affine
from numpy.typing import NDArray

from benchmarks.align.cases import MADE_BANDS
from benchmarks.quality.methods import list_methods
from benchmarks.quality.scenes import RECIPES, make_scene
from benchmarks.report import begin_record, describe_run, format_table, parser, write_record
from benchmarks.scores import adjusted_rand, count_pairs
from pipeline import Settings, segment
from pipeline.balance import Balanced
from pipeline.blocks import Window
from pipeline.imagery import open_source
from pipeline.stores import LabelStore

WAYS = ("k-means", "global", "local")
"""K-means of local statistics, or our own model."""

FILES = 3
OVERLAP_PX = 32
UNIT = 10_000
GRID = Affine(5.0, 0.0, 300_000.0, 0.0, -5.0, 9_600_000.0)
LIFT = 0.1
"""Added to all, because what an offset takes below 0 could not be brought back."""


@dataclass(frozen=True, eq=False)
class Uneven:
    """The files, and what the values of each were made of: ``(file, band)`` gains and offsets."""

    paths: list[Path]
    gain: NDArray[np.float64]
    offset: NDArray[np.float64]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run what the command line asks for."""
    options = parser("align.radiometry", __doc__)
    options.add_argument("--scenes", nargs="+", choices=RECIPES, default=["shared"])
    options.add_argument("--size", type=int, default=768, metavar="PX", help="side of the scene (768; quick 384)")
    options.add_argument("--strengths", type=float, nargs="+", default=[0.03, 0.1], metavar="S", help="std of gains")
    options.add_argument("--ways", nargs="+", choices=WAYS, default=WAYS)
    options.add_argument("--seed", type=int, default=0)
    asked = options.parse_args(arguments)
    size = 384 if asked.quick else asked.size
    record = begin_record("align.radiometry", {"size": size, "strengths": asked.strengths, "seed": asked.seed})
    record["runs"] = runs = []
    for name in asked.scenes:
        for way in asked.ways:
            for strength, match in product((0.0, *asked.strengths), (False, True)):
                case = {"scene": name, "way": way, "strength": strength, "matched": match}
                runs.append(case | measure(name, size, asked.seed, way, strength, match=match))
                write_record(asked.json, record)
    columns = ["scene", "way", "strength", "matched", "pixel ARI", "differ before", "differ after", "gain error"]
    text = f"{format_table(columns, [list(run.values()) for run in runs])}\n\n{describe_run(record)}"
    print(text)
    if asked.markdown:
        asked.markdown.write_text(text + "\n")
    return 0


def measure(name: str, size: int, seed: int, way: str, strength: float, *, match: bool) -> dict[str, Any]:
    """Make the map of one case, and compare it with the truth."""
    scene = make_scene(name, size, seed)
    with tempfile.TemporaryDirectory() as folder:
        made = write_files(scene.images[0], Path(folder) / "files", strength, seed)
        settings = Settings.parse(
            {
                "k": scene.k, "mode": "local" if way == "local" else "global", "block_px": size // 2,
                "chunk_px": size // 2, "bands": MADE_BANDS, "seed": seed, "engine": "serial",
                "radiometry_match": match,
            }
        )  # fmt: skip
        source = [str(path) for path in made.paths]
        balanced = open_source(source, settings).balanced
        if way == "k-means":
            pixels = open_source(source, settings).read(Window(0, 0, size, size))
            image = np.moveaxis(pixels.data, 0, -1).astype(np.float32) / UNIT
            labels = list_methods(1)["k-means texture"](replace(scene, images=(image,)), seed).labels[0]
        else:
            result = segment(source, settings, Path(folder) / "run")
            labels = LabelStore.open(result.path / "labels.zarr").array()[:]
    scored = scene.truths[0] != 255
    return {
        "pixel_ari": float(adjusted_rand(count_pairs(labels[scored], scene.truths[0][scored]))),
        "before": None if balanced is None else float(np.mean(balanced.before)),
        "after": None if balanced is None else float(np.mean(balanced.after)),
        "gain_error": None if balanced is None else gain_error(made, balanced),
    }


def write_files(image: NDArray[np.float32], folder: Path, strength: float, seed: int) -> Uneven:
    """Cut an image ``(y, x, band)`` of 0..1 into files that overlap, each with gains and offsets of its own."""
    folder.mkdir()
    rng = np.random.default_rng([seed, 71])
    bands = image.shape[2]
    gain = np.exp(strength * rng.normal(size=(FILES**2, bands)))
    offset = 0.2 * strength * rng.normal(size=(FILES**2, bands))
    edges = np.linspace(0, image.shape[0], FILES + 1).astype(int)
    paths = []
    for number in range(FILES**2):
        (y0, y1), (x0, x1) = (
            (max(0, edges[i] - OVERLAP_PX), min(image.shape[0], edges[i + 1] + OVERLAP_PX))
            for i in divmod(number, FILES)
        )
        part = gain[number] * (image[y0:y1, x0:x1] + LIFT) + offset[number]
        data = np.rint(np.clip(part, 0, 6) * UNIT).astype(np.uint16)
        paths.append(folder / f"{number}.tif")
        with rasterio.open(
            paths[-1], "w", driver="GTiff", dtype=data.dtype, count=bands, height=data.shape[0], width=data.shape[1],
            crs="EPSG:32622", transform=GRID @ Affine.translation(x0, y0),
        ) as file:  # fmt: skip
            file.write(np.moveaxis(data, 2, 0))
    return Uneven(paths, gain, offset)


def gain_error(made: Uneven, balanced: Balanced) -> float:
    """Return the rms by which corrected gains differ from one another, of their mean: 0 where all was undone."""
    undone = np.array([balanced.corrections[str(path)].gain for path in made.paths]) * made.gain
    return float(np.sqrt(np.mean((undone / undone.mean(axis=0) - 1) ** 2)))


if __name__ == "__main__":
    sys.exit(main())
