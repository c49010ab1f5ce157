"""The page of `ktex status`: what runs, what came last, and what wants looking at."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

from flows.progress import span
from pipeline.ledger import STATES as LEDGER_STATES
from pipeline.ledger import Row
from pipeline.ledger.overview import SeriesStatus
from pipeline.status import STATES, RunStatus, Status

LOW_SHARE = 0.05
"""Under this share of free room the disk is a problem."""

SHOWN = 12
"""Most runs, and open acquisitions of a series, that are listed; problems are told of all."""


def to_page(found: Status, series: Sequence[SeriesStatus] = (), *, now: datetime | None = None) -> str:
    """Return the page as text.

    Parameters
    ----------
    found
        What `pipeline.status.look_at` saw.
    series
        What `pipeline.ledger.overview.look_at_series` saw.
    now
        Moment that ages are counted from; the present where None.
    """
    moment = now or datetime.now(UTC)
    counts = ", ".join(f"{found.count(state)} {state}" for state in STATES if found.count(state)) or "no run"
    parts = [f"{found.root}: {counts}; {found.free_bytes / 2**30:,.1f} GiB free of {found.total_bytes / 2**30:,.1f}"]
    if found.runs:
        parts.append(
            "\n".join(_run_line(run, found.root, moment) for run in found.runs[:SHOWN]) + _rest(len(found.runs))
        )
    if (last := found.last_result) is not None:
        parts.append("\n".join(["Last result:", f"  {last.path}", *_figure_lines(last)]))
    parts += ["\n".join(_series_lines(each, moment)) for each in series]
    problems = list_problems(found, series)
    parts.append("\n".join(["Problems:", *(f"  {each}" for each in problems)]) if problems else "No problem.")
    return "\n\n".join(parts)


def list_problems(found: Status, series: Sequence[SeriesStatus] = ()) -> list[str]:
    """Return what wants looking at, a line each."""
    lines = [f"{_name(run.path, found.root)}: {problem}" for run in found.runs for problem in run.problems]
    lines += [f"series {each.name}: {problem}" for each in series for problem in each.problems]
    if found.free_bytes < LOW_SHARE * found.total_bytes:
        lines.append(f"{found.root}: {found.free_bytes / found.total_bytes:.1%} of the disk is free; make room")
    return lines


def _run_line(run: RunStatus, root: Path, now: datetime) -> str:
    progress = "      " if run.progress is None else f"{run.progress:6.1%}"
    age = span(max(0.0, (now - run.changed).total_seconds()))
    return f"  {run.state:<12} {progress}  {age:>14} ago  {_name(run.path, root)}"


def _rest(count: int) -> str:
    return f"\n  and {count - SHOWN} more; --json has all" if count > SHOWN else ""


def _series_lines(series: SeriesStatus, now: datetime) -> list[str]:
    counts = ", ".join(f"{series.count(state)} {state}" for state in LEDGER_STATES if series.count(state))
    lines = [f"Series {series.name} (ledger {series.ledger}): {counts or 'no acquisition'}"]
    if series.fault is not None:
        return [f"Series {series.name} (ledger {series.ledger}): cannot be told"]
    lines += [f"  {line}" for line in _pass_lines(series, now)]
    open_rows = [row for row in series.rows if row.state in ("running", "due", "waiting")]
    lines += [_row_line(row, series.now, now) for row in open_rows[:SHOWN]]
    return ["\n".join(lines) + _rest(len(open_rows))]


def _pass_lines(series: SeriesStatus, now: datetime) -> list[str]:
    lines = [
        f"a pass is at work, begun {_ago(each.began, now)} ({each.holder})"
        for each in series.open_passes
        if not each.is_lost()
    ]
    last = series.last_pass
    if last is None or last.ended is None:
        return [*lines, "no pass has ended yet"]
    counts = ", ".join(f"{count} {what}" for what, count in last.counts.items())
    took = span(last.ended - last.began)
    return [*lines, f"last pass ended {_ago(last.ended, now)}, after {took}: {counts or 'nothing was seen'}"]


def _row_line(row: Row, seen: float, now: datetime) -> str:
    about = row.reason or ""
    if row.state == "running":
        alive = "dead or silent" if row.is_abandoned(seen) else "alive"
        about = f"claim {row.token}, try {row.attempts}, {alive}: {row.holder}"
    elif row.state == "due" and row.not_before > seen:
        about = f"try {row.attempts + 1} in {span(row.not_before - seen)}: {about}"
    return f"  {row.state:<12} {_ago(row.changed, now):>20}  {row.source} {row.name}{': ' if about else ''}{about}"


def _ago(then: float, now: datetime) -> str:
    return f"{span(max(0.0, now.timestamp() - then))} ago"


def _figure_lines(run: RunStatus) -> list[str]:
    forms = {"pixels_valid": "{:,.0f} valid pixels", "classes": "{:.0f} classes", "seam_excess": "seam excess {:+.2%}"}
    told = [form.format(run.figures[name]) for name, form in forms.items() if name in run.figures]
    if "seconds" in run.figures:
        told.append(f"in {span(run.figures['seconds'])}")
    return [f"  {', '.join(told)}"] if told else []


def _name(path: Path, root: Path) -> str:
    return str(path.relative_to(root)) if path != root and path.is_relative_to(root) else str(path)
