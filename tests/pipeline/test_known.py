"""What a catalogue knows of the ground is laid out where it was seen, and stays what it was when the run began."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from odc.geo.geobox import GeoBox

from pipeline import Settings, segment
from pipeline.blocks import Window
from pipeline.catalogue.sites import SPACING_PX, lay_out, see_sites
from pipeline.catalogue.store import read_catalogue
from pipeline.imagery import open_source
from pipeline.known import keep_known, known_classes, read_known
from pipeline.plan import Plan, make_plan
from pipeline.workspace import Folders, replace_arrays
from tests.pipeline.rasters import write_raster

pytestmark = pytest.mark.filterwarnings("ignore:Use `@` matmul:PendingDeprecationWarning")

SIDE = 256


def grid(x: float, y: float, unit: float, shape: tuple[int, int]) -> GeoBox:
    return GeoBox.from_bbox((x, y - unit * shape[0], x + unit * shape[1], y), "epsg:32614", resolution=unit)


def test_classes_are_laid_out_where_they_were_seen_on_another_grid_too() -> None:
    labels = np.random.default_rng(0).integers(0, 5, (200, 300)).astype(np.uint8)
    fine, coarse = grid(5000, 9000, 1.0, (200, 300)), grid(5000, 9000, 2.0, (100, 150))
    known = see_sites(fine, Window(0, 0, 200, 300), labels)
    window = Window(40, 30, 180, 290)
    laid = lay_out(fine, window, known)
    told = laid >= 0
    np.testing.assert_array_equal(laid[told], labels[window.slices][told])
    assert 0.8 < told.sum() * SPACING_PX**2 / laid.size < 1.25
    # A pixel of 2 m is known where a site lies in it: by the class of the very pixel of 1 m that the site is in.
    other = lay_out(coarse, Window(0, 0, 100, 150), known)
    rows, columns = np.nonzero(other >= 0)
    there = labels.reshape(100, 2, 150, 2)[rows, :, columns, :].reshape(-1, 4)
    assert len(rows) > 30
    assert (there == other[rows, columns][:, None]).any(axis=1).all()


@pytest.fixture
def plan(tmp_path: Path) -> Plan:
    write_raster(tmp_path / "scene.tif", np.full((4, SIDE, SIDE), 100, np.uint8), nodata=0)
    settings = Settings(bands="rgbn", k=3, engine="serial", mode="global")
    return make_plan(open_source(tmp_path / "scene.tif", settings), settings, tmp_path / "out")


def test_of_more_classes_than_k_those_with_most_ground_are_begun_with(plan: Plan) -> None:
    whole = Window(0, 0, SIDE, SIDE)
    labels = np.repeat(np.repeat([[9, 4], [2, 7]], SIDE // 2, 0), SIDE // 2, 1).astype(np.uint8)
    labels[:, :16] = labels[0, 0]
    labels[-64:, SIDE // 2 :] = 4  # most is 9, 4 and 2, least is 7
    sites = see_sites(plan.scene.geobox, whole, labels)
    assert known_classes(plan, [whole]) == [None]
    replace_arrays(plan.folders.known, {"keys": sites.keys, "ids": sites.ids})
    halves = [Window(0, 0, SIDE // 2, SIDE), Window(SIDE // 2, 0, SIDE, SIDE)]
    upper, lower = known_classes(plan, halves)
    assert upper is not None
    assert lower is not None
    laid = np.concatenate([upper, lower])
    number = {2: 0, 4: 1, 9: 2, 7: -1}
    told = lay_out(plan.scene.geobox, whole, sites) >= 0
    assert (laid[~told] == -1).all()
    assert laid[told].tolist() == [number[int(i)] for i in labels[told]]


def two_dates(folder: Path) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Three textures of four bands; at the second date all is brighter, and half of the second class far brighter."""
    y, x = np.mgrid[:SIDE, :SIDE]
    truth = np.where(y < SIDE // 2, 0, np.where(x < SIDE // 2, 1, 2))
    half = (truth == 1) & (y > 3 * SIDE // 4)
    for date, gain in (("20100601", 1.0), ("20120601", 1.15)):
        rng = np.random.default_rng(int(date))
        waves = [14 * np.sin(2 * np.pi * x / 4), 4 * np.sin(2 * np.pi * y / 16), 10 * np.sin(2 * np.pi * (x + y) / 8)]
        level = np.choose(truth, [90.0, 60.0, 130.0]) + np.choose(truth, waves)
        level = gain * level + (25 if gain > 1 else 0) * half
        values = level[None] * np.array([1.0, 1.1, 0.9, 1.2])[:, None, None] + rng.normal(0, 2, (4, SIDE, SIDE))
        write_raster(folder / f"scene_{date}.tif", np.clip(values, 1, 255).astype(np.uint8), nodata=0)
    return truth, half


SMALL: dict[str, Any] = {
    "bands": "rgbn", "k": 3, "mode": "global", "block_px": 256, "chunk_px": 128, "engine": "serial",
    "scaling": "byte", "options": {"steps": 120},
}  # fmt: skip


@pytest.mark.slow
def test_a_class_that_two_looks_have_come_of_stays_one(tmp_path: Path) -> None:
    truth, half = two_dates(tmp_path)
    settings = Settings(**SMALL, catalogue=tmp_path / "catalogue")
    one = segment(tmp_path / "scene_20100601.tif", settings, tmp_path / "one").labels.to_numpy()
    catalogue = read_catalogue(tmp_path / "catalogue")
    kept = settings.model_copy(update={"keep_work": True})
    two = segment(tmp_path / "scene_20120601.tif", kept, tmp_path / "two")
    inner = (np.indices((SIDE, SIDE)) % (SIDE // 4) > 12).all(axis=0)  # away from borders
    for c in range(3):
        ids = np.bincount(one[(truth == c) & inner]).argmax()
        for part in (half, ~half):
            there = two.labels.to_numpy()[(truth == c) & inner & part]
            assert there.size == 0 or (there == ids).mean() > 0.9
    trained = Folders(tmp_path / "two").done("train", "global")
    assert trained is not None
    (stage,) = (each for each in trained["history"]["stages"] if each["name"] == "known")
    assert stage["classes"] == 3
    # A run that goes on knows what it knew when it began.
    plan = make_plan(open_source(tmp_path / "scene_20120601.tif", kept), kept, tmp_path / "two")
    keep_known(plan)
    assert read_known(plan).keys.tolist() == catalogue.known_sites().keys.tolist()


@pytest.mark.parametrize(
    "off", [{"known_ground": False}, {"preset": "paper", "options": {"imagenet_weights": "none"}}, {"catalogue": None}]
)
def test_nothing_is_copied_where_nothing_begins_with_it(tmp_path: Path, off: dict[str, Any]) -> None:
    two_dates(tmp_path)
    settings = Settings(
        **{**SMALL, "options": {}, "catalogue": Path(__file__).parents[1] / "golden/v1/catalogue", **off}
    )
    plan = make_plan(open_source(tmp_path / "scene_20120601.tif", settings), settings, tmp_path / "out")
    keep_known(plan)
    assert not plan.folders.known.exists()
    assert not len(read_known(plan))
