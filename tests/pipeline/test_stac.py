"""STAC: valid by the schemas that pystac brings, true of the files, and whole wherever the folder goes."""

from __future__ import annotations

import hashlib
import json
import re
import shutil
import subprocess
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pystac
import pytest
import shapely
import stac_pydantic
from affine import Affine
from numpy.typing import NDArray
from pyproj import CRS, Geod
from pystac.extensions.classification import ClassificationExtension
from pystac.extensions.file import FileExtension
from pystac.extensions.projection import ProjectionExtension
from pystac.stac_object import STACObjectType
from pystac.validation import JsonSchemaSTACValidator

from pipeline.areas import class_areas
from pipeline.checksums import edited
from pipeline.record import Input
from pipeline.series import append
from pipeline.stac import join_collection, write_item
from tests.pipeline.published import UTM, publish

pytestmark = pytest.mark.filterwarnings("ignore:Use `@` matmul:PendingDeprecationWarning")


@pytest.fixture
def labels() -> NDArray[np.uint8]:
    return np.random.default_rng(0).choice(np.array([0, 2, 9, 255], np.uint8), (60, 40))


def check_core(path: Path, kind: STACObjectType) -> None:
    """By the JSON schemas of STAC 1.1 that lie in pystac, and by stac-pydantic: nothing is fetched."""
    found = json.loads(path.read_text())
    JsonSchemaSTACValidator().validate_core(found, kind, "1.1.0")
    {STACObjectType.ITEM: stac_pydantic.Item, STACObjectType.COLLECTION: stac_pydantic.Collection}[kind].model_validate(
        found
    )


def check_file(asset: pystac.Asset, path: Path) -> None:
    """By the words that the asset of a folder says of its checksum, carried out by the programs that they name."""
    found = FileExtension.ext(asset)
    if path.is_file():
        expected, size = hashlib.sha256(path.read_bytes()).hexdigest(), path.stat().st_size
    else:
        command = str(asset.description).partition("writes it: ")[2]
        listed = subprocess.run(["sh", "-c", command], cwd=path, capture_output=True, text=True, check=True)
        expected = listed.stdout.split()[0]
        size = sum(each.stat().st_size for each in path.rglob("*") if each.is_file())
    assert (found.checksum, found.size) == ("1220" + expected, size)


def test_a_schema_that_is_broken_is_found(tmp_path: Path, labels: NDArray[np.uint8]) -> None:
    path = write_item(publish(tmp_path / "run", labels))
    found = json.loads(path.read_text())
    path.write_text(json.dumps(found | {"properties": {}}))
    with pytest.raises(pystac.errors.STACValidationError, match="datetime"):
        check_core(path, STACObjectType.ITEM)


def test_item(tmp_path: Path, labels: NDArray[np.uint8]) -> None:
    run = publish(tmp_path / "run", labels, names={2: "open water (deep)"}, cogs=True)
    write_item(run)
    moved = tmp_path / "elsewhere"
    shutil.move(run, moved)
    check_core(moved / "item.json", STACObjectType.ITEM)
    item = pystac.Item.from_file(str(moved / "item.json"))
    assert (item.id, item.datetime) == ("run", datetime(2021, 3, 15, tzinfo=UTC))

    assert set(item.assets) == {"labels", "labels-zarr", "confidence", "classes", "style", "names", "record"}
    for asset in item.assets.values():
        assert asset.href.startswith("./")
        path = Path(asset.get_absolute_href() or "")
        assert path.parent == moved
        assert path.exists()
        assert asset.roles
        check_file(asset, path)
    assert item.assets["labels-zarr"].media_type == "application/vnd.zarr; version=3; profile=multiscales"
    assert "cloud-optimized" in str(item.assets["labels"].media_type)

    projection = ProjectionExtension.ext(item)
    assert (projection.code, projection.shape) == ("EPSG:32618", [60, 40])
    assert Affine(*(projection.transform or [])) == UTM
    for name in ("labels", "labels-zarr"):
        classes = ClassificationExtension.ext(item.assets[name]).classes or []
        assert [(c.value, c.title) for c in classes if not c.nodata] == [
            (0, "class 0"), (2, "open water (deep)"), (9, "class 9"),
        ]  # fmt: skip
        assert [c.value for c in classes if c.nodata] == [255]
        assert all(re.fullmatch("[0-9A-Za-z_-]+", c.name) for c in classes), "as the extension's schema demands"
        assert all(re.fullmatch("[0-9A-F]{6}", str(c.color_hint)) for c in classes if not c.nodata)
        assert [c.count for c in classes if not c.nodata] == [int((labels == i).sum()) for i in (0, 2, 9)]
        assert sum(c.percentage or 0 for c in classes) == pytest.approx(100, abs=1e-4)
        # 25 m2 a pixel; UTM on its middle meridian shows lengths 0.04 % too short.
        areas = [c.properties["area_km2"] / ((c.count or 0) * 25e-6) for c in classes if not c.nodata]
        np.testing.assert_allclose(areas, 0.9996**-2, rtol=1e-4)

    assert item.properties["license"] == "CC-BY-4.0"
    assert item.properties["attribution"] == "Somebody 2026"
    said = {re.sub(r".*github.io/([a-z]+)/.*", r"\1", each) for each in item.stac_extensions}
    assert said == {"projection", "classification", "processing", "file"}, "each that is used is declared"
    assert item.properties["processing:level"] == "L4"
    assert item.properties["processing:software"]["ktextures"]
    assert all(isinstance(number, str) for number in item.properties["processing:software"].values())
    (source,) = item.get_links("derived_from")
    assert (source.target, source.extra_fields["file:checksum"]) == ("/data/scene_20210315.tif", "1220" + "0" * 64)
    assert item.assets["labels"].extra_fields["bands"] == [{"name": "labels", "data_type": "uint8", "nodata": 255}]


def test_footprint_is_where_the_pixels_are(tmp_path: Path, labels: NDArray[np.uint8]) -> None:
    found = json.loads(write_item(publish(tmp_path / "run", labels)).read_text())
    # 40 px of 5 m east and 60 px south of (500000, 4000000) in UTM 18 N: so far from the equator along 75 W.
    geod = Geod(ellps="WGS84")
    top, bottom = (geod.fwd(-75, 0, 0, north / 0.9996)[1] for north in (4_000_000, 3_999_700))
    east = geod.fwd(-75, bottom, 90, 200 / 0.9996)[0]
    np.testing.assert_allclose(found["bbox"], [-75, bottom, east, top], atol=1e-7)
    ring = np.array(found["geometry"]["coordinates"][0])
    np.testing.assert_allclose([*ring.min(axis=0), *ring.max(axis=0)], found["bbox"], atol=1e-9)


@pytest.mark.parametrize(
    ("crs", "transform"),
    [
        ("EPSG:4326", Affine(0.01, 0, 179.8, 0, -0.01, -16)),
        ("EPSG:4326", Affine(0.01, 0, -180.2, 0, -0.01, -16)),
        ("EPSG:32701", Affine(1000, 0, 160_000, 0, -1000, 8_230_000)),
        ("EPSG:32701", Affine(1000, 0, 200_000, 0, 1000, 8_170_000)),
    ],
)
def test_a_footprint_across_the_antimeridian_has_two_parts(
    tmp_path: Path, labels: NDArray[np.uint8], crs: str, transform: Affine
) -> None:
    path = write_item(publish(tmp_path / "run", labels, crs=crs, transform=transform))
    check_core(path, STACObjectType.ITEM)
    found = json.loads(path.read_text())
    west, south, east, north = found["bbox"]
    crosses = west > east
    assert found["geometry"]["type"] == ("MultiPolygon" if crosses else "Polygon")
    shape = shapely.geometry.shape(found["geometry"])
    assert shape.is_valid
    low, bottom, high, top = shape.bounds
    assert low >= -180
    assert high <= 180
    np.testing.assert_allclose([bottom, top], [south, north])
    parts = list(shape.geoms) if crosses else [shape]
    assert all(part.exterior.is_ccw for part in parts)
    # The ellipsoid knows no antimeridian: both sides together are the area of the pixels.
    geod = Geod(ellps="WGS84")
    pixels = class_areas(lambda window: np.zeros(window.shape, np.uint8), labels.shape, transform, CRS(crs))[0]
    assert sum(geod.geometry_area_perimeter(part)[0] for part in parts) == pytest.approx(pixels, rel=1e-3)
    if crosses:
        assert (low, high) == (-180, 180)
        assert parts[0].bounds[0] == pytest.approx(west)
        assert parts[1].bounds[2] == pytest.approx(east)


def test_without_crs_or_with_one_that_has_no_code(tmp_path: Path, labels: NDArray[np.uint8]) -> None:
    plain = write_item(publish(tmp_path / "plain", labels, crs=None))
    check_core(plain, STACObjectType.ITEM)
    assert json.loads(plain.read_text())["geometry"] is None
    own = "+proj=laea +lat_0=36 +lon_0=-75 +x_0=500000 +y_0=4000000 +datum=WGS84 +units=m"
    path = write_item(publish(tmp_path / "own", labels, crs=own))
    check_core(path, STACObjectType.ITEM)
    properties = json.loads(path.read_text())["properties"]
    assert properties.get("proj:code") is None
    assert "Lambert Azimuthal Equal Area" in properties["proj:wkt2"]


@pytest.mark.parametrize(
    ("source", "date", "expected"),
    [
        ("/a/planet_2021-02_mosaic/q.tif", None, ("2021-02-01T00:00:00Z", "2021-02-28T23:59:59Z")),
        ("/a/q.tif", "2020", ("2020-01-01T00:00:00Z", "2020-12-31T23:59:59Z")),
        ("/a/q.tif", None, "2026-11-22T00:00:00Z"),
        ("/a/q.tif", "any", "2026-11-22T00:00:00Z"),
    ],
)
def test_times(tmp_path: Path, labels: NDArray[np.uint8], source: str, date: str | None, expected: Any) -> None:
    inputs = [Input(path=source, size=1, sha256="0" * 64)]
    path = write_item(publish(tmp_path / "run", labels, inputs=inputs, settings={"k": 4, "date": date}))
    check_core(path, STACObjectType.ITEM)
    found = json.loads(path.read_text())["properties"]
    if isinstance(expected, str):
        assert found["datetime"] == expected
    else:
        assert found["datetime"] is None
        assert (found["start_datetime"], found["end_datetime"]) == expected


def make_series(place: Path, labels: NDArray[np.uint8], **options: Any) -> Path:
    """Three dates, of which the first has no item, moved as a whole to `place`; returns the collection."""
    made = place.with_name("made")
    for name, time in (("b", "2021-04"), ("a", "2021-03"), ("no-item", "2021-05")):
        run = publish(made / "runs" / name, labels, cogs=True, **options)
        if name != "no-item":
            write_item(run)
        append(made / "series", run, time)
    shutil.move(made, place)
    return place / "series" / "collection.json"


def test_collection(tmp_path: Path, labels: NDArray[np.uint8]) -> None:
    path = make_series(tmp_path / "new", labels)
    check_core(path, STACObjectType.COLLECTION)
    collection = pystac.Collection.from_file(str(path))
    assert collection.license == "CC-BY-4.0"
    assert collection.extra_fields["attribution"] == "Somebody 2026"
    assert [str(time)[:10] for time in collection.extent.temporal.intervals[0]] == ["2021-03-01", "2021-05-01"]
    assert {name: asset.href for name, asset in collection.assets.items()} == {
        "series": "./series.zarr",
        "classes": "./classes.json",
    }
    for asset in collection.assets.values():
        check_file(asset, Path(asset.get_absolute_href() or ""))
    series = collection.assets["series"]
    assert [c.value for c in ClassificationExtension.ext(series).classes or []] == [0, 2, 9, 255]
    projection = ProjectionExtension.ext(series)
    assert (projection.code, projection.shape) == ("EPSG:32618", [60, 40])
    assert Affine(*(projection.transform or [])) == UTM
    assert series.media_type == "application/vnd.zarr; version=3; profile=multiscales"


def test_the_items_of_a_collection_lead_back_to_it(tmp_path: Path, labels: NDArray[np.uint8]) -> None:
    path = make_series(tmp_path / "new", labels)
    items = list(pystac.Collection.from_file(str(path)).get_items())
    assert [item.id for item in items] == ["a", "b"]
    runs = [tmp_path / "new" / "runs" / name for name in "ab"]
    for run, again in ((run, again) for run in runs for again in (False, True)):
        if again:
            write_item(run)
        check_core(run / "item.json", STACObjectType.ITEM)
        item = pystac.Item.from_file(str(run / "item.json"))
        said = [(link.rel, link.href) for link in item.links if link.rel in {"collection", "parent", "root"}]
        assert said == [(rel, "../../series/collection.json") for rel in ("collection", "parent", "root")]
        assert item.collection_id == "series"
        for found in (item.get_collection(), item.get_parent(), item.get_root()):
            assert found is not None
            assert (found.id, Path(found.get_self_href() or "")) == ("series", path)
    assert not edited(runs[0])
    join_collection(runs[0], None)
    append(path.parent, publish(tmp_path / "new" / "runs" / "d", labels), "2021-06")
    assert json.loads((runs[0] / "item.json").read_text())["collection"] == "series"
    assert set(edited(runs[0])) == {"item.json"}, "noted as changed on purpose"

    other = publish(tmp_path / "new" / "runs" / "c", labels)
    write_item(other)
    append(path.parent, other, "2021-03", replace=True)
    left = json.loads((runs[0] / "item.json").read_text())
    assert "collection" not in left
    assert {link["rel"] for link in left["links"]} == {"derived_from"}
    assert [item.id for item in pystac.Collection.from_file(str(path)).get_items()] == ["c", "b"]


def test_an_item_that_cannot_be_written_is_told(
    tmp_path: Path, labels: NDArray[np.uint8], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def refuse(path: Path, content: Any) -> None:
        raise PermissionError(13, "Permission denied", str(path))

    run = publish(tmp_path / "run", labels)
    write_item(run)
    monkeypatch.setattr("pipeline.stac.write_json", refuse)
    append(tmp_path / "series", run, "2021-03")
    assert "run/item.json: does not link to its collection, it cannot be written (Permission denied)" in caplog.text
    assert pystac.Collection.from_file(str(tmp_path / "series" / "collection.json")).get_item("run") is not None


def test_extensions_of_a_collection_are_where_their_schemas_look_for_them(
    tmp_path: Path, labels: NDArray[np.uint8]
) -> None:
    found = json.loads(make_series(tmp_path / "new", labels).read_text())
    declared = {re.sub(r".*github.io/([a-z]+)/.*", r"\1", each) for each in found["stac_extensions"]}
    text = json.dumps({name: found[name] for name in ("assets", "item_assets", "summaries", "providers")})
    used = set(re.findall(r'"(proj|file|processing|classification):', text))
    assert declared == {"projection", "classification", "processing", "file"}
    assert used == {"proj", "file", "processing", "classification"}, "each that is declared is used"

    assert found["summaries"]["proj:code"] == ["EPSG:32618"]
    assert found["summaries"]["processing:level"] == ["L4"]
    (software,) = found["summaries"]["processing:software"]
    by_role = {role: each for each in found["providers"] for role in each["roles"]}
    assert set(by_role) == {"licensor", "processor"}
    assert by_role["licensor"]["name"] == "Somebody 2026"
    made = by_role["processor"]
    assert made["processing:level"] == "L4"
    assert made["processing:software"] == software
    assert software["ktextures"]
    assert "model a" in made["processing:lineage"]

    shared = found["item_assets"]
    item = json.loads((tmp_path / "new" / "runs" / "a" / "item.json").read_text())
    assert set(shared) == set(item["assets"])
    for name, asset in shared.items():
        assert (asset["type"], asset["roles"], asset["title"]) == tuple(
            item["assets"][name][key] for key in ("type", "roles", "title")
        )
        assert not {"href", "file:checksum", "file:size"} & asset.keys(), "of one item alone"
        assert ("proj:transform" in asset) == (name in {"labels", "labels-zarr", "confidence"})
    classes = shared["labels"]["classification:classes"]
    assert [each["value"] for each in classes] == [0, 2, 9, 255]
    assert not {"count", "percentage"} & {key for each in classes for key in each}


@pytest.mark.parametrize("crs", [None, "+proj=laea +lat_0=36 +lon_0=-75 +datum=WGS84 +units=m"])
def test_a_collection_without_crs_or_with_one_that_has_no_code(
    tmp_path: Path, labels: NDArray[np.uint8], crs: str | None
) -> None:
    path = make_series(tmp_path / "new", labels, crs=crs)
    check_core(path, STACObjectType.COLLECTION)
    found = json.loads(path.read_text())
    assert "proj:code" not in found["summaries"]
    assert ("proj:wkt2" in found["summaries"]) == ("proj:wkt2" in found["assets"]["series"]) == (crs is not None)
    assert found["assets"]["series"]["proj:shape"] == [60, 40]
