"""Copies of remote files: whole, checked, and in place in one step, or not there at all."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable
from pathlib import Path

from pipeline.acquisitions.values import Asset, DeliveryError, SourceError
from pipeline.errors import InputError
from pipeline.geotiff import inspect_raster

RECEIPT = ".version"
"""Beside a copy: the version that it is a copy of."""


def has_copy(path: Path, asset: Asset) -> bool:
    """Whether a whole copy of this very version lies at `path`."""
    receipt = _receipt(path)
    return path.exists() and receipt.exists() and receipt.read_text(encoding="utf-8") == asset.version


def keep_copy(path: Path, asset: Asset, chunks: Iterable[bytes]) -> Path:
    """Write what comes to a file beside `path`, check it, and move it into place.

    Raises
    ------
    SourceError
        It is shorter or longer than was said, or a GeoTIFF that lacks its end: the transfer broke off.
    DeliveryError
        Its checksum is not that of the listing, though its size is.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        digest, size = _write(partial, chunks)
        if asset.size_bytes is not None and size != asset.size_bytes:
            raise SourceError(f"{asset.name}: {size} of {asset.size_bytes} bytes came; it is asked for again")
        if asset.sha256 is not None and digest != asset.sha256:
            raise DeliveryError(f"{asset.name}: has the sha256 {digest}, its listing says {asset.sha256}")
        check_whole(partial, asset)
        _receipt(path).unlink(missing_ok=True)
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)
    receipt = _receipt(path)
    receipt.write_text(asset.version, encoding="utf-8")
    return path


def _write(path: Path, chunks: Iterable[bytes]) -> tuple[str, int]:
    digest, size = hashlib.sha256(), 0
    with path.open("wb") as file:
        for chunk in chunks:
            file.write(chunk)
            digest.update(chunk)
            size += len(chunk)
        file.flush()
        os.fsync(file.fileno())
    return digest.hexdigest(), size


def check_whole(path: Path, asset: Asset) -> None:
    """Raise SourceError where a copy of unknown size is a GeoTIFF that ends too early."""
    if asset.size_bytes is not None or asset.sha256 is not None:
        return  # whole, as the listing says; what is wrong with it is the delivery's fault, and found out later
    try:
        inspect_raster(path)
    except InputError as error:
        raise SourceError(f"{asset.name}: came damaged ({error}); it is asked for again") from error


def verify_in_place(path: Path, asset: Asset) -> Path:
    """Return `path`, a file that is read where it lies, if it is what its listing says."""
    if asset.sha256 is not None:
        with path.open("rb") as file:
            found = hashlib.file_digest(file, "sha256").hexdigest()
        if found != asset.sha256:
            raise DeliveryError(f"{asset.name}: has the sha256 {found}, its manifest says {asset.sha256}")
    return path


def _receipt(path: Path) -> Path:
    return path.with_name(f".{path.name}{RECEIPT}")
