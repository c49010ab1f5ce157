"""What a worker process is given before its first block: its environment, and the function that it works with."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

from distributed import Worker, WorkerPlugin, get_worker

from pipeline.engine.environment import grow_gpu_memory, limit_threads


class Prepared(WorkerPlugin):  # type: ignore[misc]
    """Few threads and growing GPU memory; standard error goes into the file `log`, if one is given.

    TensorFlow writes there whatever it is told. One that is `deaf` does not hear Ctrl-C, which a terminal sends to all
    processes: the one that started it does, and ends it in order.
    """

    name = "ktex-prepared"

    def __init__(self, log: Path | None = None, *, deaf: bool = False) -> None:
        self._log = log
        self._deaf = deaf

    def setup(self, worker: Worker) -> None:
        """Prepare the process; Dask calls this once a worker, also for one that joins later."""
        limit_threads()
        grow_gpu_memory()
        if self._deaf:
            worker.loop.add_callback(_ignore_interrupts)  # this may run in another thread, where signals cannot be set
        if self._log is not None:
            log = os.open(self._log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
            os.dup2(log, 2)
            os.close(log)


def _ignore_interrupts() -> None:
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGINT, signal.SIG_IGN)


class Function(WorkerPlugin):  # type: ignore[misc]
    """A function with what it is bound to: sent to each worker once, and to one that joins later as it joins."""

    def __init__(self, name: str, function: Callable[[Any], Any]) -> None:
        self.name = name
        self.function = function


def call(name: str, item: Any) -> Any:
    """Work on one item with the function of that name; runs on a worker."""
    plugin = get_worker().plugins.get(name)
    if plugin is None:
        raise RuntimeError(f"worker {get_worker().address} was not given the function of this run")
    return plugin.function(item)
