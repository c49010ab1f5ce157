"""What is published of a series beside the runs: the store of all dates, its legend, and the STAC collection."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from pipeline.collection import COLLECTION
from pipeline.errors import InputError, MisfitError
from pipeline.results import LABELS, LEGEND, open_result
from pipeline.series import SERIES, append, parse_time, read_dates
from pipeline.stac import write_item
from pipeline.stores import LabelStore
from pipeline.watch.layout import Layout


def extend_series(layout: Layout, run: Path, date: str) -> None:
    """Append a published run to the series, in the place of an older one of its date; done twice, it changes nothing.

    Its item gets its name from where it lies now, not from where it was made.

    Raises
    ------
    MisfitError
        The run is on another grid than the series, or its ids have another meaning; the series is as it was.
    InputError
        The series cannot be read.
    """
    write_item(run)
    append(layout.root, run, date, replace=True)


def mend_series(layout: Layout, runs: Sequence[tuple[Path, str]]) -> dict[str, str]:
    """Compare a series with its runs, pixel by pixel, and make what differs again.

    Parameters
    ----------
    layout
        Where the series is.
    runs
        Directory and date of each run that belongs to it; they are what was published.

    Returns
    -------
    dict
        What was wrong, by the name of the file or store.

    Raises
    ------
    MisfitError
        A run cannot be part of the series; the store is as it was.
    InputError
        A part cannot be made again.
    """
    faults: dict[str, str] = {}
    store = layout.root / SERIES
    differs = {date: why for run, date in runs if (why := find_fault(store, run, date))}
    if differs:
        faults[SERIES] = "; ".join(f"{date} {why}" for date, why in sorted(differs.items()))
        try:
            for run, date in runs:
                if date in differs:
                    append(layout.root, run, date, replace=True)
        except MisfitError:
            raise
        except Exception:  # whatever reading a damaged store raises: nothing of it is of use
            _move_away(store)
        if not store.exists() or any(find_fault(store, run, date) for run, date in runs):
            _move_away(store)
            for run, date in sorted(runs, key=lambda each: each[1]):
                append(layout.root, run, date, replace=True)
    if runs:
        before = {name: _bytes_of(layout.root / name) for name in (LEGEND, COLLECTION)}
        append(layout.root, *runs[-1])  # which holds it already, and writes what follows from the store
        for name, content in before.items():
            if not differs and content != _bytes_of(layout.root / name):
                faults[name] = "is missing" if content is None else "does not say what the series holds"
    return faults


def find_fault(store: Path, run: Path, date: str) -> str | None:
    """Return how the pixels of a date in the store differ from those of its run; None where they do not."""
    try:
        dates = read_dates(store.parent)
        at = next((i for i, each in enumerate(dates) if each.time == parse_time(date)), None)
        if at is None:
            return "is missing"
        if dates[at].key != open_result(run).record.key:
            return "is of another run"
        return None if _holds(LabelStore.open(store), at, LabelStore.open(run / LABELS)) else "differs from its run"
    except InputError as error:
        return f"cannot be read ({error})"
    except Exception as error:  # codecs and metadata have many ways to be wrong
        return f"cannot be read ({type(error).__name__}: {' '.join(str(error).split())[:200]})"


def _holds(series: LabelStore, at: int, single: LabelStore) -> bool:
    """Whether a date of a series is pixel by pixel a map, with its confidence and its levels."""
    arrays = [(series.array(name), single.array(name)) for name in ("labels", "confidence")]
    for dated, own in [*arrays, *zip(series.levels(), single.levels(), strict=False)]:
        if dated.shape[1:] != own.shape:
            return False
        for y in range(0, own.shape[0], own.chunks[0]):
            rows = slice(y, y + own.chunks[0])
            if not np.array_equal(np.asarray(dated[at, rows]), np.asarray(own[rows])):
                return False
    return True


def _move_away(store: Path) -> None:
    if store.exists():
        shutil.rmtree(store)


def _bytes_of(path: Path) -> bytes | None:
    return path.read_bytes() if path.is_file() else None
