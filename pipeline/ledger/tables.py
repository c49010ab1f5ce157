"""The tables of the ledger, and how its database is opened: SQLite in a file, or PostgreSQL by address."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

from sqlalchemy import (
    JSON,
    Column,
    Engine,
    Float,
    ForeignKey,
    Index,
    Integer,
    MetaData,
    String,
    Table,
    Text,
    UniqueConstraint,
    create_engine,
    event,
    make_url,
)
from sqlalchemy.engine import URL
from sqlalchemy.exc import ArgumentError, IntegrityError, OperationalError, ProgrammingError, SQLAlchemyError

from pipeline.errors import InputError

SQLITE_WAIT_S = 60
"""How long a write waits for another; SQLite lets one write at a time, each for milliseconds."""

metadata = MetaData()

acquisitions = Table(
    "ktex_acquisitions",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("series", String(200), nullable=False),
    Column("source", String(200), nullable=False),
    Column("name", String(300), nullable=False),
    Column("date", String(10)),
    Column("state", String(20), nullable=False),
    Column("reason", Text),
    # What the source listed last, and what the work under way and the published result were made from.
    Column("version", String(64), nullable=False),
    Column("assets", JSON, nullable=False),
    Column("settings", String(64), nullable=False),
    Column("claimed_version", String(64)),
    Column("published_version", String(64)),
    Column("published_assets", JSON),
    Column("published_settings", String(64)),
    Column("content", String(64)),
    Column("result", JSON),
    # Who works on it: the token rises with each claim, so that an older one tells itself apart.
    Column("token", Integer, nullable=False, default=0),
    Column("holder", String(300)),
    Column("lease_until", Float),
    Column("attempts", Integer, nullable=False, default=0),
    Column("not_before", Float, nullable=False, default=0.0),
    Column("seen", Float, nullable=False),
    Column("changed", Float, nullable=False),
    UniqueConstraint("series", "source", "name"),
    Index("ktex_acquisitions_due", "series", "state", "date"),
)

inputs = Table(
    "ktex_inputs",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("acquisition", Integer, ForeignKey("ktex_acquisitions.id", ondelete="CASCADE"), nullable=False),
    Column("name", String(1000), nullable=False),
    Column("href", Text, nullable=False),
    Column("version", String(300), nullable=False),
    Column("size_bytes", Integer),
    Column("sha256", String(64)),
    Column("fault", Text),
    UniqueConstraint("acquisition", "name"),
    Index("ktex_inputs_sha256", "sha256"),
)

events = Table(
    "ktex_events",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("acquisition", Integer, ForeignKey("ktex_acquisitions.id", ondelete="CASCADE"), nullable=False),
    Column("at", Float, nullable=False),
    Column("token", Integer, nullable=False),
    Column("what", String(40), nullable=False),
    Column("detail", Text),
)

_SCHEMES = ("sqlite", "postgresql")


def parse_address(address: str) -> URL:
    """Return a database address, with the drivers that are installed.

    Raises
    ------
    InputError
        It is none, or of a database that is not used here; the password is not shown.

    Examples
    --------
    >>> parse_address("postgresql://me:secret@db/ktex").drivername
    'postgresql+psycopg'
    """
    try:
        url = make_url(address)
    except ArgumentError as error:
        raise InputError(
            "ledger: is no database address; give sqlite:////PATH or postgresql://USER@HOST/NAME"
        ) from error
    scheme = url.get_backend_name()
    if scheme not in _SCHEMES:
        raise InputError(f"ledger: {scheme} is not supported; give sqlite:////PATH or postgresql://USER@HOST/NAME")
    return url.set(drivername="postgresql+psycopg") if url.drivername == "postgresql" else url


def open_database(address: str) -> Engine:
    """Open a database and create what is missing in it.

    Raises
    ------
    InputError
        It cannot be opened; the password is not shown.
    """
    url = parse_address(address)
    shown = url.render_as_string(hide_password=True)
    try:
        engine = _sqlite(url) if url.get_backend_name() == "sqlite" else create_engine(url, pool_pre_ping=True)
        try:
            _create(engine)
        except BaseException:
            engine.dispose()
            raise
    except ModuleNotFoundError as error:
        raise InputError(f"ledger {shown}: needs {error.name}; install the extra postgres") from error
    except (SQLAlchemyError, OSError) as error:
        reason = re.sub(r"\(Background on.*", "", " ".join(str(getattr(error, "orig", error)).split()))
        raise InputError(
            f"ledger {shown}: cannot be opened ({reason}); check the address and the permissions"
        ) from error
    return engine


def _create(engine: Engine) -> None:
    try:
        metadata.create_all(engine)
    except (IntegrityError, OperationalError, ProgrammingError):
        metadata.create_all(engine)  # another process made them between the look and the act; a real fault comes again


def _sqlite(url: URL) -> Engine:
    if url.database in (None, "", ":memory:"):
        raise InputError("ledger: SQLite needs a file that outlives the process; give sqlite:////PATH")
    Path(str(url.database)).expanduser().parent.mkdir(parents=True, exist_ok=True)
    engine = create_engine(url, connect_args={"timeout": SQLITE_WAIT_S})
    event.listen(engine, "connect", _take_over_transactions)
    event.listen(engine, "begin", _begin_at_once)
    return engine


def _take_over_transactions(connection: Any, _: object) -> None:
    connection.isolation_level = None  # or the driver begins by itself, and too late
    connection.execute("PRAGMA foreign_keys=ON")


def _begin_at_once(connection: Any) -> None:
    # The lock is had before the first read: what is read stays true until it is written.
    connection.exec_driver_sql("BEGIN IMMEDIATE")


Clock = Callable[[], float]
"""Seconds since 1970."""
