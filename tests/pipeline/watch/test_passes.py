"""A pass over the sources: what is new is published once, and the rest goes on."""

from __future__ import annotations

import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pipeline.logs import current_ids
from pipeline.results import open_result
from pipeline.series import read_dates
from pipeline.watch import WatchConfig
from pipeline.watch.maintenance import Upkeep, maintain
from tests.pipeline.rasters import GRID, shift
from tests.pipeline.watch.watched import (
    SIDE,
    age,
    do_pass,
    kinds,
    levels,
    make_config,
    run_here,
    scene,
    states,
    truncate,
)


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


def test_what_is_older_than_the_look_back_is_left_alone(tmp_path: Path, drop: Path) -> None:
    config = make_config(tmp_path, look_back_days=30)
    scene(drop / "a_20100629.tif")
    assert do_pass(config).seen == 0
    july = datetime(2010, 7, 10, tzinfo=UTC)
    assert "it is taken after" in do_pass(config, now=lambda: july).waiting["drop 2010-06-29"]
