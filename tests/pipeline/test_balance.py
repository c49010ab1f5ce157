"""Balanced files: what was done to each is undone, from the pixels that they share alone."""

from __future__ import annotations

import json
import pickle
from dataclasses import replace

import numpy as np
import pytest

from ktex_model.texture import TextureConfig
from pipeline import Settings, segment
from pipeline.balance import GAINS, MIN_SHARED_PX, Correction, balance, compare
from pipeline.blocks import Window
from pipeline.pixels import Pixels
from pipeline.plan import make_plan
from pipeline.scene import open_scene
from pipeline.stores import LabelStore

from . import grey_model
from .rasters import GRID, shift, write_raster

GAIN = np.array([[1.0, 1.1], [0.85, 0.95], [1.2, 1.0], [0.98, 0.9]])
OFFSET = np.array([[0, 300], [150, -100], [-200, 0], [80, -250]])


@pytest.fixture
def grey(monkeypatch):
    """A model that tells grey levels apart, the same in each file."""
    monkeypatch.setattr(TextureConfig, "context_px", 0)
    yield grey_model.install(monkeypatch)
    grey_model.load_model.cache_clear()


def smooth_scene(shape, seed=0):
    """A scene of two bands whose values vary in every overlap, 1000..5000."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[: shape[0], : shape[1]]
    waves = [np.sin(y / 7 + phase) * np.cos(x / 5 + phase) for phase in rng.uniform(0, 6, 2)]
    return 3000 + 900 * np.stack(waves) + rng.normal(0, 60, (2, *shape))


def write_uneven(folder, truth, windows, gain=GAIN, offset=OFFSET):
    """Write a window of the truth to each file, times its gain, plus its offset."""
    paths = []
    for number, window in enumerate(windows):
        part = truth[(slice(None), *window.slices)]
        data = np.rint(gain[number][:, None, None] * part + offset[number][:, None, None]).astype(np.uint16)
        paths.append(write_raster(folder / f"{number}.tif", data, affine=shift(GRID, window.y0, window.x0)))
    return paths


QUARTERS = [Window(0, 0, 70, 70), Window(0, 50, 70, 120), Window(50, 0, 120, 70), Window(50, 50, 120, 120)]


def test_gains_and_offsets_of_files_are_undone_but_for_one_line_common_to_all(tmp_path):
    truth = smooth_scene((120, 120))
    paths = write_uneven(tmp_path, truth, QUARTERS)
    uneven, matched = (open_scene(paths, bands="R=1,G=2", radiometry_match=match) for match in (False, True))
    assert uneven.balanced is None
    off = [left_over(truth, scene.read(Window(0, 0, 120, 120)).data) for scene in (uneven, matched)]
    assert max(off[1]) < 12  # digital numbers, of some 640 that the scene varies by
    assert min(off[0]) > 8 * max(off[1])
    found = matched.balanced
    assert found.pairs == 6
    assert max(found.after) < 0.05 * min(found.before)
    gains = np.array([each.gain for each in found.corrections.values()])
    np.testing.assert_allclose(np.log(gains).mean(axis=0), 0, atol=1e-6)
    np.testing.assert_allclose(gains * GAIN, (gains * GAIN).mean(axis=0) * np.ones((4, 1)), rtol=0.01)


def left_over(truth, data):
    """Rms of what the best line from the truth leaves, per band: 0 where all files were lit alike."""
    return [
        np.std(band - np.polyval(np.polyfit(true.ravel(), band.ravel().astype(float), 1), true))
        for true, band in zip(truth, data, strict=True)
    ]


def test_what_changed_between_two_files_does_not_count():
    rng = np.random.default_rng(3)
    first = rng.normal(3000, 500, (1, 4000))
    second = 1.1 * first - 150 + rng.normal(0, 20, first.shape)
    cloudy = second.copy()
    cloudy[:, :800] = rng.uniform(8000, 12000, 800)  # a cloud over a fifth
    clear, clouded = (compare(0, 1, first, each) for each in (second, cloudy))
    for found in (clear, clouded):
        assert found.spread_b / found.spread_a == pytest.approx(1.1, rel=0.01)
        assert found.mean_b == pytest.approx(1.1 * found.mean_a - 150, abs=10)
    assert clouded.pixels < 0.83 * 4000


def test_noise_does_not_pull_gains_and_a_flat_overlap_gives_none():
    rng = np.random.default_rng(4)
    true = rng.normal(3000, 500, (1, 20000))
    first, second = (true + rng.normal(0, 200, true.shape) for _ in range(2))
    noisy = compare(0, 1, first, second)
    assert noisy.spread_b / noisy.spread_a == pytest.approx(1, abs=0.02)  # regression would say 0.86
    sea = [300 + rng.normal(0, scale, (1, 5000)) for scale in (5.0, 15.0)]
    flat = compare(0, 1, sea[0], sea[1] + 40)
    assert flat.trust == 0
    first, second = balance(["a", "b"], 1, [flat]).corrections.values()
    assert (first.gain, second.gain) == ((1.0,), (1.0,))
    assert first.offset[0] - second.offset[0] == pytest.approx(40, abs=1)


def test_neither_the_order_of_files_nor_that_of_pairs_matters(tmp_path):
    truth = smooth_scene((120, 120), 5)
    paths = write_uneven(tmp_path, truth, QUARTERS)
    one, other = (open_scene(each, bands="R=1,G=2", radiometry_match=True) for each in (paths, paths[::-1]))
    for path, correction in one.balanced.corrections.items():
        np.testing.assert_allclose(correction.gain, other.balanced.corrections[path].gain, rtol=1e-6)
        np.testing.assert_allclose(correction.offset, other.balanced.corrections[path].offset, atol=1e-3)


def test_files_that_share_too_little_stay_as_they_are(tmp_path):
    truth = smooth_scene((60, 200))
    windows = [Window(0, 0, 60, 60), Window(0, 60, 60, 120), Window(0, 100, 60, 160), Window(0, 158, 2, 200)]
    assert Window(0, 158, 60, 160).size < MIN_SHARED_PX  # what the third and the fourth share
    paths = write_uneven(tmp_path, truth, windows)
    found = open_scene(paths, bands="R=1,G=2", radiometry_match=True)
    assert [*found.balanced.corrections] == [str(paths[1]), str(paths[2])]
    plain = open_scene(paths, bands="R=1,G=2").read(Window(0, 0, 60, 60)).data
    np.testing.assert_array_equal(found.read(Window(0, 0, 60, 60)).data, plain)
    alone = open_scene(paths[:2], bands="R=1,G=2", radiometry_match=True).balanced
    assert (alone.pairs, dict(alone.corrections), alone.before) == (0, {}, ())


def test_gains_are_clipped_and_offsets_fit_the_clipped_gains():
    rng = np.random.default_rng(6)
    first = rng.normal(3000, 500, (1, 3000))
    found = balance(["a", "b"], 1, [compare(0, 1, first, 9 * first)])
    gain = {path: each.gain[0] for path, each in found.corrections.items()}
    assert (gain["a"], gain["b"]) == GAINS[::-1]
    assert found.after[0] < 1e-6 * found.before[0]


@pytest.mark.parametrize("dtype", ["uint8", "uint16", "int16", "float32"])
def test_corrected_values_are_what_arithmetic_says(dtype):
    values = np.array([[[0, 7, 100, 127]]], dtype)
    corrected = Correction((1.3,), (-5.5,)).apply(Pixels(values, np.ones((1, 4), bool))).data
    exact = [1.3 * value - 5.5 for value in (0, 7, 100, 127)]
    limits = np.iinfo(dtype) if dtype != "float32" else None
    expected = exact if limits is None else [min(max(round(v), limits.min), limits.max) for v in exact]
    assert corrected.dtype == np.dtype(dtype)
    np.testing.assert_allclose(corrected.ravel(), expected, rtol=1e-6)


def test_windows_views_and_copies_of_a_matched_scene_agree(tmp_path):
    paths = write_uneven(tmp_path, smooth_scene((120, 120)), QUARTERS)
    scene = pickle.loads(pickle.dumps(open_scene(paths, bands="R=1,G=2", radiometry_match=True)))
    whole = scene.read(Window(0, 0, 120, 120)).data
    for window in (Window(10, 20, 64, 110), Window(69, 0, 71, 120)):
        np.testing.assert_array_equal(scene.read(window).data, whole[(slice(None), *window.slices)])
    np.testing.assert_array_equal(scene.overview(120).data, whole)


def test_work_on_a_window_rests_on_the_corrections_of_its_files(tmp_path):
    truth = smooth_scene((120, 120))
    paths = write_uneven(tmp_path, truth, QUARTERS)
    settings = Settings(bands="R=1,G=2", block_px=64, chunk_px=64, scaling="reflectance")

    def key(names, match):
        scene = open_scene(names, bands="R=1,G=2", radiometry_match=match)
        plan = make_plan(scene, settings, tmp_path / "run")
        plan = replace(plan, inputs={file.path: file for file in scene.fingerprints()})
        return plan.key(Window(0, 0, 40, 40))

    # The fourth file does not reach into the window, but moves what the first is corrected by.
    assert key(paths[:3], False) == key(paths, False)
    assert key(paths[:3], True) == key(paths[:3], True)
    assert key(paths[:3], True) != key(paths, True)


@pytest.mark.usefixtures("grey")
def test_a_map_of_files_lit_otherwise_is_that_of_even_ones_and_the_record_says_what_was_done(tmp_path):
    rows, columns = np.indices((120, 120)) // 15
    truth = (rows + 2 * columns) % 4
    grey = np.tile(1250 + 2500 * truth, (2, 1, 1)) + np.random.default_rng(1).normal(0, 100, (2, 120, 120))
    paths = []
    for number, (window, factor) in enumerate(zip(QUARTERS, (1.0, 1.35, 0.75, 1.0), strict=True)):
        data = np.rint(factor * grey[(slice(None), *window.slices)]).astype(np.uint16)
        paths.append(write_raster(tmp_path / f"{number}.tif", data, affine=shift(GRID, window.y0, window.x0)))
    wrong, records = {}, {}
    for match in (False, True):
        settings = Settings(
            k=4, mode="global", bands="R=1,G=2", scaling="reflectance", block_px=64, chunk_px=64, engine="serial",
            radiometry_match=match,
        )  # fmt: skip
        result = segment(paths, settings, tmp_path / f"run{match}")
        labels = LabelStore.open(result.path / "labels.zarr").array()[:]
        table = np.bincount(truth.ravel() * 4 + labels.ravel(), minlength=16).reshape(4, 4)
        wrong[match] = 1 - table.max(axis=1).sum() / truth.size
        records[match] = json.loads((result.path / "run.json").read_text())["metrics"]["radiometry"]
    assert wrong[True] < 0.01
    assert wrong[False] > 0.1
    assert records[False] is None
    assert [each["path"] for each in records[True]["files"]] == [str(path) for path in paths]
    assert (records[True]["pairs"], len(records[True]["before"])) == (6, 2)
    assert max(records[True]["after"]) < 0.1 * min(records[True]["before"])
