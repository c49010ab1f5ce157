"""The scene at a size for looking, made of what blocks have read: the same as read again."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from odc.geo.geobox import GeoBox

from pipeline.blocks import BlockGrid
from pipeline.ground import assemble_ground, keep_view, kept_ground, read_image, view_factor
from pipeline.pixels import Pixels, SampledScene
from pipeline.workspace import Folders
from tests.pipeline.rasters import GRID


class Held(SampledScene):
    """A scene in memory."""

    bands = ("R", "G")

    def __init__(self, pixels: Pixels) -> None:
        self.pixels, self.dtype = pixels, pixels.data.dtype
        self.geobox = GeoBox(pixels.shape, GRID, None)

    def fingerprints(self, report: Any = None) -> Any:
        return []

    def files_in(self, window: Any) -> Any:
        return []

    def sample(self, rows: Any, columns: Any, step: int) -> Pixels:
        at = np.ix_(rows, columns)
        return Pixels(self.pixels.data[:, at[0], at[1]], self.pixels.valid[at])


@pytest.mark.parametrize("dtype", [np.uint16, np.float32])
@pytest.mark.parametrize(("max_px", "shape"), [(64, (250, 131)), (64, (257, 90)), (2560, (70, 60))])
def test_the_ground_is_the_scene_decimated(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, dtype: type, max_px: int, shape: tuple[int, int]
) -> None:
    factor = view_factor(shape, max_px)
    monkeypatch.setattr("pipeline.ground.view_factor", lambda _: factor)
    rng = np.random.default_rng(0)
    valid = rng.random(shape) < 0.9
    scene = Held(Pixels(rng.integers(1, 999, (2, *shape)).astype(dtype) * valid, valid))
    grid = BlockGrid(shape, 32, context_px=5)
    plan: Any = SimpleNamespace(scene=scene, grid=grid, folders=Folders(tmp_path))
    plan.folders.work.mkdir()
    blocks = list(grid)
    for block in blocks[1:]:  # the first has failed
        keep_view(plan, block, scene.read(block.read))
    expected = read_image(scene, factor)
    lost = tuple(slice(0, -(-(side.stop) // factor)) for side in blocks[0].core.slices)
    expected.valid[lost] = False
    for found in (assemble_ground(plan), kept_ground(plan)):
        np.testing.assert_array_equal(found.valid, expected.valid)
        np.testing.assert_array_equal(found.data, np.where(expected.valid, expected.data, 0))
        assert found.data.dtype == dtype
