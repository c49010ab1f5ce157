"""What all benchmarks share: their options, a record of the machine and its software, and tables."""

from __future__ import annotations

import argparse
import json
import os
import platform
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any

PACKAGES = ("ktextures", "numpy", "scipy", "scikit-learn", "keras", "tensorflow", "tensorflow-cpu", "jax")


def parser(name: str, purpose: str) -> argparse.ArgumentParser:
    """Return a parser with the options that every benchmark has."""
    options = argparse.ArgumentParser(prog=f"python -m benchmarks.{name}", description=purpose)
    options.add_argument("--quick", action="store_true", help="a small version, under 5 minutes on 2 cores")
    options.add_argument("--json", type=Path, metavar="FILE", help="write all figures, seeds, versions and the machine")
    options.add_argument("--markdown", type=Path, metavar="FILE", help="write the tables, as they are printed")
    return options


def describe_machine() -> dict[str, Any]:
    """Return the processor, its cores, the load at this moment, memory and the thread limits of the environment."""
    limits = ("OMP_NUM_THREADS", "TF_NUM_INTRAOP_THREADS", "TF_NUM_INTEROP_THREADS", "KERAS_BACKEND")
    return {
        "processor": _processor(),
        "cores": os.cpu_count(),
        "load": [round(value, 2) for value in os.getloadavg()],
        "memory_bytes": os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
        "system": platform.platform(),
        "environment": {name: os.environ[name] for name in limits if name in os.environ},
    }


def read_peak_mib() -> float:
    """Return the highest resident memory of this process; getrusage would count that of its parent as well."""
    status = Path("/proc/self/status").read_text()
    return int(next(line.split()[1] for line in status.splitlines() if line.startswith("VmHWM"))) / 1024


def list_versions() -> dict[str, str]:
    """Return the versions of Python and of the packages that figures depend on, where installed."""
    found = {"python": platform.python_version()}
    for package in PACKAGES:
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return found


def read_commit() -> str | None:
    """Return the commit of the code, with ``-dirty`` where files differ from it; None outside a repository."""
    git = shutil.which("git")
    if git is None:
        return None
    command = [git, "-C", str(Path(__file__).parent), "describe", "--always", "--dirty", "--abbrev=12"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    return done.stdout.strip() or None


def begin_record(name: str, settings: Mapping[str, Any]) -> dict[str, Any]:
    """Return a record with everything but the figures."""
    return {
        "benchmark": name,
        "started": datetime.now(UTC).isoformat(timespec="seconds"),
        "settings": dict(settings),
        "commit": read_commit(),
        "versions": list_versions(),
        "machine": describe_machine(),
    }


def write_record(path: Path | None, record: Mapping[str, Any]) -> None:
    """Write a record as JSON, whole or not at all; nothing where `path` is None."""
    if path is None:
        return
    part = path.with_name(path.name + ".partial")
    part.write_text(json.dumps(record, indent=1) + "\n")
    part.replace(path)


def describe_run(record: Mapping[str, Any]) -> str:
    """Return the machine and the versions of a record in one line."""
    machine, versions = record["machine"], record["versions"]
    environment = "".join(f", {name}={value}" for name, value in machine["environment"].items())
    software = ", ".join(f"{name} {version}" for name, version in versions.items())
    return (
        f"{machine['processor']}, {machine['cores']} cores, load {machine['load'][0]} at the start{environment}; "
        f"{software}; commit {record.get('commit')}; {record['started']}"
    )


def format_table(columns: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """Lay out a Markdown table that can also be read as it stands; floats get three digits, None a dash.

    Examples
    --------
    >>> print(format_table(["scene", "ARI"], [["a", 0.5], ["bcd", None]]))
    | scene | ARI   |
    |-------|-------|
    | a     | 0.500 |
    | bcd   | -     |
    """
    cells = [[str(column) for column in columns], *([_cell(value) for value in row] for row in rows)]
    widths = [max(len(row[i]) for row in cells) for i in range(len(columns))]
    lines = ["| " + " | ".join(text.ljust(w) for text, w in zip(row, widths, strict=True)) + " |" for row in cells]
    lines.insert(1, "|" + "|".join("-" * (w + 2) for w in widths) + "|")
    return "\n".join(lines)


def _cell(value: object) -> str:
    if value is None:
        return "-"
    return f"{value:.3f}" if isinstance(value, float) else str(value)


def _processor() -> str:
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text().splitlines() if cpuinfo.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()
