"""What `ktex status` says of a series is what its ledger says; looking creates nothing and changes nothing."""

from __future__ import annotations

import hashlib
import json
import sqlite3
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import create_engine, text

from flows.operations import folder_of
from pipeline.acquisitions import Acquisition, Asset
from pipeline.errors import InputError
from pipeline.ledger import STATES, InputNote, Ledger
from pipeline.ledger.holder import Holder
from pipeline.ledger.overview import SERIES, SeriesStatus, find_series, look_at_series, note_series
from pipeline.watch import WatchConfig, watch
from tests.pipeline.conftest import Clock

SETTINGS = "s" * 64
ELSEWHERE = Holder("another machine", 1, 0.0)


def make_config(folder: Path, **changes: Any) -> WatchConfig:
    sources = [{"kind": "folder", "name": "drop", "path": folder / "drop"}]
    return WatchConfig.model_validate({"name": "nd", "out": folder / "maps", "sources": sources} | changes)


def acquisition(date: str, waiting: str | None = None) -> Acquisition:
    return Acquisition("drop", date, date, (Asset(f"{date}.tif", f"/in/{date}.tif", "1", 7),), waiting)


def fill(ledger: Ledger) -> None:
    """An acquisition in each state, and one whose process is known to be dead."""
    ledger.note(acquisition("2010-01-01"), SETTINGS)
    published = ledger.claim(lease_s=60)
    assert published is not None
    ledger.publish(published, content="c", result={"run": "/maps/runs/2010-01-01"}, notes=[], remark="without b.tif")
    ledger.note(acquisition("2010-01-02"), SETTINGS)
    bad = ledger.claim(lease_s=60)
    assert bad is not None
    ledger.quarantine(bad, "b.tif: is truncated", [InputNote(bad.assets[0], None, "b.tif: is truncated")])
    ledger.note(acquisition("2010-01-03"), SETTINGS)
    lost = ledger.claim(lease_s=60)
    assert lost is not None
    ledger.fail(lost, "no disk", attempts=1)
    for date in ("2010-01-04", "2010-01-05"):
        ledger.note(acquisition(date), SETTINGS)
    assert ledger.claim(lease_s=60, holder=ELSEWHERE) is not None
    assert ledger.claim(lease_s=60, holder=died()) is not None
    ledger.note(acquisition("2010-01-06"), SETTINGS)
    ledger.note(acquisition("2010-01-07", waiting="c.tif is not there yet"), SETTINGS)


def died() -> Holder:
    """A process of this machine that is over."""
    told = subprocess.run(
        [sys.executable, "-c", "from pipeline.ledger.holder import this_process; print(this_process())"],
        capture_output=True, text=True, check=True, cwd=Path(__file__).parents[2],
    )  # fmt: skip
    found = Holder.parse(told.stdout.strip())
    assert found is not None
    return found


def rows_of(series: SeriesStatus) -> dict[str, tuple[str, str | None]]:
    return {row.name: (row.state, row.reason) for row in series.rows}


def test_each_state_is_told_with_its_reason_and_each_claim_with_its_life(
    address: str, clock: Clock, tmp_path: Path
) -> None:
    config = make_config(tmp_path, ledger=address)
    note_series(config.out, config.name, config.ledger)
    with Ledger(address, "nd", clock) as ledger:
        fill(ledger)
    (folder,) = find_series(tmp_path)
    found = look_at_series(folder, now=clock() + 30)
    assert found.fault is None
    assert {state: found.count(state) for state in STATES} == {
        "waiting": 1, "due": 1, "running": 2, "published": 1, "quarantined": 1, "failed": 1,
    }  # fmt: skip
    assert rows_of(found)["2010-01-02"] == ("quarantined", "b.tif: is truncated")
    assert [row.name for row in found.abandoned] == ["2010-01-05"], "of another machine nothing is known within a lease"
    late = look_at_series(folder, now=clock() + 61)
    assert [row.name for row in late.abandoned] == ["2010-01-04", "2010-01-05"]
    problems = "\n".join(found.problems)
    for said in (
        "drop 2010-01-01: published, but without b.tif",
        "drop 2010-01-02: quarantined: b.tif: is truncated",
        "drop 2010-01-03: failed: no disk",
        "drop 2010-01-05: its process",
    ):
        assert said in problems
    assert len(found.problems) == 4
    told = json.loads(json.dumps(found.to_json()))
    alive = {each["name"]: each["claim"]["alive"] for each in told["acquisitions"] if "claim" in each}
    assert alive == {"2010-01-04": True, "2010-01-05": False}
    assert told["counts"]["running"] == 2


def test_a_pass_leaves_what_it_saw_and_one_that_dies_is_told(tmp_path: Path) -> None:
    config = make_config(tmp_path)
    (tmp_path / "drop").mkdir()
    (tmp_path / "drop" / "a_20100629.tif").touch()
    watch(config, lambda *_: None)
    found = look_at_series(config.out)
    (last,) = found.passes
    assert found.last_pass == last
    assert dict(last.counts) == {"seen": 1, "waiting": 1}
    assert last.ended is not None
    assert (last.ended >= last.began, found.open_passes, found.problems) == (True, [], [])

    died_in = (
        "import os; from pathlib import Path; from pipeline.ledger import Ledger\n"
        f"with Ledger({config.ledger_address!r}, 'nd') as ledger, ledger.passing(): os._exit(0)"
    )
    subprocess.run([sys.executable, "-c", died_in], check=True, cwd=Path(__file__).parents[2])
    found = look_at_series(config.out)
    assert found.last_pass == last
    assert [each.is_lost() for each in found.open_passes] == [True]
    assert "did not end: its process is gone" in found.problems[0]

    (tmp_path / "drop" / "a_20100629.tif").unlink()
    (tmp_path / "drop").rmdir()
    watch(config, lambda *_: None)
    found = look_at_series(config.out)
    assert found.open_passes == [], "a later pass has ended"
    assert ["drop is no folder" in each for each in found.problems] == [True]


def test_a_pass_that_ends_with_an_error_says_which(tmp_path: Path) -> None:
    config = make_config(tmp_path)
    with Ledger(config.ledger_address, "nd") as ledger:
        with pytest.raises(RuntimeError), ledger.passing():
            raise RuntimeError("out\nof order")
        note_series(config.out, config.name, config.ledger)
    assert look_at_series(config.out).problems == ["the last pass ended with RuntimeError: out of order"]


def test_looking_changes_nothing_and_creates_nothing(tmp_path: Path) -> None:
    config = make_config(tmp_path)
    note_series(config.out, config.name, config.ledger)
    before = {path.name for path in config.out.iterdir()}
    found = look_at_series(config.out)
    assert "cannot be opened" in str(found.fault)
    assert found.problems == [found.fault]
    assert {path.name for path in config.out.iterdir()} == before, "no ledger is made by looking for one"
    with Ledger(config.ledger_address, "nd") as ledger:
        fill(ledger)
    file = config.out / "ledger.db"
    digest = hashlib.sha256(file.read_bytes()).hexdigest()
    assert look_at_series(config.out).count("published") == 1
    assert hashlib.sha256(file.read_bytes()).hexdigest() == digest


def test_a_look_waits_for_nobody_and_hinders_nobody(tmp_path: Path) -> None:
    config = make_config(tmp_path)
    with Ledger(config.ledger_address, "nd") as ledger:
        fill(ledger)
    note_series(config.out, config.name, config.ledger)
    with sqlite3.connect(config.out / "ledger.db", isolation_level=None) as writer:
        writer.execute("BEGIN IMMEDIATE")
        assert look_at_series(config.out).count("published") == 1
        writer.execute("ROLLBACK")
    writer.close()


def test_a_ledger_of_an_earlier_version_is_told_and_the_next_pass_mends_it(tmp_path: Path) -> None:
    config = make_config(tmp_path)
    (tmp_path / "drop").mkdir()
    watch(config, lambda *_: None)
    engine = create_engine(config.ledger_address)
    with engine.begin() as connection:
        connection.execute(text("DROP TABLE ktex_passes"))
    engine.dispose()
    assert "no such table: ktex_passes" in str(look_at_series(config.out).fault)
    watch(config, lambda *_: None)
    assert look_at_series(config.out).fault is None


def test_a_folder_belongs_to_one_series(tmp_path: Path) -> None:
    note_series(tmp_path / "maps", "nd", "")
    with pytest.raises(InputError, match="is the folder of the series nd; give the series wv another 'out'"):
        watch(make_config(tmp_path, name="wv"), lambda *_: None)


def test_the_note_of_a_series_holds_no_password(tmp_path: Path) -> None:
    config = make_config(tmp_path, ledger="postgresql://me:secret@db/ktex")
    note_series(config.out, config.name, config.ledger)
    assert "secret" not in (config.out / SERIES).read_text()
    found = look_at_series(config.out)
    assert "secret" not in f"{found}{found.to_json()}"
    (config.out / SERIES).write_text("{", encoding="utf-8")
    assert "is not JSON" in str(look_at_series(config.out).fault)


def test_series_are_looked_for_below_and_a_configuration_stands_for_its_folder(tmp_path: Path) -> None:
    for name in ("a", "b/c", ".hidden"):
        note_series(tmp_path / name / "maps", "nd", "")
    assert list(find_series(tmp_path)) == [tmp_path / "a" / "maps", tmp_path / "b" / "c" / "maps"]
    path = tmp_path / "watch.yaml"
    path.write_text("name: nd\nout: maps\nsources: [{kind: folder, name: d, path: drop}]\n", encoding="utf-8")
    with pytest.raises(InputError, match="no pass has been made"):
        folder_of(path)
    (tmp_path / "maps").mkdir()
    assert folder_of(path) == tmp_path / "maps"
    assert folder_of(tmp_path) == tmp_path
