"""The Prefect flow: one task for each stage of a run. The blocks belong to Dask, which a stage drives by itself.

Prefect keeps the books of a run that someone schedules: states, times, progress and a summary. What the work needs to
resume lies in the run directory, so no result is persisted and nothing is cached by Prefect.
"""

from __future__ import annotations

import time
from base64 import b64encode
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, cast
from uuid import UUID

from flows.prefect_settings import stay_private

stay_private()

from prefect import flow, task  # noqa: E402
from prefect.artifacts import (  # noqa: E402
    create_image_artifact,
    create_link_artifact,
    create_markdown_artifact,
    create_progress_artifact,
    create_table_artifact,
    update_progress_artifact,
)
from prefect.cache_policies import NO_CACHE  # noqa: E402
from prefect.client.schemas.objects import State  # noqa: E402
from prefect.states import Completed  # noqa: E402

from flows.summary import class_table, to_markdown  # noqa: E402
from pipeline.engine import Engine, open_engine  # noqa: E402
from pipeline.logs import recorded_in  # noqa: E402
from pipeline.preparation import prepare  # noqa: E402
from pipeline.report import remake_report  # noqa: E402
from pipeline.results import Result  # noqa: E402
from pipeline.run import STAGES  # noqa: E402
from pipeline.running import Run, Stage  # noqa: E402
from pipeline.settings import Settings  # noqa: E402
from pipeline.truth import score_against  # noqa: E402

Progress = Callable[[str, int, int], None]
"""Called with the title of a stage, what is done and what there is."""

UPDATE_S = 2.0
"""At most so often is a progress artifact updated: each time is a request to the server."""

QUICKLOOK_BYTES = 2**20
"""A larger quicklook is not sent to the server, which keeps artifacts in its database."""

_watcher: ContextVar[Progress | None] = ContextVar("watcher", default=None)


@contextmanager
def watched_by(progress: Progress) -> Iterator[None]:
    """Report the progress of flows in this context to a function, which cannot be a parameter of a flow."""
    token = _watcher.set(progress)
    try:
        yield
    finally:
        _watcher.reset(token)


@flow(name="segment-mosaic", flow_run_name="segment {out}", persist_result=False)
def segment_mosaic(
    source: str | list[str],
    out: str,
    settings: dict[str, Any] | None = None,
    fresh: bool = False,
    truth: str | None = None,
) -> State[Result]:
    """Segment a mosaic into texture classes.

    Parameters
    ----------
    source
        A GeoTIFF, a folder or glob of them, a text file of paths, or several of these.
    out
        Run directory. A flow that is run again with the same parameters resumes what it holds.
    settings
        Fields of `pipeline.settings.Settings`; the defaults where None.
    fresh
        Start anew instead.
    truth
        GeoTIFF of known classes on the grid of the result, which is scored against it.

    Returns
    -------
    State
        Completed, with the `Result`; named ``Incomplete`` where blocks are missing, so that automations can tell.

    Raises
    ------
    InputError
        The source or the settings are wrong; nothing has been written.
    RunFailedError
        A stage failed; what was done is kept.
    """
    chosen = Settings.parse(settings or {})
    with prepare(source, chosen, out, fresh=fresh) as run, recorded_in(run.log):
        if not run.is_done:
            with open_engine(chosen, run.log, run.capacity) as engine:
                for stage in STAGES:
                    if stage.wanted(chosen):
                        _carry_out(stage, run, engine)
        result = run.result()
    if truth is not None:
        _score(result, truth)
        result = run.result()
    _publish_summary(result)
    if result.record.exit_code:
        missing = ", ".join(result.record.blocks.failed_names)
        return Completed(name="Incomplete", message=f"blocks {missing} are missing", data=result)
    return Completed(data=result)


def _carry_out(stage: Stage, run: Run, engine: Engine) -> None:
    # A closure, not parameters: Prefect would walk through the run and the engine, and try to hash and store them.
    @task(name=stage.name, task_run_name=stage.title, cache_policy=NO_CACHE, persist_result=False)
    def carry_out() -> None:
        stage(run, engine, _reporter(stage))

    carry_out()


def _score(result: Result, truth: str) -> None:
    @task(name="score", task_run_name="Scoring against the truth", cache_policy=NO_CACHE, persist_result=False)
    def score() -> None:
        score_against(result.path, truth)
        remake_report(result.path)  # which shows the scores

    score()


def _reporter(stage: Stage) -> Callable[[int, int], None]:
    """Return a function that tells the server now and then, and the watcher always, how far a stage is."""
    artifact = create_progress_artifact(0.0, key=f"ktex-{stage.name}", description=stage.title)
    told = time.monotonic()

    def report(done: int, total: int) -> None:
        nonlocal told
        if (watcher := _watcher.get()) is not None:
            watcher(stage.title, done, total)
        now = time.monotonic()
        if done >= total or now - told >= UPDATE_S:
            told = now
            update_progress_artifact(cast("UUID", artifact), progress=100.0 * done / max(total, 1))

    return report


def _publish_summary(result: Result) -> None:
    create_table_artifact(class_table(result), key="ktex-classes", description=f"Classes of {result.path}")
    create_markdown_artifact(to_markdown(result), key="ktex-summary", description=f"Summary of {result.path}")
    if (report := result.path / "report.html").exists():
        create_link_artifact(
            report.as_uri(), link_text="Report", key="ktex-report", description=f"Report of {result.path}"
        )
    if (picture := result.path / "quicklook.png").exists() and picture.stat().st_size <= QUICKLOOK_BYTES:
        inline = f"data:image/png;base64,{b64encode(picture.read_bytes()).decode()}"
        create_image_artifact(inline, key="ktex-quicklook", description=f"Quicklook of {result.path}")
