"""What one block, and two neighbours, leave behind for the alignment."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from ktex_model.model import NO_CLASS
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


def overlap(
    a: BlockSignature,
    a_labels: NDArray[np.uint8],
    b: BlockSignature,
    b_labels: NDArray[np.uint8],
    a_features: NDArray[np.float32] | None = None,
    b_features: NDArray[np.float32] | None = None,
    cell_valid: NDArray[np.bool_] | None = None,
) -> Overlap:
    """Count what two blocks call the pixels that they share.

    Parameters
    ----------
    a, b
        Signatures of the blocks.
    a_labels, b_labels
        ``(y, x)`` uint8, the labels of each in the window that their wide windows share.
    a_features, b_features, cell_valid
        Features of the same cells as each block saw them, and where both are valid. Not needed where both blocks
        read one image, because then they do not differ.

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
    dims = a.features.shape[1]
    if a_features is None or b_features is None or cell_valid is None or not cell_valid.any():
        return Overlap(a.index, b.index, table, np.zeros(dims, dtype=np.float32))
    delta = np.median((a_features - b_features)[cell_valid], axis=0).astype(np.float32)
    return Overlap(a.index, b.index, table, delta, float(cell_valid.sum()))


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
