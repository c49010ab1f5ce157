"""Each scenario of the simulator does what its name says, as seen from outside: in signatures, overlaps and labels."""

from dataclasses import fields, replace

import numpy as np
import pytest
from sklearn.metrics import adjusted_rand_score

from benchmarks.align.__main__ import main, measure
from benchmarks.align.simulator import NODATA, SCENARIOS, STRESS, Scenario, simulate

STD = SCENARIOS["std"]
PLAIN = Scenario(noise=0.01)


def _nodes(mosaic, least_px=200):
    """Return block, true class and features of all nodes that are nothing but one class, nearly."""
    rows = []
    for s in mosaic.signatures:
        true = mosaic.truth[mosaic.grid.block(s.index).wide.slices]
        for i, pixels, feature in zip(s.ids, s.pixels, s.features, strict=True):
            inside = np.bincount(true[mosaic.labels[s.index] == i], minlength=256)
            if pixels >= least_px and inside.max() > 0.97 * pixels:
                rows.append((s.index, int(inside.argmax()), feature))
    blocks, classes, features = zip(*rows, strict=True)
    return np.array(blocks), np.array(classes), np.array(features)


def _about_classes(mosaic):
    """Return the standard deviation of nodes around their classes."""
    _, classes, features = _nodes(mosaic)
    rest = np.concatenate([features[classes == k] - features[classes == k].mean(0) for k in np.unique(classes)])
    return rest.std()


def _alone(name):
    """Return a stress scenario without all else that goes wrong in `std`."""
    changed = {f.name: getattr(STRESS[name], f.name) for f in fields(Scenario)}
    (only,) = [key for key, value in changed.items() if value != getattr(STD, key)]
    return replace(PLAIN, **{only: changed[only]})


def _ids_a_class(mosaic):
    """Return how many ids blocks have for each class of 60 pixels or more, on average."""
    ids = present = 0
    for s in mosaic.signatures:
        true = mosaic.truth[mosaic.grid.block(s.index).wide.slices]
        present += int((np.bincount(true.ravel())[:NODATA] >= 60).sum())
        ids += int((s.pixels >= 60).sum())
    return ids / present


@pytest.mark.parametrize("name", STRESS)
def test_stress_is_std_but_for_one_thing(name):
    assert sum(getattr(STRESS[name], f.name) != getattr(STD, f.name) for f in fields(Scenario)) == 1


def test_noise_moves_nodes_by_as_much_as_classes_differ():
    assert _about_classes(simulate((6, 6), PLAIN, 1)) < 0.1
    mosaic = simulate((20, 20), _alone("noise1"), 1)
    assert 0.95 < _about_classes(mosaic) < 1.15
    assert np.mean([s.spread.mean() for s in mosaic.signatures]) == pytest.approx(1)


def test_radiometry_moves_blocks_and_overlaps_see_it():
    mosaic = simulate((8, 8), STRESS["radiometry1.5"], 1)
    assert np.std([o.delta for o in mosaic.overlaps]) == pytest.approx(1.5 * np.sqrt(2), rel=0.1)
    assert np.std([o.delta for o in simulate((8, 8), STD, 1).overlaps]) == pytest.approx(0.3 * np.sqrt(2), rel=0.1)


def test_drift_moves_classes_over_the_scene_by_as_much_as_it_says():
    assert _about_classes(simulate((20, 20), _alone("drift8"), 1)) == pytest.approx(8 * 0.48, rel=0.2)


def test_bad_blocks_know_nothing_of_the_truth():
    def bad(scenario):
        mosaic = simulate((14, 14), scenario, 2)
        windows = [(mosaic.truth[mosaic.grid.block(i).wide.slices], labels) for i, labels in mosaic.labels.items()]
        several = [
            (true, labels) for true, labels in windows if np.sort(np.bincount(true.ravel()))[-1] < 0.8 * true.size
        ]
        return np.mean([adjusted_rand_score(true.ravel(), labels.ravel()) < 0.15 for true, labels in several])

    assert bad(STRESS["bad15"]) == pytest.approx(0.15, abs=0.06)
    assert bad(STD) < 0.05


def test_merged_classes_have_fewer_ids_and_split_ones_more():
    assert _ids_a_class(simulate((8, 8), PLAIN, 1)) == pytest.approx(1, abs=0.03)
    assert _ids_a_class(simulate((8, 8), _alone("merge30"), 1)) < 0.92
    # Of classes of few pixels one half may be too small to count: the share itself is not seen.
    more = [
        _ids_a_class(simulate((8, 8), scenario, 1)) - 1 for scenario in (_alone("split80"), replace(PLAIN, split=0.15))
    ]
    assert more[0] > 0.3
    assert more[0] > 3 * more[1]


def test_a_halo_of_one_pixel_shares_a_quarter():
    narrow, usual = (simulate((4, 4), scenario, 1) for scenario in (STRESS["halo1"], STD))
    assert {o.table.sum() for o in narrow.overlaps} <= {2 * 33, 2 * 34}
    assert {o.table.sum() for o in usual.overlaps} <= {8 * 36, 8 * 40}


def test_borders_that_are_moved_further_are_wrong_more_often():
    def wrong(scenario):
        return 1 - measure(simulate((8, 8), scenario, 1), "oracle", 0)["pixel_ari"]

    assert wrong(STRESS["warp2"]) > 1.2 * wrong(STD)


@pytest.mark.parametrize(("name", "classes"), [("classes3", 3), ("classes14", 14), ("std", 8)])
def test_a_scenario_has_its_number_of_classes_and_who_is_told_it_is_told_that(name, classes):
    mosaic = simulate((10, 10), (SCENARIOS | STRESS)[name], 1)
    assert mosaic.classes == classes
    assert np.unique(mosaic.truth).tolist() == list(range(classes))
    assert measure(mosaic, "ktex, K given", 0)["ids"] == classes
    assert measure(mosaic, "k-means", 0)["ids"] == classes


def test_parts_are_of_the_same_classes_a_step_apart_and_share_nothing():
    mosaic = simulate((5, 5), _alone("apart"), 1)
    columns = np.array([s.index[1] for s in mosaic.signatures])
    second = columns >= 5
    assert second.sum() == (~second).sum() == 25
    assert columns[second].min() - columns[~second].max() > 30
    assert all((o.a[1] >= 5) == (o.b[1] >= 5) for o in mosaic.overlaps)
    blocks, classes, features = _nodes(mosaic)
    there = blocks[:, 1] >= 5
    both = np.intersect1d(classes[there], classes[~there])
    assert len(both) >= 3
    steps = np.array(
        [features[there & (classes == k)].mean(0) - features[~there & (classes == k)].mean(0) for k in both]
    )
    assert 1 < steps.mean(0).std() < 3
    assert steps.std(0).max() < 0.1


def test_stress_has_to_be_asked_for(capsys):
    assert main(["--blocks", "3", "--seeds", "1", "--scenarios", "apart", "classes3", "--methods", "oracle"]) == 0
    printed = capsys.readouterr().out
    assert "| apart    | oracle" in printed
    assert "| classes3 | oracle" in printed
    assert main(["--blocks", "2", "--seeds", "1", "--methods", "oracle"]) == 0
    assert not any(f"| {name} " in capsys.readouterr().out for name in STRESS)
