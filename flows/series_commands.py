"""The commands that keep a series up to date without a Prefect server: `ktex watch` for cron, `ktex maintain`."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from pipeline.watch import Outcome

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
    """Go on with what died, compare what is published with its checksums, remove what is old."""
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
    for path in done.removed:
        click.echo(f"removed      {path}")
    click.echo(f"{done.checked} published run(s) checked, {len(done.damaged)} damaged, {len(done.removed)} old removed")
    return 3 if done.damaged else resumed.exit_code


@click.command()
@_CONFIG
@click.option("--apply", is_flag=True, help="Make one what is alike, instead of only telling.")
@_VERBOSE
def refresh(config: Path, apply: bool, verbose: bool) -> int:
    """Look for classes that all runs together say are one; bring the maps to what the catalogue says now."""
    from flows.commands import logging_to
    from pipeline.watch import WatchConfig
    from pipeline.watch.refresh import refresh as look_again

    series = WatchConfig.read(config)
    with logging_to(series.out / "watch.log", verbose):
        done = look_again(series, apply=apply)
    for each in done.alike:
        what = "is part of" if done.merged else "looks like"
        click.echo(f"class {each.gone} {what} class {each.kept}; their distance is {each.distance:.2f} of their reach")
    for run in done.rewritten:
        click.echo(f"rewritten    {run}")
    click.echo(f"{len(done.alike)} pair(s) alike, {len(done.rewritten)} run(s) rewritten")
    return 0


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
