"""Where a run is published: a directory, or a prefix of an object store.

A run always works in a directory of this machine. For an object store that is ``$KTEX_WORK``, or
``~/.cache/ktextures``, in a folder of the target's own, and what it published there is uploaded in the end: the old
record is taken away first and the new one put last, so that whoever finds a record finds all that it names.
"""

from __future__ import annotations

import hashlib
import logging
import os
from dataclasses import dataclass
from pathlib import Path

from pipeline import objects
from pipeline.errors import InputError, RunFailedError
from pipeline.workspace import RECORD, WORK

logger = logging.getLogger(__name__)

NOT_UPLOADED = frozenset({WORK, "run.log", "scene"})


@dataclass(frozen=True)
class Target:
    """A directory to work in, and the prefix that its result is uploaded to, if any."""

    directory: Path
    prefix: Path | None = None

    @property
    def is_current(self) -> bool:
        """Whether all that was published in the directory is where it belongs."""
        record = self.directory / RECORD
        if self.prefix is None:
            return True
        return record.exists() and objects.read(self.prefix / RECORD) == record.read_bytes()

    def push(self) -> None:
        """Upload what was published; does nothing where it is there already.

        Raises
        ------
        RunFailedError
            The store does not take it; the result stays in the directory, and pushing again goes on.
        """
        if self.prefix is None or self.is_current:
            return
        names = self._published()
        try:
            objects.delete(self.prefix, [RECORD])
            objects.upload(self.directory, names, self.prefix)
            objects.delete(self.prefix, {*objects.list_all(self.prefix)} - {*names})
            objects.write(self.prefix / RECORD, (self.directory / RECORD).read_bytes())
        except OSError as error:
            raise RunFailedError(
                f"{objects.to_text(self.prefix)}: cannot be uploaded to ({error}); the result is in {self.directory}, "
                "and the same command goes on"
            ) from error
        logger.info("uploaded %d files to %s", len(names) + 1, objects.to_text(self.prefix))

    def _published(self) -> list[str]:
        relative = (path.relative_to(self.directory) for path in sorted(self.directory.rglob("*")) if path.is_file())
        return [str(path) for path in relative if path.parts[0] not in NOT_UPLOADED and str(path) != RECORD]


def open_target(out: str | Path) -> Target:
    """Return the target that `--out` names; raises InputError where a store does not answer or holds something else."""
    if not objects.is_url(str(out)):
        return Target(Path(out).expanduser().absolute())
    prefix = objects.to_path(str(out))
    if not objects.split(prefix)[1]:
        raise InputError(f"--out {out}: names a whole bucket; give a prefix in it, such as {str(out).rstrip('/')}/run")
    try:
        names = objects.list_all(prefix)
    except OSError as error:
        raise InputError(f"--out {out}: cannot be looked into ({error}); check address and credentials") from error
    directory = _work_root() / hashlib.sha256(str(prefix).encode()).hexdigest()[:16]
    if names and RECORD not in names and not directory.exists():
        raise InputError(f"--out {out}: is not empty and holds no run; give a new or an empty prefix")
    return Target(directory, prefix)


def _work_root() -> Path:
    default = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "ktextures"
    return Path(os.environ.get("KTEX_WORK") or default).expanduser().absolute()
