"""One quad of 4096 x 4096 px on one device: training, prediction, peak memory, shares of the device's rates.

Needs `ktex_model` and numpy alone, and Keras on TensorFlow or JAX: KERAS_BACKEND=jax python -m benchmarks.gpu_quad
"""

from __future__ import annotations

import argparse
import json
import resource
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

import ktex_model
from benchmarks.rates import clocked, count_work, measure_rates
from ktex_model import Sample, TextureConfig

QUAD_PX, QUICK_PX = 4096, 512
GOAL_SECONDS = 60.0


def main(arguments: Sequence[str] | None = None) -> int:
    """Run what the command line asks for."""
    options = argparse.ArgumentParser(prog="python -m benchmarks.gpu_quad", description=__doc__)
    options.add_argument("--quick", action="store_true", help=f"{QUICK_PX} px a side, for a processor")
    options.add_argument("--size-px", type=int, metavar="N", help=f"side of the quad ({QUAD_PX})")
    options.add_argument("--k", type=int, default=6, metavar="N", help="classes (6)")
    options.add_argument("--steps", type=int, metavar="N", help="training steps of the mask network")
    options.add_argument("--json", type=Path, metavar="FILE", help="write all figures")
    asked = options.parse_args(arguments)
    side = asked.size_px or (QUICK_PX if asked.quick else QUAD_PX)
    config = TextureConfig(k=asked.k, bands=4, **({"steps": asked.steps} if asked.steps else {}))
    record = measure(make_quad(side, asked.k), config, asked.quick)
    for name, value in record.items():
        print(f"{name:<34}{value:,.3f}" if isinstance(value, float) else f"{name:<34}{value}")
    if asked.json:
        asked.json.write_text(json.dumps(record, indent=1) + "\n")
    return 0


def make_quad(side: int, k: int, seed: int = 0) -> NDArray[np.float32]:
    """Draw ``(y, x, 4)`` float32: k textures, noise of k wavelengths and colours, in regions of some 300 px."""
    rng = np.random.default_rng(seed)
    fy, fx = np.fft.fftfreq(side)[:, None], np.fft.rfftfreq(side)[None]
    frequency = np.hypot(fy, fx)

    def draw(gain: NDArray[np.float64]) -> NDArray[np.float32]:
        white = np.fft.rfft2(rng.standard_normal((side, side), np.float32))
        field = np.fft.irfft2(white * gain, (side, side))
        return (field / field.std()).astype(np.float32)

    score = draw(np.exp(-0.5 * (frequency * 300) ** 2))
    regions = np.searchsorted(np.quantile(score, np.arange(1, k) / k), score)
    image = np.empty((side, side, 4), np.float32)
    colours = rng.uniform(0.3, 0.6, ((k + 1) // 2, 4))
    for c in range(k):
        texture = draw(np.exp(-0.5 * (np.log2(np.maximum(frequency, 1e-6) * (3 + 2 * c)) / 0.4) ** 2))
        mask = regions == c
        image[mask] = colours[c // 2] + 0.05 * texture[mask][:, None]
    return np.clip(image + 0.01 * rng.standard_normal(image.shape, np.float32), 0, 1)


def measure(image: NDArray[np.float32], config: TextureConfig, quick: bool) -> dict[str, Any]:
    """Train on the quad and label it; and once more in the same process, with all compiled. Returns all figures."""
    import keras

    from ktex_model.texture.prediction import compile_tile, get_limit
    from ktex_model.texture.tiles import tile_side

    valid = np.ones(image.shape[:2], bool)
    trained, _, training = clocked(lambda: ktex_model.train([Sample(image, valid)], config))
    *_, first = clocked(lambda: trained.model.predict(image, valid))
    *_, prediction = clocked(lambda: trained.model.predict(image, valid))
    again, _, retraining = clocked(lambda: ktex_model.train([Sample(image, valid)], config, seed=1))
    rates = measure_rates(*((1024, 1 << 22) if quick else (8192, 1 << 28)), clock=time.perf_counter)
    side = tile_side([len(valid)], get_limit(config.architecture).side, config.context_px)
    work = count_work(compile_tile(config.architecture, (side, side)).network)
    tiles = (-(-len(valid) // side)) ** 2
    return {
        "backend": keras.backend.backend(),
        "devices": keras.distribution.list_devices(),
        "size_px": len(valid),
        "k": config.k,
        "training_seconds": training,
        **{f"training_{stage['name']}_seconds": stage["seconds"] for stage in trained.history.stages},
        "training_again_seconds": retraining,
        **{f"training_again_{stage['name']}_seconds": stage["seconds"] for stage in again.history.stages},
        "prediction_first_seconds": first,
        "prediction_seconds": prediction,
        "prediction_mpx_per_second": valid.size / prediction / 1e6,
        "seconds_in_all": training + first,
        "seconds_in_all_again": retraining + prediction,
        "goal_seconds": GOAL_SECONDS,
        "peak_device_bytes": peak_device_bytes(),
        "peak_host_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
        "measured_multiply_adds_per_second": rates.multiply_adds,
        "measured_bytes_per_second": rates.bytes,
        "share_of_matrix_rate": work.multiply_adds * tiles / prediction / rates.multiply_adds,
        "share_of_bandwidth": work.bytes * tiles / prediction / rates.bytes,
    }


def peak_device_bytes() -> int | None:
    """Return the most memory that was in use on the first GPU; None where there is none."""
    import keras

    from ktex_model.device import has_gpu

    if not has_gpu():
        return None
    if keras.backend.backend() == "jax":
        import jax

        return int(jax.local_devices()[0].memory_stats()["peak_bytes_in_use"])
    import tensorflow as tf

    return int(tf.config.experimental.get_memory_info("GPU:0")["peak"])


if __name__ == "__main__":
    sys.exit(main())
