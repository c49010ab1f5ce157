"""What a run will take: memory of a worker, pixels to read, disk and time, from its plan alone.

The figures of memory are upper bounds, held by `benchmarks.scale` and by a test; those of time are what a core took in
docs/performance.md, and only say whether to wait for minutes or for days.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from ktex_model.device import CGROUPS
from pipeline.blocks import BlockGrid
from pipeline.engine import Capacity
from pipeline.errors import InputError
from pipeline.settings import Settings

MiB = 1 << 20

LIBRARY_BYTES = 1350 * MiB
"""A worker with its libraries, one compiled model and GDAL's cache, before its first block."""
TRAINING_BYTES_PER_PIXEL = 500
"""What training holds for each pixel of its sample: features, assignments, crops."""
SIGNATURE_BYTES_PER_BAND = 20
SHARE_OF_MEMORY = 0.8
"""Of the machine's memory, for all workers together; the rest is for the system and the disk cache."""
LIMIT_FACTOR = 1.25
"""A worker is stopped at so many times what it is projected to take, if that is more than its share of the memory."""
BLOCK_SIDES = (4096, 2048, 1024, 512, 256)
"""What `--block-px auto` chooses from."""

_CGROUP_LIMITS = tuple(f"{folder}/{limit}" for folder, limit, *_ in CGROUPS)

READ_S_PER_MPX_BAND = 0.02
PREDICT_S_PER_MPX = 0.6
SIGNATURE_S_PER_MPX = 0.6
CUT_S_PER_MPX = 0.1
WRITE_S_PER_MPX = 0.2
SIMULATE_S_PER_MPX = 12.0
TRAIN_S = 45.0
"""CPU seconds of one core, by which time is projected."""


@dataclass(frozen=True)
class Projection:
    """What a run will take.

    Attributes
    ----------
    blocks, models_trained
        How many.
    pixels, pixels_read
        Of the scene, and by prediction with its halos.
    array_bytes
        Arrays of one block at a time, of the largest; each further block in the same worker takes as much again.
    training_bytes
        What training takes on top; 0 where no worker trains.
    disk_bytes
        Intermediates and outputs before compression.
    cpu_s
        Seconds of one core.
    """

    blocks: int
    models_trained: int
    pixels: int
    pixels_read: int
    array_bytes: int
    training_bytes: int
    disk_bytes: int
    cpu_s: float

    @property
    def halo_overhead(self) -> float:
        """How much more is read than the scene holds, as a share of it."""
        return self.pixels_read / self.pixels - 1

    def worker_bytes(self, slots: int = 1) -> int:
        """Return the memory of a worker that works on so many blocks at a time."""
        return LIBRARY_BYTES + self.training_bytes + slots * self.array_bytes


def project(
    grid: BlockGrid,
    *,
    bands: int,
    itemsize: int,
    one_model: bool,
    trains: bool,
    sample_pixels: int,
    simulates: bool = False,
    anchored: bool = False,
) -> Projection:
    """Project what a run over `grid` takes.

    Parameters
    ----------
    grid
        The blocks.
    bands, itemsize
        Of a source pixel: number of bands, and bytes of one value.
    one_model, trains
        Whether one model serves all blocks, and whether anything is trained.
    sample_pixels
        Most pixels that a model learns from.
    simulates
        Whether the simulated image is made, too.
    anchored
        Whether a model of the whole scene labels all blocks, beside their own.

    Examples
    --------
    >>> found = project(BlockGrid((4096, 4096), 2048, context_px=16), bands=4, itemsize=2, one_model=True,
    ...                 trains=False, sample_pixels=1 << 20)
    >>> found.blocks, found.pixels, round(found.halo_overhead, 4)
    (4, 16777216, 0.0157)
    """
    read = [block.read.size for block in grid]
    pixels, wide = grid.shape[0] * grid.shape[1], sum(block.wide.size for block in grid)
    # Source pixels and the part of a file that they are filled from, with validity; scaled pixels as they are made
    # (band by band in double precision, or by position in a table) and in the model's order; labels as they are
    # counted; labels and margins, and their whole chunks.
    per_pixel = 2 * (bands * itemsize + 1) + 2 * 4 * bands + 16 + 8 + 6
    per_pixel += 0 if one_model else SIGNATURE_BYTES_PER_BAND * bands
    models = (1 if one_model else len(grid) + anchored) if trains else 0
    learnt = min(sample_pixels, pixels if anchored else max(read)) if trains else 0
    mpx, mpx_read = pixels / 1e6, sum(read) / 1e6
    seconds = (
        mpx_read * (READ_S_PER_MPX_BAND * bands * (2 - one_model + anchored) + PREDICT_S_PER_MPX * (1 + anchored))
        + mpx * (CUT_S_PER_MPX + WRITE_S_PER_MPX + (0 if one_model else SIGNATURE_S_PER_MPX))
        + models * TRAIN_S
        + simulates * mpx * SIMULATE_S_PER_MPX
    )
    return Projection(
        blocks=len(grid),
        models_trained=models,
        pixels=pixels,
        pixels_read=sum(read),
        array_bytes=max(read) * per_pixel,
        training_bytes=learnt * TRAINING_BYTES_PER_PIXEL,
        disk_bytes=2 * wide + 2 * 2 * pixels + simulates * 3 * pixels * bands * itemsize,
        cpu_s=seconds,
    )


def machine_memory() -> int:
    """Return the bytes of memory that processes here may take together: the machine's, or the container's limit."""
    physical = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    limits = (_limit(Path(name)) for name in _CGROUP_LIMITS)
    return min([physical, *(limit for limit in limits if limit is not None)])


def _limit(path: Path) -> int | None:
    try:
        text = path.read_text().strip()
    except OSError:
        return None
    return int(text) if text.isdigit() else None


def fit_workers(settings: Settings, found: Projection, *, cores: int, memory_bytes: int) -> Capacity:
    """Decide how many local workers there are, how many blocks each has at a time, and when it is stopped.

    Raises
    ------
    InputError
        So many workers, or so large blocks, do not fit into memory.
    """
    room = int(SHARE_OF_MEMORY * memory_bytes)
    most = room // found.worker_bytes()
    need, have = (f"{value / (1 << 30):.1f} GiB" for value in (found.worker_bytes(), room))
    if most < 1 and settings.engine != "serial" and settings.scheduler is None:
        raise InputError(
            f"--block-px {settings.block_px}: a worker would take {need}, and {have} may be taken here; "
            "give smaller blocks, or --block-px auto"
        )
    if settings.workers is not None and settings.workers > max(most, 1):
        raise InputError(
            f"--workers {settings.workers}: each would take {need}, and {have} may be taken here; "
            f"give at most {most}, or smaller blocks"
        )
    workers = settings.workers or max(1, min(cores, most, found.blocks))
    # While one block is labelled the next is read; training is so long that a second block would only wait for it.
    both = found.models_trained <= 1 and found.blocks >= 4 * workers and workers * found.worker_bytes(2) <= room
    slots = 2 if both else 1
    return Capacity(workers, slots, max(int(LIMIT_FACTOR * found.worker_bytes(slots)), room // workers))


def fit_block_px(sides: Iterable[tuple[int, Projection]], *, workers: int, memory_bytes: int) -> int:
    """Return the largest side of a block with which so many workers fit into memory.

    Parameters
    ----------
    sides
        Sides in pixels, each with what a run would take, the largest first.

    Raises
    ------
    InputError
        Not even the smallest fits.
    """
    room = SHARE_OF_MEMORY * memory_bytes
    for side, found in sides:
        if workers * found.worker_bytes() <= room:
            return side
    raise InputError(
        f"--block-px auto: {workers} workers do not fit into {room / (1 << 30):.1f} GiB with any size of block; "
        "give fewer --workers"
    )
