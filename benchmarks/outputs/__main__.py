"""Make each output of maps of several sizes, each in a process of its own: time, and memory beyond the libraries."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.report import begin_record, describe_run, format_table, parser, read_peak_mib, write_record

STEPS = ("levels", "cog", "stac", "sieve", "polygons", "change")
SIDES = (5_000, 10_000)
QUICK_SIDES = (1_000, 2_000)
MMU_PX = 9


def make_run(folder: Path, side: int) -> None:
    """Publish a map of blobs of eight classes, 20 px wide, with a specked quarter."""
    from tests.pipeline.published import publish

    rng = np.random.default_rng(side)
    labels = np.kron(rng.integers(0, 8, (side // 20, side // 20), np.uint8), np.ones((20, 20), np.uint8))
    quarter = labels[: side // 2, : side // 2]
    specks = rng.random(quarter.shape) < 0.002
    quarter[specks] = rng.integers(0, 8, int(specks.sum()), np.uint8)
    publish(folder, labels, chunk_px=512)


def do_step(name: str, run: Path) -> dict[str, Any]:
    """Make one output; returns its wall and CPU seconds, and resident memory in MiB, before and at its highest."""
    from pipeline.change import compare
    from pipeline.cleanup import CleanUp
    from pipeline.cog import write_cog
    from pipeline.derived import clean
    from pipeline.levels import write_levels
    from pipeline.polygons import write_polygons
    from pipeline.results import open_result
    from pipeline.stac import write_item
    from pipeline.stores import LabelStore

    result = open_result(run)
    base, start, worked = read_peak_mib(), time.perf_counter(), time.process_time()
    match name:
        case "levels":
            write_levels(LabelStore.open(run / "labels.zarr", "r+"))
        case "cog":
            write_cog(LabelStore.open(run / "labels.zarr"), run / "labels.tif", legend=result.legend)
        case "stac":
            write_item(run)
        case "sieve":
            clean(result, run.with_name("cleaned"), CleanUp(mmu_px=MMU_PX))
            shutil.rmtree(run.with_name("cleaned"))
        case "polygons":
            write_polygons(result, run / "polygons.parquet")
        case "change":
            compare(result, result, run.with_name("change"))
            shutil.rmtree(run.with_name("change"))
    return {
        "seconds": time.perf_counter() - start,
        "cpu_seconds": time.process_time() - worked,
        "base_rss_mib": base,
        "peak_rss_mib": read_peak_mib(),
    }


def main(argv: Sequence[str] | None = None) -> int:
    """Run the benchmark, or parts of it."""
    options = parser("outputs", __doc__ or "")
    options.add_argument("--step", nargs=2, metavar=("NAME", "RUN"), help="one step, in this process")
    options.add_argument("--only", nargs="+", choices=STEPS, default=STEPS, metavar="NAME", help="these outputs alone")
    given = options.parse_args(argv)
    if given.step:
        print(json.dumps(do_step(given.step[0], Path(given.step[1]))))
        return 0
    sides = QUICK_SIDES if given.quick else SIDES
    record = begin_record("outputs", {"sides": sides, "mmu_px": MMU_PX})
    rows = []
    for side in sides:
        with tempfile.TemporaryDirectory() as folder:
            run = Path(folder) / "run"
            make_run(run, side)
            for step in given.only:
                command = [sys.executable, "-m", "benchmarks.outputs", "--step", step, str(run)]
                done = subprocess.run(command, capture_output=True, text=True, check=True)
                found = json.loads(done.stdout.splitlines()[-1])
                rows.append({"output": step, "mpx": side * side / 1e6, **found})
                print(rows[-1], file=sys.stderr, flush=True)
    record["rows"] = rows
    write_record(given.json, record)
    table = [
        [
            row["output"],
            f"{row['mpx']:.0f}",
            f"{row['seconds']:.1f}",
            f"{row['cpu_seconds']:.1f}",
            f"{row['peak_rss_mib'] - row['base_rss_mib']:.0f}",
        ]
        for row in rows
    ]
    columns = ["output", "Mpx", "seconds", "CPU seconds", "memory beyond the libraries, MiB"]
    text = f"{format_table(columns, table)}\n\n{describe_run(record)}\n"
    print(text)
    if given.markdown:
        given.markdown.write_text(text)
    return 0


if __name__ == "__main__":
    sys.exit(main())
