"""Work of the model on a device whose memory may run out: it is tried again in smaller parts.

In host memory that does not happen: a process that takes too much is stopped, and its block tried again alone.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING, Any, TypeVar, cast

import numpy as np
from numpy.typing import NDArray

import ktex_model
from ktex_model.model import Model, Prediction, Sample, Trained
from ktex_model.texture.prediction import SMALL_TILE_PX

if TYPE_CHECKING:
    from pipeline.plan import ModelConfig
    from pipeline.scaled import ScaledImage

logger = logging.getLogger(__name__)

_BATCHES = ("batch", "batch_tiles")
_SIGNS = ("resourceexhausted", "resource_exhausted", "out of memory", "oom when allocating")

Result = TypeVar("Result")


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error is that of a device without memory left, on TensorFlow or JAX.

    Examples
    --------
    >>> is_out_of_memory(RuntimeError("RESOURCE_EXHAUSTED: Out of memory while trying to allocate 9 bytes"))
    True
    >>> is_out_of_memory(ValueError("no"))
    False
    """
    told = f"{type(error).__name__}: {error}".lower()
    return any(sign in told for sign in _SIGNS)


def _smaller(work: Callable[[], Result], instead: Callable[[], Result | None], what: str) -> Result:
    try:
        return work()
    except Exception as error:
        if not is_out_of_memory(error):
            raise
        logger.warning("the device has no memory left for %s; trying with half of it", what)
        found = instead()
        if found is None:
            raise
        return found


def train_in_memory(samples: list[Sample], config: ModelConfig, seed: int) -> Trained:
    """Train; where the device has no memory left, with half the batch, and so on down to 1.

    What was trained with says the model's own configuration.
    """

    def halved() -> Trained | None:
        sizes = {name: size // 2 for name in _BATCHES if (size := getattr(config, name, None) or 0) > 1}
        smaller: Any = replace(cast("Any", config), **sizes)
        return train_in_memory(samples, smaller, seed) if sizes else None

    return _smaller(lambda: ktex_model.train(samples, config, seed=seed), halved, "a training step")


def predict_in_memory(
    model: Model, image: NDArray[np.float32] | ScaledImage, valid: NDArray[np.bool_], inner: tuple[slice, slice]
) -> Prediction:
    """Label the window `inner` of an image; where the device has no memory left, in two parts, and so on.

    Parts begin at whole tiles of the model, so that labels stay the same to the bit.
    """

    def halved() -> Prediction | None:
        axis = 0 if inner[0].stop - inner[0].start >= inner[1].stop - inner[1].start else 1
        side = inner[axis]
        tiles = -(-(side.stop - side.start) // SMALL_TILE_PX)
        if tiles < 2:
            return None
        middle = side.start + tiles // 2 * SMALL_TILE_PX
        parts = []
        for piece in (slice(side.start, middle), slice(middle, side.stop)):
            window = (piece, inner[1]) if axis == 0 else (inner[0], piece)
            parts.append(predict_in_memory(model, image, valid, window))
        labels, margin = (
            np.concatenate(pair, axis) for pair in zip(*((p.labels, p.margin) for p in parts), strict=True)
        )
        return Prediction(labels, margin)

    # Models look at windows of an image, and ask no more of it than one that is scaled on the way can give.
    seen = cast("NDArray[np.float32]", image)
    return _smaller(lambda: model.predict(seen, valid, inner), halved, f"a window of {inner}")
