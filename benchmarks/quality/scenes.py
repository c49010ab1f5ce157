"""Made scenes of exact truth: six textures on three colours, 4 bands, float 0..1.

Colours cannot tell the two textures of a pair apart: over its pixels each class has the mean and the spread of its
pair exactly, before illumination drift and noise are added. What differs within a pair is scale, direction or form.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

Field = NDArray[np.float32]
Draw = Callable[[np.random.Generator, tuple[int, int]], Field]

K = 6
PAIRS = ((0, 1), (2, 3), (4, 5))
"""Classes that share their colour."""

_MEANS = np.array([[0.16, 0.22, 0.15, 0.55], [0.26, 0.30, 0.24, 0.46], [0.36, 0.36, 0.35, 0.40]])
_SPREAD = np.array([0.05, 0.055, 0.06, 0.07])


@dataclass(frozen=True, eq=False)
class Scene:
    """Images that are clustered together, and the truth of their pixels.

    Attributes
    ----------
    name
        Of the scene in tables.
    k
        Number of classes to look for.
    images
        Each ``(y, x, band)`` float32 in 0..1.
    truths
        Each ``(y, x)`` uint8; 255 where nothing is scored.
    valids
        Each ``(y, x)`` bool; what is False is neither learnt from nor scored.
    """

    name: str
    k: int
    images: tuple[Field, ...]
    truths: tuple[NDArray[np.uint8], ...]
    valids: tuple[NDArray[np.bool_], ...]


@dataclass(frozen=True)
class Recipe:
    """How a made scene is drawn.

    Attributes
    ----------
    textures
        One for each class.
    region_px
        Correlation length of the regions' shapes.
    stretch
        How much longer regions are than wide.
    drift
        Amplitude of a smooth factor of illumination over the scene.
    noise
        Std of independent noise of every pixel and band.
    contrast
        Factor of the spread within classes.
    """

    textures: tuple[Draw, ...]
    region_px: float = 28.0
    stretch: float = 1.0
    drift: float = 0.0
    noise: float = 0.01
    contrast: float = 1.0


def grain(wavelength_px: float, band: float = 0.35) -> Draw:
    """Return isotropic noise about one wavelength, `band` of it wide."""

    def draw(rng: np.random.Generator, shape: tuple[int, int]) -> Field:
        return _shape_noise(rng, shape, lambda fy, fx: _ring(np.hypot(fy, fx), wavelength_px, band))

    return draw


def rows(wavelength_px: float, degrees: float, spread_degrees: float = 20.0) -> Draw:
    """Return noise of one direction: waves that run at `degrees`, as far as their directions scatter."""

    def draw(rng: np.random.Generator, shape: tuple[int, int]) -> Field:
        def gain(fy: Field, fx: Field) -> Field:
            turn = np.angle(np.exp(2j * (np.arctan2(fy, fx) - np.deg2rad(degrees)))) / 2
            return _ring(np.hypot(fy, fx), wavelength_px, 0.35) * np.exp(
                -0.5 * (turn / np.deg2rad(spread_degrees)) ** 2
            )

        return _shape_noise(rng, shape, gain)

    return draw


def blobs(wavelength_px: float) -> Draw:
    """Return noise pressed to two levels, such as crowns and gaps."""
    return lambda rng, shape: np.tanh(3 * grain(wavelength_px)(rng, shape))


def cells(side_px: float) -> Draw:
    """Return cells of random value about random points, such as fields and roofs."""

    def draw(rng: np.random.Generator, shape: tuple[int, int]) -> Field:
        count = max(4, round(shape[0] * shape[1] / side_px**2))
        seeds = np.zeros(shape, np.int64)
        places = rng.choice(shape[0] * shape[1], count, replace=False)
        seeds.ravel()[places] = np.arange(1, count + 1)
        y, x = ndimage.distance_transform_edt(seeds == 0, return_distances=False, return_indices=True)
        return rng.standard_normal(count + 1).astype(np.float32)[seeds[y, x]]

    return draw


RECIPES = {
    "shared": Recipe((grain(4), grain(9), rows(7, 30), grain(7), blobs(8), rows(6, 120))),
    "scales": Recipe((grain(3), grain(6), grain(4.5), grain(9), grain(6), grain(14)), region_px=32.0),
    "oriented": Recipe((rows(6, 0), rows(6, 90), rows(8, 45), rows(8, 135), rows(5, 20), rows(5, 80))),
    "drift": Recipe((grain(4), rows(7, 60), grain(6), cells(8), rows(8, 0), grain(10)), drift=0.16),
    "noise": Recipe((grain(5), grain(11), rows(8, 30), rows(8, 120), blobs(9), grain(6)), noise=0.04),
    "elongated": Recipe(
        (grain(3.5), grain(8), rows(6, 0), grain(6), blobs(7), rows(5, 60)), region_px=15.0, stretch=3.0
    ),
    "forms": Recipe((cells(7), grain(9), blobs(6), grain(6), rows(9, 75), cells(10)), contrast=1.2),
}
"""The made scenes by name."""


def make_scene(name: str, size_px: int = 512, seed: int = 0) -> Scene:
    """Draw a made scene: equal arguments, equal pixels.

    Parameters
    ----------
    name
        One of `RECIPES`.
    size_px
        Side of the scene.
    seed
        What it is drawn from.
    """
    recipe = RECIPES[name]
    rng = np.random.default_rng((seed, *name.encode()))
    truth = draw_regions(rng, (size_px, size_px), recipe)
    image = light(rng, paint(rng, truth, recipe), recipe)
    return Scene(name, K, (image,), (truth,), (np.ones(truth.shape, bool),))


def draw_regions(rng: np.random.Generator, shape: tuple[int, int], recipe: Recipe) -> NDArray[np.uint8]:
    """Draw the classes ``(y, x)`` uint8: at each pixel the highest of as many smooth fields, of equal shares."""
    sigma = recipe.region_px / np.sqrt(recipe.stretch), recipe.region_px * np.sqrt(recipe.stretch)
    scores = np.stack([_smooth(rng, shape, sigma) for _ in range(K)])
    bias = np.zeros((K, 1, 1))
    for _ in range(30):
        truth = (scores + bias).argmax(0).astype(np.uint8)
        shares = np.bincount(truth.ravel(), minlength=K) / truth.size
        bias += 0.5 * (1 / K - shares)[:, None, None] * K / 2
    return truth


def paint(rng: np.random.Generator, truth: NDArray[np.uint8], recipe: Recipe) -> Field:
    """Paint each class: its pair's mean and spread in each band exactly, its own texture. ``(y, x, band)`` float32."""
    image = np.zeros((*truth.shape, len(_SPREAD)), np.float32)
    for label, draw in enumerate(recipe.textures):
        mask = truth == label
        common = draw(rng, truth.shape)
        for band, spread in enumerate(_SPREAD):
            # Near infrared varies partly by itself, as vegetation makes it.
            own = 0.25 if band < 3 else 0.6
            pattern = _standardise(common)[mask] + own * _standardise(draw(rng, truth.shape))[mask]
            image[mask, band] = _MEANS[label // 2, band] + recipe.contrast * spread * _standardise(pattern)
    return image


def light(rng: np.random.Generator, image: Field, recipe: Recipe) -> Field:
    """Add illumination drift and noise, and keep within 0..1."""
    shape = image.shape[:2]
    factor = 1 + recipe.drift * np.tanh(_smooth(rng, shape, (shape[0] / 4, shape[1] / 4)))
    noise = rng.normal(0, recipe.noise, image.shape)
    return np.clip(image * factor[..., None] + noise, 0, 1).astype(np.float32)


def _ring(frequency: Field, wavelength_px: float, band: float) -> Field:
    return np.exp(-0.5 * (np.log2(np.maximum(frequency, 1e-6) * wavelength_px) / band) ** 2)


def _shape_noise(rng: np.random.Generator, shape: tuple[int, int], gain: Callable[[Field, Field], Field]) -> Field:
    fy, fx = np.fft.fftfreq(shape[0])[:, None], np.fft.rfftfreq(shape[1])[None]
    spectrum = np.fft.rfft2(rng.standard_normal(shape)) * gain(fy, fx)
    return _standardise(np.fft.irfft2(spectrum, shape))


def _smooth(rng: np.random.Generator, shape: tuple[int, int], sigma_px: tuple[float, float]) -> Field:
    return _standardise(ndimage.gaussian_filter(rng.standard_normal(shape), sigma_px, mode="reflect"))


def _standardise(values: NDArray[np.floating]) -> Field:
    return ((values - values.mean()) / max(float(values.std()), 1e-9)).astype(np.float32)
