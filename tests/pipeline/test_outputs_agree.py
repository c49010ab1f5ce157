"""The outputs of one run, each opened with the libraries that can: the same classes, colours, areas and CRS in all."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import geopandas as gpd
import numpy as np
import pystac
import pytest
import rasterio
import rasterio.shutil
import rioxarray
import xarray as xr
from affine import Affine
from odc.geo.geobox import GeoBox
from pyproj import CRS, Geod, Transformer
from pystac.extensions.classification import ClassificationExtension
from pystac.extensions.projection import ProjectionExtension

from flows.cli import main
from ktex_model.texture import TextureConfig
from pipeline import Settings, open_result, segment
from tests.pipeline import grey_model
from tests.pipeline.rasters import write_raster
from tests.pipeline.report.conftest import CHROMIUM, FLAGS

pytestmark = pytest.mark.filterwarnings("ignore:Use `@` matmul:PendingDeprecationWarning")

MERCATOR = Affine(4.77731426716, 0, -7533633.5067, 0, -4.77731426716, -1584998.218)


@dataclass
class Said:
    """What one output says of the map."""

    colours: dict[int, str]
    crs: int
    areas_m2: dict[int, float] = field(default_factory=dict)
    names: dict[int, str] | None = None


def measure(labels: Any, transform: Affine) -> dict[int, float]:
    """Geodesic areas, a row of pixels at a time: an oracle that shares nothing with the pipeline."""
    to_degrees = Transformer.from_crs(CRS(3857), CRS(4326), always_xy=True)
    geod, areas = Geod(ellps="WGS84"), dict[int, float]()
    for y, row in enumerate(np.asarray(labels)):
        corners = [transform @ corner for corner in ((0, y), (1, y), (1, y + 1), (0, y + 1))]
        area = abs(geod.polygon_area_perimeter(*to_degrees.transform(*zip(*corners, strict=True)))[0])
        for value, count in zip(*np.unique(row[row != 255], return_counts=True), strict=True):
            areas[int(value)] = areas.get(int(value), 0.0) + area * int(count)
    return areas


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    monkeypatch.setattr(TextureConfig, "context_px", 0)
    grey_model.install(monkeypatch)
    rng = np.random.default_rng(0)
    grey = np.kron(rng.integers(0, 4, (6, 6)) * 60 + 20, np.ones((25, 25), int)).astype(np.uint8)
    grey[:10, :40] = 0
    write_raster(tmp_path / "scene_20210315.tif", grey, affine=MERCATOR, crs="EPSG:3857", nodata=0)
    settings = Settings(
        k=4, block_px=64, chunk_px=32, overlap_px=8, engine="serial", bands="G=1", scaling="byte", global_classes=4,
        license="CC-BY-4.0", attribution="Somebody 2021",
    )  # fmt: skip
    out = tmp_path / "out"
    segment(tmp_path / "scene_20210315.tif", settings, out)
    for name in ("polygons.parquet", "polygons.gpkg"):
        assert main(["polygons", str(out), "--to", str(out / name)]) == 0
    yield out
    grey_model.load_model.cache_clear()


def flags(labels: xr.DataArray) -> dict[int, str]:
    return dict(zip(map(int, labels.attrs["flag_values"]), labels.attrs["flag_colors"].split(), strict=True))


def by_rasterio(path: Path) -> Said:
    with rasterio.open(path) as cog:
        labels, transform = cog.read(1), cog.transform
        colours = {i: "#{:02X}{:02X}{:02X}".format(*cog.colormap(1)[i][:3]) for i in np.unique(labels[labels != 255])}
        # A VRT says all that GDAL itself knows about a file.
        rasterio.shutil.copy(path, path.with_suffix(".vrt"), driver="VRT")
        band = ElementTree.parse(path.with_suffix(".vrt")).find("VRTRasterBand")
        path.with_suffix(".vrt").unlink()
        assert band is not None
        names = dict(enumerate(each.text for each in band.iterfind("CategoryNames/Category")))
        return Said(colours, cog.crs.to_epsg(), measure(labels, transform), {i: str(names[i]) for i in colours})


def by_stac(path: Path) -> Said:
    item = pystac.Item.from_file(str(path))
    classes = [each for each in ClassificationExtension.ext(item.assets["labels"]).classes or [] if not each.nodata]
    assert item.properties["license"] == "CC-BY-4.0"
    return Said(
        {each.value: f"#{each.color_hint}" for each in classes},
        int(str(ProjectionExtension.ext(item).code).removeprefix("EPSG:")),
        {each.value: each.properties["area_km2"] * 1e6 for each in classes},
        {each.value: str(each.title) for each in classes},
    )


def by_geopandas(frame: gpd.GeoDataFrame) -> Said:
    first = frame.groupby("class").first()
    areas = frame.groupby("class").area_m2.sum()
    return Said(first.colour.to_dict(), frame.crs.to_epsg(), areas.to_dict(), first.name.to_dict())


def by_browser(path: Path) -> Said:
    """What a person sees in the report; areas, which are rounded there, are those that its script has."""
    sync_api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed: make setup")
    if not Path(CHROMIUM).exists():
        pytest.skip("Chromium is not installed: apt-get install chromium")
    with sync_api.sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        page = chromium.new_context(offline=True).new_page()
        page.goto(path.as_uri())
        page.wait_for_selector("#stage[data-ready]")
        found = page.evaluate(
            """() => [...document.querySelectorAll("input.name[data-id]")].map(field => {
            const id = field.dataset.id, fill = document.querySelector(`.legend [data-fill="${id}"]`);
            return [Number(id), field.value, fill.getAttribute("fill")]; })"""
        )
        facts = json.loads(page.text_content("#data"))
        crs = page.locator(".facts li", has_text="EPSG:").inner_text()
        chromium.close()
    areas = {each["id"]: each["km2"] * 1e6 for each in facts["classes"]}
    return Said(
        {i: colour for i, _, colour in found}, int(crs.removeprefix("EPSG:")), areas, {i: n for i, n, _ in found}
    )


@pytest.mark.filterwarnings("ignore::ResourceWarning")
def test_all_outputs_say_the_same(run: Path) -> None:
    result = open_result(run)
    plain = xr.open_zarr(run / "labels.zarr", decode_coords="all").labels
    cog = rioxarray.open_rasterio(run / "labels.tif").squeeze()
    box: GeoBox = plain.odc.geobox
    transform = plain.rio.transform()
    said = {
        "xarray": Said(flags(plain), plain.rio.crs.to_epsg(), measure(plain, transform)),
        "odc-geo": Said(flags(result.labels), int(box.crs.epsg or 0), measure(result.labels, box.transform)),
        "rioxarray": Said({}, cog.rio.crs.to_epsg(), measure(cog, cog.rio.transform())),
        "rasterio": by_rasterio(run / "labels.tif"),
        "pystac": by_stac(run / "item.json"),
        "GeoParquet": by_geopandas(gpd.read_parquet(run / "polygons.parquet")),
        "Chromium": by_browser(run / "report.html"),
        "GeoPackage": by_geopandas(gpd.read_file(run / "polygons.gpkg")),
    }
    qml = (run / "labels.qml").read_text(encoding="utf-8")
    entries = ElementTree.fromstring(qml).iterfind(".//paletteEntry")
    styled = {int(each.attrib["value"]): (each.attrib["color"].upper(), each.attrib["label"]) for each in entries}

    legend = {each.id: each.colour for each in result.legend.classes}
    names = {each.id: each.name for each in result.legend.classes}
    assert len(legend) == 4
    assert styled == {i: (legend[i], names[i]) for i in legend}
    assert result.record.metrics is not None
    truth = measure(plain, MERCATOR)
    for who, each in said.items():
        assert each.crs == 3857, who
        assert each.colours in ({}, legend), who
        assert each.names in (None, names), who
        assert each.areas_m2.keys() == truth.keys(), who
        for i, area in truth.items():
            assert each.areas_m2[i] == pytest.approx(area, rel=1e-3), (who, i)
    # Pixels of Web Mercator are smaller on the ground: plain counting is 5 % off even at 14 degrees.
    for i, area in truth.items():
        assert area < 0.96 * result.legend[i].pixels * MERCATOR.a**2
    assert re.fullmatch(r"class_\d( class_\d)*", plain.attrs["flag_meanings"])
    np.testing.assert_array_equal(plain, cog)
