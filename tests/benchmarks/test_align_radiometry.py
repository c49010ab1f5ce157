"""The benchmark of scene radiometry: its files are uneven as it says, and its error is none where all is undone."""

import numpy as np
import pytest

from benchmarks.align.radiometry import FILES, LIFT, UNIT, Uneven, gain_error, write_files
from pipeline.balance import Balanced, Correction
from pipeline.blocks import Window
from pipeline.scene import open_scene


def test_each_file_is_the_scene_times_its_gain_plus_its_offset(tmp_path):
    image = np.random.default_rng(0).random((120, 120, 4)).astype(np.float32)
    made = write_files(image, tmp_path / "files", 0.1, 3)
    assert len(made.paths) == FILES**2
    first = open_scene(made.paths[0], bands="R=1,G=2,B=3,N=4").read(Window(0, 0, 40, 40)).data
    expected = made.gain[0][:, None, None] * (np.moveaxis(image, 2, 0)[:, :40, :40] + LIFT)
    np.testing.assert_allclose(first / UNIT, expected + made.offset[0][:, None, None], atol=1e-4)
    whole = open_scene(made.paths, bands="R=1,G=2,B=3,N=4")
    assert tuple(whole.geobox.shape) == (120, 120)


def test_the_error_of_gains_is_what_differs_between_files(tmp_path):
    paths = [tmp_path / "a.tif", tmp_path / "b.tif"]
    made = Uneven(paths, np.array([[1.2], [0.8]]), np.zeros((2, 1)))

    def error(*gains):
        corrections = {str(p): Correction((g,), (0.0,)) for p, g in zip(paths, gains, strict=True)}
        return gain_error(made, Balanced(corrections, 1, (1.0,), (0.0,)))

    assert error(3 / 1.2, 3 / 0.8) == pytest.approx(0)
    assert error(1, 1) == pytest.approx(0.2)
