"""With a catalogue: each date is trained anew, and its classes get the ids of those before."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
import xarray as xr

from pipeline.catalogue import stage
from pipeline.catalogue.attachment import Attachment
from pipeline.catalogue.desk import merge, rename_class
from pipeline.catalogue.values import Catalogue
from pipeline.results import open_result
from pipeline.series import read_dates
from pipeline.watch import WatchConfig
from pipeline.watch.maintenance import Upkeep, maintain
from pipeline.watch.refresh import refresh
from tests.pipeline.rasters import GRID, shift
from tests.pipeline.watch.watched import DATES, age, do_pass, flip, kinds, make_config, pixels, stepped


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
    assert len(trainings) == 1 + 5
    stepped(quads[4], 77, side=64, affine=shift(GRID, 0, 64 * 4))
    age(quads[4], 900)
    assert kinds(do_pass(attached)) == {"drop 2010-06-29": "published"}
    assert len(trainings) == 6 + 3, "itself, the neighbour whose overlap reaches into it, and the anchor"
    assert open_result(attached.out / "runs" / "2010-06-29").record.blocks.reused >= 3
