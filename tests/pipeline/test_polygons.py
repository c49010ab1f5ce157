"""Polygons: the patches of the map, each whole, the same however the map is divided."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import geopandas as gpd
import numpy as np
import pyarrow.parquet as pq
import pytest
import rasterio.features
from affine import Affine
from geopandas.testing import assert_geodataframe_equal
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from numpy.typing import NDArray

import pipeline.polygons
from pipeline.areas import class_areas
from pipeline.errors import InputError
from pipeline.polygons import trace, write_polygons
from pipeline.results import open_result
from tests.pipeline.published import UTM, publish
from tests.pipeline.test_cleanup import MAPS, flood

Labels = NDArray[np.uint8]


def traced(labels: Labels, block_px: int) -> dict[tuple[int, int], tuple[int, int, bytes]]:
    found = list(trace(lambda window: labels[window.slices], labels.shape, 255, block_px=block_px))
    keyed = {each.first: (each.class_id, each.pixels, each.geometry.wkb) for each in found}
    assert len(keyed) == len(found)
    assert all(each.geometry.is_valid for each in found)
    return keyed


@settings(deadline=None, max_examples=120)
@given(MAPS, st.integers(1, 17))
def test_polygons_are_the_patches_of_the_map(labels: Labels, block_px: int) -> None:
    found = list(trace(lambda window: labels[window.slices], labels.shape, 255, block_px=block_px))
    expected = {min(patch): (value, patch) for value, patch in flood(labels)}
    assert {each.first for each in found} == expected.keys()
    for each in found:
        value, patch = expected[each.first]
        burnt = rasterio.features.rasterize([each.geometry], labels.shape, transform=Affine.identity())
        assert {(int(y), int(x)) for y, x in np.argwhere(burnt)} == patch
        assert (each.class_id, each.pixels, each.geometry.area) == (value, len(patch), len(patch))
        assert each.geometry.is_valid


@settings(deadline=None, max_examples=60)
@given(
    hnp.arrays(np.uint8, hnp.array_shapes(min_dims=2, max_dims=2, max_side=24), elements=st.sampled_from([0, 1, 255])),
    st.integers(1, 12),
)
def test_they_do_not_tell_how_the_map_was_divided(labels: Labels, block_px: int) -> None:
    assert traced(labels, block_px) == traced(labels, 1000)


def slow_areas(labels: Labels, transform: Affine, crs: str) -> dict[int, float]:
    from pyproj import CRS, Geod, Transformer

    geod, to_degrees = Geod(ellps="WGS84"), Transformer.from_crs(CRS(crs), CRS(4326), always_xy=True)
    areas: dict[int, float] = {}
    for y, x in np.argwhere(labels != 255):
        corners = [transform @ corner for corner in ((x, y), (x + 1, y), (x + 1, y + 1), (x, y + 1))]
        lon, lat = to_degrees.transform(*zip(*corners, strict=True))
        value = int(labels[y, x])
        areas[value] = areas.get(value, 0.0) + abs(geod.polygon_area_perimeter(lon, lat)[0])
    return areas


@pytest.mark.parametrize(
    ("crs", "transform"),
    [
        ("EPSG:32618", UTM),
        ("EPSG:3857", Affine(400, 0, -7e6, 0, -400, 4e6)),
        ("EPSG:4326", Affine(0.002, 0, 10, 0, -0.002, 60)),
        ("EPSG:2263", Affine(300, 0, 980_000, 0, -300, 200_000)),  # feet
    ],
)
def test_areas_are_those_on_the_ground(tmp_path: Path, crs: str, transform: Affine) -> None:
    rng = np.random.default_rng(0)
    labels = np.kron(rng.choice(np.array([0, 1, 4, 255], np.uint8), (6, 5)), np.ones((7, 9), np.uint8))
    result = open_result(publish(tmp_path / "run", labels, crs=crs, transform=transform))
    write_polygons(result, tmp_path / "polygons.parquet")
    frame = gpd.read_parquet(tmp_path / "polygons.parquet")
    truth = slow_areas(labels, transform, crs)
    np.testing.assert_allclose(frame.groupby("class").area_m2.sum(), [truth[i] for i in (0, 1, 4)], rtol=1e-3)
    by_pixels = class_areas(lambda window: labels[window.slices], labels.shape, transform, frame.crs)
    np.testing.assert_allclose([by_pixels[i] for i in (0, 1, 4)], [truth[i] for i in (0, 1, 4)], rtol=1e-3)


@pytest.mark.parametrize("ending", ["parquet", "gpkg"])
def test_files(tmp_path: Path, ending: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pipeline.polygons, "BATCH", 7)
    labels = np.random.default_rng(1).choice(np.array([0, 3, 255], np.uint8), (40, 30))
    result = open_result(publish(tmp_path / "run", labels, names={3: "sea, öde"}))
    frames = []
    for block_px in (8, 1000):
        path = tmp_path / f"{block_px}.{ending}"
        assert write_polygons(result, path, block_px=block_px) == len(flood(labels))
        frame: Any = gpd.read_parquet(path) if ending == "parquet" else gpd.read_file(path)
        assert frame.crs.to_epsg() == 32618
        frames.append(frame.sort_values("patch").reset_index(drop=True))
    assert_geodataframe_equal(frames[0], frames[1])
    frame = frames[0]
    assert list(frame.columns) == ["patch", "class", "name", "colour", "pixels", "area_m2", "geometry"]
    legend = {each.id: (each.name, each.colour) for each in result.legend.classes}
    assert {
        (i, (name, colour)) for i, name, colour in zip(frame["class"], frame.name, frame.colour, strict=True)
    } == set(legend.items())
    burnt = rasterio.features.rasterize(
        zip(frame.geometry, frame["class"], strict=True), labels.shape, fill=255, transform=UTM, dtype="uint8"
    )
    np.testing.assert_array_equal(burnt, labels)
    assert sorted(each.name for each in tmp_path.iterdir()) == [f"1000.{ending}", f"8.{ending}", "run"]


def test_geoparquet_says_what_the_format_asks(tmp_path: Path) -> None:
    result = open_result(publish(tmp_path / "run", np.array([[0, 1], [255, 1]], np.uint8)))
    write_polygons(result, tmp_path / "polygons.parquet")
    said = json.loads(pq.read_metadata(tmp_path / "polygons.parquet").metadata[b"geo"])
    assert (said["version"], said["primary_column"]) == ("1.1.0", "geometry")
    column = said["columns"]["geometry"]
    assert (column["encoding"], column["geometry_types"]) == ("WKB", ["Polygon"])
    assert column["crs"]["id"] == {"authority": "EPSG", "code": 32618}
    assert column["bbox"] == [500000.0, 3999990.0, 500010.0, 4000000.0]


def test_a_map_without_crs_or_without_classes(tmp_path: Path) -> None:
    plain = open_result(publish(tmp_path / "plain", np.array([[0, 1]], np.uint8), crs=None))
    for ending in ("parquet", "gpkg"):
        write_polygons(plain, tmp_path / f"plain.{ending}")
    frame = gpd.read_parquet(tmp_path / "plain.parquet")
    assert frame.crs is None
    assert frame.area_m2.isna().all()
    empty = open_result(publish(tmp_path / "empty", np.full((3, 3), 255, np.uint8)))
    assert write_polygons(empty, tmp_path / "empty.parquet") == 0
    assert len(gpd.read_parquet(tmp_path / "empty.parquet")) == 0


def test_what_cannot_be_written(tmp_path: Path) -> None:
    result = open_result(publish(tmp_path / "run", np.array([[0, 1]], np.uint8)))
    with pytest.raises(InputError, match=r"must end in \.parquet or \.gpkg; got \.shp"):
        write_polygons(result, tmp_path / "a.shp")
    with pytest.raises(InputError, match="there is no folder"):
        write_polygons(result, tmp_path / "absent" / "a.gpkg")
