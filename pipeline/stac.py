"""STAC: an item that describes a run to catalogues. The collection over the runs of a series is in `collection`.

Written beside what they describe, with relative links, so that a folder can be moved or served as it is. The core is
STAC 1.1; checked offline by the schemas that pystac brings.
"""

from __future__ import annotations

import calendar
import math
import os
import re
import warnings
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pystac
import rasterio
from odc.geo.geobox import GeoBox
from pyproj import CRS, Transformer
from pystac.extensions.classification import Classification, ClassificationExtension
from pystac.extensions.file import FileExtension
from pystac.extensions.projection import ProjectionExtension
from rasterio.errors import NotGeoreferencedWarning
from shapely.affinity import translate
from shapely.geometry import Polygon, box
from shapely.geometry.polygon import orient

from pipeline.checksums import digest_of, size_of
from pipeline.dates import date_of_file
from pipeline.grids import name_crs
from pipeline.legend import Legend
from pipeline.results import LABELS, Result, open_result
from pipeline.stores import CONFIDENCE_NODATA, LabelStore
from pipeline.workspace import read_json, write_json

ITEM = "item.json"
MEMBERSHIP = ("collection", "parent", "root")
"""Links of an item that lead to its collection, which are kept when the item is written again."""
PROCESSING = "https://stac-extensions.github.io/processing/v1.1.0/schema.json"
ZARR = "application/vnd.zarr; version=3; profile=multiscales"
SHA256 = "1220"
"""What a multihash of sha256 begins with."""
TREE = (
    "A folder: file:size is the sum of its files, file:checksum that of the list of their sha256 by path, as sha256sum "
    "writes it: find . -type f -printf '%P\\0' | LC_ALL=C sort -z | xargs -0 sha256sum | sha256sum"
)
"""What is said of the checksum of a folder, for which the file extension knows no rule."""
EDGE_POINTS = 11

ASSETS: dict[str, tuple[str, str, str, list[str]]] = {
    "labels": ("labels.tif", pystac.MediaType.COG, "Texture classes", ["data"]),
    "labels-zarr": (LABELS, ZARR, "Texture classes and their confidence", ["data"]),
    "confidence": ("confidence.tif", pystac.MediaType.COG, "Confidence of the labels", ["data", "quality"]),
    "simulated": ("simulated.tif", pystac.MediaType.COG, "Simulated image", ["data"]),
    "polygons-parquet": ("polygons.parquet", pystac.MediaType.PARQUET, "Polygons of the classes", ["data"]),
    "polygons": ("polygons.gpkg", pystac.MediaType.GEOPACKAGE, "Polygons of the classes", ["data"]),
    "classes": ("classes.json", pystac.MediaType.JSON, "Legend", ["metadata"]),
    "names": ("labels.tif.aux.xml", pystac.MediaType.XML, "Class names for GDAL", ["metadata"]),
    "style": ("labels.qml", pystac.MediaType.XML, "Style for QGIS", ["metadata"]),
    "record": ("run.json", pystac.MediaType.JSON, "Record of the run", ["metadata"]),
    "report": ("report.html", pystac.MediaType.HTML, "Report", ["overview"]),
    "quicklook": ("quicklook.png", pystac.MediaType.PNG, "Quicklook", ["overview"]),
}
"""Of each asset its file, media type, title and roles."""


def write_item(run_dir: str | Path, item_id: str | None = None) -> Path:
    """Describe a published run, or one about to be, in its ``item.json``; replaces the one that is there.

    Every asset that is there is listed. Call it again when files have come or changed: it stays in its collection.

    Parameters
    ----------
    run_dir
        Directory with the outputs and ``run.json``.
    item_id
        Id of the item; the name of the directory where none is given.
    """
    folder = Path(run_dir).absolute()
    item = make_item(open_result(folder), item_id or folder.name)
    made = item.to_dict(include_self_link=False)
    held = read_json(folder / ITEM) or {}
    if "collection" in held:
        made |= {"collection": held["collection"]}
        made["links"] += [link for link in held["links"] if link["rel"] in MEMBERSHIP]
    write_json(folder / ITEM, made)
    return folder / ITEM


def join_collection(run_dir: Path, collection: Path | None, collection_id: str = "") -> bool:
    """Let the item of a run name the collection that it is of, by relative links, or none; returns whether it changed.

    Parameters
    ----------
    run_dir
        Directory of the run, which may have no item.
    collection, collection_id
        File of the collection and its id; None leaves the item without one.
    """
    held = read_json(run_dir / ITEM)
    if held is None:
        return False
    item = {name: value for name, value in held.items() if name != "collection"}
    item["links"] = [link for link in held["links"] if link["rel"] not in MEMBERSHIP]
    if collection is not None:
        href = Path(os.path.relpath(collection, run_dir.resolve())).as_posix()
        item["collection"] = collection_id
        item["links"] += [{"rel": rel, "href": href, "type": "application/json"} for rel in MEMBERSHIP]
    if item == held:
        return False
    write_json(run_dir / ITEM, item)
    return True


def make_item(result: Result, item_id: str) -> pystac.Item:
    """Return the item of a run.

    Its time is that of the sources (``--date``, or what their names say): a month is an interval. Where they say
    none it is the time of the run.
    """
    record, store = result.record, LabelStore.open(result.path / LABELS)
    start, end = time_of(result)
    geometry, bbox = footprint(store.geobox)
    item = pystac.Item(
        id=item_id,
        geometry=geometry,
        bbox=bbox,
        datetime=start if end is None else None,
        start_datetime=None if end is None else start,
        end_datetime=end,
        properties=_properties(result),
    )
    item.stac_extensions.append(PROCESSING)
    project(ProjectionExtension.ext(item, add_if_missing=True), store.geobox)
    for name, (file, media_type, title, roles) in ASSETS.items():
        if (result.path / file).exists():
            item.add_asset(name, pystac.Asset(f"./{file}", title=title, media_type=media_type, roles=list(roles)))
            describe_file(item.assets[name], result.path / file)
    classes = classes_of(result.legend, store.nodata, areas_of(result))
    for name in {"labels", "labels-zarr"} & item.assets.keys():
        ClassificationExtension.ext(item.assets[name], add_if_missing=True).apply(classes)
    _describe_bands(item, store, result.path)
    for source in record.inputs:
        link = pystac.Link("derived_from", source.path, title=Path(source.path).name)
        link.extra_fields = {"file:size": source.size, "file:checksum": source.sha256 and SHA256 + source.sha256}
        link.extra_fields = {name: value for name, value in link.extra_fields.items() if value is not None}
        item.add_link(link)
    return item


def areas_of(result: Result) -> dict[int, float]:
    """Return the area of each class in square metres, as the run measured it; empty where it has no CRS."""
    metrics = result.record.metrics
    return {int(i): area for i, area in ((metrics and metrics.areas_m2) or {}).items()}


def _properties(result: Result) -> dict[str, Any]:
    record = result.record
    settings = record.settings
    said = {name: settings.get(name) for name in ("license", "attribution")}
    return {
        "title": f"Texture classes, k = {settings.get('k')}, preset {settings.get('preset')}",
        "created": record.created.astimezone(UTC).isoformat(timespec="seconds").replace("+00:00", "Z"),
        **{name: value for name, value in said.items() if value},
        "processing:level": "L4",
        "processing:lineage": (
            f"k-textures of {len(record.inputs)} source(s), mode {settings.get('mode')}, seed {settings.get('seed')}; "
            f"settings {record.settings_digest}, key {record.key}"
        ),
        "processing:software": {"ktextures": record.ktextures, **record.versions},
    }


def time_of(result: Result) -> tuple[datetime, datetime | None]:
    """Return when the sources were taken, and the end where that is a period; the time of the run where unknown."""
    asked = result.record.settings.get("date")
    dates = {date_of_file(Path(source.path)) for source in result.record.inputs} - {None}
    if len(dates) == 1:
        return period(str(dates.pop()))
    if isinstance(asked, str) and re.fullmatch(r"\d{4}(-\d{2}){0,2}", asked):
        return period(asked)
    return result.record.created, None


def period(date: str) -> tuple[datetime, datetime | None]:
    """Return the beginning of a date, and the end where it is a month or a year.

    Examples
    --------
    >>> [str(moment) for moment in period("2021-02")]
    ['2021-02-01 00:00:00+00:00', '2021-02-28 23:59:59+00:00']
    >>> period("2021-02-03")[1] is None
    True
    """
    year, month, day = (*(int(part) for part in date.split("-")), None, None)[:3]
    start = datetime(int(year or 0), month or 1, day or 1, tzinfo=UTC)
    if day is not None:
        return start, None
    last_month = month or 12
    last = start.replace(month=last_month, day=calendar.monthrange(start.year, last_month)[1])
    return start, last + timedelta(days=1, seconds=-1)


def footprint(geobox: GeoBox) -> tuple[dict[str, Any] | None, list[float] | None]:
    """Return the outline of a grid in degrees, and its bounds; None where it has no CRS.

    A grid that crosses the antimeridian has two parts, and bounds whose west is greater than their east, as GeoJSON
    has it.
    """
    if geobox.crs is None:
        return None, None
    (height, width), steps = geobox.shape, np.linspace(0, 1, EDGE_POINTS)[:-1]
    # Along each side, because a straight one bends when it is projected.
    x = width * np.concatenate([0 * steps, steps, 1 + 0 * steps, 1 - steps])
    y = height * np.concatenate([steps, 1 + 0 * steps, 1 - steps, 0 * steps])
    a, b, c, d, e, f = tuple(geobox.transform)[:6]
    to_degrees = Transformer.from_crs(geobox.crs.proj, CRS(4326), always_xy=True)
    lon, lat = to_degrees.transform(a * x + b * y + c, d * x + e * y + f)
    # Along a small grid neighbours are near each other, also where the longitude jumps from 180 to -180.
    lon = np.unwrap(np.asarray(lon), period=360)
    lon -= 360 * np.floor((lon.min() + 180) / 360)
    outline, west, east = Polygon(np.column_stack([lon, lat])), float(lon.min()), float(lon.max())
    bounds = [west, float(lat.min()), east if east <= 180 else east - 360, float(lat.max())]
    if east <= 180:
        return {"type": "Polygon", "coordinates": _ring(outline)}, bounds
    near, far = (outline.intersection(box(first, -90, first + 360, 90)) for first in (-180, 180))
    return {"type": "MultiPolygon", "coordinates": [_ring(near), _ring(translate(far, xoff=-360))]}, bounds


def _ring(outline: Polygon) -> list[list[list[float]]]:
    """Return the coordinates of an outline anticlockwise, as GeoJSON has it."""
    return [[[float(x), float(y)] for x, y in orient(outline).exterior.coords]]


def project(projection: ProjectionExtension[Any], geobox: GeoBox) -> None:
    """Say on which grid an item or an asset lies."""
    name = name_crs(geobox)
    coded = name is not None and re.fullmatch(r"[A-Z]+:[0-9]+", name) is not None
    projection.apply(
        code=name if coded else None,
        wkt2=None if coded or geobox.crs is None else geobox.crs.to_wkt(),
        shape=[int(size) for size in geobox.shape],
        transform=[float(number) for number in tuple(geobox.transform)[:6]],
    )


def describe_file(asset: pystac.Asset, path: Path) -> None:
    """Give an asset the size and the checksum of its file; those of a store are of all its files."""
    asset.extra_fields |= {"file:size": size_of(path), "file:checksum": SHA256 + digest_of(path)}
    if path.is_dir():
        asset.description = TREE


def _describe_bands(item: pystac.Item, store: LabelStore, path: Path) -> None:
    item.stac_extensions.append(FileExtension.get_schema_uri())
    both = bands_of(store)
    for name, bands in (("labels", both[:1]), ("confidence", both[1:]), ("labels-zarr", both)):
        if name in item.assets:
            item.assets[name].extra_fields["bands"] = bands
    if "simulated" in item.assets:
        item.assets["simulated"].extra_fields["bands"] = _simulated_bands(path / "simulated.tif")


def bands_of(store: LabelStore) -> list[dict[str, Any]]:
    """Return labels and confidence of a store as the bands of STAC."""
    labels = {"name": "labels", "data_type": store.dtype.name, "nodata": store.nodata}
    return [labels, {"name": "confidence", "data_type": "uint8", "nodata": CONFIDENCE_NODATA}]


def _simulated_bands(path: Path) -> list[dict[str, Any]]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", NotGeoreferencedWarning)
        with rasterio.open(path) as file:
            nodata = "nan" if math.isnan(file.nodata) else int(file.nodata)
            each = zip(file.descriptions, file.dtypes, strict=True)
            return [{"name": name, "data_type": dtype, "nodata": nodata} for name, dtype in each]


def classes_of(legend: Legend, nodata: int, areas_m2: dict[int, float] | None = None) -> list[Classification]:
    """Return the legend as classes of the classification extension: names as one word, titles as people write them."""
    classes = []
    for each, word in zip(legend.classes, legend.tokens, strict=True):
        found = Classification.create(
            value=each.id,
            name=re.sub(r"[^0-9A-Za-z_-]", "_", word),
            title=each.name,
            color_hint=each.colour[1:],
            percentage=round(100 * each.share, 6),
            count=each.pixels,
        )
        if areas_m2 and each.id in areas_m2:
            found.properties["area_km2"] = areas_m2[each.id] / 1e6
        classes.append(found)
    return [*classes, Classification.create(value=nodata, name="nodata", title="No data", nodata=True)]
