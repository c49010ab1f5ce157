"""Training of the preset `paper`: one Adam step per pass over all tiles, and the weights of the lowest loss kept."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np
from keras import ops
from numpy.typing import NDArray

from ktex_model import extractors
from ktex_model.model import History, Progress, Samples, Trained
from ktex_model.paper.config import PaperConfig
from ktex_model.paper.model import PaperModel
from ktex_model.paper.networks import CROP_PX, Discretisation, Generators, MaskNetwork, assign_tensors, read_tensors
from ktex_model.paper.steps import step_tensors
from ktex_model.paper.tiles import BORDER_PX, OUT_PX, Tiles, cut_tiles

STATISTICS_DRAWS = 16


@dataclass(frozen=True)
class FrozenFeatures:
    """One part of the loss: a frozen network on some bands, and the features of the tiles to be simulated.

    Attributes
    ----------
    name
        ``imagenet`` or ``planet``.
    network
        ``(n, 128, 128, len(bands))`` to features.
    bands
        What the network sees, in its order.
    targets
        Features of all tiles, computed once.
    """

    name: str
    network: keras.Model
    bands: tuple[int, ...]
    targets: NDArray[np.float32]


class Simulator(keras.Model):  # type: ignore[misc]
    """Tiles to simulated tiles, with the loss in the frozen networks' features.

    Parameters
    ----------
    share
        Factor of the loss, by which tiles that only fill up a batch are taken out of the mean.
    """

    def __init__(self, config: PaperConfig, seed: int, features: Sequence[FrozenFeatures], share: float = 1.0) -> None:
        super().__init__()
        seeds = np.random.SeedSequence(seed).generate_state(2).tolist()
        self.mask = MaskNetwork(config.bands, config.momentum, seeds[0])
        self.discretisation = Discretisation(config.k)
        assign_tensors(self.discretisation.step, step_tensors(config.k))
        self.generators = Generators(config.k, config.bands, config.momentum, seeds[1])
        self.extractors = [part.network for part in features]
        self.parts = [(part.name, part.bands) for part in features]
        self.part_losses = [keras.metrics.Mean(name=part.name) for part in features]
        self.share = share
        self.built = True

    def call(self, inputs: dict[str, Any], training: bool = False) -> Any:
        """Simulate ``(n, 128, 128, band)``: the sum over k of mask times texture."""
        masks = self.discretisation(self.mask(inputs["tiles"], inputs["valid"], training=training))
        textures = self.generators(inputs["noise"], training=training)
        return ops.einsum("nyxk,kyxb->nyxb", masks, textures)

    def compute_loss(
        self,
        x: Any = None,
        y: Any = None,
        y_pred: Any = None,
        sample_weight: Any = None,
        training: bool = True,
    ) -> Any:
        """Sum of the mean squared differences of features.

        Where a pixel is invalid, the simulated tile takes the value of the original, so that nothing is learnt there.
        """
        inner = slice(BORDER_PX, -BORDER_PX)
        valid = ops.expand_dims(x["valid"][:, inner, inner], -1)
        seen = ops.where(valid, y_pred, x["tiles"][:, inner, inner])
        total = 0.0
        for extractor, (name, bands), tracker in zip(self.extractors, self.parts, self.part_losses, strict=True):
            found = extractor(ops.take(seen, np.array(bands), axis=-1), training=False)
            loss = self.share * ops.mean(ops.square(found - x[name]))
            tracker.update_state(loss)
            total = total + loss
        return total

    def learnt_tensors(self) -> dict[str, NDArray[np.float32]]:
        """Copy the weights that training changes, batch statistics included."""
        return {**read_tensors(self.mask), **read_tensors(self.generators)}

    def assign_learnt(self, tensors: dict[str, NDArray[np.float32]]) -> None:
        """Set the weights that training changes."""
        assign_tensors(self.mask, tensors)
        assign_tensors(self.generators, tensors)


def train(samples: Samples, config: PaperConfig, seed: int = 0, progress: Progress | None = None) -> Trained:
    """Train the model of Wagner et al. 2022 on samples; see `ktex_model.train`.

    Raises
    ------
    ValueError
        If the samples do not fit the config, hold no valid pixel, or an extractor is not to be had.
    """
    started = time.monotonic()
    tiles = cut_tiles(samples, config.bands)
    features, stages = _frozen_features(samples, tiles, config, seed)
    begun = time.monotonic()
    batches, share = _batches(tiles, features, config.batch_tiles)
    simulator = Simulator(config, seed, features, share)
    simulator.compile(
        keras.optimizers.Adam(
            config.learning_rate,
            clipnorm=config.clipnorm,
            gradient_accumulation_steps=len(batches) if len(batches) > 1 else None,
        ),
        jit_compile=keras.backend.backend() == "jax",
    )
    best, losses, parts, reason = _descend(simulator, batches, config, seed, progress)
    simulator.assign_learnt(best)
    if config.recompute_statistics:
        _recompute_statistics(simulator, batches, seed)
    lowest = int(np.argmin(losses))
    stages.append(
        {
            "name": "joint",
            "seconds": time.monotonic() - begun,
            "steps": len(losses),
            "tiles": len(tiles),
            "losses": losses,
            **{f"losses_{name}": values for name, values in parts.items()},
            "best_step": lowest,
            "statistics_recomputed": config.recompute_statistics,
        }
    )
    tensors = {**simulator.learnt_tensors(), **read_tensors(simulator.discretisation.step), "fill": tiles.fill}
    history = History("paper", reason, time.monotonic() - started, losses[lowest], tuple(stages))
    return Trained(PaperModel.from_tensors(config, tensors), history)


def _frozen_features(
    samples: Samples, tiles: Tiles, config: PaperConfig, seed: int
) -> tuple[list[FrozenFeatures], list[dict[str, object]]]:
    """Return the parts of the loss, and the stages of training that tell where they come from."""
    parts: list[tuple[extractors.Extractor, tuple[int, ...]]] = []
    stages: list[dict[str, object]] = []
    if config.rgb is not None and config.uses_imagenet:
        extractor = extractors.imagenet(config.imagenet_weights)
        source = "Keras" if config.imagenet_weights == "keras" else config.imagenet_weights
        parts.append((extractor, config.rgb))
        stages.append(_stage("imagenet extractor", 0.0, 0, source=source))
    else:
        why = "no red, green and blue" if config.rgb is None else "imagenet_weights is none"
        stages.append(_stage("imagenet extractor", 0.0, 0, source=f"off: {why}; the loss has its planet part only"))
    begun = time.monotonic()
    losses: list[float] = []
    if config.autoencoder is None:
        planet, losses = extractors.train_autoencoder(
            samples, config.bands, seed, config.autoencoder_steps, width=config.autoencoder_width
        )
        source = "trained on the samples of this model"
    else:
        planet, source = extractors.load(config.autoencoder), config.autoencoder
        if planet.bands != config.bands:
            raise ValueError(f"`autoencoder` must see {config.bands} bands; {source} sees {planet.bands}")
    parts.append((planet, tuple(range(config.bands))))
    stages.append(_stage("planet extractor", time.monotonic() - begun, len(losses), source=source, losses=losses))
    begun = time.monotonic()
    features = []
    for extractor, bands in parts:
        network = extractor.build()
        targets = extractors.compute_features(network, tiles.core_images[..., list(bands)])
        features.append(FrozenFeatures(extractor.name, network, bands, targets))
    stages.append(_stage("target features", time.monotonic() - begun, len(tiles)))
    return features, stages


def _stage(name: str, seconds: float, steps: int, **more: object) -> dict[str, object]:
    return {"name": name, "seconds": seconds, "steps": steps, **more}


def _batches(
    tiles: Tiles, features: Sequence[FrozenFeatures], batch_tiles: int | None
) -> tuple[list[dict[str, Any]], float]:
    """Return the batches of one pass, all of one size, and the factor that makes the sum of their losses the mean.

    The last one is filled up with invalid tiles, which add nothing to the loss or to batch statistics.
    """
    size = min(batch_tiles or len(tiles), len(tiles))
    count = -(-len(tiles) // size)
    spare = count * size - len(tiles)
    arrays = {"tiles": tiles.images, "valid": tiles.valid} | {part.name: part.targets for part in features}
    filled = {name: np.concatenate([array, np.zeros_like(array[:spare])]) for name, array in arrays.items()}
    if spare:
        # Targets of a tile without valid pixels are its own features: the difference is exactly zero.
        filled["tiles"][-spare:] = tiles.images[:spare]
        for part in features:
            filled[part.name][-spare:] = part.targets[:spare]
    batches = [
        {name: ops.convert_to_tensor(array[start : start + size]) for name, array in filled.items()}
        for start in range(0, count * size, size)
    ]
    return batches, count * size / len(tiles)


def _descend(
    simulator: Simulator, batches: list[dict[str, Any]], config: PaperConfig, seed: int, progress: Progress | None
) -> tuple[dict[str, NDArray[np.float32]], list[float], dict[str, list[float]], str]:
    """Run the epochs; return the weights at the lowest loss, the losses, their parts, and why it stopped.

    A loss belongs to the weights before its step, and it is those that are kept.
    """
    rng = np.random.default_rng(np.random.SeedSequence([seed, 1]))
    best: dict[str, NDArray[np.float32]] = {}
    losses: list[float] = []
    parts: dict[str, list[float]] = {f"{name}": [] for name, _ in simulator.parts}
    lowest = 0
    for epoch in range(config.epochs):
        before = simulator.learnt_tensors()
        noise = ops.convert_to_tensor(draw_noise(rng, (OUT_PX, OUT_PX)))
        simulator.reset_metrics()
        for batch in batches:
            logs = simulator.train_on_batch({**batch, "noise": noise}, return_dict=True)
        losses.append(float(logs["loss"]))
        for name, values in parts.items():
            values.append(float(logs[name]))
        if not np.isfinite(losses[-1]):
            raise FloatingPointError(f"the loss must stay finite; got {losses[-1]} in epoch {epoch + 1}")
        if losses[-1] < losses[lowest] or epoch == 0:
            best, lowest = before, epoch
        if progress is not None:
            progress(epoch + 1, config.epochs, losses[-1])
        if config.patience is not None and epoch - lowest >= config.patience:
            return best, losses, parts, f"no lower loss in {config.patience} epochs, after {epoch + 1}"
    return best, losses, parts, f"all {config.epochs} epochs were run"


def draw_noise(rng: np.random.Generator, shape: tuple[int, int]) -> NDArray[np.float32]:
    """Draw what the generators need for textures of `shape`: ``(1, y + 16, x + 16, 1)`` normal noise."""
    return rng.standard_normal((1, shape[0] + 2 * CROP_PX, shape[1] + 2 * CROP_PX, 1), dtype=np.float32)


def _recompute_statistics(simulator: Simulator, batches: list[dict[str, Any]], seed: int) -> None:
    """Set the statistics of prediction to the average over all batches, and over some draws of noise."""
    rng = np.random.default_rng(np.random.SeedSequence([seed, 2]))
    for number, batch in enumerate(batches):
        _set_momentum(simulator.mask, number / (number + 1))
        simulator.mask(batch["tiles"], batch["valid"], training=True)
    for number in range(STATISTICS_DRAWS):
        _set_momentum(simulator.generators, number / (number + 1))
        simulator.generators(draw_noise(rng, (OUT_PX, OUT_PX)), training=True)


def _set_momentum(network: Any, momentum: float) -> None:
    for norm in network.norms:
        norm.momentum = momentum
