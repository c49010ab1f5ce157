"""k-means of scikit-learn or dask-ml from GeoTIFF to label GeoTIFF, block by block; a script of its own.

It imports nothing of ours, so that an environment that holds the peer alone can run it.
"""

from __future__ import annotations

import argparse
import itertools
import json
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import rasterio
from rasterio.windows import Window
from scipy import ndimage

BLOCK_PX = 2048
SAMPLE_PX = 100_000
SIGMA_PX = 5.0
HALO_PX = 32
SCALES_PX = (1.0, 2.0, 4.0, 8.0)

Array = np.ndarray[Any, np.dtype[Any]]
Features = Callable[[Array], Array]


def colours(data: Array) -> Array:
    """Return the bands of each pixel ``(y, x, band)`` float32."""
    return np.moveaxis(data, 0, -1).astype(np.float32) / 10_000


def textures(data: Array) -> Array:
    """Return local means of the bands, and logarithms of the local energy of three differences of Gaussians."""
    bands = data.astype(np.float32) / 10_000
    grey = bands.mean(0)
    smooth = [ndimage.gaussian_filter(grey, sigma) for sigma in SCALES_PX]
    local = [ndimage.gaussian_filter(band, SIGMA_PX) for band in bands]
    for fine, coarse in itertools.pairwise(smooth):
        local.append(np.log(ndimage.gaussian_filter((fine - coarse) ** 2, SIGMA_PX) + 1e-9))
    return np.stack(local, -1)


FEATURES: dict[str, tuple[Features, int]] = {"colours": (colours, 0), "textures": (textures, HALO_PX)}


def read_block(source: Any, window: Window, features: Features, halo: int) -> Array:
    """Return the features of a window, described with a halo around it."""
    x0, y0 = max(window.col_off - halo, 0), max(window.row_off - halo, 0)
    x1 = min(window.col_off + window.width + halo, source.width)
    y1 = min(window.row_off + window.height + halo, source.height)
    found = features(source.read(window=Window(x0, y0, x1 - x0, y1 - y0)))
    y, x = window.row_off - y0, window.col_off - x0
    return found[y : y + window.height, x : x + window.width]


def blocks(height: int, width: int) -> list[Window]:
    """Return the windows of all blocks."""
    return [
        Window(x, y, min(BLOCK_PX, width - x), min(BLOCK_PX, height - y))
        for y in range(0, height, BLOCK_PX)
        for x in range(0, width, BLOCK_PX)
    ]


def draw_sample(source: Any, features: Features, halo: int, rng: np.random.Generator) -> Array:
    """Return the features of pixels drawn from windows all over the scene."""
    parts = []
    for _ in range(16):
        y, x = rng.integers(0, source.height - 256), rng.integers(0, source.width - 256)
        found = read_block(source, Window(int(x), int(y), 256, 256), features, halo).reshape(65_536, -1)
        parts.append(found[rng.permutation(len(found))[: SAMPLE_PX // 16]])
    return np.concatenate(parts)


def fit(engine: str, sample: Array, k: int) -> Any:
    """Return the fitted k-means."""
    if engine == "dask":
        import dask.array as da
        from dask_ml.cluster import KMeans

        return KMeans(n_clusters=k, random_state=0).fit(da.from_array(sample, chunks=(25_000, sample.shape[1])))
    from sklearn.cluster import MiniBatchKMeans

    return MiniBatchKMeans(k, random_state=0, n_init=3, batch_size=4096).fit(sample)


def label(engine: str, model: Any, values: Array, chosen: Array) -> Array:
    """Return the labels ``(y, x)`` uint8 of the features of a block; `chosen` are mean and spread of each feature."""
    flat = ((values.reshape(-1, values.shape[-1]) - chosen[0]) / chosen[1]).astype(np.float32)
    if engine == "dask":
        import dask.array as da

        found = model.predict(da.from_array(flat, chunks=(flat.shape[0] // 4, flat.shape[1]))).compute()
    else:
        found = model.predict(flat)
    return np.asarray(found).astype(np.uint8).reshape(values.shape[:2])


def main() -> None:
    """Fit, label, and print the seconds of both as JSON."""
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("engine", choices=["sklearn", "dask"])
    options.add_argument("features", choices=FEATURES)
    options.add_argument("scene")
    options.add_argument("out")
    options.add_argument("--k", type=int, required=True)
    given = options.parse_args()
    features, halo = FEATURES[given.features]
    rng = np.random.default_rng(0)
    with rasterio.open(given.scene) as source:
        start = time.perf_counter()
        sample = draw_sample(source, features, halo, rng)
        chosen = np.stack([sample.mean(0), sample.std(0)])
        if given.features == "colours":  # bands share their unit
            chosen = np.stack([np.zeros_like(chosen[0]), np.ones_like(chosen[1])])
        model = fit(given.engine, ((sample - chosen[0]) / chosen[1]).astype(np.float32), given.k)
        fitted = time.perf_counter()
        profile = {
            "driver": "GTiff", "count": 1, "dtype": "uint8", "height": source.height, "width": source.width,
            "crs": source.crs, "transform": source.transform, "tiled": True, "blockxsize": 512, "blockysize": 512,
            "compress": "DEFLATE", "nodata": 255,
        }  # fmt: skip
        with rasterio.open(given.out, "w", **profile) as target:
            for window in blocks(source.height, source.width):
                values = read_block(source, window, features, halo)
                target.write(label(given.engine, model, values, chosen), 1, window=window)
    print(json.dumps({"fit_s": fitted - start, "apply_s": time.perf_counter() - fitted}))


if __name__ == "__main__":
    main()
