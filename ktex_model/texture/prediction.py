"""Prediction: windows cut into tiles of one shape, each labelled by compiled functions.

The network is compiled once for each shape of a tile, not for each model: models lend it their weights.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ktex_model.model import MARGIN_SCALE, NO_CLASS, Prediction
from ktex_model.texture.config import TextureConfig
from ktex_model.texture.filters import Floats, Mask
from ktex_model.texture.network import Fitted, build, has_gpu, set_fitted

TILE_STEP_PX = 16
"""Sides of tiles are multiples of this, so that tiles start on the network's lattice."""

SMALL_TILE_PX, LARGE_TILE_PX, GPU_TILE_PX = 256, 576, 2048
"""Least side, and the greatest: context weighs less in larger tiles, until the processor's caches are exceeded."""

Labels = tuple[NDArray[np.uint8], NDArray[np.uint8]]

Span = tuple[int, int]
"""First pixel and the one after the last, along one axis."""


def tile_side(size: int, largest: int = LARGE_TILE_PX) -> int:
    """Return the side of equal tiles that cover `size` pixels with the least beyond.

    Examples
    --------
    >>> [tile_side(size) for size in (40, 300, 576, 577, 2048, 2112)]
    [256, 304, 576, 304, 512, 528]
    """
    count = -(-size // largest)
    side = -(-size // count)
    return max(SMALL_TILE_PX, -(-side // TILE_STEP_PX) * TILE_STEP_PX)


class Predictor:
    """Labels windows of images with one model's weights.

    Parameters
    ----------
    config
        Of the model.
    fitted
        Folded weights of the mask network.
    mean
        ``(band,)`` fill value.
    present
        ``(k,)`` bool: classes that have pixels; the others are never given.
    """

    def __init__(self, config: TextureConfig, fitted: Fitted, mean: Floats, present: NDArray[np.bool_]) -> None:
        self.config = config
        self.mean = mean
        never = np.where(present, np.float32(0), np.float32(-1e9))
        self.fitted = {**fitted, "classes/bias": fitted["classes/bias"] + never}

    def label(self, image: Floats, valid: Mask, rows: Span, columns: Span) -> Prediction:
        """Label a window of an image ``(y, x, band)``; beyond the image the network sees the fill value."""
        shape = rows[1] - rows[0], columns[1] - columns[0]
        labels = np.full(shape, NO_CLASS, np.uint8)
        margin = labels.copy()
        if not labels.size:
            return Prediction(labels, margin)
        largest = GPU_TILE_PX if has_gpu() else LARGE_TILE_PX
        high, wide = (tile_side(size, largest) for size in shape)
        compiled = compile_tile(self.config.k, self.config.bands, self.config.dilations, (high, wide))
        for y in range(rows[0], rows[1], high):
            for x in range(columns[0], columns[1], wide):
                here = slice(y, min(y + high, rows[1])), slice(x, min(x + wide, columns[1]))
                seen = valid[here]
                if not seen.any():
                    continue
                found = compiled(self, image, valid, (y, x))
                there = slice(y - rows[0], here[0].stop - rows[0]), slice(x - columns[0], here[1].stop - columns[0])
                for out, values in zip((labels, margin), found, strict=True):
                    np.copyto(out[there], values[: seen.shape[0], : seen.shape[1]], where=seen)
        return Prediction(labels, margin)


def cut_tile(image: Floats, valid: Mask, mean: Floats, corner: Span, into: Floats) -> None:
    """Cut the network's inputs ``(1, y, x, band + 1)`` at a corner of the image; 0, the fill, beyond the image."""
    rows, columns = (
        _clip(first, size, limit) for first, size, limit in zip(corner, into.shape[1:3], valid.shape, strict=True)
    )
    seen = valid[rows[0], columns[0]]
    if seen.shape != into.shape[1:3]:
        into[...] = 0
    pixels, inside = image[rows[0], columns[0]], into[0, rows[1], columns[1]]
    # Band by band: numpy's inner loops are then as long as a row.
    for band, fill in enumerate(mean):
        np.subtract(pixels[..., band], fill, out=inside[..., band])
    inside[..., -1] = seen
    if not seen.all():
        inside[~seen] = 0


def _clip(first: int, size: int, limit: int) -> tuple[slice, slice]:
    """Return the part of ``first .. first + size`` that lies in ``0 .. limit``, counted from 0 and from `first`."""
    start, stop = max(first, 0), min(first + size, limit)
    return slice(start, stop), slice(start - first, stop - first)


class CompiledTile:
    """The compiled function of one shape of tile; whoever calls it lends the weights."""

    def __init__(self, k: int, bands: int, dilations: tuple[int, ...], shape: Span) -> None:
        import keras
        from keras import layers

        self._context = TextureConfig(k, bands, dilations=dilations).context_px
        grown = shape[0] + 2 * self._context, shape[1] + 2 * self._context
        inputs, logits = build(k, bands, grown, dilations)
        # One cell around the tile is kept: doubling the size needs it.
        cells = layers.Cropping2D(self._context // 2 - 1)(logits)
        self.network = keras.Model(inputs, layers.Lambda(_compiled(choose_classes), name="choice")(cells))
        self.network.compile(jit_compile="auto" if has_gpu() or keras.backend.backend() == "jax" else False)
        self._tile = np.zeros((1, *grown, bands + 1), np.float32)
        self._lent: Predictor | None = None
        self._lock = threading.Lock()

    def __call__(self, owner: Predictor, image: Floats, valid: Mask, corner: Span) -> Labels:
        """Return labels and margins ``(y, x)`` of the tile of an image at a corner."""
        with self._lock:
            if self._lent is not owner:
                set_fitted(self.network, owner.fitted)
                self._lent = owner
            cut_tile(image, valid, owner.mean, (corner[0] - self._context, corner[1] - self._context), self._tile)
            labels, margin = self.network.predict_on_batch(self._tile)
        return np.asarray(labels)[0], np.asarray(margin)[0]


def _compiled(work: Callable[[Any], Any]) -> Callable[[Any], Any]:
    """Compile a chain of small operations on large arrays with XLA, inside of a function that is not.

    On processors convolutions run at their best outside of XLA. Other backends of Keras compile whole models.
    """
    import keras

    if keras.backend.backend() != "tensorflow":
        return work
    import tensorflow

    compiled: Callable[[Any], Any] = tensorflow.function(work, jit_compile=True)
    return compiled


@lru_cache(maxsize=8)
def compile_tile(k: int, bands: int, dilations: tuple[int, ...], shape: Span) -> CompiledTile:
    """Return the compiled function of a shape of tile, made once for each process."""
    return CompiledTile(k, bands, dilations, shape)


def choose_classes(logits: Any) -> tuple[Any, Any]:
    """Return class and margin of each pixel, uint8 ``(1, 2 y, 2 x)``, from logits of cells ``(1, y + 2, x + 2, k)``.

    Shares of classes are found for cells and interpolated to pixels. They are kept in one plane for each class,
    and the four pixels of a cell one after the other, so that every operation runs along x.
    """
    from keras import ops

    high, wide = logits.shape[1] - 2, logits.shape[2] - 2
    planes = ops.transpose(logits, (0, 3, 1, 2))
    powers = ops.exp(planes - ops.max(planes, 1, keepdims=True))
    planes = powers / ops.sum(powers, 1, keepdims=True)
    middle = 0.75 * planes[:, :, 1:-1]
    labels, margins = [], []
    for rows in (middle + 0.25 * planes[:, :, :-2], middle + 0.25 * planes[:, :, 2:]):
        centre = 0.75 * rows[..., 1:-1]
        for shares in (centre + 0.25 * rows[..., :-2], centre + 0.25 * rows[..., 2:]):
            label, margin = _first_two(shares)
            labels.append(label)
            margins.append(margin)

    def interleave(phases: list[Any]) -> Any:
        laid = ops.reshape(ops.stack(phases, -1), (1, high, wide, 2, 2))
        return ops.reshape(ops.transpose(laid, (0, 1, 3, 2, 4)), (1, 2 * high, 2 * wide))

    return interleave(labels), interleave(margins)


def _first_two(shares: Any) -> tuple[Any, Any]:
    """Return the class of the largest of ``(1, k, y, x)`` shares, and by how much it leads the next.

    Class after class, so that all fuses into one pass over the pixels.
    """
    from keras import ops

    first = shares[:, 0]
    second = label = ops.zeros_like(first)
    for c in range(1, shares.shape[1]):
        share = shares[:, c]
        leads = share > first
        second = ops.where(leads, first, ops.maximum(second, share))
        label = ops.where(leads, float(c), label)
        first = ops.maximum(first, share)
    return ops.cast(label, "uint8"), ops.cast(ops.round((first - second) * MARGIN_SCALE), "uint8")
