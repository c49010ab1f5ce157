import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.align.cut import NO_OWNER, SELF, compose, gather, least_path, owner_code, touched_disagreement
from pipeline.blocks import BlockGrid, Window


def _patches(rng, shape, classes=4):
    """Blocky labels, so that neighbours agree in places and not in others."""
    coarse = rng.integers(0, classes, tuple(-(-size // 3) for size in shape))
    return np.kron(coarse, np.ones((3, 3), dtype=int))[: shape[0], : shape[1]].astype(np.uint8)


def _scene(seed, shape=(30, 37), block_px=12, overlap_px=4, noise=0.3):
    """Labels of each wide window: one truth, each block with errors of its own."""
    rng = np.random.default_rng(seed)
    grid = BlockGrid(shape, block_px, overlap_px=overlap_px)
    truth = _patches(rng, shape)
    labels = {}
    for block in grid:
        own = truth[block.wide.slices].copy()
        wrong = _patches(rng, own.shape)
        where = _patches(rng, own.shape, 10) < 10 * noise
        labels[block.index] = np.where(where, wrong, own)
    return grid, labels


def _assemble(grid, labels):
    owners, result = np.full(grid.shape, NO_OWNER, np.int8), np.full(grid.shape, 255, np.uint8)
    for block in grid:
        owners[block.core.slices] = compose(grid, block.index, labels.get)
        result[block.core.slices] = gather(grid, block.index, owners[block.core.slices], labels.get, 255)
    return owners, result


@settings(deadline=None, max_examples=60)
@given(seed=st.integers(0, 10_000), n=st.integers(1, 5), w=st.integers(1, 4), pinned=st.booleans())
def test_path_is_the_best_of_all(seed, n, w, pinned):
    rng = np.random.default_rng(seed)
    disagree = rng.random((n, w)) < 0.5
    nominal = int(rng.integers(0, w + 1))

    def cost(path):
        path = np.array(path)
        return touched_disagreement(disagree, path), int(np.abs(path - nominal).sum())

    paths = (
        p for p in itertools.product(range(w + 1), repeat=n) if all(abs(a - b) <= 1 for a, b in itertools.pairwise(p))
    )
    best = min(cost(p) for p in paths if not pinned or p[0] == p[-1] == nominal)
    found = least_path(disagree, nominal, pinned=pinned)
    assert np.all(np.abs(np.diff(found)) <= 1)
    assert cost(found) == best
    assert not pinned or found[0] == found[-1] == nominal


@settings(deadline=None, max_examples=25)
@given(seed=st.integers(0, 10_000), n=st.integers(1, 80), w=st.integers(0, 12), pinned=st.booleans())
def test_path_never_disagrees_more_than_the_straight_border(seed, n, w, pinned):
    disagree = np.random.default_rng(seed).random((n, w)) < 0.4
    nominal = w // 2
    found = least_path(disagree, nominal, pinned=pinned)
    if w:
        straight = np.full(n, nominal)
        assert touched_disagreement(disagree, found) <= touched_disagreement(disagree, straight)
    else:
        assert found.tolist() == [0] * n


def test_path_is_straight_where_nothing_speaks_against_it():
    assert set(least_path(np.zeros((9, 6), dtype=bool), 2).tolist()) == {2}
    assert set(least_path(np.ones((9, 6), dtype=bool), 2).tolist()) == {2}


@pytest.mark.parametrize("seed", range(6))
def test_every_pixel_has_an_owner_whose_wide_window_holds_it(seed):
    grid, labels = _scene(seed)
    owners, result = _assemble(grid, labels)
    assert np.all(owners != NO_OWNER)
    for block in grid:
        for there in [block.index, *grid.neighbours(block.index)]:
            mine = np.zeros(grid.shape, dtype=bool)
            mine[block.core.slices] = owners[block.core.slices] == owner_code(block.index, there)
            wide = grid.block(there).wide
            inside = np.zeros(grid.shape, dtype=bool)
            inside[wide.slices] = True
            assert not np.any(mine & ~inside)
            full = np.zeros(grid.shape, dtype=np.uint8)
            full[wide.slices] = labels[there]
            np.testing.assert_array_equal(result[mine], full[mine])


@pytest.mark.parametrize("seed", range(3))
def test_a_core_depends_on_the_blocks_around_it_alone(seed):
    grid, labels = _scene(seed, shape=(60, 60))
    near = {(2, 2), *grid.neighbours((2, 2))}
    asked = []

    def only_near(index):
        asked.append(index)
        return labels[index] if index in near else pytest.fail(f"{index} is not around (2, 2)")

    alone = compose(grid, (2, 2), only_near)
    owners, _ = _assemble(grid, labels)
    np.testing.assert_array_equal(owners[grid.block((2, 2)).core.slices], alone)
    assert len(asked) == len(set(asked))


def test_blocks_on_both_sides_of_a_border_agree_on_it():
    # Two blocks in a row share one path: left of it all is the left block's, whichever core the pixel lies in.
    grid, labels = _scene(3, shape=(12, 24), overlap_px=6)
    owners, _ = _assemble(grid, labels)
    of_left = np.concatenate([owners[:, :12] == SELF, owners[:, 12:] == owner_code((0, 1), (0, 0))], axis=1)
    border = of_left.sum(axis=1)
    assert np.all(of_left == (np.arange(24) < border[:, None]))
    strip = Window(0, 6, 12, 18)
    left = labels[0, 0][strip.relative_to(grid.block((0, 0)).wide).slices]
    right = labels[0, 1][strip.relative_to(grid.block((0, 1)).wide).slices]
    np.testing.assert_array_equal(border - 6, least_path(left != right, 6))
    assert len(set(border.tolist())) > 1


@pytest.mark.parametrize("shape", [(12, 40), (40, 12), (36, 36), (30, 37)])
def test_the_cut_lessens_changes_across_owners(shape):
    cut = straight = 0
    for seed in range(8):
        grid, labels = _scene(seed, shape=shape)
        owners, result = _assemble(grid, labels)
        whose = np.full(grid.shape, -1)
        plain = np.full(grid.shape, 255, np.uint8)
        core_of = whose.copy()
        for block in grid:
            plain[block.core.slices] = labels[block.index][block.core_in_wide.slices]
            core_of[block.core.slices] = block.index[0] * 100 + block.index[1]
            code = owners[block.core.slices].astype(int)
            whose[block.core.slices] = (block.index[0] + code // 3 - 1) * 100 + block.index[1] + code % 3 - 1
        for axis in (0, 1):
            cut += np.sum((np.diff(whose, axis=axis) != 0) & (np.diff(result.astype(int), axis=axis) != 0))
            straight += np.sum((np.diff(core_of, axis=axis) != 0) & (np.diff(plain.astype(int), axis=axis) != 0))
    assert cut < straight


def test_equal_labels_and_no_overlap_leave_every_core_its_own():
    grid = BlockGrid((30, 37), 12, overlap_px=4)
    same = {block.index: np.zeros(block.wide.shape, np.uint8) for block in grid}
    assert np.all(_assemble(grid, same)[0] == SELF)
    narrow, labels = _scene(1, overlap_px=0)
    assert np.all(_assemble(narrow, labels)[0] == SELF)
    single, labels = _scene(1, shape=(10, 10))
    assert np.all(_assemble(single, labels)[0] == SELF)


def test_missing_blocks_own_nothing_and_neighbours_help_as_far_as_they_see():
    grid, labels = _scene(2, shape=(36, 36))
    labels[1, 1] = None
    owners, result = _assemble(grid, labels)
    core = grid.block((1, 1)).core
    hole = np.zeros(grid.shape, dtype=bool)
    hole[Window(core.y0 + 4, core.x0 + 4, core.y1 - 4, core.x1 - 4).slices] = True
    np.testing.assert_array_equal(owners == NO_OWNER, hole)
    np.testing.assert_array_equal(result == 255, hole)


def test_a_pixel_is_nodata_only_where_no_block_has_a_label():
    grid, labels = _scene(5)
    rng = np.random.default_rng(5)
    seen = np.zeros(grid.shape, dtype=bool)
    for block in grid:
        own = labels[block.index]
        own[rng.random(own.shape) < 0.4] = 255
        seen[block.wide.slices] |= own != 255
    owners, result = _assemble(grid, labels)
    np.testing.assert_array_equal(result != 255, seen)
    np.testing.assert_array_equal(owners != NO_OWNER, seen)


def test_wide_labels_and_other_nodata_values():
    grid, labels = _scene(4)
    wide = {i: v.astype(np.uint16) + 300 for i, v in labels.items()}
    wide[0, 0][:3, :3] = 65535
    owners = compose(grid, (0, 0), wide.get, nodata=65535)
    assert np.all(owners[:3, :3] == NO_OWNER)
    assert gather(grid, (0, 0), owners, wide.get, 65535).dtype == np.uint16


def test_nothing_around_gives_nothing():
    grid = BlockGrid((24, 24), 12, overlap_px=2)
    owners = compose(grid, (0, 0), lambda _: None)
    assert np.all(owners == NO_OWNER)
    assert np.all(gather(grid, (0, 0), owners, lambda _: None, 255) == 255)
    own = np.full((14, 14), 7, dtype=np.uint16)
    assert gather(grid, (0, 0), owners, lambda _: own, 65535).dtype == np.uint16


def test_what_does_not_fit_is_refused():
    grid, labels = _scene(0)
    labels[0, 1] = labels[0, 1][1:]
    with pytest.raises(ValueError, match=r"labels must cover the wide window .* at block \(0, 1\)"):
        compose(grid, (0, 0), labels.get)
    with pytest.raises(ValueError, match=r"must be a block around \(0, 0\); got \(0, 2\)"):
        owner_code((0, 0), (0, 2))
    with pytest.raises(ValueError, match=r"must have values; got None at block \(0, 0\)"):
        gather(grid, (0, 0), np.full((12, 12), SELF, np.int8), lambda _: None, 255)
