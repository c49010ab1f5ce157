"""Scaling on the way: any window holds what the whole scaled image holds there, to the bit."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ktex_model import radiometry
from ktex_model.radiometry import Scaling
from pipeline.scaled import ScaledImage

SHAPE = (75, 13)  # more rows than are scaled at once, twice


@pytest.mark.parametrize(
    ("dtype", "scaling"),
    [
        ("uint8", radiometry.byte(3)),
        ("uint16", radiometry.reflectance(3)),
        ("uint16", radiometry.paper(("R", "G", "B", "N"))),
        ("int16", radiometry.percentile((-3.0, 0.0, 5.0), (100.0, 2000.0, 30.0))),
        ("float32", radiometry.percentile((0.1, 0.2, 0.0), (0.9, 0.8, 1.0))),
    ],
)
@settings(max_examples=20, deadline=None)
@given(rows=st.slices(SHAPE[0]), columns=st.slices(SHAPE[1]), seed=st.integers(0, 99))
def test_a_window_is_a_part_of_the_whole(dtype: str, scaling: Scaling, rows: slice, columns: slice, seed: int) -> None:
    rng = np.random.default_rng(seed)
    data: Any = (rng.random((scaling.bands, *SHAPE)) * (1 if dtype == "float32" else 255)).astype(dtype)
    whole = np.moveaxis(scaling.apply(data), 0, -1)
    image = ScaledImage(data, scaling)
    found = image[rows, columns]
    assert (image.shape, image.ndim, found.dtype) == (whole.shape, whole.ndim, np.float32)
    np.testing.assert_array_equal(found, whole[rows, columns])
    np.testing.assert_array_equal(image.window((rows, columns))[:, :], whole[rows, columns])
    assert found.flags.c_contiguous
