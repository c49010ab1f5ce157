"""Versions of what is written: those of earlier releases are read, one of a later release is refused in one line."""

from __future__ import annotations

from pathlib import Path

from pipeline.errors import InputError

FIRST = 1
"""Version of what says none: written before it had one."""


def require_version(path: str | Path, found: object, newest: int) -> None:
    """Raise InputError where `found`, the version that a file says it is of, is none from 1 to `newest`.

    Examples
    --------
    >>> require_version("run.json", 1, newest=1)
    >>> require_version("run.json", 2, newest=1)
    Traceback (most recent call last):
    ...
    pipeline.errors.InputError: run.json: is of format version 2; this ktextures reads up to 1; use a later one
    """
    if type(found) is not int or found < FIRST:
        raise InputError(f"{path}: format version must be a number from 1; got {found!r}; restore the file")
    if found > newest:
        raise InputError(f"{path}: is of format version {found}; this ktextures reads up to {newest}; use a later one")
