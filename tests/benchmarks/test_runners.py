import importlib
import json
import subprocess
import sys

import pytest

import benchmarks.__main__ as runner
from benchmarks import BENCHMARKS, report


@pytest.mark.parametrize("name", BENCHMARKS)
def test_each_benchmark_says_what_it_takes(name, capsys):
    module = importlib.import_module(f"benchmarks.{name}.__main__")
    with pytest.raises(SystemExit, match="0"):
        module.main(["--help"])
    said = capsys.readouterr().out
    assert said.startswith(f"usage: python -m benchmarks.{name}")
    assert all(option in said for option in ("--quick", "--json", "--markdown"))


def test_all_run_in_turn_and_one_failure_stops_no_other(monkeypatch, tmp_path, capsys):
    called = []

    def run(command, check):
        called.append((command[2], command[-1]))
        path = command[command.index("--json") + 1]
        if "align" in command[2]:
            return subprocess.CompletedProcess(command, 1)
        with open(path, "w") as file:
            json.dump({"benchmark": command[2]}, file)
        return subprocess.CompletedProcess(command, 0)

    monkeypatch.setattr(runner.subprocess, "run", run)
    assert runner.main(["--quick", "--json", str(tmp_path / "all.json")]) == 1
    assert called == [(f"benchmarks.{name}", "--quick") for name in BENCHMARKS]
    assert set(json.loads((tmp_path / "all.json").read_text())) == set(BENCHMARKS) - {"align"}
    assert "failed: align" in capsys.readouterr().err
    assert runner.main(["quality"]) == 0


def test_an_unknown_name_is_refused(capsys):
    with pytest.raises(SystemExit, match="2"):
        runner.main(["speed"])
    assert f"no benchmark is called speed; there are {', '.join(BENCHMARKS)}" in capsys.readouterr().err


@pytest.mark.slow
def test_modules_run_by_name():
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks", "--help"], capture_output=True, text=True, check=True, timeout=60
    )
    assert all(name in done.stdout for name in BENCHMARKS)


def test_the_commit_is_known_where_there_is_git(monkeypatch):
    found = report.read_commit()
    assert found is None or len(found) >= 7
    monkeypatch.setattr(report.shutil, "which", lambda name: None)
    assert report.read_commit() is None


def test_records_are_written_whole_or_not_at_all(tmp_path):
    report.write_record(None, {})
    path = tmp_path / "record.json"
    report.write_record(path, report.begin_record("align", {"seeds": [1]}))
    before = path.read_text()
    with pytest.raises(TypeError, match="not JSON serializable"):
        report.write_record(path, {"wrong": object()})
    assert path.read_text() == before
    record = json.loads(before)
    assert record["settings"] == {"seeds": [1]}
    assert record["versions"]["python"] in report.describe_run(record)
