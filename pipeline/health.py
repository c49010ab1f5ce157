"""Whether this machine can do the work: a tiny model is trained and applied on it, and its GPUs are listed."""

from __future__ import annotations

import importlib
import os
import tempfile
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.errors import InputError

SIDE_PX = 64
K = 2
_QUICK: dict[str, Any] = {
    "rounds": 1, "refine_rounds": 0, "steps": 2, "batch": 1, "crop_px": 32, "texture_radius_px": 2, "texture_rounds": 0,
}  # fmt: skip
"""As little training as there can be: what is looked at is whether the work can be done, not how well."""


@dataclass(frozen=True)
class Health:
    """What was found.

    Attributes
    ----------
    backend, device
        Backend of Keras, and where it computes.
    gpus
        Names of the GPUs that the backend can use.
    seconds
        What the check took, imports included.
    """

    backend: str
    device: str
    gpus: tuple[str, ...]
    seconds: float

    def to_json(self) -> dict[str, Any]:
        """Return it ready for JSON."""
        return asdict(self) | {"gpus": list(self.gpus)}


def check_health(*, gpu: bool = False) -> Health:
    """Train and apply a tiny model, write its labels as GeoTIFF and read them back, and list the GPUs.

    Parameters
    ----------
    gpu
        Whether a GPU must be there, and be what is computed on.

    Raises
    ------
    InputError
        A GPU was asked for and the backend sees none, or computes elsewhere: work would go on slowly on the CPU.
    RuntimeError
        The model labels pixels wrongly, or labels do not survive a file.
    """
    start = time.perf_counter()
    backend, device, gpus = find_devices()
    if gpu:
        _require_gpu(backend, device, gpus)
    _check_file(_label())
    return Health(backend, device, gpus, round(time.perf_counter() - start, 3))


def find_devices() -> tuple[str, str, tuple[str, ...]]:
    """Return Keras' backend, the device that it puts a new tensor on, and the GPUs that it can use."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    os.environ.setdefault("TF_FORCE_GPU_ALLOW_GROWTH", "true")
    # Imported by name: the pipeline's types do not hang on Keras', which come in a backend's clothes.
    keras = importlib.import_module("keras")
    tensor = keras.ops.add(keras.ops.ones((8, 8)), 1.0)
    gpus = tuple(name for name in map(str, keras.distribution.list_devices()) if name.startswith(("gpu", "cuda")))
    return str(keras.backend.backend()), str(tensor.device), gpus


def _require_gpu(backend: str, device: str, gpus: tuple[str, ...]) -> None:
    if not gpus:
        raise InputError(
            f"a GPU is required, and {backend} finds none; give the container one (--gpus all, nvidia.com/gpu: 1), "
            "look at the driver with nvidia-smi, or use the CPU image"
        )
    if not any(word in device.lower() for word in ("gpu", "cuda")):
        raise InputError(f"a GPU is required, and {backend} computes on {device}; look at CUDA_VISIBLE_DEVICES")


def _label() -> np.ndarray[Any, np.dtype[np.uint8]]:
    """Return the labels ``(y, x)`` that a model trained on two halves of different grey gives them."""
    import ktex_model

    image = np.full((SIDE_PX, SIDE_PX, 1), 0.2, np.float32)
    image[:, SIDE_PX // 2 :] = 0.8
    valid = np.ones((SIDE_PX, SIDE_PX), bool)
    valid[0] = False
    config = ktex_model.TextureConfig(k=K, bands=1, **_QUICK)
    model = ktex_model.train([ktex_model.Sample(image, valid)], config).model
    labels = model.predict(image, valid).labels
    if not (labels[1:] < K).all() or not (labels[0] == ktex_model.NO_CLASS).all():
        raise RuntimeError(
            f"the model gave classes {np.unique(labels).tolist()}; expected 0 and 1, and 255 where invalid"
        )
    return labels


def _check_file(labels: np.ndarray[Any, np.dtype[np.uint8]]) -> None:
    import rasterio
    from affine import Affine

    profile = {"driver": "GTiff", "count": 1, "dtype": "uint8", "nodata": 255, "crs": "EPSG:3857"}
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "labels.tif"
        size = {"height": labels.shape[0], "width": labels.shape[1]}
        with rasterio.open(path, "w", **profile, **size, transform=Affine(5, 0, 0, 0, -5, 0), compress="zstd") as file:
            file.write(labels, 1)
        with rasterio.open(path) as file:
            if file.crs.to_epsg() != 3857 or not np.array_equal(file.read(1), labels):
                raise RuntimeError(f"labels do not survive a GeoTIFF in {folder}; look at the disk and at GDAL")
