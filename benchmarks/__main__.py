"""Run the benchmarks one after the other, each in a process of its own.

One that fails does not keep the others from running; the exit code then is 1.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from benchmarks import BENCHMARKS
from benchmarks.report import write_record


def main(arguments: Sequence[str] | None = None) -> int:
    """Run what the command line asks for."""
    import argparse

    listed = "; ".join(f"{name}: {purpose}" for name, purpose in BENCHMARKS.items())
    options = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__, epilog=listed)
    options.add_argument("--quick", action="store_true", help="the small version of each")
    options.add_argument("--json", type=Path, metavar="FILE", help="write the records of all, by name")
    options.add_argument("names", nargs="*", metavar="NAME", help=f"which to run: {', '.join(BENCHMARKS)}; default all")
    asked = options.parse_args(arguments)
    unknown = sorted(set(asked.names) - set(BENCHMARKS))
    if unknown:
        options.error(f"no benchmark is called {unknown[0]}; there are {', '.join(BENCHMARKS)}")
    records, failed = {}, []
    with tempfile.TemporaryDirectory() as folder:
        for name in asked.names or BENCHMARKS:
            print(f"\n# {name}: {BENCHMARKS[name]}\n", flush=True)
            path = Path(folder) / f"{name}.json"
            command = [sys.executable, "-m", f"benchmarks.{name}", "--json", str(path)]
            done = subprocess.run(command + ["--quick"] * asked.quick, check=False)
            if path.exists():
                records[name] = json.loads(path.read_text())
            if done.returncode:
                failed.append(name)
    write_record(asked.json, records)
    if failed:
        print(f"failed: {', '.join(failed)}", file=sys.stderr)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
