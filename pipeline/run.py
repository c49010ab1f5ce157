"""A run: the stages of the data path in their order, each driven over the blocks by an engine."""

from __future__ import annotations

import logging
import shutil
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from pipeline.anchor import Anchor, is_anchor_trained, lacks_windows, train_any, train_whole
from pipeline.assemble import BEGUN, assemble_block, erase_failed, forget_damaged, is_assembled, read_alignment, task_of
from pipeline.assemble import STAGE as CUT
from pipeline.blocks import Block
from pipeline.catalogue.stage import attach_run, publish_catalogue, read_vocabulary
from pipeline.engine import Engine, open_engine
from pipeline.errors import RunFailedError
from pipeline.logs import Bound
from pipeline.pixels import Report
from pipeline.plan import Plan
from pipeline.predict import is_predicted, labels_key, predict_block
from pipeline.preparation import prepare
from pipeline.publish import make_run_record, write_outputs
from pipeline.report import report_run
from pipeline.results import Result
from pipeline.running import Progress, Run, Stage, StageBooks, silent, work_through
from pipeline.scene import Source
from pipeline.settings import Settings
from pipeline.simulation import create_simulated, forget_simulated, is_simulated, simulate_block
from pipeline.stac import write_item
from pipeline.stores import RawStore, create_labels, store_attributes
from pipeline.train import is_trained, train_global
from pipeline.vocabulary import find_vocabulary
from pipeline.workspace import ANCHOR, RECORD, write_json

logger = logging.getLogger(__name__)


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
    # The anchor first: it takes as long as a block, and nobody has to wait for it at the end.
    anchor = [Anchor()] if plan.anchored else []
    anchored_before = bool(anchor) and is_anchor_trained(plan)
    trained_before = {block.name for block in plan.grid if is_trained(plan, block.name)}

    def enter(record: dict[str, Any]) -> None:
        for name, each in record.items():
            if each is not None:
                books[name].enter(each)

    def is_done(item: Block | Anchor) -> bool:
        if isinstance(item, Anchor):
            return anchored_before
        return item.name in trained_before and is_predicted(plan, item)

    done = work_through(
        run, engine, partial(train_any, plan), (*anchor, *plan.grid), len(anchor) + len(plan.grid), report,
        is_done=is_done,
        enter=enter,
        stage_of=lambda item: "predict" if is_trained(plan, item.name) else "train",
    )  # fmt: skip
    books["train"].reused, books["predict"].reused = len(trained_before) + anchored_before, done - anchored_before
    if anchor and not run.failed and lacks_windows(plan):
        # All blocks could be read since: so can the anchor's windows.
        (again,) = engine.map(Bound(partial(train_whole, plan)), anchor, retries=plan.settings.retries)
        if again.result is None:
            run.failed[ANCHOR] = f"train: {again.error}"
        else:
            enter(again.result)
    if (reason := run.failed.pop(ANCHOR, None)) is not None:
        plan.check_inputs()  # a file that changed is the better reason
        raise RunFailedError(f"the anchor, one model of the whole scene, failed: {reason}; the same command goes on")


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
    books.reused = work_through(
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
    books.reused = work_through(
        run, engine, partial(assemble_block, plan), tasks, len(alive), report,
        is_done=partial(is_assembled, plan), enter=books.enter, stage_of=lambda _: "cut",
    )  # fmt: skip


def _simulate(run: Run, engine: Engine, report: Report) -> None:
    plan, books, alive = run.plan, run.books["simulate"], run.alive()
    _made_whole(plan.folders.simulated, partial(create_simulated, plan))
    forget_simulated(plan, run.failed)
    books.reused = work_through(
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
                    stage(run, engine, partial(progress or silent, stage.title))
        return run.result()
