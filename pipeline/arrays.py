"""Scenes that are arrays: an `xarray.DataArray`, and its copy in a Zarr store for worker processes."""

from __future__ import annotations

import hashlib
from collections.abc import Hashable, Iterator
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import rioxarray  # registers the accessor
import xarray as xr
import zarr
from affine import Affine
from numpy.typing import NDArray
from odc.geo.geobox import GeoBox

from pipeline.bands import BandProfile, check_bands, infer_bands, parse_bands
from pipeline.blocks import Window
from pipeline.errors import InputError
from pipeline.pixels import InputFile, Pixels, Report, SampledScene, Scene
from pipeline.validity import valid_from_alpha, valid_from_samples

SPOOL_CHUNK_PX = 1024
SPACING_TOLERANCE = 1e-3
"""How far, in pixels, coordinates may be off an even spacing."""


@dataclass(frozen=True, eq=False)
class ArrayScene(SampledScene):
    """A DataArray ``(band, y, x)`` as a scene; a dask-backed one is computed window by window.

    It travels between processes with its data or its task graph: `spool` it first where there are many.
    """

    geobox: GeoBox
    bands: tuple[str, ...]
    dtype: np.dtype[Any]
    array: xr.DataArray
    nodata: float | None
    positions: tuple[int, ...]
    alpha: int | None

    def sample(self, rows: NDArray[np.int64], columns: NDArray[np.int64], step: int) -> Pixels:
        """Read the pixels on some rows and columns, of which one in `step` is wanted."""
        at: tuple[Any, Any] = (rows, columns)
        if step == 1:
            at = slice(int(rows[0]), int(rows[-1]) + 1), slice(int(columns[0]), int(columns[-1]) + 1)
        wanted = list(self.positions) + ([self.alpha] if self.alpha is not None else [])
        samples = self.array[wanted].isel({self.array.dims[1]: at[0], self.array.dims[2]: at[1]}).to_numpy()
        data = samples[: len(self.positions)]
        valid = valid_from_samples(data, self.nodata)
        if self.alpha is not None:
            valid &= valid_from_alpha(samples[-1])
        return Pixels(data, valid)

    def files_in(self, window: Window) -> list[str]:
        """Return the label of the array: any change of it counts for all of it."""
        return [_label(self.array)]

    def fingerprints(self, report: Report | None = None) -> list[InputFile]:
        """Hash the pixels, a few rows at a time."""
        n_bytes = int(np.prod(self.geobox.shape)) * len(self.bands) * self.dtype.itemsize
        return [InputFile(_label(self.array), n_bytes, _digest(self))]


def open_array(array: xr.DataArray, bands: str | None = None) -> ArrayScene:
    """Take a DataArray as a scene.

    Parameters
    ----------
    array
        Dims ``(band, y, x)`` in any order, or ``(y, x)``; CRS, transform and nodata as rioxarray holds them. Without
        coordinates the grid is that of pixels.
    bands
        Band map; None: band names from the band coordinate or from ``long_name``.

    Raises
    ------
    InputError
        If dims, dtype, coordinates or bands do not make a scene.
    """
    label = _label(array)
    ordered = _order(array, label)
    if ordered.dtype.kind not in "uif":
        raise InputError(f"{label}: holds {ordered.dtype}, an integer or float type was expected; convert it")
    profile = _profile(ordered, label)
    band_map = check_bands(parse_bands(bands) if bands else infer_bands(profile), profile)
    height, width = ordered.shape[1:]
    geobox = GeoBox((height, width), _affine(ordered, label), array.rio.crs.to_wkt() if array.rio.crs else None)
    nodata = array.rio.nodata if array.rio.encoded_nodata is None else np.nan
    alpha = band_map.alpha - 1 if band_map.alpha else None
    positions = tuple(index - 1 for index in band_map.indexes)
    return ArrayScene(geobox, band_map.names, ordered.dtype, ordered, nodata, positions, alpha)


def _label(array: xr.DataArray) -> str:
    return f"DataArray {array.name or '(no name)'}"


def _order(array: xr.DataArray, label: str) -> xr.DataArray:
    try:
        y, x = array.rio.y_dim, array.rio.x_dim
    except rioxarray.exceptions.MissingSpatialDimensionError as error:
        raise InputError(f"{label}: has dims {array.dims}; expected (band, y, x)") from error
    others = [dim for dim in array.dims if dim not in (y, x)]
    if len(others) > 1 or 0 in array.shape:
        raise InputError(f"{label}: has dims {array.dims} of {array.shape}; expected (band, y, x), none empty")
    return array.transpose(*others, y, x) if others else array.expand_dims("band")


def _profile(array: xr.DataArray, label: str) -> BandProfile:
    count = array.shape[0]
    names = array.coords[array.dims[0]].to_numpy() if array.dims[0] in array.coords else []
    long_name = array.attrs.get("long_name")
    descriptions: tuple[str | None, ...] = (None,) * count
    if len(names) == count and all(isinstance(name, str) for name in names):
        descriptions = tuple(str(name) for name in names)
    elif isinstance(long_name, (tuple, list)) and len(long_name) == count:
        descriptions = tuple(str(name) for name in long_name)
    lone = ("gray",) if count == 1 else ("undefined",) * count
    return BandProfile(label, count, str(array.dtype), lone, descriptions)


def _affine(array: xr.DataArray, label: str) -> Affine:
    y, x = array.dims[1:]
    if y not in array.coords or x not in array.coords or min(array.shape[1:]) < 2:
        # A row of single pixels does not tell its size: what rioxarray has noted then counts.
        return array.rio.transform() if "spatial_ref" in array.coords else Affine.identity()
    (top, dy), (left, dx) = (_edge_and_step(array.coords[dim].to_numpy().astype(float), dim, label) for dim in (y, x))
    return Affine(dx, 0.0, left, 0.0, dy, top)


def _edge_and_step(centres: NDArray[np.float64], dim: Hashable, label: str) -> tuple[float, float]:
    step = (centres[-1] - centres[0]) / (len(centres) - 1)
    off = np.abs(centres - (centres[0] + step * np.arange(len(centres)))).max()
    if step == 0 or not off <= SPACING_TOLERANCE * abs(step):
        raise InputError(f"{label}: coordinates of {dim} are not evenly spaced; regrid it first")
    return float(centres[0] - step / 2), float(step)


@dataclass(frozen=True)
class SpooledScene(SampledScene):
    """A scene in a Zarr store: small to send, quick to read, the same for every process."""

    geobox: GeoBox
    bands: tuple[str, ...]
    dtype: np.dtype[Any]
    path: Path
    label: str
    sha256: str

    def sample(self, rows: NDArray[np.int64], columns: NDArray[np.int64], step: int) -> Pixels:
        """Read the pixels on some rows and columns, of which one in `step` is wanted."""
        data, valid = _open_store(str(self.path), self.sha256)
        if step == 1:
            at = slice(int(rows[0]), int(rows[-1]) + 1), slice(int(columns[0]), int(columns[-1]) + 1)
            return Pixels(np.asarray(data[:, at[0], at[1]]), np.asarray(valid[at]))
        return Pixels(
            np.asarray(data.oindex[slice(None), rows, columns]), np.asarray(valid.oindex[rows, columns]).astype(bool)
        )

    def files_in(self, window: Window) -> list[str]:
        """Return the label of what was spooled: any change of it counts for all of it."""
        return [self.label]

    def fingerprints(self, report: Report | None = None) -> list[InputFile]:
        """Return the hash of the pixels, taken as they were spooled."""
        n_bytes = int(np.prod(self.geobox.shape)) * len(self.bands) * self.dtype.itemsize
        return [InputFile(self.label, n_bytes, self.sha256)]


@lru_cache(maxsize=8)
def _open_store(path: str, sha256: str) -> tuple[Any, Any]:
    group = zarr.open_group(path, mode="r")
    if group.attrs.get("sha256") != sha256:
        raise OSError(f"{path}: holds another scene than the one that was spooled there; spool it again")
    return group["data"], group["valid"]


def spool(source: Scene | xr.DataArray, path: Path, *, chunk_px: int = SPOOL_CHUNK_PX) -> SpooledScene:
    """Copy a scene into a Zarr store, one chunk after the other, so that at most one is in memory.

    Parameters
    ----------
    source
        A scene, or a DataArray whose band names are known.
    path
        The store; one that is there is replaced.
    chunk_px
        Side of a chunk in pixels.

    Returns
    -------
    SpooledScene
        Equal in every pixel. Its fingerprint is that of the content, wherever it lies.
    """
    scene: Scene = open_array(source) if isinstance(source, xr.DataArray) else source
    height, width = scene.geobox.shape
    chunk = min(chunk_px, height), min(chunk_px, width)
    group = zarr.open_group(str(path), mode="w")
    data = group.create_array(
        "data", shape=(len(scene.bands), height, width), chunks=(len(scene.bands), *chunk), dtype=scene.dtype
    )
    valid = group.create_array("valid", shape=(height, width), chunks=chunk, dtype=bool)
    for window in _windows((height, width), chunk):
        pixels = scene.read(window)
        data[(slice(None), *window.slices)] = pixels.data
        valid[window.slices] = pixels.valid
    label = _label(source) if isinstance(source, xr.DataArray) else _label_of(scene)
    spooled = SpooledScene(scene.geobox, scene.bands, np.dtype(scene.dtype), Path(path).absolute(), label, "")
    return _seal(spooled, group, data, valid)


def _seal(spooled: SpooledScene, group: zarr.Group, data: Any, valid: Any) -> SpooledScene:
    digest = _start_digest(spooled)
    for window in _row_windows(spooled.geobox.shape):
        _add(digest, Pixels(np.asarray(data[(slice(None), *window.slices)]), np.asarray(valid[window.slices])))
    group.attrs["sha256"] = digest.hexdigest()
    return replace(spooled, sha256=digest.hexdigest())


def _label_of(scene: Scene) -> str:
    array = getattr(scene, "array", None)
    return _label(array) if isinstance(array, xr.DataArray) else f"spooled {type(scene).__name__}"


def _windows(shape: tuple[int, int], chunk: tuple[int, int]) -> Iterator[Window]:
    for y in range(0, shape[0], chunk[0]):
        for x in range(0, shape[1], chunk[1]):
            yield Window(y, x, min(y + chunk[0], shape[0]), min(x + chunk[1], shape[1]))


def _row_windows(shape: tuple[int, int]) -> Iterator[Window]:
    return _windows((int(shape[0]), int(shape[1])), (SPOOL_CHUNK_PX, int(shape[1])))


def _digest(scene: Scene) -> str:
    digest = _start_digest(scene)
    for window in _row_windows(scene.geobox.shape):
        _add(digest, scene.read(window))
    return str(digest.hexdigest())


def _start_digest(scene: Any) -> Any:
    crs = scene.geobox.crs.to_wkt() if scene.geobox.crs else None
    about = (tuple(scene.geobox.shape), tuple(scene.geobox.affine)[:6], crs, scene.bands, np.dtype(scene.dtype).str)
    return hashlib.sha256(repr(about).encode())


def _add(digest: Any, pixels: Pixels) -> None:
    digest.update(np.ascontiguousarray(pixels.data).tobytes())
    digest.update(np.ascontiguousarray(pixels.valid).tobytes())
