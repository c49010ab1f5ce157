"""Validity: each rule against a plain loop over pixels."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from pipeline.validity import valid_from_alpha, valid_from_mask, valid_from_samples, valid_from_udm2


@settings(deadline=None, max_examples=40)
@given(
    arrays(np.uint8, (3, 4, 5), elements=st.integers(0, 2)), st.sampled_from([None, 0, 2, 2.0, 0.5, -9999.0, 300, 1e20])
)
def test_nodata_is_where_all_bands_are(data, nodata):
    expected = [[not all(int(v) == nodata for v in data[:, y, x]) for x in range(5)] for y in range(4)]
    assert np.array_equal(valid_from_samples(data, nodata), expected)


@settings(deadline=None, max_examples=40)
@given(
    arrays(np.float32, (2, 3, 4), elements=st.sampled_from([0.0, 1.5, math.nan, math.inf, -9999.0])),
    st.sampled_from([None, math.nan, 0.0, -9999.0]),
)
def test_floats_have_to_be_finite_in_all_bands(data, nodata):
    def judge(pixel):
        return all(math.isfinite(v) for v in pixel) and not all(v == nodata for v in pixel)

    expected = [[judge(data[:, y, x].tolist()) for x in range(4)] for y in range(3)]
    assert np.array_equal(valid_from_samples(data, nodata), expected)


def test_nodata_is_compared_as_the_file_stores_it():
    tag = -3.4028234663852886e38
    assert not valid_from_samples(np.full((1, 1, 1), np.float32(tag)), tag).any()
    assert not valid_from_samples(np.full((1, 1, 1), np.float32(0.1)), 0.1).any()


def test_alpha_and_masks():
    assert valid_from_alpha(np.array([0, 1, 65535])).tolist() == [False, True, True]
    assert valid_from_mask(np.array([[0, 1, 2, 255]], np.uint8), None).tolist() == [[False, True, True, True]]
    assert valid_from_mask(np.array([[np.nan, 0.0, 0.5]]), None).tolist() == [[False, False, True]]


@pytest.mark.parametrize("bit", range(8))
def test_udm1_bits(bit):
    usable = bit in (1, 7)  # cloud, which band 1 supersedes, and the unused one
    assert valid_from_udm2(np.uint8([1]), np.uint8([1 << bit])).tolist() == [usable]
    assert valid_from_udm2(np.uint8([0]), np.uint8([1 << bit])).tolist() == [False]
