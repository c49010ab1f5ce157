"""Samples for TensorFlow."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import rasterio
from numpy.typing import NDArray

from pipeline.errors import InputError
from pipeline.samples.folds import FOLDS
from pipeline.workspace import read_json


def load_samples(directory: str | Path, fold: str, *, batch: int = 16, seed: int | None = None) -> Any:
    """Return the samples of a fold as a `tf.data.Dataset`.

    Parameters
    ----------
    directory
        A data set that `write_samples` made.
    fold
        ``train``, ``validation`` or ``test``.
    batch
        Chips in a batch; the last one may have fewer.
    seed
        Shuffle anew in each epoch, by this seed; None keeps the order.

    Returns
    -------
    tf.data.Dataset
        Of ``(images, masks)``: ``(n, y, x, band)`` float32, scaled to 0..1 by the one rule of the run, and
        ``(n, y, x)`` uint8, 255 where no class is known.

    Raises
    ------
    InputError
        There is no such data set or fold.
    """
    import tensorflow as tf

    root = Path(directory)
    found = read_json(root / "dataset.json")
    if found is None or found.get("format") != "ktextures-samples":
        raise InputError(f"{root}: is no data set of samples; give the --to directory of ktex samples")
    if fold not in FOLDS or not (root / fold).is_dir():
        raise InputError(f"{root}: has no fold {fold!r}; it has {[name for name in FOLDS if (root / name).is_dir()]}")
    names = sorted(path.name for path in (root / fold / "images").glob("chip_*.tif"))
    px, bands = int(found["rules"]["chip_px"]), len(found["bands"])
    rng = None if seed is None else np.random.default_rng(seed)

    def read() -> Iterator[tuple[NDArray[np.float32], NDArray[np.uint8]]]:
        order = names if rng is None else [names[i] for i in rng.permutation(len(names))]
        for name in order:
            yield read_sample(root / fold, name, found["low"], found["high"])

    signature = (
        tf.TensorSpec((px, px, bands), tf.float32),
        tf.TensorSpec((px, px), tf.uint8),
    )
    chips = tf.data.Dataset.from_generator(read, output_signature=signature)
    return chips.apply(tf.data.experimental.assert_cardinality(len(names))).batch(batch).prefetch(tf.data.AUTOTUNE)


def read_sample(
    folder: Path, name: str, low: list[float], high: list[float]
) -> tuple[NDArray[np.float32], NDArray[np.uint8]]:
    """Read one chip: image ``(y, x, band)`` float32 0..1, mask ``(y, x)`` uint8."""
    with rasterio.open(folder / "images" / name) as file:
        data = np.moveaxis(file.read().astype(np.float32), 0, -1)
    with rasterio.open(folder / "masks" / name) as file:
        mask = file.read(1)
    down, up = np.array(low, np.float32), np.array(high, np.float32)
    return np.clip((data - down) / (up - down), 0, 1).astype(np.float32), mask
