"""Runs made of runs: cleaned maps, and the change between two."""

from __future__ import annotations

import csv
import json
import re
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio

from flows.cli import main
from pipeline.blocks import BlockGrid
from pipeline.change import compare
from pipeline.cleanup import CleanUp
from pipeline.derived import clean, mmu_of_area
from pipeline.errors import InputError
from pipeline.legend import Legend, LegendMerge
from pipeline.metrics import seams
from pipeline.report import shows_pixels
from pipeline.results import open_result
from tests.pipeline.made_run import make_run
from tests.pipeline.published import UTM, publish
from tests.pipeline.test_cleanup import slow_sieve, slow_smooth

pytestmark = pytest.mark.filterwarnings("ignore:Use `@` matmul:PendingDeprecationWarning")


def patchy(seed: int = 0) -> Any:
    rng = np.random.default_rng(seed)
    coarse = np.kron(rng.integers(0, 3, (6, 5)), np.ones((12, 12), int)).astype(np.uint8)
    noisy = np.where(rng.random(coarse.shape) < 0.15, rng.integers(0, 4, coarse.shape), coarse).astype(np.uint8)
    noisy[20:30, 5:15] = 255
    return noisy


@pytest.mark.parametrize("block_px", [32, 1000])
def test_a_cleaned_map_is_a_run_of_its_own(tmp_path: Path, block_px: int) -> None:
    labels = patchy()
    run = publish(tmp_path / "run", labels, names={1: "soil"})
    before = {path: path.read_bytes() for path in run.rglob("*") if path.is_file()}
    cleaned = clean(open_result(run), tmp_path / "clean", CleanUp(mmu_px=9, majority_px=3), block_px=block_px)
    assert {path: path.read_bytes() for path in run.rglob("*") if path.is_file()} == before

    expected = slow_smooth(labels, 3)
    while (again := slow_sieve(expected, 9)).tobytes() != expected.tobytes():
        expected = again
    found = cleaned.labels.to_numpy()
    np.testing.assert_array_equal(found, expected)
    assert (found != labels).any()
    confidence = cleaned.confidence.to_numpy()
    assert (confidence[found != labels] == 0).all()
    np.testing.assert_array_equal(confidence[found == labels], open_result(run).confidence.to_numpy()[found == labels])
    assert {each.id: each.pixels for each in cleaned.legend.classes} == Counter(found[found != 255].tolist())
    assert cleaned.legend[1].name == "soil"
    assert cleaned.record.settings["mmu_px"] == 9
    assert (cleaned.record.vocabulary, cleaned.record.key != "run") == ("model a", True)
    with rasterio.open(tmp_path / "clean" / "labels.tif") as cog:
        np.testing.assert_array_equal(cog.read(1), expected)
    assert sorted(each.name for each in tmp_path.iterdir()) == ["clean", "run"]
    assert json.loads((tmp_path / "clean" / "item.json").read_text())["id"] == "clean"


def test_a_cleaned_map_is_worked_on_like_any_run(tmp_path: Path) -> None:
    run, cleaned = make_run(tmp_path).path, tmp_path / "clean"
    assert main(["clean", str(run), "--out", str(cleaned), "--mmu-px", "30", "--majority-px", "3"]) == 0
    page = (cleaned / "report.html").read_text("utf-8")
    assert "cleaned: majority of 3 \N{MULTIPLICATION SIGN} 3 px, patches from 30 px" in page
    assert re.search("<h1[^>]*>clean</h1>", page)
    assert "patch at row" in page
    item = json.loads((cleaned / "item.json").read_text())
    assert (item["id"], "report" in item["assets"], "quicklook" in item["assets"]) == ("clean", True, True)
    labels, record = open_result(cleaned).labels.to_numpy(), open_result(cleaned).record
    found = seams(lambda window: labels[window.slices], BlockGrid(labels.shape, 128, overlap_px=8))
    assert record.metrics is not None
    assert (record.metrics.seam_change_rate, record.metrics.seam_excess) == (found.seam_change_rate, found.seam_excess)

    assert main(["change", str(run), str(cleaned), "--out", str(tmp_path / "change")]) == 0
    assert main(["classes", "name", str(cleaned), "0", "Water", "--color", "2166ac"]) == 0
    assert main(["classes", "merge", str(cleaned), "3", "1"]) == 0
    assert open_result(cleaned).legend.ids == [0, 1, 2]
    assert "Water" in (cleaned / "report.html").read_text("utf-8")
    (tmp_path / "classes.yaml").write_text("classes: {water: 0, land: [1, 2]}")
    command = ["samples", str(cleaned), "--classes", str(tmp_path / "classes.yaml"), "--to", str(tmp_path / "samples")]
    assert main([*command, "--chip-px", "32", "--place-px", "100"]) == 0
    assert main(["clean", str(cleaned), "--out", str(tmp_path / "again"), "--mmu-px", "40"]) == 0


def test_pixels_that_were_left_out_of_a_report_are_left_out_of_the_cleaned_ones(tmp_path: Path) -> None:
    run = make_run(tmp_path).path
    assert main(["report", str(run), "--no-pixels"]) == 0
    assert main(["clean", str(run), "--out", str(tmp_path / "clean"), "--mmu-px", "30"]) == 0
    assert not shows_pixels(tmp_path / "clean" / "report.html")


def test_a_minimum_mapping_unit_may_be_an_area(tmp_path: Path) -> None:
    result = open_result(publish(tmp_path / "run", patchy()))
    assert [mmu_of_area(result, area) for area in (0, 25, 26, 250)] == [1, 1, 2, 10]
    plain = open_result(publish(tmp_path / "plain", patchy(), crs=None))
    with pytest.raises(InputError, match="has no CRS, so its pixels have no area; give --mmu-px"):
        mmu_of_area(plain, 100)


def test_change_is_what_became_of_each_pixel(tmp_path: Path) -> None:
    one, other = patchy(1), patchy(2)
    other[0, :7] = 255
    before = open_result(publish(tmp_path / "a", one, names={0: "forest", 1: "soil"}))
    after = open_result(publish(tmp_path / "b", other, names={0: "forest", 1: "bare soil"}))
    table = compare(before, after, tmp_path / "change", work_px=32)
    valid = (one != 255) & (other != 255)
    expected = Counter(zip(one[valid].tolist(), other[valid].tolist(), strict=True))
    found = {(i, j): int(table.pixels[y, x]) for y, i in enumerate(table.classes) for x, j in enumerate(table.classes)}
    assert {pair: count for pair, count in found.items() if count} == expected
    assert table.areas_m2 is not None
    # UTM on its middle meridian shows lengths 0.04 % too short.
    np.testing.assert_allclose(table.areas_m2, table.pixels * 25 / 0.9996**2, rtol=1e-4)

    with rasterio.open(tmp_path / "change" / "change.tif") as cog:
        assert (cog.dtypes, cog.nodata, cog.transform) == (("uint16",), 65535, UTM)
        np.testing.assert_array_equal(cog.read(1), np.where(valid, one.astype(int) * 256 + other, 65535))
    with (tmp_path / "change" / "transitions.csv").open(encoding="utf-8") as file:
        rows = {(int(row["from"]), int(row["to"])): row for row in csv.DictReader(file)}
    assert {pair: int(row["pixels"]) for pair, row in rows.items()} == expected
    assert (rows[0, 1]["from_name"], rows[0, 1]["to_name"]) == ("forest", "bare soil")
    told = json.loads((tmp_path / "change" / "change.json").read_text())
    changed = sum(count for (i, j), count in expected.items() if i != j)
    assert told["share_changed"] == pytest.approx(changed / valid.sum())
    assert told["classes"][0]["pixels_lost"] == sum(n for (i, j), n in expected.items() if i == 0 != j)
    assert told["classes"][0]["pixels_gained"] == sum(n for (i, j), n in expected.items() if j == 0 != i)
    style = (tmp_path / "change" / "change.qml").read_text()
    assert 'value="1" ' in style
    assert 'label="forest to bare soil"' in style
    assert sorted(each.name for each in tmp_path.iterdir()) == ["a", "b", "change"]


def test_change_of_wide_labels_is_that_of_narrow_ones(tmp_path: Path) -> None:
    wide = np.arange(256).astype(np.uint16) * 200  # ids up to 50,800
    wide[255] = 65535
    narrow = [np.kron(patchy(seed), np.ones((12, 12), np.uint8)) for seed in (1, 2)]
    narrow[1][:7] = 255
    runs = [open_result(publish(tmp_path / f"n{i}", labels, chunk_px=512)) for i, labels in enumerate(narrow)]
    table = compare(*runs, tmp_path / "narrow")
    runs = [
        open_result(publish(tmp_path / f"w{i}", wide[labels], chunk_px=512, dtype="uint16"))
        for i, labels in enumerate(narrow)
    ]
    found = compare(*runs, tmp_path / "wide")
    assert found.classes == wide[table.classes].tolist()
    np.testing.assert_array_equal(found.pixels, table.pixels)
    assert found.areas_m2 is not None
    np.testing.assert_array_equal(found.areas_m2, table.areas_m2)
    pairs = [(wide[labels].astype(np.uint32), labels == 255) for labels in narrow]
    expected = np.where(pairs[0][1] | pairs[1][1], 2**32 - 1, pairs[0][0] * 65536 + pairs[1][0])
    with (
        rasterio.open(tmp_path / "wide" / "change.tif") as cog,
        rasterio.open(tmp_path / "narrow" / "change.tif") as plain,
    ):
        assert (cog.dtypes, cog.nodata) == (("uint32",), 2**32 - 1)
        np.testing.assert_array_equal(cog.read(1), expected)
        assert cog.overviews(1) == plain.overviews(1) != []
    with (
        rasterio.open(tmp_path / "wide" / "change.tif", overview_level=0) as cog,
        rasterio.open(tmp_path / "narrow" / "change.tif", overview_level=0) as plain,
    ):
        codes = plain.read(1)
        one, other = wide[codes // 256].astype(np.uint32), wide[codes % 256].astype(np.uint32)
        np.testing.assert_array_equal(cog.read(1), np.where(codes == 65535, 2**32 - 1, one * 65536 + other))
    low, high = found.classes[:2]
    assert f'value="{low * 65536 + high}"' in (tmp_path / "wide" / "change.qml").read_text()


def test_a_merge_is_no_change(tmp_path: Path) -> None:
    one = np.array([[0, 1, 2, 2]], np.uint8)
    before = open_result(publish(tmp_path / "a", one))
    publish(tmp_path / "b", np.array([[0, 1, 1, 0]], np.uint8))
    path = tmp_path / "b" / "classes.json"
    legend = Legend.from_json(path)
    Legend(legend.classes, merges=(LegendMerge(2, 1, "2021-01-01"),)).to_json(path)
    table = compare(before, open_result(tmp_path / "b"), tmp_path / "change")
    assert table.classes == [0, 1]
    assert table.pixels.tolist() == [[1, 0], [1, 2]]


def test_maps_that_cannot_be_compared(tmp_path: Path) -> None:
    one = open_result(publish(tmp_path / "a", patchy()))
    for index, (options, message) in enumerate(
        [
            ({"crs": "EPSG:32619"}, "is on another grid than .*EPSG:32619; expected .*EPSG:32618"),
            ({"vocabulary": "model b"}, r"ids mean other classes .*\(model b; expected model a\)"),
            ({"vocabulary": None}, r"\(its own; expected model a\); make both with one --model or one --catalogue"),
            ({"vocabulary": "run a"}, r"\(run a; expected model a\)"),
        ]
    ):
        other = open_result(publish(tmp_path / f"b{index}", patchy(), **options))  # type: ignore[arg-type]
        with pytest.raises(InputError, match=message):
            compare(one, other, tmp_path / "change")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "file").write_text("")
    with pytest.raises(InputError, match="is there already; give a new directory"):
        compare(one, one, tmp_path / "full")
    assert not (tmp_path / "change").exists()


def test_commands(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = publish(tmp_path / "run", patchy())
    assert main(["clean", str(run), "--out", str(tmp_path / "clean"), "--mmu-m2", "100"]) == 0
    assert main(["change", str(run), str(tmp_path / "clean"), "--out", str(tmp_path / "change")]) == 0
    to = tmp_path / "clean" / "polygons.gpkg"
    assert main(["polygons", str(tmp_path / "clean"), "--to", str(to)]) == 0
    said = capsys.readouterr()
    assert "pixels changed (" in said.out
    assert f"polygons in {to}" in said.out
    assert [line.split(": ")[0] for line in said.err.splitlines() if "1/1" in line] == [
        "Sieving, pass 1", "Sieving, pass 2", "Writing labels", "Comparing blocks", "Tracing blocks"
    ]  # fmt: skip
    assert "polygons" in json.loads((tmp_path / "clean" / "item.json").read_text())["assets"]
    assert main(["clean", str(run), "--out", str(tmp_path / "two"), "--mmu-m2", "9", "--mmu-px", "2"]) == 2
    assert main(["clean", str(run), "--out", str(tmp_path / "two")]) == 2
    assert main(["clean", str(tmp_path / "absent"), "--out", str(tmp_path / "two"), "--mmu-px", "2"]) == 2
    told = capsys.readouterr().err.splitlines()
    assert [line for line in told if not line.startswith("ktex: ")] == []
    assert "give one of them" in told[0]
    assert not (tmp_path / "two").exists()
