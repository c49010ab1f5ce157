"""The stores: position-coded labels come back from where they were put, whoever wrote them, and nothing else does."""

from __future__ import annotations

import multiprocessing
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import odc.geo.xr  # noqa: F401
import pytest
import rioxarray  # noqa: F401
import xarray as xr
import zarr
from affine import Affine
from hypothesis import given, settings
from hypothesis import strategies as st
from odc.geo.geobox import GeoBox

from pipeline.blocks import BlockGrid, Window
from pipeline.errors import InputError
from pipeline.legend import Legend
from pipeline.stores import LabelStore, RawStore, create_labels, set_legend, store_attributes

# rioxarray multiplies transforms in a way that affine 3 is going to drop.
pytestmark = pytest.mark.filterwarnings("ignore:Use `@` matmul:PendingDeprecationWarning")

GRIDS = {
    "utm": GeoBox((30, 70), Affine(5, 0, 5e5, 0, -5, 4e6), "EPSG:32618"),
    "mercator": GeoBox((30, 70), Affine(4.77731426716, 0, -7533633.5067, 0, -4.77731426716, -1584998.218), "EPSG:3857"),
    "degrees": GeoBox((30, 70), Affine(1e-4, 0, -60.1, 0, -1e-4, -3.3), "EPSG:4326"),
    "rotated": GeoBox((30, 70), Affine(5, 1, 5e5, 1, -5, 4e6), "EPSG:32618"),
    "no CRS": GeoBox((30, 70), Affine(2, 0, 10, 0, -2, 7), None),
}


def coded(shape: tuple[int, int], seed: int = 0) -> np.ndarray[Any, np.dtype[np.uint8]]:
    """Labels that differ from place to place: a hash of the position, with nodata in it."""
    y, x = np.indices(shape, dtype=np.uint64)
    mixed = (y * np.uint64(73856093)) ^ (x * np.uint64(19349663)) ^ np.uint64(seed * 83492791)
    return ((mixed >> np.uint64(7)) % np.uint64(256)).astype(np.uint8)


def new_store(path: Path, shape: tuple[int, int] = (30, 70), **options: Any) -> LabelStore:
    create_labels(path, GeoBox(shape, GRIDS["utm"].affine, "EPSG:32618"), **{"chunk_px": 16, "attrs": {}, **options})
    return LabelStore.open(path, "r+")


@pytest.mark.parametrize("masked", [True, False])
@pytest.mark.parametrize("decode_coords", [True, "all"])
@pytest.mark.parametrize("grid", GRIDS)
def test_xarray_finds_grid_and_crs(tmp_path: Path, grid: str, decode_coords: Any, masked: bool) -> None:
    geobox = GRIDS[grid]
    create_labels(tmp_path / "labels.zarr", geobox, chunk_px=16, attrs={"title": "t"})
    data = xr.open_zarr(tmp_path / "labels.zarr", decode_coords=decode_coords, mask_and_scale=masked)
    assert set(data.data_vars) == {"labels", "confidence"}
    for name in ("labels", "confidence"):
        array = data[name]
        assert array.dims == ("y", "x")
        assert array.dtype == np.uint8
        assert array.odc.geobox == geobox
        assert (array.rio.crs is None) == (geobox.crs is None)
        assert geobox.crs is None or array.rio.crs.to_epsg() == geobox.crs.to_epsg()
        np.testing.assert_allclose(tuple(array.rio.transform()), tuple(geobox.transform), rtol=1e-9)
        assert array.rio.nodata == array.odc.nodata == 255
    if grid != "rotated":
        np.testing.assert_allclose(data.x[[0, -1]], [(geobox.transform * (i + 0.5, 0.5))[0] for i in (0, 69)])
        np.testing.assert_allclose(data.y[[0, -1]], [(geobox.transform * (0.5, i + 0.5))[1] for i in (0, 29)])
    assert LabelStore.open(tmp_path / "labels.zarr").geobox == geobox


@pytest.mark.parametrize(("dtype", "nodata"), [("uint8", 255), ("uint16", 65535)])
def test_unwritten_reads_as_nodata(tmp_path: Path, dtype: Any, nodata: int) -> None:
    store = new_store(tmp_path / "labels.zarr", dtype=dtype)
    window = Window(0, 16, 16, 32)
    store.write(window, np.zeros((16, 16), dtype), np.zeros((16, 16), np.uint8))
    outside = np.ones((30, 70), bool)
    outside[window.slices] = False
    plain = xr.open_zarr(tmp_path / "labels.zarr", mask_and_scale=False)
    assert (plain.labels.values[outside] == nodata).all()
    assert (plain.confidence.values[outside] == 255).all()
    assert (zarr.open_group(tmp_path / "labels.zarr", mode="r")["labels"][:][outside] == nodata).all()  # type: ignore[index]
    default = xr.open_zarr(tmp_path / "labels.zarr").labels
    assert default.dtype == np.dtype(dtype)
    assert (default.values[outside] == nodata).all()
    assert (default.values[window.slices] == 0).all()
    assert (store.dtype, store.nodata) == (np.dtype(dtype), nodata)


@pytest.mark.parametrize("dtype", ["uint8", "uint16"])
def test_chunks_of_nodata_alone_have_no_file(tmp_path: Path, dtype: Any) -> None:
    store = new_store(tmp_path / "labels.zarr", dtype=dtype)
    window, confidence = Window(0, 0, 16, 48), np.full((16, 48), 9, np.uint8)
    labels = np.full((16, 48), np.iinfo(dtype).max, dtype)
    labels[0, 47] = 3

    def chunks(name: str) -> list[str]:
        return sorted(path.name for path in (tmp_path / "labels.zarr" / name / "c" / "0").glob("*"))

    store.write(window, np.zeros_like(labels), confidence)
    assert (chunks("labels"), chunks("confidence")) == (["0", "1", "2"], ["0", "1", "2"])
    store.write(window, labels, np.where(labels == 3, confidence, np.uint8(255)))
    assert (chunks("labels"), chunks("confidence")) == (["2"], ["2"])
    np.testing.assert_array_equal(store.read(window), labels)


def test_chunks_are_files_of_zarr_3_and_zstd(tmp_path: Path) -> None:
    store = new_store(tmp_path / "labels.zarr")
    array = store.array()
    assert array.metadata.zarr_format == 3
    assert array.shards is None
    assert [type(codec).__name__ for codec in array.compressors] == ["ZstdCodec"]
    assert zarr.open_group(tmp_path / "labels.zarr", mode="r").metadata.consolidated_metadata is not None


def test_flags_follow_cf(tmp_path: Path) -> None:
    new_store(tmp_path / "labels.zarr")
    set_legend(tmp_path / "labels.zarr", Legend.from_counts({9: 1}))
    set_legend(tmp_path / "labels.zarr", Legend.from_counts({0: 1, 200: 3}, names={200: "dense forest"}))
    for data in (xr.open_zarr(tmp_path / "labels.zarr"), xr.open_zarr(tmp_path / "labels.zarr", mask_and_scale=False)):
        attrs = data.labels.attrs
        assert attrs["flag_values"] == [0, 200]
        assert attrs["flag_meanings"].split(" ") == ["class_0", "dense_forest"]
        assert len(attrs["flag_colors"].split()) == 2
        assert data.labels.rio.crs is not None


def test_attributes_are_kept_and_hide_credentials(tmp_path: Path) -> None:
    attrs = store_attributes(
        title="Map", sources=[Path("a.tif"), "https://h/b.tif?key=1"], k=6, settings_digest="d",
        created=datetime(2026, 1, 2, tzinfo=UTC), licence="CC-BY-4.0",
    )  # fmt: skip
    new_store(tmp_path / "labels.zarr", attrs=attrs)
    found = xr.open_zarr(tmp_path / "labels.zarr").attrs
    assert found["source"] == ["a.tif", "https://h/b.tif?***"]
    assert (found["Conventions"], found["title"], found["k"]) == ("CF-1.11", "Map", 6)
    assert found["license"] == "CC-BY-4.0"
    assert "attribution" not in found
    assert found["history"].startswith("2026-01-02T00:00:00+00:00 ")


@settings(deadline=None, max_examples=40)
@given(st.tuples(*[st.integers(-17, 80)] * 4))
def test_only_whole_chunks_are_written(tmp_path_factory: pytest.TempPathFactory, corners: tuple[int, ...]) -> None:
    path = tmp_path_factory.getbasetemp() / "hypothesis-labels.zarr"
    store = LabelStore.open(path, "r+") if path.exists() else new_store(path)
    window = Window(*corners)
    rows, cols = {0, 16, 30}, {0, 16, 32, 48, 64, 70}
    whole = {corners[0], corners[2]} <= rows and {corners[1], corners[3]} <= cols
    shape = tuple(max(0, size) for size in window.shape)
    data = np.ones(shape, np.uint8)
    if whole and corners[0] < corners[2] and corners[1] < corners[3] and corners[0] < 30 and corners[1] < 70:
        store.write(window, data, data)
        assert (store.read(window) == 1).all()
    else:
        with pytest.raises(ValueError, match="must be whole chunks of 16 px"):
            store.write(window, data, data)


@pytest.mark.parametrize("window", [Window(0, 0, 30, 70), Window(16, 64, 30, 70), Window(0, 48, 16, 70)])
def test_whole_windows_come_back(tmp_path: Path, window: Window) -> None:
    store = new_store(tmp_path / "labels.zarr")
    labels, confidence = coded(window.shape), coded(window.shape, 1)
    store.write(window, labels, confidence)
    np.testing.assert_array_equal(store.read(window), labels)
    np.testing.assert_array_equal(store.read_confidence(window), confidence)


@pytest.mark.parametrize(
    ("labels", "confidence", "message"),
    [
        (np.zeros((16, 15), np.uint8), np.zeros((16, 16), np.uint8), "`labels` must be .16, 16. uint8"),
        (np.zeros((16, 16), np.int64), np.zeros((16, 16), np.uint8), "`labels` must be .16, 16. uint8; got .* int64"),
        (np.zeros((16, 16), np.uint8), np.zeros((16, 16)), "`confidence` must be .16, 16. uint8; got .* float64"),
    ],
)
def test_arrays_must_fit(tmp_path: Path, labels: Any, confidence: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        new_store(tmp_path / "labels.zarr").write(Window(0, 0, 16, 16), labels, confidence)


def test_reading_mode_does_not_write(tmp_path: Path) -> None:
    new_store(tmp_path / "labels.zarr")
    data = np.zeros((16, 16), np.uint8)
    with pytest.raises(ValueError, match="read-only"):
        LabelStore.open(tmp_path / "labels.zarr").write(Window(0, 0, 16, 16), data, data)


def test_creation_refuses(tmp_path: Path) -> None:
    new_store(tmp_path / "labels.zarr")
    with pytest.raises(FileExistsError, match="must not exist"):
        new_store(tmp_path / "labels.zarr")
    with pytest.raises(ValueError, match="`dtype` must be one of"):
        new_store(tmp_path / "other.zarr", dtype="int16")
    with pytest.raises(ValueError, match="`chunk_px` must be positive"):
        new_store(tmp_path / "other.zarr", chunk_px=0)


def test_opening_what_is_no_store(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="is no readable Zarr store"):
        LabelStore.open(tmp_path / "absent.zarr")
    RawStore.create(tmp_path / "raw.zarr", BlockGrid((10, 10), 10))
    with pytest.raises(InputError, match="has no array confidence, spatial_ref"):
        LabelStore.open(tmp_path / "raw.zarr")


@settings(deadline=None, max_examples=60)
@given(st.integers(1, 90), st.integers(1, 90), st.integers(1, 40), st.integers(1, 60), st.integers(1, 60))
def test_strips_partition_the_scene(height: int, width: int, chunk: int, wide: int, high: int) -> None:
    class Sized(LabelStore):
        shape = (height, width)  # type: ignore[assignment]
        chunk_px = chunk  # type: ignore[assignment]

    hits = np.zeros((height, width), int)
    for window in Sized(Path(), None).strips(wide, high):  # type: ignore[arg-type]
        assert window.y0 % chunk == window.x0 % chunk == 0
        hits[window.slices] += 1
    assert (hits == 1).all()


def _write_every_other(path: Path, first: int) -> None:
    store = LabelStore.open(path, "r+")
    labels, confidence = coded((96, 128)), coded((96, 128), 1)
    tiles = [(y, x) for y in range(0, 96, 16) for x in range(0, 128, 16)]
    for y, x in tiles[first::2]:
        window = Window(y, x, y + 16, x + 16)
        store.write(window, labels[window.slices], confidence[window.slices])


@pytest.mark.slow
def test_processes_lose_nothing(tmp_path: Path) -> None:
    store = new_store(tmp_path / "labels.zarr", (96, 128))
    context = multiprocessing.get_context("spawn")
    writers = [context.Process(target=_write_every_other, args=(store.path, first)) for first in (0, 1)]
    for each in writers:
        each.start()
    for each in writers:
        each.join(120)
    assert [each.exitcode for each in writers] == [0, 0]
    np.testing.assert_array_equal(store.read(Window(0, 0, 96, 128)), coded((96, 128)))
    np.testing.assert_array_equal(store.read_confidence(Window(0, 0, 96, 128)), coded((96, 128), 1))


@pytest.mark.parametrize("shape", [(1, 1), (64, 64), (70, 150)])
@pytest.mark.parametrize("overlap", [0, 7])
def test_raw_labels_of_blocks(tmp_path: Path, shape: tuple[int, int], overlap: int) -> None:
    grid = BlockGrid(shape, 32, overlap_px=overlap, context_px=3)
    RawStore.create(tmp_path / "raw.zarr", grid)
    store = RawStore.open(tmp_path / "raw.zarr", grid)
    assert store.grid == grid
    assert all(store.read(block) is None for block in grid)
    for number, block in enumerate(grid):
        store.write(block, coded(block.wide.shape, number), coded(block.wide.shape, -number - 1 & 255))
    for number, block in enumerate(grid):
        found = RawStore.open(store.path).read(block)
        assert found is not None
        np.testing.assert_array_equal(found[0], coded(block.wide.shape, number))
        np.testing.assert_array_equal(found[1], coded(block.wide.shape, -number - 1 & 255))


def test_a_block_of_nodata_was_written(tmp_path: Path) -> None:
    grid = BlockGrid((40, 40), 20)
    store, empty = RawStore.create(tmp_path / "raw.zarr", grid), np.full((20, 20), 255, np.uint8)
    store.write(grid.block((1, 0)), empty, empty)
    found = store.read(grid.block((1, 0)))
    assert found is not None
    assert (found[0] == 255).all()
    assert store.read(grid.block((0, 1))) is None


def test_a_block_half_written_again_counts_as_not_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    grid = BlockGrid((20, 20), 20)
    store, block = RawStore.create(tmp_path / "raw.zarr", grid), grid.block((0, 0))
    store.write(block, coded((20, 20)), coded((20, 20)))
    setitem, seen = zarr.Array.__setitem__, []

    def fail_at_margin(array: Any, key: Any, value: Any) -> None:
        seen.append(array.basename)
        if array.basename == "margin":
            raise KeyboardInterrupt
        setitem(array, key, value)

    monkeypatch.setattr(zarr.Array, "__setitem__", fail_at_margin)
    with pytest.raises(KeyboardInterrupt):
        store.write(block, coded((20, 20), 1), coded((20, 20), 1))
    assert seen == ["written", "labels", "margin"]
    assert store.read(block) is None


def test_raw_store_refuses(tmp_path: Path) -> None:
    grid = BlockGrid((40, 40), 20, overlap_px=2)
    store = RawStore.create(tmp_path / "raw.zarr", grid)
    core = np.zeros((20, 20), np.uint8)
    with pytest.raises(ValueError, match=r"`labels` must be \(22, 22\) uint8 at block \(0, 0\)"):
        store.write(grid.block((0, 0)), core, core)
    with pytest.raises(FileExistsError, match="must not exist"):
        RawStore.create(store.path, grid)
    with pytest.raises(InputError, match=r"expected BlockGrid.*--fresh"):
        RawStore.open(store.path, BlockGrid((40, 40), 20))
    with pytest.raises(InputError, match="is no readable Zarr store"):
        RawStore.open(tmp_path / "absent.zarr")
    with pytest.raises(IndexError, match="out of bounds"):
        store.read(BlockGrid((60, 60), 20, overlap_px=2).block((2, 0)))
