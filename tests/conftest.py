"""What all tests share: few threads, and where real imagery lies."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

# Before numpy, TensorFlow or Prefect are imported by any test module: later has no effect.
for _name, _value in {
    "OMP_NUM_THREADS": "1",
    "OPENBLAS_NUM_THREADS": "1",
    "TF_NUM_INTRAOP_THREADS": "1",
    "TF_NUM_INTEROP_THREADS": "1",
    "TF_CPP_MIN_LOG_LEVEL": "2",
    "TF_ENABLE_ONEDNN_OPTS": "0",
    "KERAS_BACKEND": "tensorflow",
    "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
    "DO_NOT_TRACK": "1",
}.items():
    os.environ.setdefault(_name, _value)

collect_ignore = ["pipeline/qgis_legend.py"]
"""Run by QGIS' own Python, which is not ours."""

REPOSITORY = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="session")
def real_data() -> Path:
    """Folder of public imagery; tests that need it are skipped where it is absent."""
    folder = Path(os.environ.get("KTEX_DATA") or REPOSITORY.parent / "shared" / "data")
    if not folder.is_dir():
        pytest.skip(f"no real imagery in {folder}; set KTEX_DATA to the folder that holds it")
    return folder


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Put first what may take longest: at the end it would keep one process busy while the others have nothing left."""
    items.sort(key=_most_seconds, reverse=True)


def _most_seconds(item: pytest.Item) -> float:
    usual = float(item.config.getoption("timeout") or 0)
    marker = item.get_closest_marker("timeout")
    return usual if marker is None else max(usual, float(marker.args[0]))
