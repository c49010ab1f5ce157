"""Tune the texture statistics of the baselines, with the truth, on draws of the made scenes that are not scored.

`python -m benchmarks.quality.tune` prints the mean ARI of k-means for each setting; the best are the defaults of
`features.Tuning`.
"""

from __future__ import annotations

import argparse
import itertools
import statistics
import sys
from collections.abc import Sequence

from benchmarks.quality.features import Tuning, gabor_energies, local_statistics
from benchmarks.quality.methods import cluster
from benchmarks.quality.scenes import RECIPES, make_scene
from benchmarks.report import format_table
from pipeline.metrics import truth_scores

SCENE_SEED = 100
GRID = ((3.0, 4.0, 6.0, 8.0), (1.0, 2.0, 3.0, 4.0), (0, 8))
"""Windows in pixels, weights of the colours, and principal components that are whitened."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run what the command line asks for."""
    options = argparse.ArgumentParser(prog="python -m benchmarks.quality.tune", description=__doc__)
    options.add_argument("--size-px", type=int, default=320, metavar="N", help="side of the scenes (320)")
    options.add_argument("--gabor", action="store_true", help="the Gabor energies instead of the local statistics")
    asked = options.parse_args(arguments)
    describe = gabor_energies if asked.gabor else local_statistics
    scenes = [make_scene(name, asked.size_px, SCENE_SEED) for name in RECIPES]
    rows = []
    for window_px, weight, whiten in itertools.product(*GRID):
        tuning = Tuning(window_px, weight, whiten)
        found = [cluster(scene, 0, lambda s, t=tuning: describe(s, t)) for scene in scenes]
        ari = [truth_scores(o.labels[0], scene.truths[0]).ari for o, scene in zip(found, scenes, strict=True)]
        rows.append([window_px, weight, whiten, statistics.fmean(ari), min(ari)])
        print(f"{tuning}: {rows[-1][3]:.3f}", file=sys.stderr, flush=True)
    rows.sort(key=lambda row: -row[3])
    print(format_table(["window px", "colour weight", "whitened", "mean ARI", "least"], rows))
    return 0


if __name__ == "__main__":
    sys.exit(main())
