"""Measure a run at scale. Sections: apply (time against what must be), size (time and memory), parity, books."""

from __future__ import annotations

import statistics
import tempfile
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.report import begin_record, describe_run, format_table, parser, write_record
from benchmarks.scale.alone import measure_alone
from benchmarks.scale.books import keep_books, keep_books_with_dask
from benchmarks.scale.measure import apply
from benchmarks.scale.scenes import make_model, make_quads

Table = tuple[str, list[str], list[list[object]]]

GB = 1e9


def measure_apply(folder: Path, quick: bool, side: int | None = None) -> tuple[dict[str, Any], list[Table]]:
    """Compare the wall time of a run with half the CPU time of reading, model and writing alone; 1 worker with 2.

    A run has as many cores as workers. What is done alone is done by two processes at once, too: whatever cores take
    from each other, no run of two workers can do without.
    """
    usual, block_px, repeats = (4096, 1024, 1) if quick else (10_240, 2048, 3)
    side = side or usual
    scene, model = make_quads(folder / f"scene-{side}", side), make_model(folder, quick=quick)
    runs: dict[int, list[dict[str, Any]]] = {1: [], 2: []}
    alone, beside = [], []
    for _ in range(repeats):  # in turn, so that a busy moment of the machine meets all alike
        alone.append(measure_alone(scene, model, folder, block_px=block_px))
        with ThreadPoolExecutor(2) as pool:
            beside.append([*pool.map(lambda _: measure_alone(scene, model, folder, block_px=block_px), range(2))])
        for workers, found in runs.items():
            found.append(apply(scene, model, folder / "out", workers=workers, block_px=block_px))
    must = [sum(each.values()) / 2 for each in alone]
    wall = {workers: [each["wall_s"] for each in found] for workers, found in runs.items()}
    ratio = statistics.median(w / m for w, m in zip(wall[2], must, strict=True))
    written = statistics.median(each["written_s"] / m for each, m in zip(runs[2], must, strict=True))
    cpu = statistics.median(each["cpu_s"] / (2 * m) for each, m in zip(runs[2], must, strict=True))
    speedup = statistics.median(a / b for a, b in zip(wall[1], wall[2], strict=True))
    shared = statistics.median(
        sum(sum(each.values()) for each in both) / (4 * m) for both, m in zip(beside, must, strict=True)
    )
    halo = runs[2][0]["halo_overhead"]
    limits: list[list[object]] = [
        ["wall / ((model + read + write CPU) / 2)", ratio, "<= 1.15"],
        ["the same until all is written, before report and publication", written, "-"],
        ["CPU of all processes / (model + read + write CPU)", cpu, "-"],
        ["model + read + write CPU of two processes at once / of one", shared, "-"],
        ["halo overhead", halo, "<= 0.05"],
        ["throughput of 2 workers on 2 cores / 1 on 1", speedup, ">= 1.8"],
    ]
    figures = {
        "side_px": side,
        "runs": runs,
        "alone_cpu_s": alone,
        "two_alone_cpu_s": beside,
        "ratio": ratio,
        "speedup": speedup,
        "halo": halo,
    }
    figures |= {"written_ratio": written, "cpu_ratio": cpu}
    return figures, [("limits", ["what", "measured", "limit"], limits), _split(runs[2][0])]


def _split(found: dict[str, Any]) -> Table:
    """Return what one run took, by stage and kind of work."""
    rows: list[list[object]] = [["start-up", kind, None, None, s] for kind, s in found["startup_s"].items()]
    halo = found["halo_overhead"] / (1 + found["halo_overhead"])
    for stage, seconds in found["stages_s"].items():
        rows.append([stage, "stage", None, found["stages_cpu_s"].get(stage), seconds])
        for kind, cost in found["work"].get(stage, {}).items():
            rows.append([stage, kind, cost["wall"], cost["cpu"], None])
            if stage == "predict" and kind in {"read", "predict"}:
                rows.append([stage, f"{kind}: halo", cost["wall"] * halo, cost["cpu"] * halo, None])
    columns = ["stage", "work", "wall s, all workers", "CPU s, all workers", "wall s of the run"]
    return "where the time of one run with 2 workers goes", columns, rows


def measure_size(folder: Path, quick: bool) -> tuple[dict[str, Any], list[Table]]:
    """Compare time and memory of scenes of which one has 4 and 16 times the pixels of the smallest."""
    sides, block_px, repeats = ((2048, 4096), 512, 1) if quick else ((5120, 10_240, 20_480), 1024, 3)
    model = make_model(folder, quick=quick)
    found: dict[int, list[dict[str, Any]]] = {}
    for side in sides:
        scene = make_quads(folder / f"scene-{side}", side)
        times = 1 if side == max(sides) and not quick else repeats
        found[side] = [apply(scene, model, folder / "out", workers=2, block_px=block_px) for _ in range(times)]
    wall = {side: statistics.median(each["wall_s"] for each in runs) for side, runs in found.items()}
    peak = {side: max(each["peak_worker_bytes"] for each in runs) for side, runs in found.items()}
    main = {side: max(each["peak_main_bytes"] for each in runs) for side, runs in found.items()}
    small, large = min(sides), max(sides)
    projected = found[large][0]["projected_worker_bytes"]
    rows: list[list[object]] = [
        [f"{side**2 / 1e6:.0f}", wall[side], peak[side] / GB, main[side] / GB, projected / GB] for side in sides
    ]
    limits: list[list[object]] = [
        *([f"time of {b**2 / 1e6:.0f} Mpx / {a**2 / 1e6:.0f} Mpx", wall[b] / wall[a], "<= 4.2"]
          for a, b in pairwise(sides)),
        ["peak of a worker, largest / smallest", peak[large] / peak[small], "<= 1.15"],
        ["peak of the main process, largest / smallest", main[large] / main[small], "<= 1.15"],
        ["peak of a worker / projection", peak[large] / projected, "<= 1"],
    ]  # fmt: skip
    columns = ["Mpx", "wall s", "peak of a worker GB", "peak of the main process GB", "projected for a worker GB"]
    return {"runs": found}, [("sizes", columns, rows), ("limits", ["what", "measured", "limit"], limits)]


def measure_parity(folder: Path, quick: bool) -> tuple[dict[str, Any], list[Table]]:
    """Compare labels of divisions into blocks, worker counts and engines, pixel by pixel."""
    side = 1536 if quick else 3072
    scene, model = make_quads(folder / f"scene-{side}", side), make_model(folder, quick=quick)
    reference, rows = None, list[list[object]]()
    for workers, block_px, engine in (
        (1, 512, "serial"), (1, 1024, "processes"), (2, 512, "processes"), (2, 2048, "processes"),
    ):  # fmt: skip
        apply(scene, model, folder / "out", workers=workers, block_px=block_px, engine=engine)
        labels = read_labels(folder / "out")
        reference = labels if reference is None else reference
        rows.append([block_px, workers, engine, float((labels == reference).mean()), "1 (at least 0.9999)"])
    return {"rows": rows}, [("parity", ["block px", "workers", "engine", "share of equal pixels", "limit"], rows)]


def read_labels(out: Path) -> np.ndarray[Any, np.dtype[np.uint8]]:
    """Return the published labels."""
    import zarr

    group: Any = zarr.open_group(out / "labels.zarr", mode="r")
    return np.asarray(group["labels"][:])


def measure_books(_: Path, quick: bool) -> tuple[dict[str, Any], list[Table]]:
    """Take very many blocks through submission and books."""
    paper = keep_books(2000 if quick else 100_000, 100 if quick else 1000)
    real = keep_books_with_dask(1000 if quick else 100_000, 20 if quick else 1000)
    rows: list[list[object]] = [
        ["new run, on paper", paper["blocks"], paper["new_ms_per_block"], paper["new_cpu_ms_per_block"]],
        ["resumed run, on paper", paper["blocks"], paper["resumed_ms_per_block"], paper["resumed_cpu_ms_per_block"]],
        ["Dask, scheduler and workers in this process", real["blocks"], real["ms_per_block"], real["cpu_ms_per_block"]],
    ]
    limits: list[list[object]] = [
        ["books of a new run, ms a block", paper["new_ms_per_block"], "<= 5"],
        ["memory growth on paper, MB", paper["memory_growth_bytes"] / 1e6, "<= 300"],
        ["memory growth with Dask and its workers, MB", real["memory_growth_bytes"] / 1e6, "<= 300"],
        ["longest stall on paper, s", paper["longest_stall_s"], "<= 5"],
        ["longest stall with Dask, s", real["longest_stall_s"], "<= 30"],
    ]
    columns = ["pool", "blocks", "wall ms a block", "CPU ms a block"]
    return {"paper": paper, "dask": real}, [("books", columns, rows), ("limits", ["what", "measured", "limit"], limits)]


SECTIONS: dict[str, Callable[[Path, bool], tuple[dict[str, Any], list[Table]]]] = {
    "apply": measure_apply,
    "size": measure_size,
    "parity": measure_parity,
    "books": measure_books,
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the sections asked for."""
    options = parser("scale", __doc__ or "")
    options.add_argument("--section", choices=SECTIONS, action="append", help="which to run; default all")
    options.add_argument("--scratch", type=Path, metavar="DIR", help="where scenes and the model stay between calls")
    options.add_argument("--side", type=int, metavar="PX", help="of the scene of apply (10240; quick 4096)")
    asked = options.parse_args(arguments)
    sections = SECTIONS | {"apply": partial(measure_apply, side=asked.side)}
    record = begin_record("scale", {"quick": asked.quick, "sections": asked.section or list(SECTIONS)})
    said = []
    with tempfile.TemporaryDirectory() as temporary:
        folder = asked.scratch or Path(temporary)
        folder.mkdir(parents=True, exist_ok=True)
        for name in record["settings"]["sections"]:
            record[name], tables = sections[name](folder, asked.quick)
            for title, columns, rows in tables:
                said.append(f"### {name}: {title}\n\n{format_table(columns, rows)}\n")
                print(said[-1], flush=True)
            write_record(asked.json, record)
    said.append(describe_run(record))
    print(said[-1])
    if asked.markdown:
        asked.markdown.write_text("\n".join(said) + "\n")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
