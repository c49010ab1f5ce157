"""What is published of a series beside the runs: the store of all dates, its legend, and the STAC collection."""

from __future__ import annotations

from pathlib import Path

from pipeline.series import append
from pipeline.stac import write_item
from pipeline.watch.layout import Layout


def extend_series(layout: Layout, run: Path, date: str) -> None:
    """Append a published run to the series, in the place of an older one of its date; done twice, it changes nothing.

    Its item gets its name from where it lies now, not from where it was made.

    Raises
    ------
    InputError
        The run is on another grid than the series, or its ids have another meaning; the series is as it was.
    """
    write_item(run)
    append(layout.root, run, date, replace=True)
