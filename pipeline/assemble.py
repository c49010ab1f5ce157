"""Assembly: the labels of all blocks, in one vocabulary and cut along the least disagreement, become one map.

Each core is put together by itself from the raw labels of the blocks around it; the mapping from local to global
ids is a lookup applied on the way.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from ktex_model.model import NO_CLASS
from pipeline.align import Alignment
from pipeline.align.cut import compose, gather
from pipeline.blocks import Block, BlockGrid, Index, Window
from pipeline.costs import Costs
from pipeline.errors import DamagedError
from pipeline.metrics import count_classes
from pipeline.plan import Plan
from pipeline.stores import NODATA, Labels, LabelStore, RawStore
from pipeline.train import peak_rss_bytes
from pipeline.workspace import read_json

STAGE, BEGUN = "cut", "begun"
REPAIR = "repair"


@dataclass(frozen=True)
class Node:
    """How a block's local ids become global ones, and how far that is trusted (0..1, for each local id).

    The table has the dtype of the labels, and their nodata where an id is not in use.
    """

    lookup: Labels
    posterior: NDArray[np.float32]

    @property
    def nodata(self) -> int:
        """Label of pixels without class."""
        return NODATA[self.lookup.dtype.name]


def _same(dtype: str) -> Node:
    return Node(np.arange(NO_CLASS).astype(dtype), np.ones(NO_CLASS, dtype=np.float32))


@dataclass(frozen=True)
class Task:
    """A block to assemble, with what is known of the blocks around it; `key` is a digest of all that."""

    block: Block
    nodes: dict[Index, Node]
    key: str = ""

    @property
    def name(self) -> str:
        """Name of the block."""
        return self.block.name


def task_of(plan: Plan, block: Block, alignment: Alignment | None, keys: Mapping[Index, str] | None = None) -> Task:
    """Gather what one block's assembly needs; without an alignment all blocks speak one vocabulary already.

    `keys` say what the raw labels of each block rest on; only blocks that have one are looked at, if it is given.
    """
    neighbours = plan.grid.neighbours(block.index) if plan.grid.overlap_px else []  # else they share nothing
    around = [i for i in (block.index, *neighbours) if keys is None or i in keys]
    if alignment is None:
        nodes = dict.fromkeys(around, _same(plan.settings.label_dtype))
    else:
        known = (index for index in around if index in alignment.lookup)
        nodes = {i: Node(alignment.lookup[i], alignment.posterior[i]) for i in known}
    digest = hashlib.sha256()
    for index, node in nodes.items():
        digest.update(f"{index} {(keys or {}).get(index)}".encode() + node.lookup.tobytes() + node.posterior.tobytes())
    return Task(block, nodes, digest.hexdigest())


def is_assembled(plan: Plan, task: Task) -> bool:
    """Whether a core was put together already, of just these labels under this alignment."""
    found = plan.folders.done(STAGE, task.name)
    return found is not None and found.get("key") == task.key


def erase_failed(plan: Plan, names: Iterable[str]) -> None:
    """Make nodata of the cores of blocks that have failed, where any try has written into them."""
    store = None
    for name in names:
        markers = [plan.folders.marker(stage, name) for stage in (STAGE, BEGUN)]
        if any(marker.exists() for marker in markers):
            store = store or LabelStore.open(plan.folders.labels, mode="r+")
            iy, ix = name.split("_")
            core = plan.grid.block((int(iy), int(ix))).core
            markers[0].unlink(missing_ok=True)
            store.write(core, np.full(core.shape, store.nodata, store.dtype), np.full(core.shape, NO_CLASS, np.uint8))
            markers[1].unlink(missing_ok=True)


def read_alignment(plan: Plan) -> Alignment | None:
    """Return what the align stage found; None where one model serves all blocks."""
    found = None if plan.one_model else read_json(plan.folders.alignment)
    return None if found is None else Alignment.from_json(found)


def read_labels(
    plan: Plan, block: Block, store: RawStore | None = None
) -> tuple[NDArray[np.uint8], NDArray[np.uint8]] | None:
    """Return local labels and margins of a block's wide window as they count: repaired where they were.

    None for a block without any.
    """
    again = plan.folders.repaired / "labels" / f"{block.name}.npz"
    if again.exists():
        with np.load(again, allow_pickle=False) as arrays:
            return arrays["labels"], arrays["margin"]
    return (store or RawStore.open(plan.folders.raw, plan.grid)).read(block)


def sums_of(plan: Plan, name: str) -> dict[str, Any]:
    """Return what was counted in the core of a block with the labels that count; empty without any."""
    return plan.folders.done(REPAIR, name) or plan.folders.done("predict", name) or {}


class Neighbourhood:
    """The raw labels and margins of a block and those around it, in global ids; each read once."""

    def __init__(self, plan: Plan, nodes: dict[Index, Node]) -> None:
        self._plan, self._store, self._nodes = plan, RawStore.open(plan.folders.raw, plan.grid), nodes
        self._seen: dict[Index, tuple[Labels, NDArray[np.uint8]] | None] = {}

    def _of(self, index: Index) -> tuple[Labels, NDArray[np.uint8]] | None:
        if index not in self._seen:
            block = self._plan.grid.block(index)
            raw = read_labels(self._plan, block, self._store) if index in self._nodes else None
            self._seen[index] = None if raw is None else _translate(*raw, self._nodes[index])
        return self._seen[index]

    def labels(self, index: Index) -> Labels | None:
        """Global ids of a block's wide window; None where the block has none."""
        found = self._of(index)
        return None if found is None else found[0]

    def confidence(self, index: Index) -> NDArray[np.uint8] | None:
        """Confidence of a block's wide window, 0..200; None where the block has none."""
        found = self._of(index)
        return None if found is None else found[1]


def _translate(labels: NDArray[np.uint8], margin: NDArray[np.uint8], node: Node) -> tuple[Labels, NDArray[np.uint8]]:
    lookup = np.full(NO_CLASS + 1, node.nodata, node.lookup.dtype)
    lookup[: len(node.lookup)] = node.lookup
    if (node.posterior == 1).all():
        confidence = margin.copy()
    else:
        trust = np.zeros(NO_CLASS + 1, dtype=np.float32)
        trust[: len(node.posterior)] = node.posterior
        confidence = np.rint(margin * trust[labels]).astype(np.uint8)
    confidence[labels == NO_CLASS] = NO_CLASS
    return lookup[labels], confidence


def assemble_block(plan: Plan, task: Task) -> dict[str, Any]:
    """Write the labels and the confidence of one core, and mark it done."""
    block, grid, costs = task.block, plan.grid, Costs()
    begin_core(plan, task)
    with costs.computing("cut"), _healing(plan):
        around = Neighbourhood(plan, task.nodes)
        labels, confidence = _join(grid, block, around, np.dtype(plan.settings.label_dtype))
    return write_core(plan, task, labels, confidence, costs)


def begin_core(plan: Plan, task: Task) -> None:
    """Say that a core may hold anything from now on: it is not done, and is erased where its block fails."""
    plan.folders.marker(STAGE, task.name).unlink(missing_ok=True)
    plan.folders.mark(BEGUN, task.name, {})


def write_core(
    plan: Plan,
    task: Task,
    labels: Labels,
    confidence: NDArray[np.uint8],
    costs: Costs,
) -> dict[str, Any]:
    """Write a core into the map, and mark it done; returns its record.

    Parameters
    ----------
    labels, confidence
        ``(y, x)`` of the core: ids, which are made as wide as those of the map, and 0..200; nodata where no class is.
    costs
        Of the block so far.
    """
    with costs.computing("cut"):
        counts = count_classes(labels)
        labels = widened(labels, plan.settings.label_dtype)
    with costs.moving("write"):
        LabelStore.open(plan.folders.labels, mode="r+").write(task.block.core, labels, confidence)
    record = {
        "pixels": int(counts.sum()),
        "counts": _sparse(counts),
        "peak_rss_bytes": peak_rss_bytes(),
        "key": task.key,
        "costs": costs.to_json(),
    }
    plan.folders.mark(STAGE, task.name, record)
    return record


def widened(labels: Labels, dtype: str) -> Labels:
    """Return labels in a type that is at least as wide as theirs; nodata becomes the nodata of that.

    Examples
    --------
    >>> widened(np.array([[3, 255]], np.uint8), "uint16")
    array([[    3, 65535]], dtype=uint16)
    """
    if labels.dtype == dtype:
        return labels
    wide: Any = labels.astype(dtype)
    wide[labels == NODATA[labels.dtype.name]] = NODATA[dtype]
    return cast("Labels", wide)


def _join(
    grid: BlockGrid, block: Block, around: Neighbourhood, dtype: np.dtype[Any]
) -> tuple[Labels, NDArray[np.uint8]]:
    """Return labels and confidence of a core, each pixel from the block that owns it."""
    nodata = NODATA[dtype.name]
    if not grid.overlap_px:  # nothing is shared, and so there is nothing to choose
        labels, confidence = around.labels(block.index), around.confidence(block.index)
        if labels is None or confidence is None:
            return np.full(block.core.shape, nodata, dtype), np.full(block.core.shape, NO_CLASS, np.uint8)
        return labels, confidence
    owners = compose(grid, block.index, around.labels, nodata=nodata)
    joined: Any = gather(grid, block.index, owners, around.labels, nodata)
    return joined, gather(grid, block.index, owners, around.confidence, NO_CLASS)


@contextmanager
def _healing(plan: Plan) -> Iterator[None]:
    """Have damaged raw labels made anew by the next try: without its marker a block counts as never labelled."""
    try:
        yield
    except DamagedError as error:
        plan.folders.marker("predict", error.block).unlink(missing_ok=True)
        raise


def forget_damaged(plan: Plan) -> list[str]:
    """Have cores that cannot be read any more put together anew by the next try; returns their names."""
    store, damaged = LabelStore.open(plan.folders.labels), []
    for block in plan.grid:
        marker = plan.folders.marker(STAGE, block.name)
        if marker.exists() and not store.is_sound(block.core):
            marker.unlink()
            damaged.append(block.name)
    return damaged


def _sparse(counts: NDArray[np.intp]) -> dict[str, int]:
    return {str(i): int(counts[i]) for i in np.flatnonzero(counts)}


def straight_labels(plan: Plan, alignment: Alignment | None, window: Window) -> Labels:
    """Return the map as it is before the cut: each core as its own block labelled it, in global ids."""
    dtype = plan.settings.label_dtype
    labels: Labels = np.full(window.shape, NODATA[dtype], dtype)
    for block in plan.grid.touching(window):
        nodes = task_of(plan, block, alignment).nodes
        try:
            found = Neighbourhood(plan, nodes).labels(block.index)
        except DamagedError:  # the block was left out for that already
            found = None
        if found is not None:
            shared = block.core.intersect(window)
            labels[shared.relative_to(window).slices] = found[shared.relative_to(block.wide).slices]
    return labels
