import json

import numpy as np
import pytest

from benchmarks.align import extractors, mosaics
from benchmarks.align.extractors import list_ways, main, recognise
from ktex_model.signature import signature_features
from pipeline.catalogue.values import Members
from tests.pipeline import grey_model


@pytest.fixture
def grey(monkeypatch):
    yield grey_model.install(monkeypatch)
    grey_model.load_model.cache_clear()


@pytest.fixture
def small(monkeypatch):
    monkeypatch.setattr(extractors, "FIT_PX", 192)


def test_filters_score_what_a_run_scores_without_repair(tmp_path, grey, small):
    options = ["--scenes", "shared", "--size", "256", "--block-px", "128", "--folder", str(tmp_path)]
    assert main([*options, "--only-labelled", "--json", str(tmp_path / "none.json")]) == 0
    assert json.loads((tmp_path / "none.json").read_text())["runs"] == []
    assert main([*options, "--json", str(tmp_path / "ways.json")]) == 0
    trained = len(grey)
    assert mosaics.main([*options, "--json", str(tmp_path / "runs.json")]) == 0
    assert len(grey) == trained, "both look at the same labels"
    ways = json.loads((tmp_path / "ways.json").read_text())["runs"]
    runs = {run["way"]: run for run in json.loads((tmp_path / "runs.json").read_text())["runs"]}
    assert [(run["way"], run["method"]) for run in ways] == [
        (way, method) for way in extractors.DIMENSIONS for method in ("solver", "solver, anchor", "k-means")
    ]
    for run, name in zip(ways[1:3], ("local, no repair", "local, k-means"), strict=True):
        assert all(run[figure] == runs[name][figure] for figure in ("pixel_ari", "ari_global", "disagreement"))


def test_each_way_sees_pixels_alone_wherever_they_lie(small):
    rng = np.random.default_rng(0)
    image = rng.random((40, 48, 4), np.float32)
    valid = np.ones((40, 48), bool)
    valid[:8] = False
    other = np.where(valid[..., None], image, 7).astype(np.float32)
    for way, describe in list_ways().items():
        features, cell_valid = describe(image, valid)
        assert features.shape == (10, 12, {"filters": 20, "encoder": 4 + 16, "both": 20 + 8}[way])
        assert not features[~cell_valid].any()
        # What nodata holds counts for nothing.
        np.testing.assert_array_equal(features, describe(other, valid)[0])
    np.testing.assert_array_equal(list_ways()["filters"](image, valid)[0], signature_features(image, valid)[0])


def test_a_date_that_moved_as_a_whole_is_recognised_and_one_that_changed_places_is_not():
    rng = np.random.default_rng(0)
    ids = np.repeat([0, 1, 2], 20)
    features = 9 * np.eye(3)[ids] + rng.normal(0, 0.1, (60, 3))
    first = Members(ids, np.full(60, 100), features)
    moved = Members(ids, np.full(60, 100), features + np.array([3.0, -2.0, 1.0]))
    assert recognise(first, moved, np.eye(3))["right"] == 1
    changed = Members((ids + 1) % 3, np.full(60, 100), features)
    assert recognise(first, changed, np.eye(3))["right"] == 0
