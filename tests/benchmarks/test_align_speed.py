import json

import numpy as np

from benchmarks.align.simulator import SCENARIOS, simulate
from benchmarks.align.speed import STEPS, copy_mosaic, main, measure, read_mosaic, write_mosaic
from pipeline.align.graph import build


def test_a_written_mosaic_comes_back(tmp_path):
    write_mosaic(tmp_path / "m.npz", 3, "islands", 4)
    signatures, overlaps, truth = read_mosaic(tmp_path / "m.npz")
    made = simulate((3, 3), SCENARIOS["islands"], 4)
    for read, written in ((signatures, made.signatures), (overlaps, made.overlaps)):
        assert len(read) == len(written) > 0
        for one, two in zip(read, written, strict=True):
            for key, array in two.to_arrays().items():
                np.testing.assert_array_equal(one.to_arrays()[key], array)
    np.testing.assert_array_equal(truth, np.concatenate([made.node_truth[s.index] for s in made.signatures]))


def test_copies_lie_apart_and_are_aligned_with_each_other(tmp_path):
    write_mosaic(tmp_path / "one.npz", 6, "clean", 4)
    copy_mosaic(tmp_path / "one.npz", tmp_path / "three.npz", 3)
    signatures, overlaps, truth = read_mosaic(tmp_path / "three.npz")
    assert (len(signatures), len(overlaps)) == (3 * 36, 3 * len(read_mosaic(tmp_path / "one.npz")[1]))
    assert len({s.index for s in signatures}) == 3 * 36
    assert build(signatures, overlaps).components.max() == 2
    found = measure(tmp_path / "three.npz")
    assert (found["blocks"], found["nodes"]) == (108, len(truth))
    assert found["node_ari"] > 0.9


def test_time_memory_and_accuracy_are_told_for_each_size(tmp_path, capsys):
    assert main(["--blocks", "4", "6", "--json", str(tmp_path / "speed.json"), "--keep", str(tmp_path / "kept")]) == 0
    small, large = json.loads((tmp_path / "speed.json").read_text())["runs"]
    assert (small["blocks"], large["blocks"]) == (16, 36)
    assert set(large["steps"]) <= set(STEPS)
    assert 0 < sum(large["steps"].values()) <= large["cpu_seconds"]
    assert large["peak_bytes"] > 2**24
    assert large["node_ari"] > 0.8
    assert "| std      | 36" in capsys.readouterr().out
