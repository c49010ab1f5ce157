"""A trained model of the preset `paper`: pixels to classes, classes to textures."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import cached_property
from typing import Any

import keras
import numpy as np
from keras import ops
from numpy.typing import NDArray

from ktex_model.model import MARGIN_SCALE, NO_CLASS, Prediction, Windows
from ktex_model.noise import noise_window
from ktex_model.paper.config import PaperConfig
from ktex_model.paper.networks import (
    CROP_PX,
    Discretisation,
    Generators,
    MaskNetwork,
    assign_tensors,
    read_tensors,
)

TILE_PX = 256
TEXTURE_PX = 128


class PaperModel:
    """The networks of one training, and the fill value of its invalid pixels.

    Labels are the bins of the mask network's scalar from the lowest to the highest. The margin of a pixel is the
    distance of its scalar to the nearest border of its bin, as a share of half a bin: the masks themselves are
    binary and would say 200 nearly everywhere.
    """

    context_px = 0
    """The mask network is a function of single pixels."""

    preset = "paper"

    def __init__(
        self, config: PaperConfig, mask: MaskNetwork, discretisation: Discretisation, generators: Generators, fill: Any
    ) -> None:
        self.config = config
        self._mask = mask
        self._discretisation = discretisation
        self._generators = generators
        self._fill = np.asarray(fill, np.float32)

    @classmethod
    def from_tensors(cls, config: PaperConfig, tensors: Mapping[str, NDArray[Any]]) -> PaperModel:
        """Build the networks of `config` and give them the weights that `tensors` returned.

        Raises
        ------
        ValueError
            If a tensor is missing, unknown, or has another shape.
        """
        mask = MaskNetwork(config.bands, config.momentum, 0)
        discretisation = Discretisation(config.k)
        generators = Generators(config.k, config.bands, config.momentum, 0)
        for network in (mask, discretisation.step, generators):
            assign_tensors(network, tensors)
        if "fill" not in tensors or tensors["fill"].shape != (config.bands,):
            raise ValueError(f"tensor 'fill' must have shape {(config.bands,)}; it is missing or another")
        model = cls(config, mask, discretisation, generators, tensors["fill"])
        if unknown := set(tensors) - set(model.tensors()):
            raise ValueError(f"`tensors` must be those of a paper model; got also {sorted(unknown)[:3]}")
        return model

    def tensors(self) -> dict[str, NDArray[np.float32]]:
        """Return all weights by name, the frozen step network and the fill value included."""
        held = [read_tensors(network) for network in (self._mask, self._discretisation.step, self._generators)]
        return {**held[0], **held[1], **held[2], "fill": self._fill.copy()}

    @property
    def k(self) -> int:
        """Number of classes."""
        return self.config.k

    @property
    def bands(self) -> int:
        """Number of bands that an image must have."""
        return self.config.bands

    @cached_property
    def _predictor(self) -> Any:
        pixels = keras.Input((TILE_PX, TILE_PX, self.bands), batch_size=1)
        scalar = self._mask.scalar(pixels, None, False)
        best = ops.argmax(self._discretisation(scalar), axis=-1)
        return _compiled(keras.Model(pixels, {"best": best, "scalar": scalar}))

    @cached_property
    def _generator(self) -> Any:
        side = TEXTURE_PX + 2 * CROP_PX
        noise = keras.Input((side, side, 1), batch_size=1)
        return _compiled(keras.Model(noise, self._generators(noise, training=False)))

    def predict(
        self,
        image: NDArray[np.float32],
        valid: NDArray[np.bool_],
        inner: tuple[slice, slice] | None = None,
        windows: Windows | None = None,
    ) -> Prediction:
        """Label the window `inner` of an image ``(y, x, band)``; see `ktex_model.model.Model`.

        Its tiles have one shape, whatever the windows.

        Raises
        ------
        ValueError
            If the image has another number of bands or another shape than its validity.
        """
        if image.ndim != 3 or image.shape[2] != self.bands or valid.shape != image.shape[:2]:
            raise ValueError(
                f"`image` must be (y, x, {self.bands}) with (y, x) validity; got {image.shape} and {valid.shape}"
            )
        window = inner if inner is not None else (slice(None), slice(None))
        image, valid = image[window], valid[window]
        labels = np.full(valid.shape, NO_CLASS, np.uint8)
        margin = np.full(valid.shape, NO_CLASS, np.uint8)
        for tile in _tiles(valid.shape, TILE_PX):
            seen = valid[tile]
            if not seen.any():
                continue
            pixels = np.broadcast_to(self._fill, (1, TILE_PX, TILE_PX, self.bands)).copy()
            corner = (slice(0, seen.shape[0]), slice(0, seen.shape[1]))
            pixels[0][corner] = np.where(seen[..., None], image[tile], self._fill)
            found = self._predictor.predict_on_batch(pixels)
            best = np.asarray(found["best"])[0][corner].astype(np.uint8)
            scalar = np.asarray(found["scalar"])[0, ..., 0][corner]
            labels[tile] = np.where(seen, best, NO_CLASS)
            margin[tile] = np.where(seen, _margin(scalar, best, self.k), NO_CLASS)
        return Prediction(labels, margin)

    def textures(self, shape: tuple[int, int], seed: int = 0) -> NDArray[np.float32]:
        """Generate each class's texture from noise: ``(k, y, x, band)`` float32 in 0..1."""
        textures = np.empty((self.k, *shape, self.bands), np.float32)
        for tile, generated in self._generated(shape, seed):
            textures[(slice(None), *tile)] = generated
        return textures

    def simulate(
        self, labels: NDArray[np.uint8], seed: int = 0, origin: tuple[int, int] = (0, 0)
    ) -> NDArray[np.float32]:
        """Return the simulated image ``(y, x, band)``: the sum of masks times textures; 0 where no class is.

        The first pixel is at the place `origin` of a scene, to which the noise belongs.

        Raises
        ------
        ValueError
            If a label is neither a class nor 255.
        """
        self._check_labels(labels)
        simulated = np.zeros((*labels.shape, self.bands), np.float32)
        for tile, generated in self._generated((labels.shape[0], labels.shape[1]), seed, origin):
            part = labels[tile]
            index = np.where(part == NO_CLASS, 0, part).astype(np.intp)[None, ..., None]
            chosen = np.take_along_axis(generated, index, axis=0)[0]
            simulated[tile] = np.where((part == NO_CLASS)[..., None], np.float32(0), chosen)
        return simulated

    def publish_labels(self, labels: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """Return the cluster raster as published: class times ``floor(255 / k)``; 255 where no class is."""
        self._check_labels(labels)
        levels = np.full(256, NO_CLASS, np.uint8)
        levels[: self.k] = np.arange(self.k) * (255 // self.k)
        published: NDArray[np.uint8] = levels[labels]
        return published

    def publish_image(self, simulated: NDArray[np.float32]) -> NDArray[np.uint8]:
        """Return the simulated image as published: times 255, rounded to 8 bit."""
        published: NDArray[np.uint8] = np.rint(simulated * 255.0).astype(np.uint8)
        return published

    def _check_labels(self, labels: NDArray[np.uint8]) -> None:
        if labels.ndim != 2 or not ((labels < self.k) | (labels == NO_CLASS)).all():
            raise ValueError(f"`labels` must be (y, x) of 0..{self.k - 1} or {NO_CLASS}; got others")

    def _generated(
        self, shape: tuple[int, int], seed: int, origin: tuple[int, int] = (0, 0)
    ) -> Iterator[tuple[tuple[slice, slice], NDArray[np.float32]]]:
        """Yield the windows of `shape` with their textures; all classes are made of the same noise."""
        side = TEXTURE_PX + 2 * CROP_PX
        for rows, columns in _tiles(shape, TEXTURE_PX):
            corner = origin[0] + rows.start - CROP_PX, origin[1] + columns.start - CROP_PX
            noise = noise_window(seed, 0, *corner, (side, side), 1)
            generated = np.asarray(self._generator.predict_on_batch(noise[None]))
            height, width = rows.stop - rows.start, columns.stop - columns.start
            yield (rows, columns), generated[:, :height, :width]


def _compiled(network: keras.Model) -> Any:
    network.compile(jit_compile=keras.backend.backend() == "jax")
    return network


def _tiles(shape: tuple[int, ...], side: int) -> Iterator[tuple[slice, slice]]:
    """Yield windows of at most `side` px that partition `shape`, from its corner."""
    for y in range(0, shape[0], side):
        for x in range(0, shape[1], side):
            yield slice(y, min(y + side, shape[0])), slice(x, min(x + side, shape[1]))


def _margin(scalar: NDArray[np.float32], best: NDArray[np.uint8], k: int) -> NDArray[np.uint8]:
    """Distance of a scalar to the nearest border between bins, as a share of half a bin, 0..200.

    Examples
    --------
    >>> _margin(np.array([0.1, 0.25, 0.5], np.float32), np.array([0, 0, 1], np.uint8), 2).tolist()
    [200, 200, 0]
    """
    below = np.where(best > 0, scalar - best / k, np.inf)
    above = np.where(best < k - 1, (best + 1.0) / k - scalar, np.inf)
    share = np.clip(2 * k * np.minimum(below, above), 0.0, 1.0)
    margin: NDArray[np.uint8] = np.rint(share * MARGIN_SCALE).astype(np.uint8)
    return margin
