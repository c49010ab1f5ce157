import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import adjusted_rand_score

from benchmarks.scores import (
    BoundaryCounts,
    add_boundaries,
    adjusted_rand,
    bootstrap_difference,
    count_boundaries,
    count_pairs,
    draw_boundaries,
    majority_accuracy,
)


@settings(deadline=None, max_examples=30)
@given(seed=st.integers(0, 10**6), k=st.integers(1, 5), classes=st.integers(1, 5))
def test_many_tables_at_once_have_the_index_of_each(seed, k, classes):
    rng = np.random.default_rng(seed)
    labels, truth = rng.integers(k, size=(4, 30)), rng.integers(classes, size=(4, 30))
    labels[:, :10] = truth[:, :10]
    tables = np.zeros((4, 5, 5), int)
    for table, a, b in zip(tables, labels, truth, strict=True):
        np.add.at(table, (a, b), 1)
    expected = [adjusted_rand_score(b, a) for a, b in zip(labels, truth, strict=True)]
    np.testing.assert_allclose(adjusted_rand(tables), expected, atol=1e-12)


def test_weights_count_as_repetitions():
    labels, truth, weights = np.array([0, 0, 5]), np.array([1, 2, 2]), np.array([3, 1, 2])
    np.testing.assert_array_equal(
        count_pairs(labels, truth, weights), count_pairs(labels.repeat(weights), truth.repeat(weights))
    )


def test_majority_takes_the_largest_class_of_each_label():
    assert majority_accuracy(np.array([[5, 5], [1, 9]])) == pytest.approx(14 / 20)


def _halves(at, shape=(20, 40)):
    labels = np.zeros(shape, np.uint8)
    labels[:, at:] = 1
    return labels


@pytest.mark.parametrize(("shift", "score"), [(0, 1.0), (3, 1.0), (4, 0.0), (-3, 1.0), (-4, 0.0)])
def test_a_boundary_counts_up_to_the_tolerance(shift, score):
    assert count_boundaries(_halves(20 + shift), _halves(20), 3).f_score == pytest.approx(score)


def test_boundaries_too_many_cost_precision_alone():
    striped = _halves(10) + _halves(30)
    found = count_boundaries(striped, _halves(10), 2)
    assert (found.drawn, found.drawn_near, found.true, found.true_near) == (40, 20, 20, 20)
    assert found.f_score == pytest.approx(2 / 3)
    assert count_boundaries(_halves(10), striped, 2).f_score == pytest.approx(2 / 3)


def test_maps_without_boundaries():
    flat = np.zeros((5, 5), np.uint8)
    assert count_boundaries(flat, flat).f_score == 1.0
    assert count_boundaries(flat, _halves(2, (5, 5))).f_score == 0.0
    assert add_boundaries([BoundaryCounts(1, 1, 2, 2), BoundaryCounts(3, 0, 2, 0)]) == (4, 1, 4, 2)


def test_nothing_borders_on_what_has_no_truth():
    truth = _halves(20)
    truth[:, 18:22] = 255
    assert not draw_boundaries(truth).any()
    assert count_boundaries(_halves(20), truth).drawn == 0


def _tables(rng, wrong, blocks=36, pixels=400):
    """Counts of two equal classes in each block, of which a share is wrong; noisy, so that blocks differ."""
    tables = np.zeros((blocks, 2, 2), np.int64)
    for table in tables:
        share = np.clip(rng.normal(wrong, 0.02, 2), 0, 0.5)
        missed = np.rint(share * pixels).astype(int)
        table[:] = [[pixels - missed[0], missed[1]], [missed[0], pixels - missed[1]]]
    return tables


def test_the_interval_covers_a_known_difference_and_not_zero():
    rng = np.random.default_rng(3)
    good, bad = [[_tables(rng, wrong) for _ in range(4)] for wrong in (0.05, 0.15)]
    drawn = bootstrap_difference(good, bad)
    low, high = np.percentile(drawn, [2.5, 97.5])
    # Of two equal classes the index is (1 - 2 e)^2, but for what the finite number of pixels changes.
    assert low < 0.9**2 - 0.7**2 < high
    assert 0 < low < high < 0.5
    np.testing.assert_array_equal(drawn, bootstrap_difference(good, bad))


def test_pairing_leaves_nothing_between_equal_methods():
    rng = np.random.default_rng(4)
    tables = [_tables(rng, 0.1) for _ in range(3)]
    assert np.ptp(bootstrap_difference(tables, tables)) == 0
    swapped = [table[:, ::-1] for table in tables]
    np.testing.assert_allclose(bootstrap_difference(tables, swapped), 0, atol=1e-12)


def test_equal_intervals_cover_zero():
    rng = np.random.default_rng(5)
    one, other = [[_tables(rng, 0.1) for _ in range(4)] for _ in range(2)]
    low, high = np.percentile(bootstrap_difference(one, other), [2.5, 97.5])
    assert low < 0 < high
