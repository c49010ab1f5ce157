"""The ledger decides what is due and who may work on it; on SQLite, and on a real PostgreSQL server."""

from __future__ import annotations

import multiprocessing
import os
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import pytest

from pipeline.acquisitions import Acquisition, Asset
from pipeline.errors import InputError
from pipeline.ledger import FencedError, InputNote, Ledger
from pipeline.ledger.heartbeat import kept_alive
from pipeline.ledger.holder import Holder, this_process
from tests.pipeline.conftest import Clock

SETTINGS = "s" * 64


@pytest.fixture
def ledger(address: str, clock: Clock) -> Iterator[Ledger]:
    with Ledger(address, "nd", clock) as opened:
        yield opened


def seen(date: str, version: str = "1", *names: str, waiting: str | None = None) -> Acquisition:
    assets = tuple(Asset(name, f"/in/{name}", version, 7) for name in names or (f"{date}.tif",))
    return Acquisition("drop", date, date, assets, waiting)


def notes_of(acquisition: Acquisition, sha256: str = "a" * 64) -> list[InputNote]:
    return [InputNote(asset, sha256) for asset in acquisition.assets]


def publish(ledger: Ledger, acquisition: Acquisition, sha256: str = "a" * 64) -> None:
    claim = ledger.claim(lease_s=60)
    assert claim is not None
    assert claim.name == acquisition.name
    result = {"run": f"/out/{claim.name}"}
    ledger.publish(claim, content=claim.version, result=result, notes=notes_of(acquisition, sha256), remark=None)


def test_what_is_new_is_due_once_and_the_oldest_date_first(ledger: Ledger) -> None:
    for date in ("2014-07-20", "2010-06-29", "2012-07-31"):
        assert ledger.note(seen(date), SETTINGS) == "due"
    for date in ("2010-06-29", "2012-07-31", "2014-07-20"):
        publish(ledger, seen(date))
        assert ledger.note(seen(date), SETTINGS) == "published"
    assert ledger.claim(lease_s=60) is None
    assert [row.state for row in ledger.rows()] == ["published"] * 3


def test_changed_files_and_changed_settings_are_due_again(ledger: Ledger) -> None:
    ledger.note(seen("2010-06-29"), SETTINGS)
    publish(ledger, seen("2010-06-29"))
    assert ledger.note(seen("2010-06-29", "2"), SETTINGS) == "due"
    publish(ledger, seen("2010-06-29", "2"))
    assert ledger.note(seen("2010-06-29", "2"), "t" * 64) == "due"
    claim = ledger.claim(lease_s=60)
    assert claim is not None
    assert claim.content is not None, "what is published now is known to whoever makes it anew"


def test_a_folder_that_is_emptied_makes_nothing_due(ledger: Ledger) -> None:
    both = seen("2010-06-29", "1", "a.tif", "b.tif")
    ledger.note(both, SETTINGS)
    publish(ledger, both)
    assert ledger.note(seen("2010-06-29", "1", "a.tif"), SETTINGS) == "published"
    assert ledger.note(seen("2010-06-29", "1", "a.tif", "b.tif", "c.tif"), SETTINGS) == "due"


def test_what_is_incomplete_waits_and_says_why(ledger: Ledger) -> None:
    assert ledger.note(seen("2010-06-29", waiting="b.tif is not there yet"), SETTINGS) == "waiting"
    assert ledger.claim(lease_s=60) is None
    assert ledger.rows()[0].reason == "b.tif is not there yet"
    assert ledger.note(seen("2010-06-29"), SETTINGS) == "due"


def test_series_in_one_database_know_nothing_of_each_other(address: str, clock: Clock) -> None:
    with Ledger(address, "nd", clock) as one, Ledger(address, "wv", clock) as other:
        one.note(seen("2010-06-29"), SETTINGS)
        assert other.claim(lease_s=60) is None
        assert other.rows() == []
        assert one.claim(lease_s=60) is not None


def test_one_of_many_that_ask_at_once_gets_the_claim(address: str, clock: Clock) -> None:
    with Ledger(address, "nd", clock) as ledger:
        for day in range(1, 6):
            ledger.note(seen(f"2010-06-0{day}"), SETTINGS)

        def take(_: int) -> list[str]:
            with Ledger(address, "nd", clock) as own:
                taken = []
                while (claim := own.claim(lease_s=60)) is not None:
                    taken.append(claim.name)
                return taken

        with ThreadPoolExecutor(8) as pool:
            taken = [name for names in pool.map(take, range(8)) for name in names]
    assert sorted(taken) == [f"2010-06-0{day}" for day in range(1, 6)]


def test_first_sights_at_the_same_moment_are_one(address: str, clock: Clock) -> None:
    Ledger(address, "nd", clock).close()

    def look(_: int) -> str:
        with Ledger(address, "nd", clock) as own:
            return own.note(seen("2010-06-29"), SETTINGS)

    with ThreadPoolExecutor(6) as pool:
        assert set(pool.map(look, range(6))) == {"due"}
    with Ledger(address, "nd", clock) as ledger:
        assert len(ledger.rows()) == 1


def test_a_claim_that_is_not_renewed_lapses_and_its_holder_is_fenced(ledger: Ledger, clock: Clock) -> None:
    elsewhere = Holder("another machine", 1, 0.0)
    ledger.note(seen("2010-06-29"), SETTINGS)
    old = ledger.claim(lease_s=60, holder=elsewhere)
    assert old is not None
    clock.now += 59
    assert ledger.claim(lease_s=60) is None
    ledger.renew(old, 60)
    clock.now += 59
    assert ledger.claim(lease_s=60) is None, "a renewed claim holds"
    clock.now += 2
    new = ledger.claim(lease_s=60, holder=elsewhere)
    assert new is not None
    assert new.token > old.token
    with pytest.raises(FencedError, match="claim 1 is over"):
        ledger.renew(old, 60)
    with pytest.raises(FencedError, match="claim 1 is over"), ledger.publishing(old):
        pytest.fail("a run believed dead may not publish")
    with pytest.raises(FencedError, match="claim 1 is over"):
        ledger.publish(old, content="old", result={}, notes=[], remark=None)
    with ledger.publishing(new):
        ledger.publish(new, content="new", result={"run": "/out"}, notes=[], remark=None)
    with pytest.raises(FencedError, match="state published"):
        ledger.fail(old, "too late", attempts=3)
    assert (ledger.rows()[0].state, ledger.rows()[0].content) == ("published", "new")


def _claim_and_die(address: str) -> None:
    claim = Ledger(address, "nd").claim(lease_s=3600)
    os._exit(0 if claim is not None else 1)


def test_a_claim_of_a_dead_process_of_this_machine_is_free_at_once(ledger: Ledger, address: str) -> None:
    ledger.note(seen("2010-06-29"), SETTINGS)
    process = multiprocessing.get_context("spawn").Process(target=_claim_and_die, args=(address,))
    process.start()
    process.join()
    assert process.exitcode == 0
    taken = ledger.claim(lease_s=60)
    assert taken is not None
    assert taken.token == 2
    assert [what for _, what, _ in ledger.history(taken.id)] == ["due", "claimed", "taken over"]


def test_only_what_is_known_is_believed_of_a_holder() -> None:
    me = this_process()
    assert not me.is_known_dead()
    assert replace(me, started=me.started - 100).is_known_dead(), "a later process has the number now"
    assert not Holder("another machine", me.pid, 0.0).is_known_dead()
    assert Holder.parse("nonsense") is None


def test_what_kills_its_processes_is_given_up(ledger: Ledger, clock: Clock) -> None:
    elsewhere = Holder("another machine", 1, 0.0)
    ledger.note(seen("2010-06-29"), SETTINGS)
    ledger.note(seen("2012-07-31"), SETTINGS)
    for _ in range(2):
        claim = ledger.claim(lease_s=60, attempts=2, holder=elsewhere)
        assert claim is not None
        assert claim.name == "2010-06-29"
        clock.now += 61
    other = ledger.claim(lease_s=60, attempts=2, holder=elsewhere)
    assert other is not None
    assert other.name == "2012-07-31", "and does not stop the others"
    first = ledger.rows()[0]
    assert first.state == "failed"
    assert "died 2 times" in str(first.reason)
    with pytest.raises(FencedError, match="state failed"):
        ledger.renew(claim, 60)


def test_a_failed_try_rests_longer_each_time_and_ends(ledger: Ledger, clock: Clock) -> None:
    ledger.note(seen("2010-06-29"), SETTINGS)
    for attempt, rest in ((1, 60), (2, 120)):
        claim = ledger.claim(lease_s=60)
        assert claim is not None
        assert claim.attempts == attempt
        assert ledger.fail(claim, "no disk", attempts=3) == "due"
        clock.now += rest - 1
        assert ledger.claim(lease_s=60) is None
        clock.now += 2
    claim = ledger.claim(lease_s=60)
    assert claim is not None
    assert ledger.fail(claim, "no disk", attempts=3) == "failed"
    assert ledger.note(seen("2010-06-29"), SETTINGS) == "failed"
    assert ledger.retry() == 1
    assert ledger.claim(lease_s=60) is not None


def test_what_is_in_quarantine_stays_there_until_it_is_delivered_anew(ledger: Ledger) -> None:
    bad = seen("2010-06-29")
    ledger.note(bad, SETTINGS)
    claim = ledger.claim(lease_s=60)
    assert claim is not None
    ledger.quarantine(claim, "truncated", [InputNote(bad.assets[0], "b" * 64, "truncated")])
    assert ledger.note(bad, SETTINGS) == "quarantined"
    assert ledger.claim(lease_s=60) is None
    (row,) = ledger.rows(with_inputs=True)
    assert (row.reason, row.inputs[0].fault) == ("truncated", "truncated")
    assert ledger.note(seen("2010-06-29", "2"), SETTINGS) == "due"


def test_what_is_delivered_anew_while_it_is_at_work_is_done_once_more(ledger: Ledger) -> None:
    ledger.note(seen("2010-06-29"), SETTINGS)
    claim = ledger.claim(lease_s=60)
    assert claim is not None
    assert ledger.note(seen("2010-06-29", "2"), SETTINGS) == "running"
    ledger.publish(claim, content="first", result={"run": "/out"}, notes=notes_of(seen("2010-06-29")), remark=None)
    again = ledger.claim(lease_s=60)
    assert again is not None
    assert again.assets[0].version == "2"


def test_one_by_one_nothing_is_claimed_while_another_works(ledger: Ledger, clock: Clock) -> None:
    elsewhere = Holder("another machine", 1, 0.0)
    for date in ("2010-06-29", "2012-07-31"):
        ledger.note(seen(date), SETTINGS)
    first = ledger.claim(lease_s=60, holder=elsewhere)
    assert first is not None
    assert ledger.claim(lease_s=60, alone=True) is None
    clock.now += 61
    assert ledger.claim(lease_s=60, alone=True, only_lapsed=True) is not None
    assert ledger.claim(lease_s=60, only_lapsed=True) is None, "what is due is left alone"


def test_a_file_is_found_by_its_content_in_other_published_acquisitions(ledger: Ledger) -> None:
    ledger.note(seen("2010-06-29"), SETTINGS)
    publish(ledger, seen("2010-06-29"), sha256="c" * 64)
    first = ledger.rows()[0].id
    assert ledger.find_content("c" * 64, other_than=first) is None
    assert ledger.find_content("c" * 64, other_than=first + 1) == "2010-06-29"
    assert ledger.find_content("d" * 64, other_than=first + 1) is None


def test_one_publishes_at_a_time_whoever_it_is(address: str) -> None:
    inside, most = [0], [0]
    with Ledger(address, "nd") as ledger:
        for day in range(1, 5):
            ledger.note(seen(f"2010-06-0{day}"), SETTINGS)

    def enter() -> None:
        with Ledger(address, "nd") as own:
            claim = own.claim(lease_s=60)
            assert claim is not None
            with own.publishing(claim):
                inside[0] += 1
                most[0] = max(most[0], inside[0])
                time.sleep(0.05)
                inside[0] -= 1
                own.publish(claim, content="c", result={}, notes=[], remark=None)

    threads = [threading.Thread(target=enter) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert most == [1]
    with Ledger(address, "nd") as ledger:
        assert [row.state for row in ledger.rows()] == ["published"] * 4


def wait_for(condition: Callable[[], bool]) -> None:
    until = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < until
        time.sleep(0.02)


def test_a_claim_is_kept_alive_while_the_work_goes_on(address: str) -> None:
    with Ledger(address, "nd") as ledger:
        ledger.note(seen("2010-06-29"), SETTINGS)
        claim = ledger.claim(lease_s=0.4, holder=Holder("another machine", 1, 0.0))
        assert claim is not None
        with kept_alive(ledger, claim, 0.4) as lost:
            first = ledger.rows()[0].lease_until
            wait_for(lambda: (ledger.rows()[0].lease_until or 0) > (first or 0) + 0.5)
            assert ledger.claim(lease_s=60) is None
            assert not lost.is_set()
            ledger.fail(claim, "taken away", attempts=1)
            wait_for(lost.is_set)


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ("nonsense", "is no database address"),
        ("mysql://me:secret@db/x", "mysql is not supported"),
        ("sqlite://", "SQLite needs a file"),
        ("postgresql://me:secret@127.0.0.1:1/x", r"postgresql\+psycopg://me:\*\*\*@127.0.0.1:1/x: cannot be opened"),
    ],
)
def test_an_address_that_cannot_be_used_is_told_without_its_password(wrong: str, said: str) -> None:
    with pytest.raises(InputError, match=said) as caught:
        Ledger(wrong, "nd")
    assert "secret" not in str(caught.value)
