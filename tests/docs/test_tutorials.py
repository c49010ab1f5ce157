"""The tutorials are carried out: every command and every line of Python, one page after the other in one folder."""

from __future__ import annotations

import re
import shlex
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from flows.cli import main
from ktex_model.texture import TextureConfig
from tests.pipeline import grey_model
from tests.pipeline.rasters import write_quad

PAGES = Path(__file__).parents[2] / "docs" / "tutorials"
ORDER = ("map-a-mosaic", "read-in-xarray", "style-in-qgis", "make-training-samples")
BLOCK = re.compile(r"^```(console|python)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def make_quads(folder: Path) -> None:
    rng = np.random.default_rng(0)
    rows, columns = np.indices((256, 256)) // 40
    grey = 400 + 900 * ((rows + 2 * columns) % 4)
    bands = [grey + 30 * band + rng.integers(-40, 41, grey.shape) for band in range(4)]
    write_quad(folder / "L15-1308E-0917N.tif", np.stack(bands).astype(np.uint16))


def carry_out(kind: str, text: str, names: dict[str, Any]) -> None:
    if kind == "python":
        exec(compile(text, "tutorial", "exec"), names)  # noqa: S102
        return
    for line in text.splitlines():
        assert line.startswith("$ ktex "), line
        words = shlex.split(line)[2:]
        if words[0] == "run":
            words += ["--engine", "serial"]  # the stand-in for the model lives in this process
        assert main(words) == 0, line


@pytest.mark.e2e
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::UserWarning", "ignore::PendingDeprecationWarning")
def test_the_tutorials_work_as_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(TextureConfig, "context_px", 0)
    monkeypatch.setenv("MPLBACKEND", "agg")
    grey_model.install(monkeypatch)
    make_quads(tmp_path / "quads")
    for page in ORDER:
        blocks = BLOCK.findall((PAGES / f"{page}.md").read_text("utf-8"))
        assert blocks, page
        names: dict[str, Any] = {"__name__": "tutorial"}
        for kind, text in blocks:
            carry_out(kind, text, names)
    assert (tmp_path / "maps" / "2021-03" / "report.html").exists()
    assert "Forest" in (tmp_path / "maps" / "2021-03" / "report.html").read_text("utf-8")
    grey_model.load_model.cache_clear()


def test_every_tutorial_is_listed_and_tried() -> None:
    assert {path.stem for path in PAGES.glob("*.md")} == {"README", *ORDER}
    listed = re.findall(r"\]\(([a-z-]+)\.md\)", (PAGES / "README.md").read_text("utf-8"))
    assert tuple(listed) == ORDER
