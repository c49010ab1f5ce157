"""The configuration of a series: what is wrong in it is named, and where its paths count from."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from pipeline.errors import InputError
from pipeline.watch import WatchConfig
from tests.pipeline.watch.watched import make_config

PLANET = {"kind": "planet", "name": "p", "series": "s"}


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"colour": "red"}, "unknown key 'colour'"),
        ({"sources": []}, "sources: .*at least 1"),
        ({"settings": {"kk": 3}}, "unknown setting 'kk'"),
        ({"settings": {"date": "2010"}}, "date is set for each acquisition"),
        ({"ledger": "mysql://db/x"}, "mysql is not supported"),
        ({"ids": "model", "settings": {"mode": "local"}}, "needs settings of mode global"),
        ({"sources": [{"kind": "tape", "name": "x"}]}, "'tape'"),
        (
            {"sources": [{"kind": "bucket", "name": "b", "url": "s3://b", "options": {"secret_access_key": "x"}}]},
            "credentials come from the environment",
        ),
        ({"sources": [{"kind": "folder", "name": "a", "path": "x"}] * 2}, "different names"),
        ({"sources": [{"name": "a", "path": "x"}]}, r"sources.0: needs a kind: folder, bucket, stac or planet; see"),
        ({"sources": ["incoming"]}, r"sources.0: must be a mapping of 'name: value'; see"),
        ({"sources": {"kind": "folder"}}, "sources: must be a list"),
        ({"sources": [{"kind": "folder", "name": "a"}]}, "sources.0.folder.path: is missing"),
        ({"sources": [PLANET | {"bbox": [10, 20, 30, 5]}]}, r"bbox: must be \[west, south, east, north\] in degrees"),
        ({"sources": [PLANET | {"bbox": [10, 20]}]}, r"bbox.2: is missing; .*bbox.3: is missing; see"),
        ({"name": 2021}, "name: must be text; a number or a date needs quotes"),
        ({"name": None}, "name: is missing"),
        ({"settings": {"bands": "nonsense"}}, "the setting bands 'nonsense': 'nonsense' is not understood"),
        ({"settings": {"mask": "none.tif"}}, "settings: mask: must be a file; found none at .*/none.tif"),
        ({"settings": {"model": "none", "mode": "global"}}, "settings: model: must be a run directory"),
        ({"like": "none.tif"}, "like: must be a file"),
        ({"out": "watch.yaml"}, "out: must be a folder"),
    ],
)
def test_a_wrong_configuration_is_one_line_that_names_the_file(
    tmp_path: Path, changes: dict[str, Any], said: str
) -> None:
    values = {"name": "nd", "out": "out", "sources": [{"kind": "folder", "name": "d", "path": "drop"}]} | changes
    path = tmp_path / "watch.yaml"
    path.write_text(json.dumps(values), encoding="utf-8")
    with pytest.raises(InputError, match=said) as caught:
        WatchConfig.read(path)
    assert str(caught.value).startswith(str(path))
    assert "\n" not in str(caught.value)


def test_paths_of_a_configuration_count_from_its_file(tmp_path: Path) -> None:
    path = tmp_path / "watch.yaml"
    path.write_text(
        "name: nd\nout: maps\nsources: [{kind: folder, name: d, path: drop}, {kind: stac, name: s, url: cat.json}]\n",
        encoding="utf-8",
    )
    config = WatchConfig.read(path)
    assert config.out == tmp_path / "maps"
    assert config.sources[0].path == tmp_path / "drop"
    assert config.sources[1].url == str(tmp_path / "cat.json")
    assert config.ledger_address == f"sqlite:///{tmp_path}/maps/ledger.db"
    text = path.read_text()
    for given, found in {
        "sqlite:///l.db": f"sqlite:///{tmp_path}/l.db",
        "sqlite:////x/l.db": "sqlite:////x/l.db",
    }.items():
        path.write_text(f"{text}settings:\nledger: {given}\n", encoding="utf-8")
        assert WatchConfig.read(path).ledger_address == found
    path.write_text("- a\n", encoding="utf-8")
    with pytest.raises(InputError, match="must be a mapping"):
        WatchConfig.read(path)
    with pytest.raises(InputError, match="cannot be read as YAML"):
        WatchConfig.read(tmp_path / "none.yaml")


def test_a_release_with_another_setting_makes_nothing_due(tmp_path: Path) -> None:
    one = make_config(tmp_path)
    assert one.settings_digest() == make_config(tmp_path).settings_digest()
    assert one.settings_digest() == make_config(tmp_path, settings=one.settings | {"workers": 3}).settings_digest()
    assert one.settings_digest() != make_config(tmp_path, settings=one.settings | {"k": 5}).settings_digest()
