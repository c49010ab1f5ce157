"""Assembly: the labels of all blocks, in one vocabulary and cut along the least disagreement, become one map.

Each core is put together by itself from the raw labels of the blocks around it; the mapping from local to global
ids is a lookup applied on the way.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ktex_model.model import NO_CLASS
from pipeline.align import Alignment
from pipeline.align.cut import compose, gather
from pipeline.blocks import Block, BlockGrid, Index, Window
from pipeline.plan import Plan
from pipeline.stores import LabelStore, RawStore
from pipeline.train import peak_rss_bytes

STAGE = "cut"

Labels = NDArray[np.uint8]


@dataclass(frozen=True)
class Node:
    """How a block's local ids become global ones, and how far that is trusted (0..1, for each local id)."""

    lookup: NDArray[np.uint8]
    posterior: NDArray[np.float32]


@dataclass(frozen=True)
class Task:
    """A block to assemble, with what is known of the blocks around it."""

    block: Block
    nodes: dict[Index, Node]

    @property
    def name(self) -> str:
        """Name of the block."""
        return self.block.name


def task_of(plan: Plan, block: Block, alignment: Alignment | None) -> Task:
    """Gather what one block's assembly needs; without an alignment all blocks speak one vocabulary already."""
    around = [block.index, *plan.grid.neighbours(block.index)]
    if alignment is None:
        same = Node(np.arange(NO_CLASS, dtype=np.uint8), np.ones(NO_CLASS, dtype=np.float32))
        return Task(block, dict.fromkeys(around, same))
    known = (index for index in around if index in alignment.lookup)
    return Task(block, {i: Node(alignment.lookup[i].astype(np.uint8), alignment.posterior[i]) for i in known})


class Neighbourhood:
    """The raw labels and margins of a block and those around it, in global ids; each read once."""

    def __init__(self, store: RawStore, grid: BlockGrid, nodes: dict[Index, Node]) -> None:
        self._store, self._grid, self._nodes = store, grid, nodes
        self._seen: dict[Index, tuple[Labels, Labels] | None] = {}

    def _of(self, index: Index) -> tuple[Labels, Labels] | None:
        if index not in self._seen:
            raw = self._store.read(self._grid.block(index)) if index in self._nodes else None
            self._seen[index] = None if raw is None else _translate(*raw, self._nodes[index])
        return self._seen[index]

    def labels(self, index: Index) -> Labels | None:
        """Global ids of a block's wide window; None where the block has none."""
        found = self._of(index)
        return None if found is None else found[0]

    def confidence(self, index: Index) -> Labels | None:
        """Confidence of a block's wide window, 0..200; None where the block has none."""
        found = self._of(index)
        return None if found is None else found[1]


def _translate(labels: Labels, margin: Labels, node: Node) -> tuple[Labels, Labels]:
    lookup = np.full(NO_CLASS + 1, NO_CLASS, dtype=np.uint8)
    lookup[: len(node.lookup)] = node.lookup
    trust = np.zeros(NO_CLASS + 1, dtype=np.float32)
    trust[: len(node.posterior)] = node.posterior
    confidence = np.rint(margin * trust[labels]).astype(np.uint8)
    confidence[labels == NO_CLASS] = NO_CLASS
    return lookup[labels], confidence


def assemble_block(plan: Plan, task: Task) -> dict[str, Any]:
    """Write the labels and the confidence of one core, and mark it done."""
    block, grid = task.block, plan.grid
    around = Neighbourhood(RawStore.open(plan.folders.raw, grid), grid, task.nodes)
    owners = compose(grid, block.index, around.labels)
    labels = gather(grid, block.index, owners, around.labels, NO_CLASS)
    confidence = gather(grid, block.index, owners, around.confidence, NO_CLASS)
    LabelStore.open(plan.folders.labels, mode="r+").write(block.core, labels, confidence)
    counts = np.bincount(labels.ravel(), minlength=NO_CLASS + 1)[:NO_CLASS]
    record = {"pixels": int(counts.sum()), "counts": _sparse(counts), "peak_rss_bytes": peak_rss_bytes()}
    plan.folders.mark(STAGE, block.name, record)
    return record


def _sparse(counts: NDArray[np.intp]) -> dict[str, int]:
    return {str(i): int(counts[i]) for i in np.flatnonzero(counts)}


def straight_labels(plan: Plan, alignment: Alignment | None, window: Window) -> Labels:
    """Return the map as it is before the cut: each core as its own block labelled it, in global ids."""
    labels = np.full(window.shape, NO_CLASS, dtype=np.uint8)
    store = RawStore.open(plan.folders.raw, plan.grid)
    for block in plan.grid.touching(window):
        nodes = task_of(plan, block, alignment).nodes
        found = Neighbourhood(store, plan.grid, nodes).labels(block.index)
        if found is not None:
            shared = block.core.intersect(window)
            labels[shared.relative_to(window).slices] = found[shared.relative_to(block.wide).slices]
    return labels
