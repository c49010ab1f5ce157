"""Scenes cut into blocks that are trained each by itself: alignment, repair and cut on the real model's classes.

Each scene is mapped twice with one preset: by one model for all of it (``global``), and by a model for each block
(``local``), whose classes the alignment has to put together, with and without anchor and repair; beside it stand plain
baselines, which are told k, on the same classes. Made scenes have an exact truth, real ones labels of land cover or
none: these are measured against the map of one model, too, and local classes are named by it as by an oracle. What
blocks labelled stays in ``--folder``, under a name that changes with the code of the model: what comes after training
is done anew each time, in seconds. A run that was interrupted goes on; ``--only-labelled`` trains nothing and leaves
out what is not there.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.align.baselines import BASELINES
from benchmarks.align.cases import (
    REAL,
    SCENES,
    Blocks,
    Case,
    Labels,
    Mode,
    add_options,
    collect,
    is_collected,
    plan_case,
    read_labelled,
    read_map,
    size_asked,
)
from benchmarks.quality.scenes import RECIPES, K
from benchmarks.report import begin_record, describe_run, format_table, parser, write_record
from benchmarks.scores import adjusted_rand, count_pairs
from ktex_model.model import NO_CLASS
from pipeline.align import Alignment, compose, gather
from pipeline.blocks import BlockGrid, Index
from pipeline.engine import SerialEngine
from pipeline.metrics import effective_classes, overlap_disagreement, seams
from pipeline.plan import Plan
from pipeline.vocabulary import find_vocabulary

COLUMNS = (
    "pixel_ari", "ari_global", "classes", "classes_effective", "seam_before", "seam_after", "seam_like",
    "disagreement", "repaired",
)  # fmt: skip
LATTICE_PX = 16
"""The network decides on cells of 2 px, in steps of 16: labels change more often between cells than inside them."""
NOTE = (
    "ARI global: against the map of one model for all of the scene. "
    "Seam after: changes across borders less changes across all lines inside, as in run.json. Seam like: less changes "
    "across such lines inside as stand like borders on the network's lattice of 16 px."
)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run what the command line asks for."""
    options = parser("align.mosaics", __doc__)
    options.add_argument("--scenes", nargs="+", choices=SCENES, default=list(RECIPES), metavar="NAME")
    add_options(options)
    options.add_argument("--k", type=int, nargs="+", metavar="K", help="classes of each block's model (the scene's)")
    options.add_argument(
        "--told", type=int, nargs="+", metavar="N", default=[], help="numbers of classes to ask for, too"
    )
    options.add_argument(
        "--reference-seed",
        type=int,
        metavar="S",
        help="of the one model that real scenes are measured against (theirs)",
    )
    asked = options.parse_args(arguments)
    size = size_asked(asked)
    settings = {key: value for key, value in vars(asked).items() if key not in ("json", "markdown", "folder")}
    record = begin_record("align.mosaics", settings | {"size": size})
    record["runs"] = runs = list[dict[str, Any]]()
    asked.folder.mkdir(parents=True, exist_ok=True)
    for name in asked.scenes:
        for seed in asked.seeds:
            for block_px in asked.block_px:
                for k in asked.k or [REAL[name][3] if name in REAL else K]:
                    case = Case(name, seed, size, block_px, k)
                    runs += measure(
                        case,
                        asked.folder,
                        train=not asked.only_labelled,
                        told=asked.told,
                        reference_seed=asked.reference_seed if name in REAL else None,
                    )
                    print(f"{case.name}: done", file=sys.stderr, flush=True)
                    write_record(asked.json, record)
    text = f"{summarise(runs)}\n\n{NOTE} Made scenes of {size} px. {describe_run(record)}"
    print(text)
    if asked.markdown:
        asked.markdown.write_text(text + "\n")
    return 0


def measure(
    case: Case, folder: Path, *, train: bool = True, told: Sequence[int] = (), reference_seed: int | None = None
) -> list[dict[str, Any]]:
    """Return one row for each way to map a scene: globally, locally, and as an oracle would name local classes.

    `told` are numbers of classes that the solver is told, beside the one that it finds. The one model of a scene is the
    anchor as well, if it has the same seed: with `reference_seed` it is another.
    """
    rows = list[dict[str, Any]]()
    whole: Labels | None = None
    modes: tuple[Mode, ...] = ("global", "local")
    for mode in modes:
        seen = replace(case, seed=reference_seed) if mode == "global" and reference_seed is not None else case
        plan, truth = plan_case(seen, mode, folder)
        grid = replace(plan.grid, overlap_px=plan.settings.overlap_px)  # one way to look for seams in all maps
        if train:
            collect(plan)
        elif not is_collected(plan):
            continue
        if mode == "global":
            whole = read_map(plan)
            rows.append({"way": "global"} | _score_map(whole, truth, grid))
            continue
        for way, figures in _score_local(plan, truth, whole, exact=case.scene not in REAL):
            rows.append({"way": way} | figures)
        for classes in told:
            figures = _solve(plan, truth, whole, repair=True, classes=classes)[1]
            rows.append({"way": f"local, told {classes}"} | figures)
    if truth is not None:
        # Borders lie where they lie: the truth itself may change there more often than elsewhere.
        rows.insert(0, {"way": "truth"} | _score_map(truth, truth, grid))
    known = {"scene": case.scene, "seed": case.seed, "blocks": len(grid), "k": case.k}
    return [known | row for row in rows]


def _score_local(
    plan: Plan, truth: Labels | None, whole: Labels | None, *, exact: bool
) -> Iterator[tuple[str, dict[str, Any]]]:
    bare = replace(plan, settings=plan.settings.model_copy(update={"anchor": False}))
    yield "local, no anchor", _solve(bare, truth, whole, repair=True)[1]
    for way, repair in (("local, no repair", False), ("local", True)):
        blocks, figures = _solve(plan, truth, whole, repair=repair)
        yield way, figures
        if truth is not None:
            yield f"{way}, oracle", score(blocks, oracle(blocks, truth), truth, whole)
        if whole is not None and not exact:
            yield f"{way}, named by the global map", score(blocks, oracle(blocks, whole), truth, whole)
        if not repair:
            for name, given in plain_ways(blocks, plan.k, plan.settings.seed):
                yield f"local, {name}", score(blocks, given, truth, whole)


def _solve(
    plan: Plan, truth: Labels | None, whole: Labels | None, *, repair: bool, classes: int | None = None
) -> tuple[Blocks, dict[str, Any]]:
    """Align what the blocks of a plan labelled; returns it as it is then, and its figures."""
    settings = plan.settings.model_copy(update={"repair": repair, "global_classes": classes})
    found = find_vocabulary(replace(plan, settings=settings), list(plan.grid), SerialEngine(), lambda *_: None)
    blocks = read_labelled(plan, found)
    repaired = [vars(each) for each in found.alignment.repairs]
    more: dict[str, Any] = {"flags": list(found.alignment.flags), "repairs": repaired}
    more["repaired"] = sum(each["new_id"] is not None for each in repaired)
    return blocks, score(blocks, found.alignment, truth, whole) | more


def plain_ways(
    blocks: Blocks, classes: int, seed: int, names: Sequence[str] = tuple(BASELINES)
) -> Iterator[tuple[str, Alignment]]:
    """Give the same classes the ids of plain baselines, which may open one for every node: maps hold 255."""
    if sum(len(each.ids) for each in blocks.signatures) > NO_CLASS:
        return
    for name in names:
        lookup = {}
        given = BASELINES[name](blocks.signatures, blocks.overlaps, classes, seed)
        for signature in blocks.signatures:
            lookup[signature.index] = table = np.full(int(signature.ids.max()) + 1, NO_CLASS, np.uint8)
            table[signature.ids] = given[signature.index]
        yield name, _named(lookup)


def oracle(blocks: Blocks, truth: Labels) -> Alignment:
    """Give each local class the true class of most of its pixels, and one without such pixels an id of its own."""
    lookup, unused = {}, int(truth.max(where=truth != NO_CLASS, initial=0)) + 1
    for signature in blocks.signatures:
        local, there = blocks.labels[signature.index], truth[blocks.grid.block(signature.index).wide.slices]
        table = np.full(int(signature.ids.max()) + 1, NO_CLASS, np.uint8)
        for i in signature.ids:
            said = there[(local == i) & (there != NO_CLASS)]
            if said.size:
                table[i] = np.bincount(said).argmax()
                continue
            if unused >= NO_CLASS:
                raise ValueError(f"classes without a true pixel must fit below id {NO_CLASS}; got more of them")
            table[i], unused = unused, unused + 1
        lookup[signature.index] = table
    return _named(lookup)


def _named(lookup: dict[Index, NDArray[np.uint8]]) -> Alignment:
    sure = {index: np.ones(len(table), np.float32) for index, table in lookup.items()}
    return Alignment({**lookup}, sure, sure, ())


def score(blocks: Blocks, found: Alignment, truth: Labels | None, whole: Labels | None = None) -> dict[str, Any]:
    """Return the figures of a map: before the cut where that matters, else after it; `whole` is one model's map."""
    grid = blocks.grid
    named = {index: found.apply(index, labels).astype(np.uint8) for index, labels in blocks.labels.items()}
    before, after = (np.full(grid.shape, NO_CLASS, np.uint8) for _ in range(2))
    for block in grid:
        if block.index in named:
            before[block.core.slices] = named[block.index][block.core_in_wide.slices]
        owners = compose(grid, block.index, named.get)
        after[block.core.slices] = gather(grid, block.index, owners, named.get, NO_CLASS)
    uncut = seams(lambda window: before[window.slices], grid).seam_excess
    return _score_map(after, truth, grid) | {
        "ari_global": None if whole is None else _agreement(after, whole),
        "seam_before": uncut,
        "disagreement": overlap_disagreement(found, blocks.signatures, blocks.overlaps),
    }


def _score_map(labels: Labels, truth: Labels | None, grid: BlockGrid) -> dict[str, Any]:
    counts = np.bincount(labels.ravel(), minlength=256)[:NO_CLASS]
    figures: dict[str, Any] = {
        "classes": int((counts > 0).sum()),
        "classes_effective": effective_classes(counts),
        "seam_after": seams(lambda window: labels[window.slices], grid).seam_excess,
        "seam_like": like_excess(labels, grid),
    }
    return figures if truth is None else figures | {"pixel_ari": _agreement(labels, truth)}


def _agreement(labels: Labels, other: Labels) -> float:
    """Return the adjusted Rand index of two maps on the pixels that both have a class for."""
    both: NDArray[np.bool_] = (labels != NO_CLASS) & (other != NO_CLASS)
    return float(adjusted_rand(count_pairs(labels[both], other[both])))


def like_excess(labels: Labels, grid: BlockGrid) -> float | None:
    """Return how much more often labels change across borders than across lines inside that are placed like them.

    >>> labels = np.repeat([[0, 1, 2, 3]], 16, axis=1).repeat(64, axis=0).astype(np.uint8)
    >>> like_excess(labels, BlockGrid((64, 64), 32))
    0.0
    """
    total, weighted = 0, 0.0
    for axis in (0, 1):
        last = (grid.counts[axis] - 1) * grid.block_px
        borders = np.arange(grid.block_px, last + 1, grid.block_px)
        lines = np.arange(LATTICE_PX, labels.shape[axis], LATTICE_PX)
        away = np.abs(lines[:, None] - borders).min(axis=1, initial=max(labels.shape))
        (seam, pairs), (inside, others) = (
            _changes(labels, axis, at) for at in (borders, lines[away > grid.overlap_px])
        )
        if pairs and others:
            total += pairs
            weighted += pairs * (seam / pairs - inside / others)
    return weighted / total if total else None


def _changes(labels: Labels, axis: int, lines: NDArray[np.intp]) -> tuple[int, int]:
    """Return changes across lines, and pairs of valid pixels there."""
    one, two = (np.take(labels, lines - step, axis) for step in (1, 0))
    valid = (one != NO_CLASS) & (two != NO_CLASS)
    return int(((one != two) & valid).sum()), int(valid.sum())


def summarise(runs: Sequence[dict[str, Any]]) -> str:
    """Return one row for each run."""
    told = ("scene", "seed", "blocks", "k", "way")
    rows = [[*(run[c] for c in told), *(run.get(c) for c in COLUMNS)] for run in runs]
    return format_table([*told, *(c.replace("_", " ") for c in COLUMNS)], rows)


if __name__ == "__main__":
    sys.exit(main())
