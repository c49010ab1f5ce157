"""Cloud-optimised GeoTIFFs of the stores, for QGIS and GDAL, with class names and colours.

Compressed with DEFLATE: every TIFF reader has it, whereas older ArcGIS, GeoTools and web viewers lack ZSTD.
"""

from __future__ import annotations

import os
import tempfile
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, Literal
from xml.etree import ElementTree
from zlib import crc32

import numpy as np
import rasterio
import rasterio.shutil
from numpy.typing import NDArray
from odc.geo.geobox import GeoBox
from rasterio.errors import NotGeoreferencedWarning, RasterioError
from rasterio.io import DatasetReader, DatasetWriter
from rio_cogeo.cogeo import cog_validate

from pipeline.blocks import Window
from pipeline.errors import RunFailedError
from pipeline.geotiff import raster_window
from pipeline.legend import Legend
from pipeline.levels import reduce_mode
from pipeline.overviews import Halve, count_halvings, filling_overviews, fits_halvings, write_halved
from pipeline.stores import CONFIDENCE_NODATA, LabelStore
from pipeline.workspace import whole

BLOCK_PX = 512
Variable = Literal["labels", "confidence"]
Sums = dict[Window, int]
"""CRC-32 of the pixels of windows."""

_RESAMPLING: dict[Variable, str] = {"labels": "MODE", "confidence": "NEAREST"}
_CACHE_MB = 256


def write_cog(
    store: LabelStore,
    path: str | Path,
    *,
    variable: Variable = "labels",
    legend: Legend | None = None,
    tags: Mapping[str, str] | None = None,
    threads: int | None = None,
) -> Sums:
    """Write a COG, and beside it ``<path>.aux.xml`` with the class names, which GDAL keeps nowhere else.

    The store is streamed into a temporary GeoTIFF beside `path`, because the COG driver copies whole rasters only;
    no more than some chunks are in memory. `path` is replaced at the end or, where anything fails, left as it was.

    Overviews of labels hold the mode of the 2 x 2 pixels of the level below. Nodata does not vote, unless alone; of
    equally frequent classes that wins which reaches its count first in reading order (so GDAL 3.10 does, for even
    sizes). Confidence is decimated by nearest neighbour.

    Parameters
    ----------
    variable
        ``labels``, or ``confidence``.
    legend
        Names and colours of the classes; None leaves both out.
    tags
        Metadata of the file, such as title and licence.
    threads
        Threads that compress; None takes all cores.

    Returns
    -------
    dict
        Checksums of the pixels as the store gave them, window by window, by which `verify_cog` knows them again.
    """
    path, profile = Path(path), _profile(store, variable)
    halve, sums = _halve(store, variable), Sums()
    with (
        filling_cog(path, profile, resampling=_RESAMPLING[variable], threads=threads) as target,
        filling_overviews(Path(target.name), profile, _halvings(store)) as overviews,
    ):
        if legend is not None:
            target.write_colormap(1, {i: tuple(map(int, rgba)) for i, rgba in enumerate(legend.rgba(store.dtype.name))})
        target.set_band_description(1, variable)
        target.update_tags(**(tags or {}))
        for window in store.strips():
            pixels = _read(store, variable, window)
            sums[window] = crc32(pixels.data)
            target.write(pixels, 1, window=raster_window(window))
            write_halved(overviews, window, pixels, halve)
    sidecar = path.with_name(f"{path.name}.aux.xml")
    if legend is None:
        sidecar.unlink(missing_ok=True)
    else:
        with whole(sidecar) as names:
            names.write_bytes(_category_names(legend))
    return sums


@contextmanager
def filling_cog(
    path: Path, profile: Mapping[str, Any], *, resampling: str, threads: int | None = None
) -> Iterator[DatasetWriter]:
    """Give a dataset to write pixels into, in any order, which becomes the COG `path` at the end.

    It holds exact statistics of each band, so that nobody who opens it has to read it through. Where anything fails,
    `path` is left as it was.

    Parameters
    ----------
    profile
        Of the pixels and their grid, as `grid_profile` makes it.
    resampling
        How GDAL makes the overviews; ``AVERAGE`` for what can be averaged.
    threads
        Threads that compress; None takes all cores.
    """
    with tempfile.TemporaryDirectory(dir=path.parent, prefix=f".{path.name}.") as folder, _gdal():
        plain, cog = Path(folder) / "plain.tif", Path(folder) / "cog.tif"
        with rasterio.open(plain, "w", **profile) as target:
            yield target
        # Neighbouring values of an image are near each other, neighbouring ids are not.
        predictor = "YES" if resampling == "AVERAGE" else "NO"
        rasterio.shutil.copy(
            plain, cog, driver="COG", compress="DEFLATE", predictor=predictor, blocksize=_block_px(profile["width"]),
            bigtiff="IF_SAFER", overview_resampling=resampling, statistics="YES",
            num_threads=str(threads or "ALL_CPUS"),
        )  # fmt: skip
        os.replace(cog, path)


def _block_px(width: int) -> int:
    # A file exactly one tile wide is taken for one in rows by rasterio, and so refused by the validation.
    return BLOCK_PX // 2 if width == BLOCK_PX else BLOCK_PX


def _halvings(store: LabelStore) -> int:
    """Return how many overviews are made of the pixels as they are written; where none, GDAL makes those it wants."""
    count = count_halvings(store.shape, _block_px(store.shape[1])) or 0
    return count if fits_halvings(store.strips(), count) else 0


def _halve(store: LabelStore, variable: Variable) -> Halve:
    if variable == "labels":
        return partial(reduce_mode, nodata=store.nodata)
    return lambda confidence: confidence[::2, ::2]


def _profile(store: LabelStore, variable: Variable) -> dict[str, Any]:
    if variable == "labels":
        return grid_profile(store.geobox, dtype=store.dtype.name, nodata=store.nodata)
    return grid_profile(store.geobox, dtype="uint8", nodata=CONFIDENCE_NODATA)


def grid_profile(geobox: GeoBox, *, dtype: str, nodata: float, count: int = 1) -> dict[str, Any]:
    """Return how rasterio creates the temporary file of a COG of so many bands."""
    return {
        "driver": "GTiff",
        "height": int(geobox.shape[0]),
        "width": int(geobox.shape[1]),
        "count": count,
        "dtype": dtype,
        "nodata": nodata,
        "crs": None if geobox.crs is None else geobox.crs.to_wkt(),
        "transform": geobox.transform,
        "tiled": True,
        "blockxsize": BLOCK_PX,
        "blockysize": BLOCK_PX,
        # Read once and thrown away: as fast as can be.
        "compress": "ZSTD",
        "zstd_level": 1,
        "bigtiff": "YES",
    }


@contextmanager
def _gdal() -> Iterator[None]:
    """Bound GDAL's cache, and keep quiet about scenes that have no georeference: that is their user's choice."""
    with rasterio.Env(GDAL_CACHEMAX=_CACHE_MB), warnings.catch_warnings():
        warnings.simplefilter("ignore", NotGeoreferencedWarning)
        yield


def _read(store: LabelStore, variable: Variable, window: Window) -> NDArray[Any]:
    return store.read(window) if variable == "labels" else store.read_confidence(window)


def _category_names(legend: Legend) -> bytes:
    """Return GDAL's auxiliary XML: names by position, from 0 to the highest id, empty where an id is not in use."""
    root = ElementTree.Element("PAMDataset")
    band = ElementTree.SubElement(root, "PAMRasterBand", band="1")
    categories = ElementTree.SubElement(band, "CategoryNames")
    names = {each.id: each.name for each in legend.classes}
    for class_id in range(max(names, default=-1) + 1):
        ElementTree.SubElement(categories, "Category").text = names.get(class_id, "")
    ElementTree.indent(root)
    text: bytes = ElementTree.tostring(root, encoding="utf-8")
    return text


def verify_cog(path: str | Path, store: LabelStore, *, variable: Variable = "labels", sums: Sums | None = None) -> None:
    """Check that `path` is a valid COG and holds, pixel by pixel, what the store holds.

    Validity alone proves little: a COG without any data is valid. The file is read through; the store is where there
    are no `sums` of what it gave when the file was written, and where they differ from the file's.

    Raises
    ------
    RunFailedError
        The layout is wrong, the file cannot be read through, or grid, CRS, nodata or pixels differ.
    """
    with checked_cog(Path(path)) as source:
        _compare(Path(path), source, store, variable, sums or {})


@contextmanager
def checked_cog(path: Path) -> Iterator[DatasetReader]:
    """Open a COG of valid layout; raises RunFailedError where it is not one or a part of it cannot be read."""
    try:
        with _gdal():
            valid, errors, faults = cog_validate(path, strict=True, quiet=True)
            if not valid:
                raise RunFailedError(f"{path}: not a valid COG ({'; '.join([*errors, *faults])}); run again")
            with rasterio.open(path) as source:
                yield source
    except RasterioError as error:
        reason = " ".join(str(error.__cause__ or error).split())
        raise RunFailedError(f"{path}: cannot be read ({reason}); run again to write it anew") from error


def _compare(path: Path, source: Any, store: LabelStore, variable: Variable, sums: Sums) -> None:
    expected = _profile(store, variable)
    found = {name: source.profile[name] for name in ("height", "width", "count", "dtype", "nodata")}
    for name, value in found.items():
        if value != expected[name]:
            raise RunFailedError(f"{path}: {name} must be {expected[name]}; got {value}; run again to write it anew")
    if not np.allclose(source.transform, expected["transform"], rtol=1e-12, atol=1e-12):
        raise RunFailedError(f"{path}: transform must be {tuple(expected['transform'])}; got {tuple(source.transform)}")
    if (source.crs is None) != (expected["crs"] is None):
        raise RunFailedError(f"{path}: CRS must be {expected['crs']}; got {source.crs}; run again to write it anew")
    for window in store.strips():
        pixels = source.read(1, window=raster_window(window))
        if sums.get(window) == crc32(pixels.data):
            continue
        wrong = pixels != _read(store, variable, window)
        if wrong.any():
            y, x = np.argwhere(wrong)[0] + (window.y0, window.x0)
            raise RunFailedError(
                f"{path}: differs from {store.path} at {int(wrong.sum())} pixels of {tuple(window)}, "
                f"first at y={y}, x={x}; run again to write it anew"
            )
