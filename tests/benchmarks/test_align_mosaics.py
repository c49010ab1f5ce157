import json
from dataclasses import replace

import numpy as np
import pytest

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
    assert len(grey) == 1 + 4
    assert main([*options, "--json", str(tmp_path / "again.json")]) == 0
    assert len(grey) == 5, "what was labelled is not trained again"
    first, again = (json.loads((tmp_path / f"{name}.json").read_text())["runs"] for name in ("first", "again"))
    assert first == again
    by_way = {run["way"]: run for run in first}
    ours = ["truth", "global", "local, no repair", "local, no repair, oracle"]
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
    work = cases.train_and_predict

    def stop(plan, block):
        if len(grey) == 2:
            raise KeyboardInterrupt
        return work(plan, block)

    with monkeypatch.context() as patch:
        patch.setattr(cases, "train_and_predict", stop)
        with pytest.raises(KeyboardInterrupt):
            collect(plan)
    assert not is_collected(plan)
    collect(plan)
    assert is_collected(plan)
    assert len(grey) == 4
    monkeypatch.setattr(cases, "model_digest", lambda: "another")
    other, _ = plan_case(CASE, "local", tmp_path)
    assert not is_collected(other)


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
    assert mosaics.K == 6
