"""Published runs of known labels, made without a model: for tests of what is done with results."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

import numpy as np
from affine import Affine
from numpy.typing import NDArray
from odc.geo.geobox import GeoBox

from pipeline.blocks import Window
from pipeline.census import measure_areas
from pipeline.cog import write_cog
from pipeline.legend import Legend
from pipeline.qml import to_qml
from pipeline.record import Blocks, Input, Metrics, make_record
from pipeline.stores import NODATA, LabelStore, create_labels, set_legend, store_attributes

UTM = Affine(5, 0, 5e5, 0, -5, 4e6)
CREATED = datetime(2026, 11, 22, tzinfo=UTC)


def publish(
    folder: Path,
    labels: NDArray[Any],
    *,
    transform: Affine = UTM,
    crs: str | None = "EPSG:32618",
    chunk_px: int = 32,
    dtype: Literal["uint8", "uint16"] = "uint8",
    names: Mapping[int, str] | None = None,
    cogs: bool = False,
    **record: Any,
) -> Path:
    """Write a run directory that holds `labels` ``(y, x)``, with nodata as their type has it; returns it."""
    folder.mkdir(parents=True)
    nodata = NODATA[dtype]
    ids, counts = np.unique(labels[labels != nodata], return_counts=True)
    legend = Legend.from_counts(dict(zip(ids.tolist(), counts.tolist(), strict=True)), names=names)
    attrs = store_attributes(
        title="a map", sources=["scene.tif"], k=4, settings_digest="0" * 64, created=CREATED,
        licence="CC-BY-4.0", attribution="Somebody 2026",
    )  # fmt: skip
    create_labels(
        folder / "labels.zarr", GeoBox(labels.shape, transform, crs), chunk_px=chunk_px, dtype=dtype, attrs=attrs
    )
    store = LabelStore.open(folder / "labels.zarr", "r+")
    confidence = np.where(labels == nodata, 255, labels.astype(int) * 7 % 200).astype(np.uint8)
    store.write(Window(0, 0, *labels.shape), labels, confidence)
    set_legend(folder / "labels.zarr", legend)
    legend.to_json(folder / "classes.json")
    (folder / "labels.qml").write_text(to_qml(legend), encoding="utf-8")
    if cogs:
        write_cog(store, folder / "labels.tif", legend=legend)
        write_cog(store, folder / "confidence.tif", variable="confidence")
    metrics = Metrics(
        pixels_valid=int(counts.sum()), pixels_per_second=None, classes=len(legend), classes_effective=float(len(ids)),
        seam_change_rate=None, interior_change_rate=None, seam_excess=None, seam_excess_before_cut=None,
        overlap_disagreement=None, alignment=None, areas_m2=measure_areas(store),
    )  # fmt: skip
    given: dict[str, Any] = {
        "state": "done",
        "created": CREATED,
        "settings": {
            "k": 4,
            "preset": "texture",
            "mode": "global",
            "license": "CC-BY-4.0",
            "attribution": "Somebody 2026",
        },
        "inputs": [Input(path="/data/scene_20210315.tif", size=1, sha256="0" * 64)],
        "blocks": Blocks(done=1),
        "stages": [],
        "metrics": metrics,
        "vocabulary": "model a",
        "key": folder.name,
    }
    make_record(**{**given, **record}).write(folder / "run.json")
    return folder
