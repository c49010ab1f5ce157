"""Three dates of one place: does water that stays keep its id? Real imagery, the real model."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import rasterio
from numpy.typing import NDArray

from pipeline import Settings, open_result, segment
from pipeline.results import Result

DATES = ("2010", "2012", "2014")
LEAST_NDWI = 0.3


WAYS: dict[str, dict[str, Any]] = {
    "begun with known ground": {},
    "each date by itself": {"known_ground": False},
    "local, 9 blocks": {"mode": "local", "block_px": 352, "chunk_px": 352},
}
"""How dates are trained: settings beside the common ones."""
APPLIED = "model of the first date"


def run_dates(folder: Path, out: Path, given: dict[str, Any], *, apply_first: bool = False) -> dict[str, Any]:
    """Map the first date, attach the others, and measure.

    Parameters
    ----------
    folder
        GeoTIFFs R, G, B, N of the three dates on one grid.
    out
        Where the runs and the catalogue go.
    given
        Settings of all runs.
    apply_first
        Apply the model of the first date to the others instead of training each.
    """
    results = []
    for date in DATES:
        settings: dict[str, Any] = {"bands": "rgbn", "engine": "serial", "catalogue": out / "catalogue", "date": date}
        if apply_first and results:
            settings |= {"model": results[0].path}
        else:
            settings |= {"mode": "global", **given}
        print(f"{date}: {given}{', by the first model' * ('model' in settings)}", file=sys.stderr, flush=True)
        results.append(segment(folder, Settings(**settings), out / date))
    return measure_dates(folder, results)


def measure_dates(folder: Path, results: list[Result]) -> dict[str, Any]:
    """Return the share of lasting water that keeps its id, and what each date is made of."""
    water = np.logical_and.reduce([_water(folder, date) for date in DATES])
    labels = [result.labels.to_numpy() for result in results]
    same = np.logical_and.reduce([each == labels[0] for each in labels[1:]])
    dates = []
    for date, result, each in zip(DATES, results, labels, strict=True):
        metrics = result.record.metrics
        alignment = None if metrics is None else metrics.alignment
        ids, counts = np.unique(each[water], return_counts=True)
        dates.append(
            {
                "date": date,
                "classes": len(result.legend),
                "classes_effective": None if metrics is None else metrics.classes_effective,
                "new": [] if alignment is None else alignment.new_classes,
                "matching": None if alignment is None else alignment.catalogue,
                "water": {int(i): round(float(n / water.sum()), 4) for i, n in zip(ids, counts, strict=True)},
            }
        )
    ids, counts = np.unique(labels[0][water & same], return_counts=True)
    return {
        "water_pixels": int(water.sum()),
        "same_id": float(same[water].mean()),
        "one_id": float(counts.max() / water.sum()) if len(counts) else 0.0,
        "water_id": int(ids[counts.argmax()]) if len(counts) else None,
        "dates": dates,
    }


def read_dates(folder: Path, out: Path) -> dict[str, Any]:
    """Measure runs that are there already."""
    return measure_dates(folder, [open_result(out / date) for date in DATES])


def _water(folder: Path, date: str) -> NDArray[np.bool_]:
    (path,) = folder.glob(f"*_{date}*.tif")
    with rasterio.open(path) as source:
        green, near_infrared = source.read([2, 4]).astype(np.float64)
    ndwi: NDArray[np.bool_] = (green - near_infrared) / np.maximum(green + near_infrared, 1) > LEAST_NDWI
    return ndwi
