"""Which ids the classes of a date get: those of the catalogue, those of the first date's model, or its own."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

from pipeline.watch.config import WatchConfig
from pipeline.watch.layout import Layout


def choose_ids(config: WatchConfig, layout: Layout) -> dict[str, Any]:
    """Return the settings of the next run of a series, ready for JSON."""
    chosen = config.run_settings()
    settings: dict[str, Any] = chosen.model_dump(mode="json", exclude_unset=True)
    settings["keep_work"] = True  # so that a quad that is delivered anew costs its own blocks alone
    if config.ids == "model" and chosen.model is None and layout.model.exists():
        # The model is applied as it is: what it was trained with is not asked for again.
        for name in ("options", "global_classes"):
            settings.pop(name, None)
        settings["model"] = str(layout.model)
    if config.ids == "catalogue":
        settings["catalogue"] = str(config.catalogue or layout.catalogue)
    return settings


def keep_ids(config: WatchConfig, layout: Layout, run: Path) -> None:
    """Keep what later dates need to get the same ids: the model of the first run."""
    if is_first(config, layout):
        partial = layout.model.with_name(f".{layout.model.name}.partial")
        if partial.exists():
            shutil.rmtree(partial)
        shutil.copytree(run / "model", partial)
        partial.rename(layout.model)


def is_in_order(config: WatchConfig, layout: Layout) -> bool:
    """Whether one date must be done before the next begins, because the next takes its ids from it."""
    return config.ids == "catalogue" or is_first(config, layout)


def is_first(config: WatchConfig, layout: Layout) -> bool:
    """Whether the next run trains the model that all dates get their ids from."""
    return config.ids == "model" and config.run_settings().model is None and not layout.model.exists()
