"""Repair: a class of one block that holds two of the map is split, pixel by pixel, by the model of another block.

A donor is a block near by whose own model tells the two apart. It labels the wide window of the block; what it calls
the second class becomes a class of the block by itself, with signature and members, and is named by the next solve as
all others are. Whether that is better is asked of those who took no part: the other neighbours, in the pixels that
they share with the block. Originals stay, beside what takes their place.
"""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ktex_model.model import NO_CLASS, Prediction
from pipeline.align import Alignment, Mixed, Repair
from pipeline.align.values import Ids
from pipeline.assemble import REPAIR, read_labels
from pipeline.blocks import Block, Index
from pipeline.costs import Costs
from pipeline.plan import Plan
from pipeline.predict import label_window, leave_description, model_of
from pipeline.workspace import replace_arrays

MIN_TOLD_PX = 120
"""With fewer pixels in overlaps with others than the donor nothing is known of a change."""
MIN_GAIN = 0.1
"""Share of those pixels that others have to call by the same name, where they did not before."""

Labels = NDArray[np.uint8]
Bool = NDArray[np.bool_]


@dataclass(frozen=True, eq=False)
class RepairTask:
    """A block with mixed classes, and what is known of the blocks around it.

    Attributes
    ----------
    block, mixed
        The block, and its mixed classes in the order in which they are looked at.
    donors
        For each of `mixed` the blocks whose models tell its classes apart, in the order in which they are tried.
    lookup
        Global ids of the local ones of the block, of its neighbours and of the donors.
    unsure
        Of each neighbour the local ids that are no witnesses, as they are mixed themselves.
    """

    block: Block
    mixed: tuple[Mixed, ...]
    donors: tuple[tuple[Index, ...], ...]
    lookup: Mapping[Index, Ids]
    unsure: Mapping[Index, frozenset[int]]

    @property
    def name(self) -> str:
        """Name of the block."""
        return self.block.name


def tasks_of(plan: Plan, alignment: Alignment, alive: Iterable[Index], done: Sequence[Repair] = ()) -> list[RepairTask]:
    """Return what is to do: mixed classes that were not looked at before, of blocks that are there.

    Donors stand around the block, or have helped one that does; what they know is how their own models name things.
    """
    there, tried = set(alive), {(each.block, each.id) for each in done}
    helped: dict[Index, list[Index]] = {}
    for each in done:
        if each.new_id is not None and each.donor is not None:
            helped.setdefault(each.block, []).append(each.donor)
    unsure: dict[Index, set[int]] = {}
    for mixed in alignment.mixed:
        unsure.setdefault(mixed.block, set()).add(mixed.id)
    found: dict[Index, list[Mixed]] = {}
    for mixed in alignment.mixed:
        if mixed.block in there and (mixed.block, mixed.id) not in tried:
            found.setdefault(mixed.block, []).append(mixed)
    return [
        _task(plan, alignment, index, mixed, there, helped, unsure)
        for index, mixed in sorted(found.items(), key=lambda item: item[0])
    ]


def _task(
    plan: Plan,
    alignment: Alignment,
    index: Index,
    mixed: list[Mixed],
    there: set[Index],
    helped: Mapping[Index, list[Index]],
    unsure: Mapping[Index, set[int]],
) -> RepairTask:
    around = [i for i in plan.grid.neighbours(index) if i in there]
    near = sorted({*around, *(donor for i in around for donor in helped.get(i, ()) if donor in there)} - {index})
    donors = tuple(
        tuple(i for i in near if _tells(plan, alignment, i, each.classes, unsure.get(i, set()))) for each in mixed
    )
    needed = {index, *around, *(i for some in donors for i in some)}
    return RepairTask(
        plan.grid.block(index),
        tuple(mixed),
        donors,
        {i: alignment.lookup[i] for i in sorted(needed)},
        {i: frozenset(unsure.get(i, ())) for i in around},
    )


def _tells(plan: Plan, alignment: Alignment, index: Index, classes: tuple[int, int], unsure: set[int]) -> bool:
    """Whether the model of a block has a class of its own for each of two."""
    table = alignment.lookup[index][: plan.k]
    return all(any(int(i) not in unsure for i in np.flatnonzero(table == c)) for c in classes)


def forget_repairs(plan: Plan) -> None:
    """Let the labels count again that blocks gave themselves."""
    shutil.rmtree(plan.folders.repaired, ignore_errors=True)
    shutil.rmtree(plan.folders.marker(REPAIR, "").parent, ignore_errors=True)


def repair_block(plan: Plan, task: RepairTask) -> dict[str, Any]:
    """Split the mixed classes of a block where others then agree with it more; returns what became of each.

    Writes what takes the place of the block's labels, signatures and members, if anything was changed.
    """
    block, costs = task.block, Costs()
    found = read_labels(plan, block)
    if found is None:
        raise RuntimeError(f"block {block.name} must be labelled before it is repaired")
    with costs.moving("read"):
        pixels = plan.read(block.read)
        image = plan.scaled(pixels)
        witnesses = _witnesses(plan, task)
    labels, margin = found[0].copy(), found[1].copy()
    opinions: dict[Index, Prediction] = {}
    repairs = []
    k = max(plan.k, len(task.lookup[block.index]))
    for mixed, donors in zip(task.mixed, task.donors, strict=True):
        for donor in donors:
            if donor not in opinions and (model := model_of(plan, plan.grid.block(donor).name)) is not None:
                with costs.computing("predict"):
                    opinions[donor] = label_window(plan, block, model, image, pixels.valid)
        parts = {i: _second(task.lookup[i], opinions[i].labels, mixed.classes[1]) for i in donors if i in opinions}
        repair = choose_donor(mixed, labels, parts, witnesses)
        if repair.donor is not None and is_better(repair) and k < NO_CLASS:
            inside = labels == mixed.id
            margin[inside] = np.minimum(margin, opinions[repair.donor].margin)[inside]
            labels[inside & parts[repair.donor]] = k
            repair, k = _accepted(repair, k), k + 1
        repairs.append(repair)
    if any(each.new_id is not None for each in repairs):
        replace_arrays(plan.folders.repaired / "labels" / f"{block.name}.npz", {"labels": labels, "margin": margin})
        sums = leave_description(plan, block, pixels, labels, plan.folders.repaired, k, costs)
        digest = hashlib.sha256(labels.tobytes() + margin.tobytes()).hexdigest()
        plan.folders.mark(REPAIR, block.name, sums | {"labels": digest})
    return {"repairs": repairs, "costs": costs.to_json()}


@dataclass(frozen=True, eq=False)
class Witness:
    """What a neighbour calls the pixels of a block's wide window: global ids; no class where it says nothing."""

    index: Index
    said: NDArray[np.uint16]


NOTHING = 65535
"""What a witness says where it says nothing."""


def _witnesses(plan: Plan, task: RepairTask) -> list[Witness]:
    found = []
    for index in plan.grid.neighbours(task.block.index):
        if index not in task.lookup or (raw := read_labels(plan, plan.grid.block(index))) is None:
            continue
        said = np.full(task.block.wide.shape, NOTHING, np.uint16)
        other = plan.grid.block(index).wide
        shared = task.block.wide.intersect(other)
        if not shared.size:
            continue
        table = np.full(NO_CLASS + 1, NOTHING, np.uint16)
        lookup = task.lookup[index]
        table[: len(lookup)] = lookup
        table[list(task.unsure.get(index, ()))] = NOTHING
        table[NO_CLASS] = NOTHING
        said[shared.relative_to(task.block.wide).slices] = table[raw[0][shared.relative_to(other).slices]]
        found.append(Witness(index, said))
    return found


def _second(lookup: Ids, labels: Labels, second: int) -> Bool:
    table = np.zeros(NO_CLASS + 1, bool)
    table[: len(lookup)] = lookup == second
    result: Bool = table[labels]
    return result


def choose_donor(mixed: Mixed, labels: Labels, parts: Mapping[Index, Bool], witnesses: Sequence[Witness]) -> Repair:
    """Try each donor on the pixels that others share with the block, and return the best.

    Parameters
    ----------
    mixed
        The class, whose pixels are called ``mixed.classes[0]`` now.
    labels
        ``(y, x)`` local labels of the wide window.
    parts
        For each donor ``(y, x)``, where it sees the second class.
    witnesses
        What the neighbours say of the same window. A donor is no witness of its own proposal.
    """
    inside = labels == mixed.id
    best = Repair(mixed.block, mixed.id, None, None)
    for donor, part in parts.items():
        told = before = after = 0
        for witness in (w for w in witnesses if w.index != donor):
            asked = inside & (witness.said != NOTHING)
            said, turned = witness.said[asked], part[asked]
            told += said.size
            before += int((said != mixed.classes[0]).sum())
            after += int((said != np.where(turned, mixed.classes[1], mixed.classes[0])).sum())
        found = Repair(mixed.block, mixed.id, None, donor, told, before, after, int((inside & part).sum()))
        if best.donor is None or _gain(found) > _gain(best):
            best = found
    return best


def _gain(repair: Repair) -> float:
    return (repair.before - repair.after) / repair.told_px if repair.told_px >= MIN_TOLD_PX else -1.0


def is_better(repair: Repair) -> bool:
    """Whether a change is made: others agree with a tenth more of the pixels that they share with the class."""
    return _gain(repair) >= MIN_GAIN


def _accepted(repair: Repair, new_id: int) -> Repair:
    return Repair(**{**vars(repair), "new_id": new_id})
