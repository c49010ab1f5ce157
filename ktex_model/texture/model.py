"""A trained texture model: masks by a network, textures by generators."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ktex_model.model import Prediction, Windows
from ktex_model.noise import noise_window
from ktex_model.texture.config import TextureConfig
from ktex_model.texture.features import Rotation
from ktex_model.texture.filters import Floats
from ktex_model.texture.generators import Generators
from ktex_model.texture.network import Fitted
from ktex_model.texture.prediction import Predictor

SIMULATED_TILE_PX = 256
"""Side of the tiles in which an image is simulated."""

_GENERATORS = ("mean", "kernel", "maps")
_ROTATION = ("mean", "basis", "scale")


class TextureModel:
    """k hard masks and k generated textures; see `ktex_model.model.Model` for what it can do.

    Parameters
    ----------
    config
        Settings it was trained with.
    rotation
        Principal bands of its samples.
    fitted
        Weights of the mask network.
    generators
        Texture generators, in principal bands.
    share
        ``(k,)`` float32 share of each class in the samples; 0 for a class that the scene did not need.
    """

    def __init__(
        self, config: TextureConfig, rotation: Rotation, fitted: Fitted, generators: Generators, share: Floats
    ) -> None:
        self.config = config
        self.rotation = rotation
        self.generators = generators
        self.share = share
        self._fitted = fitted
        self._predictor: Predictor | None = None

    @property
    def preset(self) -> str:
        """``texture``."""
        return self.config.preset

    @property
    def k(self) -> int:
        """Number of classes."""
        return self.config.k

    @property
    def bands(self) -> int:
        """Number of bands that an image must have."""
        return self.config.bands

    @property
    def context_px(self) -> int:
        """How far beyond a pixel the image can change its label."""
        return self.config.context_px

    def tensors(self) -> dict[str, NDArray[Any]]:
        """Return all that was learnt, by name."""
        return {
            **{f"network/{name}": value for name, value in self._fitted.items()},
            **{f"rotation/{name}": getattr(self.rotation, name) for name in _ROTATION},
            **{f"generators/{name}": getattr(self.generators, name) for name in _GENERATORS},
            "share": self.share,
        }

    @classmethod
    def from_tensors(cls, config: TextureConfig, tensors: Mapping[str, NDArray[Any]]) -> TextureModel:
        """Build the model that `tensors` were taken from.

        Raises
        ------
        ValueError
            If a tensor is missing.
        """
        try:
            rotation = Rotation(*(tensors[f"rotation/{name}"] for name in _ROTATION))
            generators = Generators(*(tensors[f"generators/{name}"] for name in _GENERATORS))
            share = tensors["share"]
        except KeyError as error:
            raise ValueError(f"`tensors` must hold {error.args[0]}; got {sorted(tensors)}") from error
        fitted = {name.removeprefix("network/"): v for name, v in tensors.items() if name.startswith("network/")}
        return cls(config, rotation, fitted, generators, share)

    def predict(
        self,
        image: NDArray[np.float32],
        valid: NDArray[np.bool_],
        inner: tuple[slice, slice] | None = None,
        windows: Windows | None = None,
    ) -> Prediction:
        """Label the window `inner` of an image ``(y, x, band)``; see `ktex_model.model.Model`.

        Raises
        ------
        ValueError
            If image and validity do not fit the model or each other, or `inner` leaves the image.
        """
        self._check(image, valid)
        rows, columns = _bounds(inner, valid.shape)
        if self._predictor is None:
            self._predictor = Predictor(self.config, self._fitted, self.rotation.mean, self.share > 0)
        return self._predictor.label(image, valid, rows, columns, windows)

    def _check(self, image: NDArray[np.float32], valid: NDArray[np.bool_]) -> None:
        if image.ndim != 3 or image.shape[2] != self.bands:
            raise ValueError(f"`image` must have shape (y, x, {self.bands}); got {image.shape}")
        if valid.shape != image.shape[:2]:
            raise ValueError(f"`valid` must have the shape {image.shape[:2]} of the image; got {valid.shape}")

    def textures(self, shape: tuple[int, int], seed: int = 0) -> NDArray[np.float32]:
        """Generate each class's texture from noise: ``(k, y, x, band)`` float32 in 0..1."""
        return np.stack([self.texture(c, shape, seed) for c in range(self.k)])

    def texture(self, c: int, shape: tuple[int, int], seed: int = 0) -> NDArray[np.float32]:
        """Generate the texture ``(y, x, band)`` of class c."""
        return self._texture(c, 0, 0, shape, seed)

    def _texture(self, c: int, y0: int, x0: int, shape: tuple[int, int], seed: int) -> Floats:
        margin = self.generators.margin_px
        grown = shape[0] + 2 * margin, shape[1] + 2 * margin
        noise = noise_window(seed, c, y0 - margin, x0 - margin, grown, self.bands)
        return np.clip(self.rotation.backward(self.generators.generate(c, noise)), 0, 1)

    def simulate(
        self, labels: NDArray[np.uint8], seed: int = 0, origin: tuple[int, int] = (0, 0)
    ) -> NDArray[np.float32]:
        """Return the simulated image ``(y, x, band)``: the sum of masks times textures; 0 where no class is.

        A pixel's noise follows from `seed`, its class and its place, which is `origin` for the first pixel, so that
        parts of a scene fit together, and `textures` of the same size and seed shows the same pixels.
        """
        out = np.zeros((*labels.shape, self.bands), np.float32)
        for y in range(0, labels.shape[0], SIMULATED_TILE_PX):
            for x in range(0, labels.shape[1], SIMULATED_TILE_PX):
                tile = labels[y : y + SIMULATED_TILE_PX, x : x + SIMULATED_TILE_PX]
                for c in np.unique(tile[tile < self.k]).tolist():
                    rows, columns = _bounding(tile == c)
                    mask = tile[rows, columns] == c
                    texture = self._texture(
                        c, origin[0] + y + rows.start, origin[1] + x + columns.start, mask.shape, seed
                    )
                    out[y : y + SIMULATED_TILE_PX, x : x + SIMULATED_TILE_PX][rows, columns][mask] = texture[mask]
        return out


def _bounding(mask: NDArray[np.bool_]) -> tuple[slice, slice]:
    """Return the smallest rectangle that holds the True pixels."""
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    return slice(int(rows[0]), int(rows[-1]) + 1), slice(int(columns[0]), int(columns[-1]) + 1)


def _bounds(inner: tuple[slice, slice] | None, shape: tuple[int, ...]) -> tuple[tuple[int, int], tuple[int, int]]:
    window = inner if inner is not None else (slice(0, shape[0]), slice(0, shape[1]))
    (y0, y1), (x0, x1) = (
        (part.start or 0, part.stop if part.stop is not None else n) for part, n in zip(window, shape, strict=True)
    )
    if not (0 <= y0 <= y1 <= shape[0] and 0 <= x0 <= x1 <= shape[1]):
        raise ValueError(f"`inner` must lie in an image of {shape}; got rows {y0}:{y1}, columns {x0}:{x1}")
    return (y0, y1), (x0, x1)
