"""Label maps of made and real scenes against their truth: presets beside clustering without a model.

Made scenes are one draw each; seeds are those of the methods. Real scenes are skipped where their folder is absent.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.quality.methods import Outcome, covariance_gap, generator_agreement, list_methods
from benchmarks.quality.real import CLASSES as REAL
from benchmarks.quality.real import load_scene
from benchmarks.quality.scenes import RECIPES, Scene, make_scene
from benchmarks.quality.tables import block_tables, compare, format_report
from benchmarks.report import begin_record, describe_run, parser, write_record
from benchmarks.scores import add_boundaries, count_boundaries, majority_accuracy
from ktex_model.model import NO_CLASS
from pipeline.coherence import Pairs
from pipeline.metrics import Contingency, effective_classes

QUICK_SCENES = ("shared", "drift", "elongated")
QUICK_PX, FULL_PX = 256, 512
TOLERANCE_PX = 3.0


def main(arguments: Sequence[str] | None = None) -> int:
    """Run what the command line asks for."""
    asked = _ask(arguments)
    record = begin_record("quality", {name: value for name, value in vars(asked).items() if name not in _FILES})
    earlier = read_earlier(asked)
    record["runs"], record["skipped"], record["differences"] = earlier_runs(earlier, asked), [], []
    record["beside"] = [describe_run(each) for each in earlier]
    methods = {
        name: run
        for name, run in list_methods(asked.paper_epochs, asked.paper_encoder).items()
        if name in asked.methods
    }
    for name in asked.scenes if methods else ():
        try:
            scene = load_scene(name) if name in REAL else make_scene(name, asked.size_px, asked.scene_seed)
        except FileNotFoundError as error:
            print(f"{name}: skipped, {error}", file=sys.stderr, flush=True)
            record["skipped"].append({"scene": name, "why": str(error)})
            continue
        for seed in asked.seeds:
            for method, run in methods.items():
                outcome = run(scene, seed)
                figures = score(scene, outcome)
                blocks = block_tables(scene, outcome.labels).tolist()
                run_of = {"scene": name, "method": method, "seed": seed}
                record["runs"].append({**run_of, **figures, "told": outcome.told, "blocks": blocks})
                print(
                    f"{name} {method} seed {seed}: ARI {figures['ari']:.3f}, {outcome.seconds:.1f} s", file=sys.stderr
                )
        write_record(asked.json, record)
    record["differences"] = compare(record["runs"])
    write_record(asked.json, record)
    text = format_report(record)
    print(text)
    if asked.markdown:
        asked.markdown.write_text(text + "\n")
    return 0


def read_earlier(asked: argparse.Namespace) -> list[dict[str, Any]]:
    """Return the records ``--beside``.

    Raises
    ------
    ValueError
        One is of scenes of another size or draw.
    """
    records = []
    for path in asked.beside:
        record: dict[str, Any] = json.loads(path.read_text())
        for name in ("size_px", "scene_seed"):
            if record["settings"][name] != getattr(asked, name):
                raise ValueError(
                    f"{path}: {name} must be {getattr(asked, name)} as here; got {record['settings'][name]}"
                )
        records.append(record)
    return records


def earlier_runs(records: Sequence[dict[str, Any]], asked: argparse.Namespace) -> list[dict[str, Any]]:
    """Return the runs of earlier records on these scenes, by methods that are not run now; the first record counts."""
    runs = {
        (run["scene"], run["method"], run["seed"]): run
        for record in reversed(records)
        for run in record["runs"]
        if run["scene"] in asked.scenes and run["method"] not in asked.methods
    }
    return list(runs.values())


def score(scene: Scene, outcome: Outcome) -> dict[str, float | None]:
    """Return all scores of the labels of a scene, over all of its images."""
    counts = _count(outcome.labels, scene)
    found = counts.scores()
    pairs = Pairs(nodata=NO_CLASS)
    for labels in outcome.labels:
        pairs.add(labels)
    used = sum(np.bincount(labels[labels != NO_CLASS], minlength=NO_CLASS) for labels in outcome.labels)
    edges = [
        count_boundaries(labels, truth, TOLERANCE_PX)
        for labels, truth in zip(outcome.labels, scene.truths, strict=True)
    ]
    return {
        "ari": found.ari,
        "ami": found.ami,
        "accuracy": found.accuracy,
        "majority": float(majority_accuracy(counts.table)),
        "boundary_f": add_boundaries(edges).f_score,
        "classes_effective": effective_classes(used),
        "score": pairs.score(),
        "seconds": outcome.seconds,
        "generator_agreement": generator_agreement(outcome),
        "generator_ari": _count(outcome.explained, scene).scores().ari if outcome.explained else None,
        "covariance_gap": covariance_gap(outcome.told),
    }


def _count(maps: Sequence[NDArray[np.uint8]], scene: Scene) -> Contingency:
    counts = Contingency()
    for labels, truth in zip(maps, scene.truths, strict=True):
        counts.add(labels, truth)
    return counts


_FILES = ("json", "markdown", "beside")


def _ask(arguments: Sequence[str] | None) -> argparse.Namespace:
    """Read the command line; what was not given depends on ``--quick``."""
    names = tuple(list_methods(1))
    options = parser("quality", __doc__)
    options.add_argument("--seeds", type=int, nargs="+", metavar="S", help="of the methods (0 to 4; quick 0)")
    options.add_argument("--scenes", nargs="+", choices=[*RECIPES, *REAL], help=f"default all; quick {QUICK_SCENES}")
    options.add_argument(
        "--methods", nargs="*", choices=names, help="default all; quick all but paper; none: join earlier records"
    )
    options.add_argument("--size-px", type=int, metavar="N", help=f"side of made scenes ({FULL_PX}; quick {QUICK_PX})")
    options.add_argument("--scene-seed", type=int, default=0, metavar="S", help="what made scenes are drawn from (0)")
    options.add_argument(
        "--beside", type=Path, nargs="+", default=[], metavar="FILE", help="earlier records, whose runs join the tables"
    )
    options.add_argument("--paper-epochs", type=int, default=4, metavar="N", help="passes of preset paper (4)")
    options.add_argument("--paper-encoder", metavar="DIR", help="of preset paper, or `shipped` (the scene's own)")
    asked = options.parse_args(arguments)
    asked.seeds = asked.seeds or ([0] if asked.quick else [0, 1, 2, 3, 4])
    asked.scenes = asked.scenes or list(QUICK_SCENES if asked.quick else [*RECIPES, *REAL])
    if asked.methods is None:
        asked.methods = [name for name in names if not (asked.quick and name == "paper")]
    asked.size_px = asked.size_px or (QUICK_PX if asked.quick else FULL_PX)
    return asked


if __name__ == "__main__":
    sys.exit(main())
