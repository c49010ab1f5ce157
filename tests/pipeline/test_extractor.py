"""Training an extractor from the command line: its files, its card, and what is refused."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from flows.cli import main
from ktex_model import extractors
from tests.pipeline.rasters import write_raster


@pytest.fixture
def scenes(tmp_path: Path) -> list[str]:
    rng = np.random.default_rng(0)
    return [
        str(write_raster(tmp_path / f"{name}.tif", rng.integers(1, 255, (3, 96, 80)).astype(np.uint8))) for name in "ab"
    ]


def test_an_extractor_is_trained_on_scenes_and_tells_of_them(
    scenes: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(extractors, "CROP_PX", 64)
    monkeypatch.setattr(extractors, "BATCH", 2)
    out = tmp_path / "extractor"
    arguments = ["extractor", "train", *scenes, "--out", str(out), "--steps", "3", "--width", "0.03125"]
    assert main([*arguments, "--bands", "rgb"]) == 0
    assert "step 3 of 3" in capsys.readouterr().err
    held = extractors.load(out)
    assert (held.name, held.bands, held.width) == ("planet", 3, 1 / 32)
    card = (out / "CARD.md").read_text()
    for part in ("a.tif", "b.tif", "7,680", "--steps 3", "--bands rgb", "sha256", "3 steps"):
        assert part in card
    # Another training in the same place replaces it.
    assert main([*arguments, "--bands", "rgb", "--seed", "1"]) == 0
    assert "--seed 1" in (out / "CARD.md").read_text()
    assert (extractors.load(out).tensors["block1_conv1/kernel"] != held.tensors["block1_conv1/kernel"]).any()


def test_what_is_no_place_or_no_scene_is_refused(
    scenes: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "notes.txt").write_text("mine")
    assert main(["extractor", "train", *scenes, "--out", str(tmp_path / "full"), "--bands", "rgb"]) == 2
    assert "holds something other than an extractor" in capsys.readouterr().err
    grey = str(write_raster(tmp_path / "grey.tif", np.full((4, 64, 64), 9, np.uint8)))
    assert main(["extractor", "train", scenes[0], grey, "--out", str(tmp_path / "new"), "--bands", "rgbn"]) == 2
    assert not (tmp_path / "new").exists()


def test_other_bands_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rng = np.random.default_rng(1)
    names = (("red", "green", "blue"), ("red", "green", "blue", "nir"))
    paths = [
        str(
            write_raster(
                tmp_path / f"{len(each)}.tif",
                rng.integers(1, 255, (len(each), 64, 64)).astype(np.uint8),
                descriptions=each,
            )
        )
        for each in names
    ]
    assert main(["extractor", "train", *paths, "--out", str(tmp_path / "new")]) == 2
    assert "sees the same bands in every scene" in capsys.readouterr().err
