"""The whole of it with real parts, offline: server, work pool, worker, deployments, cron, real imagery, and a kill."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
import rasterio
import yaml
from affine import Affine
from rasterio.windows import Window

from pipeline.ledger import Ledger
from pipeline.results import open_result
from pipeline.run import segment
from pipeline.series import read_dates
from pipeline.settings import Settings
from pipeline.watch import WatchConfig
from pipeline.watch.layout import Layout
from pipeline.watch.vocabulary import choose_ids
from tests.servers import PREFECT, REPOSITORY, end, free_port, prefect_environment, prefect_server, wait_for

pytestmark = [pytest.mark.e2e, pytest.mark.slow, pytest.mark.timeout(1800)]

FILE = REPOSITORY / "deploy" / "prefect.yaml"
POOL = "ktex-process"
SETTINGS = {
    "k": 3, "bands": "rgbn", "mode": "global", "block_px": 128, "chunk_px": 64, "engine": "serial", "sample_windows": 2,
    "sample_px": 64, "options": {"steps": 4, "rounds": 2, "refine_rounds": 1, "crop_px": 64, "batch": 2},
}  # fmt: skip
HEARTBEAT_S, SILENCE_S = 30, 75
CRON = "* * * * * */20"
"""The sixth field are seconds: the same scheduler and worker as with minutes, in less time."""


@dataclass
class Stack:
    """A Prefect server of the test's own, and how to ask it."""

    url: str
    environment: dict[str, str]
    logs: Path

    def start(self, name: str, *command: str) -> subprocess.Popen[bytes]:
        with (self.logs / f"{name}.log").open("ab") as log:
            return subprocess.Popen(
                [*PREFECT, *command], env=self.environment, stdout=log, stderr=log, cwd=REPOSITORY,
                start_new_session=True,
            )  # fmt: skip

    def run(self, *command: str) -> str:
        done = subprocess.run(
            [*PREFECT, *command], env=self.environment, capture_output=True, text=True, cwd=REPOSITORY, check=False
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    def post(self, path: str, body: dict[str, Any]) -> Any:
        answer = httpx.post(f"{self.url}/{path}", json=body, timeout=60)
        answer.raise_for_status()
        return answer.json()

    def firings(self) -> list[dict[str, Any]]:
        """Runs of the watch that have ended and were not skipped, in the order in which they began."""
        asked = {"flows": {"name": {"any_": ["watch-acquisitions"]}}, "sort": "START_TIME_ASC"}
        ended = ("COMPLETED", "FAILED", "CRASHED")
        return [each for each in self.post("flow_runs/filter", asked) if each["state_type"] in ended]

    def wait(self, what: str, condition: Callable[[], Any], every_s: float = 0.5) -> Any:
        return wait_for(condition, 600, every_s, lambda: f"{what} did not happen\n{self.told()}")

    def told(self) -> str:
        return "\n".join(f"--- {log.name}\n{log.read_text()[-4000:]}" for log in sorted(self.logs.iterdir()))


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    home = tmp_path_factory.mktemp("prefect")
    logs = home / "logs"
    logs.mkdir()
    environment = prefect_environment(home, free_port())
    with prefect_server(environment, logs / "server.log") as url:
        yield Stack(url, environment, logs)


def crop(source: Path, target: Path, side: int = 256) -> Path:
    """A part of a real image, whose modification lies an hour back."""
    with rasterio.open(source) as image:
        window = Window(200, 200, side, side)
        profile = image.profile | {
            "width": side,
            "height": side,
            "transform": image.transform @ Affine.translation(200, 200),
            "photometric": "MINISBLACK",
        }
        target.parent.mkdir(parents=True, exist_ok=True)
        partial = target.with_name(f".{target.name}")
        with rasterio.open(partial, "w", **profile) as out:
            out.colorinterp = image.colorinterp
            out.write(image.read(window=window))
    then = time.time() - 3600
    os.utime(partial, (then, then))
    return partial.rename(target)


@pytest.fixture
def images(real_data: Path) -> list[Path]:
    return sorted((real_data / "naip-nd").glob("*.tif"))


def write_config(folder: Path) -> Path:
    path = folder / "watch.yaml"
    sources = [{"kind": "folder", "name": "drop", "path": "drop"}]
    values = {"name": "nd", "out": "maps", "ids": "model", "sources": sources, "settings": SETTINGS}
    path.write_text(yaml.safe_dump(values), encoding="utf-8")
    return path


def deployed_here(folder: Path, config: Path) -> Path:
    """The project's own deployments to a process pool, as a user fits them: which series, and when."""
    plan = yaml.safe_load(FILE.read_text(encoding="utf-8"))
    plan["deployments"] = [each for each in plan["deployments"] if each["work_pool"]["name"] == POOL]
    for each in plan["deployments"]:
        each.pop("schedules", None)
        variables = each["work_pool"]["job_variables"]
        env = {**variables["env"], "PREFECT_FLOWS_HEARTBEAT_FREQUENCY": str(HEARTBEAT_S)}
        each["work_pool"] = {**each["work_pool"], "job_variables": {**variables, "env": env}}
        if each["entrypoint"].endswith("segment_mosaic"):
            continue
        each["parameters"] = {**each.get("parameters", {}), "config": str(config)}
        if each["entrypoint"].endswith("watch_acquisitions"):
            each["schedules"] = [{"cron": CRON}]
    path = folder / "prefect.yaml"
    path.write_text(yaml.safe_dump(plan), encoding="utf-8")
    return path


def published(config: WatchConfig) -> dict[str, tuple[str, int]]:
    """State and token of each date."""
    with Ledger(config.ledger_address, config.name) as ledger:
        return {row.name: (row.state, row.token) for row in ledger.rows()}


def test_from_a_server_to_maps_on_a_schedule(stack: Stack, images: list[Path], tmp_path: Path) -> None:
    path = write_config(tmp_path)
    config = WatchConfig.read(path)
    (tmp_path / "drop").mkdir()
    # A dead run gives its slot free when it is found to be silent; its lease alone would hold it for 300 s.
    provided = [sys.executable, "-m", "flows.cli", "provision", "--pool", "process", "--silence", str(SILENCE_S)]
    subprocess.run(provided, env=stack.environment, cwd=REPOSITORY, check=True, capture_output=True)
    stack.run("deploy", "--all", "--prefect-file", str(deployed_here(tmp_path, path)))
    worker = stack.start("worker", "worker", "start", "--pool", POOL, "--limit", "3")
    try:
        # By hand: one mosaic of real imagery.
        scene = crop(images[0], tmp_path / "scene.tif")
        parameters = {"source": str(scene), "out": str(tmp_path / "map"), "settings": SETTINGS}
        stack.run("deployment", "run", "segment-mosaic/process", "--params", json.dumps(parameters), "--watch")
        assert open_result(tmp_path / "map").record.state == "done"

        # By itself: cron fires, the new file is processed and nothing else, and the next firing does nothing.
        assert published(config) == {}
        crop(images[0], tmp_path / "drop" / images[0].name)
        stack.wait("the map", lambda: published(config) == {"2010-06-29": ("published", 1)})
        made = open_result(config.out / "runs" / "2010-06-29").record
        before = len(stack.firings())
        fired = stack.wait("two more firings", lambda: len(runs := stack.firings()) >= before + 2 and runs)
        assert {each["state_type"] for each in fired} == {"COMPLETED"}
        assert all(each["auto_scheduled"] for each in fired)
        assert published(config) == {"2010-06-29": ("published", 1)}
        assert open_result(config.out / "runs" / "2010-06-29").record == made

        # The worker is killed in the middle of a run: a later firing, by another worker, ends it.
        crop(images[1], tmp_path / "drop" / images[1].name)
        marker = config.out / "work" / "drop.2012-07-31" / ".ktex"
        stack.wait("the run that dies", marker.exists, every_s=0.05)
        end(worker, signal.SIGKILL)
        assert published(config)["2012-07-31"] == ("running", 1)
        worker = stack.start("worker-2", "worker", "start", "--pool", POOL, "--limit", "3")
        stack.wait("the firing that ends it", lambda: published(config)["2012-07-31"][0] == "published")
    finally:
        end(worker)
    assert published(config) == {"2010-06-29": ("published", 1), "2012-07-31": ("published", 2)}
    assert open_result(config.out / "runs" / "2010-06-29").record == made
    once = subprocess.run(
        [sys.executable, "-m", "flows.cli", "watch", str(path)],
        env=stack.environment,
        capture_output=True,
        text=True,
        cwd=REPOSITORY,
        check=False,
    )
    assert once.returncode == 0, once.stderr
    assert "2 acquisition(s) seen, 0 worked on, 0 waiting" in once.stdout
    assert not list((config.out / "work").glob("drop.*/")), "nothing is left of the work"
    settings = Settings.parse(choose_ids(config, Layout(config.out)))
    unharmed = segment(tmp_path / "drop" / images[1].name, settings, tmp_path / "unharmed")
    resumed = open_result(config.out / "runs" / "2012-07-31")
    np.testing.assert_array_equal(resumed.labels.values, unharmed.labels.values, "the ids are those of a run in one go")
    assert [each.time[:10] for each in read_dates(config.out)] == ["2010-06-29", "2012-07-31"]
