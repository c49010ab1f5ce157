"""What the baselines cluster: colours, local statistics of texture, and Gabor energies."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from benchmarks.quality.scenes import Field, Scene


@dataclass(frozen=True)
class Tuning:
    """What is tuned of the local statistics; the defaults are best on the made scenes of scene seed 100.

    Attributes
    ----------
    window_px
        Std of the Gaussian window in which energies are averaged; colours are averaged in one of two thirds of it.
    colour_weight
        Factor of the colours against the energies, all of unit variance before.
    whiten
        Principal components to keep and bring to unit variance; 0: none.
    """

    window_px: float = 3.0
    colour_weight: float = 2.0
    whiten: int = 0


def colours(scene: Scene) -> list[Field]:
    """Return the bands of each image, standardised together."""
    return standardise(list(scene.images), scene)


def local_statistics(scene: Scene, tuning: Tuning) -> list[Field]:
    """Return local means of the bands and logarithms of local energies of 7 filters on 2 principal components.

    The filters are three differences of Gaussians (1, 2, 4 and 8 px) and derivatives in four directions at 1.4 px.
    """
    parts = [_energies(image, _filters, tuning.window_px) for image in principal_bands(scene, 2)]
    return _joined(scene, parts, tuning)


def gabor_energies(scene: Scene, tuning: Tuning) -> list[Field]:
    """Return local means of the bands and logarithms of local energies of 4 wavelengths in 6 directions each."""
    parts = [_energies(image, _gabor, tuning.window_px) for image in principal_bands(scene, 1)]
    return _joined(scene, parts, tuning)


def principal_bands(scene: Scene, count: int) -> list[Field]:
    """Return the leading principal components of the bands of each image, of all images together."""
    pixels = _valid_pixels(list(scene.images), scene)
    variance, basis = np.linalg.eigh(np.cov(pixels, rowvar=False))
    lead = basis[:, np.argsort(variance)[::-1][:count]]
    return [np.asarray((image - pixels.mean(0)) @ lead, np.float32) for image in scene.images]


def standardise(parts: Sequence[Field], scene: Scene) -> list[Field]:
    """Bring each feature to mean 0 and standard deviation 1 over the valid pixels of all images."""
    pixels = _valid_pixels(parts, scene)
    mean, std = pixels.mean(0), np.maximum(pixels.std(0), 1e-6)
    return [np.asarray((part - mean) / std, np.float32) for part in parts]


def _joined(scene: Scene, energies: Sequence[Field], tuning: Tuning) -> list[Field]:
    sigma = tuning.window_px * 2 / 3
    means = [ndimage.gaussian_filter(image, (sigma, sigma, 0), mode="reflect") for image in scene.images]
    coloured, textured = standardise(means, scene), standardise(energies, scene)
    parts = [np.concatenate([tuning.colour_weight * c, t], axis=-1) for c, t in zip(coloured, textured, strict=True)]
    return _whitened(parts, scene, tuning.whiten) if tuning.whiten else parts


def _whitened(parts: Sequence[Field], scene: Scene, components: int) -> list[Field]:
    pixels = _valid_pixels(parts, scene)
    variance, basis = np.linalg.eigh(np.cov(pixels, rowvar=False))
    lead = np.argsort(variance)[::-1][:components]
    change = basis[:, lead] / np.sqrt(np.maximum(variance[lead], 1e-6))
    return [np.asarray((part - pixels.mean(0)) @ change, np.float32) for part in parts]


def _energies(image: Field, responses: Callable[[Field], list[Field]], window_px: float) -> Field:
    energy = [
        np.log(ndimage.gaussian_filter(response**2, window_px, mode="reflect") + 1e-7)
        for band in np.moveaxis(image, -1, 0)
        for response in responses(band)
    ]
    return np.stack(energy, axis=-1).astype(np.float32)


def _filters(band: Field) -> list[Field]:
    levels = [ndimage.gaussian_filter(band, sigma, mode="reflect") for sigma in (1.0, 2.0, 4.0, 8.0)]
    differences = [fine - coarse for fine, coarse in pairwise(levels)]
    along_y = ndimage.gaussian_filter(band, 1.4, order=(1, 0), mode="reflect")
    along_x = ndimage.gaussian_filter(band, 1.4, order=(0, 1), mode="reflect")
    turns = np.deg2rad([0, 45, 90, 135])
    return differences + [np.cos(turn) * along_x + np.sin(turn) * along_y for turn in turns]


def _gabor(band: Field) -> list[Field]:
    """Return magnitudes of complex Gabor responses, one octave and 30 degrees wide, by the Fourier transform."""
    margin = 16
    padded = np.pad(band, margin, mode="reflect")
    spectrum = np.fft.fft2(padded)
    fy, fx = np.fft.fftfreq(padded.shape[0])[:, None], np.fft.fftfreq(padded.shape[1])[None]
    inner = (slice(margin, -margin),) * 2
    responses = []
    for wavelength_px in (3.0, 6.0, 12.0, 24.0):
        for degrees in range(0, 180, 30):
            turn, frequency = np.deg2rad(degrees), 1 / wavelength_px
            along = fx * np.cos(turn) + fy * np.sin(turn)
            across = fy * np.cos(turn) - fx * np.sin(turn)
            gain = np.exp(-0.5 * ((along - frequency) ** 2 + across**2) / (frequency * 0.28) ** 2)
            responses.append(np.abs(np.fft.ifft2(spectrum * gain)[inner]).astype(np.float32))
    return responses


def _valid_pixels(parts: Sequence[NDArray[np.float32]], scene: Scene) -> NDArray[np.float32]:
    return np.concatenate([part[valid] for part, valid in zip(parts, scene.valids, strict=True)])
