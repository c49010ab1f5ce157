"""What a report says, before it is a page: cards, figures and tables as plain values."""

from __future__ import annotations

from dataclasses import dataclass

from pipeline.record import RunRecord
from pipeline.report import figures
from pipeline.report.charts import Chart, Spectrum, draw_spectra, draw_trainings
from pipeline.report.diagnostics import Node
from pipeline.report.figures import Bar, BlockFigure, Figure
from pipeline.report.likeness import Likeness
from pipeline.report.survey import Patch, Survey


@dataclass(frozen=True)
class ClassCard:
    """One class: its place in the legend, its area, how it looks and what it is like."""

    id: int
    name: str
    colour: str
    share: float
    area: str
    patches: tuple[Patch, ...]
    texture: str | None
    spectrum: Spectrum | None
    alike: Likeness | None


@dataclass(frozen=True)
class Contents:
    """All that a report says.

    Attributes
    ----------
    title, facts
        The heading, and what the map is in a line.
    state
        What is missing or uncertain about the run as a whole, one sentence each.
    """

    title: str
    facts: tuple[str, ...]
    state: tuple[str, ...]
    figures: tuple[Figure, ...]
    classes: tuple[ClassCard, ...]
    alike: tuple[Likeness, ...]
    charts: tuple[Chart, ...]
    trained: str
    blocks: BlockFigure | None
    seams: tuple[Bar, ...]
    certainty: tuple[Bar, ...]
    doubtful: tuple[Node, ...]
    flags: tuple[str, ...]
    timings: tuple[Bar, ...]
    settings: tuple[tuple[str, str, bool], ...]
    inputs: tuple[tuple[str, str, str], ...]
    more_inputs: int
    versions: tuple[tuple[str, str], ...]
    digest: str
    no_pixels: str


ALIKE = 12
"""So many pairs of look-alikes are listed."""


def compile_contents(found: Survey, record: RunRecord, title: str) -> Contents:
    """Put into words and figures what was found."""
    metrics = record.metrics
    if metrics is None:
        raise ValueError(f"`record` must be of a run with outputs; got state {record.state!r}")
    nodes, flags = found.diagnostics.nodes, metrics.alignment.flags if metrics.alignment else ()
    return Contents(
        title=title,
        facts=tuple(figures.describe_map(found.shape, found.box, record)),
        state=tuple(figures.describe_state(record)),
        figures=tuple(figures.summarise(metrics, found.areas, found.confidence)),
        classes=compile_cards(found),
        alike=found.alike[:ALIKE],
        charts=tuple(draw_trainings(found.diagnostics.trainings)),
        trained=figures.describe_training(found.diagnostics.trainings),
        blocks=figures.draw_blocks(found.grid, found.borders, metrics.interior_change_rate),
        seams=tuple(figures.draw_seams(metrics)),
        certainty=tuple(figures.draw_certainty(nodes)),
        doubtful=tuple(figures.list_doubtful(nodes)),
        flags=(*figures.describe_catalogue(metrics.alignment), *flags),
        timings=tuple(figures.draw_timings(record)),
        settings=tuple(figures.list_settings(record.settings)),
        inputs=tuple(figures.list_inputs(record)),
        more_inputs=max(0, len(record.inputs) - figures.MAX_ROWS),
        versions=(("ktextures", record.ktextures), *sorted(record.versions.items())),
        digest=record.settings_digest or "",
        no_pixels=found.no_pixels,
    )


def compile_cards(found: Survey) -> tuple[ClassCard, ...]:
    """Make a card for each class of the legend."""
    classes = found.legend.classes
    spectra = draw_spectra({each.id: each.spectrum for each in classes}, found.diagnostics.bands)
    return tuple(
        ClassCard(
            id=each.id,
            name=each.name,
            colour=each.colour,
            share=each.share,
            area=figures.describe_area(each, found.areas),
            patches=found.patches.get(each.id, ()),
            texture=found.textures.get(each.id),
            spectrum=spectra.get(each.id),
            alike=next((pair for pair in found.alike if each.id in {pair.a, pair.b}), None),
        )
        for each in classes
    )
