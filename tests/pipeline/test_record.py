"""The run record: nothing unknown, nothing secret, nothing half written."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
import rasterio
from pydantic import ValidationError

from ktex_model.signature import SIGNATURE_VERSION
from pipeline.errors import InputError
from pipeline.record import (
    AlignmentMetrics,
    Blocks,
    Input,
    Metrics,
    RunRecord,
    Stage,
    Truth,
    make_record,
    redact,
    versions,
)

NOW = datetime(2026, 11, 22, 12, 0, tzinfo=UTC)
METRICS = Metrics(
    pixels_valid=100, pixels_per_second=None, classes=3, classes_effective=2.7, seam_change_rate=0.1,
    interior_change_rate=0.05, seam_excess=0.05, seam_excess_before_cut=0.1, overlap_disagreement=0.2,
    alignment=AlignmentMetrics(margins={"median": 0.9}, ambiguous=[[0, 1]], new_classes=[4], merge_log=[{"kept": 1}]),
    truth=Truth(ari=0.9, ami=0.8, hungarian_accuracy=0.95, miou=0.7),
)  # fmt: skip
KEYS = {
    "pixels_valid", "pixels_per_second", "classes", "classes_effective", "seam_change_rate", "interior_change_rate",
    "seam_excess", "seam_excess_before_cut", "overlap_disagreement", "alignment", "areas_m2", "score",
    "radiometry", "truth",
}  # fmt: skip


def record(**changes: Any) -> RunRecord:
    given: dict[str, Any] = {
        "created": NOW,
        "settings": {"k": 6, "model": None, "options": {"taps": [1, 2]}},
        "inputs": [Input(path="/data/a.tif", size=12, sha256="0" * 64), Input(path="s3://b/c.zarr", etag='"x"')],
        "blocks": Blocks(done=3, reused=1),
        "stages": [Stage(name="train", seconds=1.5, pixels=100, peak_rss_bytes=10**9)],
        "metrics": METRICS,
    }
    return make_record(**{"state": "done", **given, **changes})


def test_round_trip(tmp_path: Path) -> None:
    record().write(tmp_path / "run.json")
    assert RunRecord.read(tmp_path / "run.json") == record()
    assert [each.name for each in tmp_path.iterdir()] == ["run.json"]
    written = json.loads((tmp_path / "run.json").read_text())
    assert {"settings", "inputs", "versions", "stages", "blocks", "metrics"} <= set(written)
    assert set(written["metrics"]) == KEYS
    assert written["exit_code"] == 0


def test_incomplete_runs_name_their_blocks() -> None:
    blocks = Blocks(done=3, failed=2, failed_names=["0000_0001", "0001_0001"])
    assert record(state="incomplete", blocks=blocks).exit_code == 3
    with pytest.raises(ValidationError, match="does not fit 2 failed"):
        record(blocks=blocks)
    with pytest.raises(ValidationError, match="name each failed block"):
        Blocks(done=0, failed=1)


def test_published_runs_have_metrics() -> None:
    assert not record(state="failed", metrics=None, error="disk full").is_published
    with pytest.raises(ValidationError, match="must have metrics"):
        record(metrics=None)


def test_exit_code_fits_the_state() -> None:
    with pytest.raises(ValidationError, match="exit_code of state 'done' must be 0; got 1"):
        RunRecord.model_validate(record().model_dump() | {"exit_code": 1})


@pytest.mark.parametrize("part", [(), ("blocks",), ("metrics",), ("metrics", "truth"), ("inputs", 0), ("stages", 0)])
def test_unknown_keys_are_refused(tmp_path: Path, part: tuple[Any, ...]) -> None:
    content = record().model_dump(mode="json")
    place = content
    for step in part:
        place = place[step]
    place["surprise"] = 1
    (tmp_path / "run.json").write_text(json.dumps(content))
    with pytest.raises(InputError, match="surprise: Extra inputs are not permitted") as caught:
        RunRecord.read(tmp_path / "run.json")
    assert "\n" not in str(caught.value)


def test_only_documented_metrics_may_be_null() -> None:
    nullable = KEYS - {"pixels_valid", "classes", "classes_effective"}
    for key in KEYS:
        values = METRICS.model_dump() | {key: None}
        if key in nullable:
            Metrics.model_validate(values)
        else:
            with pytest.raises(ValidationError, match=key):
                Metrics.model_validate(values)
    with pytest.raises(ValidationError, match="finite"):
        Metrics.model_validate(METRICS.model_dump() | {"classes_effective": float("nan")})


def test_inputs_are_identified() -> None:
    with pytest.raises(ValidationError, match="a sha256 or an etag"):
        Input(path="a.tif", size=1)


def test_reading_needs_a_record(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="there is no run record"):
        RunRecord.read(tmp_path / "run.json")
    (tmp_path / "run.json").write_text('{"format": 9}')
    with pytest.raises(InputError, match="is of format version 9; this ktextures reads up to 1"):
        RunRecord.read(tmp_path / "run.json")


def test_no_secret_is_written(tmp_path: Path) -> None:
    secrets = ["hunter2", "PLAK0123456789abcdef", "s3cr3t", "sig0"]
    record(
        settings={
            "planet_api_key": secrets[1],
            "nested": [{"PASSWORD": "hunter2"}, f"see {secrets[1]}"],
            "scheduler": "tls://me:s3cr3t@host:1",
        },
        inputs=[Input(path="/vsicurl/https://me:hunter2@host/a.tif?sig=sig0&x=1", etag="e")],
        state="failed",
        metrics=None,
        error="GET https://host/a?token=s3cr3t failed",
    ).write(tmp_path / "run.json")
    text = (tmp_path / "run.json").read_text()
    assert not [secret for secret in secrets if secret in text]
    assert "https://***@host/a.tif?***" in text
    RunRecord.read(tmp_path / "run.json").write(tmp_path / "again.json")
    assert (tmp_path / "again.json").read_text() == text


def test_redaction_leaves_the_rest() -> None:
    plain = {"keep_work": True, "block_px": 2048, "path": "/a/b?.tif", "api_key": None, "x": [1, 2.5, "C:/d"]}
    assert redact(plain) == plain
    assert redact(Path("/a/b")) == "/a/b"


def test_versions_name_what_results_depend_on() -> None:
    found = versions()
    assert {"python", "gdal", "numpy", "keras", "zarr", "rasterio"} <= set(found)
    assert found["gdal"] == rasterio.__gdal_version__
    assert found["rasterio"] == rasterio.__version__
    assert found["signatures"] == str(SIGNATURE_VERSION)
