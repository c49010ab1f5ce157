"""How a run attaches to its catalogue: matched before the cut, written into it when the run publishes.

From the matching on, the run holds the catalogue's lock: a second run that attaches at the same time waits, and then
finds the classes of the first. A run that was interrupted matches anew when it resumes, against what the catalogue
holds by then.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ktex_model.signature import signature_length
from pipeline.align.values import Alignment
from pipeline.assemble import read_alignment
from pipeline.blocks import Block
from pipeline.catalogue.attachment import Attachment, attach, extend, rename, slice_of, unwhitened, usual_shift
from pipeline.catalogue.base import misfit, read_base
from pipeline.catalogue.members import join, remove_drift, thin
from pipeline.catalogue.nodes import Nodes, forget_nodes, write_nodes
from pipeline.catalogue.sites import MAX_KEPT, fewest
from pipeline.catalogue.store import SIGNATURES, CatalogueLock, is_run, write_catalogue, write_signatures
from pipeline.catalogue.values import Catalogue, Members, RunEntry
from pipeline.dates import ANY_DATE, date_of_file
from pipeline.errors import InputError, RunFailedError
from pipeline.legend import Legend
from pipeline.plan import Plan
from pipeline.workspace import MANIFEST, read_json, replace_arrays, write_json

logger = logging.getLogger(__name__)

WAIT_S = 3600.0
"""How long a run waits for another that is attaching to the same catalogue."""


def attach_run(plan: Plan, alignment: Alignment | None, blocks: Sequence[Block]) -> CatalogueLock | None:
    """Match the classes of a run, note what came out, and return the lock that has to be held until it is published.

    Without a catalogue, or with that of another run, which is only read, there is nothing to lock.
    """
    directory = plan.settings.catalogue
    lock = None
    if directory is not None and not is_run(directory):
        lock = _lock(plan, directory)
    try:
        base = read_base(directory)
        if base is not None and (fault := misfit(base.card, plan.scene.bands, plan.scaling)):
            raise RunFailedError(f"--catalogue {directory}: another run began it meanwhile; it {fault} (--fresh)")
        members = gather(plan, alignment, blocks)
        used = _used(plan, alignment, blocks)
        attachment = attach(
            base, members, used, key=_key(plan), basis=_basis(plan), model=_model(plan), dtype=plan.settings.label_dtype
        )
        kept = thin(members)
        replace_arrays(plan.folders.members("attached"), kept.to_arrays())
        write_json(plan.folders.attachment, attachment.to_json())
    except BaseException:
        if lock is not None:
            lock.close()
        raise
    if base is not None:
        told = [f"{each.local} -> {attachment.mapping[each.local]} ({each.state})" for each in attachment.matches]
        logger.info("catalogue %s: %s; %s", directory, attachment.how, ", ".join(told) or attachment.mapping)
    return lock


def _lock(plan: Plan, directory: Path) -> CatalogueLock:
    try:
        return CatalogueLock(directory, f"the run in {plan.folders.root}", WAIT_S)
    except InputError as error:  # too late for wrong input: what was done is kept
        raise RunFailedError(str(error)) from error


def gather(plan: Plan, alignment: Alignment | None, blocks: Sequence[Block]) -> Members:
    """Return the members of all classes of a run, under the run's ids, the drift between blocks removed."""
    parts, block_of = list[Members](), list[NDArray[np.intp]]()
    for block in blocks:
        path = plan.folders.members(block.name)
        if not path.exists():
            continue
        with np.load(path, allow_pickle=False) as arrays:
            part = Members.from_arrays(arrays)
        if alignment is not None:
            part = part.renamed(dict(enumerate(alignment.lookup[block.index].tolist())))
        block_of.append(np.full(len(part), len(parts)))
        parts.append(part)
    if not parts:
        dims = signature_length(len(plan.scene.bands))
        return Members(np.zeros(0, np.int64), np.zeros(0, np.int64), np.zeros((0, dims)))
    members, at = join(parts), np.concatenate(block_of)
    members = replace(members, sites=fewest(members.sites, MAX_KEPT))
    # In an order that depends on content alone, and so not on how a model happened to number its classes.
    order = np.lexsort((*members.features.T[::-1], members.pixels, members.ids, at))
    return remove_drift(members.of(order), at[order])


def _used(plan: Plan, alignment: Alignment | None, blocks: Sequence[Block]) -> set[int]:
    if alignment is not None:
        return {each.id for each in alignment.classes}
    used: set[int] = set()
    for block in blocks:
        counts = (plan.folders.done("predict", block.name) or {}).get("counts", [])
        used |= {i for i, count in enumerate(counts) if count}
    return used


def _key(plan: Plan) -> str:
    return str((read_json(plan.folders.work / MANIFEST) or {})["key"])


def _model(plan: Plan) -> str | None:
    """Return the digest of the model that served the whole scene."""
    if plan.given is not None:
        return plan.given.digest
    trained = plan.folders.done("train", "global") if plan.one_model else None
    return None if trained is None else str(trained["digest"])


def _basis(plan: Plan) -> str:
    solved = plan.folders.alignment.read_bytes() if plan.folders.alignment.exists() else b""
    return hashlib.sha256(solved + (_model(plan) or "").encode()).hexdigest()


def read_attachment(plan: Plan) -> Attachment | None:
    """Return what `attach_run` noted."""
    found = read_json(plan.folders.attachment)
    return None if found is None else Attachment.from_json(found)


def read_vocabulary(plan: Plan) -> Alignment | None:
    """Return what the align stage found in the ids of the catalogue; None where all blocks have them already."""
    attachment = read_attachment(plan)
    if attachment is None:
        raise RunFailedError(f"{plan.folders.root}: the classes have not been matched; the same command goes on")
    labelled = [block.index for block in plan.grid if plan.folders.signature(block.name).exists()]
    return rename(read_alignment(plan), attachment, labelled, plan.k, plan.settings.label_dtype)


def _attached(plan: Plan) -> tuple[Attachment, Members]:
    """Return what `attach_run` noted: the ids, and the members under the run's own."""
    attachment = read_attachment(plan)
    if attachment is None:
        raise RunFailedError(f"{plan.folders.root}: the run has not been matched; the same command goes on with it")
    with np.load(plan.folders.members("attached"), allow_pickle=False) as arrays:
        return attachment, Members.from_arrays(arrays)


def _extended(plan: Plan, legend: Legend) -> tuple[Catalogue | None, Catalogue]:
    """Return the catalogue before and after a run."""
    attachment, members = _attached(plan)
    base = read_base(plan.settings.catalogue)
    entry = RunEntry(
        key=_key(plan),
        basis=_basis(plan),
        out=str(plan.folders.root),
        at=datetime.now(UTC).isoformat(timespec="seconds"),
        dates=_dates(plan),
        mapping=attachment.mapping,
    )
    after = extend(
        base, attachment, members, legend, bands=plan.scene.bands, scaling=plan.scaling, entry=entry,
        model=_model(plan),
    )  # fmt: skip
    return base, after


def _dates(plan: Plan) -> tuple[str, str]:
    """Return the first and the last date of the imagery; empty where neither names nor settings tell."""
    inputs = (read_json(plan.folders.work / MANIFEST) or {}).get("inputs", [])
    dates = sorted({date for file in inputs if (date := date_of_file(Path(file["path"])))})
    if not dates and plan.settings.date not in {None, ANY_DATE}:
        dates = [str(plan.settings.date)]
    return (dates[0], dates[-1]) if dates else ("", "")


def write_slice(plan: Plan, legend: Legend) -> Legend:
    """Write the signatures beside the other outputs; returns the legend with what the catalogue knows of its classes.

    The run's own entry is left out, because a run is the same wherever and whenever it is made.
    """
    base, after = _extended(plan, legend)
    runs = () if base is None else base.card.runs
    write_signatures(plan.folders.outputs / SIGNATURES, replace(after, card=replace(after.card, runs=runs)))
    return slice_of(after.legend, legend, SIGNATURES)


def publish_catalogue(plan: Plan, lock: CatalogueLock | None) -> None:
    """Write the run into its catalogue, in one step; a second time changes nothing."""
    if lock is None:
        return
    legend = Legend.from_json(plan.folders.outputs / "classes.json")
    base, after = _extended(plan, legend)
    # What a run says of its classes is there before the catalogue names the run.
    write_nodes(lock.directory, _key(plan), _nodes(plan, base, legend))
    write_catalogue(lock.directory, after)
    forget_nodes(lock.directory, [each.key for each in after.card.latest])


def _nodes(plan: Plan, base: Catalogue | None, legend: Legend) -> Nodes:
    attachment, members = _attached(plan)
    counts = {each.id: each.pixels for each in legend.classes}
    if base is not None and len(members) and len(base.members):
        shift = attachment.shift or usual_shift(base, members.renamed(attachment.mapping))
        members = replace(members, features=members.features - unwhitened(base, shift)) if shift else members
    return Nodes(
        members,
        frozenset(each.local for each in attachment.matches if each.state == "ambiguous"),
        # Of several classes that are one in the catalogue the first stands for all.
        {local: counts.pop(known, 0) for local, known in sorted(attachment.mapping.items())},
        _model(plan),
    )


def describe(attachment: Attachment) -> dict[str, Any]:
    """Return what the record of a run says of its catalogue."""
    return {
        "how": attachment.how,
        "shift": round(float(np.linalg.norm(attachment.shift)), 4) if attachment.shift else 0.0,
        "classes": [
            {
                "class": each.local,
                "id": attachment.mapping[each.local],
                "state": each.state,
                "votes": {str(known): share for known, share in each.votes.items()},
                "distance": each.distance,
                "ground": {str(known): share for known, share in each.ground.items()},
            }
            for each in attachment.matches
        ],
    }
