"""A run: the stages of the data path in their order, each driven over the blocks by an engine."""

from __future__ import annotations

import hashlib
import json
import logging
import os
import shutil
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any, Protocol, Self, TypeVar

import xarray as xr

from ktex_model.radiometry import Scaling
from pipeline.assemble import BEGUN, assemble_block, erase_failed, forget_damaged, is_assembled, read_alignment, task_of
from pipeline.assemble import STAGE as CUT
from pipeline.blocks import Block
from pipeline.catalogue.stage import attach_run, publish_catalogue, read_vocabulary
from pipeline.catalogue.store import CatalogueLock
from pipeline.costs import Costs
from pipeline.engine import Capacity, Engine, check_engine, limit_threads, open_engine
from pipeline.errors import RunFailedError
from pipeline.imagery import open_source
from pipeline.known import keep_known
from pipeline.logs import Bound, bound
from pipeline.objects import to_text
from pipeline.pixels import InputFile, Report
from pipeline.plan import Plan, code_version, make_plan, project_cost
from pipeline.predict import (
    is_predicted,
    labels_key,
    predict_block,
    train_and_predict,
)
from pipeline.projection import fit_workers, machine_memory
from pipeline.publish import make_run_record, write_outputs
from pipeline.report import report_run
from pipeline.results import Result, open_result
from pipeline.scene import Source, spool
from pipeline.settings import Settings
from pipeline.simulation import create_simulated, forget_simulated, is_simulated, simulate_block
from pipeline.stac import write_item
from pipeline.stores import RawStore, create_labels, store_attributes
from pipeline.target import Target, open_target
from pipeline.train import is_trained, peak_rss_bytes, train_global
from pipeline.vocabulary import find_vocabulary
from pipeline.workspace import RECORD, Workspace, write_json

logger = logging.getLogger(__name__)

Progress = Callable[[str, int, int], None]
"""Called with (title of the stage, done, in all)."""


class Named(Protocol):
    """What a stage works on."""

    @property
    def name(self) -> str:
        """Name of the block."""


Item = TypeVar("Item", bound=Named)


@dataclass
class StageBooks:
    """What one stage cost, and how many blocks it did or found done; `costs` are those of its blocks, all together."""

    name: str
    seconds: float = 0.0
    pixels: int = 0
    peak_rss_bytes: int = 0
    done: int = 0
    reused: int = 0
    costs: Costs = field(default_factory=Costs)

    def enter(self, record: Mapping[str, Any]) -> None:
        """Add what became of one block."""
        self.done += 1
        self.pixels += int(record.get("pixels", 0))
        self.peak_rss_bytes = max(self.peak_rss_bytes, int(record.get("peak_rss_bytes", 0)))
        self.costs.include(record.get("costs", {}))


@dataclass
class Run:
    """A run under way: its plan, its locked directory and its books."""

    plan: Plan
    workspace: Workspace
    manifest: dict[str, Any]
    created: datetime
    capacity: Capacity | None = None
    target: Target | None = None
    books: dict[str, StageBooks] = field(default_factory=dict)
    failed: dict[str, str] = field(default_factory=dict)
    lock: CatalogueLock | None = None

    @property
    def is_done(self) -> bool:
        """Whether the result was there before this run began; there is nothing to do then."""
        return self.workspace.is_published

    @property
    def log(self) -> Path:
        """What the run and its workers have to say."""
        return self.plan.folders.log

    def alive(self) -> list[Block]:
        """Return the blocks that have not failed in an earlier stage."""
        return [block for block in self.plan.grid if block.name not in self.failed]

    def result(self) -> Result:
        """Open what was published."""
        return open_result(self.plan.folders.root)

    def close(self) -> None:
        """Give the run directory and the catalogue free."""
        self.workspace.close()
        if self.lock is not None:
            self.lock.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @contextmanager
    def clocked(self, name: str) -> Iterator[StageBooks]:
        """Keep the books of one stage."""
        books = self.books.setdefault(name, StageBooks(name))
        start = time.perf_counter()
        try:
            yield books
        finally:
            books.seconds += time.perf_counter() - start
            books.peak_rss_bytes = max(books.peak_rss_bytes, peak_rss_bytes())


@dataclass(frozen=True)
class Stage:
    """One step of a run; only where the settings want it, if it says so."""

    name: str
    title: str
    function: Callable[[Run, Engine, Report], None]
    wanted: Callable[[Settings], bool] = field(default=lambda _: True)

    def __call__(self, run: Run, engine: Engine, report: Report) -> None:
        """Carry the stage out, with its books kept; nothing where the result is there already."""
        if run.is_done or not self.wanted(run.plan.settings):
            return
        with run.clocked(self.name), bound(run=run.manifest["key"][:12], stage=self.name):
            self.function(run, engine, report)


def prepare(
    source: Source, settings: Settings, out: str | Path, *, fresh: bool = False, progress: Progress | None = None
) -> Run:
    """Check everything, then open the run directory.

    Parameters
    ----------
    source
        Files, folders, globs, lists of files, or an `xarray.DataArray`.
    settings, out
        What to do, and the directory of the run, or an ``s3://`` prefix that its result is uploaded to.
    fresh
        Begin anew where `out` holds a run; its result stays until the new one replaces it.
    progress
        Hears of the hashing of the inputs, which takes as long as reading them.

    Raises
    ------
    InputError
        Something is wrong with the source, the settings or the directory; nothing has been written.
    """
    created, start = datetime.now(UTC), time.perf_counter()
    limit_threads()  # before the first pixel is read: GDAL's cache would be a share of the machine's memory
    target = open_target(out)
    out = target.directory
    plan = make_plan(open_source(source, settings), settings, out, describe_source(source))
    check_engine(settings)
    manifest, inputs = describe_work(plan, partial(progress or _silent, "Hashing inputs"))
    capacity = local_capacity(plan)
    workspace = Workspace(out, manifest, fresh=fresh)
    plan = replace(plan, inputs={file.path: file for file in inputs}, base=manifest["base"])
    if workspace.updates is not None:
        plan = replace(plan, scaling=Scaling.from_json(workspace.updates["scaling"]))
        manifest = {**manifest, "scaling": workspace.updates["scaling"]}
        workspace.restate(manifest)
    if not workspace.is_published:
        keep_known(plan)
    if isinstance(source, xr.DataArray) and not workspace.is_published:
        plan = replace(plan, scene=spool(plan.scene, plan.folders.spool))  # what processes can share
    if workspace.is_published:
        target.push()  # a run that was interrupted in the last moment
    run = Run(plan, workspace, manifest, created, capacity, target)
    run.books["plan"] = StageBooks("plan", time.perf_counter() - start, peak_rss_bytes=peak_rss_bytes())
    return run


def local_capacity(plan: Plan) -> Capacity | None:
    """Return how many workers of this machine the plan has room for; None where they are another machine's."""
    if plan.settings.scheduler is not None:
        return None
    cores, memory_bytes = os.cpu_count() or 1, machine_memory()
    return fit_workers(plan.settings, project_cost(plan), cores=cores, memory_bytes=memory_bytes)


def describe_source(source: Source) -> str:
    """Return a short name of a source, for messages."""
    if isinstance(source, xr.DataArray):
        return f"DataArray {source.name or ''}".strip()
    paths = [str(source)] if isinstance(source, str | Path) else [str(path) for path in source]
    return paths[0] if len(paths) == 1 else f"{paths[0]} and {len(paths) - 1} more"


def describe_work(plan: Plan, report: Report | None = None) -> tuple[dict[str, Any], list[InputFile]]:
    """Return the manifest of a run, and its inputs.

    The manifest's ``key`` is a digest over all that the result depends on, its ``base`` over all but the inputs.
    """
    box = plan.scene.geobox
    files = plan.scene.fingerprints(report)
    parts = {
        "settings": plan.settings.result_fields(),
        "model": None if plan.given is None else plan.given.digest,
        "code": code_version(),
        "grid": [
            list(plan.grid.shape),
            list(box.affine)[:6],
            str(box.crs),
            list(plan.scene.bands),
            str(plan.scene.dtype),
        ],
    }
    inputs = [
        {"path": to_text(file.path), "size_bytes": file.size_bytes, "sha256": file.sha256, "etag": file.etag}
        for file in files
    ]
    whole = {**parts, "inputs": inputs, "scaling": plan.scaling.to_json()}
    return {**whole, "base": _digest(parts), "key": _digest(whole), "blocks": len(plan.grid)}, files


def _digest(parts: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(parts, sort_keys=True, default=str).encode()).hexdigest()


def _each(
    run: Run,
    engine: Engine,
    work: Callable[[Item], dict[str, Any]],
    items: Iterable[Item],
    total: int,
    report: Report,
    *,
    is_done: Callable[[Item], bool],
    enter: Callable[[dict[str, Any]], object],
    stage_of: Callable[[Item], str],
) -> int:
    """Do `work` on those `items` that are not done; a block that fails is left out of what follows.

    Returns how many were done before.
    """
    reused = ended = did = 0

    def to_do() -> Iterator[Item]:
        nonlocal reused, ended
        for item in items:
            if is_done(item):
                reused, ended = reused + 1, ended + 1
                report(ended, total)
            else:
                yield item

    report(0, total)
    for outcome in engine.map(Bound(work), to_do(), retries=run.plan.settings.retries):
        ended += 1
        if outcome.result is None:
            name, stage = outcome.item.name, stage_of(outcome.item)
            run.failed[name] = f"{stage}: {outcome.error}"
            logger.error("block %s failed in stage %s: %s", name, stage, outcome.error)
        else:
            did += 1
            enter(outcome.result)
        report(ended, total)
    if run.failed and not did and not reused:
        name, reason = next(iter(run.failed.items()))
        raise RunFailedError(f"every block failed; the first was {name}, in stage {reason}")
    return reused


def _train(run: Run, engine: Engine, report: Report) -> None:
    """Train the one model; where each block has its own, label each as soon as its model is there."""
    plan, books = run.plan, run.books["train"]
    if not plan.one_model:
        _train_and_label(run, engine, report)
        return
    report(0, 1)
    if plan.given is not None or is_trained(plan, "global"):
        books.reused = 1
    else:
        (outcome,) = engine.map(partial(train_global, plan), ["global"], retries=0)
        if outcome.result is None:
            raise RunFailedError(f"training failed: {outcome.error}") from outcome.error
        books.enter(outcome.result)
    report(1, 1)


def _train_and_label(run: Run, engine: Engine, report: Report) -> None:
    plan, books = run.plan, {name: run.books.setdefault(name, StageBooks(name)) for name in ("train", "predict")}
    _make_raw_store(plan)
    trained_before = {block.name for block in plan.grid if is_trained(plan, block.name)}

    def enter(record: dict[str, Any]) -> None:
        for name, each in record.items():
            if each is not None:
                books[name].enter(each)

    labelled = _each(
        run, engine, partial(train_and_predict, plan), plan.grid, len(plan.grid), report,
        is_done=lambda block: block.name in trained_before and is_predicted(plan, block),
        enter=enter,
        stage_of=lambda block: "predict" if is_trained(plan, block.name) else "train",
    )  # fmt: skip
    books["train"].reused, books["predict"].reused = len(trained_before), labelled


def _make_raw_store(plan: Plan) -> None:
    _made_whole(plan.folders.raw, lambda path: RawStore.create(path, plan.grid))


def _made_whole(path: Path, make: Callable[[Path], object]) -> None:
    """Make a store once, so that it is there with all its parts or not at all."""
    if not path.exists():
        partial_path = path.with_name(f".{path.name}.partial")
        if partial_path.exists():
            shutil.rmtree(partial_path)
        make(partial_path)
        partial_path.rename(path)


def _predict(run: Run, engine: Engine, report: Report) -> None:
    plan, books = run.plan, run.books["predict"]
    if not plan.one_model:
        report(len(plan.grid), len(plan.grid))  # each was, as soon as its model was there
        return
    if plan.labels_at_once:
        _make_label_store(run)
    else:
        _make_raw_store(plan)
    workers = engine.workers if run.capacity is None else run.capacity.workers
    books.reused = _each(
        run, engine, partial(predict_block, plan), plan.grid.in_turn(workers), len(plan.grid), report,
        is_done=partial(is_predicted, plan), enter=books.enter, stage_of=lambda _: "predict",
    )  # fmt: skip


def _align(run: Run, engine: Engine, report: Report) -> None:
    plan = run.plan
    if plan.one_model:
        report(1, 1)
        return
    found = find_vocabulary(plan, run.alive(), engine, report)
    write_json(plan.folders.alignment, found.alignment.to_json() | {"overlap_disagreement": found.disagreement})


def _attach(run: Run, _: Engine, report: Report) -> None:
    report(0, 1)
    run.lock = attach_run(run.plan, read_alignment(run.plan), run.alive())
    report(1, 1)


def _make_label_store(run: Run) -> None:
    plan = run.plan
    attrs = store_attributes(
        title="k-texture classes",
        sources=[file["path"] for file in run.manifest["inputs"]],
        k=plan.k,
        settings_digest=plan.settings.digest(),
        created=run.created,
        licence=plan.settings.license,
        attribution=plan.settings.attribution,
    )
    if not plan.folders.labels.exists():
        for stage in (CUT, BEGUN):
            shutil.rmtree(plan.folders.marker(stage, "").parent, ignore_errors=True)
    _made_whole(
        plan.folders.labels,
        lambda path: create_labels(
            path,
            plan.scene.geobox,
            chunk_px=plan.settings.fitted_chunk_px,
            dtype=plan.settings.label_dtype,
            attrs=attrs,
        ),
    )


def _cut(run: Run, engine: Engine, report: Report) -> None:
    plan, books = run.plan, run.books["cut"]
    _make_label_store(run)
    erase_failed(plan, run.failed)
    alignment, alive = read_vocabulary(plan), run.alive()
    keys = {block.index: labels_key(plan, block) for block in alive}
    tasks = (task_of(plan, block, alignment, keys) for block in alive)
    books.reused = _each(
        run, engine, partial(assemble_block, plan), tasks, len(alive), report,
        is_done=partial(is_assembled, plan), enter=books.enter, stage_of=lambda _: "cut",
    )  # fmt: skip


def _simulate(run: Run, engine: Engine, report: Report) -> None:
    plan, books, alive = run.plan, run.books["simulate"], run.alive()
    _made_whole(plan.folders.simulated, partial(create_simulated, plan))
    forget_simulated(plan, run.failed)
    books.reused = _each(
        run, engine, partial(simulate_block, plan), alive, len(alive), report,
        is_done=partial(is_simulated, plan), enter=books.enter, stage_of=lambda _: "simulate",
    )  # fmt: skip


def _write(run: Run, engine: Engine, report: Report) -> None:
    try:
        write_outputs(run.plan, read_vocabulary(run.plan), run.alive(), report, engine)
    except RunFailedError:
        if damaged := forget_damaged(run.plan):
            logger.error("labels of blocks %s were damaged on disk; the same command makes them anew", damaged)
        raise


def _publish(run: Run, _: Engine, report: Report) -> None:
    report(0, 1)
    run.plan.check_inputs()
    publish_catalogue(run.plan, run.lock)
    make_run_record(run).write(run.plan.folders.outputs / RECORD)
    write_item(run.plan.folders.outputs, run.plan.folders.root.name)
    run.workspace.publish(keep_work=run.plan.settings.keep_work or bool(run.failed))
    if run.target is not None:
        run.target.push()
    report(1, 1)


STAGES = (
    Stage("train", "Training", _train),
    Stage("predict", "Labelling", _predict),
    Stage("align", "Aligning ids", _align),
    Stage("attach", "Matching the catalogue", _attach),
    Stage("cut", "Cutting and joining", _cut),
    Stage("simulate", "Simulating", _simulate, wanted=lambda settings: settings.simulated),
    Stage("write", "Writing outputs", _write),
    Stage("report", "Writing the report", report_run),
    Stage("publish", "Publishing", _publish),
)


def segment(
    source: Source,
    settings: Settings,
    out: str | Path,
    *,
    fresh: bool = False,
    progress: Progress | None = None,
) -> Result:
    """Turn a scene into one seamless map of k texture classes: all stages, without an orchestrator.

    Parameters
    ----------
    source, settings, out, fresh
        As for `prepare`.
    progress
        Called with (title of the stage, done, in all).

    Returns
    -------
    Result
        What was published in `out`.

    Raises
    ------
    InputError
        Something is wrong with the input; nothing has been written.
    RunFailedError
        The run stopped midway; the same call resumes it.
    """
    with prepare(source, settings, out, fresh=fresh, progress=progress) as run:
        if not run.is_done:
            with open_engine(settings, run.log, run.capacity) as engine:
                for stage in STAGES:
                    stage(run, engine, partial(progress or _silent, stage.title))
        return run.result()


def _silent(title: str, done: int, total: int) -> None:
    """Report nothing."""
