"""The cost benchmarks: counted work is that of numpy, and both run through at small size."""

from __future__ import annotations

import json
import subprocess
import sys

import keras
import numpy as np
import pytest

from benchmarks import gpu_quad, rates
from benchmarks.train import __main__ as train
from tests.conftest import REPOSITORY


def test_work_is_counted_by_layer():
    inputs = keras.Input((8, 6, 3))
    out = keras.layers.Conv2D(5, 3, strides=2, padding="same")(inputs)
    work = rates.count_work(keras.Model(inputs, keras.layers.Activation("relu")(out)))
    assert work.multiply_adds == 4 * 3 * 5 * 3 * 9
    assert work.bytes == 4 * (8 * 6 * 3 + 9 * 3 * 5 + 3 * (4 * 3 * 5))
    assert work.least_seconds(rates.Rates(270.0, 1e9)) == 6.0


def test_rates_are_positive_and_finite():
    found = rates.measure_rates(64, 4096, repeats=2)
    assert 0 < found.multiply_adds < 1e15
    assert 0 < found.bytes < 1e15


def test_the_quad_has_k_textures_in_range():
    quad = gpu_quad.make_quad(64, 5)
    assert quad.shape == (64, 64, 4)
    assert quad.dtype == np.float32
    assert quad.min() >= 0
    assert quad.max() <= 1


ALONE = """
import os, sys
of_jax = ("scipy",) if os.environ["KERAS_BACKEND"] == "jax" else ()
for name in ("scipy", "sklearn", "rasterio", "xarray", "dask", "zarr", "pandas", "prefect", "pipeline", "flows"):
    if name not in of_jax:
        sys.modules[name] = None  # importing it is an error
from benchmarks import gpu_quad
sys.exit(gpu_quad.main(sys.argv[1:]))
"""


@pytest.mark.slow
def test_the_quad_is_trained_and_labelled_at_small_size_by_the_model_and_numpy_alone(tmp_path):
    path = tmp_path / "quad.json"
    arguments = ["--quick", "--size-px", "128", "--k", "2", "--steps", "2", "--json", str(path)]
    done = subprocess.run(
        [sys.executable, "-c", ALONE, *arguments], cwd=REPOSITORY, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr[-2000:]
    record = json.loads(path.read_text())
    assert record["size_px"] == 128
    assert record["backend"] == keras.backend.backend()
    assert record["peak_device_bytes"] is None
    assert record["seconds_in_all"] == record["training_seconds"] + record["prediction_first_seconds"]
    for name in ("training_seconds", "prediction_seconds", "share_of_matrix_rate", "share_of_bandwidth"):
        assert record[name] > 0


def test_the_report_says_what_holds():
    training = {
        "seconds": 200.0,
        "stages_wall_seconds": {"network": 9.0},
        "network_steps_seconds": 8.0,
        "network_agreement": 0.9,
    }
    record = {
        "settings": {"size_px": 64},
        "training": {"first": training, "again": training},
        "paper": {"pass_seconds": 2.0, "ratio": 102.4},
        "prediction": {
            "mpx_per_cpu_second": 1.0,
            "over_the_larger": 1.2,
            "rates": {"multiply_adds": 1e9, "bytes": 1e9},
        },
        "machine": {"processor": "p", "cores": 2, "load": [0.0], "environment": {}},
        "versions": {},
        "started": "now",
    }
    record["paper"]["extrapolated_seconds"] = 20_480.0
    lines = [line for line in train.format_report(record).splitlines() if "at most" in line or "at least" in line]
    assert [line.split("|")[-2].strip() for line in lines] == ["no", "yes", "no", "yes"]
