"""How long the alignment of very many blocks takes, by step, and how much memory: one process, one core.

The mosaic is simulated first and its signatures and overlaps are written to a file; another process reads and aligns
them, so that its memory is that of the alignment and its input.
"""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np

from benchmarks.align.simulator import SCENARIOS, simulate
from benchmarks.report import begin_record, describe_run, format_table, parser, write_record
from benchmarks.scores import adjusted_rand, count_pairs
from pipeline.align import BlockSignature, Overlap, align, solve

STEPS = ("build", "_prepare", "_connect", "_cluster", "_tie", "_infer", "_number")
"""Steps of `pipeline.align.solve` whose CPU time is told."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run what the command line asks for."""
    options = parser("align.speed", __doc__)
    options.add_argument("--blocks", type=int, nargs="+", metavar="N", help="blocks on a side (100 316; quick 32)")
    options.add_argument(
        "--copies", type=int, nargs="+", metavar="C", default=[1], help="shifted copies, far apart (1)"
    )
    options.add_argument("--scenarios", nargs="+", choices=SCENARIOS, default=["std"])
    options.add_argument("--seed", type=int, default=11)
    options.add_argument("--keep", type=Path, metavar="DIR", help="keep simulated mosaics here, and use those kept")
    options.add_argument("--solve", type=Path, metavar="FILE", help="align a kept mosaic, print figures as JSON")
    asked = options.parse_args(arguments)
    if asked.solve:
        print(json.dumps(measure(asked.solve)))
        return 0
    sides = asked.blocks or ([32] if asked.quick else [100, 316])
    record = begin_record(
        "align.speed", {"blocks": sides, "scenarios": asked.scenarios, "seed": asked.seed, "copies": asked.copies}
    )
    record["runs"] = runs = []
    with tempfile.TemporaryDirectory() as temporary:
        folder = asked.keep or Path(temporary)
        folder.mkdir(parents=True, exist_ok=True)
        for scenario in asked.scenarios:
            for side in sides:
                path = folder / f"{scenario}-{side}-{asked.seed}.npz"
                if not path.exists():
                    write_mosaic(path, side, scenario, asked.seed)
                for copies in asked.copies:
                    runs.append({"scenario": scenario, "side": side, "copies": copies} | _measure_copies(path, copies))
                    write_record(asked.json, record)
    columns = ["scenario", "blocks", "nodes", "CPU s", "wall s", "peak MB", "node ARI", "K", *STEPS]
    text = f"{format_table(columns, [_row(run) for run in runs])}\n\n{describe_run(record)}"
    print(text)
    if asked.markdown:
        asked.markdown.write_text(text + "\n")
    return 0


def _row(run: dict[str, Any]) -> list[object]:
    steps = [f"{run['steps'].get(step, 0.0):.2f}" for step in STEPS]
    cost = [f"{run['cpu_seconds']:.1f}", f"{run['seconds']:.1f}", f"{run['peak_bytes'] / 1e6:.0f}"]
    return [run["scenario"], run["blocks"], run["nodes"], *cost, run["node_ari"], run["classes"], *steps]


def write_mosaic(path: Path, side: int, scenario: str, seed: int) -> None:
    """Simulate ``side x side`` blocks, and write what the alignment takes, and the truth, as flat arrays."""
    mosaic = simulate((side, side), SCENARIOS[scenario], seed)
    signatures, overlaps = mosaic.signatures, mosaic.overlaps
    partial = path.with_suffix(".partial.npz")
    np.savez(
        partial,
        index=np.array([s.index for s in signatures]),
        count=np.array([len(s.ids) for s in signatures]),
        **{name: np.concatenate([getattr(s, name) for s in signatures]) for name in _SIGNED},
        truth=np.concatenate([mosaic.node_truth[s.index] for s in signatures]),
        pair=np.array([(*o.a, *o.b) for o in overlaps]).reshape(-1, 4),
        table=np.concatenate([o.table.ravel() for o in overlaps]),
        delta=np.array([o.delta for o in overlaps]),
        weight=np.array([o.weight for o in overlaps]),
    )
    partial.replace(path)


def _measure_copies(path: Path, copies: int) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as folder:
        several = path if copies == 1 else Path(folder) / "copies.npz"
        if copies > 1:
            copy_mosaic(path, several, copies)
        return _solve_elsewhere(several)


def copy_mosaic(path: Path, to: Path, copies: int, seed: int = 5) -> None:
    """Write copies of a mosaic, side by side but not touching, the features of each moved by a step of its own.

    Simulating so many blocks takes longer than aligning them. The copies are one realisation: what is measured is
    time, memory and the registration of parts, not so many independent blocks.
    """
    with np.load(path, allow_pickle=False) as arrays:
        data = dict(arrays)
    rng = np.random.default_rng(seed)
    gap = int(np.ptp(data["index"], axis=0).max()) + 30
    parts: dict[str, list[np.ndarray]] = {name: [] for name in data}
    for copy in range(copies):
        away = np.array([copy // 5, copy % 5]) * gap
        step = 2 * rng.normal(size=data["features"].shape[1])
        moved = {
            "index": data["index"] + away,
            "pair": data["pair"] + np.concatenate([away, away]),
            "features": (data["features"] + step).astype(np.float32),
        }
        for name, values in (data | moved).items():
            parts[name].append(values)
    np.savez(to, **{name: np.concatenate(each) for name, each in parts.items()})


_SIGNED = ("ids", "pixels", "features", "spread")


def read_mosaic(path: Path) -> tuple[list[BlockSignature], list[Overlap], np.ndarray]:
    """Return signatures, overlaps, and the true class of each node."""
    with np.load(path, allow_pickle=False) as arrays:
        data = dict(arrays)
    ends = np.cumsum(data["count"])
    parts = [np.split(data[name], ends[:-1]) for name in _SIGNED]
    indices = [(int(y), int(x)) for y, x in data["index"]]
    signatures = [BlockSignature(index, *each) for index, *each in zip(indices, *parts, strict=True)]
    size = dict(zip(indices, data["count"].tolist(), strict=True))
    overlaps, start = [], 0
    for (ay, ax, by, bx), delta, weight in zip(data["pair"].tolist(), data["delta"], data["weight"], strict=True):
        shape = size[ay, ax], size[by, bx]
        table = data["table"][start : start + shape[0] * shape[1]].reshape(shape)
        overlaps.append(Overlap((ay, ax), (by, bx), table, delta, float(weight)))
        start += table.size
    return signatures, overlaps, data["truth"]


def measure(path: Path) -> dict[str, Any]:
    """Align a mosaic that was written, and say what that took."""
    signatures, overlaps, truth = read_mosaic(path)
    steps: dict[str, float] = {}
    begun, cpu = time.perf_counter(), time.process_time()
    with _clocked(steps):
        found = align(signatures, overlaps)
    seconds, cpu_seconds = time.perf_counter() - begun, time.process_time() - cpu
    given = np.concatenate([found.lookup[s.index][s.ids] for s in signatures])
    pixels = np.concatenate([s.pixels for s in signatures])
    return {
        "blocks": len(signatures),
        "nodes": len(truth),
        "overlaps": len(overlaps),
        "seconds": seconds,
        "cpu_seconds": cpu_seconds,
        "steps": steps,
        "peak_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
        "node_ari": float(adjusted_rand(count_pairs(given, truth, pixels))),
        "classes": len(found.classes),
    }


@contextmanager
def _clocked(steps: dict[str, float]) -> Iterator[None]:
    """Add up the CPU time of each step; what one step spends in another counts for both."""

    def clock(name: str) -> Callable[..., Any]:
        function = getattr(solve, name)

        def timed(*arguments: Any, **named: Any) -> Any:
            begun = time.process_time()
            try:
                return function(*arguments, **named)
            finally:
                steps[name] = steps.get(name, 0.0) + time.process_time() - begun

        return timed

    with patch.multiple(solve, **{name: clock(name) for name in STEPS}):
        yield


def _solve_elsewhere(path: Path) -> dict[str, Any]:
    """Align in a process of its own, which may use one thread."""
    one = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")
    command = [sys.executable, "-m", "benchmarks.align.speed", "--solve", str(path)]
    done = subprocess.run(command, capture_output=True, text=True, check=True, env={**os.environ, **one})
    found: dict[str, Any] = json.loads(done.stdout)
    return found


if __name__ == "__main__":
    sys.exit(main())
