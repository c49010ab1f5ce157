"""Training: one model a block in ``local`` mode, one on a stratified sample of the whole scene in ``global`` mode."""

from __future__ import annotations

import resource
import time
from dataclasses import asdict
from typing import Any

import ktex_model
from ktex_model.model import Sample
from pipeline.blocks import Block, Window
from pipeline.models import save_model
from pipeline.plan import OVERVIEW_PX, Plan
from pipeline.sampling import draw, lattice
from pipeline.scene import Pixels

MIN_PIXELS = 64 * 64
"""A block with fewer valid pixels learns from its surroundings too."""

DECIMATION = 8


def train_block(plan: Plan, block: Block) -> dict[str, Any]:
    """Train the model of one block and mark it done; a block without a valid pixel in its core is marked empty."""
    core = plan.scene.read(block.core)
    if not core.valid.any():
        record: dict[str, Any] = {"empty": True, "pixels": 0}
    else:
        record = _train(plan, block_samples(plan, block), block.name, plan.seed(block))
    plan.folders.mark("train", block.name, record)
    return record


def train_global(plan: Plan, name: str = "global") -> dict[str, Any]:
    """Train the one model of a scene and mark it done."""
    record = _train(plan, scene_samples(plan), name, plan.seed())
    plan.folders.mark("train", name, record)
    return record


def _train(plan: Plan, samples: list[Sample], name: str, seed: int) -> dict[str, Any]:
    start = time.perf_counter()
    trained = ktex_model.train(samples, plan.config(), seed=seed)
    digest = save_model(trained.model, plan.folders.model(name), plan.scene.bands, plan.scaling)
    return {
        "digest": digest,
        "seed": seed,
        "history": asdict(trained.history),
        "pixels": sum(int(sample.valid.sum()) for sample in samples),
        "seconds": time.perf_counter() - start,
        "peak_rss_bytes": peak_rss_bytes(),
    }


def block_samples(plan: Plan, block: Block) -> list[Sample]:
    """Read what a block learns from: its read window, or windows drawn from it where it is larger than a sample.

    Where it holds too few valid pixels the window grows over the surroundings until there are enough.
    """
    window, pixels = block.read, plan.scene.read(block.read)
    while pixels.valid.sum() < MIN_PIXELS and window != _grown(plan, window):
        window = _grown(plan, window)
        pixels = plan.scene.read(window)
    settings = plan.settings
    if window.size <= settings.sample_windows * settings.sample_px**2:
        return [Sample(plan.image(pixels), pixels.valid)]
    view = Pixels(pixels.data[:, ::DECIMATION, ::DECIMATION], pixels.valid[::DECIMATION, ::DECIMATION])
    cells = lattice(window.relative_to(window), settings.sample_px)
    drawn = draw(cells, view.data, view.valid, window.shape, count=settings.sample_windows, seed=plan.seed(block))
    pieces = [Pixels(pixels.data[:, *cell.slices], pixels.valid[cell.slices]) for cell in drawn]
    return [Sample(plan.image(piece), piece.valid) for piece in pieces]


def _grown(plan: Plan, window: Window) -> Window:
    return window.expand(plan.grid.block_px // 2, within=plan.grid.shape)


def scene_samples(plan: Plan) -> list[Sample]:
    """Read the stratified sample of the whole scene that its one model learns from."""
    settings, shape = plan.settings, plan.grid.shape
    view = plan.scene.overview(OVERVIEW_PX)
    cells = lattice(Window(0, 0, *shape), settings.sample_px)
    drawn = draw(cells, view.data, view.valid, shape, count=settings.sample_windows, seed=plan.seed())
    pieces = (plan.scene.read(cell) for cell in drawn or cells)
    return [Sample(plan.image(piece), piece.valid) for piece in pieces if piece.valid.any()]


def peak_rss_bytes() -> int:
    """Return the largest resident memory that this process has had so far, in bytes."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
