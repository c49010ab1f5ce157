"""STAC: the collection over the runs of a series, and the links by which their items lead back to it.

Where the extensions have their fields in a collection: ``processing`` in the provider that processed the imagery and in
the summaries, ``projection`` in the summaries and in what lies on the grid, ``classification`` and ``file`` in assets.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import pystac
from pystac.extensions.classification import ClassificationExtension
from pystac.extensions.file import FileExtension
from pystac.extensions.projection import ProjectionExtension

from pipeline.checksums import digest_of, note_edit
from pipeline.legend import Legend
from pipeline.results import LEGEND
from pipeline.stac import (
    ASSETS,
    ITEM,
    PROCESSING,
    ZARR,
    bands_of,
    classes_of,
    describe_file,
    footprint,
    join_collection,
    project,
)
from pipeline.stores import LabelStore
from pipeline.workspace import read_json, write_json

logger = logging.getLogger(__name__)

COLLECTION = "collection.json"
UNKNOWN_LICENCE = "other"
SERIES_ASSET = "series"
ON_THE_GRID = ("labels", "labels-zarr", "confidence", "simulated")
PER_ITEM = ("file:size", "file:checksum", "href")
"""What an asset says of one item alone, so that it is no part of the definition that all items share."""


@dataclass(frozen=True)
class Member:
    """A run of a series: its time, its directory relative to that of the series, and its item, if it has one."""

    time: datetime
    run: str
    item: dict[str, Any] | None

    @classmethod
    def read(cls, folder: Path, time: datetime, run: str) -> Member:
        """Read the item of a run."""
        return cls(time, run, read_json(folder / run / ITEM))


def write_collection(
    folder: Path, store: str, runs: Sequence[tuple[datetime, str]], legend: Legend, *, new: str = ""
) -> Path:
    """Describe a series in its ``collection.json``, and link it with the items of the runs that have one.

    An item that cannot be written stays as it is, and the log says so. Items of earlier runs are changed where they do
    not lead to this collection, which the journals of those runs then say.

    Parameters
    ----------
    folder, store
        Directory of the series, and the name of its store in it.
    runs
        Time and directory of each run, relative to `folder`.
    legend
        Classes of all dates.
    new
        The run that has just come.
    """
    members = [Member.read(folder, time, run) for time, run in sorted(runs)]
    collection = make_collection(folder, LabelStore.open(folder / store), members, legend)
    write_json(folder / COLLECTION, collection.to_dict(include_self_link=False))
    for member in members:
        _link_item(folder / member.run, folder / COLLECTION, collection.id, note=member.run != new)
    return folder / COLLECTION


def leave_collection(run_dir: Path) -> None:
    """Take the links to its collection out of the item of a run that is no longer of it."""
    _link_item(run_dir, None, "", note=True)


def _link_item(run_dir: Path, collection: Path | None, name: str, *, note: bool) -> None:
    try:
        before = {ITEM: digest_of(run_dir / ITEM)} if (run_dir / ITEM).exists() else {}
        if join_collection(run_dir, collection, name) and note:
            note_edit(run_dir, "series", before, {ITEM: digest_of(run_dir / ITEM)})
    except OSError as error:
        logger.warning("%s: does not link to its collection, it cannot be written (%s)", run_dir / ITEM, error.strerror)


def make_collection(folder: Path, grid: LabelStore, members: Sequence[Member], legend: Legend) -> pystac.Collection:
    """Return the collection of a series."""
    attrs: dict[str, Any] = dict(grid.group.attrs)
    _, bbox = footprint(grid.geobox)
    times = [member.time for member in members]
    items = [member.item for member in members if member.item is not None]
    collection = pystac.Collection(
        id=folder.name,
        description="Texture classes of one area at several dates; the ids mean the same at all of them.",
        title=str(attrs.get("title", folder.name)),
        license=str(attrs.get("license", UNKNOWN_LICENCE)),
        extent=pystac.Extent(
            pystac.SpatialExtent([bbox or [-180.0, -90.0, 180.0, 90.0]]),
            pystac.TemporalExtent([[min(times), max(times)]]),
        ),
        providers=_providers(attrs, items),
    )
    collection.remove_hierarchical_links()  # the root is written as it is found: beside the collection
    collection.add_link(pystac.Link("root", f"./{COLLECTION}", "application/json"))
    collection.stac_extensions = [PROCESSING, FileExtension.get_schema_uri(), ProjectionExtension.get_schema_uri()]
    if "attribution" in attrs:
        collection.extra_fields["attribution"] = attrs["attribution"]
    _add_assets(collection, folder, grid, legend)
    collection.item_assets = _item_assets(collection.assets[SERIES_ASSET], items)  # type: ignore[assignment]
    collection.summaries = pystac.Summaries(_summaries(collection.assets[SERIES_ASSET], items))
    for member in members:
        if member.item is not None:
            link = pystac.Link("item", Path(os.path.join(member.run, ITEM)).as_posix(), "application/geo+json")
            link.title = member.time.isoformat(timespec="seconds")
            collection.add_link(link)
    return collection


def _providers(attrs: dict[str, Any], items: Sequence[dict[str, Any]]) -> list[pystac.Provider]:
    """Return whom the imagery is of, as far as that is said, and what processed it."""
    found = (
        [pystac.Provider(str(attrs["attribution"]), roles=[pystac.ProviderRole.LICENSOR])]
        if ("attribution" in attrs)
        else []
    )
    software = items[-1]["properties"].get("processing:software") if items else None
    made = {
        "processing:level": "L4",
        "processing:lineage": f"k-textures of each date; ids by {attrs.get('vocabulary') or 'the one run'}",
        **({"processing:software": software} if software else {}),
    }
    roles = [pystac.ProviderRole.PROCESSOR]
    return [*found, pystac.Provider("ktextures", "Texture classes, made of the imagery", roles, extra_fields=made)]


def _add_assets(collection: pystac.Collection, folder: Path, grid: LabelStore, legend: Legend) -> None:
    series = pystac.Asset(f"./{grid.path.name}", title="All dates", media_type=ZARR, roles=["data"])
    legend_file = pystac.Asset(f"./{LEGEND}", title="Legend", media_type=pystac.MediaType.JSON, roles=["metadata"])
    for name, asset, path in ((SERIES_ASSET, series, grid.path), ("classes", legend_file, folder / LEGEND)):
        collection.add_asset(name, asset)
        describe_file(asset, path)
    series.extra_fields["bands"] = bands_of(grid)
    ClassificationExtension.ext(series, add_if_missing=True).apply(classes_of(legend, grid.nodata))
    project(ProjectionExtension.ext(series), grid.geobox)


def _on_grid(series: pystac.Asset) -> dict[str, Any]:
    return {
        name: value for name, value in series.extra_fields.items() if name.startswith("proj:") and value is not None
    }


def _item_assets(series: pystac.Asset, items: Sequence[dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """Return what assets of one name share in all items: not their files, nor how many pixels a class has."""
    found: dict[str, dict[str, Any]] = {}
    for item in items:
        for name, asset in item["assets"].items():
            kept = {key: value for key, value in asset.items() if key not in PER_ITEM}
            if "classification:classes" in kept:
                classes = series.extra_fields["classification:classes"]
                shared = ("value", "name", "title", "color_hint", "nodata")
                kept["classification:classes"] = [{k: c[k] for k in shared if k in c} for c in classes]
            found[name] = kept | (_on_grid(series) if name in ON_THE_GRID else {})
    return {name: found[name] for name in ASSETS if name in found}


def _summaries(series: pystac.Asset, items: Sequence[dict[str, Any]]) -> dict[str, list[Any]]:
    software: list[Any] = []
    for item in items:
        if (each := item["properties"].get("processing:software")) and each not in software:
            software.append(each)
    grid = _on_grid(series)
    return {
        **{name: [grid[name]] for name in ("proj:code", "proj:wkt2") if name in grid},
        "processing:level": ["L4"],
        **({"processing:software": software} if software else {}),
    }
