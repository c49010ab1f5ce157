"""After any fault: nothing wrong is published, a rerun completes, and its result is the undisturbed one to the byte."""

from __future__ import annotations

import errno
import os
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from ktex_model.texture import TextureConfig
from pipeline import InputError, RunFailedError, Settings, segment
from pipeline import predict as predict_module
from pipeline import run as run_module
from pipeline.engine.interface import Outcome
from pipeline.running import Stage
from pipeline.workspace import WORK
from tests.pipeline import grey_model
from tests.pipeline.test_resume import SMALL, make_quads
from tests.pipeline.test_run import content

SETTINGS = Settings(**SMALL, retries=0)


@pytest.fixture
def trainings(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    monkeypatch.setattr(TextureConfig, "context_px", 0)
    yield grey_model.install(monkeypatch)
    grey_model.load_model.cache_clear()


@pytest.fixture
def quads(tmp_path: Path) -> Path:
    return make_quads(tmp_path / "quads")


@pytest.fixture
def undisturbed(tmp_path: Path, quads: Path, trainings: list[str]) -> dict[str, str]:
    """What the run publishes where nothing goes wrong."""
    segment(quads, SETTINGS, tmp_path / "undisturbed")
    return content(tmp_path / "undisturbed")


def before(monkeypatch: pytest.MonkeyPatch, stage: str, harm: Callable[[Path], object]) -> None:
    """Do harm to the run directory just before a stage begins."""

    def harmed(each: Stage) -> Stage:
        def function(run: Any, engine: Any, report: Any) -> None:
            harm(run.plan.folders.root)
            each.function(run, engine, report)

        return Stage(each.name, each.title, function) if each.name == stage else each

    monkeypatch.setattr(run_module, "STAGES", tuple(harmed(each) for each in run_module.STAGES))


def corrupt(path: Path) -> None:
    """Turn one byte in the middle of a file."""
    content_before = bytearray(path.read_bytes())
    content_before[len(content_before) // 2] ^= 0xFF
    path.write_bytes(bytes(content_before))


def is_published(out: Path) -> bool:
    return (out / "run.json").exists()


def test_a_corrupted_raw_chunk_costs_the_run_its_block_and_the_next_heals_it(
    tmp_path: Path, quads: Path, undisturbed: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "out"
    with monkeypatch.context() as patch:
        before(patch, "cut", lambda root: corrupt(root / WORK / "raw.zarr" / "labels" / "c" / "2" / "2"))
        first = segment(quads, SETTINGS, out)
    assert first.record.state == "incomplete"
    assert "0002_0002" in first.record.blocks.failed_names
    assert (first.labels.to_numpy()[128:, 128:] == 255).all(), "nothing is made up of damaged labels"
    assert segment(quads, SETTINGS, out).record.state == "done"
    assert content(out) == undisturbed


def test_a_corrupted_label_chunk_is_never_published(
    tmp_path: Path, quads: Path, undisturbed: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "out"
    with monkeypatch.context() as patch:
        chunk = Path(WORK) / "outputs" / "labels.zarr" / "labels" / "c" / "1" / "1"
        before(patch, "write", lambda root: corrupt(root / chunk))
        with pytest.raises(RunFailedError, match="could not be made"):
            segment(quads, SETTINGS, out)
    assert not is_published(out)
    segment(quads, SETTINGS, out)
    assert content(out) == undisturbed


@pytest.mark.parametrize("harm", ["truncated", "gone"])
def test_a_file_that_breaks_between_planning_and_reading_costs_what_it_touches(
    tmp_path: Path, quads: Path, undisturbed: dict[str, str], monkeypatch: pytest.MonkeyPatch, harm: str
) -> None:
    out, victim = tmp_path / "out", quads / "2-2.tif"
    shutil.copy2(victim, tmp_path / "kept.tif")

    def break_it(_: Path) -> None:
        if harm == "gone":
            victim.unlink()
        else:
            os.truncate(victim, victim.stat().st_size // 2)

    with monkeypatch.context() as patch:
        before(patch, "train", break_it)
        with pytest.raises(RunFailedError, match=r"2-2\.tif: (disappeared|was changed) while the run was under way"):
            segment(quads, SETTINGS, out)
    assert not is_published(out)
    done = {path.stem for path in (out / WORK / "done" / "predict").iterdir()}
    assert done == {"0000_0000", "0000_0001", "0000_0002", "0001_0000", "0002_0000"}, "what it touches, and no more"
    shutil.copy2(tmp_path / "kept.tif", victim)
    segment(quads, SETTINGS, out)
    assert content(out) == undisturbed


@pytest.mark.skipif(os.geteuid() != 0 or shutil.which("mount") is None, reason="needs root, to mount a small disk")
def test_a_full_disk_stops_the_run_and_loses_nothing(tmp_path: Path, quads: Path, undisturbed: dict[str, str]) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=160k", "tmpfs", str(disk)], capture_output=True, check=False
    )
    if mounted.returncode:
        pytest.skip(f"a small disk cannot be mounted here: {mounted.stderr.decode().strip()}")
    try:
        with pytest.raises((RunFailedError, OSError, InputError), match=r"No space left|space"):
            segment(quads, SETTINGS, disk / "out")
        assert not is_published(disk / "out")
        subprocess.run(["mount", "-o", "remount,size=64m", str(disk)], check=True)
        segment(quads, SETTINGS, disk / "out")
        assert content(disk / "out") == undisturbed
    finally:
        subprocess.run(["umount", "-l", str(disk)], check=True)


@pytest.mark.parametrize("stage", ["predict", "cut"])
def test_a_disk_that_is_full_for_one_block_costs_that_block(
    tmp_path: Path, quads: Path, undisturbed: dict[str, str], monkeypatch: pytest.MonkeyPatch, stage: str
) -> None:
    module, name = {"predict": (predict_module, "predict_block"), "cut": (run_module, "assemble_block")}[stage]
    work = getattr(module, name)

    def full(plan: Any, item: Any) -> Any:
        if item.name == "0001_0001":
            raise OSError(errno.ENOSPC, "No space left on device")
        return work(plan, item)

    with monkeypatch.context() as patch:
        patch.setattr(module, name, full)
        first = segment(quads, SETTINGS, tmp_path / "out")
    assert (first.record.exit_code, first.record.blocks.failed_names) == (3, ["0001_0001"])
    segment(quads, SETTINGS, tmp_path / "out")
    assert content(tmp_path / "out") == undisturbed


def test_a_scheduler_that_is_lost_stops_the_run_which_then_resumes(
    tmp_path: Path, quads: Path, undisturbed: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    class Lost:
        workers = 1

        def map(self, function: Any, items: Any, *, retries: int = 1) -> Iterator[Outcome[Any, Any]]:
            for count, item in enumerate(items):
                if count == 1 + 4:
                    raise RunFailedError("the Dask scheduler was lost; the same command resumes")
                yield Outcome(item, function(item))

    with monkeypatch.context() as patch:
        patch.setattr("pipeline.engine.opening.SerialEngine", Lost)
        with pytest.raises(RunFailedError, match="scheduler was lost"):
            segment(quads, SETTINGS, tmp_path / "out")
    assert not is_published(tmp_path / "out")
    result = segment(quads, SETTINGS, tmp_path / "out")
    assert result.record.blocks.reused == 4
    assert content(tmp_path / "out") == undisturbed
