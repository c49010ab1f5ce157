"""What `ktex classes` does, with a catalogue or with a run: the same call for both."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

from pipeline.catalogue.edits import apply_edits, follow, merge_classes, name_class, read_edits
from pipeline.catalogue.members import join
from pipeline.catalogue.nodes import Nodes, read_nodes
from pipeline.catalogue.resolve import Group, Resolution, apply_resolution, resolve
from pipeline.catalogue.rewrite import rewrite_run
from pipeline.catalogue.store import CLASSES, CatalogueLock, is_run, read_catalogue, write_catalogue
from pipeline.catalogue.values import Catalogue, RunEntry
from pipeline.errors import InputError
from pipeline.legend import Legend
from pipeline.results import open_result

WAIT_S = 60.0
"""How long a re-solve waits for a run that is attaching."""


def read_legend(directory: Path) -> Legend:
    """Return the classes of a run or a catalogue; raises InputError where there are none."""
    return open_result(directory).legend if is_run(directory) else read_catalogue(directory).legend


def rename_class(directory: Path, class_id: int, name: str | None, colour: str | None) -> Legend:
    """Give a class another name or colour."""
    return _change(directory, lambda legend: name_class(legend, class_id, name, colour))


def merge(directory: Path, gone: list[int], into: int) -> Legend:
    """Make classes part of another."""
    return _change(directory, lambda legend: merge_classes(legend, gone, into, _now()))


def apply_file(directory: Path, path: Path) -> Legend:
    """Carry out the edits that a report exported."""
    edits = read_edits(path)
    return _change(directory, lambda legend: apply_edits(legend, edits, _now()))


def refresh(directory: Path, catalogue: Path) -> bool:
    """Rewrite a run with the names, colours and merges of its catalogue; returns whether anything had changed.

    Raises
    ------
    InputError
        The run did not attach to this catalogue, so that its ids mean something else; or it was changed by itself in
        a way that the catalogue's cannot follow.
    """
    known, result = read_catalogue(catalogue), open_result(directory)
    entry = next((each for each in known.card.latest if Path(each.out) == directory.absolute()), None)
    if entry is None:
        raise InputError(f"{directory}: is no run of the catalogue {catalogue}, so its ids mean something else")
    try:
        legend = follow(result.legend, known.legend, entry.remaps)
    except InputError as error:
        raise InputError(f"{directory}: {error}") from error
    if legend == result.legend:
        return False
    rewrite_run(directory, legend)
    return True


def find_changes(directory: Path) -> tuple[Resolution, list[str]]:
    """Solve the ids of all runs of a catalogue again, and change nothing.

    Returns
    -------
    tuple
        What was found, and the directories of runs that could not be asked: nothing is kept of what they said.

    Raises
    ------
    InputError
        There is no catalogue, or a file of it is damaged.
    """
    found, unread, _ = _solve(directory)
    return found, unread


def resolve_ids(directory: Path, *, wait_s: float = WAIT_S) -> tuple[Resolution, list[str]]:
    """Solve the ids of all runs of a catalogue again and carry that out in it, in one step; the maps follow later.

    Raises
    ------
    InputError
        There is no catalogue, a file of it is damaged, or a run that is attaching keeps it longer than `wait_s`.
    """
    read_catalogue(directory)  # so that no lock is put where there is no catalogue
    with CatalogueLock(directory, "ktex refresh", wait_s):
        found, unread, known = _solve(directory)
        if found.changes:
            write_catalogue(directory, apply_resolution(known, found, _now()))
    return found, unread


def _solve(directory: Path) -> tuple[Resolution, list[str], Catalogue]:
    known = read_catalogue(directory)
    said = [(entry, read_nodes(directory, entry.key)) for entry in known.card.latest]
    unread = [entry.out for entry, nodes in said if nodes is None]
    groups: dict[str, Group] = {}
    for entry, nodes in said:
        if nodes is not None:
            name = nodes.model or entry.key
            groups[name] = _grouped(groups.get(name), entry, nodes)
    return resolve(known, [*groups.values()], complete=not unread), unread, known


def _grouped(group: Group | None, entry: RunEntry, nodes: Nodes) -> Group:
    """Return a group with one more run in it; runs of one model name their classes together."""
    named = nodes.members.renamed(entry.mapping)
    unsure = frozenset(entry.mapping[local] for local in nodes.unsure if local in entry.mapping)
    pixels = Counter(dict.fromkeys(entry.mapping.values(), 0))
    pixels.update({entry.mapping[local]: count for local, count in nodes.pixels.items() if local in entry.mapping})
    if group is None:
        return Group((entry.key,), named, unsure, dict(pixels), nodes.model)
    pixels.update(group.pixels)
    return Group(
        (*group.runs, entry.key), join([group.members, named]), group.unsure & unsure, dict(pixels), nodes.model
    )


def published_runs(catalogue: Path) -> list[Path]:
    """Return the directories of the runs that attached to a catalogue and are still there."""
    outs = (Path(entry.out) for entry in read_catalogue(catalogue).card.runs)
    return [out for out in dict.fromkeys(outs) if is_run(out)]


def _change(directory: Path, change: Callable[[Legend], Legend]) -> Legend:
    """Change the legend of a run, whose rasters are then written anew, or of a catalogue, in one step."""
    if is_run(directory):
        legend = change(read_legend(directory))
        rewrite_run(directory, legend)
        return legend
    read_catalogue(directory)  # so that no lock is put where there is no catalogue
    with CatalogueLock(directory, "ktex classes"):
        known = read_catalogue(directory)
        legend = change(known.legend)
        replace(legend, signatures=known.legend.signatures).to_json(directory / CLASSES)
    return legend


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
