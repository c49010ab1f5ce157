"""The command ``ktex classes``, on a catalogue that was made by hand; what it does to runs is in tests/pipeline."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from flows.cli import main
from ktex_model import radiometry
from pipeline.catalogue.store import CatalogueLock, read_catalogue, write_catalogue
from pipeline.catalogue.values import Card, Catalogue, Members
from pipeline.errors import InputError
from pipeline.legend import Legend


@pytest.fixture
def catalogue(tmp_path: Path) -> Path:
    members = Members(np.array([0, 3]), np.array([64, 64]), np.array([[0.0, 1.0], [5.0, 1.0]]))
    card = Card("key", 1, ("G",), radiometry.byte(1))
    legend = Legend.from_counts({0: 10, 3: 30, 7: 60}, names={3: "meadow"})
    with CatalogueLock(tmp_path / "classes", "test"):
        write_catalogue(tmp_path / "classes", Catalogue(legend, card, members, np.eye(2)))
    return tmp_path / "classes"


def test_classes_are_shown_as_a_table_and_as_json(catalogue: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["classes", "show", str(catalogue)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[:2] for line in lines[1:]] == [["0", "class"], ["3", "meadow"], ["7", "class"]]
    assert "30.00%" in lines[2]
    assert main(["classes", "show", str(catalogue), "--json"]) == 0
    record = json.loads(capsys.readouterr().out)
    assert [each["id"] for each in record["classes"]] == [0, 3, 7]
    assert record["next_id"] == 8


def test_a_change_of_a_catalogue_is_one_file_in_one_step(catalogue: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = read_catalogue(catalogue)
    assert main(["classes", "name", str(catalogue), "7", "Water", "--color", "0000ff"]) == 0
    assert main(["classes", "merge", str(catalogue), "0", "3", "7"]) == 0
    assert "classes 0, 3 are part of class 7" in capsys.readouterr().out
    after = read_catalogue(catalogue)
    assert [(each.id, each.name, each.colour, each.pixels) for each in after.legend.classes] == [
        (7, "Water", "#0000FF", 100)
    ]
    assert after.legend.signatures == before.legend.signatures
    np.testing.assert_array_equal(after.members.ids, [0, 3], "each look is kept by itself")
    assert main(["classes", "show", str(catalogue)]) == 0
    assert "class 3 (meadow) became part of class 7" in capsys.readouterr().out


def test_edits_of_a_report_are_applied(catalogue: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    said = {"format": "ktextures-class-edits", "version": 1, "edits": [{"id": 3, "name": "Forest"}]}
    (tmp_path / "edits.json").write_text(json.dumps(said))
    assert main(["classes", "apply", str(catalogue), str(tmp_path / "edits.json")]) == 0
    assert "Forest" in capsys.readouterr().out
    assert read_catalogue(catalogue).legend[3].name == "Forest"


@pytest.mark.parametrize(
    ("form", "start"), [("qml", "<!DOCTYPE qgis"), ("gdal", "# 0"), ("csv", "id,name"), ("json", "[")]
)
def test_each_format_is_written_where_it_is_asked_for(
    catalogue: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], form: str, start: str
) -> None:
    assert main(["classes", "export", str(catalogue), "--format", form]) == 0
    text = capsys.readouterr().out
    assert text.startswith(start)
    assert main(["classes", "export", str(catalogue), "--format", form, "--to", str(tmp_path / "out")]) == 0
    assert (tmp_path / "out").read_text() == text


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["show", "absent"], "holds no catalogue"),
        (["name", "classes", "5", "x"], "there is no class 5; there are 0, 3, 7"),
        (["name", "classes", "3"], "Give a NAME or a --color"),
        (["merge", "classes", "3"], "Give the classes to merge"),
        (["name", "classes", "3", " "], "must have a character that shows"),
        (["name", "classes", "3", "--color", ""], "must be six hexadecimal digits, such as 2CA02C; got ''"),
        (["name", "classes", "3", "--color", "red"], "got 'red'"),
        (["merge", "classes", "3", "3"], "itself"),
        (["merge", "classes", "0", "0", "3"], "class 0 is named twice"),
        (["apply", "classes", "absent.json"], "absent.json: cannot be read"),
        (["export", "classes", "--format", "csv", "--to", "no/where"], "--to no/where: cannot be written"),
    ],
)
def test_wrong_use_is_one_line_and_2(
    catalogue: Path,
    arguments: list[str],
    message: str,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(catalogue.parent)
    before = (catalogue / "classes.json").read_bytes()
    assert main(["classes", *arguments]) == 2
    said = capsys.readouterr().err.strip()
    assert message in said
    assert "\n" not in said
    assert (catalogue / "classes.json").read_bytes() == before


@pytest.mark.parametrize(
    "arguments", [["name", "run", "0", "x"], ["merge", "run", "0", "3"], ["apply", "run", "a.json"]]
)
def test_the_runs_of_a_run_are_refused_before_anything_is_changed(
    arguments: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def change(*_: object) -> None:
        raise AssertionError("nothing may be changed")

    for name in ("rename_class", "merge", "apply_file"):
        monkeypatch.setattr(f"pipeline.catalogue.desk.{name}", change)
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "run.json").write_text("{}")
    monkeypatch.chdir(tmp_path)
    assert main(["classes", *arguments, "--runs"]) == 2
    assert "--runs: run is a run itself" in capsys.readouterr().err


def test_a_run_that_cannot_follow_stops_no_other(
    catalogue: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    runs, asked = [Path("/runs/apart"), Path("/runs/same")], []

    def refresh(run: Path, _: Path) -> bool:
        asked.append(run)
        if run == runs[0]:
            raise InputError(f"{run}: was merged the other way round")
        return False

    monkeypatch.setattr("pipeline.catalogue.desk.published_runs", lambda _: runs)
    monkeypatch.setattr("pipeline.catalogue.desk.refresh", refresh)
    assert main(["classes", "merge", str(catalogue), "0", "3", "--runs"]) == 2
    said = capsys.readouterr()
    assert asked == runs
    assert said.err.strip() == "error: /runs/apart: was merged the other way round"
    assert "/runs/same: nothing to change" in said.out
