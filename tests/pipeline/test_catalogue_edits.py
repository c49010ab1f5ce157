"""Names, colours and merges: what holds for any legend, and what a file of edits may say."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.catalogue.edits import apply_edits, follow, merge_classes, name_class, read_edits
from pipeline.catalogue.export import export, to_csv
from pipeline.errors import InputError
from pipeline.legend import Legend, LegendClass, LegendMerge

AT = "2021-03-01T00:00:00+00:00"
LEGEND = Legend.from_counts({0: 10, 3: 30, 7: 60}, names={3: "meadow"}, spectra={0: (1.0, 2.0), 3: (5.0, 2.0)})


@settings(deadline=None, max_examples=40)
@given(st.lists(st.tuples(st.integers(0, 9), st.integers(0, 9)), max_size=9))
def test_merges_lose_no_pixel_and_reuse_no_id(pairs: list[tuple[int, int]]) -> None:
    legend = Legend.from_counts({i: 10**i for i in range(10)})
    labels = np.arange(10)
    for gone, into in pairs:
        if gone == into or {gone, into} - set(legend.ids):
            with pytest.raises(InputError, match=r"itself|since a merge"):
                merge_classes(legend, [gone], into, AT)
            continue
        legend = merge_classes(legend, [gone], into, AT)
        labels[labels == gone] = into
    assert [legend.current(i) for i in range(10)] == labels.tolist()
    expected = {int(i): sum(10**j for j in range(10) if labels[j] == i) for i in np.unique(labels)}
    assert {each.id: each.pixels for each in legend.classes} == expected
    assert legend.next_id == 10


def test_a_merge_keeps_the_name_and_averages_spectra_by_pixels() -> None:
    legend = merge_classes(LEGEND, [0], 3, AT)
    assert (legend[3].name, legend[3].pixels, legend[3].share, legend[3].parents) == ("meadow", 40, 0.4, (0,))
    assert legend[3].spectrum == (4.0, 2.0)
    assert legend.merges == (LegendMerge(0, 3, AT, "class 0"),)


def test_a_class_may_become_part_of_one_that_is_only_known() -> None:
    legend = merge_classes(Legend((LegendClass(2, pixels=5),), known=(LegendClass(1, "Forest"),)), [2], 1, AT)
    assert [(each.id, each.name, each.pixels) for each in legend.classes] == [(1, "Forest", 5)]
    assert legend.known == ()


def test_a_run_follows_its_catalogue() -> None:
    run = Legend.from_counts({0: 10, 2: 5})
    catalogue = Legend.from_counts({0: 1, 1: 1, 2: 1, 4: 1})
    catalogue = merge_classes(name_class(catalogue, 4, "Water", "#0000FF"), [2, 1], 4, AT)
    found = follow(run, catalogue)
    assert [(each.id, each.name, each.colour, each.pixels) for each in found.classes] == [
        (0, "class 0", run[0].colour, 10),
        (4, "Water", "#0000FF", 5),
    ]
    assert found.current(2) == 4
    assert follow(found, catalogue) == found
    assert found.next_id == 5


def test_a_run_merged_the_other_way_round_by_itself_is_told_apart_from_its_catalogue() -> None:
    both = Legend.from_counts({5: 10, 6: 20, 7: 1})
    with pytest.raises(
        InputError, match="class 6 was made part of 5 in this run alone, and 5 part of 6 in its catalogue"
    ):
        follow(merge_classes(both, [6], 5, AT), merge_classes(both, [5], 6, AT))
    same = merge_classes(both, [6], 5, AT)
    assert follow(same, same) == same


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda: name_class(LEGEND, 5, "x"), "there is no class 5; there are 0, 3, 7"),
        (lambda: name_class(LEGEND, 3, "two\nlines"), "one printable line"),
        (lambda: name_class(LEGEND, 3, None, "red"), "must be #RRGGBB"),
        (lambda: name_class(LEGEND, 3, "  "), "name of class 3 must have a character that shows; got '  '"),
        (lambda: name_class(LEGEND, 3, ""), "must have a character that shows"),
        (lambda: merge_classes(LEGEND, [0, 0], 3, AT), "class 0 is named twice"),
        (lambda: name_class(LEGEND, 0, "meadow"), "class 3 is called 'meadow' already"),
        (lambda: merge_classes(merge_classes(LEGEND, [0], 3, AT), [0], 7, AT), "class 0 is part of class 3 since"),
    ],
)
def test_what_cannot_be_done_is_said(change: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        change()


def edits(*entries: dict[str, Any], **changes: Any) -> dict[str, Any]:
    return {"format": "ktextures-class-edits", "version": 1, "edits": list(entries)} | changes


def write(path: Path, content: Any) -> Path:
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    return path


def test_edits_name_first_and_then_merge_wherever_they_stand(tmp_path: Path) -> None:
    said = edits(
        {"id": 7, "merge_into": 3}, {"id": 0, "merge_into": 7}, {"id": 3, "name": "Forest", "color": "#1b7837"}
    )
    found = apply_edits(LEGEND, read_edits(write(tmp_path / "edits.json", said)), AT)
    assert [(each.id, each.name, each.colour, each.pixels) for each in found.classes] == [(3, "Forest", "#1B7837", 100)]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "is not JSON"),
        ("[]", "must be one object; expected"),
        (edits({"id": 3, "name": " "}), "edits.0.name: .*at least 1 character"),
        (edits(version=2), "version: .*expected"),
        (edits(format="other"), "format: "),
        (edits(other=1), "other: Extra inputs"),
        (edits({"id": 3}), "edits.0: class 3 is to get a name"),
        (edits({"id": "3", "name": "x"}), "edits.0.id: .*integer"),
        (edits({"id": True, "name": "x"}), "edits.0.id: .*integer"),
        (edits({"id": 65535, "name": "x"}), "edits.0.id: .*less than 65535"),
        (edits({"id": 3, "name": "x", "merge_into": 0}), "merged away"),
        (edits({"id": 3, "color": "#12345"}), "edits.0.color"),
        (edits({"id": 3, "name": "x", "pixels": 3}), "pixels: Extra"),
        ('{"format": "ktextures-class-edits", "version": 1, "edits": [' + " " * (1 << 20) + "]}", "larger than"),
    ],
)
def test_a_file_of_edits_says_nothing_else(tmp_path: Path, content: Any, message: str) -> None:
    with pytest.raises(InputError, match=message) as caught:
        read_edits(write(tmp_path / "edits.json", content))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("entries", "message"),
    [
        ([{"id": 3, "name": "a"}, {"id": 3, "name": "b"}], "class 3 has two entries with name"),
        ([{"id": 3, "merge_into": 0}, {"id": 0, "merge_into": 3}], r"in a circle \(3 into 0 into 3\)"),
        ([{"id": 3, "merge_into": 3}], "itself"),
        ([{"id": 4, "name": "a"}], "there is no class 4"),
    ],
)
def test_edits_that_contradict_each_other_change_nothing(
    tmp_path: Path, entries: list[dict[str, Any]], message: str
) -> None:
    with pytest.raises(InputError, match=message):
        apply_edits(LEGEND, read_edits(write(tmp_path / "edits.json", edits(*entries))), AT)


def test_a_missing_file_of_edits_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"edits.json: cannot be read \(No such file"):
        read_edits(tmp_path / "edits.json")


def test_exports_hold_every_class_known_ones_too() -> None:
    legend = Legend(LEGEND.classes, known=(LegendClass(5, "=cmd", "#010203"),))
    assert 'value="5" color="#010203"' in export(legend, "qml")
    assert "5 1 2 3 255\n" in export(legend, "gdal")
    assert [each["id"] for each in json.loads(export(legend, "json"))] == [0, 3, 5, 7]
    rows = list(csv.DictReader(io.StringIO(to_csv(Legend(legend.everything)))))
    assert [(row["id"], row["name"]) for row in rows][2] == ("5", "'=cmd")
    assert export(legend, "csv") == to_csv(Legend(legend.everything))


def test_a_legend_refuses_a_history_that_cannot_be() -> None:
    with pytest.raises(ValueError, match="merges must join"):
        Legend((LegendClass(0), LegendClass(1)), merges=(LegendMerge(0, 1, AT),))
    with pytest.raises(ValueError, match="other classes"):
        Legend((LegendClass(0),), known=(LegendClass(0),))
    with pytest.raises(ValueError, match="beside the legend"):
        Legend((), signatures="../etc/passwd")
