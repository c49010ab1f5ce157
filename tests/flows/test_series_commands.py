"""`ktex watch` and `ktex maintain`: what they say, how they exit; and the states in which the flows end."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path
from typing import Any

import pytest
import yaml

from flows import series_commands
from flows.cli import main
from flows.refresh_catalogue import refresh_table
from flows.series_commands import to_table
from pipeline.catalogue.resolve import Change
from pipeline.run import segment
from pipeline.settings import Settings
from pipeline.watch import Outcome, Pass
from pipeline.watch.refresh import Refresh
from tests.pipeline import grey_model
from tests.pipeline.rasters import position_code, write_raster


def run_here(source: list[str], out: str, settings: dict[str, Any]) -> object:
    return segment(source, Settings.parse(settings), out)


@pytest.fixture
def config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    grey_model.install(monkeypatch)
    monkeypatch.setattr(series_commands, "segment_here", run_here)
    (tmp_path / "drop").mkdir()
    settings = {"k": 4, "bands": "R=1", "mode": "global", "block_px": 64, "chunk_px": 64, "engine": "serial"}
    values = {
        "name": "nd",
        "out": "maps",
        "ids": "model",
        "sources": [{"kind": "folder", "name": "drop", "path": "drop"}],
        "settings": settings,
    }
    path = tmp_path / "watch.yaml"
    path.write_text(yaml.safe_dump(values), encoding="utf-8")
    return path


def deliver(path: Path, age_s: float = 3600) -> Path:
    write_raster(path, position_code((96, 96)))
    os.utime(path, (time.time() - age_s,) * 2)
    return path


def test_a_pass_says_what_came_of_each_delivery(config: Path, capsys: pytest.CaptureFixture[str]) -> None:
    drop = config.parent / "drop"
    deliver(drop / "a_20100629.tif")
    deliver(drop / "c_20140720.tif", age_s=1)
    bad = deliver(drop / "b_20120731.tif")
    bad.write_bytes(b"II*\0 cut off")
    os.utime(bad, (time.time() - 3600,) * 2)
    assert main(["watch", str(config)]) == 3
    said = capsys.readouterr().out
    assert "published    drop 2010-06-29 in " in said
    assert "quarantined  drop 2012-07-31: " in said
    assert "waiting      drop 2014-07-20: c_20140720.tif changed" in said
    assert "3 acquisition(s) seen, 2 worked on, 1 waiting" in said
    assert "the series has 1 waiting, 1 published, 1 quarantined; ktex status" in said
    assert (config.parent / "maps" / "watch.log").exists()

    assert main(["watch", str(config), "--limit", "1"]) == 0
    said = capsys.readouterr().out
    assert "0 worked on" in said
    assert "1 quarantined" in said, "a pass with nothing to do says what needs a person all the same"
    assert main(["watch", str(config), "--retry"]) == 3
    captured = capsys.readouterr()
    assert "1 acquisition(s) are tried again" in captured.err
    assert "quarantined  drop 2012-07-31" in captured.out


def test_maintenance_says_what_it_found(config: Path, capsys: pytest.CaptureFixture[str]) -> None:
    deliver(config.parent / "drop" / "a_20100629.tif")
    assert main(["watch", str(config)]) == 0
    assert main(["maintain", str(config)]) == 0
    assert "1 published run(s) checked, 0 damaged, 0 repaired, 0 old removed" in capsys.readouterr().out
    run = config.parent / "maps" / "runs" / "2010-06-29"
    (run / "labels.tif").unlink()
    assert main(["maintain", str(config)]) == 0
    assert "repaired     drop 2010-06-29: " in capsys.readouterr().out
    (run / "classes.json").unlink()
    assert main(["maintain", str(config)]) == 3
    assert "classes.json missing; the next pass makes it anew" in capsys.readouterr().out
    assert main(["watch", str(config)]) == 0
    assert "published    drop 2010-06-29" in capsys.readouterr().out


def test_a_refresh_tells_what_it_would_do_and_does_it_on_request(
    config: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["refresh", str(config)]) == 2, "this series has no catalogue"
    assert "holds no catalogue" in capsys.readouterr().err
    values = yaml.safe_load(config.read_text()) | {"ids": "catalogue"}
    config.write_text(yaml.safe_dump(values), encoding="utf-8")
    deliver(config.parent / "drop" / "a_20100629.tif")
    assert main(["watch", str(config)]) == 0
    capsys.readouterr()
    assert main(["refresh", str(config)]) == 0
    assert "0 change(s) found; 0 run(s) rewritten" in capsys.readouterr().out
    assert main(["classes", "merge", str(config.parent / "maps" / "catalogue"), "1", "0"]) == 0
    capsys.readouterr()
    assert main(["refresh", str(config), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["behind"] == [str(config.parent / "maps" / "runs" / "2010-06-29")]
    assert main(["refresh", str(config), "--follow", "--apply"]) == 2
    assert "leave --follow out" in capsys.readouterr().err
    assert main(["refresh", str(config), "--follow"]) == 0
    assert "rewritten    " in capsys.readouterr().out
    assert main(["refresh", str(config), "--apply"]) == 0
    assert "0 change(s) carried out; 0 run(s) rewritten" in capsys.readouterr().out


def test_a_table_of_changes_can_be_reviewed() -> None:
    changes = [Change(7, 1, pixels=12000, distance=0.41), Change(2, 1, ("2014-07-20",), 345, 0.93, 0.6, 0.75)]
    assert to_table(changes).splitlines() == [
        "class  is  in          pixels  resembles  distance  ground",
        "7      1   all dates   12,000  -          0.41      -",
        "2      1   2014-07-20  345     93%        0.60      75%",
    ]
    rows = refresh_table(Refresh(changes, applied=True, rewritten=["runs/2014-07-20"]))
    assert [row["what"] for row in rows] == ["carried out", "carried out", "rewritten"]
    assert len({tuple(sorted(row)) for row in rows}) == 1, "an artifact needs the same columns in every row"


def test_a_source_out_of_reach_is_told_and_the_exit_says_try_again(
    config: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (config.parent / "drop").rmdir()
    assert main(["watch", str(config)]) == 1
    assert "is no folder; check the path" in capsys.readouterr().err


def test_a_wrong_configuration_is_told_before_anything_is_written(
    config: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config.write_text(config.read_text() + "colour: red\n", encoding="utf-8")
    assert main(["watch", str(config)]) == 2
    assert "unknown key 'colour'" in capsys.readouterr().err
    assert not (config.parent / "maps").exists()


def test_many_files_are_given_to_the_flow_as_a_list(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from flows import watch_acquisitions as module

    given: list[Any] = []

    def note(source: Any, out: str, settings: dict[str, Any]) -> None:
        given.append(source if isinstance(source, list) else Path(source).read_text().splitlines())
        assert len(str(source)) < 10_000

    monkeypatch.setattr(module, "segment_mosaic", note)
    for count in (2, 5000):
        files = [f"/in/q{index}.tif" for index in range(count)]
        module.segment_as_flow(files, str(tmp_path / "out"), {})
        assert given[-1] == files
    assert list(tmp_path.iterdir()) == []


def test_the_flow_ends_in_a_state_that_says_what_came_of_the_pass() -> None:
    from flows.watch_acquisitions import outcome_table, state_of

    published = Outcome("drop 2010-06-29", "published", None, "/maps/runs/2010-06-29")
    bad = Outcome("drop 2012-07-31", "quarantined", "b.tif: is truncated")
    assert state_of(Pass(seen=1, outcomes=[published])).is_completed()
    told = state_of(Pass(seen=2, outcomes=[published, bad]))
    assert (told.is_completed(), told.name) == (True, "Quarantined")
    assert told.message == "drop 2012-07-31: b.tif: is truncated"
    failed = state_of(Pass(seen=2, outcomes=[bad, Outcome("drop 2014-07-20", "failed", "OSError: no space")]))
    assert failed.is_failed()
    assert "no space" in str(failed.message)
    assert state_of(Pass(unreachable={"drop": "gone"})).is_failed()
    rows = outcome_table(Pass(outcomes=[published], waiting={"drop 2020": "young"}, unreachable={"api": "no answer"}))
    assert [row["what"] for row in rows] == ["published", "waiting", "unreachable"]
    assert outcome_table(Pass())[0]["what"] == "nothing new"
