"""The operator's commands: one page, JSON, exit codes, and figures that a scraper reads."""

from __future__ import annotations

import json
import re
import shutil
import signal
import subprocess
import sys
import time
import urllib.request
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families

from flows.cli import main
from flows.exporter import parse_address
from flows.status_page import list_problems, to_page
from pipeline import health
from pipeline.acquisitions import Acquisition, Asset
from pipeline.errors import InputError
from pipeline.health import Health
from pipeline.ledger import Ledger
from pipeline.ledger.holder import Holder
from pipeline.ledger.overview import default_address, note_series
from pipeline.status import RunStatus, Status
from pipeline.workspace import Workspace

NOW = datetime(2026, 11, 22, 12, tzinfo=UTC)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A folder with a published run of 3 classes and one that was interrupted."""
    done = {"key": "d" * 64, "created": NOW.isoformat(), "blocks": {"done": 4}, "seconds": 90.0}
    (tmp_path / "2021-03").mkdir()
    metrics = {"classes": 3, "pixels_valid": 1000, "seam_excess": -0.01}
    (tmp_path / "2021-03" / "run.json").write_text(json.dumps({**done, "metrics": metrics}))
    with Workspace(tmp_path / "2021-04", {"key": "e" * 64, "settings": {}, "code": "1", "blocks": 2}) as workspace:
        workspace.folders.mark("train", "0000_0000", {})
    return tmp_path


def test_the_page_names_states_progress_last_result_and_problems(
    root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["status", str(root)]) == 0
    page = capsys.readouterr().out
    assert "1 interrupted, 1 done" in page
    assert re.search(r"interrupted +16\.7% .* ago  2021-04", page)
    assert "1,000 valid pixels, 3 classes, seam excess -1.00%, in 1 min 30 s" in page
    assert "2021-04: interrupted; the same command resumes it" in page


def test_json_says_the_same(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["status", str(root), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert {Path(run["path"]).name: run["state"] for run in found["runs"]} == {
        "2021-03": "done",
        "2021-04": "interrupted",
    }


def test_a_page_of_many_runs_is_short_but_tells_every_problem() -> None:
    runs = tuple(
        RunStatus(Path(f"/runs/{i:02}"), "k", "interrupted", NOW - timedelta(minutes=i), problems=("stopped",))
        for i in range(30)
    )
    page = to_page(Status(Path("/runs"), runs, 1 << 30, 100 << 30), now=NOW)
    assert "and 18 more" in page
    assert page.count(": stopped") == 30
    assert "1.0% of the disk is free; make room" in page
    assert "Last result" not in page


def test_nothing_wrong_is_said_to_be_so(tmp_path: Path) -> None:
    found = Status(tmp_path, (), 50, 100)
    assert list_problems(found) == []
    assert to_page(found).splitlines()[0].startswith(f"{tmp_path}: no run")
    assert to_page(found).endswith("No problem.")


@pytest.fixture
def series(root: Path) -> Path:
    """Beside the runs, a series of a map, a delivery in quarantine, one that is tried again, and one at work."""
    folder = root / "maps"
    note_series(folder, "nd", "")
    (root / "drop").mkdir()
    (root / "watch.yaml").write_text(
        "name: nd\nout: maps\nsources: [{kind: folder, name: drop, path: drop}]\n", encoding="utf-8"
    )
    with Ledger(default_address(folder), "nd") as ledger, ledger.passing() as told:
        for day, what in enumerate(("published", "quarantined", "due", "running"), 1):
            asset = Asset(f"{day}.tif", f"/in/{day}.tif", "1", 7)
            ledger.note(Acquisition("drop", f"2021-03-0{day}", f"2021-03-0{day}", (asset,)), "s" * 64)
            claim = ledger.claim(lease_s=600, holder=Holder("another machine", 1, 0.0))
            assert claim is not None
            if what == "published":
                ledger.publish(claim, content="c", result={"run": "/r"}, notes=[], remark=None)
            elif what == "quarantined":
                ledger.quarantine(claim, "2.tif: is truncated", [])
            elif what == "due":
                ledger.fail(claim, "no space left on device", attempts=5)
        told.update(counts={"seen": 4, "waiting": 0, "published": 1}, unreachable={"far": "far: does not answer"})
    return root


def test_the_page_shows_what_the_ledger_of_a_series_says(series: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["status", str(series)]) == 0
    page = capsys.readouterr().out
    assert f"Series nd (ledger sqlite:///{series}/maps/ledger.db): 1 due, 1 running, 1 published, 1 quarantined" in page
    assert re.search(r"last pass ended .* ago, after .*: 4 seen, 0 waiting, 1 published", page)
    assert re.search(r"running .* drop 2021-03-04: claim 1, try 1, alive: another machine/1/0.00", page)
    assert re.search(r"due .* drop 2021-03-03: try 2 in .*: no space left on device", page)
    assert "series nd: drop 2021-03-02: quarantined: 2.tif: is truncated" in page
    assert "series nd: the last pass did not reach a source: far: does not answer" in page
    assert "1 interrupted, 1 done" in page, "and the runs beside it"


def test_json_of_a_configuration_is_that_of_its_folder(series: Path, capsys: pytest.CaptureFixture[str]) -> None:
    told = []
    for what in ("watch.yaml", "maps"):
        assert main(["status", str(series / what), "--json"]) == 0
        told.append(json.loads(capsys.readouterr().out)["series"])
    assert told[0] == told[1]
    (found,) = told[0]
    assert found["counts"] == {
        "waiting": 0, "due": 1, "running": 1, "published": 1, "quarantined": 1, "failed": 0,
    }  # fmt: skip
    assert [each["name"] for each in found["acquisitions"] if each.get("claim", {}).get("alive")] == ["2021-03-04"]
    assert found["passes"][0]["counts"]["seen"] == 4


def test_a_ledger_that_is_gone_is_a_problem_and_hides_no_run(series: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (series / "maps" / "ledger.db").unlink()
    assert main(["status", str(series)]) == 0
    page = capsys.readouterr().out
    assert "cannot be told" in page
    assert re.search(r"series nd: ledger .*: cannot be opened", page)
    assert "1 interrupted, 1 done" in page
    assert not (series / "maps" / "ledger.db").exists()


def test_a_series_without_a_pass_is_told_to_have_none(series: Path, capsys: pytest.CaptureFixture[str]) -> None:
    note_series(series / "new", "fresh", "")
    Ledger(default_address(series / "new"), "fresh").close()
    assert main(["status", str(series / "new")]) == 0
    page = capsys.readouterr().out
    assert "no acquisition" in page
    assert "no pass has ended yet" in page
    shutil.rmtree(series / "maps")
    assert main(["status", str(series / "watch.yaml")]) == 2
    assert "no pass has been made" in capsys.readouterr().err


def test_figures_of_a_series_are_read_by_prometheus(series: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["metrics", str(series), "--once"]) == 0
    families = {family.name: family for family in text_string_to_metric_families(capsys.readouterr().out)}
    states = {sample.labels["state"]: sample.value for sample in families["ktex_acquisitions"].samples}
    assert states == {"waiting": 0, "due": 1, "running": 1, "published": 1, "quarantined": 1, "failed": 0}
    assert [each.value for each in families["ktex_abandoned_claims"].samples] == [0]
    assert [each.value for each in families["ktex_unreachable_sources"].samples] == [1]
    assert [each.value for each in families["ktex_ledger_up"].samples] == [1]
    assert abs(families["ktex_last_pass_timestamp_seconds"].samples[0].value - time.time()) < 300
    (series / "maps" / "ledger.db").unlink()
    assert main(["metrics", str(series), "--once"]) == 0
    families = {family.name: family for family in text_string_to_metric_families(capsys.readouterr().out)}
    assert [each.value for each in families["ktex_ledger_up"].samples] == [0]
    assert families["ktex_acquisitions"].samples == []


def test_a_folder_that_is_none_is_a_usage_error(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for command in ("status", "metrics"):
        assert main([command, str(tmp_path / "none")]) == 2
        assert "must be a folder that holds runs; got nothing" in capsys.readouterr().err


def test_figures_are_read_by_prometheus(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["metrics", str(root), "--once"]) == 0
    families = {family.name: family for family in text_string_to_metric_families(capsys.readouterr().out)}
    states = {sample.labels["state"]: sample.value for sample in families["ktex_runs"].samples}
    assert states == {"running": 0, "interrupted": 1, "done": 1, "incomplete": 0, "damaged": 0}
    assert families["ktex_problems"].samples[0].value == 1
    assert families["ktex_last_result_classes"].samples[0].value == 3
    assert families["ktex_last_result_timestamp_seconds"].samples[0].value == NOW.timestamp() + 90, "when it ended"
    assert families["ktex_disk_free_bytes"].samples[0].value > 0


def test_a_run_at_work_is_seen_from_another_process(root: Path) -> None:
    with Workspace(root / "2021-04", {"key": "e" * 64, "settings": {}, "code": "1", "blocks": 2}):
        command = [sys.executable, "-m", "flows.cli", "metrics", str(root), "--listen", "127.0.0.1:0"]
        with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
            assert process.stderr is not None
            address = re.search(r"http://\S+", process.stderr.readline())
            assert address is not None
            with urllib.request.urlopen(address.group(), timeout=30) as answer:
                text = answer.read().decode()
            process.send_signal(signal.SIGTERM)
        assert process.returncode == 0
    assert f'ktex_run_progress{{run="{root / "2021-04"}"}} 0.1666' in text
    assert 'ktex_runs{state="running"} 1.0' in text


@pytest.mark.parametrize("listen", ["9464", ":9464", "host:", "host:x", "host:70000"])
def test_an_address_must_be_one(listen: str) -> None:
    with pytest.raises(InputError, match="must be HOST:PORT"):
        parse_address(listen)


def test_an_address_in_use_is_one_line(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    import socket

    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        held.listen()
        assert main(["metrics", str(root), "--listen", f"127.0.0.1:{held.getsockname()[1]}"]) == 2
    assert "cannot be listened on" in capsys.readouterr().err


@pytest.mark.parametrize(("variable", "expected"), [(None, False), ("1", True), ("true", True), ("0", False)])
def test_the_health_check_asks_for_a_gpu_where_the_image_does(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], variable: str | None, expected: bool
) -> None:
    asked: list[bool] = []

    def check(*, gpu: bool) -> Health:
        asked.append(gpu)
        return Health("tensorflow", "cpu:0", ("gpu:0",), 1.5)

    monkeypatch.setattr(health, "check_health", check)
    monkeypatch.delenv("KTEX_REQUIRE_GPU", raising=False)
    if variable is not None:
        monkeypatch.setenv("KTEX_REQUIRE_GPU", variable)
    assert main(["health"]) == 0
    assert capsys.readouterr().out == "healthy: tensorflow computes on cpu:0; GPUs: gpu:0; 1.5 s\n"
    assert main(["health", "--gpu", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["seconds"] == 1.5
    assert asked == [expected, True]


def test_a_machine_without_its_gpu_is_unhealthy(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(health, "find_devices", lambda: ("tensorflow", "cpu:0", ()))
    assert main(["health", "--gpu"]) == 2
    assert "a GPU is required" in capsys.readouterr().err
