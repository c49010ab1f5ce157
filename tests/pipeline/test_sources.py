"""Sources: what stands for which files, and what is turned away at the door."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
import pytest
import rasterio
from affine import Affine
from rasterio.control import GroundControlPoint

from pipeline import geotiff
from pipeline.errors import InputError
from pipeline.geotiff import inspect_raster
from pipeline.pixels import fingerprint_file
from pipeline.scene import open_scene
from pipeline.sources import list_rasters, pair_udm2

from .rasters import GRID, UTM, position_code, write_raster

CODE = position_code((40, 40), 3)


@pytest.fixture
def folder(tmp_path):
    for name in ("b.tif", "a.TIF", "c.tiff", "sub/d.tif", "._a.tif", "x.aux.xml", "a_udm2.tif", "a_udm2_clip.tif"):
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(b"II*\0")
    return tmp_path


def names(paths):
    return [path.name for path in paths]


def test_folders_globs_and_files(folder):
    assert names(list_rasters(folder)) == ["a.TIF", "b.tif", "c.tiff"]
    assert names(list_rasters(str(folder))) == ["a.TIF", "b.tif", "c.tiff"]
    assert names(list_rasters(str(folder / "*.tif*"))) == ["b.tif", "c.tiff"]
    assert names(list_rasters(str(folder / "**/*.tif"))) == ["b.tif", "d.tif"]
    assert names(list_rasters([folder / "c.tiff", folder])) == ["c.tiff", "a.TIF", "b.tif"]
    assert all(path.is_absolute() for path in list_rasters(folder))


def test_lists_of_paths_count_from_the_list(folder, monkeypatch):
    listing = folder / "sub" / "paths.txt"
    listing.write_text(f"# the mosaic\n\n ../b.tif \nd.tif\n{folder / 'c.tiff'}\n")
    monkeypatch.chdir("/")
    assert names(list_rasters(listing)) == ["b.tif", "d.tif", "c.tiff"]


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("", "lists no path"), ("# nothing\n", "lists no path"), ("b.tif\nnone.tif", "line 2: none.tif: no such file"),
        ("<VRTDataset>", "line 1: <VRTDataset>: no such file"), ("a_udm2.tif", "line 1: a_udm2.tif: is a UDM2"),
        ("https://x.org/a.tif", "line 1: https://x.org/a.tif: only local"), ("/vsicurl/x.tif", "only local files"),
        (b"\xff\xfe\x00", "is not UTF-8 text"),
    ],
)  # fmt: skip
def test_lists_that_are_none(folder, text, found):
    listing = folder / "paths.txt"
    listing.write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(InputError, match=found):
        list_rasters(listing)


@pytest.mark.parametrize(
    ("source", "found"),
    [
        ("none.tif", "none.tif: no such file or folder"), ("*.jp2", "matches no .tif or .tiff file"),
        ("a_udm2.tif", "is a UDM2 mask, not imagery"), ("empty", "holds no .tif or .tiff file; give"),
        ("nested", "its subfolders are not searched"),
    ],
)  # fmt: skip
def test_sources_that_are_not_there(folder, source, found):
    (folder / "empty").mkdir()
    (folder / "nested" / "deeper").mkdir(parents=True)
    with pytest.raises(InputError, match=found):
        list_rasters(folder / source)


@pytest.mark.parametrize(
    "source",
    [
        "http://x.org/a.tif",
        "gs://bucket/a.tif",
        "/vsizip/a.zip/a.tif",
        "/vsimem/x",
        "ZARR:/x",
        "GTIFF_DIR:1:/x.tif",
        "WMS:x",
    ],
)
def test_nothing_remote_or_virtual_reaches_gdal(source):
    with pytest.raises(InputError, match=r"only local files and s3:// are read"):
        list_rasters(source)


def test_no_source():
    with pytest.raises(InputError, match="SOURCE: none given"):
        list_rasters([])


def test_udm2_goes_with_the_scenes_that_bear_its_name(tmp_path):
    for name in ("s_3B_SR.tif", "s_3B.tif", "s_3Bx.tif", "t_SR_clip.tif", "u.tif"):
        (tmp_path / name).touch()
    for name in ("s_3B_udm2.tif", "t_udm2_clip.tif", "t_SR_udm2.tif", "lone_udm2.tif"):
        (tmp_path / name).touch()
    pairs = {path.name: udm2.name for path, udm2 in pair_udm2(list_rasters(tmp_path)).items()}
    assert pairs == {"s_3B_SR.tif": "s_3B_udm2.tif", "s_3B.tif": "s_3B_udm2.tif", "t_SR_clip.tif": "t_SR_udm2.tif"}


@pytest.mark.parametrize(
    ("content", "found"),
    [
        (b"", r"is empty \(0 bytes\)"),
        (b"hello, I am a text", r"is not a raster that is read here \(begins with b'hell'\)"),
        (b"<VRTDataset rasterXSize='1'/>", "an XML or VRT file"),
        (b"\n <VRTDataset/>", "an XML or VRT file"),
        (b"\x89PNG\r\n", "begins with"),
        (b"II*\0 and then nothing of the kind", "cannot be opened as a GeoTIFF"),
    ],
)
def test_files_that_pretend(tmp_path, content, found):
    (tmp_path / "a.tif").write_bytes(content)
    with pytest.raises(InputError, match=rf"a\.tif: .*{found}") as error:
        open_scene(tmp_path / "a.tif")
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("creation", [{}, {"interleave": "band"}, {"tiled": False, "blockysize": 4}, {"BIGTIFF": "YES"},
                                      {"compress": "deflate"}, {"ENDIANNESS": "BIG"}])  # fmt: skip
def test_truncated_files_are_found_at_the_door(tmp_path, creation):
    path = write_raster(tmp_path / "a.tif", CODE, **creation)
    assert inspect_raster(path).shape == (40, 40)
    whole = path.read_bytes()
    with rasterio.open(path) as source:
        n_bands = source.count if creation.get("interleave") == "band" else 1
        end = max(geotiff._end_of_data(source, band, 10_000) for band in range(1, n_bands + 1))
    for keep in (end - 1, end * 3 // 4, end // 2, 20):
        path.write_bytes(whole[:keep])
        with pytest.raises(InputError, match=r"a\.tif: (is truncated: it has|cannot be opened as)"):
            inspect_raster(path)


def test_the_end_is_found_from_a_choice_of_blocks(tmp_path):
    path = write_raster(tmp_path / "a.tif", CODE, blockxsize=16, blockysize=16)
    with rasterio.open(path) as source:
        assert geotiff._end_of_data(source, 1, 2) == geotiff._end_of_data(source, 1, 10_000)


def test_sparse_files_claim_nothing(tmp_path):
    path = tmp_path / "sparse.tif"
    options = {"dtype": "uint8", "count": 1, "width": 64, "height": 64, "crs": UTM, "transform": GRID}
    with rasterio.open(path, "w", driver="GTiff", SPARSE_OK=True, tiled=True, blockxsize=16, blockysize=16, **options):
        pass
    assert inspect_raster(path).shape == (64, 64)


def test_what_a_file_says_is_read_from_it_alone(tmp_path):
    path = write_raster(tmp_path / "a.tif", CODE, nodata=7, descriptions=("red", "green", "blue"),
                        tags={"TIFFTAG_DATETIME": "2020:09:25 16:10:29"})  # fmt: skip
    (tmp_path / "a.tif.aux.xml").write_text("<PAMDataset><PAMRasterBand band='1'><NoDataValue>3</NoDataValue>"
                                            "</PAMRasterBand></PAMDataset>")  # fmt: skip
    header = inspect_raster(path)
    assert (header.nodata, header.affine, header.dtype) == (7, GRID, np.dtype("uint16"))
    assert header.profile.descriptions == ("red", "green", "blue")
    assert header.tag_datetime == "2020:09:25 16:10:29"
    assert not header.has_mask


def test_kinds_that_are_not_read(tmp_path, monkeypatch):
    path = write_raster(tmp_path / "complex.tif", CODE.astype("complex64"))
    with pytest.raises(InputError, match=r"holds complex64, one integer or float type was expected"):
        inspect_raster(path)
    path = write_raster(tmp_path / "gcps.tif", CODE, affine=Affine.identity(), crs=None)
    with rasterio.open(path, "r+") as target:
        points = [GroundControlPoint(r, c, c * 5.0, r * -5.0) for r, c in ((0, 0), (0, 40), (40, 0))]
        target.gcps = points, rasterio.CRS.from_epsg(32622)
    with pytest.raises(InputError, match="is placed by ground control points only"):
        inspect_raster(path)
    path = write_raster(tmp_path / "a.tif", CODE)
    for limit, value, found in (("MAX_SIDE_PX", 39, "at most 39 px a side"), ("MAX_BANDS", 2, "has 3 bands, 1 to 2"),
                                ("MAX_BLOCK_BYTES", 1000, "its blocks of 16 x 16 px")):  # fmt: skip
        with monkeypatch.context() as patch:
            patch.setattr(geotiff, limit, value)
            with pytest.raises(InputError, match=found):
                inspect_raster(path)


def test_paths_that_are_no_files(tmp_path):
    with pytest.raises(InputError, match="no such file"):
        inspect_raster(tmp_path / "none.tif")
    with pytest.raises(InputError, match="is not a regular file"):
        inspect_raster(tmp_path)
    with pytest.raises(InputError, match="virtual file systems"):
        inspect_raster(Path("/vsimem/a.tif"))


def test_dates_in_folders_and_tags_divide_files(tmp_path):
    for month in ("2021-02", "2021-03"):
        write_raster(tmp_path / f"x_{month}_mosaic" / "0639-0941.tif", CODE)
    both = [tmp_path / "x_2021-02_mosaic", tmp_path / "x_2021-03_mosaic"]
    with pytest.raises(InputError, match="2 dates, which are not one mosaic: 2021-02, 2021-03; choose with"):
        open_scene(both, bands="rgb")
    scene = open_scene(both, bands="rgb", date="2021-03")
    assert [file.path for file in scene.fingerprints()] == [str(both[1] / "0639-0941.tif")]


def test_fingerprints_are_those_of_the_files(tmp_path):
    paths = [write_raster(tmp_path / f"{name}.tif", CODE + n) for n, name in enumerate("ba")]
    found = open_scene(paths, bands="rgb").fingerprints()
    for file, path in zip(found, sorted(paths), strict=True):
        content = path.read_bytes()
        assert (file.path, file.size_bytes, file.sha256) == (
            str(path), len(content), hashlib.sha256(content).hexdigest()
        )  # fmt: skip
    paths[0].unlink()
    with pytest.raises(InputError, match=r"b\.tif: cannot be read to fingerprint it"):
        fingerprint_file(paths[0])
