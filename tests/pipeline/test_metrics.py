import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import adjusted_mutual_info_score, adjusted_rand_score

from pipeline.align import Alignment, BlockSignature, Overlap
from pipeline.blocks import BlockGrid
from pipeline.metrics import Contingency, effective_classes, overlap_disagreement, seams, table_scores, truth_scores


def _slow_seams(labels, grid):
    """Count by one loop over all pairs, with interior lines beyond the overlap of any border."""
    ny, nx = grid.counts
    borders = [[grid.block((i, 0)).core.y0 for i in range(1, ny)], [grid.block((0, i)).core.x0 for i in range(1, nx)]]
    counts = np.zeros((2, 4))
    for axis in (0, 1):
        steps = labels.shape[axis]
        for line in range(1, steps):
            one, two = (np.take(labels, i, axis=axis) for i in (line - 1, line))
            valid = (one != 255) & (two != 255)
            at = line in borders[axis]
            far = all(abs(line - b) > grid.overlap_px for b in borders[axis])
            if at or far:
                counts[axis, 0 if at else 2] += np.sum(valid & (one != two))
                counts[axis, 1 if at else 3] += np.sum(valid)
    return counts


@settings(deadline=None, max_examples=25)
@given(seed=st.integers(0, 10_000), overlap=st.sampled_from([0, 1, 2]), gaps=st.sampled_from([0, 0.2]))
def test_seams_are_those_of_a_slow_count(seed, overlap, gaps):
    rng = np.random.default_rng(seed)
    shape = tuple(int(v) for v in rng.integers(14, 30, 2))
    labels = rng.integers(0, 3, shape).astype(np.uint8)
    labels[rng.random(shape) < gaps] = 255
    grid = BlockGrid(shape, 8, overlap_px=overlap)
    counts = _slow_seams(labels, grid)
    found = seams(lambda w: labels[w.slices], grid)
    assert (found.seam_pairs, found.interior_pairs) == tuple(counts[:, [1, 3]].sum(axis=0))
    assert found.seam_change_rate == pytest.approx(counts[:, 0].sum() / counts[:, 1].sum())
    share = counts[:, 1] / counts[:, 1].sum()
    assert found.interior_change_rate == pytest.approx((share * counts[:, 2] / counts[:, 3]).sum())
    assert found.seam_excess == pytest.approx(found.seam_change_rate - found.interior_change_rate)


def test_seams_of_four_blocks_by_hand():
    # Vertical border: 3 of 4 rows change; horizontal: 1 of 4 columns. Inside: one change of 8 + 8 pairs, vertical.
    labels = np.array([[0, 0, 1, 1], [0, 0, 1, 1], [0, 0, 1, 1], [0, 1, 1, 1]], dtype=np.uint8)
    found = seams(lambda w: labels[w.slices], BlockGrid((4, 4), 2))
    assert found.seam_change_rate == 3 / 8
    assert found.interior_change_rate == pytest.approx((1 / 8 + 1 / 8) / 2)
    assert found.to_json()["seam_excess"] == pytest.approx(1 / 4)


def test_orientations_count_inside_as_much_as_at_seams():
    # Columns alternate and rows do not; all seams are between rows, so the columns must not count.
    labels = np.tile(np.array([0, 1], dtype=np.uint8), (8, 2))
    found = seams(lambda w: labels[w.slices], BlockGrid((8, 4), 4))
    assert (found.seam_change_rate, found.interior_change_rate) == (0.0, 0.0)


def test_without_borders_or_pixels_there_are_no_rates():
    one = seams(lambda w: np.zeros((4, 4), np.uint8)[w.slices], BlockGrid((4, 4), 4))
    assert (one.seam_change_rate, one.interior_change_rate, one.seam_excess) == (None, 0.0, None)
    empty = seams(lambda w: np.full((8, 8), 255, np.uint8)[w.slices], BlockGrid((8, 8), 4))
    assert (empty.seam_change_rate, empty.interior_change_rate, empty.interior_pairs) == (None, None, 0)


def test_seams_read_one_block_at_a_time():
    sizes = []
    labels = np.zeros((40, 40), dtype=np.uint8)

    def read(window):
        sizes.append(window.size)
        return labels[window.slices]

    seams(read, BlockGrid((40, 40), 8))
    assert max(sizes) <= 81


def test_overlap_disagreement_by_hand():
    ids = np.array([0, 1])
    flat = np.zeros((2, 1), dtype=np.float32)
    signatures = [BlockSignature((0, x), ids, np.array([9, 9]), flat, flat) for x in (0, 1)]
    table = np.array([[1, 6], [2, 1]])
    shared = Overlap((0, 0), (0, 1), table, np.zeros(1, np.float32))
    lookup = {(0, 0): np.array([0, 1], np.uint8), (0, 1): np.array([1, 0], np.uint8)}
    aligned = Alignment(lookup, {}, {}, ())
    assert overlap_disagreement(aligned, signatures, [shared]) == pytest.approx(0.2)
    assert overlap_disagreement(aligned, signatures, []) is None


def test_effective_classes_by_hand():
    assert effective_classes([1, 1, 1, 1, 0]) == 4
    assert effective_classes([7]) == 1
    assert effective_classes([]) == 0
    assert effective_classes([3, 1]) == pytest.approx(4 / 27**0.25)


def test_scores_by_hand():
    # Labels 0, 1 against truths 0, 1: [[3, 1], [0, 2]].
    labels = np.array([0, 0, 0, 0, 1, 1])
    truth = np.array([0, 0, 0, 1, 1, 1])
    found = truth_scores(labels, truth)
    # Pairs together: 3 + 1 = 4; by label 6 + 1, by truth 3 + 3; of 15: (4 - 2.8) / (6.5 - 2.8).
    assert found.ari == pytest.approx((4 - 2.8) / (6.5 - 2.8))
    assert found.accuracy == pytest.approx(5 / 6)
    assert found.miou == pytest.approx((3 / 4 + 2 / 3) / 2)
    assert found.pixels == 6


def test_true_class_left_over_has_no_iou():
    found = table_scores(np.array([[4, 0, 2], [0, 4, 0]]))
    assert found.miou == pytest.approx((4 / 6 + 1 + 0) / 3)
    assert found.accuracy == pytest.approx(0.8)


@settings(deadline=None, max_examples=40)
@given(seed=st.integers(0, 10_000), n=st.integers(2, 300), k=st.integers(1, 6))
def test_scores_are_those_of_scikit_learn_however_the_pixels_come(seed, n, k):
    rng = np.random.default_rng(seed)
    truth = rng.integers(0, k, n)
    labels = np.where(rng.random(n) < 0.6, (truth + 3) % k, rng.integers(0, k + 2, n))
    counts = Contingency()
    for part in np.array_split(np.arange(n), 3):
        counts.add(labels[part], truth[part])
    counts.add(np.array([255, 0]), np.array([0, 255]))
    found = counts.scores()
    assert found.ari == pytest.approx(adjusted_rand_score(truth, labels), abs=1e-9)
    assert found.ami == pytest.approx(adjusted_mutual_info_score(truth, labels), abs=1e-9)
    assert found.pixels == n


def test_millions_of_pixels_take_no_longer_and_agree():
    table = np.random.default_rng(0).integers(100, 90_000, (5, 4))
    many, few = table_scores(table * 10), table_scores(table // 10)
    assert many.pixels > 1_000_000 > few.pixels
    assert many.ami == pytest.approx(few.ami, abs=1e-4)
    assert math.isclose(many.ari, few.ari, abs_tol=1e-4)


def test_what_does_not_fit_is_refused():
    with pytest.raises(ValueError, match="must have one shape"):
        truth_scores(np.zeros(3, int), np.zeros(4, int))
    with pytest.raises(ValueError, match="must share a pixel"):
        truth_scores(np.full(3, 255), np.zeros(3, int))
