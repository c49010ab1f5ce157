"""Preload of a Dask worker that is started by hand: ``dask worker ADDRESS --preload pipeline.engine.preload``.

It sets threads and GPU memory before the first block, and so before anything imports Keras.
"""

from __future__ import annotations

from typing import Any

from pipeline.engine.environment import grow_gpu_memory, limit_threads


def dask_setup(_: Any) -> None:
    """Prepare the worker process; Dask calls this as it starts."""
    limit_threads()
    grow_gpu_memory()
