"""Whole scenes into one seamless map of k texture classes, from files or arrays to Zarr and COG.

>>> from pipeline import Settings, segment          # doctest: +SKIP
>>> result = segment("quads/", Settings(k=8), "out")  # doctest: +SKIP
>>> result.labels.plot()                              # doctest: +SKIP
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pipeline.errors import InputError, RunFailedError
    from pipeline.results import Result, open_result
    from pipeline.run import segment
    from pipeline.settings import Settings

_HOMES = {
    "InputError": "pipeline.errors",
    "Result": "pipeline.results",
    "RunFailedError": "pipeline.errors",
    "Settings": "pipeline.settings",
    "open_result": "pipeline.results",
    "segment": "pipeline.run",
}

__all__ = ["InputError", "Result", "RunFailedError", "Settings", "open_result", "segment"]


def __getattr__(name: str) -> Any:
    # Importing a part of the package, or asking for help, must not cost the import of the whole.
    if name in _HOMES:
        return getattr(importlib.import_module(_HOMES[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
