"""The anchor: one model of the whole scene, by whose classes those of all blocks are compared.

Where each block has a model of its own, this one is trained beside them, on the sample that the one model of mode
``global`` learns from. It labels every block too: what share of a class it gives to each of its own says what that
class is, in the terms of this scene.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.align.measure import tally
from pipeline.assemble import read_labels
from pipeline.blocks import Block
from pipeline.plan import Plan
from pipeline.predict import label_window, labels_key, model_of, read_signature, train_and_predict
from pipeline.train import is_trained, scene_windows, train_global
from pipeline.workspace import ANCHOR

STAGE = "tally"


@dataclass(frozen=True)
class Anchor:
    """What is to be trained beside the blocks."""

    name: str = ANCHOR


def is_anchor_trained(plan: Plan) -> bool:
    """Whether the anchor is there, and would be trained on the same windows with the same pixels now."""
    if not is_trained(plan, ANCHOR):
        return False
    trained = plan.folders.done("train", ANCHOR)
    return trained is not None and trained["windows"] == [list(window) for window in scene_windows(plan)]


def has_anchor(plan: Plan) -> bool:
    """Whether a plan has an anchor, and it could be trained, if only on a part of what it was to see."""
    return plan.anchored and model_of(plan, ANCHOR) is not None


def lacks_windows(plan: Plan) -> bool:
    """Whether the anchor did without what could not be read."""
    trained = plan.folders.done("train", ANCHOR)
    return trained is not None and bool(trained.get("unread"))


def train_whole(plan: Plan, _: Anchor) -> dict[str, Any]:
    """Train the anchor on all that it is to see, or not at all."""
    return {"train": train_global(plan, ANCHOR)}


def train_any(plan: Plan, item: Block | Anchor) -> dict[str, Any]:
    """Train the anchor, or train and label a block."""
    if isinstance(item, Anchor):
        return {"train": train_global(plan, ANCHOR, tolerant=True)}
    return train_and_predict(plan, item)


def tally_block(plan: Plan, block: Block) -> NDArray[np.int64] | None:
    """Let the anchor label a block; returns the tally of its classes, None where the block has none.

    What was counted stays, until the block's labels or the anchor are others.

    Raises
    ------
    RuntimeError
        The anchor was not trained.
    """
    signature, raw = read_signature(plan, block.index), read_labels(plan, block)
    if signature is None or raw is None:
        return None
    anchor = model_of(plan, ANCHOR)
    if anchor is None:
        raise RuntimeError("the anchor must be trained before it labels")
    key = f"{labels_key(plan, block)}-{anchor[1]}"
    counted = plan.folders.done(STAGE, block.name)
    if counted is not None and counted["key"] == key:
        return np.asarray(counted["table"], np.int64)
    pixels = plan.read(block.read)
    said = label_window(plan, block, anchor, plan.scaled(pixels), pixels.valid)
    table = tally(signature, raw[0], said.labels, plan.k)
    plan.folders.mark(STAGE, block.name, {"key": key, "table": table.tolist()})
    return table
