"""Sources list what is there and complete, and fetch it whole or not at all: folders, buckets, deliveries."""

from __future__ import annotations

import hashlib
import json
import os
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from pipeline.acquisitions import Asset, DeliveryError, SourceError
from pipeline.acquisitions.bucket import BucketSource
from pipeline.acquisitions.deliveries import Entry, Listed, group_deliveries, parse_manifest
from pipeline.acquisitions.fetch import has_copy, keep_copy
from pipeline.acquisitions.folder import FolderSource
from pipeline.acquisitions.values import is_since, local_path

NOW = datetime(2026, 1, 10, tzinfo=UTC)
QUIET = timedelta(minutes=10)


def entry(key: str, age_s: float = 3600, size: int = 7) -> Entry:
    return Entry(key, f"/in/{key}", size, NOW - timedelta(seconds=age_s), f"{size}")


def group(*entries: Entry, manifests: dict[str, Any] | None = None, pattern: str = "*") -> dict[str, Any]:
    found = group_deliveries("s", entries, manifests or {}, now=NOW, quiet=QUIET, pattern=pattern)
    return {each.name: each for each in found}


def test_files_of_one_date_are_one_acquisition_whatever_their_order() -> None:
    files = [entry("2021-03/q2.tif"), entry("2021-03/q1.tif"), entry("x_20210401.tif"), entry("notes.txt")]
    found = group(*files)
    assert {name: [a.name for a in each.assets] for name, each in found.items()} == {
        "2021-03": ["2021-03/q1.tif", "2021-03/q2.tif"],
        "2021-04-01": ["x_20210401.tif"],
    }
    assert group(*files[::-1])["2021-03"].version == found["2021-03"].version


def test_hidden_unfinished_and_other_files_are_not_imagery() -> None:
    names = [".x_20210301.tif", "x_20210301.tif.part", "x_20210301.tif.aux.xml", ".tmp/x_20210301.tif"]
    assert group(*(entry(name) for name in names)) == {}
    assert group(entry("x_20210301.tif"), pattern="*_sr_*.tif") == {}


def test_without_a_manifest_the_youngest_file_decides() -> None:
    assert group(entry("2021-03/a.tif", 601))["2021-03"].waiting is None
    waiting = group(entry("2021-03/a.tif", 601), entry("2021-03/b.tif", 599))["2021-03"].waiting
    assert waiting == "2021-03/b.tif changed 599 s ago; it is taken after 600 s of quiet"


def test_with_a_manifest_it_is_complete_when_all_that_it_names_is_there() -> None:
    manifest = {"files/a_20210301.tif": Listed(7, "ab"), "files/b_20210301.tif": Listed(9, None)}
    a, b = entry("o1/files/a_20210301.tif", 1), entry("o1/files/b_20210301.tif", 1, size=9)
    assert group(a, b, manifests={"o1": manifest})["2021-03-01"].waiting is None, "however young"
    assert (
        "names files/b_20210301.tif, which is not there" in group(a, manifests={"o1": manifest})["2021-03-01"].waiting
    )
    half = entry("o1/files/b_20210301.tif", 1, size=5)
    assert "has 5 of the 9 bytes" in group(a, half, manifests={"o1": manifest})["2021-03-01"].waiting
    assert group(a, b, manifests={"o1": manifest})["2021-03-01"].assets[0].sha256 == "ab"
    broken = DeliveryError("o1/manifest.json: is no delivery manifest")
    assert "no delivery manifest" in group(a, b, manifests={"o1": broken})["2021-03-01"].waiting


@pytest.mark.parametrize("text", ["", "[]", '{"files": 3}', '{"files": [{"size": 1}]}'])
def test_what_is_no_manifest_is_told(text: str) -> None:
    with pytest.raises(DeliveryError, match=r"m.json: is no delivery manifest"):
        parse_manifest(text, "m.json")


def test_dates_before_the_look_back_are_left_alone() -> None:
    assert is_since("2021-03-05", "2021-03-05")
    assert not is_since("2021-03-04", "2021-03-05")
    assert is_since("2021-03", "2021-03-31"), "a month counts to its end"
    assert not is_since("2021-02", "2021-03-01")


# Copies ------------------------------------------------------------------------------------------------------------


def asset_of(content: bytes, **changes: Any) -> Asset:
    said = {"size_bytes": len(content), "sha256": hashlib.sha256(content).hexdigest(), **changes}
    return Asset("q.tif", "s3://b/q.tif", "v1", **said)


def test_a_copy_is_there_whole_and_of_its_version_or_not_at_all(tmp_path: Path) -> None:
    path, content = tmp_path / "copies" / "q.tif", b"0123456789"
    asset = asset_of(content)
    assert not has_copy(path, asset)
    keep_copy(path, asset, [content[:4], content[4:]])
    assert path.read_bytes() == content
    assert has_copy(path, asset)
    newer = Asset("q.tif", asset.href, "v2")
    assert not has_copy(path, newer)
    with pytest.raises(SourceError, match="5 of 10 bytes came"):
        keep_copy(path, asset, [content[:5]])
    with pytest.raises(DeliveryError, match="has the sha256"):
        keep_copy(path, asset, [content[::-1]])

    def break_off() -> Iterator[bytes]:
        yield content[:3]
        raise SourceError("connection lost")

    with pytest.raises(SourceError, match="connection lost"):
        keep_copy(path, asset, break_off())
    assert path.read_bytes() == content, "the copy that was there stays"
    assert sorted(each.name for each in path.parent.iterdir()) == [".q.tif.version", "q.tif"]


def test_a_copy_of_unknown_size_has_to_be_a_whole_geotiff(tmp_path: Path) -> None:
    asset = asset_of(b"", size_bytes=None, sha256=None)
    with pytest.raises(SourceError, match="came damaged"):
        keep_copy(tmp_path / "q.tif", asset, [b"<html>try later</html>"])
    assert list(tmp_path.iterdir()) == []


def test_no_name_leads_out_of_the_folder_of_copies(tmp_path: Path) -> None:
    for name in ("../../etc/passwd", "/etc/passwd", "a/../../b.tif", "..", "a\\..\\b"):
        assert local_path(tmp_path, name).resolve().is_relative_to(tmp_path)


# Folders -----------------------------------------------------------------------------------------------------------


def drop(path: Path, content: bytes, age_s: float = 3600) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    then = time.time() - age_s
    os.utime(path, (then, then))
    return path


def manifest_of(**files: bytes) -> bytes:
    listed = [
        {"path": name, "size": len(content), "digests": {"sha256": hashlib.sha256(content).hexdigest()}}
        for name, content in files.items()
    ]
    return json.dumps({"files": listed}).encode()


def test_a_folder_is_listed_with_its_subfolders_and_read_in_place(tmp_path: Path) -> None:
    source = FolderSource("drop", tmp_path)
    a = drop(tmp_path / "o1" / "a_20210301.tif", b"aaa", age_s=1)
    drop(tmp_path / "o1" / "manifest.json", manifest_of(**{"a_20210301.tif": b"aaa"}))
    drop(tmp_path / "b_20210401.tif", b"b")
    drop(tmp_path / "old_20200101.tif", b"b")
    now = datetime.now(UTC)
    found = {each.name: each for each in source.survey(now, since="2021-01-01")}
    assert found.keys() == {"2021-03-01", "2021-04-01"}
    (asset,) = found["2021-03-01"].assets
    assert source.fetch(asset, tmp_path / "copies") == a
    before = found["2021-03-01"].version
    drop(a, b"xyz", age_s=1)
    (changed,) = [each for each in source.survey(now) if each.name == "2021-03-01"]
    assert changed.version != before
    with pytest.raises(DeliveryError, match="its manifest says"):
        source.fetch(changed.assets[0], tmp_path / "copies")
    a.unlink()
    with pytest.raises(SourceError, match="cannot be read"):
        source.fetch(changed.assets[0], tmp_path / "copies")


def test_a_folder_that_is_not_there_is_told(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match="is no folder; check the path"):
        FolderSource("drop", tmp_path / "none").survey(NOW)


def test_a_manifest_that_is_no_text_holds_its_delivery_back(tmp_path: Path) -> None:
    drop(tmp_path / "a_20210301.tif", b"a")
    drop(tmp_path / "manifest.json", b"\xff\xfe\x00")
    (found,) = FolderSource("drop", tmp_path).survey(datetime.now(UTC))
    assert "is not UTF-8" in str(found.waiting)


# Buckets -----------------------------------------------------------------------------------------------------------


@pytest.fixture
def bucket(monkeypatch: pytest.MonkeyPatch) -> Iterator[SimpleNamespace]:
    """A bucket on an S3 server of the tests' own."""
    import obstore
    import requests
    from moto.server import ThreadedMotoServer

    server = ThreadedMotoServer("127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    for name, value in {"AWS_ACCESS_KEY_ID": "test", "AWS_SECRET_ACCESS_KEY": "test-secret"}.items():
        monkeypatch.setenv(name, value)
    endpoint = f"http://{host}:{port}"
    requests.put(f"{endpoint}/deliveries", timeout=10).raise_for_status()

    options = {"endpoint": endpoint, "region": "us-east-1"}
    store = obstore.store.from_url("s3://deliveries", config=options, client_options={"allow_http": True})

    def put(key: str, content: bytes) -> None:
        obstore.put(store, key, content)

    try:
        yield SimpleNamespace(url="s3://deliveries/orders", options=options, put=put, server=server)
    finally:
        server.stop()


@pytest.mark.e2e
def test_a_bucket_is_listed_and_copied(bucket: SimpleNamespace, tmp_path: Path) -> None:
    source = BucketSource("orders", bucket.url, quiet=QUIET, options=bucket.options)
    bucket.put("elsewhere/c_20210301.tif", b"c")
    bucket.put("orders/o1/a_20210301.tif", b"aaa")
    (found,) = source.survey(datetime.now(UTC))
    assert "it is taken after 600 s of quiet" in str(found.waiting)
    bucket.put("orders/o1/manifest.json", manifest_of(**{"a_20210301.tif": b"aaa", "b_20210301.tif": b"bb"}))
    (found,) = source.survey(datetime.now(UTC))
    assert "names b_20210301.tif, which is not there yet" in str(found.waiting)
    bucket.put("orders/o1/b_20210301.tif", b"bb")
    (found,) = source.survey(datetime.now(UTC))
    assert found.waiting is None
    paths = [source.fetch(asset, tmp_path) for asset in found.assets]
    assert [path.read_bytes() for path in paths] == [b"aaa", b"bb"]
    assert [path.relative_to(tmp_path).as_posix() for path in paths] == ["o1/a_20210301.tif", "o1/b_20210301.tif"]

    bucket.put("orders/o1/b_20210301.tif", b"xx")
    (changed,) = source.survey(datetime.now(UTC))
    assert changed.version != found.version, "the ETag tells, though the size is the same"
    assert source.fetch(changed.assets[0], tmp_path) == paths[0]
    with pytest.raises(DeliveryError, match="its listing says"):
        source.fetch(changed.assets[1], tmp_path)
    assert paths[1].read_bytes() == b"bb"
    with pytest.raises(SourceError, match="cannot be fetched"):
        source.fetch(Asset("o1/none.tif", "s3://deliveries/orders/o1/none.tif", "1"), tmp_path)


@pytest.mark.e2e
def test_a_bucket_that_is_not_there_is_told(bucket: SimpleNamespace) -> None:
    source = BucketSource("orders", "s3://nobody", options=bucket.options)
    with pytest.raises(SourceError, match="cannot be listed") as caught:
        source.survey(NOW)
    assert "test-secret" not in str(caught.value)
