"""How long it takes to attach one block to a catalogue that was built from very many."""

from __future__ import annotations

import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.align.simulator import SCENARIOS, simulate
from benchmarks.catalogue.rates import blocks_of, members_of
from ktex_model import radiometry
from pipeline.catalogue.attachment import Attachment, attach, extend
from pipeline.catalogue.sites import MAX_KEPT, MAX_OF_BLOCK
from pipeline.catalogue.store import CatalogueLock, read_catalogue, write_catalogue
from pipeline.catalogue.values import Catalogue, Members, RunEntry, Sites
from pipeline.legend import Legend


def measure_speed(side: int, seed: int) -> dict[str, Any]:
    """Build a catalogue from ``side x side`` blocks, then attach one block of another part of the same world."""
    mosaic = simulate((side, side + 1), SCENARIOS["std"], seed)
    begun = time.perf_counter()
    many = _on_ground(members_of(mosaic, blocks_of(mosaic, range(side), range(side))), MAX_KEPT, seed)
    first = attach(None, many, np.unique(many.ids), key="first", basis="first")
    built = extend_by(None, first, many, "first")
    built_s = time.perf_counter() - begun
    attached = blocks_of(mosaic, range(side, side + 1), range(side // 2, side // 2 + 1))
    one = _on_ground(members_of(mosaic, attached), MAX_OF_BLOCK, seed)
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


def _on_ground(members: Members, count: int, seed: int) -> Members:
    """Give members as many sites as are kept; those of a block are among those of the catalogue."""
    rng = np.random.default_rng(seed)
    keys = rng.integers(0, 2**63, MAX_KEPT, dtype=np.uint64)[:count]
    ids = rng.choice(np.unique(members.ids), MAX_KEPT)[:count]
    return replace(members, sites=Sites(keys, ids))


def extend_by(base: Catalogue | None, found: Attachment, members: Members, key: str) -> Catalogue:
    """Put simulated members into a catalogue."""
    pixels = np.bincount([found.mapping[int(i)] for i in members.ids], members.pixels).astype(int)
    legend = Legend.from_counts({int(i): int(pixels[i]) for i in np.flatnonzero(pixels)})
    entry = RunEntry(key, key, f"/runs/{key}", "2021-03-01T00:00:00+00:00", ("", ""), found.mapping)
    scaling = radiometry.reflectance(1)
    return extend(base, found, members, legend, bands=("G",), scaling=scaling, entry=entry)
