"""The command ``ktex report``."""

from __future__ import annotations

from pathlib import Path

import click


@click.command()
@click.argument("directory", metavar="DIR", type=click.Path(path_type=Path))
@click.option(
    "--pixels/--no-pixels",
    default=None,
    help="Show pixels of the imagery, or leave them out for licences that forbid them [as the run was told].",
)
def report(directory: Path, pixels: bool | None) -> int:
    """Make the report of a run again, with its classes as they are named and coloured now."""
    from pipeline.report import remake_report

    path, reason = remake_report(directory, pixels=pixels)
    if reason:
        click.echo(f"ktex: {reason}", err=True)
    click.echo(str(path))
    return 0
