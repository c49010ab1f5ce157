"""The simulated image: each class's generated texture at its place, whatever the division, in units of the source."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pystac
import pytest
import rasterio
import rasterio.shutil
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst
from rio_cogeo.cogeo import cog_validate

import pipeline.publish as publish_module
import pipeline.run as run_module
from flows.cli import main
from ktex_model import radiometry
from ktex_model.radiometry import Scaling
from ktex_model.texture import TextureConfig
from pipeline import Settings, segment
from pipeline.errors import RunFailedError
from pipeline.results import Result
from pipeline.simulation import nodata_of, quantise
from tests.pipeline import grey_model
from tests.pipeline.rasters import write_raster

SHAPE = (150, 170)
K = 4


@pytest.fixture(autouse=True)
def cheap(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(TextureConfig, "context_px", 0)
    grey_model.install(monkeypatch)
    yield
    grey_model.load_model.cache_clear()


def make_scene(path: Path, dtype: str = "uint8", top: float = 255) -> np.ndarray[Any, Any]:
    """Fields of `K` grey levels and a corner of nodata; returns the class by grey level, 255 where invalid."""
    rows, columns = np.indices(SHAPE) // 40
    truth = (rows + 2 * columns) % K
    bands = np.stack([(truth + 0.5) / K * top] * 3 + [(truth + 0.5) / K * top / 2])
    bands[:, :20, :30] = 0
    truth[:20, :30] = 255
    write_raster(path, bands.astype(dtype), nodata=0)
    return truth


def settings(**given: Any) -> Settings:
    fixed: dict[str, Any] = {
        "k": K, "global_classes": K, "bands": "rgbn", "scaling": "byte", "block_px": 64, "chunk_px": 32,
        "overlap_px": 8, "engine": "serial", "simulated": True,
    }  # fmt: skip
    return Settings(**fixed | given)


def expect(truth: np.ndarray[Any, Any], high: float = 255, seed: int = 0) -> np.ndarray[Any, Any]:
    """The grey level of each class with the weave of `GreyModel.simulate`, in 0..`high`."""
    rows, columns = np.indices(SHAPE)
    return ((truth + 0.5) / K + ((3 * rows + columns) % 7 + seed) / 100) * high


def read(result: Result) -> np.ndarray[Any, Any]:
    with rasterio.open(result.path / "simulated.tif") as source:
        pixels: np.ndarray[Any, Any] = source.read()
    return pixels


@pytest.mark.parametrize("given", [{}, {"block_px": 96}, {"mode": "global", "global_classes": None, "seed": 3}])
def test_every_pixel_shows_its_class_at_its_place(tmp_path: Path, given: dict[str, Any]) -> None:
    truth = make_scene(tmp_path / "scene.tif")
    image = read(segment(tmp_path / "scene.tif", settings(**given), tmp_path / "out"))
    seen = truth != 255
    assert image.dtype == np.uint8
    for band in image:
        np.testing.assert_array_equal(band[seen], np.rint(expect(truth, seed=given.get("seed", 0)))[seen])
        assert (band[~seen] == 0).all()


def test_the_file_is_a_cog_with_bands_units_and_provenance(tmp_path: Path) -> None:
    truth = make_scene(tmp_path / "scene.tif", "uint16", 6000)
    given = settings(scaling="reflectance", license="CC-BY-4.0", keep_work=True)
    result = segment(tmp_path / "scene.tif", given, tmp_path / "out")
    path = result.path / "simulated.tif"
    assert cog_validate(path, strict=True, quiet=True)[0]
    with rasterio.open(path) as source, rasterio.open(tmp_path / "scene.tif") as scene:
        assert source.descriptions == ("R", "G", "B", "N")
        assert source.dtypes == ("uint16",) * 4
        assert source.nodata == 0
        assert (source.crs, source.transform, source.shape) == (scene.crs, scene.transform, scene.shape)
        assert [each.name for each in source.colorinterp][:3] == ["red", "green", "blue"]
        assert "alpha" not in {each.name for each in source.colorinterp}
        tags = source.tags()
        assert tags["TIFFTAG_COPYRIGHT"] == "CC-BY-4.0"
        assert Scaling.from_json(json.loads(tags["KTEX_SCALING"])) == radiometry.reflectance(4)
        seen, image = truth != 255, source.read(1)
    # A class is what the grey model makes of it, in the units that the rule came from.
    levels = np.floor((truth + 0.5) / K * 0.6 * K)
    rows, columns = np.indices(SHAPE)
    expected = ((levels + 0.5) / K + (3 * rows + columns) % 7 / 100) * 10_000
    np.testing.assert_allclose(image[seen], expected[seen], atol=1)
    item = pystac.Item.from_file(str(result.path / "item.json"))
    bands = item.assets["simulated"].extra_fields["bands"]
    assert [(each["name"], each["data_type"], each["nodata"]) for each in bands] == [(b, "uint16", 0) for b in "RGBN"]
    assert result.record.settings["simulated"] is True
    assert "simulate" in {stage.name for stage in result.record.stages}


def test_floats_have_nan_where_nothing_is(tmp_path: Path) -> None:
    truth = make_scene(tmp_path / "scene.tif", "float64", 1.0)
    image = read(segment(tmp_path / "scene.tif", settings(scaling="percentile"), tmp_path / "out"))
    assert image.dtype == np.float32
    np.testing.assert_array_equal(np.isnan(image[0]), truth == 255)


def test_nothing_of_it_is_made_unasked(tmp_path: Path) -> None:
    make_scene(tmp_path / "scene.tif")
    result = segment(tmp_path / "scene.tif", settings(simulated=False), tmp_path / "out")
    assert not (result.path / "simulated.tif").exists()
    assert "simulate" not in {stage.name for stage in result.record.stages}
    assert "simulated" not in pystac.Item.from_file(str(result.path / "item.json")).assets


def test_the_command_asks_for_it(tmp_path: Path) -> None:
    make_scene(tmp_path / "scene.tif")
    words = ["--k=4", "--bands=rgbn", "--scaling=byte", "--block-px=64", "--engine=serial", "--simulated"]
    assert main(["run", str(tmp_path / "scene.tif"), "--out", str(tmp_path / "out"), *words]) == 0
    assert (tmp_path / "out" / "simulated.tif").exists()


def test_a_run_that_was_stopped_simulates_only_what_is_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    truth, done = make_scene(tmp_path / "scene.tif"), list[str]()
    real = run_module.simulate_block

    def dies(plan: Any, block: Any) -> dict[str, Any]:
        if len(done) == 4:
            raise KeyboardInterrupt
        done.append(block.name)
        return real(plan, block)

    monkeypatch.setattr(run_module, "simulate_block", dies)
    with pytest.raises(KeyboardInterrupt):
        segment(tmp_path / "scene.tif", settings(), tmp_path / "out")
    before, after = set(done), list[str]()
    monkeypatch.setattr(run_module, "simulate_block", lambda plan, block: after.append(block.name) or real(plan, block))
    image = read(segment(tmp_path / "scene.tif", settings(), tmp_path / "out"))
    assert len(after) == 9 - 4
    assert not set(after) & before
    np.testing.assert_array_equal(image[0][truth != 255], np.rint(expect(truth))[truth != 255])


def test_a_file_that_differs_is_not_published(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make_scene(tmp_path / "scene.tif")
    real = publish_module.write_simulated

    def spoil(plan: Any, path: Path, tags: Any) -> None:
        real(plan, path, tags)
        with rasterio.open(path) as source:
            profile, pixels = source.profile, source.read()
        pixels[2, 100, 100] ^= 1
        with rasterio.open(path.with_suffix(".x"), "w", **profile) as target:
            target.write(pixels)
        rasterio.shutil.copy(path.with_suffix(".x"), path, driver="COG")

    monkeypatch.setattr(publish_module, "write_simulated", spoil)
    with pytest.raises(RunFailedError, match=r"simulated\.tif: differs from what was simulated in \(96, 96"):
        segment(tmp_path / "scene.tif", settings(), tmp_path / "out")


@given(
    values=npst.arrays(np.float32, (1, 3, 3), elements=st.floats(-1e5, 1e5, width=32)),
    seen=npst.arrays(np.bool_, (3, 3)),
    name=st.sampled_from(["uint8", "uint16", "int16", "int32", "float32"]),
)
def test_nodata_is_where_nothing_is_seen_and_nowhere_else(values: Any, seen: Any, name: str) -> None:
    dtype = np.dtype(name)
    made, nodata = quantise(values, seen, dtype), nodata_of(dtype)
    assert made.dtype == dtype
    marked = np.isnan(made[0]) if dtype.kind == "f" else made[0] == nodata
    np.testing.assert_array_equal(marked, ~seen)
    limits = (-np.inf, np.inf) if dtype.kind == "f" else (np.iinfo(dtype).min + 1, np.iinfo(dtype).max)
    near = np.abs(made[0][seen] - np.clip(values[0][seen].astype(np.float64), *limits))
    assert (near <= 0.5).all()


@pytest.mark.parametrize(
    "scaling", [radiometry.byte(2), radiometry.reflectance(2), radiometry.percentile((10, -40), (20, 900))]
)
def test_a_rule_is_undone(scaling: Scaling) -> None:
    dtype = np.uint8 if scaling.name == "byte" else np.float32
    values = np.linspace(np.array(scaling.low), np.array(scaling.high), 12).T[..., None].astype(dtype)
    np.testing.assert_allclose(scaling.invert(scaling.apply(values)), values, atol=1e-3)


def test_the_papers_rule_is_undone_within_half_a_level() -> None:
    scaling, values = radiometry.paper("RGBN"), np.tile(np.arange(0, 2500, 7, dtype=np.uint16)[:, None], (4, 1, 1))
    steps = np.array(scaling.high)[:, None, None] / 255
    assert (np.abs(scaling.invert(scaling.apply(values)) - values) <= 0.5 * steps + 1e-2).all()
