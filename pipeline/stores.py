"""The Zarr stores: labels and confidence of a scene, and the raw labels of its blocks.

Chunks are files of their own (no shards): processes that write different chunks never touch the same file, and lose
nothing. Unwritten chunks have no file and read as nodata.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, Literal, Self

import numpy as np
import xarray as xr
import zarr
from affine import Affine
from numpy.typing import NDArray
from odc.geo.geobox import GeoBox
from odc.geo.xr import xr_coords
from zarr.codecs import ZstdCodec
from zarr.errors import ZarrUserWarning

from pipeline.blocks import Block, BlockGrid, Window
from pipeline.errors import DamagedError, InputError
from pipeline.formats import FIRST, require_version
from pipeline.legend import Legend
from pipeline.record import redact

Labels = NDArray[np.uint8] | NDArray[np.uint16]

NODATA = {"uint8": 255, "uint16": 65535, "uint32": 4_294_967_295}
"""Label of pixels without class, by dtype; those of 32 bits are pairs of labels of 16."""

CONFIDENCE_NODATA = 255
GRID_MAPPING = "spatial_ref"
CONVENTIONS = "CF-1.11"
FORMAT_ATTRIBUTE, FORMAT_VERSION = "ktextures_format", 1
"""Attribute of a store that says of what format it is."""
LEVELS = "levels"
"""Group of the coarser levels."""


def store_attributes(
    *,
    title: str,
    sources: Sequence[str | Path],
    k: int,
    settings_digest: str,
    created: datetime,
    licence: str | None = None,
    attribution: str | None = None,
) -> dict[str, Any]:
    """Return the global attributes of a store, by the names of CF and ACDD; credentials in addresses are hidden."""
    attrs = {
        FORMAT_ATTRIBUTE: FORMAT_VERSION,
        "title": title,
        "source": [redact(str(each)) for each in sources],
        "k": k,
        "settings_digest": settings_digest,
        "history": f"{created.isoformat(timespec='seconds')} made by ktextures",
        "license": licence,
        "attribution": attribution,
    }
    return {name: value for name, value in attrs.items() if value is not None}


def create_labels(
    path: str | Path,
    geobox: GeoBox,
    *,
    chunk_px: int = 512,
    dtype: Literal["uint8", "uint16", "uint32"] = "uint8",
    attrs: Mapping[str, Any],
) -> None:
    """Make an empty store of labels: ``labels`` and ``confidence`` ``(y, x)``, all nodata.

    Opened with xarray's defaults, the variables are integers: nodata is told by the attribute ``nodata``, which
    rioxarray and odc-geo read and by which xarray does not mask. The CRS is found, too.

    Parameters
    ----------
    path
        Directory of the store; must not exist.
    geobox
        Grid of the scene. Without CRS, the geotransform alone is stored.
    chunk_px
        Side of a chunk in pixels.
    dtype
        ``uint8`` (nodata 255) or ``uint16`` (nodata 65535) of the labels. Confidence is always uint8, 0..200,
        nodata 255.
    attrs
        Global attributes, as `store_attributes` makes them.

    Raises
    ------
    FileExistsError
        There is something at `path`.
    """
    if Path(path).exists():
        raise FileExistsError(f"`path` of a new store must not exist; got {path}")
    if dtype not in NODATA:
        raise ValueError(f"`dtype` must be one of {sorted(NODATA)}; got {dtype!r}")
    if chunk_px < 1:
        raise ValueError(f"`chunk_px` must be positive; got {chunk_px}")
    dataset = xr.Dataset(coords=grid_coordinates(geobox), attrs={"Conventions": CONVENTIONS, **attrs})
    dataset.to_zarr(path, mode="w-", zarr_format=3, consolidated=False)
    group = zarr.open_group(path, mode="r+")
    shape = (int(geobox.shape[0]), int(geobox.shape[1]))
    add_rasters(group, {"y": shape[0], "x": shape[1]}, chunk_px=chunk_px, dtype=dtype)
    consolidate(path)


def grid_coordinates(geobox: GeoBox) -> dict[str, xr.DataArray]:
    """Return pixel centres `y` and `x`, and the CF grid mapping; odc-geo leaves the last out where there is no CRS."""
    coords: dict[str, xr.DataArray] = {
        str(name): each.drop_vars(GRID_MAPPING, errors="ignore")
        for name, each in xr_coords(geobox, dims=("y", "x"), crs_coord_name=GRID_MAPPING).items()
    }
    if GRID_MAPPING not in coords:
        a, b, c, d, e, f = tuple(geobox.transform)[:6]
        coords[GRID_MAPPING] = xr.DataArray(
            0, attrs={"GeoTransform": " ".join(repr(float(v)) for v in (c, a, b, f, d, e))}
        )
    for axis in ("y", "x"):
        # The pixel size lies in GeoTransform; a CRS given twice can only come to differ.
        coords[axis].attrs = {k: v for k, v in coords[axis].attrs.items() if k not in {"crs", "resolution"}}
        coords[axis].encoding["_FillValue"] = None
    return coords


def add_rasters(
    group: zarr.Group, sizes: Mapping[str, int], *, chunk_px: int, dtype: str, legend: Legend | None = None
) -> None:
    """Add ``labels`` and ``confidence``, all nodata, to a group that has its coordinates.

    Parameters
    ----------
    sizes
        Dimensions and their sizes: ``y`` and ``x`` last; a chunk is one step of any other.
    legend
        Classes, written as CF flags; None where they are not known yet.
    """
    labels = {"long_name": "texture class", "ancillary_variables": "confidence", **flags(legend)}
    confidence = {"long_name": "confidence of the label", "comment": "0..200; 200 is certain", "valid_range": [0, 200]}
    add_raster(group, "labels", sizes, chunk_px, dtype, labels)
    add_raster(group, "confidence", sizes, chunk_px, "uint8", confidence)


def add_raster(
    group: zarr.Group, name: str, sizes: Mapping[str, int], chunk_px: int, dtype: str, attrs: Mapping[str, Any]
) -> zarr.Array[Any]:
    """Add one array, all nodata, with the attributes by which xarray finds its CRS."""
    # Unwritten chunks read as `fill_value`. With `_FillValue` xarray would mask, and make floats of classes.
    return group.create_array(
        name,
        shape=tuple(sizes.values()),
        chunks=tuple(min(chunk_px, size) if dim in {"y", "x"} else 1 for dim, size in sizes.items()),
        dtype=dtype,
        fill_value=NODATA[dtype],
        compressors=ZstdCodec(level=3, checksum=True),
        dimension_names=tuple(sizes),
        attributes={
            **attrs,
            "nodata": NODATA[dtype],
            "grid_mapping": GRID_MAPPING,
            "chunk_px": chunk_px,
        },
    )


def write_pixels(array: zarr.Array[Any], place: tuple[int | slice, ...], values: NDArray[Any]) -> None:
    """Write into an array; chunks of nodata alone get no file."""
    if not (values == array.fill_value).any():
        # Zarr would compare each chunk with one of nodata: a fifth of what writing takes.
        array = array.with_config({"write_empty_chunks": True})
    array[place] = values


def consolidate(path: str | Path) -> None:
    """Gather the metadata of all arrays in the group's own: readers then open the store with one read."""
    with warnings.catch_warnings():
        # Zarr warns that format 3 does not specify this yet; xarray reads it, and opens without it as well.
        warnings.simplefilter("ignore", ZarrUserWarning)
        zarr.consolidate_metadata(path)


def set_legend(path: str | Path, legend: Legend) -> None:
    """Write the classes into the store as CF flags, once they are known; replaces those that were there."""
    store = LabelStore.open(path, "r+")
    for array in [store.array(), *store.levels()]:
        array.update_attributes(flags(legend))
    consolidate(path)


def label_attributes(store: LabelStore) -> dict[str, Any]:
    """Return what the labels of a store say of their values, for another array of the same classes."""
    attrs = store.array().attrs
    return {name: attrs[name] for name in ("long_name", *flags(Legend(()))) if name in attrs}


def flags(legend: Legend | None) -> dict[str, Any]:
    """Return the attributes of CF that name and colour the values of an array; none without a legend."""
    if legend is None:
        return {}
    return {
        "flag_values": legend.ids,
        "flag_meanings": " ".join(legend.tokens),
        "flag_colors": " ".join(each.colour for each in legend.classes),
    }


def _array(group: zarr.Group, name: str) -> zarr.Array[Any]:
    found = group[name]
    if not isinstance(found, zarr.Array):
        raise TypeError(f"{name} must be an array; got {type(found).__name__}")
    return found


def _open_group(path: str | Path, mode: Literal["r", "r+"], names: set[str]) -> zarr.Group:
    try:
        group = zarr.open_group(path, mode=mode, use_consolidated=False)
        missing = sorted(names - set(group.array_keys()))
    except (OSError, KeyError, ValueError) as error:
        raise InputError(
            f"{path}: is no readable Zarr store ({type(error).__name__}); give the store of a run"
        ) from error
    require_version(path, group.attrs.get(FORMAT_ATTRIBUTE, FIRST), FORMAT_VERSION)
    if missing:
        raise InputError(f"{path}: has no array {', '.join(missing)}; expected a store made by ktextures")
    return group


@dataclass(frozen=True)
class LabelStore:
    """A store of labels, open for reading (``r``) or for reading and writing (``r+``)."""

    path: Path
    group: zarr.Group

    @classmethod
    def open(cls, path: str | Path, mode: Literal["r", "r+"] = "r") -> Self:
        """Open a store; raises InputError where there is none."""
        return cls(Path(path), _open_group(path, mode, {"labels", "confidence", GRID_MAPPING}))

    @property
    def shape(self) -> tuple[int, int]:
        """Height and width of the scene in pixels."""
        height, width = _array(self.group, "labels").shape[-2:]
        return height, width

    @property
    def chunk_px(self) -> int:
        """Side of a chunk in pixels."""
        return int(_array(self.group, "labels").attrs["chunk_px"])  # type: ignore[arg-type]

    @property
    def dtype(self) -> np.dtype[Any]:
        """uint8 or uint16: that of the labels."""
        return np.dtype(_array(self.group, "labels").dtype)

    @property
    def nodata(self) -> int:
        """Label of pixels without class."""
        return NODATA[self.dtype.name]

    @property
    def geobox(self) -> GeoBox:
        """Grid of the scene."""
        attrs = _array(self.group, GRID_MAPPING).attrs
        numbers = [float(number) for number in str(attrs["GeoTransform"]).split()]
        return GeoBox(self.shape, Affine.from_gdal(*numbers), attrs.get("crs_wkt"))

    def array(self, variable: str = "labels") -> zarr.Array[Any]:
        """Return the array ``labels`` or ``confidence``."""
        return _array(self.group, variable)

    def levels(self) -> list[zarr.Array[Any]]:
        """Return the labels of the coarser levels, each half the one before it; none where they are not made."""
        if LEVELS not in self.group:
            return []
        count = len(list(self.group.require_group(LEVELS).group_keys()))
        return [_array(self.group, f"{LEVELS}/{level}/labels") for level in range(1, count + 1)]

    def is_sound(self, window: Window) -> bool:
        """Whether every chunk of a window can be read; chunks carry checksums."""
        try:
            self.read(window)
            self.read_confidence(window)
        except (OSError, RuntimeError, ValueError):
            return False
        return True

    def read(self, window: Window) -> Labels:
        """Return the labels of any window, ``(y, x)`` uint8 or uint16; nodata where nothing was written."""
        labels: Labels = np.asarray(self.array()[window.slices])
        return labels

    def read_confidence(self, window: Window) -> NDArray[np.uint8]:
        """Return the confidence of any window, ``(y, x)`` uint8, 0..200; 255 where nothing was written."""
        confidence: NDArray[np.uint8] = np.asarray(self.array("confidence")[window.slices])
        return confidence

    def write(self, window: Window, labels: Labels, confidence: NDArray[np.uint8]) -> None:
        """Write whole chunks. Any number of processes may do so at once, in different chunks.

        Raises
        ------
        ValueError
            The window is not made of whole chunks (or ends elsewhere than at the scene's edge), or the arrays do
            not fit it. Parts of chunks are refused because two writers of one chunk would lose pixels, silently.
        """
        self._check(window)
        for name, data, dtype in (("labels", labels, self.dtype), ("confidence", confidence, np.dtype(np.uint8))):
            if data.shape != window.shape or data.dtype != dtype:
                raise ValueError(f"`{name}` must be {window.shape} {dtype}; got {data.shape} {data.dtype}")
        write_pixels(self.array(), window.slices, labels)
        write_pixels(self.array("confidence"), window.slices, confidence)

    def _check(self, window: Window) -> None:
        px, (height, width) = self.chunk_px, self.shape
        starts = window.y0 % px == 0 and window.x0 % px == 0 and window.y0 >= 0 and window.x0 >= 0
        ends = all(
            end == size or (end % px == 0 and end < size) for end, size in ((window.y1, height), (window.x1, width))
        )
        if not (starts and ends and window.y0 < window.y1 and window.x0 < window.x1):
            raise ValueError(
                f"`window` must be whole chunks of {px} px in a scene of {self.shape}; got {tuple(window)}"
            )

    def strips(self, max_width_px: int = 16384, min_height_px: int = 512) -> Iterator[Window]:
        """Yield windows that partition the scene, one row of chunks or more high, in reading order."""
        (height, width), px = self.shape, self.chunk_px
        step_y = px * math.ceil(min_height_px / px)
        step_x = px * max(1, max_width_px // px)
        for y in range(0, height, step_y):
            for x in range(0, width, step_x):
                yield Window(y, x, min(y + step_y, height), min(x + step_x, width))


@dataclass(frozen=True)
class RawStore:
    """The labels that each block gave itself, before alignment: one chunk for each block, with its wide window.

    A block counts as written when its mark is, and the mark is written last: what a killed process left is not read.
    """

    path: Path
    grid: BlockGrid
    group: zarr.Group

    @classmethod
    def create(cls, path: str | Path, grid: BlockGrid) -> Self:
        """Make an empty store for the blocks of `grid`; raises FileExistsError where there is something."""
        if Path(path).exists():
            raise FileExistsError(f"`path` of a new store must not exist; got {path}")
        group = zarr.open_group(path, mode="w-", zarr_format=3, attributes={"grid": asdict(grid)})
        (ny, nx), (height, width) = grid.counts, grid.widest
        for name in ("labels", "margin"):
            group.create_array(
                name, shape=(ny * height, nx * width), chunks=(height, width), dtype="uint8", fill_value=255,
                compressors=ZstdCodec(level=1, checksum=True),
            )  # fmt: skip
        group.create_array("written", shape=(ny, nx), chunks=(1, 1), dtype="uint8", fill_value=0, compressors=None)
        return cls(Path(path), grid, group)

    @classmethod
    def open(cls, path: str | Path, grid: BlockGrid | None = None) -> Self:
        """Open a store for reading and writing.

        Raises
        ------
        InputError
            There is no such store, or it was made for another grid than `grid`.
        """
        group = _open_group(path, "r+", {"labels", "margin", "written"})
        found: Any = group.attrs["grid"]
        stored = BlockGrid(**{**found, "shape": tuple(found["shape"])})
        if grid is not None and grid != stored:
            raise InputError(f"{path}: holds the blocks of {stored}; expected {grid}; run again with --fresh")
        return cls(Path(path), stored, group)

    def write(self, block: Block, labels: NDArray[np.uint8], margin: NDArray[np.uint8]) -> None:
        """Write the labels and margins of a block's wide window, both ``(y, x)`` uint8; replaces what was there."""
        for name, data in (("labels", labels), ("margin", margin)):
            if data.shape != block.wide.shape or data.dtype != np.uint8:
                raise ValueError(
                    f"`{name}` must be {block.wide.shape} uint8 at block {block.index}; got {data.shape} {data.dtype}"
                )
        self._mark(block, 0)
        # A whole chunk at once is written without being read first.
        chunk = np.full(self.grid.widest, 255, np.uint8)
        for name, data in (("labels", labels), ("margin", margin)):
            chunk[: data.shape[0], : data.shape[1]] = data
            _array(self.group, name)[self._place(self.grid.widest, block)] = chunk
        self._mark(block, 1)

    def read(self, block: Block) -> tuple[NDArray[np.uint8], NDArray[np.uint8]] | None:
        """Return labels and margins of a block's wide window, ``(y, x)`` uint8 each; None where never written."""
        if not np.asarray(_array(self.group, "written")[block.index]):
            return None
        place = self._place(block.wide.shape, block)
        try:
            return np.asarray(_array(self.group, "labels")[place]), np.asarray(_array(self.group, "margin")[place])
        except (OSError, RuntimeError, ValueError) as error:  # what decompression raises depends on the damage
            raise DamagedError(
                f"{self.path}: labels of block {block.name} are damaged ({error})", block.name
            ) from error

    def forget(self, block: Block) -> None:
        """Count a block as never written."""
        self._mark(block, 0)

    def _mark(self, block: Block, value: int) -> None:
        _array(self.group, "written")[block.index] = value

    def _place(self, shape: tuple[int, int], block: Block) -> tuple[slice, slice]:
        y, x = (index * size for index, size in zip(block.index, self.grid.widest, strict=True))
        return slice(y, y + shape[0]), slice(x, x + shape[1])
