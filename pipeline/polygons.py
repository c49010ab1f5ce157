"""Polygons of a map: each patch of a class as one polygon, whatever blocks it lies in, streamed to a file.

Blocks are traced one after another. Parts that reach a border are kept, and joined once no more of them can come:
so what is held are the patches that are still growing, not the map. A polygon is written in one canonical form, which
does not tell how it was put together.
"""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import geopandas as gpd
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import rasterio.features
import shapely
from affine import Affine
from numpy.typing import NDArray
from odc.geo.geobox import GeoBox
from pyproj import CRS, Geod

from pipeline.blocks import BlockGrid, Tell, Window
from pipeline.cleanup import label_patches
from pipeline.errors import InputError
from pipeline.legend import Legend
from pipeline.results import LABELS, Result
from pipeline.stores import LabelStore
from pipeline.workspace import check_writable

Read = Callable[[Window], NDArray[Any]]
Patch = tuple[int, int]
"""A patch of a block: number of the block in reading order, number of the patch in it."""

BLOCK_PX = 1024
BATCH = 20_000
"""Polygons that are written at once."""
LONGEST_EDGE_M = 1000.0
FORMATS = (".parquet", ".gpkg")


@dataclass(frozen=True)
class Polygon:
    """A patch of one class: its geometry in pixels ``(x, y)``, and its first pixel in reading order."""

    class_id: int
    first: tuple[int, int]
    pixels: int
    geometry: shapely.Polygon


@dataclass
class _Parts:
    """What is known of a patch that may go on in another block."""

    class_id: int
    first: tuple[int, int]
    pixels: int
    parts: list[shapely.Polygon] = field(default_factory=list)

    def join(self, other: _Parts) -> None:
        self.first = min(self.first, other.first)
        self.pixels += other.pixels
        self.parts += other.parts

    def close(self) -> Polygon:
        return Polygon(self.class_id, self.first, self.pixels, canonical(self.parts))


def trace(
    read: Read, shape: tuple[int, int], nodata: int, *, block_px: int = BLOCK_PX, tell: Tell | None = None
) -> Iterator[Polygon]:
    """Yield the polygon of each patch of a map: pixels of one class that share sides.

    The same polygons for any `block_px`, in an order that differs.

    Parameters
    ----------
    read
        Returns the ``(y, x)`` labels of a window.
    """
    grid = BlockGrid(shape, block_px)
    grown = _Growing()
    above: dict[int, _Edge] = {}
    for number, block in enumerate(grid.each(tell)):
        window = block.core
        numbers, classes = label_patches(read(window), nodata)
        yield from grown.add(number, window, shape, numbers, classes)
        left = above.get(block.index[1] - 1) if block.index[1] else None
        if block.index[0]:
            grown.connect(above[block.index[1]].bottom, _Edge.of(number, numbers, classes).top)
        if left is not None:
            grown.connect(left.right, _Edge.of(number, numbers, classes).left)
        above[block.index[1]] = _Edge.of(number, numbers, classes)
        if block.index[1] == grid.counts[1] - 1:
            open_patches = {patch for edge in above.values() for patch in edge.bottom.patches()}
            yield from grown.close(set() if block.index[0] == grid.counts[0] - 1 else open_patches)


@dataclass(frozen=True)
class _Side:
    """The pixels along one side of a block: their patches and classes; patch 0 is none."""

    number: int
    patch: NDArray[np.int32]
    class_id: NDArray[Any]

    def patches(self) -> Iterator[Patch]:
        return ((self.number, int(i)) for i in np.unique(self.patch) if i)


@dataclass(frozen=True)
class _Edge:
    """The four sides of a block."""

    top: _Side
    bottom: _Side
    left: _Side
    right: _Side

    @classmethod
    def of(cls, number: int, numbers: NDArray[np.int32], classes: NDArray[Any]) -> Self:
        sides = numbers[0], numbers[-1], numbers[:, 0], numbers[:, -1]
        return cls(*(_Side(number, side.copy(), classes[side]) for side in sides))


class _Growing:
    """Patches that reach a border of their block, joined as their neighbours come."""

    def __init__(self) -> None:
        self._parent: dict[Patch, Patch] = {}
        self._parts: dict[Patch, _Parts] = {}

    def _root(self, patch: Patch) -> Patch:
        while self._parent[patch] != patch:
            self._parent[patch] = self._parent[self._parent[patch]]
            patch = self._parent[patch]
        return patch

    def add(
        self, number: int, window: Window, shape: tuple[int, int], numbers: NDArray[np.int32], classes: NDArray[Any]
    ) -> Iterator[Polygon]:
        """Trace a block; yields what lies within it, and keeps what reaches a border that has a neighbour."""
        height, width = shape
        inner = window.y1 < height, window.y0 > 0, window.x0 > 0, window.x1 < width
        sides = numbers[-1], numbers[0], numbers[:, 0], numbers[:, -1]
        open_patches = {int(i) for side, goes_on in zip(sides, inner, strict=True) if goes_on for i in np.unique(side)}
        counts = np.bincount(numbers.ravel(), minlength=len(classes))
        flat, at = np.unique(numbers, return_index=True)
        firsts = dict(zip(flat.tolist(), at.tolist(), strict=True))
        place = Affine.translation(window.x0, window.y0)
        for outline, value in rasterio.features.shapes(numbers, mask=numbers > 0, connectivity=4, transform=place):
            i = int(value)
            y, x = divmod(firsts[i], numbers.shape[1])
            part = _Parts(
                int(classes[i]), (window.y0 + y, window.x0 + x), int(counts[i]), [shapely.geometry.shape(outline)]
            )
            if i in open_patches:
                self._parent[number, i] = number, i
                self._parts[number, i] = part
            else:
                yield part.close()

    def connect(self, one: _Side, other: _Side) -> None:
        """Join the patches that meet along a border with the same class."""
        meet = (one.patch > 0) & (other.patch > 0) & (one.class_id == other.class_id)
        for mine, theirs in np.unique(np.stack([one.patch[meet], other.patch[meet]], axis=1), axis=0):
            a, b = self._root((one.number, int(mine))), self._root((other.number, int(theirs)))
            if a != b:
                self._parent[b] = a
                self._parts[a].join(self._parts.pop(b))

    def close(self, open_patches: set[Patch]) -> Iterator[Polygon]:
        """Yield the patches to which nothing can come any more."""
        alive = {self._root(patch) for patch in open_patches if patch in self._parent}
        for root in [root for root in self._parts if root not in alive]:
            yield self._parts.pop(root).close()
        # What is left is known by its roots, and by the patches that still lie at the border.
        self._parent = {patch: self._root(patch) for patch in open_patches if patch in self._parent} | {
            root: root for root in alive
        }


def canonical(parts: Sequence[shapely.Polygon]) -> shapely.Polygon:
    """Join the parts of a patch; the same polygon for the same pixels, however they were parted.

    Examples
    --------
    >>> canonical([shapely.box(0, 0, 1, 1), shapely.box(1, 0, 2, 1)]).wkt
    'POLYGON ((0 0, 0 1, 2 1, 2 0, 0 0))'
    """
    joined = shapely.union_all([part if part.is_valid else shapely.make_valid(part) for part in parts])
    rings = [_corners(shapely.get_coordinates(ring)) for ring in (joined.exterior, *joined.interiors)]
    whole: shapely.Polygon = shapely.Polygon(rings[0], rings[1:]).normalize()
    return whole


def _corners(ring: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return a closed ring without the points at which it goes straight on."""
    points: NDArray[np.float64] = ring[:-1]
    before, after = points - np.roll(points, 1, axis=0), np.roll(points, -1, axis=0) - points
    turns = before[:, 0] * after[:, 1] != before[:, 1] * after[:, 0]
    corners: NDArray[np.float64] = points[turns]
    return corners


def to_frame(polygons: Sequence[Polygon], legend: Legend, geobox: GeoBox) -> gpd.GeoDataFrame:
    """Return polygons on the ground, with what the legend says of their classes and their geodesic areas."""
    crs = None if geobox.crs is None else geobox.crs.proj
    a, b, c, d, e, f = tuple(geobox.transform)[:6]
    shapes = shapely.transform(
        [each.geometry for each in polygons],
        lambda xy: np.stack([a * xy[:, 0] + b * xy[:, 1] + c, d * xy[:, 0] + e * xy[:, 1] + f], axis=1),
    )
    names = {each.id: (each.name, each.colour) for each in legend.classes}
    width = int(geobox.shape[1])
    columns = {
        "patch": np.array([y * width + x for y, x in (each.first for each in polygons)], np.int64),
        "class": np.array([each.class_id for each in polygons], np.int32),
        "name": [names[each.class_id][0] for each in polygons],
        "colour": [names[each.class_id][1] for each in polygons],
        "pixels": np.array([each.pixels for each in polygons], np.int64),
        "area_m2": geodesic_areas(shapes, crs),
    }
    return gpd.GeoDataFrame(columns, geometry=shapes, crs=crs)


def geodesic_areas(shapes: NDArray[Any], crs: CRS | None) -> NDArray[np.float64]:
    """Return the areas of polygons on the ellipsoid, in square metres; NaN where there is no CRS."""
    if crs is None:
        return np.full(len(shapes), np.nan)
    # A straight side bends when it is projected: it is followed in steps.
    longest = LONGEST_EDGE_M / (crs.axis_info[0].unit_conversion_factor * (6.4e6 if crs.is_geographic else 1))
    outlines = gpd.GeoSeries(shapely.segmentize(shapes, longest), crs=crs).to_crs(4326)
    geod = Geod(ellps="WGS84")
    return np.array([round(abs(geod.geometry_area_perimeter(each)[0]), 3) for each in outlines])


def write_polygons(result: Result, path: str | Path, *, block_px: int = BLOCK_PX, tell: Tell | None = None) -> int:
    """Write the polygons of a run to GeoParquet or GeoPackage; returns how many there are.

    Columns: ``patch`` (place of its first pixel in reading order: unique), ``class``, ``name``, ``colour``,
    ``pixels``, ``area_m2`` (geodesic), ``geometry``. The file is there whole or not at all. `tell` is called with the
    blocks that are done and all of them.

    Raises
    ------
    InputError
        The file's name ends otherwise, or its folder is not there or cannot be written.
    """
    path = Path(path)
    if path.suffix not in FORMATS:
        raise InputError(f"{path}: must end in {' or '.join(FORMATS)}; got {path.suffix or 'no ending'}")
    if not path.parent.is_dir():
        raise InputError(f"{path}: there is no folder {path.parent}; make it first")
    check_writable(path.parent)
    store = LabelStore.open(result.path / LABELS)
    partial = path.with_name(f".partial-{path.name}")
    partial.unlink(missing_ok=True)
    count, batch = 0, list[Polygon]()
    writer: _ParquetFile | _PackageFile = (_ParquetFile if path.suffix == ".parquet" else _PackageFile)(partial)
    with writer:
        for polygon in trace(store.read, store.shape, store.nodata, block_px=block_px, tell=tell):
            batch.append(polygon)
            count += 1
            if len(batch) == BATCH:
                writer.write(to_frame(batch, result.legend, store.geobox))
                batch = []
        writer.write(to_frame(batch, result.legend, store.geobox))
    partial.replace(path)
    return count


class _ParquetFile(AbstractContextManager["_ParquetFile"]):
    """GeoParquet 1.1, written batch by batch."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._writer: pq.ParquetWriter | None = None
        self._bounds = np.array([np.inf, np.inf, -np.inf, -np.inf])
        self._crs: CRS | None = None

    def write(self, frame: gpd.GeoDataFrame) -> None:
        """Add polygons."""
        table = pa.table(frame.to_arrow(index=False, geometry_encoding="WKB"))
        if self._writer is None:
            self._crs = frame.crs
            self._writer = pq.ParquetWriter(self._path, table.schema, compression="zstd")
        self._writer.write_table(table.cast(self._writer.schema))
        if len(frame):
            low, high = frame.total_bounds[:2], frame.total_bounds[2:]
            self._bounds = np.append(np.minimum(self._bounds[:2], low), np.maximum(self._bounds[2:], high))

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._writer is not None:
            column = {
                "encoding": "WKB",
                "geometry_types": ["Polygon"],
                "crs": None if self._crs is None else json.loads(CRS(self._crs).to_json()),
                **({"bbox": self._bounds.tolist()} if np.isfinite(self._bounds).all() else {}),
            }
            said = {"version": "1.1.0", "primary_column": "geometry", "columns": {"geometry": column}}
            self._writer.add_key_value_metadata({"geo": json.dumps(said)})
            self._writer.close()


class _PackageFile(AbstractContextManager["_PackageFile"]):
    """GeoPackage, written batch by batch."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def write(self, frame: gpd.GeoDataFrame) -> None:
        """Add polygons."""
        with warnings.catch_warnings():
            # A map may have no CRS: that is its user's choice.
            warnings.filterwarnings("ignore", "'crs' was not provided", UserWarning)
            frame.to_file(
                self._path, layer="polygons", driver="GPKG", engine="pyogrio", append=self._path.exists(),
                geometry_type="Polygon",
            )  # fmt: skip

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        return None
