"""What a run will take decides how many workers there are, and what is refused before anything is written."""

from __future__ import annotations

from pathlib import Path

import pytest

from pipeline import projection
from pipeline.blocks import BlockGrid
from pipeline.errors import InputError
from pipeline.projection import LIMIT_FACTOR, SHARE_OF_MEMORY, Projection, fit_block_px, fit_workers, machine_memory
from pipeline.settings import Settings

GiB = 1 << 30


def of(side_px: int, block_px: int, *, trains: bool = False, one_model: bool = True) -> Projection:
    grid = BlockGrid((side_px, side_px), block_px, context_px=36)
    return projection.project(grid, bands=4, itemsize=2, one_model=one_model, trains=trains, sample_pixels=1 << 20)


def test_memory_of_a_worker_depends_on_its_block_and_not_on_the_scene() -> None:
    assert of(5120, 1024).worker_bytes() == pytest.approx(of(40_960, 1024).worker_bytes(), rel=0.01)
    assert of(8192, 2048).array_bytes == pytest.approx(4 * of(8192, 1024).array_bytes, rel=0.1)
    assert of(8192, 1024).worker_bytes(2) - of(8192, 1024).worker_bytes() == of(8192, 1024).array_bytes


def test_workers_fit_into_the_share_of_memory() -> None:
    found = of(40_960, 2048)
    for memory in (3, 4, 8, 16, 64):
        capacity = fit_workers(Settings(), found, cores=16, memory_bytes=memory * GiB)
        assert 1 <= capacity.workers <= 16
        assert capacity.workers * found.worker_bytes(capacity.slots) <= SHARE_OF_MEMORY * memory * GiB
        assert capacity.memory_bytes is not None
        assert capacity.memory_bytes >= LIMIT_FACTOR * found.worker_bytes(capacity.slots) - 1


def test_a_second_block_is_held_where_memory_allows_and_nothing_trains() -> None:
    assert fit_workers(Settings(), of(20_480, 2048), cores=2, memory_bytes=64 * GiB).slots == 2
    assert fit_workers(Settings(), of(4096, 2048), cores=2, memory_bytes=64 * GiB).slots == 1, "too few blocks"
    training = of(20_480, 2048, trains=True, one_model=False)
    assert fit_workers(Settings(), training, cores=2, memory_bytes=64 * GiB).slots == 1


def test_what_does_not_fit_is_refused() -> None:
    found = of(40_960, 4096)
    with pytest.raises(InputError, match=r"--block-px 4096: a worker would take \d.*give smaller blocks"):
        fit_workers(Settings(block_px=4096), found, cores=4, memory_bytes=GiB)
    room = 4 * found.worker_bytes()
    with pytest.raises(InputError, match=r"--workers 9: each would take .*give at most 3, or smaller blocks"):
        fit_workers(Settings(workers=9), found, cores=16, memory_bytes=room)


def test_the_largest_block_is_chosen_that_fits() -> None:
    sides = [(side, of(40_960, side)) for side in (4096, 2048, 1024)]
    memory = int(2 * sides[1][1].worker_bytes() / SHARE_OF_MEMORY) + 1
    assert fit_block_px(sides, workers=2, memory_bytes=memory) == 2048
    assert fit_block_px(sides, workers=1, memory_bytes=64 * GiB) == 4096
    with pytest.raises(InputError, match="--block-px auto: 8 workers do not fit into"):
        fit_block_px(sides, workers=8, memory_bytes=4 * GiB)


def test_a_container_limit_counts(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    free, limited = tmp_path / "free", tmp_path / "limited"
    free.write_text("max\n")
    limited.write_text(f"{GiB}\n")
    monkeypatch.setattr(projection, "_CGROUP_LIMITS", (str(free), str(tmp_path / "absent")))
    physical = machine_memory()
    monkeypatch.setattr(projection, "_CGROUP_LIMITS", (str(free), str(limited)))
    assert machine_memory() == GiB < physical
