"""Laws of smoothing: what scipy does, on windows of any shape, with and without gaps."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import ndimage

from ktex_model.texture.filters import blur, gaussian


@pytest.mark.parametrize("shape", [(1, 1), (7, 300), (129, 64), (256, 5)])
@pytest.mark.parametrize("sigma", [0.7, 2.8, 9.0])
def test_smoothing_is_that_of_scipy(shape: tuple[int, int], sigma: float) -> None:
    values = np.random.default_rng(0).normal(size=(*shape, 3)).astype(np.float32)
    radius = int(np.ceil(3 * sigma))
    wanted = ndimage.gaussian_filter(values.astype(float), sigma, mode="constant", radius=radius, axes=(0, 1))
    np.testing.assert_allclose(gaussian(values, sigma), wanted, atol=1e-5)


def test_a_full_window_is_smoothed_as_one_with_a_far_gap() -> None:
    values = np.random.default_rng(1).normal(3, 1, size=(90, 150, 2)).astype(np.float32)
    full = np.ones(values.shape[:2], np.bool_)
    gap = full.copy()
    gap[-1, -1] = False
    for one, other in zip(blur(values, full, [1.4, 2.8]), blur(values, gap, [1.4, 2.8]), strict=True):
        np.testing.assert_allclose(one[:60, :120], other[:60, :120], atol=1e-5)
        np.testing.assert_allclose(one[0, 0], other[0, 0], atol=1e-5)
