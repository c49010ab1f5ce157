"""When a delivery of files is complete: all that its manifest names is there, or nothing has changed for a while.

Pure functions over listings, for folders and buckets alike.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from fnmatch import fnmatch
from pathlib import Path, PurePosixPath

from pipeline.acquisitions.values import Acquisition, Asset, DeliveryError, group_by_date
from pipeline.dates import date_of_file
from pipeline.sources import RASTER_SUFFIXES

MANIFEST = "manifest.json"
MAX_MANIFEST_BYTES = 1 << 26
UNFINISHED = (".part", ".partial", ".tmp", ".crdownload", ".filepart")


@dataclass(frozen=True)
class Entry:
    """A file in a listing.

    Attributes
    ----------
    key
        Path below the source's root, with slashes.
    href
        Where it is.
    size_bytes, changed
        Its size, and when it last changed.
    version
        ETag, or size and time of change.
    """

    key: str
    href: str
    size_bytes: int
    changed: datetime
    version: str

    @property
    def path(self) -> PurePosixPath:
        """The key as a path."""
        return PurePosixPath(self.key)


@dataclass(frozen=True)
class Listed:
    """What a manifest says of a file."""

    size_bytes: int | None
    sha256: str | None


def parse_manifest(text: str, where: str) -> dict[str, Listed]:
    """Read a delivery's manifest: the files by their paths beside it.

    Raises
    ------
    DeliveryError
        It is no manifest.

    Examples
    --------
    >>> text = '{"files": [{"path": "a/q.tif", "size": 7, "digests": {"sha256": "AB"}}]}'
    >>> parse_manifest(text, "manifest.json")
    {'a/q.tif': Listed(size_bytes=7, sha256='ab')}
    """
    try:
        files = json.loads(text)["files"]
        return {
            file["path"]: Listed(file.get("size"), (file.get("digests") or {}).get("sha256", "").lower() or None)
            for file in files
        }
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise DeliveryError(f"{where}: is no delivery manifest ({type(error).__name__}: {error})") from error


def is_raster(entry: Entry, pattern: str) -> bool:
    """Whether an entry is imagery, or a mask beside it, that `pattern` lets in."""
    path = entry.path
    hidden = any(part.startswith(".") for part in path.parts)
    return not hidden and path.suffix.lower() in RASTER_SUFFIXES and fnmatch(path.name, pattern)


def group_deliveries(
    source: str,
    entries: Iterable[Entry],
    manifests: Mapping[str, dict[str, Listed] | DeliveryError],
    *,
    now: datetime,
    quiet: timedelta,
    pattern: str = "*",
) -> list[Acquisition]:
    """Make acquisitions of a listing.

    Parameters
    ----------
    source
        Name of the source.
    entries
        All files found.
    manifests
        By the folder that each lies in (``.`` for the root); a manifest that cannot be read is its error.
    now, quiet
        Without a manifest a file counts as complete when it has not changed for so long.
    pattern
        Only files whose names match.
    """
    entries = list(entries)
    rasters = sorted((entry for entry in entries if is_raster(entry, pattern)), key=lambda entry: entry.key)
    governed = {entry.key: _manifest_of(entry, manifests) for entry in rasters}
    assets = [_asset(entry, governed[entry.key], manifests) for entry in rasters]
    found = group_by_date(source, assets, [date_of_file(Path(entry.key)) for entry in rasters])
    by_href = {entry.href: entry for entry in rasters}
    keys = {entry.key for entry in entries}
    return [
        replace(each, waiting=_waiting([by_href[a.href] for a in each.assets], governed, manifests, keys, now, quiet))
        for each in found
    ]


def _manifest_of(entry: Entry, manifests: Mapping[str, object]) -> str | None:
    return next((str(parent) for parent in entry.path.parents if str(parent) in manifests), None)


def _asset(entry: Entry, folder: str | None, manifests: Mapping[str, dict[str, Listed] | DeliveryError]) -> Asset:
    manifest = manifests.get(folder) if folder is not None else None
    listed = manifest.get(_beside(entry.key, folder)) if isinstance(manifest, dict) else None
    return Asset(entry.key, entry.href, entry.version, entry.size_bytes, listed.sha256 if listed else None)


def _beside(key: str, folder: str | None) -> str:
    return key if folder in (None, ".") else str(PurePosixPath(key).relative_to(str(folder)))


def _waiting(
    group: list[Entry],
    governed: Mapping[str, str | None],
    manifests: Mapping[str, dict[str, Listed] | DeliveryError],
    keys: set[str],
    now: datetime,
    quiet: timedelta,
) -> str | None:
    """Return why a group is not complete; None where it is."""
    for folder in sorted({found for entry in group if (found := governed[entry.key]) is not None}):
        manifest = manifests[folder]
        if isinstance(manifest, DeliveryError):
            return str(manifest)
        if reason := _missing(folder, manifest, group, keys):
            return reason
    for entry in group:
        if governed[entry.key] is None and now - entry.changed < quiet:
            age = max(0.0, (now - entry.changed).total_seconds())
            return f"{entry.key} changed {age:.0f} s ago; it is taken after {quiet.total_seconds():.0f} s of quiet"
    return None


def _missing(folder: str, manifest: dict[str, Listed], group: list[Entry], keys: set[str]) -> str | None:
    prefix = "" if folder == "." else f"{folder}/"
    for path, listed in manifest.items():
        if prefix + path not in keys:
            return f"{prefix}{MANIFEST} names {path}, which is not there yet"
        sizes = [entry.size_bytes for entry in group if entry.key == prefix + path]
        if sizes and listed.size_bytes not in (None, sizes[0]):
            return f"{prefix}{path} has {sizes[0]} of the {listed.size_bytes} bytes that {MANIFEST} says"
    return None
