"""What a pixel is described by: principal bands, and the amplitudes of waves of several lengths and directions."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ktex_model.model import Sample
from ktex_model.texture.filters import Floats, Mask, blur, even_size

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


WAVELENGTHS_PX = (3.0, 6.0, 12.0)
"""Of the waves whose amplitudes are features."""

DIRECTIONS = 4
"""In which waves of the first principal band are told apart."""

_OCTAVES, _TURN = 0.5, 0.3 * np.pi
"""Stds of a filter: of the logarithm to base 2 of its frequency, and of its direction."""

_MARGIN_PX = 32
_FILL_PX = 8.0


def describe(levels: Levels) -> Floats:
    """Return the features ``(y, x, feature)`` of each pixel: what it is, and how strongly its surroundings wave.

    All principal bands; square roots of the amplitudes of waves, of the first band in each direction, of the second in
    all directions at once. The amplitude is that of a complex filter, so that it does not swing with the wave itself;
    the root makes it bell-shaped, so that means and covariances describe it.
    """
    principal = levels.smooth[0]
    filled = fill(principal[..., :2], levels.valid)
    waves = amplitudes(filled[..., 0], DIRECTIONS)
    if filled.shape[-1] > 1:
        waves = np.concatenate([waves, amplitudes(filled[..., 1], 1)], -1)
    return np.concatenate([principal, np.sqrt(waves)], -1, dtype=np.float32)


def fill(values: Floats, valid: Mask) -> Floats:
    """Replace what is not valid in ``(y, x, channel)`` by what lies around it: an edge of nothing is no texture."""
    if valid.all():
        return values
    return np.where(valid[..., None], values, blur(values, valid, [_FILL_PX])[0])


def amplitudes(band: Floats, directions: int) -> Floats:
    """Return the amplitudes ``(y, x, filter)`` of the waves in ``(y, x)``, by wavelength, then direction.

    Filters are Gaussian in the logarithm of the frequency and in the direction, and keep one half of the spectrum:
    their response is complex, and its modulus is the amplitude of the waves that they pass. With one direction they
    are rings, and the modulus is that of the real response and of its two Riesz parts.
    """
    padded = np.pad(band, _MARGIN_PX, mode="symmetric")
    shape = tuple(even_size(size) for size in padded.shape)
    spectrum = np.fft.fft2(padded.astype(np.float32), shape)
    fy, fx = (np.fft.fftfreq(shape[0])[:, None], np.fft.fftfreq(shape[1])[None])
    radius, angle = np.hypot(fy, fx), np.arctan2(fy, fx)
    inner = slice(_MARGIN_PX, _MARGIN_PX + band.shape[0]), slice(_MARGIN_PX, _MARGIN_PX + band.shape[1])
    half = slice(None), slice(shape[1] // 2 + 1)
    out = []
    for wavelength in WAVELENGTHS_PX:
        ring = np.exp(-0.5 * (np.log2(np.maximum(radius, 1e-9) * wavelength) / _OCTAVES) ** 2)
        if directions == 1:
            parts = [
                np.fft.irfft2(spectrum[half] * (ring * gain)[half].astype(np.complex64), shape)[inner]
                for gain in _riesz(angle)
            ]
            out.append(np.sqrt(np.square(parts[0]) + np.square(parts[1]) + np.square(parts[2])))
            continue
        for turn in np.arange(directions) * np.pi / directions:
            off = np.angle(np.exp(1j * (angle - turn)))
            gain = (ring * np.exp(-0.5 * (off / _TURN) ** 2)).astype(np.float32)
            out.append(np.abs(np.fft.ifft2(spectrum * gain)[inner]))
    return np.stack(out, -1).astype(np.float32)


def _riesz(angle: NDArray[np.float64]) -> tuple[NDArray[np.complex128], ...]:
    return np.ones_like(angle, np.complex128), -1j * np.cos(angle), -1j * np.sin(angle)
