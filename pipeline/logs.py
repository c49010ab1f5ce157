"""Log records that say which run, stage, block and acquisition they speak of, as text or as JSON lines.

What is bound with `bound` goes with every record of this thread or task until the context ends; `Bound` carries it to
the worker that a block is worked on. Whether lines are text or JSON is said by ``KTEX_LOG_FORMAT``, which worker
processes inherit.
"""

from __future__ import annotations

import json
import logging
import os
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from datetime import UTC, datetime
from multiprocessing import parent_process
from pathlib import Path
from typing import Any, Generic, Literal, TypeVar

from pipeline.errors import InputError

Item = TypeVar("Item")
Result = TypeVar("Result")
Format = Literal["text", "json"]

FORMAT_VARIABLE = "KTEX_LOG_FORMAT"
PACKAGES = ("pipeline", "ktex_model", "flows")
"""Loggers of the program; those of its libraries are left as they are."""

_ids: ContextVar[Mapping[str, str]] = ContextVar("ids", default={})  # noqa: B039  (never changed in place)


def current_ids() -> Mapping[str, str]:
    """Return what is bound here: any of ``run``, ``stage``, ``block``, ``acquisition``."""
    return _ids.get()


@contextmanager
def bound(**ids: str | None) -> Iterator[None]:
    """Let the log records of this context carry `ids`; what is None is left out.

    Examples
    --------
    >>> with bound(run="1f0c"), bound(block="0003_0012"):
    ...     dict(current_ids())
    {'run': '1f0c', 'block': '0003_0012'}
    """
    token = _ids.set({**_ids.get(), **{name: value for name, value in ids.items() if value is not None}})
    try:
        yield
    finally:
        _ids.reset(token)


@dataclass(frozen=True)
class Bound(Generic[Item, Result]):
    """A function of a block that logs, wherever it is called, with the ids of where this was made and its block's."""

    function: Callable[[Item], Result]
    ids: Mapping[str, str] = field(default_factory=current_ids)

    def __call__(self, item: Item) -> Result:
        """Call the function with the ids bound."""
        _write_to_stderr()
        with bound(**self.ids, block=getattr(item, "name", None)):
            return self.function(item)


class TextLines(logging.Formatter):
    """Lines for people: time, level, logger, message and, in brackets, what it is about."""

    def __init__(self) -> None:
        super().__init__("%(asctime)s %(levelname)s %(name)s: %(message)s")

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802  (the library's name)
        """Return the line without a traceback, which follows it."""
        about = " ".join(f"{name}={value}" for name, value in current_ids().items())
        return super().formatMessage(record) + (f" [{about}]" if about else "")


class JsonLines(logging.Formatter):
    """One JSON object a line: ``time`` (UTC, ISO 8601), ``level``, ``logger``, ``message``, ids, and ``error``."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the line."""
        line: dict[str, Any] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname,
            "logger": record.name,
            "message": record.getMessage(),
            **current_ids(),
            "process": record.process,
        }
        if record.exc_info:
            line["error"] = self.formatException(record.exc_info)
        return json.dumps(line, ensure_ascii=False)


def chosen_format() -> Format:
    """Return what ``KTEX_LOG_FORMAT`` says, ``text`` without it; raises InputError where it is neither."""
    match found := os.environ.get(FORMAT_VARIABLE) or "text":
        case "text" | "json":
            return found
    raise InputError(f"{FORMAT_VARIABLE} must be 'text' or 'json'; got {found!r}")


def make_formatter() -> logging.Formatter:
    """Return the formatter of the chosen format."""
    return JsonLines() if chosen_format() == "json" else TextLines()


@contextmanager
def recorded_in(path: Path) -> Iterator[None]:
    """Write the program's log records into a file as well, and the error that ends the context.

    Where they go into that file already, nothing is added.
    """
    loggers = [logging.getLogger(name) for name in PACKAGES]
    target = os.path.abspath(path)
    if any(getattr(handler, "baseFilename", None) == target for handler in loggers[0].handlers):
        yield
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    handler = logging.FileHandler(path, encoding="utf-8")
    handler.setFormatter(make_formatter())
    silent = [logger for logger in loggers if logger.level == logging.NOTSET]
    for logger in loggers:
        logger.addHandler(handler)
    for logger in silent:
        logger.setLevel(logging.INFO)
    try:
        yield
    except Exception:
        handler.handle(_error_record())
        raise
    finally:
        for logger in silent:
            logger.setLevel(logging.NOTSET)
        for logger in loggers:
            logger.removeHandler(handler)
        handler.close()


def _error_record() -> logging.LogRecord:
    # Into the file alone: whoever catches the error tells the others.
    told = sys.exc_info()
    return logging.LogRecord("flows", logging.ERROR, __file__, 0, "the run failed: %s", (told[1],), told)


def _write_to_stderr() -> None:
    """Give the program's loggers a handler in a worker process, which has none; other processes are not ours."""
    if parent_process() is None:
        return
    for logger in map(logging.getLogger, PACKAGES):
        if not logger.hasHandlers():
            handler = logging.StreamHandler()
            handler.setFormatter(make_formatter())
            logger.addHandler(handler)
            logger.setLevel(logging.INFO)
            logger.propagate = False
