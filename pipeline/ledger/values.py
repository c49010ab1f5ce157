"""What the ledger tells: states, rows, claims."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from pipeline.acquisitions import Asset
from pipeline.ledger.holder import Holder

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
    not_before: float
    changed: float
    content: str | None
    result: dict[str, Any] | None
    inputs: tuple[InputNote, ...] = ()

    def is_abandoned(self, now: float) -> bool:
        """Whether the process that claimed it is dead, or has been silent for longer than its lease."""
        return self.state == "running" and is_lapsed(self.holder, self.lease_until, now)


@dataclass(frozen=True)
class PassRow:
    """A pass over the sources, as the ledger knows it.

    Attributes
    ----------
    began, ended
        Seconds since 1970; `ended` is None while it is at work, or where its process died.
    holder
        The process.
    counts
        How often each outcome came, with what was ``seen`` and what is ``waiting``.
    unreachable
        Sources that could not be asked, and why.
    fault
        The error that it ended with; None where it came to its end.
    """

    began: float
    ended: float | None
    holder: str
    counts: Mapping[str, int]
    unreachable: Mapping[str, str]
    fault: str | None

    def is_lost(self) -> bool:
        """Whether it never ended and its process is known to be dead."""
        return self.ended is None and _is_dead(self.holder)


def is_lapsed(holder: str | None, lease_until: float | None, now: float) -> bool:
    """Whether a claim is over: its lease has run out, or its process is known to be dead."""
    return lease_until is None or lease_until <= now or _is_dead(holder)


def _is_dead(holder: str | None) -> bool:
    found = Holder.parse(holder or "")
    return found is not None and found.is_known_dead()
