"""A run: the stages of the data path in their order, each driven over the blocks by an engine."""

from __future__ import annotations

import hashlib
import json
import logging
import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any, Protocol, Self, TypeVar

import xarray as xr

from pipeline.align import Alignment, Overlap, align
from pipeline.assemble import assemble_block, task_of
from pipeline.blocks import Block
from pipeline.engine import Engine, check_scheduler, open_engine
from pipeline.errors import RunFailedError
from pipeline.metrics import overlap_disagreement
from pipeline.plan import Plan, code_version, make_plan
from pipeline.predict import compare_pair, predict_block, read_signature
from pipeline.publish import write_outputs, write_record
from pipeline.results import Result, open_result
from pipeline.scene import Scene, Source, open_scene, spool
from pipeline.settings import Settings
from pipeline.stores import RawStore, create_labels, store_attributes
from pipeline.train import peak_rss_bytes, train_block, train_global
from pipeline.workspace import Workspace, read_json, write_json

logger = logging.getLogger(__name__)

Report = Callable[[int, int], None]
"""Called with (done, in all) as a stage goes on."""

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
    """What one stage cost, and how many blocks it did or found done."""

    name: str
    seconds: float = 0.0
    pixels: int = 0
    peak_rss_bytes: int = 0
    done: int = 0
    reused: int = 0


@dataclass
class Run:
    """A run under way: its plan, its locked directory and its books."""

    plan: Plan
    workspace: Workspace
    manifest: dict[str, Any]
    created: datetime
    books: dict[str, StageBooks] = field(default_factory=dict)
    failed: dict[str, str] = field(default_factory=dict)

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
        """Give the run directory free."""
        self.workspace.close()

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
    """One step of a run."""

    name: str
    title: str
    function: Callable[[Run, Engine, Report], None]

    def __call__(self, run: Run, engine: Engine, report: Report) -> None:
        """Carry the stage out, with its books kept; nothing where the result is there already."""
        if run.is_done:
            return
        with run.clocked(self.name):
            self.function(run, engine, report)


def prepare(source: Source, settings: Settings, out: str | Path, *, fresh: bool = False) -> Run:
    """Check everything, then open the run directory.

    Parameters
    ----------
    source
        Files, folders, globs, lists of files, or an `xarray.DataArray`.
    settings, out
        What to do, and the directory of the run.
    fresh
        Begin anew where `out` holds a run; its result stays until the new one replaces it.

    Raises
    ------
    InputError
        Something is wrong with the source, the settings or the directory; nothing has been written.
    """
    created, start = datetime.now(UTC), time.perf_counter()
    out = Path(out).expanduser().absolute()
    plan = make_plan(open_source(source, settings), settings, out, describe_source(source))
    check_scheduler(settings)
    manifest = describe_work(plan)
    workspace = Workspace(out, manifest, fresh=fresh)
    if isinstance(source, xr.DataArray) and not workspace.is_published:
        plan = replace(plan, scene=spool(plan.scene, plan.folders.spool))  # what processes can share
    run = Run(plan, workspace, manifest, created)
    run.books["plan"] = StageBooks("plan", time.perf_counter() - start, peak_rss_bytes=peak_rss_bytes())
    return run


def open_source(source: Source, settings: Settings) -> Scene:
    """Open a source as the settings say; raises InputError where it does not make one scene."""
    return open_scene(
        source,
        bands=settings.bands,
        mask=settings.mask,
        aoi=settings.aoi,
        date=settings.date,
        overlap=settings.overlap_rule,
        align=settings.align,
        tolerance_px=settings.tolerance_px,
        resampling=settings.resampling,
    )


def describe_source(source: Source) -> str:
    """Return a short name of a source, for messages."""
    if isinstance(source, xr.DataArray):
        return f"DataArray {source.name or ''}".strip()
    paths = [str(source)] if isinstance(source, str | Path) else [str(path) for path in source]
    return paths[0] if len(paths) == 1 else f"{paths[0]} and {len(paths) - 1} more"


def describe_work(plan: Plan) -> dict[str, Any]:
    """Return the manifest of a run; its ``key`` is a digest over all that the result depends on."""
    parts = {
        "settings": plan.settings.result_fields(),
        "inputs": [vars(file) for file in plan.scene.fingerprints()],
        "model": None if plan.given is None else plan.given.digest,
        "code": code_version(),
    }
    canonical = json.dumps(parts, sort_keys=True, default=str)
    return {**parts, "key": hashlib.sha256(canonical.encode()).hexdigest()}


def _each(
    run: Run,
    engine: Engine,
    stage: str,
    work: Callable[[Item], dict[str, Any]],
    items: Sequence[Item],
    report: Report,
) -> None:
    """Do `work` on those `items` that have no marker; a block that fails is left out of what follows."""
    books, folders = run.books[stage], run.plan.folders
    todo = [item for item in items if not folders.marker(stage, item.name).exists()]
    books.reused = ended = len(items) - len(todo)
    report(ended, len(items))
    for outcome in engine.map(work, todo):
        ended += 1
        if outcome.result is None:
            run.failed[outcome.item.name] = f"{stage}: {outcome.error}"
            logger.error("block %s failed in stage %s: %s", outcome.item.name, stage, outcome.error)
        else:
            books.done += 1
            books.pixels += int(outcome.result.get("pixels", 0))
            books.peak_rss_bytes = max(books.peak_rss_bytes, int(outcome.result.get("peak_rss_bytes", 0)))
        report(ended, len(items))
    if todo and not books.done and not books.reused:
        name, reason = next(iter(run.failed.items()))
        raise RunFailedError(f"every block failed; the first was {name}, in stage {reason}")


def _train(run: Run, engine: Engine, report: Report) -> None:
    plan, books = run.plan, run.books["train"]
    if not plan.one_model:
        _each(run, engine, "train", partial(train_block, plan), list(plan.grid), report)
        return
    report(0, 1)
    if plan.given is not None or plan.folders.done("train", "global") is not None:
        books.reused = 1
    else:
        (outcome,) = engine.map(partial(train_global, plan), ["global"], retries=0)
        if outcome.result is None:
            raise RunFailedError(f"training failed: {outcome.error}") from outcome.error
        books.done, books.pixels = 1, outcome.result["pixels"]
        books.peak_rss_bytes = outcome.result["peak_rss_bytes"]
    report(1, 1)


def _made_whole(path: Path, make: Callable[[Path], object]) -> None:
    """Make a store once, so that it is there with all its parts or not at all."""
    if not path.exists():
        partial_path = path.with_name(f".{path.name}.partial")
        if partial_path.exists():
            shutil.rmtree(partial_path)
        make(partial_path)
        partial_path.rename(path)


def _predict(run: Run, engine: Engine, report: Report) -> None:
    plan = run.plan
    _made_whole(plan.folders.raw, lambda path: RawStore.create(path, plan.grid))
    _each(run, engine, "predict", partial(predict_block, plan), run.alive(), report)


def _align(run: Run, engine: Engine, report: Report) -> None:
    plan = run.plan
    if plan.one_model:
        report(1, 1)
        return
    pairs, overlaps = list(plan.grid.pairs()), list[Overlap]()
    for done, outcome in enumerate(engine.map(partial(compare_pair, plan), pairs), 1):
        if outcome.error is not None:
            raise RunFailedError(f"blocks {outcome.item} could not be compared: {outcome.error}") from outcome.error
        if outcome.result is not None:
            overlaps.append(outcome.result)
        report(done, len(pairs) + 1)
    overlaps.sort(key=lambda shared: (shared.a, shared.b))
    signatures = [found for block in run.alive() if (found := read_signature(plan, block.index)) is not None]
    if not signatures:
        raise RunFailedError("no block with valid pixels could be labelled; see the log")
    solved = align(signatures, overlaps, classes=plan.settings.global_classes, seed=plan.settings.seed)
    disagreement = overlap_disagreement(solved, signatures, overlaps)
    write_json(plan.folders.alignment, solved.to_json() | {"overlap_disagreement": disagreement})
    report(len(pairs) + 1, len(pairs) + 1)


def read_alignment(plan: Plan) -> Alignment | None:
    """Return what the align stage found; None where one model serves all blocks."""
    found = None if plan.one_model else read_json(plan.folders.alignment)
    return None if found is None else Alignment.from_json(found)


def _cut(run: Run, engine: Engine, report: Report) -> None:
    plan = run.plan
    _forget_other_cuts(run)
    attrs = store_attributes(
        title="k-texture classes",
        sources=[file["path"] for file in run.manifest["inputs"]],
        k=plan.k,
        settings_digest=plan.settings.digest(),
        created=run.created,
    )
    _made_whole(
        plan.folders.labels,
        lambda path: create_labels(path, plan.scene.geobox, chunk_px=plan.settings.fitted_chunk_px, attrs=attrs),
    )
    alignment = read_alignment(plan)
    tasks = [task_of(plan, block, alignment) for block in run.alive()]
    _each(run, engine, "cut", partial(assemble_block, plan), tasks, report)


def _forget_other_cuts(run: Run) -> None:
    """Drop the cores that an earlier try joined from other blocks or by another alignment."""
    folders = run.plan.folders
    solved = folders.alignment.read_bytes() if folders.alignment.exists() else b""
    basis = hashlib.sha256(solved + json.dumps(sorted(run.failed)).encode()).hexdigest()
    if folders.done("cut", "basis") != {"basis": basis} or not folders.labels.exists():
        shutil.rmtree(folders.marker("cut", "basis").parent, ignore_errors=True)
        shutil.rmtree(folders.labels, ignore_errors=True)
        folders.mark("cut", "basis", {"basis": basis})


def _write(run: Run, _: Engine, report: Report) -> None:
    write_outputs(run.plan, read_alignment(run.plan), run.alive(), report)


def _publish(run: Run, _: Engine, report: Report) -> None:
    report(0, 1)
    write_record(run)
    run.workspace.publish(keep_work=run.plan.settings.keep_work or bool(run.failed))
    report(1, 1)


STAGES = (
    Stage("train", "Training", _train),
    Stage("predict", "Labelling", _predict),
    Stage("align", "Aligning ids", _align),
    Stage("cut", "Cutting and joining", _cut),
    Stage("write", "Writing outputs", _write),
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
    with prepare(source, settings, out, fresh=fresh) as run:
        if not run.is_done:
            with open_engine(settings, run.log) as engine:
                for stage in STAGES:
                    stage(run, engine, partial(progress or _silent, stage.title))
        return run.result()


def _silent(title: str, done: int, total: int) -> None:
    """Report nothing."""
