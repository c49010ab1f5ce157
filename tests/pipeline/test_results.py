"""Results: what was published opens, what was not says so in one line."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from affine import Affine
from odc.geo.geobox import GeoBox

import pipeline.results
from pipeline.blocks import Window
from pipeline.errors import InputError
from pipeline.legend import Legend
from pipeline.record import Blocks, Input, Metrics, Stage, Truth, make_record
from pipeline.results import describe, open_result, summarise
from pipeline.stores import LabelStore, create_labels, set_legend

LEGEND = Legend.from_counts({0: 25, 3: 75}, names={3: "open water"})


def publish(folder: Path, dtype: Any = "uint8", **changes: Any) -> None:
    create_labels(
        folder / "labels.zarr", GeoBox((10, 10), Affine(5, 0, 5e5, 0, -4, 4e6), "EPSG:32618"), dtype=dtype, attrs={}
    )
    labels = np.where(np.arange(100).reshape(10, 10) < 25, 0, 3).astype(dtype)
    LabelStore.open(folder / "labels.zarr", "r+").write(Window(0, 0, 10, 10), labels, labels.astype(np.uint8))
    set_legend(folder / "labels.zarr", LEGEND)
    LEGEND.to_json(folder / "classes.json")
    metrics = Metrics(
        pixels_valid=100, pixels_per_second=12.5, classes=2, classes_effective=1.75, seam_change_rate=None,
        interior_change_rate=0.05, seam_excess=None, seam_excess_before_cut=None, overlap_disagreement=None,
        alignment=None, truth=Truth(ari=0.9, ami=0.8, hungarian_accuracy=0.95, miou=0.7),
    )  # fmt: skip
    given: dict[str, Any] = {
        "state": "done",
        "created": datetime(2026, 11, 22, tzinfo=UTC),
        "settings": {"k": 2},
        "inputs": [Input(path="a.tif", size=1, sha256="0" * 64)],
        "blocks": Blocks(done=1),
        "stages": [Stage(name="train", seconds=2.0, pixels=100, peak_rss_bytes=1)],
        "metrics": metrics,
    }
    make_record(**{**given, **changes}).write(folder / "run.json")


@pytest.mark.parametrize("dtype", ["uint8", "uint16"])
def test_result(tmp_path: Path, dtype: str) -> None:
    publish(tmp_path, dtype)
    result = open_result(tmp_path)
    assert result.labels.dtype == dtype
    assert result.labels.chunks is not None
    assert result.labels.rio.crs.to_epsg() == 32618
    assert result.labels.attrs["flag_values"].dtype == dtype
    assert result.labels.attrs["flag_values"].tolist() == [0, 3]
    assert int((result.labels == 3).sum()) == 75
    assert result.confidence.dtype == np.uint8
    assert result.legend == LEGEND
    assert result.record.metrics is not None


def test_a_printed_result_says_in_a_few_lines_what_it_holds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    publish(tmp_path)
    assert str(open_result(tmp_path)).splitlines() == [
        f"<Result {tmp_path}>",
        "  done, 10 x 10 px (y, x), EPSG:32618, 2 classes",
        "      0  class 0                    25.00%              25 px  #E69F00",
        "      3  open water                 75.00%              75 px  #F0E442",
    ]
    monkeypatch.setattr(pipeline.results, "SHOWN", 1)
    assert repr(open_result(tmp_path)).splitlines()[-1] == "    ... and 1 more"


def test_description(tmp_path: Path) -> None:
    publish(tmp_path, state="incomplete", blocks=Blocks(done=1, failed=1, failed_names=["0000_0001"]))
    text = describe(tmp_path)
    for part in (
        str(tmp_path), "10 x 10 px", "EPSG:32618", "5 x 4 (x, y)", "incomplete", "failed: 0000_0001", "open water",
        "75.00%", "train", "classes.json, labels.zarr, run.json", "hungarian_accuracy", "pixels_per_second",
    ):  # fmt: skip
        assert part in text, part
    found = json.loads(json.dumps(summarise(tmp_path)))
    assert found["record"]["metrics"]["pixels_valid"] == 100
    assert found["classes"][1] == {
        "id": 3,
        "name": "open water",
        "colour": LEGEND[3].colour,
        "pixels": 75,
        "share": 0.75,
    }


def test_description_of_a_store(tmp_path: Path) -> None:
    publish(tmp_path)
    text = describe(tmp_path / "labels.zarr")
    assert "open_water" in text
    assert "state" not in text
    create_labels(tmp_path / "new.zarr", GeoBox((10, 10), Affine(1, 0, 0, 0, -1, 0), None), attrs={})
    assert "no CRS" in describe(tmp_path / "new.zarr")
    assert summarise(tmp_path / "new.zarr")["classes"] == []


def test_what_is_not_published(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="is no directory"):
        open_result(tmp_path / "absent")
    with pytest.raises(InputError, match=r"holds no published run \(run\.json is missing\)"):
        open_result(tmp_path)
    publish(tmp_path, state="failed", metrics=None)
    with pytest.raises(InputError, match="is 'failed', not published"):
        open_result(tmp_path)


def test_missing_outputs_are_named(tmp_path: Path) -> None:
    publish(tmp_path)
    (tmp_path / "classes.json").unlink()
    with pytest.raises(InputError, match=r"classes\.json of this run is missing"):
        open_result(tmp_path)
