"""What training and prediction cost: seconds by stage, the published preset beside ours, rates beside the machine's.

All seconds are CPU seconds of one process with a worker's environment, so one thread; what else runs on the machine
counts little then. Wall time is noted.
"""

from __future__ import annotations

import math
import os
import sys
import time
from collections.abc import Sequence
from typing import Any

import numpy as np

import ktex_model
from benchmarks.quality.scenes import make_scene
from benchmarks.rates import Rates, clocked, count_work, measure_beside
from benchmarks.report import begin_record, describe_run, format_table, parser, write_record
from ktex_model import PaperConfig, Sample, TextureConfig
from pipeline.engine.environment import SINGLE_THREADED

QUICK_PX, FULL_PX = 512, 1024
PUBLISHED_PASSES = 10_240
LIMIT_SECONDS, LEAST_MPX, LEAST_RATIO, MOST_OVER = 150.0, 3.0, 100.0, 1.5
CORES = 2


def main(arguments: Sequence[str] | None = None) -> int:
    """Run what the command line asks for."""
    options = parser("train", __doc__)
    options.add_argument("--size-px", type=int, metavar="N", help=f"side of the scene ({FULL_PX}; quick {QUICK_PX})")
    asked = options.parse_args(arguments)
    side = asked.size_px or (QUICK_PX if asked.quick else FULL_PX)
    record = begin_record("train", {"size_px": side, "quick": asked.quick})
    scene = make_scene("shared", side)
    sample = Sample(scene.images[0], scene.valids[0])
    config = TextureConfig(k=scene.k, bands=4)
    first, model = time_training(sample, config, seed=0)
    again, _ = time_training(sample, config, seed=1)
    record["training"] = {"first": first, "again": again}
    record["paper"] = time_paper(sample, scene.k)
    record["paper"]["ratio"] = record["paper"]["extrapolated_seconds"] / first["seconds"]
    record["prediction"] = time_prediction(model, sample)
    write_record(asked.json, record)
    text = format_report(record)
    print(text)
    if asked.markdown:
        asked.markdown.write_text(text + "\n")
    return 0


def time_training(sample: Sample, config: TextureConfig, seed: int) -> tuple[dict[str, Any], Any]:
    """Train once; returns seconds in all and by stage, and the model."""
    import keras  # noqa: F401  the time to import is not training's

    from ktex_model.texture.distillation import STEPS_AT_ONCE

    marks: list[float] = []
    trained, cpu, wall = clocked(
        lambda: ktex_model.train([sample], config, seed, lambda *_: marks.append(time.process_time()))
    )
    calls = np.diff(marks[-math.ceil(config.steps / STEPS_AT_ONCE) :])
    stages = {str(stage["name"]): float(str(stage["seconds"])) for stage in trained.history.stages}
    agreement = next(stage["agreement"] for stage in trained.history.stages if stage["name"] == "network")
    return {
        "seconds": cpu,
        "wall_seconds": wall,
        "stages_wall_seconds": stages,
        "network_steps_seconds": float(calls.sum()),
        "median_step_seconds": float(np.median(calls)) / STEPS_AT_ONCE,
        "network_agreement": agreement,
    }, trained.model


def time_paper(sample: Sample, k: int) -> dict[str, float]:
    """Time one pass of the published preset over the same pixels; its first pass, which compiles, is left out."""
    config = PaperConfig(
        k=k, bands=4, imagenet_weights="none", epochs=3, autoencoder_steps=1, batch_tiles=8, recompute_statistics=False
    )
    marks: list[float] = []
    ktex_model.train([sample], config, 0, lambda *_: marks.append(time.process_time()))
    seconds = float(np.median(np.diff(marks)))
    return {"pass_seconds": seconds, "extrapolated_seconds": seconds * PUBLISHED_PASSES}


def time_prediction(model: Any, sample: Sample, repeats: int = 25) -> dict[str, Any]:
    """Time prediction of the scene with its model, beside what the machine could do at best in the same run."""
    from ktex_model.texture.prediction import compile_tile, get_limit
    from ktex_model.texture.tiles import tile_side

    image, valid = sample.image, sample.valid
    rates, cpu = measure_beside(lambda: model.predict(image, valid), 1024, 1 << 24, repeats=repeats)
    side = tile_side([len(valid)], get_limit(model.config.architecture).side, model.context_px)
    tiles = (-(-len(valid) // side)) ** 2
    work = count_work(compile_tile(model.config.architecture, (side, side)).network)
    return {
        "mpx_per_cpu_second": valid.size / cpu / 1e6,
        "seconds": cpu,
        "tile_px": side,
        "multiply_adds_per_pixel": work.multiply_adds * tiles / valid.size,
        "bytes_per_pixel": work.bytes * tiles / valid.size,
        "rates": vars(rates),
        **_least(work.multiply_adds * tiles, work.bytes * tiles, rates, cpu),
    }


def _least(multiply_adds: int, size: int, rates: Rates, seconds: float) -> dict[str, float]:
    arithmetic, traffic = multiply_adds / rates.multiply_adds, size / rates.bytes
    return {
        "multiply_add_seconds": arithmetic,
        "traffic_seconds": traffic,
        "over_the_larger": seconds / max(arithmetic, traffic),
    }


def format_report(record: dict[str, Any]) -> str:
    """Return tables of all figures."""
    first, again = record["training"]["first"], record["training"]["again"]
    paper, prediction = record["paper"], record["prediction"]
    two_cores = CORES * prediction["mpx_per_cpu_second"]
    held = [
        ("training, CPU s (also wall s, were both cores free and one used)", first["seconds"], LIMIT_SECONDS, True),
        ("`paper`, times as long", paper["ratio"], LEAST_RATIO, False),
        (f"prediction, Mpx/s on {CORES} cores, a process each", two_cores, LEAST_MPX, False),
        ("prediction over the larger of arithmetic and traffic", prediction["over_the_larger"], MOST_OVER, True),
    ]
    rows = [
        [name, float(value), ("at most " if most else "at least ") + f"{limit:g}", "yes" if ok else "no"]
        for name, value, limit, most in held
        for ok in [value <= limit if most else value >= limit]
    ]
    stages = [
        [name, first["stages_wall_seconds"][name], again["stages_wall_seconds"].get(name)] for name in _names(first)
    ]
    stages += [
        ["CPU s in all", first["seconds"], again["seconds"]],
        [
            "CPU s of the network's steps but the first 20",
            first["network_steps_seconds"],
            again["network_steps_seconds"],
        ],
        ["agreement of the network with the assignment", first["network_agreement"], again["network_agreement"]],
    ]
    costs = [[name, float(value)] for name, value in prediction.items() if not isinstance(value, dict)]
    costs += [
        ["multiply-adds, 10^9/s measured", prediction["rates"]["multiply_adds"] / 1e9],
        ["copy, GB/s measured", prediction["rates"]["bytes"] / 1e9],
        ["`paper`, CPU s a pass", paper["pass_seconds"]],
        [f"`paper`, hours for {PUBLISHED_PASSES:,} passes, extrapolated", paper["extrapolated_seconds"] / 3600],
    ]
    size = record["settings"]["size_px"]
    return "\n\n".join(
        [
            f"### {size} x {size} px, k = 6",
            format_table(["what", "found", "wanted", "holds"], rows),
            "#### Training: wall seconds of each stage",
            format_table(["stage", "first model", "second in the process"], stages),
            "#### Prediction, and the published preset",
            format_table(["what", "found"], costs),
            describe_run(record),
        ]
    )


def _names(training: dict[str, Any]) -> list[str]:
    return list(training["stages_wall_seconds"])


if __name__ == "__main__":
    if any(os.environ.get(name) != value for name, value in SINGLE_THREADED.items()):
        # Begun again, because libraries and the allocator read their environment at the start.
        os.execve(sys.executable, sys.orig_argv, os.environ | SINGLE_THREADED)
    sys.exit(main())
