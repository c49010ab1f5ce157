"""Items as tasks of a Dask cluster, one each."""

from __future__ import annotations

import logging
import time
import uuid
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from queue import Empty, SimpleQueue
from typing import Any

from distributed import Client, Future
from distributed.client import FutureCancelledError

from pipeline.engine.interface import Item, Limits, Outcome, Result
from pipeline.engine.plugins import Function, call
from pipeline.engine.submission import Ended, drive
from pipeline.errors import RunFailedError

logger = logging.getLogger(__name__)

FETCHERS = 8
"""Records that are fetched from workers at a time."""

RECOUNT_S = 2.0
"""Workers are counted anew at most so often: they come and go."""

REVIVE_S = 30.0
"""Workers that Dask has given up are started again at most so often: those that die as they start, or take too long."""


class DaskEngine:
    """An engine on a Dask client.

    Parameters
    ----------
    client
        Connected to the cluster; the engine does not close it.
    resources
        What each item asks of a worker, such as ``{"GPU": 1}``; only workers that offer it count.
    limits
        How long to wait for what.
    revive
        Starts the workers that Dask has given up, where there are any; None where they are another's to start.
    """

    def __init__(
        self,
        client: Client,
        *,
        resources: Mapping[str, float] | None = None,
        limits: Limits | None = None,
        revive: Callable[[], object] | None = None,
    ) -> None:
        self._client = client
        self._resources = dict(resources or {})
        self._limits = limits or Limits()
        self._revive = revive

    @property
    def workers(self) -> int:
        """How many items are worked on at a time; at least 1 while workers are on their way."""
        return max(1, count_slots(self._client, self._resources))

    def map(
        self, function: Callable[[Item], Result], items: Iterable[Item], *, retries: int = 1
    ) -> Iterator[Outcome[Item, Result]]:
        """Yield the outcome of `function` for each item as it ends; submission is bounded."""
        pool = DaskPool(self._client, function, self._resources, self._limits, self._revive)
        try:
            yield from drive(pool, items, retries=retries, limits=self._limits)
        finally:
            pool.close()


def count_slots(client: Client, resources: Mapping[str, float]) -> int:
    """Return how many items that ask for `resources` the cluster works on at a time."""
    if not resources:
        return sum(int(threads) for threads in client.nthreads().values())
    workers = client.scheduler_info(n_workers=-1)["workers"].values()
    return sum(_slots_of(worker, resources) for worker in workers)


def _slots_of(worker: Mapping[str, Any], resources: Mapping[str, float]) -> int:
    offered = worker.get("resources") or {}
    room = [int(offered.get(name, 0) // amount) for name, amount in resources.items() if amount > 0]
    return min([int(worker["nthreads"]), *room])


class _SchedulerLostError(Exception):
    """A task was cancelled, and not by us."""


class DaskPool:
    """The workers of a Dask cluster, with the function that they work with."""

    def __init__(
        self,
        client: Client,
        function: Callable[[Any], Any],
        resources: Mapping[str, float],
        limits: Limits,
        revive: Callable[[], object] | None = None,
    ) -> None:
        self._client, self._resources, self._limits = client, dict(resources), limits
        self._revive, self._revived = revive, time.monotonic()
        label = getattr(getattr(function, "func", function), "__name__", "work")
        self._name = f"ktex-{label}-{uuid.uuid4().hex[:12]}"
        self._label = label
        self._flying: dict[str, Future] = {}
        self._ended: SimpleQueue[Ended] = SimpleQueue()
        self._fetchers = ThreadPoolExecutor(FETCHERS, thread_name_prefix="ktex-fetch")
        self._slots, self._counted = 0, -RECOUNT_S
        client.register_plugin(Function(self._name, function))

    @property
    def slots(self) -> int:
        """How many items can be worked on now."""
        if time.monotonic() - self._counted >= RECOUNT_S or not self._slots:
            try:
                self._slots = count_slots(self._client, self._resources)
            except (OSError, TimeoutError):  # not to be reached for a moment, or for good
                self._check_client()
                self._slots = 0
            self._counted = time.monotonic()
            if self._revive is not None and self._counted - self._revived >= REVIVE_S:
                self._revive()
                self._revived = self._counted
        return self._slots

    def submit(self, item: Any) -> Hashable:
        """Hand in an item as a task; its key is the ticket."""
        key = f"{self._label}-{uuid.uuid4().hex}"
        future = self._client.submit(call, self._name, item, key=key, pure=False, resources=self._resources or None)
        self._flying[key] = future
        future.add_done_callback(self._note)
        return key

    def _note(self, future: Future) -> None:
        # Fetching may wait for a worker that has just died, and others have ended meanwhile: each in its own time.
        with suppress(RuntimeError):  # closed meanwhile
            self._fetchers.submit(self._fetch, future)

    def _fetch(self, future: Future) -> None:
        key = str(future.key)
        try:
            if future.status == "error":
                ended = Ended(key, error=future.exception(timeout=self._limits.fetch_s))
            else:
                ended = Ended(key, future.result(timeout=self._limits.fetch_s))
        except FutureCancelledError as lost:
            ended = Ended(key, error=_SchedulerLostError(str(lost)))
        except TimeoutError:
            logger.warning("the worker that had finished %s died with its record; it is worked on again", key)
            future.add_done_callback(self._note)
            return
        except Exception as error:  # the task's own, raised by `result` where the status changed in between
            ended = Ended(key, error=error)
        self._ended.put(ended)

    def wait(self, timeout_s: float) -> list[Ended]:
        """Wait until a task ends; raises RunFailedError where the scheduler is lost."""
        try:
            found = [self._ended.get(timeout=timeout_s)]
        except Empty:
            self._check_client()
            return []
        while not self._ended.empty():
            found.append(self._ended.get())
        return [ended for ended in found if self._is_ours(ended)]

    def _is_ours(self, ended: Ended) -> bool:
        future = self._flying.pop(str(ended.ticket), None)
        if future is None:
            return False  # given up meanwhile
        if isinstance(ended.error, _SchedulerLostError):
            raise RunFailedError(
                f"the Dask scheduler was lost ({' '.join(str(ended.error).split())}); the same command resumes"
            )
        future.release()
        return True

    def _check_client(self) -> None:
        if self._client.status not in {"running", "connecting"}:
            raise RunFailedError(f"the Dask scheduler was lost ({self._client.status}); the same command resumes")

    def abandon(self, ticket: Hashable) -> None:
        """Cancel a task and start the worker anew that is held by it: a running function cannot be stopped."""
        future = self._flying.pop(str(ticket))
        holders = [address for address, keys in self._client.processing().items() if ticket in keys]
        self._client.cancel([future], force=True)
        if holders:
            logger.warning("starting anew %s, held by %s", ", ".join(holders), ticket)
            self._client.restart_workers(holders, timeout=self._limits.no_worker_s, raise_for_error=False)

    def close(self) -> None:
        """Cancel what still flies, and take the function from the workers."""
        self._fetchers.shutdown(wait=False, cancel_futures=True)
        if self._client.status != "running":
            return
        if self._flying:
            self._client.cancel(list(self._flying.values()), force=True)
        self._client.unregister_worker_plugin(self._name)
