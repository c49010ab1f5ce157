"""Rewriting what a run published, after its classes were named or merged: labels, rasters, legend and record.

All is made beside the run first and then moved into place, the record last, as a run publishes: an interrupted
rewriting leaves the run as it was, or is ended by giving the run's own command again.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import rasterio

from pipeline.align.review import join_confusions, tell_mixed
from pipeline.align.values import Confusion, Mixed
from pipeline.catalogue.store import CLASSES
from pipeline.census import take_census
from pipeline.checksums import checksums, note_edit
from pipeline.cog import verify_cog, write_cog
from pipeline.errors import InputError
from pipeline.legend import Legend
from pipeline.levels import write_levels
from pipeline.metrics import effective_classes
from pipeline.plan import grid_of
from pipeline.qml import to_qml
from pipeline.quicklook import write_quicklook
from pipeline.record import AlignmentMetrics, Metrics, RunRecord
from pipeline.results import Result, open_result
from pipeline.stac import ITEM, write_item
from pipeline.stores import Labels, LabelStore, set_legend
from pipeline.workspace import RECORD, Workspace, whole

LABELS = "labels.zarr"
FROM_LABELS = frozenset({"labels.tif", "labels.tif.aux.xml", "confidence.tif", "labels.qml", "quicklook.png", ITEM})
"""Files of a run that follow from its labels, legend and record."""


def rewrite_run(directory: Path, legend: Legend, why: str = "classes") -> None:
    """Publish a run again under another legend, with merged classes replaced in the labels; its journal says `why`.

    Confidence, models and signatures stay. Figures that the labels do not tell any more (scores against a truth,
    seams before the cut, disagreement of overlaps) are left out of the record where classes were merged.

    Raises
    ------
    InputError
        The directory holds no published run, or another process is at work there.
    """
    result = open_result(directory)
    record = result.record
    if record.state != "done":
        raise InputError(f"{directory}: the run is {record.state}; give its own command again, to complete it first")
    table = remap(result.legend, legend, LabelStore.open(directory / LABELS).dtype.name)
    with Workspace(directory, {"key": record.key, "base": None}) as workspace:
        outputs = workspace.folders.outputs
        workspace.copy_published()
        (outputs / RECORD).unlink()  # it comes last, here too
        store = LabelStore.open(outputs / LABELS, "r+")
        merged = not np.array_equal(table, np.arange(len(table)))
        if merged:
            for window in store.strips():
                store.write(window, table[store.read(window)], store.read_confidence(window))
            write_levels(store)
        set_legend(outputs / LABELS, legend)
        legend.to_json(outputs / CLASSES)
        with whole(outputs / "labels.qml") as partial:
            partial.write_text(to_qml(legend), encoding="utf-8")
        write_cog(store, outputs / "labels.tif", legend=legend, tags=_tags(directory))
        verify_cog(outputs / "labels.tif", store)
        write_quicklook(store, legend, outputs / "quicklook.png", None)
        (_measured(result, legend, store, table) if merged else record).write(outputs / RECORD)
        workspace.restate({"key": record.key, "base": None, "code": record.code, "settings": record.settings})
        write_item(outputs, directory.absolute().name)
        note_edit(directory, why, checksums(directory), checksums(outputs), outputs)
        workspace.publish()


def restore_run(directory: Path, names: Collection[str]) -> None:
    """Make files of a published run again from its labels, which are as they were published, and note it.

    Parameters
    ----------
    names
        Of `FROM_LABELS`.

    Raises
    ------
    InputError
        The directory holds no published run, or another process is at work there.
    """
    if strangers := set(names) - FROM_LABELS:
        raise ValueError(f"`names` must be of {sorted(FROM_LABELS)}; got {sorted(strangers)}")
    result, before = open_result(directory), checksums(directory)
    store, tags = LabelStore.open(directory / LABELS), _tags_of(result.record)
    if {"labels.tif", "labels.tif.aux.xml"} & {*names}:
        write_cog(store, directory / "labels.tif", legend=result.legend, tags=tags)
        verify_cog(directory / "labels.tif", store)
    if "confidence.tif" in names:
        write_cog(store, directory / "confidence.tif", variable="confidence", tags=tags)
        verify_cog(directory / "confidence.tif", store, variable="confidence")
    if "labels.qml" in names:
        with whole(directory / "labels.qml") as partial:
            partial.write_text(to_qml(result.legend), encoding="utf-8")
    if "quicklook.png" in names:
        write_quicklook(store, result.legend, directory / "quicklook.png", None)
    if ITEM in names:
        (directory / ITEM).unlink(missing_ok=True)
    write_item(directory)
    note_edit(directory, "restored", before, checksums(directory))


def _tags_of(record: RunRecord) -> dict[str, str]:
    """Return what a TIFF of a run says of itself."""
    licence = "; ".join(str(said) for name in ("license", "attribution") if (said := record.settings.get(name)))
    tags = {"TIFFTAG_SOFTWARE": "ktextures", "KTEX_SETTINGS": str(record.settings_digest)}
    return tags | ({"TIFFTAG_COPYRIGHT": licence} if licence else {})


def _tags(directory: Path) -> dict[str, str]:
    """Return what the TIFF says of itself, which the new one is to say as well."""
    with rasterio.open(directory / "labels.tif") as old:
        return {name: value for name, value in old.tags().items() if name.startswith(("TIFFTAG_", "KTEX_"))}


def remap(before: Legend, after: Legend, dtype: str = "uint8") -> Labels:
    """Return the id after all merges and remaps for each value of labels of a type, ``(256 or 65536,)``; nodata stays.

    >>> from pipeline.legend import LegendMerge
    >>> old = Legend.from_counts({0: 5, 3: 7})
    >>> new = Legend(old.classes[:1], merges=(LegendMerge(3, 0, "2021-03-01"),))
    >>> remap(old, new)[[0, 3, 255]].tolist()
    [0, 0, 255]
    """
    table: Labels = np.arange(np.iinfo(dtype).max + 1).astype(dtype)
    for class_id in before.ids:
        table[class_id] = after.renamed(class_id, before)
    if strangers := sorted({int(table[i]) for i in before.ids} - set(after.ids)):
        raise InputError(f"classes {strangers} of the labels are not in the new legend; name or merge them there")
    return table


def _measured(result: Result, legend: Legend, store: LabelStore, table: Labels) -> RunRecord:
    """Return the record with the figures of the labels as they are now."""
    old = result.record.metrics
    if old is None:
        raise InputError(f"{result.path}: the run has no figures; run it to its end first")
    census = take_census(store, grid_of(result.record.settings, store.shape))
    metrics = Metrics.model_validate(
        old.model_dump()
        | {
            "classes": len(legend),
            "classes_effective": effective_classes([each.pixels for each in legend.classes]),
            "seam_change_rate": census.seams.seam_change_rate,
            "interior_change_rate": census.seams.interior_change_rate,
            "seam_excess": census.seams.seam_excess,
            "seam_excess_before_cut": None,
            "overlap_disagreement": None,
            "areas_m2": census.areas_m2,
            "score": census.score,
            "alignment": None if old.alignment is None else rename_alignment(old.alignment, table),
            "truth": None,
        }
    )
    return result.record.model_copy(update={"metrics": metrics})


def rename_alignment(alignment: AlignmentMetrics, table: Labels) -> dict[str, Any]:
    """Say of the alignment, in ids as they are now, what still holds: what became one class is not taken for another.

    What the catalogue said when the run attached stays as it was said.
    """

    def now(entry: Any) -> dict[str, Any]:
        names = [name for name in ("id", "new_id", "second_id") if isinstance(entry.get(name), int)]
        return {**entry, **{name: int(table[entry[name]]) for name in names}}

    def pair(entry: Any) -> tuple[int, int]:
        first, second = (int(table[i]) for i in entry["ids"])
        return first, second

    said: dict[str, Any] = alignment.model_dump()
    confused = join_confusions(Confusion(pair(each), each["pixels"], each["share"]) for each in said["confusions"])
    mixed = [{**each, "ids": list(pair(each))} for each in said["mixed"] if len({*pair(each)}) == 2]
    stale = tell_mixed(_read_mixed(said["mixed"]))
    return said | {
        "ambiguous": [each for each in map(now, said["ambiguous"]) if each.get("second_id") != each["id"]],
        "repairs": [now(each) for each in said["repairs"]],
        "confusions": [{"ids": list(c.classes), "pixels": c.pixels, "share": c.share} for c in confused],
        "mixed": mixed,
        "flags": [*(flag for flag in said["flags"] if flag not in stale), *tell_mixed(_read_mixed(mixed))],
        "new_classes": sorted({int(table[i]) for i in said["new_classes"]}),
    }


def _read_mixed(entries: Sequence[Mapping[str, Any]]) -> list[Mixed]:
    """Return what `run.json` lists of classes that hold two."""
    return [Mixed(tuple(e["block"]), e["local_id"], tuple(e["ids"]), e["share"]) for e in entries]
