"""Laws of the statistics behind assignments, against plain definitions and scipy's."""

from __future__ import annotations

from itertools import combinations

import numpy as np
import pytest
from scipy import stats

from ktex_model.texture.assignment import FREEDOM, Cells, Moments, log_likelihood, upsample
from ktex_model.texture.clustering import merge_losses, mutual_information
from ktex_model.texture.coherence import coherent_components, shared_covariance, smoothed


def test_what_a_merge_loses_is_the_information_before_less_that_after() -> None:
    counts = np.random.default_rng(0).gamma(1.0, size=(5, 5))
    joint = counts + counts.T
    losses = merge_losses(joint)
    for i, j in combinations(range(5), 2):
        groups = np.arange(5)
        groups[j] = i
        merged = np.zeros((5, 5))
        np.add.at(merged, (groups[:, None].repeat(5, 1), groups[None].repeat(5, 0)), joint)
        expected = mutual_information(joint) - mutual_information(merged)
        assert losses[i, j] == pytest.approx(expected, abs=1e-12)
        assert losses[j, i] == pytest.approx(expected, abs=1e-12)
    assert np.isinf(np.diag(losses)).all()


def test_likelihoods_are_those_of_a_multivariate_t() -> None:
    rng = np.random.default_rng(0)
    mean, factors = rng.standard_normal((2, 3)), rng.standard_normal((2, 3, 3))
    covariance = factors @ factors.transpose(0, 2, 1) + np.eye(3)
    moments = Moments(np.array([9.0, 0.0, 9.0]), mean[[0, 0, 1]], covariance[[0, 0, 1]])
    features = rng.standard_normal((50, 3)).astype(np.float32)
    found = log_likelihood(features, moments)
    expected = np.stack(
        [stats.multivariate_t(m, s, df=FREEDOM).logpdf(features) for m, s in zip(mean, covariance, strict=True)], 1
    )
    np.testing.assert_allclose(found[:, 0] - found[:, 2], expected[:, 0] - expected[:, 1], atol=1e-4)
    assert (found[:, 1] < found[:, [0, 2]].min(1) - 1e6).all(), "a class without cells must take none"


def test_coherent_components_change_by_one_over_the_distance_and_the_most_coherent_leads() -> None:
    rng = np.random.default_rng(0)
    y, _ = np.mgrid[:80, :80]
    features = rng.standard_normal((80, 80, 3))
    features[..., 2] += 3 * np.sin(2 * np.pi * y / 80)  # all else is noise
    cells = Cells(features.reshape(-1, 3).astype(np.float32), (np.ones((80, 80), bool),), 4)
    found = coherent_components(cells, 6.0, 16)
    values = found.astype(np.float64) - found.mean(0)
    change = values.T @ values / len(values) - shared_covariance(cells, values.astype(np.float32), 4)
    np.testing.assert_allclose(change, np.eye(3), atol=0.05)
    wave = np.sin(2 * np.pi * y / 80).ravel()
    assert abs(np.corrcoef(found[:, 0], wave)[0, 1]) > 0.95
    assert abs(np.corrcoef(smoothed(cells, cells.features, 6.0)[:, 0], wave)[0, 1]) < 0.1


def test_cells_are_laid_out_on_the_pixels_around_them() -> None:
    laid = upsample([np.array([[0, 1], [2, -1]])], 2, [(4, 4)])[0]
    assert laid[:2, :2].tolist() == [[0, 0], [0, 0]]
    assert set(np.unique(laid)) <= {-1, 0, 1, 2}
    assert (laid[1::2, 1::2] == [[0, 1], [2, -1]]).all()
