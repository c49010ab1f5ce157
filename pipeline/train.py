"""Training: one model a block in ``local`` mode, one on a stratified sample of the whole scene in ``global`` mode."""

from __future__ import annotations

import logging
import resource
import time
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from ktex_model.model import Sample
from pipeline.blocks import Block, Window
from pipeline.costs import Costs
from pipeline.errors import RunFailedError
from pipeline.gpu import train_in_memory
from pipeline.known import known_classes
from pipeline.models import save_model
from pipeline.plan import OVERVIEW_PX, Plan
from pipeline.sampling import draw, lattice
from pipeline.scene import Pixels

logger = logging.getLogger(__name__)

MIN_PIXELS = 64 * 64
"""A block with fewer valid pixels learns from its surroundings too."""

DECIMATION = 8


STAGE = "train"


def train_block(plan: Plan, block: Block) -> dict[str, Any]:
    """Train the model of one block and mark it done; a block without a valid pixel in its core is marked empty."""
    costs = Costs()
    with costs.moving("read"):
        window, pixels = block_pixels(plan, block)
    record: dict[str, Any]
    if pixels is None:
        record = {"empty": True, "pixels": 0}
    else:
        with costs.computing("train"):
            samples = block_samples(plan, block, window, pixels)
        record = _train(plan, samples, block.name, plan.seed(block), costs)
    record |= {"windows": [list(window)], "key": plan.key(window), "costs": costs.to_json()}
    plan.folders.mark(STAGE, block.name, record)
    return record


def train_global(plan: Plan, name: str = "global", *, tolerant: bool = False) -> dict[str, Any]:
    """Train the one model of a scene and mark it done.

    Where `tolerant`, what cannot be read is done without, and counted as ``unread``; if nothing is left there is no
    model.
    """
    costs = Costs()
    with costs.moving("read"):
        drawn = scene_windows(plan)
        windows = [window for window in drawn if _is_readable(plan, window)] if tolerant else drawn
        samples = scene_samples(plan, windows) if windows else []
    unread = len(drawn) - len(windows)
    if unread:
        logger.warning("model %s does without %d of %d windows: they cannot be read", name, unread, len(drawn))
    record: dict[str, Any] = {"unread": unread} if unread else {}
    if samples or not unread:
        record |= _train(plan, samples, name, plan.seed(), costs)
    record |= {"windows": [list(window) for window in windows], "key": plan.key(*windows), "costs": costs.to_json()}
    plan.folders.mark(STAGE, name, record)
    return record


def _is_readable(plan: Plan, window: Window) -> bool:
    for _ in range(1 + plan.settings.retries):
        try:
            plan.read(window)
        except (OSError, RunFailedError) as error:  # damaged, gone or changed: those who label it say which
            logger.warning("window %s cannot be read: %s", tuple(window), error)
        else:
            return True
    return False


def is_trained(plan: Plan, name: str) -> bool:
    """Whether the model of that name is there, and all that it was to be trained on is as it was."""
    found = plan.folders.done(STAGE, name)
    if found is None or found.get("unread"):
        return False
    return bool(found.get("key") == plan.key(*(Window(*window) for window in found["windows"])))


def _train(plan: Plan, samples: list[Sample], name: str, seed: int, costs: Costs) -> dict[str, Any]:
    start = time.perf_counter()
    with costs.computing("train"):
        trained = train_in_memory(samples, plan.config(), seed)
    with costs.moving("write"):
        digest = save_model(trained.model, plan.folders.model(name), plan.scene.bands, plan.scaling)
    return {
        "digest": digest,
        "seed": seed,
        "history": asdict(trained.history),
        "pixels": sum(int(sample.valid.sum()) for sample in samples),
        "seconds": time.perf_counter() - start,
        "peak_rss_bytes": peak_rss_bytes(),
    }


def block_pixels(plan: Plan, block: Block) -> tuple[Window, Pixels | None]:
    """Read what a block learns from: its read window, or None where its core has no valid pixel.

    Where it holds too few valid pixels the window grows over the surroundings until there are enough.
    """
    window, pixels = block.read, plan.read(block.read)
    if not pixels.valid[block.core.relative_to(window).slices].any():
        return window, None
    while pixels.valid.sum() < MIN_PIXELS and window != _grown(plan, window):
        window = _grown(plan, window)
        pixels = plan.read(window)
    return window, pixels


def block_samples(plan: Plan, block: Block, window: Window, pixels: Pixels) -> list[Sample]:
    """Return what a block learns from: all that was read, or pieces drawn from it where it is larger than a sample."""
    settings, parts = plan.settings, [window.relative_to(window)]
    if window.size > settings.sample_windows * settings.sample_px**2:
        view = Pixels(pixels.data[:, ::DECIMATION, ::DECIMATION], pixels.valid[::DECIMATION, ::DECIMATION])
        cells = lattice(window.relative_to(window), settings.sample_px)
        parts = draw(cells, view.data, view.valid, window.shape, count=settings.sample_windows, seed=plan.seed(block))
    pieces = [Pixels(pixels.data[:, *part.slices], pixels.valid[part.slices]) for part in parts]
    known = known_classes(plan, [part.shift(window.y0, window.x0) for part in parts])
    return [Sample(plan.image(piece), piece.valid, at) for piece, at in zip(pieces, known, strict=True)]


def _grown(plan: Plan, window: Window) -> Window:
    return window.expand(plan.grid.block_px // 2, within=plan.grid.shape)


def scene_windows(plan: Plan) -> list[Window]:
    """Draw the stratified sample of the whole scene that its one model learns from."""
    settings, shape = plan.settings, plan.grid.shape
    view = plan.scene.overview(OVERVIEW_PX)
    cells = lattice(Window(0, 0, *shape), settings.sample_px)
    return draw(cells, view.data, view.valid, shape, count=settings.sample_windows, seed=plan.seed()) or cells


def scene_samples(plan: Plan, windows: Sequence[Window]) -> list[Sample]:
    """Read windows of a scene to learn from; those without a valid pixel are left out."""
    pieces = ((plan.read(window), known) for window, known in zip(windows, known_classes(plan, windows), strict=True))
    return [Sample(plan.image(piece), piece.valid, known) for piece, known in pieces if piece.valid.any()]


def peak_rss_bytes() -> int:
    """Return the largest resident memory that this process has had so far, in bytes."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
