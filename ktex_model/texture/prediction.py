"""Prediction: windows cut into tiles of one shape, each labelled by compiled functions.

The network is compiled once for each shape of a tile, not for each model: models lend it their weights.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Sequence
from functools import lru_cache, partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ktex_model.device import free_memory, has_gpu, is_out_of_memory
from ktex_model.model import MARGIN_SCALE, NO_CLASS, Prediction, Windows
from ktex_model.texture.config import TextureConfig
from ktex_model.texture.filters import Floats, Mask
from ktex_model.texture.network import Architecture, Fitted, build, set_fitted
from ktex_model.texture.tiles import GPU_TILE_PX, LARGE_TILE_PX, half_side, largest_side, tile_side

logger = logging.getLogger(__name__)

Labels = tuple[NDArray[np.uint8], NDArray[np.uint8]]

Span = tuple[int, int]
"""First pixel and the one after the last, along one axis."""


class TileLimit:
    """The largest side of a tile of one network on this device: from free memory, and half of it where that ran out."""

    def __init__(self, architecture: Architecture) -> None:
        cap = GPU_TILE_PX if has_gpu() else LARGE_TILE_PX
        self.side = largest_side(architecture, cap, free_memory())

    def halve(self, side: int) -> bool:
        """Take half of a side with which memory ran out; returns False where that was the smallest."""
        half = half_side(side)
        self.side = self.side if half is None else half
        return half is not None


@lru_cache(maxsize=24)
def get_limit(architecture: Architecture) -> TileLimit:
    """Return the limit of a network, asked of the device once for each process: tiles do not change as others run."""
    return TileLimit(architecture)


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
        # The network was fitted to distances from the mean; here it sees the image itself, which saves writing those.
        kernel, bias = (fitted[f"half/{part}"].astype(np.float64) for part in ("kernel", "bias"))
        offset = np.einsum("yxbf,b->f", kernel[:, :, :-1], mean.astype(np.float64))
        self.fitted = {
            **fitted,
            "half/bias": (bias - offset).astype(np.float32),
            "classes/bias": fitted["classes/bias"] + never,
        }

    def label(
        self, image: Floats, valid: Mask, rows: Span, columns: Span, windows: Windows | None = None
    ) -> Prediction:
        """Label a window of an image ``(y, x, band)``; beyond the image the network sees the fill value.

        Tiles have the shape that serves all `windows` best, or this one where none are named. Where the device runs
        out of memory with them, all are labelled anew in tiles of half the side, from now on.
        """
        shape = rows[1] - rows[0], columns[1] - columns[0]
        labels, margin = np.empty(shape, np.uint8), np.empty(shape, np.uint8)
        if not labels.size:
            return Prediction(labels, margin)
        architecture = self.config.architecture
        limit = get_limit(architecture)
        while True:
            high, wide = (
                tile_side(sizes, limit.side, architecture.context_px) for sizes in windows or ((shape[0],), (shape[1],))
            )
            try:
                self._fill(image, valid, (rows[0], columns[0]), (high, wide), (labels, margin))
            except Exception as error:
                if not is_out_of_memory(error) or not limit.halve(max(high, wide)):
                    raise
                logger.warning("memory ran out with tiles of %d x %d px; trying with half the side", high, wide)
            else:
                return Prediction(labels, margin)

    def _fill(self, image: Floats, valid: Mask, origin: Span, tile: Span, out: Labels) -> None:
        compiled = compile_tile(self.config.architecture, tile)
        shape = out[0].shape
        for y in range(0, shape[0], tile[0]):
            for x in range(0, shape[1], tile[1]):
                stop = min(y + tile[0], shape[0]), min(x + tile[1], shape[1])
                corner = origin[0] + y, origin[1] + x
                seen = valid[corner[0] : origin[0] + stop[0], corner[1] : origin[1] + stop[1]]
                into = out[0][y : stop[0], x : stop[1]], out[1][y : stop[0], x : stop[1]]
                if seen.any():
                    compiled(self, image, valid, corner, into)
                if not seen.all():
                    for each in into:
                        each[~seen] = NO_CLASS


class CompiledTile:
    """The compiled function of one shape of tile; whoever calls it lends the weights."""

    def __init__(self, architecture: Architecture, shape: Span) -> None:
        import keras
        from keras import layers

        self._context = architecture.context_px
        grown = shape[0] + 2 * self._context, shape[1] + 2 * self._context
        inputs, logits = build(architecture, grown)
        choose = _compiled(partial(choose_classes, margin=self._context // 2))
        self.network = keras.Model(inputs, layers.Lambda(choose, name="choice")(logits))
        self._tile = _aligned((1, *grown, architecture.bands + 1))
        self._run = _run_in_place(self.network, self._tile)
        self._lent: Predictor | None = None
        self._lock = threading.Lock()

    def __call__(self, owner: Predictor, image: Floats, valid: Mask, corner: Span, into: Labels) -> None:
        """Write labels and margins of an image from a corner on into arrays ``(y, x)``, no larger than the tile."""
        with self._lock:
            if self._lent is not owner:
                self._lent = None  # nobody's, should the weights turn out not to fit
                set_fitted(self.network, owner.fitted)
                self._lent = owner
            first = corner[0] - self._context, corner[1] - self._context
            cut_tile(image, valid, owner.mean, first, self._tile)
            phases = [np.asarray(phase) for phase in self._run()]
        for i, (y, x) in enumerate(np.ndindex(2, 2)):
            for out, values in zip(into, phases[2 * i : 2 * i + 2], strict=True):
                woven = out[y::2, x::2]
                woven[...] = values[0, : woven.shape[0], : woven.shape[1]]


def cut_tile(image: Floats, valid: Mask, mean: Floats, corner: Span, into: Floats) -> None:
    """Cut the network's inputs ``(1, y, x, band + 1)`` at a corner of the image; the fill value beyond the image."""
    rows, columns = (
        _clip(first, size, limit) for first, size, limit in zip(corner, into.shape[1:3], valid.shape, strict=True)
    )
    seen, fill = valid[rows[0], columns[0]], np.append(mean, np.float32(0))
    for beyond in (slice(rows[1].start), slice(rows[1].stop, None)):
        into[0, beyond] = fill
    for beyond in (slice(columns[1].start), slice(columns[1].stop, None)):
        into[0, :, beyond] = fill
    # Bands of a pixel are copied as one: loops over four bands would cost twice the time.
    pixel = np.dtype((np.void, into.itemsize * len(mean)))
    inside = into[0, rows[1], columns[1]]
    begin = rows[1].start * into.strides[1] + columns[1].start * into.strides[2]
    whole: NDArray[np.void] = np.ndarray(seen.shape, pixel, into, begin, inside.strides[:2])
    whole[...] = np.ascontiguousarray(image[rows[0], columns[0]], np.float32).view(pixel)[..., 0]
    inside[..., -1] = seen
    if not seen.all():
        inside[~seen] = fill


def _clip(first: int, size: int, limit: int) -> tuple[slice, slice]:
    """Return the part of ``first .. first + size`` that lies in ``0 .. limit``, counted from 0 and from `first`."""
    start, stop = max(first, 0), min(first + size, limit)
    return slice(start, stop), slice(start - first, stop - first)


_ALIGNMENT = 64
"""Bytes: TensorFlow reads arrays in place where they begin at multiples of it."""


def _aligned(shape: tuple[int, ...]) -> Floats:
    """Return an array of zeros that backends can read in place."""
    raw = np.zeros(int(np.prod(shape)) + _ALIGNMENT // 4, np.float32)
    first = -raw.ctypes.data % _ALIGNMENT // 4
    return raw[first : first + int(np.prod(shape))].reshape(shape)


def _run_in_place(network: Any, tile: Floats) -> Callable[[], Sequence[Any]]:
    """Return what runs a network on what an array holds when it is called.

    TensorFlow on processors reads the array itself: a copy, and Keras' own loop around it, took a tenth of the time.
    """
    import keras

    if keras.backend.backend() != "tensorflow" or has_gpu():
        network.compile(jit_compile="auto")
        return lambda: network.predict_on_batch(tile)
    import tensorflow

    shared = tensorflow.experimental.dlpack.from_dlpack(tile.__dlpack__())
    tile[...] = 1
    if not bool(tensorflow.reduce_all(shared == 1)):
        raise RuntimeError(
            "arrays must be read in place by TensorFlow; this version copied one: install the locked one"
        )
    # Traced here and once: TensorFlow warns of functions that are traced anew, and cannot know that each is another's.
    run = tensorflow.function(lambda inputs: network(inputs, training=False)).get_concrete_function(shared)
    return lambda: run(shared)


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


@lru_cache(maxsize=24)
def compile_tile(architecture: Architecture, shape: Span) -> CompiledTile:
    """Return the compiled function of a shape of tile, made once for each process.

    All blocks of a grid have one; windows that are drawn for training have others.
    """
    return CompiledTile(architecture, shape)


def choose_classes(logits: Any, margin: int) -> list[Any]:
    """Return class and margin of each pixel, from logits of cells of 2 x 2 pixels ``(1, y + ..., x + ..., k)``.

    Logits are interpolated, not shares: those of a sharp border jump between two cells, so that it would nearly always
    be drawn where cells meet. Logits are kept in one plane for each class, so that every operation runs along x.

    Parameters
    ----------
    logits
        Of the cells and of `margin`, at least one, on each side.
    margin
        Cells on each side that are not answered for.

    Returns
    -------
    For the first pixels of cells, those right of them, those below, and those below right of them: class, then margin,
    uint8 ``(1, y, x)``. They are woven by who calls: in here that would keep operations from running along x.
    """
    from keras import ops

    outer = slice(margin - 1, 1 - margin or None)
    planes = ops.transpose(logits[:, outer, outer], (0, 3, 1, 2))
    middle = 0.75 * planes[:, :, 1:-1]
    found: list[Any] = []
    for rows in (middle + 0.25 * planes[:, :, :-2], middle + 0.25 * planes[:, :, 2:]):
        centre = 0.75 * rows[..., 1:-1]
        for near in (centre + 0.25 * rows[..., :-2], centre + 0.25 * rows[..., 2:]):
            found += _first_two(near)
    return found


def _first_two(logits: Any) -> tuple[Any, Any]:
    """Return the class of the largest of ``(1, k, y, x)`` logits, and by how much its share leads that of the next.

    Shares are those that the two would have if there were no others. Class after class, so that all fuses into one
    pass over the pixels.
    """
    from keras import ops

    first = logits[:, 0]
    second, label = ops.full_like(first, -np.inf), ops.zeros_like(first)
    for c in range(1, logits.shape[1]):
        logit = logits[:, c]
        leads = logit > first
        second = ops.where(leads, first, ops.maximum(second, logit))
        label = ops.where(leads, float(c), label)
        first = ops.maximum(first, logit)
    return ops.cast(label, "uint8"), ops.cast(ops.round(ops.tanh((first - second) / 2) * MARGIN_SCALE), "uint8")
