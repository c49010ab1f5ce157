"""Many files, one grid: windows are read across file borders here and nowhere else.

The grid is that of the first file. The others lie on it within a tolerance (basemap quads are off by 0.0002 px and in
the tenth digit of the pixel size) or are refused, or, where that was asked for, are resampled as they are read.

Where files overlap, the first valid pixel wins, in an order that is fixed for the whole scene: as given (``first``),
the reverse (``last``), or by the number of valid pixels in each whole file (``most-valid``; counted on at most 512
pixels a side). No rule looks at the window that is read, so blocks agree on what they share.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, Literal

import numpy as np
from affine import Affine
from numpy.typing import NDArray
from odc.geo.geobox import GeoBox
from pyproj import CRS

from pipeline.balance import Balanced, Correction, Shared, balance, compare
from pipeline.blocks import Window
from pipeline.errors import InputError
from pipeline.geotiff import RasterHeader
from pipeline.lattice import (
    Resampling,
    Warp,
    lattice_error,
    lattice_offset,
    resample_bilinear,
    resample_nearest,
    same_crs,
)
from pipeline.pixels import InputFile, Pixels, Report, SampledScene, fingerprint_files
from pipeline.rasterfile import ImageFile, RasterFile

Overlap = Literal["first", "last", "most-valid"]
Align = Literal["refuse", "resample"]

_PATCH_PX = 96
_PATCHES = 3
"""Files are compared on so many patches a side of what they share, or on all of it where that is less."""


@dataclass(frozen=True)
class GridRules:
    """How strictly files have to agree on one grid.

    Attributes
    ----------
    align
        ``refuse`` files on another grid, or ``resample`` them.
    tolerance_px
        How far, in pixels, a corner may be off and still count as on the grid.
    resampling
        ``nearest`` keeps the values that were observed; ``bilinear`` interpolates.
    """

    align: Align = "refuse"
    tolerance_px: float = 0.01
    resampling: Resampling = "nearest"

    def __post_init__(self) -> None:
        if self.align not in ("refuse", "resample"):
            raise InputError(f"--align {self.align}: expected refuse or resample")
        if self.resampling not in ("nearest", "bilinear"):
            raise InputError(f"resampling {self.resampling}: expected nearest or bilinear")
        if not 0 <= self.tolerance_px < 0.5:
            raise InputError(f"tolerance_px {self.tolerance_px}: expected 0 to 0.5 pixels, 0.5 excluded")


@dataclass(frozen=True)
class Placement:
    """Where a file lies in a scene, and the warp to it where it is on another grid.

    `window` counts pixels of the scene and may reach beyond it.
    """

    window: Window
    warp: Warp | None = None

    def shift(self, y: int, x: int, affine: Affine) -> Placement:
        """Return the same place counted from another origin, ``(y, x)``, where the grid has the transform `affine`."""
        y0, x0, y1, x1 = self.window
        warp = self.warp and Warp(
            affine, self.warp.scene_crs, self.warp.file_affine, self.warp.file_crs, self.warp.resampling
        )
        return Placement(Window(y0 - y, x0 - x, y1 - y, x1 - x), warp)

    def read(
        self,
        file: RasterFile,
        rows: NDArray[np.int64],
        columns: NDArray[np.int64],
        step: int,
        into: NDArray[Any] | None = None,
    ) -> Pixels:
        """Read scene pixels from a file; `rows` and `columns` lie inside `window` and are contiguous if `step` is 1.

        The bands are read `into` an array, where that is given and can be done.
        """
        if self.warp is not None:
            return _read_warped(file, self.warp, rows, columns)
        y, x = rows - self.window.y0, columns - self.window.x0
        if step == 1:
            return file.read(Window(int(y[0]), int(x[0]), int(y[-1]) + 1, int(x[-1]) + 1), into)
        return _pick(file.decimate(step), y, x, file.shape)


def _pick(small: Pixels, y: NDArray[np.int64], x: NDArray[np.int64], shape: tuple[int, int]) -> Pixels:
    at = np.ix_(y * small.shape[0] // shape[0], x * small.shape[1] // shape[1])
    return Pixels(small.data[:, at[0], at[1]], small.valid[at])


def _read_warped(file: RasterFile, warp: Warp, rows: NDArray[np.int64], columns: NDArray[np.int64]) -> Pixels:
    y, x = warp.positions(rows, columns)
    inside = (y >= 0) & (y < file.shape[0]) & (x >= 0) & (x < file.shape[1])
    if not inside.any():
        return Pixels.empty(0, inside.shape, np.dtype(np.uint8))
    source, y0, x0, scale = _source_around(file, y[inside], x[inside], inside.shape)
    y, x = np.where(inside, (y - y0) * scale[0], -1.0), np.where(inside, (x - x0) * scale[1], -1.0)
    resample = resample_bilinear if warp.resampling == "bilinear" else resample_nearest
    return resample(source, y, x)


def _source_around(
    file: RasterFile, y: NDArray[np.float64], x: NDArray[np.float64], shape: tuple[int, int]
) -> tuple[Pixels, int, int, tuple[float, float]]:
    # One pixel more on each side serves interpolation. A source far denser than the samples (an overview) is decimated.
    window = Window(int(y.min()), int(x.min()), int(y.max()) + 1, int(x.max()) + 1).expand(1, within=file.shape)
    step = int(max(1.0, (window.size / (4 * shape[0] * shape[1])) ** 0.5))
    if step == 1 or min(window.shape) < 4 * step:
        return file.read(window), window.y0, window.x0, (1.0, 1.0)
    small = file.decimate(step)
    return small, 0, 0, (small.shape[0] / file.shape[0], small.shape[1] / file.shape[1])


def place_raster(
    header: RasterHeader, affine: Affine, crs_wkt: str | None, reference: str, rules: GridRules
) -> Placement:
    """Place a file on a grid.

    Parameters
    ----------
    header
        The file.
    affine, crs_wkt
        The grid.
    reference
        What the grid is taken from, for messages.
    rules
        How strictly it has to fit.

    Raises
    ------
    InputError
        If it does not lie on the grid and may not be resampled, or cannot be.
    """
    alike = same_crs(header.crs_wkt, crs_wkt)
    offset = lattice_offset(header.affine, header.shape, affine, rules.tolerance_px) if alike else None
    if offset is not None:
        y, x = offset
        return Placement(Window(y, x, y + header.shape[0], x + header.shape[1]))
    found = _difference(header, affine, crs_wkt, reference, rules)
    if (header.crs_wkt is None) != (crs_wkt is None):
        raise InputError(f"{header.path}: {found}; write the CRS into the file that lacks it")
    if rules.align == "refuse":
        raise InputError(f"{header.path}: {found}; say --align resample to resample it, or warp it first")
    warp = Warp(affine, crs_wkt, header.affine, header.crs_wkt, rules.resampling)
    try:
        return Placement(warp.outline(header.shape), warp)
    except ValueError as error:
        raise InputError(f"{header.path}: cannot be resampled: {found}; leave it out") from error


def _difference(header: RasterHeader, affine: Affine, crs_wkt: str | None, reference: str, rules: GridRules) -> str:
    if not same_crs(header.crs_wkt, crs_wkt):
        return f"is in {name_crs(header.crs_wkt)}, {reference} in {name_crs(crs_wkt)}"
    sizes = [(abs(a.a) + abs(a.b), abs(a.d) + abs(a.e)) for a in (header.affine, affine)]
    if not np.allclose(sizes[0], sizes[1], rtol=1e-4) or np.sign(header.affine.e) != np.sign(affine.e):
        here, there = (f"{grid.a:.6g} x {grid.e:.6g}" for grid in (header.affine, affine))
        return f"has pixels of {here}, {reference} of {there} (or turned)"
    off = lattice_error(header.affine, header.shape, affine)
    return f"lies {off:.3g} px off the pixel grid of {reference} (tolerance {rules.tolerance_px} px)"


def name_crs(wkt: str | None) -> str:
    """Return a short name of a CRS for messages: its EPSG code, else its name."""
    if wkt is None:
        return "no CRS"
    crs = CRS.from_wkt(wkt)
    code = crs.to_epsg()
    return f"EPSG:{code}" if code else crs.name


@dataclass(frozen=True)
class Tile:
    """One file of a mosaic, where it lies, and what its values are corrected by, if that was asked for."""

    file: ImageFile
    placement: Placement
    correction: Correction | None = None

    def read(
        self, rows: NDArray[np.int64], columns: NDArray[np.int64], step: int, into: NDArray[Any] | None = None
    ) -> Pixels:
        """Read scene pixels, as `Placement.read` does, corrected."""
        pixels = self.placement.read(self.file, rows, columns, step, into)
        return pixels if self.correction is None else self.correction.apply(pixels)


@dataclass(frozen=True)
class MosaicScene(SampledScene):
    """Files on one grid. `tiles` are in order of precedence: the first valid pixel wins.

    `balanced` says what their corrections brought, where those were asked for.
    """

    geobox: GeoBox
    bands: tuple[str, ...]
    dtype: np.dtype[Any]
    tiles: tuple[Tile, ...]
    balanced: Balanced | None = None

    @cached_property
    def _bounds(self) -> NDArray[np.int64]:
        return np.array([tile.placement.window for tile in self.tiles], np.int64)

    def tiles_in(self, window: Window) -> list[Tile]:
        """Return the tiles that reach into a window, in order of precedence."""
        y0, x0, y1, x1 = self._bounds.T
        hits = (y0 < window.y1) & (y1 > window.y0) & (x0 < window.x1) & (x1 > window.x0)
        return [self.tiles[i] for i in np.flatnonzero(hits)]

    def sample(self, rows: NDArray[np.int64], columns: NDArray[np.int64], step: int) -> Pixels:
        """Read the pixels on some rows and columns of the scene, of which one in `step` is wanted."""
        pixels = Pixels.empty(len(self.bands), (len(rows), len(columns)), self.dtype)
        for tile in self.tiles_in(Window(int(rows[0]), int(columns[0]), int(rows[-1]) + 1, int(columns[-1]) + 1)):
            y0, x0, y1, x1 = tile.placement.window
            at = slice(*np.searchsorted(rows, (y0, y1))), slice(*np.searchsorted(columns, (x0, x1)))
            missing = ~pixels.valid[at]
            if missing.any():
                place = pixels.data[:, at[0], at[1]]
                part = tile.read(rows[at[0]], columns[at[1]], step, place if missing.all() else None)
                missing &= part.valid
                alike = (part.data.shape, part.data.dtype) == (pixels.data.shape, pixels.data.dtype)
                if alike and missing.all():
                    return part  # one file is all there is to see
                pixels.valid[at] |= missing
                if not np.may_share_memory(part.data, place):  # else it was read to where it belongs
                    _fill(place, part.data, missing)
        return pixels

    def fingerprints(self, report: Report | None = None) -> list[InputFile]:
        """Hash every file that the pixels come from."""
        masks = [tile.file.udm2 for tile in self.tiles if tile.file.udm2]
        return fingerprint_files(sorted({*(tile.file.path for tile in self.tiles), *masks}), report)

    def files_in(self, window: Window) -> list[str]:
        """Return the files that reach into a window, in order of precedence, each with its UDM2 after it."""
        paths = (path for tile in self.tiles_in(window) for path in (tile.file.path, tile.file.udm2))
        return [str(path) for path in paths if path is not None]


def _fill(data: NDArray[Any], part: NDArray[Any], where: NDArray[np.bool_]) -> None:
    if where.all():
        data[: len(part)] = part
        return
    for target, source in zip(data, part, strict=False):
        np.copyto(target, source, where=where)


def build_mosaic(
    headers: Sequence[RasterHeader], files: Sequence[ImageFile], *, overlap: Overlap, rules: GridRules
) -> MosaicScene:
    """Lay files on the grid of the first one.

    Raises
    ------
    InputError
        If the files have different dtypes, do not share a grid, or have no georeference though they are several.
    """
    first = headers[0]
    for header in headers[1:]:
        _check_companion(header, first)
    at = [place_raster(h, first.affine, first.crs_wkt, str(first.path), rules) for h in headers]
    bounds = np.array([placement.window for placement in at])
    y0, x0 = (int(v) for v in bounds[:, :2].min(axis=0))
    y1, x1 = (int(v) for v in bounds[:, 2:].max(axis=0))
    affine = first.affine @ Affine.translation(x0, y0)
    tiles = [Tile(file, placement.shift(y0, x0, affine)) for file, placement in zip(files, at, strict=True)]
    geobox = GeoBox((y1 - y0, x1 - x0), affine, first.crs_wkt)
    return MosaicScene(geobox, files[0].bands.names, first.dtype, tuple(_in_precedence(tiles, overlap)))


def _check_companion(header: RasterHeader, first: RasterHeader) -> None:
    if header.dtype != first.dtype:
        raise InputError(
            f"{header.path}: holds {header.dtype}, {first.path} {first.dtype}: not one mosaic; convert one of them"
        )
    if header.profile.count != first.profile.count:
        raise InputError(
            f"{header.path}: has {header.profile.count} bands, {first.path} has {first.profile.count}: not one mosaic; "
            "give files of one kind"
        )
    if not (header.georeferenced and first.georeferenced):
        which = first if not first.georeferenced else header
        raise InputError(f"{which.path}: has no georeference, so several files cannot be laid out; give one file alone")


def _in_precedence(tiles: list[Tile], overlap: Overlap) -> list[Tile]:
    if overlap == "first":
        return tiles
    if overlap == "last":
        return tiles[::-1]
    if overlap != "most-valid":
        raise InputError(f"--overlap-rule {overlap}: expected first, last or most-valid")
    return sorted(tiles, key=lambda tile: -tile.file.count_valid())


def balance_mosaic(scene: MosaicScene) -> MosaicScene:
    """Give each file that overlaps others a gain and an offset for each band (see `pipeline.balance`).

    Raises
    ------
    InputError
        If a file turns out to be damaged; names it.
    """
    try:
        shared = [found for a, b in _neighbours(scene) if (found := _compare_tiles(scene.tiles, a, b)) is not None]
    except OSError as error:
        raise InputError(str(error)) from error
    balanced = balance([str(tile.file.path) for tile in scene.tiles], len(scene.bands), shared)
    tiles = tuple(replace(tile, correction=balanced.corrections.get(str(tile.file.path))) for tile in scene.tiles)
    return replace(scene, tiles=tiles, balanced=balanced)


def _neighbours(scene: MosaicScene) -> list[tuple[int, int]]:
    windows = [tile.placement.window for tile in scene.tiles]
    number = {id(tile): i for i, tile in enumerate(scene.tiles)}
    near = ((i, number[id(tile)]) for i, window in enumerate(windows) for tile in scene.tiles_in(window))
    return [(i, j) for i, j in near if i < j]


def _compare_tiles(tiles: Sequence[Tile], a: int, b: int) -> Shared | None:
    """Compare two files on patches spread over what they share."""
    both = tiles[a].placement.window.intersect(tiles[b].placement.window)
    values: list[tuple[NDArray[Any], NDArray[Any]]] = []
    for y0, y1 in _stretches(both.y0, both.y1):
        for x0, x1 in _stretches(both.x0, both.x1):
            rows, columns = np.arange(y0, y1), np.arange(x0, x1)
            first, second = (tiles[i].placement.read(tiles[i].file, rows, columns, 1) for i in (a, b))
            valid = first.valid & second.valid
            if valid.any():
                values.append((first.data[:, valid], second.data[:, valid]))
    if not values:
        return None
    return compare(a, b, *(np.concatenate(each, axis=1) for each in zip(*values, strict=True)))


def _stretches(start: int, stop: int) -> list[tuple[int, int]]:
    if stop - start <= _PATCHES * _PATCH_PX:
        return [(start, stop)]
    firsts = np.linspace(start, stop - _PATCH_PX, _PATCHES).astype(int).tolist()
    return [(first, first + _PATCH_PX) for first in firsts]
