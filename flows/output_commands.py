"""The commands that make something of a published run: `ktex polygons`, `ktex clean`, `ktex change`."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import click

from flows.progress import open_progress

_RUN = click.argument("run", type=click.Path(path_type=Path), metavar="RUN")
_OUT = click.option("--out", required=True, type=click.Path(path_type=Path), metavar="DIR", help="A new directory.")


@click.command()
@_RUN
@click.option("--to", required=True, type=click.Path(path_type=Path), metavar="FILE", help="FILE.parquet or FILE.gpkg.")
def polygons(run: Path, to: Path) -> int:
    """Write the patches of a map as polygons with their class, name, colour and area."""
    from pipeline.polygons import write_polygons
    from pipeline.results import open_result
    from pipeline.stac import write_item

    result = open_result(run)
    with open_progress() as progress:
        count = write_polygons(result, to, tell=partial(progress, "Tracing blocks"))
    if to.absolute().parent == run.absolute() and (run / "item.json").exists():
        write_item(run)
    click.echo(f"{count:,} polygons in {to}")
    return 0


@click.command()
@_RUN
@_OUT
@click.option("--mmu-px", type=int, metavar="N", help="Minimum mapping unit: smaller patches go to those around them.")
@click.option("--mmu-m2", type=click.FloatRange(min=0), metavar="AREA", help="The same as an area on the ground.")
@click.option("--majority-px", type=int, metavar="N", help="Side of the window whose majority a pixel takes; odd.")
def clean(run: Path, out: Path, mmu_px: int | None, mmu_m2: float | None, majority_px: int | None) -> int:
    """Publish a cleaned map as a run of its own; the one that it is made of stays as it is."""
    from pipeline.cleanup import CleanUp
    from pipeline.derived import clean as clean_run
    from pipeline.derived import mmu_of_area
    from pipeline.errors import InputError
    from pipeline.results import open_result

    if mmu_px is not None and mmu_m2 is not None:
        raise InputError("--mmu-px and --mmu-m2: say the same thing twice; give one of them")
    result = open_result(run)
    given: dict[str, Any] = {"mmu_px": mmu_px if mmu_m2 is None else mmu_of_area(result, mmu_m2)}
    given |= {"majority_px": majority_px}
    how = CleanUp(**{name: value for name, value in given.items() if value is not None})
    with open_progress() as progress:
        cleaned = clean_run(result, out, how, progress=progress)
    click.echo(f"cleaned map of {len(cleaned.legend)} classes in {out}")
    return 0


@click.command()
@click.argument("before", type=click.Path(path_type=Path), metavar="RUN_A")
@click.argument("after", type=click.Path(path_type=Path), metavar="RUN_B")
@_OUT
def change(before: Path, after: Path, out: Path) -> int:
    """Compare two maps whose ids mean the same: transition matrix, areas, and a map of change."""
    from pipeline.change import compare
    from pipeline.results import open_result

    one, other = open_result(before), open_result(after)
    with open_progress() as progress:
        table = compare(one, other, out, tell=partial(progress, "Comparing blocks"))
    compared, kept = int(table.pixels.sum()), int(table.pixels.trace())
    share = f" ({1 - kept / compared:.1%})" if compared else ""
    click.echo(f"{compared - kept:,} of {compared:,} pixels changed{share}; see {out}")
    return 0


COMMANDS = (polygons, clean, change)
