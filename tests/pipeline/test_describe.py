"""A large block is described by windows of it: as well as by all of it, and no class is forgotten."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from ktex_model.signature import signature_features
from pipeline import predict
from pipeline.blocks import Window
from pipeline.catalogue.members import MIN_PIXELS
from pipeline.describe import SAMPLED_PX, WINDOW_PX, choose_windows, describe_classes, window_features

SIDE = int(SAMPLED_PX**0.5)
K = 5


def make_block(side: int, seed: int = 0) -> tuple[NDArray[np.float32], NDArray[np.bool_], NDArray[np.uint8]]:
    """Classes in cells of 64 px that differ in brightness and grain, a speck of class 9, and nodata in a corner."""
    rng = np.random.default_rng(seed)
    labels = np.kron(rng.integers(0, K, (side // 64, side // 64)), np.ones((64, 64), np.uint8)).astype(np.uint8)
    labels[side - 40 : side - 20, 300:320] = 9
    grain = rng.normal(0, 1, labels.shape)
    image = 0.1 + 0.08 * labels[..., None] + 0.01 * (1 + labels % 2)[..., None] * grain[..., None]
    valid = np.ones(labels.shape, bool)
    valid[:200, :200] = False
    labels[~valid] = 255
    return np.repeat(image, 4, axis=2).astype(np.float32), valid, labels


def test_windows_describe_a_block_as_all_of_it_does() -> None:
    image, valid, labels = make_block(SIDE)
    whole, all_members = describe_classes((0, 0), image, valid, labels, per_side=None)
    sampled, members = describe_classes((0, 0), image, valid, labels, per_side=4)
    assert sampled.ids.tolist() == whole.ids.tolist() == [*range(K), 9]
    assert sampled.pixels.sum() < whole.pixels.sum() / 3, "less is looked at"
    between = np.abs(whole.features[0] - whole.features[1]).max()
    for label in range(K):
        assert np.abs(sampled.features[label] - whole.features[label]).max() < 0.1 * between
        counts = [(each.ids == label).sum() for each in (all_members, members)]
        assert counts[1] >= counts[0] / 3, "about as many members"


def test_windows_have_the_features_that_the_whole_image_has_there() -> None:
    image, valid, _ = make_block(512)
    corners = [(0, 0), (128, 64), (512 - WINDOW_PX, 512 - WINDOW_PX), (200, 4), (160, 160)]
    windows = [Window(y, x, y + WINDOW_PX, x + WINDOW_PX) for y, x in corners]
    features, cell_valid = signature_features(image, valid)
    for window, (found, found_valid) in zip(windows, window_features(image, valid, windows), strict=True):
        cells = tuple(slice(each.start // 4, each.stop // 4) for each in window.slices)
        np.testing.assert_array_equal(found, features[cells])
        np.testing.assert_array_equal(found_valid, cell_valid[cells])


@pytest.mark.parametrize("per_side", [2, 4])
def test_every_class_is_in_a_window(per_side: int) -> None:
    _, _, labels = make_block(SIDE)
    windows = choose_windows(labels, per_side)
    assert all(w.shape == (WINDOW_PX, WINDOW_PX) for w in windows)
    assert all(0 <= w.y0 < w.y1 <= SIDE and 0 <= w.x0 < w.x1 <= SIDE for w in windows)
    assert all(v % 4 == 0 for w in windows for v in w)
    held = [np.bincount(labels[w.slices].ravel(), minlength=256) for w in windows]
    assert np.max(held, axis=0)[9] >= MIN_PIXELS
    assert {i for i in np.flatnonzero(np.sum(held, axis=0)) if i < 255} == {*range(K), 9}


def test_a_block_with_few_valid_pixels_is_described() -> None:
    image, _, _ = make_block(SIDE)
    labels = np.full((SIDE, SIDE), 255, np.uint8)
    labels[700, 700] = 3
    signature, members = describe_classes((0, 0), image, labels != 255, labels, per_side=4)
    assert signature.ids.tolist() == [3]
    assert set(members.ids.tolist()) <= {3}


@pytest.mark.parametrize("per_side", [None, 2, 4])
def test_a_small_block_is_described_whole(per_side: int | None) -> None:
    image, valid, labels = make_block(512)
    signature, _ = describe_classes((0, 0), image, valid, labels, per_side=per_side)
    assert signature.pixels.sum() == valid.sum()


@pytest.mark.parametrize("large", [False, True])
def test_spectra_are_means_of_the_pixels_that_were_measured(monkeypatch: pytest.MonkeyPatch, large: bool) -> None:
    monkeypatch.setattr(predict, "SPECTRA_PX", 1 if large else 1 << 30)
    monkeypatch.setattr(predict, "SPECTRA_LEAST", 50)
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 3, (90, 120)).astype(np.uint8)
    labels[1, :9], labels[5:9] = 3, 255
    data = np.stack([1000 * (labels.astype(int) + 1) + rng.integers(0, 99, labels.shape), labels * 7]).astype(np.uint16)
    said = predict.spectra(labels, data, 5)
    counts = [int((labels == i).sum()) for i in range(5)]
    assert said["counts"] == counts
    assert said["pixels"] == sum(counts)
    assert said["measured"][3:] == [9, 0], "a class that the rows miss is measured whole"
    assert all((n < counts[i]) is large for i, n in enumerate(said["measured"][:3]))
    for i in range(4):
        means = np.array(said["sums"])[:, i] / said["measured"][i]
        exact = data[:, labels == i].mean(axis=1)
        np.testing.assert_allclose(means, exact, rtol=0.005 if large else 1e-12)
