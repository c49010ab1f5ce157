import numpy as np
import pytest

from benchmarks.align import baselines
from benchmarks.align.__main__ import main, measure, methods
from benchmarks.align.baselines import BASELINES, contract
from benchmarks.align.simulator import SCENARIOS, simulate
from benchmarks.scores import adjusted_rand, count_pairs
from pipeline.align.values import BlockSignature, Overlap


def _row(count=10, seed=0):
    """Blocks in a row, each with two far-apart classes of its own numbering that meet only themselves."""
    rng = np.random.default_rng(seed)
    swapped = rng.integers(2, size=count)
    truth = {(0, i): np.array([s, 1 - s]) for i, s in enumerate(swapped)}
    signatures = [
        BlockSignature(
            index,
            np.arange(2),
            np.array([100, 120]),
            (10.0 * true[:, None] + rng.uniform(-0.1, 0.1, (2, 3))).astype(np.float32),
            np.ones((2, 3), np.float32),
        )
        for index, true in truth.items()
    ]
    overlaps = []
    for i in range(count - 1):
        same = truth[0, i][:, None] == truth[0, i + 1]
        overlaps.append(Overlap((0, i), (0, i + 1), np.where(same, 30, 1), np.zeros(3, np.float32), 62.0))
    return signatures, overlaps, truth


@pytest.mark.parametrize("name", BASELINES)
@pytest.mark.parametrize("seed", [0, 1])
def test_what_is_plain_is_solved_by_all(name, seed):
    signatures, overlaps, truth = _row(seed=seed)
    found = BASELINES[name](signatures, overlaps, 2, seed)
    true = np.concatenate(list(truth.values()))
    given = np.concatenate([found[index] for index in truth])
    assert adjusted_rand(count_pairs(given, true)) == 1
    assert len(np.unique(given)) == 2


@pytest.mark.parametrize("name", ["raster Hungarian", "tree Hungarian", "GAEC, overlaps"])
def test_without_a_shared_pixel_ids_are_new(name):
    signatures, _, _ = _row(count=3)
    found = BASELINES[name](signatures, [], 2, 0)
    assert len(np.unique(np.concatenate(list(found.values())))) == 6


def test_offsets_that_overlaps_measure_are_taken_out():
    signatures, overlaps, truth = _row()
    moved = [
        BlockSignature(s.index, s.ids, s.pixels, s.features + np.float32(25.0 * s.index[1]), s.spread)
        for s in signatures
    ]
    measured = [Overlap(o.a, o.b, o.table, np.full(3, -25.0, np.float32), o.weight) for o in overlaps]
    true = np.concatenate(list(truth.values()))

    def index(name):
        found = BASELINES[name](moved, measured, 2, 0)
        return adjusted_rand(count_pairs(np.concatenate(list(found.values())), true))

    assert index("k-means, radiometry") == 1
    assert index("k-means") < 0.5


def test_contraction_weighs_all_edges_between_clusters():
    # 0-1 joins first; together they are repelled by 2 more than they are drawn to it.
    assert contract(3, [(0, 1, 5.0), (1, 2, 2.0), (0, 2, -4.0)]).tolist() == [0, 0, 1]
    assert contract(3, [(0, 1, 5.0), (1, 2, 2.0), (0, 2, -1.0)]).tolist() == [0, 0, 0]
    assert contract(4, []).tolist() == [0, 1, 2, 3]
    assert contract(2, [(0, 1, 3.0), (0, 1, -4.0)]).tolist() == [0, 1]


def test_two_nodes_of_one_block_repel_each_other_when_edges_are_contracted():
    # The block has split what its neighbour has whole: each half is drawn to it by 4.2, and they repel by 6.
    features = np.zeros((3, 2), np.float32)
    sides = [
        BlockSignature((0, x), np.arange(n), np.full(n, 100), features[:n], features[:n]) for x, n in ((0, 3), (1, 2))
    ]
    table = np.array([[100, 0], [100, 0], [0, 100]])
    found = baselines.contract_overlaps(sides, [Overlap((0, 0), (0, 1), table, np.zeros(2, np.float32))], 2, 0)
    assert len(set(found[0, 0].tolist())) == 3
    assert set(found[0, 1].tolist()) < set(found[0, 0].tolist())


def test_the_tree_takes_the_strongest_seams():
    assert baselines._agreement(np.array([[10, 0], [0, 10]])) == 1.0
    assert baselines._agreement(np.array([[5, 5], [5, 5]])) == 0.5


def test_the_oracle_is_right_and_nothing_is_better():
    mosaic = simulate((4, 4), SCENARIOS["std"], seed=1)
    found = {name: measure(mosaic, name, 0) for name in methods()}
    assert found["oracle"]["node_ari"] == 1
    assert max(figures["node_ari"] for figures in found.values()) == 1
    assert all(figures["ids"] >= 1 for figures in found.values())


def test_the_command_prints_every_method(tmp_path, capsys):
    options = ["--blocks", "3", "--seeds", "1", "2", "--scenarios", "clean", "--markdown", str(tmp_path / "align.md")]
    assert main(options) == 0
    printed = capsys.readouterr().out
    assert all(f"| {name} " in printed for name in methods())
    assert printed == (tmp_path / "align.md").read_text()
