"""Prediction: windows cut into tiles of one shape, each labelled by compiled functions.

The network is compiled once for each shape of a tile, not for each model: models lend it their weights.
"""

from __future__ import annotations

import threading
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ktex_model.model import MARGIN_SCALE, NO_CLASS, Prediction
from ktex_model.texture.config import CONTEXT_PX
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
    k, bands
        Number of classes and of bands.
    fitted
        Folded weights of the mask network.
    mean
        ``(band,)`` fill value.
    present
        ``(k,)`` bool: classes that have pixels; the others are never given.
    """

    def __init__(self, k: int, bands: int, fitted: Fitted, mean: Floats, present: NDArray[np.bool_]) -> None:
        self.k = k
        self.bands = bands
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
        compiled = compile_tile(self.k, self.bands, (high, wide))
        for y in range(rows[0], rows[1], high):
            for x in range(columns[0], columns[1], wide):
                here = slice(y, min(y + high, rows[1])), slice(x, min(x + wide, columns[1]))
                seen = valid[here]
                if not seen.any():
                    continue
                found = compiled(self, cut_tile(image, valid, self.mean, (y, x), (high, wide)))
                there = slice(y - rows[0], here[0].stop - rows[0]), slice(x - columns[0], here[1].stop - columns[0])
                for out, values in zip((labels, margin), found, strict=True):
                    np.copyto(out[there], values[: seen.shape[0], : seen.shape[1]], where=seen)
        return Prediction(labels, margin)


def cut_tile(image: Floats, valid: Mask, mean: Floats, corner: Span, shape: Span) -> Floats:
    """Return the network's inputs ``(1, y, x, band + 1)`` for a tile and its context; 0, the fill, beyond the image."""
    rows, columns = (
        _clip(first - CONTEXT_PX, size + 2 * CONTEXT_PX, limit)
        for first, size, limit in zip(corner, shape, valid.shape, strict=True)
    )
    tile = np.zeros((1, shape[0] + 2 * CONTEXT_PX, shape[1] + 2 * CONTEXT_PX, image.shape[2] + 1), np.float32)
    inside, seen = tile[0, rows[1], columns[1]], valid[rows[0], columns[0]]
    inside[..., -1] = seen
    pixels = image[rows[0], columns[0]]
    if seen.all():
        np.subtract(pixels, mean, out=inside[..., :-1])
    else:
        np.copyto(inside[..., :-1], pixels - mean, where=seen[..., None])
    return tile


def _clip(first: int, size: int, limit: int) -> tuple[slice, slice]:
    """Return the part of ``first .. first + size`` that lies in ``0 .. limit``, counted from 0 and from `first`."""
    start, stop = max(first, 0), min(first + size, limit)
    return slice(start, stop), slice(start - first, stop - first)


class CompiledTile:
    """The compiled functions of one shape of tile; whoever calls them lends the weights.

    Two functions, because convolutions run at their best outside XLA on processors, and the choice of classes, a
    chain of small operations on large arrays, inside it.
    """

    def __init__(self, k: int, bands: int, shape: Span) -> None:
        import keras
        from keras import layers

        grown = shape[0] + 2 * CONTEXT_PX, shape[1] + 2 * CONTEXT_PX
        inputs, logits = build(k, bands, grown)
        # One cell around the tile is kept: doubling the size needs it.
        self.network = keras.Model(inputs, layers.Cropping2D(CONTEXT_PX // 2 - 1)(logits))
        self.network.compile(jit_compile="auto" if has_gpu() or keras.backend.backend() == "jax" else False)
        cells = keras.Input((shape[0] // 2 + 2, shape[1] // 2 + 2, k), batch_size=1)
        self.choice = keras.Model(cells, choose_classes(cells))
        self.choice.compile(jit_compile=True)
        self._lent: Predictor | None = None
        self._lock = threading.Lock()

    def __call__(self, owner: Predictor, tile: Floats) -> Labels:
        """Return labels and margins ``(y, x)`` of ``(1, y + 2 context, x + 2 context, band + 1)`` inputs."""
        with self._lock:
            if self._lent is not owner:
                set_fitted(self.network, owner.fitted)
                self._lent = owner
            logits = self.network.predict_on_batch(tile)
        labels, margin = self.choice.predict_on_batch(logits)
        return np.asarray(labels)[0], np.asarray(margin)[0]


@lru_cache(maxsize=8)
def compile_tile(k: int, bands: int, shape: Span) -> CompiledTile:
    """Return the compiled functions of a shape of tile, made once for each process."""
    return CompiledTile(k, bands, shape)


def choose_classes(logits: Any) -> tuple[Any, Any]:
    """Return class and margin of each pixel, uint8 ``(1, 2 y, 2 x)``, from logits of cells ``(1, y + 2, x + 2, k)``.

    Shares of classes are found for cells and interpolated to pixels. They are kept in one plane for each class,
    and the four pixels of a cell one after the other, so that every operation runs along x.
    """
    from keras import ops

    k, high, wide = logits.shape[3], logits.shape[1] - 2, logits.shape[2] - 2
    planes = ops.transpose(ops.softmax(logits), (0, 3, 1, 2))
    numbers = np.arange(k, dtype=np.float32)[:, None, None]
    middle = 0.75 * planes[:, :, 1:-1]
    labels, margins = [], []
    for rows in (middle + 0.25 * planes[:, :, :-2], middle + 0.25 * planes[:, :, 2:]):
        centre = 0.75 * rows[..., 1:-1]
        for shares in (centre + 0.25 * rows[..., :-2], centre + 0.25 * rows[..., 2:]):
            first = ops.max(shares, 1, keepdims=True)
            label = ops.min(ops.where(shares >= first, numbers, float(k)), 1, keepdims=True)
            second = ops.max(ops.where(ops.equal(label, numbers), 0.0, shares), 1, keepdims=True)
            labels.append(ops.cast(label[:, 0], "uint8"))
            margins.append(ops.cast(ops.round((first - second)[:, 0] * MARGIN_SCALE), "uint8"))

    def interleave(phases: list[Any]) -> Any:
        laid = ops.reshape(ops.stack(phases, -1), (1, high, wide, 2, 2))
        return ops.reshape(ops.transpose(laid, (0, 1, 3, 2, 4)), (1, 2 * high, 2 * wide))

    return interleave(labels), interleave(margins)
