"""Real servers for tests, on free ports of loopback."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import psutil

REPOSITORY = Path(__file__).resolve().parents[1]
PREFECT = [sys.executable, "-m", "prefect", "--no-prompt"]


def free_port() -> int:
    """Return a port that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def listens(port: int) -> bool:
    """Tell whether somebody listens on a port."""
    try:
        socket.create_connection(("127.0.0.1", port), timeout=5).close()
    except OSError:
        return False
    return True


def wait_for(
    what: Callable[[], Any], seconds: float = 60, every_s: float = 0.2, told: Callable[[], str] = lambda: ""
) -> Any:
    """Return what `what` gives as soon as that is true; fails after some time with what `told` has to say."""
    deadline = time.monotonic() + seconds
    while not (found := what()):
        assert time.monotonic() < deadline, f"waited {seconds} s in vain\n{told()}"
        time.sleep(every_s)
    return found


def end(process: subprocess.Popen[bytes], sign: int = signal.SIGTERM) -> None:
    """End a process and all that it started."""
    children = psutil.Process(process.pid).children(recursive=True) if process.poll() is None else []
    for each in (*children, process):
        try:
            each.send_signal(sign)
        except (psutil.NoSuchProcess, ProcessLookupError):
            continue
    try:
        process.wait(30)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
    for each in psutil.wait_procs(children, 10)[1]:
        each.kill()


def prefect_environment(home: Path, port: int, **more: str) -> dict[str, str]:
    """Return the environment of a Prefect server on that port, and of all that talks to it: nothing of the user's."""
    return {
        **{name: value for name, value in os.environ.items() if not name.startswith("PREFECT_")},
        "PREFECT_HOME": str(home),
        "PREFECT_API_URL": f"http://127.0.0.1:{port}/api",
        "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
        "DO_NOT_TRACK": "1",
        "PYTHONPATH": str(REPOSITORY),
        "PYTHONWARNINGS": "ignore",
        **more,
    }


@contextmanager
def prefect_server(environment: dict[str, str], log: Path) -> Iterator[str]:
    """Start a Prefect server, with all its services and SQLite; gives the address of its API."""
    address = environment["PREFECT_API_URL"]
    port = address.removesuffix("/api").rpartition(":")[2]
    command = [*PREFECT, "server", "start", "--host", "127.0.0.1", "--port", port]
    with log.open("w") as file:
        process = subprocess.Popen(command, env=environment, stdout=file, stderr=file, cwd=log.parent)

    def answers() -> bool:
        assert process.poll() is None, log.read_text()
        try:
            return httpx.get(f"{address}/health", timeout=5).status_code == httpx.codes.OK
        except httpx.HTTPError:
            return False

    try:
        wait_for(answers, 180, told=log.read_text)
        yield address
    finally:
        end(process)
