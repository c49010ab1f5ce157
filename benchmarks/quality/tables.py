"""What the runs add up to: means over seeds, differences with their intervals, and the report."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.stats import spearmanr

from benchmarks.quality.methods import AUTOENCODER_STEPS, BASELINES
from benchmarks.quality.real import CLASSES as REAL
from benchmarks.quality.scenes import RECIPES, Scene
from benchmarks.report import describe_run, format_table
from benchmarks.scores import Measure, adjusted_rand, bootstrap_difference, majority_accuracy
from ktex_model.model import NO_CLASS

SCORES = ("ari", "ami", "accuracy", "majority", "boundary_f", "classes_effective", "seconds")
TITLES = ("ARI", "AMI", "Hungarian", "majority", "boundary F", "effective", "seconds")
BLOCKS_A_SIDE = 4

NOTE = (
    "Mean over seeds; of ARI also (standard deviation of the sample) [least]. Boundary F: boundaries within 3 px of "
    "each other. Effective: exp(entropy) of the shares of labels. Texture statistics of the baselines were tuned with "
    "the truth of other draws of the made scenes; real labels of under 1 % of the pixels are not scored. "
    "Differences: paired bootstrap over seeds and image blocks (a 4 x 4 division of the smallest image's sides), 95 %."
)

Runs = Sequence[Mapping[str, Any]]


def block_tables(scene: Scene, labels: Sequence[NDArray[np.uint8]]) -> NDArray[np.int64]:
    """Count ``(block, label, true class)`` of the scored pixels; blocks are a quarter of an image's shorter side."""
    side = max(1, min(min(truth.shape) for truth in scene.truths) // BLOCKS_A_SIDE)
    tables = []
    for drawn, truth in zip(labels, scene.truths, strict=True):
        for y in range(0, truth.shape[0], side):
            for x in range(0, truth.shape[1], side):
                part = slice(y, y + side), slice(x, x + side)
                both = (truth[part] != NO_CLASS) & (drawn[part] != NO_CLASS)
                cells = drawn[part][both].astype(np.int64) * 256 + truth[part][both]
                tables.append(np.bincount(cells, minlength=256 * 256).reshape(256, 256)[: scene.k])
    stacked = np.stack(tables)
    return stacked[..., stacked.any((0, 1))]


MEASURES: Mapping[str, Measure] = {"ari": adjusted_rand, "majority": majority_accuracy}
"""The scores whose differences are told with their intervals."""


def compare(runs: Runs) -> list[dict[str, Any]]:
    """Return how much higher ARI and majority accuracy of `texture` are than those of baselines.

    On each scene the other is the baseline that is best there, and the one that is best on average over the made or
    the real scenes; on averages it is the latter, and the best of each scene. Nothing where `texture` or all baselines
    were not run.
    """
    return [row for score in MEASURES for group in ("made", "real") for row in _compare_group(runs, score, group)]


def _compare_group(runs: Runs, score: str, group: str) -> list[dict[str, Any]]:
    names = (made_of if group == "made" else real_of)(_names(runs, "scene"))
    names = [name for name in names if _blocks(runs, name, "texture")]
    present = [name for name in BASELINES if names and all(_blocks(runs, scene, name) for scene in names)]
    if not present:
        return []
    overall = max(present, key=lambda name: _mean(runs, names, name, score))
    rows, there, everywhere = [], [], []
    for scene in names:
        best = max(present, key=lambda name: mean_of(runs, scene, name, score))
        drawn = {
            name: bootstrap_difference(_blocks(runs, scene, "texture"), _blocks(runs, scene, name), MEASURES[score])
            for name in (best, overall)
        }
        rows += [_difference(runs, score, scene, [scene], name, drawn[name]) for name in drawn]
        there.append(drawn[best])
        everywhere.append(drawn[overall])
    if len(names) > 1:
        means = [mean_of(runs, name, "texture", score) for name in names]
        bests = [max(mean_of(runs, name, other, score) for other in present) for name in names]
        rows.append(_difference(runs, score, f"{group}, mean", names, overall, np.mean(everywhere, axis=0)))
        low, high = np.percentile(np.mean(there, axis=0), [2.5, 97.5])
        gain = statistics.fmean(means) - statistics.fmean(bests)
        best_each = {"score": score, "scene": f"{group}, mean", "baseline": "best of each scene", "difference": gain}
        rows.append(best_each | {"low": float(low), "high": float(high)})
    return rows


def format_report(record: Mapping[str, Any]) -> str:
    """Return all tables of a record as Markdown."""
    runs = record["runs"]
    scenes = [name for name in (*RECIPES, *REAL) if name in _names(runs, "scene")]
    methods = [name for name in (*BASELINES, "paper", "texture") if name in _names(runs, "method")]
    parts = []
    for title, names in (("Made scenes", made_of(scenes)), ("Real scenes", real_of(scenes))):
        if names:
            rows = [[method, *(_mean(runs, names, method, score) for score in SCORES)] for method in methods]
            parts += [f"### {title}, mean of {len(names)}", format_table(["method", *TITLES], rows)]
    parts += [*_difficulty(runs, made_of(scenes)), *_differences(record["differences"])]
    rows = [[scene, method, *_row(runs, scene, method)] for scene in scenes for method in methods]
    parts += ["### Each scene", format_table(["scene", "method", *TITLES], rows)]
    parts += _ranks(runs, scenes)
    if "texture" in methods:
        parts += ["### Without labels", _WITHOUT, format_table(_GENERATED, _generated(runs, scenes))]
    settings = record["settings"]
    budget = f"{settings['paper_epochs']} of 10,240 passes, no VGG-16, auto-encoder of {AUTOENCODER_STEPS} steps"
    paper = f", paper {budget}" if "paper" in methods else ""
    told = f"Seeds {settings['seeds']}, scene seed {settings['scene_seed']}, {settings['size_px']} px{paper}."
    skipped = [f"{skip['scene']}: skipped, {skip['why']}" for skip in record["skipped"]]
    beside = [f"Joined from an earlier run: {told}" for told in record.get("beside", ())]
    return "\n\n".join([*parts, *skipped, NOTE, *beside, f"{told} {describe_run(record)}"])


def made_of(names: Sequence[str]) -> list[str]:
    """Return the made scenes among `names`."""
    return [name for name in names if name not in REAL]


def real_of(names: Sequence[str]) -> list[str]:
    """Return the real scenes among `names`."""
    return [name for name in names if name in REAL]


def mean_of(runs: Runs, scene: str, method: str, score: str) -> float:
    """Return the mean of a score over seeds."""
    return statistics.fmean(_values(runs, scene, method, score))


_WITHOUT = (
    "Of `texture`. Agreement: share of pixels that keep their published class when assigned by the statistics of "
    "generated textures alone; by textures: ARI of that map, the difference to the published one beside it (mean, and "
    "least over seeds). Covariances: of the responses of 24 filters of 5 px on each band, which training does not use, "
    "of generated against real textures, relative difference in Frobenius norm, median over classes and seeds; beside "
    "it that of the responses' magnitudes, and that of the two halves of the real pixels."
)

_GENERATED = [
    "scene",
    "agreement",
    "least",
    "by textures",
    "less published",
    "least",
    "covariances",
    "of magnitudes",
    "real, two halves",
]


def _generated(runs: Runs, scenes: Sequence[str]) -> list[list[object]]:
    rows = []
    for title, names in [*((scene, [scene]) for scene in scenes), ("made, all classes", made_of(scenes))]:
        drawn = [run for run in runs if run["scene"] in names and run["method"] == "texture"]
        if not drawn:
            continue
        gaps = [gap for run in drawn for gap in run["told"]["gaps"]]
        medians = [statistics.median(gap[n] for gap in gaps) for n in ("linear", "magnitude", "halves")] if gaps else []
        agree, ari = ([run[name] for run in drawn] for name in ("generator_agreement", "generator_ari"))
        gains = [run["generator_ari"] - run["ari"] for run in drawn]
        told = [statistics.fmean(agree), min(agree), statistics.fmean(ari), statistics.fmean(gains), min(gains)]
        rows.append([title, *told, *medians])
    return rows


def _difficulty(runs: Runs, names: list[str]) -> list[str]:
    limits = (("k-means colour", 0.0, 0.45), ("k-means texture", 0.5, 0.85))
    if not names or not all(method in _names(runs, "method") for method, _, _ in limits):
        return []
    found = [(method, low, high, _mean(runs, names, method, "ari")) for method, low, high in limits]
    told = [
        f"{m} {mean:.3f} ({low} to {high}: {'yes' if low <= mean <= high else 'NO'})" for m, low, high, mean in found
    ]
    return [f"Difficulty of the made scenes, mean ARI: {'; '.join(told)}."]


def _differences(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    if not rows:
        return []
    parts = []
    for score, title in (("ari", "ARI"), ("majority", "Majority accuracy")):
        laid = [
            [row["scene"], row["baseline"], row["difference"], f"{row['low']:.3f} to {row['high']:.3f}"]
            for row in rows
            if row["score"] == score
        ]
        table = format_table(["scene", "baseline", "difference", "95 %"], laid)
        parts += [f"### {title} of texture less a baseline's", table]
    return parts


def _difference(
    runs: Runs, score: str, title: str, names: Sequence[str], baseline: str, drawn: NDArray[np.float64]
) -> dict[str, Any]:
    gain = _mean(runs, names, "texture", score) - _mean(runs, names, baseline, score)
    low, high = np.percentile(drawn, [2.5, 97.5])
    told = {"score": score, "scene": title, "baseline": baseline, "difference": gain}
    return told | {"low": float(low), "high": float(high)}


_RANKED = ["scene", "maps", "with ARI", "with majority", "with ARI, means of methods", "ARI of the best", "best ARI"]


def _ranks(runs: Runs, scenes: Sequence[str]) -> list[str]:
    """Return how the score without labels ranks all maps of a scene, beside how the truth ranks them."""
    rows = []
    for scene in scenes:
        maps = [run for run in runs if run["scene"] == scene and run.get("score") is not None]
        methods = _names(maps, "method")
        if len(methods) < 3:
            continue
        score, ari, majority = (np.array([run[name] for run in maps]) for name in ("score", "ari", "majority"))
        means = [[mean_of(maps, scene, method, name) for method in methods] for name in ("score", "ari")]
        found = [float(spearmanr(*pair).statistic) for pair in ((score, ari), (score, majority), means)]
        rows.append([scene, len(maps), *found, float(ari[score.argmax()]), float(ari.max())])
    if not rows:
        return []
    rows.append(["mean", "", *(statistics.fmean(row[i] for row in rows) for i in range(2, len(_RANKED)))])
    return ["### Does the score rank as the truth does?", _RANKS, format_table(_RANKED, rows)]


_RANKS = (
    "Spearman correlation of the score without labels (`metrics.score` of `run.json`) with ARI and majority accuracy, "
    "over the maps of all methods and seeds; last the ARI of the map of the highest score, and the highest ARI."
)


def _row(runs: Runs, scene: str, method: str) -> list[object]:
    ari = _values(runs, scene, method, "ari")
    std = statistics.stdev(ari) if len(ari) > 1 else 0.0
    first = f"{statistics.fmean(ari):.3f} ({std:.3f}) [{min(ari):.3f}]"
    return [first, *(mean_of(runs, scene, method, score) for score in SCORES[1:])]


def _mean(runs: Runs, scenes: Sequence[str], method: str, score: str) -> float:
    return statistics.fmean(mean_of(runs, scene, method, score) for scene in scenes)


def _values(runs: Runs, scene: str, method: str, score: str) -> list[float]:
    return [run[score] for run in runs if run["scene"] == scene and run["method"] == method]


def _blocks(runs: Runs, scene: str, method: str) -> list[NDArray[np.int64]]:
    return [np.array(run["blocks"]) for run in runs if run["scene"] == scene and run["method"] == method]


def _names(runs: Runs, key: str) -> list[str]:
    return list(dict.fromkeys(run[key] for run in runs))
