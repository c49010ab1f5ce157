"""Engines give one outcome an item, whatever happens to it, and never hold more than they may."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from pipeline.engine import Capacity, Engine, SerialEngine, limit_threads, open_engine
from pipeline.engine.submission import SPARE_PER_SLOT
from pipeline.errors import InputError
from pipeline.settings import Settings

ITEMS = list(range(20))


def square(item: int) -> int:
    if item == 13:
        raise ValueError("unlucky")
    return item * item


def fail_once(folder: Path) -> str:
    marker = folder / "tried"
    if not marker.exists():
        marker.touch()
        raise OSError("not yet")
    return "done"


def environment(_: int) -> tuple[str | None, str | None]:
    print("worker speaks", file=sys.stderr, flush=True)
    return os.environ.get("OMP_NUM_THREADS"), os.environ.get("TF_NUM_INTRAOP_THREADS")


@pytest.fixture(scope="module")
def log(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("log") / "run.log"


@pytest.fixture(scope="module")
def cluster(log: Path) -> Iterator[Engine]:
    with open_engine(Settings(workers=2), log) as engine:
        yield engine


def check_outcomes(engine: Engine) -> None:
    outcomes = {outcome.item: outcome for outcome in engine.map(square, ITEMS, retries=0)}
    assert sorted(outcomes) == ITEMS
    assert isinstance(outcomes[13].error, ValueError)
    assert outcomes[13].result is None
    assert all(outcomes[i].result == i * i and outcomes[i].error is None for i in ITEMS if i != 13)


def test_serial_outcomes() -> None:
    check_outcomes(SerialEngine())
    assert [outcome.item for outcome in SerialEngine().map(square, ITEMS)] == ITEMS


def test_serial_tries_again(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (outcome,) = SerialEngine().map(fail_once, [tmp_path])
    assert outcome.result == "done"
    assert "trying again" in caplog.text


@pytest.mark.dask
def test_dask_outcomes(cluster: Engine) -> None:
    assert cluster.workers == 2
    check_outcomes(cluster)


@pytest.mark.dask
def test_dask_tries_again(cluster: Engine, tmp_path: Path) -> None:
    (outcome,) = cluster.map(fail_once, [tmp_path])
    assert outcome.result == "done"


@pytest.mark.dask
def test_submission_is_bounded(cluster: Engine) -> None:
    taken = 0

    def items() -> Iterator[int]:
        nonlocal taken
        for item in range(50):
            taken += 1
            yield item if item != 13 else 0

    for ended, _ in enumerate(cluster.map(square, items()), 1):
        assert taken <= ended + cluster.workers * (1 + SPARE_PER_SLOT)
    assert taken == 50


@pytest.mark.dask
def test_workers_have_one_thread_and_speak_into_the_log(cluster: Engine, log: Path) -> None:
    (outcome,) = cluster.map(environment, [0])
    assert outcome.result == ("1", "1")
    assert "worker speaks" in log.read_text()


def xla_says(_: int) -> tuple[str | None, str | None]:
    return os.environ.get("XLA_FLAGS"), os.environ.get("XLA_PYTHON_CLIENT_MEM_FRACTION")


def test_xla_does_not_try_algorithms_on_jax_unless_it_is_told_how(monkeypatch: pytest.MonkeyPatch) -> None:
    for backend, said, then in (
        ("jax", "", "--xla_gpu_autotune_level=0"),
        ("jax", "--xla_a=1", "--xla_a=1 --xla_gpu_autotune_level=0"),
        ("jax", "--xla_gpu_autotune_level=4", "--xla_gpu_autotune_level=4"),
        ("tensorflow", "--xla_a=1", "--xla_a=1"),
    ):
        monkeypatch.setenv("KERAS_BACKEND", backend)
        monkeypatch.setenv("XLA_FLAGS", said)
        for _ in range(2):  # of a worker that is prepared twice nothing is said twice
            limit_threads()
            assert os.environ["XLA_FLAGS"] == then


@pytest.mark.dask
def test_workers_on_jax_are_started_with_that_flag_and_their_share_of_the_card(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KERAS_BACKEND", "jax")
    for name in ("XLA_FLAGS", "XLA_PYTHON_CLIENT_MEM_FRACTION"):
        monkeypatch.delenv(name, raising=False)
    with open_engine(Settings(), capacity=Capacity(2)) as engine:
        (outcome,) = engine.map(xla_says, [0])
    assert outcome.result == ("--xla_gpu_autotune_level=0", "0.3750")


def test_the_installed_jax_knows_the_flag() -> None:
    # One that it does not know would end each worker as it imports JAX.
    environment = {**os.environ, "KERAS_BACKEND": "jax", "JAX_PLATFORMS": "cpu"}
    run = "import jax; print(int(jax.numpy.ones(3).sum()))"
    for flag, known in (("--xla_gpu_autotune_level=0", True), ("--xla_no_such_flag=0", False)):
        done = subprocess.run(
            [sys.executable, "-c", run],
            env={**environment, "XLA_FLAGS": flag},
            capture_output=True,
            text=True,
            check=False,
        )
        assert (done.stdout.strip() == "3") == known, done.stderr


@pytest.mark.dask
def test_an_existing_scheduler_is_used(cluster: Engine) -> None:
    address = cluster._client.scheduler.address  # type: ignore[attr-defined]
    with open_engine(Settings(scheduler=address)) as engine:
        assert engine.workers == 2
        check_outcomes(engine)


@pytest.mark.dask
def test_a_scheduler_that_does_not_answer_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pipeline.engine.connection.CONNECT_S", 1)
    with (
        pytest.raises(InputError, match=r"--scheduler tcp://127\.0\.0\.1:9: no Dask scheduler answers there"),
        open_engine(Settings(scheduler="tcp://127.0.0.1:9")),
    ):
        pass
