"""Whole runs on workers that share one GPU: trained block by block, trained once for a quad, and applied.

Each run is a process of its own with its own workers, as a user's is; what it measured is one line of JSON on standard
error as it ends. Needs Keras on a backend that sees a GPU; with ``--quick`` any will do, at small size:
KERAS_BACKEND=jax python -m benchmarks.gpu_run --json gpu_run.json
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.quality.scenes import K, make_scene
from benchmarks.report import begin_record, describe_run, format_table, parser, write_record
from benchmarks.scale.scenes import make_quads

BANDS = "R=1,G=2,B=3,N=4"
SCENE = "shared"
COMPILED = "JAX_COMPILATION_CACHE_DIR"
LIMIT_S = 900
"""What one run may take."""
REFUSED = "resources-refused"
"""The run that must fail."""
QUICK = {"steps": 20, "rounds": 3, "refine_rounds": 1, "texture_rounds": 1}


def write_scene(folder: Path, side_px: int) -> Path:
    """Write a made scene and its truth, ``scene.tif`` and ``truth.npy``; nothing where it is there already."""
    import rasterio
    from affine import Affine

    path = folder / f"{SCENE}-{side_px}" / "scene.tif"
    if path.exists():
        return path
    path.parent.mkdir(parents=True, exist_ok=True)
    scene = make_scene(SCENE, side_px, 0)
    np.save(path.parent / "truth.npy", scene.truths[0])
    profile = {
        "driver": "GTiff", "count": 4, "dtype": "uint16", "height": side_px, "width": side_px, "crs": "EPSG:32622",
        "transform": Affine(5, 0, 300_000, 0, -5, 9_600_000), "tiled": True, "blockxsize": 512, "blockysize": 512,
        "photometric": "MINISBLACK",
    }  # fmt: skip
    made = path.with_suffix(".partial")
    with rasterio.open(made, "w", **profile) as file:
        file.write((np.moveaxis(scene.images[0], 2, 0) * 10_000).round().clip(1, 10_000).astype(np.uint16))
    return made.rename(path)


def run_one(scene: Path, out: Path, settings: Mapping[str, Any]) -> dict[str, Any]:
    """Make one run in this process and its workers; returns wall seconds, those of the stages and of training, ARI."""
    began = time.perf_counter()
    import zarr

    from benchmarks.scores import adjusted_rand, count_pairs
    from pipeline import Settings, segment

    imported = time.perf_counter()
    result = segment(scene, Settings.parse({"keep_work": True, **settings}), out, fresh=True)
    wall = time.perf_counter() - imported
    record = result.record
    marks = [json.loads(path.read_text()) for path in sorted(out.glob(".ktex/done/train/*.json"))]
    found: dict[str, Any] = {
        "wall_s": wall,
        "import_s": imported - began,
        "state": record.state,
        "stages_s": {stage.name: stage.seconds for stage in record.stages},
        "work": {stage.name: {kind: cost.model_dump() for kind, cost in stage.work.items()} for stage in record.stages},
        "peak_rss_bytes": max(stage.peak_rss_bytes or 0 for stage in record.stages),
        "training_s": [
            {stage["name"]: stage["seconds"] for stage in mark["history"]["stages"]}
            for mark in marks
            if "history" in mark
        ],
    }
    group: Any = zarr.open_group(out / "labels.zarr", mode="r")
    labels = np.asarray(group["labels"][:])
    np.save(out.with_suffix(".npy"), labels)
    truth = scene.parent / "truth.npy"
    if truth.exists():
        known = np.load(truth)
        seen = (labels != 255) & (known != 255)
        found["ari"] = float(adjusted_rand(count_pairs(known[seen], labels[seen]))[()])
        found["classes"] = len(np.unique(labels[seen]))
    return found


def launch(
    name: str, scene: Path, folder: Path, settings: Mapping[str, Any], environment: Mapping[str, str] | None = None
) -> dict[str, Any]:
    """Make a run in a fresh process, watching the card; returns what it measured, or how it failed."""
    order = {"scene": str(scene), "out": str(folder / f"out-{name}"), "settings": dict(settings)}
    (folder / f"out-{name}.npy").unlink(missing_ok=True)
    command = [sys.executable, "-m", "benchmarks.gpu_run", "--one", json.dumps(order)]
    start = time.perf_counter()
    told: dict[str, Any] = {"run": name, "settings": dict(settings), "environment": dict(environment or {})}
    with watch_card() as card:
        try:
            done = subprocess.run(
                command, capture_output=True, text=True, check=False, timeout=LIMIT_S,
                env={**os.environ, **(environment or {})},
            )  # fmt: skip
        except subprocess.TimeoutExpired:
            return told | {"failed": f"did not end within {LIMIT_S} s"}
    told |= {"process_s": time.perf_counter() - start, **card}
    if done.returncode:
        told["failed"] = (done.stdout + done.stderr)[-3000:]
        print(json.dumps(told), file=sys.stderr, flush=True)
        return told
    measured: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    print(json.dumps(told | measured), file=sys.stderr, flush=True)
    return told | measured


@contextmanager
def watch_card() -> Iterator[dict[str, Any]]:
    """Look at memory and use of the first GPU, as ``nvidia-smi`` tells them, until the end; says nothing without."""
    found: dict[str, Any] = {}
    tool = shutil.which("nvidia-smi")
    if tool is None:
        yield found
        return
    what = ["--query-gpu=memory.used,utilization.gpu", "--format=csv,noheader,nounits"]
    command = [tool, *what, "-lms", "500", "-i", "0"]
    with tempfile.TemporaryFile("w+") as log:
        watcher = subprocess.Popen(command, stdout=log, stderr=subprocess.DEVNULL)
        try:
            yield found
        finally:
            watcher.terminate()
            watcher.wait()
            log.seek(0)
            looks = [line.split(",") for line in log.read().splitlines() if line.count(",") == 1]
    if looks:
        found["card_peak_mib"] = max(int(memory) for memory, _ in looks)
        found["card_use"] = statistics.mean(int(use) for _, use in looks) / 100


def measure_local(folder: Path, quick: bool, workers: Sequence[int]) -> list[dict[str, Any]]:
    """Train a model for each of 16 blocks of 512 px; the first run finds nothing compiled, the others what it left."""
    side, block_px = (256, 128) if quick else (2048, 512)
    scene = write_scene(folder, side)
    shutil.rmtree(_kept(folder)[COMPILED], ignore_errors=True)
    rows: list[dict[str, Any]] = []
    for count in workers:
        settings = {**_trained(quick), "mode": "local", "block_px": block_px, "chunk_px": block_px, "workers": count}
        rows.append(launch(f"local-{count}", scene, folder, settings, _kept(folder)))
        rows[-1]["same_labels"] = same_labels(folder, rows[0]["run"], rows[-1]["run"])
    return rows


def measure_quad(folder: Path, quick: bool, workers: Sequence[int]) -> list[dict[str, Any]]:
    """Train one model on a sample of one quad, and label it."""
    scene = write_scene(folder, 256 if quick else 4096)
    settings = {**_trained(quick), "mode": "global", "block_px": 128 if quick else 2048, "workers": min(4, *workers)}
    settings["chunk_px"] = 128 if quick else 512
    return [launch("quad", scene, folder, settings, _kept(folder))]


def measure_apply(folder: Path, quick: bool, workers: Sequence[int]) -> list[dict[str, Any]]:
    """Apply a model to some 100 Mpx in blocks of 2048 px."""
    return [_apply(folder, quick, f"apply-{count}", {"workers": count}) for count in workers]


def measure_memory(folder: Path, quick: bool, workers: Sequence[int]) -> list[dict[str, Any]]:
    """Apply a model with nearly none of the card's memory for each worker."""
    little = {"XLA_PYTHON_CLIENT_MEM_FRACTION": "0.005"}
    row = _apply(folder, quick, "apply-little", {"workers": workers[0]}, little)
    return [row | {"same_labels": same_labels(folder, f"apply-{workers[0]}", "apply-little")}]


def measure_cuda(folder: Path, quick: bool, workers: Sequence[int]) -> list[dict[str, Any]]:
    """Apply a model by dask-cuda, a process a GPU."""
    row = _apply(folder, quick, "apply-cuda", {"engine": "cuda"})
    return [row | {"same_labels": same_labels(folder, f"apply-{workers[0]}", "apply-cuda")}]


def _apply(
    folder: Path, quick: bool, name: str, more: Mapping[str, Any], environment: Mapping[str, str] | None = None
) -> dict[str, Any]:
    side = 512 if quick else 10_240
    scene = make_quads(folder / f"quads-{side}", side)
    models = sorted([*folder.glob("out-*/models/*"), *folder.glob("out-*/model")])
    if not models:
        raise FileNotFoundError("there must be a model to apply; run --section local or quad first, with --scratch")
    settings = {"model": str(models[0]), "block_px": 256 if quick else 2048, "bands": BANDS, "scaling": "reflectance"}
    settings |= {"chunk_px": 256 if quick else 512, **more}
    return launch(name, scene, folder, settings, {**_kept(folder), **(environment or {})}) | {"mpx": side * side / 1e6}


def _trained(quick: bool) -> dict[str, Any]:
    return {"k": K, "bands": BANDS, "scaling": "reflectance"} | ({"options": QUICK} if quick else {})


def _kept(folder: Path) -> dict[str, str]:
    return {COMPILED: str(folder / "compiled"), "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0"}


def measure_resources(folder: Path, quick: bool, workers: Sequence[int]) -> list[dict[str, Any]]:
    """Ask for GPU=1 where no worker offers it, and where workers do that were started as the docs say."""
    del quick, workers  # whether it is done counts here, not how fast
    scene = write_scene(folder, 256)
    settings = {**_trained(quick=True), "block_px": 128, "chunk_px": 128, "resources": {"GPU": 1}}
    rows = []
    for name, options in (("refused", []), ("taken", ["--resources", "GPU=1", "--preload", "pipeline.engine.preload"])):
        with started_cluster(folder, workers=2, options=options) as address:
            rows.append(launch(f"resources-{name}", scene, folder, settings | {"scheduler": address}))
    rows[0]["written"] = sorted(path.name for path in folder.glob(f"out-{REFUSED}/*"))
    return rows


@contextmanager
def started_cluster(folder: Path, workers: int, options: Sequence[str]) -> Iterator[str]:
    """Start a Dask scheduler and workers by hand, one process each, and end them."""
    file = folder / "scheduler.json"
    file.unlink(missing_ok=True)
    dask = [sys.executable, "-m", "dask"]
    common = ["--scheduler-file", str(file), "--no-dashboard"]
    commands = [[*dask, "scheduler", "--host", "127.0.0.1", "--port", "0", *common]]
    commands += [[*dask, "worker", "--nthreads", "1", "--local-directory", str(folder), *common, *options]] * workers
    with (folder / "cluster.log").open("a") as log:
        processes = [subprocess.Popen(command, stdout=log, stderr=log) for command in commands]
        try:
            yield _joined(file, workers)
        finally:
            for process in processes:
                process.terminate()
            for process in processes:
                process.wait(20)


def _joined(file: Path, workers: int) -> str:
    from distributed import Client

    for _ in range(600):
        if file.exists() and file.read_text().strip():
            break
        time.sleep(0.1)
    with Client(scheduler_file=str(file), set_as_default=False) as client:
        client.wait_for_workers(workers, timeout=60)
        return str(client.scheduler.address)


def same_labels(folder: Path, one: str, other: str) -> float | None:
    """Return the share of pixels with equal labels in two runs; None where one of them failed."""
    paths = [folder / f"out-{name}.npy" for name in (one, other)]
    if not all(path.exists() for path in paths):
        return None
    first, second = (np.load(path) for path in paths)
    return float((first == second).mean())


def main(arguments: Sequence[str] | None = None) -> int:
    """Run what the command line asks for."""
    options = parser("gpu_run", __doc__ or "")
    options.add_argument("--section", choices=SECTIONS, action="append", help="which to run; default all")
    options.add_argument("--workers", type=int, nargs="+", default=[4, 8], metavar="N", help="on one card (4 8)")
    options.add_argument("--scratch", type=Path, metavar="DIR", help="where scenes and runs stay between calls")
    options.add_argument("--one", type=json.loads, help=argparse.SUPPRESS)
    asked = options.parse_args(arguments)
    if asked.one is not None:
        print(json.dumps(run_one(Path(asked.one["scene"]), Path(asked.one["out"]), asked.one["settings"])))
        return 0
    record = begin_record("gpu_run", {"quick": asked.quick, "sections": asked.section or list(SECTIONS)})
    with tempfile.TemporaryDirectory() as temporary:
        folder = (asked.scratch or Path(temporary)).absolute()
        folder.mkdir(parents=True, exist_ok=True)
        for name in record["settings"]["sections"]:
            record[name] = SECTIONS[name](folder, asked.quick, asked.workers)
            print(f"### {name}\n\n{tabulate(record[name])}\n", flush=True)
            write_record(asked.json, record)
    print(describe_run(record))
    rows = [row for name in record["settings"]["sections"] for row in record[name]]
    return int(any("failed" in row for row in rows if row["run"] != REFUSED))


def tabulate(rows: Sequence[Mapping[str, Any]]) -> str:
    """Return a table of runs."""
    columns = ["run", "wall s", "train", "predict", "align", "write", "report", "ARI", "same labels", "card GB", "use"]
    lines: list[list[object]] = []
    for row in rows:
        if "failed" in row:
            lines.append([row["run"], row["failed"].strip().splitlines()[-1][:120], *[None] * (len(columns) - 2)])
            continue
        stages = row["stages_s"]
        lines.append(
            [row["run"], row["wall_s"]]
            + [stages.get(name) for name in ("train", "predict", "align", "write", "report")]
            + [row.get("ari"), row.get("same_labels"), row.get("card_peak_mib", 0) / 1024, row.get("card_use")]
        )
    return format_table(columns, lines)


SECTIONS: dict[str, Callable[[Path, bool, Sequence[int]], list[dict[str, Any]]]] = {
    "local": measure_local,
    "apply": measure_apply,
    "quad": measure_quad,
    "memory": measure_memory,
    "cuda": measure_cuda,
    "resources": measure_resources,
}


if __name__ == "__main__":
    sys.exit(main())
