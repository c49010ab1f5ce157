"""Make reports of published maps of several sizes, each in a process of its own, and print what they took."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.page.made import make_published
from benchmarks.report import begin_record, describe_run, format_table, parser, write_record

SIDES = (2500, 5000, 10_000)
QUICK = (1250, 2500)
CHILD = """
import json, sys, time
from pathlib import Path
from benchmarks.report import read_peak_mib
from pipeline.report import remake_report
base = read_peak_mib()
start, cpu = time.perf_counter(), time.process_time()
path, reason = remake_report(Path(sys.argv[1]))
print(json.dumps({
    "seconds": time.perf_counter() - start, "cpu_seconds": time.process_time() - cpu, "base_rss_mib": base,
    "peak_rss_mib": read_peak_mib(),
    "page_bytes": path.stat().st_size, "reason": reason,
}))
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run what the command line asks for."""
    options = parser("page", __doc__ or "")
    options.add_argument("--classes", type=int, default=24, metavar="N", help="classes of the map")
    asked = options.parse_args(arguments)
    sides = QUICK if asked.quick else SIDES
    record = begin_record("page", {"sides": sides, "classes": asked.classes})
    record["figures"] = []
    for side in sides:
        with tempfile.TemporaryDirectory() as folder:
            make_published(Path(folder), side, asked.classes, seed=0)
            record["figures"].append({"side": side, **measure(Path(folder) / "run")})
    print(describe_run(record))
    table = tabulate(record["figures"])
    print(f"\n{table}")
    if asked.markdown is not None:
        asked.markdown.write_text(table + "\n")
    write_record(asked.json, record)
    return 0


def measure(run: Path) -> dict[str, Any]:
    """Make the report of a run in a process of its own; the imagery is hashed again on the way."""
    command = [sys.executable, "-c", CHILD, str(run)]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    if found["reason"]:
        raise RuntimeError(found["reason"])
    return found


def tabulate(figures: Sequence[dict[str, Any]]) -> str:
    """Lay out the figures."""
    rows = [
        [
            f"{each['side'] ** 2 / 1e6:.1f}",
            f"{each['seconds']:.1f}",
            f"{each['cpu_seconds']:.1f}",
            round(each["peak_rss_mib"] - each["base_rss_mib"]),
            f"{each['page_bytes'] / 1e6:.1f}",
        ]
        for each in figures
    ]
    return format_table(["Mpx", "wall s", "CPU s", "MiB over imports", "page MB"], rows)


if __name__ == "__main__":
    sys.exit(main())
