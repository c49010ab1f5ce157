"""Is a delivered file what the series is made of? What is wrong with it is said in one line."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Self

from affine import Affine

from pipeline.acquisitions import DeliveryError
from pipeline.blocks import Window
from pipeline.errors import InputError, RunFailedError
from pipeline.geotiff import RasterHeader, inspect_raster
from pipeline.lattice import lattice_error, lattice_offset, same_crs
from pipeline.mosaic import name_crs
from pipeline.scene import Scene, open_scene
from pipeline.settings import Settings
from pipeline.workspace import read_json, write_json

STRIP_PX = 512


@dataclass(frozen=True)
class Reference:
    """What all deliveries of a series have in common.

    Attributes
    ----------
    path
        The file that it was taken from, for messages.
    crs_wkt, transform
        The grid: any file of the series lies on its pixels.
    count, dtype, bands
        Number of bands in a file, their type, and which of them are features.
    """

    path: str
    crs_wkt: str | None
    transform: tuple[float, ...]
    count: int
    dtype: str
    bands: tuple[str, ...]

    @property
    def affine(self) -> Affine:
        """From pixel corners ``(x, y)`` to coordinates."""
        return Affine(*self.transform)

    @classmethod
    def of(cls, path: Path, settings: Settings) -> Self:
        """Take a reference from a file; raises InputError where it cannot be read."""
        header = inspect_raster(path)
        bands = _open(path, settings).bands
        return cls(
            str(path), header.crs_wkt, tuple(header.affine)[:6], header.profile.count, header.profile.dtype, bands
        )

    @classmethod
    def read(cls, path: Path) -> Self | None:
        """Read what `write` wrote; None where there is nothing."""
        found = read_json(path)
        if found is None:
            return None
        return cls(**{**found, "transform": tuple(found["transform"]), "bands": tuple(found["bands"])})

    def write(self, path: Path) -> None:
        """Keep the reference in a JSON file."""
        write_json(path, asdict(self))


def inspect_delivery(path: Path, settings: Settings, reference: Reference | None) -> None:
    """Read a file from end to end and hold it against the series.

    Parameters
    ----------
    path
        A local file.
    settings
        Of the run: band map, tolerance, and whether files off the grid are resampled.
    reference
        What the series is made of; None for its first file.

    Raises
    ------
    DeliveryError
        It is no whole GeoTIFF, or of other bands, another type, CRS or grid, or has no valid pixel.
    """
    try:
        header = inspect_raster(path)
        scene = _open(path, settings)
        if reference is not None:
            _compare(header, scene, reference, settings)
        _read_through(scene, path)
    except (InputError, RunFailedError) as error:
        raise DeliveryError(str(error)) from error


def _open(path: Path, settings: Settings) -> Scene:
    return open_scene(path, bands=settings.bands)


def _compare(header: RasterHeader, scene: Scene, reference: Reference, settings: Settings) -> None:
    if (header.profile.count, scene.bands) != (reference.count, reference.bands):
        raise InputError(
            f"{header.path}: wrong bands: has {header.profile.count} ({','.join(scene.bands)}), the series "
            f"{reference.count} ({','.join(reference.bands)})"
        )
    if header.profile.dtype != reference.dtype:
        raise InputError(f"{header.path}: wrong type: holds {header.profile.dtype}, the series {reference.dtype}")
    if settings.align == "resample":
        return
    if not same_crs(header.crs_wkt, reference.crs_wkt):
        raise InputError(
            f"{header.path}: other CRS: is in {name_crs(header.crs_wkt)}, the series in {name_crs(reference.crs_wkt)}"
        )
    if lattice_offset(header.affine, header.shape, reference.affine, settings.tolerance_px) is None:
        off = lattice_error(header.affine, header.shape, reference.affine)
        raise InputError(
            f"{header.path}: off the grid: lies {off:.3g} px off that of the series (tolerance "
            f"{settings.tolerance_px} px)"
        )


def _read_through(scene: Scene, path: Path) -> None:
    """Read every pixel once: what cannot be decoded is found out before the work, not in the middle of it."""
    height, width = (int(size) for size in scene.geobox.shape)
    valid = False
    for y in range(0, height, STRIP_PX):
        valid |= bool(scene.read(Window(y, 0, min(y + STRIP_PX, height), width)).valid.any())
    if not valid:
        raise InputError(f"{path}: all nodata: has no valid pixel")


def describe_reference(reference: Reference) -> dict[str, Any]:
    """Return a reference in short, for people."""
    return {
        "crs": name_crs(reference.crs_wkt),
        "pixel": reference.transform[0],
        "bands": ",".join(reference.bands),
        "dtype": reference.dtype,
    }
