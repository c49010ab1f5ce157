"""Passes of several real processes over one series at once: every acquisition is published by exactly one of them."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import numpy as np
import pytest
import yaml

from pipeline.ledger import Ledger
from pipeline.results import open_result
from pipeline.series import read_dates
from pipeline.watch import WatchConfig
from pipeline.watch.maintenance import Upkeep, maintain
from tests.pipeline.rasters import write_raster
from tests.servers import REPOSITORY, end, wait_for

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

DATES = ("2010-06-29", "2012-07-31", "2014-07-20")


@pytest.fixture
def config(tmp_path: Path, address: str) -> Path:
    settings = {"k": 4, "bands": "R=1,G=2", "mode": "global", "block_px": 64, "chunk_px": 64, "engine": "serial"}
    sources = [{"kind": "folder", "name": "drop", "path": "drop"}]
    values = {"name": "nd", "out": "out", "ids": "model", "sources": sources, "settings": settings, "ledger": address}
    path = tmp_path / "series.yaml"
    path.write_text(yaml.safe_dump(values), encoding="utf-8")
    (tmp_path / "drop").mkdir()
    return path


def deliver(config: Path, date: str) -> None:
    path = config.parent / "drop" / f"a_{date.replace('-', '')}.tif"
    seed = DATES.index(date)
    write_raster(path, np.random.default_rng(seed).integers(1, 255, (2, 96, 96)).astype(np.uint8))
    os.utime(path, (time.time() - 3600,) * 2)


@contextmanager
def passing(config: Path) -> Iterator[subprocess.Popen[bytes]]:
    """A process that is about to begin a pass."""
    command = [sys.executable, "-m", "tests.pipeline.watch_process", str(config)]
    process = subprocess.Popen(command, cwd=REPOSITORY, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    try:
        yield process
    finally:
        end(process, signal.SIGKILL)
        for pipe in (process.stdout, process.stderr):
            if pipe is not None:
                pipe.close()


def claimed(config: Path) -> list[int]:
    """Return the processes that have claimed something."""
    return sorted(int(path.suffix[1:]) for path in config.parent.glob("claimed.*"))


def outcomes(process: subprocess.Popen[bytes]) -> list[list[str]]:
    out, err = process.communicate(timeout=300)
    assert process.returncode == 0, err.decode()
    found: list[list[str]] = json.loads(out.decode().splitlines()[-1])
    return found


def check_published(config: Path, tokens: dict[str, int]) -> None:
    """Each date is there once, by the claim with the number given."""
    series = WatchConfig.read(config)
    with Ledger(series.ledger_address, series.name) as ledger:
        rows = ledger.rows()
        told = [what for row in rows for _, what, _ in ledger.history(row.id)]
    assert {row.name: (row.state, row.token) for row in rows} == {
        name: ("published", token) for name, token in tokens.items()
    }
    assert told.count("published") == len(tokens), "nothing is published twice"
    assert sorted(each.time[:10] for each in read_dates(series.out)) == sorted(tokens)
    assert sorted(path.name for path in (series.out / "runs").iterdir()) == sorted(tokens)
    assert maintain(series) == Upkeep(checked=len(tokens))


def test_two_processes_and_one_acquisition_make_one_result(config: Path) -> None:
    deliver(config, DATES[0])
    with ExitStack() as stack:
        both = [stack.enter_context(passing(config)) for _ in range(2)]
        (config.parent / "begin").touch()
        wait_for(lambda: claimed(config))
        # The other one finds nothing to do while this one is at work, and ends.
        other = next(each for each in both if each.pid not in claimed(config))
        assert outcomes(other) == []
        (config.parent / "go").touch()
        one = next(each for each in both if each is not other)
        assert outcomes(one) == [[f"drop {DATES[0]}", "published"]]
    check_published(config, {DATES[0]: 1})


@pytest.mark.parametrize("address", [pytest.param("postgresql", marks=pytest.mark.e2e)], indirect=True)
def test_processes_share_the_work_and_do_nothing_twice(config: Path) -> None:
    (config.parent / "begin").touch()
    (config.parent / "go").touch()
    deliver(config, DATES[0])
    with passing(config) as first:  # trains the model that all dates take
        outcomes(first)
    for date in DATES[1:]:
        deliver(config, date)
    (config.parent / "go").unlink()
    for path in config.parent.glob("claimed.*"):
        path.unlink()
    with ExitStack() as stack:
        both = [stack.enter_context(passing(config)) for _ in range(2)]
        wait_for(lambda: len(claimed(config)) == 2)
        (config.parent / "go").touch()
        done = [outcomes(each) for each in both]
    assert sorted(name for each in done for name, _ in each) == [f"drop {date}" for date in DATES[1:]]
    assert {what for each in done for _, what in each} == {"published"}
    check_published(config, dict.fromkeys(DATES, 1))


@pytest.mark.parametrize("address", ["sqlite"], indirect=True)
def test_who_is_killed_at_work_is_followed_by_another_and_the_ids_are_the_same(config: Path) -> None:
    (config.parent / "begin").touch()
    deliver(config, DATES[0])
    with passing(config) as killed:
        wait_for(lambda: claimed(config))
        killed.send_signal(signal.SIGKILL)
        killed.wait()
    (config.parent / "go").touch()
    with passing(config) as next_one:
        assert outcomes(next_one) == [[f"drop {DATES[0]}", "published"]]
    check_published(config, {DATES[0]: 2})
    labels = open_result(WatchConfig.read(config).out / "runs" / DATES[0]).labels.values
    assert len(np.unique(labels)) == 4
