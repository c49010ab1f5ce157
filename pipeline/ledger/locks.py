"""One process at a time: a lock as wide as the ledger, which goes with the process or the connection that holds it.

A SQLite ledger belongs to one machine, and its lock is the kernel's on a file beside it. A PostgreSQL ledger may serve
many machines, and its lock is the server's (an advisory lock of a session).
"""

from __future__ import annotations

import fcntl
import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from sqlalchemy import Engine, text


@contextmanager
def exclusive(engine: Engine, name: str) -> Iterator[None]:
    """Hold the lock `name` of a ledger; waits for whoever has it."""
    if engine.dialect.name == "sqlite":
        digest = hashlib.sha256(name.encode()).hexdigest()[:16]
        path = Path(f"{engine.url.database}.{digest}.lock")
        with path.open("a", encoding="utf-8") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            yield
        return
    key = int.from_bytes(hashlib.sha256(f"ktex:{name}".encode()).digest()[:8], "big", signed=True)
    with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        connection.execute(text("SELECT pg_advisory_lock(:key)"), {"key": key})
        try:
            yield
        finally:
            connection.execute(text("SELECT pg_advisory_unlock(:key)"), {"key": key})
