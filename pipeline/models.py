"""Trained models on disk: where they are, what they need, and one copy of each in a worker's memory."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import ktex_model
from ktex_model.radiometry import Scaling
from pipeline.errors import InputError
from pipeline.formats import FIRST, require_version
from pipeline.settings import Settings
from pipeline.workspace import ANCHOR, read_json, write_json

if TYPE_CHECKING:
    from ktex_model.model import Model

CARD = "scaling.json"
"""Beside a model's own files: the bands and the radiometric rule that its images must come with."""
VERSION = 1
"""Format of the card."""


@dataclass(frozen=True)
class ModelRef:
    """A trained model by path and digest, with what its images must be like."""

    directory: Path
    digest: str
    preset: str
    k: int
    bands: tuple[str, ...]
    context_px: int
    scaling: Scaling

    def check(self, bands: tuple[str, ...], settings: Settings) -> None:
        """Raise InputError where the model does not fit a scene with `bands`, or what was asked for contradicts it."""
        if bands != self.bands:
            raise InputError(
                f"--model {self.directory}: was trained on bands {','.join(self.bands)}; the scene has "
                f"{','.join(bands)}; give a --bands that matches"
            )
        own = {"k": self.k, "preset": self.preset, "scaling": self.scaling.name, "mode": "global"}
        for name in settings.model_fields_set & own.keys():
            asked = getattr(settings, name)
            if asked != own[name]:
                raise InputError(f"--model {self.directory}: has {name} = {own[name]}; got {asked}; leave --{name} out")
        for name in ("global_classes", "options"):
            if getattr(settings, name):
                option = name.replace("_", "-")
                raise InputError(f"--model {self.directory}: is applied as it is; leave {option} out, or train anew")

    def settle(self, settings: Settings) -> Settings:
        """Return the settings with what the model decides, for the record."""
        decided = {"k": self.k, "preset": self.preset, "scaling": self.scaling.name, "mode": "global"}
        return settings.model_copy(update=decided)


def save_model(model: Model, directory: Path, bands: tuple[str, ...], scaling: Scaling) -> str:
    """Write a model with its card, in the place of one that may be there; returns its digest."""
    if directory.exists():
        shutil.rmtree(directory)  # of a try that was killed before it was marked done
    digest = ktex_model.save(model, directory)
    card = {"version": VERSION, "bands": list(bands), "scaling": scaling.to_json(), "digest": digest}
    write_json(directory / CARD, card)
    return digest


def find_model(path: Path) -> ModelRef:
    """Find the model in a run directory, or in a model directory; raises InputError where there is not just one."""
    for directory in (path, path / "model"):
        card = _read_card(directory)
        if card is not None:
            break
    else:
        if (path / "models").is_dir():
            there = f" ({ANCHOR} is that of the whole scene)" if (path / "models" / ANCHOR).is_dir() else ""
            raise InputError(
                f"--model {path}: was run in 'local' mode and has a model for each block; give one of "
                f"{path / 'models'}{there}, or a run of mode 'global'"
            )
        raise InputError(f"--model {path}: holds no model; give the directory of a finished run of mode 'global'")
    require_version(directory / CARD, card.get("version", FIRST), VERSION)
    try:
        config = ktex_model.load_config(directory, card["digest"])
        scaling = Scaling.from_json(card["scaling"])
    except (KeyError, TypeError, ValueError) as error:
        raise InputError(f"--model {directory}: cannot be read ({error}); give an unchanged run directory") from error
    return ModelRef(
        directory, card["digest"], config.preset, config.k, tuple(card["bands"]), config.context_px, scaling
    )


def _read_card(directory: Path) -> dict[str, Any] | None:
    try:
        return read_json(directory / CARD)
    except (InputError, OSError) as error:
        raise InputError(f"--model {directory}: {CARD} cannot be read; give an unchanged run directory") from error


@lru_cache(maxsize=2)
def load_model(directory: Path, digest: str) -> Model:
    """Return the model of that digest, loaded once for each process."""
    return ktex_model.load(directory, digest)
