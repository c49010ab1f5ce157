"""Failures, deaths, rivals and wrong clocks: what was begun is gone on with, and nothing is published twice."""

from __future__ import annotations

import fcntl
import hashlib
import time
from pathlib import Path
from typing import Any

import pytest

from pipeline.checksums import checksums
from pipeline.ledger import Ledger
from pipeline.ledger.holder import Holder
from pipeline.publish import write_outputs
from pipeline.results import open_result
from pipeline.watch import Pass, WatchConfig
from pipeline.watch.maintenance import Upkeep, maintain
from tests.pipeline.watch.watched import DATES, do_pass, kinds, run_here, scene, states


def test_a_failure_is_tried_again_and_goes_on_from_what_is_there(
    config: WatchConfig, drop: Path, trainings: list[str]
) -> None:
    scene(drop / "a_20100629.tif")

    def break_down(source: list[str], out: str, settings: dict[str, Any]) -> object:
        raise OSError("no space left on device")

    clock = [time.time()]
    with Ledger(config.ledger_address, "nd", lambda: clock[0]) as ledger:
        done = do_pass(config, segment=break_down, ledger=ledger)
        assert kinds(done) == {"drop 2010-06-29": "failed"}
        assert "no space left" in str(done.outcomes[0].reason)
        assert done.exit_code == 1
        assert kinds(do_pass(config, ledger=ledger)) == {}, "it rests first"
        clock[0] += 120
        assert kinds(do_pass(config, ledger=ledger)) == {"drop 2010-06-29": "published"}


def test_a_file_that_changes_while_a_run_reads_it_is_read_anew(
    config: WatchConfig, drop: Path, trainings: list[str]
) -> None:
    """Whatever the moment: what is published is of files that were whole and looked at."""
    clock = [time.time()]
    with Ledger(config.ledger_address, "nd", lambda: clock[0]) as ledger:
        for moment in ("before", "during"):
            image = scene(drop / "a_20100629.tif", 1)

            def meddle(source: list[str], out: str, settings: dict[str, Any], moment: str = moment) -> object:
                scene(Path(source[0]), 2)
                if moment == "before":
                    return run_here(source, out, settings)
                with pytest.MonkeyPatch.context() as patch:
                    patch.setattr("pipeline.run.write_outputs", change_and_write)
                    return run_here(source, out, settings)

            def change_and_write(*args: Any, **options: Any) -> None:
                scene(drop / "a_20100629.tif", 3)
                write_outputs(*args, **options)

            done = do_pass(config, segment=meddle, ledger=ledger)
            assert kinds(done) == {"drop 2010-06-29": "failed"}
            assert "changed while" in str(done.outcomes[0].reason) or "changed since" in str(done.outcomes[0].reason)
            clock[0] += 3600
            assert kinds(do_pass(config, ledger=ledger)) == {"drop 2010-06-29": "published"}
            (row,) = ledger.rows(with_inputs=True)
            assert row.inputs[0].sha256 == hashlib.sha256(image.read_bytes()).hexdigest()
            record = open_result(config.out / "runs" / "2010-06-29").record
            assert [each.sha256 for each in record.inputs] == [row.inputs[0].sha256]
            assert not maintain(config, ledger=ledger).damaged
            clock[0] += 3600


def test_a_ledger_that_was_deleted_is_made_anew_from_what_is_published(
    config: WatchConfig, drop: Path, trainings: list[str]
) -> None:
    for seed, date in enumerate(("20100629", "20120731")):
        scene(drop / f"a_{date}.tif", seed)
    do_pass(config)
    before = {date: checksums(config.out / "runs" / date) for date in DATES[:2]}
    (config.out / "ledger.db").unlink()
    assert set(kinds(do_pass(config)).values()) == {"published"}
    assert len(trainings) == 1, "nothing is done again"
    assert {date: checksums(config.out / "runs" / date) for date in DATES[:2]} == before
    assert maintain(config) == Upkeep(checked=2)
    assert kinds(do_pass(config)) == {}


def test_a_machine_whose_clock_is_wrong_takes_work_over_and_still_nothing_is_published_twice(
    config: WatchConfig, drop: Path, trainings: list[str]
) -> None:
    """A day ahead, every lease of others has run out; which of the two may publish is the token's to say."""
    scene(drop / "a_20100629.tif")
    inner: list[Pass] = []

    def be_robbed(source: list[str], out: str, settings: dict[str, Any]) -> object:
        with Ledger(config.ledger_address, "nd", lambda: time.time() + 86_400) as ahead:
            inner.append(do_pass(config, ledger=ahead))
        return run_here(source, out, settings)

    first = do_pass(config, segment=be_robbed)
    assert [kinds(each) for each in inner] == [{"drop 2010-06-29": "published"}]
    assert kinds(first) == {"drop 2010-06-29": "fenced"}
    with Ledger(config.ledger_address, "nd") as ledger:
        (row,) = ledger.rows()
        assert [what for _, what, _ in ledger.history(row.id)].count("published") == 1
    assert maintain(config) == Upkeep(checked=1)


def test_of_two_passes_at_once_one_gets_each_acquisition(config: WatchConfig, drop: Path, trainings: list[str]) -> None:
    scene(drop / "a_20100629.tif")
    inner: list[Pass] = []

    def look_meanwhile(source: list[str], out: str, settings: dict[str, Any]) -> object:
        inner.append(do_pass(config))
        return run_here(source, out, settings)

    assert kinds(do_pass(config, segment=look_meanwhile)) == {"drop 2010-06-29": "published"}
    assert [kinds(each) for each in inner] == [{}]


def test_a_work_folder_that_another_process_holds_is_left_alone(
    config: WatchConfig, drop: Path, trainings: list[str]
) -> None:
    scene(drop / "a_20100629.tif")
    clock = [time.time()]

    def find_it_busy(source: list[str], out: str, settings: dict[str, Any]) -> object:
        lock = Path(out, ".ktex", "lock")
        lock.parent.mkdir(parents=True)
        with lock.open("a") as held:
            fcntl.flock(held, fcntl.LOCK_EX)
            return run_here(source, out, settings)

    with Ledger(config.ledger_address, "nd", lambda: clock[0]) as ledger:
        assert kinds(do_pass(config, segment=find_it_busy, ledger=ledger)) == {"drop 2010-06-29": "busy"}
        (row,) = ledger.rows()
        assert (row.state, row.attempts) == ("due", 0), "that is no try"


def test_a_run_believed_dead_publishes_nothing(config: WatchConfig, drop: Path, trainings: list[str]) -> None:
    scene(drop / "a_20100629.tif")
    clock = [time.time()]
    with Ledger(config.ledger_address, "nd", lambda: clock[0]) as ledger:

        def be_overtaken(source: list[str], out: str, settings: dict[str, Any]) -> object:
            done = run_here(source, out, settings)
            clock[0] += config.lease_s + 1  # silent for so long that another machine takes over
            taken = ledger.claim(lease_s=60, holder=Holder("another machine", 1, 0.0))
            assert taken is not None
            assert taken.token == 2
            return done

        done = do_pass(config, segment=be_overtaken, ledger=ledger)
        assert kinds(done) == {"drop 2010-06-29": "fenced"}
        assert not (config.out / "runs").exists(), "nothing is published under a claim that is over"
        clock[0] += 61
        assert kinds(do_pass(config, ledger=ledger)) == {"drop 2010-06-29": "published"}
        assert len(trainings) == 1, "what it had done is gone on with"


@pytest.mark.parametrize("step", ["keep_ids", "extend_series", "describe_result"])
def test_who_dies_while_publishing_leaves_what_the_next_one_ends(
    step: str, config: WatchConfig, drop: Path, trainings: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    scene(drop / "a_20100629.tif")

    class Death(BaseException):
        """As a signal: nothing is caught, nothing is written to the ledger."""

    def die(*_: object) -> None:
        raise Death

    with monkeypatch.context() as dying:
        dying.setattr(f"pipeline.watch.passes.{step}", die)
        with pytest.raises(Death):
            do_pass(config)
    assert states(config) == {"2010-06-29": "running"}
    clock = time.time() + config.lease_s + 1
    with Ledger(config.ledger_address, "nd", lambda: clock) as ledger:
        assert kinds(do_pass(config, ledger=ledger)) == {"drop 2010-06-29": "published"}
    assert len(trainings) == 1
