"""The anchor: one model of the whole scene beside those of the blocks."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import pipeline.anchor
from pipeline import RunFailedError, Settings, segment
from pipeline.anchor import tally_block
from pipeline.blocks import Window
from pipeline.plan import Plan
from pipeline.predict import compare_pair
from pipeline.preparation import prepare
from pipeline.scene import Pixels
from pipeline.workspace import ANCHOR, WORK
from tests.pipeline.rasters import write_raster
from tests.pipeline.test_resume import make_quads
from tests.pipeline.test_run import content

K = 4
SETTINGS: dict[str, Any] = {
    "k": K, "bands": "G=1", "scaling": "byte", "block_px": 64, "chunk_px": 32, "overlap_px": 8, "engine": "serial",
    "keep_work": True,
}  # fmt: skip


@pytest.fixture
def scene(tmp_path: Path) -> Path:
    """Four greys in 2 x 2 blocks."""
    coarse = np.kron(np.random.default_rng(0).integers(0, K, (9, 9)), np.ones((16, 16), int))[:140, :140]
    write_raster(tmp_path / "scene.tif", ((2 * coarse + 1) * 255 // (2 * K)).astype(np.uint8), nodata=0)
    return tmp_path / "scene.tif"


def test_blocks_are_told_apart_by_a_model_of_the_whole_scene(
    scene: Path, tmp_path: Path, trainings: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    told = dict[tuple[int, int], Any]()

    def listen(plan: Plan, block: Any) -> Any:
        told[block.index] = tally_block(plan, block)
        return told[block.index]

    monkeypatch.setattr("pipeline.vocabulary.tally_block", listen)
    result = segment(scene, Settings(**SETTINGS), tmp_path / "out")
    assert len(trainings) == 1 + 4
    assert (tmp_path / "out/models" / ANCHOR / "grey.json").is_file()
    assert sorted(told) == [(0, 0), (0, 1), (1, 0), (1, 1)]
    for table in told.values():  # both know four greys: each class of a block is one of the anchor's
        assert ((table > 0).sum(axis=1) == 1).all()
    assert result.record.blocks.done == 4


def test_the_anchor_labels_other_scenes_like_any_model(scene: Path, tmp_path: Path, trainings: list[str]) -> None:
    segment(scene, Settings(**SETTINGS), tmp_path / "first")
    applied = Settings(**SETTINGS, model=tmp_path / "first/models" / ANCHOR)
    assert segment(scene, applied, tmp_path / "second").record.blocks.done == 4
    assert len(trainings) == 1 + 4


@pytest.mark.parametrize("changes", [{"block_px": 160}, {"mode": "global"}], ids=["one block", "one model"])
def test_where_nothing_is_to_be_compared_there_is_no_anchor(
    scene: Path, tmp_path: Path, trainings: list[str], changes: dict[str, Any]
) -> None:
    segment(scene, Settings(**SETTINGS | changes), tmp_path / "out")
    assert len(trainings) == 1
    assert not (tmp_path / "out/models" / ANCHOR).exists()


def test_without_its_anchor_a_run_stops_and_goes_on_with_what_the_blocks_did(
    scene: Path, tmp_path: Path, trainings: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise OSError("disk is full")

    with monkeypatch.context() as broken:
        broken.setattr(pipeline.anchor, "train_global", fail)
        with pytest.raises(RunFailedError, match=r"the anchor, one model of the whole scene, failed: .*disk is full"):
            segment(scene, Settings(**SETTINGS), tmp_path / "out")
    assert len(trainings) == 4
    result = segment(scene, Settings(**SETTINGS), tmp_path / "out")
    assert len(trainings) == 4 + 1
    assert (result.record.blocks.failed, result.record.blocks.reused) == (0, 4)


def test_an_interrupted_run_keeps_its_anchor(
    scene: Path, tmp_path: Path, trainings: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as broken:
        broken.setattr("pipeline.vocabulary.tally_block", lambda *_: 1 / 0)
        with pytest.raises(RunFailedError, match="could not be compared with the anchor: division by zero"):
            segment(scene, Settings(**SETTINGS), tmp_path / "out")
    segment(scene, Settings(**SETTINGS), tmp_path / "out")
    assert len(trainings) == 1 + 4


def test_what_the_anchor_has_labelled_it_labels_again_only_where_labels_or_the_anchor_have_changed(
    tmp_path: Path, trainings: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    quads, settings = make_quads(tmp_path / "quads"), Settings(**SETTINGS | {"sample_px": 64})
    labelled, plans, work, found = list[str](), list[Plan](), pipeline.anchor.label_window, pipeline.anchor.model_of

    def listen(plan: Plan, block: Any, *given: Any) -> Any:
        labelled.append(block.name)
        plans.append(plan)
        return work(plan, block, *given)

    monkeypatch.setattr(pipeline.anchor, "label_window", listen)
    with monkeypatch.context() as broken:
        broken.setattr("pipeline.vocabulary.align", lambda *_, **__: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            segment(quads, settings, tmp_path / "out")
    assert len(labelled) == 9
    plan, first = plans[0], plans[0].grid.block((0, 0))
    before = tally_block(plan, first)
    assert before is not None
    assert len(labelled) == 9
    labels_of = pipeline.anchor.labels_key
    with monkeypatch.context() as changed:
        changed.setattr(pipeline.anchor, "labels_key", lambda *given: labels_of(*given) + "-others")
        np.testing.assert_array_equal(tally_block(plan, first), before)
    assert len(labelled) == 10
    tally_block(plan, first)
    assert len(labelled) == 11
    _directory, digest = found(plan, ANCHOR) or ("", "")
    other = Path(tmp_path / "another")
    other.mkdir()
    known, bands, seed = json.loads(digest)
    (other / "grey.json").write_text(json.dumps([known, bands, seed + 1]))
    with monkeypatch.context() as changed:
        changed.setattr(pipeline.anchor, "model_of", lambda *_: (other, json.dumps([known, bands, seed + 1])))
        tally_block(plan, first)
    assert len(labelled) == 12
    segment(quads, settings, tmp_path / "out")
    assert len(labelled) == 12 + 1


def test_an_anchor_is_trained_on_what_it_would_be_drawn_now(
    tmp_path: Path, trainings: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    quads, settings = make_quads(tmp_path / "quads"), Settings(**SETTINGS | {"sample_px": 64, "sample_windows": 2})
    segment(quads, settings, tmp_path / "out")
    make_quads(quads, {(2, 2): 99})
    segment(quads, settings, tmp_path / "out")
    segment(quads, settings, tmp_path / "fresh")
    windows = [
        json.loads((tmp_path / run / WORK / "done/train" / f"{ANCHOR}.json").read_text())["windows"]
        for run in ("out", "fresh")
    ]
    assert windows[0] == windows[1]


def test_a_damaged_file_under_all_that_the_anchor_would_see_costs_its_blocks_and_the_anchor(
    tmp_path: Path, trainings: list[str], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    quads, settings = make_quads(tmp_path / "quads"), Settings(**SETTINGS | {"sample_px": 64, "sample_windows": 1})
    segment(quads, settings, tmp_path / "whole")
    (window,) = json.loads((tmp_path / "whole" / WORK / "done/train" / f"{ANCHOR}.json").read_text())["windows"]
    read = Plan.read

    def damaged(plan: Plan, asked: Window) -> Pixels:
        if asked.intersect(Window(*window)).size > 1000:
            raise OSError("pixels cannot be read, the file is damaged")
        return read(plan, asked)

    with monkeypatch.context() as broken:
        broken.setattr(Plan, "read", damaged)
        first = segment(quads, settings, tmp_path / "out")
    assert first.record.exit_code == 3
    assert first.record.blocks.done + first.record.blocks.reused == 9 - first.record.blocks.failed >= 1
    assert "model anchor does without 1 of 1 windows" in caplog.text
    assert segment(quads, settings, tmp_path / "out").record.exit_code == 0
    assert content(tmp_path / "out") == content(tmp_path / "whole")


def test_what_could_not_be_read_for_a_while_changes_nothing(
    tmp_path: Path, trainings: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    quads, settings = make_quads(tmp_path / "quads"), Settings(**SETTINGS | {"sample_px": 64})
    segment(quads, settings, tmp_path / "whole")
    read, tries = Plan.read, list[Window]()

    def flaky(plan: Plan, asked: Window) -> Pixels:
        tries.append(asked)
        if len(tries) <= 1 + settings.retries:
            raise OSError("stale file handle")
        return read(plan, asked)

    with monkeypatch.context() as broken:
        broken.setattr(Plan, "read", flaky)
        assert segment(quads, settings, tmp_path / "out").record.exit_code == 0
    trained = json.loads((tmp_path / "out" / WORK / "done/train" / f"{ANCHOR}.json").read_text())
    assert (len(trained["windows"]), "unread" in trained) == (9, False)
    assert content(tmp_path / "out") == content(tmp_path / "whole")


def test_blocks_see_the_same_where_they_overlap(
    scene: Path, tmp_path: Path, trainings: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = []

    def listen(plan: Plan, pair: Any) -> Any:
        seen.append(compare_pair(plan, pair))
        return seen[-1]

    monkeypatch.setattr("pipeline.vocabulary.compare_pair", listen)
    segment(scene, Settings(**SETTINGS), tmp_path / "out")
    assert len(seen) == 4
    for each in seen:
        assert each.weight > 0
        assert not each.delta.any()


def test_what_cannot_be_read_costs_its_blocks_alone_and_the_anchor_is_trained_anew_when_it_can(
    tmp_path: Path, trainings: list[str], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    quads, settings = make_quads(tmp_path / "quads"), Settings(**SETTINGS | {"sample_px": 64})
    segment(quads, settings, tmp_path / "whole")
    read = Plan.read

    def damaged(plan: Plan, window: Window) -> Pixels:
        if window.y1 > 160 and window.x1 > 160:
            raise OSError("2-2.tif: pixels cannot be read, the file is damaged")
        return read(plan, window)

    with monkeypatch.context() as broken:
        broken.setattr(Plan, "read", damaged)
        first = segment(quads, settings, tmp_path / "out")
    assert (first.record.exit_code, first.record.blocks.failed_names) == (3, ["0002_0002"])
    assert "model anchor does without 1 of 9 windows" in caplog.text
    trainings.clear()
    healed = segment(quads, settings, tmp_path / "out")
    assert (healed.record.exit_code, len(trainings)) == (0, 1 + 1)
    assert content(tmp_path / "out") == content(tmp_path / "whole")


@pytest.mark.parametrize(("side_px", "anchored"), [(64 * 64, True), (64 * 65, False)])
def test_scenes_of_very_many_blocks_have_no_anchor(scene: Path, tmp_path: Path, side_px: int, anchored: bool) -> None:
    with prepare(scene, Settings(**SETTINGS), tmp_path / "out") as run:
        plan = replace(run.plan, grid=replace(run.plan.grid, shape=(64 * 64, side_px)))
    assert plan.anchored is anchored
