"""What a finished run tells: the same facts for a terminal, for Prefect's tables and for its pages."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pyproj import CRS

from flows.progress import span
from pipeline.areas import class_areas
from pipeline.record import Metrics
from pipeline.results import Result
from pipeline.stores import LabelStore

FILES = ("report.html", "labels.tif", "confidence.tif", "labels.zarr", "classes.json", "quicklook.png", "run.json")
"""What there may be to open, in the order in which people will."""


def class_table(result: Result) -> list[dict[str, Any]]:
    """Return a row for each class: id, name, colour, share of the valid pixels, and km2 where the map has a CRS."""
    store = LabelStore.open(result.path / "labels.zarr")
    box = store.geobox
    areas = None if box.crs is None else class_areas(store.read, store.shape, box.affine, CRS(box.crs.to_wkt()))
    rows: list[dict[str, Any]] = []
    for each in result.legend.classes:
        row = {"id": each.id, "name": each.name, "colour": each.colour, "share": each.share}
        rows.append(row if areas is None else {**row, "km2": areas.get(each.id, 0.0) / 1e6})
    return rows


def to_text(result: Result, rows: list[dict[str, Any]] | None = None) -> str:
    """Return the summary for a terminal."""
    parts = [
        _heading(result),
        _columns(rows or class_table(result)),
        "\n".join(f"{name:<22}{value}" for name, value in figures(result)),
        "\n".join(["Open:", *(f"  {path}" for path in _outputs(result.path))]),
        "In Python:\n" + "\n".join(f"  {line}" for line in python_lines(result)),
    ]
    return "\n\n".join(parts)


def to_markdown(result: Result, rows: list[dict[str, Any]] | None = None) -> str:
    """Return the summary as a page."""
    table = rows or class_table(result)
    names = list(table[0]) if table else []
    lines = [
        f"## {_heading(result)}",
        "",
        "| " + " | ".join(names) + " |",
        "|" + "---|" * len(names),
        *("| " + " | ".join(_cell(row[name]) for name in names) + " |" for row in table),
        "",
        *(f"- {name}: {value}" for name, value in figures(result)),
        "",
        *(f"- `{path}`" for path in _outputs(result.path)),
        "",
        "```python",
        *python_lines(result),
        "```",
    ]
    return "\n".join(lines)


def figures(result: Result) -> list[tuple[str, str]]:
    """Return the figures of a run by name: blocks, seams, scores and times."""
    record, metrics = result.record, result.record.metrics
    blocks = record.blocks
    counts = f"{blocks.done} computed, {blocks.reused} reused, {blocks.failed} failed"
    if blocks.failed:
        counts += f" ({', '.join(blocks.failed_names)}: nodata there)"
    found = [("blocks", counts)]
    if metrics is not None:
        found += _metrics(metrics)
    times = ", ".join(f"{stage.name} {span(stage.seconds)}" for stage in record.stages)
    total = f"{span(record.seconds)} ({times})" if record.seconds is not None else times
    return [*found, ("time", total)]


def python_lines(result: Result) -> list[str]:
    """Return the lines that open the map."""
    labels = result.labels
    return [
        "import xarray as xr",
        f'scene = xr.open_zarr("{result.path / "labels.zarr"}", decode_coords="all")',
        f"scene.labels  # (y, x) {labels.dtype}, nodata {labels.attrs['nodata']}; scene.confidence beside it",
    ]


def _metrics(metrics: Metrics) -> list[tuple[str, str]]:
    found = [
        ("valid pixels", f"{metrics.pixels_valid:,}"),
        ("classes", f"{metrics.classes}, effective {metrics.classes_effective:.2f}"),
    ]
    if metrics.pixels_per_second is not None:
        found.append(("speed", f"{metrics.pixels_per_second:,.0f} pixels/s"))
    if metrics.seam_change_rate is not None and metrics.interior_change_rate is not None:
        seams = f"{metrics.seam_change_rate:.2%} of pixel pairs change class across block borders, "
        found.append(("seams", seams + f"{metrics.interior_change_rate:.2%} inside"))
    if metrics.seam_excess is not None:
        before = metrics.seam_excess_before_cut
        found.append(
            (
                "seam excess",
                f"{metrics.seam_excess:+.2%}" + (f", {before:+.2%} before the cut" if before is not None else ""),
            )
        )
    if metrics.overlap_disagreement is not None:
        found.append(("overlap disagreement", f"{metrics.overlap_disagreement:.2%} before the cut"))
    if metrics.alignment is not None and metrics.alignment.catalogue is not None:
        found.append(("catalogue", _matching(metrics.alignment.catalogue, metrics.alignment.new_classes)))
    if metrics.truth is not None:
        truth = metrics.truth
        scores = (
            f"ARI {truth.ari:.3f}, AMI {truth.ami:.3f}, accuracy {truth.hungarian_accuracy:.3f}, mIoU {truth.miou:.3f}"
        )
        found.append(("against the truth", scores))
    return found


def _matching(catalogue: dict[str, Any], new: list[Any]) -> str:
    """Say how the classes of a run were found in its catalogue."""
    classes = catalogue["classes"]
    told = [str(catalogue["how"])]
    if matched := sorted({each["id"] for each in classes if each["state"] == "matched"}):
        told.append(f"sure of {', '.join(str(i) for i in matched)}")
    if doubtful := [each for each in classes if each["state"] == "ambiguous"]:
        told.append("doubtful: " + ", ".join(f"{each['id']} (class {each['class']} of the run)" for each in doubtful))
    told.append(f"new: {', '.join(str(i) for i in new) or 'none'}")
    return "; ".join(told)


def _heading(result: Result) -> str:
    state = "incomplete" if result.record.exit_code else "done"
    return f"{result.path}: {state}, {len(result.legend)} classes"


def _columns(rows: list[dict[str, Any]]) -> str:
    if not rows:
        return "no class"
    names = list(rows[0])
    cells = [names, *([_cell(row[name]) for name in names] for row in rows)]
    widths = [max(len(line[column]) for line in cells) for column in range(len(names))]
    left = {"name", "colour"}
    return "\n".join(
        "  ".join(
            value.ljust(width) if name in left else value.rjust(width)
            for name, value, width in zip(names, line, widths, strict=True)
        ).rstrip()
        for line in cells
    )


def _cell(value: object) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _outputs(directory: Path) -> list[Path]:
    return [directory / name for name in FILES if (directory / name).exists()]
