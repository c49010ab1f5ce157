"""How far a run is, on standard error: a bar for each stage in a terminal, plain lines elsewhere."""

from __future__ import annotations

import sys
import time
from types import TracebackType
from typing import TYPE_CHECKING, Self, TextIO

if TYPE_CHECKING:
    from rich.progress import TaskID

LINE_S = 10.0
"""In a log, a stage is heard of at most so often, and when it begins and ends."""


class PlainProgress:
    """A line now and then: for logs, and for standard error that goes to a file or a pipe."""

    def __init__(self, stream: TextIO | None = None) -> None:
        self._stream = stream or sys.stderr
        self._stage = ""
        self._began = self._told = 0.0

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stage = ""

    def __call__(self, stage: str, done: int, total: int) -> None:
        """Say how far `stage` is, if it is time to."""
        now = time.monotonic()
        begins = stage != self._stage
        if begins:
            self._stage, self._began = stage, now
        if begins or done >= total or now - self._told >= LINE_S:
            self._told = now
            left = f", about {span((now - self._began) / done * (total - done))} left" if 0 < done < total else ""
            took = f", {span(now - self._began)}" if not begins else ""
            print(f"{stage}: {done}/{total}{took}{left}", file=self._stream, flush=True)


class BarProgress:
    """A bar for each stage, with the time that is left."""

    def __init__(self) -> None:
        from rich import progress as rich
        from rich.console import Console

        self._bars = rich.Progress(
            rich.TextColumn("{task.description:<28}"),
            rich.BarColumn(),
            rich.MofNCompleteColumn(),
            rich.TimeElapsedColumn(),
            rich.TimeRemainingColumn(),
            console=Console(stderr=True),
        )
        self._stage = ""
        self._task: TaskID | None = None

    def __enter__(self) -> Self:
        self._bars.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bars.stop()

    def __call__(self, stage: str, done: int, total: int) -> None:
        """Move the bar of `stage`."""
        if self._task is None or stage != self._stage:
            self._stage, self._task = stage, self._bars.add_task(stage, total=total)
        self._bars.update(self._task, completed=done, total=total)


def open_progress() -> PlainProgress | BarProgress:
    """Return what fits standard error."""
    return BarProgress() if sys.stderr.isatty() else PlainProgress()


def span(seconds: float) -> str:
    """Say a time.

    Examples
    --------
    >>> span(4.25), span(75), span(7380)
    ('4.2 s', '1 min 15 s', '2 h 3 min')
    """
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60} min"
