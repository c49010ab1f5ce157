"""Laws of the starts: colours weigh what they weigh in the image, and textures are preferred where they tell more."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray
from sklearn.metrics import adjusted_rand_score

from ktex_model.model import Sample
from ktex_model.texture import starts, training
from ktex_model.texture.assignment import Assigned, Cells
from ktex_model.texture.bank import fit_bank
from ktex_model.texture.clustering import Ints
from ktex_model.texture.config import TextureConfig
from ktex_model.texture.features import decompose, fit_rotation

SIDE = 192


def halves(wave_px: tuple[float, float], level: tuple[float, float]) -> tuple[Sample, NDArray[np.int64]]:
    """Left and right half of an image of two bands: waves of some lengths around some levels, and noise."""
    rng = np.random.default_rng(0)
    y, x = np.mgrid[:SIDE, :SIDE]
    truth = (x >= SIDE // 2).astype(np.int64)
    waves = np.stack([0.1 * np.sin(2 * np.pi * (x + 0.3 * y) / px) for px in wave_px])
    grey = np.take_along_axis(waves, truth[None], 0)[0] + np.take(level, truth)
    image = np.stack([grey, grey], -1) + 0.005 * rng.standard_normal((SIDE, SIDE, 2))
    return Sample(image.astype(np.float32), np.ones((SIDE, SIDE), bool)), truth


def found(sample: Sample, truth: NDArray[np.int64]) -> tuple[str, float]:
    """Which start is kept, and how well the classes that it leads to are those of the truth."""
    rotation = fit_rotation([sample])
    bank = fit_bank([decompose(rotation.forward(sample.image), sample.valid)])
    log = training.StageLog(1, None)
    cells, labels, _ = training.find_classes(bank, rotation.scale, TextureConfig(2, 2), 0, log)
    at = cells.maps(np.arange(len(labels)))[0]
    known = truth[1 :: cells.stride, 1 :: cells.stride][: at.shape[0], : at.shape[1]]
    (stage,) = (each for each in log.stages if each["name"] == "starts")
    return str(stage["chosen"]), adjusted_rand_score(known.ravel(), labels[at].ravel())


def test_two_textures_of_one_colour_are_found_from_textures() -> None:
    chosen, ari = found(*halves((3.0, 12.0), (0.4, 0.4)))
    assert chosen == starts.TEXTURES
    assert ari > 0.9


def test_two_colours_are_found_from_colours() -> None:
    chosen, ari = found(*halves((6.0, 6.0), (0.3, 0.6)))
    assert chosen == starts.COLOURS
    assert ari > 0.9


def test_a_band_of_little_variance_does_not_count_as_much_as_brightness() -> None:
    rng = np.random.default_rng(0)
    bright = np.repeat([-1.0, 1.0], SIDE * SIDE // 2)
    noise = np.where(np.arange(SIDE * SIDE) % 32 < 16, -1.0, 1.0)  # stripes, that smoothing leaves
    values = np.stack([bright, noise], -1) + 0.1 * rng.standard_normal((SIDE * SIDE, 2))
    cells = Cells(values.astype(np.float32), (np.ones((SIDE, SIDE), bool),), 1)
    for spread, other in (((1.0, 0.02), bright), ((0.02, 1.0), noise)):
        name, labels = next(starts.propose(cells, np.array(spread, np.float32), 2, np.random.default_rng(0)))
        assert name == starts.COLOURS
        assert adjusted_rand_score(other > 0, labels) > 0.9


@pytest.mark.parametrize(
    ("gains", "kept"),
    [
        ((0.1, 0.1, 0.1, 0.2), starts.TEXTURES),
        ((-0.3, 0.1, 0.1, 0.8), starts.COLOURS),
        ((-0.1, -0.1, -0.1, -0.1), starts.COLOURS),
    ],
)
def test_textures_must_tell_more_by_the_standard_error_of_the_difference(
    gains: tuple[float, ...], kept: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Four places, of which textures tell so much more; what is left of three is the mean of these.
    parts = {0: np.array([1.0, 0.4, 0.7, 0.5]), 1: np.array([1.0, 0.4, 0.7, 0.5]) + gains}
    cells = Cells(np.random.default_rng(0).standard_normal((400, 3)).astype(np.float32), (np.ones((20, 20), bool),), 4)
    monkeypatch.setattr(starts, "label_information", lambda _cells, labels, _k: parts[labels[0]].mean())
    monkeypatch.setattr(
        starts,
        "information_without",
        lambda _cells, labels, _k: (parts[labels[0]].sum() - parts[labels[0]]) / 3,
    )
    monkeypatch.setattr(
        starts,
        "propose",
        lambda *_: iter([(starts.COLOURS, np.zeros(400, np.int64)), (starts.TEXTURES, np.ones(400, np.int64))]),
    )

    def alternate(labels: Ints, k: int, rounds: int) -> Assigned:
        return Assigned(labels, (0.0,) * rounds)

    spread = np.ones(3, np.float32)
    drawn = []

    def exchange(start: Assigned, rng: np.random.Generator) -> tuple[Assigned, list[float]]:
        drawn.append(rng.random())
        return start, []

    best, report = starts.choose(cells, spread, 2, np.random.default_rng(0), alternate, 3, exchange)
    assert drawn[0] == drawn[1], "what one start draws must not hang on what the other drew"
    assert report["chosen"] == kept
    assert report["margin"] == pytest.approx(np.std(gains, ddof=1) / 2, abs=1e-5)
    assert report["information"] == pytest.approx({starts.COLOURS: 0.65, starts.TEXTURES: 0.65 + np.mean(gains)})
    assert report["steps"] == 6
    assert (best.labels == (kept == starts.TEXTURES)).all()


def test_what_labels_tell_without_a_quarter_is_what_they_tell_where_it_is_not_valid() -> None:
    rng, side = np.random.default_rng(1), 72  # cells of 4 px: tiles of 64 and 8 cells
    mask = np.ones((side, side), bool)
    mask[:32, :32] = False
    classes = rng.integers(0, 3, (side // 8, side // 8)).repeat(8, 0).repeat(8, 1)
    cells = Cells(np.zeros((int(mask.sum()), 1), np.float32), (mask,), 4)
    found = starts.information_without(cells, classes[mask], 3)
    assert len(found) == 3 + 3 * 4
    wanted = []
    for rows, columns in ((slice(0, 32), slice(32, 64)), (slice(32, 64), slice(0, 32)), (slice(32, 64), slice(32, 64))):
        rest = mask.copy()
        rest[rows, columns] = False
        fewer = Cells(np.zeros((int(rest.sum()), 1), np.float32), (rest,), 4)
        wanted.append(starts.label_information(fewer, classes[rest], 3))
    np.testing.assert_allclose(found[:3], wanted, rtol=1e-12)


def test_a_scene_of_one_part_keeps_colours() -> None:
    assert starts.jackknife_error(np.ones(1)) == np.inf
