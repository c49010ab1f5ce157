"""One file as a source of pixels: imagery with its validity, or a mask. Values that hold paths, not handles."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from pipeline import geotiff
from pipeline.bands import BandMap
from pipeline.blocks import Window
from pipeline.errors import InputError
from pipeline.geotiff import RasterHeader
from pipeline.lattice import lattice_offset
from pipeline.pixels import Pixels
from pipeline.validity import (
    UDM2_BANDS,
    UDM2_CLEAR,
    UDM2_UDM1,
    valid_from_alpha,
    valid_from_mask,
    valid_from_samples,
    valid_from_udm2,
)

ReadBands = Callable[[Path, tuple[int, ...]], NDArray[Any]]
ReadMask = Callable[[Path], NDArray[np.bool_]]


class RasterFile(Protocol):
    """A file that gives pixels with validity, in its own pixel coordinates."""

    @property
    def path(self) -> Path:
        """The file that is named in errors."""

    @property
    def shape(self) -> tuple[int, int]:
        """Height and width in pixels."""

    def read(self, window: Window, into: NDArray[Any] | None = None) -> Pixels:
        """Read a window that lies inside the file; its bands `into` an array, where that is given and can be done."""

    def decimate(self, step: int) -> Pixels:
        """Read about one pixel in `step` of the whole file."""


@dataclass(frozen=True)
class ImageFile:
    """Imagery: feature bands, valid by alpha, nodata, the file's own mask and a UDM2 beside it."""

    path: Path
    shape: tuple[int, int]
    bands: BandMap
    nodata: float | None = None
    has_mask: bool = False
    udm2: Path | None = None

    def read(self, window: Window, into: NDArray[Any] | None = None) -> Pixels:
        """Read a window that lies inside the file; `into` an array of its bands, if there is no alpha among them."""
        place = {self.path: into} if not self.bands.alpha else {}
        return self._pixels(
            lambda path, indexes: geotiff.read_bands(path, indexes, window, place.get(path)),
            lambda path: geotiff.read_mask(path, window),
        )

    def decimate(self, step: int) -> Pixels:
        """Read about one pixel in `step` of the whole file."""
        return self._pixels(
            lambda path, indexes: geotiff.read_decimated(path, indexes, step),
            lambda path: geotiff.read_decimated_mask(path, step),
        )

    def count_valid(self, sample_px: int = 512) -> int:
        """Count the valid pixels of the file; an estimate, from `sample_px` a side, where it is larger than that."""
        valid = self.decimate(-(-max(self.shape) // sample_px)).valid
        return round(float(valid.mean()) * self.shape[0] * self.shape[1])

    def _pixels(self, read: ReadBands, read_mask: ReadMask) -> Pixels:
        alpha = (self.bands.alpha,) if self.bands.alpha else ()
        samples = read(self.path, self.bands.indexes + alpha)
        data = samples[: len(self.bands.indexes)]
        valid = valid_from_samples(data, self.nodata)
        if alpha:
            valid &= valid_from_alpha(samples[-1])
        if self.has_mask:
            valid &= read_mask(self.path)
        if self.udm2 is not None:
            valid &= valid_from_udm2(*read(self.udm2, (UDM2_CLEAR, UDM2_UDM1)))
        return Pixels(data, valid)


@dataclass(frozen=True)
class MaskFile:
    """A mask raster: pixels without bands, valid where band 1 says so."""

    path: Path
    shape: tuple[int, int]
    nodata: float | None = None

    def read(self, window: Window, into: NDArray[Any] | None = None) -> Pixels:
        """Read a window that lies inside the file; there are no bands to be read `into` an array."""
        return self._pixels(geotiff.read_bands(self.path, (1,), window))

    def decimate(self, step: int) -> Pixels:
        """Read about one pixel in `step` of the whole file."""
        return self._pixels(geotiff.read_decimated(self.path, (1,), step))

    def _pixels(self, mask: NDArray[Any]) -> Pixels:
        return Pixels(mask[:0], valid_from_mask(mask[0], self.nodata))


def check_udm2(udm2: RasterHeader, scene: RasterHeader, tolerance_px: float) -> None:
    """Raise InputError unless `udm2` is a UDM2 on exactly the pixels of its scene."""
    if udm2.profile.count != UDM2_BANDS or udm2.profile.dtype != "uint8":
        raise InputError(
            f"{udm2.path}: is no UDM2, which has {UDM2_BANDS} bands of uint8; found {udm2.profile.count} x "
            f"{udm2.profile.dtype}; move it away, or give it as --mask"
        )
    offset = lattice_offset(udm2.affine, udm2.shape, scene.affine, tolerance_px)
    if udm2.shape != scene.shape or offset != (0, 0):
        raise InputError(
            f"{udm2.path}: is not on the grid of its scene {scene.path} ({udm2.shape} against {scene.shape} px); "
            "cut both alike, or move it away"
        )
