"""The mask network: a small convolutional network distilled from the assignments.

It is trained with batch normalisation and kept without: for prediction the normalisation and the rotation to
principal bands are folded into the convolutions.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ktex_model.model import Sample
from ktex_model.texture.config import CONTEXT_PX, TextureConfig
from ktex_model.texture.features import Rotation
from ktex_model.texture.filters import Floats

LATTICE_PX = 4
"""The coarsest stride of the network."""

DILATIONS = (2, 2, 1)

_EPSILON = 1e-3

# name, filters, kernel side, stride, dilation
_LAYERS: dict[str, tuple[int, int, int, int]] = {
    "half": (16, 4, 2, 1),
    "quarter": (32, 4, 2, 1),
    "mix": (32, 3, 1, 1),
    **{f"residual{i}": (32, 3, 1, dilation) for i, dilation in enumerate(DILATIONS)},
    "narrow": (24, 1, 1, 1),
    "join": (24, 3, 1, 1),
}

Fitted = dict[str, NDArray[np.float32]]
"""``NAME/kernel`` and ``NAME/bias`` of each convolution, normalisation and rotation folded in."""


def _body(inputs: Any, normalised: bool, seed: int) -> Any:
    """Return the half-resolution features of inputs ``(n, y, x, band + 1)``."""
    from keras import initializers, layers

    seeds = iter(np.random.default_rng((seed, 11)).integers(1 << 31, size=len(_LAYERS)).tolist())

    def unit(name: str, x: Any) -> Any:
        filters, side, stride, dilation = _LAYERS[name]
        x = layers.Conv2D(
            filters,
            side,
            strides=stride,
            dilation_rate=dilation,
            padding="same",
            use_bias=not normalised,
            kernel_initializer=initializers.HeNormal(seed=next(seeds)),
            name=name,
        )(x)
        if normalised:
            x = layers.BatchNormalization(momentum=0.9, epsilon=_EPSILON, name=f"{name}_norm")(x)
        return layers.Activation("relu")(x)

    half = unit("half", inputs)
    x = unit("mix", unit("quarter", half))
    for i in range(len(DILATIONS)):
        x = layers.Add()([x, unit(f"residual{i}", x)])
    x = layers.UpSampling2D(2, interpolation="bilinear")(unit("narrow", x))
    return unit("join", layers.Concatenate()([x, half]))


def build(k: int, bands: int, shape: tuple[int, int], *, normalised: bool, seed: int = 0) -> tuple[Any, Any]:
    """Return inputs ``(n, y, x, band + 1)`` and logits ``(n, y / 2, x / 2, k)`` of the network."""
    from keras import Input, initializers, layers

    inputs = Input((*shape, bands + 1))
    start = initializers.GlorotUniform(seed=seed)
    return inputs, layers.Conv2D(k, 1, kernel_initializer=start, name="classes")(_body(inputs, normalised, seed))


def set_fitted(network: Any, fitted: Fitted) -> None:
    """Give a network that was built without normalisation its folded weights."""
    for name in (*_LAYERS, "classes"):
        network.get_layer(name).set_weights([fitted[f"{name}/kernel"], fitted[f"{name}/bias"]])


def has_gpu() -> bool:
    """Whether the backend computes on a GPU."""
    import keras

    return bool(keras.distribution.list_devices("gpu"))


def inputs_of(image: Floats, valid: NDArray[np.bool_], mean: Floats) -> Floats:
    """Return what the network sees, ``(..., band + 1)``: distance from the fill, and validity; 0 where invalid."""
    seen = valid[..., None]
    return np.concatenate([np.where(seen, image - mean, np.float32(0)), seen], -1, dtype=np.float32)


def fit_network(
    samples: Sequence[Sample],
    targets: Sequence[NDArray[np.int64]],
    rotation: Rotation,
    config: TextureConfig,
    seed: int,
    progress: Callable[[int, float], None],
) -> tuple[Fitted, list[float]]:
    """Train the network to give the assigned classes.

    Parameters
    ----------
    samples
        Images and validity.
    targets
        ``(y / 2, x / 2)`` classes on every second pixel of each sample; negative where there is none.
    rotation
        Principal bands, in which the network is trained.
    config, seed
        Settings, and the seed of weights and crops.
    progress
        Called with (steps done, loss).

    Returns
    -------
    The folded weights, and the loss of every step.
    """
    import keras

    inputs, logits = build(config.k, config.bands, (config.crop_px, config.crop_px), normalised=True, seed=seed)
    net = keras.Model(inputs, logits)
    rate = keras.optimizers.schedules.CosineDecay(config.learning_rate, config.steps)
    net.compile(
        optimizer=keras.optimizers.Adam(rate, clipnorm=1.0),
        loss=keras.losses.CategoricalCrossentropy(from_logits=True, label_smoothing=0.05),
    )
    # Built outside the graph: variables that are made while it is traced cost a second trace.
    net.optimizer.build(net.trainable_variables)
    rng = np.random.default_rng((seed, 13))
    gain = (rotation.basis / rotation.scale).astype(np.float32)
    losses: list[float] = []
    for step in range(config.steps):
        x, y = _batch(samples, targets, rotation, config, rng)
        x[..., :-1] = x[..., :-1] @ gain
        known = (y >= 0).astype(np.float32)
        one_hot = np.eye(config.k, dtype=np.float32)[np.maximum(y, 0)]
        losses.append(float(net.train_on_batch(x, one_hot, sample_weight=known)))
        progress(step + 1, losses[-1])
    return _fold(net, gain), losses


def _batch(
    samples: Sequence[Sample],
    targets: Sequence[NDArray[np.int64]],
    rotation: Rotation,
    config: TextureConfig,
    rng: np.random.Generator,
) -> tuple[Floats, NDArray[np.int64]]:
    """Draw crops around random assigned cells; beyond the sample there is fill, as there is in prediction."""
    side = config.crop_px
    x = np.zeros((config.batch, side, side, config.bands + 1), np.float32)
    y = np.full((config.batch, side // 2, side // 2), -1, np.int64)
    known = np.array([(target >= 0).sum() for target in targets], np.float64)
    for i in range(config.batch):
        which = int(rng.choice(len(samples), p=known / known.sum()))
        at = int(rng.choice(np.flatnonzero(targets[which] >= 0)))
        corner = [
            _corner(2 * int(cell), size, side, rng)
            for cell, size in zip(np.unravel_index(at, targets[which].shape), samples[which].valid.shape, strict=True)
        ]
        _paste(x[i], samples[which], corner, rotation.mean)
        _paste_cells(y[i], targets[which], [c // 2 for c in corner])
    return x, y


def _corner(pixel: int, size: int, side: int, rng: np.random.Generator) -> int:
    """Return an even corner of a crop that holds `pixel` and lies in the sample but for the context, if it can."""
    low, high = pixel - side + 2, pixel
    inside_low, inside_high = -CONTEXT_PX, size - side + CONTEXT_PX
    if inside_low <= inside_high:
        low, high = max(low, min(inside_low, high)), min(high, max(inside_high, low))
    return int(rng.integers(low // 2, high // 2 + 1)) * 2


def _overlap(corner: int, size: int, side: int) -> tuple[slice, slice]:
    first, last = max(corner, 0), min(corner + side, size)
    return slice(first, last), slice(first - corner, last - corner)


def _paste(into: Floats, sample: Sample, corner: Sequence[int], mean: Floats) -> None:
    (fy, ty), (fx, tx) = (_overlap(c, n, into.shape[0]) for c, n in zip(corner, sample.valid.shape, strict=True))
    into[ty, tx] = inputs_of(sample.image[fy, fx], sample.valid[fy, fx], mean)


def _paste_cells(into: NDArray[np.int64], target: NDArray[np.int64], corner: Sequence[int]) -> None:
    (fy, ty), (fx, tx) = (_overlap(c, n, into.shape[0]) for c, n in zip(corner, target.shape, strict=True))
    into[ty, tx] = target[fy, fx]


def _arrays(layer: Any) -> list[NDArray[np.float64]]:
    # Called directly, because numpy passes `copy`, which variables of Keras 3.15 do not take.
    return [np.asarray(weight.__array__(), np.float64) for weight in layer.weights]


def _fold(net: Any, gain: Floats) -> Fitted:
    fitted: Fitted = {}
    for name in (*_LAYERS, "classes"):
        weights = _arrays(net.get_layer(name))
        if name == "classes":
            kernel, bias = weights
        else:
            scale, shift, mean, variance = _arrays(net.get_layer(f"{name}_norm"))
            factor = scale / np.sqrt(variance + _EPSILON)
            kernel, bias = weights[0] * factor, shift - mean * factor
        if name == "half":
            kernel = np.concatenate([np.einsum("bp,yxpf->yxbf", gain, kernel[:, :, :-1]), kernel[:, :, -1:]], 2)
        fitted[f"{name}/kernel"], fitted[f"{name}/bias"] = kernel.astype(np.float32), bias.astype(np.float32)
    return fitted
