"""Laws of the division of a scene."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.blocks import BlockGrid, Window

grids = st.builds(
    BlockGrid,
    shape=st.tuples(st.integers(1, 90), st.integers(1, 90)),
    block_px=st.integers(8, 40),
    overlap_px=st.integers(0, 4),
    context_px=st.integers(0, 9),
)


@given(grids)
@settings(deadline=None, max_examples=60)
def test_cores_partition_the_scene_exactly(grid: BlockGrid) -> None:
    covered = np.zeros(grid.shape, dtype=int)
    for block in grid:
        covered[block.core.slices] += 1
    assert (covered == 1).all()
    assert len(list(grid)) == len(grid)


@given(grids)
@settings(deadline=None, max_examples=60)
def test_cores_start_on_whole_blocks_and_are_never_slivers(grid: BlockGrid) -> None:
    for block in grid:
        assert block.core.y0 % grid.block_px == 0
        assert block.core.x0 % grid.block_px == 0
        for side, size in zip(block.core.shape, grid.shape, strict=True):
            assert side >= min(size, grid.block_px // 4)
        assert all(side <= most for side, most in zip(block.wide.shape, grid.widest, strict=True))
    largest = np.max([block.core.shape for block in grid], axis=0) + 2 * grid.overlap_px
    assert (np.array(grid.widest) <= largest).all()


@given(grids)
@settings(deadline=None, max_examples=60)
def test_windows_are_nested_and_as_wide_as_the_scene_allows(grid: BlockGrid) -> None:
    height, width = grid.shape
    for block in grid:
        core, wide, read = block.core, block.wide, block.read
        assert wide == (
            max(0, core.y0 - grid.overlap_px),
            max(0, core.x0 - grid.overlap_px),
            min(height, core.y1 + grid.overlap_px),
            min(width, core.x1 + grid.overlap_px),
        )
        assert read.intersect(wide) == wide
        scene = np.arange(height * width).reshape(grid.shape)
        np.testing.assert_array_equal(scene[read.slices][block.wide_in_read.slices], scene[wide.slices])
        np.testing.assert_array_equal(scene[wide.slices][block.core_in_wide.slices], scene[core.slices])


@given(grids, st.data())
@settings(deadline=None, max_examples=60)
def test_touching_finds_the_blocks_whose_cores_share_pixels(grid: BlockGrid, data: st.DataObject) -> None:
    y0, x0 = (data.draw(st.integers(0, size - 1)) for size in grid.shape)
    y1, x1 = (data.draw(st.integers(low + 1, size)) for low, size in zip((y0, x0), grid.shape, strict=True))
    window = Window(y0, x0, y1, x1)
    assert list(grid.touching(window)) == [block for block in grid if block.core.intersect(window).size]
    assert list(grid.touching(Window(y0, x0, y0, x1))) == []


@given(grids)
@settings(deadline=None, max_examples=30)
def test_pairs_are_the_shared_sides(grid: BlockGrid) -> None:
    def touch(a: Window, b: Window) -> bool:
        rows, columns = min(a.y1, b.y1) - max(a.y0, b.y0), min(a.x1, b.x1) - max(a.x0, b.x0)
        return {rows > 0, columns > 0} == {True, False} and 0 in (rows, columns)

    blocks = list(grid)
    expected = {(a.index, b.index) for i, a in enumerate(blocks) for b in blocks[i + 1 :] if touch(a.core, b.core)}
    assert set(grid.pairs()) == expected


def test_neighbours_in_reading_order() -> None:
    grid = BlockGrid((30, 30), 10)
    assert grid.neighbours((0, 0)) == [(0, 1), (1, 0), (1, 1)]
    assert len(grid.neighbours((1, 1))) == 8


def test_what_cannot_be_divided_is_refused() -> None:
    with pytest.raises(ValueError, match="must have pixels"):
        BlockGrid((0, 5), 10)
    with pytest.raises(ValueError, match="overlap_px must be 0 to block_px / 2 = 5; got 6"):
        BlockGrid((20, 20), 10, overlap_px=6)
    with pytest.raises(ValueError, match="context_px must not be negative"):
        BlockGrid((20, 20), 10, context_px=-1)
    with pytest.raises(IndexError, match=r"must lie in a grid of \(2, 2\); got \(2, 0\)"):
        BlockGrid((20, 20), 10).block((2, 0))
