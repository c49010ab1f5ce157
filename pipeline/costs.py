"""What a block costs, by what was done: wall and CPU seconds, measured where the work is done.

In a worker process one block at a time computes; where it has room for a second one, that reads and writes meanwhile,
so that cores do not wait for disks.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field

_TURN = threading.RLock()


@dataclass
class Costs:
    """Wall and CPU seconds by phase, such as ``read``, ``train``, ``predict`` or ``write``."""

    wall: dict[str, float] = field(default_factory=dict)
    cpu: dict[str, float] = field(default_factory=dict)

    def add(self, phase: str, wall: float, cpu: float) -> None:
        """Add to what a phase took."""
        self.wall[phase] = self.wall.get(phase, 0.0) + wall
        self.cpu[phase] = self.cpu.get(phase, 0.0) + cpu

    @contextmanager
    def moving(self, phase: str) -> Iterator[None]:
        """Count reading or writing: the time of this thread alone."""
        wall, cpu = time.perf_counter(), time.thread_time()
        try:
            yield
        finally:
            spent = time.thread_time() - cpu
            _Moved.add(spent)
            self.add(phase, time.perf_counter() - wall, spent)

    @contextmanager
    def computing(self, phase: str) -> Iterator[None]:
        """Wait for the turn to compute, and count what it takes.

        CPU time is that of the whole process, because numerical libraries have threads of their own, less what other
        threads moved meanwhile.
        """
        with _TURN:
            wall, cpu, moved = time.perf_counter(), time.process_time(), _Moved.seconds
            try:
                yield
            finally:
                spent = time.process_time() - cpu - (_Moved.seconds - moved)
                self.add(phase, time.perf_counter() - wall, max(0.0, spent))

    def to_json(self) -> dict[str, list[float]]:
        """Return ``[wall, cpu]`` by phase."""
        return {phase: [round(self.wall[phase], 4), round(self.cpu[phase], 4)] for phase in self.wall}

    def include(self, found: Mapping[str, tuple[float, float] | list[float]]) -> None:
        """Add what `to_json` of another gave.

        Examples
        --------
        >>> costs = Costs()
        >>> costs.include({"read": [2.0, 1.5]})
        >>> costs.include({"read": [1.0, 0.5], "write": [0.1, 0.1]})
        >>> costs.to_json()
        {'read': [3.0, 2.0], 'write': [0.1, 0.1]}
        """
        for phase, (wall, cpu) in found.items():
            self.add(phase, wall, cpu)


class _Moved:
    """CPU seconds that all threads of this process have spent on reading and writing."""

    seconds = 0.0
    _lock = threading.Lock()

    @classmethod
    def add(cls, seconds: float) -> None:
        with cls._lock:
            cls.seconds += seconds
