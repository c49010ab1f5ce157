"""The variational auto-encoder around an extractor's encoder."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import keras
import numpy as np
from keras import ops
from numpy.typing import NDArray

from ktex_model.model import Progress


class Autoencoder(keras.Model):  # type: ignore[misc]
    """Encoder, Gaussian code at its stride of 16 px, and a decoder that doubles the size four times.

    Parameters
    ----------
    encoder
        A VGG-shaped network to ``block5_conv3``; its weights are trained in place.
    kl_weight
        Weight of the divergence of the code from a standard normal distribution.
    """

    def __init__(self, encoder: keras.Model, kl_weight: float, seed: int) -> None:
        super().__init__()
        bands, filters = encoder.input_shape[-1], encoder.output_shape[-1]
        seeds = iter(np.random.SeedSequence(seed).generate_state(16).tolist())
        self.encoder = encoder
        self.kl_weight = kl_weight
        self.mean = _convolution(filters, 1, None, next(seeds))
        self.log_variance = _convolution(filters, 1, None, next(seeds))
        self.draws = keras.random.SeedGenerator(next(seeds))
        self.steps_up: list[Any] = []
        for halvings in range(4):
            self.steps_up.append(_convolution(max(1, filters >> halvings), 3, "elu", next(seeds)))
            self.steps_up.append(keras.layers.UpSampling2D(2))
        self.pixels = _convolution(bands, 3, "sigmoid", next(seeds))
        self._build(bands, filters)

    def _build(self, bands: int, filters: int) -> None:
        code: Any = (None, None, None, filters)
        self.mean.build(code)
        self.log_variance.build(code)
        for layer in self.steps_up:
            layer.build(code)
            code = layer.compute_output_shape(code)
        self.pixels.build(code)
        self.built = True

    def call(self, inputs: dict[str, Any], training: bool = False) -> dict[str, Any]:
        """Return the image as decoded, with the mean and the logarithmic variance of its code."""
        features = self.encoder(inputs["image"], training=training)
        mean = self.mean(features)
        log_variance = ops.clip(self.log_variance(features), -10.0, 10.0)
        code = mean
        if training:
            code = mean + ops.exp(0.5 * log_variance) * keras.random.normal(ops.shape(mean), seed=self.draws)
        for layer in self.steps_up:
            code = layer(code)
        return {"image": self.pixels(code), "mean": mean, "log_variance": log_variance}

    def compute_loss(
        self,
        x: Any = None,
        y: Any = None,
        y_pred: Any = None,
        sample_weight: Any = None,
        training: bool = True,
    ) -> Any:
        """Mean squared error over the valid pixels, plus the weighted divergence."""
        valid = ops.expand_dims(x["valid"], -1)
        errors = ops.where(valid, ops.square(y_pred["image"] - x["image"]), 0.0)
        shares = ops.mean(ops.cast(valid, "float32"))
        mean, log_variance = y_pred["mean"], y_pred["log_variance"]
        divergence = -0.5 * ops.mean(1.0 + log_variance - ops.square(mean) - ops.exp(log_variance))
        return ops.mean(errors) / ops.maximum(shares, 1e-6) + self.kl_weight * divergence


def fit(
    encoder: keras.Model,
    batches: Iterator[tuple[NDArray[np.float32], NDArray[np.bool_]]],
    steps: int,
    *,
    kl_weight: float,
    seed: int,
    progress: Progress | None,
) -> list[float]:
    """Train `encoder` in place for `steps` steps of Adam (1e-3, clipnorm 1); return the losses."""
    model = Autoencoder(encoder, kl_weight, seed)
    model.compile(keras.optimizers.Adam(1e-3, clipnorm=1.0), jit_compile=keras.backend.backend() == "jax")
    losses = []
    for step in range(steps):
        image, valid = next(batches)
        model.reset_metrics()
        losses.append(float(model.train_on_batch({"image": image, "valid": valid}, return_dict=True)["loss"]))
        if progress is not None:
            progress(step + 1, steps, losses[-1])
    return losses


def _convolution(filters: int, size: int, activation: str | None, seed: int) -> Any:
    return keras.layers.Conv2D(
        filters, size, padding="same", activation=activation, kernel_initializer=keras.initializers.HeNormal(seed=seed)
    )
