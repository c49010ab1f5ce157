"""What tells textures apart in a signature: fixed filters, the encoder that comes with the package, or both.

Blocks that were labelled for `benchmarks.align.mosaics` are described anew, each way, and aligned without repair: same
labels, same solver, with and without what the anchor tells. Then the classes of one date are looked for on the next:
the map of the first date by one model cuts the pixels of all three dates of one place into the same classes, and each
patch of a later date is given the nearest class of the first.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import keras
import numpy as np
from numpy.typing import NDArray

from benchmarks.align.cases import (
    REAL,
    SCENES,
    Blocks,
    Case,
    add_options,
    collect,
    is_collected,
    plan_case,
    read_labelled,
    read_map,
    size_asked,
)
from benchmarks.align.mosaics import plain_ways, score
from benchmarks.catalogue.dates import DATES
from benchmarks.quality.real import data_folder
from benchmarks.quality.scenes import RECIPES, K, make_scene
from benchmarks.report import begin_record, describe_run, format_table, parser, write_record
from ktex_model import extractors
from ktex_model.model import NO_CLASS
from ktex_model.signature import signature_features
from pipeline.align import BlockSignature, align
from pipeline.align.measure import measure
from pipeline.blocks import Index, Window
from pipeline.catalogue.members import measure_members, whitening_of
from pipeline.catalogue.values import Members
from pipeline.engine import SerialEngine
from pipeline.imagery import open_source
from pipeline.plan import Plan
from pipeline.vocabulary import find_vocabulary

LAYERS = {"block1_conv2": 1, "block2_conv2": 2, "block3_conv3": 4}
"""Layers of the encoder whose activations are measured, and the side in pixels of what one of them stands for."""
CELL_PX = 4
FLOOR = 1e-6
FIT_SEED, FIT_PX, FIT_STEP = 9, 512, 7
"""Principal components are those of made scenes of this seed and size, aligned nowhere: every so many cells."""
DIMENSIONS = {"filters": 0, "encoder": 16, "both": 8}
"""Ways, and how many principal components of the encoder's statistics each takes."""
COLUMNS = ("scene", "seed", "blocks", "way", "method", "pixel_ari", "ari_global", "classes", "disagreement")

Float = NDArray[np.float32]
Bool = NDArray[np.bool_]
Describe = Callable[[Float, Bool], tuple[Float, Bool]]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run what the command line asks for."""
    options = parser("align.extractors", __doc__)
    options.add_argument("--scenes", nargs="+", choices=SCENES, default=SCENES, metavar="NAME")
    add_options(options)
    asked = options.parse_args(arguments)
    size = size_asked(asked)
    settings = {key: value for key, value in vars(asked).items() if key not in ("json", "markdown", "folder")}
    record = begin_record("align.extractors", settings | {"size": size})
    ways = list_ways(0.5 if asked.quick else 1.0)
    record["runs"], record["dates"] = runs, dates = list[dict[str, Any]](), list[dict[str, Any]]()
    for name in asked.scenes:
        for seed in asked.seeds:
            for block_px in asked.block_px:
                case = Case(name, seed, size, block_px, REAL[name][3] if name in REAL else K)
                runs += compare_ways(case, ways, asked.folder, train=not asked.only_labelled)
                print(f"{case.name}: done", file=sys.stderr, flush=True)
                write_record(asked.json, record)
    for seed in asked.seeds if "naip-2010" in asked.scenes else ():
        dates += compare_dates(seed, ways, asked.folder, train=not asked.only_labelled)
        write_record(asked.json, record)
    rows = [[run.get(column) for column in COLUMNS] for run in runs]
    text = format_table([column.replace("_", " ") for column in COLUMNS], rows)
    if dates:
        text += "\n\n" + format_table(list(dates[0]), [list(each.values()) for each in dates])
    text += f"\n\nMade scenes of {size} px. {describe_run(record)}"
    print(text)
    if asked.markdown:
        asked.markdown.write_text(text + "\n")
    return 0


def list_ways(share: float = 1.0) -> dict[str, Describe]:
    """Return what describes cells, by way; principal components are fitted to a share of each made scene's side."""
    model = _layers_of(extractors.load(extractors.SHIPPED))
    parts = [make_scene(name, int(FIT_PX * share), FIT_SEED) for name in RECIPES]
    seen = [_activity(model, part.images[0], part.valids[0]) for part in parts]
    cells = np.concatenate([values[valid][::FIT_STEP] for values, valid in seen])
    centre = cells.mean(axis=0)
    axes = np.linalg.svd(cells - centre, full_matrices=False)[2]

    def describe(way: str, image: Float, valid: Bool) -> tuple[Float, Bool]:
        features, cell_valid = signature_features(image, valid, CELL_PX)
        if DIMENSIONS[way]:
            activity = (_activity(model, image, valid)[0] - centre) @ axes[: DIMENSIONS[way]].T
            features = np.concatenate([features if way == "both" else features[..., : image.shape[2]], activity], -1)
        return np.where(cell_valid[..., None], features, 0).astype(np.float32), cell_valid

    return {way: lambda image, valid, way=way: describe(way, image, valid) for way in DIMENSIONS}


def _layers_of(extractor: extractors.Extractor) -> keras.Model:
    network = extractor.build()
    return keras.Model(network.input, [network.get_layer(name).output for name in LAYERS])


def _activity(model: keras.Model, image: Float, valid: Bool) -> tuple[Float, Bool]:
    """Return log energies of the activations over 3 x 3 cells, and the cells that are at least half valid."""
    pad = [(0, -size % CELL_PX) for size in valid.shape]
    seen = np.pad(np.where(valid[..., None], image, 0), [*pad, (0, 0)], mode="edge")
    weight = np.pad(valid, pad).astype(np.float32)
    columns = []
    for found, side in zip(model.predict_on_batch(seen[None].astype(np.float32)), LAYERS.values(), strict=True):
        share = _mean(weight[..., None], side)
        energy = _mean(np.square(np.asarray(found)[0]) * share, CELL_PX // side)
        columns.append(np.log(_around(energy) / np.maximum(_around(_mean(share, CELL_PX // side)), FLOOR) + FLOOR))
    return np.concatenate(columns, axis=-1), _mean(weight[..., None], CELL_PX)[..., 0] >= 0.5


def _mean(values: Float, side: int) -> Float:
    """Return the means of squares of pixels."""
    y, x, count = values.shape
    result: Float = values.reshape(y // side, side, x // side, side, count).mean(axis=(1, 3))
    return result


def _around(cells: Float) -> Float:
    """Sum over 3 x 3 cells; beyond the image there is nothing."""
    padded = np.pad(cells, ((1, 1), (1, 1), (0, 0)))
    rows = padded[:-2] + padded[1:-1] + padded[2:]
    result: Float = rows[:, :-2] + rows[:, 1:-1] + rows[:, 2:]
    return result


def compare_ways(case: Case, ways: dict[str, Describe], folder: Path, *, train: bool) -> Iterator[dict[str, Any]]:
    """Yield one row for each way to describe, and each method to align."""
    whole_plan, _ = plan_case(case, "global", folder)
    plan, truth = plan_case(case, "local", folder)
    plan = replace(plan, settings=plan.settings.model_copy(update={"repair": False}))
    if train:
        collect(whole_plan)
        collect(plan)
    elif not (is_collected(whole_plan) and is_collected(plan)):
        return
    found = find_vocabulary(plan, list(plan.grid), SerialEngine(), lambda *_: None)
    blocks, whole = read_labelled(plan, found), read_map(whole_plan)
    told = {"scene": case.scene, "seed": case.seed, "blocks": len(plan.grid)}
    for way, describe in ways.items():
        signatures = [_describe_block(plan, blocks, each.index, describe) for each in blocks.signatures]
        dims = signatures[0].features.shape[1]
        # Blocks of one run read the same pixels: no offset between two, in any features.
        overlaps = [replace(each, delta=np.zeros(dims, np.float32)) for each in blocks.overlaps]
        again = replace(blocks, signatures=signatures, overlaps=overlaps)
        for method, tallies in (("solver", None), ("solver, anchor", found.tallies)):
            solved = align(again.signatures, again.overlaps, tallies, seed=plan.settings.seed)
            yield told | {"way": way, "method": method} | score(again, solved, truth, whole)
        for method, given in plain_ways(again, case.k, plan.settings.seed, ["k-means"]):
            yield told | {"way": way, "method": method} | score(again, given, truth, whole)


def _describe_block(plan: Plan, blocks: Blocks, index: Index, describe: Describe) -> BlockSignature:
    block = plan.grid.block(index)
    pixels, wide = plan.read(block.read), block.wide_in_read.slices
    return measure(index, blocks.labels[index], *describe(plan.scaled(pixels)[wide], pixels.valid[wide]))


def compare_dates(seed: int, ways: dict[str, Describe], folder: Path, *, train: bool) -> Iterator[dict[str, Any]]:
    """Yield for each way and later date the share of patches that are nearest to their own class of the first date."""
    plan, _ = plan_case(Case("naip-2010", seed, 2048, 512, REAL["naip-2010"][3]), "global", folder)
    if train:
        collect(plan)
    elif not is_collected(plan):
        return
    labels = read_map(plan)
    images = [_read_date(plan, date) for date in DATES]
    for way, describe in ways.items():
        first, *later = [_members(labels, image, valid, describe) for image, valid in images]
        white = whitening_of(first)
        for date, members in zip(DATES[1:], later, strict=True):
            yield {"seed": seed, "way": way, "date": date} | recognise(first, members, white)


def _read_date(plan: Plan, date: str) -> tuple[Float, Bool]:
    """Return another date of the place of a plan, scaled as that of the plan is."""
    scene = open_source(data_folder() / REAL["naip-2010"][0], plan.settings.model_copy(update={"date": date}))
    there = replace(plan, scene=scene)
    pixels = there.read(Window(0, 0, *plan.grid.shape))
    return there.scaled(pixels)[:, :], pixels.valid


def _members(labels: NDArray[np.uint8], image: Float, valid: Bool, describe: Describe) -> Members:
    features, cell_valid = describe(image, valid)
    said = np.where(valid, labels, NO_CLASS).astype(np.uint8)
    return measure_members(measure((0, 0), said, features, cell_valid), said, features, cell_valid)


def recognise(first: Members, later: Members, white: NDArray[np.float64]) -> dict[str, float]:
    """Move a date by what moves its classes on average, and look which class of the first each patch is nearest to."""
    ids = np.intersect1d(first.ids, later.ids)
    before, after = (np.stack([np.median(m.features[m.ids == i], axis=0) for i in ids]) @ white for m in (first, later))
    moved = later.features @ white - np.median(after - before, axis=0)
    nearest = ids[((moved[:, None] - before) ** 2).sum(-1).argmin(1)]
    right = nearest == later.ids
    share = float(right @ later.pixels / later.pixels.sum())
    return {"members": len(right), "right": float(right.mean()), "right, by pixels": share}


if __name__ == "__main__":
    sys.exit(main())
