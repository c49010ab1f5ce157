"""Laws of a start from known ground: classes are parted as they were, under their numbers, whatever changed since."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from numpy.typing import NDArray

from ktex_model.model import Sample
from ktex_model.texture import known, training
from ktex_model.texture.bank import fit_bank
from ktex_model.texture.config import TextureConfig
from ktex_model.texture.features import decompose, fit_rotation

SIDE = 256
SPACING_PX = 4


def quarters() -> tuple[Sample, NDArray[np.int64]]:
    """Four textures of one colour, in four squares: waves along x and along y of two lengths."""
    rng = np.random.default_rng(0)
    y, x = np.mgrid[:SIDE, :SIDE]
    truth = (y >= SIDE // 2) * 2 + (x >= SIDE // 2)
    waves = [0.1 * np.sin(2 * np.pi * along / px) for px in (4.0, 12.0) for along in (x, y)]
    grey = 0.4 + np.take_along_axis(np.stack(waves), truth[None], 0)[0]
    image = np.stack([grey, grey], -1) + 0.01 * rng.standard_normal((SIDE, SIDE, 2))
    return Sample(image.astype(np.float32), np.ones((SIDE, SIDE), bool)), truth


def at_sites(classes: NDArray[np.int64]) -> NDArray[np.int16]:
    """What is known where only one pixel of sixteen is."""
    laid = np.full(classes.shape, -1, np.int16)
    laid[::SPACING_PX, ::SPACING_PX] = classes[::SPACING_PX, ::SPACING_PX]
    return laid


def begun(sample: Sample, k: int) -> tuple[NDArray[np.int64], dict[str, object]] | None:
    """The class of each pixel, and what is on record; None where nothing was begun with."""
    rotation = fit_rotation([sample])
    bank = fit_bank([decompose(rotation.forward(sample.image), sample.valid)])
    log = training.StageLog(1, None)
    found = training.begin_with_known(bank, [sample.known], TextureConfig(k, 2), 0, log)
    if found is None:
        return None
    cells, labels, _ = found
    laid = np.kron(cells.maps(labels)[0], np.ones((cells.stride, cells.stride), np.int64))
    return laid[:SIDE, :SIDE], log.stages[0]


def test_classes_keep_their_numbers_though_a_fifth_of_the_ground_has_changed() -> None:
    sample, truth = quarters()
    names = np.array([2, 0, 3, 1])
    before = names[truth]
    before[:, : SIDE // 10] = 1  # of the ground on the left something else was known
    before[:, -SIDE // 10 :] = 2
    found = begun(replace(sample, known=at_sites(before)), 4)
    assert found is not None
    labels, told = found
    assert (labels == names[truth]).mean() > 0.95
    assert told["classes"] == 4
    assert 0.7 < told["kept"] < 0.95


def test_what_was_one_class_stays_one_and_what_were_two_stay_two() -> None:
    sample, truth = quarters()
    together = np.array([0, 0, 1, 2])[truth]
    found = begun(replace(sample, known=at_sites(together)), 3)
    assert found is not None
    assert (found[0] == together).mean() > 0.95


def test_what_is_new_gets_a_number_that_is_left_and_nothing_else_does() -> None:
    sample, truth = quarters()
    before = np.array([0, 1, 2, 2])[truth]  # two textures lie where one class was
    found = begun(replace(sample, known=at_sites(before)), 6)
    assert found is not None
    labels, told = found
    assert len(told["gains"]) == 1
    assert (labels[truth < 2] == truth[truth < 2]).mean() > 0.95
    parts = [np.bincount(labels[truth == c], minlength=6) for c in (2, 3)]
    assert {int(part.argmax()) for part in parts} == {2, 3}
    assert all(part.max() / part.sum() > 0.9 for part in parts)


@pytest.mark.parametrize("what", ["one class", "nothing", "few cells of each"])
def test_of_too_little_nothing_is_begun(what: str) -> None:
    sample, truth = quarters()
    laid = at_sites(truth)
    match what:
        case "one class":
            laid[laid > 0] = 0
        case "nothing":
            laid[:] = -1
        case _:
            laid[np.indices(laid.shape).sum(0) % 256 > 0] = -1
    assert begun(replace(sample, known=laid), 4) is None


def test_a_class_of_which_hardly_anything_is_known_is_left_out() -> None:
    sample, truth = quarters()
    laid = at_sites(truth)
    rows, columns = np.nonzero(laid == 3)
    laid[rows[known.LEAST_CELLS - 1 :], columns[known.LEAST_CELLS - 1 :]] = -1
    bank = fit_bank([decompose(fit_rotation([sample]).forward(sample.image), sample.valid)])
    found = known.known_cells([laid], bank.cells(4))
    assert found is not None
    assert np.unique(found).tolist() == [-1, 0, 1, 2]
    assert (found >= 0).sum() == (laid >= 0).sum() - (known.LEAST_CELLS - 1)


def test_a_corner_of_a_scene_does_not_tell_its_classes(monkeypatch: pytest.MonkeyPatch) -> None:
    sample, truth = quarters()
    monkeypatch.setattr(known, "COVER_PX", 32)
    middle = slice(SIDE // 2 - 40, SIDE // 2 + 40)
    laid = np.full_like(at_sites(truth), -1)
    laid[middle, middle] = at_sites(truth)[middle, middle]
    assert (np.bincount(laid[laid >= 0]) >= known.LEAST_CELLS).all(), "of each class enough is known"
    assert begun(replace(sample, known=laid), 4) is None
    laid[:, middle] = at_sites(truth)[:, middle]
    laid[middle, :] = at_sites(truth)[middle, :]
    assert begun(replace(sample, known=laid), 4) is not None


def test_known_classes_that_do_not_fit_are_refused() -> None:
    sample, truth = quarters()
    config = TextureConfig(3, 2)
    for laid, said in ((at_sites(truth), "must be below k = 3; got 3"), (at_sites(truth)[1:], "must have the shape")):
        with pytest.raises(ValueError, match=said):
            training.check_samples([replace(sample, known=laid)], config)


def test_windows_of_a_large_sample_take_what_is_known_with_them() -> None:
    tall = np.arange(1024 * 512).reshape(1024, 512)
    image = (tall[..., None] / tall.size).astype(np.float32)
    sample = Sample(image, np.ones(tall.shape, bool), (tall % 7).astype(np.int16))
    for window in training.draw_windows([sample], 1 << 18, np.random.default_rng(0)):
        assert window.known is not None
        pixels = np.rint(window.image[..., 0].astype(np.float64) * tall.size).astype(np.int64)
        np.testing.assert_array_equal(window.known, pixels % 7)
