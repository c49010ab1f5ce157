from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.align import measure, overlap
from pipeline.align.measure import level, tally


def _measured(labels, features=None, valid=None, index=(0, 0)):
    cells = tuple(-(-size // 4) for size in labels.shape)
    features = np.zeros((*cells, 2), np.float32) if features is None else features
    return measure(index, labels, features, np.ones(cells, bool) if valid is None else valid)


def test_means_are_robust_and_of_pure_cells():
    labels = np.zeros((40, 40), dtype=np.uint8)
    labels[:, 22:] = 5
    features = np.zeros((10, 10, 2), dtype=np.float32)
    features[:, :5] = [1, 2]
    features[:, 5] = 99
    features[:, 6:] = [3, 4]
    features[0, 0] = 1000
    found = _measured(labels, features)
    assert found.ids.tolist() == [0, 5]
    assert found.pixels.tolist() == [880, 720]
    assert found.features.tolist() == [[1, 2], [3, 4]]
    assert found.spread.tolist() == [[0, 0], [0, 0]]


def test_spread_is_that_of_a_normal_distribution():
    rng = np.random.default_rng(0)
    features = rng.normal(5, 2, (60, 60, 2)).astype(np.float32)
    found = _measured(np.zeros((240, 240), np.uint8), features)
    np.testing.assert_allclose(found.spread, 2, rtol=0.1)


def test_small_classes_are_measured_by_the_cells_that_they_touch():
    labels = np.zeros((40, 40), dtype=np.uint8)
    labels[0, 3:5] = 7
    labels[1, 4] = 7
    features = np.zeros((10, 10, 2), dtype=np.float32)
    features[0, 0], features[0, 1] = 3, 6
    found = _measured(labels, features)
    # One pixel in a cell of 3, two in a cell of 6.
    assert found.features[1].tolist() == [5, 5]
    np.testing.assert_allclose(found.spread[1], np.sqrt(2))


def test_classes_where_nothing_could_be_measured_have_no_features():
    labels = np.zeros((40, 41), dtype=np.uint8)
    labels[:, 40] = 1
    valid = np.ones((10, 11), bool)
    valid[:, 10] = False
    found = _measured(labels, np.ones((10, 11, 2), np.float32), valid)
    assert found.pixels.tolist() == [1600, 40]
    assert np.isnan(found.features[1]).all()
    assert np.isnan(found.spread[1]).all()


@settings(deadline=None, max_examples=25)
@given(seed=st.integers(0, 10_000))
def test_overlap_counts_are_those_of_a_loop(seed):
    rng = np.random.default_rng(seed)
    wide = rng.choice(np.array([0, 2, 9, 255], np.uint8), (2, 12, 9))
    wide[:, 0, 0] = 2
    a, b = (_measured(labels, index=(0, i)) for i, labels in enumerate(wide))
    shared_a, shared_b = wide[0, :, 5:], wide[1, :, :4]
    found = overlap(a, shared_a, b, shared_b)
    for i, one in enumerate(a.ids):
        for j, two in enumerate(b.ids):
            count = sum(p == one and q == two for p, q in zip(shared_a.flat, shared_b.flat, strict=True))
            assert found.table[i, j] == count
    assert (found.a, found.b) == ((0, 0), (0, 1))
    assert found.weight == 0
    assert not found.delta.any()


def test_the_difference_of_what_two_blocks_share_is_robust_and_one_minus_the_other():
    rng = np.random.default_rng(3)
    image = rng.uniform(0.2, 0.4, (12, 12, 1)).astype(np.float32)
    brighter = (image + 0.01) * np.float32(np.e) ** 0.5 - 0.01
    brighter[0, :3] = 1.0
    valid = np.ones((12, 12), bool)
    valid[5] = False
    brighter[5] = np.nan
    labels = np.zeros((12, 12), np.uint8)
    seen = level(image, valid), level(brighter, valid)
    a, b = (replace(_measured(labels, index=(0, i)), levels={(0, 1 - i): one}) for i, one in enumerate(seen))
    found = overlap(a, labels, b, labels)
    np.testing.assert_allclose(found.delta, [-0.5, 0], atol=0.03)
    assert found.weight == 144
    same = replace(b, levels=a.levels | {(0, 0): seen[0]})
    assert overlap(a, labels, same, labels).delta.tolist() == [0, 0]


def test_what_nobody_saw_makes_no_difference():
    labels = np.zeros((12, 12), np.uint8)
    nothing = level(np.zeros((4, 4, 1), np.float32), np.zeros((4, 4), bool))
    assert np.isnan(nothing).all()
    a, b = (replace(_measured(labels, index=(0, i)), levels={(0, 1 - i): nothing}) for i in (0, 1))
    found = overlap(a, labels, b, labels)
    assert (found.weight, found.delta.tolist()) == (0, [0, 0])


def test_tallies_are_those_of_a_loop():
    rng = np.random.default_rng(7)
    labels, anchor = (rng.choice(np.array([0, 2, 9, 255], np.uint8), (12, 9)) for _ in range(2))
    found = _measured(labels)
    table = tally(found, labels, anchor, 10)
    for i, one in enumerate(found.ids):
        for two in range(10):
            count = sum(p == one and q == two for p, q in zip(labels.flat, anchor.flat, strict=True))
            assert table[i, two] == count
    with pytest.raises(ValueError, match=r"must hold labels below 9; got 9 at block \(0, 0\)"):
        tally(found, labels, anchor, 9)
    with pytest.raises(ValueError, match="must have one shape"):
        tally(found, labels, anchor[1:], 10)


def test_what_does_not_fit_is_refused():
    labels = np.zeros((8, 8), np.uint8)
    found = _measured(labels)
    with pytest.raises(ValueError, match=r"must have \(2, 2\) cells for labels of \(8, 8\)"):
        measure((0, 0), labels, np.zeros((3, 2, 2), np.float32), np.ones((2, 2), bool))
    with pytest.raises(ValueError, match=r"must hold a valid pixel; got none at block \(0, 0\)"):
        _measured(np.full((8, 8), 255, np.uint8))
    with pytest.raises(ValueError, match="must have one shape"):
        overlap(found, labels, found, labels[1:])
    with pytest.raises(ValueError, match="must hold every label; got 3 beside"):
        overlap(found, labels, found, labels + np.uint8(3))
