"""The ids of many runs, solved again together; and the published maps of a series, which follow its catalogue.

Carrying out what was found is a new state of the catalogue, in one step, and then each map in one step: raster, legend,
record and item, and its date in the series. What is under way is noted first, so that a process which dies in between
leaves what the next `refresh`, or `maintain`, brings to its end.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

from pipeline.catalogue.desk import find_changes, resolve_ids
from pipeline.catalogue.edits import follow
from pipeline.catalogue.resolve import Change
from pipeline.catalogue.rewrite import rewrite_run
from pipeline.catalogue.store import read_catalogue
from pipeline.catalogue.values import Catalogue
from pipeline.checksums import checksums, note_edit
from pipeline.errors import InputError
from pipeline.ledger import Ledger, Row
from pipeline.legend import Legend
from pipeline.report import follow_report
from pipeline.results import open_result
from pipeline.watch.config import WatchConfig
from pipeline.watch.layout import Layout
from pipeline.watch.publication import describe_result
from pipeline.watch.series import extend_series
from pipeline.workspace import write_json

logger = logging.getLogger(__name__)


@dataclass
class Refresh:
    """What a look at all runs found, and what was done.

    Attributes
    ----------
    changes
        What all runs together say of the classes, with the dates or names of runs in the place of their keys.
    unread
        Directories of runs that could not be asked, because nothing is kept of what they said.
    applied
        Whether the changes have been carried out.
    behind
        Runs whose maps do not say what the catalogue says, and were left so.
    rewritten
        Runs whose maps followed the catalogue.
    failed
        Runs whose maps could not be written, and why.
    """

    changes: list[Change] = field(default_factory=list)
    unread: list[str] = field(default_factory=list)
    applied: bool = False
    behind: list[str] = field(default_factory=list)
    rewritten: list[str] = field(default_factory=list)
    failed: dict[str, str] = field(default_factory=dict)


def refresh(
    config: WatchConfig, *, apply: bool = False, follow_up: bool = False, ledger: Ledger | None = None
) -> Refresh:
    """Solve the ids of all runs again, and bring the published maps to what the catalogue says.

    Parameters
    ----------
    config
        The series.
    apply
        Carry out what is found. Without it, it is only told.
    follow_up
        Bring the maps to names, colours and merges that people gave the catalogue; `apply` does that too. Without
        either nothing is written at all.
    ledger
        As the configuration says, by default.

    Raises
    ------
    InputError
        The series has no catalogue, or a run is attaching to it now.
    """
    layout, done = Layout(config.out), Refresh(applied=apply)
    directory = catalogue_of(config)
    book = ledger or Ledger(config.ledger_address, config.name)
    try:
        names = {str((row.result or {}).get("key")): f"{row.date}" for row in book.rows()}
        if apply:
            write_json(layout.refreshing, {"begun": datetime.now(UTC).isoformat(timespec="seconds")})
            found, done.unread = resolve_ids(directory)
        else:
            found, done.unread = find_changes(directory)
        done.changes = [_named(each, names) for each in found.changes]
        if apply or follow_up:
            bring_up(config, book, done)
        else:
            done.behind = [str(run) for _, run, _ in _lagging(layout, book, read_catalogue(directory), done)]
        return done
    finally:
        if ledger is None:
            book.close()


def catalogue_of(config: WatchConfig) -> Path:
    """Return the directory of the catalogue of a series."""
    return config.catalogue or Layout(config.out).catalogue


def bring_up(config: WatchConfig, book: Ledger, done: Refresh) -> None:
    """Bring all published maps to what the catalogue says now; one that cannot be written does not stop the others."""
    layout = Layout(config.out)
    with book.maintaining():
        for row, run, legend in _lagging(layout, book, read_catalogue(catalogue_of(config)), done):
            try:
                rewrite_run(run, legend, "refresh")
                follow_report(run)
            except (InputError, OSError) as error:
                logger.warning("%s", error)
                done.failed[str(run)] = str(error)
                continue
            restate(layout, book, row, run, f"followed the catalogue, {datetime.now(UTC):%F %T}")
            done.rewritten.append(str(run))
        if not done.failed:
            layout.refreshing.unlink(missing_ok=True)


def restate(layout: Layout, book: Ledger, row: Row, run: Path, why: str) -> None:
    """Give a run that was rewritten its place in the series, and tell the ledger what is published now."""
    before = checksums(run)
    try:
        extend_series(layout, run, str(row.date))
    except InputError as error:  # on another grid than the series: it was never in it
        logger.warning("%s", error)
    if (after := checksums(run)) != before:  # its item says of which collection it is
        note_edit(run, "series", before, after)
    book.restate(row.id, describe_result(run, (row.result or {}).get("apart")), why)


def _lagging(layout: Layout, book: Ledger, catalogue: Catalogue, done: Refresh) -> Iterator[tuple[Row, Path, Legend]]:
    """Yield the published runs whose legends are not what they would be by the catalogue, with that one."""
    for row in book.rows():
        run = layout.run_of(row.result)
        if row.state != "published" or not (run / "run.json").exists():
            continue
        try:
            result = open_result(run)
            entry = catalogue.card.run(str(result.record.key))
            legend = follow(result.legend, catalogue.legend, entry.remaps if entry else ())
        except InputError as error:  # `maintain` finds out what it is
            done.failed[str(run)] = str(error)
            continue
        if legend != result.legend:
            yield row, run, legend


def _named(change: Change, names: dict[str, str]) -> Change:
    return Change(**{**vars(change), "runs": tuple(names.get(key, key[:12]) for key in change.runs)})
