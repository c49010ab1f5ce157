"""Maintenance: damage is found and mended or told, edits are none, and what is old goes."""

from __future__ import annotations

import os
import shutil
import time
from pathlib import Path

import numpy as np
import xarray as xr

from pipeline.catalogue.desk import rename_class
from pipeline.checksums import checksums
from pipeline.report import remake_report
from pipeline.results import open_result
from pipeline.watch import WatchConfig
from pipeline.watch.maintenance import Upkeep, maintain
from tests.pipeline.watch.watched import DATES, do_pass, flip, kinds, make_config, pixels, scene, stepped, truncate


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
