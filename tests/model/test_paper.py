"""The preset `paper`, line by line of the published table, against numpy and Keras' own layers."""

from __future__ import annotations

import dataclasses
import json

import keras
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ktex_model.model import Sample
from ktex_model.paper import PaperConfig
from ktex_model.paper import networks as nets
from ktex_model.paper.steps import step_tensors
from ktex_model.paper.tiles import cut_tiles

rng = np.random.default_rng(0)


def numbers(tensor):
    return np.asarray(keras.ops.convert_to_numpy(tensor))


def make_discretisation(k):
    layer = nets.Discretisation(k)
    nets.assign_tensors(layer.step, step_tensors(k))
    return layer


# ---- config


def test_defaults_are_the_published_ones():
    config = PaperConfig()
    assert (config.k, config.bands, config.epochs, config.batch_tiles) == (6, 4, 10_240, None)
    assert (config.learning_rate, config.clipnorm, config.momentum) == (1e-3, 1.0, 0.99)
    assert config.patience is None
    assert not config.recompute_statistics
    assert config.uses_imagenet


@given(st.integers(2, 128), st.integers(3, 8), st.booleans())
@settings(deadline=None, max_examples=20)
def test_config_survives_json(k, bands, coloured):
    config = PaperConfig(k=k, bands=bands, rgb=(2, 1, 0) if coloured else None)
    assert PaperConfig(**json.loads(json.dumps(dataclasses.asdict(config)))) == config
    assert config.uses_imagenet == coloured


@pytest.mark.parametrize(
    ("wrong", "match"),
    [
        ({"k": 1}, "`k` must be 2..128; got 1"),
        ({"k": 129}, "`k` must be 2..128; got 129"),
        ({"bands": 0, "rgb": None}, "`bands` must be 1 or more"),
        ({"bands": 2}, "must name three of the 2 bands"),
        ({"rgb": (0, 1, 1)}, "must name three of the 4 bands"),
        ({"preset": "texture"}, "`preset` must be 'paper'"),
        ({"epochs": 0}, "`epochs` must be 1 or more"),
        ({"batch_tiles": 0}, "`batch_tiles` must be 1 or more"),
        ({"learning_rate": 0.0}, "`learning_rate` must be positive"),
        ({"momentum": 1.0}, "`momentum` must be 0 or more and under 1"),
    ],
)
def test_config_refuses(wrong, match):
    with pytest.raises(ValueError, match=match):
        PaperConfig(**wrong)


# ---- tiles


@given(st.integers(1, 300), st.integers(1, 300))
@settings(deadline=None, max_examples=15)
def test_cores_of_tiles_partition_a_sample(height, width):
    image = np.arange(height * width, dtype=np.float64).reshape(height, width, 1) / (height * width)
    tiles = cut_tiles([Sample(image.astype(np.float32), np.ones((height, width), bool))], 1)
    assert tiles.images.shape == (-(-height // 128) * -(-width // 128), 136, 136, 1)
    found = np.sort(tiles.core_images[tiles.core_valid][:, 0])
    np.testing.assert_array_equal(found, image.astype(np.float32).ravel())


def test_border_is_real_inside_and_mirrored_at_the_edge():
    image = rng.random((256, 256, 2), dtype=np.float32)
    tiles = cut_tiles([Sample(image, np.ones((256, 256), bool))], 2)
    assert tiles.valid.all()
    np.testing.assert_array_equal(tiles.images[0][4:, 4:], image[:132, :132])
    np.testing.assert_array_equal(tiles.images[0][:4, 4:], image[4:0:-1, :132])
    np.testing.assert_array_equal(tiles.images[3][:-4, :-4], image[124:, 124:])
    np.testing.assert_array_equal(tiles.images[3][:-4, -4:], image[124:, -2:-6:-1])


def test_invalid_pixels_are_filled_whatever_they_held():
    image, valid = rng.random((140, 128, 2), dtype=np.float32), rng.random((140, 128)) < 0.5
    valid[128:] = False
    tiles = [
        cut_tiles([Sample(np.where(valid[..., None], image, np.float32(junk)), valid)], 2) for junk in (np.nan, 0, 7)
    ]
    for other in tiles[1:]:
        np.testing.assert_array_equal(tiles[0].images, other.images)
    assert len(tiles[0]) == 1
    np.testing.assert_array_equal(tiles[0].core_valid[0], valid[:128])
    np.testing.assert_allclose(tiles[0].fill, image[valid].mean(axis=0), rtol=1e-5)


# ---- step networks and discretisation


def test_step_network_has_the_published_layers():
    shapes = {name: tensor.shape for name, tensor in step_tensors(6).items()}
    norm = {f"step/bn{n}/{part}": (64,) for n in (1, 2) for part in ("gamma", "beta", "moving_mean", "moving_variance")}
    kernels = {
        "step/conv1/kernel": (1, 1, 1, 64),
        "step/conv2/kernel": (1, 1, 64, 64),
        "step/conv3/kernel": (1, 1, 64, 1),
    }
    biases = {"step/conv1/bias": (64,), "step/conv2/bias": (64,), "step/conv3/bias": (1,)}
    assert shapes == norm | kernels | biases
    network = nets.StepNetwork()
    assert [layer.rate for layer in network.dropouts] == [0.05, 0.05]
    assert nets.STEEPNESS == 5000


def test_step_network_is_that_of_keras_layers_behind_a_hard_sigmoid():
    tensors = step_tensors(6)
    layers, names = [keras.Input((1, None, 1))], []
    for number in (1, 2):
        layers += [keras.layers.Conv2D(64, 1), keras.layers.BatchNormalization(), keras.layers.ELU()]
        layers.append(keras.layers.Dropout(0.05))
        names += [(f"conv{number}", ("kernel", "bias"))]
        names += [(f"bn{number}", ("gamma", "beta", "moving_mean", "moving_variance"))]
    oracle = keras.Sequential([*layers, keras.layers.Conv2D(1, 1)])
    held = [*names, ("conv3", ("kernel", "bias"))]
    oracle.set_weights([tensors[f"step/{layer}/{part}"] for layer, parts in held for part in parts])
    grid = np.linspace(-1, 1.5, 2000, dtype=np.float32).reshape(1, 1, -1, 1)
    layer = make_discretisation(6)
    expected = numbers(oracle(grid))
    np.testing.assert_allclose(numbers(layer.step(grid, training=False)), expected, atol=1e-6)
    near = (5 / 6 + np.linspace(-1e-3, 1e-3, 500)).astype(np.float32).reshape(1, 1, -1, 1)
    # 5000 times the rounding of float32.
    np.testing.assert_allclose(numbers(layer.steps(near)), np.clip(5000 * numbers(oracle(near)), 0, 1), atol=0.02)
    dropped = [numbers(layer.step(grid, training=True)) for _ in range(2)]
    assert (dropped[0] != dropped[1]).any()


@pytest.mark.parametrize("k", [2, 3, 6, 128])
def test_step_network_steps_once_and_sharply(k):
    layer = make_discretisation(k)
    grid = np.linspace(0, 1 + (k // 2) / k, 50_001, dtype=np.float32)
    steps = numbers(layer.steps(grid.reshape(1, 1, -1, 1))).ravel()
    distance = grid.astype(float) - (1 - 1 / k)
    assert (steps[distance < -4e-4] == 0).all()
    assert (steps[distance > 4e-4] == 1).all()
    assert numbers(layer.steps(np.full((1, 1, 1, 1), 1 - 1 / k, np.float32)))[0, 0, 0, 0] == pytest.approx(
        0.5, abs=0.02
    )


@pytest.mark.parametrize("k", [2, 3, 5, 6, 128])
def test_masks_are_equal_bins_of_the_scalar(k):
    scalar = rng.random((1, 40, 50, 1), dtype=np.float32)
    scalar[0, 0, :2, 0] = 0.0001, 0.9999
    masks = numbers(make_discretisation(k)(scalar))
    assert masks.shape == (1, 40, 50, k)
    np.testing.assert_allclose(masks.sum(axis=-1), 1, atol=1e-5)
    position = scalar[..., 0].astype(float) * k
    clear = np.abs(position - np.rint(position)) > 5e-4 * k
    assert clear.mean() > 0.8
    expected = np.eye(k)[np.floor(position).astype(int)]
    np.testing.assert_allclose(masks[clear], expected[clear], atol=1e-6)


def test_gradient_flows_through_the_steep_part_only(gradient):
    """The published step is hard backward too: a pixel amid its bin teaches the mask network nothing."""
    layer = make_discretisation(3)
    scalar = np.float32([0.1, 0.5, 0.9, 1 / 3, 2 / 3]).reshape(1, 1, 5, 1)
    height = np.float32([1, 2, 4])
    found = gradient(lambda held: layer(held) * height, scalar).ravel()
    assert (found[:3] == 0).all()
    # From bin to bin the weighted sum rises by 1 and by 2, along ramps of 1 / 5000.
    np.testing.assert_allclose(found[3:], [5000, 10_000], rtol=0.3)


def test_the_frozen_network_learns_nothing():
    layer = make_discretisation(4)
    assert layer.trainable_weights == []


# ---- mask network


@pytest.mark.parametrize("bands", [1, 3, 4, 8])
def test_mask_network_is_that_of_keras_layers(bands):
    """The published layers, written with Keras' own, at inference: same weights, same scalar."""
    network = nets.MaskNetwork(bands, 0.99, seed=1)
    tensors = {
        name: tensor + rng.uniform(0.01, 0.1, tensor.shape).astype(np.float32)
        for name, tensor in nets.read_tensors(network).items()
    }
    nets.assign_tensors(network, tensors)
    layers, names = [], []
    for number, filters in enumerate((64, 64, 1), start=1):
        layers += [keras.layers.Conv2D(filters, 1), keras.layers.BatchNormalization()]
        layers.append(keras.layers.Activation("sigmoid") if number == 3 else keras.layers.ELU())
        names += [(f"mask/conv{number}", ("kernel", "bias"))]
        names += [(f"mask/bn{number}", ("gamma", "beta", "moving_mean", "moving_variance"))]
    oracle = keras.Sequential([keras.Input((16, 18, bands)), *layers, keras.layers.Cropping2D(4)])
    oracle.set_weights([tensors[f"{layer}/{part}"] for layer, parts in names for part in parts])
    pixels = rng.random((2, 16, 18, bands), dtype=np.float32)
    found = numbers(network(pixels, None))
    assert found.shape == (2, 8, 10, 1)
    np.testing.assert_allclose(found, numbers(oracle(pixels)), atol=1e-5)
    assert set(tensors) == {f"{layer}/{part}" for layer, parts in names for part in parts}


def test_normalisation_is_that_of_keras_where_all_is_valid():
    ours, theirs = nets.MaskedNormalization(3, 0.9, "bn1"), keras.layers.BatchNormalization(momentum=0.9)
    pixels = rng.normal(2, 3, (2, 8, 9, 3)).astype(np.float32)
    np.testing.assert_allclose(
        numbers(ours(pixels, np.ones((2, 8, 9), bool), training=True)),
        numbers(theirs(pixels, training=True)),
        atol=1e-5,
    )
    for part in ("moving_mean", "moving_variance"):
        np.testing.assert_allclose(np.asarray(getattr(ours, part)), np.asarray(getattr(theirs, part)), rtol=1e-5)


def test_invalid_pixels_do_not_enter_the_statistics():
    valid = rng.random((2, 16, 16)) < 0.6
    pixels = rng.random((2, 16, 16, 2), dtype=np.float32)
    spoilt = np.where(valid[..., None], pixels, np.float32(9))
    results = []
    for image in (pixels, spoilt):
        network = nets.MaskNetwork(2, 0.9, seed=1)
        scalar = numbers(network.scalar(image, valid, training=True))
        results.append((scalar[valid], nets.read_tensors(network)))
    np.testing.assert_allclose(results[0][0], results[1][0], atol=1e-6)
    for name, tensor in results[0][1].items():
        np.testing.assert_allclose(tensor, results[1][1][name], atol=1e-6)


def test_noise_on_the_scalar_in_training_only():
    network = nets.MaskNetwork(1, 0.99, seed=2)
    flat = np.full((1, 136, 136, 1), 0.3, np.float32)
    # But for rounding, which JAX does otherwise at the end of its vectors: noise would be a thousand times as much.
    assert np.ptp(numbers(network(flat, None))) < 1e-6
    noise = numbers(network.noise(np.full((1, 128, 128, 1), 0.5, np.float32), training=True)) - 0.5
    assert noise.std() == pytest.approx(0.0005, rel=0.03)
    assert numbers(network(flat, np.ones((1, 136, 136), bool), training=True)).std() == pytest.approx(0.0005, rel=0.03)


# ---- texture generators


def split(tensors, k, which):
    """The weights of one generator, as Keras' own layers take them."""
    held = []
    for n in range(1, 6):
        held += [tensors[f"generators/conv{n}/{part}"][which] for part in ("kernel", "bias")]
        if n < 5:
            parts = ("gamma", "beta", "moving_mean", "moving_variance")
            held += [tensors[f"generators/bn{n}/{part}"].reshape(k, 16)[which] for part in parts]
    return held


def random_generators(k, bands):
    network = nets.Generators(k, bands, 0.99, seed=3)
    tensors = {
        name: tensor + rng.uniform(0.01, 0.3, tensor.shape).astype(np.float32)
        for name, tensor in nets.read_tensors(network).items()
    }
    nets.assign_tensors(network, tensors)
    return network, tensors


@pytest.mark.parametrize("training", [False, True])
def test_generators_are_k_independent_keras_networks(training):
    k, bands = 3, 4
    network, tensors = random_generators(k, bands)
    noise = rng.normal(size=(1, 40, 36, 1)).astype(np.float32)
    found = numbers(network(noise, training=training))
    assert found.shape == (k, 24, 20, bands)
    for which in range(k):
        layers = [keras.Input((40, 36, 1))]
        for _ in range(4):
            layers += [keras.layers.Conv2D(16, 3, padding="same"), keras.layers.BatchNormalization()]
            layers.append(keras.layers.LeakyReLU())
        layers += [keras.layers.Conv2D(bands, 3, padding="same", activation="sigmoid"), keras.layers.Cropping2D(8)]
        oracle = keras.Sequential(layers)
        oracle.set_weights(split(tensors, k, which))
        np.testing.assert_allclose(found[which], numbers(oracle(noise, training=training))[0], atol=1e-5)


@pytest.mark.parametrize("k", [2, 128])
def test_changing_one_generator_changes_no_other(k):
    network, tensors = random_generators(k, 1)
    noise = rng.normal(size=(1, 20, 20, 1)).astype(np.float32)
    before = numbers(network(noise, training=True))
    kernel = tensors["generators/conv2/kernel"].copy()
    kernel[1] += 0.2
    nets.assign_tensors(network, tensors | {"generators/conv2/kernel": kernel})
    changed = np.abs(numbers(network(noise, training=True)) - before).max(axis=(1, 2, 3)) > 0
    assert changed.tolist() == [which == 1 for which in range(k)]


def test_generators_start_different_and_as_keras_would():
    tensors = nets.read_tensors(nets.Generators(4, 4, 0.99, seed=0))
    kernel = tensors["generators/conv2/kernel"]
    limit = np.sqrt(6 / (9 * 16 + 9 * 16))
    assert np.abs(kernel).max() <= limit
    assert kernel.std() == pytest.approx(limit / np.sqrt(3), rel=0.03)
    assert len({one.tobytes() for one in kernel}) == 4


def test_tensors_of_another_shape_are_refused():
    network = nets.MaskNetwork(2, 0.99, 0)
    tensors = nets.read_tensors(network)
    with pytest.raises(ValueError, match=r"'mask/conv1/kernel' must have shape \(1, 1, 2, 64\); got None"):
        nets.assign_tensors(network, {})
    with pytest.raises(ValueError, match=r"'mask/bn3/beta' must have shape \(1,\); got \(2,\)"):
        nets.assign_tensors(network, tensors | {"mask/bn3/beta": np.zeros(2)})
