"""What the blocks of a case labelled, kept on disk, so that all that comes after training can be tried in seconds.

A case is a scene, cut in one way. Its models and labels are made by the stages of a run, block by block, and depend
on the scene, the seeds and the code of the model alone: they are kept in a folder that is named by all of these.
Whoever is interrupted goes on where he was.
"""

from __future__ import annotations

import argparse
import hashlib
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Literal

import numpy as np
import rioxarray
import xarray as xr
from numpy.typing import NDArray

import ktex_model
from benchmarks.quality.real import data_folder, load_scene
from benchmarks.quality.scenes import RECIPES, K, make_scene
from ktex_model.model import NO_CLASS
from pipeline import Settings
from pipeline.align import BlockSignature, Overlap
from pipeline.anchor import Anchor, is_anchor_trained, train_any
from pipeline.assemble import read_labels
from pipeline.blocks import BlockGrid, Index
from pipeline.demo import make_demo
from pipeline.imagery import open_source
from pipeline.plan import Plan, make_plan
from pipeline.predict import is_predicted, label_window, model_of
from pipeline.scene import Source
from pipeline.stores import RawStore
from pipeline.train import is_trained, train_global
from pipeline.vocabulary import Vocabulary
from pipeline.workspace import replace_arrays

Labels = NDArray[np.uint8]
Mode = Literal["local", "global"]
MADE_BANDS = "R=1,G=2,B=3,N=4"
REAL = {
    "naip-2010": ("naip-nd", "2010", "rgbn", 6),
    "naip-2010-720": ("naip-nd/m_4709963_se_14_1_20100629.tif", None, "rgbn", 6),
    "haiti": ("haiti", None, "rgbn", 6),
    "zion": ("zion/zion_west_rgbn.tif", None, "rgbn", 8),
}
"""Real scenes: where in the data folder, date, bands and k."""
CROPPED = {"naip-2010-720": 720}
"""Real scenes whose middle alone is taken, a square of so many pixels a side: 2 x 2, 4 x 4 or 6 x 6 equal blocks."""
LABELLED = ("zion",)
"""Real scenes with labels on the raster's own pixels, which name land cover and leave some pixels out."""


WIDE = ("forms", "scales")
WIDE_PX, WIDE_SEED = 1024, 3
"""Scenes of such a side that lie side by side in ``wide``: as large a country has more textures than a block."""
SCENES = (*RECIPES, "demo", "wide", *REAL)


def add_options(options: argparse.ArgumentParser) -> None:
    """Add the options by which cases are asked for, all but their scenes."""
    options.add_argument("--seeds", type=int, nargs="+", metavar="S", default=[0], help="of made scenes and models")
    options.add_argument("--size", type=int, metavar="PX", help="side of made scenes (2048; quick 1024)")
    options.add_argument("--block-px", type=int, nargs="+", metavar="PX", default=[512])
    options.add_argument("--folder", type=Path, required=True, help="where models and labels are kept")
    options.add_argument("--only-labelled", action="store_true", help="train nothing")


def size_asked(asked: argparse.Namespace) -> int:
    """Return the side of made scenes."""
    return int(asked.size or (1024 if asked.quick else 2048))


@dataclass(frozen=True)
class Case:
    """A scene by its name, and how it is cut; `k` is that of each model."""

    scene: str
    seed: int
    size_px: int
    block_px: int
    k: int

    @property
    def name(self) -> str:
        """Name of the case in folders and tables."""
        size = f"-{self.size_px}" if self.scene in RECIPES else ""
        return f"{self.scene}-{self.seed}{size}-b{self.block_px}-k{self.k}"


@dataclass(frozen=True, eq=False)
class Blocks:
    """What the blocks of a local run labelled, each in its own ids."""

    grid: BlockGrid
    labels: dict[Index, Labels]
    signatures: list[BlockSignature]
    overlaps: list[Overlap]


def open_case(case: Case, folder: Path) -> tuple[Source, dict[str, object], Labels | None]:
    """Return the source of a case, the settings that it asks for, and its truth or labels where there are any."""
    if case.scene in RECIPES:
        scene = make_scene(case.scene, case.size_px, case.seed)
        array = xr.DataArray(np.moveaxis(scene.images[0], 2, 0), dims=("band", "y", "x"), name=case.scene)
        return array, {"bands": MADE_BANDS}, scene.truths[0]
    if case.scene == "wide":
        image, truth = _make_wide(case.seed)
        return xr.DataArray(image, dims=("band", "y", "x"), name=case.scene), {"bands": MADE_BANDS}, truth
    if case.scene == "demo":
        import rasterio

        made = make_demo(folder / f"scene-demo-{case.seed}", seed=case.seed)
        with rasterio.open(made.truth_path) as file:
            return [str(path) for path in made.paths], {"bands": "nicfi"}, file.read(1)
    path, date, bands, _ = REAL[case.scene]
    truth = load_scene(case.scene).truths[0] if case.scene in LABELLED else None
    if (side := CROPPED.get(case.scene)) is not None:
        return _crop(data_folder() / path, side), {"bands": bands}, truth
    return data_folder() / path, {"bands": bands, "date": date}, truth


def _make_wide(seed: int) -> tuple[NDArray[np.float32], Labels]:
    """Lay made scenes side by side; classes of each have ids of their own."""
    scenes = [make_scene(name, WIDE_PX, WIDE_SEED + 2 * seed + i) for i, name in enumerate(WIDE)]
    image = np.concatenate([scene.images[0] for scene in scenes], axis=1)
    truths = [np.where(s.truths[0] == NO_CLASS, NO_CLASS, s.truths[0] + K * i) for i, s in enumerate(scenes)]
    return np.moveaxis(image, 2, 0), np.concatenate(truths, axis=1).astype(np.uint8)


def _crop(path: Path, side: int) -> xr.DataArray:
    """Return the middle of a raster."""
    whole = rioxarray.open_rasterio(path)
    if not isinstance(whole, xr.DataArray):
        raise TypeError(f"{path} must hold one raster; got {type(whole).__name__}")
    first = {axis: (whole.sizes[axis] - side) // 2 for axis in ("y", "x")}
    return whole.isel({axis: slice(at, at + side) for axis, at in first.items()})


def plan_case(case: Case, mode: Mode, folder: Path) -> tuple[Plan, Labels | None]:
    """Return the plan of a case, whose folder is named by all that its blocks rest on, and the truth."""
    source, given, truth = open_case(case, folder)
    settings = Settings.parse(
        {
            "k": case.k, "mode": mode, "block_px": case.block_px, "chunk_px": min(512, case.block_px),
            "seed": case.seed, "engine": "serial", **given,
        }
    )  # fmt: skip
    out = folder / f"{case.name}-{mode}-{model_digest()}"
    plan = make_plan(open_source(source, settings), settings, out, case.name)
    if truth is not None and truth.shape != plan.grid.shape:
        raise ValueError(f"the truth of {case.scene} must be {plan.grid.shape} pixels; got {truth.shape}")
    return plan, truth


@cache
def model_digest() -> str:
    """Return a digest of the sources that models and their labels depend on."""
    root, digest = Path(ktex_model.__path__[0]), hashlib.sha256()
    also = [root.parent / "pipeline" / name for name in ("train.py", "sampling.py")]
    for path in [*sorted(root.rglob("*.py")), *also]:
        digest.update(path.name.encode() + b"\0" + path.read_bytes())
    return digest.hexdigest()[:12]


def is_collected(plan: Plan) -> bool:
    """Whether all of a plan is labelled."""
    if plan.one_model:
        return _map_file(plan).exists()
    anchored = not plan.anchored or is_anchor_trained(plan)
    return anchored and plan.folders.raw.exists() and all(is_predicted(plan, block) for block in plan.grid)


def collect(plan: Plan) -> None:
    """Train and label what is not there yet."""
    plan.folders.work.mkdir(parents=True, exist_ok=True)
    if is_collected(plan):
        return
    if plan.one_model:
        if not is_trained(plan, "global"):
            train_global(plan)
        replace_arrays(_map_file(plan), {"labels": _label_all(plan)})
        return
    if not plan.folders.raw.exists():
        RawStore.create(plan.folders.raw, plan.grid)
    if plan.anchored and not is_anchor_trained(plan):
        train_any(plan, Anchor())
    for block in plan.grid:
        if not is_predicted(plan, block):
            train_any(plan, block)


def _map_file(plan: Plan) -> Path:
    return plan.folders.work / "map.npz"


def _label_all(plan: Plan) -> Labels:
    """Label all cores by the one model of a plan."""
    labels, model = np.full(plan.grid.shape, NO_CLASS, np.uint8), model_of(plan, "global")
    if model is None:
        raise RuntimeError(f"the model of {plan.folders.root} must be trained before it labels")
    for block in plan.grid:
        pixels = plan.read(block.read)
        if pixels.valid.any():
            found = label_window(plan, block, model, plan.scaled(pixels), pixels.valid)
            labels[block.core.slices] = found.labels[block.core_in_wide.slices]
    return labels


def read_labelled(plan: Plan, found: Vocabulary) -> Blocks:
    """Read what the blocks of a plan labelled, with what is repaired, beside the vocabulary that was found of it."""
    raw = {block.index: read_labels(plan, block) for block in plan.grid}
    labels = {index: said[0] for index, said in raw.items() if said is not None}
    return Blocks(plan.grid, labels, found.signatures, list(found.overlaps.values()))


def read_map(plan: Plan) -> Labels:
    """Return the map of a plan of one model."""
    with np.load(_map_file(plan), allow_pickle=False) as arrays:
        return np.asarray(arrays["labels"], np.uint8)
