"""Mosaics: however a scene is cut into files, its windows read back as the scene."""

from __future__ import annotations

import pickle
import subprocess
import sys
import threading

import numpy as np
import pytest
import rasterio
from affine import Affine
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pyproj import CRS, Transformer
from rasterio.enums import Resampling

from pipeline import geotiff
from pipeline.blocks import BlockGrid, Window
from pipeline.errors import InputError, RunFailedError
from pipeline.lattice import lattice_offset, resample_bilinear, same_crs
from pipeline.pixels import Pixels
from pipeline.scene import open_scene

from .rasters import GRID, UTM, position_code, shift, write_quad, write_raster

SHAPE = (60, 80)
CODE = position_code(SHAPE, 3)
windows = st.builds(
    lambda y, x, h, w: Window(y, x, min(y + h, SHAPE[0]), min(x + w, SHAPE[1])),
    st.integers(0, SHAPE[0] - 1), st.integers(0, SHAPE[1] - 1), st.integers(1, 60), st.integers(1, 80),
)  # fmt: skip


def whole(scene):
    return scene.read(Window(0, 0, *scene.geobox.shape))


@settings(deadline=None, max_examples=25)
@given(st.data())
def test_a_scene_cut_at_random_reads_back_exactly(tmp_path_factory, data):
    folder = tmp_path_factory.mktemp("cut")
    pieces = data.draw(st.lists(windows, min_size=1, max_size=6, unique=True))
    jitter = st.floats(-0.009, 0.009)
    for number, piece in enumerate(pieces):
        affine = shift(GRID, piece.y0 + data.draw(jitter) * (number > 0), piece.x0 + data.draw(jitter) * (number > 0))
        write_raster(folder / f"{number}.tif", CODE[(slice(None), *piece.slices)], affine=affine)
    order = data.draw(st.permutations([folder / f"{n}.tif" for n in range(1, len(pieces))]))
    paths = [folder / "0.tif", *order]  # the first file gives the lattice
    scene = open_scene(paths, bands="rgb", overlap=data.draw(st.sampled_from(["first", "last", "most-valid"])))
    scene = pickle.loads(pickle.dumps(scene))

    y0, x0 = min(p.y0 for p in pieces), min(p.x0 for p in pieces)
    y1, x1 = max(p.y1 for p in pieces), max(p.x1 for p in pieces)
    covered = np.zeros(SHAPE, bool)
    for piece in pieces:
        covered[piece.slices] = True
    assert tuple(scene.geobox.shape) == (y1 - y0, x1 - x0)
    assert np.allclose(tuple(scene.geobox.affine)[:6], tuple(shift(GRID, y0, x0))[:6])

    union = Window(y0, x0, y1, x1)
    for window in [union, *(w.intersect(union) for w in data.draw(st.lists(windows, min_size=1, max_size=4)))]:
        if window.size:
            pixels = scene.read(window.relative_to(union))
            assert pixels.data.dtype == np.uint16
            assert np.array_equal(pixels.valid, covered[window.slices])
            expected = np.where(covered[window.slices], CODE[(slice(None), *window.slices)], 0)
            assert np.array_equal(pixels.data, expected)


def overlapping(folder):
    """Three files of one value each over the same place; b has most valid pixels, each has a hole of its own."""
    for value, (name, hole) in enumerate([("a", 8), ("b", 2), ("c", 5)], 1):
        data = np.full((1, 20, 20), value, np.uint8)
        data[:, :hole, :hole] = 0
        write_raster(folder / f"{name}.tif", data, nodata=0)
    return folder


@pytest.mark.parametrize(("overlap", "order"), [("first", "abc"), ("last", "cba"), ("most-valid", "bca")])
def test_overlap_rules_are_the_same_in_every_window(tmp_path, overlap, order):
    scene = open_scene(overlapping(tmp_path), bands="gray=1", overlap=overlap)
    holes, values = {"a": 8, "b": 2, "c": 5}, {"a": 1, "b": 2, "c": 3}
    expected = np.zeros((20, 20), int)
    for name in reversed(order):
        layer = np.full((20, 20), values[name])
        layer[: holes[name], : holes[name]] = 0
        expected = np.where(layer > 0, layer, expected)
    assert np.array_equal(whole(scene).data[0], expected)
    assert np.array_equal(whole(scene).valid, expected > 0)
    for block in BlockGrid((20, 20), 4, context_px=3):
        assert np.array_equal(scene.read(block.read).data[0], expected[block.read.slices])


def test_real_quads_are_snapped_and_alpha_is_no_feature(tmp_path):
    bgrn = position_code((32, 32), 4)
    alpha = np.arange(32 * 32).reshape(32, 32) % 5 > 0
    side = 32 * 4.77731426716
    for n, (pixel, left) in enumerate(
        [(4.77731426716, -7533633.5067), (4.777314267823516, -7533633.5067 + side + 1e-3)]
    ):
        write_quad(tmp_path / f"0639-094{n}.tif", bgrn, alpha, affine=Affine(pixel, 0, left, 0, -pixel, -1584998.218))
    scene = open_scene(tmp_path)
    assert scene.bands == ("R", "G", "B", "N")
    assert tuple(scene.geobox.shape) == (32, 64)
    pixels = scene.read(Window(0, 32, 32, 64))
    assert np.array_equal(pixels.valid, alpha)
    assert np.array_equal(pixels.data, np.where(alpha, bgrn[[2, 1, 0, 3]], 0))
    with pytest.raises(InputError, match="takes band 5 as N, but the file declares it as alpha"):
        open_scene(tmp_path, bands="R=3,G=2,B=1,N=5")


@pytest.mark.parametrize(
    ("affine", "crs", "found"),
    [
        (shift(GRID, 0, 20.02), UTM, r"b\.tif: lies 0\.02 px off the pixel grid of .*a\.tif .*--align resample"),
        (shift(GRID, 0.5, 20), UTM, r"b\.tif: lies 0\.5 px off the pixel grid of .*a\.tif"),
        (GRID @ Affine.scale(2), UTM, r"b\.tif: has pixels of 10 x -10, .*a\.tif of 5 x -5"),
        (GRID @ Affine.scale(1.001), UTM, r"b\.tif: has pixels of 5\.005 x -5\.005, .*a\.tif of 5 x -5"),
        (GRID @ Affine.scale(1, -1), UTM, r"b\.tif: has pixels of 5 x 5, .*a\.tif of 5 x -5"),
        (GRID, "EPSG:32623", r"b\.tif: is in EPSG:32623, .*a\.tif in EPSG:32622; say --align resample"),
        (GRID, None, r"b\.tif: is in no CRS, .*a\.tif in EPSG:32622; write the CRS into"),
    ],
)
def test_files_off_the_grid_are_refused_by_name(tmp_path, affine, crs, found):
    write_raster(tmp_path / "a.tif", CODE[:, :20, :20])
    write_raster(tmp_path / "b.tif", CODE[:, :20, :20], affine=affine, crs=crs)
    with pytest.raises(InputError, match=found) as error:
        open_scene(tmp_path, bands="rgb")
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("second", "found"),
    [
        (CODE[:1, :20, :20], r"b\.tif: has 1 bands, .*a\.tif has 3"),
        (CODE[:, :20, :20].astype("float32"), r"b\.tif: holds float32, .*a\.tif uint16"),
    ],
)
def test_files_of_another_kind_are_refused_by_name(tmp_path, second, found):
    write_raster(tmp_path / "a.tif", CODE[:, :20, :20])
    write_raster(tmp_path / "b.tif", second)
    with pytest.raises(InputError, match=found):
        open_scene(tmp_path, bands="R=1")


def test_files_that_declare_other_bands_are_refused(tmp_path):
    write_raster(tmp_path / "a.tif", CODE[:, :20, :20], interps=("red", "green", "blue"))
    write_raster(tmp_path / "b.tif", CODE[:, :20, :20], interps=("blue", "green", "red"))
    with pytest.raises(InputError, match=r"b\.tif: declares the bands R=3,G=2,B=1, .*a\.tif R=1,G=2,B=3"):
        open_scene(tmp_path)


def test_files_without_georeference(tmp_path):
    for name in "ab":
        write_raster(tmp_path / f"{name}.tif", CODE[:, :20, :20], affine=Affine.identity(), crs=None)
    scene = open_scene(tmp_path / "a.tif", bands="rgb")
    assert scene.geobox.crs is None
    assert np.array_equal(whole(scene).data, CODE[:, :20, :20])
    with pytest.raises(InputError, match=r"a\.tif: has no georeference, so several"):
        open_scene(tmp_path, bands="rgb")
    (tmp_path / "a.tfw").write_text("1\n0\n0\n-1\n0\n0\n")
    with pytest.raises(InputError, match=r"world files \(a\.tfw\) are not read"):
        open_scene(tmp_path / "a.tif", bands="rgb")


@pytest.mark.parametrize("resampling", ["nearest", "bilinear"])
def test_a_file_of_another_zone_lands_where_pyproj_says(tmp_path, resampling):
    to_other = Transformer.from_crs(UTM, "EPSG:32623", always_xy=True)
    # The corner of zone 22 towards zone 23, so that both files are near one another.
    here = Affine(5, 0, 830_000, 0, -5, 9_600_000)
    x, y = to_other.transform(830_150, 9_599_900)
    there = Affine(6, 0, round(x), 0, -6, round(y))
    write_raster(tmp_path / "a.tif", np.full((3, 30, 30), 60_000, np.uint16), affine=here)
    write_raster(tmp_path / "b.tif", CODE[:, :40, :40], affine=there, crs="EPSG:32623")
    scene = open_scene(tmp_path, bands="rgb", align="resample", resampling=resampling, overlap="last")
    scene = pickle.loads(pickle.dumps(scene))
    pixels = whole(scene)
    height, width = scene.geobox.shape
    across, down = np.meshgrid(np.arange(width) + 0.5, np.arange(height) + 0.5)
    east, north = (scene.geobox.affine.a * across + scene.geobox.affine.c,
                   scene.geobox.affine.e * down + scene.geobox.affine.f)  # fmt: skip
    ox, oy = to_other.transform(east, north)
    column, row = (ox - there.c) / 6, (there.f - oy) / 6
    inside = (row >= 0) & (row < 40) & (column >= 0) & (column < 40)
    assert inside.sum() > 40 * 40
    assert pixels.valid[inside].all()
    if resampling == "nearest":
        expected = CODE[:, np.floor(row[inside]).astype(int), np.floor(column[inside]).astype(int)]
        assert np.array_equal(pixels.data[:, inside], expected)
    else:
        core = inside & (row > 0.5) & (row < 39.5) & (column > 0.5) & (column < 39.5)
        plane = 1 + (row[core] - 0.5) * SHAPE[1] + column[core] - 0.5  # the code is linear in both
        assert np.abs(pixels.data[0][core] - plane).max() <= 0.5 + 1e-3
    first = (across < 30 + 0) & (down < 30) & ~inside
    assert (pixels.data[0][first & pixels.valid] == 60_000).all()
    for block in BlockGrid((height, width), 16, context_px=5):
        assert np.array_equal(scene.read(block.read).data, pixels.data[(slice(None), *block.read.slices)])


def test_bilinear_needs_all_neighbours_that_carry_weight():
    valid = np.ones((3, 3), bool)
    valid[0, 0] = False
    pixels = Pixels(np.arange(9, dtype=np.uint8).reshape(1, 3, 3), valid)
    at = np.array([[1.0, 1.5, 1.5, 2.9]])
    result = resample_bilinear(pixels, at, np.array([[1.0, 1.5, 2.0, 3.2]]))
    assert result.valid.tolist() == [[False, True, True, False]]
    assert result.data[0, 0, 1:3].tolist() == [4, 4]  # 4.5 rounds to even


def test_masks_of_the_file_and_of_udm2_travel_with_the_pixels(tmp_path):
    keep = np.arange(400).reshape(20, 20) % 3 > 0
    write_raster(tmp_path / "a.tif", CODE[:, :20, :20], mask=keep)
    assert np.array_equal(whole(open_scene(tmp_path, bands="rgb")).valid, keep)

    udm2 = np.zeros((8, 20, 20), np.uint8)
    udm2[0] = np.arange(400).reshape(20, 20) % 2
    udm2[7, 3] = 1
    folder = tmp_path / "scenes"
    scene = write_raster(folder / "x_3B_AnalyticMS_SR.tif", CODE[:, :20, :20])
    write_raster(folder / "x_3B_udm2.tif", udm2)
    opened = open_scene(folder, bands="rgb")
    expected = udm2[0] == 1
    expected[3] = False
    assert np.array_equal(whole(opened).valid, expected)
    assert [file.path for file in opened.fingerprints()] == [str(scene), str(folder / "x_3B_udm2.tif")]
    write_raster(folder / "x_3B_udm2.tif", udm2[:, 1:])
    with pytest.raises(InputError, match=r"x_3B_udm2\.tif: is not on the grid of its scene .*SR.tif"):
        open_scene(folder, bands="rgb")
    write_raster(folder / "x_3B_udm2.tif", udm2[:1])
    with pytest.raises(InputError, match=r"x_3B_udm2\.tif: is no UDM2, which has 8 bands"):
        open_scene(folder, bands="rgb")


@settings(deadline=None, max_examples=20, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.integers(1, 90))
def test_an_overview_samples_each_cell_once(tmp_path, max_px):
    write_raster(tmp_path / "a.tif", CODE[:, :, :50])
    write_raster(tmp_path / "b.tif", CODE[:, :, 50:], affine=shift(GRID, 0, 50))
    overview = open_scene(tmp_path, bands="rgb").overview(max_px)
    step = -(-80 // max_px)
    assert overview.shape == (-(-60 // step), -(-80 // step))
    assert max(overview.shape) <= max_px
    assert overview.valid.all()
    rows, columns = np.divmod(overview.data[0].astype(int) - 1, 80)
    assert np.abs(rows - (np.arange(overview.shape[0]) * step + step // 2)[:, None]).max() < max(step, 1)
    assert np.abs(columns - (np.arange(overview.shape[1]) * step + step // 2)[None]).max() < max(step, 1)


def test_full_resolution_never_comes_from_overviews(tmp_path):
    path = write_raster(tmp_path / "a.tif", np.ones((1, 64, 64), np.uint8))
    with rasterio.open(path, "r+") as target:
        target.build_overviews([2, 4], Resampling.nearest)
        target.write(np.full((1, 64, 64), 9, np.uint8))
    scene = open_scene(path, bands="R=1")
    assert (whole(scene).data == 9).all()
    assert (scene.overview(16).data == 1).all()


def test_windows_outside_the_scene_are_refused(tmp_path):
    scene = open_scene(write_raster(tmp_path / "a.tif", CODE), bands="rgb")
    for window in [Window(0, 0, 61, 80), Window(-1, 0, 5, 5), Window(5, 5, 5, 9)]:
        with pytest.raises(ValueError, match="`window` must have pixels inside the scene"):
            scene.read(window)
    with pytest.raises(ValueError, match="max_px must be positive"):
        scene.overview(0)


def test_threads_share_no_handle_at_a_time_and_few_stay_open(tmp_path, monkeypatch):
    monkeypatch.setattr(geotiff, "MAX_OPEN_FILES", 2)
    monkeypatch.setattr(geotiff, "_IDLE", [])
    for n in range(5):
        write_raster(tmp_path / f"{n}.tif", CODE[:, :, n * 16 : n * 16 + 16], affine=shift(GRID, 0, n * 16))
    scene = open_scene(tmp_path, bands="rgb")
    results = []
    threads = [threading.Thread(target=lambda: results.append(whole(scene).data)) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(results) == 4
    assert all(np.array_equal(result, CODE) for result in results)
    assert len(geotiff._IDLE) == 2
    assert not any(handle.closed for _, handle in geotiff._IDLE)
    path, again = tmp_path / "0.tif", shift(GRID, 0, 0)
    with geotiff.lent(path) as one, geotiff.lent(path) as other:
        assert one is not other
    with geotiff.lent(path) as later:
        assert later in (one, other)
    write_raster(path, CODE[:, :, :16] + 1, affine=again)
    with geotiff.lent(path) as changed:
        assert changed not in (one, other)
        assert np.array_equal(changed.read(), CODE[:, :, :16] + 1)


def test_a_view_takes_no_more_memory_of_many_files_than_of_few(tmp_path):
    rng = np.random.default_rng(0)
    tile = rng.integers(1, 9000, (4, 1024, 1024)).astype(np.uint16)
    for n in range(16):
        options = {"tiled": True, "blockxsize": 512, "blockysize": 512, "interleave": "pixel"}
        for folder in ["many", "few"][: 1 + (n < 4)]:
            (tmp_path / folder).mkdir(exist_ok=True)
            write_raster(tmp_path / folder / f"{n:02}.tif", tile, affine=shift(GRID, 0, n * 1024), **options)
    code = (
        "import resource, sys; from pipeline.engine import limit_threads; from pipeline.scene import open_scene\n"
        "limit_threads(); scene = open_scene(sys.argv[1], bands='bgrn')\n"
        "before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss; scene.overview(256)\n"
        "print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)"
    )
    few, many = (
        int(subprocess.run([sys.executable, "-c", code, tmp_path / f], capture_output=True, check=True).stdout) >> 10
        for f in ("few", "many")
    )
    assert many < few + 24, f"{few} MiB of 4 files, {many} MiB of 16, which hold 8 MiB each"


def test_a_handle_that_fails_is_lent_to_nobody_else(tmp_path, monkeypatch):
    monkeypatch.setattr(geotiff, "_IDLE", [])
    path = write_raster(tmp_path / "a.tif", CODE)
    with pytest.raises(RuntimeError, match="broken"), geotiff.lent(path) as source:
        raise RuntimeError("broken")
    assert source.closed
    assert geotiff._IDLE == []
    with geotiff.lent(path) as source:
        assert np.array_equal(source.read(), CODE)


def test_a_tile_that_two_windows_share_is_decoded_once(tmp_path, monkeypatch):
    # What has been decoded is held by the handle: the second thread must get the one that the first has used.
    monkeypatch.setattr(geotiff, "_IDLE", [])
    opened = []
    monkeypatch.setattr(geotiff, "_open", lambda path, _open=geotiff._open: opened.append(path) or _open(path))
    scene = open_scene(write_raster(tmp_path / "a.tif", CODE), bands="rgb")
    opened.clear()
    for window in (Window(0, 0, 30, 40), Window(20, 30, 60, 80)):
        thread = threading.Thread(target=scene.read, args=(window,))
        thread.start()
        thread.join()
    assert len(opened) == 1


def test_only_files_that_meet_a_window_are_opened(tmp_path):
    for n in range(4):
        write_raster(tmp_path / f"{n}.tif", CODE[:, :, n * 20 : n * 20 + 20], affine=shift(GRID, 0, n * 20))
    scene = open_scene(tmp_path, bands="rgb")
    for n in (0, 3):
        (tmp_path / f"{n}.tif").unlink()
    assert np.array_equal(scene.read(Window(0, 20, 60, 60)).data, CODE[:, :, 20:60])
    with pytest.raises(RunFailedError, match=r"0\.tif"):
        scene.read(Window(0, 19, 60, 60))
    with pytest.raises(InputError, match=r"0\.tif"):
        scene.overview(10)


def test_damage_inside_a_file_is_named(tmp_path):
    path = write_raster(tmp_path / "a.tif", CODE, compress="deflate")
    scene = open_scene(path, bands="rgb")
    with rasterio.open(path) as source:
        offset, size = (int(source.get_tag_item(f"BLOCK_{what}_1_1", "TIFF", bidx=1)) for what in ("OFFSET", "SIZE"))
    raw = bytearray(path.read_bytes())
    raw[offset : offset + size] = bytes(size)
    path.write_bytes(raw)
    with pytest.raises(RunFailedError, match=r"a\.tif: pixels cannot be read, the file is damaged"):
        whole(scene)
    with pytest.raises(InputError, match=r"a\.tif: pixels cannot be read"):
        scene.overview(1000)


def test_lattice_offsets_add_up_over_the_file():
    assert lattice_offset(GRID @ Affine.scale(1.00001), (900, 900), GRID, 0.01) == (0, 0)
    assert lattice_offset(GRID @ Affine.scale(1.00001), (1100, 1100), GRID, 0.01) is None


def test_the_same_crs_in_other_words():
    utm = CRS.from_epsg(32622)
    assert same_crs(utm.to_wkt(), utm.to_wkt("WKT1_GDAL"))
    assert not same_crs(utm.to_wkt(), CRS.from_epsg(32623).to_wkt())
    assert not same_crs(utm.to_wkt(), None)
    assert not same_crs(utm.to_wkt(), "no wkt")
    assert same_crs(None, None)


@pytest.mark.parametrize(
    ("option", "found"),
    [
        ({"align": "force"}, "--align force: expected refuse or resample"),
        ({"overlap": "best"}, "--overlap-rule best: expected first, last or most-valid"),
        ({"resampling": "cubic"}, "resampling cubic: expected nearest or bilinear"),
        ({"tolerance_px": 0.5}, "tolerance_px 0.5: expected 0 to 0.5"),
    ],
)
def test_options_that_do_not_exist(tmp_path, option, found):
    with pytest.raises(InputError, match=found):
        open_scene(write_raster(tmp_path / "a.tif", CODE), bands="rgb", **option)


@pytest.mark.parametrize(
    ("source", "options", "bands", "shape", "valid"),
    [
        ("naip-nd", {"bands": "rgbn", "date": "2012-07-31"}, ("R", "G", "B", "N"), (723, 934), 1.0),
        ("naip-nd", {"bands": "rgbn", "date": "2014"}, ("R", "G", "B", "N"), (723, 934), 1.0),
        ("haiti", {"bands": "rgbn"}, ("R", "G", "B", "N"), (706, 1120), None),
        ("zion/zion_west_rgbn.tif", {}, ("R", "G", "B", "N"), (1428, 564), None),
        ("amazon-rgb/Amazon_24.tiff_20.tiff", {}, ("R", "G", "B"), (512, 512), 1.0),
        ("odd/RGB.byte.tif", {}, ("R", "G", "B"), (718, 791), None),
        ("odd/1056417_2017-03-08_RE3_3A_Visual_clip.tif", {}, ("R", "G", "B"), (332, 692), None),
    ],
)
def test_real_files_open(real_data, source, options, bands, shape, valid):
    scene = open_scene(real_data / source, **options)
    assert (scene.bands, tuple(scene.geobox.shape)) == (bands, shape)
    share = whole(scene).valid.mean()
    assert share == valid if valid else 0.5 < share <= 1
    assert abs(scene.overview(200).valid.mean() - share) < 0.02


@pytest.mark.parametrize(
    ("source", "options", "found"),
    [
        ("naip-nd", {"bands": "rgbn"}, "2010-06-29, 2012-07-31, 2014-07-20; choose with --date"),
        ("naip-nd", {"date": "2012"}, "which band is which is not clear"),
        ("odd/1056417_2017-03-08_RE3_3A_Visual_clip.tif", {"bands": "rgbn"}, "declares it as alpha"),
        ("amazon-rgb", {}, "has pixels of .*--align resample"),
    ],
)
def test_real_traps_are_refused(real_data, source, options, found):
    with pytest.raises(InputError, match=found):
        open_scene(real_data / source, **options)


def test_the_real_overlap_is_the_same_from_both_sides(real_data):
    first, last = (whole(open_scene(real_data / "haiti", bands="rgbn", overlap=rule)) for rule in ("first", "last"))
    assert np.array_equal(first.data, last.data)
    assert np.array_equal(first.valid, last.valid)


def test_overviews_of_masks_and_of_resampled_files(tmp_path):
    keep = np.ones(SHAPE, bool)
    keep[:, :40] = False
    write_raster(tmp_path / "a.tif", CODE, mask=keep)
    assert abs(open_scene(tmp_path / "a.tif", bands="rgb").overview(20).valid.mean() - 0.5) < 0.06
    # A file of half the pixel size to the right of the first one.
    fine = position_code((120, 160), 3)
    write_raster(tmp_path / "b.tif", fine, affine=shift(GRID, 0, 80) @ Affine.scale(0.5))
    scene = open_scene(tmp_path, bands="rgb", align="resample")
    overview = scene.overview(20)
    assert abs(overview.valid.mean() - 0.75) < 0.06
    seen = overview.data[0].astype(int) - 1
    rows, columns = np.divmod(seen[2:-2, 12:-2], 160)
    step = -(-max(scene.geobox.shape) // 20)
    assert np.abs(np.diff(rows, axis=0) - 2 * step).max() <= step
    assert np.abs(np.diff(columns, axis=1) - 2 * step).max() <= step
