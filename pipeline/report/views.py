"""The map at a size for looking: labels, confidence and imagery decimated to one grid, whatever the scene's size."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import rasterio
from numpy.typing import NDArray
from rasterio.enums import Resampling

from pipeline.ground import MAX_PX, view_factor
from pipeline.pixels import Pixels
from pipeline.scaled import TABLED

CONFIDENCE_STEP = 10
"""Confidence is shown in steps of 5 %: noise finer than that cannot be seen, and would fill the page."""

STRETCH_PERCENT = (1.0, 99.0)
STRETCH_PX = 1 << 17
"""Pixels that tell the limits well enough."""

Labels = NDArray[np.uint8] | NDArray[np.uint16]


@dataclass(frozen=True, eq=False)
class MapView:
    """The map, decimated.

    Attributes
    ----------
    factor
        Pixels of the scene, on each axis, that one of the view stands for; a power of two.
    labels, nodata
        ``(y, x)`` class ids, the most frequent of each cell, and the value of no class.
    confidence
        ``(y, x)`` uint8, 0..20 in steps of 5 %; 255 where there is no class.
    """

    factor: int
    labels: Labels
    nodata: int
    confidence: NDArray[np.uint8]


def read_map(directory: Path, max_px: int = MAX_PX) -> MapView:
    """Read the view of a published map from the overviews of its COGs; little is read, however large the map is."""
    with rasterio.open(directory / "labels.tif") as file:
        factor = view_factor(file.shape, max_px)
        labels, nodata = _read_level(file, factor), int(file.nodata)
    with rasterio.open(directory / "confidence.tif") as file:
        confidence = _read_level(file, factor)
    steps = np.where(labels == nodata, 255, confidence // CONFIDENCE_STEP).astype(np.uint8)
    return MapView(factor, labels, nodata, steps)


def _read_level(file: rasterio.DatasetReader, factor: int) -> NDArray[Any]:
    """Read one band decimated by `factor`; from the overview of that size where there is one, exactly."""
    shape = tuple(-(-size // factor) for size in file.shape)
    return np.asarray(file.read(1, out_shape=shape, resampling=Resampling.nearest))


@dataclass(frozen=True)
class Stretch:
    """How values of the source become colours: which bands are red, green and blue, and their limits.

    One rule serves the map, the patches and the generated textures, so that they can be compared by eye.
    """

    bands: tuple[int, int, int]
    low: tuple[float, float, float]
    high: tuple[float, float, float]

    @classmethod
    def fit(cls, view: Pixels, names: tuple[str, ...]) -> Stretch:
        """Fit the limits to the valid pixels of a view, band by band."""
        bands = colour_bands(names)
        if not view.valid.any():
            return cls(bands, (0.0,) * 3, (1.0,) * 3)
        seen = np.arange(view.valid.size) if view.valid.all() else np.flatnonzero(view.valid)
        seen = seen[:: -(-len(seen) // STRETCH_PX)]
        values = np.stack([view.data[band].reshape(-1)[seen] for band in bands]).astype(np.float64)
        limits = np.percentile(values, STRETCH_PERCENT, axis=1)
        low, high = limits[0], np.maximum(limits[1], limits[0] + 1e-6)
        return cls(bands, tuple(low.tolist()), tuple(high.tolist()))

    def apply(self, data: NDArray[Any]) -> NDArray[np.uint8]:
        """Return ``(y, x, 3)`` uint8 of pixels ``(band, y, x)`` in the units of the source."""
        shown = np.empty((*data.shape[1:], 3), np.uint8)
        for place, band in enumerate(self.bands):
            if data.dtype in TABLED:
                shown[..., place] = np.take(_table(self, data.dtype)[place], data[band])
            else:
                shown[..., place] = self._shade(place, data[band])
        return shown

    def _shade(self, place: int, values: NDArray[Any]) -> NDArray[np.float32]:
        """Return how bright values of a band are in red, green or blue, which are the places 0 to 2: 0..255, whole."""
        low, high = np.float32(self.low[place]), np.float32(self.high[place] - self.low[place])
        scaled: NDArray[np.float32] = (values.astype(np.float32) - low) / high
        return np.rint(np.clip(scaled, 0, 1, out=scaled) * 255)


@lru_cache(maxsize=4)
def _table(stretch: Stretch, dtype: np.dtype[Any]) -> NDArray[np.uint8]:
    """Return what each value of an unsigned type becomes in red, green and blue, ``(3, value)``."""
    values = np.arange(np.iinfo(dtype).max + 1)
    return np.stack([stretch._shade(place, values) for place in range(3)]).astype(np.uint8)


def colour_bands(names: tuple[str, ...]) -> tuple[int, int, int]:
    """Return which bands to show as red, green and blue.

    >>> colour_bands(("B", "G", "R", "N")), colour_bands(("a", "b", "c")), colour_bands(("VV",))
    ((2, 1, 0), (0, 1, 2), (0, 0, 0))
    """
    if {"R", "G", "B"} <= set(names):
        return names.index("R"), names.index("G"), names.index("B")
    return (0, 1, 2) if len(names) > 2 else (0, 0, 0)


FADED = (0.2, 190)
"""What is faded keeps this share of its contrast, in grey, around this brightness."""


def fade(shown: NDArray[np.uint8], kept: NDArray[np.bool_]) -> NDArray[np.uint8]:
    """Return a picture ``(y, x, 4)`` in which all but what is `kept` ``(y, x)`` is faint and grey."""
    share, middle = FADED
    grey = middle + share * (shown[..., :3].mean(axis=2, keepdims=True) - 128)
    faded = np.concatenate([np.repeat(grey, 3, axis=2), shown[..., 3:]], axis=2)
    return np.where(kept[..., None], shown, np.rint(faded)).astype(np.uint8)


def picture(view: Pixels, stretch: Stretch) -> NDArray[np.uint8]:
    """Return ``(y, x, 4)`` uint8, transparent where not valid."""
    shown = np.empty((*view.shape, 4), np.uint8)
    shown[..., :3], shown[..., 3] = stretch.apply(view.data), 255
    shown[~view.valid] = 0
    return shown
