"""GeoTIFF files, opened with suspicion: only by the GeoTIFF driver, only whole, only from disks and our object stores.

GDAL opens much that is not an image (virtual rasters name other files, drivers fetch from the network), and opens
truncated downloads without a word. A file is therefore checked before GDAL sees it, opened by one driver, without its
sidecar files, and its blocks are compared with its size. What GDAL reads is so exactly what was fingerprinted.
"""

from __future__ import annotations

import os
import threading
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import rasterio
from affine import Affine
from numpy.typing import NDArray
from rasterio.enums import Interleaving, MaskFlags
from rasterio.errors import NotGeoreferencedWarning, RasterioError
from rasterio.windows import Window as RasterioWindow

from pipeline import files, objects
from pipeline.bands import BandProfile
from pipeline.blocks import Window
from pipeline.errors import InputError

MAGICS = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
"""First bytes of TIFF and BigTIFF, little and big endian."""
MAX_SIDE_PX = 1 << 24
MAX_BANDS = 256
MAX_BLOCK_BYTES = 1 << 29
MAX_CHECKED_BLOCKS = 20_000
MAX_OPEN_FILES = 24
"""Files that a process keeps open though nobody reads them, each with a tile at least; a window of a mosaic rarely
touches half as many."""
_READ_PX = 1 << 20
"""Pixels that are read at a time where a whole file is thinned out, unless a block has more."""

_WARNINGS_LOCK = threading.Lock()
_IDLE: list[tuple[tuple[Any, ...], rasterio.DatasetReader]] = []
_IDLE_LOCK = threading.Lock()


@dataclass(frozen=True)
class RasterHeader:
    """What a GeoTIFF says about itself, read once.

    Attributes
    ----------
    path
        Absolute path.
    shape
        Height and width in pixels.
    affine
        From pixel corners ``(x, y)`` to coordinates of `crs`.
    crs_wkt
        The CRS as WKT, or None.
    profile
        Its bands: count, dtype, names.
    nodata
        The nodata tag, or None.
    has_mask
        Whether the file carries a validity mask that is neither alpha nor nodata.
    tag_datetime
        The TIFF tag DateTime as found, or None.
    """

    path: Path
    shape: tuple[int, int]
    affine: Affine
    crs_wkt: str | None
    profile: BandProfile
    nodata: float | None
    has_mask: bool
    tag_datetime: str | None

    @property
    def dtype(self) -> np.dtype[Any]:
        """The dtype of all bands."""
        return np.dtype(self.profile.dtype)

    @property
    def georeferenced(self) -> bool:
        """Whether the file says where it lies."""
        return self.crs_wkt is not None or self.affine != Affine.identity()


def check_file(path: Path) -> None:
    """Raise InputError unless `path` is a regular file, or an object, that begins like a TIFF."""
    text = objects.to_text(path)
    if text.startswith("/vsi") and not objects.is_object(path):
        raise InputError(f"{text}: GDAL's virtual file systems are not opened; give a local GeoTIFF")
    try:
        if not files.exists(path):
            raise InputError(f"{text}: no such file; check the path")
        if not files.is_file(path):
            raise InputError(f"{text}: is not a regular file; give a GeoTIFF")
        start = files.read_start(path, 64)
    except OSError as error:
        raise InputError(f"{text}: cannot be read ({error.strerror or error}); check its permissions") from error
    if not start:
        raise InputError(f"{text}: is empty (0 bytes), a GeoTIFF was expected; copy or download it again")
    if not start.startswith(MAGICS):
        what = "an XML or VRT file" if start.lstrip().startswith(b"<") else f"begins with {start[:4]!r}"
        raise InputError(f"{text}: is not a raster that is read here ({what}); give GeoTIFF files (.tif)")


def inspect_raster(path: Path) -> RasterHeader:
    """Read a GeoTIFF's header and check that the file is whole and of reasonable size.

    Raises
    ------
    InputError
        If the file is missing, no GeoTIFF, damaged, truncated, or of a kind that is not read.
    """
    path = Path(os.path.abspath(path))  # links are kept: errors name the path that the user gave
    check_file(path)
    try:
        with _open(path) as source:
            header = _header(path, source)
            _check_size(path, source)
            _check_whole(path, source)
    except RasterioError as error:
        raise InputError(f"{path}: cannot be opened as a GeoTIFF ({_one_line(error)}); copy it again") from error
    _check_georeference(header)
    return header


def _header(path: Path, source: rasterio.DatasetReader) -> RasterHeader:
    if source.count < 1 or source.count > MAX_BANDS:
        raise InputError(
            f"{path}: has {source.count} bands, 1 to {MAX_BANDS} are read; select some with gdal_translate"
        )
    dtypes = sorted(set(source.dtypes))
    if len(dtypes) > 1 or np.dtype(dtypes[0]).kind not in "uif":
        raise InputError(f"{path}: holds {', '.join(dtypes)}, one integer or float type was expected; convert it")
    if source.gcps[0] and source.transform == Affine.identity():
        raise InputError(f"{path}: is placed by ground control points only; warp it to a grid first (gdalwarp)")
    flags = source.mask_flag_enums[0]
    return RasterHeader(
        path=path,
        shape=(source.height, source.width),
        affine=source.transform,
        crs_wkt=source.crs.to_wkt() if source.crs else None,
        profile=BandProfile(
            label=str(path),
            count=source.count,
            dtype=dtypes[0],
            interps=tuple(interp.name for interp in source.colorinterp),
            descriptions=tuple(source.descriptions),
        ),
        nodata=source.nodata,
        has_mask=MaskFlags.per_dataset in flags and MaskFlags.alpha not in flags,
        tag_datetime=source.tags().get("TIFFTAG_DATETIME"),
    )


def _check_size(path: Path, source: rasterio.DatasetReader) -> None:
    if max(source.shape) > MAX_SIDE_PX:
        raise InputError(f"{path}: is {source.shape} px, at most {MAX_SIDE_PX} px a side are read; check the file")
    block_y, block_x = source.block_shapes[0]
    bands = source.count if source.interleaving == Interleaving.pixel else 1
    n_bytes = block_y * block_x * bands * np.dtype(source.dtypes[0]).itemsize
    if n_bytes > MAX_BLOCK_BYTES:
        raise InputError(
            f"{path}: its blocks of {block_y} x {block_x} px take {n_bytes >> 20} MiB each, at most "
            f"{MAX_BLOCK_BYTES >> 20} MiB are read; rewrite it tiled (gdal_translate -of COG)"
        )


def _check_whole(path: Path, source: rasterio.DatasetReader) -> None:
    size = files.look_at(path).size
    bands = [1] if source.interleaving == Interleaving.pixel else list(source.indexes)
    needed = max((_end_of_data(source, band, max(1, MAX_CHECKED_BLOCKS // len(bands))) for band in bands), default=0)
    if needed > size:
        raise InputError(
            f"{path}: is truncated: it has {size} bytes and its pixels end at byte {needed}; copy or download it again"
        )


def _end_of_data(source: rasterio.DatasetReader, band: int, max_blocks: int) -> int:
    """Return the last byte that the blocks of a band claim; a strided choice of blocks where there are many."""
    block_y, block_x = source.block_shapes[band - 1]
    n_y, n_x = -(-source.height // block_y), -(-source.width // block_x)
    step = max(1, n_y * n_x // max_blocks)
    blocks = {*range(0, n_y * n_x, step), n_y * n_x - 1}
    return max(_block_end(source, band, block // n_x, block % n_x) for block in blocks)


def _block_end(source: rasterio.DatasetReader, band: int, iy: int, ix: int) -> int:
    offset = source.get_tag_item(f"BLOCK_OFFSET_{ix}_{iy}", "TIFF", bidx=band)
    size = source.get_tag_item(f"BLOCK_SIZE_{ix}_{iy}", "TIFF", bidx=band)
    # A sparse file leaves out blocks of nodata: they claim nothing.
    return int(offset) + int(size) if offset and size else 0


def _check_georeference(header: RasterHeader) -> None:
    if header.georeferenced or objects.is_object(header.path):
        return
    for suffix in (".tfw", ".tifw", ".wld", ".TFW"):
        world = header.path.with_suffix(suffix)
        if world.exists():
            raise InputError(
                f"{header.path}: has no georeference of its own and world files ({world.name}) are not read; "
                "write it into the file (gdal_translate -of COG)"
            )


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())


@contextmanager
def _quiet_open() -> Iterator[None]:
    # A file without georeference is no accident here; the filters are global to the process, hence the lock.
    with _WARNINGS_LOCK, warnings.catch_warnings():
        warnings.simplefilter("ignore", NotGeoreferencedWarning)
        yield


def _open(path: Path, **options: Any) -> rasterio.DatasetReader:
    if objects.is_object(path):
        objects.prepare_gdal()
    # Without sidecar files: what is read is what was checked and fingerprinted.
    with _quiet_open(), rasterio.Env(GDAL_DISABLE_READDIR_ON_OPEN="EMPTY_DIR", GDAL_PAM_ENABLED="NO"):
        return rasterio.open(path, driver="GTiff", **options)


@contextmanager
def lent(path: Path) -> Iterator[rasterio.DatasetReader]:
    """Lend an open handle of `path`, opened again where the file has changed.

    No two threads may use a GDAL handle at once. Those that nobody uses are kept for any thread, the `MAX_OPEN_FILES`
    used last, with the tiles that GDAL has decoded: windows beside each other share some.
    """
    key = (os.getpid(), str(path), *files.look_at(path))
    handle = _take_idle(key)
    if handle is None:
        check_file(path)
        handle = _open(path)
    try:
        yield handle
    except BaseException:
        handle.close()
        raise
    with _IDLE_LOCK:
        _IDLE.append((key, handle))
        surplus = _IDLE[:-MAX_OPEN_FILES]
        del _IDLE[:-MAX_OPEN_FILES]
    for _, old in surplus:
        old.close()


def close_idle() -> None:
    """Close the files that nobody reads, where no window near those that were read will be asked for."""
    with _IDLE_LOCK:
        idle = _IDLE[:]
        _IDLE.clear()
    for _, handle in idle:
        handle.close()


def _take_idle(key: tuple[Any, ...]) -> rasterio.DatasetReader | None:
    with _IDLE_LOCK:
        for at in range(len(_IDLE) - 1, -1, -1):
            if _IDLE[at][0] == key:
                return _IDLE.pop(at)[1]
    return None


def read_bands(path: Path, indexes: tuple[int, ...], window: Window, into: NDArray[Any] | None = None) -> NDArray[Any]:
    """Read full-resolution pixels; `into` an array of their shape and dtype, or a part of one, if that is given.

    Returns
    -------
    ndarray
        ``(band, y, x)`` of the window's shape, which must lie inside the file.

    Raises
    ------
    OSError
        If the pixels cannot be read; names the file.
    """
    with _named_errors(path), lent(path) as source:
        data: NDArray[Any] = source.read(indexes, window=raster_window(window), out=into)
        return data


def read_mask(path: Path, window: Window) -> NDArray[np.bool_]:
    """Read the file's own validity mask, ``(y, x)`` bool."""
    with _named_errors(path), lent(path) as source:
        mask: NDArray[np.uint8] = source.read_masks(1, window=raster_window(window))
        return mask > 0


def read_decimated(path: Path, indexes: tuple[int, ...], step: int) -> NDArray[Any]:
    """Read about one pixel in `step` of a whole file, ``(band, y, x)``, from overviews where it has them."""
    with _named_errors(path), _coarsest(path, step) as (source, shape):
        return _thin(source, shape, lambda window: source.read(indexes, window=window))


def read_decimated_mask(path: Path, step: int) -> NDArray[np.bool_]:
    """Read the file's own validity mask on the pixels of `read_decimated`."""
    with _named_errors(path), _coarsest(path, step) as (source, shape):
        mask: NDArray[np.bool_] = _thin(source, shape, lambda w: source.read_masks(1, window=w)[np.newaxis] > 0)
        return mask.reshape(shape)


@contextmanager
def _coarsest(path: Path, step: int) -> Iterator[tuple[rasterio.DatasetReader, tuple[int, int]]]:
    """Give the coarsest overview of a file that has a pixel for each `step`, and the shape of what is wanted.

    The file is closed at the end: a view looks at each once, and the tiles of all would stay in memory.
    """
    check_file(path)
    with _open(path) as source:
        shape = -(-source.height // step), -(-source.width // step)
        levels = [level for level, factor in enumerate(source.overviews(1)) if factor <= step]
        if not levels:
            yield source, shape
            return
    with _open(path, overview_level=levels[-1]) as overview:
        yield overview, shape


def _thin(
    source: rasterio.DatasetReader, shape: tuple[int, int], read: Callable[[RasterioWindow], NDArray[Any]]
) -> NDArray[Any]:
    """Pick the pixels in the middle of the cells of `shape`, which is what GDAL takes for the nearest ones.

    GDAL itself would decode a tile of several bands anew for each row of pixels: some hundred times as long.
    """
    rows, columns = (
        ((np.arange(count) + 0.5) * size / count + 1e-10).astype(int)
        for count, size in zip(shape, (source.height, source.width), strict=True)
    )
    parts = []
    for y0, y1 in _spans(source.height, max(1, _READ_PX // source.width), source.block_shapes[0][0]):
        chosen = rows[np.searchsorted(rows, y0) : np.searchsorted(rows, y1)]
        if len(chosen):
            strip = read(RasterioWindow(0, y0, source.width, y1 - y0))
            parts.append(strip[:, chosen - y0][..., columns])
    return np.concatenate(parts, axis=1)


def _spans(size: int, wanted: int, unit: int) -> Iterator[tuple[int, int]]:
    """Divide a side into parts of whole blocks, of about as many pixels as wanted."""
    step = max(1, wanted // unit) * unit
    return ((start, min(start + step, size)) for start in range(0, size, step))


def raster_window(window: Window) -> RasterioWindow:
    """Return a window as rasterio has it."""
    return RasterioWindow(window.x0, window.y0, window.shape[1], window.shape[0])


@contextmanager
def _named_errors(path: Path) -> Iterator[None]:
    try:
        yield
    except RasterioError as error:
        detail = _one_line(error.__cause__ if isinstance(error.__cause__, Exception) else error)
        raise OSError(f"{path}: pixels cannot be read, the file is damaged ({detail}); copy it again") from error
