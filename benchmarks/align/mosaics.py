"""Made scenes cut into blocks that are trained each by itself: alignment of the real model's classes, with exact truth.

Each scene is mapped twice with one preset: by one model for all of it (``global``), and by a model for each block
(``local``), whose classes the alignment has to put together. What blocks labelled stays in ``--folder``, so that the
alignment alone can be tried again (``--again``) without training.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from benchmarks.quality.scenes import RECIPES, K, make_scene
from benchmarks.report import begin_record, describe_run, format_table, parser, write_record
from benchmarks.scores import adjusted_rand, count_pairs
from ktex_model.model import NO_CLASS
from pipeline import Settings, segment
from pipeline.align import Alignment, BlockSignature, Overlap, align, compose, gather, overlap
from pipeline.blocks import BlockGrid, Index
from pipeline.metrics import effective_classes, overlap_disagreement, seams
from pipeline.stores import RawStore
from pipeline.workspace import Folders

Labels = NDArray[np.uint8]
BANDS = "R=1,G=2,B=3,N=4"
COLUMNS = ("pixel_ari", "classes", "classes_effective", "seam_before", "seam_after", "disagreement")


@dataclass(frozen=True, eq=False)
class Blocks:
    """What the blocks of a local run labelled, each in its own ids."""

    grid: BlockGrid
    labels: dict[Index, Labels]
    signatures: list[BlockSignature]
    overlaps: list[Overlap]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run what the command line asks for."""
    options = parser("align.mosaics", __doc__)
    options.add_argument("--scenes", nargs="+", choices=RECIPES, default=["shared", "drift"])
    options.add_argument("--seeds", type=int, nargs="+", metavar="S", default=[0])
    options.add_argument("--size", type=int, metavar="PX", help="side of the scene (2048; quick 1024)")
    options.add_argument("--block-px", type=int, default=512)
    options.add_argument("--k", type=int, nargs="+", default=[K], help="classes of each block's model")
    options.add_argument("--folder", type=Path, required=True, help="where runs are kept")
    options.add_argument("--again", action="store_true", help="only align what was labelled before")
    asked = options.parse_args(arguments)
    size = asked.size or (1024 if asked.quick else 2048)
    settings = {key: value for key, value in vars(asked).items() if key not in ("json", "markdown", "folder")}
    record = begin_record("align.mosaics", settings | {"size": size})
    record["runs"] = runs = []
    for name in asked.scenes:
        for seed in asked.seeds:
            for k in asked.k:
                told = {"scene": name, "seed": seed, "k": k}
                runs += [
                    told | each for each in measure(name, seed, k, size, asked.block_px, asked.folder, asked.again)
                ]
                print(f"{name}, seed {seed}, k {k}: done", file=sys.stderr, flush=True)
                write_record(asked.json, record)
    text = f"{summarise(runs)}\n\n{size} px, blocks of {asked.block_px}. {describe_run(record)}"
    print(text)
    if asked.markdown:
        asked.markdown.write_text(text + "\n")
    return 0


def measure(name: str, seed: int, k: int, size: int, block_px: int, folder: Path, again: bool) -> list[dict[str, Any]]:
    """Return one row for each way to map a scene: globally, locally, and as an oracle would name local classes."""
    scene = make_scene(name, size, seed)
    (truth,) = scene.truths
    array = xr.DataArray(np.moveaxis(scene.images[0], 2, 0), dims=("band", "y", "x"), name=name)
    grid = BlockGrid(truth.shape, block_px, overlap_px=32)
    # Borders lie where they lie: the truth itself may change there more often than elsewhere.
    rows: list[dict[str, Any]] = [{"way": "truth"} | _score_map(truth, truth, grid)]
    for mode, classes in (("global", K), ("local", k)):
        out = folder / f"{name}-{seed}-{size}-{mode}-k{classes}"
        if not again and not (out / "run.json").exists():
            settings = Settings(
                k=classes, mode=mode, bands=BANDS, block_px=block_px, chunk_px=min(512, block_px), seed=seed,
                engine="serial", keep_work=True,
            )  # fmt: skip
            segment(array, settings, out)
        if mode == "global":
            rows.append({"way": "global"} | _score_map(_read_map(out), truth, grid))
        else:
            blocks = read_blocks(out)
            found = align(blocks.signatures, blocks.overlaps, seed=seed)
            rows.append({"way": "local"} | score(blocks, found, truth) | {"flags": list(found.flags)})
            rows.append({"way": "local, oracle"} | score(blocks, oracle(blocks, truth), truth))
    return rows


def read_blocks(out: Path) -> Blocks:
    """Read what the blocks of a run that kept its work have labelled and measured, and compare neighbours."""
    folders = Folders(out)
    store = RawStore.open(folders.raw)
    grid = store.grid
    labels, signatures = dict[Index, Labels](), dict[Index, BlockSignature]()
    for block in grid:
        raw = store.read(block)
        if raw is not None:
            labels[block.index] = raw[0]
            with np.load(folders.signature(block.name), allow_pickle=False) as arrays:
                signatures[block.index] = BlockSignature.from_arrays(arrays)
    overlaps = []
    for a, b in grid.pairs():
        shared = grid.block(a).wide.intersect(grid.block(b).wide)
        said = (labels[i][shared.relative_to(grid.block(i).wide).slices] for i in (a, b))
        overlaps.append(overlap(signatures[a], next(said), signatures[b], next(said)))
    return Blocks(grid, labels, list(signatures.values()), overlaps)


def oracle(blocks: Blocks, truth: Labels) -> Alignment:
    """Give each local class the true class of most of its pixels."""
    lookup = {}
    for signature in blocks.signatures:
        local, there = blocks.labels[signature.index], truth[blocks.grid.block(signature.index).wide.slices]
        table = np.full(int(signature.ids.max()) + 1, NO_CLASS, np.uint8)
        for i in signature.ids:
            table[i] = np.bincount(there[local == i], minlength=K).argmax()
        lookup[signature.index] = table
    sure = {index: np.ones(len(table), np.float32) for index, table in lookup.items()}
    return Alignment(lookup, sure, sure, ())


def score(blocks: Blocks, found: Alignment, truth: Labels) -> dict[str, Any]:
    """Return the figures of a map: before the cut where that matters, else after it."""
    grid = blocks.grid
    named = {index: _translate(found, index, labels) for index, labels in blocks.labels.items()}
    before, after = (np.full(grid.shape, NO_CLASS, np.uint8) for _ in range(2))
    for block in grid:
        before[block.core.slices] = named[block.index][block.core_in_wide.slices]
        owners = compose(grid, block.index, named.get)
        after[block.core.slices] = gather(grid, block.index, owners, named.get, NO_CLASS)
    uncut = seams(lambda window: before[window.slices], grid).seam_excess
    return _score_map(after, truth, grid) | {
        "seam_before": uncut,
        "disagreement": overlap_disagreement(found, blocks.signatures, blocks.overlaps),
    }


def _translate(found: Alignment, index: Index, labels: Labels) -> Labels:
    table = np.full(256, NO_CLASS, np.uint8)
    table[: len(found.lookup[index])] = found.lookup[index]
    return table[labels]


def _score_map(labels: Labels, truth: Labels, grid: BlockGrid) -> dict[str, Any]:
    counts = np.bincount(labels.ravel(), minlength=256)[:NO_CLASS]
    return {
        "pixel_ari": float(adjusted_rand(count_pairs(labels, truth))),
        "classes": int((counts > 0).sum()),
        "classes_effective": effective_classes(counts),
        "true_effective": effective_classes(np.bincount(truth.ravel())),
        "seam_after": seams(lambda window: labels[window.slices], grid).seam_excess,
    }


def _read_map(out: Path) -> Labels:
    return np.asarray(xr.open_zarr(out / "labels.zarr", mask_and_scale=False)["labels"])


def summarise(runs: Sequence[dict[str, Any]]) -> str:
    """Return one row for each run."""
    rows = [[run["scene"], run["seed"], run["k"], run["way"], *(run.get(c) for c in COLUMNS)] for run in runs]
    return format_table(["scene", "seed", "k", "way", *(c.replace("_", " ") for c in COLUMNS)], rows)


if __name__ == "__main__":
    sys.exit(main())
