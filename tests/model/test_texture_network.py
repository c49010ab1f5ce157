"""Laws of the mask network: how it starts, what it is taught, and that the rotation folds into its weights."""

from __future__ import annotations

import keras
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from ktex_model.texture.assignment import Cells, fit_trend, remove_trend, take_off
from ktex_model.texture.config import TextureConfig
from ktex_model.texture.distillation import halve
from ktex_model.texture.features import Rotation
from ktex_model.texture.network import Architecture, build, draw_weights, fold, inputs_of, set_fitted
from ktex_model.texture.prediction import Predictor, compile_tile

BANDS, SIDE = 3, 48


def make_network() -> keras.Model:
    return keras.Model(*build(Architecture(4, BANDS), (SIDE, SIDE)))


def weights_of(network: keras.Model) -> list[np.ndarray]:
    # Called directly, because numpy passes `copy`, which variables of Keras 3.15 do not take.
    return [np.asarray(weight.__array__()) for weight in network.weights]


def make_rotation(rng: np.random.Generator) -> Rotation:
    basis, _ = np.linalg.qr(rng.normal(size=(BANDS, BANDS)))
    mean, scale = rng.random(BANDS), rng.uniform(0.05, 0.3, BANDS)
    return Rotation(mean.astype(np.float32), basis.astype(np.float32), scale.astype(np.float32))


def test_every_filter_starts_standardised_over_the_crops_whatever_their_units() -> None:
    rng = np.random.default_rng(0)
    crops = (7 + 30 * rng.normal(size=(3, SIDE, SIDE, BANDS + 1))).astype(np.float32)
    network = make_network()
    draw_weights(network, np.random.default_rng(1), crops)
    filters = [layer for layer in network.layers if isinstance(layer, keras.layers.Conv2D)]
    standardised = [layer for layer in filters if layer.name not in ("classes", "edges")]
    assert len(standardised) == 6
    for layer in standardised:
        out = keras.ops.convert_to_numpy(keras.Model(network.input, layer.output)(crops))
        np.testing.assert_allclose(out.mean((0, 1, 2)), 0, atol=1e-3)
        np.testing.assert_allclose(out.std((0, 1, 2)), 1, atol=1e-3)


def test_equal_seeds_draw_equal_weights_and_others_do_not() -> None:
    crops = np.random.default_rng(0).normal(size=(1, SIDE, SIDE, BANDS + 1)).astype(np.float32)
    drawn = []
    for seed in (1, 1, 2):
        network = make_network()
        draw_weights(network, np.random.default_rng(seed), crops)
        drawn.append(np.concatenate([weight.ravel() for weight in weights_of(network)]))
    np.testing.assert_array_equal(drawn[0], drawn[1])
    assert np.abs(drawn[0] - drawn[2]).max() > 0.1


def test_an_even_crop_gives_finite_weights() -> None:
    network = make_network()
    draw_weights(network, np.random.default_rng(1), np.zeros((2, SIDE, SIDE, BANDS + 1), np.float32))
    assert all(np.isfinite(weight).all() for weight in weights_of(network))


def test_what_is_learnt_in_principal_bands_holds_for_pixels_once_folded() -> None:
    rng = np.random.default_rng(2)
    rotation = make_rotation(rng)
    image = rng.random((1, SIDE, SIDE, BANDS), np.float32)
    valid = rng.random((1, SIDE, SIDE)) < 0.9
    seen = inputs_of(image, valid, rotation.mean)
    gain = (rotation.basis / rotation.scale).astype(np.float32)
    turned = np.concatenate([seen[..., :-1] @ gain, seen[..., -1:]], -1)
    learnt, folded = make_network(), make_network()
    draw_weights(learnt, rng, turned)
    set_fitted(folded, fold(learnt, gain))
    wanted = keras.ops.convert_to_numpy(learnt(turned))
    np.testing.assert_allclose(keras.ops.convert_to_numpy(folded(seen)), wanted, atol=2e-4 * np.abs(wanted).max())


@settings(max_examples=25, deadline=None)
@given(arrays(np.int64, (2, 6, 8), elements=st.integers(-1, 3)))
def test_shares_are_counts_of_four_pixels(classes: np.ndarray) -> None:
    shares, known = halve(classes, 4)
    for n, y, x in np.ndindex(2, 3, 4):
        four = classes[n, 2 * y : 2 * y + 2, 2 * x : 2 * x + 2].ravel()
        held = four[four >= 0]
        assert known[n, y, x] == pytest.approx(len(held) / 4)
        counts = [(held == c).sum() / max(len(held), 1) for c in range(4)]
        np.testing.assert_allclose(shares[n, y, x], counts, atol=1e-6)


def test_a_trend_fitted_on_a_coarse_lattice_is_taken_off_a_fine_one() -> None:
    side = 384
    y, x = (np.mgrid[:side, :side] / side).astype(np.float32)
    classes = (np.indices((side, side)).sum(0) // 32 % 2).ravel()
    values = (0.8 * y - 0.5 * x).ravel() + 2.0 * classes
    fine = Cells(values[:, None].astype(np.float32), (np.ones((side, side), bool),), 1)
    every = np.zeros((side, side), bool)
    every[2::4, 2::4] = True
    coarse = Cells(fine.features[every.ravel()], (np.ones((side // 4, side // 4), bool),), 4)
    trend = fit_trend(coarse, classes[every.ravel()], 2)
    flat = take_off(fine, trend).features[:, 0]
    assert max(flat[classes == c].std() for c in (0, 1)) < 0.05
    assert min(values[classes == c].std() for c in (0, 1)) > 0.2
    both = remove_trend(coarse, classes[every.ravel()], 2).features[:, 0]
    np.testing.assert_array_equal(both, take_off(coarse, trend).features[:, 0])


def test_small_windows_show_no_trend() -> None:
    rise = np.mgrid[:288, :288][0].astype(np.float32).reshape(-1, 1) / 288
    labels = np.zeros(288 * 288, np.int64)
    (slopes,) = fit_trend(Cells(rise, (np.ones((288, 288), bool),), 1), labels, 1).slopes
    assert not slopes.any()
    (wider,) = fit_trend(Cells(rise, (np.ones((288, 288), bool),), 2), labels, 1).slopes
    assert wider[0, 0] > 0.4, "the same cells, twice as far apart"


def test_weights_that_do_not_fit_spoil_no_other_model() -> None:
    rng = np.random.default_rng(0)
    tile = compile_tile(Architecture(2, 1), (32, 32))
    network = keras.Model(*build(Architecture(2, 1), (32, 32)))
    drawn = {
        f"{layer.name}/{name}": rng.standard_normal(weight.shape).astype(np.float32)
        for layer in network.layers
        for name, weight in zip(("kernel", "bias"), layer.weights, strict=False)
    }
    fits, wrong = (
        Predictor(TextureConfig(2, 1), weights, np.zeros(1, np.float32), np.ones(2, bool))
        for weights in (drawn, {name: -values for name, values in drawn.items() if name != "edges/kernel"})
    )
    image, valid = rng.random((32, 32, 1)).astype(np.float32), np.ones((32, 32), bool)
    before, after = np.zeros((2, 2, 32, 32), np.uint8)
    tile(fits, image, valid, (0, 0), (before[0], before[1]))
    with pytest.raises(KeyError, match="edges/kernel"):
        tile(wrong, image, valid, (0, 0), (after[0], after[1]))
    tile(fits, image, valid, (0, 0), (after[0], after[1]))
    np.testing.assert_array_equal(before, after)
