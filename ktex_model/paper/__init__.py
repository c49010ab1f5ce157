"""The preset `paper`: the model of Wagner et al. 2022 as published, the baseline that others are measured against.

Importing this package imports no Keras: it comes with the model.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from ktex_model.paper.config import PaperConfig

if TYPE_CHECKING:
    from ktex_model.paper.model import PaperModel
    from ktex_model.paper.training import train

_HOMES = {"PaperModel": "ktex_model.paper.model", "train": "ktex_model.paper.training"}

__all__ = ["PaperConfig", "PaperModel", "train"]


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(importlib.import_module(_HOMES[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
