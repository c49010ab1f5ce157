"""Checksums of what a run published, and the journal of the edits by which it was changed since on purpose."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path

from pipeline.workspace import JOURNAL, read_json, write_json


def checksums(run: Path) -> dict[str, str]:
    """Return the sha256 of each published file of a run; of a store, over all its files."""
    found = {}
    for path in sorted(run.iterdir()):
        if path.name.startswith(".") or path.name in ("run.log", JOURNAL):
            continue
        found[path.name] = _tree_digest(path) if path.is_dir() else _file_digest(path)
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


def _file_digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _tree_digest(folder: Path) -> str:
    digest = hashlib.sha256()
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        digest.update(f"{path.relative_to(folder).as_posix()}\0{_file_digest(path)}\0".encode())
    return digest.hexdigest()
