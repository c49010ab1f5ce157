"""How long it takes to attach one block to a catalogue that was built from very many."""

from __future__ import annotations

import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.align.simulator import SCENARIOS, simulate
from benchmarks.catalogue.rates import members_of
from ktex_model import radiometry
from pipeline.catalogue.attachment import Attachment, attach, extend
from pipeline.catalogue.store import CatalogueLock, read_catalogue, write_catalogue
from pipeline.catalogue.values import Catalogue, Members, RunEntry
from pipeline.legend import Legend


def measure_speed(side: int, seed: int) -> dict[str, Any]:
    """Build a catalogue from ``side x side`` blocks, then attach one block of another part of the same world."""
    mosaic = simulate((side, side + 1), SCENARIOS["std"], seed)
    begun = time.perf_counter()
    many = members_of(mosaic, range(side), range(side))
    first = attach(None, many, np.unique(many.ids), key="first", basis="first")
    built = extend_by(None, first, many, "first")
    built_s = time.perf_counter() - begun
    one = members_of(mosaic, range(side, side + 1), range(side // 2, side // 2 + 1))
    with tempfile.TemporaryDirectory() as folder:
        directory = Path(folder) / "catalogue"
        write_catalogue(directory, built)
        begun = time.perf_counter()
        with CatalogueLock(directory, "benchmark"):
            base = read_catalogue(directory)
            found = attach(base, one, np.unique(one.ids), key="second", basis="second")
            write_catalogue(directory, extend_by(base, found, one, "second"))
        attach_s = time.perf_counter() - begun
        after = read_catalogue(directory).legend
        size = sum(path.stat().st_size for path in directory.iterdir())
    return {
        "blocks": len({s.index for s in mosaic.signatures if s.index[1] < side}),
        "members": len(many),
        "build_seconds": built_s,
        "attach_seconds": attach_s,
        "catalogue_bytes": size,
        "ids_kept": after.ids[: len(built.legend)] == built.legend.ids,
        "right": sum(local == known for local, known in found.mapping.items()),
        "classes": len(found.mapping),
        "states": [each.state for each in found.matches],
    }


def extend_by(base: Catalogue | None, found: Attachment, members: Members, key: str) -> Catalogue:
    """Put simulated members into a catalogue."""
    pixels = np.bincount([found.mapping[int(i)] for i in members.ids], members.pixels).astype(int)
    legend = Legend.from_counts({int(i): int(pixels[i]) for i in np.flatnonzero(pixels)})
    entry = RunEntry(key, key, f"/runs/{key}", "2021-03-01T00:00:00+00:00", ("", ""), found.mapping)
    scaling = radiometry.reflectance(1)
    return extend(base, found, members, legend, bands=("G",), scaling=scaling, entry=entry)
