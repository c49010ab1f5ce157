"""Models on disk: equal content gives equal bytes, and nothing damaged or foreign is ever used."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from safetensors.numpy import load_file, save_file

from ktex_model import weights

CONFIG = {"preset": "paper", "k": 3, "rgb": [0, 1, 2], "path": None}
TENSORS = {"b": np.arange(6, dtype=np.float32).reshape(2, 3), "a": np.array([1, 2], np.int64), "none": np.array(2.0)}


def damage(path, content):
    path.write_bytes(content)


def rewrite_record(directory, **changes):
    path = directory / weights.RECORD
    record = json.loads(path.read_text()) | changes
    path.write_text(json.dumps({key: value for key, value in record.items() if value is not None}))


@given(
    hnp.arrays(
        st.sampled_from([np.float32, np.float64, np.int16, np.uint8, np.bool_, ">f4"]), hnp.array_shapes(min_dims=0)
    )
)
@settings(deadline=None, max_examples=30)
def test_what_is_written_is_read(tmp_path_factory, array):
    directory = tmp_path_factory.mktemp("weights") / "model"
    digest = weights.write(directory, CONFIG, {"x": array, "turned": array.T})
    config, tensors = weights.read(directory, digest)
    assert config == CONFIG
    np.testing.assert_array_equal(tensors["x"], array)
    np.testing.assert_array_equal(tensors["turned"], array.T)
    assert tensors["x"].dtype == array.dtype.newbyteorder("=")
    assert tensors["x"].flags.writeable


def test_equal_content_gives_equal_bytes_whatever_the_order(tmp_path):
    first = weights.write(tmp_path / "one", CONFIG, TENSORS)
    second = weights.write(tmp_path / "two", dict(reversed(CONFIG.items())), dict(reversed(TENSORS.items())))
    assert first == second
    for name in (weights.RECORD, weights.TENSORS):
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["one", "two"]


def test_digest_covers_both_files(tmp_path):
    digest = weights.write(tmp_path / "m", CONFIG, TENSORS)
    record = (tmp_path / "m" / weights.RECORD).read_bytes()
    assert hashlib.sha256(record).hexdigest() == digest
    packed = (tmp_path / "m" / weights.TENSORS).read_bytes()
    assert json.loads(record)["sha256"] == hashlib.sha256(packed).hexdigest()
    others = [
        weights.write(tmp_path / "other", CONFIG | {"k": 4}, TENSORS),
        weights.write(tmp_path / "other", CONFIG, TENSORS | {"b": TENSORS["b"] + 1}),
    ]
    assert len({digest, *others}) == 3


def test_the_tensors_are_plain_safetensors(tmp_path):
    weights.write(tmp_path / "m", CONFIG, TENSORS)
    held = load_file(tmp_path / "m" / weights.TENSORS)
    assert set(held) == set(TENSORS)
    np.testing.assert_array_equal(held["b"], TENSORS["b"])


def test_a_model_is_replaced_and_anything_else_is_kept(tmp_path):
    weights.write(tmp_path / "m", CONFIG, TENSORS)
    weights.write(tmp_path / "m", CONFIG, TENSORS)
    digest = weights.write(tmp_path / "m", CONFIG | {"k": 9}, TENSORS)
    assert weights.read(tmp_path / "m", digest)[0]["k"] == 9
    (tmp_path / "m" / "notes.txt").write_text("mine")
    with pytest.raises(ValueError, match="holds other files"):
        weights.write(tmp_path / "m", CONFIG, TENSORS)
    assert (tmp_path / "m" / "notes.txt").read_text() == "mine"
    with pytest.raises(ValueError, match="holds other files"):
        weights.write(tmp_path / "m" / "notes.txt", CONFIG, TENSORS)


def test_a_failed_write_leaves_the_earlier_model(tmp_path, monkeypatch):
    digest = weights.write(tmp_path / "m", CONFIG, TENSORS)
    monkeypatch.setattr("os.fsync", lambda _: (_ for _ in ()).throw(OSError("disk full")))
    with pytest.raises(OSError, match="disk full"):
        weights.write(tmp_path / "m", CONFIG | {"k": 5}, TENSORS)
    assert weights.read(tmp_path / "m", digest)[0] == CONFIG
    assert [path.name for path in tmp_path.iterdir()] == ["m"]


@pytest.mark.parametrize(
    ("config", "tensors", "match"),
    [
        ({"k": float("nan")}, TENSORS, "JSON"),
        ({"k": object()}, TENSORS, "JSON"),
        (CONFIG, {"x": np.array(["text"])}, "plain number"),
        (CONFIG, {"x": np.array([None])}, "plain number"),
        (CONFIG, {"x": np.array([1j])}, "plain number"),
    ],
)
def test_only_plain_values_are_written(tmp_path, config, tensors, match):
    with pytest.raises(ValueError, match=match):
        weights.write(tmp_path / "m", config, tensors)
    assert not (tmp_path / "m").exists()


def test_every_changed_byte_of_the_tensors_is_found(tmp_path):
    weights.write(tmp_path / "m", CONFIG, TENSORS)
    path = tmp_path / "m" / weights.TENSORS
    intact = path.read_bytes()
    for position in range(0, len(intact), 7):
        path.write_bytes(intact[:position] + bytes([intact[position] ^ 1]) + intact[position + 1 :])
        with pytest.raises(ValueError, match="copy the model again"):
            weights.read(tmp_path / "m")
    path.write_bytes(intact[:-1])
    with pytest.raises(ValueError, match=f"got {len(intact) - 1} bytes"):
        weights.read(tmp_path / "m")


@pytest.mark.parametrize(
    ("break_it", "match"),
    [
        (lambda m: (m / weights.RECORD).unlink(), r"model\.json; the file is missing"),
        (lambda m: (m / weights.TENSORS).unlink(), r"weights\.safetensors; the file is missing"),
        (lambda m: damage(m / weights.RECORD, b"{"), "must be JSON"),
        (lambda m: damage(m / weights.RECORD, b"\x80\x04pickle"), "must be JSON"),
        (lambda m: damage(m / weights.RECORD, b"[]"), "something else"),
        (lambda m: rewrite_record(m, format="other"), "something else"),
        (lambda m: rewrite_record(m, format_version=99), "format version 1; got 99"),
        (lambda m: rewrite_record(m, tensors=None), "incomplete"),
        (lambda m: rewrite_record(m, tensors={"b": ["float32", [2, 3]]}), "must hold the tensors"),
    ],
)
def test_missing_and_foreign_files_are_refused(tmp_path, break_it, match):
    weights.write(tmp_path / "m", CONFIG, TENSORS)
    break_it(tmp_path / "m")
    with pytest.raises(ValueError, match=match):
        weights.read(tmp_path / "m")


def test_another_digest_is_refused(tmp_path):
    weights.write(tmp_path / "m", CONFIG, TENSORS)
    rewrite_record(tmp_path / "m", config=CONFIG | {"k": 7})
    with pytest.raises(ValueError, match="must have digest 0000; got"):
        weights.read(tmp_path / "m", "0000")


def test_a_dtype_other_than_the_recorded_one_is_refused(tmp_path):
    weights.write(tmp_path / "m", CONFIG, TENSORS)
    path = tmp_path / "m" / weights.TENSORS
    save_file(TENSORS | {"b": TENSORS["b"].astype(np.int32)}, path)
    packed = path.read_bytes()
    rewrite_record(tmp_path / "m", bytes=len(packed), sha256=hashlib.sha256(packed).hexdigest())
    with pytest.raises(ValueError, match="must hold the tensors"):
        weights.read(tmp_path / "m")


def test_a_file_that_is_no_safetensors_is_refused(tmp_path):
    weights.write(tmp_path / "m", CONFIG, TENSORS)
    damage(tmp_path / "m" / weights.TENSORS, b"\x80\x04pickle")
    rewrite_record(tmp_path / "m", bytes=8, sha256=hashlib.sha256(b"\x80\x04pickle").hexdigest())
    with pytest.raises(ValueError, match="must be a safetensors file"):
        weights.read(tmp_path / "m")


def test_importing_the_package_loads_no_framework():
    code = "import sys, ktex_model, ktex_model.weights, ktex_model.radiometry, ktex_model.extractors\n"
    code += "assert not {'keras', 'tensorflow', 'jax', 'torch'} & set(sys.modules), 'a framework was imported'"
    subprocess.run([sys.executable, "-c", code], check=True)
