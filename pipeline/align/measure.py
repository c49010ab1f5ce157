"""What one block, and two neighbours, leave behind for the alignment."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from ktex_model.model import NO_CLASS
from ktex_model.signature import log_brightness
from pipeline.align.values import BlockSignature, Overlap
from pipeline.blocks import Index

_PURE = 0.75
_MIN_CELLS = 5
_MAD_TO_SD = 1.4826


def measure(
    index: Index,
    labels: NDArray[np.uint8],
    features: NDArray[np.float32],
    cell_valid: NDArray[np.bool_],
    *,
    stride: int = 4,
) -> BlockSignature:
    """Describe each class of a block by the cells that it fills.

    Parameters
    ----------
    index
        The block.
    labels
        ``(y, x)`` uint8 local labels of the wide window; 255 is nodata.
    features, cell_valid
        As `ktex_model.signature.signature_features` returns them for the same window and `stride`.

    Returns
    -------
    BlockSignature
        Median and MAD over the cells that a class fills to three quarters; where those are fewer than 5, the mean
        over all cells that it touches, weighted by its pixels.

    Raises
    ------
    ValueError
        The cells do not cover the labels, or no pixel is valid: such a block has no signature.

    Examples
    --------
    >>> labels = np.repeat([[0, 3]], 8, axis=0).repeat(8, axis=1).astype(np.uint8)
    >>> features = np.array([[[1.0], [1], [5], [5]]] * 2, dtype=np.float32)
    >>> signature = measure((0, 0), labels, features, np.ones((2, 4), dtype=bool))
    >>> signature.ids.tolist(), signature.pixels.tolist(), signature.features.ravel().tolist()
    ([0, 3], [64, 64], [1.0, 5.0])
    """
    cells = tuple(-(-size // stride) for size in labels.shape)
    if features.shape[:2] != cells or cell_valid.shape != cells:
        raise ValueError(
            f"`features` and `cell_valid` must have {cells} cells for labels of {labels.shape}; got "
            f"{features.shape[:2]} and {cell_valid.shape} at block {index}"
        )
    counts = np.bincount(labels.ravel(), minlength=256)[:NO_CLASS]
    ids = np.flatnonzero(counts).astype(np.int64)
    if len(ids) == 0:
        raise ValueError(f"`labels` must hold a valid pixel; got none at block {index}")
    pad = [(0, -size % stride) for size in labels.shape]
    padded = np.pad(labels, pad, constant_values=NO_CLASS).reshape(cells[0], stride, cells[1], stride)
    described = [
        _describe(features, np.where(cell_valid, (padded == i).sum(axis=(1, 3)), 0), stride * stride) for i in ids
    ]
    means, spreads = (np.stack(column).astype(np.float32) for column in zip(*described, strict=True))
    return BlockSignature(index, ids, counts[ids].astype(np.int64), means, spreads)


def level(image: NDArray[np.float32], valid: NDArray[np.bool_]) -> NDArray[np.float32]:
    """Return how bright pixels are, so that two blocks can tell whether they read the same.

    Parameters
    ----------
    image, valid
        ``(y, x, band)`` float32, 0..1, and ``(y, x)`` bool.

    Returns
    -------
    ``(band,)`` float32: the median logarithm of brightness over valid pixels; NaN where there are none.

    Examples
    --------
    >>> level(np.full((2, 2, 1), 0.99, np.float32), np.ones((2, 2), bool)).round(4).tolist()
    [0.0]
    """
    if not valid.any():
        return np.full(image.shape[2], np.nan, np.float32)
    return np.median(log_brightness(image[valid]), axis=0).astype(np.float32)


def overlap(a: BlockSignature, a_labels: NDArray[np.uint8], b: BlockSignature, b_labels: NDArray[np.uint8]) -> Overlap:
    """Count what two blocks call the pixels that they share, and compare how bright they saw them.

    Parameters
    ----------
    a, b
        Signatures of the blocks. Where both have a level of what they share with each other, the difference is that
        of the features that say how bright a class is, which are the first; texture is not compared.
    a_labels, b_labels
        ``(y, x)`` uint8, the labels of each in the window that their wide windows share.

    Raises
    ------
    ValueError
        The two windows differ in shape, or hold a label that the signature does not.
    """
    if a_labels.shape != b_labels.shape:
        raise ValueError(f"shared labels must have one shape; got {a_labels.shape} and {b_labels.shape}")
    both = (a_labels != NO_CLASS) & (b_labels != NO_CLASS)
    rows, columns = _positions(a, a_labels[both]), _positions(b, b_labels[both])
    shape = len(a.ids), len(b.ids)
    table = np.bincount(rows * shape[1] + columns, minlength=shape[0] * shape[1]).reshape(shape).astype(np.int64)
    delta = np.zeros(a.features.shape[1], np.float32)
    if b.index not in a.levels or a.index not in b.levels:
        return Overlap(a.index, b.index, table, delta)
    gap = a.levels[b.index] - b.levels[a.index]
    if not np.isfinite(gap).all():
        return Overlap(a.index, b.index, table, delta)
    delta[: len(gap)] = gap
    return Overlap(a.index, b.index, table, delta, float(both.sum()))


def tally(
    signature: BlockSignature, labels: NDArray[np.uint8], anchor: NDArray[np.uint8], classes: int
) -> NDArray[np.int64]:
    """Count what an anchor calls the pixels of each class of a block.

    Parameters
    ----------
    signature
        Of the block.
    labels, anchor
        ``(y, x)`` uint8, what the block's own model and the anchor call the pixels of the wide window.
    classes
        Number of classes of the anchor.

    Returns
    -------
    ``(n, classes)`` int64, in the order of the signature's `ids`.

    Raises
    ------
    ValueError
        The two differ in shape, or hold a label that the signature or the anchor does not.

    Examples
    --------
    >>> labels, anchor = np.array([[0, 0, 3]], np.uint8), np.array([[1, 0, 1]], np.uint8)
    >>> signature = BlockSignature((0, 0), np.array([0, 3]), np.array([2, 1]), *np.zeros((2, 2, 1), np.float32))
    >>> tally(signature, labels, anchor, 2).tolist()
    [[1, 1], [0, 1]]
    """
    if labels.shape != anchor.shape:
        raise ValueError(f"`labels` and `anchor` must have one shape; got {labels.shape} and {anchor.shape}")
    both = (labels != NO_CLASS) & (anchor != NO_CLASS)
    said = anchor[both].astype(np.intp)
    if said.size and said.max() >= classes:
        raise ValueError(f"`anchor` must hold labels below {classes}; got {said.max()} at block {signature.index}")
    shape = len(signature.ids), classes
    counted = np.bincount(_positions(signature, labels[both]) * classes + said, minlength=shape[0] * shape[1])
    return counted.reshape(shape).astype(np.int64)


def _describe(
    features: NDArray[np.float32], inside: NDArray[np.int64], full: int
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Return mean and spread ``(D,)`` of one class that has `inside` pixels in each cell; NaN where it has none."""
    pure = features[inside >= _PURE * full]
    if len(pure) >= _MIN_CELLS:
        mean = np.median(pure, axis=0)
        spread = _MAD_TO_SD * np.median(np.abs(pure - mean), axis=0)
        return mean, spread
    touched = inside > 0
    if not touched.any():
        nothing = np.full(features.shape[2], np.nan, dtype=np.float32)
        return nothing, nothing
    weight = inside[touched].astype(np.float32) / inside[touched].sum()
    mean = weight @ features[touched]
    return mean, np.sqrt(weight @ (features[touched] - mean) ** 2)


def _positions(signature: BlockSignature, labels: NDArray[np.uint8]) -> NDArray[np.intp]:
    """Return where each label stands among the ids of a signature."""
    table = np.full(256, -1)
    table[signature.ids] = np.arange(len(signature.ids))
    found = table[labels]
    if np.any(found < 0):
        stranger = int(labels[found < 0][0])
        raise ValueError(
            f"`ids` must hold every label; got {stranger} beside {signature.ids.tolist()} at block {signature.index}"
        )
    return found
