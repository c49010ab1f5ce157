"""Area of interest: polygons of a GeoJSON or GeoPackage file, in pixels of a scene."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import geopandas
import numpy as np
import pyogrio
import shapely
from affine import Affine
from numpy.typing import NDArray
from odc.geo.geobox import GeoBox
from pyproj.exceptions import ProjError
from rasterio.features import rasterize
from shapely.geometry.base import BaseGeometry

from pipeline.blocks import Window
from pipeline.errors import InputError
from pipeline.lattice import transform_points

GPKG_MAGIC = b"SQLite format 3\0"
SEGMENTS = 256
"""Edges are cut into this many parts of the area's extent, because straight lines of one CRS are curves in another."""


@dataclass(frozen=True)
class Area:
    """An area of interest in pixel coordinates of a scene, ``x`` to the right and ``y`` down from its corner.

    Attributes
    ----------
    path
        Where it was read from.
    wkb
        The (multi)polygon, as well-known binary: a value that travels between processes.
    """

    path: Path
    wkb: bytes

    @property
    def geometry(self) -> BaseGeometry:
        """The (multi)polygon in pixels."""
        return shapely.from_wkb(self.wkb)

    def window(self, shape: tuple[int, int]) -> Window:
        """Return the pixels of a scene of `shape` whose centres lie in the area's bounds; empty if there is none."""
        x0, y0, x1, y1 = (float(v) - 0.5 for v in self.geometry.bounds)
        bounds = Window(int(np.ceil(y0)), int(np.ceil(x0)), int(np.floor(y1)) + 1, int(np.floor(x1)) + 1)
        return bounds.intersect(Window(0, 0, *shape))

    def contains(self, rows: NDArray[np.int64], columns: NDArray[np.int64]) -> NDArray[np.bool_]:
        """Return where the centres of pixels lie inside, ``(row, column)``; contiguous ones are filled fast."""
        if len(rows) == np.ptp(rows) + 1 and len(columns) == np.ptp(columns) + 1:
            return self._fill(Window(int(rows[0]), int(columns[0]), int(rows[-1]) + 1, int(columns[-1]) + 1))
        across, down = np.meshgrid(columns + 0.5, rows + 0.5)
        geometry = self.geometry
        shapely.prepare(geometry)
        inside: NDArray[np.bool_] = shapely.contains_xy(geometry, across, down)
        return inside

    def _fill(self, window: Window) -> NDArray[np.bool_]:
        box = shapely.box(window.x0, window.y0, window.x1, window.y1)
        part = shapely.intersection(self.geometry, box.buffer(1.0, join_style="mitre"))
        polygons = [p for p in shapely.get_parts(part) if p.geom_type == "Polygon" and p.area > 0]
        if not polygons:
            return np.zeros(window.shape, np.bool_)
        at = Affine.translation(window.x0, window.y0)
        filled = rasterize(polygons, out_shape=window.shape, transform=at, dtype=np.uint8)
        inside: NDArray[np.bool_] = filled == 1
        return inside


def read_area(path: Path, geobox: GeoBox) -> Area:
    """Read the polygons of a file into pixels of a scene.

    Parameters
    ----------
    path
        GeoJSON, or GeoPackage with one polygon layer, in any CRS.
    geobox
        The grid of the scene; it needs a CRS.

    Raises
    ------
    InputError
        If the file is missing, of another kind, holds no polygon, has no CRS where one is needed, or misses the scene.
    """
    path = Path(path)
    if geobox.crs is None:
        raise InputError(
            f"--aoi {path}: the scene has no CRS where one is needed; write it into the files, or cut them"
        )
    frame = _read_frame(path)
    if frame.crs is None:
        raise InputError(f"--aoi {path}: has no CRS; write one into it (ogr2ogr -a_srs EPSG:4326)")
    polygon = _union(path, frame.geometry.array)
    pixels = _to_pixels(path, polygon, frame.crs.to_wkt(), geobox)
    area = Area(path, shapely.to_wkb(pixels))
    scene = shapely.box(0, 0, geobox.shape[1], geobox.shape[0])
    if area.window(geobox.shape).size == 0 or not shapely.intersects(pixels, scene):
        raise InputError(f"--aoi {path}: {_extents(polygon, frame.crs.to_wkt(), geobox)}; check the area and its CRS")
    return area


def _read_frame(path: Path) -> geopandas.GeoDataFrame:
    if not path.is_file():
        raise InputError(f"--aoi {path}: no such file; check the path")
    with path.open("rb") as file:
        start = file.read(4096).removeprefix(b"\xef\xbb\xbf").lstrip()
    if not start.startswith((b"{", GPKG_MAGIC)):
        raise InputError(f"--aoi {path}: is neither GeoJSON nor GeoPackage; convert it (ogr2ogr area.gpkg FILE)")
    try:
        layers = [str(name) for name, kind in pyogrio.list_layers(path) if kind is None or "Point" not in kind]
        if len(layers) != 1:
            names = ", ".join(layers) or "none"
            raise InputError(f"--aoi {path}: one layer of polygons was expected, found {names}; keep one")
        return geopandas.read_file(path, layer=layers[0], engine="pyogrio")
    except pyogrio.errors.DataSourceError as error:
        raise InputError(f"--aoi {path}: cannot be read ({' '.join(str(error).split())}); check the file") from error


def _union(path: Path, geometries: NDArray[np.object_]) -> BaseGeometry:
    parts = shapely.get_parts(shapely.make_valid(np.asarray([g for g in geometries if g is not None], dtype=object)))
    # A collection may hold polygons, and repairing one may leave lines behind.
    polygons = [p for p in shapely.get_parts(parts) if shapely.get_type_id(p) == shapely.GeometryType.POLYGON]
    polygons = [polygon for polygon in polygons if polygon.area > 0]
    if not polygons:
        raise InputError(f"--aoi {path}: holds no polygon; expected at least one with an area")
    return shapely.union_all(polygons)


def _to_pixels(path: Path, polygon: BaseGeometry, crs_wkt: str, geobox: GeoBox) -> BaseGeometry:
    x0, y0, x1, y1 = polygon.bounds
    dense = shapely.segmentize(polygon, max(x1 - x0, y1 - y0) / SEGMENTS)
    to_pixel = ~geobox.affine

    def carry(points: NDArray[np.float64]) -> NDArray[np.float64]:
        x, y = transform_points(crs_wkt, geobox.crs.to_wkt(), points[:, 0], points[:, 1])
        columns, rows = to_pixel @ (x, y)
        return np.stack([columns, rows], axis=1)

    try:
        carried = shapely.transform(dense, carry)
    except ProjError as error:
        raise InputError(f"--aoi {path}: cannot be expressed in the scene's CRS; cut the area") from error
    if not np.isfinite(shapely.get_coordinates(carried)).all():
        raise InputError(f"--aoi {path}: reaches beyond what the scene's CRS can express; cut the area")
    return shapely.make_valid(carried)


def _extents(polygon: BaseGeometry, crs_wkt: str, geobox: GeoBox) -> str:
    corners = np.array([geobox.affine @ (x, y) for x in (0, geobox.shape[1]) for y in (0, geobox.shape[0])])
    x, y = transform_points(geobox.crs.to_wkt(), crs_wkt, corners[:, 0], corners[:, 1])
    box = (x.min(), y.min(), x.max(), y.max())
    return f"the area ({_format(polygon.bounds)}) meets no pixel centre of the scene ({_format(box)} in the area's CRS)"


def _format(box: tuple[float, ...]) -> str:
    return "x {0:.6g} to {2:.6g}, y {1:.6g} to {3:.6g}".format(*box)
