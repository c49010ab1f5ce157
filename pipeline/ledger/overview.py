"""What the ledger of a series says, for people: acquisitions by state, who is at work, what came of the last pass.

Nothing is created and nothing is changed; a ledger that cannot be read is told, and hides nothing else.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from pipeline.errors import InputError
from pipeline.ledger.reader import read_ledger
from pipeline.ledger.tables import parse_address
from pipeline.ledger.values import STATES, PassRow, Row, State
from pipeline.status import folders_below
from pipeline.workspace import read_json, write_json

SERIES = "series.json"
"""In the folder of a series: its name, and where its ledger is."""


@dataclass(frozen=True)
class SeriesStatus:
    """A series as its ledger knows it.

    Attributes
    ----------
    name, root
        Its name and its folder.
    ledger
        Address of the ledger, without a password.
    now
        When the ledger was read, in seconds since 1970.
    rows
        The acquisitions, by date and name.
    passes
        The passes over the sources that began last, the latest first.
    fault
        Why the ledger could not be read; None where it was.
    """

    name: str
    root: Path
    ledger: str
    now: float
    rows: tuple[Row, ...] = ()
    passes: tuple[PassRow, ...] = ()
    fault: str | None = None

    def count(self, state: State) -> int:
        """Return how many acquisitions are in a state."""
        return sum(row.state == state for row in self.rows)

    @property
    def abandoned(self) -> list[Row]:
        """Acquisitions whose process is dead or silent; the next pass goes on with them."""
        return [row for row in self.rows if row.is_abandoned(self.now)]

    @property
    def last_pass(self) -> PassRow | None:
        """The pass that ended last."""
        ended = [each for each in self.passes if each.ended is not None]
        return max(ended, key=lambda each: each.ended or 0.0, default=None)

    @property
    def open_passes(self) -> list[PassRow]:
        """Passes that began after that and have not ended: they are at work, or died."""
        since = 0.0 if self.last_pass is None else self.last_pass.began
        return [each for each in self.passes if each.ended is None and each.began >= since]

    @property
    def problems(self) -> list[str]:
        """What wants looking at, a line each."""
        if self.fault is not None:
            return [self.fault]
        lines = [f"{row.source} {row.name}: {row.state}: {row.reason}" for row in self._of("quarantined", "failed")]
        lines += [
            f"{row.source} {row.name}: published, but {row.reason}" for row in self._of("published") if row.reason
        ]
        lines += [
            f"{row.source} {row.name}: its process ({row.holder}) is dead or silent; the next pass goes on with it"
            for row in self.abandoned
        ]
        lines += [
            f"the pass of {_utc(each.began)} did not end: its process is gone; the next one does what it left"
            for each in self.open_passes
            if each.is_lost()
        ]
        last = self.last_pass
        if last is not None:
            lines += [] if last.fault is None else [f"the last pass ended with {last.fault}"]
            lines += [f"the last pass did not reach a source: {why}" for why in last.unreachable.values()]
        return lines

    def _of(self, *states: State) -> list[Row]:
        return [row for row in self.rows if row.state in states]

    def to_json(self) -> dict[str, Any]:
        """Return it ready for JSON; times are ISO 8601 in UTC."""
        return {
            "name": self.name,
            "root": str(self.root),
            "ledger": self.ledger,
            "fault": self.fault,
            "counts": {state: self.count(state) for state in STATES},
            "acquisitions": [_row_to_json(row, self.now) for row in self.rows],
            "passes": [_pass_to_json(each) for each in self.passes],
            "problems": self.problems,
        }


def default_address(folder: Path) -> str:
    """Return the address of the ledger of the series in a folder, unless it is elsewhere."""
    return f"sqlite:///{folder / 'ledger.db'}"


def note_series(folder: Path, name: str, address: str) -> None:
    """Leave a note in the folder of a series that says whose it is, and where its ledger is.

    Parameters
    ----------
    folder
        The folder of the series; made where it is not there.
    name
        Name of the series.
    address
        Of the ledger; empty for the one in the folder. A password in it is not written.

    Raises
    ------
    InputError
        The folder is another series'.
    """
    path = folder / SERIES
    known = read_json(path)
    if known is not None and known.get("name") != name:
        raise InputError(
            f"{folder}: is the folder of the series {known.get('name')}; give the series {name} another 'out', or, "
            f"if it has been renamed, remove {path}"
        )
    wanted = {"name": name, "ledger": _without_password(address)}
    if known != wanted:
        folder.mkdir(parents=True, exist_ok=True)
        write_json(path, wanted)


def find_series(root: Path) -> Iterator[Path]:
    """Yield the folders of series in or under `root`."""
    for folder in folders_below(root):
        if (folder / SERIES).is_file():
            yield folder


def look_at_series(folder: Path, *, now: float | None = None) -> SeriesStatus:
    """Read the ledger of the series in a folder."""
    moment = time.time() if now is None else now
    try:
        note = read_json(folder / SERIES) or {}
    except InputError as error:
        return SeriesStatus(folder.name, folder, "", moment, fault=str(error))
    name = str(note.get("name", folder.name))
    address = str(note.get("ledger") or default_address(folder.absolute()))
    try:
        rows, passes = read_ledger(address, name, now=moment)
    except InputError as error:
        return SeriesStatus(name, folder, address, moment, fault=str(error))
    return SeriesStatus(name, folder, address, moment, tuple(rows), tuple(passes))


def _without_password(address: str) -> str:
    return parse_address(address).set(password=None).render_as_string() if address else ""


def _row_to_json(row: Row, now: float) -> dict[str, Any]:
    found: dict[str, Any] = {
        "source": row.source,
        "name": row.name,
        "date": row.date,
        "state": row.state,
        "reason": row.reason,
        "attempts": row.attempts,
        "changed": _utc(row.changed),
        "run": (row.result or {}).get("run"),
    }
    if row.state == "running":
        until = None if row.lease_until is None else _utc(row.lease_until)
        alive = not row.is_abandoned(now)
        found["claim"] = {"token": row.token, "holder": row.holder, "lease_until": until, "alive": alive}
    return found


def _pass_to_json(each: PassRow) -> dict[str, Any]:
    return {
        "began": _utc(each.began),
        "ended": None if each.ended is None else _utc(each.ended),
        "holder": each.holder,
        "counts": dict(each.counts),
        "unreachable": dict(each.unreachable),
        "fault": each.fault,
        "lost": each.is_lost(),
    }


def _utc(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="seconds")
