"""Real files of all kinds go through the path and come out where they lie, with a model that is not the point."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
import rioxarray  # noqa: F401
import xarray as xr
from rio_cogeo.cogeo import cog_validate

from ktex_model.texture import TextureConfig
from pipeline import InputError, Settings, segment
from tests.pipeline import grey_model

pytestmark = pytest.mark.filterwarnings("ignore:Use `@` matmul:PendingDeprecationWarning")

FAST = {"engine": "serial", "chunk_px": 128, "overlap_px": 16, "k": 4}


@pytest.fixture(autouse=True)
def _grey(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(TextureConfig, "context_px", 0)
    grey_model.install(monkeypatch)
    yield
    grey_model.load_model.cache_clear()


SCENES: dict[str, tuple[str, dict[str, Any], tuple[int, int], int, float]] = {
    "naip": ("naip-nd", {"date": "2012", "bands": "rgbn", "block_px": 256}, (934, 723), 26914, 1.0),
    "haiti": ("haiti", {"bands": "rgbn", "block_px": 512}, (1129, 1099), 32618, 0.5),
    "zion": ("zion/zion_west_rgbn.tif", {"block_px": 512}, (564, 1428), 32612, 0.9),
    "amazon": ("amazon-rgb/Amazon_122.tiff_33.tiff", {"block_px": 512}, (512, 512), 4326, 1.0),
    "tilted": ("odd/RGB.byte.tif", {"block_px": 512}, (718, 791), 32618, 0.6),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", SCENES)
def test_a_real_scene_comes_out_where_it_lies(name: str, real_data: Path, tmp_path: Path) -> None:
    source, options, _, epsg, least_valid = SCENES[name]
    result = segment(real_data / source, Settings(**{**FAST, **options}), tmp_path / "out")
    files = sorted((real_data / source).glob("*.tif")) if (real_data / source).is_dir() else [real_data / source]
    files = [file for file in files if options.get("date", "") in file.name]
    bounds = []
    for file in files:
        with rasterio.open(file) as opened:
            bounds.append(opened.bounds)
    outer = (
        min(b.left for b in bounds),
        min(b.bottom for b in bounds),
        max(b.right for b in bounds),
        max(b.top for b in bounds),
    )
    data = xr.open_zarr(tmp_path / "out" / "labels.zarr", mask_and_scale=False, decode_coords="all")
    labels = data["labels"]
    assert labels.rio.crs.to_epsg() == epsg
    assert labels.rio.nodata == 255
    assert labels.dtype == np.uint8
    np.testing.assert_allclose(labels.rio.bounds(), outer, rtol=1e-9)
    meanings = labels.attrs["flag_meanings"].split()
    assert meanings == [f"class_{i}" for i in labels.attrs["flag_values"]]
    assert set(np.unique(labels)) - {255} == set(labels.attrs["flag_values"])
    assert (labels.to_numpy() != 255).mean() >= least_valid
    with rasterio.open(tmp_path / "out" / "labels.tif") as cog:
        np.testing.assert_array_equal(cog.read(1), labels.to_numpy())
        assert cog.crs.to_epsg() == epsg
        assert cog.nodata == 255
        np.testing.assert_allclose(cog.bounds, outer, rtol=1e-9)
        assert all(cog.colormap(1)[each.id] == (*bytes.fromhex(each.colour[1:]), 255) for each in result.legend.classes)
    assert cog_validate(tmp_path / "out" / "labels.tif", quiet=True)[0]
    names = (tmp_path / "out" / "labels.tif.aux.xml").read_text()
    assert all(f"<Category>{each.name}</Category>" in names for each in result.legend.classes)


@pytest.mark.parametrize(
    ("source", "options", "message"),
    [
        ("odd/1056417_2017-03-08_RE3_3A_Visual_clip.tif", {"bands": "rgbn"}, "band 4 .*alpha"),
        ("naip-nd", {"bands": "rgbn"}, "2010-06-29.*2012-07-31.*2014-07-20.*--date"),
        ("haiti", {}, "--bands"),
        ("absent.tif", {}, "absent.tif"),
        ("MANIFEST.md", {}, "MANIFEST.md"),
    ],
)
def test_a_real_misfit_is_one_line(
    source: str, options: dict[str, Any], message: str, real_data: Path, tmp_path: Path
) -> None:
    with pytest.raises(InputError, match=message) as caught:
        segment(real_data / source, Settings(**{**FAST, **options}), tmp_path / "out")
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "out").exists()
