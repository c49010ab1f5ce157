"""From samples to the tiles that the network is trained on."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ktex_model.extractors import check_samples, valid_mean
from ktex_model.model import Samples

OUT_PX = 128
"""Side of the tile that is simulated."""

BORDER_PX = 4
"""What an input tile has more, on each side."""

IN_PX = OUT_PX + 2 * BORDER_PX


@dataclass(frozen=True)
class Tiles:
    """All tiles of a training.

    Attributes
    ----------
    images
        ``(n, 136, 136, band)`` float32; `fill` where a pixel is invalid.
    valid
        ``(n, 136, 136)`` bool.
    fill
        ``(band,)`` float32: the mean of the valid pixels.
    """

    images: NDArray[np.float32]
    valid: NDArray[np.bool_]
    fill: NDArray[np.float32]

    def __len__(self) -> int:
        return len(self.images)

    @property
    def core_images(self) -> NDArray[np.float32]:
        """``(n, 128, 128, band)``: the images without their border."""
        return self.images[:, BORDER_PX:-BORDER_PX, BORDER_PX:-BORDER_PX]

    @property
    def core_valid(self) -> NDArray[np.bool_]:
        """``(n, 128, 128)``: the validity without the border."""
        return self.valid[:, BORDER_PX:-BORDER_PX, BORDER_PX:-BORDER_PX]


def cut_tiles(samples: Samples, bands: int) -> Tiles:
    """Cut samples into tiles whose cores partition them.

    The border of 4 px is real within a sample and mirrored at its edges. A last row or column that is not full is
    made so with invalid pixels; tiles without a valid pixel in their core are left out. Invalid pixels are set to
    the mean of the valid ones, whatever they held.

    Raises
    ------
    ValueError
        If a sample has another number of bands, or no pixel is valid.
    """
    check_samples(samples, bands)
    fill = valid_mean(samples)
    images, valids = [], []
    for sample in samples:
        size = sample.valid.shape
        rest = [-length % OUT_PX for length in size]
        mirrored = ((BORDER_PX, BORDER_PX),) * 2
        image = np.pad(sample.image.astype(np.float32), (*mirrored, (0, 0)), mode="reflect")
        valid = np.pad(sample.valid, mirrored, mode="reflect")
        image = np.pad(image, ((0, rest[0]), (0, rest[1]), (0, 0)))
        valid = np.pad(valid, ((0, rest[0]), (0, rest[1])))
        # The mirrored border of a side that is made full would lie inside a core; it is no part of the sample.
        for axis, (length, short) in enumerate(zip(size, rest, strict=True)):
            if short:
                np.moveaxis(valid, axis, 0)[BORDER_PX + length :] = False
        image = np.where(valid[..., None], image, fill)
        for y in range(0, size[0], OUT_PX):
            for x in range(0, size[1], OUT_PX):
                window = slice(y, y + IN_PX), slice(x, x + IN_PX)
                if valid[window][BORDER_PX:-BORDER_PX, BORDER_PX:-BORDER_PX].any():
                    images.append(image[window])
                    valids.append(valid[window])
    return Tiles(np.stack(images), np.stack(valids), fill)
