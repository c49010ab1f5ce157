"""Before a run: everything is checked, then its directory is opened; nothing is written where something is wrong."""

from __future__ import annotations

import hashlib
import json
import os
import time
from collections.abc import Mapping
from dataclasses import replace
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

import xarray as xr

from ktex_model.radiometry import Scaling
from pipeline.engine import Capacity, check_engine, limit_threads
from pipeline.imagery import open_source
from pipeline.known import keep_known
from pipeline.objects import to_text
from pipeline.pixels import InputFile, Report
from pipeline.plan import Plan, code_version, make_plan, project_cost
from pipeline.projection import fit_workers, machine_memory
from pipeline.running import Progress, Run, StageBooks, silent
from pipeline.scene import Source, spool
from pipeline.settings import Settings
from pipeline.target import open_target
from pipeline.train import peak_rss_bytes
from pipeline.workspace import Workspace


def prepare(
    source: Source, settings: Settings, out: str | Path, *, fresh: bool = False, progress: Progress | None = None
) -> Run:
    """Check everything, then open the run directory.

    Parameters
    ----------
    source
        Files, folders, globs, lists of files, or an `xarray.DataArray`.
    settings, out
        What to do, and the directory of the run, or an ``s3://`` prefix that its result is uploaded to.
    fresh
        Begin anew where `out` holds a run; its result stays until the new one replaces it.
    progress
        Hears of the hashing of the inputs, which takes as long as reading them.

    Raises
    ------
    InputError
        Something is wrong with the source, the settings or the directory; nothing has been written.
    """
    created, start = datetime.now(UTC), time.perf_counter()
    limit_threads()  # before the first pixel is read: GDAL's cache would be a share of the machine's memory
    target = open_target(out)
    out = target.directory
    plan = make_plan(open_source(source, settings), settings, out, describe_source(source))
    check_engine(settings)
    manifest, inputs = describe_work(plan, partial(progress or silent, "Hashing inputs"))
    capacity = local_capacity(plan)
    workspace = Workspace(out, manifest, fresh=fresh)
    plan = replace(plan, inputs={file.path: file for file in inputs}, base=manifest["base"])
    if workspace.updates is not None:
        plan = replace(plan, scaling=Scaling.from_json(workspace.updates["scaling"]))
        manifest = {**manifest, "scaling": workspace.updates["scaling"]}
        workspace.restate(manifest)
    if not workspace.is_published:
        keep_known(plan)
    if isinstance(source, xr.DataArray) and not workspace.is_published:
        plan = replace(plan, scene=spool(plan.scene, plan.folders.spool))  # what processes can share
    if workspace.is_published:
        target.push()  # a run that was interrupted in the last moment
    run = Run(plan, workspace, manifest, created, capacity, target)
    run.books["plan"] = StageBooks("plan", time.perf_counter() - start, peak_rss_bytes=peak_rss_bytes())
    return run


def local_capacity(plan: Plan) -> Capacity | None:
    """Return how many workers of this machine the plan has room for; None where they are another machine's."""
    if plan.settings.scheduler is not None:
        return None
    cores, memory_bytes = os.cpu_count() or 1, machine_memory()
    return fit_workers(plan.settings, project_cost(plan), cores=cores, memory_bytes=memory_bytes)


def describe_source(source: Source) -> str:
    """Return a short name of a source, for messages."""
    if isinstance(source, xr.DataArray):
        return f"DataArray {source.name or ''}".strip()
    paths = [str(source)] if isinstance(source, str | Path) else [str(path) for path in source]
    return paths[0] if len(paths) == 1 else f"{paths[0]} and {len(paths) - 1} more"


def describe_work(plan: Plan, report: Report | None = None) -> tuple[dict[str, Any], list[InputFile]]:
    """Return the manifest of a run, and its inputs.

    The manifest's ``key`` is a digest over all that the result depends on, its ``base`` over all but the inputs.
    """
    box = plan.scene.geobox
    files = plan.scene.fingerprints(report)
    parts = {
        "settings": plan.settings.result_fields(),
        "model": None if plan.given is None else plan.given.digest,
        "code": code_version(),
        "grid": [
            list(plan.grid.shape),
            list(box.affine)[:6],
            str(box.crs),
            list(plan.scene.bands),
            str(plan.scene.dtype),
        ],
    }
    inputs = [
        {"path": to_text(file.path), "size_bytes": file.size_bytes, "sha256": file.sha256, "etag": file.etag}
        for file in files
    ]
    whole = {**parts, "inputs": inputs, "scaling": plan.scaling.to_json()}
    return {**whole, "base": _digest(parts), "key": _digest(whole), "blocks": len(plan.grid)}, files


def _digest(parts: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(parts, sort_keys=True, default=str).encode()).hexdigest()
