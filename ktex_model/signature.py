"""Fixed texture features of an image, so that classes of different models can be compared.

They depend on no model and on no statistics of the image at hand: equal pixels give equal features anywhere, at any
time. What two features differ by is a logarithm of a ratio: of brightness, or of the energy of a texture at a scale.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

SIGNATURE_VERSION = 2
"""Goes up when features change, because signatures of different versions must not be compared."""

_MANY_BANDS = 5
_FLOOR = 0.01
_ENERGY_FLOOR = 1e-6
_SCALES = 3
_ORIENTED = 4

Float = NDArray[np.float32]
Bool = NDArray[np.bool_]


def signature_length(bands: int) -> int:
    """Return the number of features of an image of `bands` bands.

    >>> [signature_length(bands) for bands in (1, 3, 4, 5, 8)]
    [8, 16, 20, 12, 15]
    """
    if bands < 1:
        raise ValueError(f"`bands` must be at least 1; got {bands}")
    return bands + _SCALES * (bands if bands < _MANY_BANDS else 1) + _ORIENTED


def log_brightness(values: Float) -> Float:
    """Return what brightness, 0..1, counts as in features: its logarithm, which begins at 0.01."""
    result: Float = np.log(values + _FLOOR)
    return result


def signature_features(image: Float, valid: Bool, stride: int = 4) -> tuple[Float, Bool]:
    """Measure texture on cells of `stride` pixels.

    Parameters
    ----------
    image
        ``(y, x, band)`` float32, 0..1.
    valid
        ``(y, x)`` bool; invalid pixels count for nothing, whatever their values.
    stride
        Side of a cell, a multiple of 4 px. Cells start in the upper left corner; the last ones may be cut.

    Returns
    -------
    features
        ``(ceil(y / stride), ceil(x / stride), D)`` float32: the logarithm of each band's mean; the logarithm of the
        energy that each band (of 5 bands or more: their mean) has at 2 px, at 4 px and among cells; and, of the mean
        of bands at 1 px and 2 px, the logarithms of horizontal over vertical energy, then those of energy along the
        falling diagonal over that along the rising one: without these a texture and its mirror image would be one.
        Texture is averaged over 3 x 3 cells. 0 where not valid.
    cell_valid
        ``(ceil(y / stride), ceil(x / stride))`` bool: at least half of the pixels of a cell are valid.

    Raises
    ------
    ValueError
        Shapes do not fit, or `stride` is not a multiple of 4.

    Examples
    --------
    >>> flat = np.full((8, 12, 3), 0.5, dtype=np.float32)
    >>> features, cell_valid = signature_features(flat, np.ones((8, 12), dtype=bool))
    >>> features.shape, bool(cell_valid.all()), round(float(features[0, 0, 0]), 3)
    ((2, 3, 16), True, -0.673)
    """
    if image.ndim != 3 or image.shape[:2] != valid.shape:
        raise ValueError(f"`image` must be (y, x, band) and `valid` (y, x); got {image.shape} and {valid.shape}")
    if stride < 4 or stride % 4:
        raise ValueError(f"`stride` must be a multiple of 4; got {stride}")
    pad = [(0, -size % stride) for size in valid.shape]
    weight = np.pad(valid, pad).astype(np.float32)
    bands = [np.pad(np.where(valid, image[..., b], 0), pad).astype(np.float32) for b in range(image.shape[2])]
    mean: Float = np.stack(bands).mean(axis=0, dtype=np.float32)
    cell_valid = _pool(weight, stride) * 2 >= stride * stride
    columns = [log_brightness(_pool_mean(band, weight, stride)[0]) for band in bands]
    for band in bands if len(bands) < _MANY_BANDS else [mean]:
        columns.extend(_energies(band, weight, stride))
    columns.extend(_orientations(mean, weight, stride))
    features = np.stack(columns, axis=-1).astype(np.float32)
    features[~cell_valid] = 0
    return features, cell_valid


def _energies(band: Float, weight: Float, stride: int) -> list[Float]:
    """Return log energies between 1 and 2 px, between 2 and 4 px, and from 4 px to the 3 x 3 cells around."""
    logs = []
    values, counts = band, weight
    for level in (2, 4):
        coarse, coarse_counts = _pool_mean(band, weight, level)
        step = 2
        gap = np.where(counts > 0, values - _enlarge(coarse, step), 0)
        logs.append(_log_energy(gap * gap, counts, stride // (level // 2)))
        values, counts = coarse, coarse_counts
    cells = stride // 4
    around = _ratio(_box(_pool(values * counts, cells)), _box(_pool(counts, cells)))
    gap = np.where(counts > 0, values - _enlarge(around, stride // 4), 0)
    logs.append(_log_energy(gap * gap, counts, stride // 4))
    return logs


def _orientations(band: Float, weight: Float, stride: int) -> list[Float]:
    """Return log ratios of the energies of steps in two directions: of pixels, and of means of 2 x 2.

    Steps across columns against those across rows; then down to the right against down to the left.
    """
    levels = [(*_pool_mean(band, weight, level), stride // level) for level in (1, 2)]
    across, down, falling, rising = ((0, 0), (0, 1)), ((0, 0), (1, 0)), ((0, 0), (1, 1)), ((0, 1), (1, 0))
    return [
        _step_energy(*level, *one) - _step_energy(*level, *other)
        for one, other in ((across, down), (falling, rising))
        for level in levels
    ]


def _step_energy(values: Float, counts: Float, factor: int, start: tuple[int, int], stop: tuple[int, int]) -> Float:
    """Return the log energy of the step between two pixels of each window of 2 x 2; it counts where both do."""
    inside = tuple(size - max(ends) for size, *ends in zip(values.shape, start, stop, strict=True))
    one, other = (tuple(slice(o, o + size) for o, size in zip(end, inside, strict=True)) for end in (start, stop))
    energy, both = np.zeros_like(values), np.zeros_like(counts)
    whole = slice(inside[0]), slice(inside[1])
    energy[whole] = np.square(values[one] - values[other])
    both[whole] = np.minimum(counts[one], counts[other])
    return _log_energy(energy, both, factor)


def _log_energy(energy: Float, counts: Float, factor: int) -> Float:
    total = _box(_pool(energy * counts, factor))
    result: Float = np.log(_ratio(total, _box(_pool(counts, factor))) + _ENERGY_FLOOR)
    return result


def _pool(values: Float, factor: int) -> Float:
    """Sum squares of `factor` pixels: rows, then columns, which takes an eighth of what both at once would."""
    rows = values[::factor].copy()
    for row in range(1, factor):
        rows += values[row::factor]
    sums: Float = rows[:, ::factor].copy()
    for column in range(1, factor):
        sums += rows[:, column::factor]
    return sums


def _pool_mean(values: Float, weight: Float, factor: int) -> tuple[Float, Float]:
    """Return means of the valid pixels of squares (0 where there are none), and how many they are."""
    counts = _pool(weight, factor)
    return _ratio(_pool(values * weight, factor), counts), counts


def _ratio(sums: Float, counts: Float) -> Float:
    """Return means; 0 where nothing was counted."""
    result: Float = (sums / np.maximum(counts, 1)).astype(np.float32)
    return result


def _enlarge(values: Float, factor: int) -> Float:
    result: Float = np.repeat(np.repeat(values, factor, axis=0), factor, axis=1)
    return result


def _box(values: Float) -> Float:
    """Sum over 3 x 3 cells; beyond the image there is nothing."""
    padded = np.pad(values, 1)
    rows = padded[:-2] + padded[1:-1] + padded[2:]
    result: Float = rows[:, :-2] + rows[:, 1:-1] + rows[:, 2:]
    return result
