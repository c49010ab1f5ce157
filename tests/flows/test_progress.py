"""Progress: lines that say what, how far and how long; bars in a terminal."""

from __future__ import annotations

import io

import pytest

from flows import progress
from flows.progress import BarProgress, PlainProgress, open_progress, span


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    now = [100.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    return now


def test_a_log_hears_of_the_beginning_the_end_and_now_and_then(clock: list[float]) -> None:
    stream = io.StringIO()
    with PlainProgress(stream) as plain:
        for done in range(41):
            plain("Training", done, 40)
            clock[0] += 1.0
        plain("Labelling", 0, 2)
    lines = stream.getvalue().splitlines()
    assert lines[0] == "Training: 0/40"
    assert lines[1] == "Training: 10/40, 10.0 s, about 30.0 s left"
    assert lines[-2] == "Training: 40/40, 40.0 s"
    assert lines[-1] == "Labelling: 0/2"
    assert len(lines) == 6


def test_a_bar_follows_each_stage() -> None:
    with BarProgress() as bars:
        bars("Training", 0, 4)
        bars("Training", 3, 4)
        bars("Labelling", 1, 2)
        tasks = [(task.description, task.completed, task.total) for task in bars._bars.tasks]
    assert tasks == [("Training", 3, 4), ("Labelling", 1, 2)]


def test_the_stream_decides(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stderr", io.StringIO())
    assert isinstance(open_progress(), PlainProgress)

    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    monkeypatch.setattr("sys.stderr", Terminal())
    assert isinstance(open_progress(), BarProgress)


@pytest.mark.parametrize(("seconds", "said"), [(0, "0.0 s"), (59.94, "59.9 s"), (60, "1 min 0 s"), (3600, "1 h 0 min")])
def test_times_are_said_in_units_of_their_size(seconds: float, said: str) -> None:
    assert span(seconds) == said
