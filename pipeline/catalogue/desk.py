"""What `ktex classes` does, with a catalogue or with a run: the same call for both."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

from pipeline.catalogue.edits import apply_edits, follow, merge_classes, name_class, read_edits
from pipeline.catalogue.rewrite import rewrite_run
from pipeline.catalogue.store import CLASSES, CatalogueLock, is_run, read_catalogue
from pipeline.errors import InputError
from pipeline.legend import Legend
from pipeline.results import open_result


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
        The run did not attach to this catalogue, so that its ids mean something else.
    """
    known, result = read_catalogue(catalogue), open_result(directory)
    if not any(Path(entry.out) == directory.absolute() for entry in known.card.runs):
        raise InputError(f"{directory}: is no run of the catalogue {catalogue}, so its ids mean something else")
    legend = follow(result.legend, known.legend)
    if legend == result.legend:
        return False
    rewrite_run(directory, legend)
    return True


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
