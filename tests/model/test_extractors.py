"""Extractors: VGG-16's layers and weights to the number, and what is refused."""

from __future__ import annotations

import json
from types import SimpleNamespace

import keras
import numpy as np
import pytest

from ktex_model import extractors, weights
from ktex_model.autoencoder import Autoencoder
from ktex_model.model import Sample


@pytest.fixture(scope="module")
def vgg():
    """Keras' own VGG-16, with random weights."""
    keras.utils.set_random_seed(3)
    return keras.applications.VGG16(include_top=False, weights=None)


def test_imagenet_extractor_is_keras_vgg16(vgg, tmp_path):
    extractors.save(extractors.Extractor("imagenet", 3, 1.0, extractors.vgg_tensors(vgg)), tmp_path / "vgg")
    ours = extractors.imagenet(tmp_path / "vgg").build()
    image = np.random.default_rng(0).random((1, 64, 48, 3), dtype=np.float32)
    theirs = keras.Model(vgg.inputs, vgg.get_layer("block5_conv3").output)
    expected = np.asarray(theirs.predict_on_batch(image))
    found = np.asarray(ours.predict_on_batch(image))
    assert found.shape == (1, 4, 3, 512)
    assert expected.std() > 0
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)
    assert not ours.trainable_weights


def test_imagenet_weights_come_from_keras_download(vgg, monkeypatch):
    asked = []
    monkeypatch.setattr(keras.applications, "VGG16", lambda **options: asked.append(options) or vgg)
    extractor = extractors.imagenet()
    assert asked == [{"include_top": False, "weights": "imagenet"}]
    kernel = vgg.get_layer("block3_conv2").kernel
    np.testing.assert_array_equal(extractor.tensors["block3_conv2/kernel"], np.asarray(kernel))


def test_without_network_the_error_says_what_to_do(monkeypatch):
    def fail(**_):
        raise Exception("URL fetch failure on https://example.org: None -- [Errno -2]\nmore")

    monkeypatch.setattr(keras.applications, "VGG16", fail)
    with pytest.raises(ValueError, match="cannot be downloaded") as caught:
        extractors.imagenet()
    message = str(caught.value)
    assert "\n" not in message
    for part in ("models", extractors.IMAGENET_FILE, "https://", 'imagenet_weights="none"'):
        assert part in message


def test_the_file_that_the_error_names_is_the_one_that_keras_reads():
    from keras.src.applications import vgg16

    assert vgg16.WEIGHTS_PATH_NO_TOP == extractors.IMAGENET_URL


def test_an_extractor_of_another_size_is_no_imagenet(tiny_extractor):
    with pytest.raises(ValueError, match=r"must be an extractor of 3 bands and width 1\.0; got 4 bands"):
        extractors.imagenet(tiny_extractor(4))


def test_h5_files_are_never_read(tmp_path):
    (tmp_path / "vgg16.h5").write_bytes(b"\x89HDF\r\n\x1a\n")
    with pytest.raises(ValueError, match=r"must be a model directory with model\.json"):
        extractors.imagenet(tmp_path / "vgg16.h5")


def test_a_model_is_no_extractor(tmp_path):
    weights.write(tmp_path / "m", {"preset": "paper"}, {"x": np.zeros(1)})
    with pytest.raises(ValueError, match="must hold an extractor"):
        extractors.load(tmp_path / "m")


def test_tensors_of_another_shape_are_refused(random_extractor):
    held = random_extractor(2, 1 / 32)
    with pytest.raises(ValueError, match=r"must have VGG-16's layers; got .*block1_conv1/kernel"):
        extractors.Extractor("planet", 3, 1 / 32, held.tensors)
    with pytest.raises(ValueError, match="block5_conv3/bias"):
        extractors.Extractor("planet", 2, 1 / 32, {n: t for n, t in held.tensors.items() if n != "block5_conv3/bias"})
    with pytest.raises(ValueError, match="'block1_conv1' is missing"):
        extractors.vgg_tensors(SimpleNamespace(layers=[]))


@pytest.mark.parametrize("bands", [1, 3, 8])
def test_extractors_survive_the_disk(tmp_path, random_extractor, bands):
    extractor = random_extractor(bands, 1 / 32)
    digest = extractors.save(extractor, tmp_path / "e")
    again = extractors.load(tmp_path / "e", digest)
    assert (again.name, again.bands, again.width) == ("planet", bands, 1 / 32)
    image = np.random.default_rng(0).random((2, 32, 32, bands), dtype=np.float32)
    features = [np.asarray(one.build().predict_on_batch(image)) for one in (extractor, again)]
    assert features[0].shape == (2, 2, 2, 16)
    np.testing.assert_array_equal(*features)


def test_features_do_not_depend_on_the_batch(random_extractor):
    network = random_extractor(2, 1 / 32).build()
    images = np.random.default_rng(1).random((5, 32, 32, 2), dtype=np.float32)
    whole = extractors.compute_features(network, images, batch=5)
    np.testing.assert_allclose(extractors.compute_features(network, images, batch=2), whole, atol=1e-6)
    np.testing.assert_allclose(extractors.compute_features(network, images[3:4]), whole[3:4], atol=1e-6)


def test_training_an_autoencoder_lowers_its_loss_and_repeats(sample, monkeypatch):
    """On fewer and smaller crops than in use; what crops hold is tested below."""
    monkeypatch.setattr(extractors, "BATCH", 2)
    monkeypatch.setattr(extractors, "CROP_PX", 64)
    samples = [sample((140, 90), 2), sample((48, 150), 2, seed=1)]
    seen = []
    trained = [
        extractors.train_autoencoder(samples, 2, seed=4, steps=60, width=1 / 32, progress=progress)
        for progress in (lambda *now: seen.append(now), None)
    ]
    (first, losses), (second, again) = trained
    assert np.mean(losses[-10:]) < 0.7 * np.mean(losses[:5])
    assert seen == [(step + 1, 60, loss) for step, loss in enumerate(losses)]
    assert losses == again
    for name, tensor in first.tensors.items():
        np.testing.assert_array_equal(tensor, second.tensors[name])
    start = extractors.vgg_tensors(extractors.build_encoder(2, 1 / 32, 4))
    assert all((start[name] != tensor).any() for name, tensor in first.tensors.items() if name.endswith("kernel"))


def test_autoencoder_loss_is_that_of_numpy():
    model = Autoencoder(extractors.build_encoder(2, 1 / 32), 0.5, 0)
    rng = np.random.default_rng(0)
    image, found = rng.random((2, 3, 32, 32, 2), dtype=np.float32)
    mean, log_variance = rng.normal(size=(2, 3, 2, 2, 4)).astype(np.float32)
    valid = rng.random((3, 32, 32)) < 0.7
    held = {"image": found, "mean": mean, "log_variance": log_variance}
    loss = float(model.compute_loss({"image": image, "valid": valid}, y_pred=held))
    divergence = 0.5 * (mean**2 + np.exp(log_variance) - log_variance - 1).mean()
    assert loss == pytest.approx(((image - found)[valid] ** 2).mean() + 0.5 * divergence, rel=1e-4)


def test_autoencoder_decodes_to_the_size_of_the_image():
    model = Autoencoder(extractors.build_encoder(3, 1 / 32), 0.5, 0)
    image = np.random.default_rng(0).random((1, 32, 48, 3), dtype=np.float32)
    first, second = (model({"image": image}, training=False) for _ in range(2))
    assert tuple(first["image"].shape) == image.shape
    np.testing.assert_array_equal(np.asarray(first["image"]), np.asarray(second["image"]))
    drawn = model({"image": image}, training=True)
    assert (np.asarray(drawn["image"]) != np.asarray(first["image"])).any()


def test_crops_hide_invalid_pixels(sample):
    whole = sample((100, 200), 3)
    valid = whole.valid.copy()
    valid[:50] = False
    spoilt = np.where(valid[..., None], whole.image, np.float32(np.nan))
    images, valids = next(extractors.draw_crops([Sample(spoilt, valid)], seed=0))
    assert images.shape == (extractors.BATCH, 128, 128, 3)
    fill = whole.image[valid].mean(axis=0)
    np.testing.assert_allclose(images[~valids], np.broadcast_to(fill, images[~valids].shape), atol=1e-5)
    # Sides under 128 px: every crop holds all 50 valid rows, in some direction.
    assert {tuple(sorted((v.any(axis=0).sum(), v.any(axis=1).sum()))) for v in valids} == {(50, 128)}
    colours = {tuple(pixel) for pixel in whole.image[valid].tolist()}
    assert all(tuple(pixel) in colours for pixel in images[valids][::97].tolist())


@pytest.mark.parametrize(
    ("image", "valid", "match"),
    [
        (np.zeros((8, 8, 3)), np.ones((8, 8), bool), r"must be \(y, x, 2\)"),
        (np.zeros((8, 8, 2)), np.ones((8, 7), bool), r"must be \(y, x, 2\)"),
        (np.zeros((8, 8)), np.ones((8, 8), bool), r"must be \(y, x, 2\)"),
        (np.full((8, 8, 2), 1.01), np.ones((8, 8), bool), "must be scaled to 0..1"),
        (np.full((8, 8, 2), np.nan), np.ones((8, 8), bool), "must be scaled to 0..1"),
        (np.zeros((8, 8, 2)), np.zeros((8, 8), bool), "must hold valid pixels"),
    ],
)
def test_samples_are_checked(image, valid, match):
    with pytest.raises(ValueError, match=match):
        extractors.train_autoencoder([Sample(image, valid)], 2)


def test_other_arguments_are_checked(sample):
    with pytest.raises(ValueError, match="must hold valid pixels"):
        extractors.train_autoencoder([], 2)
    with pytest.raises(ValueError, match="`steps` must be 1 or more; got 0"):
        extractors.train_autoencoder([sample((8, 8), 2)], 2, steps=0)


def test_the_record_of_an_extractor_is_json(tmp_path, random_extractor):
    extractors.save(random_extractor(4, 1 / 32), tmp_path / "e")
    record = json.loads((tmp_path / "e" / weights.RECORD).read_text())
    assert record["config"] == {"extractor": "planet", "bands": 4, "width": 1 / 32}


def test_the_shipped_extractor_is_small_and_sees_four_bands():
    held = extractors.load(extractors.SHIPPED)
    assert (held.name, held.bands) == ("planet", 4)
    assert sum(tensor.nbytes for tensor in held.tensors.values()) <= 8 * 2**20
    image = np.random.default_rng(0).random((1, 64, 64, 4), dtype=np.float32)
    features = np.asarray(held.build().predict_on_batch(image))
    assert np.isfinite(features).all()
    assert features.std() > 0
