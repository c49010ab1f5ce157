"""STAC: valid by the schemas that pystac brings, true of the files, and whole wherever the folder goes."""

from __future__ import annotations

import hashlib
import json
import re
import shutil
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pystac
import pytest
import stac_pydantic
from affine import Affine
from numpy.typing import NDArray
from pyproj import Geod
from pystac.extensions.classification import ClassificationExtension
from pystac.extensions.file import FileExtension
from pystac.extensions.projection import ProjectionExtension
from pystac.stac_object import STACObjectType
from pystac.validation import JsonSchemaSTACValidator

from pipeline.record import Input
from pipeline.series import append
from pipeline.stac import write_item
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
        if path.is_file():
            assert FileExtension.ext(asset).size == path.stat().st_size
            assert FileExtension.ext(asset).checksum == "1220" + hashlib.sha256(path.read_bytes()).hexdigest()
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


def test_collection(tmp_path: Path, labels: NDArray[np.uint8]) -> None:
    for name, time in (("b", "2021-04"), ("a", "2021-03"), ("no-item", "2021-05")):
        run = publish(tmp_path / "runs" / name, labels)
        if name != "no-item":
            write_item(run)
        append(tmp_path / "series", run, time)
    shutil.move(tmp_path / "runs", tmp_path / "new" / "runs")
    shutil.move(tmp_path / "series", tmp_path / "new" / "series")
    path = tmp_path / "new" / "series" / "collection.json"
    check_core(path, STACObjectType.COLLECTION)
    collection = pystac.Collection.from_file(str(path))
    assert [item.id for item in collection.get_items()] == ["a", "b"]
    assert collection.license == "CC-BY-4.0"
    assert collection.extra_fields["attribution"] == "Somebody 2026"
    assert [str(time)[:10] for time in collection.extent.temporal.intervals[0]] == ["2021-03-01", "2021-05-01"]
    asset = collection.assets["series"]
    assert Path(asset.get_absolute_href() or "") == tmp_path / "new" / "series" / "series.zarr"
    assert [c.value for c in ClassificationExtension.ext(asset).classes or []] == [0, 2, 9, 255]
