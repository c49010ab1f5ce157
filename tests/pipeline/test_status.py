"""What `ktex status` says of a run is what the run has left on disk, and looking disturbs nothing."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from ktex_model.texture import TextureConfig
from pipeline import InputError, Settings, segment
from pipeline import vocabulary as vocabulary_module
from pipeline.status import look_at, look_at_run
from pipeline.workspace import Folders, Workspace, is_locked
from tests.pipeline import grey_model
from tests.pipeline.test_run import SMALL, make_scene

NOW = datetime.now(UTC)


@pytest.fixture(autouse=True)
def grey(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(TextureConfig, "context_px", 0)
    grey_model.install(monkeypatch)
    yield
    grey_model.load_model.cache_clear()


def manifest(blocks: int = 4) -> dict[str, Any]:
    return {"key": "0123456789abcdef", "settings": {}, "inputs": [], "code": "1", "blocks": blocks}


def test_a_published_run_is_done_with_the_figures_of_its_record(tmp_path: Path) -> None:
    make_scene(tmp_path / "scene.tif")
    result = segment(tmp_path / "scene.tif", Settings(k=4, **SMALL), tmp_path / "runs" / "2021-03")
    found = look_at(tmp_path)
    (run,) = found.runs
    assert (run.path, run.state, run.progress, run.problems) == (tmp_path / "runs" / "2021-03", "done", 1.0, ())
    assert result.record.metrics is not None
    assert result.record.key is not None
    assert run.figures["pixels_valid"] == result.record.metrics.pixels_valid
    assert run.figures["classes"] == result.record.metrics.classes
    assert run.key == result.record.key[:12]
    assert run.blocks == 4
    assert found.last_result == run
    assert json.loads(json.dumps(found.to_json()))["counts"]["done"] == 1


def test_a_run_that_stopped_says_how_far_it_came_and_why(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make_scene(tmp_path / "scene.tif")

    def die(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(vocabulary_module, "align", die)
    with pytest.raises(OSError, match="No space left"):
        segment(tmp_path / "scene.tif", Settings(k=4, **SMALL), tmp_path / "run")
    (tmp_path / "run" / "run.log").write_text("2026-01-01 INFO a: fine\n2026-01-01 ERROR flows: the disk is full\n")
    run = look_at_run(tmp_path / "run", now=NOW)
    assert (run.state, dict(run.done)) == ("interrupted", {"train": 4, "predict": 4, "cut": 0})
    assert run.progress == pytest.approx(2 / 3)
    assert run.problems == ("interrupted; the same command resumes it", "2026-01-01 ERROR flows: the disk is full")


def test_a_run_at_work_is_running_and_is_not_disturbed_by_the_look(tmp_path: Path) -> None:
    with Workspace(tmp_path / "run", manifest()) as workspace:
        workspace.folders.mark("train", "0000_0000", {})
        run = look_at_run(tmp_path / "run", now=NOW)
        assert (run.state, run.progress, run.problems) == ("running", pytest.approx(1 / 12), ())
        with pytest.raises(InputError, match="another run is at work"):
            Workspace(tmp_path / "run", manifest())
    assert look_at_run(tmp_path / "run", now=NOW).state == "interrupted"


def test_a_run_that_has_been_silent_for_long_is_a_problem(tmp_path: Path) -> None:
    with Workspace(tmp_path, manifest()):
        later = datetime.now(UTC) + timedelta(hours=1)
        assert look_at_run(tmp_path, now=later).problems == ("nothing written for 60 min; look at run.log",)


def test_a_look_at_the_lock_never_costs_a_run_its_directory(tmp_path: Path) -> None:
    import fcntl
    import threading

    lock = Folders(tmp_path).work / "lock"
    lock.parent.mkdir()
    held = lock.open("w")
    fcntl.flock(held, fcntl.LOCK_SH)
    threading.Timer(0.15, held.close).start()
    with Workspace(tmp_path, manifest()):
        assert is_locked(lock)


def test_a_run_without_some_blocks_names_them(tmp_path: Path) -> None:
    record = {"key": "k", "created": NOW.isoformat(), "blocks": {"done": 3, "failed": 1, "failed_names": ["0001_0002"]}}
    (tmp_path / "run.json").write_text(json.dumps(record))
    run = look_at_run(tmp_path, now=NOW)
    assert (run.state, run.blocks) == ("incomplete", 4)
    assert "0001_0002" in run.problems[0]


@pytest.mark.parametrize("text", ["{", "[]", "{}"])
def test_a_record_that_cannot_be_read_is_told_and_hides_no_other_run(tmp_path: Path, text: str) -> None:
    (tmp_path / "bad").mkdir()
    (tmp_path / "bad" / "run.json").write_text(text)
    good = {"key": "k", "created": NOW.isoformat(), "blocks": {"done": 1}}
    (tmp_path / "good").mkdir()
    (tmp_path / "good" / "run.json").write_text(json.dumps(good))
    found = look_at(tmp_path)
    assert {run.path.name: run.state for run in found.runs} == {"bad": "damaged", "good": "done"}
    assert any("run.json" in problem for run in found.runs for problem in run.problems)


def test_runs_are_looked_for_below_but_not_inside_runs_or_stores(tmp_path: Path) -> None:
    for name in ("a/run", "a/run/models/inner", "a/x.zarr/run", ".hidden/run", "1/2/3/4/too-deep"):
        folder = tmp_path / name
        folder.mkdir(parents=True)
        (folder / "run.json").write_text("{}")
    assert [run.path for run in look_at(tmp_path).runs] == [tmp_path / "a/run"]


@pytest.mark.parametrize("name", ["missing", "file"])
def test_only_a_folder_can_be_looked_at(tmp_path: Path, name: str) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match="must be a folder that holds runs"):
        look_at(tmp_path / name)


def test_a_folder_that_may_not_be_read_is_passed_over(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "closed").mkdir()
    scandir = os.scandir

    def refuse(path: Path) -> Any:
        if Path(path).name == "closed":
            raise PermissionError(13, "Permission denied")
        return scandir(path)

    monkeypatch.setattr("pipeline.status.os.scandir", refuse)
    assert look_at(tmp_path).runs == ()
