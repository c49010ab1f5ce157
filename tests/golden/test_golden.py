"""Runs of every format that was ever released are read by all that reads runs; `tests/golden/make.py` makes them."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pystac
import pytest
import rasterio
import safetensors
import safetensors.numpy
import zarr
from numpy.typing import NDArray

from flows.cli import main
from ktex_model import weights
from pipeline import InputError, Settings, segment
from pipeline import legend as legend_module
from pipeline import models as models_module
from pipeline import record as record_module
from pipeline import stores as stores_module
from pipeline.catalogue import store as catalogue_module
from pipeline.catalogue.store import read_catalogue
from pipeline.models import find_model
from pipeline.report import diagnostics as diagnostics_module
from pipeline.report import remake_report
from pipeline.report.diagnostics import Diagnostics
from pipeline.results import open_result
from pipeline.series import append, open_series
from pipeline.stac import write_item

HERE = Path(__file__).parent
VERSIONS = sorted(path.name for path in HERE.glob("v*"))
NEWEST = int(VERSIONS[-1].removeprefix("v"))

pytestmark = pytest.mark.filterwarnings("ignore:Use `@` matmul:PendingDeprecationWarning")


@pytest.fixture(params=VERSIONS)
def golden(tmp_path: Path, request: pytest.FixtureRequest) -> Path:
    """A copy of a golden run with its scene and catalogue, which takes the place of where it was made."""
    folder = tmp_path / "golden"
    shutil.copytree(HERE / request.param, folder)
    record = json.loads((folder / "run" / "run.json").read_text())
    (only,) = record["inputs"]
    only["path"] = str(folder / "scene.tif")
    (folder / "run" / "run.json").write_text(json.dumps(record))
    return folder


def read_tif(path: Path) -> NDArray[np.uint8]:
    with rasterio.open(path) as file:
        found: NDArray[np.uint8] = file.read(1)
    return found


def test_the_newest_version_of_each_part_has_a_golden_run() -> None:
    parts = {
        record_module.FORMAT_VERSION, legend_module.VERSION, models_module.VERSION, stores_module.FORMAT_VERSION,
        catalogue_module.VERSION, diagnostics_module.VERSION, weights.FORMAT_VERSION,
    }  # fmt: skip
    assert max(parts) == NEWEST, "python -m tests.golden.make makes the run of a new format"


def test_it_opens_as_a_result(golden: Path) -> None:
    result = open_result(golden / "run")
    labels = result.labels.to_numpy()
    with rasterio.open(golden / "run" / "labels.tif") as file:
        assert result.labels.rio.crs == file.crs
        assert result.labels.rio.transform() == file.transform
    np.testing.assert_array_equal(labels, read_tif(golden / "run" / "labels.tif"))
    np.testing.assert_array_equal(result.confidence.to_numpy(), read_tif(golden / "run" / "confidence.tif"))
    assert {each.id: each.pixels for each in result.legend.classes} == {
        int(i): int(n) for i, n in zip(*np.unique(labels[labels != 255], return_counts=True), strict=True)
    }
    assert result.labels.attrs["flag_values"].tolist() == result.legend.ids
    assert (labels[:24, :24] == 255).all()
    assert result.record.state == "done"


def test_the_commands_read_it(golden: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = str(golden / "run")
    names = golden / "names.yaml"
    ids = open_result(run).legend.ids
    names.write_text(f"classes:\n  one: [{ids[0]}]\n  others: {ids[1:]}\n")
    out = golden / "made"
    commands = (
        ["info", run], ["info", run, "--json"], ["info", f"{run}/labels.zarr"], ["classes", "show", run],
        ["classes", "show", str(golden / "catalogue")], ["classes", "export", run, "--format", "qml"],
        ["polygons", run, "--to", f"{out}.gpkg"], ["clean", run, "--out", f"{out}-clean", "--mmu-px", "9"],
        ["change", run, f"{out}-clean", "--out", f"{out}-change"],
        ["samples", run, "--classes", str(names), "--to", f"{out}-samples", "--chip-px", "32", "--place-px", "48"],
        ["classes", "name", run, str(ids[0]), "meadow"],
        ["report", run],
    )  # fmt: skip
    for command in commands:
        assert main(command) == 0, (command, capsys.readouterr().err)
    assert "meadow" in (golden / "run" / "report.html").read_text(encoding="utf-8")


def test_its_report_is_made_again_with_its_imagery(golden: Path) -> None:
    page, reason = remake_report(golden / "run")
    assert not reason
    assert '<script type="text/plain" id="image">' in page.read_text(encoding="utf-8")


def test_its_item_is_made_again_and_was_true(golden: Path) -> None:
    before = json.loads((golden / "run" / "item.json").read_text())
    for name in ("labels.tif", "confidence.tif", "classes.json"):
        (said,) = (each for each in before["assets"].values() if each["href"] == f"./{name}")
        assert said["file:size"] == (golden / "run" / name).stat().st_size
    item = pystac.Item.from_file(str(write_item(golden / "run")))
    assert item.properties["proj:shape"] == before["properties"]["proj:shape"]


def test_it_joins_a_series(golden: Path) -> None:
    append(golden / "series", golden / "run", "2021-03-15")
    series = open_series(golden / "series")
    np.testing.assert_array_equal(series["labels"].to_numpy()[0], read_tif(golden / "run" / "labels.tif"))


@pytest.mark.slow
def test_its_model_and_its_catalogue_go_on(golden: Path) -> None:
    settings = Settings(
        model=golden / "run", catalogue=golden / "catalogue", bands="rgbn", block_px=128, engine="serial"
    )
    again = segment(golden / "scene.tif", settings, golden / "again")
    old = read_tif(golden / "run" / "labels.tif")
    assert (again.labels.to_numpy() == old).mean() >= 0.995, "an old model labels as it did, under the old ids"
    assert again.legend.ids == open_result(golden / "run").legend.ids


def rewrite(path: Path, **changes: Any) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def retag(path: Path) -> None:
    with safetensors.safe_open(path, framework="numpy") as file:
        arrays, said = {name: file.get_tensor(name) for name in file.keys()}, file.metadata()  # noqa: SIM118
    card = json.dumps(json.loads(said["card"]) | {"version": 99})
    path.write_bytes(safetensors.numpy.save(arrays, metadata={"card": card}))


@pytest.mark.parametrize(
    ("part", "harm", "read"),
    [
        ("run/run.json", lambda path: rewrite(path, format=99), lambda path: open_result(path.parent)),
        ("run/classes.json", lambda path: rewrite(path, version=99), lambda path: open_result(path.parent)),
        ("run/diagnostics.json", lambda path: rewrite(path, version=99), lambda path: Diagnostics.read(path.parent)),
        ("run/model/scaling.json", lambda path: rewrite(path, version=99), lambda path: find_model(path.parent)),
        ("run/signatures.safetensors", retag, lambda path: read_catalogue(path.parent)),
        (
            "run/labels.zarr",
            lambda path: zarr.open_group(path, mode="r+").attrs.update(ktextures_format=99),
            lambda path: open_result(path.parent).labels,
        ),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_later_version_is_refused_in_one_line(
    golden: Path, part: str, harm: Callable[[Path], object], read: Callable[[Path], object]
) -> None:
    read(golden / part)
    harm(golden / part)
    with pytest.raises(InputError, match=r"is of format version 99; this ktextures reads up to \d+; use a later one"):
        read(golden / part)
