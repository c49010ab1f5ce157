"""Figures of a report: numbers and drawings in plain values, and words for people."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from odc.geo.geobox import GeoBox
from pyproj import CRS

from pipeline.blocks import BlockGrid
from pipeline.borders import Border
from pipeline.legend import LegendClass
from pipeline.record import AlignmentMetrics, Metrics, RunRecord
from pipeline.report.diagnostics import Node, Training
from pipeline.settings import Settings

MAX_ROWS = 40
DOUBTFUL = 0.9
ALWAYS = frozenset({"k", "preset", "mode", "scaling", "seed"})
"""Settings that are shown whether they were chosen or not."""
TIMES = "\N{MULTIPLICATION SIGN}"
NONE = "\N{EN DASH}"
MINUS = "\N{MINUS SIGN}"


@dataclass(frozen=True)
class Figure:
    """A number that sums something up: what it is, its value, and what it means in a few words."""

    name: str
    value: str
    note: str


@dataclass(frozen=True)
class BlockFigure:
    """The blocks of a run from above, and how often the class changes at each border.

    `borders` are lines ``(x0, y0, x1, y1, level, title)`` in pixels of the scene; levels 0..4 grow with the change rate
    over that inside blocks.
    """

    width: int
    height: int
    borders: tuple[tuple[int, int, int, int, int, str], ...]
    summary: str


@dataclass(frozen=True)
class Bar:
    """One bar of a list: name, value in words, and length 0..100."""

    name: str
    value: str
    length: float


def describe_area(each: LegendClass, areas: Mapping[int, float] | None) -> str:
    """Return the area of a class in km2, or in pixels where the map has no place on the ground.

    >>> describe_area(LegendClass(3, pixels=1200), {3: 5_250_000.0}), describe_area(LegendClass(3, pixels=1200), None)
    ('5.25 km²', '1,200 px')
    """
    return f"{each.pixels:,} px" if areas is None else format_km2(areas.get(each.id, 0.0) / 1e6)


def format_km2(km2: float) -> str:
    """Return an area with three digits that count.

    >>> [format_km2(value) for value in (0.01234, 5.25, 1234.5)]
    ['0.0123 km²', '5.25 km²', '1,234 km²']
    """
    digits = 0 if km2 >= 100 else max(0, 2 - math.floor(math.log10(km2))) if km2 > 0 else 0
    return f"{km2:,.{digits}f} km²"


def summarise(metrics: Metrics, areas: Mapping[int, float] | None, confidence: float | None) -> list[Figure]:
    """Return the figures at the head of the report; those that do not apply are left out."""
    found = []
    if areas is not None:
        total = sum(area for area in areas.values()) / 1e6
        found.append(Figure("Mapped", format_km2(total), f"{metrics.pixels_valid:,} valid pixels"))
    else:
        found.append(Figure("Mapped", f"{metrics.pixels_valid:,} px", "valid pixels; the map has no coordinate system"))
    found.append(Figure("Classes", str(metrics.classes), f"as varied as {metrics.classes_effective:.1f} of equal size"))
    if metrics.seam_excess is not None and metrics.seam_change_rate is not None:
        note = f"{metrics.seam_change_rate:.1%} of pixel pairs change class, {metrics.interior_change_rate:.1%} inside"
        excess = f"{metrics.seam_excess:+.2%}".replace("-", MINUS)
        found.append(Figure("Excess at block borders", excess, note))
    if confidence is not None:
        found.append(Figure("Confidence", f"{confidence:.0%}", "median over the map"))
    if metrics.truth is not None:
        truth = metrics.truth
        note = f"ARI, 1 is perfect; {truth.hungarian_accuracy:.1%} of pixels right after matching"
        found.append(Figure("Agreement with the truth", f"{truth.ari:.3f}", note))
    return found


def describe_cleaning(settings: Mapping[str, Any]) -> list[str]:
    """Say how a map was cleaned up; nothing where it is as the models made it.

    >>> describe_cleaning({"mmu_px": 9, "majority_px": 1}), describe_cleaning({})
    (['cleaned: patches from 9 px'], [])
    """
    mmu, majority = int(settings.get("mmu_px", 1)), int(settings.get("majority_px", 1))
    parts = [f"majority of {majority} {TIMES} {majority} px"] * (majority > 1) + [f"patches from {mmu} px"] * (mmu > 1)
    return [f"cleaned: {', '.join(parts)}"] if parts else []


def describe_map(shape: tuple[int, int], box: GeoBox, record: RunRecord) -> list[str]:
    """Return what the map is: size, pixel, coordinate system, mode and date."""
    size = math.hypot(box.affine.a, box.affine.d)
    crs = None if box.crs is None else CRS(box.crs.to_wkt())
    facts = [f"{shape[0]:,} {TIMES} {shape[1]:,} px"]
    if crs is None:
        facts.append("no coordinate system")
    else:
        unit = "°" if crs.is_geographic else f" {crs.axis_info[0].unit_name.replace('metre', 'm')}"
        authority = crs.to_authority()
        facts += [f"pixels of {size:.4g}{unit}", ":".join(authority) if authority else crs.name]
    mode = "one model" if record.settings.get("mode") == "global" else "a model for each block"
    facts += [f"preset {record.settings.get('preset')}, {mode}", *describe_cleaning(record.settings)]
    return [*facts, f"{record.created:%-d %B %Y, %H:%M} UTC"]


def describe_state(record: RunRecord) -> list[str]:
    """Return what a reader must know before trusting the map."""
    if not record.blocks.failed:
        return []
    names = ", ".join(record.blocks.failed_names[:MAX_ROWS])
    more = record.blocks.failed - MAX_ROWS
    return [f"Incomplete: blocks {names}{f' and {more} more' if more > 0 else ''} failed and hold no class."]


def describe_catalogue(alignment: AlignmentMetrics | None) -> list[str]:
    """Return what a run with a catalogue knew again, doubted and found new; nothing without one."""
    if alignment is None or alignment.catalogue is None:
        return []
    classes: Any = alignment.catalogue["classes"]
    by_state = {
        state: sorted({int(each["id"]) for each in classes if each["state"] == state})
        for state in ("matched", "ambiguous")
    }
    told = (("known", by_state["matched"]), ("doubtful", by_state["ambiguous"]), ("new", alignment.new_classes))
    parts = [f"{word}: {', '.join(str(i) for i in ids)}" for word, ids in told if ids]
    return [f"Classes by the catalogue - {'; '.join(parts)}."] if parts else []


def draw_blocks(grid: BlockGrid, borders: Sequence[Border], inside: float | None) -> BlockFigure | None:
    """Draw the borders of blocks by how often the class changes there; None where there is no border."""
    rated = [(border, border.rate) for border in borders if border.rate is not None]
    if not rated:
        return None
    lines = tuple(
        (b.x0, b.y0, b.x1, b.y1, level(rate - (inside or 0.0)), f"{rate:.1%} of {b.pairs:,} pixel pairs change class")
        for b, rate in rated
    )
    worst = max(rate for _, rate in rated)
    rows, columns = grid.counts
    compared = "" if inside is None else f"; inside blocks {inside:.1%} do"
    summary = (
        f"{rows} {TIMES} {columns} blocks, {len(rated)} borders. At the worst, {worst:.1%} of pixel pairs change "
        f"class{compared}."
    )
    return BlockFigure(grid.shape[1], grid.shape[0], lines, summary)


LEVELS = (0.01, 0.03, 0.06, 0.12)


def level(excess: float) -> int:
    """Return the class of an excess, 0..4.

    >>> [level(excess) for excess in (-0.02, 0.02, 0.5)]
    [0, 1, 4]
    """
    return int(np.searchsorted(LEVELS, excess, side="right"))


def draw_seams(metrics: Metrics) -> list[Bar]:
    """Return the change rates before and after the cut and inside blocks as bars on one scale."""
    inside, after, before = metrics.interior_change_rate, metrics.seam_change_rate, metrics.seam_excess_before_cut
    if inside is None or after is None:
        return []
    rows = [("Inside blocks", inside), ("Across borders", after)]
    if before is not None:
        rows.append(("Across borders, before the cut", max(0.0, inside + before)))
    top = max([1e-9, *(rate for _, rate in rows)])
    return [Bar(name, f"{rate:.2%}", 100 * rate / top) for name, rate in rows]


def draw_certainty(nodes: Sequence[Node] | None) -> list[Bar]:
    """Return how much of the map has ids that are how sure, by the posterior of the alignment."""
    total = sum(node.pixels for node in nodes or ())
    if nodes is None or not total:
        return []
    ranges = ((0.99, 2, "over 99%"), (0.9, 0.99, "90 to 99%"), (0.5, 0.9, "50 to 90%"), (-1, 0.5, "under 50%"))
    bars = []
    for low, high, name in ranges:
        share = sum(node.pixels for node in nodes if low <= node.posterior < high) / total
        bars.append(Bar(name, f"{share:.1%} of pixels", 100 * share))
    return bars


def list_doubtful(nodes: Sequence[Node] | None) -> list[Node]:
    """Return the block classes whose id is least sure, those of most pixels first."""
    doubtful = [node for node in nodes or () if node.posterior < DOUBTFUL and node.pixels]
    return sorted(doubtful, key=lambda node: -node.pixels)[:MAX_ROWS]


def draw_timings(record: RunRecord) -> list[Bar]:
    """Return the wall time of each stage."""
    longest = max((stage.seconds for stage in record.stages), default=0.0) or 1.0
    return [Bar(stage.name, format_seconds(stage.seconds), 100 * stage.seconds / longest) for stage in record.stages]


def format_seconds(seconds: float) -> str:
    """Return a time for people.

    >>> [format_seconds(value) for value in (0.04, 12.34, 75, 7384)]
    ['0.0 s', '12.3 s', '1 min 15 s', '2 h 3 min']
    """
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60} min"


def list_settings(settings: Mapping[str, Any]) -> list[tuple[str, str, bool]]:
    """Return name, value and whether it is to be seen at once: what was chosen, and what every map depends on."""
    defaults = Settings.model_validate({}).model_dump(mode="json")
    rows = [(name, _plain(value), name in ALWAYS or value != defaults.get(name)) for name, value in settings.items()]
    return sorted(rows, key=lambda row: not row[2])


def _plain(value: object) -> str:
    if value is None:
        return NONE
    if isinstance(value, dict):
        return ", ".join(f"{name}: {each}" for name, each in value.items()) or NONE
    return str(value)


def list_inputs(record: RunRecord) -> list[tuple[str, str, str]]:
    """Return path, size and identity of the inputs, the first of them where they are many."""
    return [
        (each.path, NONE if each.size is None else format_bytes(each.size), each.sha256 or each.etag or NONE)
        for each in record.inputs[:MAX_ROWS]
    ]


def format_bytes(size: int) -> str:
    """Return a size for people.

    >>> [format_bytes(size) for size in (312, 1_572_864, 3 * 2**30)]
    ['312 B', '1.5 MiB', '3.0 GiB']
    """
    value, units = float(size), ["B", "KiB", "MiB", "GiB", "TiB"]
    while value >= 1024 and len(units) > 1:
        value, units = value / 1024, units[1:]
    return f"{size} B" if units[0] == "B" else f"{value:.1f} {units[0]}"


def describe_training(trainings: Sequence[Training]) -> str:
    """Say in a sentence what was trained."""
    if not trainings:
        return "No model was trained in this run: a given one was applied."
    if len(trainings) == 1:
        return trainings[0].stop_reason
    seconds = sum(each.seconds for each in trainings)
    return f"{len(trainings)} models, trained in {format_seconds(seconds)} of work in all."
