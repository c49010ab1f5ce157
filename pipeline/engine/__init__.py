"""Where blocks are worked on: in this process, in local worker processes, on GPUs, or by an existing Dask scheduler.

An engine maps a module-level function over items, one task an item, and yields what became of each as it ends. Only
small records travel; arrays go to the stores. What a function is bound to (`functools.partial`) travels to each
worker once, not with every item.
"""

from pipeline.engine.environment import SINGLE_THREADED, limit_threads
from pipeline.engine.interface import Engine, Limits, Outcome
from pipeline.engine.opening import Capacity, check_engine, open_engine
from pipeline.engine.serial import SerialEngine

__all__ = [
    "SINGLE_THREADED",
    "Capacity",
    "Engine",
    "Limits",
    "Outcome",
    "SerialEngine",
    "check_engine",
    "limit_threads",
    "open_engine",
]
