"""What is asked of a file before it is read, whether it lies on a disk or in an object store."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

from pipeline import objects


class Facts(NamedTuple):
    """Size in bytes, and a stamp that changes when the content does: time of change, or ETag."""

    size: int
    stamp: str


def look_at(path: Path) -> Facts:
    """Return size and stamp of a file; raises OSError where it cannot be looked at."""
    if objects.is_object(path):
        found = objects.head(path)
        return Facts(found.size, found.etag)
    status = path.stat()
    return Facts(status.st_size, str(status.st_mtime_ns))


def is_file(path: Path) -> bool:
    """Whether there is a regular file or an object."""
    if not objects.is_object(path):
        return path.is_file()
    try:
        objects.head(path)
    except FileNotFoundError:
        return False
    return True


def exists(path: Path) -> bool:
    """Whether there is anything at a path."""
    return is_file(path) if objects.is_object(path) else path.exists()


def read_start(path: Path, length: int) -> bytes:
    """Return the first bytes of a file."""
    if objects.is_object(path):
        return objects.read_start(path, length)
    with path.open("rb") as file:
        return file.read(length)


def list_folder(folder: Path) -> list[Path]:
    """Return what lies right below a folder, by name."""
    return objects.list_folder(folder) if objects.is_object(folder) else sorted(folder.iterdir())
