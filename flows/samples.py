"""The command ``ktex samples``."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import click

from flows.progress import open_progress


@click.command()
@click.argument("directory", metavar="DIR", type=click.Path(path_type=Path))
@click.option(
    "--classes",
    required=True,
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="YAML file of your classes: 'classes:' with a line 'name: [ids]' for each.",
)
@click.option(
    "--to", required=True, type=click.Path(path_type=Path), metavar="OUT", help="New directory for the samples."
)
@click.option("--chip-px", type=int, default=256, show_default=True, metavar="N", help="Side of a chip.")
@click.option(
    "--overlap-px", type=int, default=0, show_default=True, metavar="N", help="Overlap of neighbouring chips."
)
@click.option(
    "--min-share", type=float, default=0.5, show_default=True, metavar="S", help="Least share of pixels with a class."
)
@click.option(
    "--purity", type=float, default=0.0, show_default=True, metavar="S", help="Least share of the most frequent class."
)
@click.option(
    "--confidence", type=float, default=0.5, show_default=True, metavar="C", help="Least confidence of a pixel, 0 to 1."
)
@click.option("--balance", is_flag=True, help="Equally many chips for each class.")
@click.option(
    "--folds", default="0.7,0.15,0.15", show_default=True, metavar="A,B,C", help="Shares of training, validation, test."
)
@click.option("--place-px", type=int, metavar="N", help="Side of a place, all of one fold [a tenth of the scene].")
@click.option("--gap-px", type=int, default=0, show_default=True, metavar="N", help="Gap between places.")
@click.option("--seed", type=int, default=0, show_default=True, metavar="N", help="Seed of places and chips.")
def samples(directory: Path, classes: Path, to: Path, folds: str, **given: Any) -> int:
    """Make training samples for supervised segmentation from a published run."""
    from pipeline.errors import InputError
    from pipeline.samples import Rules, write_samples

    try:
        first, second, third = (float(share) for share in folds.split(","))
    except ValueError:
        raise InputError(f"--folds {folds}: must be three numbers such as 0.7,0.15,0.15") from None
    rules = Rules(shares=(first, second, third), **given)
    with open_progress() as progress:
        found = write_samples(directory, classes, to, rules, partial(progress, "Writing chips"))
    click.echo(f"{to}")
    for fold, each in found["folds"].items():
        shown = ", ".join(f"{name} {pixels:,} px" for name, pixels in each["pixels"].items())
        click.echo(f"  {fold:<11}{each['chips']:>6} chips   {shown}")
    if found["unmapped_ids"]:
        ids = ", ".join(map(str, found["unmapped_ids"]))
        click.echo(f"ktex: ids {ids} are in no class; their pixels are {found['ignore']} in the masks", err=True)
    return 0
