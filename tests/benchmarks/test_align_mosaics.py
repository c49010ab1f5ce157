import json
from dataclasses import replace

import numpy as np
import pytest
import rasterio

from benchmarks.align import cases, mosaics
from benchmarks.align.baselines import BASELINES
from benchmarks.align.cases import Case, collect, is_collected, plan_case, read_labelled
from benchmarks.align.mosaics import main, oracle, score
from pipeline.engine import SerialEngine
from pipeline.vocabulary import find_vocabulary
from tests.pipeline import grey_model

CASE = Case("shared", 0, 256, 128, 6)


@pytest.fixture
def grey(monkeypatch):
    yield grey_model.install(monkeypatch)
    grey_model.load_model.cache_clear()


def test_all_ways_are_scored_and_blocks_are_trained_once(tmp_path, grey, capsys):
    options = ["--scenes", "shared", "--size", "256", "--block-px", "128", "--folder", str(tmp_path)]
    assert main([*options, "--only-labelled", "--json", str(tmp_path / "none.json")]) == 0
    assert grey == []
    assert [run["way"] for run in json.loads((tmp_path / "none.json").read_text())["runs"]] == ["truth"]
    assert main([*options, "--json", str(tmp_path / "first.json")]) == 0
    assert len(grey) == 1 + 1 + 4
    assert main([*options, "--told", "3", "--json", str(tmp_path / "again.json")]) == 0
    assert len(grey) == 6, "what was labelled is not trained again"
    first, again = (json.loads((tmp_path / f"{name}.json").read_text())["runs"] for name in ("first", "again"))
    told = [run for run in again if run["way"] == "local, told 3"]
    assert first == [run for run in again if run not in told]
    assert [run["classes"] for run in told] == [3]
    by_way = {run["way"]: run for run in first}
    ours = ["truth", "global", "local, no anchor", "local, no repair", "local, no repair, oracle"]
    assert list(by_way) == [*ours, *(f"local, {name}" for name in BASELINES), "local", "local, oracle"]
    assert by_way["local, tree Hungarian"]["classes"] > 1
    assert all(by_way[f"local, {name}"]["pixel_ari"] <= by_way["local, oracle"]["pixel_ari"] for name in BASELINES)
    assert by_way["truth"]["pixel_ari"] == 1
    assert 0 < by_way["global"]["pixel_ari"] < 1
    # Grey means the same in all blocks: the alignment has to undo their permutations.
    assert by_way["local"]["pixel_ari"] == pytest.approx(by_way["global"]["pixel_ari"], abs=0.03)
    assert by_way["local"]["disagreement"] < 0.1
    assert "| shared | 0    | 4      | 6 | local, oracle" in capsys.readouterr().out


def test_an_interrupted_collection_goes_on_and_other_code_begins_anew(tmp_path, grey, monkeypatch):
    plan, _ = plan_case(CASE, "local", tmp_path)
    work = cases.train_any

    def stop(plan, item):
        if len(grey) == 2:
            raise KeyboardInterrupt
        return work(plan, item)

    with monkeypatch.context() as patch:
        patch.setattr(cases, "train_any", stop)
        with pytest.raises(KeyboardInterrupt):
            collect(plan)
    assert not is_collected(plan)
    collect(plan)
    assert is_collected(plan)
    assert len(grey) == 1 + 4
    monkeypatch.setattr(cases, "model_digest", lambda: "another")
    other, _ = plan_case(CASE, "local", tmp_path)
    assert not is_collected(other)


def test_a_scene_without_truth_is_measured_against_the_map_of_one_model(tmp_path, grey, monkeypatch, capsys):
    monkeypatch.setitem(cases.REAL, "shared", ("", None, "rgbn", 6))
    opened = cases.open_case
    monkeypatch.setattr(cases, "open_case", lambda case, folder: (*opened(case, folder)[:2], None))
    options = ["--scenes", "shared", "--size", "256", "--block-px", "128", "--folder", str(tmp_path)]
    assert main([*options, "--json", str(tmp_path / "figures.json")]) == 0
    by_way = {run["way"]: run for run in json.loads((tmp_path / "figures.json").read_text())["runs"]}
    assert "local, oracle" not in by_way
    assert "pixel_ari" not in by_way["local"]
    assert "ari_global" not in by_way["global"]
    named = by_way["local, named by the global map"]
    assert 0.9 < named["ari_global"] <= 1
    assert named["classes"] == by_way["global"]["classes"]
    assert by_way["local"]["ari_global"] == pytest.approx(named["ari_global"], abs=0.03)
    others = [by_way[f"local, {name}"]["ari_global"] for name in BASELINES]
    assert min(others) < named["ari_global"] - 0.1
    assert max(others) <= named["ari_global"]
    assert "| ari global |" in capsys.readouterr().out


def test_labels_of_zion_lie_on_the_pixels_of_its_raster(tmp_path, real_data, monkeypatch):
    monkeypatch.setenv("KTEX_DATA", str(real_data))
    plan, truth = plan_case(Case("zion", 0, 0, 512, 8), "local", tmp_path)
    assert truth.shape == plan.grid.shape
    rng = np.random.default_rng(0)
    pixels = np.array([rng.integers(0, size, 2000) for size in truth.shape]).T
    places = list(zip(*rasterio.transform.xy(plan.scene.geobox.transform, *pixels.T), strict=True))
    with rasterio.open(real_data / "zion" / "zion_west_nlcd8.tif") as file:
        there = np.array([value for (value,) in file.sample(places)])
    said = truth[tuple(pixels.T)]
    assert (said != 255).mean() > 0.95
    np.testing.assert_array_equal(said[said != 255], there[said != 255])


def test_a_wide_scene_has_the_textures_of_both_of_its_halves(tmp_path):
    plan, truth = plan_case(Case("wide", 0, 0, 256, 6), "local", tmp_path)
    assert len(plan.grid) == 4 * 8
    assert [sorted(np.unique(half)) for half in np.split(truth, 2, axis=1)] == [list(range(6)), list(range(6, 12))]


@pytest.mark.filterwarnings("ignore:Use `@` matmul:PendingDeprecationWarning")
def test_a_square_of_a_real_scene_divides_evenly(tmp_path, real_data, monkeypatch):
    monkeypatch.setenv("KTEX_DATA", str(real_data))
    for block_px, blocks in ((360, 4), (180, 16), (120, 36)):
        plan, _ = plan_case(Case("naip-2010-720", 0, 0, block_px, 6), "local", tmp_path)
        assert plan.grid.shape == (720, 720)
        assert len(plan.grid) == blocks


def test_a_truth_of_another_size_is_refused(tmp_path, monkeypatch):
    opened = cases.open_case(CASE, tmp_path)
    monkeypatch.setattr(cases, "open_case", lambda case, folder: (*opened[:2], opened[2][1:]))
    with pytest.raises(ValueError, match=r"truth of shared must be \(256, 256\) pixels; got \(255, 256\)"):
        plan_case(CASE, "local", tmp_path)


def test_classes_without_a_true_pixel_have_ids_of_their_own(tmp_path, grey):
    plan, truth = plan_case(CASE, "local", tmp_path)
    collect(plan)
    blocks = read_labelled(plan, find_vocabulary(plan, list(plan.grid), SerialEngine(), lambda *_: None))
    hidden = truth.copy()
    first = blocks.signatures[0]
    wide = blocks.grid.block(first.index).wide.slices
    hidden[wide][np.isin(blocks.labels[first.index], first.ids[:2])] = 255
    lookup = oracle(blocks, hidden).lookup
    given = np.concatenate([lookup[s.index][s.ids] for s in blocks.signatures])
    assert lookup[first.index][first.ids[:2]].tolist() == [truth.max() + 1, truth.max() + 2]
    assert sorted(given[given > truth.max()]) == [truth.max() + 1, truth.max() + 2]
    assert 0 in given
    for s in blocks.signatures:
        for i in s.ids:
            said = hidden[blocks.grid.block(s.index).wide.slices][blocks.labels[s.index] == i]
            counts = np.bincount(said[said != 255], minlength=6)
            assert not counts.any() or counts[lookup[s.index][i]] == counts.max()
    hidden[:] = 255
    hidden[0, 0] = 250
    with pytest.raises(ValueError, match="must fit below id 255"):
        oracle(blocks, hidden)


def test_a_wrong_name_costs_what_it_covers(tmp_path, grey):
    plan, truth = plan_case(CASE, "local", tmp_path)
    collect(plan)
    found = find_vocabulary(plan, list(plan.grid), SerialEngine(), lambda *_: None)
    blocks = read_labelled(plan, found)
    assert len(blocks.signatures) == len(blocks.overlaps) == 4
    right, best = (score(blocks, each, truth) for each in (found.alignment, oracle(blocks, truth)))
    assert best["classes_effective"] == pytest.approx(right["classes_effective"], abs=1)
    lookup = {index: table.copy() for index, table in found.alignment.lookup.items()}
    lookup[0, 0] = np.roll(lookup[0, 0], 1)
    wrong = replace(found.alignment, lookup=lookup)
    assert score(blocks, wrong, truth)["disagreement"] > right["disagreement"] + 0.1
    assert score(blocks, wrong, truth)["seam_before"] > right["seam_before"]
    # The same map in other ids, seen in part: agreement is of the pixels that both have.
    whole = np.where(np.arange(256) < 200, 5 - truth, 255).astype(np.uint8)
    seen = score(blocks, wrong, np.where(whole == 255, 255, truth).astype(np.uint8), whole)
    assert seen["ari_global"] == pytest.approx(seen["pixel_ari"])
    assert seen["ari_global"] < score(blocks, found.alignment, truth, whole)["ari_global"] <= 1
    assert score(blocks, found.alignment, truth)["ari_global"] is None
    assert mosaics.K == 6
