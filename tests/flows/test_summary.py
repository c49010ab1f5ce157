"""The summary: areas on the ground, figures, and lines of Python that really open the map."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest
from odc.geo.geobox import GeoBox

from flows.summary import class_table, figures, python_lines, to_markdown, to_text
from pipeline.blocks import Window
from pipeline.demo import quad_transform
from pipeline.legend import Legend
from pipeline.record import Blocks, Input, Metrics, Stage, Truth, make_record
from pipeline.results import Result, open_result
from pipeline.stores import LabelStore, create_labels


def publish(
    directory: Path,
    crs: str | None = "EPSG:3857",
    failed: int = 0,
    dtype: Literal["uint8", "uint16"] = "uint8",
) -> Result:
    labels = np.zeros((200, 100), dtype)
    labels[150:] = 3
    labels[:10] = np.iinfo(dtype).max
    box = GeoBox(labels.shape, quad_transform(1308, 917), crs)
    create_labels(directory / "labels.zarr", box, chunk_px=100, dtype=dtype, attrs={})
    LabelStore.open(directory / "labels.zarr", "r+").write(
        Window(0, 0, 200, 100), labels, np.full(labels.shape, 200, np.uint8)
    )
    Legend.from_counts({0: 14_000, 3: 5_000}, names={3: "town"}).to_json(directory / "classes.json")
    make_record(
        "incomplete" if failed else "done",
        created=datetime.now(UTC), settings={}, inputs=[Input(path="a.tif", sha256="0" * 64)],
        blocks=Blocks(done=4, failed=failed, failed_names=["0000_0001"][:failed]), seconds=75.0,
        stages=[Stage(name="train", seconds=60.0, pixels=1, peak_rss_bytes=1)],
        metrics=Metrics(
            pixels_valid=19_000, pixels_per_second=253.0, classes=2, classes_effective=1.78, seam_change_rate=0.05,
            interior_change_rate=0.04, seam_excess=0.01, seam_excess_before_cut=0.03, overlap_disagreement=0.08,
            alignment=None, truth=Truth(ari=0.9, ami=0.8, hungarian_accuracy=0.95, miou=0.7),
        ),
    ).write(directory / "run.json")  # fmt: skip
    return open_result(directory)


def test_areas_are_those_on_the_ground(tmp_path: Path) -> None:
    rows = class_table(publish(tmp_path))
    assert [row["id"] for row in rows] == [0, 3]
    # At 18 degrees south a pixel of the quads is 4.777 cos(18.3 deg) = 4.54 m wide.
    assert rows[1]["km2"] == pytest.approx(5_000 * (4.777314 * np.cos(np.radians(18.28))) ** 2 / 1e6, rel=0.01)


def test_a_map_without_crs_has_no_areas(tmp_path: Path) -> None:
    assert "km2" not in class_table(publish(tmp_path, crs=None))[0]


def test_the_text_says_what_was_found(tmp_path: Path) -> None:
    text = to_text(publish(tmp_path))
    for words in (
        "2 classes",
        "town",
        "ARI 0.900",
        "+1.00%, +3.00% before the cut",
        "1 min 15 s",
        "labels.zarr",
        "km2",
    ):
        assert words in text
    assert "town" in to_markdown(open_result(tmp_path))


def test_missing_blocks_are_named(tmp_path: Path) -> None:
    result = publish(tmp_path, failed=1)
    assert "0000_0001: nodata there" in dict(figures(result))["blocks"]
    assert "incomplete" in to_text(result)


def test_the_lines_of_python_open_the_map(tmp_path: Path) -> None:
    lines = python_lines(publish(tmp_path))
    names: dict[str, Any] = {}
    exec("\n".join(lines), names)
    labels = names["scene"]["labels"]
    assert labels.shape == (200, 100)
    assert f"{labels.dtype}, nodata {labels.attrs['nodata']};" in lines[-1]


def test_the_lines_of_python_say_of_which_type_labels_are(tmp_path: Path) -> None:
    assert "(y, x) uint8, nodata 255;" in python_lines(publish(tmp_path / "narrow"))[-1]
    assert "(y, x) uint16, nodata 65535;" in python_lines(publish(tmp_path / "wide", dtype="uint16"))[-1]
