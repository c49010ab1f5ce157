"""Distillation: the mask network learns to give the classes that were assigned."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from ktex_model.device import has_gpu, host_memory
from ktex_model.model import Sample
from ktex_model.texture.config import TextureConfig
from ktex_model.texture.features import Rotation
from ktex_model.texture.filters import Floats
from ktex_model.texture.network import Architecture, Fitted, build, draw_weights, fold, inputs_of

LABEL_SMOOTHING = 0.05

STEPS_AT_ONCE = 20
"""Steps that are taken without coming back to Python, at most: more take no less time."""

SHARE_OF_FREE = 0.1
"""Of the free memory, for the crops of those steps."""

FURTHER_STEPS, FURTHER_RATE = 0.5, 0.5
"""Of a further cycle of steps, in units of the first: how many, and the learning rate that it begins with."""

SCALING_CROPS = 8
"""From which the scale of the first weights is taken."""


class Student:
    """A mask network with its compiled training step, which is made once and taught anew for each model.

    Parameters
    ----------
    architecture, crop_px
        Of the network, and the side of a crop.
    steps, learning_rate
        Steps over which the learning rate falls to 0 along a cosine; then it begins again, lower and for fewer steps.
    at_once
        Steps that are taken without coming back to Python.
    """

    def __init__(
        self, architecture: Architecture, crop_px: int, steps: int, learning_rate: float, at_once: int
    ) -> None:
        import keras

        precision = "mixed_bfloat16" if has_gpu() else "float32"
        inputs, logits = build(architecture, (crop_px, crop_px), precision=precision)
        self.network = keras.Model(inputs, logits)
        rate = keras.optimizers.schedules.CosineDecayRestarts(
            learning_rate, steps, t_mul=FURTHER_STEPS, m_mul=FURTHER_RATE
        )
        self.network.compile(
            optimizer=keras.optimizers.Adam(rate, clipnorm=1.0),
            loss=keras.losses.CategoricalCrossentropy(from_logits=True, label_smoothing=LABEL_SMOOTHING),
            steps_per_execution=at_once,
        )
        # Built outside the graph: variables that are made while it is traced cost a second trace.
        self.network.optimizer.build(self.network.trainable_variables)
        # Called directly, because numpy passes `copy`, which variables of Keras 3.15 do not take.
        self._optimizer_start = [np.array(each.__array__()) for each in self.network.optimizer.variables]

    def forget(self, rng: np.random.Generator, crops: Floats) -> None:
        """Begin anew, with other weights, scaled by what they give on crops."""
        draw_weights(self.network, rng, crops)
        for variable, start in zip(self.network.optimizer.variables, self._optimizer_start, strict=True):
            variable.assign(start)

    def learn(self, inputs: Floats, shares: Floats, known: Floats, batch: int) -> float:
        """Take a step for each `batch` of crops; returns their mean loss."""
        told = self.network.fit(inputs, shares, batch, sample_weight=known, shuffle=False, verbose=0)
        return float(told.history["loss"][0])


@lru_cache(maxsize=2)
def get_student(
    architecture: Architecture, crop_px: int, steps: int, learning_rate: float, at_once: int = STEPS_AT_ONCE
) -> Student:
    """Return the student of these settings, compiled once for each process."""
    return Student(architecture, crop_px, steps, learning_rate, at_once)


def steps_at_once(config: TextureConfig, free_bytes: int | None) -> int:
    """Return how many steps' crops are held in memory together: as many as its share of what is free holds.

    The weights are the same to the bit however many there are. The batch of one step is not sized to memory: it is
    part of the recipe, as other batches teach other weights, and equal seeds shall give equal models on a small
    machine and on a large one. Only a GPU that cannot hold one step has it halved (`pipeline.gpu`), and the model's
    own configuration then says so.

    Examples
    --------
    >>> [steps_at_once(TextureConfig(6, 4), free) for free in (None, 1 << 20, 1 << 28, 1 << 34)]
    [20, 1, 5, 20]
    """
    if free_bytes is None:
        return STEPS_AT_ONCE
    # A crop as float32 with its validity, before and after the rotation; its classes as they are pasted, in 8 bytes;
    # shares and weights of four pixels each, and the shares once more as the backend's own.
    per_pixel = 2 * 4 * (config.bands + 1) + 8 + 2 * (config.k + 1)
    fitting = SHARE_OF_FREE * free_bytes / (config.batch * config.crop_px**2 * per_pixel)
    return max(1, min(STEPS_AT_ONCE, int(fitting)))


class Lessons:
    """What a network is taught: to give the assigned classes of samples.

    Parameters
    ----------
    samples
        Images and validity.
    targets
        ``(y, x)`` class of every pixel of each sample; negative where there is none.
    rotation
        Principal bands, in which the network is trained.
    config, seed
        Settings, and the seed of weights and crops.
    progress
        Called with (mean loss, number of steps) for the steps just taken.

    Attributes
    ----------
    losses
        The mean loss of every so many steps, see `steps_at_once`.
    """

    def __init__(
        self,
        samples: Sequence[Sample],
        targets: Sequence[NDArray[np.int64]],
        rotation: Rotation,
        config: TextureConfig,
        seed: int,
        progress: Callable[[float, int], None],
    ) -> None:
        self._samples, self._targets, self._rotation, self._config = samples, targets, rotation, config
        self._progress = progress
        self._places = [np.flatnonzero(target >= 0) for target in targets]
        self._gain = (rotation.basis / rotation.scale).astype(np.float32)
        self._rng = np.random.default_rng((seed, 13))
        self._at_once = steps_at_once(config, host_memory())
        self._student = get_student(
            config.architecture, config.crop_px, config.steps, config.learning_rate, self._at_once
        )
        self._student.forget(np.random.default_rng((seed, 11)), self._crops(SCALING_CROPS)[0])
        self.losses: list[float] = []

    def teach(self, steps: int) -> Fitted:
        """Take so many more steps; returns the folded weights."""
        batch = self._config.batch
        for done in range(0, steps, self._at_once):
            now = min(self._at_once, steps - done)
            self.losses.append(self._student.learn(*self._crops(now * batch), batch))
            self._progress(self.losses[-1], now)
        return fold(self._student.network, self._gain)

    def _crops(self, count: int) -> tuple[Floats, Floats, Floats]:
        x, shares, known = _draw(
            self._samples, self._targets, self._places, self._rotation, self._config, self._rng, count
        )
        x[..., :-1] = x[..., :-1] @ self._gain
        return x, shares, known


def _draw(
    samples: Sequence[Sample],
    targets: Sequence[NDArray[np.int64]],
    places: Sequence[NDArray[np.intp]],
    rotation: Rotation,
    config: TextureConfig,
    rng: np.random.Generator,
    count: int,
) -> tuple[Floats, Floats, Floats]:
    """Draw `count` crops around random assigned pixels; beyond the sample there is fill, as there is in prediction.

    Returns
    -------
    Inputs ``(n, y, x, band + 1)``, and of each 2 x 2 pixels the shares of the classes ``(n, y / 2, x / 2, k)`` and of
    what is known ``(n, y / 2, x / 2)``.
    """
    side = config.crop_px
    x = np.zeros((count, side, side, config.bands + 1), np.float32)
    y = np.full((count, side, side), -1, np.int64)
    known = np.array([len(place) for place in places], np.float64)
    for i in range(count):
        which = int(rng.choice(len(samples), p=known / known.sum()))
        at = np.unravel_index(int(rng.choice(places[which])), targets[which].shape)
        corner = [
            _corner(int(pixel), size, side, config.context_px, rng)
            for pixel, size in zip(at, samples[which].valid.shape, strict=True)
        ]
        _paste(x[i], samples[which], corner, rotation.mean)
        _paste_classes(y[i], targets[which], corner)
    return x, *halve(y, config.k)


def halve(classes: NDArray[np.int64], k: int) -> tuple[Floats, Floats]:
    """Return the shares ``(n, y / 2, x / 2, k)`` of the classes in each 2 x 2 pixels, and how much of each is known.

    Examples
    --------
    >>> shares, known = halve(np.array([[[0, 1], [1, -1]]]), 2)
    >>> (3 * shares).round().tolist(), known.tolist()
    ([[[[1.0, 2.0]]]], [[[0.75]]])
    """
    n, high, wide = classes.shape
    shares = np.zeros((n, high // 2, wide // 2, k), np.float32)
    for y, x in np.ndindex(2, 2):
        part = classes[:, y::2, x::2, None]
        at = np.maximum(part, 0)
        np.put_along_axis(shares, at, np.take_along_axis(shares, at, -1) + np.float32(0.25) * (part >= 0), -1)
    known = shares.sum(-1)
    return shares / np.maximum(known, 0.25)[..., None], known


def _corner(pixel: int, size: int, side: int, context: int, rng: np.random.Generator) -> int:
    """Return an even corner of a crop that holds `pixel` and lies in the sample but for the context, if it can."""
    low, high = pixel - side + 2, pixel
    inside_low, inside_high = -context, size - side + context
    if inside_low <= inside_high:
        low, high = max(low, min(inside_low, high)), min(high, max(inside_high, low))
    return int(rng.integers(low // 2, high // 2 + 1)) * 2


def _overlap(corner: int, size: int, side: int) -> tuple[slice, slice]:
    first, last = max(corner, 0), min(corner + side, size)
    return slice(first, last), slice(first - corner, last - corner)


def _paste(into: Floats, sample: Sample, corner: Sequence[int], mean: Floats) -> None:
    (fy, ty), (fx, tx) = (_overlap(c, n, into.shape[0]) for c, n in zip(corner, sample.valid.shape, strict=True))
    into[ty, tx] = inputs_of(sample.image[fy, fx], sample.valid[fy, fx], mean)


def _paste_classes(into: NDArray[np.int64], target: NDArray[np.int64], corner: Sequence[int]) -> None:
    (fy, ty), (fx, tx) = (_overlap(c, n, into.shape[0]) for c, n in zip(corner, target.shape, strict=True))
    into[ty, tx] = target[fy, fx]
