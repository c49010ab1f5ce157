"""Laws of the matching: a shift of the whole run changes nothing, old ids stay, what was never seen is new."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from ktex_model import radiometry
from pipeline.catalogue import store
from pipeline.catalogue.attachment import Attachment, attach, extend
from pipeline.catalogue.edits import merge_classes
from pipeline.catalogue.matching import match, prototypes
from pipeline.catalogue.members import MAX_KEPT, patches, remove_drift, thin, whitening_of
from pipeline.catalogue.store import read_catalogue, write_catalogue
from pipeline.catalogue.values import Catalogue, Members, RunEntry
from pipeline.errors import InputError
from pipeline.legend import Legend

DIMS = 6
MEANS = np.random.default_rng(7).normal(size=(6, DIMS)) * 3
AT = "2021-03-01T00:00:00+00:00"


def draw(classes: list[int], count: int, seed: int, shift: float = 0.0) -> Members:
    """Draw members of some of six classes, of standard deviation 0.3 around their means."""
    rng = np.random.default_rng(seed)
    ids = np.repeat(classes, count).astype(np.int64)
    features = MEANS[ids] + rng.normal(size=(len(ids), DIMS)) * 0.3 + shift
    return Members(ids, rng.integers(200, 900, len(ids)), features)


def called(members: Members, names: NDArray[np.int64]) -> Members:
    return replace(members, ids=names[members.ids])


def entry(key: str, mapping: dict[int, int], day: str) -> RunEntry:
    return RunEntry(key, key, f"/runs/{key}", AT, (day, day), mapping)


def grow(
    base: Catalogue | None, members: Members, key: str, model: str | None = None, day: str = "2021-03-01"
) -> tuple[Catalogue, Attachment]:
    found = attach(base, members, np.unique(members.ids), key=key, basis=key, model=model)
    pixels = np.bincount([found.mapping[int(i)] for i in members.ids], members.pixels)
    legend = Legend.from_counts({int(i): int(pixels[i]) for i in np.flatnonzero(pixels)})
    scaling = radiometry.byte(1)
    told = entry(key, found.mapping, day)
    return extend(base, found, members, legend, bands=("G",), scaling=scaling, entry=told, model=model), found


@settings(deadline=None, max_examples=20)
@given(st.permutations(range(6)), st.floats(-0.6, 0.6), st.integers(0, 999))
def test_names_and_a_shift_of_the_whole_run_change_nothing(names: list[int], shift: float, seed: int) -> None:
    base, _ = grow(None, draw([0, 1, 2, 3, 4], 30, 0), "a")
    run = called(draw([0, 1, 2, 3, 4], 12, seed, shift), np.array(names))
    _, found = grow(base, run, "b")
    assert found.mapping == {names[i]: i for i in range(5)}
    assert found.new == ()


def test_a_class_that_was_never_seen_gets_the_next_id_and_no_other_changes() -> None:
    base, _ = grow(None, draw([0, 1, 2, 3], 30, 0), "a")
    after, found = grow(base, draw([1, 2, 3, 5], 30, 1), "b")
    assert found.mapping == {1: 1, 2: 2, 3: 3, 5: 4}
    assert found.new == (4,)
    assert after.legend.ids == [0, 1, 2, 3, 4]
    assert [each.name for each in after.legend.classes[:4]] == [each.name for each in base.legend.classes]
    again, found = grow(after, draw([5, 0], 30, 2), "c")
    assert found.mapping == {0: 0, 5: 4}, "what was new is known from now on"
    assert again.legend.next_id == 5


@pytest.mark.parametrize("days", [("2012-06-01", "", "2010-06-01"), ("", "2010-06-01", "2012-06-01")])
def test_a_run_without_a_date_says_nothing_of_when_a_class_was_seen(days: tuple[str, ...]) -> None:
    catalogue = None
    for i, day in enumerate(days):
        catalogue, _ = grow(catalogue, draw([0, 1], 30, i), str(i), day=day)
    assert catalogue is not None
    assert {(each.first_seen, each.last_seen) for each in catalogue.legend.classes} == {("2010-06-01", "2012-06-01")}


def test_classes_that_a_run_splits_are_one_again() -> None:
    base, _ = grow(None, draw([0, 1, 2, 3], 30, 0), "a")
    run = draw([0, 1, 2, 3], 30, 1)
    split = replace(run, ids=np.where((run.ids == 2) & (np.arange(len(run)) % 2 == 0), 9, run.ids))
    assert grow(base, split, "b")[1].mapping == {0: 0, 1: 1, 2: 2, 3: 3, 9: 2}


def test_a_class_of_two_is_ambiguous_and_teaches_nothing() -> None:
    base, _ = grow(None, draw([0, 1, 2, 3], 30, 0), "a")
    run = draw([0, 1, 2, 3], 30, 1)
    mixed = replace(run, ids=np.where(run.ids == 1, 2, run.ids))
    after, found = grow(base, mixed, "b")
    states = {each.local: each.state for each in found.matches}
    assert states == {0: "matched", 2: "ambiguous", 3: "matched"}
    assert found.mapping[2] in {1, 2}
    count = np.bincount(after.members.ids)
    assert count.tolist() == [60, 30, 30, 60]


def test_the_order_of_members_does_not_matter() -> None:
    base, _ = grow(None, draw([0, 1, 2, 3], 30, 0), "a")
    run = draw([0, 1, 5], 20, 1)
    known = prototypes(base.members, base.whitening)
    order = np.random.default_rng(0).permutation(len(run))
    assert match(run, known, base.whitening)[0] == match(run.of(order), known, base.whitening)[0]


def test_merged_classes_are_recognised_by_each_of_their_looks(tmp_path: Path) -> None:
    base, _ = grow(None, draw([0, 1, 2, 3], 30, 0), "a")
    base = replace(base, legend=merge_classes(base.legend, [3], 1, AT))
    write_catalogue(tmp_path / "c", base)
    read = read_catalogue(tmp_path / "c")
    assert grow(read, draw([0, 1, 3], 30, 1), "b")[1].mapping == {0: 0, 1: 1, 3: 1}


def test_one_model_and_one_run_keep_what_they_had() -> None:
    first = draw([0, 1, 2], 30, 0)
    base, _ = grow(None, first, "a", model="m")
    assert attach(base, draw([4, 5], 9, 1), [0, 1], key="b", basis="b", model="m").mapping == {0: 0, 1: 1}
    after = attach(base, draw([0, 3], 9, 1), [0, 3], key="b", basis="b", model="m")
    assert (after.mapping, after.new, after.how) == ({0: 0, 3: 3}, (3,), "same model")
    same = attach(base, draw([5, 4], 9, 1), [0, 2], key="a", basis="a")
    assert (same.mapping, same.how) == ({0: 0, 2: 2}, "same run")
    twice, _ = grow(base, first, "a", model="m")
    assert twice.legend.ids == base.legend.ids
    assert [each.pixels for each in twice.legend.classes] == [each.pixels for each in base.legend.classes]
    assert len(twice.members) == len(base.members)


def test_classes_without_members_are_new_and_begin_a_catalogue_all_the_same() -> None:
    nothing = Members(np.zeros(0, np.int64), np.zeros(0, np.int64), np.zeros((0, DIMS)))
    base, _ = grow(None, draw([0, 1], 9, 0), "a")
    found = attach(base, nothing, [4], key="b", basis="b")
    assert (found.mapping, found.matches[0].distance) == ({4: 2}, None)
    np.testing.assert_array_equal(whitening_of(nothing), np.eye(DIMS))


def test_an_attachment_survives_its_file() -> None:
    base, _ = grow(None, draw([0, 1, 2], 30, 0), "a")
    found = attach(base, draw([0, 1, 5], 9, 1), [0, 1, 5], key="b", basis="b")

    assert Attachment.from_json(json.loads(json.dumps(found.to_json()))) == found


def test_a_state_is_replaced_whole_or_not_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    base, _ = grow(None, draw([0, 1, 2], 30, 0), "a")
    write_catalogue(tmp_path / "c", base)
    after, _ = grow(base, draw([1, 5], 30, 1), "b")

    def die(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Legend, "to_json", die)
        with pytest.raises(KeyboardInterrupt):
            write_catalogue(tmp_path / "c", after)
    assert read_catalogue(tmp_path / "c").legend.ids == [0, 1, 2]
    write_catalogue(tmp_path / "c", after)
    read = read_catalogue(tmp_path / "c")
    assert read.legend.ids == [0, 1, 2, 3]
    assert read.card == after.card
    np.testing.assert_array_equal(read.members.features, after.members.features)
    assert len(list((tmp_path / "c").glob("signatures-*"))) == 1
    (tmp_path / "c" / read.legend.signatures).unlink()
    with pytest.raises(InputError, match="the signatures of its classes are missing"):
        read_catalogue(tmp_path / "c")
    assert not store.is_new(tmp_path / "c")


def test_drift_between_blocks_is_taken_off() -> None:
    members = draw([0, 1, 2, 3] * 20, 1, 0)
    block = np.repeat(np.arange(20), 4)
    drift = np.random.default_rng(1).normal(size=(20, DIMS)) * 2
    moved = replace(members, features=members.features + drift[block])
    still = remove_drift(moved, block)
    for c in range(4):
        before, after = (np.std(each.features[members.ids == c], axis=0).mean() for each in (moved, still))
        assert after < 0.4 * before


def test_few_members_of_each_class_are_kept() -> None:
    kept = thin(draw([0, 2], 1000, 0))
    assert np.bincount(kept.ids).tolist() == [MAX_KEPT, 0, MAX_KEPT]


@settings(deadline=None, max_examples=50)
@given(st.integers(1, 5000))
def test_patches_partition_a_side_in_whole_cells(size: int) -> None:
    found = patches(size)
    assert [start for start, _ in found] == [0, *(end for _, end in found[:-1])]
    assert found[-1][1] == size
    assert len(found) <= 4
    assert all(start % 4 == 0 for start, _ in found)


@pytest.mark.parametrize(
    ("ids", "features", "message"),
    [([0], np.zeros((2, 3)), "one id"), ([0], np.full((1, 3), np.nan), "must be finite")],
)
def test_members_that_do_not_fit_are_refused(ids: list[int], features: NDArray[np.float64], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Members(np.array(ids), np.array(ids), features)
