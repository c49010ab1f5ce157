"""Levels: the map at 1/2, 1/4, ... of its resolution, in groups of the store, by the most frequent class.

They follow the conventions of Zarr for multiscales, spatial and proj, whose versions are those named here.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import xarray as xr
import zarr
from affine import Affine
from numpy.typing import NDArray
from odc.geo.geobox import GeoBox

from pipeline.blocks import BlockGrid, Window
from pipeline.grids import name_crs
from pipeline.stores import (
    LEVELS,
    Labels,
    LabelStore,
    add_raster,
    consolidate,
    grid_coordinates,
    label_attributes,
    write_pixels,
)

SMALLEST_PX = 512
"""Levels are made until one is no larger than that."""
WORK_PX = 2048
"""Side of what is read at once."""
_STRIP_ROWS = 128
"""Rows that are reduced at once: few enough for the processor's caches."""

_RAW, _BLOB = "https://raw.githubusercontent.com", "https://github.com"


def _convention(name: str, uuid: str, home: str, description: str) -> dict[str, str]:
    return {
        "uuid": uuid,
        "name": name,
        "schema_url": f"{_RAW}/{home}/refs/tags/v1/schema.json",
        "spec_url": f"{_BLOB}/{home}/blob/v1/README.md",
        "description": description,
    }


MULTISCALES = _convention(
    "multiscales", "d35379db-88df-4056-af3a-620245f8e347", "zarr-conventions/multiscales", "Layout of the levels"
)
SPATIAL = _convention(
    "spatial:", "689b58e2-cf7b-45e0-9fff-9cfc0883d6b4", "zarr-conventions/spatial", "Where the pixels lie"
)
PROJ = _convention(
    "proj:", "f17cb550-5864-4468-aeb7-f3180cfb622f", "zarr-experimental/geo-proj", "Coordinate reference system"
)


def reduce_mode(labels: Labels, nodata: int) -> Labels:
    """Halve a map by the mode of each 2 x 2 pixels.

    Nodata does not vote, unless alone; of equally frequent classes that wins which reaches its count first in reading
    order, as in the overviews of the COG. An odd last row or column is a pixel of its own.

    Parameters
    ----------
    labels
        ``(y, x)``.

    Returns
    -------
    ndarray
        ``(ceil(y / 2), ceil(x / 2))``, of the same dtype.

    Examples
    --------
    >>> reduce_mode(np.array([[1, 2, 255], [2, 1, 255], [3, 255, 4]], np.uint8), 255)
    array([[  2, 255],
           [  3,   4]], dtype=uint8)
    """
    height, width = labels.shape
    even: NDArray[Any] = labels
    if height % 2 or width % 2:
        even = np.pad(labels, ((0, height % 2), (0, width % 2)), constant_values=nodata)
    strips = (even[y : y + _STRIP_ROWS] for y in range(0, height, _STRIP_ROWS))
    return np.concatenate([_elect(strip, nodata) for strip in strips])


def _elect(labels: NDArray[Any], nodata: int) -> NDArray[Any]:
    """Return the mode of each 2 x 2 pixels of a map of even sides."""
    votes = [np.ascontiguousarray(labels[y::2, x::2]) for y in (0, 1) for x in (0, 1)]
    won, most = votes[0].copy(), (votes[0] != nodata).view(np.uint8)
    for turn, vote in enumerate(votes[1:], 1):
        # How often a class has been voted for when its turn comes: the first to reach the highest count wins.
        count = (vote != nodata).view(np.uint8)
        count = count + sum((vote == earlier).view(np.uint8) * count for earlier in votes[:turn])
        np.copyto(won, vote, where=count > most)
        most = np.maximum(most, count)
    return won


def write_levels(store: LabelStore, *, work_px: int = WORK_PX, read: Callable[[Window], Labels] | None = None) -> None:
    """Write all levels of a map, in the place of those that are there, each from the one before it.

    Piece by piece: memory does not grow with the map. Their number and pixels do not depend on `work_px`. The labels
    are asked of `read`, window by window, where others want to see them on the way.
    """
    shutil.rmtree(store.path / LEVELS, ignore_errors=True)
    for level, geobox in enumerate(coarser(store.geobox), 1):
        sizes = {"y": int(geobox.shape[0]), "x": int(geobox.shape[1])}
        create_level(store, level, sizes, grid_coordinates(geobox))
    reduce_levels(store, work_px=work_px, read=read)
    group = zarr.open_group(store.path, mode="r+", use_consolidated=False)
    group.update_attributes(describe_levels(store.geobox))
    consolidate(store.path)


def coarser(geobox: GeoBox) -> list[GeoBox]:
    """Return the grids of the coarser levels, each half the one before it.

    Examples
    --------
    >>> [tuple(each.shape) for each in coarser(GeoBox((1300, 70), Affine.identity(), None))]
    [(650, 35), (325, 18)]
    """
    found = [geobox]
    while max(found[-1].shape) > SMALLEST_PX:
        found.append(half(found[-1]))
    return found[1:]


def create_level(store: LabelStore, level: int, sizes: Mapping[str, int], coords: Mapping[str, Any]) -> None:
    """Make the group of a level, all nodata, with the classes of the store."""
    name = f"{LEVELS}/{level}"
    xr.Dataset(coords=coords).to_zarr(store.path, group=name, mode="w", zarr_format=3, consolidated=False)
    group = zarr.open_group(store.path, path=name, mode="r+", use_consolidated=False)
    add_raster(group, "labels", sizes, store.chunk_px, store.dtype.name, label_attributes(store))


def reduce_levels(
    store: LabelStore,
    at: tuple[int, ...] = (),
    *,
    work_px: int = WORK_PX,
    read: Callable[[Window], Labels] | None = None,
) -> None:
    """Fill the levels of a store from its labels, as `read` gives them; of those at a place along other dimensions."""
    source = store.array()
    for target in LabelStore.open(store.path, "r+").levels():
        height, width = target.shape[-2:]
        for block in BlockGrid((height, width), work_px - work_px % store.chunk_px or work_px):
            y0, x0, y1, x1 = (2 * each for each in block.core)
            finer = Window(y0, x0, *(min(end, size) for end, size in zip((y1, x1), source.shape[-2:], strict=True)))
            there: tuple[int | slice, ...] = (*at, *finer.slices)
            here: tuple[int | slice, ...] = (*at, *block.core.slices)
            labels: Any = np.asarray(source[there]) if read is None else read(finer)
            write_pixels(target, here, reduce_mode(labels, store.nodata))
        source, read = target, None


def half(geobox: GeoBox) -> GeoBox:
    """Return the grid of pixels twice as large on each side, from the same corner.

    Examples
    --------
    >>> half(GeoBox((5, 4), Affine(5, 0, 100, 0, -5, 0), "EPSG:32618")).shape
    Shape2d(x=2, y=3)
    """
    height, width = geobox.shape
    return GeoBox(((height + 1) // 2, (width + 1) // 2), geobox.transform @ Affine.scale(2), geobox.crs)


def _describe(asset: str, geobox: GeoBox, derived_from: str | None = None) -> dict[str, Any]:
    scale = [1.0, 1.0] if derived_from is None else [2.0, 2.0]
    return {
        "asset": asset,
        **({} if derived_from is None else {"derived_from": derived_from, "resampling_method": "mode"}),
        "transform": {"scale": scale, "translation": [0.0, 0.0]},
        "spatial:shape": [int(size) for size in geobox.shape],
        "spatial:transform": [float(number) for number in tuple(geobox.transform)[:6]],
    }


def describe_levels(geobox: GeoBox) -> dict[str, Any]:
    """Return the attributes of a store on a grid by which readers of the conventions find its levels."""
    layout = [_describe("labels", geobox)]
    for level, each in enumerate(coarser(geobox), 1):
        layout.append(_describe(f"{LEVELS}/{level}/labels", each, derived_from=layout[-1]["asset"]))
    crs: dict[str, Any] = {}
    if geobox.crs is not None:
        name = str(name_crs(geobox))
        crs = {"proj:code": name} if ":" in name else {"proj:wkt2": geobox.crs.to_wkt()}
    return {
        "zarr_conventions": [MULTISCALES, SPATIAL, *([PROJ] if crs else [])],
        "multiscales": {"layout": layout, "resampling_method": "mode"},
        **crs,
        "spatial:dimensions": ["y", "x"],
        "spatial:bbox": [float(value) for value in geobox.boundingbox.bbox],
        "spatial:shape": layout[0]["spatial:shape"],
        "spatial:transform": layout[0]["spatial:transform"],
    }
