"""Bad deliveries: each is in quarantine, named with its reason, and the others are published."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from pipeline.acquisitions import DeliveryError
from pipeline.ledger import Ledger
from pipeline.settings import Settings
from pipeline.watch import WatchConfig
from pipeline.watch.inspection import Reference, inspect_delivery
from tests.pipeline.rasters import GRID, shift
from tests.pipeline.watch.watched import BANDS, SIDE, age, do_pass, kinds, scene, states, truncate


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


def test_a_name_without_a_date_is_in_quarantine(config: WatchConfig, drop: Path, trainings: list[str]) -> None:
    scene(drop / "scene.tif")
    (done,) = do_pass(config).outcomes
    assert done.what == "quarantined"
    assert "no date in its name" in str(done.reason)


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
