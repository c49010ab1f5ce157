"""What blocks leave behind for the alignment, and what the alignment returns.

A *node* is one class of one block's own model. It is known by its signature (a robust mean of fixed texture
features) and by the pixels that it shares with the nodes of neighbouring blocks.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ktex_model.model import NO_CLASS
from pipeline.blocks import Index

Ids = NDArray[np.uint8] | NDArray[np.uint16]


@dataclass(frozen=True, eq=False)
class BlockSignature:
    """The classes of one block.

    Attributes
    ----------
    index
        The block.
    ids
        ``(n,)`` int64, the local ids in use, ascending.
    pixels
        ``(n,)`` int64, how many pixels of the wide window hold each id.
    features
        ``(n, D)`` float32, robust mean of the texture features of each id; NaN where none could be measured.
    spread
        ``(n, D)`` float32, robust standard deviation of the same; NaN likewise.
    levels
        For each block around, ``(band,)`` float32: how bright this block saw the pixels that both share (`level`).
    """

    index: Index
    ids: NDArray[np.int64]
    pixels: NDArray[np.int64]
    features: NDArray[np.float32]
    spread: NDArray[np.float32]
    levels: Mapping[Index, NDArray[np.float32]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        n = len(self.ids)
        shapes = self.pixels.shape, self.features.shape[:1], self.spread.shape
        if n == 0 or shapes != ((n,), (n,), self.features.shape) or self.features.ndim != 2:
            raise ValueError(
                f"`pixels`, `features` and `spread` must have one row for each of 1 or more ids; got {n} ids and "
                f"{self.pixels.shape}, {self.features.shape}, {self.spread.shape} at block {self.index}"
            )
        if np.any(np.diff(self.ids) <= 0) or self.ids[0] < 0:
            raise ValueError(f"`ids` must be ascending and unique; got {self.ids.tolist()} at block {self.index}")

    def to_arrays(self) -> dict[str, NDArray[Any]]:
        """Return plain arrays, for `numpy.savez`."""
        return {
            "index": np.asarray(self.index, dtype=np.int64),
            "ids": self.ids,
            "pixels": self.pixels,
            "features": self.features,
            "spread": self.spread,
            "around": np.asarray(list(self.levels), dtype=np.int64).reshape(-1, 2),
            "levels": np.asarray(list(self.levels.values()), dtype=np.float32),
        }

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, NDArray[Any]]) -> BlockSignature:
        """Rebuild from what `to_arrays` returned."""
        iy, ix = (int(i) for i in arrays["index"])
        around = ((int(y), int(x)) for y, x in arrays["around"])
        return cls(
            (iy, ix),
            np.asarray(arrays["ids"], dtype=np.int64),
            np.asarray(arrays["pixels"], dtype=np.int64),
            np.asarray(arrays["features"], dtype=np.float32),
            np.asarray(arrays["spread"], dtype=np.float32),
            dict(zip(around, np.asarray(arrays["levels"], dtype=np.float32), strict=True)),
        )


@dataclass(frozen=True, eq=False)
class Overlap:
    """What two neighbouring blocks say about the pixels that they share.

    Attributes
    ----------
    a, b
        The blocks.
    table
        ``(n_a, n_b)`` int64, shared pixels by id in `a` (row) and in `b`, in the order of the signatures' `ids`.
    delta
        ``(D,)`` float32, robust difference of the features of the same pixels, `a` minus `b`. 0 where both blocks
        read the same image; not 0 across dates and sensors.
    weight
        On how many pixels `delta` rests; 0 where it was not measured.
    """

    a: Index
    b: Index
    table: NDArray[np.int64]
    delta: NDArray[np.float32]
    weight: float = 0.0

    def __post_init__(self) -> None:
        if self.a == self.b or self.table.ndim != 2 or self.delta.ndim != 1:
            raise ValueError(
                f"an overlap must join two blocks by a table of 2 axes and a delta of 1; got {self.a} and {self.b}, "
                f"{self.table.shape}, {self.delta.shape}"
            )

    def to_arrays(self) -> dict[str, NDArray[Any]]:
        """Return plain arrays, for `numpy.savez`."""
        return {
            "a": np.asarray(self.a, dtype=np.int64),
            "b": np.asarray(self.b, dtype=np.int64),
            "table": self.table,
            "delta": self.delta,
            "weight": np.asarray(self.weight, dtype=np.float64),
        }

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, NDArray[Any]]) -> Overlap:
        """Rebuild from what `to_arrays` returned."""
        (ay, ax), (by, bx) = (tuple(int(i) for i in arrays[key]) for key in ("a", "b"))
        return cls(
            (ay, ax),
            (by, bx),
            np.asarray(arrays["table"], dtype=np.int64),
            np.asarray(arrays["delta"], dtype=np.float32),
            float(arrays["weight"]),
        )


@dataclass(frozen=True)
class ClassSummary:
    """One global class.

    Attributes
    ----------
    id
        The global id.
    pixels
        Pixels of all wide windows that hold it: shared pixels count for each block.
    blocks
        In how many blocks it occurs.
    signature
        ``D`` floats: mean features of its nodes, weighted by pixels, as measured (drift not removed).
    """

    id: int
    pixels: int
    blocks: int
    signature: tuple[float, ...]


@dataclass(frozen=True)
class Merge:
    """Two clusters that became one class, and why; `log_odds` is None where they never met in an overlap."""

    kept: int
    gone: int
    reason: str
    log_odds: float | None
    distance: float
    contact_px: int


@dataclass(frozen=True)
class Mixed:
    """A class of one block that holds two of the map: it was split too little.

    Attributes
    ----------
    block, id
        The block, and the class by its own numbering.
    classes
        The global id that it was given, and the one that it holds besides.
    share
        Of its shared pixels, how many neighbours give to the second, 0..1.
    """

    block: Index
    id: int
    classes: tuple[int, int]
    share: float


@dataclass(frozen=True)
class Confusion:
    """Two classes that blocks give to the same pixels: of the rarer one's shared pixels, which `share` (0..1)."""

    classes: tuple[int, int]
    pixels: int
    share: float


@dataclass(frozen=True)
class Contested:
    """A block, its shared pixels, and in which `share` (0..1) of them its neighbours see another class."""

    block: Index
    shared_px: int
    share: float


@dataclass(frozen=True)
class Repair:
    """A class of one block that held two of the map, and what became of looking at its pixels again.

    Attributes
    ----------
    block, id
        The block, and the class by its own numbering.
    new_id
        What those of its pixels are called now that are the second class; None where nothing was changed.
    donor
        The block whose model tells the two apart; None where none was found that could be tried.
    told_px
        Pixels of the class that lie in overlaps with blocks other than the donor, on which the change was tried.
    before, after
        How many of them those blocks call otherwise.
    pixels
        How many pixels of the wide window were changed.
    """

    block: Index
    id: int
    new_id: int | None
    donor: Index | None
    told_px: int = 0
    before: int = 0
    after: int = 0
    pixels: int = 0


@dataclass(frozen=True, eq=False)
class Alignment:
    """Global ids for the local ids of all blocks.

    Attributes
    ----------
    lookup
        For each block a table from local to global id, of length ``max id + 1``; `no_class` where unused. uint8 and
        255 up to 255 classes, else uint16 and 65535.
    posterior, margin
        For each block, float32 in 0..1 for each local id (0 where unused): probability of the id given, and its
        lead over the second.
    second
        For each block, like `lookup`, the id that is next most probable; `no_class` where there is none.
    classes
        One summary for each global id, in the order of the ids.
    merges
        How clusters were joined, in order. `kept` and `gone` number the clusters of that step, not the global ids.
    flags
        What a person should look at, one sentence each.
    mixed
        Classes of single blocks that hold two of the map.
    repairs
        What became of those that were found before it was solved for the last time.
    confusions, contested
        Classes that blocks take for each other, and blocks that differ from their neighbours: the worst first.
    """

    lookup: dict[Index, Ids]
    posterior: dict[Index, NDArray[np.float32]]
    margin: dict[Index, NDArray[np.float32]]
    classes: tuple[ClassSummary, ...]
    merges: tuple[Merge, ...] = ()
    flags: tuple[str, ...] = field(default=())
    mixed: tuple[Mixed, ...] = ()
    repairs: tuple[Repair, ...] = ()
    confusions: tuple[Confusion, ...] = ()
    contested: tuple[Contested, ...] = ()
    second: Mapping[Index, Ids] = field(default_factory=dict)

    @property
    def no_class(self) -> int:
        """The value that means no class in `lookup`."""
        return 65535 if any(table.dtype == np.uint16 for table in self.lookup.values()) else NO_CLASS

    def apply(self, index: Index, labels: NDArray[np.uint8]) -> Ids:
        """Map local labels of a block; nodata stays nodata.

        Raises
        ------
        KeyError
            `index` was not aligned, or a label was not among its ids.
        """
        table = np.full(256, self.no_class, dtype=self.lookup[index].dtype)
        table[: len(self.lookup[index])] = self.lookup[index]
        mapped: Ids = table[labels]
        strangers = (mapped == self.no_class) & (labels != NO_CLASS)
        if strangers.any():
            raise KeyError(f"local id {int(labels[strangers][0])} of block {index} was not aligned")
        return mapped

    def to_json(self) -> dict[str, Any]:
        """Return plain values, for `json.dump`."""
        blocks = [
            {
                "index": list(index),
                "lookup": table.tolist(),
                "posterior": np.round(self.posterior[index].astype(float), 6).tolist(),
                "margin": np.round(self.margin[index].astype(float), 6).tolist(),
                **({"second": self.second[index].tolist()} if index in self.second else {}),
            }
            for index, table in self.lookup.items()
        ]
        return {
            "blocks": blocks,
            "classes": [vars(c) | {"signature": list(c.signature)} for c in self.classes],
            "merges": [dict(vars(m)) for m in self.merges],
            "flags": list(self.flags),
            "mixed": [vars(m) | {"block": list(m.block), "classes": list(m.classes)} for m in self.mixed],
            "repairs": [vars(r) | {"block": list(r.block), "donor": r.donor and list(r.donor)} for r in self.repairs],
            "confusions": [vars(c) | {"classes": list(c.classes)} for c in self.confusions],
            "contested": [vars(c) | {"block": list(c.block)} for c in self.contested],
        }

    @classmethod
    def from_json(cls, record: Mapping[str, Any]) -> Alignment:
        """Rebuild from what `to_json` returned."""
        index = {(int(b["index"][0]), int(b["index"][1])): b for b in record["blocks"]}
        return cls(
            {i: _ids(b["lookup"], len(record["classes"])) for i, b in index.items()},
            {i: np.asarray(b["posterior"], dtype=np.float32) for i, b in index.items()},
            {i: np.asarray(b["margin"], dtype=np.float32) for i, b in index.items()},
            tuple(ClassSummary(**c | {"signature": tuple(c["signature"])}) for c in record["classes"]),
            tuple(Merge(**m) for m in record["merges"]),
            tuple(record["flags"]),
            tuple(_mixed(m) for m in record.get("mixed", ())),
            tuple(_repair(r) for r in record.get("repairs", ())),
            tuple(Confusion(**c | {"classes": _pair(c["classes"])}) for c in record.get("confusions", ())),
            tuple(Contested(**c | {"block": _pair(c["block"])}) for c in record.get("contested", ())),
            {i: _ids(b["second"], len(record["classes"])) for i, b in index.items() if "second" in b},
        )


def _pair(values: Sequence[int]) -> tuple[int, int]:
    first, second = values
    return int(first), int(second)


def _mixed(record: Mapping[str, Any]) -> Mixed:
    (iy, ix), (first, second) = record["block"], record["classes"]
    return Mixed((int(iy), int(ix)), int(record["id"]), (int(first), int(second)), float(record["share"]))


def _repair(record: Mapping[str, Any]) -> Repair:
    donor = record["donor"]
    return Repair(**{**record, "block": _pair(record["block"]), "donor": None if donor is None else _pair(donor)})


def _ids(values: Sequence[int], classes: int) -> Ids:
    """Return the table in the smallest type that holds the ids."""
    return np.asarray(values, dtype=np.uint8) if classes <= NO_CLASS else np.asarray(values, dtype=np.uint16)
