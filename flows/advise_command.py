"""The command `ktex advise-k`: a table, and a plot as SVG."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from pipeline.advise import Rating

COLUMNS: dict[str, str] = {
    "score": "score",
    "seeds": "stability, seeds",
    "halves": "stability, halves",
    "smallest": "smallest class",
    "loss": "simulation loss",
}
"""What is rated, and how it is called."""


def advise(sources: list[str], given: dict[str, Any], numbers: str, plot: Path | None, as_json: bool) -> int:
    """Carry out ``ktex advise-k``; returns the exit code."""
    from pipeline.advise import parse_numbers, rate_numbers, read_samples
    from pipeline.imagery import open_source
    from pipeline.settings import Settings

    wanted, settings = parse_numbers(numbers), Settings.parse(given)
    bands = open_source(sources, settings).bands
    samples = read_samples(sources, settings)
    pixels = sum(int(sample.valid.sum()) for sample in samples)
    click.echo(f"Trying {len(wanted)} numbers of classes on {len(samples)} windows, {pixels / 1e6:.2f} Mpx", err=True)
    ratings = []
    for rating in rate_numbers(samples, wanted, settings, bands):
        ratings.append(rating)
        click.echo(f"k = {rating.k}: done", err=True)
    if plot is not None:
        plot.write_text(to_svg(ratings), encoding="utf-8")
    click.echo(json.dumps([rating.to_json() for rating in ratings], indent=1) if as_json else to_table(ratings))
    return 0


def to_table(ratings: Sequence[Rating]) -> str:
    """Lay the ratings out as a table, the best score marked, and say what the columns are."""
    best = max((r.score for r in ratings if r.score is not None), default=None)
    lines = ["  k  " + "  ".join(name.rjust(17) for name in COLUMNS.values())]
    for rating in ratings:
        cells = [getattr(rating, name) for name in COLUMNS]
        shown = ["-".rjust(17) if cell is None else f"{cell:17.3f}" for cell in cells]
        lines.append(f"{rating.k:3d}  " + "  ".join(shown) + ("  <- best score" if rating.score == best else ""))
    lines.append(
        "Score: what a class tells about those 16 and 32 px off, in nats; where it stops to rise, more classes add "
        "nothing. Stability: adjusted Rand index, 1 is equal."
    )
    return "\n".join(lines)


def to_svg(ratings: Sequence[Rating]) -> str:
    """Draw each rating against the number of classes, one small plot below the other."""
    width, height, left, top, step = 560, 110, 60, 30, 150
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width + 80} {top + step * len(COLUMNS)}" role="img"'
        ' font-family="sans-serif" font-size="12"><title>Ratings of numbers of classes</title>'
        '<rect width="100%" height="100%" fill="white"/>'
    ]
    ks = [rating.k for rating in ratings]
    along = _scale(min(ks), max(ks), left, left + width - 40)
    for row, (name, title) in enumerate(COLUMNS.items()):
        points = [(rating.k, value) for rating in ratings if (value := getattr(rating, name)) is not None]
        base = top + row * step
        parts.append(f'<text x="{left}" y="{base - 8}" font-weight="bold">{escape(title)}</text>')
        parts.append(f'<path d="M{left} {base}V{base + height}H{left + width - 40}" fill="none" stroke="#555"/>')
        parts += [f'<text x="{along(k):.1f}" y="{base + height + 14}" text-anchor="middle">{k}</text>' for k in ks]
        if not points:
            continue
        low, high = min(value for _, value in points), max(value for _, value in points)
        up = _scale(low, high, base + height - 8, base + 8)
        parts += [
            f'<text x="{left - 6}" y="{up(value) + 4:.1f}" text-anchor="end">{value:.2f}</text>'
            for value in sorted({low, high})
        ]
        line = " ".join(f"{along(k):.1f},{up(value):.1f}" for k, value in points)
        parts.append(f'<polyline points="{line}" fill="none" stroke="#1f6fb4" stroke-width="2"/>')
        parts += [f'<circle cx="{along(k):.1f}" cy="{up(value):.1f}" r="3" fill="#1f6fb4"/>' for k, value in points]
    return "\n".join([*parts, "</svg>", ""])


def _scale(low: float, high: float, start: float, stop: float) -> Callable[[float], float]:
    span = (high - low) or 1.0
    return lambda value: start + (value - low) / span * (stop - start)


@click.command(name="advise-k")
@click.argument("sources", nargs=-1, required=True, metavar="SOURCE...")
@click.option("--k", "numbers", default="3:16", show_default=True, metavar="FIRST:LAST", help="Numbers of classes.")
@click.option("--plot", type=click.Path(path_type=Path, dir_okay=False), metavar="FILE", help="Draw an SVG.")
@click.option("--json", "as_json", is_flag=True, help="As JSON.")
@click.option("--bands", metavar="NAME|MAP", help="Band map, where the file does not say.")
@click.option("--date", metavar="D", help="Which date to take, where the files have several.")
@click.option("--scaling", type=click.Choice(["percentile", "reflectance", "byte", "paper"]), help="[percentile]")
@click.option("--windows", "sample_windows", type=int, metavar="N", help="Windows of 256 px to try on [16].")
@click.option("--seed", type=int, metavar="N", help="Seed [0].")
@click.option("-v", "--verbose", is_flag=True, help="Show tracebacks.")
def advise_k(
    sources: tuple[str, ...], numbers: str, plot: Path | None, as_json: bool, verbose: bool, **given: Any
) -> int:
    """Try numbers of classes on a sample of a scene and rate what each finds, without labels."""
    values = {name: value for name, value in given.items() if value is not None}
    return advise(list(sources), {"mode": "global", **values}, numbers, plot, as_json)
