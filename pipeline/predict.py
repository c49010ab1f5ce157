"""Prediction: each block labels its wide window with its model, and leaves signatures of its classes.

What it labels is raw, and put together with what its neighbours say in a later stage; where labels are those of the map
at once, they are written into it here.
"""

from __future__ import annotations

import time
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np
from numpy.typing import NDArray

from ktex_model.model import NO_CLASS, Prediction
from pipeline.align import BlockSignature, Overlap
from pipeline.align.measure import level, overlap
from pipeline.assemble import REPAIR, Task, begin_core, is_assembled, read_labels, task_of, write_core
from pipeline.blocks import Block, Index, Window
from pipeline.catalogue.sites import see_sites, sites_of_block
from pipeline.costs import Costs
from pipeline.describe import describe_classes, windows_per_side
from pipeline.ground import keep_view
from pipeline.metrics import count_classes
from pipeline.models import load_model
from pipeline.plan import Plan
from pipeline.scene import Pixels
from pipeline.stores import RawStore
from pipeline.train import is_trained, peak_rss_bytes, train_block
from pipeline.workspace import replace_arrays

if TYPE_CHECKING:
    from pipeline.scaled import ScaledImage

STAGE = "predict"
SPECTRA_PX, SPECTRA_STEP, SPECTRA_LEAST = 1 << 20, 16, 1000
"""Of blocks of so many pixels one row in so many tells the mean spectra; all rows, of classes with fewer pixels."""


def predict_block(plan: Plan, block: Block) -> dict[str, Any]:
    """Label one block: labels and margins to the store, signatures and sums to the marker's side.

    The model is that of the block in ``local`` mode, the one model otherwise. A block whose core has no valid pixel
    leaves nothing but its marker.
    """
    start, costs = time.perf_counter(), Costs()
    forget_prediction(plan, block)
    with costs.moving("read"):
        pixels = plan.read(block.read)
    record: dict[str, Any]
    if not pixels.valid[block.core.relative_to(block.read).slices].any():
        record = {"empty": True, "pixels": 0}
        if plan.labels_at_once:
            nothing = np.full(block.core.shape, NO_CLASS, np.uint8)
            write_core(plan, core_task(plan, block), nothing, nothing, costs)
    else:
        record = _label(plan, block, pixels, costs)
        record |= {"seconds": time.perf_counter() - start, "peak_rss_bytes": peak_rss_bytes()}
    record |= {"key": prediction_key(plan, block), "costs": costs.to_json()}
    plan.folders.mark(STAGE, block.name, record)
    return record


def prediction_key(plan: Plan, block: Block) -> str:
    """Return what the labels of a block rest on: the files that it reads and its model."""
    found = model_of(plan, block.name)
    return f"{plan.key(block.read)}-{'none' if found is None else found[1]}"


def labels_key(plan: Plan, block: Block) -> str:
    """Return what the labels of a block rest on as they count: its prediction, and what repair has made of it."""
    again = plan.folders.done(REPAIR, block.name)
    return prediction_key(plan, block) + ("" if again is None else f"-{again['labels']}")


def is_predicted(plan: Plan, block: Block) -> bool:
    """Whether a block is labelled, from the files and by the model that it would be labelled with now."""
    found = plan.folders.done(STAGE, block.name)
    if found is None or found.get("key") != prediction_key(plan, block):
        return False
    return not plan.labels_at_once or is_assembled(plan, core_task(plan, block))


def core_task(plan: Plan, block: Block) -> Task:
    """Return the task of a core that is the map's as it was labelled."""
    return task_of(plan, block, None, {block.index: prediction_key(plan, block)})


def forget_prediction(plan: Plan, block: Block) -> None:
    """Drop what an earlier try left of a block: its marker first, so that nobody relies on the rest."""
    for stage in (STAGE, REPAIR):
        plan.folders.marker(stage, block.name).unlink(missing_ok=True)
    for folder in (plan.folders.work, plan.folders.repaired):
        for kind in ("signatures", "members", "labels"):
            (folder / kind / f"{block.name}.npz").unlink(missing_ok=True)
    plan.folders.view(block.name).unlink(missing_ok=True)
    if plan.labels_at_once:
        begin_core(plan, core_task(plan, block))
    else:
        RawStore.open(plan.folders.raw, plan.grid).forget(block)


def train_and_predict(plan: Plan, block: Block) -> dict[str, Any]:
    """Train the model of one block, if that is still to do, and label the block with it at once.

    Nothing else is waited for: while one block is trained another is labelled.
    """
    trained = plan.folders.done("train", block.name) if is_trained(plan, block.name) else None
    record = {"train": None if trained is not None else train_block(plan, block)}
    return record | {"predict": predict_block(plan, block)}


def _label(plan: Plan, block: Block, pixels: Pixels, costs: Costs) -> dict[str, Any]:
    found = model_of(plan, block.name)
    if found is None:
        raise RuntimeError(f"block {block.name} must be trained before it is labelled")
    image = plan.scaled(pixels)
    with costs.computing("predict"):
        prediction = label_window(plan, block, found, image, pixels.valid)
    if plan.labels_at_once:
        write_core(plan, core_task(plan, block), prediction.labels, prediction.margin, costs)
    else:
        with costs.moving("write"):
            RawStore.open(plan.folders.raw, plan.grid).write(block, prediction.labels, prediction.margin)
    keep_view(plan, block, pixels)
    return leave_description(plan, block, pixels, prediction.labels, plan.folders.work, plan.k, costs)


def label_window(
    plan: Plan, block: Block, model: tuple[Path, str], image: ScaledImage, valid: NDArray[np.bool_]
) -> Prediction:
    """Label the wide window of a block, from its read window; all blocks of a plan share one shape of tile.

    `model` is the directory and digest of the one that labels.
    """
    # Models look at windows of an image, and ask no more of it than one that is scaled on the way can give.
    seen = cast("NDArray[np.float32]", image)
    return load_model(*model).predict(seen, valid, block.wide_in_read.slices, plan.grid.windows)


def leave_description(
    plan: Plan,
    block: Block,
    pixels: Pixels,
    labels: NDArray[np.uint8],
    folder: Path,
    k: int,
    costs: Costs,
) -> dict[str, Any]:
    """Write signatures and members of the classes of a block into `folder`, and return the sums of its `k` classes.

    `pixels` are those of the read window, `labels` of the wide one.
    """
    image, wide, core = plan.scaled(pixels), block.wide_in_read.slices, block.core_in_wide.slices
    with costs.computing("signature"):
        signature, members = describe_classes(
            block.index,
            image.window(wide),
            pixels.valid[wide],
            labels,
            per_side=windows_per_side(len(plan.grid)) if plan.one_model else None,
        )
        most = sites_of_block(len(plan.grid))
        members = replace(members, sites=see_sites(plan.scene.geobox, block.core, labels[core], most))
    if not plan.one_model:
        signature = replace(signature, levels=_levels(plan, block, image, pixels.valid))
    replace_arrays(folder / "signatures" / f"{block.name}.npz", signature.to_arrays())
    replace_arrays(folder / "members" / f"{block.name}.npz", members.to_arrays())
    with costs.computing("predict"):
        return spectra(labels[core], pixels.data[:, *block.core.relative_to(block.read).slices], k)


def _levels(plan: Plan, block: Block, image: ScaledImage, valid: NDArray[np.bool_]) -> dict[Index, NDArray[np.float32]]:
    """Return how bright a block saw what it shares with each block that it is compared with, from its read window."""
    (iy, ix), near = block.index, plan.grid.neighbours(block.index)
    beside = [index for index in near if iy == index[0] or ix == index[1]]
    shared = {index: block.wide.intersect(plan.grid.block(index).wide) for index in beside}
    parts = {index: window.relative_to(block.read).slices for index, window in shared.items() if window.size}
    return {index: level(image.window(part)[:, :], valid[part]) for index, part in parts.items()}


def model_of(plan: Plan, name: str) -> tuple[Path, str] | None:
    """Return directory and digest of the model that labels the block `name`; None where it has none yet."""
    if plan.given is not None:
        return plan.given.directory, plan.given.digest
    name = "global" if plan.one_model else name
    trained = plan.folders.done("train", name)
    return None if trained is None or "digest" not in trained else (plan.folders.model(name), trained["digest"])


def spectra(labels: NDArray[np.uint8], data: NDArray[Any], k: int) -> dict[str, Any]:
    """Count the pixels of each local class and sum their bands, in units of the source.

    Parameters
    ----------
    labels, data, k
        ``(y, x)`` uint8 with 255 for nodata; ``(band, y, x)``; number of classes.

    Returns
    -------
    dict
        ``pixels``, labelled in all; ``counts``, for each class; ``measured``, of how many of them are the ``sums``,
        ``(band, class)``.
    """
    counts = count_classes(labels)[:k]
    step = SPECTRA_STEP if labels.size >= SPECTRA_PX else 1
    seen = labels[::step]
    labelled = seen < k
    chosen = ... if labelled.all() else labelled
    flat = seen[chosen].astype(np.intp).ravel()
    measured = np.bincount(flat, minlength=k)
    sums = np.stack([np.bincount(flat, weights=band[::step][chosen].ravel(), minlength=k) for band in data])
    for rare in np.flatnonzero((measured < counts) & (measured < SPECTRA_LEAST)):
        y, x = np.divmod(np.flatnonzero(labels == rare), labels.shape[1])
        measured[rare], sums[:, rare] = counts[rare], data[:, y, x].sum(axis=1, dtype=np.float64)
    return {
        "pixels": int(counts.sum()), "counts": counts.tolist(), "measured": measured.tolist(), "sums": sums.tolist(),
    }  # fmt: skip


def read_signature(plan: Plan, index: Index) -> BlockSignature | None:
    """Return the signature that a block left; None where it has no valid pixels or failed."""
    path = plan.folders.signature(plan.grid.block(index).name)
    if not path.exists():
        return None
    with np.load(path, allow_pickle=False) as arrays:
        return BlockSignature.from_arrays(arrays)


def compare_pair(plan: Plan, pair: tuple[Index, Index]) -> Overlap | None:
    """Count what two neighbouring blocks say about the pixels that they share; None where one says nothing."""
    a, b = (plan.grid.block(index) for index in pair)
    shared = a.wide.intersect(b.wide)
    said_a, said_b = _said(plan, a, shared), _said(plan, b, shared)
    if said_a is None or said_b is None:
        return None
    return overlap(*said_a, *said_b)


def _said(plan: Plan, block: Block, shared: Window) -> tuple[BlockSignature, NDArray[np.uint8]] | None:
    """Return a block's signature and its labels of a window; None where it has no valid pixels or failed."""
    signature = read_signature(plan, block.index)
    raw = read_labels(plan, block)
    if signature is None or raw is None:
        return None
    return signature, raw[0][shared.relative_to(block.wide).slices]
