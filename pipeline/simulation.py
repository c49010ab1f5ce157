"""The simulated image of a scene: the generated texture of each pixel's class, at its place, in units of the source.

Each block simulates its core by its own model, from the labels that this model gave. Noise belongs to places of the
scene, so that blocks of one model fit together.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import zarr
from numpy.typing import NDArray
from zarr.codecs import ZstdCodec

from ktex_model.model import NO_CLASS
from pipeline.blocks import Block, Window
from pipeline.cog import checked_cog, filling_cog, grid_profile
from pipeline.costs import Costs
from pipeline.errors import RunFailedError
from pipeline.geotiff import raster_window
from pipeline.models import load_model
from pipeline.plan import Plan
from pipeline.predict import model_of, prediction_key
from pipeline.stores import RawStore
from pipeline.train import peak_rss_bytes

STAGE = "simulate"
SIMULATED = "simulated.tif"
DESCRIPTION = "Simulated image: the generated texture of each pixel's class, in units of the source"


def published_dtype(dtype: np.dtype[Any]) -> np.dtype[Any]:
    """Return the dtype of the simulated image: that of the source; float32 for floats of any width."""
    return np.dtype(np.float32) if dtype.kind == "f" else dtype


def nodata_of(dtype: np.dtype[Any]) -> float:
    """Return the value of pixels without class: NaN, the lowest signed integer, or 0.

    >>> [nodata_of(np.dtype(name)) for name in ("uint16", "int16", "float32")]
    [0, -32768, nan]
    """
    return float("nan") if dtype.kind == "f" else int(np.iinfo(dtype).min)


def quantise(values: NDArray[np.float32], seen: NDArray[np.bool_], dtype: np.dtype[Any]) -> NDArray[Any]:
    """Bring values ``(band, y, x)`` to the dtype of the source, and to nodata where a pixel ``(y, x)`` is not seen.

    Integers are rounded, and kept off the value that means nodata.

    >>> quantise(np.array([[[0.2, 7.6, 300]]], np.float32), np.array([[True, True, False]]), np.dtype("uint8"))
    array([[[1, 8, 0]]], dtype=uint8)
    """
    if dtype.kind == "f":
        return np.where(seen, values, np.nan).astype(dtype)
    limits = np.iinfo(dtype)
    rounded = np.clip(np.rint(values.astype(np.float64)), limits.min + 1, limits.max)
    return np.where(seen, rounded, limits.min).astype(dtype)


def create_simulated(plan: Plan, path: Path) -> None:
    """Make the store that the blocks write into, ``(band, y, x)``; its chunks are those of the labels."""
    dtype, chunk_px = published_dtype(plan.scene.dtype), plan.settings.fitted_chunk_px
    shape = len(plan.scene.bands), *(int(size) for size in plan.scene.geobox.shape)
    zarr.create_array(
        path, shape=shape, chunks=(shape[0], chunk_px, chunk_px), dtype=dtype, fill_value=nodata_of(dtype),
        compressors=ZstdCodec(level=1, checksum=True),
    )  # fmt: skip


def is_simulated(plan: Plan, block: Block) -> bool:
    """Whether a core was simulated already, of the labels that it has now."""
    found = plan.folders.done(STAGE, block.name)
    return found is not None and found.get("key") == prediction_key(plan, block)


def forget_simulated(plan: Plan, names: Iterable[str]) -> None:
    """Count blocks as never simulated: those that have failed since."""
    for name in names:
        plan.folders.marker(STAGE, name).unlink(missing_ok=True)


def simulate_block(plan: Plan, block: Block) -> dict[str, Any]:
    """Simulate the core of one block, a piece at a time, and mark it done."""
    costs = Costs()
    forget_simulated(plan, [block.name])
    raw, found = RawStore.open(plan.folders.raw, plan.grid).read(block), model_of(plan, block.name)
    store: Any = zarr.open_array(plan.folders.simulated, mode="r+")
    pixels = 0
    for window in _pieces(block.core, plan.settings.fitted_chunk_px):
        dtype = store.dtype
        if raw is None or found is None:  # an earlier try may have left something here
            image = np.full((store.shape[0], *window.shape), nodata_of(dtype), dtype)
        else:
            labels = raw[0][window.relative_to(block.wide).slices]
            with costs.computing("simulate"):
                image = simulate(plan, found, labels, window, dtype)
            pixels += int((labels != NO_CLASS).sum())
        with costs.moving("write"):
            store[:, *window.slices] = image
    record = {
        "pixels": pixels,
        "peak_rss_bytes": peak_rss_bytes(),
        "key": prediction_key(plan, block),
        "costs": costs.to_json(),
    }
    plan.folders.mark(STAGE, block.name, record)
    return record


def simulate(
    plan: Plan, found: tuple[Path, str], labels: NDArray[np.uint8], window: Window, dtype: np.dtype[Any]
) -> NDArray[Any]:
    """Return the simulated image ``(band, y, x)`` of a window with the local `labels` of the model `found`."""
    image = load_model(*found).simulate(labels, plan.settings.seed, (window.y0, window.x0))
    return quantise(plan.scaling.invert(np.moveaxis(image, -1, 0)), labels != NO_CLASS, dtype)


def _pieces(window: Window, side: int) -> Iterator[Window]:
    for y in range(window.y0, window.y1, side):
        for x in range(window.x0, window.x1, side):
            yield Window(y, x, min(y + side, window.y1), min(x + side, window.x1))


def _simulated_parts(plan: Plan) -> Iterator[tuple[Window, NDArray[Any]]]:
    """Yield all pieces of all blocks that were simulated, with their pixels."""
    store: Any = zarr.open_array(plan.folders.simulated, mode="r")
    for block in plan.grid:
        if plan.folders.done(STAGE, block.name) is not None:
            for window in _pieces(block.core, store.chunks[1]):
                yield window, np.asarray(store[:, *window.slices])


def write_simulated(plan: Plan, path: Path, tags: Mapping[str, str]) -> None:
    """Write the COG of the simulated image: bands and units of the source, overviews by averaging."""
    dtype, bands = published_dtype(plan.scene.dtype), plan.scene.bands
    colour = "RGB" if bands[:3] == ("R", "G", "B") else "MINISBLACK"
    profile = grid_profile(plan.scene.geobox, dtype=dtype.name, nodata=nodata_of(dtype), count=len(bands)) | {
        "photometric": colour,
        "alpha": "NO",  # four bands of bytes would be taken for a picture with transparency
    }
    said = {"TIFFTAG_IMAGEDESCRIPTION": DESCRIPTION, "KTEX_SCALING": json.dumps(plan.scaling.to_json())}
    with filling_cog(path, profile, resampling="AVERAGE") as target:
        target.descriptions = bands
        target.update_tags(**tags, **said)
        for window, image in _simulated_parts(plan):
            target.write(image, window=raster_window(window))


def verify_simulated(plan: Plan, path: Path) -> None:
    """Check that `path` is a valid COG and holds what the blocks simulated; raises RunFailedError otherwise."""
    with checked_cog(path) as source:
        for window, image in _simulated_parts(plan):
            if not np.array_equal(source.read(window=raster_window(window)), image, equal_nan=image.dtype.kind == "f"):
                raise RunFailedError(f"{path}: differs from what was simulated in {tuple(window)}; run again")
