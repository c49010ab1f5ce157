"""Which band of a file is which: stated by the user, or read where the file leaves no doubt; never guessed.

The count of bands decides nothing: four bands may be red, green, blue and near infrared, or red, green, blue and
transparency. Rules, for each band that the file does not declare as alpha:

1. a description that is a known band name names it (``red``, ``nir``, ``coastal_blue``);
2. otherwise its colour interpretation does (red, green, blue, near infrared, ...; grey where it is the only one);
3. otherwise its description, as it is, unless it sounds like a mask;
4. otherwise it is in doubt, and so is the file: the user has to say.

One layout is known byte for byte, the basemap quad: five bands of uint16 in blue, green, red, undefined and alpha.
There the undefined band is near infrared.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from pipeline.errors import InputError

CANONICAL = ("R", "G", "B", "N")
"""Order of the features, whatever the order in the file; further bands follow."""

NAMED_MAPS = {
    "nicfi": "B=1,G=2,R=3,N=4,alpha=5",
    "rgbn": "R=1,G=2,B=3,N=4",
    "bgrn": "B=1,G=2,R=3,N=4",
    "rgb": "R=1,G=2,B=3",
}

_DESCRIBED = {
    "red": "R", "r": "R", "green": "G", "g": "G", "blue": "B", "b": "B",
    "nir": "N", "n": "N", "nearinfrared": "N", "nir1": "N",
    "alpha": "alpha",
    "coastal": "coastal", "coastalblue": "coastal_blue", "greeni": "green_i", "yellow": "yellow",
    "rededge": "rededge", "pan": "pan", "swir1": "swir1", "swir2": "swir2",
}  # fmt: skip
_INTERPRETED = {
    "red": "R", "green": "G", "blue": "B", "nir": "N", "pan": "pan", "coastal": "coastal", "rededge": "rededge",
    "yellow": "yellow", "swir": "swir", "mwir": "mwir", "lwir": "lwir", "tir": "tir",
}  # fmt: skip
_MASK_LIKE = re.compile(r"mask|cloud|clear|udm|qa|scl|fmask|quality|confidence|shadow|valid", re.IGNORECASE)
_NICFI_INTERPS = ("blue", "green", "red", "undefined", "alpha")


@dataclass(frozen=True)
class BandProfile:
    """What a source says about its bands.

    Attributes
    ----------
    label
        The file or array, for messages.
    count
        Number of bands.
    dtype
        Name of the dtype that all bands share.
    interps
        Colour interpretation of each band, GDAL's names in lower case.
    descriptions
        Description of each band, or None.
    """

    label: str
    count: int
    dtype: str
    interps: tuple[str, ...]
    descriptions: tuple[str | None, ...]

    @property
    def alpha(self) -> int | None:
        """1-based index of the band that is declared as alpha, the first where there are several."""
        declared = [i for i in range(1, self.count + 1) if self.declares_alpha(i)]
        return declared[0] if declared else None

    def declares_alpha(self, index: int) -> bool:
        """Whether the band at the 1-based `index` is declared as alpha, by interpretation or description."""
        return self.interps[index - 1] == "alpha" or _described(self.descriptions[index - 1]) == "alpha"

    def __str__(self) -> str:
        names = ", ".join(name or "-" for name in self.descriptions)
        return f"{self.count} x {self.dtype}, colour interpretation {', '.join(self.interps)}, descriptions {names}"


@dataclass(frozen=True)
class BandMap:
    """Feature bands by name, with their 1-based index in the file, and the band of validity.

    Examples
    --------
    >>> BandMap((("R", 3), ("G", 2), ("B", 1)), alpha=4).names
    ('R', 'G', 'B')
    """

    bands: tuple[tuple[str, int], ...]
    alpha: int | None = None

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the features, in the order in which pixels hold them."""
        return tuple(name for name, _ in self.bands)

    @property
    def indexes(self) -> tuple[int, ...]:
        """1-based indexes of the features in the file."""
        return tuple(index for _, index in self.bands)

    def __str__(self) -> str:
        parts = [f"{name}={index}" for name, index in self.bands]
        return ",".join(parts + ([f"alpha={self.alpha}"] if self.alpha else []))


def parse_bands(text: str) -> BandMap:
    """Read a band map as the option ``--bands`` gives it.

    Parameters
    ----------
    text
        ``nicfi``, ``rgbn``, ``bgrn``, ``rgb``, or pairs such as ``R=3,G=2,B=1,N=4,alpha=5`` of free names and 1-based
        indexes.

    Raises
    ------
    InputError
        If it is neither.

    Examples
    --------
    >>> str(parse_bands("nicfi"))
    'R=3,G=2,B=1,N=4,alpha=5'
    >>> str(parse_bands("swir=2, R=1"))
    'R=1,swir=2'
    """
    pairs: dict[str, int] = {}
    for part in NAMED_MAPS.get(text.strip().lower(), text).split(","):
        match = re.fullmatch(r"\s*([A-Za-z]\w*)\s*=\s*([1-9]\d{0,3})\s*", part, re.ASCII)
        if match is None:
            raise InputError(f"--bands {text!r}: {part.strip()!r} is not understood; {_expected()}")
        name = _canonical_name(match[1])
        if name in pairs:
            raise InputError(f"--bands {text!r}: names {name} twice; {_expected()}")
        pairs[name] = int(match[2])
    alpha = pairs.pop("alpha", None)
    if not pairs:
        raise InputError(f"--bands {text!r}: names no band but alpha; {_expected()}")
    if len({*pairs.values(), alpha}) != len(pairs) + 1:
        raise InputError(f"--bands {text!r}: uses one band twice; {_expected()}")
    return BandMap(_in_feature_order(pairs), alpha)


def _expected() -> str:
    return f"expected {', '.join(NAMED_MAPS)} or pairs such as R=3,G=2,B=1,N=4,alpha=5"


def _canonical_name(name: str) -> str:
    upper = name.upper()
    return upper if upper in CANONICAL else "alpha" if upper == "ALPHA" else name


def _in_feature_order(pairs: dict[str, int]) -> tuple[tuple[str, int], ...]:
    first = [(name, pairs[name]) for name in CANONICAL if name in pairs]
    return tuple(first + [(name, index) for name, index in pairs.items() if name not in CANONICAL])


def infer_bands(profile: BandProfile) -> BandMap:
    """Read the band map from the names and colours that a file declares (the rules are those of this module).

    Raises
    ------
    InputError
        If a band is in doubt, or two bands claim one name; says what was found.

    Examples
    --------
    >>> rgba = BandProfile("a.tif", 4, "uint8", ("red", "green", "blue", "alpha"), (None,) * 4)
    >>> str(infer_bands(rgba))
    'R=1,G=2,B=3,alpha=4'
    """
    if _is_nicfi(profile):
        return parse_bands("nicfi")
    pairs: dict[str, int] = {}
    for index in range(1, profile.count + 1):
        if profile.declares_alpha(index):
            continue
        name = _name_of(profile, index)
        if name is None or name in pairs:
            doubt = f"band {index} has no name" if name is None else f"bands {pairs[name]} and {index} are both {name}"
            raise _ambiguous(profile, doubt)
        pairs[name] = index
    n_alpha = profile.count - len(pairs)
    if n_alpha > 1 or not pairs:
        raise _ambiguous(profile, f"{n_alpha} of {profile.count} bands are alpha")
    return BandMap(_in_feature_order(pairs), profile.alpha)


def _is_nicfi(profile: BandProfile) -> bool:
    undescribed = not any(profile.descriptions)
    return profile.dtype == "uint16" and profile.interps == _NICFI_INTERPS and undescribed


def _name_of(profile: BandProfile, index: int) -> str | None:
    interp, description = profile.interps[index - 1], profile.descriptions[index - 1]
    known, colour = _described(description), _INTERPRETED.get(interp)
    if known or colour:
        return known or colour
    if description and not _MASK_LIKE.search(description):
        return re.sub(r"\W+", "_", description.strip(), flags=re.ASCII).strip("_") or None
    alone = sum(not profile.declares_alpha(i) for i in range(1, profile.count + 1)) == 1
    return "gray" if interp == "gray" and alone else None


def _described(description: str | None) -> str | None:
    return _DESCRIBED.get(re.sub(r"[\W_]+", "", description or "", flags=re.ASCII).lower())


def _ambiguous(profile: BandProfile, doubt: str) -> InputError:
    example = "--bands nicfi" if profile.count == 5 else "--bands rgbn" if profile.count == 4 else "--bands R=1,G=2,B=3"
    return InputError(
        f"{profile.label}: which band is which is not clear ({doubt}): found {profile}; say it, for example {example}"
    )


def check_bands(bands: BandMap, profile: BandProfile) -> BandMap:
    """Return `bands` as it applies to one file: with the file's own alpha where the map names none.

    Raises
    ------
    InputError
        If the file lacks a band, or declares as alpha what the map takes as a feature.
    """
    needed = max(*bands.indexes, bands.alpha or 1)
    if needed > profile.count:
        raise InputError(
            f"{profile.label}: the band map {bands} needs {needed} bands, the file has {profile.count} ({profile}); "
            "correct --bands"
        )
    for name, index in bands.bands:
        if profile.declares_alpha(index):
            raise InputError(
                f"{profile.label}: the band map {bands} takes band {index} as {name}, but the file declares it as "
                f"alpha ({profile}); correct --bands, or the file (gdal_edit.py -colorinterp_{index} undefined)"
            )
    return BandMap(bands.bands, bands.alpha or profile.alpha)
