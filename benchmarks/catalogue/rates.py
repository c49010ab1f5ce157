"""Error rates of the matching on simulated mosaics: one half is the catalogue, blocks of the other half attach.

Classes are given their true ids, so that what is measured is the matching alone. From the catalogue one class is
hidden in turn: it is new to it, and everything else is not.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from benchmarks.align.simulator import SCENARIOS, Mosaic, simulate
from pipeline.align import BlockSignature
from pipeline.catalogue.matching import match, prototypes
from pipeline.catalogue.members import join, remove_drift, whitening_of
from pipeline.catalogue.values import Members

QUANTILES = (0.9, 0.95, 0.99, 0.999)
HIDDEN = (0, 2, 5, 7)
"""Classes that are hidden in turn; 0 is one of the pair that is alike."""
SIDE = 16


def blocks_of(mosaic: Mosaic, columns: range, rows: range) -> list[BlockSignature]:
    """Return the signatures of some blocks; none of those that lie in the sea."""
    return [each for each in mosaic.signatures if each.index[1] in columns and each.index[0] in rows]


def members_of(mosaic: Mosaic, blocks: Sequence[BlockSignature]) -> Members:
    """Return the nodes of blocks, at least one, under their true ids, the drift between the blocks removed."""
    parts, block_of = [], []
    for i, each in enumerate(blocks):
        ids = mosaic.node_truth[each.index].astype(np.int64)
        parts.append(Members(ids, each.pixels, each.features.astype(np.float64)))
        block_of.append(np.full(len(ids), i))
    return remove_drift(join(parts), np.concatenate(block_of))


def measure_rates(scenario: str, seed: int, side: int) -> Iterator[dict[str, Any]]:
    """Yield what became of each class of a run of ``side x side`` blocks, for each threshold and hidden class."""
    mosaic = simulate((SIDE, SIDE), SCENARIOS[scenario], seed)
    middle = SIDE // 2
    there = blocks_of(mosaic, range(SIDE - side, SIDE), range(middle - side // 2, middle - side // 2 + side))
    if not there:
        return
    base, run = members_of(mosaic, blocks_of(mosaic, range(middle), range(SIDE))), members_of(mosaic, there)
    for hidden in HIDDEN:
        known = base.of(base.ids != hidden)
        whitening = whitening_of(known)
        for quantile in QUANTILES:
            found, _ = match(run, prototypes(known, whitening, quantile=quantile), whitening)
            names = set(known.ids.tolist())
            for each in found:
                truth = each.local if each.local in names else None
                told = {"scenario": scenario, "seed": seed, "side": side, "quantile": quantile}
                yield told | judge(each.state, each.known, truth) | {"alike": truth is None and hidden == 0}


def judge(state: str, known: int | None, truth: int | None) -> dict[str, bool]:
    """Say whether a class was there, and what was made of it.

    >>> judge("matched", 3, None)["false_match"], judge("new", None, 3)["false_new"], judge("matched", 2, 3)["wrong"]
    (True, True, True)
    """
    return {
        "is_new": truth is None,
        "false_match": truth is None and state == "matched",
        "false_new": truth is not None and state == "new",
        "wrong": truth is not None and state == "matched" and known != truth,
        "ambiguous": state == "ambiguous",
    }


def summarise(runs: Sequence[dict[str, Any]]) -> list[list[object]]:
    """Return one row for each scenario, size of run and threshold."""
    rows: list[list[object]] = []
    keys = list(dict.fromkeys((run["scenario"], run["side"], run["quantile"]) for run in runs))
    for scenario, side, quantile in keys:
        of = [r for r in runs if (r["scenario"], r["side"], r["quantile"]) == (scenario, side, quantile)]
        count = Counter(name for run in of for name, value in run.items() if value is True)
        new, old = count["is_new"], len(of) - count["is_new"]
        alike = sum(run["alike"] and run["false_match"] for run in of)
        unlike = new - count["alike"]
        rows.append(
            [scenario, side * side, quantile, unlike, (count["false_match"] - alike) / max(unlike, 1),
             alike / max(count["alike"], 1), old, count["false_new"] / old, count["wrong"] / old,
             count["ambiguous"] / len(of)]
        )  # fmt: skip
    return rows
