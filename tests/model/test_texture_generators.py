"""Laws of the texture generators, held against filters and statistics that their fit does not use."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy import ndimage, signal, stats

from ktex_model.noise import noise_window
from ktex_model.texture.features import decompose
from ktex_model.texture.generators import (
    Generators,
    class_covariance,
    colour_noise,
    colouring_kernel,
    fit_generators,
    look_up,
    split,
)

SIDE = 160


def texture(kind: str, seed: int = 0) -> NDArray[np.float32]:
    """Two bands, correlated across space and with each other; `kind` decides the marginals."""
    rng = np.random.default_rng(seed)
    one = ndimage.gaussian_filter(rng.standard_normal((SIDE, SIDE)), (0.8, 2.5))
    two = np.roll(one, 2, 0) + 0.7 * ndimage.gaussian_filter(rng.standard_normal((SIDE, SIDE)), 1.0)
    field = np.stack([one / one.std(), two / two.std()], -1)
    return (np.exp(0.6 * field) if kind == "skewed" else field).astype(np.float32)


def gabors() -> list[NDArray[np.float64]]:
    y, x = np.mgrid[-7:8, -7:8]
    envelope = np.exp(-(x**2 + y**2) / (2 * 2.5**2))
    return [
        envelope * np.cos(2 * np.pi * (x * np.cos(angle) + y * np.sin(angle)) / period)
        for angle in np.deg2rad([0, 30, 60, 90, 120, 150])
        for period in (3.0, 5.0, 9.0)
    ]


def responses(image: NDArray[np.float32]) -> NDArray[np.float64]:
    """(n, 2 * filters) responses of an image to filters that no part of the package uses."""
    parts = [signal.fftconvolve(image[..., band].astype(float), g, mode="valid") for band in (0, 1) for g in gabors()]
    return np.stack([part.ravel() for part in parts], -1)


def fit(image: NDArray[np.float32], rounds: int = 2) -> Generators:
    windows = [decompose(image, np.ones(image.shape[:2], np.bool_))]
    return fit_generators(windows, [np.zeros(image.shape[:2], np.int64)], 2, radius=10, rounds=rounds, seed=0)


def draw(generators: Generators, c: int, seed: int, side: int = SIDE) -> NDArray[np.float32]:
    margin = generators.margin_px
    bands = generators.mean.shape[1]
    return generators.generate(
        c, noise_window(seed, c, -margin, -margin, (side + 2 * margin, side + 2 * margin), bands)
    )


@pytest.mark.parametrize("kind", ["normal", "skewed"])
def test_covariance_of_a_filter_bank_that_was_not_used_is_matched(kind: str) -> None:
    real = texture(kind)
    made = draw(fit(real), 0, seed=4)
    want, got = np.cov(responses(real), rowvar=False), np.cov(responses(made), rowvar=False)
    variances = np.abs(np.diag(got) / np.diag(want) - 1)
    assert np.median(variances) < 0.15
    scale = np.sqrt(np.outer(np.diag(want), np.diag(want)))
    assert np.median(np.abs(got - want) / scale) < 0.15
    # White noise of the same variance does not pass, so the law is not empty.
    white = np.random.default_rng(0).standard_normal(real.shape).astype(np.float32) * real.std((0, 1))
    assert np.median(np.abs(np.diag(np.cov(responses(white), rowvar=False)) / np.diag(want) - 1)) > 0.3


def test_marginals_are_matched() -> None:
    real = texture("skewed")
    matched, plain = (draw(fit(real, rounds), 0, seed=4) for rounds in (2, 0))
    distances = [stats.ks_2samp(real[..., 0].ravel(), made[..., 0].ravel()).statistic for made in (matched, plain)]
    assert distances[0] < 0.7 * distances[1]
    np.testing.assert_allclose(matched.mean((0, 1)), real.mean((0, 1)), rtol=0.1)


def test_neighbours_of_a_narrow_class_do_not_leak_into_its_texture() -> None:
    image, labels = texture("normal"), np.zeros((SIDE, SIDE), np.int64)
    labels[:, np.arange(SIDE) % 40 < 14] = 1
    other = np.where(labels[..., None] == 1, image + 8, image)
    windows = [decompose(other, np.ones(labels.shape, np.bool_))]
    generators = fit_generators(windows, [labels], 2, radius=10, rounds=2, seed=0)
    for c, shift in ((0, 0.0), (1, 8.0)):
        coarse = draw(generators, c, seed=4)
        coarse = split(decompose(coarse, np.ones(coarse.shape[:2], np.bool_)))[-1]
        wanted = split(decompose(image, np.ones(labels.shape, np.bool_)))[-1]
        np.testing.assert_allclose(coarse.mean((0, 1)) - shift, wanted.mean((0, 1)), atol=0.35)
        np.testing.assert_allclose(coarse.std((0, 1)), wanted.std((0, 1)), rtol=0.35)


def test_functions_are_looked_up_as_they_are_interpolated() -> None:
    rng = np.random.default_rng(0)
    before, after = (np.sort(rng.uniform(-2, 2, 27)).astype(np.float32) for _ in range(2))
    values = rng.normal(0, 2, (40, 50)).astype(np.float32)
    steepest = float((np.diff(after) / np.diff(before)).max())
    found = look_up(values, before, after)
    np.testing.assert_allclose(found, np.interp(values, before, after), atol=steepest * 4 / 4096)
    assert (found.min(), found.max()) == (after[0], after[-1])


def test_kernel_meets_the_covariance_at_no_displacement_exactly() -> None:
    image = texture("normal")
    members = np.zeros(image.shape[:2], np.bool_)
    members[20:150, 5:120] = True
    mean = image[members].mean(0)
    kernel = colouring_kernel(class_covariance([image], [members], mean, 6)).astype(np.float64)
    got = np.einsum("aiyx,biyx->ab", kernel, kernel)
    np.testing.assert_allclose(got, np.cov(image[members], rowvar=False), rtol=2e-3)


def test_kernel_of_one_band_is_symmetric_about_its_middle() -> None:
    """So is the covariance of one band; a texture lies where its noise lies."""
    image = texture("normal")[..., :1]
    everywhere = np.ones(image.shape[:2], np.bool_)
    kernel = colouring_kernel(class_covariance([image], [everywhere], image.mean((0, 1)), 6))[0, 0]
    np.testing.assert_allclose(kernel, kernel[::-1, ::-1], atol=1e-4 * np.abs(kernel).max())
    assert kernel.argmax() == kernel.size // 2
    # Along the streaks of this texture the kernel is long.
    assert kernel[6, 8] > kernel[8, 6] + 0.05 * kernel.max()


def test_bands_lag_each_other_the_same_way_as_in_the_image() -> None:
    """The second band follows the first two rows below: a mirrored kernel would put it above."""

    def lags(image: NDArray[np.float32]) -> list[float]:
        one, two = image[..., 0], image[..., 1]
        pairs = (one[:-2], two[2:]), (one[2:], two[:-2])
        return [float(np.corrcoef(a.ravel(), b.ravel())[0, 1]) for a, b in pairs]

    real = texture("normal")
    below, above = lags(real)
    assert below > above + 0.5
    np.testing.assert_allclose(lags(draw(fit(real), 0, seed=4)), [below, above], atol=0.15)


def test_covariance_at_a_displacement_is_that_of_the_pairs() -> None:
    image = texture("normal")
    members = np.random.default_rng(1).random(image.shape[:2]) < 0.6
    mean = image[members].mean(0)
    covariance = class_covariance([image], [members], mean, 5)
    both = members[3:, 2:] & members[:-3, :-2]
    later, earlier = (image[3:, 2:] - mean)[both], (image[:-3, :-2] - mean)[both]
    np.testing.assert_allclose(covariance[:, :, 5 + 3, 5 + 2], later.T @ earlier / both.sum(), atol=2e-3)


def test_colouring_is_a_convolution() -> None:
    rng = np.random.default_rng(0)
    noise, kernel = rng.standard_normal((23, 30, 2)).astype("f"), rng.standard_normal((2, 2, 5, 5)).astype("f")
    direct = sum(
        ndimage.convolve(noise[..., i].astype(float), kernel[1, i].astype(float), mode="constant") for i in (0, 1)
    )
    np.testing.assert_allclose(colour_noise(noise, kernel)[..., 1], np.asarray(direct)[2:-2, 2:-2], atol=1e-4)


def test_noise_hangs_on_the_place_alone() -> None:
    whole = noise_window(3, 1, -70, -10, (200, 150), 2)
    part = noise_window(3, 1, -20, 40, (90, 61), 2)
    np.testing.assert_array_equal(whole[50:140, 50:111], part)
    assert not np.array_equal(part, noise_window(4, 1, -20, 40, (90, 61), 2))
    assert not np.array_equal(part, noise_window(3, 2, -20, 40, (90, 61), 2))
    assert abs(whole.mean()) < 0.02
    assert abs(whole.std() - 1) < 0.02


def test_a_class_without_pixels_has_a_flat_texture() -> None:
    made = draw(fit(texture("normal")), 1, seed=0, side=20)
    np.testing.assert_array_equal(made, np.zeros_like(made))
