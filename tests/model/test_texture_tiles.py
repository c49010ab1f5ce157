"""Laws of tiles: one shape for all windows of a run, as large as memory holds, half where it did not."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import keras
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ktex_model import device
from ktex_model.device import free_memory, host_memory
from ktex_model.model import Prediction
from ktex_model.texture import prediction
from ktex_model.texture.config import TextureConfig
from ktex_model.texture.distillation import STEPS_AT_ONCE, steps_at_once
from ktex_model.texture.network import Architecture, build
from ktex_model.texture.prediction import Predictor, TileLimit
from ktex_model.texture.tiles import (
    GPU_TILE_PX,
    LARGE_TILE_PX,
    SHARE_OF_FREE,
    SMALL_TILE_PX,
    half_side,
    largest_side,
    tile_side,
)
from pipeline.blocks import BlockGrid

FULL = "RESOURCE_EXHAUSTED: Out of memory while trying to allocate 4294967296 bytes"
CONTEXT_PX = 28
GiB = 1 << 30


def seen_px(sizes: Sequence[int], side: int) -> int:
    """Pixels along one axis that the network sees."""
    return sum(-(-size // side) * (side + 2 * CONTEXT_PX) for size in sizes)


@given(st.lists(st.integers(1, 5000), min_size=1, max_size=9), st.sampled_from([256, 576, 2048]))
def test_no_other_side_makes_the_network_see_less(sizes: list[int], largest: int) -> None:
    side = tile_side(sizes, largest, CONTEXT_PX)
    assert side % 16 == 0
    assert SMALL_TILE_PX <= side <= largest
    assert all(seen_px(sizes, side) <= seen_px(sizes, other) for other in range(SMALL_TILE_PX, largest + 1, 16))


@given(st.integers(4 * 2048, 40_000))
def test_one_shape_costs_little_more_than_one_for_each_size_of_block(scene_px: int) -> None:
    sizes = BlockGrid((scene_px, scene_px), 2048).windows[0]
    shared = seen_px(sizes, tile_side(sizes, LARGE_TILE_PX, CONTEXT_PX))
    apart = sum(seen_px([size], tile_side([size], LARGE_TILE_PX, CONTEXT_PX)) for size in sizes)
    assert shared <= apart + LARGE_TILE_PX + 2 * CONTEXT_PX, "a tile more along an axis, whatever the scene's size"


@given(st.integers(2, 128), st.integers(1, 16), st.lists(st.integers(1, 1 << 44), min_size=2, max_size=6))
def test_more_memory_never_makes_smaller_tiles_and_they_fit(k: int, bands: int, free: list[int]) -> None:
    architecture = Architecture(k, bands)
    sides = [largest_side(architecture, GPU_TILE_PX, each) for each in sorted(free)]
    assert sides == sorted(sides)
    for side, room in zip(sides, sorted(free), strict=True):
        assert SMALL_TILE_PX <= side <= GPU_TILE_PX
        assert side % 16 == 0
        held = (side + 2 * architecture.context_px) ** 2 * architecture.activation_bytes
        assert side == SMALL_TILE_PX or held <= SHARE_OF_FREE * room
    assert largest_side(architecture, GPU_TILE_PX, None) == GPU_TILE_PX


@pytest.mark.parametrize(("k", "bands"), [(2, 1), (6, 4), (30, 3)])
def test_activations_are_those_of_all_layers(k: int, bands: int) -> None:
    architecture, side = Architecture(k, bands), 64
    network = keras.Model(*build(architecture, (side, side)))
    layers = sum(4 * int(np.prod(layer.output.shape[1:])) for layer in network.layers) / side**2
    planes = 6 * 4 * k / 4
    assert architecture.activation_bytes == pytest.approx(layers + planes, rel=0.02)


@given(st.integers(SMALL_TILE_PX // 16, GPU_TILE_PX // 16))
def test_halves_end_at_the_smallest_side(steps: int) -> None:
    side: int | None = 16 * steps
    for _ in range(5):
        if side is None:
            break
        half = half_side(side)
        assert half is None or (SMALL_TILE_PX <= half < side and half % 16 == 0)
        side = half
    assert side is None


class Device:
    """Stands for compiled tiles: labels pixels by their place, and has memory for tiles of so many pixels."""

    def __init__(self, room: int, error: Exception | None = None) -> None:
        self.room, self.error = room, error or RuntimeError(FULL)
        self.tried: list[tuple[int, int]] = []

    def compile_tile(self, architecture: Architecture, shape: tuple[int, int]) -> Any:
        def run(owner: Any, image: Any, valid: Any, corner: tuple[int, int], into: Any) -> None:
            self.tried.append(shape)
            if shape[0] * shape[1] > self.room:
                raise self.error
            rows, columns = np.indices(into[0].shape)
            into[0][...] = ((rows + corner[0]) * 31 + (columns + corner[1]) * 7) % 251
            into[1][...] = into[0] // 2

        return run


def label(held: Device, monkeypatch: pytest.MonkeyPatch, times: int = 1, side: int = GPU_TILE_PX) -> Prediction:
    config = TextureConfig(2, 1)
    limit = SimpleNamespace(side=side)
    limit.halve = lambda tried: TileLimit.halve(limit, tried)  # type: ignore[arg-type]
    monkeypatch.setattr(prediction, "get_limit", lambda _: limit)
    monkeypatch.setattr(prediction, "compile_tile", held.compile_tile)
    weights = {
        "half/kernel": np.zeros((4, 4, 2, 16), np.float32),
        "half/bias": np.zeros(16, np.float32),
        "classes/bias": np.zeros(2, np.float32),
    }
    model = Predictor(config, weights, np.zeros(1, np.float32), np.ones(2, bool))
    image, valid = np.zeros((1200, 800, 1), np.float32), np.ones((1200, 800), bool)
    for _ in range(times):
        found = model.label(image, valid, (16, 1100), (0, 700))
    return found


def test_a_window_in_smaller_tiles_is_the_window_and_the_next_begins_with_them(monkeypatch: pytest.MonkeyPatch) -> None:
    whole, small = label(Device(10**9), monkeypatch), Device(300 * 300)
    parts = label(small, monkeypatch, times=2)
    np.testing.assert_array_equal(parts.labels, whole.labels)
    np.testing.assert_array_equal(parts.margin, whole.margin)
    refused = [shape for shape in small.tried if shape[0] * shape[1] > small.room]
    assert refused == small.tried[: len(refused)]
    assert len(refused) == 2, "tiles of 1088 x 704 px, then of half the side"
    assert len(small.tried) - len(refused) == 2 * 4 * 3


def test_what_cannot_be_cut_further_fails_as_it_did(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(RuntimeError, match="Out of memory"):
        label(held := Device(100), monkeypatch)
    assert held.tried[-1] == (SMALL_TILE_PX, SMALL_TILE_PX)


def test_another_error_is_not_tried_again(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ValueError, match="wrong bands"):
        label(held := Device(100, ValueError("wrong bands")), monkeypatch)
    assert len(held.tried) == 1


@pytest.mark.parametrize(("gpu", "free", "side"), [(True, 40 * GiB, 2048), (True, GiB // 4, 736), (False, GiB, 576)])
def test_the_limit_is_that_of_the_device(gpu: bool, free: int, side: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(prediction, "has_gpu", lambda: gpu)
    monkeypatch.setattr(prediction, "free_memory", lambda: free)
    assert TileLimit(Architecture(6, 4)).side == side


@given(st.integers(2, 128), st.integers(1, 4), st.lists(st.integers(1, 1 << 40), min_size=2, max_size=6))
def test_crops_of_steps_are_as_many_as_memory_holds(k: int, batch: int, free: list[int]) -> None:
    config = TextureConfig(k, 4, batch=batch)
    counts = [steps_at_once(config, each) for each in sorted(free)]
    assert counts == sorted(counts)
    assert all(1 <= count <= STEPS_AT_ONCE for count in counts)
    assert (steps_at_once(config, 1), steps_at_once(config, 1 << 44)) == (1, STEPS_AT_ONCE)


def write(folder: Path, **texts: str) -> str:
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in texts.items():
        (folder / name.replace("_", ".", 1)).write_text(text)
    return str(folder)


def test_host_memory_is_what_the_machine_and_the_container_leave(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    machine = tmp_path / "meminfo"
    machine.write_text("MemTotal: 8388608 kB\nMemAvailable: 4194304 kB\nHugePages_Total: 0\n")
    stat = f"anon 5\ninactive_file {GiB // 2}\n"
    limited = write(tmp_path / "a", memory_max=str(3 * GiB), memory_current=str(2 * GiB), memory_stat=stat)
    free = write(tmp_path / "b", memory_max="max", memory_current=str(2 * GiB), memory_stat=stat)
    names = ("memory.max", "memory.current", "inactive_file")
    monkeypatch.setattr(device, "MEMINFO", str(machine))
    monkeypatch.setattr(device, "has_gpu", lambda: False)
    monkeypatch.setattr(device, "CGROUPS", ((free, *names), (str(tmp_path / "absent"), *names)))
    assert host_memory() == free_memory() == 4 * GiB
    monkeypatch.setattr(device, "CGROUPS", ((free, *names), (limited, *names)))
    assert host_memory() == free_memory() == 3 * GiB // 2
    monkeypatch.setattr(device, "MEMINFO", str(tmp_path / "absent"))
    monkeypatch.setattr(device, "CGROUPS", ())
    assert host_memory() is None


@pytest.mark.parametrize("limit", [16 * GiB, None])
def test_memory_of_a_gpu_is_what_the_backend_may_still_take(limit: int | None, monkeypatch: pytest.MonkeyPatch) -> None:
    if keras.backend.backend() == "jax":
        import jax

        stats = None if limit is None else {"bytes_limit": limit, "bytes_in_use": GiB}
        monkeypatch.setattr(jax, "local_devices", lambda: [SimpleNamespace(memory_stats=lambda: stats)])
    else:
        import tensorflow as tf

        devices = tf.compat.v1.Session.list_devices
        told = [] if limit is None else [SimpleNamespace(device_type="GPU", memory_limit_bytes=limit)]
        monkeypatch.setattr(tf.compat.v1.Session, "list_devices", lambda session: devices(session) + told)
        monkeypatch.setattr(tf.config.experimental, "get_memory_info", lambda _: {"current": GiB})
    monkeypatch.setattr(device, "has_gpu", lambda: True)
    assert free_memory() == (None if limit is None else 15 * GiB)
