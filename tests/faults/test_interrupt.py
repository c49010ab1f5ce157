"""Ctrl-C ends a run of real worker processes in order: one line, and what is done is kept."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from tests.pipeline.rasters import write_raster

pytestmark = [pytest.mark.dask, pytest.mark.e2e, pytest.mark.timeout(240)]

KTEX = """
import signal, sys
from flows.cli import main
# A shell's background jobs ignore the signal, and whatever they start inherits that.
signal.signal(signal.SIGINT, signal.default_int_handler)
sys.exit(main())
"""


def test_an_interrupt_is_told_in_one_line_and_leaves_no_process(tmp_path: Path) -> None:
    grey = np.random.default_rng(0).integers(1, 255, (1, 512, 512)).astype(np.uint8)
    scene = write_raster(tmp_path / "scene.tif", grey)
    command = [sys.executable, "-c", KTEX, "run", str(scene), "--out", str(tmp_path / "out"), "--bands", "G=1"]
    process = subprocess.Popen(
        [*command, "--workers", "2", "--block-px", "256"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    log, until = tmp_path / "out" / "run.log", time.monotonic() + 120
    assert process.stderr is not None
    heard = []
    for line in process.stderr:  # as far as the first stage: the workers are up
        heard.append(line)
        if line.startswith("Training"):
            break
        assert time.monotonic() < until
    time.sleep(3)
    os.killpg(process.pid, signal.SIGINT)  # a terminal sends it to all
    _, err = process.communicate(timeout=100)
    said = [*heard, *err.splitlines()]
    assert process.returncode == 130, said
    assert said[-1] == "ktex: interrupted; what is done is kept, and the same command resumes it"
    assert not [line for line in said if "Traceback" in line or "distributed" in line], said
    assert "Traceback" not in log.read_text()
    until = time.monotonic() + 30
    while left := subprocess.run(
        ["ps", "-o", "pid=", "-g", str(process.pid)], capture_output=True, text=True, check=False
    ).stdout.strip():
        assert time.monotonic() < until, f"left behind: {left}"
        time.sleep(0.5)
