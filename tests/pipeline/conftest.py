"""What tests of the path share, a model that is trained in no time; and those of the ledger, a clock and databases."""

from __future__ import annotations

import os
import shutil
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from sqlalchemy import create_engine, text

from ktex_model.texture import TextureConfig
from tests.pipeline import grey_model
from tests.servers import free_port


@pytest.fixture
def trainings(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """Put the grey model in the place of ours; yields the list that its trainings are logged in."""
    monkeypatch.setattr(TextureConfig, "context_px", 0)
    yield grey_model.install(monkeypatch)
    grey_model.load_model.cache_clear()


class Clock:
    """A clock that goes when it is told to."""

    def __init__(self) -> None:
        self.now = 1_000_000.0

    def __call__(self) -> float:
        return self.now


def postgres_programs() -> Path | None:
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/postgres"), key=lambda path: int(path.parts[4]))
    return found[-1].parent if found else None


@pytest.fixture(scope="session")
def postgres(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Address of a PostgreSQL server of the tests' own, on a free port of loopback."""
    programs = postgres_programs()
    if programs is None:
        pytest.skip("no PostgreSQL server; on Debian: apt-get install postgresql")
    folder = tmp_path_factory.mktemp("postgres")
    # A server refuses to run as root: there it runs as the user that its package makes.
    prefix = ["runuser", "-u", "postgres", "--"] if os.geteuid() == 0 else []
    if prefix:
        for parent in (folder, *folder.parents[:3]):  # of the temporary folders of each test process, too
            parent.chmod(parent.stat().st_mode | 0o011)
        shutil.chown(folder, "postgres")
    port = free_port()
    data = folder / "data"

    def run(*command: str | Path) -> None:
        subprocess.run([*prefix, *command], check=True, capture_output=True, cwd=folder)

    run(programs / "initdb", "-D", data, "-U", "ktex", "-A", "trust", "--no-sync")
    options = f"-p {port} -c listen_addresses=127.0.0.1 -c unix_socket_directories={folder} -c fsync=off"
    log = folder / "log"
    run(programs / "pg_ctl", "-D", data, "-l", log, "-w", "-o", options, "start")
    try:
        yield f"postgresql://ktex@127.0.0.1:{port}/postgres"
    finally:
        # Not checked: a server that is gone already needs no stopping.
        stop = [*prefix, programs / "pg_ctl", "-D", data, "-m", "immediate", "stop"]
        subprocess.run(stop, check=False, capture_output=True, cwd=folder)


@pytest.fixture(params=["sqlite", pytest.param("postgresql", marks=pytest.mark.e2e)])
def address(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    if request.param == "sqlite":
        yield f"sqlite:///{tmp_path / 'ledger.db'}"
        return
    base = request.getfixturevalue("postgres")
    name = f"test_{os.getpid()}_{time.monotonic_ns()}"
    admin = create_engine(base.replace("postgresql:", "postgresql+psycopg:"), isolation_level="AUTOCOMMIT")
    with admin.connect() as connection:
        connection.execute(text(f"CREATE DATABASE {name}"))
    admin.dispose()
    yield base.removesuffix("postgres") + name


@pytest.fixture
def clock() -> Clock:
    return Clock()
