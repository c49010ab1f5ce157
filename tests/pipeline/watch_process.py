"""One pass over the sources of a series in a process of its own: ``python -m tests.pipeline.watch_process CONFIG``.

With the model that needs no training. Before a run it says in a file that it has a claim, and waits for a file ``go``.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

import pytest

from pipeline.run import segment
from pipeline.settings import Settings
from pipeline.watch import WatchConfig, watch
from tests.pipeline import grey_model
from tests.servers import wait_for


def main(path: Path) -> None:
    """Do the pass, and print what came of each acquisition."""
    grey_model.install(pytest.MonkeyPatch())

    def segment_on_the_word(source: list[str], out: str, settings: dict[str, Any]) -> object:
        (path.parent / f"claimed.{os.getpid()}").touch()
        wait_for((path.parent / "go").exists)
        return segment(source, Settings.parse(settings), out)

    print("begun", flush=True)
    wait_for((path.parent / "begin").exists)
    done = watch(WatchConfig.read(path), segment_on_the_word)
    print(json.dumps([[each.acquisition, each.what] for each in done.outcomes]), flush=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
