"""What each part of the preset `texture` brings: assignments with one part left out, scored pixel by pixel.

Parts are left out by putting something plainer in their place; the mask network, which only learns the assignments,
is not trained.
"""

from __future__ import annotations

import statistics
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import replace
from typing import Any
from unittest.mock import patch

import numpy as np

from benchmarks.quality.generated import assign_by
from benchmarks.quality.real import CLASSES as REAL
from benchmarks.quality.real import load_scene
from benchmarks.quality.scenes import RECIPES, Scene, make_scene
from benchmarks.report import begin_record, describe_run, format_table, parser, write_record
from ktex_model import Sample, TextureConfig
from ktex_model.texture import advice, assignment, bank, explanation, generators, starts, training
from ktex_model.texture.advice import assign_samples
from ktex_model.texture.assignment import Assigned, Cells, Moments, Trend, assign, fit_moments, upsample
from ktex_model.texture.bank import Bank
from ktex_model.texture.clustering import Ints
from ktex_model.texture.explanation import Explanation
from ktex_model.texture.features import Levels, Rotation
from ktex_model.texture.filters import Floats, pick
from pipeline.metrics import Contingency

QUICK_SCENES, QUICK_PX, FULL_PX = ("shared", "drift", "elongated"), 256, 512

Patch = tuple[Any, str, Any]


def without_trend(cells: Cells, labels: Ints, k: int) -> Trend:
    """Fit no trend."""
    return Trend(tuple(np.zeros((2, cells.features.shape[1]), np.float32) for _ in cells.masks))


def without_exchange(cells: Cells, start: Assigned, *_: object) -> tuple[Assigned, list[float]]:
    """Exchange no classes."""
    return start, []


def only(*names: str) -> Callable[..., Iterator[tuple[str, Ints]]]:
    """Return what proposes the starts of these names alone."""
    propose = starts.propose

    def some(*arguments: Any) -> Iterator[tuple[str, Ints]]:
        return (start for start in propose(*arguments) if start[0] in names)

    return some


def generated_alone(features: Floats, labels: Ints, k: int) -> Moments:
    """Fit moments to the latter half of what the loop measures, which is the simulated image."""
    half = len(labels) // 2
    twice = len(labels) % 2 == 0 and np.array_equal(labels[:half], labels[half:])
    return fit_moments(features[half:], labels[half:], k) if twice else fit_moments(features, labels, k)


def by_final_textures(
    bank_: Bank, cells: Cells, labels: Ints, rotation: Rotation, config: TextureConfig, seed: int
) -> Explanation:
    """Explain, and assign every pixel once more by what the final textures look like, and by nothing else."""
    found = explanation.explain(bank_, cells, labels, rotation, config, seed)
    classes = np.concatenate(
        [pick(laid, cells.stride)[mask] for laid, mask in zip(found.maps, cells.masks, strict=True)]
    )
    seen = explanation._generated(bank_, cells, found.maps, rotation, config, seed).seen
    return replace(found, maps=tuple(assign_by(seen, classes, cells, bank_, config)))


def on_cells(pixels: Cells, moments: Any, sight: Any) -> Ints:
    """Assign every second pixel along y and x, and give each the class of its 2 x 2 pixels."""
    if pixels.stride != 1:
        return assign(pixels, moments, sight)
    maps = []
    for mask, part in pixels.parts():
        every = np.zeros(mask.shape, bool)
        every[1::2, 1::2] = True
        few = Cells(pixels.features[part][every[mask]], (mask[1::2, 1::2],), 2)
        laid = upsample(few.maps(assign(few, moments, sight)), 2, [(mask.shape[0] + 1, mask.shape[1] + 1)])[0]
        maps.append(np.maximum(laid[: mask.shape[0], : mask.shape[1]], 0)[mask])
    return np.concatenate(maps)


def colours_alone(levels: Levels) -> Floats:
    """Describe pixels by their principal bands."""
    return levels.smooth[0]


VARIANTS: dict[str, tuple[dict[str, Any], list[Patch]]] = {
    "whole": ({}, []),
    "no waves among the features": ({}, [(bank, "describe", colours_alone)]),
    "start from colours alone": ({}, [(starts, "propose", only(starts.COLOURS))]),
    "start from textures alone": ({}, [(starts, "propose", only(starts.TEXTURES))]),
    "no preference for colours": ({}, [(starts, "jackknife_error", lambda _: 0.0)]),
    "no trend": ({}, [(assignment, "fit_trend", without_trend), (explanation, "fit_trend", without_trend)]),
    "no exchange": ({}, [(training, "exchange_classes", without_exchange)]),
    "no rounds at half the stride": ({"refine_rounds": 0}, []),
    "no textures in the loop": ({"texture_loops": 0}, []),
    "generated textures alone in the loop": ({}, [(explanation, "fit_moments", generated_alone)]),
    "assigned by the final textures alone": ({}, [(advice, "explain", by_final_textures)]),
    "textures fitted at borders too": ({}, [(generators, "PURE", -1.0)]),
    "borders on every second pixel": ({}, [(explanation, "assign", on_cells)]),
}
"""Settings that differ, and functions that are replaced: (module, name, replacement)."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run what the command line asks for."""
    options = parser("quality.ablation", __doc__)
    options.add_argument("--scenes", nargs="+", choices=[*RECIPES, *REAL], help=f"default made; quick {QUICK_SCENES}")
    options.add_argument("--variants", nargs="+", choices=list(VARIANTS), default=list(VARIANTS))
    options.add_argument("--seeds", type=int, nargs="+", default=[0])
    options.add_argument("--size-px", type=int, metavar="N", help=f"side of made scenes ({FULL_PX}; quick {QUICK_PX})")
    asked = options.parse_args(arguments)
    asked.scenes = asked.scenes or list(QUICK_SCENES if asked.quick else RECIPES)
    asked.size_px = asked.size_px or (QUICK_PX if asked.quick else FULL_PX)
    named = ("scenes", "variants", "seeds", "size_px", "quick")
    record = begin_record("quality.ablation", {name: getattr(asked, name) for name in named})
    record["runs"] = []
    for name in asked.scenes:
        scene = load_scene(name) if name in REAL else make_scene(name, asked.size_px)
        for variant in asked.variants:
            for seed in asked.seeds:
                ari = score_variant(scene, variant, seed)
                record["runs"].append({"scene": name, "variant": variant, "seed": seed, "ari": ari})
                print(f"{name}, {variant}, seed {seed}: ARI {ari:.3f}", file=sys.stderr, flush=True)
        write_record(asked.json, record)
    print(format_report(record))
    return 0


def score_variant(scene: Scene, variant: str, seed: int) -> float:
    """Return the ARI of the assignments, over the images of a scene, with one part left out."""
    changes, patches = VARIANTS[variant]
    samples = [Sample(image, valid) for image, valid in zip(scene.images, scene.valids, strict=True)]
    pixels = sum(valid.size for valid in scene.valids)
    config = TextureConfig(k=scene.k, bands=scene.images[0].shape[2], fit_px=max(1, pixels), **changes)
    with ExitStack() as stack:
        for module, name, plainer in patches:
            stack.enter_context(patch.object(module, name, plainer))
        found = assign_samples(samples, config, seed, simulate=True)
    counts = Contingency()
    for labels, truth in zip(found.labels, scene.truths, strict=True):
        counts.add(labels, truth)
    return float(counts.scores().ari)


def format_report(record: dict[str, Any]) -> str:
    """Return the mean ARI over seeds of each variant on each scene, and by how much it is less than the whole's."""
    runs, settings = record["runs"], record["settings"]

    def mean(scene: str, variant: str) -> float:
        return statistics.fmean(run["ari"] for run in runs if (run["scene"], run["variant"]) == (scene, variant))

    means = {variant: [mean(scene, variant) for scene in settings["scenes"]] for variant in settings["variants"]}
    whole = statistics.fmean(means.get("whole", [float("nan")]))
    rows = [[name, *found, statistics.fmean(found), statistics.fmean(found) - whole] for name, found in means.items()]
    table = format_table(["assignments", *settings["scenes"], "mean", "less the whole"], rows)
    return f"{table}\n\nARI, mean over seeds {settings['seeds']}. {describe_run(record)}"


if __name__ == "__main__":
    sys.exit(main())
