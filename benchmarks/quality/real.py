"""Real scenes with labels, from a folder that is no part of the project; its manifest says what they are."""

from __future__ import annotations

import os
import warnings
from pathlib import Path

import numpy as np
import rasterio
from numpy.typing import NDArray
from rasterio.errors import NotGeoreferencedWarning

from benchmarks.quality.scenes import Field, Scene
from ktex_model import radiometry
from ktex_model.model import NO_CLASS

RARE = 0.01
"""Classes of a smaller share of the labelled pixels are not scored."""

CLASSES = {"wv-new": 8, "wv-old": 8, "zion": 12, "amazon": 6}
"""The real scenes, and how many classes are looked for: more than the labels have, as these name land use."""

WV_TILES = (0, 3, 7)
"""The tiles of West Virginia that are not all of one label."""


def data_folder() -> Path:
    """Return ``$KTEX_DATA``, or ``../shared/data`` beside the repository."""
    return Path(os.environ.get("KTEX_DATA", Path(__file__).parents[3] / "shared" / "data"))


def load_scene(name: str) -> Scene:
    """Read a real scene.

    Raises
    ------
    FileNotFoundError
        Its folder is absent or holds other files.
    """
    pairs = _files(name, data_folder())
    read = [_read(image) for image, _ in pairs]
    truths = [_read(labels)[0][0] for _, labels in pairs]
    valids = [valid for _, valid in read]
    images = [np.moveaxis(values, 0, -1).astype(np.float32) / 255 for values, _ in read]
    if name == "zion":
        values, valid = read[0]
        scaled = radiometry.percentile(*radiometry.percentile_limits(values, valid)).apply(values)
        images = [np.moveaxis(np.where(valid, scaled, np.float32(0)), 0, -1)]
    return Scene(name, CLASSES[name], tuple(images), tuple(drop_rare(truths, valids)), tuple(valids))


def drop_rare(truths: list[NDArray[np.uint8]], valids: list[NDArray[np.bool_]]) -> list[NDArray[np.uint8]]:
    """Set to 255 what is not valid, and classes of under `RARE` of all labelled pixels."""
    seen = [np.where(valid, truth, NO_CLASS).astype(np.uint8) for truth, valid in zip(truths, valids, strict=True)]
    counts = sum(np.bincount(truth.ravel(), minlength=256) for truth in seen)
    counts[NO_CLASS] = 0
    kept = counts >= RARE * counts.sum()
    return [np.where(kept[truth], truth, NO_CLASS).astype(np.uint8) for truth in seen]


def _files(name: str, folder: Path) -> list[tuple[Path, Path]]:
    if name.startswith("wv"):
        tiles = [
            (sorted((folder / "naip-wv").glob(f"*-{tile}_naip_{name[3:]}.tif")), "_lc.tif", f"_naip_{name[3:]}.tif")
            for tile in WV_TILES
        ]
        pairs = [(p, p.with_name(p.name.replace(end, lc))) for found, lc, end in tiles for p in found]
    elif name == "zion":
        pairs = [(folder / "zion" / "zion_west_rgbn.tif", folder / "zion" / "zion_west_nlcd8.tif")]
    else:
        pairs = [(path, path.with_suffix(".png")) for path in sorted((folder / "amazon-rgb").glob("*.tiff"))]
    missing = [path for pair in pairs for path in pair if not path.exists()]
    if not pairs or missing:
        raise FileNotFoundError(f"{missing[0] if missing else folder}: not there; set KTEX_DATA to a folder with it")
    return pairs


def _read(path: Path) -> tuple[Field, NDArray[np.bool_]]:
    """Return ``(band, y, x)`` and ``(y, x)``: valid where not all bands are nodata."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", NotGeoreferencedWarning)
        with rasterio.open(path) as file:
            values = file.read()
            nodata = file.nodata
    valid = np.ones(values.shape[1:], bool) if nodata is None else ~(values == nodata).all(0)
    return values, valid
