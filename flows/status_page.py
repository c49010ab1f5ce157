"""The page of `ktex status`: what runs, what came last, and what wants looking at."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

from flows.progress import span
from pipeline.status import STATES, RunStatus, Status

LOW_SHARE = 0.05
"""Under this share of free room the disk is a problem."""

SHOWN = 12
"""Most runs that are listed; problems are told of all."""


def to_page(found: Status, *, now: datetime | None = None) -> str:
    """Return the page as text.

    Parameters
    ----------
    found
        What `pipeline.status.look_at` saw.
    now
        Moment that ages are counted from; the present where None.
    """
    moment = now or datetime.now(UTC)
    counts = ", ".join(f"{found.count(state)} {state}" for state in STATES if found.count(state)) or "no run"
    parts = [f"{found.root}: {counts}; {found.free_bytes / 2**30:,.1f} GiB free of {found.total_bytes / 2**30:,.1f}"]
    if found.runs:
        parts.append("\n".join(_run_line(run, found.root, moment) for run in found.runs[:SHOWN]) + _rest(found))
    if (last := found.last_result) is not None:
        parts.append("\n".join(["Last result:", f"  {last.path}", *_figure_lines(last)]))
    problems = list_problems(found)
    parts.append("\n".join(["Problems:", *(f"  {each}" for each in problems)]) if problems else "No problem.")
    return "\n\n".join(parts)


def list_problems(found: Status) -> list[str]:
    """Return what wants looking at, a line each."""
    lines = [f"{_name(run.path, found.root)}: {problem}" for run in found.runs for problem in run.problems]
    if found.free_bytes < LOW_SHARE * found.total_bytes:
        lines.append(f"{found.root}: {found.free_bytes / found.total_bytes:.1%} of the disk is free; make room")
    return lines


def _run_line(run: RunStatus, root: Path, now: datetime) -> str:
    progress = "      " if run.progress is None else f"{run.progress:6.1%}"
    age = span(max(0.0, (now - run.changed).total_seconds()))
    return f"  {run.state:<12} {progress}  {age:>14} ago  {_name(run.path, root)}"


def _rest(found: Status) -> str:
    more = len(found.runs) - SHOWN
    return f"\n  and {more} more; --json has all" if more > 0 else ""


def _figure_lines(run: RunStatus) -> list[str]:
    forms = {"pixels_valid": "{:,.0f} valid pixels", "classes": "{:.0f} classes", "seam_excess": "seam excess {:+.2%}"}
    told = [form.format(run.figures[name]) for name, form in forms.items() if name in run.figures]
    if "seconds" in run.figures:
        told.append(f"in {span(run.figures['seconds'])}")
    return [f"  {', '.join(told)}"] if told else []


def _name(path: Path, root: Path) -> str:
    return str(path.relative_to(root)) if path != root and path.is_relative_to(root) else str(path)
