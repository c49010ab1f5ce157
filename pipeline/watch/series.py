"""What is published of a series beside the runs: the store of all dates, and the STAC collection."""

from __future__ import annotations

from pathlib import Path

from pipeline.watch.layout import Layout


def extend_series(layout: Layout, run: Path, date: str) -> None:
    """Append a published run to the series; done twice, it changes nothing."""
