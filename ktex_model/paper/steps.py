"""The frozen step network: how it is pre-trained, and moved to its threshold.

One network is trained for all k. The published scripts train one at ``1 - 1/k``; since a shift of the input is a shift
of the first layer's bias, the network for any k is the same one, moved. It learns the signed distance to its threshold,
so that its slope there is about 1 and the ramp of the hard sigmoid behind it is 1 / 5000 wide.
"""

from __future__ import annotations

from functools import lru_cache

import keras
import numpy as np
from keras import ops
from numpy.typing import NDArray

from ktex_model.paper.networks import STEEPNESS, StepNetwork, assign_tensors, read_tensors

STEPS = 600
NUMBERS = 1024
LOW, HIGH = -1.0, 0.6
"""Distances to the threshold that can occur: -(1 - 1/k) to at most 1/2, and some room."""


def step_tensors(k: int) -> dict[str, NDArray[np.float32]]:
    """Return the tensors of the network that crosses zero at ``1 - 1/k``, less half a ramp."""
    tensors = {name: array.copy() for name, array in _trained().items()}
    kernel = tensors["step/conv1/kernel"].reshape(-1)
    tensors["step/conv1/bias"] = (tensors["step/conv1/bias"] - kernel * (1.0 - 1.0 / k)).astype(np.float32)
    network = StepNetwork()
    assign_tensors(network, tensors)
    at_threshold = float(ops.convert_to_numpy(network(np.full((1, 1, 1, 1), 1.0 - 1.0 / k, np.float32)))[0, 0, 0, 0])
    tensors["step/conv3/bias"] = tensors["step/conv3/bias"] + np.float32(0.5 / STEEPNESS - at_threshold)
    return tensors


@lru_cache(maxsize=1)
def _trained() -> dict[str, NDArray[np.float32]]:
    """Train the network around 0, with seeds of its own, once in a process."""
    numbers = keras.Input((1, 1, 1))
    network = StepNetwork()
    model = keras.Model(numbers, network(numbers, training=True))
    rate = keras.optimizers.schedules.CosineDecay(1e-2, STEPS)
    model.compile(keras.optimizers.Adam(rate), "mse", jit_compile=keras.backend.backend() == "jax")
    rng = np.random.default_rng(0)
    for _ in range(STEPS):
        drawn = rng.uniform(LOW, HIGH, (NUMBERS, 1, 1, 1)).astype(np.float32)
        model.train_on_batch(drawn, drawn)
    return read_tensors(network)
