"""A scene restricted by a mask raster and an area of interest."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from affine import Affine
from numpy.typing import NDArray
from odc.geo.geobox import GeoBox

from pipeline.aoi import Area
from pipeline.balance import Balanced
from pipeline.blocks import Window
from pipeline.errors import InputError
from pipeline.geotiff import inspect_raster
from pipeline.mosaic import GridRules, Placement, place_raster
from pipeline.pixels import InputFile, Pixels, Report, SampledScene, fingerprint_file
from pipeline.rasterfile import MaskFile


@dataclass(frozen=True)
class Mask:
    """A mask raster and where it lies in a scene. What it does not cover is invalid."""

    file: MaskFile
    placement: Placement

    def covers(self, rows: NDArray[np.int64], columns: NDArray[np.int64], step: int) -> NDArray[np.bool_]:
        """Return where pixels of the scene are valid by the mask, ``(row, column)``."""
        y0, x0, y1, x1 = self.placement.window
        at = slice(*np.searchsorted(rows, (y0, y1))), slice(*np.searchsorted(columns, (x0, x1)))
        valid = np.zeros((len(rows), len(columns)), np.bool_)
        if valid[at].size:
            valid[at] = self.placement.read(self.file, rows[at[0]], columns[at[1]], step).valid
        return valid


@dataclass(frozen=True)
class RestrictedScene(SampledScene):
    """A window of another scene, valid where a mask and an area of interest say so as well.

    `window`, `mask` and `area` are in pixels of the other scene.
    """

    geobox: GeoBox
    bands: tuple[str, ...]
    dtype: np.dtype[Any]
    base: SampledScene
    window: Window
    mask: Mask | None = None
    area: Area | None = None
    balanced: Balanced | None = None

    def sample(self, rows: NDArray[np.int64], columns: NDArray[np.int64], step: int) -> Pixels:
        """Read the pixels on some rows and columns, of which one in `step` is wanted."""
        rows, columns = rows + self.window.y0, columns + self.window.x0
        keep = np.ones((len(rows), len(columns)), np.bool_)
        if self.area is not None:
            keep &= self.area.contains(rows, columns)
        if self.mask is not None and keep.any():
            keep &= self.mask.covers(rows, columns, step)
        if not keep.any():
            return Pixels.empty(len(self.bands), keep.shape, self.dtype)
        return self.base.sample(rows, columns, step).where(keep)

    def fingerprints(self, report: Report | None = None) -> list[InputFile]:
        """Hash every file that the pixels depend on, the mask and the area last."""
        return [*self.base.fingerprints(report), *(fingerprint_file(path) for path in self._extra())]

    def files_in(self, window: Window) -> list[str]:
        """Return what a window depends on: files of the base that reach into it, and the whole mask and area."""
        y, x = self.window.y0, self.window.x0
        shifted = Window(window.y0 + y, window.x0 + x, window.y1 + y, window.x1 + x)
        return [*self.base.files_in(shifted), *(str(path) for path in self._extra())]

    def _extra(self) -> list[Path]:
        return [part.path for part in (self.mask and self.mask.file, self.area) if part]


def restrict_scene(
    base: SampledScene, window: Window, mask: Mask | None = None, area: Area | None = None
) -> RestrictedScene:
    """Cut a window out of a scene, and let a mask and an area say where it is valid."""
    affine = base.geobox.affine @ Affine.translation(window.x0, window.y0)
    geobox = GeoBox(window.shape, affine, base.geobox.crs)
    return RestrictedScene(geobox, base.bands, base.dtype, base, window, mask, area, base.balanced)


def read_mask_raster(path: Path, geobox: GeoBox, rules: GridRules) -> Mask:
    """Place a mask raster in a scene; one on another grid is resampled by nearest neighbour, if the rules allow it.

    Raises
    ------
    InputError
        If it cannot be read, is on another grid, or nowhere meets the scene.
    """
    header = inspect_raster(Path(path))
    crs_wkt = geobox.crs.to_wkt() if geobox.crs else None
    nearest = GridRules(rules.align, rules.tolerance_px)
    placement = place_raster(header, geobox.affine, crs_wkt, "the scene", nearest)
    if placement.window.intersect(Window(0, 0, *geobox.shape)).size == 0:
        raise InputError(f"--mask {path}: does not meet the scene anywhere; give a mask of the same place")
    return Mask(MaskFile(header.path, header.shape, header.nodata), placement)
