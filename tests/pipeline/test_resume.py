"""Finished work is kept as long as what it rests on stays: changed inputs cost the blocks that they touch."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from pipeline import InputError, RunFailedError, Settings, segment
from pipeline import predict as predict_module
from pipeline import run as run_module
from pipeline.blocks import Block, Window
from pipeline.plan import Plan
from pipeline.preparation import prepare
from pipeline.results import open_result
from pipeline.running import Stage
from pipeline.stores import LabelStore
from pipeline.workspace import Folders
from tests.pipeline.rasters import GRID, shift, write_raster
from tests.pipeline.test_run import content

SMALL = {"block_px": 64, "chunk_px": 32, "overlap_px": 8, "engine": "serial", "bands": "G=1", "scaling": "byte", "k": 4}
SIDE, QUADS = 64, 3


@pytest.fixture
def labelled(monkeypatch: pytest.MonkeyPatch) -> dict[str, list[str]]:
    """Log the blocks that are labelled and put together."""
    seen: dict[str, list[str]] = {"predict": [], "cut": []}
    for stage, module, name in (
        ("predict", predict_module, "predict_block"),
        ("predict", run_module, "predict_block"),
        ("cut", run_module, "assemble_block"),
    ):
        work = getattr(module, name)

        def logged(plan: Plan, item: Any, work: Any = work, stage: str = stage) -> Any:
            seen[stage].append(item.name)
            return work(plan, item)

        monkeypatch.setattr(module, name, logged)
    return seen


def grey(seed: int) -> NDArray[np.uint8]:
    rng = np.random.default_rng(seed)
    levels = np.kron(rng.integers(0, 4, (8, 8)), np.ones((8, 8), int))
    return ((levels * 2 + 1) * 255 // 8 + rng.integers(-8, 9, (SIDE, SIDE))).astype(np.uint8)


def make_quads(folder: Path, seeds: dict[tuple[int, int], int] | None = None) -> Path:
    """Write a mosaic of QUADS x QUADS files, each as large as a block; `seeds` changes the content of some."""
    for iy in range(QUADS):
        for ix in range(QUADS):
            path = folder / f"{iy}-{ix}.tif"
            write_raster(
                path, grey((seeds or {}).get((iy, ix), iy * QUADS + ix)), affine=shift(GRID, iy * SIDE, ix * SIDE)
            )
    return folder


NEAR = {f"{iy:04d}_{ix:04d}" for iy in range(2) for ix in range(2)}
"""The block of quad (0, 0) and those whose read windows reach into it."""


@pytest.mark.parametrize("mode", ["local", "global"])
def test_a_changed_file_costs_the_blocks_that_read_it(
    tmp_path: Path, trainings: list[str], labelled: dict[str, list[str]], mode: str
) -> None:
    settings = Settings(**SMALL, mode=mode, keep_work=True, sample_windows=1, sample_px=64)
    quads = make_quads(tmp_path / "quads")
    segment(quads, settings, tmp_path / "out")
    touched, again = ((0, 0), NEAR) if mode == "local" else ((2, 2), {"0002_0002"})
    make_quads(quads, {touched: 99})
    trainings.clear()
    labelled["predict"].clear()
    labelled["cut"].clear()
    result = segment(quads, settings, tmp_path / "out")
    assert set(labelled["predict"]) == again
    # A model stays where what it was trained on stays; the anchor's windows are drawn from a look at all of the scene.
    assert len(trainings) == (len(NEAR) + 1 if mode == "local" else 0)
    if mode == "global":
        assert not labelled["cut"], "where one model serves all, labels are those of the map at once"
    fresh = segment(quads, settings, tmp_path / "fresh")
    assert content(tmp_path / "out") == content(tmp_path / "fresh")
    assert [file.sha256 for file in result.record.inputs] == [file.sha256 for file in fresh.record.inputs]


def test_the_old_result_stays_until_the_new_one_is_there(
    tmp_path: Path, trainings: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = Settings(**SMALL, keep_work=True)
    quads = make_quads(tmp_path / "quads")
    segment(quads, settings, tmp_path / "out")
    before = content(tmp_path / "out")
    make_quads(quads, {(1, 1): 99})
    monkeypatch.setattr(run_module, "make_run_record", fail)
    with pytest.raises(OSError, match="disk on fire"):
        segment(quads, settings, tmp_path / "out")
    assert content(tmp_path / "out") == before
    assert (tmp_path / "out" / "run.json").exists()


def fail(*_: Any) -> None:
    raise OSError("disk on fire")


def test_an_unfinished_run_goes_on_with_changed_files(
    tmp_path: Path, trainings: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = Settings(**SMALL)
    quads = make_quads(tmp_path / "quads")
    with monkeypatch.context() as patch:
        patch.setattr(run_module, "_align", fail)
        patch.setattr(run_module, "STAGES", (*run_module.STAGES[:2], Stage("align", "Aligning", fail)))
        with pytest.raises(OSError, match="disk on fire"):
            segment(quads, settings, tmp_path / "out")
    make_quads(quads, {(0, 0): 99})
    trainings.clear()
    segment(quads, settings, tmp_path / "out")
    assert len(trainings) == 1 + 4
    segment(quads, settings, tmp_path / "fresh")
    assert content(tmp_path / "out") == content(tmp_path / "fresh")


def test_a_published_run_without_its_work_cannot_be_gone_on_from(tmp_path: Path, trainings: list[str]) -> None:
    quads = make_quads(tmp_path / "quads")
    segment(quads, Settings(**SMALL), tmp_path / "out")
    make_quads(quads, {(0, 0): 99})
    with pytest.raises(InputError, match=r"changed ones, and no work kept \(--keep-work\) to go on from"):
        segment(quads, Settings(**SMALL), tmp_path / "out")


def test_another_grid_is_another_run(tmp_path: Path, trainings: list[str]) -> None:
    settings = Settings(**SMALL, keep_work=True)
    quads = make_quads(tmp_path / "quads")
    segment(quads, settings, tmp_path / "out")
    for ix in range(QUADS):
        (quads / f"2-{ix}.tif").unlink()
    with pytest.raises(InputError, match="holds a run with other settings, inputs"):
        segment(quads, settings, tmp_path / "out")


def test_the_hashing_of_inputs_is_heard_of(tmp_path: Path, trainings: list[str]) -> None:
    heard: list[tuple[str, int, int]] = []
    with prepare(
        make_quads(tmp_path / "quads"), Settings(**SMALL), tmp_path / "out", progress=lambda *told: heard.append(told)
    ):
        pass
    assert heard == [("Hashing inputs", done, QUADS**2) for done in range(1, QUADS**2 + 1)]


@pytest.mark.parametrize("change", ["rewritten", "gone"])
def test_a_file_that_changes_under_way_is_never_published(
    tmp_path: Path, trainings: list[str], monkeypatch: pytest.MonkeyPatch, change: str
) -> None:
    quads = make_quads(tmp_path / "quads")
    last = quads / "2-2.tif"
    work = predict_module.predict_block

    def change_last(plan: Plan, block: Block) -> Any:
        found = work(plan, block)
        if block.index == (2, 2):  # after it was read for the last time
            last.unlink()
            if change == "rewritten":
                make_quads(quads, {(2, 2): 99})
        return found

    settings = Settings(**SMALL)
    with monkeypatch.context() as patch:
        patch.setattr(predict_module, "predict_block", change_last)
        told = "was changed while" if change == "rewritten" else "disappeared while"
        with pytest.raises(RunFailedError, match=rf"\d-\d\.tif: {told} the run was under way"):
            segment(quads, settings, tmp_path / "out")
    assert not (tmp_path / "out" / "run.json").exists()
    make_quads(quads, {(2, 2): 99})
    segment(quads, settings, tmp_path / "out")
    segment(quads, settings, tmp_path / "fresh")
    assert content(tmp_path / "out") == content(tmp_path / "fresh")


def test_a_block_that_fails_half_written_shows_nothing_of_it_and_the_next_run_heals_it(
    tmp_path: Path, trainings: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = Settings(**SMALL, mode="global", sample_windows=1, sample_px=64)
    quads = make_quads(tmp_path / "quads")
    segment(quads, settings, tmp_path / "whole")
    write = LabelStore.write

    def half(store: LabelStore, window: Window, labels: Any, confidence: Any) -> None:
        write(store, window, labels, confidence)
        if (window.y0, window.x0) == (SIDE, SIDE) and (labels != 255).any():
            raise OSError("disk on fire")

    with monkeypatch.context() as patch:
        patch.setattr(LabelStore, "write", half)
        first = segment(quads, settings, tmp_path / "out")
    assert (first.record.exit_code, first.record.blocks.failed_names) == (3, ["0001_0001"])
    assert (first.labels.to_numpy() != 255).any()
    labels, expected = first.labels.to_numpy(), open_result(tmp_path / "whole").labels.to_numpy().copy()
    expected[SIDE : 2 * SIDE, SIDE : 2 * SIDE] = 255
    np.testing.assert_array_equal(labels, expected)
    assert segment(quads, settings, tmp_path / "out").record.state == "done"
    assert content(tmp_path / "out") == content(tmp_path / "whole")


def test_labels_go_straight_into_the_map_where_one_model_serves_all_and_no_catalogue_renames(
    tmp_path: Path, trainings: list[str]
) -> None:
    quads, options = make_quads(tmp_path / "quads"), {**SMALL, "keep_work": True, "mode": "global"}
    straight = segment(quads, Settings(**options), tmp_path / "straight")
    assert not Folders(tmp_path / "straight").raw.exists()
    matched = segment(quads, Settings(**options, catalogue=tmp_path / "catalogue"), tmp_path / "matched")
    assert Folders(tmp_path / "matched").raw.exists()
    for name in ("labels", "confidence"):
        one, other = (getattr(result, name).to_numpy() for result in (straight, matched))
        np.testing.assert_array_equal(one, other)
