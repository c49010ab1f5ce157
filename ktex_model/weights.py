"""Models on disk: a JSON record beside a safetensors file, named by digest.

Nothing here can hold code. What is read is checked, file by file and tensor by tensor, before any of it is used.
"""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.numpy
from numpy.typing import NDArray

FORMAT = "ktextures-weights"
FORMAT_VERSION = 1
RECORD = "model.json"
TENSORS = "weights.safetensors"

_DTYPES = frozenset(
    ["float64", "float32", "float16", "int64", "int32", "int16", "int8", "uint64", "uint32", "uint16", "uint8", "bool"]
)

Tensors = dict[str, NDArray[Any]]


def write(directory: str | os.PathLike[str], config: Mapping[str, Any], tensors: Mapping[str, NDArray[Any]]) -> str:
    """Write a model as a directory, in one step, and return its digest.

    Equal content gives equal bytes. A directory that already holds a model is replaced; one that holds anything
    else is refused.

    Parameters
    ----------
    directory
        Where to; its parent is created where it is missing.
    config
        What JSON can say exactly; keys are strings.
    tensors
        Arrays by name, of numbers or bool.

    Returns
    -------
    str
        SHA-256, in hexadecimal, of the record, which itself holds that of the tensors.

    Raises
    ------
    ValueError
        If a value is not JSON, a dtype is not a plain number, or the directory holds something else.
    """
    target = Path(directory)
    packed = safetensors.numpy.save(_plain(tensors))
    record = _record(config, tensors, packed)
    digest = hashlib.sha256(record).hexdigest()
    if target.exists():
        if not target.is_dir() or {path.name for path in target.iterdir()} - {RECORD, TENSORS}:
            raise ValueError(f"{target} must be a new directory or an earlier model; it holds other files")
        if _bytes_or_none(target / RECORD) == record and _bytes_or_none(target / TENSORS) == packed:
            return digest
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=target.parent, prefix=f".{target.name}-") as scratch:
        fresh = Path(scratch) / "new"
        fresh.mkdir()
        for name, content in ((TENSORS, packed), (RECORD, record)):
            _write_through(fresh / name, content)
        if target.exists():
            target.rename(Path(scratch) / "old")
        fresh.rename(target)
    return digest


def read(directory: str | os.PathLike[str], digest: str | None = None) -> tuple[dict[str, Any], Tensors]:
    """Read what `write` wrote, after checking all of it.

    Parameters
    ----------
    directory
        The model's directory.
    digest
        What `write` returned; without it the two files are checked against each other only.

    Returns
    -------
    config, tensors
        As given to `write`; the arrays are copies of their own.

    Raises
    ------
    ValueError
        If a file is missing or foreign, or a size, digest, dtype or shape is not the recorded one.
    """
    source = Path(directory)
    raw = _bytes_or_none(source / RECORD)
    if raw is None:
        raise ValueError(f"{source} must be a model directory with {RECORD}; the file is missing")
    found = hashlib.sha256(raw).hexdigest()
    if digest is not None and found != digest:
        raise ValueError(f"{source / RECORD} must have digest {digest}; got {found}")
    record = _parsed(source / RECORD, raw)
    packed = _bytes_or_none(source / TENSORS)
    if packed is None:
        raise ValueError(f"{source} must be a model directory with {TENSORS}; the file is missing")
    if len(packed) != record["bytes"] or hashlib.sha256(packed).hexdigest() != record["sha256"]:
        raise ValueError(
            f"{source / TENSORS} must be the {record['bytes']} bytes that {RECORD} names; got {len(packed)} bytes or"
            " other content: copy the model again"
        )
    try:
        tensors = safetensors.numpy.load(packed)
    except (safetensors.SafetensorError, KeyError, TypeError) as error:
        raise ValueError(f"{source / TENSORS} must be a safetensors file; it cannot be read") from error
    if (held := _described(tensors)) != record["tensors"]:
        raise ValueError(f"{source / TENSORS} must hold the tensors that {RECORD} lists; got {sorted(held)}")
    return record["config"], {name: array.copy() for name, array in tensors.items()}


def _plain(tensors: Mapping[str, NDArray[Any]]) -> Tensors:
    """Contiguous little-endian arrays in the order of their names."""
    plain = {}
    for name in sorted(tensors):
        array = np.asarray(tensors[name])
        if array.dtype.name not in _DTYPES:
            raise ValueError(f"tensor {name!r} must be of a plain number type; got {array.dtype}")
        plain[name] = np.array(array, dtype=array.dtype.newbyteorder("<"), order="C")
    return plain


def _described(tensors: Mapping[str, NDArray[Any]]) -> dict[str, list[Any]]:
    return {name: [array.dtype.name, list(array.shape)] for name, array in sorted(tensors.items())}


def _record(config: Mapping[str, Any], tensors: Mapping[str, NDArray[Any]], packed: bytes) -> bytes:
    content = {
        "format": FORMAT,
        "format_version": FORMAT_VERSION,
        "config": dict(config),
        "tensors": _described({name: np.asarray(array) for name, array in tensors.items()}),
        "bytes": len(packed),
        "sha256": hashlib.sha256(packed).hexdigest(),
    }
    try:
        return (json.dumps(content, sort_keys=True, indent=1, allow_nan=False) + "\n").encode()
    except (TypeError, ValueError) as error:
        raise ValueError(f"`config` must be what JSON can say; got {error}") from error


def _parsed(path: Path, raw: bytes) -> dict[str, Any]:
    try:
        record = json.loads(raw)
    except ValueError as error:
        raise ValueError(f"{path} must be JSON; it cannot be parsed") from error
    if not isinstance(record, dict) or record.get("format") != FORMAT:
        raise ValueError(f"{path} must be a record of format {FORMAT!r}; it is something else")
    if record.get("format_version") != FORMAT_VERSION:
        raise ValueError(
            f"{path} must have format version {FORMAT_VERSION}; got {record.get('format_version')}: use the release"
            " that wrote it"
        )
    if missing := {"config", "tensors", "bytes", "sha256"} - set(record):
        raise ValueError(f"{path} must hold {sorted(missing)}; the record is incomplete")
    return record


def _bytes_or_none(path: Path) -> bytes | None:
    try:
        return path.read_bytes()
    except (FileNotFoundError, NotADirectoryError, IsADirectoryError):
        return None


def _write_through(path: Path, content: bytes) -> None:
    with path.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())


__all__ = ["FORMAT", "FORMAT_VERSION", "RECORD", "TENSORS", "Tensors", "read", "write"]
