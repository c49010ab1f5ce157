"""Scoring a published map against a known truth."""

from __future__ import annotations

from pathlib import Path

import rasterio
from affine import Affine

from pipeline.errors import InputError
from pipeline.metrics import Contingency
from pipeline.record import RunRecord, Truth
from pipeline.stores import LabelStore
from pipeline.workspace import RECORD

TOLERANCE_PX = 0.01


def score_against(directory: str | Path, truth_path: str | Path) -> Truth:
    """Score the labels of a run, and put the scores into its record.

    Pixels that are nodata in the map or in the truth do not count.

    Parameters
    ----------
    directory
        A published run.
    truth_path
        GeoTIFF of class ids, one uint8 band on the grid of the map; its nodata value, or 255, is unknown.

    Raises
    ------
    InputError
        There is no such run or file, or the truth is on another grid.
    """
    directory, store = Path(directory), LabelStore.open(Path(directory) / "labels.zarr")
    record = RunRecord.read(directory / RECORD)
    if record.metrics is None:
        raise InputError(f"{directory}: the run has not been published; run it to its end, then score it")
    try:
        with rasterio.open(truth_path) as file:
            _check_grid(file, store, str(truth_path))
            scores = _score(file, store)
    except rasterio.errors.RasterioIOError as error:
        raise InputError(f"{truth_path}: the truth cannot be read ({error}); give a GeoTIFF of class ids") from error
    if scores is None:
        raise InputError(
            f"{truth_path}: the truth and the map share no pixel with a class; give the truth of this scene"
        )
    metrics = record.metrics.model_copy(update={"truth": scores})
    record.model_copy(update={"metrics": metrics}).write(directory / RECORD)
    return scores


def _score(file: rasterio.DatasetReader, store: LabelStore) -> Truth | None:
    counts = Contingency(nodata=store.nodata, truth_nodata=255 if file.nodata is None else int(file.nodata))
    for window in store.strips():
        truth = file.read(1, window=((window.y0, window.y1), (window.x0, window.x1)))
        counts.add(store.read(window), truth)
    if not counts.table.any():
        return None
    found = counts.scores()
    return Truth(ari=found.ari, ami=found.ami, hungarian_accuracy=found.accuracy, miou=found.miou)


def _check_grid(file: rasterio.DatasetReader, store: LabelStore, name: str) -> None:
    if file.count != 1 or file.dtypes[0] != "uint8":
        raise InputError(f"{name}: the truth must have one uint8 band; got {file.count} of {file.dtypes[0]}")
    geobox = store.geobox
    offset = ~Affine(*geobox.affine[:6]) @ file.transform
    near = all(abs(a - b) < TOLERANCE_PX for a, b in zip(offset[:6], (1, 0, 0, 0, 1, 0), strict=True))
    if file.shape != store.shape or not near:
        raise InputError(
            f"{name}: the truth must lie on the grid of the map, {store.shape} pixels from "
            f"({geobox.affine.c:.3f}, {geobox.affine.f:.3f}); got {file.shape} from "
            f"({file.transform.c:.3f}, {file.transform.f:.3f}); cut or warp it to that grid"
        )
