"""What a machine can do, measured, and what a network asks of it, counted. Needs Keras and numpy alone."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np


@dataclass(frozen=True)
class Rates:
    """Multiply-adds per second of a large matrix product, and bytes per second of a large copy, read and written."""

    multiply_adds: float
    bytes: float


@dataclass(frozen=True)
class Work:
    """Multiply-adds of a network's convolutions; bytes, if each layer reads its inputs and writes its output once."""

    multiply_adds: int
    bytes: int

    def least_seconds(self, rates: Rates) -> float:
        """Return the larger of the multiply-add time and the memory-traffic time."""
        return max(self.multiply_adds / rates.multiply_adds, self.bytes / rates.bytes)


Clock = Callable[[], float]


def measure_rates(side: int, copied: int, clock: Clock = time.process_time, repeats: int = 5) -> Rates:
    """Measure both rates with the backend of Keras, on the device that it computes on.

    Parameters
    ----------
    side
        Of the square matrices that are multiplied, float32.
    copied
        Numbers, float32, in the array that is copied.
    clock, repeats
        What seconds are; the median of so many is taken.
    """
    from keras import ops

    matrix = ops.ones((side, side), "float32")
    array = ops.ones((copied,), "float32")

    def wait(result: Any) -> None:
        ops.convert_to_numpy(ops.reshape(result, (-1,))[:1])

    product = _median(lambda: wait(ops.matmul(matrix, matrix)), clock, repeats)
    copy = _median(lambda: wait(ops.add(array, 1.0)), clock, repeats)
    return Rates(side**3 / product, 2 * 4 * copied / copy)


def _median(work: Callable[[], None], clock: Clock, repeats: int) -> float:
    work()
    seconds = []
    for _ in range(repeats):
        begun = clock()
        work()
        seconds.append(clock() - begun)
    return max(float(np.median(seconds)), 1e-9)


def count_work(network: Any) -> Work:
    """Count the work of one call of a functional model with one image."""
    multiply_adds, moved = 0, 0
    for layer in network.layers:
        if layer.__class__.__name__ == "InputLayer":
            continue
        moved += sum(_bytes(each) for tensors in (layer.input, layer.output) for each in _listed(tensors))
        if layer.__class__.__name__ == "Conv2D":
            moved += 4 * int(np.prod(layer.kernel.shape))
            multiply_adds += int(np.prod(layer.output.shape[1:3])) * int(np.prod(layer.kernel.shape))
    return Work(multiply_adds, moved)


def _listed(tensors: Any) -> Sequence[Any]:
    return tensors if isinstance(tensors, list | tuple) else [tensors]


def _bytes(tensor: Any) -> int:
    return int(np.prod(tensor.shape[1:])) * (1 if tensor.dtype == "uint8" else 4)
