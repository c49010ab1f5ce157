"""What can go wrong, in two kinds, each with the exit code that the command line gives it."""

from __future__ import annotations


class InputError(ValueError):
    """The input or the usage is wrong, found before anything is written (exit code 2).

    The message is one line that names the file or option, what was found, what was expected and the remedy.
    """

    exit_code = 2


class MisfitError(InputError):
    """A run is whole, but cannot be part of a series: it is on another grid, or its ids mean other classes."""


class RunFailedError(RuntimeError):
    """A run stopped midway; what was done is kept, and the same command resumes it (exit code 1)."""

    exit_code = 1


class DamagedError(RunFailedError):
    """Work of a block that was done cannot be read any more; `block` is its name."""

    def __init__(self, message: str, block: str = "") -> None:
        super().__init__(message)
        self.block = block

    def __reduce__(self) -> tuple[type[DamagedError], tuple[str, str]]:
        return type(self), (str(self), self.block)
