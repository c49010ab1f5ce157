"""Nodes: what a run said of each of its classes when it published, kept so that all runs can be looked at together.

A catalogue keeps a sample of members of each class, whichever run they came from. To ask again which class a class of
one run is, what that run saw has to be told from what the others saw: its directory ``nodes`` holds a file of each run.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import safetensors
import safetensors.numpy
from numpy.typing import NDArray

from pipeline.catalogue.store import NODES
from pipeline.catalogue.values import Members
from pipeline.errors import InputError
from pipeline.formats import require_version
from pipeline.workspace import whole

VERSION = 1


@dataclass(frozen=True, eq=False)
class Nodes:
    """The classes of a run, as it had numbered them itself.

    Attributes
    ----------
    members
        Under the run's own ids, as the catalogue sees them: the shift of the run taken off.
    unsure
        Classes that were ambiguous when the run attached.
    pixels
        How many pixels of the map each has.
    model
        Digest of the model where one served the whole scene: runs of one model name their classes together.
    """

    members: Members
    unsure: frozenset[int]
    pixels: dict[int, int]
    model: str | None = None


def write_nodes(directory: Path, key: str, nodes: Nodes) -> None:
    """Keep the nodes of the run `key` in a catalogue directory, in one step; whoever calls this holds the lock."""
    (directory / NODES).mkdir(parents=True, exist_ok=True)
    arrays = {name: np.ascontiguousarray(array) for name, array in nodes.members.to_arrays().items()}
    said = {
        "version": VERSION, "unsure": sorted(nodes.unsure), "pixels": nodes.pixels, "model": nodes.model,
        "sha256": _digest(arrays),
    }  # fmt: skip
    with whole(_path(directory, key)) as partial:
        partial.write_bytes(safetensors.numpy.save(arrays, metadata={"card": json.dumps(said, sort_keys=True)}))


def read_nodes(directory: Path, key: str) -> Nodes | None:
    """Return the nodes of a run; None where there are none, as of a run of an earlier version.

    Raises
    ------
    InputError
        The file is damaged.
    """
    path = _path(directory, key)
    if not path.is_file():
        return None
    try:
        with safetensors.safe_open(path, framework="numpy") as file:
            said: dict[str, Any] = json.loads((file.metadata() or {}).get("card", ""))
            require_version(path, said.get("version"), VERSION)
            arrays = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (no mapping)
        if said["sha256"] != _digest(arrays):
            raise ValueError("its content is not what was written")
        members = Members.from_arrays(arrays)
        pixels = {int(name): int(count) for name, count in said["pixels"].items()}
        return Nodes(members, frozenset(map(int, said["unsure"])), pixels, said["model"])
    except InputError:
        raise
    except (safetensors.SafetensorError, AttributeError, KeyError, TypeError, ValueError) as error:
        reason = " ".join(str(error).split())[:200]
        raise InputError(
            f"{path}: is no file of nodes ({reason}); remove it, and the run keeps the ids that it has"
        ) from error


def _digest(arrays: Mapping[str, NDArray[Any]]) -> str:
    digest = hashlib.sha256()
    for name in sorted(arrays):
        digest.update(f"{name}\0{arrays[name].dtype}\0{arrays[name].shape}\0".encode())
        digest.update(arrays[name].tobytes())
    return digest.hexdigest()


def forget_nodes(directory: Path, kept: Iterable[str]) -> None:
    """Remove the nodes of all runs but those with the keys `kept`."""
    names = {_path(directory, key).name for key in kept}
    for path in (directory / NODES).glob("*.safetensors"):
        if path.name not in names:
            path.unlink()


def _path(directory: Path, key: str) -> Path:
    return directory / NODES / f"{key}.safetensors"
