"""A sample lies where pixels are, shows what is rare, and is the same for a seed."""

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.blocks import Window
from pipeline.sampling import draw, lattice


@given(st.integers(1, 80), st.integers(1, 80), st.integers(4, 40))
@settings(deadline=None, max_examples=50)
def test_the_lattice_covers_and_its_cells_have_one_size(height: int, width: int, side: int) -> None:
    window = Window(3, 5, 3 + height, 5 + width)
    covered = np.zeros((height, width), bool)
    for cell in lattice(window, side):
        assert cell.shape == (min(side, height), min(side, width))
        assert cell.intersect(window) == cell
        covered[cell.relative_to(window).slices] = True
    assert covered.all()


def scene(valid_columns: slice = slice(None)) -> tuple[np.ndarray, np.ndarray]:
    """Return dark land of 64 x 64 cells with one bright cell in it."""
    view = np.full((2, 256, 256), 10.0)
    view += np.random.default_rng(0).normal(0, 0.1, view.shape)
    view[:, 100:104, 200:204] = 200
    valid = np.zeros((256, 256), bool)
    valid[:, valid_columns] = True
    return view, valid


def test_what_is_rare_is_drawn() -> None:
    view, valid = scene()
    cells = lattice(Window(0, 0, 1024, 1024), 16)
    drawn = draw(cells, view, valid, (1024, 1024), count=6, seed=1)
    assert Window(400, 800, 416, 816) in drawn
    assert len(drawn) == 6
    assert drawn == sorted(drawn)
    assert drawn == draw(cells, view, valid, (1024, 1024), count=6, seed=1)


def test_nothing_is_drawn_where_no_pixel_is_valid() -> None:
    view, valid = scene(slice(0, 64))
    cells = lattice(Window(0, 0, 1024, 1024), 64)
    drawn = draw(cells, view, valid, (1024, 1024), count=8, seed=0)
    assert len(drawn) == 8
    assert all(cell.x1 <= 256 for cell in drawn)
    assert draw(cells, view, np.zeros_like(valid), (1024, 1024), count=8, seed=0) == []


def test_cells_with_few_valid_pixels_serve_where_there_are_no_others() -> None:
    view, valid = scene(slice(0, 1))
    drawn = draw(lattice(Window(0, 0, 256, 256), 64), view, valid, (256, 256), count=2, seed=0)
    assert len(drawn) == 2
    assert all(cell.x0 == 0 for cell in drawn)
