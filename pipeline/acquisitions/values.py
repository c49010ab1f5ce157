"""What a source has to offer: acquisitions, each one date of a place, made of assets.

Values alone: nothing here lists, downloads or opens anything.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Protocol

from pipeline.dates import date_in_text


class SourceError(RuntimeError):
    """A source cannot be asked, or does not give what it listed; another try may go well."""


class DeliveryError(ValueError):
    """What was delivered is wrong and stays so until it is delivered anew; the message is the reason."""


@dataclass(frozen=True)
class Asset:
    """One file of an acquisition, as the source lists it.

    Attributes
    ----------
    name
        Its path below the source's root, or its file name; unique in the acquisition.
    href
        Where it is; never with a credential in it.
    version
        What changes when the content does: a checksum, an ETag, or size and time of change.
    size_bytes, sha256
        As far as the source says; what is fetched is held against them.
    """

    name: str
    href: str
    version: str
    size_bytes: int | None = None
    sha256: str | None = None


@dataclass(frozen=True)
class Acquisition:
    """What was seen on one date: the unit that is claimed, segmented and published.

    Attributes
    ----------
    source
        Name of the source.
    name
        Name within the source; the date where there is one.
    date
        ``2012-07-31``, or ``2021-02`` for a month; None where nothing tells it.
    assets
        Its files, by name.
    waiting
        Why it is not complete yet; None where it is.
    """

    source: str
    name: str
    date: str | None
    assets: tuple[Asset, ...] = field(default=())
    waiting: str | None = None

    @property
    def version(self) -> str:
        """A sha256 over names and versions of the assets, in any order.

        Examples
        --------
        >>> a, b = Asset("a.tif", "x/a.tif", "1"), Asset("b.tif", "x/b.tif", "1")
        >>> Acquisition("s", "n", None, (a, b)).version == Acquisition("s", "n", None, (b, a)).version
        True
        """
        parts = sorted((asset.name, asset.version) for asset in self.assets)
        return hashlib.sha256(json.dumps(parts).encode()).hexdigest()


class Source(Protocol):
    """Where acquisitions come from."""

    @property
    def name(self) -> str:
        """Name of the source, unique in a configuration."""

    def survey(self, now: datetime, since: str | None = None) -> list[Acquisition]:
        """List all that is there, incomplete or not, from the date `since` on; raises SourceError."""

    def fetch(self, asset: Asset, folder: Path) -> Path:
        """Return the asset as a whole local file, in `folder` where it had to be copied.

        Raises
        ------
        SourceError
            It could not be had; later perhaps.
        DeliveryError
            It is not what the source says it is.
        """


def safe_name(text: str) -> str:
    """Return a name that is one plain file name, whatever a server calls its assets.

    Examples
    --------
    >>> safe_name("../../etc/passwd"), safe_name("L15-0639E-0942N.tif")
    ('etc_passwd', 'L15-0639E-0942N.tif')
    """
    kept = "".join(letter if letter.isalnum() or letter in "-_." else "_" for letter in text.replace(os.sep, "_"))
    return kept.strip("._")[:200] or "unnamed"


def local_path(folder: Path, name: str) -> Path:
    """Return where an asset's copy goes: below `folder`, whatever the name says.

    Examples
    --------
    >>> local_path(Path("in"), "order/../a.tif").as_posix()
    'in/order/unnamed/a.tif'
    """
    return folder.joinpath(*(safe_name(part) for part in name.split("/") if part))


def is_since(date: str | None, since: str | None) -> bool:
    """Whether a date is not before another; months are counted to their end.

    Examples
    --------
    >>> is_since("2021-03", "2021-03-15"), is_since("2021-02-28", "2021-03-01"), is_since(None, "2021-03-01")
    (True, False, True)
    """
    return since is None or date is None or date >= since[: len(date)]


def group_by_date(source: str, assets: Iterable[Asset], dates: Iterable[str | None]) -> list[Acquisition]:
    """Make one acquisition of the assets of each date; an asset without a date is one by itself."""
    groups: dict[tuple[str | None, str], list[Asset]] = {}
    for asset, date in zip(assets, dates, strict=True):
        groups.setdefault((date, date or safe_name(asset.name)), []).append(asset)
    return [
        Acquisition(source, name, date, tuple(sorted(group, key=lambda asset: asset.name)))
        for (date, name), group in sorted(groups.items(), key=lambda item: item[0][1])
    ]


def date_in_time(text: str | None) -> str | None:
    """Return the day of an RFC 3339 time, as catalogues write it.

    Examples
    --------
    >>> date_in_time("2020-09-25T16:10:29.5Z")
    '2020-09-25'
    """
    return None if text is None else date_in_text(text[:10])
