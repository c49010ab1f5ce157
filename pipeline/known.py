"""What the catalogue knows of the ground that is learnt from: the classes of earlier dates at its sites.

The sites that a run starts from are copied into its directory when it begins: the catalogue may learn from other runs
meanwhile, and blocks of one run must not start from different knowledge.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from pipeline.blocks import Window
from pipeline.catalogue.base import read_base
from pipeline.catalogue.sites import lay_out
from pipeline.catalogue.values import Sites
from pipeline.plan import Plan
from pipeline.workspace import replace_arrays


def keep_known(plan: Plan) -> None:
    """Copy the sites of the catalogue, where a model is to be trained that can start from them."""
    settings = plan.settings
    wanted = settings.known_ground and settings.preset == "texture" and plan.given is None
    if not wanted or plan.folders.known.exists() or (base := read_base(settings.catalogue)) is None:
        return
    sites = base.known_sites()
    replace_arrays(plan.folders.known, {"keys": sites.keys, "ids": sites.ids})


def read_known(plan: Plan) -> Sites:
    """Return the sites that `keep_known` copied; none where it did not."""
    if not plan.folders.known.exists():
        return Sites.none()
    with np.load(plan.folders.known, allow_pickle=False) as arrays:
        return Sites(arrays["keys"], arrays["ids"])


def known_classes(plan: Plan, windows: Sequence[Window]) -> Sequence[NDArray[np.int16] | None]:
    """Return for each window ``(y, x)`` int16 the known class of each pixel; -1 where none is, None where nothing is.

    Classes are numbered in the order of their ids in the catalogue. There are at most k: those that lie on most of the
    sites in the windows.
    """
    sites = read_known(plan)
    if not len(sites):
        return [None] * len(windows)
    laid = [lay_out(plan.scene.geobox, window, sites) for window in windows]
    seen, count = np.unique(np.concatenate([each[each >= 0] for each in laid]), return_counts=True)
    if not len(seen):
        return [None] * len(windows)
    ids = np.sort(seen[np.lexsort((seen, -count))][: plan.k])
    number = np.full(int(seen.max()) + 2, -1, np.int16)  # the last one is for -1
    number[ids] = np.arange(len(ids))
    return [number[each] for each in laid]
