"""Laws of sites: a point of the ground has one name in every run, and what lay there before is evidence, not proof."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from affine import Affine
from numpy.typing import NDArray
from odc.geo.geobox import GeoBox

from pipeline.blocks import Window
from pipeline.catalogue.attachment import attach
from pipeline.catalogue.matching import match, persistence, prototypes
from pipeline.catalogue.sites import MAX_OF_BLOCK, fewest, meetings, see_sites, site_keys
from pipeline.catalogue.store import read_catalogue, write_catalogue
from pipeline.catalogue.values import Members, Sites
from tests.pipeline.test_catalogue_matching import MEANS, draw, grow

UTM = "EPSG:32614"


def ground(classes: NDArray[np.integer], each: int = 50) -> Sites:
    """Return sites of which the same `each` always belong to the same class."""
    number = np.arange(len(classes) * each, dtype=np.float64)
    return Sites(site_keys(number, number, UTM), np.repeat(np.asarray(classes, np.int64), each))


def grid(left: float, top: float, res: float, shape: tuple[int, int], crs: str | None = UTM) -> GeoBox:
    return GeoBox(shape, Affine(res, 0, left, 0, -res, top), crs)


def where(box: GeoBox) -> NDArray[np.uint8]:
    """Return labels that tell where a pixel is: quarters of a square kilometre."""
    y, x = np.indices(box.shape)
    east, north = box.affine @ (x + 0.5, y + 0.5)
    return ((east // 250) % 2 + 2 * ((north // 250) % 2)).astype(np.uint8)


def test_grids_of_one_place_meet_at_the_same_sites() -> None:
    one, two = grid(5000, 9000, 5.0, (300, 200)), grid(5002.5, 8998.0, 4.5, (300, 200))
    first, second = (see_sites(box, Window(0, 0, *box.shape), where(box)) for box in (one, two))
    mine, theirs = meetings(first, second)
    assert len(mine) > 0.75 * len(first) > 100
    # Sites on the border of two labels may fall on either side.
    assert np.mean(mine == theirs) > 0.95
    far = grid(5000, 9000, 5.0, (300, 200), "EPSG:32615")
    assert len(meetings(first, see_sites(far, Window(0, 0, *far.shape), where(far)))[0]) == 0


def test_blocks_of_a_scene_see_what_the_scene_sees() -> None:
    box = grid(5000, 9000, 5.0, (320, 200))
    labels = where(box)
    labels[40:90] = 255
    whole = see_sites(box, Window(0, 0, 320, 200), labels)
    parts = [Window(y, 0, y + 160, 200) for y in (0, 160)]
    seen = [see_sites(box, part, labels[part.slices]) for part in parts]
    together = fewest(Sites(np.concatenate([s.keys for s in seen]), np.concatenate([s.ids for s in seen])), 10**6)
    np.testing.assert_array_equal(together.keys, whole.keys)
    np.testing.assert_array_equal(together.ids, whole.ids)
    assert set(whole.ids.tolist()) == {0, 1, 2, 3}


def test_sites_are_few_and_without_a_crs_none() -> None:
    box = grid(0, 0, 1.0, (2048, 2048))
    assert len(see_sites(box, Window(0, 0, 2048, 2048), np.zeros((2048, 2048), np.uint8))) == MAX_OF_BLOCK
    nowhere = grid(0, 0, 1.0, (64, 64), None)
    assert len(see_sites(nowhere, Window(0, 0, 64, 64), np.zeros((64, 64), np.uint8))) == 0


def test_the_last_sighting_counts_and_the_smallest_keys_stay() -> None:
    sites = Sites(np.array([9, 4, 9, 7], np.uint64), np.array([1, 2, 3, 4]))
    kept = fewest(sites, 2)
    assert (kept.keys.tolist(), kept.ids.tolist()) == ([4, 7], [2, 4])
    assert fewest(sites, 9).ids.tolist() == [2, 4, 3]
    with pytest.raises(ValueError, match="one key and one id each"):
        Sites(np.zeros(2, np.uint64), np.zeros(3, np.int64))


def test_persistence_is_the_share_of_the_ground_that_was_a_class_before() -> None:
    known = ground(np.array([0, 1]), 100)
    run = replace(known, ids=np.repeat([5, 6, 5], [100, 60, 40]))
    found = persistence(run, known, np.array([5, 6, 7]), np.array([0, 1, 1]))
    np.testing.assert_allclose(found, [[100 / 150, 40 / 150, 40 / 150], [0, 60 / 70, 60 / 70], [0, 0, 0]])


def moved(members: Members, which: int, by: float) -> Members:
    """Move the members of a class away from all others, by so many units."""
    away = MEANS[which] - np.delete(MEANS[:4], which, 0).mean(0)
    step = by * away / np.linalg.norm(away)
    return replace(members, features=members.features + np.where((members.ids == which)[:, None], step, 0))


def test_a_class_is_known_farther_out_where_it_lay_before_but_not_by_place_alone() -> None:
    first = replace(draw([0, 1, 2, 3], 30, 0), sites=ground(np.arange(4)))
    base, _ = grow(None, first, "a")
    reach = prototypes(base.members, base.whitening).reach[3] / np.linalg.norm(base.whitening, 2)
    states = {}
    for by in (1.5, 2.5, 6.0):
        run = moved(draw([0, 1, 2, 3], 30, 1), 3, by * float(reach))
        for name, sites in (("elsewhere", Sites.none()), ("here", ground(np.arange(4)))):
            found = attach(base, replace(run, sites=sites), range(4), key="b", basis="b")
            states[by, name] = {each.local: each.state for each in found.matches}[3]
            assert {each.local for each in found.matches if each.state == "matched"} >= {0, 1, 2}
    assert states == {
        (1.5, "elsewhere"): "new", (1.5, "here"): "matched",
        (2.5, "elsewhere"): "new", (2.5, "here"): "ambiguous",
        (6.0, "elsewhere"): "new", (6.0, "here"): "new",
    }  # fmt: skip


@pytest.mark.parametrize(("before", "known"), [(2, 2), (3, 3)])
def test_where_looks_leave_doubt_a_class_is_what_lay_there_above_all_else(before: int, known: int) -> None:
    base, _ = grow(None, replace(draw([0, 1, 2, 3], 30, 0), sites=ground(np.arange(4))), "a")
    run = draw([0, 1, 2, 3], 30, 1)
    # Every other member of the last class looks like another.
    odd = (run.ids == 3) & (np.arange(len(run)) % 2 == 0)
    features = np.where(odd[:, None], run.features + MEANS[2] - MEANS[3], run.features)
    lay = ground(np.array([0, 1, 2, 0, 1, 2, before, before]), 25)
    seen = replace(base, members=replace(base.members, sites=lay))
    here = replace(lay, ids=np.repeat([0, 1, 2, 0, 1, 2, 3, 3], 25))
    found = attach(seen, replace(run, features=features, sites=here), range(4), key="b", basis="b")
    assert found.mapping == {0: 0, 1: 1, 2: 2, 3: known}
    assert found.matches[3].ground == {before: round(50 / 60, 4)}


def test_what_changed_is_what_it_looks_like_not_what_was_there() -> None:
    base, _ = grow(None, replace(draw([0, 1, 2, 3], 30, 0), sites=ground(np.arange(4))), "a")
    flooded = replace(draw([0, 1, 2], 30, 1), sites=ground(np.array([0, 1, 2, 0])))
    found = attach(base, flooded, range(3), key="b", basis="b")
    assert found.mapping == {0: 0, 1: 1, 2: 2}


def test_sites_are_kept_with_the_catalogue_and_follow_its_merges(tmp_path: Path) -> None:
    base, _ = grow(None, replace(draw([0, 1, 2, 3], 30, 0), sites=ground(np.arange(4))), "a")
    write_catalogue(tmp_path / "c", base)
    read = read_catalogue(tmp_path / "c")
    np.testing.assert_array_equal(read.members.sites.keys, base.members.sites.keys)
    assert np.bincount(read.known_sites().ids).tolist() == [50] * 4
    run = replace(draw([0, 1, 5], 30, 1), sites=ground(np.array([0, 1, 5, 1])))
    after, found = grow(read, run, "b")
    assert found.mapping == {0: 0, 1: 1, 5: 4}
    assert np.bincount(after.known_sites().ids).tolist() == [50, 100, 0, 0, 50]


def test_the_matching_does_not_depend_on_the_order_of_sites() -> None:
    base, _ = grow(None, replace(draw([0, 1, 2, 3], 30, 0), sites=ground(np.arange(4))), "a")
    run = replace(draw([0, 1, 5], 20, 1), sites=ground(np.array([0, 1, 5, 1])))
    order = np.random.default_rng(0).permutation(len(run.sites))
    mixed = replace(run, sites=run.sites.of(order))
    known = prototypes(base.members, base.whitening)
    first, second = (match(each, known, base.whitening, base.known_sites())[0] for each in (run, mixed))
    assert first == second
