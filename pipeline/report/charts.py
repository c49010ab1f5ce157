"""Charts as numbers for the template: lines in a unit square, and labels for evenly spaced ticks.

Text is set by the page and not drawn, so that it keeps its size on a phone.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pipeline.report.diagnostics import Curve, Training

MAX_LINES = 60
_TICKS = 4


@dataclass(frozen=True)
class Chart:
    """Lines over steps.

    Attributes
    ----------
    title, note
        What is shown, and how to read it.
    lines
        ``points`` of SVG polylines in 0..100, y downwards: one for each model, thin.
    middle
        The same for their median; empty where there is but one line.
    x_labels, y_labels
        Evenly spaced, from left to right and from the top down.
    summary
        What a reader who cannot see the lines is told.
    """

    title: str
    note: str
    lines: tuple[str, ...]
    middle: str
    x_labels: tuple[str, ...]
    y_labels: tuple[str, ...]
    summary: str


def draw_trainings(trainings: Sequence[Training]) -> list[Chart]:
    """Draw the loss and the stability of the trainings; a chart without any curve is left out."""
    losses, changes = ([_of(each, measure) for each in trainings] for measure in ("losses", "changes"))
    charts = (
        _chart("Loss", "How far the network is from what it learns, step by step.", losses, percent=False),
        _chart("Stability", "Share of cells that changed class, round by round: 0 is settled.", changes, percent=True),
    )
    return [chart for chart in charts if chart is not None]


def _of(training: Training, measure: str) -> list[Curve]:
    return [curve for curve in training.curves if curve.measure == measure]


def _chart(title: str, note: str, models: Sequence[Sequence[Curve]], *, percent: bool) -> Chart | None:
    lines = [_line(curves, 100.0 if percent else 1.0) for curves in models if curves]
    if not lines:
        return None
    last = max(2.0, *(line.steps[-1] for line in lines))
    top = nice_top(max(float(line.values.max()) for line in lines))
    shown = lines[:: -(-len(lines) // MAX_LINES)]
    unit = "%" if percent else ""
    middle = _middle(lines, last)
    if len(lines) > 1:
        lead = "One line" if len(shown) == len(lines) else f"{len(shown)} lines"
        note += f" {lead} for each of {len(lines)} models, and their median."
    return Chart(
        title,
        note,
        tuple(_points(line, last, top) for line in shown),
        _points(middle, last, top) if len(lines) > 1 else "",
        tuple(f"{value:.0f}" for value in np.linspace(1, last, 3)),
        tuple(f"{value:.3g}{unit}" for value in np.linspace(top, 0, _TICKS + 1)),
        f"{title}: from {middle.values[0]:.3g}{unit} at the start to {middle.values[-1]:.3g}{unit} at the end.",
    )


@dataclass(frozen=True, eq=False)
class _Line:
    steps: NDArray[np.float64]
    values: NDArray[np.float64]


def _line(curves: Sequence[Curve], scale: float) -> _Line:
    """Lay the curves of one measure, in the order of their stages, behind each other."""
    steps: list[int] = []
    values: list[float] = []
    for curve in curves:
        offset = steps[-1] if steps else 0
        steps += [offset + step for step in curve.steps]
        values += curve.values
    return _Line(np.array(steps, np.float64), scale * np.array(values, np.float64))


def _middle(lines: Sequence[_Line], last: float) -> _Line:
    """Take the median over the models that were still training at each step, as long as half of them were."""
    steps = np.linspace(1, last, 100)
    rows = [np.interp(steps, line.steps, line.values, right=np.nan) for line in lines]
    seen = (~np.isnan(rows)).sum(axis=0) >= len(lines) / 2
    return _Line(steps[seen], np.nanmedian(np.array(rows)[:, seen], axis=0))


def _points(line: _Line, last: float, top: float) -> str:
    x, y = (line.steps - 1) / (last - 1) * 100, 100 - line.values / top * 100
    if len(x) == 1:
        x, y = np.array([0.0, 100.0]), np.repeat(y, 2)
    return " ".join(f"{a:.2f},{b:.2f}" for a, b in zip(x.tolist(), y.tolist(), strict=True))


def nice_top(value: float) -> float:
    """Return the upper end of an axis from 0 whose quarters are round numbers.

    >>> [nice_top(value) for value in (0.0, 0.054, 2.03, 4.2)]
    [1.0, 0.06, 3.0, 6.0]
    """
    if value <= 0:
        return 1.0
    magnitude = 10.0 ** np.floor(np.log10(value))
    return float(
        next(round(step * magnitude, 12) for step in (1, 1.2, 1.6, 2, 3, 4, 6, 8, 10) if step * magnitude >= value)
    )


@dataclass(frozen=True)
class Spectrum:
    """The mean of each band of a class, beside all classes: `points` of SVG polylines in 0..100, y downwards."""

    own: str
    others: tuple[str, ...]
    dots: tuple[tuple[float, float], ...]
    values: tuple[tuple[str, str], ...]


def draw_spectra(by_class: dict[int, tuple[float, ...]], bands: Sequence[str]) -> dict[int, Spectrum]:
    """Draw the spectrum of each class on one scale from 0 to the highest mean.

    >>> draw_spectra({0: (10.0, 40.0)}, ("R", "N"))[0].own
    '10.00,75.00 90.00,0.00'
    """
    top = max((max(values) for values in by_class.values() if values), default=0.0)
    top = top if top > 0 else 1.0
    digits = max(0, 2 - math.floor(math.log10(top)))  # three that count of the highest, and as many of all
    columns = np.linspace(10, 90, len(bands)) if len(bands) > 1 else np.array([50.0])
    dots = {
        i: tuple(
            zip(columns.round(2).tolist(), (100 - np.maximum(values, 0) / top * 100).round(2).tolist(), strict=True)
        )
        for i, values in by_class.items()
        if len(values) == len(bands)
    }
    lines = {i: " ".join(f"{x:.2f},{y:.2f}" for x, y in points) for i, points in dots.items()}
    return {
        i: Spectrum(
            lines[i],
            tuple(line for j, line in lines.items() if j != i)[:40],
            points,
            tuple((band, f"{value:,.{digits}f}") for band, value in zip(bands, by_class[i], strict=True)),
        )
        for i, points in dots.items()
    }
