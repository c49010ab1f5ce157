"""Places of West Virginia with two land covers, their truth, and the few pixels of them that somebody labels."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import rasterio
import yaml
from numpy.typing import NDArray

from benchmarks.quality.real import WV_TILES, data_folder

DATES = ("new", "old")
"""Autumn, and leaf-on: two acquisitions of each place."""
CLASSES = {"tree": 2, "low vegetation": 3}
"""The land covers that are scored, and their values in the truth; all others together are 1 % of one place."""
NO_CLASS = 255

Mask = NDArray[np.uint8]


@dataclass(frozen=True)
class Place:
    """One of the places at one date: ``image`` R, G, B, N and ``cover`` on its grid."""

    tile: int
    date: str
    image: Path
    cover: Path

    def read_image(self) -> NDArray[np.float32]:
        """Return ``(y, x, band)`` in the units of the source."""
        with rasterio.open(self.image) as file:
            return np.moveaxis(file.read().astype(np.float32), 0, -1)

    def read_truth(self) -> Mask:
        """Return ``(y, x)``: places of the covers in `CLASSES`, 255 for any other."""
        with rasterio.open(self.cover) as file:
            cover = file.read(1)
        truth = np.full(cover.shape, NO_CLASS, np.uint8)
        for value, code in enumerate(CLASSES.values()):
            truth[cover == code] = value
        return truth


def find_places(date: str) -> list[Place]:
    """Return the places that have both covers.

    Raises
    ------
    FileNotFoundError
        The folder of real imagery is absent, or lacks them.
    """
    folder = data_folder() / "naip-wv"
    images = [path for tile in WV_TILES for path in folder.glob(f"*-{tile}_naip_{date}.tif")]
    if len(images) != len(WV_TILES):
        raise FileNotFoundError(f"{folder}: lacks tiles {WV_TILES} of date {date!r}; set KTEX_DATA to a folder with it")
    return [
        Place(tile, date, path, path.with_name(path.name.replace(f"_naip_{date}", "_lc")))
        for tile, path in zip(WV_TILES, images, strict=True)
    ]


def draw_pixels(truth: Mask, number: int, rng: np.random.Generator) -> Mask:
    """Return a truth that is known at `number` random pixels only, equally many of each class.

    Examples
    --------
    >>> known = draw_pixels(np.array([[0, 0, 1], [255, 0, 1]], np.uint8), 2, np.random.default_rng(0))
    >>> sorted(known[known != 255].tolist())
    [0, 1]
    """
    known = np.full(truth.size, NO_CLASS, np.uint8)
    for value in range(len(CLASSES)):
        inside = np.flatnonzero(truth.ravel() == value)
        known[rng.choice(inside, number // len(CLASSES), replace=False)] = value
    return known.reshape(truth.shape)


def map_classes(labels: NDArray[np.integer], known: Mask) -> dict[str, list[int]]:
    """Return which ids of a map make which class, as somebody would say who labelled some of its pixels.

    An id goes to the class that most of its labelled pixels have. Ids without any, and those between two classes, go
    to none.

    Examples
    --------
    >>> map_classes(np.array([[4, 4, 7, 9]]), np.array([[1, 1, 0, 255]], np.uint8))
    {'tree': [7], 'low vegetation': [4]}
    """
    mapping: dict[str, list[int]] = {name: [] for name in CLASSES}
    for i in np.unique(labels[known != NO_CLASS]).tolist():
        votes = np.bincount(known[(labels == i) & (known != NO_CLASS)], minlength=len(CLASSES))
        if np.count_nonzero(votes == votes.max()) == 1:
            mapping[list(CLASSES)[int(votes.argmax())]].append(i)
    return mapping


def write_mapping(path: Path, mapping: Mapping[str, Sequence[int]]) -> None:
    """Write the file that ``ktex samples --classes`` reads; a class without ids has no line."""
    classes = {name: list(ids) for name, ids in mapping.items() if ids}
    path.write_text(yaml.safe_dump({"classes": classes}, sort_keys=False))  # their order is their value in the masks
