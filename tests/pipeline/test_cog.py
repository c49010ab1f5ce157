"""COGs: what lies in the store lies in the file, with names and colours that GDAL itself finds."""

from __future__ import annotations

import tempfile
import warnings
from collections.abc import Iterable
from pathlib import Path
from typing import Any
from xml.etree import ElementTree
from zlib import crc32

import numpy as np
import pytest
import rasterio
import rasterio.shutil
from affine import Affine
from hypothesis import given, settings
from hypothesis import strategies as st
from odc.geo.geobox import GeoBox
from rasterio.errors import NotGeoreferencedWarning
from rio_cogeo.cogeo import cog_validate

import pipeline.cog
from pipeline.blocks import Window
from pipeline.cog import Variable, verify_cog, write_cog
from pipeline.errors import RunFailedError
from pipeline.legend import Legend
from pipeline.stores import LabelStore, create_labels

UTM = Affine(5, 0, 5e5, 0, -5, 4e6)
LEGEND = Legend.from_counts({0: 5, 2: 7, 200: 1}, names={2: "sea & <ice> é"}, colours={2: "#010203"})


def coded(shape: tuple[int, int], seed: int = 0) -> np.ndarray[Any, np.dtype[np.uint8]]:
    """Labels that differ from place to place: a hash of the position, with nodata in it."""
    y, x = np.indices(shape, dtype=np.uint64)
    mixed = (y * np.uint64(73856093)) ^ (x * np.uint64(19349663)) ^ np.uint64(seed * 83492791)
    return ((mixed >> np.uint64(7)) % np.uint64(256)).astype(np.uint8)


def filled(
    path: Path, labels: Any, crs: str | None = "EPSG:32618", transform: Affine = UTM, chunk: int = 512
) -> LabelStore:
    create_labels(path, GeoBox(labels.shape, transform, crs), chunk_px=chunk, dtype=labels.dtype.name, attrs={})
    store = LabelStore.open(path, "r+")
    store.write(Window(0, 0, *labels.shape), labels, coded(labels.shape, 1) % np.uint8(201))
    return store


@pytest.mark.parametrize(
    ("shape", "chunk"), [((1, 1), 512), ((300, 700), 512), ((513, 512), 512), ((1100, 530), 256), ((700, 90), 100)]
)
def test_positions_survive(tmp_path: Path, shape: tuple[int, int], chunk: int) -> None:
    store = filled(tmp_path / "labels.zarr", coded(shape), chunk=chunk)
    for variable, expected in (("labels", coded(shape)), ("confidence", coded(shape, 1) % 201)):
        path = tmp_path / f"{variable}.tif"
        write_cog(store, path, variable=variable, tags={"TITLE": "a map"})  # type: ignore[arg-type]
        verify_cog(path, store, variable=variable)  # type: ignore[arg-type]
        assert cog_validate(path, strict=True, quiet=True)[0]
        with rasterio.open(path) as source:
            np.testing.assert_array_equal(source.read(1), expected)
            assert source.transform == UTM
            assert source.crs.to_epsg() == 32618
            assert source.nodata == 255
            assert source.descriptions == (variable,)
            assert source.tags()["TITLE"] == "a map"
            assert source.block_shapes == [(256, 256) if shape[1] == 512 else (512, 512)]
            assert source.compression.name == "deflate"
    assert {each.name for each in tmp_path.iterdir()} == {"labels.zarr", "labels.tif", "confidence.tif"}


@pytest.mark.parametrize(
    ("crs", "transform"),
    [
        ("EPSG:4326", Affine(1e-4, 0, -60.1, 0, -1e-4, -3.3)),
        ("EPSG:3857", Affine(4.77731426716, 0, -7533633.5067, 0, -4.77731426716, -1584998.218)),
        ("EPSG:32618", Affine(5, 1, 5e5, 1, -5, 4e6)),
        (None, Affine(2, 0, 10, 0, -2, 7)),
        (None, Affine.identity()),
    ],
)
def test_grids(tmp_path: Path, crs: str | None, transform: Affine) -> None:
    store = filled(tmp_path / "labels.zarr", coded((40, 50)), crs, transform)
    write_cog(store, tmp_path / "labels.tif", legend=LEGEND)
    verify_cog(tmp_path / "labels.tif", store)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", NotGeoreferencedWarning)
        with rasterio.open(tmp_path / "labels.tif") as source:
            np.testing.assert_allclose(tuple(source.transform), tuple(transform), rtol=1e-12)
            assert (source.crs.to_string() if source.crs else None) == crs


def test_gdal_finds_names_and_colours(tmp_path: Path) -> None:
    store = filled(tmp_path / "labels.zarr", coded((40, 50)))
    write_cog(store, tmp_path / "labels.tif", legend=LEGEND)
    # A VRT says all that GDAL itself knows about a file: the names must have come through its own reading.
    rasterio.shutil.copy(tmp_path / "labels.tif", tmp_path / "labels.vrt", driver="VRT")
    band = ElementTree.parse(tmp_path / "labels.vrt").find("VRTRasterBand")
    assert band is not None
    names = [each.text or "" for each in band.iterfind("CategoryNames/Category")]
    assert len(names) == 201
    assert {i: name for i, name in enumerate(names) if name} == {0: "class 0", 2: "sea & <ice> é", 200: "class 200"}
    with rasterio.open(tmp_path / "labels.tif") as source:
        colours = source.colormap(1)
        assert source.files == [str(tmp_path / "labels.tif"), str(tmp_path / "labels.tif.aux.xml")]
    assert colours[2] == (1, 2, 3, 255)
    assert [colours[i][:3] for i in (0, 200)] == [tuple(LEGEND.rgba()[i, :3]) for i in (0, 200)]
    assert colours[255][3] == 0


def test_names_go_when_the_legend_goes(tmp_path: Path) -> None:
    store = filled(tmp_path / "labels.zarr", coded((4, 5)))
    write_cog(store, tmp_path / "labels.tif", legend=LEGEND)
    write_cog(store, tmp_path / "labels.tif")
    assert sorted(each.name for each in tmp_path.iterdir()) == ["labels.tif", "labels.zarr"]


def test_sixteen_bits(tmp_path: Path) -> None:
    labels = coded((600, 20)).astype(np.uint16) * np.uint16(257)
    store = filled(tmp_path / "labels.zarr", labels)
    write_cog(store, tmp_path / "labels.tif", legend=LEGEND)
    verify_cog(tmp_path / "labels.tif", store)
    with rasterio.open(tmp_path / "labels.tif") as source:
        np.testing.assert_array_equal(source.read(1), labels)
        assert source.nodata == 65535


def first_to_win(votes: Iterable[int]) -> int:
    """The documented tie rule, slowly: whoever reaches the highest count first, in reading order."""
    counts: dict[int, int] = {}
    best = 255
    for vote in votes:
        if vote != 255:
            counts[vote] = counts.get(vote, 0) + 1
            if counts[vote] > counts.get(best, 0):
                best = vote
    return best


@settings(deadline=None, max_examples=8)
@given(
    height=st.integers(258, 560),
    width=st.integers(4, 40),
    values=st.lists(st.sampled_from([0, 1, 2, 200, 254, 255]), min_size=1, max_size=5, unique=True),
    legend=st.sampled_from([None, LEGEND]),
    seed=st.integers(0, 99),
)
def test_overviews_hold_the_mode(height: int, width: int, values: list[int], legend: Legend | None, seed: int) -> None:
    labels = np.random.default_rng(seed).choice(np.array(values, np.uint8), (2 * height, 2 * width))
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "labels.tif"
        write_cog(filled(Path(folder) / "labels.zarr", labels), path, legend=legend)
        with rasterio.open(path) as source:
            count = len(source.overviews(1))
        with rasterio.open(path, overview_level=0) as source:
            found = source.read(1)
    assert count == 1 + (height > 512)
    cells = labels.reshape(height, 2, width, 2).transpose(0, 2, 1, 3).reshape(-1, 4)
    expected = np.array([first_to_win(cell) for cell in cells.tolist()], np.uint8).reshape(height, width)
    np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize("variable", ["labels", "confidence"])
@pytest.mark.parametrize(
    ("shape", "dtype", "chunk"),
    [
        ((2048, 1536), "uint8", 512),
        ((1024, 512), "uint8", 512),  # of 256 px tiles, because of its width
        ((1040, 16), "uint16", 512),
        ((1100, 530), "uint8", 256),  # halves to an odd side: all is GDAL's
        ((2048, 64), "uint8", 100),  # pieces that begin between pixels of the overviews: all is GDAL's
    ],
)
def test_overviews_are_those_that_gdal_makes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, shape: tuple[int, int], dtype: Any, chunk: int, variable: Variable
) -> None:
    rng = np.random.default_rng(5)
    labels = rng.choice(np.array([0, 1, 2, 200, np.iinfo(dtype).max], dtype), shape)
    labels[300:800, 5:300] = np.iinfo(dtype).max  # where nobody votes
    store = filled(tmp_path / "labels.zarr", labels, chunk=chunk)
    write_cog(store, tmp_path / "ours.tif", variable=variable)
    monkeypatch.setattr(pipeline.cog, "count_halvings", lambda *_: None)
    write_cog(store, tmp_path / "gdal.tif", variable=variable)
    with rasterio.open(tmp_path / "gdal.tif") as source:
        assert source.overviews(1)
    assert (tmp_path / "ours.tif").read_bytes() == (tmp_path / "gdal.tif").read_bytes()


def test_overviews_are_made_on_the_way(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = filled(tmp_path / "labels.zarr", coded((2048, 1024)))
    halved = []
    reduce_mode = pipeline.cog.reduce_mode

    def watched(labels: Any, nodata: int) -> Any:
        halved.append(labels.shape)
        return reduce_mode(labels, nodata)

    monkeypatch.setattr(pipeline.cog, "reduce_mode", watched)
    write_cog(store, tmp_path / "labels.tif")
    assert halved == 4 * [(512, 1024), (256, 512)]


@pytest.mark.parametrize("variable", ["labels", "confidence"])
def test_statistics_are_exact_and_in_the_file(tmp_path: Path, variable: Variable) -> None:
    rng = np.random.default_rng(3)
    labels = rng.choice(np.array([0, 1, 2, 200, 255], np.uint8), (1100, 640), p=[0.6, 0.1, 0.1, 0.1, 0.1])
    store = filled(tmp_path / "labels.zarr", labels)
    write_cog(store, tmp_path / "map.tif", variable=variable)
    values = labels if variable == "labels" else store.read_confidence(Window(0, 0, *labels.shape))
    values = values[values != 255].astype(np.float64)
    with rasterio.open(tmp_path / "map.tif") as source:
        said = {name.removeprefix("STATISTICS_"): float(text) for name, text in source.tags(1).items()}
    assert said == pytest.approx(
        {
            "MINIMUM": values.min(),
            "MAXIMUM": values.max(),
            "MEAN": values.mean(),
            "STDDEV": values.std(),
            "VALID_PERCENT": 100 * values.size / labels.size,
        },
        abs=5e-3,
    )
    assert sorted(each.name for each in tmp_path.iterdir()) == ["labels.zarr", "map.tif"]


def test_a_map_without_any_class_has_no_statistics(tmp_path: Path) -> None:
    store = filled(tmp_path / "labels.zarr", np.full((600, 40), 255, np.uint8))
    write_cog(store, tmp_path / "labels.tif", legend=LEGEND)
    verify_cog(tmp_path / "labels.tif", store)
    with rasterio.open(tmp_path / "labels.tif") as source:
        assert "STATISTICS_MEAN" not in source.tags(1)


def test_overviews_of_confidence_invent_nothing(tmp_path: Path) -> None:
    store = filled(tmp_path / "labels.zarr", coded((1024, 600)))
    write_cog(store, tmp_path / "confidence.tif", variable="confidence")
    confidence = store.read_confidence(Window(0, 0, 1024, 600))
    with rasterio.open(tmp_path / "confidence.tif", overview_level=0) as source:
        found = source.read(1)
    assert any((found == confidence[dy::2, dx::2]).all() for dy in (0, 1) for dx in (0, 1))


def test_memory_is_bounded_by_strips(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = filled(tmp_path / "labels.zarr", coded((1300, 100)), chunk=64)
    sizes = []
    read = LabelStore.read

    def watched(self: LabelStore, window: Window) -> Any:
        sizes.append(window.shape)
        return read(self, window)

    monkeypatch.setattr(LabelStore, "read", watched)
    write_cog(store, tmp_path / "labels.tif")
    assert max(height for height, _ in sizes) == 512
    assert sum(height for height, _ in sizes) == 1300


def test_failure_leaves_the_old_file_and_no_rubbish(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = filled(tmp_path / "labels.zarr", coded((40, 50)))
    write_cog(store, tmp_path / "labels.tif", legend=LEGEND)
    before = (tmp_path / "labels.tif").read_bytes()

    def fail(*_: Any, **__: Any) -> None:
        raise OSError("disk full")

    monkeypatch.setattr(pipeline.cog.rasterio.shutil, "copy", fail)
    with pytest.raises(OSError, match="disk full"):
        write_cog(store, tmp_path / "labels.tif")
    assert (tmp_path / "labels.tif").read_bytes() == before
    assert sorted(each.name for each in tmp_path.iterdir()) == ["labels.tif", "labels.tif.aux.xml", "labels.zarr"]


@pytest.mark.parametrize("summed", [False, True])
def test_one_wrong_pixel_is_found(tmp_path: Path, summed: bool) -> None:
    labels = coded((530, 50))
    store = filled(tmp_path / "labels.zarr", labels)
    sums = write_cog(store, tmp_path / "labels.tif") if summed else None
    other = labels.copy()
    other[520, 7] ^= 1
    write_cog(filled(tmp_path / "other.zarr", other), tmp_path / "labels.tif")
    with pytest.raises(RunFailedError, match=r"differs from .* at 1 pixels of .*first at y=520, x=7"):
        verify_cog(tmp_path / "labels.tif", store, sums=sums)


@pytest.mark.parametrize("variable", ["labels", "confidence"])
def test_what_is_known_by_its_checksums_is_read_from_the_file_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, variable: Variable
) -> None:
    store = filled(tmp_path / "labels.zarr", coded((1100, 50)))
    sums = write_cog(store, tmp_path / "map.tif", variable=variable)
    pixels = store.read if variable == "labels" else store.read_confidence
    assert sums == {window: crc32(pixels(window)) for window in store.strips()}
    asked: list[Window] = []
    monkeypatch.setattr(pipeline.cog, "_read", lambda store, variable, window: asked.append(window) or pixels(window))
    verify_cog(tmp_path / "map.tif", store, variable=variable, sums=sums)
    assert not asked
    last = [*store.strips()][-1]
    verify_cog(tmp_path / "map.tif", store, variable=variable, sums=sums | {last: 0})
    assert asked == [last]


def test_an_empty_cog_is_found(tmp_path: Path) -> None:
    store = filled(tmp_path / "labels.zarr", coded((40, 50)))
    create_labels(tmp_path / "empty.zarr", store.geobox, attrs={})
    write_cog(LabelStore.open(tmp_path / "empty.zarr"), tmp_path / "labels.tif")
    assert cog_validate(tmp_path / "labels.tif", strict=True, quiet=True)[0]
    with pytest.raises(RunFailedError, match="differs from"):
        verify_cog(tmp_path / "labels.tif", store)


def test_corrupted_bytes_are_found(tmp_path: Path) -> None:
    path = tmp_path / "labels.tif"
    store = filled(tmp_path / "labels.zarr", coded((600, 600)))
    write_cog(store, path)
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(RunFailedError, match=r"labels\.tif: "):
        verify_cog(path, store)
    path.write_bytes(b"not a tiff")
    with pytest.raises(RunFailedError, match="cannot be read"):
        verify_cog(path, store)


def test_a_plain_geotiff_is_no_cog(tmp_path: Path) -> None:
    labels = coded((600, 600))
    store = filled(tmp_path / "labels.zarr", labels)
    profile = {"driver": "GTiff", "height": 600, "width": 600, "count": 1, "dtype": "uint8", "nodata": 255}
    with rasterio.open(tmp_path / "labels.tif", "w", crs="EPSG:32618", transform=UTM, **profile) as target:
        target.write(labels, 1)
    with pytest.raises(RunFailedError, match="not a valid COG"):
        verify_cog(tmp_path / "labels.tif", store)


@pytest.mark.parametrize(
    ("other", "message"),
    [
        ({"labels": coded((40, 51))}, "width must be 50; got 51"),
        ({"transform": Affine(5, 0, 5e5 + 1e-3, 0, -5, 4e6)}, "transform must be"),
        ({"crs": None}, "CRS must be"),
        ({"labels": coded((40, 50)).astype(np.uint16)}, "dtype must be uint8; got uint16"),
    ],
)
def test_another_grid_is_found(tmp_path: Path, other: dict[str, Any], message: str) -> None:
    store = filled(tmp_path / "labels.zarr", coded((40, 50)))
    write_cog(filled(tmp_path / "other.zarr", **{"labels": coded((40, 50)), **other}), tmp_path / "labels.tif")
    with pytest.raises(RunFailedError, match=message):
        verify_cog(tmp_path / "labels.tif", store)
