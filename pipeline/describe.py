"""What a block says of its classes: their signatures and members, of all of it or of windows spread over it."""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from ktex_model.model import NO_CLASS
from ktex_model.signature import signature_features
from pipeline.align import BlockSignature
from pipeline.align.measure import measure
from pipeline.blocks import Index, Window
from pipeline.catalogue.members import MAX_PATCHES, MIN_PIXELS, join, measure_members, members_of
from pipeline.catalogue.values import Members
from pipeline.metrics import count_classes
from pipeline.scaled import ScaledImage

WINDOW_PX = 128
"""Side of a window of a sample: large enough for a texture to show, whole cells of a signature."""
SAMPLED_PX = 4 * (MAX_PATCHES * WINDOW_PX) ** 2
"""Smallest window that is sampled: a sample is at most a quarter of it."""
ENOUGH_WINDOWS = 128
_CELL_PX = 4
_MARGIN_PX = 2 * _CELL_PX

Image = NDArray[np.float32] | ScaledImage
Labels = NDArray[np.uint8]
Mask = NDArray[np.bool_]


def describe_classes(
    index: Index,
    image: Image,
    valid: Mask,
    labels: Labels,
    *,
    per_side: int | None,
) -> tuple[BlockSignature, Members]:
    """Measure the classes of a block.

    Parameters
    ----------
    index
        The block.
    image, valid, labels
        ``(y, x, band)`` float32, ``(y, x)`` bool, ``(y, x)`` uint8 with 255 for nodata; at least one pixel has a class.
    per_side
        Look at so many windows along each side alone where the block is large (`windows_per_side`), and at one for
        each class that these miss. None: at all of it.
    """
    windows = choose_windows(labels, per_side) if per_side and labels.size >= SAMPLED_PX else []
    if not windows:
        features, cell_valid = signature_features(image[:, :], valid)
        whole = measure(index, labels, features, cell_valid)
        return whole, measure_members(whole, labels, features, cell_valid)
    parts = [(labels[w.slices], *seen) for w, seen in zip(windows, window_features(image, valid, windows), strict=True)]
    columns = zip(*parts, strict=True)
    # Cells are measured one by one: windows below each other are as good as side by side.
    whole = measure(index, *(np.concatenate(column) for column in columns))
    found = [measure(index, *part) for part in parts]
    members = [members_of(said, said.pixels >= MIN_PIXELS) for said in found]
    seen = np.concatenate([each.ids for each in members])
    return whole, join([*members, members_of(whole, ~np.isin(whole.ids, seen))])


def window_features(image: Image, valid: Mask, windows: list[Window]) -> Iterator[tuple[NDArray[np.float32], Mask]]:
    """Yield the features of the cells of each window, which see the cells around it.

    All windows are measured at once, one below the other, each with what it sees; beyond the image that is nothing.
    """
    height, width, bands = image.shape
    side = WINDOW_PX + 2 * _MARGIN_PX
    pixels = np.zeros((len(windows), side, side, bands), np.float32)
    seen = np.zeros(pixels.shape[:3], np.bool_)
    for each, mask, window in zip(pixels, seen, windows, strict=True):
        grown = window.expand(_MARGIN_PX, within=(height, width))
        here = grown.shift(_MARGIN_PX - window.y0, _MARGIN_PX - window.x0).slices
        each[here], mask[here] = image[grown.slices], valid[grown.slices]
    features, cell_valid = signature_features(pixels.reshape(-1, side, bands), seen.reshape(-1, side))
    cells = side // _CELL_PX
    inner = slice(_MARGIN_PX // _CELL_PX, -_MARGIN_PX // _CELL_PX)
    for at in range(0, len(features), cells):
        yield features[at : at + cells][inner, inner], cell_valid[at : at + cells][inner, inner]


def windows_per_side(blocks: int) -> int:
    """Return how many windows along a side of a block are enough where one model serves so many blocks.

    Nothing but a catalogue asks for what they tell, and that keeps no more than some hundred members of a class.

    Examples
    --------
    >>> [windows_per_side(blocks) for blocks in (1, 8, 12, 25, 100_000)]
    [4, 4, 3, 2, 2]
    """
    return min(MAX_PATCHES, max(2, math.isqrt(ENOUGH_WINDOWS // blocks)))


def choose_windows(labels: Labels, per_side: int = MAX_PATCHES) -> list[Window]:
    """Return windows of one size, spread over the block, and one for each class that these hardly hold."""
    height, width = labels.shape
    starts = [np.linspace(0, size - WINDOW_PX, per_side).astype(int).tolist() for size in (height, width)]
    spread = [_window(y, x, labels.shape) for y in starts[0] for x in starts[1]]
    counts = [np.bincount(labels[w.slices].ravel(), minlength=NO_CLASS + 1)[:NO_CLASS] for w in spread]
    rare = np.flatnonzero((count_classes(labels) > 0) & (np.max(counts, axis=0) < MIN_PIXELS))
    chosen = [window for window, count in zip(spread, counts, strict=True) if count.any()]
    for label in rare:
        places = np.flatnonzero(labels.ravel() == label)
        y, x = divmod(int(places[len(places) // 2]), width)
        chosen.append(_window(y - WINDOW_PX // 2, x - WINDOW_PX // 2, labels.shape))
    return chosen


def _window(y: int, x: int, shape: tuple[int, ...]) -> Window:
    """Return the window nearest to a corner that lies in the block, on whole cells."""
    y0, x0 = (
        min(max(start, 0), size - WINDOW_PX) // _CELL_PX * _CELL_PX for start, size in zip((y, x), shape, strict=True)
    )
    return Window(y0, x0, y0 + WINDOW_PX, x0 + WINDOW_PX)
