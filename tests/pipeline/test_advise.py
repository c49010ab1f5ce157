"""Numbers of classes: what is rated, and what the command says."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from sklearn.metrics import adjusted_rand_score, mutual_info_score

from flows.advise_command import COLUMNS, to_svg, to_table
from flows.cli import main
from ktex_model.model import Sample
from pipeline.advise import Rating, agreement, parse_numbers, rate_number
from pipeline.coherence import DISTANCES_PX, Pairs, map_score
from pipeline.errors import InputError
from tests.pipeline.rasters import write_raster

RATINGS = [Rating(3, 0.4, 0.9, None, 0.2, 0.5), Rating(4, None, 0.8, 0.7, 0.0, 0.3), Rating(6, 0.6, 0.7, 0.6, 0.1, 0.2)]


def score_of(labels: np.ndarray, nodata: int = 255) -> float | None:
    pairs = Pairs(nodata=nodata)
    pairs.add(labels)
    return pairs.score()


def test_the_score_is_the_mutual_information_of_pixels_some_way_off() -> None:
    rng = np.random.default_rng(0)
    labels = np.kron(rng.integers(0, 5, (4, 5)), np.ones((24, 20), int)).astype(np.uint8)
    labels[10:30, 40:60] = 255
    one, other = [], []
    for step in DISTANCES_PX:
        for a, b in ((labels[:-step], labels[step:]), (labels[:, :-step], labels[:, step:])):
            held = (a != 255) & (b != 255)
            one += [a[held], b[held]]
            other += [b[held], a[held]]
    expected = mutual_info_score(np.concatenate(one), np.concatenate(other))
    assert score_of(labels) == pytest.approx(expected)
    renamed = np.where(labels == 255, 65535, labels.astype(np.uint16) * 7 + 300).astype(np.uint16)
    assert score_of(renamed, 65535) == pytest.approx(expected)


@pytest.mark.parametrize("classes", [2, 15, 16, 40])  # two of up to 15 fit a byte
@pytest.mark.parametrize("step", [1, 4, 5])
def test_the_score_does_not_hang_on_how_many_classes_there_are(classes: int, step: int) -> None:
    rng = np.random.default_rng(classes)
    labels = np.kron(rng.integers(0, classes, (9, 8)), np.ones((24, 20), int)).astype(np.uint8)
    labels[0, :classes], labels[10:30, 40:60] = np.arange(classes), 255
    one, other = [], []
    for px in DISTANCES_PX:
        rows = labels[::step]
        for a, b in ((labels[:-px:step], labels[px::step]), (rows[:, :-px], rows[:, px:])):
            held = (a != 255) & (b != 255)
            one += [a[held], b[held]]
            other += [b[held], a[held]]
    pairs = Pairs(nodata=255)
    pairs.add(labels, step)
    assert pairs.score() == pytest.approx(mutual_info_score(np.concatenate(one), np.concatenate(other)))


def test_regions_tell_and_noise_does_not() -> None:
    rng = np.random.default_rng(1)
    halves = np.repeat(np.array([[0, 1]], np.uint8), 128, 1).repeat(256, 0)
    noise = rng.integers(0, 2, (256, 256)).astype(np.uint8)
    mixed = np.where(rng.random(halves.shape) < 0.3, noise, halves)
    assert score_of(halves) > score_of(mixed) > 10 * score_of(noise)  # type: ignore[operator]
    assert score_of(np.zeros((50, 50), np.uint8)) is None
    assert score_of(np.arange(64, dtype=np.uint8).reshape(8, 8)) is None


def test_a_map_is_scored_window_by_window(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pipeline.coherence.WINDOW_PX", 64)
    labels = np.kron(np.arange(12).reshape(3, 4) % 5, np.ones((64, 64), int)).astype(np.uint8)
    pairs = Pairs(nodata=255)
    for y in range(0, 192, 64):
        for x in range(0, 256, 64):
            pairs.add(labels[y : y + 64, x : x + 64])
    assert map_score(lambda window: labels[window.slices], labels.shape, nodata=255) == pairs.score()


def test_a_large_map_is_scored_by_some_of_its_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(0)
    labels = np.kron(rng.integers(0, 5, (20, 20)), np.ones((37, 41), int)).astype(np.uint8)
    labels[100:200, 40:60] = 255
    whole = map_score(lambda window: labels[window.slices], labels.shape, nodata=255)
    monkeypatch.setattr("pipeline.coherence.LARGE_PX", labels.size)
    some = map_score(lambda window: labels[window.slices], labels.shape, nodata=255)
    assert some != whole
    assert some == pytest.approx(whole, rel=0.01)


def test_agreement_is_the_adjusted_rand_index_over_all_windows() -> None:
    rng = np.random.default_rng(2)
    one = [rng.integers(0, 3, (9, 8)).astype(np.uint8) for _ in range(2)]
    other = [np.where(rng.random(each.shape) < 0.3, 0, each).astype(np.uint8) for each in one]
    expected = adjusted_rand_score(np.concatenate(one).ravel(), np.concatenate(other).ravel())
    assert agreement(one, other) == pytest.approx(expected)


@pytest.mark.parametrize("text", ["", "a", "5:3", "1:4", "3:129", "2,200", "3:4:5"])
def test_other_numbers_are_refused(text: str) -> None:
    with pytest.raises(InputError, match=r"--k .*must be FIRST:LAST"):
        parse_numbers(text)


def test_two_textures_are_found_by_every_seed_and_half() -> None:
    from ktex_model import TextureConfig

    rng = np.random.default_rng(3)
    samples = []
    for _ in range(2):
        image = np.full((96, 96, 2), 0.3, np.float32)
        image[:, 48:] = 0.6
        image += 0.02 * rng.standard_normal(image.shape).astype(np.float32)
        samples.append(Sample(image, np.ones((96, 96), bool)))
    config = TextureConfig(2, 2, rounds=3, texture_radius_px=4, texture_rounds=1)
    found = rate_number(samples, config, 0)
    assert found.seeds > 0.95
    assert found.halves is not None
    assert found.halves > 0.95
    assert 0.45 < found.smallest <= 0.5
    assert found.score is not None
    assert found.score > 0.2
    assert 0 < found.loss < 5
    assert rate_number(samples[:1], config, 0).halves is None


def test_seeds_and_halves_label_the_same_windows_where_samples_exceed_what_is_learnt_from() -> None:
    from ktex_model import TextureConfig

    rng = np.random.default_rng(3)
    samples = []
    for number in range(4):  # each of another brightness, so that other windows cannot be taken for these
        image = np.full((96, 96, 1), 0.2 + 0.1 * number, np.float32)
        image[:, 48:] += 0.05
        samples.append(
            Sample(image + 0.01 * rng.standard_normal(image.shape).astype(np.float32), np.ones((96, 96), bool))
        )
    config = TextureConfig(2, 1, rounds=3, texture_radius_px=4, texture_rounds=1, fit_px=2 * 96 * 96)
    found = rate_number(samples, config, 0)
    assert found.seeds > 0.9
    assert found.halves is not None


def test_the_table_marks_the_best_and_the_plot_holds_every_rating() -> None:
    table = to_table(RATINGS).splitlines()
    assert [line.endswith("best score") for line in table[1:4]] == [False, False, True]
    assert table[2].split()[:4] == ["4", "-", "0.800", "0.700"]
    plot = to_svg(RATINGS)
    assert plot.startswith("<svg") and plot.rstrip().endswith("</svg>")  # noqa: PT018
    assert plot.count("<circle") == sum(getattr(r, name) is not None for r in RATINGS for name in COLUMNS)
    assert "<circle" in to_svg(RATINGS[:1])


def test_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rng = np.random.default_rng(4)
    data = (80 + 100 * (np.arange(128)[None, :] > 64) + 8 * rng.standard_normal((3, 128, 128))).astype(np.uint8)
    path = str(write_raster(tmp_path / "scene.tif", data))
    arguments = ["advise-k", path, "--bands", "rgb", "--k", "2,3", "--plot", str(tmp_path / "plot.svg"), "--json"]
    assert main(arguments) == 0
    said = json.loads(capsys.readouterr().out)
    assert [each["k"] for each in said] == [2, 3]
    assert "<svg" in (tmp_path / "plot.svg").read_text()
    assert main(["advise-k", path, "--bands", "rgb", "--k", "9:2"]) == 2
    assert "must be FIRST:LAST" in capsys.readouterr().err
