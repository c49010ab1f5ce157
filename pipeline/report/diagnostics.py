"""What the stages of a run leave for the report: how training went, and how sure the alignment is of each class.

Published as ``diagnostics.json``, so that the report can be made again from the run directory alone.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import ConfigDict, TypeAdapter, ValidationError

from ktex_model.radiometry import Scaling
from pipeline.align import Alignment
from pipeline.assemble import sums_of
from pipeline.blocks import Block
from pipeline.errors import InputError
from pipeline.formats import require_version
from pipeline.plan import Plan
from pipeline.workspace import ANCHOR, read_json, write_json

DIAGNOSTICS = "diagnostics.json"
FORMAT = "ktextures-diagnostics"
VERSION = 1
MAX_POINTS = 100
"""A curve keeps so many points: more cannot be seen."""

_STRICT = ConfigDict(extra="forbid", allow_inf_nan=False)


@dataclass(frozen=True)
class Curve:
    """A figure that training followed, step by step; `steps` count from 1."""

    __pydantic_config__ = _STRICT

    stage: str
    measure: str
    steps: tuple[int, ...]
    values: tuple[float, ...]


@dataclass(frozen=True)
class Training:
    """How the training of one model went."""

    __pydantic_config__ = _STRICT

    model: str
    seconds: float
    loss: float
    stop_reason: str
    curves: tuple[Curve, ...]


@dataclass(frozen=True)
class Node:
    """One class of one block's model: which class of the map it became, and how sure that is (0..1)."""

    __pydantic_config__ = _STRICT

    block: str
    local_id: int
    id: int
    pixels: int
    posterior: float
    margin: float


@dataclass(frozen=True)
class Diagnostics:
    """All that the report needs and no other output holds.

    Attributes
    ----------
    bands
        Names of the scene's bands.
    low, high
        Values of each band that the model sees as 0 and as 1.
    trainings
        One for each model that this run trained; none where a model was given.
    nodes
        None where one model served all blocks, and no catalogue gave its classes other ids.
    """

    __pydantic_config__ = _STRICT

    bands: tuple[str, ...]
    low: tuple[float, ...]
    high: tuple[float, ...]
    trainings: tuple[Training, ...] = ()
    nodes: tuple[Node, ...] | None = None

    def write(self, directory: Path) -> None:
        """Write ``diagnostics.json`` into a directory of outputs."""
        content = _DIAGNOSTICS.dump_python(self, mode="json")
        write_json(directory / DIAGNOSTICS, {"format": FORMAT, "version": VERSION, **content})

    @classmethod
    def read(cls, directory: Path) -> Diagnostics:
        """Read what `write` wrote; raises InputError where it is absent or wrong."""
        path = directory / DIAGNOSTICS
        found = read_json(path)
        if found is None:
            raise InputError(f"{path}: is missing; a report needs it: run again with --fresh")
        if found.pop("format", None) != FORMAT:
            raise InputError(f"{path}: is not in format {FORMAT}; run again with --fresh")
        require_version(path, found.pop("version", None), VERSION)
        try:
            return _DIAGNOSTICS.validate_python(found)
        except ValidationError as error:
            fault = error.errors()[0]
            where = ".".join(str(part) for part in fault["loc"])
            raise InputError(f"{path}: {where}: {fault['msg']}; run again with --fresh") from error


_DIAGNOSTICS = TypeAdapter(Diagnostics)


def gather_diagnostics(plan: Plan, alignment: Alignment | None, blocks: Sequence[Block]) -> Diagnostics:
    """Collect what the markers of a run's stages say."""
    names = ["global"] if plan.one_model else [ANCHOR, *(block.name for block in blocks)]
    trained = {name: plan.folders.done("train", name) or {} for name in names}
    scaling: Scaling = plan.scaling
    return Diagnostics(
        bands=tuple(plan.scene.bands),
        low=tuple(float(value) for value in scaling.low),
        high=tuple(float(value) for value in scaling.high),
        trainings=tuple(read_training(name, each["history"]) for name, each in trained.items() if "history" in each),
        nodes=None if alignment is None else tuple(_nodes(plan, alignment, blocks)),
    )


def _nodes(plan: Plan, alignment: Alignment, blocks: Sequence[Block]) -> list[Node]:
    found = []
    for block in blocks:
        counts = sums_of(plan, block.name).get("counts", [])
        lookup = alignment.lookup.get(block.index)
        if lookup is None:
            continue
        found += [
            Node(
                block.name,
                local_id,
                int(lookup[local_id]),
                int(counts[local_id]) if local_id < len(counts) else 0,
                round(float(alignment.posterior[block.index][local_id]), 4),
                round(float(alignment.margin[block.index][local_id]), 4),
            )
            for local_id in np.flatnonzero(lookup != alignment.no_class).tolist()
        ]
    return found


def read_training(model: str, history: Mapping[str, Any]) -> Training:
    """Take from a training's history the figures that it followed.

    Examples
    --------
    >>> history = {"seconds": 3.0, "loss": 0.5, "stop_reason": "Done.",
    ...            "stages": [{"name": "network", "seconds": 3.0, "steps": 2, "losses": [1.0, 0.5]}]}
    >>> read_training("global", history).curves
    (Curve(stage='network', measure='losses', steps=(1, 2), values=(1.0, 0.5)),)
    """
    curves = tuple(
        _curve(str(stage["name"]), name, values)
        for stage in history["stages"]
        for name, values in stage.items()
        if name.startswith(("losses", "changes")) and isinstance(values, list | tuple) and values
    )
    return Training(
        model, round(float(history["seconds"]), 3), float(history["loss"]), str(history["stop_reason"]), curves
    )


def _curve(stage: str, measure: str, values: Sequence[float]) -> Curve:
    """Keep the first and the last value, and as many in between as can be seen."""
    kept = np.unique(np.linspace(0, len(values) - 1, min(len(values), MAX_POINTS)).round().astype(int))
    return Curve(stage, measure, tuple((kept + 1).tolist()), tuple(float(f"{values[i]:.6g}") for i in kept.tolist()))
