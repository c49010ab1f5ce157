"""A pass over the sources: what is new is published once, what is bad is in quarantine, and the rest goes on."""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import shutil
import time
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
import xarray as xr

from pipeline.acquisitions import DeliveryError
from pipeline.catalogue import stage
from pipeline.catalogue.attachment import Attachment
from pipeline.catalogue.desk import merge, rename_class
from pipeline.catalogue.values import Catalogue
from pipeline.checksums import checksums
from pipeline.errors import InputError
from pipeline.ledger import Ledger
from pipeline.ledger.holder import Holder
from pipeline.logs import current_ids
from pipeline.publish import write_outputs
from pipeline.report import remake_report
from pipeline.results import open_result
from pipeline.run import segment
from pipeline.series import read_dates
from pipeline.settings import Settings
from pipeline.watch import Pass, WatchConfig, watch
from pipeline.watch.inspection import Reference, inspect_delivery
from pipeline.watch.maintenance import Upkeep, maintain
from pipeline.watch.refresh import refresh
from tests.pipeline import grey_model
from tests.pipeline.rasters import GRID, shift, write_raster

BANDS = "R=1,G=2"
SIDE = 96


def scene(path: Path, seed: int = 0, **options: Any) -> Path:
    """A delivery of two bands, whose modification lies an hour back."""
    write_raster(path, options.pop("data", levels(seed, SIDE)), **options)
    return age(path)


def levels(seed: int, side: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(1, 255, (2, side, side)).astype(np.uint8)


def pixels(path: Path) -> np.ndarray:
    with rasterio.open(path) as source:
        return np.asarray(source.read())


def age(path: Path, seconds: float = 3600) -> Path:
    then = time.time() - seconds
    os.utime(path, (then, then))
    return path


def run_here(source: list[str], out: str, settings: dict[str, Any]) -> object:
    return segment(source, Settings.parse(settings), out)


@pytest.fixture
def drop(tmp_path: Path) -> Path:
    folder = tmp_path / "drop"
    folder.mkdir()
    return folder


@pytest.fixture
def trainings(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    return grey_model.install(monkeypatch)


@pytest.fixture
def config(tmp_path: Path, drop: Path) -> WatchConfig:
    return make_config(tmp_path)


def make_config(folder: Path, **changes: Any) -> WatchConfig:
    values = {
        "name": "nd",
        "out": folder / "out",
        "ids": "model",
        "sources": [{"kind": "folder", "name": "drop", "path": folder / "drop"}],
        "settings": {"k": 4, "bands": BANDS, "mode": "global", "block_px": 64, "chunk_px": 64, "engine": "serial"},
    }
    return WatchConfig.model_validate(values | changes)


def do_pass(config: WatchConfig, **options: Any) -> Pass:
    return watch(config, options.pop("segment", run_here), **options)


def kinds(done: Pass) -> dict[str, str]:
    return {each.acquisition: each.what for each in done.outcomes}


def states(config: WatchConfig) -> dict[str, str]:
    with Ledger(config.ledger_address, config.name) as ledger:
        return {row.name: row.state for row in ledger.rows()}


def test_each_new_date_is_published_once(config: WatchConfig, drop: Path, trainings: list[str]) -> None:
    scene(drop / "a_20100629.tif")
    first = do_pass(config)
    assert kinds(first) == {"drop 2010-06-29": "published"}
    assert first.exit_code == 0
    assert kinds(do_pass(config)) == {}, "a second pass does nothing"
    scene(drop / "a_20120731.tif", 1)
    assert kinds(do_pass(config)) == {"drop 2012-07-31": "published"}
    assert len(trainings) == 1, "the second date gets the ids of the first one's model"
    assert [each.time[:10] for each in read_dates(config.out)] == ["2010-06-29", "2012-07-31"]
    for date in ("2010-06-29", "2012-07-31"):
        result = open_result(config.out / "runs" / date)
        assert len(result.record.inputs) == 1
        assert date.replace("-", "") in result.record.inputs[0].path
    assert not list((config.out / "work").glob("drop.*/")), "nothing is left of the work"


def test_a_ledger_of_any_kind_serves_passes_upkeep_and_refresh(
    tmp_path: Path, drop: Path, trainings: list[str], address: str
) -> None:
    config = make_config(tmp_path, ledger=address)
    scene(drop / "a_20100629.tif")
    assert kinds(do_pass(config)) == {"drop 2010-06-29": "published"}
    truncate(scene(drop / "b_20120731.tif", 3))
    scene(drop / "c_20140720.tif", 4)
    assert kinds(do_pass(config)) == {"drop 2012-07-31": "quarantined", "drop 2014-07-20": "published"}
    assert kinds(do_pass(config)) == {}
    (config.out / "runs" / "2010-06-29" / "run.json").unlink()
    assert list(maintain(config).damaged) == ["drop 2010-06-29"]
    assert kinds(do_pass(config)) == {"drop 2010-06-29": "published"}
    assert not maintain(config).damaged
    assert [each.time[:10] for each in read_dates(config.out)] == ["2010-06-29", "2014-07-20"]
    assert states(config) == {"2010-06-29": "published", "2012-07-31": "quarantined", "2014-07-20": "published"}


def test_a_file_that_is_touched_is_not_done_again_and_one_that_changed_is(
    config: WatchConfig, drop: Path, trainings: list[str]
) -> None:
    path = scene(drop / "a_20100629.tif")
    do_pass(config)
    before = open_result(config.out / "runs" / "2010-06-29").record.created
    age(path, 1800)
    assert kinds(do_pass(config)) == {"drop 2010-06-29": "unchanged"}
    assert open_result(config.out / "runs" / "2010-06-29").record.created == before
    scene(path, 7)
    age(path, 1000)
    assert kinds(do_pass(config)) == {"drop 2010-06-29": "published"}
    assert open_result(config.out / "runs" / "2010-06-29").record.created > before


def test_log_records_say_which_acquisition_they_speak_of(config: WatchConfig, drop: Path) -> None:
    seen: list[str | None] = []

    def note(source: list[str], out: str, settings: dict[str, Any]) -> object:
        seen.append(current_ids().get("acquisition"))
        raise RuntimeError("enough")

    for name in ("a_20100629.tif", "a_20120731.tif"):
        scene(drop / name, int(name[2:6]))
    do_pass(config, segment=note)
    assert seen == ["drop 2010-06-29", "drop 2012-07-31"]
    assert "acquisition" not in current_ids()


def test_a_file_that_is_being_written_waits(config: WatchConfig, drop: Path, trainings: list[str]) -> None:
    age(scene(drop / "a_20100629.tif"), 5)
    scene(drop / "b_20120731.tif.part")
    done = do_pass(config)
    assert kinds(done) == {}
    assert "changed 5 s ago" in done.waiting["drop 2010-06-29"]
    later = do_pass(config, now=lambda: datetime.fromtimestamp(time.time() + 700, UTC))
    assert kinds(later) == {"drop 2010-06-29": "published"}


def truncate(path: Path) -> Path:
    content = path.read_bytes()
    path.write_bytes(content[: len(content) * 2 // 3])
    return age(path)


def garble(path: Path) -> Path:
    content = bytearray(path.read_bytes())
    content[600:-600] = b"\xff" * (len(content) - 1200)
    path.write_bytes(bytes(content))
    return age(path)


def half_written(path: Path) -> Path:
    path.write_bytes(b"")
    return age(path)


BAD: dict[str, tuple[Callable[[Path], Path], str]] = {
    "truncated": (lambda path: truncate(scene(path, 3)), "truncated"),
    "garbled": (lambda path: garble(scene(path, 3, compress="deflate")), "g_2013"),
    "half-written": (half_written, "is empty"),
    "wrong bands": (
        lambda path: scene(path, data=np.ones((3, SIDE, SIDE), np.uint8)),
        "wrong bands: has 3",
    ),
    "wrong type": (lambda path: scene(path, data=np.ones((2, SIDE, SIDE), np.uint16)), "wrong type: holds uint16"),
    "off the grid": (lambda path: scene(path, 3, affine=shift(GRID, 0.5, 0.25)), "off the grid: lies 0.5 px off"),
    "other CRS": (lambda path: scene(path, 3, crs="EPSG:32623"), "other CRS: is in EPSG:32623"),
    "all nodata": (
        lambda path: scene(path, data=np.zeros((2, SIDE, SIDE), np.uint8), nodata=0),
        "all nodata",
    ),
    "duplicate": (lambda path: scene(path, 0), "duplicate: has the same content as 2010-06-29"),
}


@pytest.mark.parametrize("kind", sorted(BAD))
def test_a_bad_delivery_is_in_quarantine_and_does_not_stop_the_others(
    kind: str, config: WatchConfig, drop: Path, trainings: list[str]
) -> None:
    make, reason = BAD[kind]
    scene(drop / "a_20100629.tif", 0)
    do_pass(config)
    bad = make(drop / "g_20130101.tif")
    scene(drop / "z_20140720.tif", 2)
    done = do_pass(config)
    assert kinds(done) == {"drop 2013-01-01": "quarantined", "drop 2014-07-20": "published"}
    assert reason in str(done.of("quarantined")[0].reason)
    assert bad.name in str(done.of("quarantined")[0].reason)
    assert done.exit_code == 3
    assert states(config) == {"2010-06-29": "published", "2013-01-01": "quarantined", "2014-07-20": "published"}
    assert not (config.out / "runs" / "2013-01-01").exists()
    assert kinds(do_pass(config)) == {}, "it is reported once, and stays where it is"
    scene(bad, 9)
    assert kinds(do_pass(config)) == {"drop 2013-01-01": "published"}, "and is taken when it is delivered anew"


def test_a_bad_quad_is_left_out_and_named(config: WatchConfig, drop: Path, trainings: list[str]) -> None:
    scene(drop / "2010-06-29" / "q1.tif")
    scene(drop / "2010-06-29" / "q2.tif", 1, affine=shift(GRID, 0, SIDE))
    truncate(scene(drop / "2010-06-29" / "q3.tif", 2, affine=shift(GRID, SIDE, 0)))
    shutil.copy2(drop / "2010-06-29" / "q1.tif", drop / "2010-06-29" / "q1 (1).tif")
    both = do_pass(config)
    (done,) = both.outcomes
    assert both.exit_code == 3
    assert done.what == "published"
    assert "without 2 file(s) in quarantine" in str(done.reason)
    assert "q3.tif: is truncated" in str(done.reason)
    with Ledger(config.ledger_address, "nd") as ledger:
        (row,) = ledger.rows(with_inputs=True)
    faults = {Path(note.asset.name).name: note.fault is not None for note in row.inputs}
    assert faults == {"q1.tif": True, "q1 (1).tif": False, "q2.tif": False, "q3.tif": True}


def test_a_quad_that_changed_costs_the_blocks_that_read_it(
    tmp_path: Path, config: WatchConfig, drop: Path, trainings: list[str]
) -> None:
    run_here([str(scene(tmp_path / "first.tif"))], str(tmp_path / "trained"), config.settings)
    settings = {name: value for name, value in config.settings.items() if name in ("bands", "engine")}
    config = make_config(
        tmp_path, settings=settings | {"model": tmp_path / "trained", "mode": "global", "block_px": 64, "chunk_px": 64}
    )
    quads = [
        scene(drop / "2010-06-29" / f"q{x}.tif", x, data=levels(x, 64), affine=shift(GRID, 0, 64 * x)) for x in range(4)
    ]
    do_pass(config)
    before = open_result(config.out / "runs" / "2010-06-29")
    labels = before.labels.values.copy()
    assert (before.record.blocks.done, before.record.blocks.reused) == (4, 0)
    scene(quads[3], data=levels(9, 64), affine=shift(GRID, 0, 64 * 3))
    age(quads[3], 900)
    assert kinds(do_pass(config)) == {"drop 2010-06-29": "published"}
    after = open_result(config.out / "runs" / "2010-06-29")
    assert after.record.blocks.reused in (2, 3), "the block of the quad, and at most the one that reads its halo"
    np.testing.assert_array_equal(after.labels.values[:, :128], labels[:, :128])
    assert (after.labels.values[:, 192:] != labels[:, 192:]).any()


def test_a_name_without_a_date_is_in_quarantine(config: WatchConfig, drop: Path, trainings: list[str]) -> None:
    scene(drop / "scene.tif")
    (done,) = do_pass(config).outcomes
    assert done.what == "quarantined"
    assert "no date in its name" in str(done.reason)


@pytest.mark.parametrize("odd", ["2009-06-29", "2014-07-20"])
def test_a_date_of_another_area_stands_beside_the_series_and_never_harms_it(
    config: WatchConfig, drop: Path, trainings: list[str], odd: str
) -> None:
    for seed, date in enumerate(("2010-06-29", "2012-07-31")):
        scene(drop / f"a_{date}.tif", seed)
        do_pass(config)
    larger = scene(drop / f"a_{odd}.tif", data=levels(7, SIDE + 32))
    (alone,) = do_pass(config).outcomes
    assert (alone.what, str(alone.reason).split(":")[0]) == ("published", "not in the series")
    age(larger, 7200)
    (again,) = do_pass(config).outcomes
    assert (again.what, again.reason) == ("unchanged", alone.reason), "what a person should know is still said"
    assert maintain(config) == Upkeep(checked=3)
    assert [each.time[:10] for each in read_dates(config.out)] == ["2010-06-29", "2012-07-31"]
    assert open_result(config.out / "runs" / odd).labels.shape == (SIDE + 32, SIDE + 32)


def test_one_date_from_two_sources_is_published_from_the_first(
    tmp_path: Path, drop: Path, trainings: list[str]
) -> None:
    sources = [{"kind": "folder", "name": name, "path": tmp_path / name} for name in ("drop", "other")]
    config = make_config(tmp_path, sources=sources)
    scene(drop / "a_20100629.tif")
    scene(tmp_path / "other" / "b_20100629.tif", 5)
    assert kinds(do_pass(config)) == {"drop 2010-06-29": "published", "other 2010-06-29": "quarantined"}


def test_a_source_that_is_out_of_reach_does_not_stop_the_others(
    tmp_path: Path, drop: Path, trainings: list[str]
) -> None:
    sources = [{"kind": "folder", "name": name, "path": tmp_path / name} for name in ("gone", "drop")]
    scene(drop / "a_20100629.tif")
    done = do_pass(make_config(tmp_path, sources=sources))
    assert kinds(done) == {"drop 2010-06-29": "published"}
    assert "gone is no folder" in done.unreachable["gone"]
    assert done.exit_code == 1


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


def test_what_is_older_than_the_look_back_is_left_alone(tmp_path: Path, drop: Path) -> None:
    config = make_config(tmp_path, look_back_days=30)
    scene(drop / "a_20100629.tif")
    assert do_pass(config).seen == 0
    july = datetime(2010, 7, 10, tzinfo=UTC)
    assert "it is taken after" in do_pass(config, now=lambda: july).waiting["drop 2010-06-29"]


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


def test_what_an_analyst_edits_is_no_damage_and_damage_to_it_is(
    config: WatchConfig, drop: Path, trainings: list[str]
) -> None:
    scene(drop / "a_20100629.tif")
    do_pass(config)
    run = config.out / "runs" / "2010-06-29"
    rename_class(run, open_result(run).legend.ids[0], "water", "#0000ff")
    remake_report(run)
    assert not maintain(config).damaged
    assert kinds(do_pass(config)) == {}
    assert open_result(run).legend.classes[0].name == "water"
    truncate(run / "labels.tif")
    assert "labels.tif changed" in maintain(config).repaired["drop 2010-06-29"]
    assert open_result(run).legend.classes[0].name == "water", "what is mended keeps the edits"
    truncate(run / "classes.json")
    assert "classes.json changed" in maintain(config).damaged["drop 2010-06-29"]
    assert kinds(do_pass(config)) == {"drop 2010-06-29": "published"}
    assert not maintain(config).damaged
    assert not (run / "edits.json").exists(), "the run made anew has no edits"


def test_a_run_whose_labels_are_damaged_is_made_anew_by_the_next_pass(
    config: WatchConfig, drop: Path, trainings: list[str]
) -> None:
    scene(drop / "a_20100629.tif")
    do_pass(config)
    run = config.out / "runs" / "2010-06-29"
    good = pixels(run / "labels.tif")
    assert not maintain(config).damaged
    flip(next(path for path in (run / "labels.zarr" / "labels" / "c").rglob("*") if path.is_file()))
    assert "labels.zarr changed" in maintain(config).damaged["drop 2010-06-29"]
    assert kinds(do_pass(config)) == {"drop 2010-06-29": "published"}
    np.testing.assert_array_equal(pixels(run / "labels.tif"), good)
    assert maintain(config) == Upkeep(checked=1)


def flip(path: Path) -> None:
    """Change a byte in the middle of a file, as a bad disk does: its size and time stay."""
    found, then = bytearray(path.read_bytes()), path.stat()
    found[len(found) // 2] ^= 0xFF
    path.unlink()  # it may have other names
    path.write_bytes(bytes(found))
    os.utime(path, (then.st_atime, then.st_mtime))


def test_what_follows_from_the_labels_is_made_of_them_again(
    config: WatchConfig, drop: Path, trainings: list[str]
) -> None:
    scene(drop / "a_20100629.tif")
    do_pass(config)
    run = config.out / "runs" / "2010-06-29"
    before = checksums(run)
    for name in ("labels.tif", "labels.tif.aux.xml", "confidence.tif", "labels.qml", "item.json"):
        for damage in (flip, Path.unlink):
            damage(run / name)
            done = maintain(config)
            assert name in done.repaired["drop 2010-06-29"]
            assert (done.damaged, done.broken) == ({}, {})
            assert checksums(run) == before, "byte by byte what was published"
    assert maintain(config) == Upkeep(checked=1)
    assert len(trainings) == 1
    assert kinds(do_pass(config)) == {}


def test_what_is_published_beside_the_runs_is_compared_with_them_and_mended(
    config: WatchConfig, drop: Path, trainings: list[str]
) -> None:
    dates = ("2010-06-29", "2012-07-31")
    for seed, date in enumerate(dates):
        scene(drop / f"a_{date.replace('-', '')}.tif", seed)
    do_pass(config)
    store = config.out / "series.zarr"
    places = [
        (next(path for path in (store / "labels" / "c" / "0").rglob("*") if path.is_file()), "series.zarr"),
        (store / "zarr.json", "series.zarr"),
        (config.out / "collection.json", "collection.json"),
        (config.out / "classes.json", "classes.json"),
        (next((config.out / "model").glob("*.json")), "model"),
    ]
    for path, told in places:
        before = path.read_bytes()
        for damage in (flip, Path.unlink):
            damage(path)
            done = maintain(config)
            assert told in done.repaired, (path, damage, done)
            assert (done.damaged, done.broken) == ({}, {})
            assert path.read_bytes() == before
            with xr.open_zarr(store, mask_and_scale=False) as series:
                for index, date in enumerate(dates):
                    labels = pixels(config.out / "runs" / date / "labels.tif")[0]
                    np.testing.assert_array_equal(series.labels[index], labels)
    shutil.rmtree(store)
    assert "series.zarr" in maintain(config).repaired
    assert maintain(config) == Upkeep(checked=2)


def test_a_catalogue_that_is_damaged_is_told(attached: WatchConfig, drop: Path) -> None:
    stepped(drop / "a_20100629.tif", 1)
    do_pass(attached)
    assert maintain(attached) == Upkeep(checked=1)
    for path in ((attached.out / "catalogue").glob("*.*"), (attached.out / "catalogue" / "nodes").iterdir()):
        for each in path:
            good = each.read_bytes()
            flip(each)
            assert each.name in maintain(attached).broken["catalogue"]
            each.write_bytes(good)
    assert maintain(attached) == Upkeep(checked=1)


def test_maintenance_removes_what_is_old(tmp_path: Path, drop: Path, trainings: list[str]) -> None:
    config = make_config(tmp_path, retention={"work_days": 1, "copies_days": 2})
    truncate(scene(drop / "a_20100629.tif"))
    scene(drop / "a_20120731.tif")
    scene(drop / "a_20140720.tif", 1)
    os.utime(drop / "a_20140720.tif")  # still arriving
    do_pass(config)
    made = [
        config.out / place / f"drop{sep}{date}" for place, sep in (("work", "."), ("copies", "/")) for date in DATES
    ]
    for each in made:
        each.mkdir(parents=True)
    works, copies = made[:2], made[3:5]  # of what is waiting nothing goes
    assert maintain(config).removed == []
    assert maintain(config, now=time.time() + 90_000).removed == [str(each) for each in works]
    assert maintain(config, now=time.time() + 180_000).removed == [str(each) for each in copies]
    assert [each.exists() for each in made] == [False, False, True] * 2
    assert (config.out / "runs" / "2012-07-31" / "run.json").exists(), "what is published stays"


def test_what_is_kept_for_ever_is_never_removed(tmp_path: Path, drop: Path, trainings: list[str]) -> None:
    config = make_config(tmp_path, retention={"work_days": None, "copies_days": None})
    scene(drop / "a_20100629.tif")
    do_pass(config)
    (config.out / "copies" / "drop" / "2010-06-29").mkdir(parents=True)
    assert maintain(config, now=time.time() + 1e9).removed == []


def test_what_a_reference_keeps_is_read_back(tmp_path: Path) -> None:
    path = scene(tmp_path / "a_20100629.tif")
    reference = Reference.of(path, Settings(bands=BANDS))
    reference.write(tmp_path / "reference.json")
    assert Reference.read(tmp_path / "reference.json") == reference
    assert Reference.read(tmp_path / "none.json") is None
    inspect_delivery(path, Settings(bands=BANDS), reference)
    off = scene(tmp_path / "b.tif", affine=shift(GRID, 0.5, 0.5))
    with pytest.raises(DeliveryError, match="off the grid"):
        inspect_delivery(off, Settings(bands=BANDS), reference)
    inspect_delivery(off, Settings(bands=BANDS, align="resample"), reference)


PLANET = {"kind": "planet", "name": "p", "series": "s"}


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"colour": "red"}, "unknown key 'colour'"),
        ({"sources": []}, "sources: .*at least 1"),
        ({"settings": {"kk": 3}}, "unknown setting 'kk'"),
        ({"settings": {"date": "2010"}}, "date is set for each acquisition"),
        ({"ledger": "mysql://db/x"}, "mysql is not supported"),
        ({"ids": "model", "settings": {"mode": "local"}}, "needs settings of mode global"),
        ({"sources": [{"kind": "tape", "name": "x"}]}, "'tape'"),
        (
            {"sources": [{"kind": "bucket", "name": "b", "url": "s3://b", "options": {"secret_access_key": "x"}}]},
            "credentials come from the environment",
        ),
        ({"sources": [{"kind": "folder", "name": "a", "path": "x"}] * 2}, "different names"),
        ({"sources": [{"name": "a", "path": "x"}]}, r"sources.0: needs a kind: folder, bucket, stac or planet; see"),
        ({"sources": ["incoming"]}, r"sources.0: must be a mapping of 'name: value'; see"),
        ({"sources": {"kind": "folder"}}, "sources: must be a list"),
        ({"sources": [{"kind": "folder", "name": "a"}]}, "sources.0.folder.path: is missing"),
        ({"sources": [PLANET | {"bbox": [10, 20, 30, 5]}]}, r"bbox: must be \[west, south, east, north\] in degrees"),
        ({"sources": [PLANET | {"bbox": [10, 20]}]}, r"bbox.2: is missing; .*bbox.3: is missing; see"),
        ({"name": 2021}, "name: must be text; a number or a date needs quotes"),
        ({"name": None}, "name: is missing"),
        ({"settings": {"bands": "nonsense"}}, "the setting bands 'nonsense': 'nonsense' is not understood"),
        ({"settings": {"mask": "none.tif"}}, "settings: mask: must be a file; found none at .*/none.tif"),
        ({"settings": {"model": "none", "mode": "global"}}, "settings: model: must be a run directory"),
        ({"like": "none.tif"}, "like: must be a file"),
        ({"out": "watch.yaml"}, "out: must be a folder"),
    ],
)
def test_a_wrong_configuration_is_one_line_that_names_the_file(
    tmp_path: Path, changes: dict[str, Any], said: str
) -> None:
    values = {"name": "nd", "out": "out", "sources": [{"kind": "folder", "name": "d", "path": "drop"}]} | changes
    path = tmp_path / "watch.yaml"
    path.write_text(json.dumps(values), encoding="utf-8")
    with pytest.raises(InputError, match=said) as caught:
        WatchConfig.read(path)
    assert str(caught.value).startswith(str(path))
    assert "\n" not in str(caught.value)


def test_paths_of_a_configuration_count_from_its_file(tmp_path: Path) -> None:
    path = tmp_path / "watch.yaml"
    path.write_text(
        "name: nd\nout: maps\nsources: [{kind: folder, name: d, path: drop}, {kind: stac, name: s, url: cat.json}]\n",
        encoding="utf-8",
    )
    config = WatchConfig.read(path)
    assert config.out == tmp_path / "maps"
    assert config.sources[0].path == tmp_path / "drop"
    assert config.sources[1].url == str(tmp_path / "cat.json")
    assert config.ledger_address == f"sqlite:///{tmp_path}/maps/ledger.db"
    text = path.read_text()
    for given, found in {
        "sqlite:///l.db": f"sqlite:///{tmp_path}/l.db",
        "sqlite:////x/l.db": "sqlite:////x/l.db",
    }.items():
        path.write_text(f"{text}settings:\nledger: {given}\n", encoding="utf-8")
        assert WatchConfig.read(path).ledger_address == found
    path.write_text("- a\n", encoding="utf-8")
    with pytest.raises(InputError, match="must be a mapping"):
        WatchConfig.read(path)
    with pytest.raises(InputError, match="cannot be read as YAML"):
        WatchConfig.read(tmp_path / "none.yaml")


def test_a_release_with_another_setting_makes_nothing_due(tmp_path: Path) -> None:
    one = make_config(tmp_path)
    assert one.settings_digest() == make_config(tmp_path).settings_digest()
    assert one.settings_digest() == make_config(tmp_path, settings=one.settings | {"workers": 3}).settings_digest()
    assert one.settings_digest() != make_config(tmp_path, settings=one.settings | {"k": 5}).settings_digest()


# With a catalogue: each date is trained anew, and its classes get the ids of those before --------------------------


def stepped(path: Path, seed: int, classes: int = 4, side: int = 128, noise: int | None = None, **options: Any) -> Path:
    """A scene of a few grey levels in patches, so that its classes are plain to see whatever the date."""
    levels_of = np.linspace(20, 235, classes).astype(np.uint8)
    patches = np.kron(
        np.random.default_rng(seed).integers(0, classes, (side // 16, side // 16)), np.ones((16, 16), int)
    )
    speckle = np.random.default_rng(noise or seed + 1).integers(-3, 4, (2, side, side))
    return scene(path, data=(levels_of[patches].astype(int) + speckle).clip(1, 255).astype(np.uint8), **options)


@pytest.fixture
def attached(tmp_path: Path, drop: Path, trainings: list[str]) -> WatchConfig:
    settings = {"k": 4, "bands": BANDS, "block_px": 64, "chunk_px": 64, "overlap_px": 16, "engine": "serial"}
    return make_config(tmp_path, ids="catalogue", settings=settings)


def grey_of_each_id(run: Path, image: Path) -> dict[int, float]:
    """Mean of the first band under each id of a map."""
    with rasterio.open(image) as source:
        grey = source.read(1).astype(float)
    labels = open_result(run).labels.values
    return {int(i): float(grey[labels == i].mean()) for i in np.unique(labels) if i != 255}


def test_dates_attach_to_a_catalogue_and_keep_their_ids(attached: WatchConfig, drop: Path) -> None:
    images = {"2010-06-29": stepped(drop / "a_20100629.tif", 1)}
    assert kinds(do_pass(attached)) == {"drop 2010-06-29": "published"}
    images["2012-07-31"] = stepped(drop / "a_20120731.tif", 5)
    done = do_pass(attached)
    assert [(each.what, each.reason) for each in done.outcomes] == [("published", None)]
    assert [each.time[:10] for each in read_dates(attached.out)] == ["2010-06-29", "2012-07-31"]
    first, second = (grey_of_each_id(attached.out / "runs" / date, image) for date, image in images.items())
    shared = first.keys() & second.keys()
    assert len(shared) >= 3
    assert all(abs(first[i] - second[i]) < 15 for i in shared), "one id means one grey on both dates"

    before = open_result(attached.out / "runs" / "2012-07-31").labels.values.copy()
    found = refresh(attached)
    assert (found.changes, found.behind) == ([], []), "what is right stays, and there is nothing to follow"
    gone, kept = sorted(shared)[-1], sorted(shared)[0]
    merge(attached.out / "catalogue", [gone], kept)
    rename_class(attached.out / "catalogue", kept, "open water", None)
    assert len(refresh(attached).behind) == 2
    np.testing.assert_array_equal(open_result(attached.out / "runs" / "2012-07-31").labels.values, before)
    assert len(refresh(attached, follow_up=True).rewritten) == 2
    for date in images:
        page = (attached.out / "runs" / date / "report.html").read_text("utf-8")
        assert f'data-name="{kept}">open water<' in page, "the report has the legend of the other outputs"
        assert f'data-class="{gone}"' not in page
    after = open_result(attached.out / "runs" / "2012-07-31").labels.values
    np.testing.assert_array_equal(after, np.where(before == gone, kept, before))
    with xr.open_zarr(attached.out / "series.zarr", mask_and_scale=False) as series:
        np.testing.assert_array_equal(series.labels[1], after)
    assert not maintain(attached).damaged, "what was rewritten is what is published"


@pytest.fixture
def mistaken(attached: WatchConfig, drop: Path, monkeypatch: pytest.MonkeyPatch) -> WatchConfig:
    """Three dates, of which the last called two classes by each other's id when it attached."""
    attach_right = stage.attach

    def attach_wrong(base: Catalogue | None, *args: Any, **options: Any) -> Attachment:
        found = attach_right(base, *args, **options)
        if base is None or len(base.card.runs) != 2:
            return found
        low, high = sorted(set(found.mapping.values()))[:2]
        swapped = {low: high, high: low}
        return replace(found, mapping={local: swapped.get(known, known) for local, known in found.mapping.items()})

    monkeypatch.setattr(stage, "attach", attach_wrong)
    for noise, date in enumerate(DATES, 1):
        stepped(drop / f"a_{date.replace('-', '')}.tif", 1, noise=noise)
        assert set(kinds(do_pass(attached)).values()) == {"published"}
    return attached


DATES = ("2010-06-29", "2012-07-31", "2014-07-20")


def greys(config: WatchConfig, drop: Path) -> list[dict[int, float]]:
    images = [drop / f"a_{date.replace('-', '')}.tif" for date in DATES]
    return [grey_of_each_id(config.out / "runs" / date, image) for date, image in zip(DATES, images, strict=True)]


def spread(config: WatchConfig, drop: Path) -> float:
    """By how much the grey of one id differs from date to date, at most."""
    seen = greys(config, drop)
    return max(float(np.ptp([each[i] for each in seen if i in each])) for i in set().union(*seen))


def content(folder: Path) -> dict[str, bytes]:
    return {
        str(path): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file() and path.name not in ("ledger.db", "lock") and path.suffix != ".lock"
    }


def test_a_date_that_got_wrong_ids_is_found_by_the_others_and_put_right(mistaken: WatchConfig, drop: Path) -> None:
    assert spread(mistaken, drop) > 50
    before, ids = content(mistaken.out), [open_result(mistaken.out / "runs" / date).legend.ids for date in DATES]
    found = refresh(mistaken)
    assert content(mistaken.out) == before, "without a word more nothing is written"
    assert {each.runs for each in found.changes} == {("2014-07-20",)}
    assert len(found.changes) == 2

    done = refresh(mistaken, apply=True)
    assert done.changes == found.changes, "what was told is what is done"
    assert [Path(run).name for run in done.rewritten] == ["2014-07-20"]
    assert spread(mistaken, drop) < 15
    assert [open_result(mistaken.out / "runs" / date).legend.ids for date in DATES] == ids, "no id is new"
    assert not mistaken.out.joinpath("refresh.json").exists()

    run = mistaken.out / "runs" / "2014-07-20"
    published = open_result(run)
    np.testing.assert_array_equal(pixels(run / "labels.tif")[0], published.labels.values)
    with xr.open_zarr(mistaken.out / "series.zarr", mask_and_scale=False) as series:
        np.testing.assert_array_equal(series.labels[2], published.labels.values)
    item = json.loads((run / "item.json").read_text())
    said = {
        each["value"]: each["count"]
        for each in item["assets"]["labels"]["classification:classes"]
        if each["value"] != 255
    }
    assert said == {each.id: each.pixels for each in published.legend.classes}
    (remap,) = published.legend.remaps
    assert {change.gone: change.kept for change in done.changes} == dict(remap.ids), "the map says what was done to it"
    assert json.loads((run / "edits.json").read_text())["edits"][0]["what"] == "refresh"

    assert not maintain(mistaken).damaged, "what was done on purpose is no damage"
    again = refresh(mistaken, apply=True)
    assert (again.changes, again.rewritten) == ([], [])
    assert kinds(do_pass(mistaken)) == {}
    image = stepped(drop / "a_20160701.tif", 1, noise=4)
    assert kinds(do_pass(mistaken)) == {"drop 2016-07-01": "published"}
    newest = grey_of_each_id(mistaken.out / "runs" / "2016-07-01", image)
    assert all(
        abs(grey - greys(mistaken, drop)[0][i]) < 15 for i, grey in newest.items() if i in greys(mistaken, drop)[0]
    )


@pytest.mark.parametrize("step", ["rewrite_run", "extend_series"])
def test_who_dies_while_ids_are_put_right_leaves_what_maintenance_ends(
    step: str, mistaken: WatchConfig, drop: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Death(BaseException):
        """As a signal."""

    def die(*_: object) -> None:
        raise Death

    with monkeypatch.context() as dying:
        dying.setattr(f"pipeline.watch.refresh.{step}", die)
        with pytest.raises(Death):
            refresh(mistaken, apply=True)
    assert not maintain(mistaken).damaged
    assert spread(mistaken, drop) < 15
    with xr.open_zarr(mistaken.out / "series.zarr", mask_and_scale=False) as series:
        np.testing.assert_array_equal(series.labels[2], open_result(mistaken.out / "runs" / "2014-07-20").labels.values)
    assert refresh(mistaken).changes == []
    assert not maintain(mistaken).repaired


def test_a_series_that_was_copied_is_looked_after_where_it_is(
    attached: WatchConfig, drop: Path, tmp_path: Path
) -> None:
    stepped(drop / "a_20100629.tif", 1)
    do_pass(attached)
    shutil.copytree(attached.out, tmp_path / "copy")
    copy = make_config(tmp_path, ids="catalogue", settings=attached.settings, out=tmp_path / "copy")
    before = content(attached.out)
    merge(copy.out / "catalogue", [1], 0)
    assert refresh(copy, follow_up=True).rewritten == [str(copy.out / "runs" / "2010-06-29")]
    flip(copy.out / "runs" / "2010-06-29" / "labels.tif")
    assert "drop 2010-06-29" in maintain(copy).repaired
    assert maintain(copy) == Upkeep(checked=1)
    assert content(attached.out) == before, "the original is nobody's business here"
    assert maintain(attached) == Upkeep(checked=1)


def test_a_run_of_which_nothing_is_kept_is_named_and_keeps_its_ids(mistaken: WatchConfig) -> None:
    for path in (mistaken.out / "catalogue" / "nodes").iterdir():
        path.unlink()
    found = refresh(mistaken)
    assert len(found.unread) == 3
    assert all(not each.runs for each in found.changes), "whole classes can be compared without it"


def test_a_changed_quad_costs_itself_and_its_neighbours(
    attached: WatchConfig, drop: Path, trainings: list[str]
) -> None:
    quads = [stepped(drop / "2010-06-29" / f"q{x}.tif", x, side=64, affine=shift(GRID, 0, 64 * x)) for x in range(5)]
    do_pass(attached)
    assert len(trainings) == 5
    stepped(quads[4], 77, side=64, affine=shift(GRID, 0, 64 * 4))
    age(quads[4], 900)
    assert kinds(do_pass(attached)) == {"drop 2010-06-29": "published"}
    assert len(trainings) <= 5 + 2, "itself, and the neighbour whose overlap reaches into it"
    assert open_result(attached.out / "runs" / "2010-06-29").record.blocks.reused >= 3
