"""Whole runs that share a card: what is watched, what is compared, and that a run says what it measured."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmarks import gpu_run


def test_a_card_is_watched_until_the_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tool = tmp_path / "nvidia-smi"
    tool.write_text("#!/bin/sh\nprintf '100, 0\\n900, 50\\n300, 100\\n'\nexec sleep 60\n")
    tool.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    start = time.monotonic()
    with gpu_run.watch_card() as found:
        time.sleep(1)
    assert found == {"card_peak_mib": 900, "card_use": 0.5}
    assert time.monotonic() - start < 30


def test_without_a_card_nothing_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with gpu_run.watch_card() as found:
        pass
    assert found == {}


def test_runs_are_compared_and_a_failed_one_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    fails: set[str] = set()

    def launch(name: str, _: Path, folder: Path, settings: Mapping[str, Any], *__: Any) -> dict[str, Any]:
        if name in fails:
            return {"run": name, "failed": "Traceback\nboom"}
        labels = np.zeros(10)
        labels[0] = settings["workers"] == 3
        np.save(folder / f"out-{name}.npy", labels)
        return {"run": name, "wall_s": 1.0, "stages_s": {"train": 1.0}}

    monkeypatch.setattr(gpu_run, "launch", launch)
    monkeypatch.setattr(gpu_run, "write_scene", lambda folder, side: folder / "scene.tif")
    ask = ["--quick", "--section", "local", "--workers", "2", "3", "--scratch", str(tmp_path), "--json"]
    assert gpu_run.main([*ask, str(tmp_path / "found.json")]) == 0
    rows = json.loads((tmp_path / "found.json").read_text())["local"]
    assert [(row["run"], row["same_labels"]) for row in rows] == [("local-2", 1.0), ("local-3", 0.9)]
    fails.add("local-3")
    assert gpu_run.main([*ask, str(tmp_path / "found.json")]) == 1
    assert "boom" in capsys.readouterr().out


@pytest.mark.slow
def test_a_run_says_what_it_measured(tmp_path: Path) -> None:
    scene = gpu_run.write_scene(tmp_path, 128)
    settings = {**gpu_run._trained(quick=True), "engine": "serial", "block_px": 128, "chunk_px": 128}
    found = gpu_run.run_one(scene, tmp_path / "out", settings)
    assert found["state"] == "done"
    assert set(found["training_s"][0]) == {"features", "starts", "refine", "generators", "network"}
    assert 0 < sum(found["training_s"][0].values()) < found["stages_s"]["train"] < found["wall_s"]
    labels = np.load(tmp_path / "out.npy")
    assert labels.shape == (128, 128)
    assert found["classes"] == len(np.unique(labels))


@pytest.mark.slow
def test_a_run_that_fails_says_why(tmp_path: Path) -> None:
    found = gpu_run.launch("none", tmp_path / "none.tif", tmp_path, {})
    assert "none.tif" in found["failed"]
    assert "wall_s" not in found
