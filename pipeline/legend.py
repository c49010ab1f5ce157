"""The legend: which classes a map holds, how they are named and coloured. One value colours every output."""

from __future__ import annotations

import json
import re
import unicodedata
from collections.abc import Mapping
from dataclasses import dataclass, fields
from functools import cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from pydantic import ConfigDict, TypeAdapter, ValidationError

from pipeline.errors import InputError
from pipeline.formats import require_version
from pipeline.workspace import write_json

MAX_IDS = {"uint8": 255, "uint16": 65535}
"""So many ids, from 0, labels of a type can hold; the next value is nodata."""

PALETTE = 255
"""Ids below have colours as far from each other as can be; those above only different ones."""

FORMAT = "ktextures-classes"
VERSION = 1

OKABE_ITO = ("#E69F00", "#56B4E9", "#009E73", "#F0E442", "#0072B2", "#D55E00", "#CC79A7", "#000000")
"""The eight colours of Okabe and Ito, told apart with all common forms of colour blindness."""


def _oklab(rgb: NDArray[np.uint8]) -> NDArray[np.float64]:
    """Convert sRGB ``(n, 3)`` to the perceptually even OKLab ``(n, 3)``: lightness 0..1 and two opponent axes."""
    srgb = rgb / 255.0
    linear = np.where(srgb <= 0.04045, srgb / 12.92, ((srgb + 0.055) / 1.055) ** 2.4)
    cones = linear @ np.array(
        [[0.4122214708, 0.2119034982, 0.0883024619], [0.5363325363, 0.6806995451, 0.2817188376],
         [0.0514459929, 0.1073969566, 0.6299787005]]
    )  # fmt: skip
    lab: NDArray[np.float64] = np.cbrt(cones) @ np.array(
        [[0.2104542553, 1.9779984951, 0.0259040371], [0.7936177850, -2.4285922050, 0.7827717662],
         [-0.0040720468, 0.4505937099, -0.8086757660]]
    )  # fmt: skip
    return lab


_LEVELS, _DARKEST, _SPACING, _STEP = 44, 44, 4, 32_749
"""The lattice of the later colours: levels of a channel, the lowest, their distance, and the step from id to id."""


@cache
def _palette() -> tuple[str, ...]:
    """Make the colours of the first 255 ids; each after the eighth is the one farthest from all before it.

    The candidates are a lattice in sRGB, without the very dark and the very light, which a map's frame or a
    transparent background would swallow. Distances are rounded, so that the last bit of a machine's arithmetic
    decides nothing and ties go to the first candidate: the table is the same everywhere and for ever.

    References
    ----------
    Okabe and Ito (2008), Color Universal Design. Ottosson (2020), A perceptual color space for image processing.
    """
    steps = np.linspace(0, 255, 18).round().astype(np.uint8)
    lattice = np.stack(np.meshgrid(steps, steps, steps, indexing="ij"), axis=-1).reshape(-1, 3)
    lab = _oklab(lattice)
    inside = (lab[:, 0] > 0.3) & (lab[:, 0] < 0.93)
    lattice, lab = lattice[inside], lab[inside]
    colours = [tuple(bytes.fromhex(colour[1:])) for colour in OKABE_ITO]
    nearest = np.full(len(lab), np.inf)
    while True:
        new = _oklab(np.array(colours[-1:] if len(colours) > len(OKABE_ITO) else colours, np.uint8))
        nearest = np.minimum(nearest, np.linalg.norm(lab[:, None] - new[None], axis=2).min(axis=1).round(6))
        if len(colours) == PALETTE:
            return tuple("#{:02X}{:02X}{:02X}".format(*colour) for colour in colours)
        colours.append(tuple(int(value) for value in lattice[np.argmax(nearest)]))


def colour_of(class_id: int) -> str:
    """Return the colour of an id, ``#RRGGBB``: the same in every map, whatever other classes it holds.

    Ids 0..7 have the colours of Okabe and Ito, safe for the colour-blind; those up to 254 follow by distance in OKLab;
    those from 255 on, which only labels of uint16 have, walk through a lattice in sRGB and never come to one twice.

    Examples
    --------
    >>> colour_of(0), colour_of(4)
    ('#E69F00', '#0072B2')
    """
    if not 0 <= class_id < MAX_IDS["uint16"]:
        raise ValueError(f"`class_id` must be 0..{MAX_IDS['uint16'] - 1}; got {class_id}")
    if class_id < PALETTE:
        return _palette()[class_id]
    # Neither the number of levels nor their product has a factor in common with the step.
    place, channels = (class_id - PALETTE) * _STEP % _LEVELS**3, []
    for _ in range(3):
        place, level = divmod(place, _LEVELS)
        channels.append(_DARKEST + _SPACING * level)
    return "#{:02X}{:02X}{:02X}".format(*channels)


def token(name: str) -> str:
    """Turn a name into one word of CF ``flag_meanings``: ASCII letters, digits and ``_-.+@``; may be empty.

    Examples
    --------
    >>> token("class 3"), token("Forêt (dense)"), token("水")
    ('class_3', 'Foret_dense', '')
    """
    ascii_name = unicodedata.normalize("NFKD", name).encode("ascii", "ignore").decode()
    return re.sub(r"[^A-Za-z0-9_.+@-]+", "_", ascii_name).strip("_")


@dataclass(frozen=True)
class LegendClass:
    """One class of a map.

    Attributes
    ----------
    id
        Its value in the rasters, 0..254, or 0..65534 where they are uint16.
    name
        For people; ``class <id>`` where none was given. One printable line.
    colour
        ``#RRGGBB``; that of `colour_of` where none was given.
    pixels, share
        How many pixels have it, and their share of the valid pixels, 0..1.
    signature
        Texture features, as the alignment describes the class.
    spectrum
        Mean of each band in the units of the source.
    parents
        Classes that became part of this one.
    first_seen, last_seen
        Dates of the imagery in which it was found: ``2012-07-31``; empty where not known.
    """

    __pydantic_config__ = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False)

    id: int
    name: str = ""
    colour: str = ""
    pixels: int = 0
    share: float = 0.0
    signature: tuple[float, ...] = ()
    spectrum: tuple[float, ...] = ()
    parents: tuple[int, ...] = ()
    first_seen: str = ""
    last_seen: str = ""

    def __post_init__(self) -> None:
        if not 0 <= self.id < MAX_IDS["uint16"]:
            raise ValueError(f"class id must be 0..{MAX_IDS['uint16'] - 1}; got {self.id}")
        object.__setattr__(self, "name", self.name.strip() or f"class {self.id}")
        object.__setattr__(self, "colour", self.colour.upper() or colour_of(self.id))
        if not self.name.isprintable():
            raise ValueError(f"name of class {self.id} must be one printable line; got {self.name!r}")
        if not re.fullmatch("#[0-9A-F]{6}", self.colour):
            raise ValueError(f"colour of class {self.id} must be #RRGGBB; got {self.colour!r}")
        if self.pixels < 0 or not 0 <= self.share <= 1:
            raise ValueError(
                f"class {self.id} must have pixels >= 0 and a share of 0..1; got {self.pixels} and {self.share}"
            )
        if not np.isfinite([*self.signature, *self.spectrum]).all():
            raise ValueError(f"signature and spectrum of class {self.id} must be finite numbers")


@dataclass(frozen=True)
class LegendMerge:
    """That class `gone`, then called `name`, became part of class `kept`, and when (ISO 8601). Its id is not reused."""

    __pydantic_config__ = ConfigDict(extra="forbid", strict=True)

    gone: int
    kept: int
    at: str
    name: str = ""


@dataclass(frozen=True)
class LegendRemap:
    """That a look at all runs together gave some classes of a map other ids, all at once.

    Attributes
    ----------
    at
        When (ISO 8601).
    ids
        Pairs of the id before and the id after.
    merges
        How many merges of the same history came before it.
    """

    __pydantic_config__ = ConfigDict(extra="forbid", strict=True)

    at: str
    ids: tuple[tuple[int, int], ...]
    merges: int = 0

    @property
    def name(self) -> tuple[str, tuple[tuple[int, int], ...]]:
        """What it is known by in every history that it is in."""
        return self.at, self.ids


@dataclass(frozen=True)
class Legend:
    """All classes of a map, in the order of their ids; of a catalogue, all classes.

    Attributes
    ----------
    classes
        The classes that occur.
    known
        Other classes that the catalogue knows, in the order of their ids: this map holds no pixel of them.
    merges
        Classes that became part of others, in the order in which that was done.
    next_id
        The id that a new class would get: higher than all that were ever given.
    signatures
        Name of the file, in the same directory, by which later runs recognise the classes; empty where there is none.
    remaps
        Classes of this map, and of no other, that got other ids by `ktex refresh`; in order.
    """

    classes: tuple[LegendClass, ...]
    known: tuple[LegendClass, ...] = ()
    merges: tuple[LegendMerge, ...] = ()
    next_id: int = 0
    signatures: str = ""
    remaps: tuple[LegendRemap, ...] = ()

    def __post_init__(self) -> None:
        for part in (self.classes, self.known):
            ids = [each.id for each in part]
            if ids != sorted(set(ids)):
                raise ValueError(f"class ids must rise, each once; got {ids}")
        living = {each.id for each in (*self.classes, *self.known)}
        if len(living) != len(self.classes) + len(self.known):
            raise ValueError(f"`known` must hold other classes than `classes`; got {sorted(living)} in both")
        gone: set[int] = set()
        for merge in self.merges:
            if merge.gone in living | gone or merge.gone == merge.kept or merge.kept in gone:
                raise ValueError(f"merges must join a living class into another, each once; got {merge}")
            gone.add(merge.gone)
        if "/" in self.signatures:
            raise ValueError(f"`signatures` must name a file beside the legend; got {self.signatures!r}")
        object.__setattr__(self, "next_id", max(self.next_id, 1 + max(living | gone, default=-1)))

    @classmethod
    def from_counts(
        cls,
        pixels: Mapping[int, int],
        *,
        names: Mapping[int, str] | None = None,
        colours: Mapping[int, str] | None = None,
        signatures: Mapping[int, tuple[float, ...]] | None = None,
        spectra: Mapping[int, tuple[float, ...]] | None = None,
    ) -> Legend:
        """Make a legend from the number of pixels of each id; what is not given gets its default.

        Examples
        --------
        >>> [(c.name, c.share) for c in Legend.from_counts({4: 30, 0: 10}, names={4: "water"}).classes]
        [('class 0', 0.25), ('water', 0.75)]
        """
        names, colours, signatures, spectra = names or {}, colours or {}, signatures or {}, spectra or {}
        total = sum(pixels.values())
        return cls(
            tuple(
                LegendClass(
                    id=int(i),
                    name=names.get(i, ""),
                    colour=colours.get(i, ""),
                    pixels=int(pixels[i]),
                    share=float(pixels[i] / total) if total else 0.0,
                    signature=tuple(float(value) for value in signatures.get(i, ())),
                    spectrum=tuple(float(value) for value in spectra.get(i, ())),
                )
                for i in sorted(pixels)
            )
        )

    def __getitem__(self, class_id: int) -> LegendClass:
        for each in self.classes:
            if each.id == class_id:
                return each
        raise KeyError(class_id)

    def __len__(self) -> int:
        return len(self.classes)

    @property
    def ids(self) -> list[int]:
        """The ids in use, rising."""
        return [each.id for each in self.classes]

    @property
    def everything(self) -> tuple[LegendClass, ...]:
        """The classes that occur and those that are only known, in the order of their ids."""
        return tuple(sorted((*self.classes, *self.known), key=lambda each: each.id))

    def current(self, class_id: int) -> int:
        """Return the id that a class goes by after all merges.

        Examples
        --------
        >>> history = LegendMerge(3, 2, "2021-01-01"), LegendMerge(2, 0, "2021-02-01")
        >>> Legend((LegendClass(0),), merges=history).current(3)
        0
        """
        for merge in self.merges:
            if merge.gone == class_id:
                class_id = merge.kept
        return class_id

    def renamed(self, class_id: int, since: Legend) -> int:
        """Return the id under which a map shows a class that it showed as `class_id` when its history was `since`.

        Examples
        --------
        >>> before = Legend((LegendClass(2), LegendClass(3)))
        >>> history = LegendRemap("2021-01-01", ((2, 3), (3, 5))), LegendMerge(5, 0, "2021-02-01")
        >>> now = Legend((LegendClass(0), LegendClass(3)), remaps=history[:1], merges=history[1:])
        >>> now.renamed(2, before), now.renamed(3, before)
        (3, 0)
        """
        carried_out = {each.name for each in since.remaps}
        for count in range(len(self.merges) + 1):
            for each in self.remaps:
                if each.merges == count and each.name not in carried_out:
                    class_id = dict(each.ids).get(class_id, class_id)
            if count < len(self.merges) and self.merges[count].gone == class_id:
                class_id = self.merges[count].kept
        return class_id

    @property
    def tokens(self) -> list[str]:
        """One CF-safe word for each class, in the order of `ids`, each different.

        Examples
        --------
        >>> Legend((LegendClass(0, "bare soil"), LegendClass(3, "bare (soil)"), LegendClass(7, "水"))).tokens
        ['bare_soil', 'bare_soil_3', 'class_7']
        """
        words: list[str] = []
        for each in self.classes:
            word = token(each.name) or f"class_{each.id}"
            while word in words:
                word = f"{word}_{each.id}"
            words.append(word)
        return words

    def colour_of(self, class_id: int) -> str:
        """Return the colour of a class of this legend, or the default one of an id that it does not hold."""
        return next((each.colour for each in self.classes if each.id == class_id), colour_of(class_id))

    def rgba(self, dtype: str = "uint8") -> NDArray[np.uint8]:
        """Return the colours of all values of labels ``(256 or 65536, 4)`` uint8: transparent but for the classes."""
        table = np.zeros((np.iinfo(dtype).max + 1, 4), np.uint8)
        for each in self.classes:
            table[each.id] = [*bytes.fromhex(each.colour[1:]), 255]
        return table

    def to_json(self, path: str | Path) -> None:
        """Write ``classes.json`` in one step: readers see the old one or the new one."""
        content = {"format": FORMAT, "version": VERSION, **_LEGEND.dump_python(self, mode="json")}
        if not self.remaps:
            del content["remaps"]  # so that programs which know of none read what has none
        write_json(Path(path), content)

    @classmethod
    def from_json(cls, path: str | Path) -> Legend:
        """Read ``classes.json``; raises InputError where it is absent, of another format, or wrong."""
        try:
            found = json.loads(Path(path).read_text(encoding="utf-8"))
        except OSError as error:
            raise InputError(f"{path}: no legend can be read here ({error.strerror}); expected classes.json") from error
        except ValueError as error:
            raise InputError(f"{path}: not JSON ({error}); restore the classes.json of the run") from error
        if not isinstance(found, dict) or found.get("format") != FORMAT:
            raise InputError(f'{path}: not a legend; expected a JSON object with "format": "{FORMAT}"')
        require_version(path, found.get("version"), VERSION)
        parts = [each.name for each in fields(cls)]
        if extra := sorted(set(found) - {"format", "version", *parts}):
            raise InputError(f"{path}: unknown keys {extra}; expected format, version and {', '.join(parts)}")
        try:
            return _LEGEND.validate_json(json.dumps({name: found[name] for name in parts if name in found}))
        except ValidationError as error:
            first = error.errors()[0]
            where = ".".join(str(part) for part in first["loc"])
            message = first["msg"].removeprefix("Value error, ")
            raise InputError(f"{path}: {f'{where}: ' if where else ''}{message}; correct it by hand") from error


_LEGEND: TypeAdapter[Legend] = TypeAdapter(Legend)
