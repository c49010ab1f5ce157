"""Training and use of the preset `paper`: the loss, the one step per pass, what is kept, and what is published."""

from __future__ import annotations

import dataclasses
import json
from types import SimpleNamespace

import keras
import numpy as np
import pytest

import ktex_model
from ktex_model.extractors import Extractor
from ktex_model.model import Sample
from ktex_model.noise import noise_window
from ktex_model.paper import PaperConfig, PaperModel, training
from ktex_model.paper import networks as nets
from ktex_model.paper.steps import step_tensors

rng = np.random.default_rng(0)


def numpy_scalar(tensors, image):
    """The published mask network at inference, ``(y, x, band)`` to ``(y, x)``, in double precision."""
    layer = image.astype(float)
    for number in (1, 2, 3):
        kernel, bias = (tensors[f"mask/conv{number}/{part}"].astype(float) for part in ("kernel", "bias"))
        gamma, beta, mean, variance = (
            tensors[f"mask/bn{number}/{part}"].astype(float)
            for part in ("gamma", "beta", "moving_mean", "moving_variance")
        )
        layer = (layer @ kernel[0, 0] + bias - mean) / np.sqrt(variance + 1e-3) * gamma + beta
        layer = np.where(layer > 0, layer, np.expm1(layer)) if number < 3 else 1 / (1 + np.exp(-layer))
    return layer[..., 0]


def make_model(image, k=3, seed=0):
    """Return a model with random weights whose scalar spreads over (0, 1) on `image`."""
    bands = image.shape[-1]
    held = [nets.MaskNetwork(bands, 0.99, seed), nets.Generators(k, bands, 0.99, seed)]
    tensors = nets.read_tensors(held[0]) | nets.read_tensors(held[1]) | step_tensors(k)
    scalar = numpy_scalar(tensors, image)
    logits = np.log(scalar / (1 - scalar))
    tensors["mask/bn3/moving_mean"] = np.float32([logits.mean()])
    tensors["mask/bn3/moving_variance"] = np.float32([logits.var() / 4])
    config = PaperConfig(k=k, bands=bands, rgb=None)
    return PaperModel.from_tensors(config, tensors | {"fill": np.full(bands, 0.5, np.float32)})


@pytest.fixture(scope="module")
def model(scene):
    return make_model(scene((300, 270), 2))


@pytest.fixture(scope="module")
def config(tiny_extractor):
    return PaperConfig(k=2, bands=2, rgb=None, autoencoder=tiny_extractor(2), epochs=3)


# ---- the loss


def test_loss_is_the_mean_squared_difference_of_both_features(random_extractor):
    """Also: the VGG part sees red, green and blue in this order, and invalid pixels bear nothing."""
    config = PaperConfig(k=2, bands=4, rgb=(2, 1, 0))
    parts = [(random_extractor(3, 1 / 32), (2, 1, 0)), (random_extractor(4, 1 / 32, seed=1), (0, 1, 2, 3))]
    tiles = rng.random((2, 136, 136, 4), dtype=np.float32)
    valid = np.ones((2, 136, 136), bool)
    valid[:, :, :70] = False
    core = tiles[:, 4:-4, 4:-4]
    found = rng.random(core.shape, dtype=np.float32)
    spoilt = np.where(valid[:, 4:-4, 4:-4, None], found, np.float32(50))
    networks = [extractor.build() for extractor, _ in parts]
    features, expected = [], 0.0
    for name, network, (_, bands) in zip(("imagenet", "planet"), networks, parts, strict=True):
        target = np.asarray(network.predict_on_batch(core[..., list(bands)]))
        features.append(training.FrozenFeatures(name, network, bands, target))
        seen = np.where(valid[:, 4:-4, 4:-4, None], found, core)[..., list(bands)]
        expected += ((np.asarray(network.predict_on_batch(seen)) - target) ** 2).mean()
    simulator = training.Simulator(config, 0, features)
    batch = {"tiles": tiles, "valid": valid} | {part.name: part.targets for part in features}
    assert expected > 0
    assert float(simulator.compute_loss(batch, y_pred=spoilt)) == pytest.approx(expected, rel=1e-4)
    trained = {weight.path.split("/")[0] for weight in simulator.trainable_weights}
    assert len(simulator.trainable_weights) == 3 * 4 + 5 * 2 + 4 * 2
    assert not any("block" in path or "step" in path for path in trained)


def test_both_parts_of_the_loss_are_set_up_from_the_config(sample, random_extractor, monkeypatch):
    asked = []
    vgg, own = random_extractor(3, 1 / 32), random_extractor(4, 1 / 32, seed=1)
    vgg = Extractor("imagenet", 3, 1 / 32, vgg.tensors)

    def fake_training(samples, bands, seed, steps, width):
        asked.append((bands, seed, steps, width))
        return own, [2.0, 1.0]

    monkeypatch.setattr(training.extractors, "imagenet", lambda source: asked.append(source) or vgg)
    monkeypatch.setattr(training.extractors, "train_autoencoder", fake_training)
    tiles = training.cut_tiles([sample()], 4)
    config = PaperConfig(rgb=(2, 1, 0), autoencoder_steps=2, autoencoder_width=0.5)
    features, stages = training._frozen_features([sample()], tiles, config, 8)
    assert asked == ["keras", (4, 8, 2, 0.5)]
    assert [(part.name, part.bands) for part in features] == [("imagenet", (2, 1, 0)), ("planet", (0, 1, 2, 3))]
    for part, extractor, seen in zip(features, (vgg, own), ([2, 1, 0], [0, 1, 2, 3]), strict=True):
        expected = extractor.build().predict_on_batch(tiles.images[:, 4:-4, 4:-4][..., seen])
        np.testing.assert_allclose(part.targets, np.asarray(expected), atol=1e-6)
        assert part.targets.std() > 0
    told = {stage["name"]: stage for stage in stages}
    assert told["imagenet extractor"]["source"] == "Keras"
    assert told["planet extractor"]["source"] == "trained on the samples of this model"
    assert (told["planet extractor"]["losses"], told["planet extractor"]["steps"]) == ([2.0, 1.0], 2)
    assert told["target features"]["steps"] == 1
    without = PaperConfig(imagenet_weights="none")
    features, stages = training._frozen_features([sample()], tiles, without, 8)
    assert [part.name for part in features] == ["planet"]
    assert stages[0]["source"].startswith("off: imagenet_weights is none")


def test_simulated_tiles_are_the_sum_of_masks_times_textures(config):
    simulator = training.Simulator(config, 0, [])
    tiles, noise = rng.random((2, 136, 136, 2), dtype=np.float32), training.draw_noise(rng, (128, 128))
    assert noise.shape == (1, 144, 144, 1)
    simulated = np.asarray(simulator({"tiles": tiles, "valid": np.ones((2, 136, 136), bool), "noise": noise}))
    masks = np.asarray(simulator.discretisation(simulator.mask(tiles, None)))
    textures = np.asarray(simulator.generators(noise))
    assert textures.shape == (2, 128, 128, 2)
    expected = sum(masks[..., k, None] * textures[k] for k in range(2))
    np.testing.assert_allclose(simulated, expected, atol=1e-5)


# ---- training


def test_equal_seeds_give_equal_bytes_and_history_says_what_was_done(config, sample, tmp_path):
    """The samples differ where they are invalid: that must change nothing either."""
    calls, digests = [], []
    whole = sample(bands=2)
    valid = whole.valid.copy()
    valid[:, 90:] = False
    for run, junk in enumerate((0, np.nan)):
        spoilt = Sample(np.where(valid[..., None], whole.image, np.float32(junk)), valid)
        trained = ktex_model.train([spoilt], config, seed=5, progress=lambda *now: calls.append(now))
        digests.append(ktex_model.save(trained.model, tmp_path / str(run)))
    assert digests[0] == digests[1]
    history = trained.history
    joint = history.stages[-1]
    assert calls[:3] == calls[3:] == [(epoch + 1, 3, loss) for epoch, loss in enumerate(joint["losses"])]
    assert history.loss == min(joint["losses"])
    assert history.stop_reason == "all 3 epochs were run"
    sources = {stage["name"]: stage.get("source") for stage in history.stages}
    assert sources["imagenet extractor"].startswith("off: no red, green and blue")
    assert sources["planet extractor"] == config.autoencoder
    json.dumps([*history.stages])
    assert ktex_model.load_config(tmp_path / "0", digests[0]) == config
    with pytest.raises(ValueError, match="must have digest"):
        ktex_model.load_config(tmp_path / "0", "0" * 64)
    again = ktex_model.load(tmp_path / "0", digests[0])
    assert again.config == config
    seen = sample((140, 150), bands=2)
    for one, other in zip(
        (trained.model.predict(seen.image, seen.valid), trained.model.textures((20, 20))),
        (again.predict(seen.image, seen.valid), again.textures((20, 20))),
        strict=True,
    ):
        np.testing.assert_array_equal(getattr(one, "labels", one), getattr(other, "labels", other))


def fake_simulator(losses):
    """Stand in for the network: the weights count the steps, the losses are given."""
    held = SimpleNamespace(parts=[], steps=0, noise=[])
    held.learnt_tensors = lambda: {"step": np.array(held.steps)}
    held.reset_metrics = lambda: None

    def step(batch, return_dict):
        held.steps += 1
        held.noise.append(np.asarray(batch["noise"]).tobytes())
        return {"loss": losses[held.steps - 1]}

    held.train_on_batch = step
    return held


@pytest.mark.parametrize(
    ("losses", "patience", "kept", "ran", "reason"),
    [
        ([5, 3, 4, 3.5], None, 1, 4, "all 4 epochs were run"),
        ([5, 4, 3, 2], None, 3, 4, "all 4 epochs were run"),
        ([1, 2, 3, 0], 2, 0, 3, "no lower loss in 2 epochs, after 3"),
    ],
)
def test_the_weights_of_the_lowest_loss_are_kept(losses, patience, kept, ran, reason):
    config = PaperConfig(epochs=4, patience=patience)
    best, seen, _, why = training._descend(fake_simulator(losses), [{}], config, 0, None)
    assert int(best["step"]) == kept
    assert (seen, why) == (losses[:ran], reason)


def test_one_draw_of_noise_serves_all_tiles_of_an_epoch():
    simulator = fake_simulator([3.0] * 6)
    training._descend(simulator, [{}, {}], PaperConfig(epochs=3), 0, None)
    first, second, *rest = simulator.noise
    assert first == second
    assert len({first, *rest}) == 3
    other = fake_simulator([3.0])
    training._descend(other, [{}], PaperConfig(epochs=1), 1, None)
    assert other.noise[0] != first


def test_a_loss_that_is_not_finite_stops_with_an_error():
    with pytest.raises(FloatingPointError, match="the loss must stay finite; got nan in epoch 2"):
        training._descend(fake_simulator([1.0, float("nan")]), [{}], PaperConfig(epochs=4), 0, None)


def test_batches_fill_up_without_weight(sample):
    tiles = training.cut_tiles([sample((128, 128 * 5), 2)], 2)
    targets = rng.random((5, 8, 8, 4), dtype=np.float32)
    part = training.FrozenFeatures("planet", None, (0, 1), targets)
    batches, share = training._batches(tiles, [part], 2)
    assert [np.asarray(batch["tiles"]).shape[0] for batch in batches] == [2, 2, 2]
    assert share == pytest.approx(6 / 5)
    assert np.asarray(batches[2]["valid"])[0].all()
    assert not np.asarray(batches[2]["valid"])[1].any()
    whole, share = training._batches(tiles, [part], None)
    assert (len(whole), share) == (1, 1)


def test_the_optimiser_is_the_published_one(config, sample, monkeypatch):
    made = []
    adam = keras.optimizers.Adam
    monkeypatch.setattr(
        keras.optimizers, "Adam", lambda *args, **options: made.append((args, options)) or adam(*args, **options)
    )
    kept = {}

    def descend(simulator, *_):
        kept.update({name: tensor + 0.25 for name, tensor in simulator.learnt_tensors().items()})
        return kept, [2.0, 1.0, 3.0], {}, "stopped"

    monkeypatch.setattr(training, "_descend", descend)
    for tiles, steps in ((None, None), (1, 2)):
        chosen = PaperConfig(k=2, bands=2, rgb=None, autoencoder=config.autoencoder, batch_tiles=tiles)
        trained = training.train([sample((128, 256), 2)], chosen)
        assert made.pop() == ((1e-3,), {"clipnorm": 1.0, "gradient_accumulation_steps": steps})
        # What `_descend` kept is what is used, not what the network held at the end.
        held = trained.model.tensors()
        for name, tensor in kept.items():
            np.testing.assert_array_equal(held[name], tensor)
        assert (trained.history.loss, trained.history.stop_reason) == (1.0, "stopped")
        assert trained.history.stages[-1]["best_step"] == 1
    recomputed = dataclasses.replace(chosen, recompute_statistics=True)
    held = training.train([sample((128, 128), 2)], recomputed).model.tensors()
    changed = {name.split("/")[-1] for name, tensor in kept.items() if not np.array_equal(held[name], tensor)}
    assert changed == {"moving_mean", "moving_variance"}


def test_all_normalisations_take_the_momentum_of_the_config(config):
    simulator = training.Simulator(dataclasses.replace(config, momentum=0.75), 0, [])
    norms = [*simulator.mask.norms, *simulator.generators.norms]
    assert [norm.momentum for norm in norms] == [0.75] * 7


def test_recomputed_statistics_are_those_of_the_tiles(config, sample):
    simulator = training.Simulator(config, 0, [])
    tiles = training.cut_tiles([sample(bands=2)], 2)
    training._recompute_statistics(simulator, [{"tiles": tiles.images, "valid": tiles.valid}], 0)
    tensors = nets.read_tensors(simulator.mask)
    mapped = tiles.images @ tensors["mask/conv1/kernel"][0, 0] + tensors["mask/conv1/bias"]
    np.testing.assert_allclose(tensors["mask/bn1/moving_mean"], mapped.mean(axis=(0, 1, 2)), atol=1e-5)
    np.testing.assert_allclose(tensors["mask/bn1/moving_variance"], mapped.var(axis=(0, 1, 2)), atol=1e-5)


def test_an_extractor_for_other_bands_is_refused(sample, tiny_extractor):
    config = PaperConfig(k=2, bands=3, rgb=None, autoencoder=tiny_extractor(2))
    with pytest.raises(ValueError, match="`autoencoder` must see 3 bands"):
        ktex_model.train([sample(bands=3)], config)


# ---- use


def test_labels_are_the_bins_of_the_scalar_and_margins_say_how_clear(model, sample):
    seen = sample((300, 270), 2)
    valid = rng.random((300, 270)) < 0.9
    found = model.predict(seen.image, valid)
    position = numpy_scalar(model.tensors(), seen.image) * 3
    clear = valid & (np.abs(position - np.rint(position)) > 2e-3)
    np.testing.assert_array_equal(found.labels[clear], np.floor(position)[clear])
    assert set(np.unique(found.labels[valid])) == {0, 1, 2}
    assert clear.mean() > 0.8
    edge = np.minimum(np.abs(position - 1), np.abs(position - 2)) * 2
    np.testing.assert_allclose(found.margin[clear], np.clip(edge, 0, 1)[clear] * 200, atol=1.01)
    assert (found.labels[~valid] == 255).all()
    assert (found.margin[~valid] == 255).all()
    assert found.labels.dtype == found.margin.dtype == np.uint8


def test_a_window_is_labelled_as_the_whole_and_nothing_else_matters(model, sample):
    seen = sample((300, 270), 2)
    whole = model.predict(seen.image, seen.valid)
    inner = slice(17, 290), slice(5, 40)
    spoilt = np.full_like(seen.image, np.nan)
    spoilt[inner] = seen.image[inner]
    part = model.predict(spoilt, seen.valid, inner)
    np.testing.assert_array_equal(part.labels, whole.labels[inner])
    np.testing.assert_array_equal(part.margin, whole.margin[inner])
    assert model.context_px == 0
    nothing = model.predict(seen.image, np.zeros((300, 270), bool))
    assert (nothing.labels == 255).all()


def test_textures_do_not_depend_on_the_tiles_they_are_made_in(model):
    textures = model.textures((150, 140), seed=4)
    assert textures.shape == (3, 150, 140, 2)
    assert textures.dtype == np.float32
    assert (textures >= 0).all()
    assert (textures <= 1).all()
    noise = noise_window(4, 0, -8, -8, (166, 156), 1)[None]
    generators = nets.Generators(3, 2, 0.99, 9)
    nets.assign_tensors(generators, model.tensors())
    np.testing.assert_allclose(textures, np.asarray(generators(noise)), atol=1e-5)
    assert (model.textures((20, 20), seed=5) != model.textures((20, 20), seed=4)).any()


def test_simulated_image_shows_each_class_its_texture(model):
    labels = rng.choice(np.array([0, 1, 2, 255], np.uint8), (150, 140))
    simulated, textures = model.simulate(labels, seed=4), model.textures((150, 140), seed=4)
    for k in range(3):
        np.testing.assert_array_equal(simulated[labels == k], textures[k][labels == k])
    assert (simulated[labels == 255] == 0).all()
    part = model.simulate(labels[30:, 65:], seed=4, origin=(30, 65))
    np.testing.assert_allclose(part, simulated[30:, 65:], atol=1e-5)
    assert np.abs(model.simulate(labels[30:, 65:], seed=4) - part).max() > 1e-3


@pytest.mark.parametrize(("k", "step"), [(2, 127), (3, 85), (6, 42), (128, 1)])
def test_published_rasters(k, step):
    model = SimpleNamespace(k=k, _check_labels=lambda _: None)
    labels = np.array([[0, 1, k - 1, 255]], np.uint8)
    published = PaperModel.publish_labels(model, labels)
    assert published.tolist() == [[0, step, (k - 1) * step, 255]]
    assert published.dtype == np.uint8


def test_published_image(model):
    image = model.publish_image(np.array([[[0, 1], [0.5, 0.2]]], np.float32))
    assert image.tolist() == [[[0, 255], [128, 51]]]


def test_wrong_input_is_refused(model):
    with pytest.raises(ValueError, match=r"`image` must be \(y, x, 2\)"):
        model.predict(np.zeros((8, 8, 3), np.float32), np.ones((8, 8), bool))
    with pytest.raises(ValueError, match=r"`image` must be \(y, x, 2\)"):
        model.predict(np.zeros((8, 8, 2), np.float32), np.ones((8, 7), bool))
    with pytest.raises(ValueError, match=r"`labels` must be \(y, x\) of 0\.\.2 or 255"):
        model.simulate(np.full((4, 4), 3, np.uint8))


def test_foreign_tensors_and_configs_are_refused(model, tmp_path):
    tensors = model.tensors()
    with pytest.raises(ValueError, match=r"got also \['other'\]"):
        PaperModel.from_tensors(model.config, tensors | {"other": np.zeros(1)})
    with pytest.raises(ValueError, match="'fill' must have shape"):
        PaperModel.from_tensors(model.config, {name: t for name, t in tensors.items() if name != "fill"})
    ktex_model.weights.write(tmp_path / "a", {"preset": "other"}, tensors)
    with pytest.raises(ValueError, match="`preset` must be one of"):
        ktex_model.load(tmp_path / "a")
    ktex_model.weights.write(tmp_path / "b", {"preset": "paper", "colour": 1}, tensors)
    with pytest.raises(ValueError, match="config of this release"):
        ktex_model.load(tmp_path / "b")
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = ktex_model.nothing
