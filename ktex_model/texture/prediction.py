"""Prediction: windows cut into tiles of one shape, each labelled by compiled functions.

The network is compiled once for each shape of a tile, not for each model: models lend it their weights.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from functools import lru_cache, partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ktex_model.model import MARGIN_SCALE, NO_CLASS, Prediction
from ktex_model.texture.config import TextureConfig
from ktex_model.texture.filters import Floats, Mask
from ktex_model.texture.network import Architecture, Fitted, build, has_gpu, set_fitted

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
        # The network was fitted to distances from the mean; here it sees the image itself, which saves writing those.
        kernel, bias = (fitted[f"half/{part}"].astype(np.float64) for part in ("kernel", "bias"))
        offset = np.einsum("yxbf,b->f", kernel[:, :, :-1], mean.astype(np.float64))
        self.fitted = {
            **fitted,
            "half/bias": (bias - offset).astype(np.float32),
            "classes/bias": fitted["classes/bias"] + never,
        }

    def label(self, image: Floats, valid: Mask, rows: Span, columns: Span) -> Prediction:
        """Label a window of an image ``(y, x, band)``; beyond the image the network sees the fill value."""
        shape = rows[1] - rows[0], columns[1] - columns[0]
        labels, margin = np.empty(shape, np.uint8), np.empty(shape, np.uint8)
        if not labels.size:
            return Prediction(labels, margin)
        largest = GPU_TILE_PX if has_gpu() else LARGE_TILE_PX
        high, wide = (tile_side(size, largest) for size in shape)
        compiled = compile_tile(self.config.architecture, (high, wide))
        for y in range(0, shape[0], high):
            for x in range(0, shape[1], wide):
                there = slice(y, min(y + high, shape[0])), slice(x, min(x + wide, shape[1]))
                corner = rows[0] + y, columns[0] + x
                seen = valid[corner[0] : rows[0] + there[0].stop, corner[1] : columns[0] + there[1].stop]
                into = labels[there], margin[there]
                if seen.any():
                    compiled(self, image, valid, corner, into)
                if not seen.all():
                    for out in into:
                        out[~seen] = NO_CLASS
        return Prediction(labels, margin)


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

    Blocks of a grid have at most three heights and three widths (first, inner and last), so nine shapes; windows that
    are drawn for training have others.
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
