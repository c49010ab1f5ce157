"""The books of what is in flight: bounded, retried, given up in time, whatever the workers do."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator

import pytest

from pipeline.engine import Limits, Outcome
from pipeline.engine.submission import SPARE_PER_SLOT, Ended, drive
from pipeline.errors import RunFailedError


class Pool:
    """Workers whose items end in the order of their submission, a second each, by a clock of its own."""

    def __init__(self, slots: int, fate: Callable[[int], Exception | None] = lambda _: None) -> None:
        self.slots, self.fate, self.now = slots, fate, 0.0
        self.flying: dict[Hashable, int] = {}
        self.hanging: set[int] = set()
        self.most, self.submitted, self.abandoned = 0, list[int](), list[int]()

    def clock(self) -> float:
        return self.now

    def submit(self, item: int) -> Hashable:
        self.submitted.append(item)
        ticket = len(self.submitted)
        self.flying[ticket] = item
        self.most = max(self.most, len(self.flying))
        return ticket

    def wait(self, timeout_s: float) -> list[Ended]:
        ready = next((ticket for ticket, item in self.flying.items() if item not in self.hanging), None)
        self.now += timeout_s if ready is None else 1.0
        if ready is None or not self.slots:
            return []
        item = self.flying.pop(ready)
        return [Ended(ready, item * 10, self.fate(item))]

    def abandon(self, ticket: Hashable) -> None:
        self.abandoned.append(self.flying.pop(ticket))


def go(pool: Pool, items: Iterator[int] | range, *, retries: int = 0, limits: Limits | None = None) -> list[Outcome]:
    return list(drive(pool, items, retries=retries, limits=limits or Limits(), clock=pool.clock))


def test_no_more_is_taken_than_the_workers_can_do_with() -> None:
    pool, taken = Pool(3), list[int]()

    def items() -> Iterator[int]:
        for item in range(1000):
            taken.append(item)
            yield item

    for done, outcome in enumerate(drive(pool, items(), retries=0, limits=Limits(), clock=pool.clock), 1):
        assert outcome.error is None
        assert len(taken) <= done + 3 * (1 + SPARE_PER_SLOT)
    assert taken == pool.submitted == [*range(1000)]
    assert pool.most == 3 * (1 + SPARE_PER_SLOT)


@pytest.mark.parametrize("retries", [0, 1, 3])
def test_what_fails_is_tried_so_often_and_the_rest_once(retries: int) -> None:
    pool = Pool(2, lambda item: ValueError("unlucky") if item == 4 else None)
    outcomes = {outcome.item: outcome for outcome in go(pool, range(8), retries=retries)}
    assert sorted(outcomes) == [*range(8)]
    assert isinstance(outcomes[4].error, ValueError)
    assert pool.submitted.count(4) == retries + 1
    assert all(pool.submitted.count(item) == 1 and outcomes[item].error is None for item in outcomes if item != 4)


def test_what_hangs_is_given_up_in_time_and_the_rest_ends() -> None:
    pool = Pool(2)
    pool.hanging = {1}
    outcomes = {outcome.item: outcome for outcome in go(pool, range(4), limits=Limits(item_s=60, poll_s=5))}
    assert isinstance(outcomes[1].error, TimeoutError)
    assert pool.abandoned == [1]
    assert [item for item in outcomes if outcomes[item].error is None] == [0, 2, 3]
    assert 60 <= pool.now < 75


def test_workers_that_never_come_end_the_run() -> None:
    pool = Pool(0)
    with pytest.raises(RunFailedError, match=r"no worker for 300 s.*the same command resumes"):
        go(pool, range(4), limits=Limits(no_worker_s=300, poll_s=5))
    assert 300 < pool.now < 320


def test_workers_that_come_back_in_time_go_on() -> None:
    pool = Pool(0)
    seen, wait = list[float](), pool.wait

    def later(timeout_s: float) -> list[Ended]:
        seen.append(pool.now)
        pool.slots = int(pool.now > 200)
        return wait(timeout_s)

    pool.wait = later  # type: ignore[method-assign]
    assert [outcome.result for outcome in go(pool, range(3))] == [0, 10, 20]
    assert pool.now > 200
