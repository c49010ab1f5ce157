"""The flow on a real embedded Prefect server: one task a stage, artifacts, states; and once the whole path."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from base64 import b64encode
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from prefect.client.orchestration import get_client
from prefect.testing.utilities import prefect_test_harness

from flows import segment_mosaic as module
from flows.prefect_settings import PRIVATE
from pipeline.demo import make_demo
from pipeline.errors import InputError
from pipeline.running import Stage
from pipeline.settings import Settings

pytestmark = [pytest.mark.e2e, pytest.mark.slow]

Report = Callable[[int, int], None]


@pytest.fixture(scope="module", autouse=True)
def server() -> Iterator[None]:
    with prefect_test_harness(server_startup_timeout=180):
        yield


class Work:
    """A run whose stages only say that they were there."""

    is_done = False
    capacity = None
    manifest = {"key": "0" * 64}  # noqa: RUF012
    plan = SimpleNamespace(settings=Settings())

    @contextmanager
    def clocked(self, name: str) -> Iterator[str]:
        yield name

    def __init__(self, out: Path, failed: list[str]) -> None:
        self.out, self.failed, self.closed = out, failed, False
        self.log = out / "run.log"

    def __enter__(self) -> Work:
        return self

    def __exit__(self, *_: object) -> None:
        self.closed = True

    def result(self) -> SimpleNamespace:
        blocks = SimpleNamespace(failed_names=self.failed)
        return SimpleNamespace(path=self.out, record=SimpleNamespace(exit_code=3 if self.failed else 0, blocks=blocks))


@pytest.fixture
def stages(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> tuple[list[str], Work]:
    """Names of the stages as they are carried out, and the run that they are carried out on."""
    seen: list[str] = []
    work = Work(tmp_path, [])

    def make(name: str) -> Stage:
        def carry_out(run: Any, engine: Any, report: Report) -> None:
            seen.append(name)
            for done in range(4):
                report(done, 3)

        return Stage(name, f"Stage {name}", carry_out)

    class Engine:
        def __enter__(self) -> str:
            return "engine"

        def __exit__(self, *_: object) -> None:
            seen.append("engine closed")

    monkeypatch.setattr(module, "STAGES", (make("train"), make("predict")))
    monkeypatch.setattr(module, "prepare", lambda *_, **__: work)
    monkeypatch.setattr(module, "open_engine", lambda *_: Engine())
    monkeypatch.setattr(module, "class_table", lambda _: [{"id": 0, "share": 1.0}])
    monkeypatch.setattr(module, "to_markdown", lambda _: "# summary")
    return seen, work


async def last_run() -> tuple[Any, list[Any], list[Any]]:
    """Return the newest flow run, its task runs in order, and its artifacts."""
    async with get_client() as client:
        flow_run = max(await client.read_flow_runs(), key=lambda run: run.created)
        tasks = [task for task in await client.read_task_runs() if task.flow_run_id == flow_run.id]
        artifacts = [each for each in await client.read_artifacts() if each.flow_run_id == flow_run.id]
        return flow_run, sorted(tasks, key=lambda task: task.start_time), artifacts


def settle(tasks: int) -> tuple[Any, list[Any], list[Any]]:
    """Task runs reach the server as events, a moment after the flow has ended."""

    async def wait() -> tuple[Any, list[Any], list[Any]]:
        for _ in range(60):
            found = await last_run()
            if len(found[1]) >= tasks and all(task.state.is_final() for task in found[1]):
                break
            await asyncio.sleep(0.5)
        return found

    return asyncio.run(wait())


def test_each_stage_is_one_task_with_its_progress(stages: tuple[list[str], Work], tmp_path: Path) -> None:
    seen, work = stages
    (tmp_path / "report.html").write_text("a page")
    (tmp_path / "quicklook.png").write_bytes(b"a picture")
    told: list[tuple[str, int, int]] = []
    with module.watched_by(lambda *what: told.append(what)):
        result = module.segment_mosaic("scene", str(tmp_path), {"k": 4})
    assert result.path == tmp_path
    assert seen == ["train", "predict", "engine closed"]
    assert work.closed
    assert told[:4] == [("Stage train", done, 3) for done in range(4)]
    flow_run, tasks, artifacts = settle(2)
    assert flow_run.state.is_completed()
    assert [task.name for task in tasks] == ["Stage train", "Stage predict"]
    by_key = {each.key: each for each in artifacts}
    assert set(by_key) == {
        "ktex-train", "ktex-predict", "ktex-classes", "ktex-summary", "ktex-report", "ktex-quicklook",
    }  # fmt: skip
    assert (tmp_path / "report.html").as_uri() in by_key["ktex-report"].data
    assert by_key["ktex-quicklook"].data == "data:image/png;base64," + b64encode(b"a picture").decode()
    assert by_key["ktex-train"].type == "progress"
    assert float(by_key["ktex-predict"].data) == 100
    assert by_key["ktex-summary"].data == "# summary"


def test_a_run_with_missing_blocks_is_told_apart(stages: tuple[list[str], Work], tmp_path: Path) -> None:
    stages[1].failed.append("0000_0001")
    state = module.segment_mosaic("scene", str(tmp_path), return_state=True)
    assert state.is_completed()
    assert state.name == "Incomplete"
    assert "0000_0001" in str(state.message)


def test_a_published_run_is_not_carried_out_again(stages: tuple[list[str], Work], tmp_path: Path) -> None:
    seen, work = stages
    work.is_done = True
    module.segment_mosaic("scene", str(tmp_path))
    assert seen == []


def test_wrong_settings_fail_the_flow_before_anything_is_opened(stages: tuple[list[str], Work], tmp_path: Path) -> None:
    with pytest.raises(InputError, match="unknown setting 'blocks'"):
        module.segment_mosaic("scene", str(tmp_path), {"blocks": 3})
    assert stages[0] == []


def test_the_whole_path_on_a_tiny_scene(tmp_path: Path) -> None:
    made = make_demo(tmp_path / "scene", quads=(1, 2), quad_px=128)
    settings = {"k": 3, "mode": "global", "block_px": 128, "engine": "serial", "options": {"steps": 20, "crop_px": 64}}
    result = module.segment_mosaic(str(tmp_path / "scene"), str(tmp_path / "out"), settings, truth=str(made.truth_path))
    labels = result.labels.values
    assert labels.shape == (128, 256)
    assert set(np.unique(labels)) <= {0, 1, 2, 255}
    assert result.record.metrics.truth is not None
    assert (tmp_path / "out" / "labels.tif").exists()
    _, tasks, artifacts = settle(7)
    assert [task.name for task in tasks][-1] == "Scoring against the truth"
    assert (tmp_path / "out" / "run.log").exists()
    summary = next(each.data for each in artifacts if each.key == "ktex-summary")
    assert "xr.open_zarr" in summary
    assert "km2" in summary


def test_nothing_is_sent_out_and_what_the_user_set_wins() -> None:
    code = (
        "import flows.segment_mosaic, os, prefect.settings as settings\n"
        "names = 'PREFECT_SERVER_ANALYTICS_ENABLED', 'PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS'\n"
        "print(os.environ['DO_NOT_TRACK'], *(getattr(settings, name).value() for name in names))"
    )
    clean = {name: value for name, value in os.environ.items() if name not in PRIVATE}
    given = {**clean, "PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS": "33"}
    done = subprocess.run([sys.executable, "-c", code], env=given, capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["1", "False", "33"]
