"""The command ``ktex classes``: show, name, merge, export and edit the classes of a run or of a catalogue."""

from __future__ import annotations

import json
import re
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from pipeline.legend import Legend

_DIRECTORY = click.argument("directory", metavar="DIR", type=click.Path(path_type=Path))
_RUNS = click.option("--runs", is_flag=True, help="Of a catalogue: rewrite the runs that attached to it as well.")
EPILOG = "DIR: a run directory, whose labels and rasters are then rewritten, or a catalogue directory."


@click.group()
def classes() -> None:
    """Show and change the classes of a run or of a catalogue."""


@classes.command(epilog=EPILOG)
@_DIRECTORY
@click.option("--json", "as_json", is_flag=True, help="As JSON.")
def show(directory: Path, as_json: bool) -> int:
    """List the classes with their names, colours and history."""
    from pipeline.catalogue.desk import read_legend

    legend = read_legend(directory)
    click.echo(json.dumps(to_record(directory, legend), indent=1) if as_json else to_table(legend))
    return 0


@classes.command(epilog=EPILOG)
@_DIRECTORY
@click.argument("class_id", metavar="ID", type=int)
@click.argument("name", required=False)
@click.option("--color", "--colour", "colour", metavar="RRGGBB", help="Colour of the class, with or without a #.")
@_RUNS
def name(directory: Path, class_id: int, name: str | None, colour: str | None, runs: bool) -> int:
    """Give class ID a NAME, a colour, or both."""
    from pipeline.catalogue.desk import rename_class

    if name is None and colour is None:
        raise click.UsageError("Give a NAME or a --color")
    if colour is not None and not re.fullmatch("#?[0-9A-Fa-f]{6}", colour):
        raise click.UsageError(f"--color must be six hexadecimal digits, such as 2CA02C; got {colour!r}")
    _check_runs(directory, runs)
    # A shell takes what follows an unquoted # for a comment, so that it has to be possible without.
    legend = rename_class(directory, class_id, name, colour and "#" + colour.removeprefix("#"))
    found = next(each for each in legend.everything if each.id == class_id)
    click.echo(f"class {class_id} is {found.name}, {found.colour}")
    return _follow_up(directory, runs)


@classes.command(epilog=EPILOG)
@_DIRECTORY
@click.argument("ids", metavar="FROM... INTO", nargs=-1, type=int, required=True)
@_RUNS
def merge(directory: Path, ids: tuple[int, ...], runs: bool) -> int:
    """Make classes FROM part of class INTO. Their ids are never given again."""
    from pipeline.catalogue.desk import merge as merge_them

    if len(ids) < 2:
        raise click.UsageError("Give the classes to merge and, last, the one that they become part of")
    _check_runs(directory, runs)
    *gone, into = ids
    merge_them(directory, gone, into)
    listed = ", ".join(str(each) for each in gone)
    click.echo(f"{f'class {listed} is' if len(gone) == 1 else f'classes {listed} are'} part of class {into}")
    return _follow_up(directory, runs)


@classes.command(epilog=EPILOG)
@_DIRECTORY
@click.option(
    "--format", "form", type=click.Choice(["qml", "gdal", "csv", "json"]), required=True,
    help="QGIS style, GDAL colour file, table, or list.",
)  # fmt: skip
@click.option("--to", type=click.Path(path_type=Path, dir_okay=False), metavar="FILE", help="Instead of the terminal.")
def export(directory: Path, form: str, to: Path | None) -> int:
    """Write the classes for another program."""
    from pipeline.catalogue.desk import read_legend
    from pipeline.catalogue.export import export as export_as
    from pipeline.errors import InputError

    text = export_as(read_legend(directory), form)  # type: ignore[arg-type]
    if to is None:
        click.echo(text, nl=False)
        return 0
    try:
        to.write_text(text, encoding="utf-8")
    except OSError as error:
        raise InputError(f"--to {to}: cannot be written ({error.strerror}); give another file") from error
    click.echo(f"written: {to}")
    return 0


@classes.command(epilog=EPILOG)
@_DIRECTORY
@click.argument("file", type=click.Path(path_type=Path))
@_RUNS
def apply(directory: Path, file: Path, runs: bool) -> int:
    """Carry out the edits in FILE, the JSON that a report exports."""
    from pipeline.catalogue.desk import apply_file

    _check_runs(directory, runs)
    legend = apply_file(directory, file)
    click.echo(to_table(legend))
    return _follow_up(directory, runs)


def _check_runs(directory: Path, runs: bool) -> None:
    """Refuse ``--runs`` of a run before anything is changed."""
    from pipeline.catalogue.store import is_run
    from pipeline.errors import InputError

    if runs and is_run(directory):
        raise InputError(f"--runs: {directory} is a run itself; give its catalogue, or leave --runs out")


def _follow_up(directory: Path, runs: bool) -> int:
    """Rewrite the runs of a catalogue, or say which would have to be; 2 where one cannot follow, the others do."""
    from pipeline.catalogue.desk import published_runs, refresh
    from pipeline.catalogue.store import is_run
    from pipeline.errors import InputError

    if is_run(directory):
        return _remake_report(directory)
    there = published_runs(directory)
    if not runs and there:
        click.echo(f"{len(there)} published run(s) are as they were; --runs rewrites them too")
    code = 0
    for run in there if runs else ():
        try:
            changed = refresh(run, directory)
        except InputError as error:
            click.echo(f"error: {error}", err=True)
            code = error.exit_code
            continue
        click.echo(f"{run}: {'rewritten' if changed else 'nothing to change'}")
        if changed:
            _remake_report(run)
    return code


def _remake_report(run: Path) -> int:
    """Make the report of a rewritten run anew, where it has one; pixels that were left out stay out."""
    from pipeline.report import follow_report

    if (made := follow_report(run)) is not None:
        page, reason = made
        click.echo(f"written: {page}")
        if reason:
            click.echo(f"ktex: {reason}", err=True)
    return 0


def to_record(directory: Path, legend: Legend) -> dict[str, Any]:
    """Return what ``--json`` prints."""
    return {
        "path": str(directory),
        "next_id": legend.next_id,
        "classes": [asdict(each) for each in legend.classes],
        "known": [asdict(each) for each in legend.known],
        "merges": [asdict(each) for each in legend.merges],
    }


def to_table(legend: Legend) -> str:
    """Return the classes as a table, those that only the catalogue knows after those that occur."""
    rows = [["id", "name", "color", "share", "first seen", "last seen", "merged from"]]
    for each in (*legend.classes, *legend.known):
        share = f"{each.share:.2%}" if each.pixels else "-"
        parents = ", ".join(str(parent) for parent in each.parents)
        rows.append([str(each.id), each.name, each.colour, share, each.first_seen, each.last_seen, parents])
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
    lines += [f"{m.at}: class {m.gone} ({m.name}) became part of class {m.kept}" for m in legend.merges]
    return "\n".join(lines)
