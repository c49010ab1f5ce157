"""What a pixel is described by: principal bands, band-pass energies and gradients."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ktex_model.model import Sample
from ktex_model.texture.filters import Floats, Mask, blur, pool

SCALES_PX = (0.7, 1.4, 2.8)
"""Stds of the Gaussians between which the band-pass levels lie."""


@dataclass(frozen=True)
class Rotation:
    """Principal bands: decorrelated, of unit variance over the valid pixels of the samples, brightest first.

    Attributes
    ----------
    mean
        ``(band,)``; also the fill value where nothing is seen.
    basis
        ``(band, principal)`` orthonormal.
    scale
        ``(principal,)`` stds; at least a hundredth of the largest, so that noise is not blown up.
    """

    mean: Floats
    basis: Floats
    scale: Floats

    def forward(self, image: Floats) -> Floats:
        """Turn ``(..., band)`` into principal bands."""
        return ((image - self.mean) @ (self.basis / self.scale)).astype(np.float32)

    def backward(self, principal: Floats) -> Floats:
        """Turn principal bands into ``(..., band)``."""
        return (principal @ (self.basis * self.scale).T + self.mean).astype(np.float32)


def fit_rotation(samples: Sequence[Sample]) -> Rotation:
    """Fit principal bands to the valid pixels of all samples."""
    bands = samples[0].image.shape[-1]
    count, total, outer = 0, np.zeros(bands), np.zeros((bands, bands))
    for sample in samples:
        pixels = sample.image[sample.valid].astype(np.float64)
        count, total, outer = count + len(pixels), total + pixels.sum(0), outer + pixels.T @ pixels
    mean = total / count
    variance, basis = np.linalg.eigh(outer / count - np.outer(mean, mean))
    std = np.sqrt(np.maximum(variance[::-1], 0.0))
    basis = basis[:, ::-1] * np.where(basis[:, ::-1].sum(0) < 0, -1.0, 1.0)
    scale = np.maximum(std, 0.01 * std[0]) if std[0] > 1e-6 else np.ones(bands)
    return Rotation(mean.astype(np.float32), basis.astype(np.float32), scale.astype(np.float32))


@dataclass(frozen=True)
class Levels:
    """A window in principal bands, smoothed by `SCALES_PX`: ``smooth[0]`` is the window itself."""

    smooth: tuple[Floats, ...]
    valid: Mask

    @property
    def details(self) -> list[Floats]:
        """Band-pass levels from fine to coarse; with ``smooth[-1]`` they add up to the window."""
        return [fine - coarse for fine, coarse in zip(self.smooth[:-1], self.smooth[1:], strict=True)]


def decompose(principal: Floats, valid: Mask) -> Levels:
    """Split ``(y, x, principal)`` into levels; what is not valid has no influence on what is."""
    held = np.where(valid[..., None], principal, np.float32(0))
    return Levels((held, *blur(held, valid, SCALES_PX)), valid)


def gradient(values: Floats, axis: int) -> Floats:
    """Return central differences per pixel of ``(y, x, channel)``; one-sided at the border."""
    if values.shape[axis] < 2:
        return np.zeros_like(values)
    return np.asarray(np.gradient(values, axis=axis), np.float32)


def describe(levels: Levels) -> Floats:
    """Return the features ``(y, x, feature)`` of each pixel, before any pooling.

    All principal bands; square roots of the band-pass levels of the first two; square roots of the gradients of the
    first at each scale. The root makes energies bell-shaped, so that means and covariances describe them.
    """
    energies = [np.sqrt(np.abs(level[..., :2])) for level in levels.details]
    slopes = [
        np.sqrt(np.abs(scale * gradient(smooth[..., :1], axis)))
        for scale, smooth in zip(SCALES_PX, levels.smooth[1:], strict=True)
        for axis in (0, 1)
    ]
    return np.concatenate([levels.smooth[0], *energies, *slopes], -1, dtype=np.float32)


def local_statistics(levels: Levels, stride: int) -> tuple[Floats, Floats, Mask]:
    """Return mean colours and log energies of cells, from which starts are clustered.

    Returns
    -------
    colour
        ``(y, x, principal)`` means of cells, smoothed by 4 px.
    energy
        ``(y, x, response)`` half the log of the mean squares of band-pass levels and oriented slopes, smoothed by 6 px.
    valid
        ``(y, x)`` cells that hold a valid pixel.
    """
    middle = levels.smooth[2][..., :2]
    down, right = gradient(middle, 0), gradient(middle, 1)
    diagonal = np.float32(np.sqrt(0.5))
    oriented = [down, right, diagonal * (down + right), diagonal * (down - right)]
    squares = np.concatenate([*levels.details, *oriented], -1, dtype=np.float32) ** 2
    colour, valid = pool(levels.smooth[0], levels.valid, stride)
    power, _ = pool(squares, levels.valid, stride)
    (colour,), (power,) = blur(colour, valid, [4 / stride]), blur(power, valid, [6 / stride])
    return colour, np.float32(0.5) * np.log(power + np.float32(1e-6)), valid


def standardise(values: NDArray[np.floating]) -> Floats:
    """Bring the columns of ``(n, feature)`` to mean 0 and std 1; constant ones to 0."""
    mean, std = values.mean(0, dtype=np.float64), values.std(0, dtype=np.float64)
    return np.asarray((values - mean) / np.where(std > 1e-6, std, 1.0), np.float32)
