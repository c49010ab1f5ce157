"""A published map of any size without a run: imagery, labels, rasters and record, made window by window."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import rasterio
from affine import Affine
from numpy.typing import NDArray
from odc.geo.geobox import GeoBox
from rasterio.windows import Window as RasterWindow
from scipy import ndimage

from pipeline.blocks import BlockGrid
from pipeline.cog import write_cog
from pipeline.legend import Legend
from pipeline.metrics import seams
from pipeline.pixels import fingerprint_file
from pipeline.record import Blocks, Input, Metrics, make_record
from pipeline.report.diagnostics import Diagnostics
from pipeline.settings import Settings
from pipeline.stores import LabelStore, create_labels, set_legend

TRANSFORM = Affine(5.0, 0.0, 300_000.0, 0.0, -5.0, 9_600_000.0)
CRS = "EPSG:32622"
TILE_PX = 2048


def make_published(folder: Path, side: int, classes: int, seed: int) -> None:
    """Write imagery of ``side`` x ``side`` pixels, 4 x uint8, and a published run of it, into ``folder/run``."""
    run, source = folder / "run", folder / "scene.tif"
    run.mkdir()
    grid = BlockGrid((side, side), TILE_PX)
    create_labels(run / "labels.zarr", GeoBox((side, side), TRANSFORM, CRS), attrs={})
    store = LabelStore.open(run / "labels.zarr", "r+")
    counts = np.zeros(256, np.int64)
    profile = {"driver": "GTiff", "height": side, "width": side, "count": 4, "dtype": "uint8", "crs": CRS,
               "transform": TRANSFORM, "tiled": True, "blockxsize": 512, "blockysize": 512, "nodata": 0,
               "photometric": "MINISBLACK"}  # fmt: skip
    with rasterio.open(source, "w", **profile) as file:
        for block in grid:
            window = block.core
            labels, image = draw(window.shape, classes, (seed, *block.index))
            store.write(window, labels, np.where(labels == 255, 255, 120 + labels % 80).astype(np.uint8))
            file.write(image, window=RasterWindow(window.x0, window.y0, window.shape[1], window.shape[0]))
            counts += np.bincount(labels.ravel(), minlength=256)
    used = {i: int(counts[i]) for i in range(255) if counts[i]}
    legend = Legend.from_counts(used, spectra={i: (20.0 + i, 40.0 + i, 30.0 + i, 90.0 + i) for i in used})
    set_legend(run / "labels.zarr", legend)
    legend.to_json(run / "classes.json")
    write_cog(store, run / "labels.tif", legend=legend)
    write_cog(store, run / "confidence.tif", variable="confidence")
    Diagnostics(("R", "G", "B", "N"), (0.0,) * 4, (255.0,) * 4).write(run)
    write_run_record(run, source, store, grid, legend)


def draw(shape: tuple[int, int], classes: int, seed: tuple[int, ...]) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """Draw patches of classes and an image of them, each of its own grey with grain."""
    rng = np.random.default_rng(seed)
    field = ndimage.gaussian_filter(rng.standard_normal((shape[0] // 8 + 1, shape[1] // 8 + 1)), 3, mode="wrap")
    ranked = (np.argsort(np.argsort(field, axis=None)) * classes // field.size).reshape(field.shape).astype(np.uint8)
    labels = np.kron(ranked, np.ones((8, 8), np.uint8))[: shape[0], : shape[1]]
    grain = rng.integers(0, 40, (4, *shape), np.uint8)
    return labels, (1 + grain + labels * np.uint8(200 // classes)).astype(np.uint8)


def write_run_record(run: Path, source: Path, store: LabelStore, grid: BlockGrid, legend: Legend) -> None:
    """Write the record that such a run would have."""
    found, hashed = seams(store.read, grid), fingerprint_file(source)
    make_record(
        "done",
        created=datetime(2026, 1, 1, tzinfo=UTC),
        settings=Settings.parse({"bands": "rgbn", "mode": "global", "block_px": TILE_PX}).model_dump(mode="json"),
        inputs=[Input(path=str(source), size=hashed.size_bytes, sha256=hashed.sha256)],
        blocks=Blocks(done=len(grid)),
        key="made",
        seconds=1.0,
        metrics=Metrics(
            pixels_valid=sum(each.pixels for each in legend.classes),
            pixels_per_second=None,
            classes=len(legend),
            classes_effective=float(len(legend)),
            seam_change_rate=found.seam_change_rate,
            interior_change_rate=found.interior_change_rate,
            seam_excess=found.seam_excess,
            seam_excess_before_cut=None,
            overlap_disagreement=None,
            alignment=None,
        ),
    ).write(run / "run.json")
