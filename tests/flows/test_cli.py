"""The contract of the command line: options, exit codes, one line for an error."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import yaml

from flows import commands
from flows.cli import ktex, main
from pipeline.demo import Demo, make_demo
from pipeline.errors import InputError, RunFailedError
from pipeline.settings import Settings

CONTRACT = (
    "--out --k --preset --mode --bands --block-px --scaling --mask --aoi --date --model --catalogue --global-classes "
    "--label-dtype "
    "--config --seed --workers --scheduler --fresh --overlap-rule --align --keep-work --engine --verbose"
)
HEAVY = ("tensorflow", "keras", "prefect", "dask", "distributed", "rasterio", "xarray", "zarr", "numpy", "pydantic")


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Demo:
    return make_demo(tmp_path_factory.mktemp("scene"), quads=(1, 2), quad_px=128)


@pytest.fixture
def planned(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """Calls of `pipeline.preparation.prepare`, which is replaced: the tests here are about what surrounds it."""
    calls: list[dict[str, Any]] = []

    class Work:
        is_done = True
        capacity = None

        def __enter__(self) -> Work:
            return self

        def __exit__(self, *_: object) -> None:
            pass

        def result(self) -> SimpleNamespace:
            return SimpleNamespace()

    def prepare(source: list[str], settings: Settings, out: Path, **others: Any) -> Work:
        calls.append({"source": source, "settings": settings, "out": out, **others})
        work = Work()
        work.log = Path(out) / "run.log"  # type: ignore[attr-defined]
        return work

    monkeypatch.setattr("pipeline.preparation.prepare", prepare)
    monkeypatch.setattr(commands, "tell", lambda result: 0)
    return calls


def one_line(captured: pytest.CaptureFixture[str]) -> str:
    """Return the only line on standard error; nothing may be on standard output."""
    out, err = captured.readouterr()
    assert out == ""
    assert len(err.splitlines()) == 1, err
    assert err.startswith("ktex: ")
    return err


def test_help_is_quick_and_imports_nothing_heavy() -> None:
    code = (
        "import sys, flows.cli\n"
        "try:\n    flows.cli.main(['--help'])\nexcept SystemExit:\n    pass\n"
        f"found = [name for name in {HEAVY} if name in sys.modules]\n"
        "assert not found, found\n"
    )
    start = os.times().children_user
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    cpu_s = os.times().children_user - start
    assert done.returncode == 0, done.stderr
    assert "Commands:" in done.stdout
    assert cpu_s < 1.0


def test_the_options_of_the_contract_are_there() -> None:
    names = {name for option in ktex.commands["run"].params for name in option.opts}
    assert set(CONTRACT.split()) <= names
    assert "--tune" not in names


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["run", "a.tif"], "Missing option '--out'"),
        (["run", "--out", "x"], "Missing argument 'SOURCE...'"),
        (["run", "a.tif", "--out", "x", "--k", "six"], "'six' is not a valid integer"),
        (["run", "a.tif", "--out", "x", "--mode", "both"], "'both' is not one of"),
        (["run", "a.tif", "--out", "x", "--tune"], "No such option"),
        (["swim"], "No such command 'swim'"),
    ],
)
def test_wrong_usage_is_one_line_and_2(
    arguments: list[str], message: str, capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: Any
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(arguments) == 2
    assert message in one_line(capsys)
    assert not any(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--k", "1"], "'k'"),
        (["--workers", "0"], "'workers'"),
        (["--config", "no.yaml"], "no.yaml"),
        (["--block-px", "700"], "block_px must be a multiple of chunk_px"),
        (["--scheduler", "tcp://10.0.0.1:8786"], "loopback"),
    ],
)
def test_wrong_settings_are_one_line_and_2(
    options: list[str], message: str, demo: Demo, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    out = tmp_path / "out"
    assert main(["run", str(demo.paths[0]), "--out", str(out), *options]) == 2
    assert message in one_line(capsys)
    assert not out.exists()


@pytest.mark.parametrize("command", ["check", "info", "run"])
def test_a_source_that_is_not_there_is_one_line_and_2(
    command: str, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    out = ["--out", str(tmp_path / "out")] if command == "run" else []
    assert main([command, str(tmp_path / "none.tif"), *out]) == 2
    assert "none.tif" in one_line(capsys)
    assert not any(tmp_path.iterdir())


def test_options_win_over_the_file_and_the_file_over_defaults(planned: list[dict[str, Any]], tmp_path: Path) -> None:
    config = tmp_path / "settings.yaml"
    config.write_text(yaml.safe_dump({"k": 9, "seed": 3, "block_px": 1024}))
    assert (
        main(["run", "a.tif", "b.tif", "--out", str(tmp_path / "o"), "--config", str(config), "--k", "4", "--fresh"])
        == 0
    )
    (call,) = planned
    settings = call["settings"]
    assert (settings.k, settings.seed, settings.block_px, settings.mode) == (4, 3, 1024, "local")
    assert call["source"] == ["a.tif", "b.tif"]
    assert call["fresh"] is True


def test_each_option_reaches_its_setting(planned: list[dict[str, Any]], tmp_path: Path) -> None:
    given = {
        "k": 5, "preset": "paper", "mode": "global", "bands": "nicfi", "block_px": 512, "scaling": "reflectance",
        "mask": tmp_path / "m.tif", "aoi": tmp_path / "a.gpkg", "date": "2021-03", "model": tmp_path / "run", "seed": 8,
        "workers": 3, "scheduler": "tls://host:8786", "overlap_rule": "last", "align": "resample", "engine": "serial",
    }  # fmt: skip
    words = [word for name, value in given.items() for word in (f"--{name.replace('_', '-')}", str(value))]
    assert main(["run", "a.tif", "--out", str(tmp_path / "o"), *words, "--keep-work"]) == 0
    settings = planned[0]["settings"]
    assert {name: getattr(settings, name) for name in given} == given
    assert settings.keep_work is True
    assert main(["run", "a.tif", "--out", str(tmp_path / "o"), "--global-classes", "7"]) == 0
    assert planned[1]["settings"].global_classes == 7


@pytest.mark.parametrize(
    ("error", "code", "message"),
    [
        (InputError("a.tif: is odd; do b"), 2, "ktex: a.tif: is odd; do b\n"),
        (RunFailedError("every block failed"), 1, "ktex: every block failed\n"),
        (KeyboardInterrupt(), 130, "ktex: interrupted; what is done is kept, and the same command resumes it\n"),
        (OSError("disk\nfull"), 1, "ktex: failed: OSError: disk full\n"),
    ],
)
def test_what_goes_wrong_has_its_code_and_its_line(
    error: BaseException, code: int, message: str, monkeypatch: Any, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    def prepare(*_: Any, **__: Any) -> None:
        raise error

    monkeypatch.setattr("pipeline.preparation.prepare", prepare)
    assert main(["run", "a.tif", "--out", str(tmp_path / "o")]) == code
    assert capsys.readouterr().err.lstrip() == message


def test_a_failure_midway_names_its_log_and_v_shows_the_traceback(
    monkeypatch: Any, capsys: pytest.CaptureFixture[str], tmp_path: Path, planned: list[dict[str, Any]]
) -> None:
    def stage(*_: Any) -> None:
        raise RuntimeError("the disk is full")

    stage.title = "Training"  # type: ignore[attr-defined]
    monkeypatch.setattr("pipeline.run.STAGES", (stage,))
    monkeypatch.setattr(
        sys.modules["pipeline.preparation"].prepare("", Settings(), tmp_path).__class__, "is_done", False
    )
    arguments = ["run", "a.tif", "--out", str(tmp_path / "o"), "--engine", "serial"]
    assert main(arguments) == 1
    err = capsys.readouterr().err
    assert "ktex: failed: RuntimeError: the disk is full" in err
    assert f"ktex: the log is {tmp_path / 'o' / 'run.log'}" in err
    assert "Traceback" not in err
    assert "Traceback" in (tmp_path / "o" / "run.log").read_text()
    assert main([*arguments, "-v"]) == 1
    assert "Traceback" in capsys.readouterr().err


def test_an_incomplete_run_names_its_blocks(capsys: pytest.CaptureFixture[str], monkeypatch: Any) -> None:
    monkeypatch.setattr("flows.summary.to_text", lambda result: "summary")
    blocks = SimpleNamespace(failed_names=["0000_0001", "0002_0000"])
    assert commands.tell(SimpleNamespace(record=SimpleNamespace(blocks=blocks, exit_code=3))) == 3
    out, err = capsys.readouterr()
    assert out == "summary\n"
    assert err == "ktex: incomplete: blocks 0000_0001, 0002_0000 are nodata; the same command tries them again\n"


def test_info_on_a_quad_says_what_it_is(demo: Demo, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["info", str(demo.paths[0]), "--json"]) == 0
    facts = yaml.safe_load(capsys.readouterr().out)
    assert facts["shape"] == [128, 128]
    assert facts["bands"] == ["R", "G", "B", "N"]
    assert facts["crs"] == "EPSG:3857"
    assert main(["info", str(demo.paths[0])]) == 0
    assert "R, G, B, N" in capsys.readouterr().out


def test_check_reads_the_mosaic_and_writes_nothing(
    demo: Demo, capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: Any
) -> None:
    monkeypatch.chdir(tmp_path)
    before = sorted(demo.paths[0].parent.rglob("*"))
    assert main(["check", str(demo.paths[0].parent), "--block-px", "128"]) == 0
    out = capsys.readouterr().out
    assert "128, 256" in out
    assert "1 x 2 of 128 px" in out
    assert sorted(demo.paths[0].parent.rglob("*")) == before
    assert not any(tmp_path.iterdir())


def test_native_noise_is_dropped_and_standard_error_given_back(capfd: pytest.CaptureFixture[str]) -> None:
    with commands.hushed():
        os.write(2, b"noise of a native library\n")
    os.write(2, b"heard again\n")
    assert capfd.readouterr().err == "heard again\n"
