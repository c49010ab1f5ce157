"""Whole files thinned out: the pixels that GDAL would take, each block decoded once."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
from numpy.typing import NDArray
from rasterio.enums import Resampling

from pipeline import geotiff
from pipeline.geotiff import read_decimated, read_decimated_mask
from tests.pipeline.rasters import write_raster

SHAPE = (3, 250, 331)


def make(path: Path, **options: Any) -> NDArray[np.uint16]:
    """Write bands that say where they are; the third is noise."""
    y, x = np.indices(SHAPE[1:])
    data = np.stack([y, x, np.random.default_rng(0).integers(1, 999, SHAPE[1:])]).astype(np.uint16)
    write_raster(path, data, **options)
    return data


LAYOUTS = {
    "tiles": {"interleave": "pixel"},
    "band tiles": {"interleave": "band", "blockxsize": 64, "blockysize": 32},
    "rows": {"tiled": False, "blockxsize": None, "blockysize": 3},
    "one block": {"blockxsize": 512, "blockysize": 512},
}


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("step", [1, 2, 7, 100, 1000])
def test_the_pixels_are_those_that_gdal_takes(
    tmp_path: Path, layout: str, step: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "a.tif"
    options = {name: value for name, value in LAYOUTS[layout].items() if value is not None}
    make(path, **options)
    monkeypatch.setattr(geotiff, "_READ_PX", 331 * 40)
    found = read_decimated(path, (3, 1), step)
    with rasterio.open(path) as file:
        shape = -(-file.height // step), -(-file.width // step)
        np.testing.assert_array_equal(found, file.read((3, 1), out_shape=(2, *shape)))


def test_each_row_of_pixels_is_read_once(tmp_path: Path) -> None:
    make(tmp_path / "a.tif")
    read = list[tuple[int, int]]()

    def note(window: Any) -> NDArray[np.uint16]:
        read.append((window.row_off, window.row_off + window.height))
        return np.zeros((1, window.height, window.width), np.uint16)

    with rasterio.open(tmp_path / "a.tif") as source:
        assert geotiff._thin(source, (50, 66), note).shape == (1, 50, 66)
    assert [a for a, _ in read] == [0, *(b for _, b in read[:-1])]
    assert read[-1][1] == SHAPE[1]


@pytest.mark.parametrize(("step", "factor"), [(1, 1), (3, 2), (4, 4), (9, 8), (30, 8)])
def test_overviews_are_used_where_they_are_fine_enough(tmp_path: Path, step: int, factor: int) -> None:
    path = tmp_path / "a.tif"
    data = make(path)
    with rasterio.open(path, "r+") as file:
        file.build_overviews([2, 4, 8], Resampling.average)  # so that noise tells from which level it comes
    y, x, noise = read_decimated(path, (1, 2, 3), step).astype(float)
    assert y.shape == (-(-SHAPE[1] // step), -(-SHAPE[2] // step))
    rows, columns = np.indices(y.shape)
    assert np.abs(y - (rows + 0.5) * SHAPE[1] / y.shape[0]).max() <= step
    assert np.abs(x - (columns + 0.5) * SHAPE[2] / y.shape[1]).max() <= step
    if y.size > 1000:
        assert noise.std() == pytest.approx(data[2].std() / factor, rel=0.3)


def test_the_mask_of_the_file_is_thinned_alike(tmp_path: Path) -> None:
    mask = np.zeros(SHAPE[1:], bool)
    mask[100:, 40:300] = True
    make(tmp_path / "a.tif", mask=mask)
    rows, columns = (((np.arange(-(-n // 5)) + 0.5) * n / -(-n // 5)).astype(int) for n in SHAPE[1:])
    np.testing.assert_array_equal(read_decimated_mask(tmp_path / "a.tif", 5), mask[np.ix_(rows, columns)])
