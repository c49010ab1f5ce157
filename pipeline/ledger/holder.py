"""Who holds a claim, and whether that process is known to be dead."""

from __future__ import annotations

import os
import socket
from dataclasses import dataclass
from functools import cache

import psutil


@dataclass(frozen=True)
class Holder:
    """A process, told apart from all others, also from a later one with its number.

    Attributes
    ----------
    host
        Name of the machine or container, and its process namespace.
    pid, started
        Process number, and when it started, in seconds since 1970 rounded to hundredths.
    """

    host: str
    pid: int
    started: float

    def __str__(self) -> str:
        return f"{self.host}/{self.pid}/{self.started:.2f}"

    @classmethod
    def parse(cls, text: str) -> Holder | None:
        """Read what `str` wrote; None where it is something else.

        Examples
        --------
        >>> Holder.parse(str(Holder("node-1:4026531836", 7, 1.5)))
        Holder(host='node-1:4026531836', pid=7, started=1.5)
        """
        try:
            host, pid, started = text.rsplit("/", 2)
            return cls(host, int(pid), float(started))
        except ValueError:
            return None

    def is_known_dead(self) -> bool:
        """Whether this process ran on this very machine and is gone; of other machines nothing is known."""
        if self.host != _host():
            return False
        try:
            process = psutil.Process(self.pid)
            return abs(process.create_time() - self.started) > 1.0 or process.status() == psutil.STATUS_ZOMBIE
        except psutil.NoSuchProcess:
            return True


@cache
def _host() -> str:
    try:
        namespace = os.readlink("/proc/self/ns/pid").strip("pid:[]")
    except OSError:
        namespace = "-"
    return f"{socket.gethostname()}:{namespace}"


def this_process() -> Holder:
    """Return the holder that this process is."""
    process = psutil.Process()
    return Holder(_host(), process.pid, round(process.create_time(), 2))
