"""The directory of a run: what is under way, what is done, and how it is published.

``DIR/.ktex`` holds what a run needs until it is published: a manifest that says what is made here, written before
anything else; the work of each stage; and a marker for each block and stage, written after the work that it speaks
for. A rerun with the same key does what has no marker. Outputs are made in ``DIR/.ktex/outputs`` and moved into
``DIR`` at the end, `run.json` last: whoever finds that record finds all that it names.
"""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import socket
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import IO, Any, Self

import numpy as np
from numpy.typing import NDArray

from pipeline.errors import InputError

WORK = ".ktex"
RECORD = "run.json"
MANIFEST = "manifest.json"
JOURNAL = "edits.json"
"""In a published run: which files were changed since on purpose, by which edits."""
OUTPUTS = (
    "model", "models", "labels.zarr", "labels.tif", "labels.tif.aux.xml", "labels.qml", "confidence.tif",
    "simulated.tif", "classes.json", "signatures.safetensors", "quicklook.png", "item.json",
    "report.html", "diagnostics.json", "textures", JOURNAL,
)  # fmt: skip
"""All that a run may publish beside its record."""
BESIDE = frozenset({WORK, "scene", "run.log"})
"""What may lie in a run directory before the run: an earlier try, the scene of the demo, and the log."""

ANCHOR = "anchor"
"""What the model of the whole scene is called where each block has a model of its own."""

FORMAT = 1


@contextmanager
def whole(path: Path) -> Iterator[Path]:
    """Give a file beside `path` to write to, which takes its place at the end: it is there whole or not at all."""
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    yield partial
    os.replace(partial, path)


def check_writable(folder: Path) -> None:
    """Raise InputError where no file can be made in a folder: before the work whose result would go there."""
    try:
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise InputError(
            f"{folder}: cannot be written ({error.strerror}); have its permissions changed, or copy it first"
        ) from error


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    """Write a JSON file so that it is there whole or not at all, whatever happens."""
    with whole(path) as partial:
        partial.write_text(json.dumps(content, indent=1, sort_keys=True, default=str) + "\n", encoding="utf-8")


def replace_arrays(path: Path, arrays: Mapping[str, NDArray[Any]]) -> None:
    """Write plain arrays as ``.npz`` so that they are there whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with whole(path) as partial, partial.open("wb") as file:
        np.savez(file, allow_pickle=False, **arrays)


def read_json(path: Path) -> dict[str, Any] | None:
    """Return the content of a JSON file; None where there is none."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: is not JSON ({error}); remove the file, or run with --fresh") from error
    if not isinstance(content, dict):
        raise InputError(f"{path}: must hold a JSON object; got {type(content).__name__}; run with --fresh")
    return content


@dataclass(frozen=True)
class Folders:
    """Where a run keeps what; a value of paths alone, so that it travels to the workers."""

    root: Path

    @property
    def work(self) -> Path:
        """All that is not published."""
        return self.root / WORK

    @property
    def outputs(self) -> Path:
        """What will be published, while it is made."""
        return self.work / "outputs"

    @property
    def raw(self) -> Path:
        """Store of the labels that each block gave itself."""
        return self.work / "raw.zarr"

    @property
    def labels(self) -> Path:
        """Store of the published labels, while it is filled."""
        return self.outputs / "labels.zarr"

    @property
    def simulated(self) -> Path:
        """Store of the simulated image, where one is asked for."""
        return self.work / "simulated.zarr"

    @property
    def alignment(self) -> Path:
        """What the align stage found."""
        return self.work / "alignment.json"

    @property
    def known(self) -> Path:
        """The sites that the catalogue knew when the run began."""
        return self.work / "known.npz"

    @property
    def attachment(self) -> Path:
        """How the classes of the run are called in the catalogue."""
        return self.work / "attachment.json"

    @property
    def log(self) -> Path:
        """What the run and its workers had to say; stays beside the outputs."""
        return self.root / "run.log"

    @property
    def borders(self) -> Path:
        """What was counted at each border between blocks."""
        return self.work / "borders.npz"

    @property
    def metrics(self) -> Path:
        """The figures of the map, once measured."""
        return self.work / "metrics.json"

    @property
    def ground(self) -> Path:
        """The scene at a size for looking."""
        return self.work / "ground.npy"

    @property
    def drawn(self) -> Path:
        """The picture of `ground` in the report, as an address."""
        return self.work / "ground.txt"

    def view(self, name: str) -> Path:
        """File of what a block shows of the scene in such a view."""
        return self.work / "views" / f"{name}.npy"

    @property
    def spool(self) -> Path:
        """Store of the pixels of a scene that came as an array."""
        return self.work / "source.zarr"

    def model(self, name: str) -> Path:
        """Directory of a model: ``global``, or `ANCHOR` or the name of a block."""
        return self.outputs / ("model" if name == "global" else f"models/{name}")

    def signature(self, name: str) -> Path:
        """File of the signatures of a block's classes."""
        return self._current("signatures", name)

    def members(self, name: str) -> Path:
        """File of the members of a block's classes; ``attached``: of all that the catalogue is to learn."""
        return self._current("members", name)

    @property
    def repaired(self) -> Path:
        """What the repair has put in the place of what blocks left: labels, signatures and members."""
        return self.work / "repaired"

    def _current(self, kind: str, name: str) -> Path:
        again = self.repaired / kind / f"{name}.npz"
        return again if again.exists() else self.work / kind / f"{name}.npz"

    def marker(self, stage: str, name: str) -> Path:
        """File that says that `stage` has done its work on the block `name`."""
        return self.work / "done" / stage / f"{name}.json"

    def mark(self, stage: str, name: str, record: Mapping[str, Any]) -> None:
        """Say that the work is done; call it after the work is on disk."""
        path = self.marker(stage, name)
        path.parent.mkdir(parents=True, exist_ok=True)
        write_json(path, record)

    def done(self, stage: str, name: str) -> dict[str, Any] | None:
        """Return the record of finished work; None where it is still to do."""
        return read_json(self.marker(stage, name))


class Workspace:
    """A run directory that is open for work, locked against a second run.

    Parameters
    ----------
    out
        The run directory.
    manifest
        What is made here. Its ``key`` decides whether what is there already is a part of the same work.
    fresh
        Drop unfinished work. A published result stays until the new one replaces it.

    Raises
    ------
    InputError
        The directory cannot be written, is in use, holds another run, or holds something else.
    """

    def __init__(self, out: Path, manifest: Mapping[str, Any], *, fresh: bool = False) -> None:
        self.folders = Folders(out.absolute())
        self._manifest = {**manifest, "format": FORMAT}
        self._lock: IO[str] | None = None
        self._updates: dict[str, Any] | None = None
        try:
            self._published = self._inspect(fresh)
        except OSError as error:
            raise InputError(
                f"--out {out}: cannot be looked into ({error.strerror}); give another directory"
            ) from error
        self._open(fresh)

    @property
    def is_published(self) -> bool:
        """Whether the complete result of this very key lies in the directory already."""
        return self._published

    @property
    def updates(self) -> dict[str, Any] | None:
        """The manifest of the work that lies here, where it is the same but for its inputs; None otherwise."""
        return self._updates

    def restate(self, manifest: Mapping[str, Any]) -> None:
        """Replace what is said to be made here, before any work."""
        self._manifest = {**manifest, "format": FORMAT}
        write_json(self.folders.work / MANIFEST, self._manifest)

    def _inspect(self, fresh: bool) -> bool:
        root, key = self.folders.root, self._manifest["key"]
        if root.exists() and not root.is_dir():
            raise InputError(f"--out {root}: is a file; give a directory")
        if not root.exists():
            return False
        files = root / RECORD, self.folders.work / MANIFEST
        if not any(file.exists() for file in files) and any(path.name not in BESIDE for path in root.iterdir()):
            raise InputError(f"--out {root}: is not empty and holds no run; give a new or an empty directory")
        if fresh:
            return False
        record, under_way = (read_json(file) for file in files)
        for found in (under_way, record):
            if found is None or found.get("key") == key:
                continue
            if found is under_way and found.get("base") == self._manifest["base"]:
                self._updates = found
                return False
            raise InputError(
                f"--out {root}: holds a run with other settings, inputs or program version "
                f"({self._difference(found)}); give another directory, or --fresh to replace it"
            )
        return record is not None and not record.get("blocks", {}).get("failed")  # what failed is tried again

    def _difference(self, found: Mapping[str, Any]) -> str:
        new = json.loads(json.dumps(self._manifest, default=str))
        if found.get("code") != new["code"]:
            return f"ktextures {found.get('code')} there, {new['code']} here"
        settings = found.get("settings", {})
        changed = [name for name, value in new["settings"].items() if settings.get(name) != value]
        if not changed:
            kept = "" if (self.folders.work / MANIFEST).exists() else ", and no work kept (--keep-work) to go on from"
            return f"other input files, or changed ones{kept}"
        return ", ".join(f"{name} {settings.get(name)} there, {new['settings'][name]} here" for name in changed[:3])

    def _open(self, fresh: bool) -> None:
        work = self.folders.work
        try:
            work.mkdir(parents=True, exist_ok=True)
            self._lock = (work / "lock").open("a", encoding="utf-8")
        except OSError as error:
            raise InputError(
                f"--out {self.folders.root}: cannot be written ({error.strerror}); give another directory"
            ) from error
        try:
            _lock_alone(self._lock)
        except OSError as error:
            self.close()
            raise InputError(
                f"--out {self.folders.root}: another run is at work there{self._who()}; "
                "wait for it, or give another directory"
            ) from error
        self._sign_lock()
        if self._published:
            return
        if fresh:
            self._clear()
        elif (self.folders.outputs / RECORD).exists():
            # A run that ended between its last stage and the last move.
            self.publish(keep_work=self._updates is not None)
            self._published = self._updates is None
        if self._published:
            return
        if (self.folders.root / RECORD).exists() and not fresh:
            self._take_back()
        self.folders.outputs.mkdir(exist_ok=True)
        write_json(work / MANIFEST, self._manifest)

    def _sign_lock(self) -> None:
        # The lock itself is the kernel's, and goes with the process that holds it, however that dies.
        holder = json.dumps({"host": socket.gethostname(), "pid": os.getpid()})
        (self.folders.work / "lock").write_text(holder, encoding="utf-8")

    def _who(self) -> str:
        try:
            found = json.loads((self.folders.work / "lock").read_text(encoding="utf-8"))
            return f" (process {found['pid']} on {found['host']})"
        except (OSError, ValueError, KeyError):
            return ""

    def copy_published(self) -> None:
        """Begin with the outputs as they were published: links to them, which new files will take the place of."""
        _remove(self.folders.outputs)
        self.folders.outputs.mkdir(parents=True)
        for name in (*OUTPUTS, RECORD):
            there, here = self.folders.root / name, self.folders.outputs / name
            if there.is_dir():
                shutil.copytree(there, here, copy_function=_link)
            elif there.exists():
                _link(str(there), str(here))

    def _take_back(self) -> None:
        # A run was published without some blocks, or of inputs that have changed, and is to be completed: most of it
        # is still good, and stays published until the new result replaces it. Files are linked, not copied: what
        # writes here puts new files in the place of old ones, and never changes one.
        for name in ("model", "models", "labels.zarr"):
            there, here = self.folders.root / name, self.folders.outputs / name
            if there.exists() and not here.exists():
                shutil.copytree(there, here, copy_function=_link)

    def _clear(self) -> None:
        for path in self.folders.work.iterdir():
            if path.name != "lock":
                _remove(path)

    def publish(self, *, keep_work: bool = False) -> None:
        """Move the outputs into place, the record last, and drop the intermediates.

        The old record goes first, so that at no time a record stands beside outputs that are not its own. A crash in
        between leaves the outputs that have not been moved; publishing again moves them.
        """
        root, outputs = self.folders.root, self.folders.outputs
        list_path = self.folders.work / "publishing.json"
        if not list_path.exists():
            write_json(list_path, {"names": sorted(path.name for path in outputs.iterdir() if path.name != RECORD)})
        names = (read_json(list_path) or {})["names"]
        (root / RECORD).unlink(missing_ok=True)
        for name in {*OUTPUTS} - {*names}:
            _remove(root / name)  # what only an earlier run of another kind had
        for name in names:
            if (outputs / name).exists():
                _remove(root / name)
                (outputs / name).rename(root / name)
        (outputs / RECORD).rename(root / RECORD)
        list_path.unlink()
        if not keep_work:
            self._clear()
        self._published = True

    def close(self) -> None:
        """Give the directory free; of a published run without intermediates nothing stays but its outputs."""
        if self._lock is not None:
            self._lock.close()
            self._lock = None
        work = self.folders.work
        if self._published and [path.name for path in work.iterdir()] == ["lock"]:
            (work / "lock").unlink(missing_ok=True)
            work.rmdir()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def _link(there: str, here: str) -> None:
    try:
        os.link(there, here)
    except OSError:  # a file system without links
        shutil.copy2(there, here)


def is_locked(lock: Path) -> bool:
    """Whether a run holds the lock of its directory now."""
    try:
        with lock.open("r", encoding="utf-8") as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except FileNotFoundError:
        return False
    except BlockingIOError:
        return True
    return False


def _lock_alone(lock: IO[str], tries: int = 5, wait_s: float = 0.1) -> None:
    # Whoever looks whether the lock is held holds it for an instant, which is no other run.
    for left in reversed(range(tries)):
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if not left:
                raise
            time.sleep(wait_s)
        else:
            return


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
