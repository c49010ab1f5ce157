"""Which ids of the map make which class of the analyst."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from numpy.typing import NDArray

from pipeline.errors import InputError

IGNORE = 255
"""Value of mask pixels that no class is known of: nodata, ids that are not mapped, and what is not sure enough."""


@dataclass(frozen=True)
class ClassMapping:
    """The analyst's classes in their order, which is their value in the masks: name and ids of the map."""

    classes: tuple[tuple[str, tuple[int, ...]], ...]

    def __post_init__(self) -> None:
        ids = [i for _, each in self.classes for i in each]
        if not 1 <= len(self.classes) < IGNORE or not all(each for _, each in self.classes):
            raise ValueError(f"classes must be 1 to {IGNORE - 1}, each with an id; got {self.classes}")
        if twice := sorted({i for i in ids if ids.count(i) > 1}):
            raise ValueError(f"an id must belong to one class; {twice} belong to several")

    @property
    def names(self) -> list[str]:
        """Names of the classes; their place is their value in the masks."""
        return [name for name, _ in self.classes]

    @property
    def ids(self) -> list[int]:
        """All ids that are mapped, rising."""
        return sorted(i for _, each in self.classes for i in each)

    def table(self) -> NDArray[np.uint8]:
        """Return the value in the mask for each id, ``(65536,)`` uint8.

        Examples
        --------
        >>> ClassMapping((("forest", (0, 3)), ("water", (2,)))).table()[:5].tolist()
        [0, 255, 1, 0, 255]
        """
        table = np.full(65536, IGNORE, np.uint8)
        for value, (_, ids) in enumerate(self.classes):
            table[list(ids)] = value
        return table

    @classmethod
    def read(cls, path: Path, known: list[int]) -> ClassMapping:
        """Read a mapping from YAML: names of classes, each with its ids.

        ``classes:`` is a mapping from a name to an id or a list of ids. Ids that are not named are not learnt from.

        Raises
        ------
        InputError
            The file cannot be read, is of another form, or names ids that are not among `known`.
        """
        try:
            found = yaml.safe_load(path.read_text(encoding="utf-8"))
        except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
            reason = " ".join(str(error).split())
            raise InputError(
                f"--classes {path}: cannot be read as YAML ({reason}); give 'classes:' with names"
            ) from error
        named = found.get("classes") if isinstance(found, dict) else None
        if not isinstance(named, dict) or not named or set(found) != {"classes"}:
            raise InputError(f"--classes {path}: must be 'classes:' with a line 'name: [ids]' for each; got {found!r}")
        try:
            mapping = cls(tuple((str(name), _ids(ids)) for name, ids in _named(named).items()))
        except ValueError as error:
            raise InputError(f"--classes {path}: {error}; correct the file") from error
        if strangers := sorted(set(mapping.ids) - set(known)):
            raise InputError(
                f"--classes {path}: ids {strangers} are not in the map, which has {known}; correct the file"
            )
        return mapping


def _named(found: Mapping[Any, Any]) -> Mapping[Any, Any]:
    return {name: each.get("ids") if isinstance(each, dict) else each for name, each in found.items()}


def _ids(found: object) -> tuple[int, ...]:
    ids = found if isinstance(found, list) else [found]
    if not all(isinstance(i, int) and not isinstance(i, bool) and 0 <= i < 65535 for i in ids):
        raise ValueError(f"ids must be whole numbers; got {found!r}")
    return tuple(ids)
