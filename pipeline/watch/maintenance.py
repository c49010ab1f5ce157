"""Looking after a series: what is published is compared with what was published and mended, and what is old goes."""

from __future__ import annotations

import logging
import shutil
import time
from dataclasses import dataclass, field
from pathlib import Path

from pipeline.acquisitions.values import safe_name
from pipeline.catalogue.nodes import read_nodes
from pipeline.catalogue.rewrite import FROM_LABELS, restore_run
from pipeline.catalogue.store import check_catalogue, read_catalogue
from pipeline.checksums import checksums, digest_of, edited
from pipeline.errors import InputError
from pipeline.ledger import Ledger, Row
from pipeline.watch.config import WatchConfig
from pipeline.watch.layout import Layout
from pipeline.watch.publication import CARD
from pipeline.watch.refresh import Refresh, bring_up, catalogue_of, restate
from pipeline.watch.series import mend_series

logger = logging.getLogger(__name__)

DAY_S = 86_400.0


@dataclass
class Upkeep:
    """What maintenance found and did.

    Attributes
    ----------
    checked
        Published runs whose files were compared with their checksums.
    damaged
        What was wrong with those that the next pass makes anew, by acquisition.
    repaired
        What was wrong and has been mended, by what it was wrong with.
    broken
        What is wrong and has to be mended by a person, by what it is wrong with.
    removed
        What was old, and is gone.
    """

    checked: int = 0
    damaged: dict[str, str] = field(default_factory=dict)
    repaired: dict[str, str] = field(default_factory=dict)
    broken: dict[str, str] = field(default_factory=dict)
    removed: list[str] = field(default_factory=list)


def maintain(config: WatchConfig, *, ledger: Ledger | None = None, now: float | None = None) -> Upkeep:
    """Compare all that is published with what was published, mend it, and remove what is kept for longer than it must.

    Parts of a run that follow from its labels are made from them again; a run whose labels or models are not what was
    published is due again, and the next pass makes it anew. Series, legend and collection are compared with the runs,
    the model with that of the runs, the catalogue with its own checksums.

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
        _end_refresh(config, layout, book, done)
        with book.maintaining():
            for row in book.rows():
                if row.state == "published":
                    done.checked += 1
                    _look_after_run(layout, book, row, done)
            _look_after_ids(config, layout, book.rows(), done)
            _look_after_series(layout, [row for row in book.rows() if row.state == "published"], done)
            done.removed = remove_old(config, layout, book.rows(), time.time() if now is None else now)
        return done
    finally:
        if ledger is None:
            book.close()


def _end_refresh(config: WatchConfig, layout: Layout, book: Ledger, done: Upkeep) -> None:
    """Bring the maps to the ids of a refresh that died."""
    if layout.refreshing.exists() and (catalogue_of(config) / "classes.json").exists():
        ended = Refresh()
        try:
            bring_up(config, book, ended)
        except InputError as error:
            done.broken["refresh"] = str(error)
        done.repaired |= dict.fromkeys(ended.rewritten, "followed a refresh that had not come to its end")
        done.broken |= ended.failed


def _look_after_run(layout: Layout, book: Ledger, row: Row, done: Upkeep) -> None:
    name, run = f"{row.source} {row.name}", layout.run_of(row.result)
    wrong = find_damaged(run, (row.result or {})["files"])
    if wrong is not None and not wrong:
        return
    fault = f"{run}: is gone" if wrong is None else f"{run}: {', '.join(f'{n} {w}' for n, w in sorted(wrong.items()))}"
    if wrong is not None and wrong.keys() <= FROM_LABELS:
        try:
            restore_run(run, wrong)
            restate(layout, book, row, run, "damaged files were made from its labels again")
        except (InputError, OSError, RuntimeError) as error:
            logger.warning("%s: %s", run, error)
        else:
            done.repaired[name] = fault
            return
    (run / CARD).unlink(missing_ok=True)
    book.make_again(row.id, fault)
    done.damaged[name] = fault


def find_damaged(run: Path, files: dict[str, str]) -> dict[str, str] | None:
    """Return what is wrong with files of a published run: ``missing`` or ``changed``; None where all of it is gone.

    What an edit has made of a file is what was published.
    """
    if not run.is_dir():
        return None
    found = checksums(run)
    try:
        files = files | edited(run)
    except InputError:
        return {"edits.json": "changed"}
    return {
        name: "changed" if name in found else "missing" for name, digest in files.items() if found.get(name) != digest
    }


def _look_after_ids(config: WatchConfig, layout: Layout, rows: list[Row], done: Upkeep) -> None:
    """Look at what gives later dates the ids of those before: the model of the first date, or the catalogue."""
    if config.ids == "model" and layout.model.exists():
        known = {digest for row in rows if (digest := (row.result or {}).get("files", {}).get("model"))}
        if known and digest_of(layout.model) not in known:
            _restore_model(layout, rows, done)
    directory = catalogue_of(config)
    if config.ids == "catalogue" and any(row.state == "published" for row in rows):
        try:
            check_catalogue(directory)
            for entry in read_catalogue(directory).card.latest:
                read_nodes(directory, entry.key)
        except InputError as error:
            done.broken["catalogue"] = f"{error}; until then no date can be added"


def _restore_model(layout: Layout, rows: list[Row], done: Upkeep) -> None:
    """Put the model of a run that has it as it was published in the place of a damaged one."""
    for row in rows:
        recorded = (row.result or {}).get("files", {}).get("model")
        model = layout.run_of(row.result) / "model"
        if recorded and model.is_dir() and digest_of(model) == recorded:
            partial = layout.model.with_name(f".{layout.model.name}.partial")
            shutil.rmtree(partial, ignore_errors=True)
            shutil.copytree(model, partial)
            shutil.rmtree(layout.model)
            partial.rename(layout.model)
            done.repaired["model"] = f"{layout.model}: changed; taken from {model.parent} again"
            return
    done.broken["model"] = f"{layout.model}: changed, and no run has it as it was; restore it from a backup"


def _look_after_series(layout: Layout, rows: list[Row], done: Upkeep) -> None:
    """Compare the store, the legend and the collection with the runs; what differs is made of them again."""
    runs = []
    for row in rows:
        run = layout.run_of(row.result)
        if (row.result or {}).get("apart") is None and (run / "run.json").exists():
            runs.append((run, str(row.date)))
    try:
        done.repaired |= mend_series(layout, runs)
    except (InputError, OSError) as error:
        done.broken["series"] = str(error)


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
