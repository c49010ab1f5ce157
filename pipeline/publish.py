"""The last stages: legend, rasters and record from the assembled labels, all beside each other until they move."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import astuple
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from pipeline.align import Alignment, Repair
from pipeline.align.review import tell_mixed
from pipeline.assemble import straight_labels, sums_of
from pipeline.blocks import Block, Index
from pipeline.borders import Border
from pipeline.catalogue.stage import describe, read_attachment, read_vocabulary, write_slice
from pipeline.catalogue.store import read_catalogue
from pipeline.census import Census, Counting
from pipeline.cog import verify_cog, write_cog
from pipeline.engine import Engine, SerialEngine
from pipeline.errors import RunFailedError
from pipeline.ground import assemble_ground, colour_view
from pipeline.legend import Legend
from pipeline.levels import write_levels
from pipeline.metrics import effective_classes, seams
from pipeline.plan import Plan
from pipeline.qml import to_qml
from pipeline.quicklook import write_quicklook
from pipeline.record import AlignmentMetrics, Blocks, Cost, Input, Metrics, RunRecord, Stage, make_record
from pipeline.simulation import SIMULATED, verify_simulated, write_simulated
from pipeline.stores import NODATA, LabelStore, set_legend
from pipeline.workspace import read_json, replace_arrays, write_json

if TYPE_CHECKING:
    from pipeline.running import Run

FIGURES = "levels, figures and quicklook"
WHOLE = ("confidence.tif", "labels.tif", FIGURES)
"""What is made of the whole map, the longest work first."""

DOUBTFUL = 0.9
"""A node whose posterior is lower is listed for review."""


def write_outputs(
    plan: Plan,
    alignment: Alignment | None,
    blocks: Sequence[Block],
    report: Callable[[int, int], None],
    engine: Engine | None = None,
) -> None:
    """Write the legend; then, on the workers and at the same time, the rest that is made of the whole map."""
    outputs = plan.folders.outputs
    legend = write_slice(plan, make_legend(plan, alignment, blocks))
    set_legend(plan.folders.labels, legend)
    legend.to_json(outputs / "classes.json")
    (outputs / "labels.qml").write_text(to_qml(legend), encoding="utf-8")
    parts = (SIMULATED, *WHOLE) if plan.settings.simulated else WHOLE
    report(1, 1 + len(parts))
    for done, outcome in enumerate((engine or SerialEngine()).map(partial(make_whole, plan), parts, retries=0), 2):
        if outcome.error is not None:
            raise RunFailedError(f"{outcome.item} could not be made: {outcome.error}") from outcome.error
        report(done, 1 + len(parts))


def make_whole(plan: Plan, name: str) -> None:
    """Make one of the outputs that are made of the whole map, and check it."""
    outputs, store = plan.folders.outputs, LabelStore.open(plan.folders.labels)
    threads = plan.settings.workers  # as many cores as the run was given, at the end the last COG alone
    legend = Legend.from_json(outputs / "classes.json")
    match name:
        case "labels.tif":
            sums = write_cog(store, outputs / name, legend=legend, tags=tags_of(plan), threads=threads)
            verify_cog(outputs / name, store, sums=sums)
        case "confidence.tif":
            sums = write_cog(store, outputs / name, variable="confidence", tags=tags_of(plan), threads=threads)
            verify_cog(outputs / name, store, variable="confidence", sums=sums)
        case "simulated.tif":
            write_simulated(plan, outputs / name, tags_of(plan))
            verify_simulated(plan, outputs / name)
        case _ if name == FIGURES:
            _look_at_map(plan, legend, store)


def _look_at_map(plan: Plan, legend: Legend, store: LabelStore) -> None:
    """Write the levels of a map, what is counted in it on the way, and the picture that is made of them."""
    counting = Counting(store, plan.grid)
    write_levels(store, read=counting.read)
    census = counting.finish()
    replace_arrays(plan.folders.borders, {"borders": np.array([astuple(each) for each in census.borders])})
    metrics = measure_map(plan, read_vocabulary(plan), legend, store, census)
    write_json(plan.folders.metrics, metrics.model_dump(mode="json"))
    ground = assemble_ground(plan)
    scene = colour_view(plan, ground) if plan.settings.show_pixels else None
    write_quicklook(store, legend, plan.folders.outputs / "quicklook.png", scene)


def read_borders(plan: Plan) -> tuple[Border, ...]:
    """Return what was counted at the borders between blocks."""
    with np.load(plan.folders.borders, allow_pickle=False) as arrays:
        return tuple(Border(*each) for each in arrays["borders"].tolist())


def tags_of(plan: Plan) -> dict[str, str]:
    """Return what a TIFF says of itself: the program, the settings' digest, and the licence as TIFF has it."""
    licence = "; ".join(said for said in (plan.settings.license, plan.settings.attribution) if said)
    tags = {"TIFFTAG_SOFTWARE": "ktextures", "KTEX_SETTINGS": plan.settings.digest()}
    return tags | ({"TIFFTAG_COPYRIGHT": licence} if licence else {})


def make_legend(plan: Plan, alignment: Alignment | None, blocks: Sequence[Block]) -> Legend:
    """Sum what the blocks counted: pixels of the published labels, mean spectra of the pixels as first labelled."""
    nodata = NODATA[plan.settings.label_dtype]
    pixels = np.zeros(nodata + 1, dtype=np.int64)
    counted = np.zeros(nodata + 1)
    sums = np.zeros((len(plan.scene.bands), nodata + 1))
    for block in blocks:
        for class_id, count in (plan.folders.done("cut", block.name) or {}).get("counts", {}).items():
            pixels[int(class_id)] += count
        said = sums_of(plan, block.name)
        if "counts" in said:
            ids = _global_ids(plan, len(said["counts"]), alignment, block)
            np.add.at(counted, ids, said["measured"])
            for band, values in zip(sums, said["sums"], strict=True):
                np.add.at(band, ids, values)
    used = [int(i) for i in np.flatnonzero(pixels[:nodata])]
    known = () if alignment is None else alignment.classes
    signatures = {each.id: each.signature for each in known if each.signature}
    return Legend.from_counts(
        {i: int(pixels[i]) for i in used},
        spectra={i: tuple((sums[:, i] / counted[i]).tolist()) for i in used if counted[i]},
        signatures={i: s for i, s in signatures.items() if i in used and np.isfinite(s).all()},
    )


def _global_ids(plan: Plan, count: int, alignment: Alignment | None, block: Block) -> NDArray[np.intp]:
    ids = np.full(count, NODATA[plan.settings.label_dtype], dtype=np.intp)
    if alignment is None:
        return np.arange(count)
    lookup = alignment.lookup[block.index]
    ids[: len(lookup)] = lookup
    return ids


def measure_map(plan: Plan, alignment: Alignment | None, legend: Legend, store: LabelStore, census: Census) -> Metrics:
    """Compute the figures of the record from what was counted in the labels as they were written."""
    after = census.seams
    before = None
    found = read_json(plan.folders.alignment)
    if alignment is not None and not plan.one_model and len(plan.grid) > 1:
        before = seams(lambda window: straight_labels(plan, alignment, window), plan.grid, nodata=store.nodata)
    return Metrics(
        pixels_valid=sum(each.pixels for each in legend.classes),
        pixels_per_second=None,
        classes=len(legend),
        classes_effective=effective_classes([each.pixels for each in legend.classes]),
        seam_change_rate=after.seam_change_rate,
        interior_change_rate=after.interior_change_rate,
        seam_excess=after.seam_excess,
        seam_excess_before_cut=None if before is None else before.seam_excess,
        overlap_disagreement=None if found is None else found["overlap_disagreement"],
        alignment=describe_vocabulary(plan, alignment),
        areas_m2=census.areas_m2,
        score=census.score,
        radiometry=None if plan.scene.balanced is None else plan.scene.balanced.to_json(),
    )


def describe_vocabulary(plan: Plan, alignment: Alignment | None) -> AlignmentMetrics | None:
    """Say how sure the ids are: of the alignment of the blocks, and of the matching with a catalogue."""
    attachment = read_attachment(plan)
    found = None if alignment is None or plan.one_model else describe_alignment(alignment)
    if attachment is None or attachment.how == "begun":
        return found
    said = describe(attachment)
    doubtful = [each for each in said["classes"] if each["state"] == "ambiguous"]
    found = found or AlignmentMetrics()
    return found.model_copy(
        update={"ambiguous": [*found.ambiguous, *doubtful], "new_classes": list(attachment.new), "catalogue": said}
    )


def describe_alignment(alignment: Alignment) -> AlignmentMetrics:
    """Say how sure the alignment is, and what a person should look at."""
    used = {index: table != alignment.no_class for index, table in alignment.lookup.items()}
    margins = np.concatenate([alignment.margin[index][mask] for index, mask in used.items()])
    ambiguous: list[Any] = [
        {
            "block": list(index),
            "local_id": int(i),
            "id": int(alignment.lookup[index][i]),
            "second_id": _second(alignment, index, int(i)),
            "posterior": round(float(alignment.posterior[index][i]), 4),
            "margin": round(float(alignment.margin[index][i]), 4),
        }
        for index, mask in used.items()
        for i in np.flatnonzero(mask)
        if alignment.posterior[index][i] < DOUBTFUL
    ]
    return AlignmentMetrics(
        margins={
            "minimum": float(margins.min()),
            "p05": float(np.quantile(margins, 0.05)),
            "median": float(np.median(margins)),
        },
        ambiguous=ambiguous,
        new_classes=[each.id for each in alignment.classes],
        merge_log=[dict(vars(merge)) for merge in alignment.merges],
        flags=[*alignment.flags, *tell_mixed(alignment.mixed)],
        mixed=[
            {"block": list(m.block), "local_id": m.id, "ids": list(m.classes), "share": round(m.share, 4)}
            for m in alignment.mixed
        ],
        repairs=[_describe_repair(alignment, each) for each in alignment.repairs],
        confusions=[{"ids": list(c.classes), "pixels": c.pixels, "share": c.share} for c in alignment.confusions],
        contested=[{"block": list(c.block), "shared_px": c.shared_px, "share": c.share} for c in alignment.contested],
        blocks=[
            {
                "block": list(index),
                "posterior": round(float(alignment.posterior[index][mask].mean()), 4),
                "least_posterior": round(float(alignment.posterior[index][mask].min()), 4),
            }
            for index, mask in used.items()
            if mask.any()
        ],
    )


def _second(alignment: Alignment, index: Index, local_id: int) -> int | None:
    """Return what a class could be instead; None where nothing is known, or the catalogue holds both as one class."""
    table = alignment.second.get(index, ())
    if local_id >= len(table) or int(table[local_id]) in (alignment.no_class, alignment.lookup[index][local_id]):
        return None
    return int(table[local_id])


def _describe_repair(alignment: Alignment, repair: Repair) -> dict[str, Any]:
    """Say in global ids what became of a class that held two."""
    lookup = alignment.lookup[repair.block]
    told = repair.told_px
    return {
        "block": list(repair.block),
        "local_id": repair.id,
        "id": int(lookup[repair.id]),
        "new_id": None if repair.new_id is None else int(lookup[repair.new_id]),
        "donor": None if repair.donor is None else list(repair.donor),
        "told_px": told,
        "disagreement_before": round(repair.before / told, 4) if told else None,
        "disagreement_after": round(repair.after / told, 4) if told else None,
        "changed_px": repair.pixels if repair.new_id is not None else 0,
    }


def make_run_record(run: Run, *, under_way: str = "publish") -> RunRecord:
    """Return the record of a run so far, without the stage that is under way and asks for it."""
    plan, books = run.plan, run.books
    metrics = Metrics.model_validate(read_json(plan.folders.metrics))
    seconds = sum(each.seconds for each in books.values())
    labelled = books["predict"]
    reused = labelled.reused
    working = sum(books[name].seconds for name in books if name != "plan")
    metrics = metrics.model_copy(
        update={"pixels_per_second": labelled.pixels / working if labelled.done and working else None}
    )
    total = len(plan.grid)
    return make_record(
        "incomplete" if run.failed else "done",
        created=run.created,
        settings=plan.settings.model_dump(mode="json"),
        inputs=[
            Input(path=file["path"], size=file["size_bytes"], sha256=file["sha256"], etag=file["etag"])
            for file in run.manifest["inputs"]
        ],
        blocks=Blocks(
            done=total - reused - len(run.failed),
            reused=reused,
            failed=len(run.failed),
            failed_names=sorted(run.failed),
        ),
        code=run.manifest["code"],
        key=run.manifest["key"],
        seconds=seconds,
        settings_digest=plan.settings.digest(),
        vocabulary=vocabulary(plan),
        stages=[
            Stage(
                name=each.name,
                seconds=each.seconds,
                pixels=each.pixels,
                peak_rss_bytes=each.peak_rss_bytes,
                work={kind: Cost(wall=each.costs.wall[kind], cpu=each.costs.cpu[kind]) for kind in each.costs.wall},
            )
            for each in books.values()
            if each.name != under_way
        ],
        metrics=metrics,
    )


def vocabulary(plan: Plan) -> str | None:
    """Return what gave the ids their meaning, where that reaches beyond this run: a catalogue, or the one model."""
    if plan.settings.catalogue is not None:
        return f"catalogue {read_catalogue(plan.folders.outputs).card.identity}"
    if plan.given is not None:
        return f"model {plan.given.digest}"
    trained = plan.folders.done("train", "global") if plan.one_model else None
    return None if trained is None else f"model {trained['digest']}"
