"""What a scene hands out: pixels with their validity, and the fingerprints of the files behind them."""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray
from odc.geo.geobox import GeoBox

from pipeline import files, objects
from pipeline.blocks import Window
from pipeline.errors import InputError, RunFailedError

if TYPE_CHECKING:
    from pipeline.balance import Balanced

FINGERPRINT_THREADS = 4

Report = Callable[[int, int], None]
"""Called with (done, in all)."""


class Pixels(NamedTuple):
    """A window of a scene.

    Attributes
    ----------
    data
        ``(band, y, x)`` in the scene's dtype: the feature bands alone, never alpha. 0 where `valid` is False.
    valid
        ``(y, x)`` bool: False in gaps, nodata, transparent, masked pixels and outside the area of interest.
    """

    data: NDArray[Any]
    valid: NDArray[np.bool_]

    @property
    def shape(self) -> tuple[int, int]:
        """Height and width in pixels."""
        return self.valid.shape[0], self.valid.shape[1]

    def where(self, keep: NDArray[np.bool_]) -> Pixels:
        """Return the pixels with those outside `keep` ``(y, x)`` made invalid."""
        valid = self.valid & keep
        return Pixels(np.where(valid, self.data, self.data.dtype.type(0)), valid)

    @classmethod
    def empty(cls, n_bands: int, shape: tuple[int, int], dtype: np.dtype[Any]) -> Pixels:
        """Return pixels of which none is valid yet."""
        return cls(np.zeros((n_bands, *shape), dtype), np.zeros(shape, np.bool_))


@dataclass(frozen=True)
class InputFile:
    """Identity of an input, as `run.json` records it.

    A file is known by the hash of its content, an object by the ETag of its store. `stamp` is what tells whether a
    file is still the one that was looked at (see `pipeline.files`), None for what is no file; it is no part of the
    identity.
    """

    path: str
    size_bytes: int
    sha256: str | None
    etag: str | None = None
    stamp: str | None = field(default=None, compare=False)

    @property
    def identity(self) -> str | None:
        """What changes with the content."""
        return self.sha256 or self.etag

    def check_unchanged(self) -> None:
        """Raise RunFailedError where the file is gone, or another than the one that was hashed."""
        if self.stamp is None:
            return
        name = objects.to_text(self.path)
        try:
            found = files.look_at(Path(self.path))
        except OSError as error:
            raise RunFailedError(
                f"{name}: disappeared while the run was under way ({error.strerror or error}); "
                "bring it back and run again"
            ) from error
        if found != (self.size_bytes, self.stamp):
            raise RunFailedError(
                f"{name}: was changed while the run was under way; run again, when it is whole, "
                "and what it touches is done anew"
            )


def fingerprint_file(path: Path) -> InputFile:
    """Hash a file without holding it in memory; of an object the ETag is taken.

    Raises
    ------
    InputError
        If the file cannot be read.
    """
    try:
        before = files.look_at(path)
        if objects.is_object(path):
            return InputFile(str(path), before.size, None, before.stamp, before.stamp)
        with path.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
        return InputFile(str(path), before.size, digest, None, before.stamp)
    except OSError as error:
        reason = error.strerror or error
        raise InputError(f"{path}: cannot be read to fingerprint it ({reason}); check the file") from error


def fingerprint_files(paths: Iterable[Path], report: Report | None = None) -> list[InputFile]:
    """Hash several files, a few at a time, in their order; `report` hears of each."""
    paths, found = list(paths), list[InputFile]()
    with ThreadPoolExecutor(FINGERPRINT_THREADS) as pool:
        for file in pool.map(fingerprint_file, paths):
            found.append(file)
            if report is not None:
                report(len(found), len(paths))
    return found


def check_window(window: Window, shape: tuple[int, int]) -> None:
    """Raise ValueError unless `window` has pixels and lies inside a scene of `shape`.

    Examples
    --------
    >>> check_window(Window(0, 0, 4, 5), (4, 4))
    Traceback (most recent call last):
    ...
    ValueError: `window` must have pixels inside the scene of shape (4, 4); got Window(y0=0, x0=0, y1=4, x1=5)
    """
    inside = 0 <= window.y0 < window.y1 <= shape[0] and 0 <= window.x0 < window.x1 <= shape[1]
    if not inside:
        raise ValueError(f"`window` must have pixels inside the scene of shape {tuple(shape)}; got {window}")


def sample_positions(start: int, stop: int, step: int) -> NDArray[np.int64]:
    """Return the pixels that stand for each cell of `step` pixels in a half-open range.

    The cells are counted from `start`; a cell is represented by its middle, the last one by the middle of what it has.

    Examples
    --------
    >>> sample_positions(10, 17, 3)
    array([11, 14, 16])
    >>> sample_positions(0, 3, 1)
    array([0, 1, 2])
    """
    first = np.arange(start, stop, step, dtype=np.int64)
    return first + (np.minimum(first + step, stop) - first) // 2


class Scene(Protocol):
    """Pixels on one grid. Picklable: it holds paths, not open files."""

    @property
    def geobox(self) -> GeoBox:
        """The grid: CRS (may be None), affine, shape ``(y, x)``."""

    @property
    def bands(self) -> tuple[str, ...]:
        """``R``, ``G``, ``B``, ``N`` or free names, in the order of `Pixels.data`."""

    @property
    def dtype(self) -> np.dtype[Any]:
        """Dtype of `Pixels.data`."""

    @property
    def balanced(self) -> Balanced | None:
        """What its files were corrected by, where that was asked for (see `pipeline.balance`)."""

    def read(self, window: Window) -> Pixels:
        """Read a window that lies inside the scene, at full resolution."""

    def overview(self, max_px: int) -> Pixels:
        """Read the scene decimated to at most `max_px` a side; an estimate."""

    def fingerprints(self, report: Report | None = None) -> list[InputFile]:
        """Hash everything that the pixels depend on."""

    def files_in(self, window: Window) -> Sequence[str]:
        """Return the paths, as `fingerprints` has them, of all that the pixels of a window depend on.

        Their order counts as well: of files that overlap the first one wins.
        """


class SampledScene(ABC):
    """What scenes share: windows and overviews are both pixels on some rows and columns of a grid."""

    geobox: GeoBox
    bands: tuple[str, ...]
    dtype: np.dtype[Any]
    balanced: Balanced | None = None

    @abstractmethod
    def fingerprints(self, report: Report | None = None) -> list[InputFile]:
        """Hash everything that the pixels depend on."""

    @abstractmethod
    def files_in(self, window: Window) -> Sequence[str]:
        """Return the paths of all that the pixels of a window depend on."""

    @abstractmethod
    def sample(self, rows: NDArray[np.int64], columns: NDArray[np.int64], step: int) -> Pixels:
        """Read the pixels on rising `rows` and `columns`, of which one in `step` is wanted.

        With a `step` of 1 they are contiguous and exact; otherwise a source may give a pixel within `step` of them.
        """

    def read(self, window: Window) -> Pixels:
        """Read a window that lies inside the scene, at full resolution.

        Raises
        ------
        ValueError
            If the window is empty or reaches beyond the scene.
        RunFailedError
            If a file turns out to be damaged; names it.
        """
        check_window(window, self.geobox.shape)
        try:
            return self._sample(window, 1)
        except OSError as error:
            raise RunFailedError(str(error)) from error

    def overview(self, max_px: int) -> Pixels:
        """Read the scene decimated to at most `max_px` a side, from the files' overviews where they have them.

        Cells of a fixed number of pixels are counted from the upper left corner, and each is represented by a pixel
        near its middle: good for an estimate and a picture, not for the exact count of valid pixels.

        Raises
        ------
        InputError
            If a file turns out to be damaged; names it.
        """
        if max_px < 1:
            raise ValueError(f"max_px must be positive; got {max_px}")
        height, width = self.geobox.shape
        try:
            return self._sample(Window(0, 0, height, width), -(-max(height, width) // max_px))
        except OSError as error:
            raise InputError(str(error)) from error

    def _sample(self, window: Window, step: int) -> Pixels:
        rows = sample_positions(window.y0, window.y1, step)
        columns = sample_positions(window.x0, window.x1, step)
        pixels = self.sample(rows, columns, step)
        return pixels if pixels.valid.all() else pixels.where(pixels.valid)
