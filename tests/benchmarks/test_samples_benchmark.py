"""The benchmark of samples: pixels are drawn and ids mapped as said, students start anew, and all runs through."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from rasterio.errors import NotGeoreferencedWarning

from benchmarks.samples import __main__ as benchmark
from benchmarks.samples.places import CLASSES, NO_CLASS, Place, draw_pixels, map_classes
from benchmarks.samples.unet import Student, score
from ktex_model.texture import TextureConfig
from tests.pipeline import grey_model
from tests.pipeline.rasters import write_raster

MASKS = hnp.arrays(np.uint8, (6, 7), elements=st.sampled_from([0, 1, 255]))


@settings(deadline=None, max_examples=60)
@given(MASKS, MASKS)
def test_scores_are_those_of_counting_pixel_by_pixel(truth, found):
    found = np.minimum(found, 1)
    pairs = [(t, f) for t, f in zip(truth.ravel().tolist(), found.ravel().tolist(), strict=True) if t != 255]
    if {t for t, _ in pairs} != {0, 1}:
        return
    said = score([truth[:2], truth[2:]], [found[:2], found[2:]], 2)
    ious = [sum(t == f == c for t, f in pairs) / sum(c in pair for pair in pairs) for c in (0, 1)]
    assert said["miou"] == pytest.approx(np.mean(ious))
    assert said["accuracy"] == pytest.approx(np.mean([t == f for t, f in pairs]))


def test_as_many_pixels_of_each_class_are_drawn_and_they_are_true():
    truth = np.random.default_rng(0).choice(np.array([0, 1, 255], np.uint8), (30, 40), p=[0.9, 0.05, 0.05])
    known = draw_pixels(truth, 12, np.random.default_rng(1))
    assert [(known == value).sum() for value in (0, 1)] == [6, 6]
    np.testing.assert_array_equal(known[known != 255], truth[known != 255])


def test_ids_go_to_the_class_of_most_of_their_labelled_pixels_and_to_none_where_undecided():
    labels = np.array([[3, 3, 3, 8, 8, 5, 9]])
    known = np.array([[0, 0, 1, 1, 0, 1, 255]], np.uint8)
    assert map_classes(labels, known) == {"tree": [3], "low vegetation": [5]}


def test_a_student_learns_what_is_known_and_always_starts_anew():
    rng = np.random.default_rng(0)
    images = np.kron(rng.random((7, 4, 4, 4)), np.ones((1, 4, 4, 1))).astype(np.float32)
    images, fresh = images[:-1], images[-1]
    masks = (images[..., 0] > 0.5).astype(np.uint8)
    masks[:, ::2] = NO_CLASS
    wrong = 1 - masks[:1]
    wrong[:] = NO_CLASS  # a chip of which nothing is known teaches nothing
    student = Student(4, 2)
    student.train(np.concatenate([images, images[:1]]), np.concatenate([masks, wrong]), 40, seed=1)
    first = student.predict(fresh)
    assert (first == (fresh[..., 0] > 0.5)).mean() > 0.8
    student.train(images, 1 - np.minimum(masks, 1), 20, seed=2)
    student.train(np.concatenate([images, images[:1]]), np.concatenate([masks, wrong]), 40, seed=1)
    np.testing.assert_array_equal(student.predict(fresh), first)


def make_places(folder: Path) -> list[Place]:
    places = []
    for tile in (0, 3, 7):
        cover = np.kron(np.random.default_rng(tile).integers(0, 2, (4, 4)), np.ones((32, 32), int)).astype(np.uint8)
        grey = np.where(cover == 0, 60, 190) + np.arange(128) % 9
        image, truth = folder / f"m-{tile}_naip_new.tif", folder / f"m-{tile}_lc.tif"
        write_raster(image, np.stack([grey] * 4).astype(np.uint8), crs=None)
        write_raster(truth, np.array(list(CLASSES.values()), np.uint8)[cover], crs=None)
        places.append(Place(tile, "new", image, truth))
    return places


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore", category=NotGeoreferencedWarning)
@pytest.mark.filterwarnings("ignore:Use `@` matmul:PendingDeprecationWarning")
def test_all_networks_are_trained_and_scored(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(TextureConfig, "context_px", 0)
    grey_model.install(monkeypatch)
    places = make_places(tmp_path)
    monkeypatch.setattr(benchmark, "find_places", lambda date: places)
    monkeypatch.setattr(benchmark, "K", 2)
    monkeypatch.setattr(benchmark, "QUICK", {"seeds": (0,), "dates": ("new",), "pixels": (4,), "steps": 3})
    assert benchmark.main(["--quick", "--json", str(tmp_path / "record.json")]) == 0
    rows: list[dict[str, Any]] = json.loads((tmp_path / "record.json").read_text())["rows"]
    assert [(row["tile"], row["arm"]) for row in rows] == [
        (tile, arm) for tile in (0, 3, 7) for arm in ("one class", "samples", "pixels", "truth")
    ]
    # Two greys are two ids: a map that any labelled pixel of each names rightly.
    assert [row["right"] for row in rows if row["arm"] == "samples"] == [1.0] * 3
    assert all(0 <= row[name] <= 1 for row in rows for name in ("miou", "accuracy"))
    said = capsys.readouterr().out
    assert "U-Net on the samples of the map" in said
    assert " of 3 " in said
    grey_model.load_model.cache_clear()
