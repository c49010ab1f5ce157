"""Real worker processes and schedulers that die: what is lost is what was in flight."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import dask
import pytest

from pipeline.engine import Limits, open_engine
from pipeline.engine.cluster import DaskEngine
from pipeline.errors import InputError, RunFailedError
from pipeline.settings import Settings

LOST_AFTER = "distributed.deploy.lost-worker-timeout"

pytestmark = [pytest.mark.dask, pytest.mark.timeout(240)]


def note(folder: Path, item: int) -> tuple[int, int]:
    """Leave a mark for each try, and take a moment."""
    (folder / f"{item}-{time.monotonic_ns()}").touch()
    time.sleep(0.3)
    return item, os.getpid()


def die_once(folder: Path, item: int) -> int:
    marker = folder / str(item)
    if item == 3 and not marker.exists():
        marker.touch()
        os.kill(os.getpid(), signal.SIGKILL)
    return item


def hang(folder: Path, item: int) -> int:
    if item == 2:
        time.sleep(600)
    return item


def test_a_killed_worker_costs_what_it_had_in_flight_and_no_more(tmp_path: Path) -> None:
    with open_engine(Settings(workers=2)) as engine:
        found, killed = [], 0
        for outcome in engine.map(partial(note, tmp_path), range(16)):
            assert outcome.result is not None, outcome.error
            found.append(outcome.result[0])
            if len(found) in {3, 8}:
                killed += 1
                os.kill(outcome.result[1], signal.SIGKILL)
    assert sorted(found) == list(range(16))
    tries = len(list(tmp_path.iterdir()))
    assert 16 <= tries <= 16 + 2 * killed, "at most what a worker worked on, and a record that died with it"


def test_workers_that_dask_has_given_up_are_started_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # As where a machine is so busy that a successor needs longer than Dask waits.
    monkeypatch.setattr("pipeline.engine.cluster.REVIVE_S", 1.0)
    with open_engine(Settings(workers=2)) as engine, dask.config.set({LOST_AFTER: "10ms"}):
        found, killed = [], set()
        for outcome in engine.map(partial(note, tmp_path), range(12), retries=3):
            assert outcome.result is not None, outcome.error
            found.append(outcome.result[0])
            pid = outcome.result[1]
            if len(killed) < 2 and pid not in killed:  # either is killed once, and so none of the first is left
                killed.add(pid)
                os.kill(pid, signal.SIGKILL)
                time.sleep(0.5)
        deadline = time.monotonic() + 60
        while engine.workers < 2 and time.monotonic() < deadline:
            list(engine.map(partial(note, tmp_path), range(2)))
            time.sleep(1)
        assert engine.workers == 2
    assert sorted(found) == list(range(12))


def test_an_item_that_kills_its_worker_is_tried_on_another(tmp_path: Path) -> None:
    with open_engine(Settings(workers=1)) as engine:
        outcomes = list(engine.map(partial(die_once, tmp_path), range(6)))
    assert sorted(outcome.item for outcome in outcomes) == list(range(6))
    assert all(outcome.error is None for outcome in outcomes)


def test_an_item_that_hangs_is_given_up_and_the_others_end(tmp_path: Path) -> None:
    with open_engine(Settings(workers=1)) as engine:
        assert isinstance(engine, DaskEngine)
        quick = DaskEngine(engine._client, limits=Limits(item_s=4, poll_s=0.5))
        outcomes = {outcome.item: outcome for outcome in quick.map(partial(hang, tmp_path), range(5))}
    assert isinstance(outcomes[2].error, TimeoutError)
    assert [item for item in outcomes if outcomes[item].error is None] != []
    assert set(outcomes) == set(range(5))


SCHEDULER = """
import time
from distributed import LocalCluster
if __name__ == "__main__":
    with LocalCluster(n_workers=1, threads_per_worker=1, processes=False, host="127.0.0.1", protocol="tcp",
                      dashboard_address=None) as cluster:
        print(cluster.scheduler_address, flush=True)
        time.sleep(600)
"""


@pytest.fixture
def scheduler(tmp_path: Path) -> subprocess.Popen[str]:
    script = tmp_path / "scheduler.py"
    script.write_text(SCHEDULER)
    process = subprocess.Popen(
        [sys.executable, str(script)],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).resolve().parents[2])},
    )
    yield process
    process.kill()
    process.communicate()


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_a_scheduler_that_dies_ends_the_run_in_time(tmp_path: Path, scheduler: subprocess.Popen[str]) -> None:
    assert scheduler.stdout is not None
    address = scheduler.stdout.readline().strip()
    (tmp_path / "notes").mkdir()

    def go_on() -> None:
        with open_engine(Settings(scheduler=address)) as engine:
            for outcome in engine.map(partial(note, tmp_path / "notes"), range(1000)):
                if outcome.item == 2:
                    scheduler.kill()

    with pytest.raises(RunFailedError, match=r"the Dask scheduler was lost.*the same command resumes"):
        go_on()


def test_resources_that_no_worker_offers_are_refused_up_front(scheduler: subprocess.Popen[str]) -> None:
    assert scheduler.stdout is not None
    address = scheduler.stdout.readline().strip()
    with (
        pytest.raises(InputError, match=r"resources GPU=1: no worker of tcp://.* offers that"),
        open_engine(Settings(scheduler=address, resources={"GPU": 1})),
    ):
        pass


def test_cuda_without_dask_cuda_says_what_to_install() -> None:
    with (
        pytest.raises(
            InputError,
            match=r"--engine cuda: needs dask-cuda, which cannot be imported here \(No module named 'dask_cuda'\)",
        ),
        open_engine(Settings(engine="cuda")),
    ):
        pass


def test_dask_cuda_that_starts_nothing_is_an_error_of_the_input(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(**options: object) -> None:
        assert options["resources"] == {"GPU": 1}
        raise ValueError("Can not scale beyond\nvisible devices", [0])

    monkeypatch.setitem(sys.modules, "dask_cuda", SimpleNamespace(LocalCUDACluster=refuse))
    with (
        pytest.raises(InputError, match=r"--engine cuda: dask-cuda starts no workers \(.*Can not scale.*at most"),
        open_engine(Settings(engine="cuda", workers=2)),
    ):
        pass
