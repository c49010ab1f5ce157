"""The legend: stable colours, CF words, and a file that is checked when read."""

from __future__ import annotations

import hashlib
import json
import re
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.errors import InputError
from pipeline.legend import OKABE_ITO, Legend, LegendClass, colour_of, token

LEGEND = Legend.from_counts(
    {0: 10, 7: 30, 254: 0}, names={7: "water é"}, signatures={7: (0.5, -1.0)}, spectra={0: (100.0, 2.5)}
)


def test_palette_never_changes() -> None:
    colours = [colour_of(i) for i in range(255)]
    assert tuple(colours[:8]) == OKABE_ITO
    assert len(set(colours)) == 255
    digest = hashlib.sha256(" ".join(colours).encode()).hexdigest()
    assert digest == "50e8574ce2f654ae6f94494db5f2f5600723f3989184c912aa5826b573271357", (
        "old maps would change their colours"
    )


def test_neighbouring_ids_are_far_apart() -> None:
    rgb = np.array([list(bytes.fromhex(colour_of(i)[1:])) for i in range(40)], float)
    apart = np.abs(rgb[:, None] - rgb[None]).max(axis=2) + 999 * np.eye(40)
    assert apart.min() >= 40  # of 255, in some channel


def test_every_id_of_uint16_has_a_colour_of_its_own() -> None:
    colours = {colour_of(i) for i in range(65535)}
    assert len(colours) == 65535
    assert all(re.fullmatch("#[0-9A-F]{6}", colour) for colour in colours)


@pytest.mark.parametrize("class_id", [-1, 65535])
def test_colour_of_refuses_other_ids(class_id: int) -> None:
    with pytest.raises(ValueError, match="must be 0"):
        colour_of(class_id)


def test_defaults() -> None:
    each = LegendClass(3)
    assert (each.name, each.colour, LegendClass(3, colour="#aabbcc").colour) == ("class 3", colour_of(3), "#AABBCC")
    assert LEGEND.colour_of(7) == colour_of(7)
    assert Legend((LegendClass(7, colour="#010203"),)).colour_of(7) == "#010203"
    assert LEGEND[7].name == "water é"
    with pytest.raises(KeyError, match="6"):
        LEGEND[6]


def test_rgba_is_transparent_where_no_class_is() -> None:
    table = Legend((LegendClass(2, colour="#0102FF"),)).rgba()
    assert table.shape == (256, 4)
    assert table.dtype == np.uint8
    assert table[2].tolist() == [1, 2, 255, 255]
    assert not np.delete(table, 2, axis=0).any()
    wide = Legend((LegendClass(300, colour="#0102FF"),)).rgba("uint16")
    assert (wide.shape, wide[300].tolist()) == ((65536, 4), [1, 2, 255, 255])
    assert not np.delete(wide, 300, axis=0).any()


@settings(deadline=None, max_examples=100)
@given(st.lists(st.text(st.characters(exclude_categories=["C", "Z"]), max_size=6), min_size=1, max_size=8))
def test_tokens_are_different_cf_words(names: list[str]) -> None:
    tokens = Legend(tuple(LegendClass(i, name) for i, name in enumerate(names))).tokens
    assert len(set(tokens)) == len(names)
    assert all(re.fullmatch(r"[A-Za-z0-9_.+@-]+", word) for word in tokens)


def test_tokens_of_names_that_meet() -> None:
    names = ["a b", "a_b_2", "a_b", "a_b_2_2"]
    tokens = Legend(tuple(LegendClass(i, name) for i, name in enumerate(names))).tokens
    assert len(set(tokens)) == 4
    assert token("") == ""


def test_json_round_trip(tmp_path: Path) -> None:
    LEGEND.to_json(tmp_path / "classes.json")
    assert Legend.from_json(tmp_path / "classes.json") == LEGEND
    assert [each.name for each in tmp_path.iterdir()] == ["classes.json"]


def test_shares_are_of_the_valid_pixels() -> None:
    assert [each.share for each in LEGEND.classes] == [0.25, 0.75, 0.0]
    assert Legend.from_counts({1: 0}).classes[0].share == 0
    assert len(Legend.from_counts({})) == 0


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"format": "x"}, "not a legend"),
        ({"version": 2}, "is of format version 2"),
        ({"more": 1}, "unknown keys"),
        ({"classes": None}, "classes"),
        ({"classes": [{"id": 1, "hue": 3}]}, "classes.0.hue"),
        ({"classes": [{"id": "1"}]}, "classes.0.id"),
        ({"classes": [{"id": 65535}]}, "class id must be 0..65534"),
        ({"classes": [{"id": 2}, {"id": 1}]}, "must rise"),
        ({"classes": [{"id": 1, "colour": "red"}]}, "must be #RRGGBB"),
        ({"classes": [{"id": 1, "share": 2.0}]}, "share of 0..1"),
        ({"classes": [{"id": 1, "name": "a\nb"}]}, "one printable line"),
    ],
)
def test_reading_refuses(tmp_path: Path, change: dict[str, object], message: str) -> None:
    path = tmp_path / "classes.json"
    path.write_text(json.dumps({"format": "ktextures-classes", "version": 1, "classes": []} | change))
    with pytest.raises(InputError, match=re.escape(message)) as caught:
        Legend.from_json(path)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_reading_needs_a_json_file(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no legend can be read"):
        Legend.from_json(tmp_path / "classes.json")
    (tmp_path / "classes.json").write_text("{")
    with pytest.raises(InputError, match="not JSON"):
        Legend.from_json(tmp_path / "classes.json")


def test_numbers_must_be_finite() -> None:
    with pytest.raises(ValueError, match="must be finite"):
        LegendClass(0, spectrum=(float("nan"),))
