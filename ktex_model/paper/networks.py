"""The networks of the preset `paper`, as Keras layers.

All hold their weights under fixed names, ``layer/weight``, so that they can be stored without Keras' own formats.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import keras
import numpy as np
from keras import ops
from numpy.typing import NDArray

from ktex_model.paper.tiles import BORDER_PX

NOISE_STD = 0.0005
"""Of the Gaussian noise on the scalar, in training."""

STEEPNESS = 5000.0
"""Slope of the hard sigmoid behind a step network."""

FILTERS = 64
CROP_PX = 8
"""What a texture generator cuts off on each side."""


class MaskedNormalization(keras.layers.Layer):  # type: ignore[misc]
    """Batch normalisation whose statistics are those of valid pixels.

    Keras' own takes a mask too, but on JAX not with a single channel, and it hands the mask on to layers that refuse
    it.
    """

    def __init__(self, channels: int, momentum: float, name: str, epsilon: float = 1e-3) -> None:
        super().__init__(name=name)
        self.momentum, self.epsilon = momentum, epsilon
        self.gamma = self.add_weight(shape=(channels,), initializer="ones", name="gamma")
        self.beta = self.add_weight(shape=(channels,), initializer="zeros", name="beta")
        self.moving_mean = self.add_weight(shape=(channels,), initializer="zeros", trainable=False, name="moving_mean")
        self.moving_variance = self.add_weight(
            shape=(channels,), initializer="ones", trainable=False, name="moving_variance"
        )
        self.built = True

    def call(self, pixels: Any, valid: Any = None, training: bool = False) -> Any:
        """``(n, y, x, channel)`` and ``(n, y, x)`` bool to ``(n, y, x, channel)``."""
        mean, variance = self.moving_mean, self.moving_variance
        if training:
            mean, variance = self._moments(pixels, valid)
            self.moving_mean.assign(self.moving_mean * self.momentum + mean * (1.0 - self.momentum))
            self.moving_variance.assign(self.moving_variance * self.momentum + variance * (1.0 - self.momentum))
        return (pixels - mean) * (self.gamma * ops.rsqrt(variance + self.epsilon)) + self.beta

    def _moments(self, pixels: Any, valid: Any) -> tuple[Any, Any]:
        weights = ops.expand_dims(ops.cast(valid, "float32"), -1)
        count = ops.maximum(ops.sum(weights), 1.0)
        mean = ops.sum(pixels * weights, axis=(0, 1, 2)) / count
        return mean, ops.sum(ops.square(pixels - mean) * weights, axis=(0, 1, 2)) / count


class MaskNetwork(keras.layers.Layer):  # type: ignore[misc]
    """One scalar in (0, 1) for each pixel, from that pixel alone.

    Batch normalisation counts valid pixels only.
    """

    def __init__(self, bands: int, momentum: float, seed: int) -> None:
        super().__init__(name="mask")
        seeds = np.random.SeedSequence(seed).generate_state(4).tolist()
        self.convolutions = [_pointwise(f"conv{n + 1}", FILTERS, seeds[n]) for n in range(2)]
        self.convolutions.append(_pointwise("conv3", 1, seeds[2]))
        self.norms = [MaskedNormalization(size, momentum, f"bn{n + 1}") for n, size in enumerate((FILTERS, FILTERS, 1))]
        self.activations = [keras.activations.elu, keras.activations.elu, keras.activations.sigmoid]
        self.crop = keras.layers.Cropping2D(BORDER_PX)
        self.noise = keras.layers.GaussianNoise(NOISE_STD, seed=seeds[3])
        for convolution, before in zip(self.convolutions, (bands, FILTERS, FILTERS), strict=True):
            convolution.build((None, None, None, before))
        self.built = True

    def scalar(self, pixels: Any, valid: Any = None, training: bool = False) -> Any:
        """``(n, y, x, band)`` to ``(n, y, x, 1)``."""
        layer = pixels
        for convolution, norm, activation in zip(self.convolutions, self.norms, self.activations, strict=True):
            layer = activation(norm(convolution(layer), valid, training=training))
        return layer

    def call(self, pixels: Any, valid: Any, training: bool = False) -> Any:
        """``(n, 136, 136, band)`` to ``(n, 128, 128, 1)``: cropped, and with noise in training."""
        return self.noise(self.crop(self.scalar(pixels, valid, training)), training=training)


class StepNetwork(keras.layers.Layer):  # type: ignore[misc]
    """A function of one number that is made to cross zero at a threshold; see `ktex_model.paper.steps`."""

    def __init__(self, seed: int = 0) -> None:
        super().__init__(name="step")
        seeds = np.random.SeedSequence(seed).generate_state(5).tolist()
        self.convolutions = [_pointwise(f"conv{n + 1}", FILTERS, seeds[n]) for n in range(2)]
        self.convolutions.append(_pointwise("conv3", 1, seeds[4]))
        self.norms = [keras.layers.BatchNormalization(name=f"bn{n + 1}") for n in range(2)]
        self.activations = [keras.layers.ELU(), keras.layers.ELU()]
        self.dropouts = [keras.layers.Dropout(0.05, seed=seeds[2 + n]) for n in range(2)]
        for convolution, before in zip(self.convolutions, (1, FILTERS, FILTERS), strict=True):
            convolution.build((None, None, None, before))
        for norm in self.norms:
            norm.build((None, None, None, FILTERS))
        self.built = True

    def call(self, numbers: Any, training: bool = False) -> Any:
        """``(n, y, x, 1)`` to ``(n, y, x, 1)``, before the hard sigmoid."""
        layer = numbers
        for convolution, norm, activation, dropout in zip(
            self.convolutions[:-1], self.norms, self.activations, self.dropouts, strict=True
        ):
            layer = dropout(activation(norm(convolution(layer), training=training)), training=training)
        return self.convolutions[-1](layer)


class Discretisation(keras.layers.Layer):  # type: ignore[misc]
    """The scalar falls into one of k equal bins: k binary masks that add up to 1.

    The frozen network steps at ``1 - 1/k``. Applied to ``scalar + i/k`` it steps at ``1 - (i + 1)/k`` and gives the
    upper classes by differences; applied to ``1 - scalar + i/k`` it gives the lower ones; the class between them is
    what remains to 1. Class 0 is the lowest bin.
    """

    def __init__(self, k: int) -> None:
        super().__init__(name="discretisation")
        self.k = k
        self.upper = k // 2
        self.lower = k - 1 - self.upper
        self.step = StepNetwork()
        self.step.trainable = False
        self.built = True

    def steps(self, numbers: Any) -> Any:
        """Return 0 below the threshold and 1 above it, with a ramp of about 1 / 5000 between."""
        return ops.clip(STEEPNESS * self.step(numbers, training=False), 0.0, 1.0)

    def call(self, scalar: Any) -> Any:
        """``(n, y, x, 1)`` to ``(n, y, x, k)``."""
        from_above = [self.steps(scalar + i / self.k) for i in range(self.upper)]
        from_below = [self.steps(1.0 - scalar + i / self.k) for i in range(self.lower)]
        tops, bottoms = _differences(from_above), _differences(from_below)
        middle = 1.0 - sum(from_above[-1:]) - sum(from_below[-1:])
        return ops.concatenate([*bottoms, middle, *reversed(tops)], axis=-1)


class StackedConv2D(keras.layers.Layer):  # type: ignore[misc]
    """k independent 3x3 convolutions, one for each entry of the first axis, in one matrix product.

    Grouped convolutions say the same, but take seconds where this takes milliseconds on a CPU.
    """

    def __init__(self, k: int, before: int, after: int, seed: int, name: str) -> None:
        super().__init__(name=name)
        self.k, self.before, self.after = k, before, after
        limit = math.sqrt(6.0 / (9 * before + 9 * after))
        self.kernel = self.add_weight(
            shape=(k, 3, 3, before, after),
            initializer=keras.initializers.RandomUniform(-limit, limit, seed=seed),
            name="kernel",
        )
        self.bias = self.add_weight(shape=(k, after), initializer="zeros", name="bias")
        self.built = True

    def call(self, layer: Any) -> Any:
        """``(k or 1, y, x, before)`` to ``(k, y, x, after)``; zeros beyond the edge."""
        count, height, width = layer.shape[:3]
        padded = ops.pad(layer, ((0, 0), (1, 1), (1, 1), (0, 0)))
        shifted = [padded[:, y : y + height, x : x + width] for y in range(3) for x in range(3)]
        patches = ops.reshape(ops.concatenate(shifted, axis=-1), (count, height * width, 9 * self.before))
        kernel = ops.reshape(self.kernel, (self.k, 9 * self.before, self.after))
        mapped = ops.matmul(patches, kernel) + ops.expand_dims(self.bias, 1)
        return ops.reshape(mapped, (self.k, height, width, self.after))


class Generators(keras.layers.Layer):  # type: ignore[misc]
    """k independent texture generators, all fed with the same noise."""

    def __init__(self, k: int, bands: int, momentum: float, seed: int) -> None:
        super().__init__(name="generators")
        self.k = k
        seeds = np.random.SeedSequence(seed).generate_state(5).tolist()
        sizes = [(1, 16), (16, 16), (16, 16), (16, 16), (16, bands)]
        self.convolutions = [StackedConv2D(k, *size, seeds[n], f"conv{n + 1}") for n, size in enumerate(sizes)]
        self.norms = [keras.layers.BatchNormalization(momentum=momentum, name=f"bn{n + 1}") for n in range(4)]
        self.activation = keras.layers.LeakyReLU()
        for norm in self.norms:
            norm.build((None, None, None, 16 * k))
        self.built = True

    def call(self, noise: Any, training: bool = False) -> Any:
        """``(1, y + 16, x + 16, 1)`` normal noise to ``(k, y, x, band)`` in 0..1."""
        layer = noise
        for convolution, norm in zip(self.convolutions, self.norms, strict=False):
            layer = self.activation(self._normalised(norm, convolution(layer), training))
        layer = ops.sigmoid(self.convolutions[-1](layer))
        return layer[:, CROP_PX:-CROP_PX, CROP_PX:-CROP_PX]

    def _normalised(self, norm: Any, layer: Any, training: bool) -> Any:
        _, height, width, channels = layer.shape
        side_by_side = ops.reshape(ops.transpose(layer, (1, 2, 0, 3)), (1, height, width, self.k * channels))
        normalised = ops.reshape(norm(side_by_side, training=training), (height, width, self.k, channels))
        return ops.transpose(normalised, (2, 0, 1, 3))


def named_layers(network: Any) -> dict[str, Any]:
    """Return the layers of a network that hold weights, by name: ``mask/conv1`` and so on."""
    return {f"{network.name}/{layer.name}": layer for layer in (*network.convolutions, *network.norms)}


def read_tensors(network: Any) -> dict[str, NDArray[np.float32]]:
    """Copy the weights of a network: ``mask/conv1/kernel`` and so on."""
    return {
        f"{path}/{weight.name}": np.asarray(weight).astype(np.float32)
        for path, layer in named_layers(network).items()
        for weight in layer.weights
    }


def assign_tensors(network: Any, tensors: Mapping[str, NDArray[Any]]) -> None:
    """Set all weights of a network.

    Raises
    ------
    ValueError
        If a tensor is missing or has another shape.
    """
    for path, layer in named_layers(network).items():
        for weight in layer.weights:
            name = f"{path}/{weight.name}"
            shape = tensors[name].shape if name in tensors else None
            if shape != tuple(weight.shape):
                raise ValueError(f"tensor {name!r} must have shape {tuple(weight.shape)}; got {shape}")
            weight.assign(tensors[name])


def _pointwise(name: str, filters: int, seed: int) -> Any:
    initializer = keras.initializers.GlorotUniform(seed=seed)
    return keras.layers.Conv2D(filters, 1, kernel_initializer=initializer, name=name)


def _differences(steps: list[Any]) -> list[Any]:
    return [step - before for step, before in zip(steps, [0.0, *steps][:-1], strict=True)]
