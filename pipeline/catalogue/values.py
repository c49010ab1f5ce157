"""What a catalogue keeps of its classes, and what a run says of its own."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic import ConfigDict

from ktex_model.radiometry import Scaling
from pipeline.legend import Legend, LegendRemap

Float = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Sites:
    """Which class was seen at fixed points of the ground.

    Attributes
    ----------
    keys
        ``(P,)`` uint64, names of the points: equal points have equal keys in every run.
    ids
        ``(P,)`` int64, the class seen there.
    """

    keys: NDArray[np.uint64]
    ids: NDArray[np.int64]

    def __post_init__(self) -> None:
        if self.keys.ndim != 1 or self.keys.shape != self.ids.shape:
            raise ValueError(f"sites must have one key and one id each; got {self.keys.shape} and {self.ids.shape}")

    def __len__(self) -> int:
        return len(self.keys)

    @classmethod
    def none(cls) -> Sites:
        """Return no sites."""
        return cls(np.zeros(0, np.uint64), np.zeros(0, np.int64))

    def of(self, chosen: NDArray[Any]) -> Sites:
        """Return some sites, by mask or position."""
        return Sites(self.keys[chosen], self.ids[chosen])


@dataclass(frozen=True, eq=False)
class Members:
    """Members of classes: a member is one class in one patch of a scene.

    Attributes
    ----------
    ids
        ``(M,)`` int64, the class of each.
    pixels
        ``(M,)`` int64, pixels of the class in the patch.
    features
        ``(M, D)`` float64, robust mean of the texture features there.
    sites
        Where on the ground the classes were seen.
    """

    ids: NDArray[np.int64]
    pixels: NDArray[np.int64]
    features: Float
    sites: Sites = field(default_factory=Sites.none)

    def __post_init__(self) -> None:
        if self.features.ndim != 2 or not self.ids.shape == self.pixels.shape == self.features.shape[:1]:
            raise ValueError(
                f"members must have one id, number of pixels and row of features each; got {self.ids.shape}, "
                f"{self.pixels.shape} and {self.features.shape}"
            )
        if not np.isfinite(self.features).all():
            raise ValueError("`features` of members must be finite")

    def __len__(self) -> int:
        return len(self.ids)

    def of(self, chosen: NDArray[Any]) -> Members:
        """Return some members, by mask or position, and all sites."""
        return replace(self, ids=self.ids[chosen], pixels=self.pixels[chosen], features=self.features[chosen])

    def renamed(self, table: Mapping[int, int]) -> Members:
        """Return members and sites under other ids; an id that `table` does not hold stays."""
        used, at = np.unique(np.concatenate([self.ids, self.sites.ids]), return_inverse=True)
        ids = np.array([table.get(int(i), int(i)) for i in used], dtype=np.int64)[at]
        return replace(self, ids=ids[: len(self)], sites=replace(self.sites, ids=ids[len(self) :]))

    def to_arrays(self) -> dict[str, NDArray[Any]]:
        """Return plain arrays."""
        own = {"ids": self.ids, "pixels": self.pixels, "features": self.features}
        return own | {"site_keys": self.sites.keys, "site_ids": self.sites.ids}

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, NDArray[Any]]) -> Members:
        """Rebuild from what `to_arrays` returned."""
        return cls(
            np.asarray(arrays["ids"], dtype=np.int64),
            np.asarray(arrays["pixels"], dtype=np.int64),
            np.asarray(arrays["features"], dtype=np.float64),
            Sites(
                np.asarray(arrays.get("site_keys", ()), dtype=np.uint64),
                np.asarray(arrays.get("site_ids", ()), dtype=np.int64),
            ),
        )


@dataclass(frozen=True)
class RunEntry:
    """A run that published with this catalogue.

    Attributes
    ----------
    key, basis
        What names the run, and digest of how it numbered its own classes.
    out, at
        Its directory, and when it published (ISO 8601).
    dates
        First and last date of its imagery.
    mapping
        The catalogue's id of each class, as the run itself had numbered it.
    remaps
        What `ktex refresh` has changed in that since the run published; its map follows.
    """

    __pydantic_config__ = ConfigDict(extra="forbid")

    key: str
    basis: str
    out: str
    at: str
    dates: tuple[str, str]
    mapping: dict[int, int]
    remaps: tuple[LegendRemap, ...] = ()


@dataclass(frozen=True)
class Card:
    """What the signatures of a catalogue were measured with: runs that attach must do the same.

    Attributes
    ----------
    identity
        What names the catalogue, whatever it grows to: the key of the run that began it.
    features
        Version of the texture features.
    bands, scaling
        Bands of the imagery in their order, and the one radiometric rule.
    models
        For the digest of each model that served a whole scene, the id of each of its classes.
    runs
        All runs that attached, in order.
    """

    __pydantic_config__ = ConfigDict(extra="forbid")

    identity: str
    features: int
    bands: tuple[str, ...]
    scaling: Scaling
    models: dict[str, dict[int, int]] = field(default_factory=dict)
    runs: tuple[RunEntry, ...] = ()

    def run(self, key: str) -> RunEntry | None:
        """Return the entry of a run; None where it never published here."""
        return next((each for each in self.runs if each.key == key), None)

    @property
    def latest(self) -> tuple[RunEntry, ...]:
        """The runs that no later one has replaced in its directory, in order."""
        return tuple({each.out: each for each in self.runs}.values())


@dataclass(frozen=True, eq=False)
class Catalogue:
    """All classes that ever got an id, and how to recognise them.

    Attributes
    ----------
    legend
        Classes, names, colours and history.
    card
        With what the signatures were measured.
    members
        A sample of the members of each class. Those of a class that became part of another keep the id that they
        had: what was merged has several looks, and each is recognised by itself.
    whitening
        ``(D, D)``: features times this have variance 1 inside a class. Made with the first run, and kept.
    """

    legend: Legend
    card: Card
    members: Members
    whitening: Float

    def known_sites(self) -> Sites:
        """Return the sites under the ids that their classes go by after all merges."""
        used, at = np.unique(self.members.sites.ids, return_inverse=True)
        now = np.array([self.legend.current(int(i)) for i in used], dtype=np.int64)
        return replace(self.members.sites, ids=now[at])
