"""A command measured from outside: wall seconds, CPU seconds of all its processes, and the memory that they take."""

from __future__ import annotations

import json
import os
import resource
import subprocess
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import psutil

POLL_S = 0.2


def measure(command: Sequence[str], log: Path) -> dict[str, Any]:
    """Run a command; returns what it took, and what it printed as JSON in its last line, if it did.

    Memory is the highest sum of the resident memory of all its processes, looked at five times a second: what they
    share counts for each.
    """
    before, start = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    with log.open("w") as errors:
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=errors, text=True, env=_environment())
        peak = [0]
        watcher = threading.Thread(target=_watch, args=(process.pid, peak), daemon=True)
        watcher.start()
        said, _ = process.communicate()
    wall = time.perf_counter() - start
    watcher.join()
    if process.returncode:
        raise RuntimeError(f"{' '.join(command)} failed: {log.read_text()[-2000:]} {said[-500:]}")
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return {"wall_s": wall, "cpu_s": cpu, "peak_bytes": peak[0], "told": _last_json(said)}


def _environment() -> dict[str, str]:
    # Each decides itself how many threads it takes.
    limits = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "TF_NUM_INTRAOP_THREADS")
    return {name: value for name, value in os.environ.items() if name not in limits}


def _watch(pid: int, peak: list[int]) -> None:
    try:
        parent = psutil.Process(pid)
        while parent.is_running() and parent.status() != psutil.STATUS_ZOMBIE:
            peak[0] = max(peak[0], sum(_memory(each) for each in (parent, *parent.children(recursive=True))))
            time.sleep(POLL_S)
    except psutil.NoSuchProcess:
        return


def _memory(process: psutil.Process) -> int:
    try:
        return int(process.memory_info().rss)
    except psutil.NoSuchProcess:
        return 0


def _last_json(said: str) -> dict[str, Any]:
    lines = said.strip().splitlines()
    try:
        found: dict[str, Any] = json.loads(lines[-1]) if lines else {}
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}
