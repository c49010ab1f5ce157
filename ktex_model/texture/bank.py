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
    """The features of all windows, standardised alike.

    Attributes
    ----------
    windows, features
        What is learnt from, and what each of its pixels is described by, ``(y, x, feature)`` standardised. Kept,
        because cells of every stride and the comparison with the simulated image are taken from them.
    mean, std
        ``(feature,)`` of the standardisation.
    """

    windows: tuple[Levels, ...]
    features: tuple[Floats, ...]
    mean: Floats
    std: Floats

    def describe(self, levels: Levels) -> Floats:
        """Return the features ``(y, x, feature)`` of another image, standardised as those of the windows are."""
        return _standardised(describe(levels), self.mean, self.std)

    def cells(self, stride: int) -> Cells:
        """Return the features on a lattice."""
        masks = tuple(pick(levels.valid, stride) for levels in self.windows)
        parts = [pick(features, stride)[mask] for features, mask in zip(self.features, masks, strict=True)]
        return Cells(np.concatenate(parts), masks, stride)


def fit_bank(windows: Sequence[Levels]) -> Bank:
    """Fit the standardisation to every valid pixel near the middle of a 2 x 2 cell, or to all where those are few."""
    stride = 2 if sum(int(pick(levels.valid, 2).sum()) for levels in windows) >= 1000 else 1
    found = [describe(levels) for levels in windows]
    pixels = np.concatenate(
        [pick(features, stride)[pick(levels.valid, stride)] for features, levels in zip(found, windows, strict=True)]
    )
    std = pixels.std(0, dtype=np.float64)
    mean = pixels.mean(0, dtype=np.float64).astype(np.float32)
    std = np.where(std > 1e-6, std, 1.0).astype(np.float32)
    return Bank(tuple(windows), tuple(_standardised(features, mean, std) for features in found), mean, std)


def _standardised(features: Floats, mean: Floats, std: Floats) -> Floats:
    features -= mean
    features /= std
    return features
