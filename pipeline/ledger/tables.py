"""The tables of the ledger, and how its database is opened: SQLite in a file, or PostgreSQL by address."""

from __future__ import annotations

import re
import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import quote

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
from sqlalchemy.pool import NullPool

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

passes = Table(
    "ktex_passes",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("series", String(200), nullable=False),
    Column("began", Float, nullable=False),
    Column("ended", Float),
    Column("holder", String(300), nullable=False),
    Column("counts", JSON),
    Column("unreachable", JSON),
    Column("fault", Text),
    Index("ktex_passes_series", "series", "id"),
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
    if scheme == "sqlite" and url.database in (None, "", ":memory:"):
        raise InputError("ledger: SQLite needs a file that outlives the process; give sqlite:////PATH")
    return url.set(drivername="postgresql+psycopg") if url.drivername == "postgresql" else url


def open_database(address: str) -> Engine:
    """Open a database and create what is missing in it.

    Raises
    ------
    InputError
        It cannot be opened; the password is not shown.
    """
    url = parse_address(address)

    def open_and_create() -> Engine:
        engine = _sqlite(url) if url.get_backend_name() == "sqlite" else create_engine(url, pool_pre_ping=True)
        return _tried(engine, _create)

    return _opened(url, open_and_create)


def open_to_read(address: str) -> Engine:
    """Open a database that is there, and create nothing in it.

    Raises
    ------
    InputError
        It is not there, or cannot be opened; the password is not shown.
    """
    url = parse_address(address)

    def open_as_it_is() -> Engine:
        engine = _sqlite_as_it_is(url) if url.get_backend_name() == "sqlite" else create_engine(url)
        return _tried(engine, lambda engine: engine.connect().close())

    return _opened(url, open_as_it_is)


def _opened(url: URL, open_it: Callable[[], Engine]) -> Engine:
    shown = url.render_as_string(hide_password=True)
    try:
        return open_it()
    except ModuleNotFoundError as error:
        raise InputError(f"ledger {shown}: needs {error.name}; install the extra postgres") from error
    except (SQLAlchemyError, OSError) as error:
        raise InputError(
            f"ledger {shown}: cannot be opened ({in_short(error)}); check the address and the permissions"
        ) from error


def _tried(engine: Engine, try_it: Callable[[Engine], None]) -> Engine:
    try:
        try_it(engine)
    except BaseException:
        engine.dispose()
        raise
    return engine


def in_short(error: Exception) -> str:
    """Return what a database says went wrong, in one line."""
    return re.sub(r"\(Background on.*", "", " ".join(str(getattr(error, "orig", error)).split()))


def _create(engine: Engine) -> None:
    try:
        metadata.create_all(engine)
    except (IntegrityError, OperationalError, ProgrammingError):
        metadata.create_all(engine)  # another process made them between the look and the act; a real fault comes again


def _sqlite(url: URL) -> Engine:
    _database_path(url).parent.mkdir(parents=True, exist_ok=True)
    engine = create_engine(url, connect_args={"timeout": SQLITE_WAIT_S})
    event.listen(engine, "connect", _take_over_transactions)
    event.listen(engine, "begin", _begin_at_once)
    return engine


def _sqlite_as_it_is(url: URL) -> Engine:
    # Not read-only: what a process left half-written when it was killed must be rolled back before it can be read.
    address = f"file:{quote(str(_database_path(url)))}?mode=rw"

    def connect() -> sqlite3.Connection:
        return sqlite3.connect(address, uri=True, timeout=SQLITE_WAIT_S)

    return create_engine("sqlite://", creator=connect, poolclass=NullPool)


def _database_path(url: URL) -> Path:
    return Path(str(url.database))


def _take_over_transactions(connection: Any, _: object) -> None:
    connection.isolation_level = None  # or the driver begins by itself, and too late
    connection.execute("PRAGMA foreign_keys=ON")


def _begin_at_once(connection: Any) -> None:
    # The lock is had before the first read: what is read stays true until it is written.
    connection.exec_driver_sql("BEGIN IMMEDIATE")


Clock = Callable[[], float]
"""Seconds since 1970."""
