"""The environment of a worker process: few threads, bounded caches, GPU memory that grows as it is needed."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping

SINGLE_THREADED = {
    "TF_NUM_INTRAOP_THREADS": "1",
    "TF_NUM_INTEROP_THREADS": "1",
    "OMP_NUM_THREADS": "1",
    "OPENBLAS_NUM_THREADS": "1",
    "MKL_NUM_THREADS": "1",
    "ZARR_THREADING__MAX_WORKERS": "1",
    "TF_CPP_MIN_LOG_LEVEL": "2",
    "TF_FORCE_GPU_ALLOW_GROWTH": "true",
    "XLA_PYTHON_CLIENT_PREALLOCATE": "false",
    "MALLOC_MMAP_THRESHOLD_": str(32 << 20),
    "MALLOC_TRIM_THRESHOLD_": str(128 << 20),
    "GDAL_CACHEMAX": "128",
}
"""Parallelism comes from processes, and one thread each makes sums the same everywhere. GDAL's own cache limit would
be a share of the machine's memory for each process. Memory that is given back to the system after each array (Dask's
default) has to be made anew for the next: a sixth of all CPU time of the model and of writing."""


AUTOTUNE = "--xla_gpu_autotune_level"
"""Flag of XLA: how hard it looks for the fastest algorithm of each convolution, by trying them on the card."""


def limit_threads() -> None:
    """Give this process a worker's environment; it takes effect where Keras has not been imported yet."""
    for name, value in SINGLE_THREADED.items():
        os.environ.setdefault(name, value)
    os.environ.update(settle_algorithms(os.environ))


def settle_algorithms(environment: Mapping[str, str]) -> dict[str, str]:
    """Return what an environment must say besides, so that XLA takes convolutions as they are on Keras' JAX backend.

    To try them takes most of the time of a worker's first model and first block, and twice the card's memory; and each
    worker may settle for others. A flag that is set already is left as it is. On processors it changes nothing.

    Examples
    --------
    >>> settle_algorithms({"KERAS_BACKEND": "jax", "XLA_FLAGS": "--xla_dump_to=/tmp/x"})
    {'XLA_FLAGS': '--xla_dump_to=/tmp/x --xla_gpu_autotune_level=0'}
    >>> settle_algorithms({"KERAS_BACKEND": "tensorflow"})
    {}
    """
    flags = environment.get("XLA_FLAGS", "")
    if environment.get("KERAS_BACKEND") != "jax" or AUTOTUNE in flags:
        return {}
    return {"XLA_FLAGS": f"{flags} {AUTOTUNE}=0".strip()}


CARD_SHARE = 0.75
"""Of a card's memory, what JAX lets one process take by itself."""


def share_card(environment: Mapping[str, str], workers: int) -> dict[str, str]:
    """Return what the environment of workers must say besides, so that they share what JAX would let each one take.

    Tiles are sized to what a process may take: with a share each, all of them fit on the card at once.

    Examples
    --------
    >>> share_card({}, 8)
    {'XLA_PYTHON_CLIENT_MEM_FRACTION': '0.0938'}
    >>> share_card({"XLA_PYTHON_CLIENT_MEM_FRACTION": ".9"}, 8)
    {}
    """
    name = "XLA_PYTHON_CLIENT_MEM_FRACTION"
    return {} if name in environment else {name: f"{CARD_SHARE / workers:.4f}"}


def grow_gpu_memory() -> None:
    """Let TensorFlow take GPU memory as it needs it, where it has been imported before the environment could say so.

    Raises
    ------
    RuntimeError
        A GPU is in use by this process already; the worker has to be started with the preload of this package.
    """
    tensorflow = sys.modules.get("tensorflow")
    if tensorflow is None:
        return
    for gpu in tensorflow.config.list_physical_devices("GPU"):
        if not tensorflow.config.experimental.get_memory_growth(gpu):
            tensorflow.config.experimental.set_memory_growth(gpu, True)
