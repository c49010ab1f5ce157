import itertools
import json
from contextlib import nullcontext
from dataclasses import replace
from unittest.mock import patch

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import roc_auc_score

from benchmarks.align.simulator import SCENARIOS, Scenario, node_scores, permute, simulate
from pipeline.align import Alignment, BlockSignature, Overlap, align
from pipeline.align.graph import Groups, build
from pipeline.align.inference import couplings
from pipeline.align.review import find_confusions, find_contested, tell_mixed
from pipeline.align.values import Confusion, Contested
from pipeline.metrics import overlap_disagreement, table_scores
from pipeline.publish import describe_alignment


def _score(mosaic, found):
    true, given_ids, pixels = node_scores(mosaic, found)
    table = np.zeros((int(given_ids.max()) + 1, int(true.max()) + 1), dtype=np.int64)
    np.add.at(table, (given_ids, true), pixels)
    return table_scores(table).ari


def _block(index, features, pixels=None, ids=None):
    n = len(features)
    features = np.asarray(features, dtype=np.float32)
    return BlockSignature(
        index,
        np.arange(n) if ids is None else np.asarray(ids),
        np.asarray(pixels if pixels is not None else [400 + 10 * i for i in range(n)]),
        features,
        np.full(features.shape, 0.5, dtype=np.float32),
    )


def _overlap(a, b, table, dims=3):
    return Overlap(a, b, np.asarray(table), np.zeros(dims, np.float32))


@pytest.mark.parametrize(
    ("name", "least"),
    [("clean", 0.98), ("std", 0.9), ("drift3", 0.9), ("heavy", 0.75), ("islands", 0.85), ("cdrift", 0.9)],
)
def test_classes_are_found_again(name, least):
    mosaic = simulate((12, 12), SCENARIOS[name], seed=3)
    found = align(mosaic.signatures, mosaic.overlaps)
    assert _score(mosaic, found) > least
    assert 6 <= len(found.classes) <= 16


@pytest.mark.parametrize("counts", [(2, 2), (4, 4)])
@pytest.mark.parametrize("name", ["clean", "std", "drift3"])
def test_small_mosaics_have_as_many_classes_as_the_truth(counts, name):
    # Few blocks say little about how far a class may wander: what is near must not be taken for another class.
    scores, surplus = [], []
    for seed in (1, 2):
        mosaic = simulate(counts, SCENARIOS[name], seed, classes=6, block_px=128)
        found = align(mosaic.signatures, mosaic.overlaps)
        true, _, _ = node_scores(mosaic, found)
        scores.append(_score(mosaic, found))
        surplus.append(len(found.classes) - len(np.unique(true)))
    assert np.mean(scores) > 0.9
    assert max(map(abs, surplus)) <= 1


def test_blocks_of_hardly_more_than_one_class_speak_as_well_as_others():
    # One class covers nearly all: what blocks agree on there is little information, but no disagreement.
    mosaic = simulate((2, 2), SCENARIOS["clean"], 14, classes=6, block_px=96)
    assert max(np.bincount(mosaic.truth[mosaic.truth < 6])) > 0.9 * mosaic.truth.size
    assert _score(mosaic, align(mosaic.signatures, mosaic.overlaps)) > 0.95


@given(st.lists(st.tuples(st.integers(0, 4), st.integers(-9, 9)), max_size=20))
def test_sums_and_maxima_of_groups(elements):
    keys = np.array([key for key, _ in elements], dtype=np.intp)
    values = np.array([value for _, value in elements], dtype=np.float64)
    groups = Groups(keys)
    assert groups.sum(values).tolist() == [sum(v for k, v in elements if k == key) for key in keys]
    assert groups.max(values).tolist() == [max(v for k, v in elements if k == key) for key in keys]


def test_asking_for_a_number_of_classes_gives_it():
    mosaic = simulate((8, 8), SCENARIOS["std"], seed=1)
    for classes in (3, 8):
        found = align(mosaic.signatures, mosaic.overlaps, classes=classes)
        assert len(found.classes) == classes
    few = align(mosaic.signatures, mosaic.overlaps, classes=3)
    assert any("were joined to keep to the number" in flag for flag in few.flags)
    many = align([_block((0, 0), [[0.0]]), _block((0, 1), [[0.1]])], [], classes=5)
    assert any("5 classes were asked for" in flag for flag in many.flags)


@pytest.mark.parametrize(("side", "step", "classes"), [(2, 20.0, 4), (2, 0.2, 3), (6, 20.0, 3)])
def test_few_blocks_make_one_class_of_two_that_each_tells_apart_only_if_they_look_alike(side, step, classes):
    # Which of the first two is which, neighbours cannot agree on; the other two are clear.
    rng = np.random.default_rng(0)
    at = list(itertools.product(range(side), repeat=2))
    means = np.array([[0.0, 0, 0], [step, 0, 0], [30, 0, 0], [0, 30, 0]])
    blocks = [_block(index, means + rng.normal(0, 0.3, means.shape)) for index in at]
    table = [[50, 50, 0, 0], [50, 50, 0, 0], [0, 0, 100, 0], [0, 0, 0, 100]]
    near = [(a, b) for a, b in itertools.combinations(at, 2) if sum(map(abs, np.subtract(a, b))) == 1]
    found = align(blocks, [_overlap(a, b, table) for a, b in near])
    assert len(found.classes) == classes


@pytest.mark.parametrize(
    ("classes", "ids"), [(4, [0, 1, 2, 3]), (2, [0, 1, 1, 0]), (1, [0, 0, 0, 0]), (6, [0, 1, 2, 3])]
)
def test_asking_for_a_number_of_classes_holds_for_one_block_too(classes, ids):
    # Two pairs that look alike, the first of them the largest.
    block = _block((0, 0), [[0.0, 0.0], [9.0, 0.0], [9.4, 0.1], [0.3, 0.0]], pixels=[900, 800, 300, 200])
    found = align([block], [], classes=classes)
    assert found.lookup[0, 0].tolist() == ids
    assert any(f"{classes} classes were asked for" in flag for flag in found.flags) == (classes > 4)


# So few that of pairs of blocks, of tracks and of nodes a sample is drawn, as in mosaics of many thousand blocks.
_SAMPLED = {"_PAIRS": 6, "_SAMPLE": 16}


@pytest.mark.parametrize(
    ("limits", "counts", "block_px"),
    [({}, (4, 5), 32), (_SAMPLED, (4, 5), 32), ({}, (2, 2), 96)],
    ids=["all", "sampled", "few blocks"],
)
@settings(deadline=None, max_examples=12)
@given(
    seed=st.integers(0, 1000),
    name=st.sampled_from(["std", "islands", "heavy", "drift3", "islands_d3", "cdrift"]),
)
def test_names_and_order_of_the_input_change_nothing(limits, counts, block_px, seed, name):
    mosaic = simulate(counts, SCENARIOS[name], seed=seed % 7, block_px=block_px)
    signatures, overlaps, new_names = permute(mosaic, seed)
    with patch.multiple("pipeline.align.classes", **limits) if limits else nullcontext():
        first = align(mosaic.signatures, mosaic.overlaps)
        again = align(signatures, overlaps)
    assert len(overlaps) > (_SAMPLED["_PAIRS"] if limits else 0)
    assert again.classes == first.classes
    assert again.flags == first.flags
    assert [replace(m, id=int(new_names[m.block][m.id])) for m in first.mixed] == list(again.mixed)
    for index, labels in mosaic.labels.items():
        names = np.append(new_names[index], 255).astype(np.uint8)
        renamed = names[np.where(labels == 255, len(names) - 1, labels)]
        assert again.apply(index, renamed).tobytes() == first.apply(index, labels).tobytes()
        ids = next(s.ids for s in mosaic.signatures if s.index == index)
        np.testing.assert_array_equal(again.posterior[index][new_names[index][ids]], first.posterior[index][ids])


def test_overlaps_match_what_features_cannot():
    # Radiometry moves the second block by as much as classes differ: features alone would match 0 with 1.
    base = np.array([[0.0, 0, 0], [4, 0, 0], [0, 4, 0], [8, 8, 8]])
    signatures = [_block((0, x), base + np.array([4 * x, 0, 0])) for x in range(3)]
    tables = np.diag([80, 60, 50, 40]) + 1
    overlaps = [_overlap((0, x), (0, x + 1), tables) for x in range(2)]
    found = align(signatures, overlaps)
    assert len(found.classes) == 4
    for x in (1, 2):
        np.testing.assert_array_equal(found.lookup[0, x], found.lookup[0, 0])


def _told(signatures, seed):
    """Tallies of an anchor that sees classes by their pixels and features alone, and now and then another."""
    found = {}
    for signature in signatures:
        key = (signature.pixels + 7 * np.nan_to_num(signature.features).sum(axis=1).round(3) * 1000).astype(np.int64)
        found[signature.index] = (key[:, None] * (seed + np.arange(1, 6) * 37) % 101).astype(np.int64)
    return found


@settings(deadline=None, max_examples=8)
@given(seed=st.integers(0, 1000), name=st.sampled_from(["std", "islands"]))
def test_names_and_order_change_nothing_beside_an_anchor_nor_do_names_of_the_anchor(seed, name):
    mosaic = simulate((4, 4), SCENARIOS[name], seed=seed % 5)
    signatures, overlaps, new_names = permute(mosaic, seed)
    columns = np.random.default_rng(seed).permutation(5)
    first = align(mosaic.signatures, mosaic.overlaps, _told(mosaic.signatures, seed))
    again = align(signatures, overlaps, _told(signatures, seed))
    turned = align(signatures, overlaps, {i: table[:, columns] for i, table in _told(signatures, seed).items()})
    assert again.classes == first.classes
    for index, labels in mosaic.labels.items():
        names = np.append(new_names[index], 255).astype(np.uint8)
        renamed = names[np.where(labels == 255, len(names) - 1, labels)]
        assert again.apply(index, renamed).tobytes() == first.apply(index, labels).tobytes()
        assert turned.apply(index, renamed).tobytes() == first.apply(index, labels).tobytes()


def test_an_anchor_tells_what_neither_features_nor_overlaps_do():
    # Blocks that touch nothing, whose classes look the same to filters.
    rng = np.random.default_rng(5)
    signatures, tallies = [], {}
    for x in range(0, 12, 2):
        order = rng.permutation(3)
        signatures.append(_block((0, x), rng.normal(scale=0.2, size=(3, 3)), pixels=[900, 800, 700]))
        tallies[0, x] = (np.eye(3)[order] * 700 + rng.integers(0, 40, (3, 3))).astype(np.int64)
    found = align(signatures, [], tallies, classes=3)
    for signature in signatures:
        given_ids = found.lookup[signature.index][tallies[signature.index].argmax(axis=0)]
        first = found.lookup[0, 0][tallies[0, 0].argmax(axis=0)]
        np.testing.assert_array_equal(given_ids, first)
    assert len({*first.tolist()}) == 3


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_an_anchor_that_is_wrong_does_no_harm(seed):
    mosaic = simulate((6, 6), SCENARIOS["std"], seed)
    rng = np.random.default_rng(seed)
    wrong = {s.index: rng.multinomial(500, np.eye(5)[rng.integers(0, 5)], len(s.ids)) for s in mosaic.signatures}
    mixed = {s.index: rng.permutation(np.eye(len(s.ids), 12))[:, :12] * 500 for s in mosaic.signatures}
    plain = align(mosaic.signatures, mosaic.overlaps)
    for tallies in (wrong, {index: table.astype(np.int64) for index, table in mixed.items()}):
        found = align(mosaic.signatures, mosaic.overlaps, tallies)
        assert _score(mosaic, found) >= _score(mosaic, plain) - 0.02


def test_tallies_have_to_fit():
    signatures = [_block((0, x), np.eye(3)) for x in range(2)]
    good = np.ones((3, 4), np.int64)
    for bad in ({(0, 0): good}, {(0, 0): good, (0, 1): good[:2]}, {(0, 0): good, (0, 1): good[:, :3]}):
        with pytest.raises(ValueError, match=r"`tallies` must have a row for each of 3 ids"):
            align(signatures, [], bad)


def test_blocks_that_read_other_values_of_the_same_pixels_are_named():
    base = np.diag([9.0, 9, 9])
    signatures = [_block((0, x), base) for x in range(2)]
    table, same = np.diag([90, 80, 70]), np.zeros(3, np.float32)
    for delta, flagged in ((same, False), (same + np.float32(0.2), True)):
        found = align(signatures, [Overlap((0, 0), (0, 1), table, delta, 240.0)])
        said = [flag for flag in found.flags if "read other values" in flag]
        assert bool(said) == flagged
    assert said[0].startswith("1 pair(s) of blocks")
    assert "(0, 0) and (0, 1)" in said[0]


def test_measured_offsets_are_removed():
    rng = np.random.default_rng(0)
    base = rng.normal(size=(4, 3)) * 3
    offsets = {(y, x): rng.normal(size=3) * 9 for y, x in itertools.product(range(3), range(3))}
    signatures = [_block(i, base + o + rng.normal(size=(4, 3)) * 0.05) for i, o in offsets.items()]
    # Half of the overlap's pixels disagree, so that the offsets have to do the work.
    table = np.full((4, 4), 10) + np.diag([12, 12, 12, 12])
    pairs = [(a, b) for a in offsets for b in offsets if (b[0] - a[0], b[1] - a[1]) in ((0, 1), (1, 0))]
    overlaps = [Overlap(a, b, table, (offsets[a] - offsets[b]).astype(np.float32), 50.0) for a, b in pairs]
    found = align(signatures, overlaps, classes=4)
    for table_of in found.lookup.values():
        np.testing.assert_array_equal(table_of, found.lookup[0, 0])


def test_classes_that_one_block_split_come_together():
    base = np.array([[0.0, 0, 0], [6, 0, 0], [0, 6, 0]])
    whole = [_block((0, x), base, pixels=[900, 600, 500]) for x in (0, 2)]
    split = _block((0, 1), np.vstack([base, base[:1] + 0.1]), pixels=[450, 600, 500, 440])
    table = np.array([[60, 0, 0, 50], [0, 70, 0, 0], [0, 0, 65, 0]])
    found = align([*whole, split], [_overlap((0, 0), (0, 1), table), _overlap((0, 1), (0, 2), table.T)])
    assert len(found.classes) == 3
    assert found.lookup[0, 1][0] == found.lookup[0, 1][3]


def test_look_alikes_stay_apart_where_overlaps_tell_them_apart():
    # Blocks agree perfectly which is which, and the two lie beside each other in every overlap.
    rng = np.random.default_rng(1)
    base = np.array([[0.0, 0, 0], [1.0, 0, 0], [0, 6, 0]])
    cells = list(itertools.product(range(4), range(4)))
    signatures = [_block(i, base + rng.normal(size=(3, 3)) * 0.1) for i in cells]
    pairs = [(a, b) for a in cells for b in cells if (b[0] - a[0], b[1] - a[1]) in ((0, 1), (1, 0))]
    found = align(signatures, [_overlap(a, b, np.diag([90, 80, 70])) for a, b in pairs])
    assert len(found.classes) == 3
    # The same two classes, but what one block calls one the other calls the other half of the time.
    mixed = np.array([[45, 45, 0], [40, 40, 0], [0, 0, 70]])
    assert len(align(signatures, [_overlap(a, b, mixed) for a, b in pairs]).classes) == 2


def test_one_block_keeps_its_classes_by_size():
    found = align([_block((2, 3), [[0.0], [1.0], [2.0]], pixels=[5, 50, 20], ids=[1, 4, 7])], [])
    assert found.lookup[2, 3].tolist() == [255, 2, 255, 255, 0, 255, 255, 1]
    assert [c.pixels for c in found.classes] == [50, 20, 5]
    assert found.posterior[2, 3].tolist() == [0, 1, 0, 0, 1, 0, 0, 1]
    assert found.apply((2, 3), np.array([[4, 7], [1, 255]], np.uint8)).tolist() == [[0, 1], [2, 255]]
    with pytest.raises(KeyError, match=r"local id 2 of block \(2, 3\) was not aligned"):
        found.apply((2, 3), np.array([2], np.uint8))


def test_blocks_apart_are_matched_by_features():
    base = np.array([[0.0, 0, 0], [6, 0, 0], [0, 6, 0], [0, 0, 6]])
    order = np.array([2, 0, 3, 1])
    near = [_block((0, x), base) for x in range(3)]
    far = _block((9, 9), base[order] + 0.2)
    overlaps = [_overlap((0, x), (0, x + 1), np.diag([90, 80, 70, 60])) for x in range(2)]
    found = align([*near, far], overlaps)
    np.testing.assert_array_equal(found.lookup[9, 9], found.lookup[0, 0][order])


def test_classes_without_features_follow_their_overlaps():
    base = np.array([[0.0, 0, 0], [6, 0, 0], [0, 6, 0]])
    blank = base.copy()
    blank[1] = np.nan
    signatures = [_block((0, 0), base), _block((0, 1), blank), _block((0, 2), base)]
    overlaps = [_overlap((0, x), (0, x + 1), np.diag([90, 80, 70])) for x in range(2)]
    found = align(signatures, overlaps)
    np.testing.assert_array_equal(found.lookup[0, 1], found.lookup[0, 0])
    nothing = [_block((0, x), np.full((2, 3), np.nan)) for x in range(2)]
    assert len(align(nothing, [_overlap((0, 0), (0, 1), np.diag([90, 80]))]).classes) >= 1


def test_bad_blocks_are_flagged():
    mosaic = simulate((6, 6), Scenario(), seed=2)
    confused = [
        Overlap(o.a, o.b, np.full_like(o.table, 20), o.delta, o.weight) if (2, 2) in (o.a, o.b) else o
        for o in mosaic.overlaps
    ]
    found = align(mosaic.signatures, confused)
    assert any("hardly agree with their neighbours" in flag and "(2, 2)" in flag for flag in found.flags)


def test_posteriors_rank_wrong_nodes_below_right_ones():
    mosaic = simulate((12, 12), SCENARIOS["heavy"], seed=1)
    found = align(mosaic.signatures, mosaic.overlaps, classes=8)
    true, given_ids, _ = node_scores(mosaic, found)
    sure = np.concatenate([found.posterior[s.index][s.ids] for s in mosaic.signatures])
    majority = np.array([np.bincount(true[given_ids == g], minlength=8).argmax() for g in range(8)])
    right = majority[given_ids] == true
    assert roc_auc_score(right, sure) > 0.8


def test_doubtful_matches_are_listed_with_what_they_are_and_how_sure():
    mosaic = simulate((12, 12), SCENARIOS["heavy"], seed=1)
    found = align(mosaic.signatures, mosaic.overlaps)
    listed = {(*each["block"], each["local_id"]): each for each in describe_alignment(found).ambiguous}
    doubtful = {(*s.index, int(i)) for s in mosaic.signatures for i in s.ids if found.posterior[s.index][i] < 0.9}
    assert listed.keys() == doubtful
    assert len(doubtful) > 3
    for (y, x, i), each in listed.items():
        assert each["id"] == found.lookup[y, x][i]
        assert each["posterior"] == pytest.approx(found.posterior[y, x][i], abs=1e-4)
        assert each["margin"] == pytest.approx(found.margin[y, x][i], abs=1e-4)
        assert each["margin"] <= each["posterior"]
    told = {tuple(each["block"]): each for each in describe_alignment(found).blocks}
    assert told.keys() == {s.index for s in mosaic.signatures}
    for s in mosaic.signatures:
        own = found.posterior[s.index][s.ids]
        assert told[s.index]["least_posterior"] == pytest.approx(own.min(), abs=1e-4)
        assert told[s.index]["posterior"] == pytest.approx(own.mean(), abs=1e-4)
    # What is named second is what a wrong name should have been, far more often than another class would be.
    nodes = [
        (int(found.lookup[s.index][i]), int(found.second[s.index][i]), int(true))
        for s in mosaic.signatures
        for i, true in zip(s.ids, mosaic.node_truth[s.index], strict=True)
    ]
    table = np.zeros((len(found.classes), 16), np.int64)
    for named, second, true in nodes:
        assert second != named
        table[named, true] += 1
    meant = table.argmax(axis=1)
    seconds = [meant[second] == true for named, second, true in nodes if meant[named] != true]
    assert np.mean(seconds) > 0.4
    for (y, x, i), each in listed.items():
        assert each["second_id"] == found.second[y, x][i]


def test_disagreement_is_near_what_true_classes_would_have():
    mosaic = simulate((8, 8), SCENARIOS["std"], seed=4)
    found = align(mosaic.signatures, mosaic.overlaps)
    oracle = {s.index: np.full(s.ids.max() + 1, 255, np.uint8) for s in mosaic.signatures}
    for s in mosaic.signatures:
        oracle[s.index][s.ids] = mosaic.node_truth[s.index]
    best = overlap_disagreement(Alignment(oracle, {}, {}, ()), mosaic.signatures, mosaic.overlaps)
    assert overlap_disagreement(found, mosaic.signatures, mosaic.overlaps) < best + 0.05


def test_json_and_arrays_come_back():
    mosaic = simulate((3, 3), SCENARIOS["std"], seed=1, block_px=64)
    found = align(mosaic.signatures, mosaic.overlaps)
    again = Alignment.from_json(json.loads(json.dumps(found.to_json())))
    assert again.classes == found.classes
    assert again.merges == found.merges
    assert again.flags == found.flags
    for index, table in found.lookup.items():
        assert again.lookup[index].dtype == table.dtype
        np.testing.assert_array_equal(again.lookup[index], table)
        np.testing.assert_allclose(again.margin[index], found.margin[index], atol=1e-6)
        np.testing.assert_array_equal(again.second[index], found.second[index])
    for value in (mosaic.signatures[0], mosaic.overlaps[0]):
        copy = type(value).from_arrays(value.to_arrays())
        assert copy.to_arrays().keys() == value.to_arrays().keys()
        for key, array in value.to_arrays().items():
            np.testing.assert_array_equal(copy.to_arrays()[key], array)


def test_over_255_classes_take_two_bytes():
    found = align([_block((0, 0), np.arange(256.0)[:, None], pixels=[9] * 256)], [])
    assert found.lookup[0, 0].dtype == np.uint16
    assert found.no_class == 65535
    assert sorted(found.lookup[0, 0].tolist()) == list(range(256))


def test_what_does_not_fit_is_refused():
    one = _block((0, 0), [[0.0], [1.0]])
    with pytest.raises(ValueError, match="at least one block; got none"):
        align([], [])
    with pytest.raises(ValueError, match="each block once"):
        align([one, one], [])
    with pytest.raises(ValueError, match="must have one length"):
        align([one, _block((0, 1), [[0.0, 1.0]])], [])
    with pytest.raises(ValueError, match=r"must fit the signatures; got a table \(2, 3\)"):
        align([one, _block((0, 1), [[0.0]])], [_overlap((0, 0), (0, 1), np.ones((2, 3)), dims=1)])
    with pytest.raises(ValueError, match="`classes` must be at least 1; got 0"):
        align([one], [], classes=0)
    with pytest.raises(ValueError, match="one row for each"):
        _block((0, 0), [[0.0]], pixels=[1, 2])
    with pytest.raises(ValueError, match="ascending and unique"):
        _block((0, 0), [[0.0], [1.0]], ids=[1, 1])
    with pytest.raises(ValueError, match="must join two blocks"):
        _overlap((0, 0), (0, 0), np.ones((2, 2)))


def test_a_class_that_holds_two_is_named_and_none_else():
    base = np.array([[0.0, 0, 0], [6, 0, 0], [0, 6, 0], [0, 0, 6]])
    rng = np.random.default_rng(0)
    cells = list(itertools.product(range(3), range(3)))
    pairs = [(a, b) for a in cells for b in cells if (b[0] - a[0], b[1] - a[1]) in ((0, 1), (1, 0))]
    # The middle block never learnt to tell classes 2 and 3 apart.
    kinds = {i: np.arange(3 if i == (1, 1) else 4) for i in cells}
    signatures = [_block(i, base[kinds[i]] + rng.normal(size=(len(kinds[i]), 3)) * 0.1) for i in cells]
    whole = np.diag([90, 80, 70, 60]) + 1

    def table(a, b):
        rows = whole if a != (1, 1) else np.vstack([whole[:2], whole[2:].sum(0)])
        return rows if b != (1, 1) else np.column_stack([rows[:, :2], rows[:, 2:].sum(1)])

    found = align(signatures, [_overlap(a, b, table(a, b)) for a, b in pairs])
    assert len(found.classes) == 4
    (mixed,) = found.mixed
    two, three = (int(found.lookup[0, 0][k]) for k in (2, 3))
    assert (mixed.block, mixed.id, set(mixed.classes)) == ((1, 1), 2, {two, three})
    assert mixed.classes[0] == found.lookup[1, 1][2]
    assert 0.25 < mixed.share < 0.75
    (sentence,) = tell_mixed(found.mixed)
    assert "hold two of the map" in sentence
    assert f"{mixed.classes[0]} and {mixed.classes[1]} in (1, 1)" in sentence
    assert Alignment.from_json(json.loads(json.dumps(found.to_json()))).mixed == found.mixed


def _quartet(gap, blunt):
    """Four blocks of classes at 0, 6 and 12, and two more at 20 and `gap` further on, which are one to the `blunt`."""
    base = np.array([[0.0, 0, 0], [6, 0, 0], [0, 12, 0], [0, 0, 20], [0, gap, 20]])
    rng = np.random.default_rng(0)
    cells = list(itertools.product(range(2), range(2)))
    whole = np.diag([90, 80, 70, 300, 300]) + 1
    fold = np.array([[1, 0, 0, 0], [0, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1], [0, 0, 0, 1]])

    def features(i):
        middle = np.vstack([base[:3], base[3:].mean(0)])
        kinds = middle if i in blunt else base
        return kinds + rng.normal(size=kinds.shape) * 0.3

    def table(a, b):
        rows = fold.T @ whole if a in blunt else whole
        return rows @ fold if b in blunt else rows

    pairs = [(a, b) for a in cells for b in cells if (b[0] - a[0], b[1] - a[1]) in ((0, 1), (1, 0))]
    return [_block(i, features(i)) for i in cells], [_overlap(a, b, table(a, b)) for a, b in pairs]


def test_blocks_that_mix_two_classes_are_no_evidence_that_they_are_one():
    # No two blocks that tell the two apart touch each other: all that overlaps say comes from those that do not.
    blunt = ((0, 1), (1, 0))
    found = align(*_quartet(20, blunt))
    assert len(found.classes) == 5
    assert {m.block for m in found.mixed} == set(blunt)
    assert all(len(set(found.lookup[i].tolist())) == 5 for i in ((0, 0), (1, 1)))
    # Where the two look alike it is their blocks that have split one class.
    assert len(align(*_quartet(0.1, blunt)).classes) == 4


def test_a_neighbour_has_one_vote_however_many_pixels_are_shared():
    # Columns: the neighbour divides what the first class of the block is into nine tenths and one.
    table = np.array([[90, 10, 0], [0, 80, 0], [0, 0, 70]])
    base = np.diag([9.0, 9.0, 9.0])

    def heard(times):
        graph = build([_block((0, ix), base) for ix in (0, 1)], [_overlap((0, 0), (0, 1), table * times)])
        names = {(int(graph.node_block[i]), int(graph.node_id[i])): i for i in range(6)}
        order = [names[block, kind] for block in (0, 1) for kind in range(3)]
        return couplings(graph, np.ones(2)).toarray()[np.ix_(order, order)]

    once = heard(1)
    np.testing.assert_allclose(heard(50), once)
    assert not once[:3, :3].any()
    assert not once[3:, 3:].any()
    np.testing.assert_allclose(once[:3, 3:], [[5.4, 0.6, 0], [0, 6, 0], [0, 0, 6]])
    np.testing.assert_allclose(once[3:, :3], [[6, 0, 0], [6 / 9, 6 * 8 / 9, 0], [0, 0, 6]])


def test_few_shared_pixels_and_bad_blocks_have_less_than_a_vote():
    base = np.diag([9.0, 9.0])
    graph = build([_block((0, ix), base) for ix in (0, 1)], [_overlap((0, 0), (0, 1), np.diag([12, 12]), 2)])
    full = build([_block((0, ix), base) for ix in (0, 1)], [_overlap((0, 0), (0, 1), np.diag([480, 480]), 2)])
    np.testing.assert_allclose(couplings(graph, np.ones(2)).toarray(), couplings(full, np.ones(2)).toarray() / 4)
    halved = couplings(full, np.array([0.5, 1.0])).toarray()
    np.testing.assert_allclose(halved, couplings(full, np.ones(2)).toarray() / 2)


def test_what_is_confused_is_counted_by_classes_and_by_blocks():
    base = np.diag([9.0, 9.0, 9.0])
    signatures = [_block((0, ix), base, pixels=[900, 800, 700]) for ix in range(3)]
    swapped = np.array([[90, 0, 0], [0, 80, 10], [0, 10, 40]])
    overlaps = [_overlap((0, 0), (0, 1), np.diag([90, 80, 50])), _overlap((0, 1), (0, 2), swapped)]
    found = align(signatures, overlaps)
    assert [int(i) for i in found.lookup[0, 0]] == [0, 1, 2]
    # Of 100 + 10 pixels that either gives to the third class, 20 are the second to the other.
    assert find_confusions(found, signatures, overlaps) == (Confusion((1, 2), 20, round(20 / 110, 4)),)
    contested = find_contested(found, signatures, overlaps)
    assert contested == (Contested((0, 2), 230, round(20 / 230, 4)), Contested((0, 1), 450, round(20 / 450, 4)))
    told = replace(found, confusions=find_confusions(found, signatures, overlaps), contested=contested)
    again = Alignment.from_json(json.loads(json.dumps(told.to_json())))
    assert (again.confusions, again.contested) == (told.confusions, told.contested)


def test_mixed_classes_of_a_mosaic_are_mostly_so():
    found = right = 0
    for seed in (1, 2, 3, 4):
        mosaic = simulate((10, 10), SCENARIOS["heavy"], seed, block_px=64)
        for mixed in align(mosaic.signatures, mosaic.overlaps).mixed:
            true = mosaic.truth[mosaic.grid.block(mixed.block).wide.slices]
            inside = np.bincount(true[(mosaic.labels[mixed.block] == mixed.id) & (true != 255)], minlength=8)
            found, right = found + 1, right + bool(np.sort(inside)[-2] > 0.15 * inside.sum())
    assert found > 20
    assert right > 0.6 * found
