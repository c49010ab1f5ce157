"""Simulated mosaics: ids given by our solver, by plain baselines and by an oracle, against the truth.

Baselines are told the true number of classes where they can use it; our solver is run without it, and with it.
"""

from __future__ import annotations

import statistics
import sys
import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from benchmarks.align.baselines import BASELINES, Ids
from benchmarks.align.simulator import NODATA, SCENARIOS, STRESS, Mosaic, simulate
from benchmarks.report import begin_record, describe_run, format_table, parser, write_record
from benchmarks.scores import adjusted_rand, count_pairs
from pipeline.align import align
from pipeline.metrics import effective_classes, seams

_NO_ID = 65535
SEEDS = (101, 102, 103, 104, 105)
FIGURES = ("node_ari", "pixel_ari", "ids", "ids_effective", "seam_excess", "overlap_disagreement", "seconds")
NOTE = (
    "Node ARI: nodes weighted by pixels, the class of a node is that of most of its pixels; mean over seeds [least]. "
    "The oracle gives every node its class. Seam excess alone can be had by giving everything one id: read it beside "
    "the node ARI and the ids in use."
)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run what the command line asks for."""
    options = parser("align", __doc__)
    known = SCENARIOS | STRESS
    scenarios_help = f"of {', '.join(known)}; default the first {len(SCENARIOS)}"
    options.add_argument("--blocks", type=int, metavar="N", help="blocks on a side (24; quick 12)")
    options.add_argument("--block-px", type=int, default=32, metavar="PX", help="side of a block (32)")
    options.add_argument("--classes", type=int, metavar="N", help="true classes, instead of the scenario's")
    options.add_argument("--seeds", type=int, nargs="+", metavar="S", help=f"seeds (quick {SEEDS[:2]}, else {SEEDS})")
    options.add_argument("--scenarios", nargs="+", choices=known, default=list(SCENARIOS), help=scenarios_help)
    options.add_argument("--methods", nargs="+", choices=list(methods()), default=list(methods()), help="default all")
    asked = options.parse_args(arguments)
    blocks = asked.blocks or (12 if asked.quick else 24)
    seeds = asked.seeds or list(SEEDS[:2] if asked.quick else SEEDS)
    settings = {"quick": asked.quick, "blocks": blocks, "scenarios": asked.scenarios}
    settings |= {"methods": asked.methods, "block_px": asked.block_px, "classes": asked.classes}
    record = begin_record("align", settings | {"seeds": seeds})
    record["runs"] = runs = []
    for scenario in asked.scenarios:
        for seed in seeds:
            mosaic = simulate((blocks, blocks), known[scenario], seed, classes=asked.classes, block_px=asked.block_px)
            told = {"scenario": scenario, "seed": seed}
            runs += [told | {"method": name} | measure(mosaic, name, seed) for name in asked.methods]
        print(f"{scenario}: {len(seeds)} mosaics of {blocks} x {blocks} blocks done", file=sys.stderr, flush=True)
        write_record(asked.json, record)
    what = f"{blocks} x {blocks} blocks of {asked.block_px} px, seeds {seeds}"
    text = f"{summarise(runs)}\n\n{NOTE}\n\n{what}. {describe_run(record)}"
    print(text)
    if asked.markdown:
        asked.markdown.write_text(text + "\n")
    return 0


def methods() -> dict[str, Callable[[Mosaic, int], Ids]]:
    """Return all ways to give ids to the nodes of a mosaic, ours first and the oracle last."""

    def baseline(name: str) -> Callable[[Mosaic, int], Ids]:
        return lambda mosaic, seed: BASELINES[name](mosaic.signatures, mosaic.overlaps, mosaic.classes, seed)

    return {
        "ktex, K found": lambda mosaic, seed: _solve(mosaic, None, seed),
        "ktex, K given": lambda mosaic, seed: _solve(mosaic, mosaic.classes, seed),
        **{name: baseline(name) for name in BASELINES},
        "oracle": lambda mosaic, seed: mosaic.node_truth,
    }


def measure(mosaic: Mosaic, method: str, seed: int) -> dict[str, float]:
    """Give ids by a method and score them; see `FIGURES`."""
    begun = time.perf_counter()
    ids = methods()[method](mosaic, seed)
    seconds = time.perf_counter() - begun
    given = np.concatenate([ids[s.index] for s in mosaic.signatures])
    true = np.concatenate([mosaic.node_truth[s.index] for s in mosaic.signatures])
    pixels = np.concatenate([s.pixels for s in mosaic.signatures])
    map_, there = _paint(mosaic, ids), mosaic.truth != NODATA
    different = sum(int(o.table[ids[o.a][:, None] != ids[o.b]].sum()) for o in mosaic.overlaps)
    shared = sum(int(o.table.sum()) for o in mosaic.overlaps)
    excess = seams(lambda window: map_[window.slices], mosaic.grid, nodata=_NO_ID).seam_excess
    return {
        "node_ari": float(adjusted_rand(count_pairs(given, true, pixels))),
        "pixel_ari": float(adjusted_rand(count_pairs(map_[there], mosaic.truth[there]))),
        "ids": float(len(np.unique(given))),
        "ids_effective": effective_classes(np.bincount(given, pixels)),
        "seam_excess": float("nan") if excess is None else excess,
        "overlap_disagreement": different / max(shared, 1),
        "seconds": seconds,
    }


def summarise(runs: Sequence[dict[str, Any]]) -> str:
    """Return the table over seeds: one row for each scenario and method."""
    rows = []
    for scenario in dict.fromkeys(run["scenario"] for run in runs):
        for method in dict.fromkeys(run["method"] for run in runs):
            of = [run for run in runs if run["scenario"] == scenario and run["method"] == method]
            mean = {figure: statistics.fmean(run[figure] for run in of) for figure in FIGURES}
            ids = ",".join(f"{run['ids']:.0f}" for run in of)
            rows.append(
                [
                    scenario,
                    method,
                    f"{mean['node_ari']:.3f} [{min(run['node_ari'] for run in of):.3f}]",
                    mean["pixel_ari"],
                    ids if len(ids) <= 15 else f"{mean['ids']:.0f} on average",
                    f"{mean['ids_effective']:.1f}",
                    mean["seam_excess"],
                    mean["overlap_disagreement"],
                    f"{mean['seconds']:.2f}",
                ]
            )
    columns = ["scenario", "method", "node ARI [min]", "pixel ARI", "K", "K effective", "seam excess"]
    return format_table([*columns, "overlaps differ", "seconds"], rows)


def _solve(mosaic: Mosaic, classes: int | None, seed: int) -> Ids:
    found = align(mosaic.signatures, mosaic.overlaps, classes=classes, seed=seed)
    return {s.index: found.lookup[s.index][s.ids].astype(np.intp) for s in mosaic.signatures}


def _paint(mosaic: Mosaic, ids: Ids) -> np.ndarray:
    """Return the map ``(y, x)`` uint16 of the cores, 65535 where there is no id."""
    painted = np.full(mosaic.grid.shape, _NO_ID, np.uint16)
    for signature in mosaic.signatures:
        block = mosaic.grid.block(signature.index)
        lookup = np.full(256, _NO_ID, np.int64)
        lookup[signature.ids] = ids[signature.index]
        core = block.core.relative_to(block.wide)
        painted[block.core.slices] = lookup[mosaic.labels[signature.index][core.slices]]
    return painted


if __name__ == "__main__":
    sys.exit(main())
