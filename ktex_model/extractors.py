"""Frozen feature extractors: VGG-16 with ImageNet weights, and a VGG-shaped encoder for any bands.

Weights come from Keras' own download, which Keras verifies, or from a directory that `save` wrote. Files of other
kinds (``.h5``, ``.keras``, pickles) are never read.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from ktex_model import weights
from ktex_model.model import Progress, Samples

if TYPE_CHECKING:
    import keras

BLOCKS = ((2, 64), (2, 128), (3, 256), (3, 512), (3, 512))
"""Convolutions and filters of VGG-16's five blocks; a 2x2 maximum stands between two blocks."""

IMAGENET_FILE = "vgg16_weights_tf_dim_ordering_tf_kernels_notop.h5"
IMAGENET_URL = f"https://storage.googleapis.com/tensorflow/keras-applications/vgg16/{IMAGENET_FILE}"

SHIPPED = "shipped"
"""Instead of a directory: the extractor for R,G,B,N that comes with the package."""

CROP_PX = 128
BATCH = 8
KL_WEIGHT = 1e-3


@dataclass(frozen=True)
class Extractor:
    """The weights of a VGG-shaped network up to ``block5_conv3``.

    Attributes
    ----------
    name
        ``imagenet`` or ``planet``.
    bands
        Number of bands of an image.
    width
        Filters of each layer, as a share of VGG-16's.
    tensors
        ``block1_conv1/kernel`` and so on.
    """

    name: str
    bands: int
    width: float
    tensors: Mapping[str, NDArray[np.float32]]

    def __post_init__(self) -> None:
        expected = layer_shapes(self.bands, self.width)
        found = {name: array.shape for name, array in self.tensors.items()}
        if found != expected:
            wrong = sorted(name for name in expected | found if expected.get(name) != found.get(name))
            raise ValueError(
                f"an extractor for {self.bands} bands of width {self.width} must have VGG-16's layers; got"
                f" {[(name, found.get(name)) for name in wrong[:3]]}"
            )

    def build(self) -> keras.Model:
        """Build the frozen network: ``(n, y, x, band)`` to ``(n, y / 16, x / 16, filter)``."""
        network = build_encoder(self.bands, self.width)
        for layer in network.layers:
            if layer.weights:
                layer.set_weights([self.tensors[f"{layer.name}/{part}"] for part in ("kernel", "bias")])
        network.trainable = False
        return network


def layer_shapes(bands: int, width: float = 1.0) -> dict[str, tuple[int, ...]]:
    """Return the shapes of all tensors of a VGG-shaped network.

    Examples
    --------
    >>> shapes = layer_shapes(3)
    >>> len(shapes), shapes["block5_conv3/kernel"]
    (26, (3, 3, 512, 512))
    """
    shapes: dict[str, tuple[int, ...]] = {}
    before = bands
    for block, (convolutions, filters) in enumerate(BLOCKS, start=1):
        after = max(1, round(filters * width))
        for convolution in range(1, convolutions + 1):
            shapes[f"block{block}_conv{convolution}/kernel"] = (3, 3, before, after)
            shapes[f"block{block}_conv{convolution}/bias"] = (after,)
            before = after
    return shapes


def build_encoder(bands: int, width: float = 1.0, seed: int = 0) -> keras.Model:
    """Build a VGG-shaped network with random weights, up to the activation of ``block5_conv3``."""
    import keras

    pixels = keras.Input((None, None, bands))
    layer = pixels
    shapes = layer_shapes(bands, width)
    for block, (convolutions, _) in enumerate(BLOCKS, start=1):
        if block > 1:
            layer = keras.layers.MaxPooling2D(2, name=f"block{block - 1}_pool")(layer)
        for convolution in range(1, convolutions + 1):
            name = f"block{block}_conv{convolution}"
            layer = keras.layers.Conv2D(
                shapes[f"{name}/bias"][0],
                3,
                padding="same",
                activation="relu",
                kernel_initializer=keras.initializers.HeNormal(seed=_seed(seed, block, convolution)),
                name=name,
            )(layer)
    return keras.Model(pixels, layer)


def vgg_tensors(model: keras.Model) -> dict[str, NDArray[np.float32]]:
    """Take the tensors of VGG-16's convolutions out of a Keras model that has layers of those names.

    Raises
    ------
    ValueError
        If a layer is missing.
    """
    held = {layer.name: layer for layer in model.layers}
    tensors = {}
    for name in layer_shapes(3):
        layer, part = name.split("/")
        if layer not in held:
            raise ValueError(f"`model` must have the layers of VGG-16; {layer!r} is missing")
        weight = held[layer].kernel if part == "kernel" else held[layer].bias
        tensors[name] = np.asarray(weight).astype(np.float32)
    return tensors


def imagenet(source: str | os.PathLike[str] = "keras") -> Extractor:
    """Return VGG-16 with ImageNet weights; its input is R,G,B in 0..1.

    Parameters
    ----------
    source
        ``keras``: the weights that Keras downloads once, verifies by hash and caches; else a directory that `save`
        wrote on a machine with a network.

    Raises
    ------
    ValueError
        If there is neither a cached file nor a network, or the directory holds something else.
    """
    if os.fspath(source) != "keras":
        extractor = load(source)
        if (extractor.bands, extractor.width) != (3, 1.0):
            raise ValueError(
                f"{os.fspath(source)} must be an extractor of 3 bands and width 1.0; got {extractor.bands} bands and"
                f" width {extractor.width}"
            )
        return extractor
    import keras

    try:
        network = keras.applications.VGG16(include_top=False, weights="imagenet")
    except Exception as error:
        home = os.environ.get("KERAS_HOME") or os.path.join(os.path.expanduser("~"), ".keras")
        folder = os.path.join(home, "models")
        raise ValueError(
            f"VGG-16 weights are not in {folder} and cannot be downloaded ({_first_line(error)}): put {IMAGENET_URL}"
            f' there as {IMAGENET_FILE}, or set imagenet_weights="none" to do without that part of the loss'
        ) from error
    return Extractor("imagenet", 3, 1.0, vgg_tensors(network))


def save(extractor: Extractor, directory: str | os.PathLike[str]) -> str:
    """Write an extractor to a directory of its own and return its digest."""
    config = {"extractor": extractor.name, "bands": extractor.bands, "width": extractor.width}
    return weights.write(directory, config, extractor.tensors)


def load(directory: str | os.PathLike[str], digest: str | None = None) -> Extractor:
    """Read an extractor that `save` wrote, or the one of the package where `directory` is ``shipped``.

    Raises
    ------
    ValueError
        If the directory holds something else, or not what `digest` names.
    """
    if directory == SHIPPED:
        directory = os.path.join(os.path.dirname(__file__), "weights_rgbn")
    config, tensors = weights.read(directory, digest)
    if set(config) != {"extractor", "bands", "width"}:
        raise ValueError(f"{os.fspath(directory)} must hold an extractor; got a record with {sorted(config)}")
    return Extractor(config["extractor"], config["bands"], config["width"], tensors)


def train_autoencoder(
    samples: Samples,
    bands: int,
    seed: int = 0,
    steps: int = 500,
    *,
    width: float = 0.25,
    progress: Progress | None = None,
) -> tuple[Extractor, list[float]]:
    """Train a variational auto-encoder on samples and keep its encoder.

    The encoder is VGG-16's, with as many filters as `width` says; the decoder mirrors its strides. Crops of 128 px
    are drawn at random, turned and mirrored; invalid pixels are the mean of the valid ones and bear no loss.

    Returns
    -------
    extractor, losses
        The loss of each step is the mean squared error over the valid pixels plus `KL_WEIGHT` times the divergence
        of the latent code.

    Raises
    ------
    ValueError
        If the samples do not fit `bands`, or no pixel is valid.
    """
    from ktex_model import autoencoder

    check_samples(samples, bands)
    if steps < 1:
        raise ValueError(f"`steps` must be 1 or more; got {steps}")
    encoder = build_encoder(bands, width, seed)
    losses = autoencoder.fit(
        encoder, draw_crops(samples, seed), steps, kl_weight=KL_WEIGHT, seed=seed, progress=progress
    )
    return Extractor("planet", bands, float(width), vgg_tensors(encoder)), losses


def draw_crops(samples: Samples, seed: int) -> Iterator[tuple[NDArray[np.float32], NDArray[np.bool_]]]:
    """Yield batches of random crops for ever: images ``(8, 128, 128, band)`` and their validity.

    A sample is drawn as often as it has valid pixels; one under 128 px is filled up with invalid pixels.
    """
    rng = np.random.default_rng(_seed(seed, 0, 0))
    fill = valid_mean(samples)
    counts = np.array([sample.valid.sum() for sample in samples], float)
    while True:
        images = np.broadcast_to(fill, (BATCH, CROP_PX, CROP_PX, len(fill))).copy()
        valids = np.zeros((BATCH, CROP_PX, CROP_PX), bool)
        for image, valid in zip(images, valids, strict=True):
            sample = samples[rng.choice(len(samples), p=counts / counts.sum())]
            y, x = (int(rng.integers(max(1, length - CROP_PX + 1))) for length in sample.valid.shape)
            window = slice(y, y + CROP_PX), slice(x, x + CROP_PX)
            turns, mirrored = int(rng.integers(4)), bool(rng.integers(2))
            seen = _turned(sample.valid[window], turns, mirrored)
            height, breadth = seen.shape
            valid[:height, :breadth] = seen
            pixels = _turned(sample.image[window], turns, mirrored)
            image[:height, :breadth] = np.where(seen[..., None], pixels, fill)
        yield images, valids


def compute_features(network: keras.Model, images: NDArray[np.float32], batch: int = 8) -> NDArray[np.float32]:
    """Run a frozen network over ``(n, y, x, band)`` images, `batch` at a time, in calls of one shape."""
    features = []
    for start in range(0, len(images), batch):
        part = images[start : start + batch]
        short = min(batch, len(images)) - len(part)
        padded = np.concatenate([part, np.zeros((short, *images.shape[1:]), np.float32)])
        features.append(np.asarray(network.predict_on_batch(padded))[: len(part)])
    return np.concatenate(features)


def check_samples(samples: Samples, bands: int) -> None:
    """Raise ValueError unless all samples are ``(y, x, bands)`` in 0..1 where valid, and some pixel is valid."""
    for number, sample in enumerate(samples):
        if sample.image.ndim != 3 or sample.image.shape[2] != bands or sample.image.shape[:2] != sample.valid.shape:
            raise ValueError(
                f"sample {number} must be (y, x, {bands}) with (y, x) validity; got {sample.image.shape} and"
                f" {sample.valid.shape}"
            )
        pixels = sample.image[sample.valid]
        if not ((pixels >= 0) & (pixels <= 1)).all():
            raise ValueError(f"sample {number} must be scaled to 0..1 where it is valid; got other values")
    if not any(sample.valid.any() for sample in samples):
        raise ValueError("`samples` must hold valid pixels; got none")


def valid_mean(samples: Samples) -> NDArray[np.float32]:
    """Return the mean of all valid pixels, ``(band,)`` float32.

    Examples
    --------
    >>> from ktex_model.model import Sample
    >>> image = np.array([[[0.25], [0.75], [np.nan]]], np.float32)
    >>> valid_mean([Sample(image, np.array([[True, True, False]]))])
    array([0.5], dtype=float32)
    """
    total = sum(sample.image[sample.valid].sum(axis=0, dtype=np.float64) for sample in samples)
    count = sum(int(sample.valid.sum()) for sample in samples)
    mean: NDArray[np.float32] = (np.asarray(total) / count).astype(np.float32)
    return mean


def _turned(array: NDArray[Any], turns: int, mirrored: bool) -> NDArray[Any]:
    turned = np.rot90(array, turns)
    return turned[:, ::-1] if mirrored else turned


def _seed(*words: int) -> int:
    return int(np.random.SeedSequence(words).generate_state(1)[0])


def _first_line(error: BaseException) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0][:200]
