"""Acquisitions that are dropped into a folder; its files are read where they lie."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

from pipeline.acquisitions.deliveries import (
    MANIFEST,
    MAX_MANIFEST_BYTES,
    Entry,
    Listed,
    group_deliveries,
    parse_manifest,
)
from pipeline.acquisitions.fetch import verify_in_place
from pipeline.acquisitions.values import Acquisition, Asset, DeliveryError, SourceError, is_since


@dataclass(frozen=True)
class FolderSource:
    """A folder and all below it.

    Attributes
    ----------
    name, root
        Name of the source, and its folder.
    pattern
        Only files whose names match are imagery.
    quiet
        How long a file without a manifest must not have changed to count as complete.
    """

    name: str
    root: Path
    pattern: str = "*"
    quiet: timedelta = timedelta(minutes=10)

    def survey(self, now: datetime, since: str | None = None) -> list[Acquisition]:
        """List all that is there, incomplete or not, from the date `since` on."""
        if not self.root.is_dir():
            raise SourceError(f"source {self.name}: {self.root} is no folder; check the path, or whether it is mounted")
        try:
            entries = list(self._entries())
            manifests = {
                str(entry.path.parent): _read_manifest(Path(entry.href), entry)
                for entry in entries
                if entry.path.name == MANIFEST
            }
        except OSError as error:
            raise SourceError(f"source {self.name}: {error.filename}: cannot be listed ({error.strerror})") from error
        found = group_deliveries(self.name, entries, manifests, now=now, quiet=self.quiet, pattern=self.pattern)
        return [each for each in found if is_since(each.date, since)]

    def fetch(self, asset: Asset, folder: Path) -> Path:
        """Return the file itself, after a look at its checksum where a manifest has one."""
        path = Path(asset.href)
        try:
            return verify_in_place(path, asset)
        except OSError as error:
            raise SourceError(f"{asset.name}: cannot be read ({error.strerror})") from error

    def _entries(self) -> Iterator[Entry]:
        # Links are followed to files, not to folders: a loop of those would not end.
        for folder, folders, files in os.walk(self.root):
            folders[:] = sorted(name for name in folders if not name.startswith("."))
            for name in sorted(files):
                path = Path(folder, name)
                try:
                    status = path.stat()
                except FileNotFoundError:
                    continue  # it was moved away just now
                yield Entry(
                    key=path.relative_to(self.root).as_posix(),
                    href=str(path),
                    size_bytes=status.st_size,
                    changed=datetime.fromtimestamp(status.st_mtime, UTC),
                    version=f"{status.st_size}-{status.st_mtime_ns}",
                )


def _read_manifest(path: Path, entry: Entry) -> dict[str, Listed] | DeliveryError:
    if entry.size_bytes > MAX_MANIFEST_BYTES:
        return DeliveryError(f"{entry.key}: is larger than {MAX_MANIFEST_BYTES >> 20} MiB; no manifest is")
    try:
        return parse_manifest(path.read_text(encoding="utf-8"), entry.key)
    except DeliveryError as error:
        return error
    except UnicodeDecodeError as error:
        return DeliveryError(f"{entry.key}: is not UTF-8 text ({error.reason})")
