"""Change between two maps of one vocabulary: what became of what, where, and on how much ground."""

from __future__ import annotations

import csv
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, cast

import numpy as np
from numpy.typing import NDArray

from pipeline.areas import CELL_PX, pixel_areas
from pipeline.assemble import widened
from pipeline.blocks import BlockGrid, Tell, Window
from pipeline.cog import verify_cog, write_cog
from pipeline.derived import new_folder
from pipeline.errors import InputError
from pipeline.grids import describe_grid, same_grid
from pipeline.legend import Legend
from pipeline.qml import to_style
from pipeline.results import LABELS, Result
from pipeline.stores import NODATA, Labels, LabelStore, create_labels
from pipeline.workspace import write_json

PAIRS: dict[str, Literal["uint16", "uint32"]] = {"uint8": "uint16", "uint16": "uint32"}
"""Type of pairs of labels of a type: a pixel that went from class a to b has ``a * 256 + b``, or ``a * 65536 + b``."""
WORK_PX = 2048


@dataclass(frozen=True)
class Transitions:
    """How many pixels went from each class (row) to each class (column), and on how much ground.

    Attributes
    ----------
    classes
        The ids of rows and columns: all classes of both maps.
    pixels
        ``(class, class)`` int64: pixels that are valid in both maps.
    areas_m2
        ``(class, class)`` float64; None where the maps have no CRS.
    """

    classes: list[int]
    pixels: NDArray[np.int64]
    areas_m2: NDArray[np.float64] | None


def compare(
    before: Result, after: Result, out: str | Path, *, work_px: int = WORK_PX, tell: Tell | None = None
) -> Transitions:
    """Compare two maps, and write what was found to a new directory.

    ``change.tif`` (COG, uint16, ``from * 256 + to``, nodata 65535 where either map has none; where labels are uint16 it
    is uint32, ``from * 65536 + to``), ``change.qml``, ``transitions.csv`` and ``change.json``. Classes that were merged
    since are counted as what they are now. `tell` is called with the blocks that are done and all of them.

    Raises
    ------
    InputError
        The maps lie on different grids; their ids mean different classes; or there is something at `out`.
    """
    one, other = (LabelStore.open(result.path / LABELS) for result in (before, after))
    _check_comparable(before, after, one, other)
    with new_folder(Path(out).absolute()) as folder:
        dtype = max((one.dtype, other.dtype), key=lambda each: each.itemsize).name
        create_labels(folder / "change.zarr", one.geobox, chunk_px=one.chunk_px, dtype=PAIRS[dtype], attrs={})
        change = LabelStore.open(folder / "change.zarr", "r+")
        follow, legend = (
            follow_merges(before.legend, after.legend, dtype=dtype),
            merge_legends(before.legend, after.legend),
        )
        place = np.full(NODATA[dtype] + 1, len(legend), np.int32)
        place[legend.ids] = np.arange(len(legend))
        side = len(legend) + 1  # the last is for pixels of no class
        pixels, areas = np.zeros(side**2, np.int64), np.zeros(side**2)
        for block in BlockGrid(one.shape, one.chunk_px * max(1, work_px // one.chunk_px)).each(tell):
            was, now = (follow[widened(store.read(block.core), dtype)] for store in (one, other))
            change.array()[block.core.slices] = encode(was, now)
            found, weights = _count(place[was] * side + place[now], side**2, block.core, change)
            pixels, areas = pixels + found, areas + weights
        table = _table(legend, pixels, None if one.geobox.crs is None else areas)
        write_cog(change, folder / "change.tif", tags={"TIFFTAG_SOFTWARE": "ktextures"})
        verify_cog(folder / "change.tif", change)
        shutil.rmtree(folder / "change.zarr")
        (folder / "change.qml").write_text(_style(legend, table, NODATA[dtype] + 1), encoding="utf-8")
        _write_csv(folder / "transitions.csv", legend, table)
        write_json(folder / "change.json", describe(before, after, legend, table))
    return table


def follow_merges(*legends: Legend, dtype: str = "uint8") -> Labels:
    """Return, for each value of labels, the id that it goes by after the merges that any of the maps knows of.

    Examples
    --------
    >>> from pipeline.legend import LegendClass, LegendMerge
    >>> newer = Legend((LegendClass(0),), merges=(LegendMerge(3, 0, "2021-01-01"),))
    >>> follow_merges(Legend.from_counts({0: 1, 3: 1}), newer)[[0, 3, 255]].tolist()
    [0, 0, 255]
    """
    table: Labels = np.arange(NODATA[dtype] + 1).astype(dtype)
    for legend in legends:
        for merge in legend.merges:
            table[table == merge.gone] = legend.current(merge.gone)
    return table


def encode(before: Labels, after: Labels) -> NDArray[np.uint16] | NDArray[np.uint32]:
    """Return what became of each pixel.

    Examples
    --------
    >>> encode(np.array([[1, 2, 255]], np.uint8), np.array([[1, 3, 3]], np.uint8)).tolist()
    [[257, 515, 65535]]
    """
    nodata, pairs = NODATA[before.dtype.name], PAIRS[before.dtype.name]
    codes: Any = before.astype(pairs) * (nodata + 1) + after
    codes[(before == nodata) | (after == nodata)] = NODATA[pairs]
    return cast("NDArray[np.uint16] | NDArray[np.uint32]", codes)


def merge_legends(one: Legend, other: Legend) -> Legend:
    """Return the classes of both maps; names and colours are those of the second where both have a class."""
    follow = follow_merges(one, other, dtype="uint16")
    classes = {each.id: each for each in (*one.classes, *other.classes) if follow[each.id] == each.id}
    return Legend.from_counts(
        dict.fromkeys(classes, 0),
        names={i: each.name for i, each in classes.items()},
        colours={i: each.colour for i, each in classes.items()},
    )


def _check_comparable(before: Result, after: Result, one: LabelStore, other: LabelStore) -> None:
    if not same_grid(one.geobox, other.geobox):
        raise InputError(
            f"{after.path}: is on another grid than {before.path}: {describe_grid(other.geobox)}; "
            f"expected {describe_grid(one.geobox)}; run both on the same area and pixels"
        )
    said = before.record.vocabulary, after.record.vocabulary
    if before.record.meaning is None or before.record.meaning != after.record.meaning:
        raise InputError(
            f"{after.path}: its ids mean other classes than those of {before.path} "
            f"({said[1] or 'its own'}; expected {said[0] or 'those of one model or catalogue'}); "
            f"make both with one --model or one --catalogue"
        )


def _count(
    codes: NDArray[np.int32], values: int, window: Window, store: LabelStore
) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    flat = codes.ravel()
    pixels: NDArray[np.int64] = np.bincount(flat, minlength=values).astype(np.int64)
    if store.geobox.crs is None:
        return pixels, np.zeros(values)
    cells = pixel_areas(store.geobox.transform, store.geobox.crs.proj, window)
    areas = np.repeat(np.repeat(cells, CELL_PX, axis=0)[: codes.shape[0]], CELL_PX, axis=1)[:, : codes.shape[1]]
    ground: NDArray[np.float64] = np.bincount(flat, weights=areas.ravel(), minlength=values).astype(np.float64)
    return pixels, ground


def _table(legend: Legend, pixels: NDArray[np.int64], areas: NDArray[np.float64] | None) -> Transitions:
    side, classes = len(legend) + 1, slice(len(legend))
    square = (side, side)
    ground = None if areas is None else areas.reshape(square)[classes, classes]
    return Transitions(legend.ids, pixels.reshape(square)[classes, classes], ground)


def _changes(table: Transitions) -> list[tuple[int, int]]:
    return [(int(i), int(j)) for i, j in np.argwhere(table.pixels) if i != j]


def _style(legend: Legend, table: Transitions, base: int) -> str:
    entries = []
    for i, j in _changes(table):
        before, after = legend[table.classes[i]], legend[table.classes[j]]
        entries.append((before.id * base + after.id, after.colour, f"{before.name} to {after.name}"))
    return to_style(entries)


def _write_csv(path: Path, legend: Legend, table: Transitions) -> None:
    with path.open("w", encoding="utf-8", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(["from", "from_name", "to", "to_name", "pixels", "area_km2"])
        for i, j in np.argwhere(table.pixels):
            before, after = legend[table.classes[i]], legend[table.classes[j]]
            area = "" if table.areas_m2 is None else round(float(table.areas_m2[i, j]) / 1e6, 9)
            rows.writerow([before.id, before.name, after.id, after.name, int(table.pixels[i, j]), area])


def describe(before: Result, after: Result, legend: Legend, table: Transitions) -> dict[str, Any]:
    """Return the change as ``change.json`` has it: both runs, the matrices, and what each class lost and gained."""
    pixels, areas = table.pixels, table.areas_m2
    compared, kept = int(pixels.sum()), int(np.trace(pixels))
    classes = []
    for place, each in enumerate(legend.classes):
        lost, gained = (int(pixels.sum(axis=axis)[place] - pixels[place, place]) for axis in (1, 0))
        entry: dict[str, Any] = {"id": each.id, "name": each.name, "colour": each.colour}
        entry |= {"pixels_lost": lost, "pixels_gained": gained}
        if areas is not None:
            own = areas[place, place]
            entry["area_km2_lost"] = float(areas.sum(axis=1)[place] - own) / 1e6
            entry["area_km2_gained"] = float(areas.sum(axis=0)[place] - own) / 1e6
        classes.append(entry)
    return {
        "format": "ktextures-change",
        "version": 1,
        "before": {"run": str(before.path), "key": before.record.key},
        "after": {"run": str(after.path), "key": after.record.key},
        "vocabulary": before.record.meaning,
        "pixels_compared": compared,
        "share_changed": (compared - kept) / compared if compared else None,
        "ids": table.classes,
        "pixels": pixels.tolist(),
        "areas_km2": None if areas is None else (areas / 1e6).tolist(),
        "classes": classes,
    }
