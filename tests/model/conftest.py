"""Small extractors and scenes that the model tests share.

The tests hold on every backend: ``KERAS_BACKEND=jax .venv/bin/python -m pytest tests/model``.
"""

from __future__ import annotations

import os

import numpy as np
import pytest

from ktex_model import extractors
from ktex_model.model import Sample

# Before JAX is imported: nets this small take most of their time to compile, and no law hangs on how well.
if os.environ["KERAS_BACKEND"] == "jax":
    os.environ.setdefault("XLA_FLAGS", "--xla_backend_optimization_level=0")


def make_scene(shape=(128, 128), bands=4, seed=0):
    """Stripes of two colours with noise: ``(y, x, band)`` in 0..1."""
    rng = np.random.default_rng(seed)
    stripes = (np.add.outer(np.arange(shape[0]), np.arange(shape[1])) // 32 % 2)[..., None]
    colours = rng.uniform(0.2, 0.8, (2, bands))
    scene = np.where(stripes, colours[0], colours[1]) + rng.normal(0, 0.05, (*shape, bands))
    return np.clip(scene, 0, 1).astype(np.float32)


def make_sample(shape=(128, 128), bands=4, seed=0):
    return Sample(make_scene(shape, bands, seed), np.ones(shape, bool))


@pytest.fixture(scope="session")
def scene():
    return make_scene


@pytest.fixture(scope="session")
def sample():
    return make_sample


def find_gradient(function, point):
    """Gradient of the sum of what `function` gives, by the backend's own means."""
    if os.environ["KERAS_BACKEND"] == "jax":
        import jax

        return np.asarray(jax.grad(lambda held: function(held).sum())(jax.numpy.asarray(point)))
    import tensorflow as tf

    held = tf.convert_to_tensor(point)
    with tf.GradientTape() as tape:
        tape.watch(held)
        total = tf.reduce_sum(function(held))
    return tape.gradient(total, held).numpy()


@pytest.fixture(scope="session")
def gradient():
    return find_gradient


@pytest.fixture(scope="session")
def random_extractor():
    """Make an extractor with random weights, of the size asked for."""

    def make(bands, width, seed=0):
        rng = np.random.default_rng(seed)
        tensors = {
            name: rng.normal(0, (2 / np.prod(shape[:-1])) ** 0.5 if len(shape) > 1 else 0.1, shape).astype(np.float32)
            for name, shape in extractors.layer_shapes(bands, width).items()
        }
        return extractors.Extractor("planet", bands, width, tensors)

    return make


@pytest.fixture(scope="session")
def tiny_extractor(random_extractor, tmp_path_factory):
    """Directory of a tiny extractor of `bands` bands."""

    def make(bands):
        directory = tmp_path_factory.getbasetemp() / f"extractor-{bands}"
        extractors.save(random_extractor(bands, 1 / 32), directory)
        return str(directory)

    return make
