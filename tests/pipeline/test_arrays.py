"""DataArrays as scenes, and their copy for worker processes."""

from __future__ import annotations

import pickle

import dask.array
import numpy as np
import pytest
import rioxarray
import shapely
import xarray as xr
import zarr
from affine import Affine

from pipeline.arrays import open_array
from pipeline.blocks import Window
from pipeline.errors import InputError, RunFailedError
from pipeline.scene import open_scene, spool

from .rasters import GRID, UTM, position_code, write_raster
from .test_aoi import at, write_geojson

SHAPE = (60, 80)
CODE = position_code(SHAPE, 3)
CODE[:, 5:9, 7:30] = 0


def whole(scene):
    return scene.read(Window(0, 0, *scene.geobox.shape))


def make_array(data=CODE, *, names=("red", "green", "blue"), crs=UTM, nodata=0.0, **coords):
    height, width = data.shape[1:]
    coords = {"x": GRID.c + 5 * (np.arange(width) + 0.5), "y": GRID.f - 5 * (np.arange(height) + 0.5), **coords}
    if names:
        coords["band"] = list(names)
    array = xr.DataArray(data, dims=("band", "y", "x"), coords=coords, name="made")
    array = array.rio.write_crs(crs) if crs else array
    return array.rio.write_nodata(nodata) if nodata is not None else array


@pytest.mark.parametrize(
    "change",
    [
        lambda a: a,
        lambda a: a.chunk({"band": 1, "y": 13, "x": 31}),
        lambda a: a.transpose("y", "x", "band"),
        lambda a: a.rename(x="longitude", y="latitude"),
    ],
)
def test_an_array_is_the_scene_of_its_file(tmp_path, change):
    path = write_raster(tmp_path / "a.tif", CODE, nodata=0, interps=("red", "green", "blue"))
    file, scene = open_scene(path), open_scene(change(make_array()))
    assert scene.geobox == file.geobox
    assert (scene.bands, scene.dtype) == (file.bands, file.dtype)
    for window in (Window(0, 0, *SHAPE), Window(3, 5, 20, 41)):
        assert np.array_equal(scene.read(window).data, file.read(window).data)
        assert np.array_equal(scene.read(window).valid, file.read(window).valid)
    assert scene.overview(20).shape == file.overview(20).shape == (15, 20)


@pytest.mark.filterwarnings("ignore:Use `@` matmul:PendingDeprecationWarning")  # in rioxarray itself
def test_an_array_opened_by_rioxarray(tmp_path):
    path = write_raster(tmp_path / "a.tif", CODE, nodata=0, descriptions=("red", "green", "blue"))
    with rioxarray.open_rasterio(path, masked=True) as array:
        scene = open_scene(array)
        assert scene.bands == ("R", "G", "B")
        assert np.array_equal(whole(scene).valid, (CODE != 0).any(axis=0))


def test_alpha_and_plain_arrays():
    data = np.concatenate([CODE, (CODE[:1] % 2)])
    scene = open_scene(make_array(data, names=("blue", "green", "red", "alpha"), nodata=None))
    assert scene.bands == ("R", "G", "B")
    assert np.array_equal(whole(scene).valid, CODE[0] % 2 > 0)
    plain = open_scene(xr.DataArray(CODE[0].astype(np.float32), dims=("y", "x")))
    assert (plain.bands, plain.geobox.crs, plain.geobox.affine) == (("gray",), None, Affine.identity())
    assert np.array_equal(whole(plain).data[0], CODE[0])


@pytest.mark.parametrize("chunks", [None, {"band": 1, "y": 17, "x": 40}])
def test_a_spooled_scene_is_equal_small_and_named_by_content(tmp_path, chunks):
    array = make_array() if chunks is None else make_array().chunk(chunks)
    scene = open_scene(array)
    spooled = spool(scene, tmp_path / "spool.zarr", chunk_px=16)
    again = spool(array, tmp_path / "again.zarr", chunk_px=64)
    sent = pickle.loads(pickle.dumps(spooled))
    assert len(pickle.dumps(spooled)) < 5_000
    assert (sent.geobox, sent.bands, sent.dtype) == (scene.geobox, scene.bands, scene.dtype)
    for window in (Window(0, 0, *SHAPE), Window(3, 5, 20, 41)):
        assert np.array_equal(sent.read(window).data, scene.read(window).data)
        assert np.array_equal(sent.read(window).valid, scene.read(window).valid)
    assert np.array_equal(sent.overview(20).data, scene.overview(20).data)
    assert np.array_equal(sent.overview(20).valid, scene.overview(20).valid)
    assert spooled.fingerprints() == again.fingerprints() == scene.fingerprints()
    other = CODE.copy()
    other[1, 50, 50] += 1
    assert open_scene(make_array(other)).fingerprints() != scene.fingerprints()


def test_spooling_never_holds_more_than_chunks(tmp_path):
    largest = []

    def count(block):
        largest.append(block.shape)
        return block

    lazy = dask.array.from_array(CODE, chunks=(3, 16, 16)).map_blocks(count, meta=np.empty((0, 0, 0), CODE.dtype))
    spool(make_array(lazy), tmp_path / "s.zarr", chunk_px=16)
    assert len(largest) == 4 * 5  # each chunk is computed once


def test_spooled_scenes_keep_what_restricts_them(tmp_path):
    area = write_geojson(tmp_path / "a.geojson", shapely.box(*at(40, 10), *at(5, 50)))
    scene = open_scene(make_array(), aoi=area)
    assert tuple(scene.geobox.shape) == (35, 40)
    spooled = spool(scene, tmp_path / "s.zarr")
    assert np.array_equal(whole(spooled).data, whole(scene).data)
    assert np.array_equal(whole(spooled).valid, whole(scene).valid)


def test_a_store_that_was_replaced_is_noticed(tmp_path):
    scene = open_scene(make_array())
    spooled = spool(scene, tmp_path / "s.zarr")
    group = zarr.open_group(tmp_path / "s.zarr", mode="r+")
    group.attrs["sha256"] = "other"
    with pytest.raises(RunFailedError, match=r"s\.zarr: holds another scene"):
        whole(spooled)


@pytest.mark.parametrize(
    ("array", "bands", "found"),
    [
        (
            xr.DataArray(np.zeros((2, 3, 4, 5)), dims=("time", "band", "y", "x")),
            None,
            r"has dims .*expected \(band, y, x\)",
        ),
        (xr.DataArray(np.zeros((3, 4)), dims=("a", "b")), None, r"has dims .*expected \(band, y, x\)"),
        (xr.DataArray(np.zeros((3, 0, 4)), dims=("band", "y", "x")), None, "none empty"),
        (make_array(CODE > 3, nodata=None), None, "holds bool, an integer or float type"),
        (make_array(names=None), None, "which band is which is not clear"),
        (make_array(), "rgbn", "needs 4 bands, the file has 3"),
        (make_array(x=np.cumsum(np.arange(80.0) + 1)), None, "coordinates of x are not evenly spaced"),
    ],
)
def test_arrays_that_make_no_scene(array, bands, found):
    with pytest.raises(InputError, match=rf"DataArray (made|\(no name\)): .*{found}"):
        open_scene(array, bands=bands)


def test_an_array_that_cannot_be_computed_is_not_hidden():
    def fail(block):
        raise RuntimeError("the source of the array is gone")

    lazy = dask.array.from_array(CODE, chunks=20).map_blocks(fail, meta=np.empty((0, 0, 0), CODE.dtype))
    with pytest.raises(RuntimeError, match="the source of the array is gone"):
        whole(open_array(make_array(lazy)))
