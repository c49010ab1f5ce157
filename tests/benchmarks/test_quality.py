import json

import numpy as np
import pytest

import ktex_model
from benchmarks.quality import ablation, real
from benchmarks.quality.__main__ import main, score
from benchmarks.quality.features import Tuning, gabor_energies, local_statistics, principal_bands
from benchmarks.quality.generated import compare_textures, label_by_textures, respond
from benchmarks.quality.methods import BASELINES, Outcome, generator_agreement, list_methods
from benchmarks.quality.scenes import PAIRS, RECIPES, Scene, draw_regions, make_scene, paint
from benchmarks.quality.tables import _ranks, block_tables, compare
from ktex_model import Sample, TextureConfig
from pipeline.metrics import truth_scores

PX = 128


def test_there_are_scenes_of_all_kinds():
    assert len(RECIPES) >= 6
    assert RECIPES["drift"].drift > 0
    assert RECIPES["noise"].noise > 2 * RECIPES["shared"].noise
    assert RECIPES["elongated"].stretch > 1
    assert all(len(recipe.textures) == 6 for recipe in RECIPES.values())


@pytest.mark.parametrize("name", RECIPES)
def test_a_scene_is_its_name_size_and_seed(name):
    first, again, other = make_scene(name, PX), make_scene(name, PX), make_scene(name, PX, seed=1)
    (image,), (truth,) = first.images, first.truths
    np.testing.assert_array_equal(image, again.images[0])
    np.testing.assert_array_equal(truth, again.truths[0])
    assert (truth != other.truths[0]).mean() > 0.5
    assert image.shape == (PX, PX, 4)
    assert image.dtype == np.float32
    assert image.min() >= 0
    assert image.max() <= 1
    shares = np.bincount(truth.ravel(), minlength=6) / truth.size
    assert len(shares) == 6
    assert shares.min() > 0.1


@pytest.mark.parametrize("name", RECIPES)
def test_pairs_share_mean_and_spread_and_others_do_not(name):
    rng = np.random.default_rng(8)
    truth = draw_regions(rng, (PX, PX), RECIPES[name])
    image = paint(rng, truth, RECIPES[name])
    means = np.array([image[truth == label].mean(0) for label in range(6)])
    spreads = np.array([image[truth == label].std(0) for label in range(6)])
    for a, b in PAIRS:
        np.testing.assert_allclose(means[a], means[b], atol=1e-4)
        np.testing.assert_allclose(spreads[a], spreads[b], atol=1e-4)
    assert np.abs(means[0] - means[2]).max() > 0.05
    assert np.abs(means[2] - means[4]).max() > 0.05


def test_colours_do_not_tell_pairs_apart_but_textures_can():
    scene = make_scene("oriented", 192)
    methods = list_methods(1)
    ari = {name: score(scene, methods[name](scene, 0))["ari"] for name in BASELINES}
    assert ari["k-means colour"] < 0.45
    assert ari["k-means texture"] > ari["k-means colour"] + 0.1


def test_features_are_finite_and_of_the_pixels():
    scene = make_scene("shared", 64)
    for parts, width in (
        (local_statistics(scene, Tuning()), 4 + 2 * 7),
        (local_statistics(scene, Tuning(whiten=5)), 5),
        (gabor_energies(scene, Tuning()), 4 + 24),
        (principal_bands(scene, 2), 2),
    ):
        assert parts[0].shape == (64, 64, width)
        assert np.isfinite(parts[0]).all()


def _grey(truth):
    image = np.full((*truth.shape, 1), 0.5, np.float32)
    return Scene("grey", 2, (image,), (truth,), (np.ones(truth.shape, bool),))


def test_scores_are_those_of_the_scored_pixels():
    truth = np.repeat(np.array([[0, 1, 255]], np.uint8), 8, axis=0).repeat(8, axis=1)
    labels = np.where(truth == 1, 1, 0).astype(np.uint8)
    labels[0, 0] = 1
    figures = score(_grey(truth), Outcome((labels,), 1.0))
    assert figures["accuracy"] == figures["majority"] == pytest.approx(127 / 128)
    assert figures["ari"] == pytest.approx(truth_scores(labels, truth).ari)
    assert figures["generator_agreement"] is None


def test_blocks_add_up_to_the_whole():
    scene = make_scene("shared", 64)
    labels = (scene.truths[0] + 1) % 6
    tables = block_tables(scene, [labels.astype(np.uint8)])
    assert tables.shape == (16, 6, 6)
    whole = tables.sum(0)
    np.testing.assert_array_equal(np.diag(whole[np.arange(1, 7) % 6]), np.bincount(scene.truths[0].ravel()))
    assert whole.sum() == 64 * 64


def test_texture_is_held_against_the_best_of_each_scene_and_of_all():
    perfect, poor = np.array([[[9, 0], [0, 9]]] * 4), np.array([[[5, 4], [4, 5]]] * 4)
    fair = np.array([[[8, 1], [1, 8]]] * 4)
    marks = {"texture": (0.9, 0.8), "k-means colour": (0.5, 0.2), "k-means texture": (0.4, 0.6)}
    tables = {"texture": perfect, "k-means colour": poor, "k-means texture": fair}
    runs = [
        {"scene": scene, "method": method, "ari": ari, "majority": 1 - ari, "blocks": tables[method].tolist()}
        for scene in ("a", "b")
        for method, both in marks.items()
        for ari in [both["ab".index(scene)]] * 2
    ]
    rows = compare(runs)
    told = {(row["score"], row["scene"], row["baseline"]): row["difference"] for row in rows}
    assert told == pytest.approx(
        {
            ("ari", "a", "k-means colour"): 0.4,
            ("ari", "a", "k-means texture"): 0.5,
            ("ari", "b", "k-means texture"): 0.2,
            ("ari", "made, mean", "k-means texture"): 0.35,
            ("ari", "made, mean", "best of each scene"): 0.3,
            ("majority", "a", "k-means texture"): -0.5,
            ("majority", "a", "k-means colour"): -0.4,
            ("majority", "b", "k-means colour"): -0.6,
            ("majority", "made, mean", "k-means colour"): -0.5,
            ("majority", "made, mean", "best of each scene"): -0.55,
        }
    )
    assert all(row["low"] <= row["high"] for row in rows)


def test_the_score_without_labels_is_held_against_the_truth():
    runs = [
        {"scene": "a", "method": method, "ari": ari, "majority": 1 - ari, "score": score}
        for method, ari, score in (("x", 0.1, 0.3), ("y", 0.2, 0.4), ("z", 0.4, 0.5), ("z", 0.3, 0.6))
    ]
    *_, table = _ranks(runs, ["a"])
    row = [cell.strip() for cell in table.splitlines()[2].strip("|").split("|")]
    assert row == ["a", "4", "0.800", "-0.800", "1.000", "0.300", "0.400"]
    assert not _ranks(runs[:2], ["a"])


def test_a_texture_is_as_far_from_the_real_one_as_its_covariances_are():
    class Loud:
        """Generates the same noise as the scene's, the second class twice as strong."""

        def texture(self, c, shape, seed=0):
            return (1 + c) * np.random.default_rng(seed).normal(size=(*shape, 2)).astype(np.float32)

    image = np.random.default_rng(7).normal(size=(256, 256, 2)).astype(np.float32)
    labels = np.zeros((256, 256), np.uint8)
    labels[:, 128:] = 1
    labels[:9, :9] = 2
    alike, loud = compare_textures(Loud(), [image], [labels], 3)
    assert alike.linear < 0.1
    assert alike.halves < 0.1
    assert loud.linear == pytest.approx(3, abs=0.1)
    assert loud.pixels == (256 - 4) * (128 - 4)


def test_filters_see_no_brightness_and_keep_the_energy_of_what_varies():
    image = np.random.default_rng(3).normal(size=(300, 300, 1)).astype(np.float32)
    seen = respond(image)
    assert seen.shape == (296, 296, 24)
    np.testing.assert_allclose(respond(image + 5), seen, atol=1e-4)
    np.testing.assert_allclose(np.cov(seen.reshape(-1, 24), rowvar=False), np.eye(24), atol=0.05)


def test_methods_of_an_earlier_run_join_the_tables(tmp_path, capsys):
    first, second = tmp_path / "first.json", tmp_path / "second.json"
    options = ["--quick", "--scenes", "shared", "--size-px", "64", "--methods"]
    main([*options, "k-means colour", "--json", str(first)])
    alone = capsys.readouterr().out
    main([*options, "k-means texture", "--beside", str(first), "--json", str(second)])
    assert "Joined from an earlier run" in capsys.readouterr().out
    assert "Joined" not in alone
    assert [run["method"] for run in json.loads(second.read_text())["runs"]] == ["k-means colour", "k-means texture"]
    main([*options, "--beside", str(second)])
    assert "Joined from an earlier run" in (joined := capsys.readouterr().out)
    assert "k-means texture" in joined
    with pytest.raises(ValueError, match="size_px must be 96 as here; got 64"):
        main([*options[:3], "--size-px", "96", "--methods", "k-means texture", "--beside", str(first)])


def test_the_agreement_of_generators_is_of_the_valid_pixels():
    labels, explained = np.array([[0, 0, 1, 255]], np.uint8), np.array([[0, 1, 1, 255]], np.uint8)
    assert generator_agreement(Outcome((labels,), 1.0, explained=(explained,))) == pytest.approx(2 / 3)
    assert generator_agreement(Outcome((labels,), 1.0)) is None


def test_rare_classes_and_invalid_pixels_are_not_scored():
    truth = np.zeros((20, 20), np.uint8)
    truth[:, 10:] = 4
    truth[0, 0], truth[19, 19] = 7, 9
    valid = np.ones(truth.shape, bool)
    valid[5, :] = False
    (kept,) = real.drop_rare([truth], [valid])
    assert set(np.unique(kept)) == {0, 4, 255}
    assert (kept[5] == 255).all()
    assert kept[0, 0] == kept[19, 19] == 255


@pytest.mark.parametrize(
    ("name", "shapes", "classes"),
    [
        ("wv-new", [(256, 256, 4)] * 3, {2, 3}),
        ("wv-old", [(256, 256, 4)] * 3, {2, 3}),
        ("zion", [(1428, 564, 4)], {2, 3, 4, 5}),
        ("amazon", [(512, 512, 3)] * 5, {1, 2}),
    ],
)
def test_real_scenes_have_labels_where_their_folder_is(name, shapes, classes):
    if not real.data_folder().is_dir():
        pytest.skip(f"no real scenes in {real.data_folder()}")
    scene = real.load_scene(name)
    assert [image.shape for image in scene.images] == shapes
    assert set(np.unique(np.concatenate([truth.ravel() for truth in scene.truths]))) - {255} == classes
    for image, truth, valid in zip(scene.images, scene.truths, scene.valids, strict=True):
        assert image.shape[:2] == truth.shape == valid.shape
        assert image.dtype == np.float32
        assert ((image >= 0) & (image <= 1)).all()
    assert max(np.ptp(image) for image in scene.images) > 0.5


def test_an_absent_folder_is_named(monkeypatch, tmp_path):
    monkeypatch.setenv("KTEX_DATA", str(tmp_path))
    for name, match in (("zion", "zion_west_rgbn.tif: not there"), ("amazon", "not there; set KTEX_DATA")):
        with pytest.raises(FileNotFoundError, match=match):
            real.load_scene(name)


def test_the_command_writes_what_it_prints(tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("KTEX_DATA", str(tmp_path / "nothing"))
    paths = tmp_path / "q.json", tmp_path / "q.md"
    options = ["--quick", "--scenes", "shared", "zion", "--methods", "k-means colour", "k-means texture"]
    assert (
        main([*options, "--size-px", "64", "--seeds", "0", "1", "--json", str(paths[0]), "--markdown", str(paths[1])])
        == 0
    )
    printed = capsys.readouterr()
    assert "zion: skipped" in printed.err
    assert printed.out == paths[1].read_text()
    record = json.loads(paths[0].read_text())
    assert [(run["method"], run["seed"]) for run in record["runs"][:2]] == [
        ("k-means colour", 0),
        ("k-means texture", 0),
    ]
    assert record["skipped"][0]["scene"] == "zion"
    assert record["settings"]["seeds"] == [0, 1]
    assert {"numpy", "python"} <= set(record["versions"])
    assert record["machine"]["cores"] >= 1


def test_each_part_left_out_gives_another_assignment_and_is_back_afterwards():
    scene = make_scene("drift", 256)
    whole = ablation.score_variant(scene, "whole", 0)
    assert whole > 0.6
    for variant in ("no waves among the features", "borders on every second pixel"):
        assert ablation.score_variant(scene, variant, 0) < whole
    assert ablation.score_variant(scene, "whole", 0) == whole


def test_pixels_are_assigned_by_what_generated_textures_look_like_whatever_the_labels_say_of_a_few(monkeypatch):
    rng = np.random.default_rng(0)
    y, x = np.mgrid[:96, :96]
    truth = (x + 6 * np.sin(y / 12) > 48).astype(np.uint8)
    grey = np.where(truth == 0, 0.3 + 0.08 * np.sin(2 * np.pi * x / 3), 0.4 + 0.08 * np.sin(2 * np.pi * y / 8))
    image = (grey[..., None] + 0.01 * rng.standard_normal((96, 96, 2))).astype(np.float32)
    valid = np.ones((96, 96), bool)
    valid[:5] = False
    config = TextureConfig(2, 2, steps=1, crop_px=64, texture_radius_px=8, texture_rounds=1)
    model = ktex_model.train([Sample(image, valid)], config).model
    said = np.where(valid, truth, 255).astype(np.uint8)
    said[40:52, 10:22] = 1  # a wrong patch, which no generated texture bears out
    (found,) = label_by_textures(model, [image], [valid], [said])
    assert (found[~valid] == 255).all()
    assert (found == truth)[valid].mean() > 0.95
    assert (found == truth)[40:52, 10:22].mean() > 0.9
    # Where the simulated image shows the other texture, so does the map: no pixel of the scene speaks for its class.
    simulate = type(model).simulate
    monkeypatch.setattr(
        type(model), "simulate", lambda self, laid, *rest: simulate(self, np.where(laid < 2, 1 - laid, laid), *rest)
    )
    (swapped,) = label_by_textures(model, [image], [valid], [said])
    assert (swapped == 1 - truth)[valid].mean() > 0.95
