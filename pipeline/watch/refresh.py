"""The ids of many runs, looked at together: classes of the catalogue that came to be alike, and maps that follow it."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

import numpy as np

from pipeline.catalogue.desk import merge
from pipeline.catalogue.edits import follow
from pipeline.catalogue.matching import prototypes
from pipeline.catalogue.rewrite import rewrite_run
from pipeline.catalogue.store import read_catalogue
from pipeline.catalogue.values import Catalogue
from pipeline.ledger import Ledger
from pipeline.report import follow_report
from pipeline.results import open_result
from pipeline.watch.config import WatchConfig
from pipeline.watch.layout import Layout
from pipeline.watch.publication import describe_result
from pipeline.watch.series import extend_series

ALIKE = 0.5
"""Two classes are alike where their means are nearer than this share of the smaller reach of the two."""


@dataclass(frozen=True)
class Alike:
    """Two classes that the members of all runs together say are one.

    Attributes
    ----------
    gone, kept
        Their ids; the older one is kept.
    distance
        Between their means, as a share of the smaller reach of the two.
    """

    gone: int
    kept: int
    distance: float


@dataclass
class Refresh:
    """What a look at all runs found, and what was done.

    Attributes
    ----------
    alike
        Classes that are one, by all that is known of them.
    merged
        Whether they have been made one.
    rewritten
        Runs whose maps followed the catalogue.
    """

    alike: list[Alike] = field(default_factory=list)
    merged: bool = False
    rewritten: list[str] = field(default_factory=list)


def find_alike(catalogue: Catalogue, limit: float = ALIKE) -> list[Alike]:
    """Return the classes of a catalogue that are one by the members of all its runs, nearest first.

    A class takes part in one pair at a time; what is alike to a merged class shows at the next look.
    """
    known = prototypes(catalogue.members, catalogue.whitening, catalogue.legend.current)
    away = np.linalg.norm(known.means[:, None] - known.means[None], axis=2)
    share = away / np.minimum(known.reach[:, None], known.reach[None])
    ids = [int(each) for each in known.ids]
    pairs = [
        Alike(max(ids[i], ids[j]), min(ids[i], ids[j]), float(share[i, j]))
        for i, j in zip(*np.triu_indices(len(ids), 1), strict=True)
        if share[i, j] < limit and ids[i] != ids[j]
    ]
    found: list[Alike] = []
    taken: set[int] = set()
    for pair in sorted(pairs, key=lambda pair: pair.distance):
        if taken.isdisjoint({pair.kept, pair.gone}):
            found.append(pair)
            taken |= {pair.kept, pair.gone}
    return found


def refresh(config: WatchConfig, *, apply: bool = False, ledger: Ledger | None = None) -> Refresh:
    """Look for classes that are one, and bring all published maps to what the catalogue says now.

    Parameters
    ----------
    config
        The series.
    apply
        Make one what is alike. Without it that is only told; names, colours and merges that people gave are followed
        in any case.
    ledger
        As the configuration says, by default.

    Raises
    ------
    InputError
        The series has no catalogue.
    """
    layout, done = Layout(config.out), Refresh()
    directory = config.catalogue or layout.catalogue
    done.alike = find_alike(read_catalogue(directory))
    if apply:
        for each in done.alike:
            merge(directory, [each.gone], each.kept)
        done.merged = bool(done.alike)
    book = ledger or Ledger(config.ledger_address, config.name)
    try:
        with book.maintaining():
            legend = read_catalogue(directory).legend
            for row in book.rows():
                run = Path(str((row.result or {}).get("run", "")))
                if row.state != "published" or not (run / "run.json").exists():
                    continue
                followed = follow(open_result(run).legend, legend)
                if followed != open_result(run).legend:
                    rewrite_run(run, followed)
                    follow_report(run)
                    extend_series(layout, run, str(row.date))
                    book.restate(row.id, describe_result(run), f"followed the catalogue, {datetime.now(UTC):%F %T}")
                    done.rewritten.append(str(run))
    finally:
        if ledger is None:
            book.close()
    return done
