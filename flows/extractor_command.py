"""The commands `ktex extractor ...`."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Any

import click


@click.group()
def extractor() -> None:
    """Feature extractors for the loss of preset `paper`."""


@extractor.command()
@click.argument("sources", nargs=-1, required=True, metavar="SOURCE...")
@click.option("--out", required=True, type=click.Path(path_type=Path), metavar="DIR", help="Where to write it.")
@click.option("--steps", type=click.IntRange(min=1), default=500, show_default=True, help="Training steps.")
@click.option(
    "--width",
    type=click.FloatRange(min=0, min_open=True, max=1),
    default=0.25,
    show_default=True,
    help="Filters, as a share of VGG-16's.",
)
@click.option("--bands", metavar="NAME|MAP", help="Band map, where the files do not say.")
@click.option("--scaling", type=click.Choice(["percentile", "reflectance", "byte", "paper"]), help="[percentile]")
@click.option("--seed", type=int, metavar="N", help="Seed [0].")
@click.option("-v", "--verbose", is_flag=True, help="Show tracebacks.")
def train(sources: tuple[str, ...], out: Path, steps: int, width: float, verbose: bool, **given: Any) -> int:
    """Train an extractor on scenes of any bands, without labels; each SOURCE is a scene of its own."""
    from pipeline.engine import limit_threads

    limit_threads()
    from pipeline.extractor import train_extractor
    from pipeline.settings import Settings

    values = {name: value for name, value in given.items() if value is not None}
    named = [f"--{name} {value}" for name, value in values.items()]
    names = " ".join(shlex.quote(Path(source).name) for source in sources)
    command = f"ktex extractor train {names} --out {out.name} --steps {steps} --width {width} {' '.join(named)}".strip()
    settings = Settings.parse({"mode": "global", **values})

    def tell(done: int, total: int, loss: float) -> None:
        if done % 20 == 0 or done == total:
            click.echo(f"step {done} of {total}: loss {loss:.5f}", err=True)

    digest = train_extractor(sources, out, settings, steps=steps, width=width, command=command, progress=tell)
    click.echo(f"{out}: extractor {digest[:16]}; apply it with the option autoencoder={out} of preset paper")
    return 0
