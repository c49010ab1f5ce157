"""One measured run, in a process of its own, so that its memory and its CPU time are its own."""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ktex_model.model import Windows

BANDS = "R=3,G=2,B=1,N=4"


def apply(
    scene: Path, model: Path, out: Path, *, workers: int, block_px: int, engine: str = "processes"
) -> dict[str, Any]:
    """Apply a model in a fresh process and return what it measured."""
    command = [
        sys.executable, "-m", "benchmarks.scale.measure", str(scene), str(model), str(out),
        "--workers", str(workers), "--block-px", str(block_px), "--engine", engine,
    ]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)} failed: {done.stderr[-2000:]}")
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def confine(cores: int) -> None:
    """Keep this process and those that it starts to so many cores, if there are more: each worker has one to itself.

    A single worker would otherwise leave all that is not its own, such as the report, to a core that no other has.
    """
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:cores])


def compile_for(model: Any, windows: Windows) -> None:
    """Have a model compile the tile that all windows of a grid share, by labelling one pixel of the first."""
    import numpy as np

    shape = windows[0][0], windows[1][0]
    valid = np.zeros(shape, bool)
    valid[0, 0] = True
    model.predict(np.full((*shape, model.bands), 0.5, np.float32), valid, None, windows)


def warm_up(model: tuple[Path, str], windows: Windows, _: int) -> tuple[int, int]:
    """Load the model in a worker and label one tile of a block; returns process id and memory."""
    from pipeline.models import load_model
    from pipeline.train import peak_rss_bytes

    compile_for(load_model(*model), windows)
    time.sleep(0.5)  # so that no worker takes the turn of another
    return os.getpid(), peak_rss_bytes()


def family_cpu_s() -> float:
    """Return the CPU seconds that this process and its workers have taken so far."""
    import psutil

    me = psutil.Process()
    times = [each.cpu_times() for each in (me, *me.children(recursive=True))]
    return float(sum(each.user + each.system for each in times))


def measure(scene: Path, model: Path, out: Path, *, workers: int, block_px: int, engine: str) -> dict[str, Any]:
    """Apply a model on as many cores as there are workers.

    Returns wall seconds by stage, costs by phase, CPU seconds and peak memory in bytes.
    """
    from functools import partial

    from pipeline import Settings
    from pipeline.engine import open_engine
    from pipeline.plan import project_cost
    from pipeline.preparation import prepare
    from pipeline.run import STAGES

    confine(workers)
    settings = Settings(bands=BANDS, model=model, workers=workers, block_px=block_px, engine=engine)
    began = time.perf_counter()
    with prepare(scene, settings, out, fresh=True) as run:
        planned = time.perf_counter()
        with open_engine(run.plan.settings, run.log, run.capacity) as opened:
            given = run.plan.given
            assert given is not None
            warming = partial(warm_up, (given.directory, given.digest), run.plan.grid.windows)
            warm = list(opened.map(warming, range(2 * opened.workers)))
            assert all(outcome.error is None for outcome in warm), warm
            start, cpu, all_cpu = time.perf_counter(), time.process_time(), family_cpu_s()
            written_s, stages_cpu = 0.0, {}
            for stage in STAGES:
                before = family_cpu_s()
                stage(run, opened, lambda done, total: None)
                stages_cpu[stage.name] = family_cpu_s() - before
                written_s = time.perf_counter() - start if stage.name == "write" else written_s
            wall, own_cpu = time.perf_counter() - start, time.process_time() - cpu
            all_cpu = family_cpu_s() - all_cpu
        record, projected = run.result().record, project_cost(run.plan)
        slots = run.capacity.slots if run.capacity else 1
    labelled = next(stage for stage in record.stages if stage.name == "predict")
    return {
        "pixels": projected.pixels,
        "workers": workers,
        "block_px": block_px,
        "slots": slots,
        "startup_s": {"plan": planned - began, "engine": start - planned},
        "wall_s": wall,
        "stages_s": {stage.name: stage.seconds for stage in record.stages},
        "stages_cpu_s": stages_cpu,
        "work": {stage.name: {kind: cost.model_dump() for kind, cost in stage.work.items()} for stage in record.stages},
        "written_s": written_s,
        "main_cpu_s": own_cpu,
        "cpu_s": all_cpu,
        "halo_overhead": projected.halo_overhead,
        "peak_worker_bytes": max(labelled.peak_rss_bytes, *(outcome.result[1] for outcome in warm if outcome.result)),
        "peak_main_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
        "projected_worker_bytes": projected.worker_bytes(slots),
    }


def main() -> None:
    """Run one measurement and print it as JSON."""
    options = argparse.ArgumentParser(description=__doc__)
    for name in ("scene", "model", "out"):
        options.add_argument(name, type=Path)
    options.add_argument("--workers", type=int, required=True)
    options.add_argument("--block-px", type=int, required=True)
    options.add_argument("--engine", default="processes")
    given = options.parse_args()
    found = measure(
        given.scene, given.model, given.out, workers=given.workers, block_px=given.block_px, engine=given.engine
    )
    print(json.dumps(found))


if __name__ == "__main__":
    main()
