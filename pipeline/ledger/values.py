"""What the ledger tells: states, rows, claims."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from pipeline.acquisitions import Asset

State = Literal["waiting", "due", "running", "published", "quarantined", "failed"]
"""The states of an acquisition; docs/scheduling.md has the changes between them."""

STATES: tuple[State, ...] = ("waiting", "due", "running", "published", "quarantined", "failed")


class FencedError(RuntimeError):
    """A process no longer holds the claim that it works under: it may not publish, and has nothing to tell."""


@dataclass(frozen=True)
class Claim:
    """The right to work on an acquisition, until a later claim has a higher token.

    Attributes
    ----------
    id, token
        The acquisition's number in the ledger, and the number of this claim of it.
    source, name, date
        Which acquisition.
    assets
        Its files as they were listed.
    version, settings
        Digests of the listing and of the settings that the work is for.
    attempts
        Which try this is, from 1.
    content
        Digest of the inputs of what is published now; None where nothing is.
    result
        What is published now, as it was told.
    """

    id: int
    token: int
    source: str
    name: str
    date: str | None
    assets: tuple[Asset, ...]
    version: str
    settings: str
    attempts: int
    content: str | None
    result: dict[str, Any] | None


@dataclass(frozen=True)
class InputNote:
    """What became of one file of an acquisition.

    Attributes
    ----------
    asset
        The file as it was listed.
    sha256
        Of its content; None where it never came.
    fault
        Why it is in quarantine; None where it was used.
    """

    asset: Asset
    sha256: str | None
    fault: str | None = None


@dataclass(frozen=True)
class Row:
    """An acquisition as the ledger knows it, for people and for decisions.

    Times are seconds since 1970.
    """

    id: int
    series: str
    source: str
    name: str
    date: str | None
    state: State
    reason: str | None
    token: int
    attempts: int
    holder: str | None
    lease_until: float | None
    changed: float
    content: str | None
    result: dict[str, Any] | None
    inputs: tuple[InputNote, ...] = ()
