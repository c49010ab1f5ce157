"""The texture that the model generates for each class, as pictures: what the class looks like to it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from pipeline.models import load_model
from pipeline.plan import Plan
from pipeline.predict import model_of
from pipeline.report.diagnostics import Diagnostics
from pipeline.report.encode import encode_picture
from pipeline.report.views import Stretch

TEXTURES = "textures"
TEXTURE_PX = 192


@dataclass(frozen=True)
class Exemplars:
    """The classes of one model that stand for classes of the map: local id by class id."""

    name: str
    local_ids: Mapping[int, int]


def choose_exemplars(diagnostics: Diagnostics, ids: list[int], *, one_model: bool, k: int) -> list[Exemplars]:
    """Choose the model whose texture is shown for each class: that of the block with most of its pixels.

    Where one model served all blocks it is shown for all. Classes for which no block speaks are left out, and so are
    those of a block that its model of `k` classes does not have, but the repair has split off.
    """
    if diagnostics.nodes is None:
        return [Exemplars("global", {i: i for i in ids})]
    best: dict[int, tuple[int, str, int]] = {}
    for node in diagnostics.nodes:
        if node.id in ids and node.local_id < k and node.pixels > best.get(node.id, (0, "", 0))[0]:
            best[node.id] = node.pixels, "global" if one_model else node.block, node.local_id
    models: dict[str, dict[int, int]] = {}
    for class_id, (_, block, local_id) in sorted(best.items()):
        models.setdefault(block, {})[class_id] = local_id
    return [Exemplars(name, chosen) for name, chosen in sorted(models.items())]


def write_textures(plan: Plan, stretch: Stretch, exemplars: Exemplars) -> dict[str, list[int]]:
    """Write ``textures/ID.png`` for the classes that a model stands for; runs where the models are loaded."""
    found = model_of(plan, exemplars.name)
    if found is None:
        raise RuntimeError(f"the model of {exemplars.name} must be trained before it shows its textures")
    model = load_model(*found)
    generated = model.textures((TEXTURE_PX, TEXTURE_PX), seed=0)
    folder = plan.folders.outputs / TEXTURES
    folder.mkdir(exist_ok=True)
    for class_id, local_id in exemplars.local_ids.items():
        shown = stretch.apply(plan.scaling.invert(np.moveaxis(generated[local_id], -1, 0)))
        (folder / f"{class_id}.png").write_bytes(encode_picture(shown, "PNG"))
    return {"ids": list(exemplars.local_ids)}
