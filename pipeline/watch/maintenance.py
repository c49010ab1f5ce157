"""Looking after a series: what is published is compared with what was published, and what is old goes."""

from __future__ import annotations

import shutil
import time
from dataclasses import dataclass, field
from pathlib import Path

from pipeline.acquisitions.values import safe_name
from pipeline.checksums import checksums, edited
from pipeline.ledger import Ledger, Row
from pipeline.watch.config import WatchConfig
from pipeline.watch.layout import Layout
from pipeline.watch.publication import CARD

DAY_S = 86_400.0


@dataclass
class Upkeep:
    """What maintenance found and did.

    Attributes
    ----------
    checked
        Published runs whose files were compared with their checksums.
    damaged
        What was wrong with those that are made again, by acquisition.
    removed
        What was old, and is gone.
    """

    checked: int = 0
    damaged: dict[str, str] = field(default_factory=dict)
    removed: list[str] = field(default_factory=list)


def maintain(config: WatchConfig, *, ledger: Ledger | None = None, now: float | None = None) -> Upkeep:
    """Compare all that is published with its checksums, and remove what is kept for longer than it has to be.

    A run that is not what was published is due again; the next pass makes it anew.

    Parameters
    ----------
    config
        The series.
    ledger
        As the configuration says, by default.
    now
        Seconds since 1970; the present by default.
    """
    book = ledger or Ledger(config.ledger_address, config.name)
    try:
        done, layout = Upkeep(), Layout(config.out)
        with book.maintaining():
            for row in book.rows():
                if row.state == "published":
                    done.checked += 1
                    if fault := find_damage(row):
                        Path(str((row.result or {})["run"]), CARD).unlink(missing_ok=True)
                        book.make_again(row.id, fault)
                        done.damaged[f"{row.source} {row.name}"] = fault
            done.removed = remove_old(config, layout, book.rows(), time.time() if now is None else now)
        return done
    finally:
        if ledger is None:
            book.close()


def find_damage(row: Row) -> str | None:
    """Return how a published run differs from what was published, or made of it by an edit; None where it does not."""
    result = row.result or {}
    run, files = Path(result["run"]), result["files"]
    if not run.is_dir():
        return f"{run}: is gone"
    found, files = checksums(run), files | edited(run)
    missing = sorted(files.keys() - found.keys())
    changed = sorted(name for name in files.keys() & found.keys() if files[name] != found[name])
    faults = [f"{', '.join(names)} {what}" for names, what in ((missing, "missing"), (changed, "changed")) if names]
    return f"{run}: {'; '.join(faults)}" if faults else None


def remove_old(config: WatchConfig, layout: Layout, rows: list[Row], now: float) -> list[str]:
    """Remove work and copies of acquisitions that need them no more, after the time that they are kept."""
    removed = []
    open_states = ("due", "running", "waiting")
    for row in rows:
        kept = config.retention
        age_days = (now - row.changed) / DAY_S
        work = layout.root / "work" / safe_name(f"{row.source}.{row.name}")
        copies = layout.root / "copies" / safe_name(row.source) / safe_name(row.name)
        if row.state in open_states:
            continue
        for path, days in ((work, kept.work_days), (copies, kept.copies_days)):
            if days is not None and age_days >= days and path.exists():
                shutil.rmtree(path)
                path.with_name(f"{path.name}.json").unlink(missing_ok=True)
                removed.append(str(path))
    return removed
