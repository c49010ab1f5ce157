"""The whole path with the real model in real processes: killed, resumed, and done in one process alone."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import zarr

from tests.pipeline.rasters import write_raster

pytestmark = [pytest.mark.slow, pytest.mark.dask, pytest.mark.e2e, pytest.mark.timeout(600)]

OPTIONS = "{steps: 4, rounds: 2, refine_rounds: 1, crop_px: 64, batch: 2, texture_radius_px: 4}"


def start(out: Path, scene: Path, settings: Path, *options: str) -> subprocess.Popen[str]:
    """Start ``ktex run`` in a process group of its own, so that its workers die with it."""
    command = [
        sys.executable,
        "-m",
        "flows.cli",
        "run",
        str(scene),
        "--out",
        str(out),
        "--config",
        str(settings),
        *options,
    ]
    return subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True
    )


def finish(process: subprocess.Popen[str]) -> str:
    said, _ = process.communicate(timeout=400)
    assert process.returncode == 0, said
    return said


def read(out: Path) -> list[np.ndarray]:
    group = zarr.open_group(out / "labels.zarr", mode="r")
    return [np.asarray(group[name][:]) for name in ("labels", "confidence")]


def test_killed_resumed_and_serial_runs_end_with_the_same_bytes(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    fine, coarse = rng.normal(0, 40, (128, 256)), np.kron(rng.normal(0, 40, (16, 32)), np.ones((8, 8)))
    grey = 120 + np.where((np.arange(256) // 48) % 2, fine, coarse)
    scene = write_raster(tmp_path / "scene.tif", np.clip(np.stack([grey, grey * 0.8]), 1, 255).astype(np.uint8))
    settings = tmp_path / "settings.yaml"
    settings.write_text(
        f"k: 3\nbands: G=1,N=2\nblock_px: 128\nchunk_px: 64\noverlap_px: 16\noptions: {OPTIONS}\n", encoding="utf-8"
    )
    process = start(tmp_path / "killed", scene, settings, "--workers", "1")
    marker = tmp_path / "killed" / ".ktex" / "done" / "train"
    until = time.monotonic() + 400
    while not any(marker.glob("*.json")):
        assert process.poll() is None, process.communicate()[0]
        assert time.monotonic() < until
        time.sleep(0.05)
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate()
    done = {path.stem for path in marker.glob("*.json")}
    assert done == {"anchor"}
    assert not (tmp_path / "killed" / "run.json").exists()
    trained_before = (tmp_path / "killed" / ".ktex" / "outputs" / "models" / "anchor" / "model.json").stat().st_mtime_ns

    finish(start(tmp_path / "killed", scene, settings, "--workers", "2"))
    finish(start(tmp_path / "serial", scene, settings, "--engine", "serial"))

    model = tmp_path / "killed" / "models" / "anchor" / "model.json"
    assert model.stat().st_mtime_ns == trained_before, "what was trained is not trained again"
    for resumed, serial in zip(read(tmp_path / "killed"), read(tmp_path / "serial"), strict=True):
        np.testing.assert_array_equal(resumed, serial)
    weights = [
        (tmp_path / run / "models" / block / "weights.safetensors").read_bytes()
        for run in ("killed", "serial")
        for block in ("anchor", "0000_0000", "0000_0001")
    ]
    assert weights[:3] == weights[3:]
    record = json.loads((tmp_path / "killed" / "run.json").read_text())
    assert record["state"] == "done"
    again = finish(start(tmp_path / "killed", scene, settings))
    assert "holds this result already" in again
