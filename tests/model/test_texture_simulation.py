"""The simulated image is the sum of masks times textures."""

from __future__ import annotations

import numpy as np
import pytest

from ktex_model.model import NO_CLASS
from ktex_model.texture import TextureConfig, TextureModel
from ktex_model.texture.features import Rotation, decompose
from ktex_model.texture.generators import fit_generators


@pytest.fixture(scope="module")
def model() -> TextureModel:
    """A model with two fitted generators; its network is not needed here."""
    rng = np.random.default_rng(0)
    image = rng.standard_normal((96, 96, 2)).astype(np.float32)
    image[:, 48:] = 2 + 0.5 * np.repeat(image[:, 48::4], 4, 1)
    labels = np.zeros((96, 96), np.int64)
    labels[:, 48:] = 1
    windows = [decompose(image, np.ones((96, 96), np.bool_))]
    generators = fit_generators(windows, [labels], 2, radius=5, rounds=1, seed=0)
    rotation = Rotation(
        np.array([0.4, 0.5], "f"), np.array([[0.6, 0.8], [0.8, -0.6]], "f"), np.array([0.05, 0.04], "f")
    )
    return TextureModel(TextureConfig(2, 2), rotation, {}, generators, np.array([0.5, 0.5], "f"))


def test_each_pixel_shows_its_class_texture(model: TextureModel) -> None:
    labels = np.random.default_rng(1).integers(0, 2, (300, 270)).astype(np.uint8)
    labels[10:30, 200:] = NO_CLASS
    simulated, textures = model.simulate(labels, seed=2), model.textures((300, 270), seed=2)
    masks = np.stack([labels == c for c in range(2)])
    np.testing.assert_allclose(simulated, (masks[..., None] * textures).sum(0), atol=2e-4)
    assert (simulated[labels == NO_CLASS] == 0).all()
    assert simulated.dtype == textures.dtype == np.float32
    assert 0 <= simulated.min() <= simulated.max() <= 1


@pytest.mark.parametrize("cut", [(128, 64), (37, 201), (0, 0)])
def test_parts_of_a_scene_fit_together(model: TextureModel, cut: tuple[int, int]) -> None:
    labels = np.random.default_rng(1).integers(0, 2, (300, 270)).astype(np.uint8)
    whole, (y, x) = model.simulate(labels, seed=2), cut
    part = model.simulate(labels[y : y + 90, x:], seed=2, origin=cut)
    np.testing.assert_allclose(part, whole[y : y + 90, x:], atol=2e-4)
    if any(cut):
        assert np.abs(model.simulate(labels[y : y + 90, x:], seed=2) - part).max() > 0.01


def test_classes_differ_as_their_pixels_did(model: TextureModel) -> None:
    one, two = (model.rotation.forward(texture) for texture in model.textures((128, 128), seed=1))
    assert abs(one.mean((0, 1))[0]) < 0.2
    assert abs(two.mean((0, 1))[0] - 2) < 0.2
    # The second class was stretched along x, the first was white.
    steps = [np.diff(made[..., 0], axis=1).var() / made[..., 0].var() for made in (one, two)]
    assert steps[0] > 1.5
    assert steps[1] < 1.0


def test_seeds_draw_other_noise_of_the_same_texture(model: TextureModel) -> None:
    one, again, other = (model.textures((40, 50), seed) for seed in (1, 1, 2))
    np.testing.assert_array_equal(one, again)
    assert not np.array_equal(one, other)
    assert model.textures((1, 1)).shape == (2, 1, 1, 2)


def test_rotation_undoes_itself(model: TextureModel) -> None:
    image = np.random.default_rng(0).random((5, 6, 2)).astype(np.float32)
    np.testing.assert_allclose(model.rotation.backward(model.rotation.forward(image)), image, atol=1e-5)
