"""The device that computes: whether it is a GPU, how much memory it has left, and whether that ran out."""

from __future__ import annotations

from pathlib import Path

MEMINFO = "/proc/meminfo"

CGROUPS = (
    ("/sys/fs/cgroup", "memory.max", "memory.current", "inactive_file"),
    ("/sys/fs/cgroup/memory", "memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"),
)
"""Of versions 2 and 1 of control groups: folder, files of a container's limit and of what it has taken, and the line of
``memory.stat`` that says how much of that is a cache of files, which gives way."""

_SIGNS = ("resourceexhausted", "resource_exhausted", "out of memory", "oom when allocating")


def has_gpu() -> bool:
    """Whether the backend computes on a GPU."""
    import keras

    # All are listed, as JAX raises an error where one kind is asked for and there is none.
    return any(str(name).lower().startswith(("gpu", "cuda")) for name in keras.distribution.list_devices())


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error is that of a device without memory left, on TensorFlow or JAX.

    Examples
    --------
    >>> is_out_of_memory(RuntimeError("RESOURCE_EXHAUSTED: Out of memory while trying to allocate 9 bytes"))
    True
    >>> is_out_of_memory(ValueError("no"))
    False
    """
    told = f"{type(error).__name__}: {error}".lower()
    return any(sign in told for sign in _SIGNS)


def free_memory() -> int | None:
    """Return the bytes that the backend may still take where it computes; None where the system does not say."""
    return gpu_memory() if has_gpu() else host_memory()


def gpu_memory() -> int | None:
    """Return the bytes that the backend may still take on the first GPU; None where it has set itself no limit."""
    import keras

    if keras.backend.backend() == "jax":
        import jax

        stats = jax.local_devices()[0].memory_stats() or {}
        return int(stats["bytes_limit"]) - int(stats["bytes_in_use"]) if "bytes_limit" in stats else None
    if keras.backend.backend() != "tensorflow":
        return None
    import tensorflow as tf

    # Sessions alone tell the limit of TensorFlow's allocator, of which it takes its arrays.
    with tf.compat.v1.Session(graph=tf.Graph()) as session:
        limits = [device.memory_limit_bytes for device in session.list_devices() if device.device_type == "GPU"]
    return int(limits[0]) - int(tf.config.experimental.get_memory_info("GPU:0")["current"]) if limits else None


def host_memory() -> int | None:
    """Return the bytes of host memory that are available: the machine's, or what is left of the container's limit."""
    rooms = [_lines(Path(MEMINFO)).get("MemAvailable:"), *(_left(*names) for names in CGROUPS)]
    return min((room for room in rooms if room is not None), default=None)


def _left(folder: str, limit: str, taken: str, cache: str) -> int | None:
    most, now = (_text(Path(folder) / name).strip() for name in (limit, taken))
    if not (most.isdigit() and now.isdigit()):
        return None
    return max(0, int(most) - int(now) + _lines(Path(folder) / "memory.stat").get(cache, 0))


def _lines(path: Path) -> dict[str, int]:
    """Return the numbers of a file by the names before them, in bytes."""
    words = [line.split() for line in _text(path).splitlines()]
    return {each[0]: int(each[1]) << (10 if each[2:] == ["kB"] else 0) for each in words if len(each) > 1}


def _text(path: Path) -> str:
    try:
        return path.read_text()
    except OSError:
        return ""
