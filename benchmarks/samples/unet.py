"""A small U-Net, and how it is trained and scored: the same way whatever it learns from."""

from __future__ import annotations

import os
from typing import Any

os.environ.setdefault("KERAS_BACKEND", "tensorflow")
import keras
import numpy as np
from numpy.typing import NDArray

from benchmarks.samples.places import NO_CLASS, Mask

FILTERS = (12, 24, 48)
BATCH = 12
RATE = 2e-3


class Student:
    """A network that can be trained from scratch again and again; it is built and compiled once.

    Parameters
    ----------
    bands, classes
        Of its images and of its masks.
    """

    def __init__(self, bands: int, classes: int) -> None:
        self._model = build_unet(bands, classes)
        self._model.compile(keras.optimizers.Adam(RATE), keras.losses.SparseCategoricalCrossentropy(ignore_class=255))
        self._model.optimizer.build(self._model.trainable_variables)
        self._fresh = [np.asarray(value) for value in self._model.optimizer.variables]

    def train(self, images: NDArray[np.float32], masks: Mask, steps: int, seed: int) -> None:
        """Train from random weights.

        Parameters
        ----------
        images, masks
            ``(n, y, x, band)`` 0..1 and ``(n, y, x)``, 255 where no class is known. Each step takes a random batch of
            them, turned and mirrored at random. Chips in which nothing is known are left out.
        """
        rng = np.random.default_rng(seed)
        self._reset(rng)
        taught = np.flatnonzero((masks != NO_CLASS).any(axis=(1, 2)))
        for _ in range(steps):
            chosen = rng.choice(taught, BATCH)
            turn, mirror = int(rng.integers(4)), slice(None, None, int(rng.choice([-1, 1])))
            batch = [np.rot90(each[chosen], turn, axes=(1, 2))[:, :, mirror] for each in (images, masks)]
            self._model.train_on_batch(np.ascontiguousarray(batch[0]), np.ascontiguousarray(batch[1]))

    def predict(self, image: NDArray[np.float32]) -> Mask:
        """Return the class of each pixel of an image ``(y, x, band)`` 0..1."""
        shares: Any = keras.ops.convert_to_numpy(self._model(image[np.newaxis], training=False))
        return np.asarray(shares[0].argmax(axis=-1), np.uint8)

    def _reset(self, rng: np.random.Generator) -> None:
        for variable, value in zip(self._model.optimizer.variables, self._fresh, strict=True):
            variable.assign(value)
        for weight in self._model.trainable_variables:
            scale = np.sqrt(2 / np.prod(weight.shape[:-1])) if len(weight.shape) > 1 else 0.0
            weight.assign(scale * rng.standard_normal(weight.shape))


def build_unet(bands: int, classes: int) -> keras.Model:
    """Build a U-Net of three scales without normalisation, some 67 thousand weights; any size divisible by 4."""

    def convolve(x: Any, filters: int) -> Any:
        for _ in range(2):
            x = keras.layers.Conv2D(filters, 3, padding="same", activation="relu")(x)
        return x

    image = keras.Input((None, None, bands))
    x, kept = image, []
    for filters in FILTERS[:-1]:
        x = convolve(x, filters)
        kept.append(x)
        x = keras.layers.MaxPooling2D()(x)
    x = convolve(x, FILTERS[-1])
    for filters, across in zip(FILTERS[-2::-1], kept[::-1], strict=True):
        x = keras.layers.UpSampling2D()(x)
        x = convolve(keras.layers.Concatenate()([x, across]), filters)
    return keras.Model(image, keras.layers.Conv2D(classes, 1, activation="softmax")(x))


def score(truths: list[Mask], found: list[Mask], classes: int) -> dict[str, float]:
    """Return the mean IoU of the classes and the share of pixels that are right, over all images together.

    Examples
    --------
    >>> score([np.array([[0, 0, 1, 255]], np.uint8)], [np.array([[0, 1, 1, 1]], np.uint8)], 2)
    {'miou': 0.5, 'accuracy': 0.6666666666666666}
    """
    truth, guess = (np.concatenate([each.ravel() for each in many]) for many in (truths, found))
    seen = truth != NO_CLASS
    table = np.bincount(truth[seen].astype(int) * classes + guess[seen], minlength=classes**2).reshape(classes, classes)
    hits = np.diag(table)
    unions = table.sum(axis=0) + table.sum(axis=1) - hits
    return {"miou": float(np.mean(hits / unions)), "accuracy": float(hits.sum() / table.sum())}
