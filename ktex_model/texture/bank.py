"""The features of all windows that are learnt from, standardised alike."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ktex_model.texture.assignment import Cells
from ktex_model.texture.features import Levels, describe
from ktex_model.texture.filters import Floats, pick


@dataclass(frozen=True)
class Bank:
    """The features of all windows, standardised alike."""

    windows: tuple[Levels, ...]
    mean: Floats
    std: Floats

    def describe(self, levels: Levels) -> Floats:
        """Return standardised features ``(y, x, feature)``."""
        return (describe(levels) - self.mean) / self.std

    def cells(self, stride: int) -> Cells:
        """Return the features on a lattice."""
        masks = tuple(pick(levels.valid, stride) for levels in self.windows)
        parts = [pick(self.describe(levels), stride)[mask] for levels, mask in zip(self.windows, masks, strict=True)]
        return Cells(np.concatenate(parts), masks, stride)


def fit_bank(windows: Sequence[Levels]) -> Bank:
    """Fit the standardisation to every valid pixel near the middle of a 2 x 2 cell, or to all where those are few."""
    stride = 2 if sum(int(pick(levels.valid, 2).sum()) for levels in windows) >= 1000 else 1
    pixels = np.concatenate([pick(describe(levels), stride)[pick(levels.valid, stride)] for levels in windows])
    std = pixels.std(0, dtype=np.float64)
    mean = pixels.mean(0, dtype=np.float64)
    return Bank(tuple(windows), mean.astype(np.float32), np.where(std > 1e-6, std, 1.0).astype(np.float32))
