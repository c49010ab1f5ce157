"""From what the blocks of a run left behind to one vocabulary: compare them, solve, repair, solve again."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
from numpy.typing import NDArray

from pipeline.align import Alignment, BlockSignature, Overlap, Repair, align
from pipeline.align.review import find_confusions, find_contested
from pipeline.anchor import has_anchor, tally_block
from pipeline.blocks import Block, Index
from pipeline.engine import Engine
from pipeline.errors import RunFailedError
from pipeline.logs import Bound
from pipeline.metrics import overlap_disagreement
from pipeline.plan import Plan
from pipeline.predict import compare_pair, read_signature
from pipeline.repair import forget_repairs, repair_block, tasks_of

logger = logging.getLogger(__name__)

ROUNDS = 3
"""How often repair is tried: a class that was split shows which others are mixed."""

Tell = Callable[[int, int], None]
Pair = tuple[Index, Index]
Tally = NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class Vocabulary:
    """An alignment with what it rests on.

    Attributes
    ----------
    alignment, signatures
        The alignment, and the signatures of all blocks.
    overlaps, tallies
        What neighbours share, by pair, and what the anchor says of each block's classes.
    disagreement
        The share of shared pixels to which two blocks give different ids; None without shared pixels.
    """

    alignment: Alignment
    signatures: list[BlockSignature]
    overlaps: dict[Pair, Overlap]
    tallies: dict[Index, Tally]
    disagreement: float | None


def find_vocabulary(plan: Plan, alive: Sequence[Block], engine: Engine, tell: Tell) -> Vocabulary:
    """Give all classes of all blocks global ids; classes that hold two of the map are split where that helps.

    A repair counts if the blocks then disagree on fewer of the pixels that they share, and on no fewer classes: else
    everything stays as the blocks labelled it.

    Raises
    ------
    RunFailedError
        Neighbours could not be compared, or no block has a class.
    """
    forget_repairs(plan)
    found = _solve(plan, alive, engine, tell, {}, {})
    if plan.settings.repair:
        found = _repair(plan, alive, engine, tell, found)
    given = found.alignment, found.signatures, list(found.overlaps.values())
    reviewed = replace(found.alignment, confusions=find_confusions(*given), contested=find_contested(*given))
    return replace(found, alignment=reviewed)


def _repair(plan: Plan, alive: Sequence[Block], engine: Engine, tell: Tell, found: Vocabulary) -> Vocabulary:
    first, done = found, list[Repair]()
    for _ in range(ROUNDS):
        tasks = tasks_of(plan, found.alignment, [block.index for block in alive], done)
        if not tasks:
            break
        fresh = list[Repair]()
        for outcome in engine.map(Bound(partial(repair_block, plan)), tasks, retries=plan.settings.retries):
            if outcome.result is None:
                raise RunFailedError(
                    f"block {outcome.item.name} could not be repaired: {outcome.error}"
                ) from outcome.error
            fresh += outcome.result["repairs"]
        # In an order that does not depend on who was done first.
        done += sorted(fresh, key=lambda each: (each.block, each.id))
        changed = {each.block for each in fresh if each.new_id is not None}
        if not changed:
            break
        kept = {pair: overlap for pair, overlap in found.overlaps.items() if changed.isdisjoint(pair)}
        told = {index: table for index, table in found.tallies.items() if index not in changed}
        found = _solve(plan, alive, engine, tell, kept, told)
    if any(each.new_id is not None for each in done) and not _is_better(found, first):
        logger.info("repairs were taken back: blocks agree no better with them")
        forget_repairs(plan)
        known = first.alignment.lookup  # of classes that were split off and split again nothing is left
        found, done = first, [replace(each, new_id=None) for each in done if each.id < len(known[each.block])]
    return replace(found, alignment=replace(found.alignment, repairs=tuple(done)))


def _is_better(after: Vocabulary, before: Vocabulary) -> bool:
    if after.disagreement is None or before.disagreement is None:
        return False
    return after.disagreement < before.disagreement and len(after.alignment.classes) >= len(before.alignment.classes)


def _solve(
    plan: Plan,
    alive: Sequence[Block],
    engine: Engine,
    tell: Tell,
    known: dict[Pair, Overlap],
    told: dict[Index, Tally],
) -> Vocabulary:
    """Compare neighbours, but for `known` pairs, and blocks with the anchor, but for those `told`; then align."""
    there = {block.index for block in alive}
    pairs = [pair for pair in plan.grid.pairs() if there.issuperset(pair) and pair not in known]
    blocks = [block for block in alive if block.index not in told] if has_anchor(plan) else []
    steps = len(pairs) + len(blocks) + 1
    overlaps, tallies = dict(known), dict(told)
    for done, outcome in enumerate(engine.map(partial(compare_pair, plan), pairs), 1):
        if outcome.error is not None:
            raise RunFailedError(f"blocks {outcome.item} could not be compared: {outcome.error}") from outcome.error
        if outcome.result is not None:
            overlaps[outcome.item] = outcome.result
        tell(done, steps)
    for done, tallied in enumerate(
        engine.map(Bound(partial(tally_block, plan)), blocks, retries=plan.settings.retries), len(pairs) + 1
    ):
        if tallied.error is not None:
            plan.check_inputs()  # a file that changed is the better reason
            raise RunFailedError(
                f"block {tallied.item.name} could not be compared with the anchor: {tallied.error}"
            ) from tallied.error
        if tallied.result is not None:
            tallies[tallied.item.index] = tallied.result
        tell(done, steps)
    overlaps = {pair: overlaps[pair] for pair in sorted(overlaps)}
    signatures = [found for block in alive if (found := read_signature(plan, block.index)) is not None]
    if not signatures:
        raise RunFailedError("no block with valid pixels could be labelled; see the log")
    settings = plan.settings
    shared = list(overlaps.values())
    solved = align(signatures, shared, tallies, classes=settings.global_classes, seed=settings.seed)
    tell(steps, steps)
    return Vocabulary(solved, signatures, overlaps, tallies, overlap_disagreement(solved, signatures, shared))
