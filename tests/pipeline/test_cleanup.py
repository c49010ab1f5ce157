"""Clean-up: as slow references do it on the whole map, however the map is divided."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import rasterio.features
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from numpy.typing import NDArray

from pipeline.cleanup import CleanUp, sieve_map, smooth_map
from pipeline.errors import InputError

Labels = NDArray[np.uint8]
MAPS = hnp.arrays(
    np.uint8, hnp.array_shapes(min_dims=2, max_dims=2, max_side=16), elements=st.sampled_from([0, 1, 2, 255])
)


def flood(labels: Labels) -> list[tuple[int, set[tuple[int, int]]]]:
    """The patches of a map, one pixel at a time."""
    left = {(int(y), int(x)) for y, x in np.argwhere(labels != 255)}
    patches = []
    while left:
        start = left.pop()
        value, patch, todo = labels[start], {start}, [start]
        while todo:
            y, x = todo.pop()
            for there in ((y + 1, x), (y - 1, x), (y, x + 1), (y, x - 1)):
                if there in left and labels[there] == value:
                    left.remove(there)
                    patch.add(there)
                    todo.append(there)
        patches.append((int(value), patch))
    return patches


def slow_sieve(labels: Labels, mmu_px: int) -> Labels:
    out = labels.copy()
    patches = flood(labels)
    large = {place: value for value, patch in patches if len(patch) >= mmu_px for place in patch}
    for _, patch in patches:
        if len(patch) < mmu_px:
            sides = ((y + dy, x + dx) for y, x in patch for dy, dx in ((1, 0), (-1, 0), (0, 1), (0, -1)))
            shared = Counter(large[side] for side in sides if side in large)
            if shared:
                winner = min(shared, key=lambda value: (-shared[value], value))
                for place in patch:
                    out[place] = winner
    return out


def slow_smooth(labels: Labels, majority_px: int) -> Labels:
    out, r = labels.copy(), majority_px // 2
    for y, x in np.argwhere(labels != 255):
        window = labels[max(0, y - r) : y + r + 1, max(0, x - r) : x + r + 1]
        votes = Counter(window[window != 255].tolist())
        out[y, x] = min(votes, key=lambda value: (-votes[value], value != labels[y, x], value))
    return out


def in_pieces(function: Callable[..., int], labels: Labels, px: int, block_px: int) -> Labels:
    out = np.full_like(labels, 77)

    def write(window: Any, data: Labels) -> None:
        out[window.slices] = data

    changed = function(lambda window: labels[window.slices], write, labels.shape, px, nodata=255, block_px=block_px)
    assert changed == (out != labels).sum()
    return out


@settings(deadline=None, max_examples=150)
@given(MAPS, st.integers(1, 6), st.integers(1, 17))
def test_sieve(labels: Labels, mmu_px: int, block_px: int) -> None:
    np.testing.assert_array_equal(in_pieces(sieve_map, labels, mmu_px, block_px), slow_sieve(labels, mmu_px))


@settings(deadline=None, max_examples=60)
@given(MAPS, st.sampled_from([1, 3, 5, 9]), st.integers(1, 17))
def test_majority(labels: Labels, majority_px: int, block_px: int) -> None:
    np.testing.assert_array_equal(
        in_pieces(smooth_map, labels, majority_px, block_px), slow_smooth(labels, majority_px)
    )


def test_sieve_does_what_gdal_does_where_there_is_one_choice() -> None:
    rng = np.random.default_rng(0)
    coarse = np.kron(rng.integers(0, 2, (8, 8)), np.ones((16, 16), int)).astype(np.uint8)
    specks = rng.random(coarse.shape) < 0.01
    noisy = np.where(specks, 1 - coarse, coarse).astype(np.uint8)
    np.testing.assert_array_equal(in_pieces(sieve_map, noisy, 5, 40), rasterio.features.sieve(noisy, 5, connectivity=4))


def test_settings_are_checked() -> None:
    for wrong, message in (
        ({"mmu_px": 2000}, "--mmu-px 2000: must be 1 to 1024"),
        ({"majority_px": 4}, "--majority-px 4: must be odd"),
        ({}, "nothing to clean up"),
    ):
        with pytest.raises(InputError, match=message):
            CleanUp(**wrong)
