"""Training on a device whose memory may run out: it is tried again with smaller batches.

Prediction halves its tiles by itself. In host memory that does not happen: a process that takes too much is stopped,
and its block tried again alone.
"""

from __future__ import annotations

import logging
from dataclasses import replace
from typing import TYPE_CHECKING, Any, cast

import ktex_model
from ktex_model.device import is_out_of_memory
from ktex_model.model import Sample, Trained

if TYPE_CHECKING:
    from pipeline.plan import ModelConfig

logger = logging.getLogger(__name__)

_BATCHES = ("batch", "batch_tiles")


def train_in_memory(samples: list[Sample], config: ModelConfig, seed: int) -> Trained:
    """Train; where the device has no memory left, with half the batch, and so on down to 1.

    What was trained with says the model's own configuration.
    """
    try:
        return ktex_model.train(samples, config, seed=seed)
    except Exception as error:
        sizes = {name: size // 2 for name in _BATCHES if (size := getattr(config, name, None) or 0) > 1}
        if not sizes or not is_out_of_memory(error):
            raise
        logger.warning("the device has no memory left for a training step; trying with half of it")
        smaller: Any = replace(cast("Any", config), **sizes)
    return train_in_memory(samples, smaller, seed)
