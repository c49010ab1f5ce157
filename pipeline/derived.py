"""Runs made of runs: a map cleaned up, published like the one that it was made of, which stays as it is."""

from __future__ import annotations

import hashlib
import math
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np

from pipeline.areas import pixel_areas
from pipeline.blocks import BlockGrid, Window
from pipeline.census import take_census
from pipeline.cleanup import CleanUp, sieve_map, smooth_map
from pipeline.cog import verify_cog, write_cog
from pipeline.errors import InputError
from pipeline.legend import Legend
from pipeline.levels import write_levels
from pipeline.metrics import effective_classes
from pipeline.plan import grid_of
from pipeline.qml import to_qml
from pipeline.quicklook import write_quicklook
from pipeline.record import Metrics, make_record
from pipeline.report import REPORT, remake_report, shows_pixels
from pipeline.report.diagnostics import DIAGNOSTICS
from pipeline.report.textures import TEXTURES
from pipeline.results import LABELS, LEGEND, RECORD, Result, open_result
from pipeline.stac import write_item
from pipeline.stores import Labels, LabelStore, create_labels, set_legend

BLOCK_PX = 1024
KEPT = (DIAGNOSTICS, TEXTURES)
"""What a cleaned map has from the run that it was made of: samples and the report need it."""
Progress = Callable[[str, int, int], None]


@contextmanager
def new_folder(out: Path) -> Iterator[Path]:
    """Give a folder to fill, which becomes `out` at the end; nothing is left where it fails.

    Raises
    ------
    InputError
        There is something at `out`, or it cannot be made.
    """
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise InputError(f"--out {out}: is there already; give a new directory")
    partial = out.with_name(f".{out.name}.partial")
    try:
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(parents=True)
    except OSError as error:
        raise InputError(f"--out {out}: cannot be made ({error.strerror}); give another directory") from error
    try:
        yield partial
        partial.replace(out)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def mmu_of_area(result: Result, area_m2: float) -> int:
    """Return how many pixels, in the middle of a map, cover at least an area.

    Raises
    ------
    InputError
        The map has no CRS.
    """
    store = LabelStore.open(result.path / LABELS)
    if store.geobox.crs is None:
        raise InputError(f"{result.path}: has no CRS, so its pixels have no area; give --mmu-px instead of --mmu-m2")
    y, x = (size // 2 for size in store.shape)
    (pixel,) = pixel_areas(store.geobox.transform, store.geobox.crs.proj, Window(y, x, y + 1, x + 1)).ravel()
    return max(1, math.ceil(area_m2 / float(pixel)))


def clean(
    result: Result, out: str | Path, how: CleanUp, *, block_px: int = BLOCK_PX, progress: Progress | None = None
) -> Result:
    """Publish a cleaned map as a run of its own: the same for any `block_px`.

    Majority smoothing comes first; then patches below the minimum mapping unit are given to the large ones around
    them, from outside inwards, until none borders on a large one any more. Islands in nodata stay. Pixels that change
    have confidence 0. `progress` is called with the step, and how many of its pieces are done and there are.

    Raises
    ------
    InputError
        There is something at `out`.
    """
    source = LabelStore.open(result.path / LABELS)
    with new_folder(Path(out).absolute()) as folder:
        attrs: dict[str, Any] = {
            name: value
            for name, value in source.group.attrs.items()
            if name in {"title", "source", "k", "settings_digest", "license", "attribution"}
        }
        said = ", ".join(f"{name} {value}" for name, value in asdict(how).items())
        attrs["history"] = f"{source.group.attrs.get('history', '')}\ncleaned from {result.path.name}: {said}"
        create_labels(folder / LABELS, source.geobox, chunk_px=source.chunk_px, dtype=_dtype(source), attrs=attrs)
        _clean_into(LabelStore.open(folder / LABELS, "r+"), source, folder, how, block_px, progress or _silent)
        _publish(folder, result, how, Path(out).absolute().name)
    return open_result(out)


def _dtype(store: LabelStore) -> Literal["uint8", "uint16"]:
    return "uint8" if store.dtype == np.uint8 else "uint16"


def _silent(step: str, done: int, total: int) -> None:
    """Is told how far the work is, and keeps it to itself."""


def _clean_into(
    target: LabelStore, source: LabelStore, folder: Path, how: CleanUp, block_px: int, progress: Progress
) -> None:
    passes = [folder / "pass0.zarr", folder / "pass1.zarr"]
    for path in passes:
        create_labels(path, source.geobox, chunk_px=source.chunk_px, dtype=_dtype(source), attrs={})
    stores = [LabelStore.open(path, "r+") for path in passes]
    block_px = source.chunk_px * max(1, block_px // source.chunk_px)  # no chunk has two writers
    work: dict[str, Any] = {"nodata": source.nodata, "block_px": block_px}
    now, turn = source, 0
    if how.majority_px > 1:
        tell = partial(progress, "Smoothing")
        smooth_map(now.read, _writer(stores[0]), source.shape, how.majority_px, **work, tell=tell)
        now, turn = stores[0], 1
    changed, passes_done = how.mmu_px > 1, 0
    while changed:
        passes_done += 1
        tell = partial(progress, f"Sieving, pass {passes_done}")
        changed = sieve_map(now.read, _writer(stores[turn]), source.shape, how.mmu_px, **work, tell=tell) > 0
        now, turn = stores[turn], 1 - turn
    for block in BlockGrid(source.shape, block_px).each(partial(progress, "Writing labels")):
        labels, before = now.read(block.core), source.read(block.core)
        confidence = source.read_confidence(block.core)
        confidence[labels != before] = 0
        target.write(block.core, labels, confidence)
    for path in passes:
        shutil.rmtree(path)


def _writer(store: LabelStore) -> Any:
    def write(window: Window, labels: Labels) -> None:
        store.array()[window.slices] = labels

    return write


def _publish(folder: Path, result: Result, how: CleanUp, name: str) -> None:
    store = LabelStore.open(folder / LABELS, "r+")
    legend = count_classes(store, result.legend)
    set_legend(folder / LABELS, legend)
    write_levels(store)
    legend.to_json(folder / LEGEND)
    (folder / "labels.qml").write_text(to_qml(legend), encoding="utf-8")
    tags = {"TIFFTAG_SOFTWARE": "ktextures"}
    write_cog(store, folder / "labels.tif", legend=legend, tags=tags)
    verify_cog(folder / "labels.tif", store)
    write_cog(store, folder / "confidence.tif", variable="confidence", tags=tags)
    write_quicklook(store, legend, folder / "quicklook.png", None)
    record, census = result.record, take_census(store, grid_of(result.record.settings, store.shape))
    pixels = [each.pixels for each in legend.classes]
    metrics = Metrics(
        pixels_valid=sum(pixels),
        pixels_per_second=None,
        classes=len(legend),
        classes_effective=effective_classes(pixels),
        seam_change_rate=census.seams.seam_change_rate,
        interior_change_rate=census.seams.interior_change_rate,
        seam_excess=census.seams.seam_excess,
        seam_excess_before_cut=None,
        overlap_disagreement=None,
        alignment=None,
        areas_m2=census.areas_m2,
    )
    key = hashlib.sha256(f"{record.key} {sorted(asdict(how).items())}".encode()).hexdigest()
    make_record(
        record.state,
        created=datetime.now(UTC),
        settings={**record.settings, **asdict(how)},
        inputs=record.inputs,
        blocks=record.blocks,
        code=record.code,
        key=key,
        settings_digest=record.settings_digest,
        vocabulary=record.meaning,
        metrics=metrics,
    ).write(folder / RECORD)
    for kept in KEPT:
        if (result.path / kept).is_dir():
            shutil.copytree(result.path / kept, folder / kept)
        elif (result.path / kept).exists():
            shutil.copyfile(result.path / kept, folder / kept)
    if (result.path / REPORT).exists():
        remake_report(folder, pixels=None if shows_pixels(result.path / REPORT) else False, title=name)
    write_item(folder, name)


def count_classes(store: LabelStore, legend: Legend) -> Legend:
    """Return the legend of a map with the names and colours of another one, and its own numbers of pixels."""
    counts = np.zeros(int(np.iinfo(store.dtype).max) + 1, np.int64)
    for window in store.strips():
        counts += np.bincount(store.read(window).ravel(), minlength=len(counts))
    counts[store.nodata] = 0
    return Legend.from_counts(
        {int(i): int(counts[i]) for i in np.flatnonzero(counts)},
        names={each.id: each.name for each in legend.classes},
        colours={each.id: each.colour for each in legend.classes},
        signatures={each.id: each.signature for each in legend.classes},
        spectra={each.id: each.spectrum for each in legend.classes},
    )
