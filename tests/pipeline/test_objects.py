"""Sources and results in a real S3-compatible store on this machine; local and remote give the same map."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import boto3
import numpy as np
import pytest
from moto.server import ThreadedMotoServer
from safetensors.numpy import load_file

from ktex_model.texture import TextureConfig
from pipeline import InputError, RunFailedError, Settings, objects, segment
from pipeline.pixels import fingerprint_file
from pipeline.sources import list_rasters
from pipeline.target import Target, open_target
from tests.pipeline import grey_model
from tests.pipeline.rasters import GRID, shift, write_raster
from tests.pipeline.test_resume import SIDE, SMALL, grey
from tests.pipeline.test_run import content

pytestmark = [
    pytest.mark.e2e,
    pytest.mark.filterwarnings("ignore::DeprecationWarning:botocore.*", "ignore::DeprecationWarning:moto.*"),
]

BUCKET = "imagery"
SECRET = "wJalrXUtnFEMIkepthidden"


@pytest.fixture(scope="module")
def endpoint() -> Iterator[str]:
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    yield f"http://{host}:{port}"
    server.stop()


@pytest.fixture
def bucket(endpoint: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Any]:
    for name, value in {
        "AWS_ENDPOINT_URL": endpoint,
        "AWS_ACCESS_KEY_ID": "AKIAEXAMPLE",
        "AWS_SECRET_ACCESS_KEY": SECRET,
        "AWS_REGION": "us-east-1",
        "AWS_DEFAULT_REGION": "us-east-1",
        "KTEX_WORK": str(tmp_path / "work"),
    }.items():
        monkeypatch.setenv(name, value)
    for name in ("AWS_S3_ENDPOINT", "AWS_HTTPS", "AWS_VIRTUAL_HOSTING"):
        monkeypatch.delenv(name, raising=False)
    objects._store.cache_clear()
    client = boto3.client("s3", endpoint_url=endpoint)
    client.create_bucket(Bucket=BUCKET)
    yield client
    for each in client.list_objects_v2(Bucket=BUCKET).get("Contents", []):
        client.delete_object(Bucket=BUCKET, Key=each["Key"])
    client.delete_bucket(Bucket=BUCKET)
    objects._store.cache_clear()


@pytest.fixture
def trainings(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    monkeypatch.setattr(TextureConfig, "context_px", 0)
    yield grey_model.install(monkeypatch)
    grey_model.load_model.cache_clear()


def make_quads(folder: Path) -> Path:
    for ix in range(2):
        write_raster(folder / f"{ix}.tif", grey(ix), affine=shift(GRID, 0, ix * SIDE))
    return folder


def put(client: Any, folder: Path, prefix: str) -> None:
    for path in folder.iterdir():
        client.upload_file(str(path), BUCKET, f"{prefix}/{path.name}")


def keys(client: Any, prefix: str) -> list[str]:
    found = client.list_objects_v2(Bucket=BUCKET, Prefix=prefix).get("Contents", [])
    return sorted(each["Key"].removeprefix(prefix) for each in found)


def test_a_run_from_a_store_into_a_store_gives_the_local_map(
    bucket: Any, tmp_path: Path, trainings: list[str], caplog: pytest.LogCaptureFixture
) -> None:
    quads = make_quads(tmp_path / "quads")
    local = segment(quads, Settings(**SMALL), tmp_path / "local")
    put(bucket, quads, "quads")
    with caplog.at_level("DEBUG"):
        result = segment(f"s3://{BUCKET}/quads/", Settings(**SMALL), f"s3://{BUCKET}/maps/one/")
    stored, kept = content(result.path), content(tmp_path / "local")
    del stored["signatures.safetensors"], kept["signatures.safetensors"]  # their card names the run, their numbers not
    assert stored == kept
    one, other = (load_file(folder / "signatures.safetensors") for folder in (result.path, tmp_path / "local"))
    assert one.keys() == other.keys()
    assert all(np.array_equal(one[name], other[name]) for name in one)
    published = {str(p.relative_to(result.path)) for p in result.path.rglob("*") if p.is_file()} - {"run.log"}
    assert set(keys(bucket, "maps/one/")) == published
    body = bucket.get_object(Bucket=BUCKET, Key="maps/one/labels.tif")["Body"].read()
    assert body == (tmp_path / "local" / "labels.tif").read_bytes()
    record = bucket.get_object(Bucket=BUCKET, Key="maps/one/run.json")["Body"].read()
    assert record == (result.path / "run.json").read_bytes()
    inputs = json.loads(record)["inputs"]
    assert [each["path"] for each in inputs] == [f"s3://{BUCKET}/quads/0.tif", f"s3://{BUCKET}/quads/1.tif"]
    assert all(each["etag"] and each["sha256"] is None for each in inputs)
    assert [each.size for each in result.record.inputs] == [each.size for each in local.record.inputs]
    assert SECRET not in record.decode() + caplog.text + "".join(p.read_text() for p in result.path.glob("*.log"))


def test_the_record_is_put_last_and_an_upload_that_broke_off_goes_on(
    bucket: Any, tmp_path: Path, trainings: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    quads, out = make_quads(tmp_path / "quads"), f"s3://{BUCKET}/maps/two"
    bucket.put_object(Bucket=BUCKET, Key="maps/two/run.json", Body=b"{}")
    bucket.put_object(Bucket=BUCKET, Key="maps/two/of-an-older-run.tif", Body=b"old")

    def break_off(*_: Any) -> None:
        raise OSError("connection lost")

    with monkeypatch.context() as patch:
        patch.setattr(objects, "upload", break_off)
        with pytest.raises(RunFailedError, match=r"maps/two: cannot be uploaded to \(connection lost\)"):
            segment(quads, Settings(**SMALL), out)
    assert "run.json" not in keys(bucket, "maps/two/"), "no record stands beside what is not its own"
    labelled = list(trainings)
    segment(quads, Settings(**SMALL), out)
    assert trainings == labelled, "nothing is done again but the upload"
    assert {"run.json", "labels.tif"} <= set(keys(bucket, "maps/two/"))
    assert "of-an-older-run.tif" not in keys(bucket, "maps/two/")
    assert open_target(out).is_current


def test_an_object_that_changes_is_another_input(bucket: Any, tmp_path: Path, trainings: list[str]) -> None:
    put(bucket, make_quads(tmp_path / "quads"), "quads")
    (first, _) = list_rasters(f"s3://{BUCKET}/quads")
    known = fingerprint_file(first)
    known.check_unchanged()
    bucket.put_object(Bucket=BUCKET, Key="quads/0.tif", Body=b"II*\0 another")
    with pytest.raises(RunFailedError, match=r"s3://imagery/quads/0\.tif: was changed while the run was under way"):
        known.check_unchanged()
    bucket.delete_object(Bucket=BUCKET, Key="quads/0.tif")
    with pytest.raises(RunFailedError, match=r"s3://imagery/quads/0\.tif: disappeared"):
        known.check_unchanged()


def test_what_is_no_raster_or_not_there_is_named(bucket: Any, tmp_path: Path, trainings: list[str]) -> None:
    bucket.put_object(Bucket=BUCKET, Key="odd/vrt.tif", Body=b"<VRTDataset/>")
    bucket.put_object(Bucket=BUCKET, Key="odd/thesis.txt", Body=b"precious")
    cases = [
        (f"s3://{BUCKET}/odd/vrt.tif", r"s3://imagery/odd/vrt\.tif: is not a raster that is read here \(an XML or VRT"),
        (f"s3://{BUCKET}/odd/gone.tif", r"s3://imagery/odd/gone\.tif: no such file"),
        (f"s3://{BUCKET}/empty/", r"s3://imagery/empty/: no \.tif or \.tiff right below it"),
        (f"s3://{BUCKET}/../x.tif", "is no address of the form s3://BUCKET/KEY"),
        ("/vsis3/imagery/odd/vrt.tif", "only local files and s3:// are read"),
        ("s3://absent-bucket/a.tif", r"a\.tif: no such file|cannot be read"),
    ]
    for source, message in cases:
        with pytest.raises(InputError, match=message):
            segment(source, Settings(**SMALL), tmp_path / "out")
    assert not (tmp_path / "out").exists()
    quads = make_quads(tmp_path / "quads")
    with pytest.raises(InputError, match="names a whole bucket"):
        segment(quads, Settings(**SMALL), f"s3://{BUCKET}/")
    with pytest.raises(InputError, match="is not empty and holds no run"):
        segment(quads, Settings(**SMALL), f"s3://{BUCKET}/odd")
    with pytest.raises(InputError, match="cannot be looked into"):
        segment(quads, Settings(**SMALL), "s3://absent-bucket/run")


def test_a_directory_needs_no_upload(tmp_path: Path) -> None:
    target = Target(tmp_path)
    assert target.is_current
    target.push()
    assert open_target(tmp_path) == target
