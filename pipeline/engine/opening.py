"""Opening an engine: local worker processes, processes on GPUs, or an existing Dask scheduler."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline.engine.connection import connect
from pipeline.engine.environment import SINGLE_THREADED, limit_threads, share_card
from pipeline.engine.interface import Engine, Limits
from pipeline.engine.serial import SerialEngine
from pipeline.errors import InputError
from pipeline.settings import Settings

if TYPE_CHECKING:
    from distributed import Client


@dataclass(frozen=True)
class Capacity:
    """How much local worker processes may be.

    Attributes
    ----------
    workers
        Number of processes.
    slots
        Items in one process at a time: one computes, and with 2 another reads or writes meanwhile.
    memory_bytes
        Memory at which a process is stopped and started anew; None: no limit.
    """

    workers: int
    slots: int = 1
    memory_bytes: int | None = None


@contextmanager
def open_engine(settings: Settings, log: Path | None = None, capacity: Capacity | None = None) -> Iterator[Engine]:
    """Open the engine that the settings ask for, and close it at the end.

    Local worker processes write what they and their libraries have to say into the file `log`, if one is given.
    `capacity` is theirs as well; by default there are as many as the settings say, or one a core.

    Raises
    ------
    InputError
        No scheduler answers or our certificate is missing, no worker offers what the settings ask for, or dask-cuda is
        not installed.
    """
    limit_threads()
    limits = Limits(item_s=settings.block_hours * 3600)
    if settings.scheduler is not None:
        with connect(settings.scheduler) as client:
            _prepare(client, None, ours=False)
            yield _engine(client, settings, limits)
    elif settings.engine == "serial":
        yield SerialEngine()
    else:
        capacity = capacity or Capacity(settings.workers or os.cpu_count() or 1)
        opened = _cuda_cluster(settings) if settings.engine == "cuda" else _local_cluster(capacity)
        with opened as client:
            _prepare(client, log, ours=True)
            yield _engine(client, settings, limits)


def check_engine(settings: Settings) -> None:
    """Raise InputError where the engine that the settings ask for cannot be opened; opens nothing that stays."""
    if settings.scheduler is not None:
        with connect(settings.scheduler) as client:
            _engine(client, settings, Limits())
    elif settings.engine == "cuda":
        _import_cuda()
    elif settings.resources:
        raise InputError(
            "resources: are offered by the workers of a --scheduler, or by --engine cuda; leave the setting out"
        )


def _engine(client: Client, settings: Settings, limits: Limits) -> Engine:
    from pipeline.engine.cluster import DaskEngine, count_slots

    resources = {**({"GPU": 1.0} if settings.engine == "cuda" else {}), **settings.resources}
    if resources and not count_slots(client, resources):
        asked = ", ".join(f"{name}={amount:g}" for name, amount in resources.items())
        raise InputError(
            f"resources {asked}: no worker of {client.scheduler.address} offers that; "
            f'start workers with --resources "{asked}", or leave the setting out'
        )
    return DaskEngine(client, resources=resources, limits=limits, revive=_reviver(client.cluster))


def _reviver(cluster: Any) -> Callable[[], object] | None:
    """Return what has a cluster of ours start the workers that it has given up, if any; None where it is another's."""
    return None if cluster is None else lambda: cluster.scale(len(cluster.worker_spec))


def _prepare(client: Client, log: Path | None, *, ours: bool) -> None:
    from pipeline.engine.plugins import Prepared

    client.register_plugin(Prepared(None if log is None else log.absolute(), deaf=ours))


def _environment(sharing: int) -> dict[str, str]:
    backend = os.environ.get("KERAS_BACKEND", "tensorflow")
    return {**SINGLE_THREADED, "KERAS_BACKEND": backend, **share_card(os.environ, sharing)}


def _dask_settings(sharing: int) -> dict[str, Any]:
    return {
        # Before the interpreter starts: later would be too late for the thread pools of numpy and TensorFlow.
        "distributed.nanny.pre-spawn-environ": _environment(sharing),
        # On a busy machine the successor of a worker that died needs longer than Dask's 15 s, and would be given up.
        "distributed.deploy.lost-worker-timeout": "2 minutes",
        # A worker that has died refuses connections, and would be asked again for so long.
        "distributed.comm.timeouts.connect": "10s",
        "distributed.worker.daemon": True,
        # Blocks leave nothing in a worker's memory that could be spilled: only the limit itself matters.
        "distributed.worker.memory.target": False,
        "distributed.worker.memory.spill": False,
        "distributed.worker.memory.pause": False,
        "distributed.worker.memory.terminate": 0.95,
        # A look at every thread's stack a hundred times a second, which nobody asks for; the other looks, by default 2
        # to 50 times a second in each process, take a core some percent of its time.
        "distributed.worker.profile.enabled": False,
        "distributed.worker.memory.monitor-interval": "500ms",
        "distributed.admin.system-monitor.interval": "5s",
        "distributed.admin.tick.interval": "500ms",
    }


@contextmanager
def _local_cluster(capacity: Capacity) -> Iterator[Client]:
    from distributed import LocalCluster

    options = {
        "n_workers": capacity.workers,
        "threads_per_worker": capacity.slots,
        "memory_limit": capacity.memory_bytes or 0,
        "processes": True,
    }
    with _started(LocalCluster, options, sharing=capacity.workers) as client:
        yield client


@contextmanager
def _cuda_cluster(settings: Settings) -> Iterator[Client]:
    options = {"n_workers": settings.workers, "threads_per_worker": 1, "resources": {"GPU": 1}}
    with _started(partial(_make_cuda, _import_cuda()), options, sharing=1) as client:
        yield client


@contextmanager
def _started(cluster_type: Any, options: dict[str, Any], *, sharing: int) -> Iterator[Client]:
    # `sharing`: how many of the workers compute on one card, where there is one.
    import dask
    from distributed import Client

    here = {"host": "127.0.0.1", "dashboard_address": "127.0.0.1:0", "silence_logs": logging.ERROR}
    with ExitStack() as stack:
        stack.enter_context(dask.config.set(_dask_settings(sharing)))
        cluster = stack.enter_context(cluster_type(**options, **here))
        client = stack.enter_context(Client(cluster, set_as_default=False))
        try:
            yield client
        except BaseException:
            # What ends in the middle of work has much to say about it; the error itself says what matters.
            for name in ("distributed", "asyncio"):
                logging.getLogger(name).setLevel(logging.CRITICAL + 1)
            raise


def _import_cuda() -> Any:
    try:
        from dask_cuda import LocalCUDACluster
    except ImportError as error:
        raise InputError(
            f"--engine cuda: needs dask-cuda, which cannot be imported here ({error}); "
            "install it on a machine with CUDA GPUs (pip install dask-cuda), or leave the option out"
        ) from error
    return LocalCUDACluster


def _make_cuda(cluster_type: Any, **options: Any) -> Any:
    try:
        return cluster_type(**options)
    except Exception as error:  # of no common type: its own, NVML's, Dask's
        raise InputError(
            f"--engine cuda: dask-cuda starts no workers ({' '.join(str(error).split())}); "
            "ask for one worker a GPU at most, and see whether nvidia-smi lists GPUs"
        ) from error
