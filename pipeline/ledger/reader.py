"""What the ledger says, for whoever only looks: nothing is created and nothing is changed."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any, Self

from sqlalchemy import Engine, select
from sqlalchemy.exc import SQLAlchemyError

from pipeline.acquisitions import Asset
from pipeline.errors import InputError
from pipeline.ledger.tables import Clock, acquisitions, events, in_short, inputs, open_to_read, parse_address, passes
from pipeline.ledger.values import InputNote, PassRow, Row


class Reader:
    """The ledger of one series, to be looked at.

    Parameters
    ----------
    address
        ``sqlite:////PATH`` or ``postgresql://USER@HOST/NAME``.
    series
        Name of the series.
    clock
        Tells the time, in seconds since 1970.

    Raises
    ------
    InputError
        There is no such ledger, or it cannot be opened.
    """

    def __init__(self, address: str, series: str, clock: Clock = time.time) -> None:
        self.series = series
        self._engine = self._open(address)
        self._clock = clock

    def _open(self, address: str) -> Engine:
        return open_to_read(address)

    def close(self) -> None:
        """Close the connections."""
        self._engine.dispose()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def rows(self, *, with_inputs: bool = False) -> list[Row]:
        """Return all acquisitions of the series, by date and name."""
        order = (acquisitions.c.date, acquisitions.c.source, acquisitions.c.name)
        with self._engine.begin() as connection:
            found = connection.execute(
                select(acquisitions).where(acquisitions.c.series == self.series).order_by(*order)
            ).all()
            notes: dict[int, list[InputNote]] = {}
            if with_inputs:
                asked = select(inputs).join(acquisitions).where(acquisitions.c.series == self.series)
                for row in connection.execute(asked.order_by(inputs.c.name)):
                    asset = Asset(row.name, row.href, row.version, row.size_bytes)
                    notes.setdefault(row.acquisition, []).append(InputNote(asset, row.sha256, row.fault))
        return [_row(dict(each._mapping), tuple(notes.get(each.id, ()))) for each in found]

    def history(self, acquisition: int) -> list[tuple[float, str, str | None]]:
        """Return what happened to an acquisition: when, what, in which words."""
        with self._engine.begin() as connection:
            found = connection.execute(
                select(events.c.at, events.c.what, events.c.detail)
                .where(events.c.acquisition == acquisition)
                .order_by(events.c.id)
            ).all()
        return [(row.at, row.what, row.detail) for row in found]

    def find_content(self, sha256: str, *, other_than: int) -> str | None:
        """Return the name of an acquisition that is published with a file of this content; None where there is none."""
        with self._engine.begin() as connection:
            return connection.execute(
                select(acquisitions.c.name)
                .join(inputs, inputs.c.acquisition == acquisitions.c.id)
                .where(
                    acquisitions.c.series == self.series,
                    acquisitions.c.id != other_than,
                    acquisitions.c.published_version.is_not(None),
                    inputs.c.sha256 == sha256,
                    inputs.c.fault.is_(None),
                )
                .order_by(acquisitions.c.id)
                .limit(1)
            ).scalar_one_or_none()

    def passes(self, limit: int = 20) -> list[PassRow]:
        """Return the passes over the sources that began last, the latest first."""
        asked = select(passes).where(passes.c.series == self.series).order_by(passes.c.id.desc()).limit(limit)
        with self._engine.begin() as connection:
            found = connection.execute(asked).all()
        return [
            PassRow(row.began, row.ended, row.holder, row.counts or {}, row.unreachable or {}, row.fault)
            for row in found
        ]


def read_ledger(address: str, series: str, *, now: float) -> tuple[list[Row], list[PassRow]]:
    """Return the acquisitions and the last passes of a series.

    Raises
    ------
    InputError
        The ledger cannot be opened or read.
    """
    with Reader(address, series, lambda: now) as reader:
        try:
            return reader.rows(), reader.passes()
        except SQLAlchemyError as error:
            shown = parse_address(address).render_as_string(hide_password=True)
            raise InputError(
                f"ledger {shown}: cannot be read ({in_short(error)}); the next pass brings it up to date"
            ) from error


def _row(row: Mapping[str, Any], notes: tuple[InputNote, ...]) -> Row:
    names = ("id", "series", "source", "name", "date", "state", "reason", "token", "attempts", "holder", "lease_until")
    return Row(**{name: row[name] for name in (*names, "not_before", "changed", "content", "result")}, inputs=notes)
