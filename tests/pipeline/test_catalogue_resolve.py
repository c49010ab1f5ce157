"""Laws of the re-solve: what is right stays, classes that are one are joined, a node goes where the others say."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ktex_model import radiometry
from pipeline.catalogue.nodes import Nodes, forget_nodes, read_nodes, write_nodes
from pipeline.catalogue.resolve import Group, apply_resolution, resolve
from pipeline.catalogue.store import read_catalogue, write_catalogue
from pipeline.catalogue.values import Card, Catalogue, Members, RunEntry
from pipeline.errors import InputError
from pipeline.legend import Legend

DIMS = 6
MEANS = np.random.default_rng(7).normal(size=(6, DIMS)) * 4
AT = "2021-03-01T00:00:00+00:00"


def draw(classes: Sequence[int], seed: int, count: int = 24) -> Members:
    """Draw members of some of six textures, of standard deviation 0.3 around their means."""
    rng = np.random.default_rng(seed)
    ids = np.repeat(classes, count).astype(np.int64)
    return Members(ids, rng.integers(200, 900, len(ids)), MEANS[ids] + rng.normal(size=(len(ids), DIMS)) * 0.3)


def made(runs: Sequence[dict[int, int]], seed: int = 0) -> tuple[Catalogue, list[Group]]:
    """Make a catalogue of runs, each of which gave each texture an id, right or wrong."""
    groups = [
        Group((f"run{r}",), draw([*ids], seed + r).renamed(ids), pixels=dict.fromkeys(ids.values(), 1000))
        for r, ids in enumerate(runs)
    ]
    used = sorted({i for ids in runs for i in ids.values()})
    counts = {i: sum(group.pixels.get(i, 0) for group in groups) for i in used}
    entries = tuple(RunEntry(f"run{r}", "", f"/runs/{r}", AT, ("", ""), ids) for r, ids in enumerate(runs))
    members = Members(*(np.concatenate([getattr(g.members, n) for g in groups]) for n in ("ids", "pixels", "features")))
    card = Card("run0", 1, ("G",), radiometry.byte(1), runs=entries)
    return Catalogue(Legend.from_counts(counts), card, members, np.eye(DIMS) / 0.3), groups


RIGHT = {0: 0, 1: 1, 2: 2, 3: 3}


@settings(deadline=None, max_examples=15)
@given(st.integers(0, 10_000))
def test_what_is_right_stays(seed: int) -> None:
    catalogue, groups = made([RIGHT, RIGHT, {0: 0, 2: 2, 4: 4}], seed)
    assert resolve(catalogue, groups).changes == ()


def test_a_node_goes_to_the_class_that_the_other_runs_say() -> None:
    """The last run called texture 1 by the id of texture 2, which others have too: its node alone moves."""
    catalogue, groups = made([RIGHT, RIGHT, {0: 0, 1: 2, 3: 3}])
    (change,) = resolve(catalogue, groups).changes
    assert (change.gone, change.kept, change.runs, change.pixels) == (2, 1, ("run2",), 1000)
    assert change.share is not None
    assert change.share > 0.9


def test_two_nodes_that_had_changed_names_change_back_at_once() -> None:
    """Even if two runs alone contradict each other: the later one gives way."""
    catalogue, groups = made([RIGHT, {0: 1, 1: 0, 2: 2, 3: 3}])
    found = resolve(catalogue, groups)
    assert {(each.gone, each.kept) for each in found.changes} == {(0, 1), (1, 0)}
    after = apply_resolution(catalogue, found, AT)
    entry = after.card.run("run1")
    assert entry is not None
    assert entry.mapping == RIGHT
    assert entry.remaps[0].ids == ((0, 1), (1, 0))
    assert [each.pixels for each in after.legend.classes] == [2000] * 4


@pytest.mark.parametrize(("early", "late"), [(1, 7), (7, 1)])
def test_an_id_that_was_given_twice_for_one_texture_goes_and_the_older_stays(early: int, late: int) -> None:
    """Whichever of the two more runs use."""
    runs = [{0: 0, 1: early, 2: 2}, {0: 0, 1: late, 2: 2}, {0: 0, 1: late, 2: 2}]
    catalogue, groups = made(runs)
    (change,) = resolve(catalogue, groups).changes
    assert (change.gone, change.kept, change.runs) == (7, 1, ())
    assert change.distance is not None, "a person can see what spoke for it"
    assert change.distance < 1
    after = apply_resolution(catalogue, resolve(catalogue, groups), AT)
    assert after.legend.current(7) == 1
    assert after.legend.next_id == 8, "the id that goes is never given again"


def test_a_chain_of_names_is_solved_in_one_go() -> None:
    """Five runs, each with a new id for one texture: a pair at a time would need several looks."""
    catalogue, groups = made([{0: 0, 1: 1, 2: 2}, *({0: 0, 1: 10 + r, 2: 2} for r in range(4))])
    found = resolve(catalogue, groups).changes
    assert {(each.gone, each.kept) for each in found} == {(10 + r, 1) for r in range(4)}


@settings(deadline=None, max_examples=15)
@given(st.lists(st.permutations([0, 1, 2, 3]), min_size=2, max_size=4), st.integers(0, 999))
def test_what_was_carried_out_is_not_found_again_and_no_pixel_is_lost(names: list[list[int]], seed: int) -> None:
    catalogue, groups = made([RIGHT, *(dict(enumerate(each)) for each in names)], seed)
    found = resolve(catalogue, groups)
    after = apply_resolution(catalogue, found, AT)
    assert sum(each.pixels for each in after.legend.classes) == sum(each.pixels for each in catalogue.legend.classes)
    assert set(after.legend.ids) <= set(catalogue.legend.ids), "no id is new"
    again = [
        replace(group, members=group.members.renamed(_table(after, group.runs[0], catalogue, r)))
        for r, group in enumerate(groups)
    ]
    assert resolve(after, again).changes == ()


def _table(after: Catalogue, run: str, before: Catalogue, r: int) -> dict[int, int]:
    now, then = after.card.run(run), before.card.run(run)
    assert now is not None
    assert then is not None
    return {then.mapping[local]: after.legend.current(now.mapping[local]) for local in then.mapping}


def test_what_is_known_beside_the_runs_is_taken_as_given() -> None:
    """Of a run without nodes the catalogue knows members only: no class of it goes because the others left it."""
    catalogue, groups = made([RIGHT, {0: 0, 1: 2, 3: 3}, {0: 0, 1: 1, 3: 3}])
    known = replace(catalogue, members=groups[0].members)
    (change,) = resolve(known, groups[1:], complete=False).changes
    assert (change.gone, change.kept, change.runs) == (2, 1, ("run1",))
    assert resolve(known, groups[1:], complete=False).members is None
    assert resolve(known, groups[1:]).changes[0].runs == (), "of the other two alone nobody has class 2 any more"


def test_what_was_ambiguous_teaches_nothing_until_it_is_sure() -> None:
    """A large node of texture 5 under the id of texture 2: taken for sure, it would draw the last run's class there."""
    catalogue, groups = made([RIGHT, {0: 0, 5: 2, 3: 3}, {0: 0, 5: 9, 3: 3}])
    large = replace(groups[1], members=draw([0, 5, 3], 9, count=200).renamed({5: 2}))
    runs = [groups[0], replace(large, unsure=frozenset({2})), groups[2]]
    assert [(each.gone, each.kept, each.runs) for each in resolve(catalogue, runs).changes] == [(2, 9, ("run1",))]


def test_nodes_are_kept_as_they_are_and_damage_is_told(tmp_path: Path) -> None:
    nodes = Nodes(draw([0, 3], 1), frozenset({3}), {0: 5, 3: 7}, "abc")
    write_nodes(tmp_path, "k1", nodes)
    write_nodes(tmp_path, "k2", nodes)
    found = read_nodes(tmp_path, "k1")
    assert found is not None
    np.testing.assert_array_equal(found.members.features, nodes.members.features)
    assert (found.unsure, found.pixels, found.model) == (nodes.unsure, nodes.pixels, "abc")
    forget_nodes(tmp_path, ["k1"])
    assert read_nodes(tmp_path, "k2") is None
    (tmp_path / "nodes" / "k1.safetensors").write_bytes(b"nonsense")
    with pytest.raises(InputError, match=r"k1.safetensors: is no file of nodes .*remove it"):
        read_nodes(tmp_path, "k1")


def test_remaps_are_kept_with_the_catalogue(tmp_path: Path) -> None:
    catalogue, groups = made([RIGHT, RIGHT, {0: 0, 1: 2, 3: 3}])
    after = apply_resolution(catalogue, resolve(catalogue, groups), AT)
    write_catalogue(tmp_path, after)
    assert read_catalogue(tmp_path).card == after.card
