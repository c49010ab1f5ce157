"""A scene: imagery on one grid, with validity, whatever it is made of. The door through which all input comes."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import xarray as xr

from pipeline.aoi import read_area
from pipeline.arrays import SpooledScene, open_array, spool
from pipeline.bands import BandMap, check_bands, infer_bands, parse_bands
from pipeline.blocks import Window
from pipeline.dates import date_of_file, select_date
from pipeline.errors import InputError
from pipeline.geotiff import RasterHeader, inspect_raster
from pipeline.lattice import Resampling
from pipeline.mosaic import Align, GridRules, MosaicScene, Overlap, balance_mosaic, build_mosaic
from pipeline.pixels import InputFile, Pixels, SampledScene, Scene
from pipeline.rasterfile import ImageFile, check_udm2
from pipeline.restriction import read_mask_raster, restrict_scene
from pipeline.sources import list_rasters, pair_udm2

__all__ = ["InputFile", "Pixels", "Scene", "Source", "SpooledScene", "open_scene", "spool"]

Source = str | Path | Sequence[str | Path] | xr.DataArray


def open_scene(
    source: Source,
    *,
    bands: str | None = None,
    mask: str | Path | None = None,
    aoi: str | Path | None = None,
    date: str | None = None,
    overlap: Overlap = "first",
    align: Align = "refuse",
    tolerance_px: float = 0.01,
    resampling: Resampling = "nearest",
    radiometry_match: bool = False,
) -> Scene:
    """Open files or an array as one scene, checked as far as can be without reading all pixels.

    Parameters
    ----------
    source
        GeoTIFF, folder, glob, text file of paths, several of these, or a DataArray (see `pipeline.sources` and
        `pipeline.arrays`).
    bands
        Band map such as ``nicfi`` or ``R=3,G=2,B=1``; None: as the files declare (see `pipeline.bands`).
    mask
        Raster whose band 1 is non-zero where pixels are valid (see `pipeline.validity`).
    aoi
        GeoJSON or GeoPackage; the scene is cut to its bounds, and valid where pixel centres lie inside.
    date
        Which files to take where they have several dates (see `pipeline.dates`).
    overlap
        Which file wins where several are valid (see `pipeline.mosaic`).
    align, tolerance_px, resampling
        What to do with files on another grid (see `pipeline.mosaic.GridRules`).
    radiometry_match
        Whether files get a gain and an offset each, by what they share (see `pipeline.balance`).

    Raises
    ------
    InputError
        If the input does not make one scene; names the file or option and the remedy.
    """
    rules = GridRules(align, tolerance_px, resampling)
    base: SampledScene
    try:
        if isinstance(source, xr.DataArray):
            base = open_array(source, bands)
        else:
            base = _open_files(list_rasters(source), bands, date, overlap, rules)
            base = balance_mosaic(base) if radiometry_match else base
        return _restrict(base, mask, aoi, rules)
    except OSError as error:
        named = error.filename or "SOURCE"
        raise InputError(
            f"{named}: cannot be read ({error.strerror or error}); check its path and permissions"
        ) from error


def _open_files(
    paths: list[Path], bands: str | None, date: str | None, overlap: Overlap, rules: GridRules
) -> MosaicScene:
    requested = parse_bands(bands) if bands else None
    headers = [inspect_raster(path) for path in paths]
    dates = [date_of_file(header.path, header.tag_datetime) for header in headers]
    headers = [headers[i] for i in select_date(dates, date, [path.name for path in paths])]
    udm2 = pair_udm2(header.path for header in headers)
    maps = _band_maps(headers, requested)
    files = [_image(h, m, udm2.get(h.path), rules) for h, m in zip(headers, maps, strict=True)]
    return build_mosaic(headers, files, overlap=overlap, rules=rules)


def _band_maps(headers: list[RasterHeader], requested: BandMap | None) -> list[BandMap]:
    first = requested or infer_bands(headers[0].profile)
    for header in headers[1:]:
        if header.profile.count != headers[0].profile.count:
            raise InputError(
                f"{header.path}: has {header.profile.count} bands, {headers[0].path} has {headers[0].profile.count}: "
                "not one mosaic; give files of one kind"
            )
        found = requested or infer_bands(header.profile)
        if found.bands != first.bands:
            raise InputError(
                f"{header.path}: declares the bands {found}, {headers[0].path} {first}: not one mosaic; say --bands"
            )
    return [check_bands(first, header.profile) for header in headers]


def _image(header: RasterHeader, bands: BandMap, udm2: Path | None, rules: GridRules) -> ImageFile:
    if udm2 is not None:
        check_udm2(inspect_raster(udm2), header, rules.tolerance_px)
    return ImageFile(header.path, header.shape, bands, header.nodata, header.has_mask, udm2)


def _restrict(base: SampledScene, mask: str | Path | None, aoi: str | Path | None, rules: GridRules) -> Scene:
    if mask is None and aoi is None:
        return base
    shape = base.geobox.shape
    placed = read_mask_raster(Path(mask), base.geobox, rules) if mask is not None else None
    area = read_area(Path(aoi), base.geobox) if aoi is not None else None
    window = area.window(shape) if area else Window(0, 0, *shape)
    return restrict_scene(base, window, placed, area)
