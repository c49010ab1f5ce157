"""The mask network: a small convolutional network distilled from the assignments.

It has no normalisation: statistics of a crop would tell the network what else the crop holds, which it does not see in
prediction. Instead its first weights are scaled by what they give on the scene (Salimans and Kingma 2016; Mishkin and
Matas 2016). For prediction the rotation to principal bands is folded into the first convolution.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ktex_model.texture.filters import Floats

LATTICE_PX = 4
"""The coarsest stride of the network."""

DILATIONS = (1, 1, 1)
"""Of the residual convolutions: what lies beyond the 28 px that these see told no more (docs/benchmarks/train.md)."""

EDGE_SIDE = 1
"""Of the kernel that corrects classes at half the resolution: one of 3 took three times as long (same page)."""


class Architecture(NamedTuple):
    """What a network is built from: numbers of classes and bands, dilations, and the side of the edges' kernel."""

    k: int
    bands: int
    dilations: tuple[int, ...] = DILATIONS
    edge_side: int = EDGE_SIDE

    @property
    def context_px(self) -> int:
        """How far beyond a pixel the image can change its label: a multiple of the coarsest stride."""
        return LATTICE_PX * (4 + sum(self.dilations))

    @property
    def activation_bytes(self) -> int:
        """Bytes that all activations take for each pixel of the input, if none is dropped before the end.

        Each convolution is held before and after its rectifier, and residuals as sums, too; of the classes there are
        the logits of the three parts of the head and six planes at a time as they are interpolated.
        """
        values, lattice = 4.0 * (self.bands + 1), 1
        for name, (filters, _, stride) in _LAYERS.items():
            lattice *= stride
            values += 4.0 * filters * (3 if name.startswith("residual") else 2) / lattice**2
        return round(values + 4.0 * self.k * (1 / lattice**2 + 9 / 4))


# filters, kernel side, stride
_LAYERS: dict[str, tuple[int, int, int]] = {
    "half": (16, 4, 2),
    "quarter": (32, 4, 2),
    "mix": (32, 3, 1),
    **{f"residual{i}": (32, 3, 1) for i in range(len(DILATIONS))},
}

Fitted = dict[str, NDArray[np.float32]]
"""``NAME/kernel`` and ``NAME/bias`` of the convolutions, the rotation folded in."""


def build(architecture: Architecture, shape: tuple[int, int], *, precision: str = "float32") -> tuple[Any, Any]:
    """Return inputs ``(n, y, x, band + 1)`` and logits ``(n, y / 2, x / 2, k)`` of the network.

    Classes are decided at a quarter of the resolution, and corrected by what the half resolution shows of edges.
    """
    from keras import Input, layers

    def unit(name: str, x: Any, dilation: int = 1) -> Any:
        filters, side, stride = _LAYERS[name]
        x = layers.Conv2D(
            filters,
            side,
            strides=stride,
            dilation_rate=dilation,
            padding="same",
            dtype=precision,
            name=name,
        )(x)
        return layers.Activation("relu", dtype=precision)(x)

    k = architecture.k
    inputs = Input((*shape, architecture.bands + 1))
    half = unit("half", inputs)
    x = unit("mix", unit("quarter", half))
    for i, dilation in enumerate(architecture.dilations):
        x = layers.Add(dtype=precision)([x, unit(f"residual{i}", x, dilation)])
    coarse = layers.Conv2D(k, 1, dtype=precision, name="classes")(x)
    correct = layers.Conv2D(k, architecture.edge_side, padding="same", use_bias=False, dtype=precision, name="edges")
    # Sums and losses of logits are always of full precision.
    doubled = layers.UpSampling2D(2, interpolation="bilinear", dtype="float32")(coarse)
    return inputs, layers.Add(dtype="float32")([doubled, correct(half)])


def draw_weights(network: Any, rng: np.random.Generator, crops: Floats) -> None:
    """Give a network weights to start from: drawn kernels, scaled so that each filter's output is standardised.

    Parameters
    ----------
    network
        As `build` makes it.
    rng
        Source of the kernels.
    crops
        ``(n, y, x, band + 1)`` inputs, over which every filter gets mean 0 and variance 1.
    """
    from keras import ops

    held: dict[int, Any] = {id(network.input): ops.convert_to_tensor(crops)}
    for layer in network.layers[1:]:
        inputs = [held[id(each)] for each in layer.input] if isinstance(layer.input, list) else held[id(layer.input)]
        arrays = [np.zeros(weight.shape, np.float32) for weight in layer.weights]
        if arrays:
            fan_in = float(np.prod(arrays[0].shape[:-1]))
            arrays[0][...] = rng.standard_normal(arrays[0].shape) / np.sqrt(fan_in)
            layer.set_weights(arrays)
        out = layer(inputs)
        if layer.name in _LAYERS:
            mean, std = (
                ops.convert_to_numpy(each(ops.cast(out, "float32"), (0, 1, 2))) for each in (ops.mean, ops.std)
            )
            std = np.maximum(std, 1e-6)
            layer.set_weights([arrays[0] / std, -mean / std])
            out = layer(inputs)
        held[id(layer.output)] = out


def set_fitted(network: Any, fitted: Fitted) -> None:
    """Give a network its folded weights."""
    for name in (*_LAYERS, "classes"):
        network.get_layer(name).set_weights([fitted[f"{name}/kernel"], fitted[f"{name}/bias"]])
    network.get_layer("edges").set_weights([fitted["edges/kernel"]])


def inputs_of(image: Floats, valid: NDArray[np.bool_], mean: Floats) -> Floats:
    """Return what the network sees, ``(..., band + 1)``: distance from the fill, and validity; 0 where invalid."""
    seen = valid[..., None]
    return np.concatenate([np.where(seen, image - mean, np.float32(0)), seen], -1, dtype=np.float32)


def _arrays(layer: Any) -> list[NDArray[np.float64]]:
    # Called directly, because numpy passes `copy`, which variables of Keras 3.15 do not take.
    return [np.asarray(weight.__array__(), np.float64) for weight in layer.weights]


def fold(network: Any, gain: Floats) -> Fitted:
    """Return the weights of a network that was trained in principal bands, with the rotation `gain` folded in."""
    (edges,) = _arrays(network.get_layer("edges"))
    fitted = {"edges/kernel": edges}
    for name in (*_LAYERS, "classes"):
        kernel, bias = _arrays(network.get_layer(name))
        if name == "half":
            kernel = np.concatenate([np.einsum("bp,yxpf->yxbf", gain, kernel[:, :, :-1]), kernel[:, :, -1:]], 2)
        fitted |= {f"{name}/kernel": kernel, f"{name}/bias": bias}
    return {name: array.astype(np.float32) for name, array in fitted.items()}
