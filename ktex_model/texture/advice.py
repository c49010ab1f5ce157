"""Assignments without a mask network: what a number of classes finds, for a fraction of the cost of a model."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ktex_model.model import NO_CLASS, Sample
from ktex_model.texture.assignment import upsample
from ktex_model.texture.bank import fit_bank
from ktex_model.texture.clustering import Ints
from ktex_model.texture.config import TextureConfig
from ktex_model.texture.explanation import explain
from ktex_model.texture.features import decompose, fit_rotation
from ktex_model.texture.training import StageLog, check_samples, draw_windows, find_classes


@dataclass(frozen=True)
class Found:
    """What an assignment found.

    Attributes
    ----------
    labels
        ``(y, x)`` uint8 class of every pixel of each sample; 255 where invalid.
    loss
        Feature-space loss of the simulated image; None where it was not asked for.
    """

    labels: tuple[NDArray[np.uint8], ...]
    loss: float | None


def assign_samples(samples: Sequence[Sample], config: TextureConfig, seed: int, *, simulate: bool) -> Found:
    """Assign the pixels of samples to k classes as training does, and stop there.

    Parameters
    ----------
    samples, config, seed
        As for `ktex_model.train`; samples with no valid pixel, and those beyond `fit_px`, are not worked on.
    simulate
        Whether to generate the textures and compare the simulated image with the original.

    Raises
    ------
    ValueError
        If the samples do not fit the config or hold no valid pixel.
    """
    check_samples(samples, config)
    samples = draw_windows(samples, config.fit_px, np.random.default_rng((seed, 3)))
    rotation = fit_rotation(samples)
    bank = fit_bank([decompose(rotation.forward(sample.image), sample.valid) for sample in samples])
    cells, assigned, _ = find_classes(bank, rotation.scale, config, seed, StageLog(1, None))
    if simulate:
        found = explain(bank, cells, assigned, rotation, config, seed)
        return Found(_bytes(found.maps), found.loss)
    return Found(_bytes(upsample(cells.maps(assigned), cells.stride, [s.valid.shape for s in samples])), None)


def _bytes(maps: Sequence[Ints]) -> tuple[NDArray[np.uint8], ...]:
    return tuple(np.where(laid < 0, NO_CLASS, laid).astype(np.uint8) for laid in maps)
