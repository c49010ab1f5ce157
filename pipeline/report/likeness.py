"""Which classes look alike: distances between their textures, in units of how much each class varies in itself."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ktex_model.signature import signature_features

CELL_PX = 8

Features = NDArray[np.float32]


@dataclass(frozen=True)
class Likeness:
    """How far two classes are apart: 0 is the same, 1 is one standard deviation in each feature."""

    a: int
    b: int
    distance: float


def describe_patch(image: NDArray[np.float32], of_class: NDArray[np.bool_]) -> Features:
    """Return the texture features ``(n, D)`` of those cells of a patch ``(y, x, band)`` that are of the class.

    Texture is measured over the whole patch, so that the border of the class is none; cells count where all their
    pixels are of the class.
    """
    features, measured = signature_features(image, np.ones(image.shape[:2], np.bool_), stride=CELL_PX)
    pad = [(0, -size % CELL_PX) for size in of_class.shape]
    padded = np.pad(of_class, pad, constant_values=False)
    cells = padded.reshape(padded.shape[0] // CELL_PX, CELL_PX, -1, CELL_PX).all(axis=(1, 3))
    return np.asarray(features[measured & cells], np.float32)


def compare(features: Mapping[int, Sequence[Features]]) -> list[Likeness]:
    """Compare each two classes by the features of their patches.

    Parameters
    ----------
    features
        For each class, ``(n, D)`` of each of its patches.

    Returns
    -------
    list
        Every pair of classes that were measured, the most alike first. The distance is the root mean square, over
        the features, of the difference of the means over the pooled standard deviation within classes.

    Examples
    --------
    >>> rng = np.random.default_rng(0)
    >>> grey = {i: [rng.normal(level, 1, (500, 3))] for i, level in enumerate((0, 0.5, 9))}
    >>> [(pair.a, pair.b) for pair in compare(grey)]
    [(0, 1), (1, 2), (0, 2)]
    """
    measured = {i: np.concatenate(parts) for i, parts in features.items() if sum(len(part) for part in parts) > 1}
    if len(measured) < 2:
        return []
    ids = sorted(measured)
    means = np.stack([measured[i].mean(axis=0, dtype=np.float64) for i in ids])
    within = np.mean([measured[i].var(axis=0, dtype=np.float64) for i in ids], axis=0)
    scaled = means / np.sqrt(np.maximum(within, 1e-6))
    distance = np.sqrt(((scaled[:, None] - scaled[None]) ** 2).mean(axis=2))
    pairs = [Likeness(ids[i], ids[j], float(distance[i, j])) for i in range(len(ids)) for j in range(i + 1, len(ids))]
    return sorted(pairs, key=lambda pair: (pair.distance, pair.a, pair.b))
