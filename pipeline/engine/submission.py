"""Bounded submission: the books of what is in flight, whatever pool of workers it flies in.

No more items are taken than the workers can do with, so that a country's blocks never pile up in a scheduler; each is
forgotten as it ends. Every wait has an end.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Hashable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any, Generic, Protocol

from pipeline.engine.interface import Item, Limits, Outcome
from pipeline.errors import RunFailedError

logger = logging.getLogger(__name__)

SPARE_PER_SLOT = 1
"""Items that wait at a worker for each that is worked on, so that it need not wait for the next."""


@dataclass(frozen=True)
class Ended:
    """A ticket that has come to its end, with a result or an error."""

    ticket: Hashable
    result: Any = None
    error: BaseException | None = None


class Pool(Protocol):
    """Workers that items can be handed to."""

    @property
    def slots(self) -> int:
        """How many items can be worked on now; 0 where no worker is there."""

    def submit(self, item: Any) -> Hashable:
        """Hand in an item; returns a ticket for it, at once."""

    def wait(self, timeout_s: float) -> list[Ended]:
        """Wait until something ends; returns nothing where nothing does in time."""

    def abandon(self, ticket: Hashable) -> None:
        """Give an item up, and what is at work on it."""


@dataclass
class _Flight(Generic[Item]):
    item: Item
    since: float
    failures: int = 0


def drive(
    pool: Pool,
    items: Iterable[Item],
    *,
    retries: int,
    limits: Limits,
    clock: Callable[[], float] = time.monotonic,
) -> Iterator[Outcome[Item, Any]]:
    """Hand `items` to a pool as there is room, and yield what became of each as it ends.

    Raises
    ------
    RunFailedError
        No worker was there for longer than the limits allow.
    """
    waiting, flying = iter(items), dict[Hashable, _Flight[Item]]()
    exhausted, seen_worker = False, clock()
    while True:
        slots = pool.slots
        if slots:
            seen_worker = clock()
        elif clock() - seen_worker > limits.no_worker_s:
            raise RunFailedError(
                f"no worker for {limits.no_worker_s:.0f} s; see the log of the workers; the same command resumes"
            )
        while not exhausted and len(flying) < max(1, slots) * (1 + SPARE_PER_SLOT):
            try:
                item = next(waiting)
            except StopIteration:
                exhausted = True
                break
            flying[pool.submit(item)] = _Flight(item, clock())
        if not flying:
            return
        for ended in pool.wait(limits.poll_s):
            flight = flying.pop(ended.ticket, None)
            if flight is None:
                continue
            if ended.error is not None and flight.failures < retries:
                logger.warning("%s failed (%s); trying again", flight.item, ended.error)
                flying[pool.submit(flight.item)] = _Flight(flight.item, clock(), flight.failures + 1)
            else:
                yield Outcome(flight.item, ended.result, ended.error)
        for ticket in _overdue(flying, clock() - limits.item_s):
            pool.abandon(ticket)
            late = TimeoutError(f"did not end within {limits.item_s:.0f} s")
            yield Outcome(flying.pop(ticket).item, None, late)


def _overdue(flying: dict[Hashable, _Flight[Item]], before: float) -> list[Hashable]:
    # Flights are kept in the order of their submission: the first that is in time ends the search.
    late = []
    for ticket, flight in flying.items():
        if flight.since >= before:
            break
        late.append(ticket)
    return late
