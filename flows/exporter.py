"""Figures for Prometheus, read from the run directories whenever they are asked for.

Runs come and go, so none of them serves figures itself; what they leave on disk outlives them.
"""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path

import click
from prometheus_client import CollectorRegistry, generate_latest, start_http_server
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from pipeline.errors import InputError
from pipeline.ledger import STATES as LEDGER_STATES
from pipeline.ledger.overview import SeriesStatus, find_series, look_at_series
from pipeline.status import STATES, Status, look_at

DEFAULT_LISTEN = "127.0.0.1:9464"
"""Where the command line serves them; nobody else can reach it."""

FIGURES = {
    "seconds": ("ktex_last_result_seconds", "Wall time of the run that was published last."),
    "pixels_valid": ("ktex_last_result_valid_pixels", "Valid pixels that it labelled."),
    "pixels_per_second": ("ktex_last_result_pixels_per_second", "Pixels that it computed in a second."),
    "classes": ("ktex_last_result_classes", "Ids in use in it."),
    "seam_excess": ("ktex_last_result_seam_excess", "How much more labels change across block borders than inside."),
}
"""Figures of the last result, by their names in ``run.json``."""


class RunCollector(Collector):
    """Looks at the runs under a folder each time that figures are asked for."""

    def __init__(self, root: Path) -> None:
        self._root = root

    def collect(self) -> Iterator[Metric]:
        """Yield all figures."""
        yield from gauges(look_at(self._root))
        yield from series_gauges([look_at_series(folder) for folder in find_series(self._root)])


def gauges(found: Status) -> Iterator[Metric]:
    """Yield what was seen as gauges; units are seconds, bytes and shares."""
    states = GaugeMetricFamily("ktex_runs", "Runs by state.", labels=["state"])
    for state in STATES:
        states.add_metric([state], found.count(state))
    yield states
    yield GaugeMetricFamily(
        "ktex_problems", "Runs that want looking at.", sum(bool(run.problems) for run in found.runs)
    )
    yield GaugeMetricFamily("ktex_disk_free_bytes", "Room that is left where the runs are.", found.free_bytes)
    yield GaugeMetricFamily("ktex_disk_size_bytes", "Size of the disk that the runs are on.", found.total_bytes)
    progress = GaugeMetricFamily("ktex_run_progress", "Share of the work on blocks that is done.", labels=["run"])
    changed = GaugeMetricFamily(
        "ktex_run_changed_seconds", "When a run under way last wrote something.", labels=["run"]
    )
    for run in found.runs:
        if run.state == "running":
            changed.add_metric([str(run.path)], run.changed.timestamp())
            if run.progress is not None:
                progress.add_metric([str(run.path)], run.progress)
    yield progress
    yield changed
    if (last := found.last_result) is not None:
        yield GaugeMetricFamily(
            "ktex_last_result_timestamp_seconds", "When the last result was made.", last.changed.timestamp()
        )
        for name, (metric, about) in FIGURES.items():
            if name in last.figures:
                yield GaugeMetricFamily(metric, about, last.figures[name])


def series_gauges(found: Sequence[SeriesStatus]) -> Iterator[Metric]:
    """Yield what the ledgers say as gauges; of a ledger that cannot be read, only that."""
    readable = GaugeMetricFamily("ktex_ledger_up", "Whether the ledger of a series can be read.", labels=["series"])
    states = GaugeMetricFamily("ktex_acquisitions", "Acquisitions by state.", labels=["series", "state"])
    abandoned = GaugeMetricFamily(
        "ktex_abandoned_claims", "Acquisitions whose process is dead or silent.", labels=["series"]
    )
    last = GaugeMetricFamily("ktex_last_pass_timestamp_seconds", "When the last pass ended.", labels=["series"])
    silent = GaugeMetricFamily("ktex_unreachable_sources", "Sources that it did not reach.", labels=["series"])
    for series in found:
        readable.add_metric([series.name], float(series.fault is None))
        if series.fault is not None:
            continue
        for state in LEDGER_STATES:
            states.add_metric([series.name, state], series.count(state))
        abandoned.add_metric([series.name], len(series.abandoned))
        if series.last_pass is not None and series.last_pass.ended is not None:
            last.add_metric([series.name], series.last_pass.ended)
            silent.add_metric([series.name], len(series.last_pass.unreachable))
    yield from (readable, states, abandoned, last, silent)


def make_registry(root: Path) -> CollectorRegistry:
    """Return a registry of nothing but the runs under `root`, which is looked at once to see that it can be."""
    look_at(root)
    registry = CollectorRegistry()
    registry.register(RunCollector(root))
    return registry


def print_metrics(root: Path) -> None:
    """Print the figures once, in the text format of Prometheus."""
    click.echo(generate_latest(make_registry(root)).decode(), nl=False)


def serve_metrics(root: Path, listen: str) -> None:
    """Serve the figures until the process is told to end."""
    host, port = parse_address(listen)
    try:
        server, thread = start_http_server(port, host, make_registry(root))
    except OSError as error:
        raise InputError(
            f"--listen {listen}: cannot be listened on ({error.strerror}); give another address"
        ) from error
    ended = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: ended.set())
    click.echo(f"Figures of the runs under {root} at http://{host}:{server.server_port}/metrics", err=True)
    try:
        ended.wait()
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def parse_address(listen: str) -> tuple[str, int]:
    """Split HOST:PORT.

    Examples
    --------
    >>> parse_address("127.0.0.1:9464"), parse_address("[::1]:0")
    (('127.0.0.1', 9464), ('::1', 0))
    """
    host, colon, port = listen.rpartition(":")
    if not colon or not host or not port.isdecimal() or int(port) > 65535:
        raise InputError(f"--listen {listen}: must be HOST:PORT, such as {DEFAULT_LISTEN}")
    return host.strip("[]"), int(port)
