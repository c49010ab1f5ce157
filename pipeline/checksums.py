"""Checksums of what a run published, and the journal of the edits by which it was changed since on purpose."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path

from pipeline.workspace import JOURNAL, read_json, write_json


def checksums(run: Path) -> dict[str, str]:
    """Return the sha256 of each published file of a run; of a store, that of the list of its files."""
    found = {}
    for path in sorted(run.iterdir()):
        if path.name.startswith(".") or path.name in ("run.log", JOURNAL):
            continue
        found[path.name] = digest_of(path)
    return found


def note_edit(
    run: Path, what: str, before: Mapping[str, str], after: Mapping[str, str], to: Path | None = None
) -> None:
    """Enter into a run's journal which files an edit has changed on purpose.

    Parameters
    ----------
    run
        The published run, whose journal is gone on with.
    what
        The edit, in a few words.
    before, after
        Checksums of the files before the edit and after it.
    to
        Where the journal is written, if it is published together with the files; the run itself by default.
    """
    changed = {name: digest for name, digest in after.items() if before.get(name) != digest}
    entries = (read_json(run / JOURNAL) or {"edits": []})["edits"]
    entry = {"what": what, "when": datetime.now(UTC).isoformat(timespec="seconds"), "files": changed}
    write_json((to or run) / JOURNAL, {"edits": [*entries, entry]})


def edited(run: Path) -> dict[str, str]:
    """Return the checksums of the files that were changed on purpose, as they were left."""
    entries = (read_json(run / JOURNAL) or {"edits": []})["edits"]
    return {name: digest for entry in entries for name, digest in entry["files"].items()}


def digest_of(path: Path) -> str:
    """Return the sha256 of a file; of a folder that of its `manifest`."""
    if path.is_dir():
        return hashlib.sha256(manifest(path).encode()).hexdigest()
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def manifest(folder: Path) -> str:
    r"""List all files of a folder with their sha256, as ``sha256sum`` does, by the bytes of their relative paths.

    The same text as of ``find . -type f -printf '%P\0' | LC_ALL=C sort -z | xargs -0 sha256sum`` in the folder.
    """
    files = {path.relative_to(folder).as_posix(): path for path in folder.rglob("*") if path.is_file()}
    return "".join(f"{digest_of(files[name])}  {name}\n" for name in sorted(files, key=str.encode))


def size_of(path: Path) -> int:
    """Return the bytes of a file, or of all files of a folder."""
    parts = path.rglob("*") if path.is_dir() else [path]
    return sum(each.stat().st_size for each in parts if each.is_file())
