"""A run under way: its plan, its locked directory and its books; a stage of it, and how that is driven over blocks."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any, Protocol, Self, TypeVar

from pipeline.blocks import Block
from pipeline.catalogue.store import CatalogueLock
from pipeline.costs import Costs
from pipeline.engine import Capacity, Engine
from pipeline.errors import RunFailedError
from pipeline.logs import Bound, bound
from pipeline.pixels import Report
from pipeline.plan import Plan
from pipeline.results import Result, open_result
from pipeline.settings import Settings
from pipeline.target import Target
from pipeline.train import peak_rss_bytes
from pipeline.workspace import Workspace

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


def work_through(
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
    reused = ended = 0

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
            enter(outcome.result)
        report(ended, total)
    if run.failed and not run.alive():
        name, reason = next((b.name, run.failed[b.name]) for b in run.plan.grid if b.name in run.failed)
        raise RunFailedError(f"every block failed; the first was {name}, in stage {reason}")
    return reused


def silent(title: str, done: int, total: int) -> None:
    """Report nothing."""
