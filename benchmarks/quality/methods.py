"""The ways to label a scene that are compared; all know its number of classes and nothing of its truth."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.quality.features import Tuning, colours, gabor_energies, local_statistics
from benchmarks.quality.generated import Gap, compare_textures, label_by_textures
from benchmarks.quality.scenes import Field, Scene
from ktex_model.model import NO_CLASS

FIT_PX = 20_000
"""Pixels, drawn at random, that k-means and mixtures are fitted to; all pixels are then labelled."""

TUNING = Tuning()

AUTOENCODER_STEPS = 25
"""In which the preset `paper` trains its auto-encoder on the scene."""


@dataclass(frozen=True)
class Outcome:
    """Labels of each image ``(y, x)`` uint8, 255 where invalid; seconds from pixels to labels; what else was told.

    `explained` holds labels by the generated textures alone, where the method is one whose textures explain.
    """

    labels: tuple[NDArray[np.uint8], ...]
    seconds: float
    told: dict[str, Any] = field(default_factory=dict)
    explained: tuple[NDArray[np.uint8], ...] = ()


Method = Callable[[Scene, int], Outcome]


def list_methods(paper_epochs: int, paper_encoder: str | None = None) -> dict[str, Method]:
    """Return all methods by name, baselines first; `paper_encoder` is what `PaperConfig.autoencoder` is."""
    return {
        "k-means colour": lambda scene, seed: cluster(scene, seed, colours),
        "k-means texture": lambda scene, seed: cluster(scene, seed, _statistics),
        "GMM texture": lambda scene, seed: cluster(scene, seed, _statistics, _fit_mixture),
        "k-means Gabor": lambda scene, seed: cluster(scene, seed, lambda s: gabor_energies(s, TUNING)),
        "paper": lambda scene, seed: run_paper(scene, seed, paper_epochs, paper_encoder),
        "texture": run_texture,
    }


BASELINES = ("k-means colour", "k-means texture", "GMM texture", "k-means Gabor")


def cluster(
    scene: Scene,
    seed: int,
    describe: Callable[[Scene], list[Field]],
    fit: Callable[[Field, int, int], Any] | None = None,
) -> Outcome:
    """Cluster the features of pixels; by k-means unless `fit` says otherwise."""
    import sklearn.cluster
    import sklearn.mixture  # noqa: F401  the time to import is not the method's

    begun = time.perf_counter()
    parts = describe(scene)
    pixels = np.concatenate([part[valid] for part, valid in zip(parts, scene.valids, strict=True)])
    drawn = np.random.default_rng(seed).permutation(len(pixels))[:FIT_PX]
    model = (fit or _fit_kmeans)(pixels[drawn], scene.k, seed)
    labels = []
    for part, valid in zip(parts, scene.valids, strict=True):
        laid = np.full(valid.shape, NO_CLASS, np.uint8)
        laid[valid] = model.predict(part[valid])
        labels.append(laid)
    return Outcome(tuple(labels), time.perf_counter() - begun)


def run_texture(scene: Scene, seed: int) -> Outcome:
    """Train and apply the preset `texture` as it stands."""
    from ktex_model import TextureConfig

    return _run(scene, seed, TextureConfig(k=scene.k, bands=scene.images[0].shape[2]))


def run_paper(scene: Scene, seed: int, epochs: int, encoder: str | None = None) -> Outcome:
    """Train and apply the preset `paper` on a budget, without VGG-16; the scene trains the encoder if none is given."""
    from ktex_model import PaperConfig

    config = PaperConfig(
        k=scene.k,
        bands=scene.images[0].shape[2],
        imagenet_weights="none",
        autoencoder=encoder,
        epochs=epochs,
        autoencoder_steps=AUTOENCODER_STEPS,
        batch_tiles=8,
        recompute_statistics=True,
    )
    return _run(scene, seed, config)


def _run(scene: Scene, seed: int, config: Any) -> Outcome:
    import keras  # noqa: F401  the time to import is not the method's

    import ktex_model

    begun = time.perf_counter()
    samples = [ktex_model.Sample(image, valid) for image, valid in zip(scene.images, scene.valids, strict=True)]
    trained = ktex_model.train(samples, config, seed)
    fitted = time.perf_counter() - begun
    labels = tuple(trained.model.predict(sample.image, sample.valid).labels for sample in samples)
    seconds = time.perf_counter() - begun
    gaps, explained = list[Gap](), tuple[NDArray[np.uint8], ...]()
    if config.preset == "texture":
        model: Any = trained.model
        gaps = compare_textures(model, scene.images, labels, scene.k)
        explained = label_by_textures(model, scene.images, scene.valids, labels)
    told = {
        "training_seconds": fitted,
        "stop_reason": trained.history.stop_reason,
        "simulation_loss": trained.history.loss,
        "stages": [_without_lists(stage) for stage in trained.history.stages],
        "gaps": [vars(gap) for gap in gaps],
    }
    return Outcome(labels, seconds, told, explained)


def generator_agreement(outcome: Outcome) -> float | None:
    """Return the share of pixels that keep their class when assigned by the statistics of generated textures."""
    if not outcome.explained:
        return None
    pairs = list(zip(outcome.labels, outcome.explained, strict=True))
    same = sum(int(((one == other) & (one != NO_CLASS)).sum()) for one, other in pairs)
    return same / sum(int((one != NO_CLASS).sum()) for one, _ in pairs)


def covariance_gap(told: dict[str, Any]) -> float | None:
    """Return how far covariances of filter responses differ between generated and real textures, median of classes."""
    gaps = [gap["linear"] for gap in told.get("gaps", ())]
    return statistics.median(gaps) if gaps else None


def _statistics(scene: Scene) -> list[Field]:
    return local_statistics(scene, TUNING)


def _fit_kmeans(pixels: Field, k: int, seed: int) -> Any:
    from sklearn.cluster import KMeans

    return KMeans(k, n_init=5, random_state=seed).fit(pixels)


def _fit_mixture(pixels: Field, k: int, seed: int) -> Any:
    from sklearn.mixture import GaussianMixture

    return GaussianMixture(k, reg_covar=1e-4, max_iter=200, random_state=seed).fit(pixels.astype(np.float64))


def _without_lists(stage: dict[str, object]) -> dict[str, object]:
    return {name: value for name, value in stage.items() if isinstance(value, str | int | float)}
