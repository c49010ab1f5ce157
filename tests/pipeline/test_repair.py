"""A class of one block that holds two of the map is split, if others than who proposed it agree; and never else."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

import ktex_model
from ktex_model.model import Prediction
from ktex_model.texture import TextureConfig
from pipeline import Settings, segment
from pipeline import repair as repair_module
from pipeline import run as run_module
from pipeline import vocabulary as vocabulary_module
from pipeline.align import Mixed, Repair
from pipeline.repair import Witness, choose_donor, is_better
from pipeline.results import Result
from tests.pipeline import grey_model
from tests.pipeline.rasters import write_raster
from tests.pipeline.test_run import content

SIDE, BLOCK = 384, 128
SETTINGS: dict[str, Any] = {
    "k": 4, "block_px": BLOCK, "chunk_px": 64, "overlap_px": 16, "engine": "serial", "bands": "G=1", "scaling": "byte",
}  # fmt: skip
BLUNT = ((0, 1), (2, 1))
"""Blocks whose models take two greys for one."""


def seed_of(index: tuple[int, int], seed: int = 0) -> int:
    entropy = [seed, 1 + index[0], 1 + index[1]]
    return int(np.random.SeedSequence(entropy).generate_state(1)[0] & 0x7FFFFFFF)


class BluntModel(grey_model.GreyModel):
    """A grey model to which steps 1 and 2 are one, if it was trained in a blunt block."""

    blunt = frozenset[int]()

    def predict(self, image: Any, *rest: Any) -> Prediction:
        """Label as a grey model does that sees step 2 as step 1."""
        if self.seed in self.blunt:
            image = image[slice(None), slice(None)]
            image = np.where((image >= 0.5) & (image < 0.75), np.float32(0.3), image)
        return super().predict(image, *rest)


@pytest.fixture
def grey(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(TextureConfig, "context_px", 0)
    grey_model.install(monkeypatch)

    def load(directory: Path, digest: str | None = None) -> BluntModel:
        return BluntModel(*json.loads((Path(directory) / "grey.json").read_text()))

    monkeypatch.setattr(ktex_model, "load", load)
    monkeypatch.setattr(BluntModel, "blunt", frozenset(seed_of(index) for index in BLUNT))
    yield
    grey_model.SHUFFLE["salt"] = 0
    grey_model.load_model.cache_clear()


def make_scene(path: Path) -> NDArray[np.uint8]:
    """Write patches of four greys, 16 px wide; returns the true classes."""
    rng = np.random.default_rng(3)
    truth = np.kron(rng.integers(0, 4, (SIDE // 16, SIDE // 16)), np.ones((16, 16), int)).astype(np.uint8)
    grey = (truth.astype(int) * 2 + 1) * 255 // 8 + rng.integers(-8, 9, truth.shape)
    write_raster(path, grey.astype(np.uint8))
    return truth


def labels_of(result: Result) -> NDArray[np.uint8]:
    return np.asarray(result.labels)


def is_renaming(labels: NDArray[np.uint8], truth: NDArray[np.uint8]) -> bool:
    """Whether ids and true classes correspond one to one, in every pixel."""
    pairs = np.unique(np.stack([labels.ravel(), truth.ravel()]), axis=1)
    return pairs.shape[1] == len(np.unique(pairs[0])) == len(np.unique(pairs[1])) == 4


def test_mixed_classes_become_what_their_neighbours_see(tmp_path: Path, grey: None) -> None:
    truth = make_scene(tmp_path / "scene.tif")
    left = segment(tmp_path / "scene.tif", Settings(**SETTINGS, repair=False), tmp_path / "left")
    assert not is_renaming(labels_of(left), truth)
    result = segment(tmp_path / "scene.tif", Settings(**SETTINGS), tmp_path / "repaired")
    assert is_renaming(labels_of(result), truth)
    before, after = left.record.metrics, result.record.metrics
    assert before is not None
    assert after is not None
    assert before.alignment is not None
    assert after.alignment is not None
    assert before.overlap_disagreement is not None
    assert before.overlap_disagreement > 0.02
    assert after.overlap_disagreement == 0
    assert before.alignment.repairs == []
    assert any("hold two of the map" in flag for flag in before.alignment.flags)
    assert after.alignment.flags == []
    told: list[Any] = after.alignment.repairs
    assert [each["block"] for each in told] == [list(index) for index in BLUNT]
    for each in told:
        assert each["new_id"] not in {None, each["id"]}
        assert each["changed_px"] > 1000
        assert each["disagreement_after"] == 0 < each["disagreement_before"]
    # Legend and areas count what is published, and so do the means: each class has the grey of its step.
    assert sum(each.pixels for each in result.legend.classes) == SIDE * SIDE
    greys = sorted(each.spectrum[0] for each in result.legend.classes if each.spectrum)
    np.testing.assert_allclose(greys, (np.arange(4) * 2 + 1) * 255 // 8, atol=3)


def test_other_numberings_end_with_the_same_bytes(tmp_path: Path, grey: None) -> None:
    make_scene(tmp_path / "scene.tif")
    segment(tmp_path / "scene.tif", Settings(**SETTINGS, simulated=True), tmp_path / "one")
    grey_model.SHUFFLE["salt"] = 7
    grey_model.load_model.cache_clear()
    segment(tmp_path / "scene.tif", Settings(**SETTINGS, simulated=True), tmp_path / "two")
    one, two = content(tmp_path / "one"), content(tmp_path / "two")
    assert {name for name in one if not name.startswith("models") and one[name] != two.get(name)} == set()


@pytest.mark.parametrize("stage", ["repair", "solve", "cut", "write"])
def test_a_killed_run_resumes_with_the_same_repairs(
    tmp_path: Path, grey: None, monkeypatch: pytest.MonkeyPatch, stage: str
) -> None:
    make_scene(tmp_path / "scene.tif")
    settings = Settings(**SETTINGS, retries=0)
    segment(tmp_path / "scene.tif", settings, tmp_path / "whole")
    calls: list[str] = []

    def die(work: Any, at: int) -> Any:
        def dying(*arguments: Any, **others: Any) -> Any:
            calls.append(stage)
            if len(calls) >= at:
                raise KeyboardInterrupt
            return work(*arguments, **others)

        return dying

    with monkeypatch.context() as patch:
        if stage == "repair":
            patch.setattr(vocabulary_module, "repair_block", die(vocabulary_module.repair_block, 2))
        elif stage == "solve":
            patch.setattr(vocabulary_module, "align", die(vocabulary_module.align, 2))
        elif stage == "cut":
            patch.setattr(run_module, "assemble_block", die(run_module.assemble_block, 3))
        else:
            patch.setattr(run_module, "write_outputs", die(run_module.write_outputs, 1))
        with pytest.raises(KeyboardInterrupt):
            segment(tmp_path / "scene.tif", settings, tmp_path / "killed")
    assert calls
    segment(tmp_path / "scene.tif", settings, tmp_path / "killed")
    assert content(tmp_path / "killed") == content(tmp_path / "whole")


def test_what_does_not_help_is_taken_back(tmp_path: Path, grey: None, monkeypatch: pytest.MonkeyPatch) -> None:
    make_scene(tmp_path / "scene.tif")
    left = segment(tmp_path / "scene.tif", Settings(**SETTINGS, repair=False), tmp_path / "left")
    # All splits are let through, but donors see stripes where they should see classes.
    monkeypatch.setattr(repair_module, "is_better", lambda _: True)

    def stripes(_: Any, labels: NDArray[np.uint8], __: Any) -> NDArray[np.bool_]:
        return np.indices(labels.shape)[1] % 2 == 0

    monkeypatch.setattr(repair_module, "_second", stripes)
    result = segment(tmp_path / "scene.tif", Settings(**SETTINGS), tmp_path / "harmed")
    np.testing.assert_array_equal(labels_of(result), labels_of(left))
    np.testing.assert_array_equal(result.confidence.to_numpy(), left.confidence.to_numpy())
    assert result.record.metrics is not None
    assert result.record.metrics.alignment is not None
    told: list[Any] = result.record.metrics.alignment.repairs
    assert told
    assert all(each["new_id"] is None and each["changed_px"] == 0 for each in told)


LABELS = np.zeros((20, 40), np.uint8)
MIXED = Mixed((1, 1), 0, (5, 6), 0.4)
TRUE = np.where(np.arange(40) < 20, 5, 6) * np.ones((20, 1), int)


def witness(index: tuple[int, int], columns: slice, said: NDArray[Any] = TRUE) -> Witness:
    seen = np.full(LABELS.shape, repair_module.NOTHING, np.uint16)
    seen[:, columns] = said[:, columns]
    return Witness(index, seen)


def test_who_proposes_is_no_witness() -> None:
    right, wrong = TRUE == 6, TRUE == 5
    there = [witness((0, 1), slice(0, 40)), witness((1, 0), slice(10, 30))]
    found = choose_donor(MIXED, LABELS, {(0, 1): right}, there)
    assert found == Repair((1, 1), 0, None, (0, 1), told_px=400, before=200, after=0, pixels=400)
    assert is_better(found)
    # With nobody else to ask nothing is known, however well the proposal fits what its own block sees.
    alone = choose_donor(MIXED, LABELS, {(0, 1): right}, there[:1])
    assert (alone.told_px, is_better(alone)) == (0, False)
    assert not is_better(choose_donor(MIXED, LABELS, {(0, 1): wrong}, there))
    assert not is_better(choose_donor(MIXED, LABELS, {}, there))


def test_the_donor_is_taken_with_whom_others_agree_most() -> None:
    rng = np.random.default_rng(0)
    right = TRUE == 6
    noisy = right ^ (rng.random(right.shape) < 0.3)
    there = [witness((1, 0), slice(5, 35))]
    found = choose_donor(MIXED, LABELS, {(0, 1): noisy, (2, 1): right, (1, 2): ~right}, there)
    assert (found.donor, found.after) == ((2, 1), 0)
    # Few pixels are no proof.
    few = choose_donor(MIXED, LABELS, {(2, 1): right}, [witness((1, 0), slice(18, 22))])
    assert few.told_px < repair_module.MIN_TOLD_PX
    assert not is_better(few)


def test_a_tenth_of_the_told_pixels_has_to_be_won() -> None:
    repair = Repair((0, 0), 0, None, (0, 1), told_px=1000, before=300, after=200)
    assert is_better(repair)
    assert not is_better(replace(repair, after=201))
    assert not is_better(replace(repair, after=500))
