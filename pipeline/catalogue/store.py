"""The catalogue on disk, and its lock.

A catalogue directory holds ``classes.json``, the legend, and beside it a file of signatures that the legend names.
A new state is a new file of signatures, then the legend in one step: readers see the old state or the new one. Every
run directory holds the same two, as they were when the run was published, and may be attached to like a catalogue;
then it is only read.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import time
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import IO, Any, Self

import numpy as np
import safetensors
import safetensors.numpy
from pydantic import TypeAdapter, ValidationError

from pipeline.catalogue.values import Card, Catalogue, Members
from pipeline.errors import InputError
from pipeline.formats import FIRST, require_version
from pipeline.legend import Legend
from pipeline.workspace import RECORD, whole

CLASSES = "classes.json"
SIGNATURES = "signatures.safetensors"
LOCK = "lock"
NODES = "nodes"
"""Folder of what each run said of its classes (`pipeline.catalogue.nodes`)."""
VERSION = 1
"""Format of the file of signatures."""

DIGEST_CHARS = 16
_SIGNATURES = "signatures-{}.safetensors"
_CARD: TypeAdapter[Card] = TypeAdapter(Card)
_POLL_S = 0.5


def is_run(directory: Path) -> bool:
    """Whether a directory is that of a published run, whose catalogue must not grow."""
    return (directory / RECORD).exists()


def is_new(directory: Path) -> bool:
    """Whether a catalogue could begin here: nothing is there, or nothing but what one that was about to begin left."""
    left = {LOCK, NODES}
    return not directory.exists() or (directory.is_dir() and all(path.name in left for path in directory.iterdir()))


def read_catalogue(directory: Path) -> Catalogue:
    """Read a catalogue, or what a run keeps of it; raises InputError where there is none, or parts do not fit."""
    if not (directory / CLASSES).exists():
        raise InputError(f"{directory}: holds no catalogue ({CLASSES} is missing); give a catalogue or a run directory")
    legend = Legend.from_json(directory / CLASSES)
    path = directory / legend.signatures
    if not legend.signatures or not path.is_file():
        raise InputError(f"{directory}: the signatures of its classes are missing; run the scene again with --fresh")
    try:
        with safetensors.safe_open(path, framework="numpy") as file:
            said = json.loads((file.metadata() or {}).get("card", ""))
            require_version(path, said.pop("version", FIRST), VERSION)
            card = _CARD.validate_json(json.dumps(said))
            arrays = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (no mapping)
        members = Members.from_arrays(arrays)
        whitening = np.asarray(arrays["whitening"], dtype=np.float64)
    except InputError:
        raise
    except (safetensors.SafetensorError, ValidationError, AttributeError, KeyError, TypeError, ValueError) as error:
        reason = " ".join(str(error).split())[:200]
        raise InputError(
            f"{path}: is no file of signatures ({reason}); restore it, or begin a new catalogue"
        ) from error
    return Catalogue(legend, card, members, whitening)


def check_catalogue(directory: Path) -> None:
    """Raise InputError where a catalogue cannot be read, or its signatures are not those that it was written with."""
    name = read_catalogue(directory).legend.signatures
    digest = hashlib.sha256((directory / name).read_bytes()).hexdigest()[:DIGEST_CHARS]
    if name != _SIGNATURES.format(digest) and name != SIGNATURES:
        raise InputError(f"{directory / name}: is not what was written (its name says so); restore it from a backup")


def write_signatures(path: Path, catalogue: Catalogue) -> None:
    """Write the signatures, whole or not at all."""
    with whole(path) as partial:
        partial.write_bytes(_pack(catalogue))


def write_catalogue(directory: Path, catalogue: Catalogue) -> None:
    """Replace the state of a catalogue directory in one step; whoever calls this holds the lock."""
    directory.mkdir(parents=True, exist_ok=True)
    packed = _pack(catalogue)
    name = _SIGNATURES.format(hashlib.sha256(packed).hexdigest()[:DIGEST_CHARS])
    with whole(directory / name) as partial:
        partial.write_bytes(packed)
    replace(catalogue.legend, signatures=name).to_json(directory / CLASSES)
    for path in directory.glob("signatures-*.safetensors"):
        if path.name != name:
            path.unlink()


def _pack(catalogue: Catalogue) -> bytes:
    arrays: dict[str, Any] = {**catalogue.members.to_arrays(), "whitening": catalogue.whitening}
    # One entry alone: of several the order in the file would change from time to time.
    said = _CARD.dump_python(catalogue.card, mode="json")
    for run in said["runs"]:
        if not run["remaps"]:
            del run["remaps"]  # so that programs which know of none read what has none
    card = json.dumps({"version": VERSION, **said}, sort_keys=True)
    packed: bytes = safetensors.numpy.save(
        {name: np.ascontiguousarray(array) for name, array in arrays.items()},
        metadata={"card": card},
    )
    return packed


class CatalogueLock:
    """The right to change a catalogue, held until it is closed or the process ends.

    Parameters
    ----------
    directory
        Of the catalogue; made where it is missing.
    holder
        Who holds it, for the message to others.
    wait_s
        How long to wait for another holder.

    Raises
    ------
    InputError
        Another process holds it, or the directory cannot be written.
    """

    def __init__(self, directory: Path, holder: str, wait_s: float = 0.0) -> None:
        self.directory = directory
        try:
            directory.mkdir(parents=True, exist_ok=True)
            file = (directory / LOCK).open("a+", encoding="utf-8")
        except OSError as error:
            raise InputError(
                f"--catalogue {directory}: cannot be written ({error.strerror}); give another directory"
            ) from error
        self._file: IO[str] | None = file
        end = time.monotonic() + wait_s
        while not _locked(file):
            if time.monotonic() >= end:
                file.seek(0)
                other = file.read().strip() or "another process"
                self.close()
                raise InputError(f"--catalogue {directory}: is in use by {other}; give the same command again later")
            time.sleep(_POLL_S)
        file.seek(0)
        file.truncate()
        file.write(f"{holder} (process {os.getpid()})\n")
        file.flush()

    def close(self) -> None:
        """Give the catalogue free."""
        if self._file is not None:
            self._file.close()
            self._file = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def _locked(file: IO[str]) -> bool:
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    return True
