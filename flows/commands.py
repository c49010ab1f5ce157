"""What the commands do: settings together, a run with its progress and log, and what is told at the end."""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from functools import partial
from pathlib import Path
from typing import Any

import click

from flows.prefect_settings import stay_quiet
from flows.progress import open_progress, span
from pipeline.errors import InputError
from pipeline.settings import Settings

LOG = "run.log"


def make_settings(given: dict[str, Any], config: Path | None) -> Settings:
    """Return the settings: what is given on the command line, then what a file says, then the defaults."""
    return Settings.parse(given) if config is None else Settings.read(config, given)


def run_segmentation(
    sources: list[str], out: str, given: dict[str, Any], *, config: Path | None, fresh: bool, verbose: bool
) -> int:
    """Carry out ``ktex run``; returns the exit code."""
    settings = make_settings(given, config)
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    from pipeline.engine import limit_threads

    limit_threads()
    from pipeline.engine import open_engine
    from pipeline.preparation import prepare
    from pipeline.run import STAGES

    # The published losses are looked for with TensorFlow, which speaks on standard error whatever it is told.
    with hushed() if settings.preset == "paper" and not verbose else nullcontext(), open_progress() as hashing:
        prepared = prepare(sources, settings, out, fresh=fresh, progress=hashing)
    with prepared as work:
        if work.is_done:
            click.echo(f"ktex: {out} holds this result already; --fresh makes it anew", err=True)
        else:
            with (
                logging_to(work.log, verbose),
                open_engine(settings, work.log, work.capacity) as engine,
                open_progress() as progress,
            ):
                for stage in STAGES:
                    stage(work, engine, partial(progress, stage.title))
        result = work.result()
    if out.startswith("s3://"):
        click.echo(f"ktex: uploaded to {out}", err=True)
    return tell(result)


def run_demo(out: Path, settings: dict[str, Any], *, fresh: bool, verbose: bool) -> int:
    """Carry out ``ktex demo``: make the scene and run the flow on it; returns the exit code."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    if not verbose:
        stay_quiet()
    from pipeline.engine import limit_threads

    limit_threads()
    from pipeline.demo import make_demo

    scene = out / "scene"
    _check_demo(out)
    click.echo(f"Making the scene in {scene}", err=True)
    made = make_demo(scene, seed=settings["seed"])
    click.echo("Starting Prefect", err=True)
    from flows.segment_mosaic import segment_mosaic, watched_by

    with logging_to(out / LOG, verbose), open_progress() as progress, watched_by(progress):
        result = segment_mosaic([str(scene)], str(out), settings, fresh=fresh, truth=str(made.truth_path))
    return tell(result)


def _check_demo(out: Path) -> None:
    """Raise InputError where no demo can be made, before the first file of its scene is."""
    try:
        if (out.exists() and not out.is_dir()) or ((out / "run.json").exists() and not (out / "scene").exists()):
            raise InputError(f"--out {out}: is a file or holds another run; give another directory")
        (out / "scene").mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"--out {out}: cannot be written ({error.strerror}); give another directory") from error


def show_info(path: Path, *, bands: str | None, as_json: bool) -> int:
    """Carry out ``ktex info``."""
    from pipeline.results import describe, summarise

    if not path.exists():
        raise InputError(f"{path}: there is no such file or directory; give a run directory, a store or an input")
    if path.is_dir() and any((path / name).exists() for name in ("run.json", ".ktex", "zarr.json")):
        click.echo(json.dumps(summarise(path), indent=1) if as_json else describe(path))
        return 0
    from pipeline.scene import open_scene

    facts = scene_facts(open_scene(str(path), bands=bands))
    click.echo(
        json.dumps({"path": str(path), **facts}, indent=1) if as_json else "\n".join([str(path), *_lines(facts)])
    )
    return 0


def check_sources(sources: list[str], given: dict[str, Any], *, config: Path | None) -> int:
    """Carry out ``ktex check``: all that `ktex run` checks, and what it would take; nothing is written."""
    from pipeline.imagery import open_source
    from pipeline.plan import make_plan, project_cost
    from pipeline.preparation import local_capacity

    settings = make_settings(given, config)
    scene = open_source(sources, settings)
    plan = make_plan(scene, settings, Path("out"), sources[0])
    cost, (rows, columns), capacity = project_cost(plan), plan.grid.counts, local_capacity(plan)
    workers, slots = (capacity.workers, capacity.slots) if capacity else (settings.workers or 1, 1)
    low, high = (", ".join(f"{value:.4g}" for value in side) for side in (plan.scaling.low, plan.scaling.high))
    facts = scene_facts(scene) | {
        "scaling": f"{plan.scaling.name}, from {low} to {high}",
        "blocks": f"{rows} x {columns} of {plan.settings.block_px} px",
        "to train": f"{cost.models_trained} model(s) of {plan.k} classes",
        "to read": f"{cost.pixels_read / 1e6:,.2f} Mpx, {cost.halo_overhead:.1%} of it twice or more",
        "workers": f"{workers}, each with {slots} block(s) at a time",
        "memory": f"at most {cost.worker_bytes(slots) / 2**20:,.0f} MiB a worker, libraries and the largest blocks",
        "disk": f"{cost.disk_bytes / 2**20:,.0f} MiB at most, before compression",
        "time": f"about {span(cost.cpu_s / workers)} with {workers} worker(s) of one core, start-up apart",
    }
    click.echo("\n".join(_lines(facts)))
    return 0


def tell(result: Any) -> int:
    """Print the summary; name the blocks that are missing on standard error; return the exit code."""
    from flows.summary import to_text

    click.echo(to_text(result))
    if failed := result.record.blocks.failed_names:
        names = ", ".join(failed)
        click.echo(f"ktex: incomplete: blocks {names} are nodata; the same command tries them again", err=True)
    return int(result.record.exit_code or 0)


def scene_facts(scene: Any) -> dict[str, Any]:
    """Return what is read from a source: grid, bands, files and the share of valid pixels of a decimated view."""
    box, view = scene.geobox, scene.overview(1024)
    return {
        "shape": [int(size) for size in box.shape],
        "crs": None if box.crs is None else f"EPSG:{box.crs.epsg}" if box.crs.epsg else str(box.crs),
        "transform": list(box.affine[:6]),
        "bands": list(scene.bands),
        "dtype": str(scene.dtype),
        "valid_share": float(view.valid.mean()),
    }


def _lines(facts: dict[str, Any]) -> list[str]:
    return [f"  {name:<14}{_plain(value)}" for name, value in facts.items()]


def _plain(value: object) -> str:
    if isinstance(value, float):
        return f"{value:.4g}"
    return ", ".join(str(each) for each in value) if isinstance(value, list) else str(value)


@contextmanager
def hushed() -> Iterator[None]:
    """Drop what native libraries write to standard error; errors are raised as ever."""
    kept, nowhere = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 2)
    try:
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        os.close(nowhere)


@contextmanager
def logging_to(path: Path, verbose: bool) -> Iterator[None]:
    """Log, warnings too, into a file, and to standard error where `verbose`.

    An error that leaves the context knows the file as its `log_path`.
    """
    from pipeline.logs import PACKAGES, make_formatter

    path.parent.mkdir(parents=True, exist_ok=True)
    handlers: list[logging.Handler] = [logging.FileHandler(path, encoding="utf-8")]
    if verbose:
        handlers.append(logging.StreamHandler())
    form = make_formatter()
    loggers = [logging.getLogger(name) for name in (*PACKAGES, "py.warnings")]
    logging.captureWarnings(True)
    for handler in handlers:
        handler.setFormatter(form)
    for logger in loggers:
        logger.setLevel(logging.INFO)
        logger.propagate = False
        for handler in handlers:
            logger.addHandler(handler)
    try:
        yield
    except Exception as error:
        logging.getLogger("flows").exception("the run failed")
        error.log_path = path  # type: ignore[attr-defined]
        raise
    finally:
        logging.captureWarnings(False)
        for logger in loggers:
            logger.propagate = True
            for handler in handlers:
                logger.removeHandler(handler)
        for handler in handlers:
            handler.close()
