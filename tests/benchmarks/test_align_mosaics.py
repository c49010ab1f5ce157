import json

import numpy as np
import pytest

from benchmarks.align import mosaics
from benchmarks.align.mosaics import Blocks, main, oracle, read_blocks, score
from benchmarks.quality.scenes import make_scene
from pipeline.align import align
from tests.pipeline import grey_model


@pytest.fixture
def grey(monkeypatch):
    yield grey_model.install(monkeypatch)
    grey_model.load_model.cache_clear()


def test_both_ways_are_scored_and_blocks_can_be_aligned_again(tmp_path, grey, capsys):
    options = ["--scenes", "shared", "--size", "256", "--block-px", "128", "--folder", str(tmp_path)]
    assert main([*options, "--json", str(tmp_path / "first.json")]) == 0
    assert len(grey) == 1 + 4
    assert main([*options, "--again", "--json", str(tmp_path / "again.json")]) == 0
    assert len(grey) == 5, "what was labelled is not trained again"
    first, again = (json.loads((tmp_path / f"{name}.json").read_text())["runs"] for name in ("first", "again"))
    assert first == again
    by_way = {run["way"]: run for run in first}
    assert list(by_way) == ["truth", "global", "local", "local, oracle"]
    assert by_way["truth"]["pixel_ari"] == 1
    assert 0 < by_way["global"]["pixel_ari"] < 1
    # Grey means the same in all blocks: the alignment has to undo their permutations.
    assert by_way["local"]["pixel_ari"] == pytest.approx(by_way["global"]["pixel_ari"], abs=0.03)
    assert by_way["local"]["disagreement"] < 0.1
    assert "| shared | 0    | 6 | local, oracle" in capsys.readouterr().out


def test_a_wrong_name_costs_what_it_covers(tmp_path, grey):
    options = ["--scenes", "shared", "--size", "256", "--block-px", "128", "--folder", str(tmp_path)]
    main(options)
    blocks = read_blocks(tmp_path / "shared-0-256-local-k6")
    assert isinstance(blocks, Blocks)
    assert len(blocks.signatures) == len(blocks.overlaps) == 4
    truth = make_scene("shared", 256).truths[0]
    found, best = (
        score(blocks, each, truth) for each in (align(blocks.signatures, blocks.overlaps), oracle(blocks, truth))
    )
    assert best["true_effective"] == pytest.approx(6, abs=0.1)
    wrong = align(blocks.signatures, blocks.overlaps)
    wrong.lookup[0, 0][:] = np.roll(wrong.lookup[0, 0], 1)
    assert score(blocks, wrong, truth)["disagreement"] > found["disagreement"] + 0.1
    assert score(blocks, wrong, truth)["seam_before"] > found["seam_before"]
    assert mosaics.K == 6
