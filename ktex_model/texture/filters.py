"""Separable smoothing of windows of which some pixels are not valid."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]
Mask = NDArray[np.bool_]
_Scalar = TypeVar("_Scalar", bound=np.generic)


def gaussian_taps(sigma: float) -> Floats:
    """Return the taps of a Gaussian of std `sigma` pixels from its centre outwards, cut at three stds.

    Examples
    --------
    >>> taps = gaussian_taps(1.0)
    >>> len(taps), round(float(taps[0] + 2 * taps[1:].sum()), 6)
    (4, 1.0)
    """
    half = np.exp(-0.5 * (np.arange(int(np.ceil(3 * sigma)) + 1) / sigma) ** 2)
    taps: Floats = (half / (half[0] + 2 * half[1:].sum())).astype(np.float32)
    return taps


_ROWS = 128
"""Rows that are smoothed by one matrix product."""


def gaussian(values: Floats, sigma: float) -> Floats:
    """Smooth ``(y, x, channel)`` along y and x; beyond the border all is 0."""
    return _turn(_smooth_rows(_turn(_smooth_rows(values, sigma)), sigma))


def _turn(values: Floats) -> Floats:
    return np.ascontiguousarray(np.swapaxes(values, 0, 1))


def _smooth_rows(values: Floats, sigma: float) -> Floats:
    """Smooth along y by products with a band matrix: quicker than sums of shifted arrays beyond a few taps."""
    band = _band(sigma)
    reach = (band.shape[1] - _ROWS) // 2
    rows = values.reshape(len(values), -1)
    out = np.empty_like(rows)
    for first in range(0, len(rows), _ROWS):
        last = min(first + _ROWS, len(rows))
        low, high = max(0, first - reach), min(len(rows), last + reach)
        there = band[: last - first, low - first + reach : high - first + reach]
        np.matmul(there, rows[low:high], out=out[first:last])
    return out.reshape(values.shape)


@lru_cache(maxsize=16)
def _band(sigma: float) -> Floats:
    """Return the matrix ``(_ROWS, _ROWS + 2 reach)`` that smooths its columns' middle."""
    taps = gaussian_taps(sigma)
    reach = len(taps) - 1
    distance = np.abs(np.arange(_ROWS)[:, None] + reach - np.arange(_ROWS + 2 * reach))
    return np.where(distance <= reach, taps[np.minimum(distance, reach)], np.float32(0))


def blur(values: Floats, valid: Mask, sigmas: Sequence[float]) -> list[Floats]:
    """Normalised convolution with Gaussians: means over the valid pixels around each pixel.

    Parameters
    ----------
    values
        ``(y, x, channel)`` float32.
    valid
        ``(y, x)`` bool. Values that are not valid have no influence, nor has what lies beyond the border.
    sigmas
        Stds in pixels.

    Returns
    -------
    list of ``(y, x, channel)`` float32, one for each std; 0 where no pixel within three stds is valid.

    Examples
    --------
    >>> one = np.full((9, 9, 1), 3.0, np.float32)
    >>> bool(np.allclose(blur(one, np.ones((9, 9), bool), [2.0])[0], 3.0))
    True
    """
    if valid.all():
        # The density of a full window is the product of those along its two axes.
        along = [[_smooth_rows(np.ones((size, 1, 1), np.float32), sigma) for size in valid.shape] for sigma in sigmas]
        return [gaussian(values, sigma) / (y * _turn(x)) for sigma, (y, x) in zip(sigmas, along, strict=True)]
    weight = valid[..., None].astype(np.float32)
    held = np.where(valid[..., None], values, np.float32(0))
    out = []
    for sigma in sigmas:
        density = gaussian(weight, sigma)
        out.append(np.where(density > 1e-6, gaussian(held, sigma) / np.maximum(density, 1e-6), np.float32(0)))
    return out


def pool(values: Floats, valid: Mask, stride: int) -> tuple[Floats, Mask]:
    """Average the valid pixels of each ``stride x stride`` cell; a cell with none is not valid and 0.

    Examples
    --------
    >>> means, held = pool(np.arange(8, dtype=np.float32).reshape(2, 4, 1), np.ones((2, 4), bool), 2)
    >>> means[..., 0].tolist(), held.tolist()
    ([[2.5, 4.5]], [[True, True]])
    """
    high, wide = (-(-size // stride) for size in valid.shape)
    margin = ((0, high * stride - valid.shape[0]), (0, wide * stride - valid.shape[1]))
    held = np.pad(np.where(valid[..., None], values, np.float32(0)), (*margin, (0, 0)))
    count = np.pad(valid, margin).reshape(high, stride, wide, stride).sum((1, 3))
    sums = held.reshape(high, stride, wide, stride, -1).sum((1, 3))
    return sums / np.maximum(count, 1)[..., None].astype(np.float32), count > 0


def pick(values: NDArray[_Scalar], stride: int) -> NDArray[_Scalar]:
    """Take the pixel near the middle of each whole or cut ``stride x stride`` cell of ``(y, x, ...)``.

    Examples
    --------
    >>> pick(np.arange(5)[:, None], 2)[:, 0].tolist()
    [1, 3, 4]
    """
    rows, columns = (
        np.minimum(np.arange(stride // 2, -(-size // stride) * stride, stride), size - 1) for size in values.shape[:2]
    )
    picked: NDArray[_Scalar] = values[rows[:, None], columns[None, :]]
    return picked


def even_size(size: int) -> int:
    """Return the least size that is even and a product of small primes, where the transform is quick."""
    best = size + size % 2
    while True:
        rest = best
        for prime in (2, 3, 5, 7):
            while rest % prime == 0:
                rest //= prime
        if rest == 1:
            return best
        best += 2
