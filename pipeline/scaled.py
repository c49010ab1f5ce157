"""An image that is scaled where it is looked at: models cut windows from it tile by tile, and never need it whole."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ktex_model.radiometry import Scaling

TABLED = (np.uint8, np.uint16)
"""Types of so few values that each is scaled once, and then looked up."""
_ROWS = 32
"""Rows that are scaled at once: few enough for the processor's caches, into which all bands are woven."""


@dataclass(frozen=True, eq=False)
class ScaledImage:
    """Pixels ``(band, y, x)`` of a source as a model wants them: ``(y, x, band)`` float32 in 0..1.

    Indexed by two slices it gives just what the same window of the whole scaled image holds, to the bit.

    Examples
    --------
    >>> from ktex_model.radiometry import reflectance
    >>> ScaledImage(np.array([[[0, 5000, 12000]]], np.uint16), reflectance(1))[0:1, 1:3].ravel().tolist()
    [0.5, 1.0]
    """

    data: NDArray[Any]
    scaling: Scaling

    @property
    def shape(self) -> tuple[int, int, int]:
        """Height, width and number of bands."""
        bands, height, width = self.data.shape
        return height, width, bands

    @property
    def ndim(self) -> int:
        """Three."""
        return self.data.ndim

    def window(self, window: tuple[slice, slice]) -> ScaledImage:
        """Return a part of the image; nothing is scaled yet."""
        return ScaledImage(self.data[:, *window], self.scaling)

    def __getitem__(self, window: tuple[slice, slice]) -> NDArray[np.float32]:
        part = self.data[:, *window]
        bands, height, width = part.shape
        image = np.empty((height, width, bands), np.float32)
        if self.data.dtype not in TABLED:
            image[:] = np.moveaxis(self.scaling.apply(part), 0, -1)
            return image
        tables, plane = scaled_values(self.scaling, self.data.dtype), np.empty((_ROWS, width), np.float32)
        for y in range(0, height, _ROWS):
            rows = image[y : y + _ROWS]
            for band, table in enumerate(tables):
                values = part[band, y : y + _ROWS]
                rows[..., band] = np.take(table, values, out=plane[: len(rows)], mode="clip")  # spares it a buffer
        return image


@lru_cache(maxsize=4)
def scaled_values(scaling: Scaling, dtype: np.dtype[Any]) -> NDArray[np.float32]:
    """Return what each value of an unsigned type becomes in each band, ``(band, value)``."""
    values = np.arange(np.iinfo(dtype).max + 1).astype(dtype)
    return scaling.apply(np.broadcast_to(values, (scaling.bands, 1, len(values))))[:, 0]
