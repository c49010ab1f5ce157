"""Labelling of blocks: how the threads of one worker share what they read."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace

import pytest

from pipeline import predict


def most_at_once(path):
    """Return how many of two threads read a window of a file at a time, if the first waits a moment for the second."""
    together, most = threading.Barrier(2), []
    plan = SimpleNamespace(scene=SimpleNamespace(files_in=lambda window: [path]))

    def read(_):
        with predict._turn_to_read(plan, SimpleNamespace(read=None)):
            try:
                together.wait(0.2)
                most.append(2)
            except threading.BrokenBarrierError:
                most.append(1)

    with ThreadPoolExecutor(2) as threads:
        list(threads.map(read, range(2)))
    return max(most)


@pytest.mark.parametrize(("path", "threads"), [("/data/quad.tif", 1), ("/vsis3/bucket/quad.tif", 2)])
def test_files_are_read_in_turn_and_objects_at_once(path, threads):
    assert most_at_once(path) == threads
