"""Dask under TLS with the certificates that deploy/tls makes: a real scheduler and worker take the work of a client."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import dask
import pytest

from pipeline.engine import open_engine
from pipeline.errors import InputError
from pipeline.settings import Settings
from tests.deploy.test_prefect import REPOSITORY, free_port, wait_for

pytestmark = [pytest.mark.dask, pytest.mark.slow]
SCRIPT = REPOSITORY / "deploy" / "tls" / "make-certificates"


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Path:
    if shutil.which("openssl") is None:
        pytest.skip("openssl is not installed; apt-get install openssl")
    folder = tmp_path_factory.mktemp("certificates")
    subprocess.run([SCRIPT, folder, "localhost"], check=True, capture_output=True)
    return folder


def variables(folder: Path) -> dict[str, str]:
    """Return what compose.yaml sets, with `folder` in the place of the mount."""
    part = {name: f"{folder}/{file}" for name, file in (("CERT", "tls.crt"), ("KEY", "tls.key"))}
    prefix = "DASK_DISTRIBUTED__COMM__"
    roles = {f"{prefix}TLS__{role}__{n}": v for role in ("SCHEDULER", "WORKER", "CLIENT") for n, v in part.items()}
    return {f"{prefix}REQUIRE_ENCRYPTION": "True", f"{prefix}TLS__CA_FILE": f"{folder}/ca.crt", **roles}


def settings_of(folder: Path) -> dict[str, str]:
    """Return the same as settings of Dask in this process."""
    names = variables(folder).items()
    return {name.removeprefix("DASK_").lower().replace("__", ".").replace("_", "-"): each for name, each in names}


@pytest.fixture(scope="module")
def scheduler(certificates: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    address, folder = f"tls://127.0.0.1:{free_port()}", tmp_path_factory.mktemp("dask")
    environment = {**os.environ, **variables(certificates / "dask"), "PYTHONPATH": str(REPOSITORY)}
    base = [sys.executable, "-m", "dask"]
    commands = [
        [*base, "scheduler", "--host", "tls://127.0.0.1", "--port", address.rpartition(":")[2], "--no-dashboard"],
        [*base, "worker", address, "--nthreads", "1", "--no-dashboard", "--local-directory", str(folder)],
    ]
    with (folder / "log").open("w") as log:
        started = [subprocess.Popen(each, env=environment, stdout=log, stderr=log) for each in commands]

    def listens() -> bool:
        try:
            socket.create_connection(("127.0.0.1", int(address.rpartition(":")[2])), timeout=5).close()
        except OSError:
            return False
        return True

    try:
        wait_for(listens, 120)
        yield address
    finally:
        for process in reversed(started):
            process.terminate()
        for process in started:
            process.wait(60)


def square(number: int) -> int:
    return number * number


def test_work_goes_over_tls_and_only_with_a_certificate(scheduler: str, certificates: Path, tmp_path: Path) -> None:
    settings = Settings(scheduler=scheduler)
    with dask.config.set(settings_of(certificates / "dask")), open_engine(settings) as engine:
        done = {outcome.item: outcome.result for outcome in engine.map(square, range(5))}
    assert done == {number: number * number for number in range(5)}
    subprocess.run([SCRIPT, tmp_path, "localhost"], check=True, capture_output=True)
    with (
        dask.config.set(settings_of(tmp_path / "dask")),
        pytest.raises(InputError, match="--scheduler tls://"),
        open_engine(settings),
    ):
        pass
    with pytest.raises(InputError, match="--scheduler tls://"), open_engine(settings):
        pass


def test_keys_are_the_owners_and_the_authority_stays_behind(certificates: Path) -> None:
    assert {path.name for path in (certificates / "dask").iterdir()} == {"ca.crt", "tls.crt", "tls.key"}
    for path in certificates.rglob("*.key"):
        assert path.stat().st_mode & 0o077 == 0
    before = (certificates / "dask" / "ca.crt").read_bytes(), (certificates / "dask" / "tls.crt").read_bytes()
    subprocess.run([SCRIPT, certificates, "localhost"], check=True, capture_output=True)
    after = (certificates / "dask" / "ca.crt").read_bytes(), (certificates / "dask" / "tls.crt").read_bytes()
    assert before[0] == after[0], "a new certificate of the same authority"
    assert before[1] != after[1]
    assert subprocess.run([SCRIPT], check=False, capture_output=True).returncode == 2
