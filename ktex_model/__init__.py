"""The k-textures model: k hard masks times k generated textures simulate an image, without labels.

The public names are `train`, `save`, `load` and the values they take and return; see `ktex_model.model`.
Importing this package imports neither Keras nor its backend: they come with the first model.
"""

from __future__ import annotations

import dataclasses
import importlib
import os
from typing import TYPE_CHECKING, Any

from ktex_model import weights
from ktex_model.model import (
    MARGIN_SCALE,
    NO_CLASS,
    History,
    Model,
    Prediction,
    Progress,
    Sample,
    Samples,
    Trained,
)

if TYPE_CHECKING:
    from ktex_model.paper import PaperConfig
    from ktex_model.texture import TextureConfig

_PRESETS = {"paper": ("ktex_model.paper", "PaperModel"), "texture": ("ktex_model.texture", "TextureModel")}
_CONFIGS = {"PaperConfig": "ktex_model.paper", "TextureConfig": "ktex_model.texture"}


def __getattr__(name: str) -> Any:
    if name in _CONFIGS:
        return getattr(importlib.import_module(_CONFIGS[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def train(
    samples: Samples,
    config: PaperConfig | TextureConfig,
    seed: int = 0,
    progress: Progress | None = None,
) -> Trained:
    """Train a model on samples of one scene.

    Parameters
    ----------
    samples
        Pieces of the scene, each ``(y, x, band)`` float32 in 0..1 with its ``(y, x)`` validity; preset ``texture``
        begins with the classes that they are known by, where they are.
    config
        A preset and its parameters; its type decides which model is trained.
    seed
        Equal samples, config and seed give the same model, on the CPU to the bit.
    progress
        Called with (steps done, steps expected, loss) now and then.

    Raises
    ------
    ValueError
        If the samples do not fit the config or hold no valid pixel.
    """
    module, _ = _preset(config.preset)
    trained: Trained = module.train(samples, config, seed, progress)
    return trained


def save(model: Model, directory: str | os.PathLike[str]) -> str:
    """Write `model` to a directory of its own and return the digest that `load` checks.

    Raises
    ------
    ValueError
        If the directory holds something other than a model.
    """
    owner: Any = model
    return weights.write(directory, dataclasses.asdict(owner.config), owner.tensors())


def load(directory: str | os.PathLike[str], digest: str | None = None) -> Model:
    """Read a model that `save` wrote; no code is ever loaded, the network is built by this package.

    Raises
    ------
    ValueError
        If the files are missing, foreign, damaged, or not those that `digest` names.
    """
    config, tensors = weights.read(directory, digest)
    values = _config_of(directory, config)
    module, name = _preset(values.preset)
    model: Model = getattr(module, name).from_tensors(values, tensors)
    return model


def load_config(directory: str | os.PathLike[str], digest: str | None = None) -> PaperConfig | TextureConfig:
    """Read what a saved model was trained with; checks its files as `load` does, but builds no network.

    Raises
    ------
    ValueError
        If the files are missing, foreign, damaged, or not those that `digest` names.
    """
    return _config_of(directory, weights.read(directory, digest)[0])


def _config_of(directory: str | os.PathLike[str], config: dict[str, Any]) -> PaperConfig | TextureConfig:
    module, name = _preset(config.get("preset"))
    try:
        kind = getattr(module, name.replace("Model", "Config"))
        values: PaperConfig | TextureConfig = kind(**{**kind.EARLIER, **config})
    except TypeError as error:
        raise ValueError(f"{os.fspath(directory)} must hold a config of this release; got {error}") from error
    return values


def _preset(name: object) -> tuple[Any, str]:
    if not isinstance(name, str) or name not in _PRESETS:
        raise ValueError(f"`preset` must be one of {sorted(_PRESETS)}; got {name!r}")
    module, model = _PRESETS[name]
    return importlib.import_module(module), model


__all__ = [
    "MARGIN_SCALE",
    "NO_CLASS",
    "History",
    "Model",
    "PaperConfig",
    "Prediction",
    "Progress",
    "Sample",
    "Samples",
    "TextureConfig",
    "Trained",
    "load",
    "load_config",
    "save",
    "train",
]
