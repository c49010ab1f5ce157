"""Every line of a run says what it speaks of, in the process where it is written, as text and as JSON."""

from __future__ import annotations

import json
import logging
import multiprocessing
import pickle
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from pipeline.errors import InputError
from pipeline.logs import Bound, JsonLines, TextLines, bound, chosen_format, current_ids, make_formatter, recorded_in


def record(message: str = "read %d px", *arguments: Any, **others: Any) -> logging.LogRecord:
    return logging.LogRecord("pipeline.x", logging.WARNING, "x.py", 1, message, arguments or (7,), None, **others)


def test_a_json_line_holds_the_message_and_the_ids() -> None:
    with bound(run="1f0c", acquisition="2021-03", block=None), bound(stage="train"):
        line = json.loads(JsonLines().format(record()))
    assert line | {"time": "", "process": 0} == {
        "time": "", "level": "WARNING", "logger": "pipeline.x", "message": "read 7 px",
        "run": "1f0c", "acquisition": "2021-03", "stage": "train", "process": 0,
    }  # fmt: skip
    assert line["time"].endswith("+00:00")
    assert current_ids() == {}


def test_an_error_stays_one_json_line_with_its_traceback() -> None:
    try:
        raise ValueError("two\nlines")
    except ValueError as error:
        found = record()
        found.exc_info = (ValueError, error, error.__traceback__)
    text = JsonLines().format(found)
    assert "\n" not in text
    assert "ValueError: two\nlines" in json.loads(text)["error"]


def test_a_text_line_names_the_ids_in_brackets() -> None:
    assert TextLines().format(record()).endswith("WARNING pipeline.x: read 7 px")
    with bound(run="1f0c", block="0001_0002"):
        assert TextLines().format(record()).endswith("read 7 px [run=1f0c block=0001_0002]")


def whose(item: SimpleNamespace) -> dict[str, str]:
    return dict(current_ids())


def test_ids_go_with_a_block_to_another_process() -> None:
    with bound(run="1f0c", stage="predict"):
        work = pickle.loads(pickle.dumps(Bound(whose)))
    assert work(SimpleNamespace(name="0001_0002")) == {"run": "1f0c", "stage": "predict", "block": "0001_0002"}
    assert current_ids() == {}


def speak(path: str) -> None:
    import os
    import sys

    os.environ["KTEX_LOG_FORMAT"] = "json"
    with bound(run="1f0c"):
        work = Bound(_warn)
    with Path(path).open("w", encoding="utf-8") as sys.stderr:
        work(SimpleNamespace(name="0001_0002"))


def _warn(item: SimpleNamespace) -> None:
    logging.getLogger("pipeline.predict").info("labelled")


def test_a_worker_process_writes_json_lines_to_standard_error(tmp_path: Path) -> None:
    process = multiprocessing.get_context("spawn").Process(target=speak, args=(str(tmp_path / "log"),))
    process.start()
    process.join(60)
    assert process.exitcode == 0
    line = json.loads((tmp_path / "log").read_text())
    assert (line["message"], line["run"], line["block"]) == ("labelled", "1f0c", "0001_0002")


def test_a_process_of_the_users_keeps_its_logging(monkeypatch: pytest.MonkeyPatch) -> None:
    logger = logging.getLogger("pipeline")
    monkeypatch.setattr(logger, "hasHandlers", lambda: False)
    before = list(logger.handlers)
    Bound(whose)(SimpleNamespace(name="a"))
    assert logger.handlers == before


def test_the_format_is_chosen_by_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("KTEX_LOG_FORMAT", raising=False)
    assert isinstance(make_formatter(), TextLines)
    monkeypatch.setenv("KTEX_LOG_FORMAT", "json")
    assert isinstance(make_formatter(), JsonLines)
    monkeypatch.setenv("KTEX_LOG_FORMAT", "xml")
    with pytest.raises(InputError, match="must be 'text' or 'json'; got 'xml'"):
        chosen_format()


def test_what_a_run_says_and_what_ends_it_is_recorded_once(tmp_path: Path) -> None:
    path, logger = tmp_path / "run" / "run.log", logging.getLogger("pipeline.anything")
    level = logging.getLogger("pipeline").level

    def run_out_of_room() -> None:
        logger.info("read %d px", 7)
        raise OSError(28, "No space left on device")

    with pytest.raises(OSError, match="No space left"), recorded_in(path), recorded_in(path), bound(block="0001_0002"):
        run_out_of_room()
    logger.warning("later")
    lines = path.read_text().splitlines()
    assert [line.partition(" INFO ")[2] for line in lines if " INFO " in line] == [
        "pipeline.anything: read 7 px [block=0001_0002]"
    ]
    assert [line.partition(" ERROR ")[2] for line in lines if " ERROR " in line] == [
        "flows: the run failed: [Errno 28] No space left on device"
    ]
    assert "later" not in path.read_text()
    assert logging.getLogger("pipeline").level == level
