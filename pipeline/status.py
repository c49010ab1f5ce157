"""What became of the runs under a folder: state, progress, last result and problems, from what lies there alone.

Nothing is asked of a process: a run is under way where somebody holds the lock of its directory, and interrupted where
there is unfinished work and nobody does.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Literal

from pipeline.errors import InputError
from pipeline.workspace import ANCHOR, MANIFEST, RECORD, WORK, Folders, is_locked, read_json

State = Literal["running", "interrupted", "done", "incomplete", "damaged"]
STATES: tuple[State, ...] = ("running", "interrupted", "done", "incomplete", "damaged")

STAGES = ("train", "predict", "cut")
"""Stages that leave a marker for each block; where one model serves all blocks, the first does not."""
WRITING = (*STAGES, "tally", "repair")
"""These, and what is done between them: they leave a marker for each block that they work on."""

SILENT_S = 1800.0
"""A run that is under way and has written nothing for so long is a problem to look into."""

DEPTH = 4
"""How far below a folder runs are looked for."""


@dataclass(frozen=True)
class RunStatus:
    """One run directory.

    Attributes
    ----------
    path, key
        Where it is, and the first digits of what names its work.
    state
        ``running``, ``interrupted`` (the same command resumes), ``done``, ``incomplete`` (published without some
        blocks) or ``damaged`` (its record cannot be read).
    changed
        When a marker, the log or the record was last written; of a published run, when it ended.
    blocks
        Number of blocks; None where the run does not say.
    done
        Blocks finished, by stage.
    figures
        Of a published run: the numbers of its record's ``metrics``, and ``seconds``.
    problems
        One line each.
    """

    path: Path
    key: str
    state: State
    changed: datetime
    blocks: int | None = None
    done: Mapping[str, int] = field(default_factory=dict)
    figures: Mapping[str, float] = field(default_factory=dict)
    problems: tuple[str, ...] = ()

    @property
    def progress(self) -> float | None:
        """Share of the work on blocks that is done, 0..1; None where it cannot be told."""
        if self.state in {"done", "incomplete"}:
            return 1.0
        return None if not self.blocks else min(1.0, sum(self.done.values()) / (self.blocks * len(self.done)))

    def to_json(self) -> dict[str, Any]:
        """Return it ready for JSON."""
        found = asdict(self) | {"path": str(self.path), "changed": self.changed.isoformat(), "progress": self.progress}
        return found | {"problems": list(self.problems)}


@dataclass(frozen=True)
class Status:
    """All runs under a folder, the latest first, and the room that is left there in bytes."""

    root: Path
    runs: tuple[RunStatus, ...]
    free_bytes: int
    total_bytes: int

    def count(self, state: State) -> int:
        """Return how many runs are in a state."""
        return sum(run.state == state for run in self.runs)

    @property
    def last_result(self) -> RunStatus | None:
        """The run that was published last."""
        return next((run for run in self.runs if run.state in {"done", "incomplete"}), None)

    def to_json(self) -> dict[str, Any]:
        """Return it ready for JSON."""
        return {
            "root": str(self.root),
            "free_bytes": self.free_bytes,
            "total_bytes": self.total_bytes,
            "counts": {state: self.count(state) for state in STATES},
            "runs": [run.to_json() for run in self.runs],
        }


def look_at(root: Path, *, now: datetime | None = None) -> Status:
    """Look at all runs in or under `root`; raises InputError where it is no folder."""
    if not root.is_dir():
        raise InputError(f"{root}: must be a folder that holds runs; got {'a file' if root.exists() else 'nothing'}")
    moment = now or datetime.now(UTC)
    runs = sorted(
        (look_at_run(path, now=moment) for path in find_runs(root)), key=lambda run: run.changed, reverse=True
    )
    disk = shutil.disk_usage(root)
    return Status(root, tuple(runs), disk.free, disk.total)


def find_runs(root: Path) -> Iterator[Path]:
    """Yield the run directories in or under `root`; what lies inside a run is its own."""
    yield from (folder for folder in folders_below(root) if is_run(folder))


def folders_below(root: Path, depth: int = DEPTH) -> Iterator[Path]:
    """Yield `root` and folders under it that may hold something of ours: none inside runs and stores, none hidden."""
    yield root
    if is_run(root) or not depth:
        return
    try:
        below = sorted(Path(entry.path) for entry in os.scandir(root) if entry.is_dir(follow_symlinks=False))
    except OSError:
        return  # a folder of somebody else's holds no run of ours
    for path in below:
        if not path.name.startswith(".") and path.suffix != ".zarr":
            yield from folders_below(path, depth - 1)


def is_run(path: Path) -> bool:
    """Whether a folder is a run directory, published or under way."""
    return (path / RECORD).is_file() or (path / WORK / MANIFEST).is_file()


def look_at_run(path: Path, *, now: datetime) -> RunStatus:
    """Look at one run directory."""
    folders, changed = Folders(path), _last_change(path)
    try:
        manifest, record = read_json(folders.work / MANIFEST), read_json(path / RECORD)
    except InputError as error:
        return RunStatus(path, "", "damaged", changed, problems=(str(error),))
    at_work = is_locked(folders.work / "lock")
    if manifest is None or (record is not None and not at_work and record.get("key") == manifest.get("key")):
        return _published(path, record or {}, changed)
    key, blocks = str(manifest.get("key", ""))[:12], manifest.get("blocks")
    one_model = manifest.get("model") is not None or manifest.get("settings", {}).get("mode") == "global"
    done = {stage: _count(folders.work / "done" / stage) for stage in STAGES[one_model:]}
    if not at_work:
        problems: tuple[str, ...] = ("interrupted; the same command resumes it",)
        return RunStatus(
            path, key, "interrupted", changed, blocks, done, problems=(*problems, *_last_error(folders.log))
        )
    silent = (now - changed).total_seconds()
    problems = (f"nothing written for {silent / 60:.0f} min; look at run.log",) if silent > SILENT_S else ()
    return RunStatus(path, key, "running", changed, blocks, done, problems=problems)


def _published(path: Path, record: Mapping[str, Any], changed: datetime) -> RunStatus:
    key, blocks = str(record.get("key") or "")[:12], record.get("blocks") or {}
    failed = blocks.get("failed_names") or []
    metrics = {**(record.get("metrics") or {}), "seconds": record.get("seconds")}
    figures = {name: float(value) for name, value in metrics.items() if isinstance(value, int | float)}
    try:
        made = datetime.fromisoformat(str(record["created"])) + timedelta(seconds=figures.get("seconds", 0.0))
    except (KeyError, ValueError):
        return RunStatus(path, key, "damaged", changed, problems=(f"{path / RECORD}: is not the record of a run",))
    problems = (f"blocks {', '.join(failed)} are nodata; the same command tries them again",) if failed else ()
    total = sum(int(blocks.get(name, 0)) for name in ("done", "reused", "failed"))
    return RunStatus(path, key, "incomplete" if failed else "done", made, total or None, {}, figures, problems)


def _count(folder: Path) -> int:
    try:
        return sum(
            entry.name.endswith(".json") and not entry.name.startswith((".", "basis", f"{ANCHOR}."))
            for entry in os.scandir(folder)
        )
    except FileNotFoundError:
        return 0


def _last_change(path: Path) -> datetime:
    folders = Folders(path)
    seen = [path / RECORD, folders.log, folders.work / MANIFEST, *(folders.work / "done" / stage for stage in WRITING)]
    times = [file.stat().st_mtime for file in seen if file.exists()]
    return datetime.fromtimestamp(max(times, default=path.stat().st_mtime), UTC)


def _last_error(log: Path) -> tuple[str, ...]:
    """Return the last line of the log that speaks of an error; nothing where there is none."""
    try:
        with log.open("rb") as file:
            file.seek(max(0, log.stat().st_size - 65536))
            lines = file.read().decode("utf-8", "replace").splitlines()
    except FileNotFoundError:
        return ()
    found = [line.strip() for line in lines if " ERROR " in line or '"level": "ERROR"' in line]
    return (found[-1][:300],) if found else ()
