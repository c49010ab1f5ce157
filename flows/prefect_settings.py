"""How Prefect is set before it is first imported: later, settings have no effect.

Whatever the user has set wins. Without a server of the user's, Prefect starts one of its own in a process that lives
as long as the flow, with SQLite in the user's ``PREFECT_HOME``; nothing of that needs a network.
"""

from __future__ import annotations

import os

PRIVATE = {
    "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
    "DO_NOT_TRACK": "1",
    # The embedded server takes 13 to 44 s on a busy machine; 20 s is the default.
    "PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS": "180",
}
"""No telemetry, and time for the embedded server to start."""

QUIET = {
    # Only the console: the flow's log still goes to the server. The embedded server inherits it, and with it goes
    # the traceback of its task-run recorder, which is cancelled in the middle of a flush whenever the server stops.
    "PREFECT_LOGGING_HANDLERS_CONSOLE_LEVEL": "CRITICAL",
}
"""For a command that has its own progress and its own words for errors."""


def stay_private() -> None:
    """Send nothing out; call it before Prefect is imported."""
    _default(PRIVATE)


def stay_quiet() -> None:
    """Leave the console to the command line; call it before Prefect is imported."""
    _default(QUIET)


def _default(values: dict[str, str]) -> None:
    for name, value in values.items():
        os.environ.setdefault(name, value)
