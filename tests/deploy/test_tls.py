"""Dask under TLS with the certificates that deploy/tls makes: a real scheduler and worker take the work of a client."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import dask
import distributed  # noqa: F401  (first: its defaults would be taken back with the settings that it is imported under)
import numpy as np
import pytest

from flows.cli import main
from pipeline.engine import check_engine, open_engine
from pipeline.errors import InputError
from pipeline.settings import Settings
from tests.pipeline.rasters import write_raster
from tests.servers import REPOSITORY, end, free_port, listens, wait_for

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
    """Address of a scheduler with one worker, started by the commands of deploy/README.md."""
    port, folder = free_port(), tmp_path_factory.mktemp("dask")
    address, log = f"tls://127.0.0.1:{port}", folder / "log"
    environment = {**os.environ, **variables(certificates / "dask"), "PYTHONPATH": str(REPOSITORY)}
    base = [sys.executable, "-m", "dask"]
    commands = [
        [*base, "scheduler", "--host", "tls://127.0.0.1", "--port", str(port), "--no-dashboard"],
        [*base, "worker", address, "--nthreads", "1", "--no-dashboard", "--no-nanny", "--local-directory", str(folder)],
    ]
    with log.open("w") as file:
        started = [subprocess.Popen(each, env=environment, stdout=file, stderr=file) for each in commands]
    try:
        wait_for(lambda: listens(port), 120, told=log.read_text)
        yield address
    finally:
        for process in reversed(started):
            end(process)


def square(number: int) -> int:
    return number * number


def test_work_goes_over_tls(scheduler: str, certificates: Path) -> None:
    with (
        dask.config.set(settings_of(certificates / "dask")),
        open_engine(Settings(scheduler=scheduler)) as engine,
    ):
        done = {outcome.item: outcome.result for outcome in engine.map(square, range(5))}
    assert done == {number: number * number for number in range(5)}


def test_without_a_certificate_the_run_is_refused_in_one_line(
    scheduler: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    scene = write_raster(tmp_path / "scene.tif", np.ones((2, 64, 64), np.uint8))
    out = tmp_path / "out"
    code = main(["run", str(scene), "--bands", "R=1,G=2", "--out", str(out), "--scheduler", scheduler])
    assert code == 2
    assert capsys.readouterr().err.splitlines() == [
        f"ktex: --scheduler {scheduler}: needs a certificate of this client, and none is configured; set "
        "DASK_DISTRIBUTED__COMM__TLS__CA_FILE, __CLIENT__CERT and __CLIENT__KEY (deploy/README.md, Dask under TLS)"
    ]
    assert not (out / "run.json").exists()


def test_a_certificate_of_another_authority_is_refused(scheduler: str, certificates: Path, tmp_path: Path) -> None:
    subprocess.run([SCRIPT, tmp_path, "localhost"], check=True, capture_output=True)
    ours, other, key = certificates / "dask", tmp_path / "dask", "distributed.comm.tls.ca-file"
    refused = pytest.raises(InputError, match="or it takes another authority's certificates")
    with dask.config.set(settings_of(other)), refused, open_engine(Settings(scheduler=scheduler)):
        pass
    # One that trusts the scheduler is not trusted by it either.
    with dask.config.set({**settings_of(other), key: str(ours / "ca.crt")}), refused:
        check_engine(Settings(scheduler=scheduler))


def test_what_is_wrong_with_the_certificates_is_told(certificates: Path, tmp_path: Path) -> None:
    address = "tls://127.0.0.1:9"
    missing = pytest.raises(InputError, match=rf"cannot read the certificate.*{tmp_path}/tls\.crt.*deploy/README\.md")
    with dask.config.set(settings_of(tmp_path)), missing:
        check_engine(Settings(scheduler=address))
    plain = pytest.raises(InputError, match=r"tcp://127\.0\.0\.1:9: must be tls://HOST:PORT where .*REQUIRE_ENCRYPTION")
    with dask.config.set(settings_of(certificates / "dask")), plain:
        check_engine(Settings(scheduler="tcp://127.0.0.1:9"))


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
