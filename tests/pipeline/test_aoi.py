"""Areas of interest and masks: which pixels they leave, against point-in-polygon and plain indexing."""

from __future__ import annotations

import json
import pickle

import geopandas
import numpy as np
import pytest
import shapely
from affine import Affine
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from pyproj import Transformer

from pipeline.aoi import read_area
from pipeline.blocks import BlockGrid, Window
from pipeline.errors import InputError
from pipeline.scene import open_scene

from .rasters import GRID, UTM, position_code, shift, write_raster

SHAPE = (60, 80)
CODE = position_code(SHAPE)


def whole(scene):
    return scene.read(Window(0, 0, *scene.geobox.shape))


def at(y, x):
    """Coordinates of a place in pixels."""
    return GRID @ (x, y)


def write_geojson(path, *shapes, crs=UTM):
    geopandas.GeoDataFrame(geometry=list(shapes), crs=crs).to_file(path, driver="GeoJSON", engine="pyogrio")
    return path


@pytest.fixture
def raster(tmp_path):
    return write_raster(tmp_path / "scene.tif", CODE)


corner = st.tuples(st.floats(-10, 70), st.floats(-10, 90))


@settings(deadline=None, max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(corner, min_size=3, max_size=7), st.sampled_from(["area.gpkg", "area.geojson"]))
@example([(0.0, 0.0), (0.0, 1.0), (0.25, 0.0)], "area.gpkg")
def test_centres_inside_are_valid_and_the_scene_is_cut(raster, tmp_path, corners, name):
    polygon = shapely.make_valid(shapely.Polygon([at(*c) for c in corners]))
    polygon = shapely.union_all([p for p in shapely.get_parts(polygon) if p.geom_type == "Polygon"])
    centres = shapely.points(*(GRID @ tuple(np.meshgrid(np.arange(60) + 0.5, np.arange(80) + 0.5))))
    if not shapely.contains(polygon.buffer(-1e-2), centres).any():
        return
    path = tmp_path / name
    path.unlink(missing_ok=True)
    driver = "GPKG" if name.endswith("gpkg") else "GeoJSON"
    geopandas.GeoDataFrame(geometry=[polygon], crs=UTM).to_file(path, driver=driver, engine="pyogrio")
    scene = pickle.loads(pickle.dumps(open_scene(raster, bands="gray=1", aoi=path)))

    pixels = whole(scene)
    height, width = pixels.shape
    across, down = np.meshgrid(np.arange(width) + 0.5, np.arange(height) + 0.5)
    x, y = scene.geobox.affine @ (across, down)
    points = shapely.points(x, y)
    inside = shapely.contains(polygon, points)
    clear = shapely.distance(shapely.boundary(polygon), points) > 1e-2  # GeoJSON keeps 7 decimals
    assert np.array_equal(pixels.valid[clear], inside[clear])
    row, column = scene.geobox.affine.f, scene.geobox.affine.c
    y0, x0 = round((GRID.f - row) / 5), round((column - GRID.c) / 5)
    cut = CODE[0, y0 : y0 + height, x0 : x0 + width]
    assert np.array_equal(pixels.data[0], np.where(pixels.valid, cut, 0))
    for block in BlockGrid(pixels.shape, 16, context_px=3):
        assert np.array_equal(scene.read(block.read).valid, pixels.valid[block.read.slices])
    assert [file.path for file in scene.fingerprints()] == [str(raster), str(path)]


def test_an_area_in_degrees_is_carried_over_with_its_edges(raster, tmp_path):
    to_degrees = Transformer.from_crs(UTM, "EPSG:4326", always_xy=True)
    back = Transformer.from_crs("EPSG:4326", UTM, always_xy=True)
    ring = [to_degrees.transform(*at(*c)) for c in [(5, 5), (5, 70), (50, 75), (55, 10)]]
    content = {"type": "Polygon", "coordinates": [[*ring, ring[0]]]}
    (tmp_path / "a.json").write_text(json.dumps(content))
    scene = open_scene(raster, bands="gray=1", aoi=tmp_path / "a.json")
    dense = shapely.segmentize(shapely.Polygon(ring), 1e-5)
    expected = shapely.transform(dense, lambda p: np.stack(back.transform(p[:, 0], p[:, 1]), axis=1))
    height, width = scene.geobox.shape
    x, y = scene.geobox.affine @ tuple(np.meshgrid(np.arange(width) + 0.5, np.arange(height) + 0.5))
    assert (whole(scene).valid != shapely.contains_xy(expected, x, y)).sum() <= 2
    assert (height, width) == (50, 70)


def test_an_overview_of_an_area(raster, tmp_path):
    area = write_geojson(tmp_path / "a.geojson", shapely.box(*at(60, 0), *at(0, 40)))
    mask = write_raster(tmp_path / "mask.tif", (np.arange(60)[:, None] < 30) * np.ones(SHAPE, np.uint8))
    scene = open_scene(raster, bands="gray=1", aoi=area, mask=mask)
    overview = scene.overview(20)
    assert overview.shape == (20, 14)
    assert abs(overview.valid.mean() - 0.5) < 0.06
    assert (overview.data[0][~overview.valid] == 0).all()


@pytest.mark.parametrize(
    ("write", "found"),
    [
        (lambda p: None, "no such file"),
        (lambda p: p.write_text("<kml/>"), "is neither GeoJSON nor GeoPackage"),
        (lambda p: p.write_text('{"type": "FeatureColl'), "cannot be read|one layer of polygons"),
        (lambda p: write_geojson(p, shapely.Point(at(1, 1))), "found none|holds no polygon"),
        (lambda p: write_geojson(p, shapely.LineString([at(1, 1), at(9, 9)])), "holds no polygon"),
        (
            lambda p: write_geojson(p, shapely.box(*at(99, 0), *at(70, 9))),
            r"meets no pixel centre of the scene .*check the area",
        ),
        (
            lambda p: write_geojson(p, shapely.box(0, 0, 1, 1), crs="EPSG:4326"),
            r"x 0 to 1, y 0 to 1\) meets no pixel centre of the scene",
        ),
    ],
)
def test_areas_that_are_none(raster, tmp_path, write, found):
    path = tmp_path / "area.geojson"
    write(path)
    with pytest.raises(InputError, match=rf"--aoi .*area\.geojson: .*({found})") as error:
        open_scene(raster, bands="gray=1", aoi=path)
    assert "\n" not in str(error.value)


def test_layers_and_crs_that_are_in_doubt(raster, tmp_path):
    box = geopandas.GeoDataFrame(geometry=[shapely.box(*at(9, 0), *at(0, 9))], crs=UTM)
    path = tmp_path / "a.gpkg"
    for layer in ("one", "two"):
        box.to_file(path, layer=layer, driver="GPKG", engine="pyogrio")
    with pytest.raises(InputError, match="one layer of polygons was expected, found one, two"):
        open_scene(raster, bands="gray=1", aoi=path)
    plain = write_raster(tmp_path / "plain.tif", CODE, crs=None)
    with pytest.raises(InputError, match="the scene has no CRS where one is needed"):
        open_scene(plain, bands="gray=1", aoi=path)


def test_a_hole_and_two_parts(raster, tmp_path):
    ring = shapely.box(*at(30, 0), *at(0, 30)) - shapely.box(*at(20, 10), *at(10, 20))
    path = write_geojson(tmp_path / "a.geojson", ring, shapely.box(*at(60, 60), *at(50, 80)))
    scene = open_scene(raster, bands="gray=1", aoi=path)
    expected = np.zeros(SHAPE, bool)
    expected[:30, :30] = True
    expected[10:20, 10:20] = False
    expected[50:, 60:] = True
    assert np.array_equal(whole(scene).valid, expected)
    area = read_area(path, open_scene(raster, bands="gray=1").geobox)
    assert not area.contains(np.arange(40, 45), np.arange(5)).any()
    assert np.array_equal(area.contains(np.arange(0, 60, 7), np.arange(0, 80, 3)), expected[::7, ::3])


def test_a_mask_says_where(raster, tmp_path):
    keep = (np.arange(60 * 80).reshape(SHAPE) % 7).astype(np.uint8)
    path = write_raster(tmp_path / "mask.tif", keep[10:, :50], affine=shift(GRID, 10.005, -0.005), nodata=3)
    scene = pickle.loads(pickle.dumps(open_scene(raster, bands="gray=1", mask=path)))
    expected = np.zeros(SHAPE, bool)
    expected[10:, :50] = (keep[10:, :50] != 0) & (keep[10:, :50] != 3)
    assert np.array_equal(whole(scene).valid, expected)
    assert np.array_equal(whole(scene).data[0], np.where(expected, CODE[0], 0))
    assert not scene.read(Window(0, 60, 10, 80)).valid.any()
    assert [file.path for file in scene.fingerprints()] == [str(raster), str(path)]


def test_a_coarser_mask_is_resampled_where_that_is_asked_for(raster, tmp_path):
    coarse = np.zeros((15, 20), np.uint8)
    coarse[3:9, 5:11] = 1
    path = write_raster(tmp_path / "mask.tif", coarse, affine=GRID @ Affine.scale(4))
    with pytest.raises(InputError, match=r"mask\.tif: has pixels of 20 x -20, the scene of 5 x -5 .*--align resample"):
        open_scene(raster, bands="gray=1", mask=path)
    scene = open_scene(raster, bands="gray=1", mask=path, align="resample", resampling="bilinear")
    assert np.array_equal(whole(scene).valid, np.kron(coarse, np.ones((4, 4))) == 1)


def test_a_mask_elsewhere_is_refused(raster, tmp_path):
    path = write_raster(tmp_path / "mask.tif", np.ones((9, 9), np.uint8), affine=shift(GRID, 60, 0))
    with pytest.raises(InputError, match=r"--mask .*mask\.tif: does not meet the scene anywhere"):
        open_scene(raster, bands="gray=1", mask=path)
    with pytest.raises(InputError, match=r"none\.tif: no such file"):
        open_scene(raster, bands="gray=1", mask=tmp_path / "none.tif")
