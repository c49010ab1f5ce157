"""The books of very many blocks: real submission, real markers and keys; only the work itself is left out.

Two pools hold the blocks: one of workers that exist on paper, with a clock that is moved, and, for as many blocks as
asked, a real Dask scheduler with workers in this process.
"""

from __future__ import annotations

import heapq
import random
import resource
import tempfile
import time
from collections.abc import Callable, Hashable, Iterable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
from affine import Affine
from odc.geo.geobox import GeoBox

from ktex_model import radiometry
from pipeline import Settings
from pipeline.bands import parse_bands
from pipeline.blocks import Block, BlockGrid, Window
from pipeline.engine import Limits, Outcome
from pipeline.engine.submission import Ended, drive
from pipeline.mosaic import MosaicScene, Placement, Tile
from pipeline.pixels import InputFile
from pipeline.plan import Plan
from pipeline.predict import is_predicted, prediction_key
from pipeline.rasterfile import ImageFile
from pipeline.running import Run, StageBooks, work_through
from pipeline.workspace import Folders

BLOCK_PX, QUAD_PX = 2048, 4096


@dataclass
class PaperPool:
    """Workers that take a random time for a block, by a clock that is moved to the next end."""

    slots: int
    work: Callable[[Any], Any]
    now: float = 0.0
    _ends: list[tuple[float, int, Any]] = field(default_factory=list)
    _tickets: int = 0
    _rng: random.Random = field(default_factory=lambda: random.Random(0))

    def submit(self, item: Any) -> Hashable:
        """Let a worker begin with an item."""
        self._tickets += 1
        heapq.heappush(self._ends, (self.now + self._rng.uniform(20, 60), self._tickets, item))
        return self._tickets

    def wait(self, timeout_s: float) -> list[Ended]:
        """Move the clock to the next end; the item's record is made there."""
        self.now, ticket, item = heapq.heappop(self._ends)
        return [Ended(ticket, self.work(item))]

    def abandon(self, ticket: Hashable) -> None:
        """Nothing is ever given up here."""


class PaperEngine:
    """An engine on paper."""

    def __init__(self, workers: int) -> None:
        self.workers = workers
        self.longest_s = 0.0

    def map(
        self, function: Callable[[Any], Any], items: Iterable[Any], *, retries: int = 1
    ) -> Iterator[Outcome[Any, Any]]:
        """Yield outcomes, and note the longest time between two of them."""
        pool = PaperPool(self.workers, function)
        last = time.perf_counter()
        for outcome in drive(pool, items, retries=retries, limits=Limits(), clock=lambda: pool.now):
            now = time.perf_counter()
            self.longest_s, last = max(self.longest_s, now - last), now
            yield outcome
            last = time.perf_counter()


def make_plan(blocks: int, folder: Path) -> Plan:
    """Return the plan of a country: so many blocks, over quads that exist on paper."""
    side = int(np.ceil(np.sqrt(blocks)))
    shape = -(-blocks // side) * BLOCK_PX, side * BLOCK_PX
    bands = parse_bands("R=1,G=2,B=3,N=4")
    corners = [(y, x) for y in range(0, shape[0], QUAD_PX) for x in range(0, shape[1], QUAD_PX)]
    files = (ImageFile(Path(f"/quads/{y:06d}-{x:06d}.tif"), (QUAD_PX, QUAD_PX), bands) for y, x in corners)
    places = (Placement(Window(y, x, y + QUAD_PX, x + QUAD_PX)) for y, x in corners)
    tiles = tuple(Tile(file, place) for file, place in zip(files, places, strict=True))
    scene = MosaicScene(
        GeoBox(shape, Affine(5, 0, 0, 0, -5, 0), "EPSG:3857"), ("R", "G", "B", "N"), np.dtype("uint16"), tiles
    )
    inputs = {str(t.file.path): InputFile(str(t.file.path), 1, f"{i:064x}") for i, t in enumerate(tiles)}
    given = SimpleNamespace(digest="0" * 64, directory=folder, k=6)
    return Plan(
        scene, BlockGrid(shape, BLOCK_PX, context_px=16), radiometry.reflectance(4), Settings(mode="global"),
        Folders(folder), given, inputs, "books",  # type: ignore[arg-type]
    )  # fmt: skip


def pretend(plan: Plan, block: Block) -> dict[str, Any]:
    """Leave what a labelled block leaves for the books: its key, its counts, its marker."""
    record = {
        "pixels": block.core.size, "counts": [7] * 6, "measured": [7] * 6, "sums": [[1.5] * 6] * 4,
        "key": prediction_key(plan, block),
        "peak_rss_bytes": 1, "costs": {"read": [1.0, 1.0], "predict": [2.0, 2.0], "write": [0.1, 0.1]},
    }  # fmt: skip
    plan.folders.mark("predict", block.name, record)
    return record


def rss_bytes() -> int:
    """Return the resident memory of this process now."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * resource.getpagesize()


def keep_books(blocks: int, workers: int) -> dict[str, float]:
    """Carry `blocks` through submission and books twice: all to do, then all done. Times are wall seconds."""
    with tempfile.TemporaryDirectory() as folder:
        plan = make_plan(blocks, Path(folder))
        run = Run(plan, SimpleNamespace(is_published=False), {}, datetime.now(UTC))  # type: ignore[arg-type]
        engine, before = PaperEngine(workers), rss_bytes()
        work, found = partial(pretend, plan), {"blocks": float(len(plan.grid)), "workers": float(workers)}
        for name in ("new", "resumed"):
            books, cpu, start = StageBooks(name), time.process_time(), time.perf_counter()
            reused = work_through(
                run, engine, work, plan.grid, len(plan.grid), lambda done, total: None,
                is_done=partial(is_predicted, plan), enter=books.enter, stage_of=lambda _: "predict",
            )  # fmt: skip
            assert books.done + reused == len(plan.grid), (books.done, reused)
            found[f"{name}_ms_per_block"] = 1e3 * (time.perf_counter() - start) / len(plan.grid)
            found[f"{name}_cpu_ms_per_block"] = 1e3 * (time.process_time() - cpu) / len(plan.grid)
        found["memory_growth_bytes"] = float(rss_bytes() - before)
        found["longest_stall_s"] = engine.longest_s
    return found


def record_only(block: Block) -> dict[str, Any]:
    """Return what the books of a stage ask for."""
    return {"pixels": block.core.size, "peak_rss_bytes": 1}


def keep_books_with_dask(blocks: int, workers: int) -> dict[str, float]:
    """Carry `blocks` through a real scheduler with `workers` in this process; their work is to return a record."""
    import dask
    from distributed import Client, LocalCluster

    from pipeline.engine.cluster import DaskEngine

    began = time.perf_counter()
    quiet = {"distributed.worker.memory.target": False, "distributed.worker.memory.spill": False,
             "distributed.worker.memory.pause": False, "distributed.worker.profile.enabled": False,
             "distributed.admin.system-monitor.interval": "60s"}  # fmt: skip
    with (
        dask.config.set(quiet),
        LocalCluster(
            n_workers=workers, threads_per_worker=1, processes=False, memory_limit=0, dashboard_address=None,
            worker_dashboard_address=None, silence_logs=50,
        ) as cluster,
        Client(cluster, set_as_default=False) as client,
    ):  # fmt: skip
        startup = time.perf_counter() - began
        engine, before = DaskEngine(client), rss_bytes()
        grid = BlockGrid((blocks, 1), 1)
        cpu, start, last, longest, ended = time.process_time(), time.perf_counter(), time.perf_counter(), 0.0, 0
        for outcome in engine.map(record_only, grid):
            assert outcome.error is None, outcome.error
            now = time.perf_counter()
            longest, last, ended = max(longest, now - last), now, ended + 1
        return {
            "blocks": float(ended), "workers": float(workers), "startup_s": startup,
            "ms_per_block": 1e3 * (time.perf_counter() - start) / ended,
            "cpu_ms_per_block": 1e3 * (time.process_time() - cpu) / ended,
            "memory_growth_bytes": float(rss_bytes() - before), "longest_stall_s": longest,
        }  # fmt: skip
