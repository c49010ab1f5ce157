"""How the result of an acquisition becomes part of its series: under the ledger's lock, in steps that may be repeated.

A process that dies between two steps leaves a state from which the same steps lead to the same end.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pipeline.checksums import checksums
from pipeline.ledger import Claim, InputNote
from pipeline.results import open_result
from pipeline.watch.layout import Layout
from pipeline.workspace import JOURNAL, read_json, write_json

CARD = "acquisition.json"
"""In a published run: which acquisition it is of."""


_IGNORED = shutil.ignore_patterns(CARD, JOURNAL, "lock", "*.log")


def content_digest(notes: Sequence[InputNote], settings: str) -> str:
    """Return a sha256 over the files that are used, by name and content, and the settings.

    Examples
    --------
    >>> from pipeline.acquisitions import Asset
    >>> note = InputNote(Asset("a.tif", "x/a.tif", "1"), "ab")
    >>> moved = InputNote(Asset("a.tif", "y/a.tif", "2"), "ab")
    >>> content_digest([note], "s") == content_digest([moved], "s") != content_digest([note], "t")
    True
    """
    used = sorted((note.asset.name, note.sha256) for note in notes if note.fault is None)
    return hashlib.sha256(json.dumps([used, settings]).encode()).hexdigest()


def is_in_place(layout: Layout, claim: Claim, content: str) -> bool:
    """Whether the run of this very content lies where it is published: a process died after it had put it there."""
    found = read_json(layout.published(claim) / CARD)
    return found is not None and found.get("content") == content and (layout.published(claim) / "run.json").exists()


def begin_work(layout: Layout, claim: Claim, basis: Mapping[str, Any]) -> None:
    """Make the work folder ready for a run.

    What an earlier try left there stays if it rests on the same `basis`. Else, where the published run of the
    acquisition differs by its inputs alone, the work begins with that: blocks whose files are the same are not done
    again. Its files are linked; a run never changes a file, but puts another in its place.
    """
    work, published = layout.work(claim), layout.published(claim)
    if work.exists() and read_json(layout.basis(claim)) != basis:
        shutil.rmtree(work)
    work.parent.mkdir(parents=True, exist_ok=True)
    if not work.exists() and _differs_by_inputs(read_json(published / CARD), basis):
        partial = work.with_name(f".{work.name}.partial")
        shutil.rmtree(partial, ignore_errors=True)
        shutil.copytree(published, partial, copy_function=_link, ignore=_IGNORED)
        partial.rename(work)
    write_json(layout.basis(claim), basis)


def _differs_by_inputs(card: Mapping[str, Any] | None, basis: Mapping[str, Any]) -> bool:
    return card is not None and all(card.get(name) == basis[name] for name in basis if name != "content")


def _link(source: str, target: str) -> None:
    try:
        os.link(source, target)
    except OSError:  # a file system that has no links
        shutil.copy2(source, target)


def put_in_place(layout: Layout, claim: Claim, content: str) -> Path:
    """Move a finished run to where it is published, in the place of an older one; nothing where it is there already."""
    target, work = layout.published(claim), layout.work(claim)
    if is_in_place(layout, claim, content):
        return target
    basis = read_json(layout.basis(claim)) or {}
    write_json(work / CARD, {**basis, "source": claim.source, "name": claim.name, "date": claim.date})
    target.parent.mkdir(parents=True, exist_ok=True)
    aside = target.with_name(f".{target.name}.old")
    if aside.exists():
        shutil.rmtree(aside)
    if target.exists():
        target.rename(aside)
    work.rename(target)
    if aside.exists():
        shutil.rmtree(aside)
    layout.basis(claim).unlink(missing_ok=True)
    return target


def describe_result(run: Path, apart: str | None = None) -> dict[str, Any]:
    """Return what the ledger keeps of a published run: where it is, its key, figures, and a checksum of each file.

    `apart` says why it cannot be part of the series; None where it is.
    """
    result = open_result(run)
    metrics = result.record.metrics
    return {
        "run": str(run),
        "key": result.record.key,
        "classes": len(result.legend),
        "pixels_valid": None if metrics is None else metrics.pixels_valid,
        "apart": apart,
        "missing_blocks": list(result.record.blocks.failed_names),
        "files": checksums(run),
    }
