"""Textures generated from noise, one generator per class, fitted in closed form.

White noise is coloured by a kernel whose output has the covariance between all bands at all displacements up to a
radius that the class has in the image, so that the covariance of any short linear filter bank is matched. Then the
levels of the result are mapped, each by a monotone function, to the marginals that the class's levels have: Gaussian
noise becomes as sparse, skewed or bimodal as the texture is.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from ktex_model.texture.clustering import Ints
from ktex_model.texture.features import SCALES_PX, Levels, decompose
from ktex_model.texture.filters import Floats, Mask, blur, even_size

PROBABILITIES = np.concatenate([[0.001, 0.005, 0.01, 0.025], np.linspace(0.05, 0.95, 19), [0.975, 0.99, 0.995, 0.999]])
"""Where the marginals are held."""

LEVEL_REACH_PX = int(np.ceil(3 * SCALES_PX[-1]))
"""How far one matching of the levels reaches."""

FIT_SIDE_PX = 160
"""Side of the generated patch from which the marginals are matched."""

PURE, LEAST_PURE = 0.98, 2000
"""Share of its own class from which a pixel tells of it; how many pixels count, though less pure."""

TABLED_PX = 40_000
"""Most pixels, evenly spread, from which quantiles are taken."""

_TILE_PX = 256

_Scalar = TypeVar("_Scalar", bound=np.generic)


@dataclass(frozen=True)
class Generators:
    """One texture generator for each class, in principal bands.

    Attributes
    ----------
    mean
        ``(k, principal)``.
    kernel
        ``(k, principal, principal, 2 r + 1, 2 r + 1)``: colours noise (second axis) into bands (first axis).
    maps
        ``(rounds, k, level, principal, 2, probability)``: quantiles before and after each matching, strictly
        increasing before.
    """

    mean: Floats
    kernel: Floats
    maps: Floats

    @property
    def margin_px(self) -> int:
        """How far a pixel of noise reaches."""
        return int(self.kernel.shape[-1]) // 2 + len(self.maps) * LEVEL_REACH_PX

    def generate(self, c: int, noise: Floats) -> Floats:
        """Turn noise ``(y + 2 margin, x + 2 margin, principal)`` into the texture ``(y, x, principal)`` of class c."""
        field: Floats = colour_noise(noise, self.kernel[c]) + self.mean[c]
        for tables in self.maps[:, c]:
            field = _inner(match_levels(field, tables), LEVEL_REACH_PX)
        return field


def _inner(field: NDArray[_Scalar], margin: int) -> NDArray[_Scalar]:
    inner: NDArray[_Scalar] = field[margin : field.shape[0] - margin, margin : field.shape[1] - margin]
    return inner


def colour_noise(noise: Floats, kernel: Floats) -> Floats:
    """Convolve ``(y, x, in)`` noise with ``(out, in, 2 r + 1, 2 r + 1)``; returns the part that has seen it all."""
    side = kernel.shape[-1]
    shape = tuple(even_size(size) for size in noise.shape[:2])
    waves = np.fft.rfft2(noise, shape, axes=(0, 1))
    gains = np.fft.rfft2(kernel, shape, axes=(2, 3))
    mixed = np.einsum("oiyx,yxi->yxo", gains, waves, optimize=True)
    field = np.fft.irfft2(mixed, shape, axes=(0, 1))
    return field[side - 1 : noise.shape[0], side - 1 : noise.shape[1]].astype(np.float32)


def match_levels(field: Floats, tables: Floats) -> Floats:
    """Map each level of ``(y, x, principal)`` by its quantile table ``(level, principal, 2, probability)``."""
    out = np.zeros_like(field)
    for level, table in zip(split(_whole(field)), tables, strict=True):
        for band in range(field.shape[-1]):
            out[..., band] += look_up(level[..., band], *table[band])
    return out


def split(levels: Levels) -> tuple[Floats, ...]:
    """Return the levels that add up to a window, from fine to coarse."""
    return (*levels.details, levels.smooth[-1])


def _whole(field: Floats) -> Levels:
    return decompose(field, np.ones(field.shape[:2], np.bool_))


_STEPS = 4096


def look_up(values: Floats, before: Floats, after: Floats) -> Floats:
    """Map values by a piecewise linear function through ``before`` (increasing) and ``after``, constant beyond.

    The function is laid out in `_STEPS` equal steps first: several times quicker than a search for each value.
    """
    first, last = float(before[0]), float(before[-1])
    steps = np.interp(np.linspace(first, last, _STEPS), before, after).astype(np.float32)
    at = (values - np.float32(first)) * np.float32((_STEPS - 1) / (last - first))
    return np.asarray(steps[np.clip(np.rint(at), 0, _STEPS - 1).astype(np.int32)])


def quantile_tables(levels: Sequence[Floats]) -> Floats:
    """Return the quantiles ``(level, principal, probability)`` of each level's values ``(n, principal)``."""
    return np.stack([np.quantile(level, PROBABILITIES, axis=0).T for level in levels]).astype(np.float32)


def class_covariance(
    windows: Sequence[Floats], members: Sequence[Mask], mean: Floats, radius: int
) -> NDArray[np.float64]:
    """Return the covariance between bands at all displacements, over pairs of pixels that both are members.

    Parameters
    ----------
    windows
        ``(y, x, principal)`` each.
    members
        ``(y, x)`` bool each.
    mean
        ``(principal,)`` of the members.
    radius
        Largest displacement along y and x.

    Returns
    -------
    ``(principal, principal, 2 radius + 1, 2 radius + 1)``; displacement 0 in the middle; rare pairs shrink towards 0.
    """
    bands = windows[0].shape[-1]
    side = even_size(_TILE_PX + radius)
    power = np.zeros((bands, bands, side, side // 2 + 1), np.complex128)
    pairs = np.zeros((side, side // 2 + 1))
    for tile, mask in _tiles(windows, members):
        waves = np.fft.rfft2(np.where(mask[..., None], tile - mean, np.float32(0)), (side, side), axes=(0, 1))
        for i in range(bands):
            for j in range(bands):
                power[i, j] += waves[..., i] * np.conj(waves[..., j])
        pairs += np.abs(np.fft.rfft2(mask.astype(np.float32), (side, side))) ** 2
    near = np.arange(-radius, radius + 1)
    rows, columns = near[:, None] % side, near[None, :] % side
    total = np.fft.irfft2(power, (side, side))[..., rows, columns]
    count = np.maximum(np.fft.irfft2(pairs, (side, side))[rows, columns], 0)
    return total / (count + 1.0)


def _tiles(windows: Sequence[Floats], members: Sequence[Mask]) -> Iterator[tuple[Floats, Mask]]:
    for window, member in zip(windows, members, strict=True):
        for y in range(0, member.shape[0], _TILE_PX):
            for x in range(0, member.shape[1], _TILE_PX):
                mask = member[y : y + _TILE_PX, x : x + _TILE_PX]
                if mask.any():
                    yield window[y : y + _TILE_PX, x : x + _TILE_PX], mask


def _root(matrix: NDArray[Any]) -> NDArray[Any]:
    values, vectors = np.linalg.eigh(matrix)
    root: NDArray[Any] = (vectors * np.sqrt(np.maximum(values, 0))[..., None, :]) @ np.conj(
        np.swapaxes(vectors, -1, -2)
    )
    return root


def colouring_kernel(covariance: NDArray[np.float64]) -> Floats:
    """Return the kernel that colours white noise to a covariance over displacements.

    The covariance is brought smoothly to 0 at its radius, its spectrum is made positive semidefinite, and the kernel
    is the spectrum's root, scaled so that the covariance at displacement 0 is met exactly.
    """
    radius = covariance.shape[-1] // 2
    y, x = np.mgrid[-radius : radius + 1, -radius : radius + 1]
    fade = np.clip((np.hypot(y, x) / (radius + 1) - 0.5) * 2, 0, 1)
    side = 4 * radius + 2
    laid = np.zeros((*covariance.shape[:2], side, side))
    laid[..., y % side, x % side] = covariance * np.cos(0.5 * np.pi * fade) ** 2
    spectrum = np.moveaxis(np.fft.fft2(laid), (0, 1), (2, 3))
    root = _root((spectrum + np.conj(np.swapaxes(spectrum, 2, 3))) / 2)
    kernel = np.fft.ifft2(np.moveaxis(root, (2, 3), (0, 1))).real[..., y % side, x % side]
    here = covariance[..., radius, radius]
    values, vectors = np.linalg.eigh(np.einsum("aiyx,biyx->ab", kernel, kernel))
    inverse = (vectors / np.sqrt(np.maximum(values, 1e-12 * max(values.max(), 1e-30)))) @ vectors.T
    gain = _root((here + here.T) / 2).real @ inverse if values.max() > 1e-12 else np.zeros_like(here)
    return np.asarray(np.einsum("ab,biyx->aiyx", gain, kernel), np.float32)


def fit_generators(
    windows: Sequence[Levels], labels: Sequence[Ints], k: int, *, radius: int, rounds: int, seed: int
) -> Generators:
    """Fit one generator to each class.

    Parameters
    ----------
    windows
        The samples in principal bands, with their levels and validity.
    labels
        ``(y, x)`` class of every pixel of each window; pixels that are not valid count for nothing.
    k
        Number of classes; one without pixels gets a flat texture at the mean of all.
    radius
        Reach of the spatial colouring in pixels.
    rounds
        Matchings of the levels' marginals.
    seed
        Of the noise from which the matchings are fitted.
    """
    principal = windows[0].smooth[0].shape[-1]
    mean = np.zeros((k, principal), np.float32)
    kernel = np.zeros((k, principal, principal, 2 * radius + 1, 2 * radius + 1), np.float32)
    maps = np.zeros((rounds, k, len(SCALES_PX) + 1, principal, 2, len(PROBABILITIES)), np.float32)
    maps[..., 0, :] = np.linspace(-1, 1, len(PROBABILITIES))
    rng = np.random.default_rng((seed, 7))
    side = FIT_SIDE_PX + 2 * (radius + rounds * LEVEL_REACH_PX)
    noise = rng.standard_normal((side, side, principal), np.float32)
    images = [levels.smooth[0] for levels in windows]
    bands = [split(levels) for levels in windows]
    for c in range(k):
        members = [(label == c) & levels.valid for label, levels in zip(labels, windows, strict=True)]
        if not any(member.any() for member in members):
            continue
        mean[c] = np.concatenate([image[member] for image, member in zip(images, members, strict=True)]).mean(0)
        kernel[c] = colouring_kernel(class_covariance(images, members, mean[c], radius))
        maps[:, c] = _fit_maps(noise, kernel[c], mean[c], _real_tables(windows, bands, members), rounds)
    return Generators(mean, kernel, maps)


def _real_tables(windows: Sequence[Levels], bands: Sequence[Sequence[Floats]], members: Sequence[Mask]) -> Floats:
    """Return the quantiles of each level over the members around which it sees their own class alone.

    At a border a level shows the neighbours as well; of small and narrow classes the best `LEAST_PURE` pixels count.
    """
    purities = [purity(member, levels.valid) for member, levels in zip(members, windows, strict=True)]
    pooled = np.concatenate(purities)
    least = len(pooled) - min(len(pooled), LEAST_PURE)
    floors = np.minimum(np.partition(pooled, least, axis=0)[least], np.float32(PURE))
    tables = []
    for i, floor in enumerate(floors):
        parts = [
            band[i][member][pure[:, i] >= floor] for band, member, pure in zip(bands, members, purities, strict=True)
        ]
        values = np.concatenate(parts)
        tables.append(values[:: max(1, len(values) // TABLED_PX)])
    return quantile_tables(tables)


def purity(member: Mask, valid: Mask) -> Floats:
    """Return for each member how much of what each level sees there belongs to the class, ``(n, level)`` in 0..1.

    A level is as pure as the wider of its two Gaussians.
    """
    seen = blur(member[..., None].astype(np.float32), valid, SCALES_PX)
    return np.concatenate([*seen, seen[-1]], -1)[member]


def _fit_maps(noise: Floats, kernel: Floats, mean: Floats, real: Floats, rounds: int) -> Floats:
    field = colour_noise(noise, kernel) + mean
    tables = np.zeros((rounds, *real.shape[:2], 2, real.shape[2]), np.float32)
    rising = np.linspace(0, 1e-4, real.shape[-1], dtype=np.float32)
    for table in tables:
        inner = [_inner(band, LEVEL_REACH_PX).reshape(-1, field.shape[-1]) for band in split(_whole(field))]
        table[:, :, 0] = quantile_tables([band[:: max(1, len(band) // TABLED_PX)] for band in inner]) + rising
        table[:, :, 1] = real
        field = _inner(match_levels(field, table), LEVEL_REACH_PX)
    return tables
