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


def clocked(work: Callable[[], Any]) -> tuple[Any, float, float]:
    """Return what `work` returned, its CPU seconds and its wall seconds."""
    cpu, wall = time.process_time(), time.perf_counter()
    result = work()
    return result, time.process_time() - cpu, time.perf_counter() - wall


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
    return measure_beside(lambda: None, side, copied, clock, repeats)[0]


def measure_beside(
    work: Callable[[], Any], side: int, copied: int, clock: Clock = time.process_time, repeats: int = 5
) -> tuple[Rates, float]:
    """Measure both rates as `measure_rates` does and the seconds of `work`, turn about: machines' speeds drift."""
    from keras import ops

    matrix = ops.ones((side, side), "float32")
    array = ops.ones((copied,), "float32")

    def wait(result: Any) -> None:
        ops.convert_to_numpy(ops.reshape(result, (-1,))[:1])

    def multiply() -> None:
        wait(ops.matmul(matrix, matrix))

    def copy() -> None:
        wait(ops.add(array, 1.0))

    turns = np.array([[_seconds(each, clock) for each in (multiply, copy, work)] for _ in range(repeats + 1)])
    product, copied_in, worked = np.maximum(np.median(turns[1:], 0), 1e-9)  # the first turn compiles
    return Rates(side**3 / float(product), 2 * 4 * copied / float(copied_in)), float(worked)


def _seconds(work: Callable[[], Any], clock: Clock) -> float:
    begun = clock()
    work()
    return clock() - begun


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
