"""The catalogue: error rates of its matching against the threshold, time to attach, ids of three dates of one place."""

from __future__ import annotations

import json
import os
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.align.simulator import SCENARIOS
from benchmarks.catalogue.dates import APPLIED, WAYS, run_dates
from benchmarks.catalogue.rates import measure_rates, summarise
from benchmarks.catalogue.speed import measure_speed
from benchmarks.report import begin_record, describe_run, format_table, parser, write_record

SEEDS = (21, 22, 23, 24, 25)
SIDES = (1, 2, 8)
DATE_SEEDS = (0, 1, 2)
WATER_SETTINGS: dict[str, Any] = {"k": 6}
"""Of the runs of the three dates."""
NOTE = (
    "False match: a class that the catalogue never saw counted as one it knows, without doubt. False new: a known "
    "class given a new id. Wrong: matched to another class. Blocks: size of the run that attaches; shares are of "
    "classes, over seeds and hidden classes."
)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run what the command line asks for."""
    options = parser("catalogue", __doc__)
    options.add_argument("--seeds", type=int, nargs="+", metavar="S", help=f"seeds (quick {SEEDS[:2]}, else {SEEDS})")
    options.add_argument("--parts", nargs="+", choices=("rates", "speed", "dates"), help="default all; quick: no dates")
    options.add_argument("--ways", nargs="+", choices=(*WAYS, APPLIED), default=(*WAYS, APPLIED), help="of dates")
    options.add_argument("--data", type=Path, help="folder of naip-nd [$KTEX_DATA/naip-nd]")
    asked = options.parse_args(arguments)
    seeds = asked.seeds or list(SEEDS[:2] if asked.quick else SEEDS)
    parts = asked.parts or (["rates", "speed"] if asked.quick else ["rates", "speed", "dates"])
    record = begin_record("catalogue", {"quick": asked.quick, "seeds": seeds, "parts": parts, "water": WATER_SETTINGS})
    texts = []
    if "rates" in parts:
        record["rates"] = [
            run for name in SCENARIOS for side in SIDES for seed in seeds for run in measure_rates(name, seed, side)
        ]
        columns = ["scenario", "blocks", "quantile", "new", "false match", "of the alike", "known", "false new"]
        columns += ["wrong", "ambiguous"]
        texts.append(format_table(columns, summarise(record["rates"])) + f"\n\n{NOTE}")
        write_record(asked.json, record)
    if "speed" in parts:
        record["speed"] = found = measure_speed(30 if asked.quick else 100, seeds[0])
        texts.append(format_table(list(found), [[str(value) for value in found.values()]]))
        write_record(asked.json, record)
    if "dates" in parts:
        folder = asked.data or Path(os.environ.get("KTEX_DATA", "../shared/data")) / "naip-nd"
        record["dates"] = found_dates = list[dict[str, Any]]()
        for seed in DATE_SEEDS:
            for way in asked.ways:
                given = {**WATER_SETTINGS, "seed": seed, **WAYS.get(way, {})}
                with tempfile.TemporaryDirectory() as out:
                    found_dates.append(
                        {"way": way, "seed": seed} | run_dates(folder, Path(out), given, apply_first=way == APPLIED)
                    )
                write_record(asked.json, record)
        texts.append(dates_table(found_dates))
    text = "\n\n".join([*texts, f"Seeds {seeds}. {describe_run(record)}"])
    print(text)
    if asked.markdown:
        asked.markdown.write_text(text + "\n")
    return 0


def dates_table(found: Sequence[dict[str, Any]]) -> str:
    """Return one row for each way, seed and date."""
    rows = [
        [result["way"], result["seed"], each["date"], each["classes"], each["classes_effective"], str(each["new"]),
         json.dumps(each["water"]), result["one_id"]]
        for result in found
        for each in result["dates"]
    ]  # fmt: skip
    columns = ["way", "seed", "date", "classes", "effective", "new", "ids in water", "one id on all three"]
    return format_table(columns, rows)


if __name__ == "__main__":
    sys.exit(main())
