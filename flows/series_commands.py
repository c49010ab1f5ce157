"""The commands that keep a series up to date without a Prefect server: `ktex watch` for cron, `ktex maintain`."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from pipeline.catalogue.resolve import Change
    from pipeline.watch import Outcome
    from pipeline.watch.refresh import Refresh

_CONFIG = click.argument("config", type=click.Path(path_type=Path), metavar="CONFIG")
_VERBOSE = click.option("-v", "--verbose", is_flag=True, help="Log to standard error, and show tracebacks.")


@click.command()
@_CONFIG
@click.option("--limit", type=click.IntRange(min=1), metavar="N", help="Work on so many acquisitions at most.")
@click.option("--retry", is_flag=True, help="Try again what has failed or is in quarantine.")
@_VERBOSE
def watch(config: Path, limit: int | None, retry: bool, verbose: bool) -> int:
    """Look at the sources of a series once; segment and publish what is new or changed."""
    _prepare()
    from flows.commands import logging_to
    from pipeline.ledger import STATES, Ledger
    from pipeline.watch import WatchConfig
    from pipeline.watch import watch as do_pass

    series = WatchConfig.read(config)
    with Ledger(series.ledger_address, series.name) as ledger, logging_to(series.out / "watch.log", verbose):
        if retry:
            click.echo(f"{ledger.retry()} acquisition(s) are tried again", err=True)
        done = do_pass(series, segment_here, ledger=ledger, limit=limit, report=_tell)
        states = Counter(row.state for row in ledger.rows())
    for name, why in done.waiting.items():
        click.echo(f"waiting      {name}: {why}")
    for why in done.unreachable.values():
        click.echo(f"unreachable  {why}", err=True)
    click.echo(f"{done.seen} acquisition(s) seen, {len(done.outcomes)} worked on, {len(done.waiting)} waiting")
    told = ", ".join(f"{states[state]} {state}" for state in STATES if states[state])
    click.echo(f"the series has {told or 'nothing yet'}; ktex status {config} says more")
    return done.exit_code


@click.command()
@_CONFIG
@_VERBOSE
def maintain(config: Path, verbose: bool) -> int:
    """Go on with what died, compare all that is published with what was published, mend it, remove what is old."""
    _prepare()
    from flows.commands import logging_to
    from pipeline.watch import WatchConfig
    from pipeline.watch import watch as do_pass
    from pipeline.watch.maintenance import maintain as look_after

    series = WatchConfig.read(config)
    with logging_to(series.out / "watch.log", verbose):
        resumed = do_pass(series, segment_here, only_resume=True, report=_tell)
        done = look_after(series)
    for name, why in done.damaged.items():
        click.echo(f"damaged      {name}: {why}; the next pass makes it anew")
    for name, why in done.repaired.items():
        click.echo(f"repaired     {name}: {why}")
    for name, why in done.broken.items():
        click.echo(f"broken       {name}: {why}", err=True)
    for path in done.removed:
        click.echo(f"removed      {path}")
    told = f"{len(done.damaged)} damaged, {len(done.repaired)} repaired, {len(done.removed)} old removed"
    click.echo(f"{done.checked} published run(s) checked, {told}")
    return 3 if done.damaged or done.broken else resumed.exit_code


@click.command()
@_CONFIG
@click.option("--apply", is_flag=True, help="Carry out what is found, and rewrite the maps.")
@click.option("--follow", is_flag=True, help="Only bring the maps to what the catalogue says already.")
@click.option("--json", "as_json", is_flag=True, help="As JSON.")
@_VERBOSE
def refresh(config: Path, apply: bool, follow: bool, as_json: bool, verbose: bool) -> int:
    """Solve the ids of all dates again together, and say what would change; nothing is written without an option."""
    import json

    from flows.commands import logging_to
    from pipeline.errors import InputError
    from pipeline.watch import WatchConfig
    from pipeline.watch.refresh import refresh as look_again

    if apply and follow:
        raise InputError("--apply brings the maps to the catalogue as well; leave --follow out")
    series = WatchConfig.read(config)
    with logging_to(series.out / "watch.log", verbose):
        done = look_again(series, apply=apply, follow_up=follow)
    if as_json:
        click.echo(json.dumps({**vars(done), "changes": [vars(each) for each in done.changes]}, indent=1))
    else:
        _tell_refresh(done, carried_out=apply)
    return 1 if done.failed else 0


def _tell_refresh(done: Refresh, *, carried_out: bool) -> None:
    click.echo(to_table(done.changes))
    for run in done.unread:
        click.echo(f"not asked    {run}: nothing is kept of what it said of its classes")
    for path in done.rewritten:
        click.echo(f"rewritten    {path}")
    for path in done.behind:
        click.echo(f"behind       {path}: does not say what the catalogue says; --follow rewrites it")
    for path, why in done.failed.items():
        click.echo(f"failed       {path}: {why}", err=True)
    what = "carried out" if carried_out else "found; --apply carries them out" if done.changes else "found"
    click.echo(f"{len(done.changes)} change(s) {what}; {len(done.rewritten)} run(s) rewritten")


def to_table(changes: Sequence[Change]) -> str:
    """Return what all runs together say of the classes, as a table."""
    rows = [["class", "is", "in", "pixels", "resembles", "distance", "ground"]]
    for each in changes:
        shares = ("-" if value is None else f"{value:.0%}" for value in (each.share, each.ground))
        alike, ground = shares
        distance = "-" if each.distance is None else f"{each.distance:.2f}"
        where = ", ".join(each.runs) or "all dates"
        rows.append([str(each.gone), str(each.kept), where, f"{each.pixels:,}", alike, distance, ground])
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows
    )


def segment_here(source: list[str], out: str, settings: dict[str, Any]) -> object:
    """Segment files into a run directory in this process and its workers, and show how far it is."""
    from flows.progress import open_progress
    from pipeline.logs import recorded_in
    from pipeline.run import segment
    from pipeline.settings import Settings
    from pipeline.workspace import Folders

    with open_progress() as progress, recorded_in(Folders(Path(out)).log):
        return segment(source, Settings.parse(settings), out, progress=progress)


def _prepare() -> None:
    import os

    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    from pipeline.engine import limit_threads

    limit_threads()


def _tell(outcome: Outcome) -> None:
    where = f" in {outcome.run}" if outcome.run else ""
    why = f": {outcome.reason}" if outcome.reason else ""
    click.echo(f"{outcome.what:<12} {outcome.acquisition}{where}{why}")
