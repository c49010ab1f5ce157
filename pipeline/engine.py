"""Where blocks are worked on: in this process, in local worker processes, or by an existing Dask scheduler.

An engine maps a module-level function over items, one task an item, and yields what each returned as it ends. Only
small records travel; arrays go to the stores. At most a small multiple of the workers is in flight, so that a
country's blocks never pile up in the scheduler, and each result is released at once.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, Generic, Protocol, TypeVar

from pipeline.errors import InputError, RunFailedError
from pipeline.settings import Settings

Item = TypeVar("Item")
Result = TypeVar("Result")

logger = logging.getLogger(__name__)

SINGLE_THREADED = {
    "TF_NUM_INTRAOP_THREADS": "1",
    "TF_NUM_INTEROP_THREADS": "1",
    "OMP_NUM_THREADS": "1",
    "OPENBLAS_NUM_THREADS": "1",
    "MKL_NUM_THREADS": "1",
    "TF_CPP_MIN_LOG_LEVEL": "2",
    "TF_FORCE_GPU_ALLOW_GROWTH": "true",
    "MALLOC_TRIM_THRESHOLD_": "65536",
}
"""Environment of a worker: parallelism comes from processes, and one thread each makes sums the same everywhere."""

IN_FLIGHT_PER_WORKER = 3


@dataclass(frozen=True)
class Outcome(Generic[Item, Result]):
    """What became of one item: a result, or the error of its last try."""

    item: Item
    result: Result | None
    error: BaseException | None = None


class Engine(Protocol):
    """A way to work on blocks."""

    @property
    def workers(self) -> int:
        """How many items are worked on at a time."""

    def map(
        self, function: Callable[[Item], Result], items: Iterable[Item], *, retries: int = 1
    ) -> Iterator[Outcome[Item, Result]]:
        """Yield the outcome of `function` for each item, in the order in which they end."""


class SerialEngine:
    """One item after the other in this process: for debugging, and for very small scenes."""

    workers = 1

    def map(
        self, function: Callable[[Item], Result], items: Iterable[Item], *, retries: int = 1
    ) -> Iterator[Outcome[Item, Result]]:
        """Yield the outcome of `function` for each item, in order."""
        for item in items:
            yield _attempt(function, item, retries)


def _attempt(function: Callable[[Item], Result], item: Item, retries: int) -> Outcome[Item, Result]:
    for left in reversed(range(retries + 1)):
        try:
            return Outcome(item, function(item))
        except Exception as error:  # the caller decides what a failed block means
            if not left:
                return Outcome(item, None, error)
            logger.warning("%s failed (%s); trying again", item, error)
    raise AssertionError("unreachable")


class DaskEngine:
    """Items as tasks of a Dask cluster, one each."""

    def __init__(self, client: Any) -> None:
        self._client = client

    @property
    def workers(self) -> int:
        """Number of worker threads of the cluster; at least 1 while workers are on their way."""
        return max(1, sum(int(threads) for threads in self._client.nthreads().values()))

    def map(
        self, function: Callable[[Item], Result], items: Iterable[Item], *, retries: int = 1
    ) -> Iterator[Outcome[Item, Result]]:
        """Yield the outcome of `function` for each item as it ends; submission is bounded."""
        from distributed import as_completed
        from distributed.client import FutureCancelledError

        waiting = iter(items)
        pending: dict[Any, Item] = {}

        def submit(item: Item) -> Any:
            future = self._client.submit(function, item, retries=retries, pure=False)
            pending[future] = item
            return future

        first = [submit(item) for item in islice(waiting, self.workers * IN_FLIGHT_PER_WORKER)]
        running = as_completed(first, loop=self._client.loop)
        try:
            for future in running:
                item = pending.pop(future)
                try:
                    error = future.exception()
                except FutureCancelledError as lost:
                    raise RunFailedError(f"the Dask scheduler was lost ({lost}); the same command resumes") from lost
                outcome = Outcome(item, None if error is not None else future.result(), error)
                future.release()
                for following in islice(waiting, 1):
                    running.add(submit(following))
                yield outcome
        finally:
            self._client.cancel(list(pending), force=True)


def limit_threads() -> None:
    """Give this process a worker's environment; it takes effect where Keras has not been imported yet."""
    for name, value in SINGLE_THREADED.items():
        os.environ.setdefault(name, value)


@contextmanager
def open_engine(settings: Settings, log: Path | None = None) -> Iterator[Engine]:
    """Open the engine that the settings ask for, and close it at the end.

    Local worker processes write what they and their libraries have to say into the file `log`, if one is given.
    """
    limit_threads()
    if settings.scheduler is not None:
        with _connect(settings.scheduler) as engine:
            yield engine
    elif settings.engine == "serial":
        yield SerialEngine()
    else:
        with _local_cluster(settings.workers or os.cpu_count() or 1, log) as engine:
            yield engine


def check_scheduler(settings: Settings) -> None:
    """Raise InputError unless the scheduler that the settings name, if any, answers."""
    if settings.scheduler is not None:
        with _connect(settings.scheduler):
            pass


@contextmanager
def _connect(address: str) -> Iterator[DaskEngine]:
    from distributed import Client

    try:
        client = Client(address, timeout="10s", set_as_default=False)
    except (OSError, TimeoutError, ValueError) as error:
        raise InputError(
            f"--scheduler {address}: no Dask scheduler answers there ({error}); start one or leave it out"
        ) from error
    with client:
        client.get_versions(check=True)
        yield DaskEngine(client)


def _log_to(path: Path) -> None:
    """Send this process's standard error to a file: TensorFlow writes there whatever it is told."""
    log = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    os.dup2(log, 2)
    os.close(log)


@contextmanager
def _local_cluster(workers: int, log: Path | None) -> Iterator[DaskEngine]:
    import dask
    from distributed import Client, LocalCluster

    environment = {**SINGLE_THREADED, "KERAS_BACKEND": os.environ.get("KERAS_BACKEND", "tensorflow")}
    settings = {
        # Before the interpreter starts: later would be too late for the thread pools of numpy and TensorFlow.
        "distributed.nanny.pre-spawn-environ": environment,
        "distributed.comm.timeouts.connect": "60s",
        "distributed.worker.daemon": True,
    }
    with (
        dask.config.set(settings),
        LocalCluster(
            n_workers=workers,
            threads_per_worker=1,
            processes=True,
            host="127.0.0.1",
            dashboard_address="127.0.0.1:0",
            silence_logs=logging.ERROR,
        ) as cluster,
        Client(cluster, set_as_default=False) as client,
    ):
        if log is not None:
            client.run(_log_to, log.absolute())
        yield DaskEngine(client)
