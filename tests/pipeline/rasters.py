"""Small GeoTIFFs for tests, written with rasterio alone, so that they owe nothing to the code under test."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import rasterio
from affine import Affine
from numpy.typing import NDArray
from rasterio.enums import ColorInterp
from rasterio.errors import NotGeoreferencedWarning

UTM = "EPSG:32622"
GRID = Affine(5.0, 0.0, 300_000.0, 0.0, -5.0, 9_600_000.0)
QUAD_PX = 4.777314267823516
QUAD_INTERPS = ("blue", "green", "red", "undefined", "alpha")


def write_raster(
    path: Path,
    data: NDArray[Any],
    *,
    affine: Affine = GRID,
    crs: str | None = UTM,
    nodata: float | None = None,
    interps: Sequence[str] | None = None,
    descriptions: Sequence[str | None] | None = None,
    tags: dict[str, str] | None = None,
    mask: NDArray[np.bool_] | None = None,
    **creation: Any,
) -> Path:
    """Write `data` ``(band, y, x)`` or ``(y, x)`` and return `path`.

    `interps` are GDAL's colour names in lower case, undefined (grey for the first band) where none are given.
    """
    data = data[np.newaxis] if data.ndim == 2 else data
    options = {"tiled": True, "blockxsize": 16, "blockysize": 16, "photometric": "MINISBLACK", **creation}
    shape = {"count": data.shape[0], "height": data.shape[1], "width": data.shape[2]}
    place = {"crs": crs, "transform": affine, "nodata": nodata}
    path.parent.mkdir(parents=True, exist_ok=True)
    with rasterio.Env(GDAL_TIFF_INTERNAL_MASK=True), warnings.catch_warnings():
        warnings.simplefilter("ignore", NotGeoreferencedWarning)
        with rasterio.open(path, "w", driver="GTiff", dtype=data.dtype, **shape, **place, **options) as target:
            target.colorinterp = [ColorInterp[name] for name in interps or ["gray"] + ["undefined"] * (len(data) - 1)]
            for index, description in enumerate(descriptions or (), 1):
                if description:
                    target.set_band_description(index, description)
            target.update_tags(**(tags or {}))
            target.write(data)
            if mask is not None:
                target.write_mask(mask)
    return path


def write_quad(path: Path, bgrn: NDArray[np.uint16], alpha: NDArray[np.bool_] | None = None, **options: Any) -> Path:
    """Write a basemap quad: blue, green, red, near infrared and alpha, 5 x uint16, no nodata tag, Web Mercator."""
    opaque = np.ones(bgrn.shape[1:], np.bool_) if alpha is None else alpha
    bands = np.concatenate([bgrn, np.where(opaque, 65535, 0).astype(np.uint16)[np.newaxis]])
    affine = options.pop("affine", Affine(QUAD_PX, 0.0, -7_533_633.5067, 0.0, -QUAD_PX, -1_584_998.218))
    return write_raster(path, bands, affine=affine, crs="EPSG:3857", interps=QUAD_INTERPS, **options)


def position_code(shape: tuple[int, int], n_bands: int = 1, dtype: str = "uint16") -> NDArray[Any]:
    """Return ``(band, y, x)`` in which each value tells its place: never 0, and different in each band.

    Of at most 65,000 pixels.
    """
    code = 1 + np.arange(shape[0] * shape[1]).reshape(shape)
    return np.stack([np.roll(code, band * 7) for band in range(n_bands)]).astype(dtype)


def shift(affine: Affine, y: float, x: float) -> Affine:
    """Return a grid whose corner lies `y` rows down and `x` columns right of that of `affine`."""
    return affine @ Affine.translation(x, y)
