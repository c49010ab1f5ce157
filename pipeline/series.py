"""Series: the maps of several dates in one store ``(time, y, x)``, appended a whole date at a time.

What a reader sees of a Zarr store is what the consolidated metadata in its own ``zarr.json`` says, which xarray and
zarr read first. A date is therefore made beside the store, its chunks are moved to where no reader looks yet, and
that one file is replaced last: before, there is nothing of the date, afterwards all of it. A process that is killed
in between leaves the series as it was, and the next append clears up.

Dates lie in the order in which they came, so that none has to be moved; `open_series` sorts them.
"""

from __future__ import annotations

import fcntl
import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr
import zarr

from pipeline.collection import leave_collection, write_collection
from pipeline.errors import InputError, MisfitError
from pipeline.grids import describe_grid, same_grid
from pipeline.legend import Legend
from pipeline.levels import coarser, create_level, describe_levels, reduce_levels
from pipeline.results import LABELS, LEGEND, Result, open_result, open_store
from pipeline.stores import (
    CONVENTIONS,
    FORMAT_ATTRIBUTE,
    FORMAT_VERSION,
    LEVELS,
    LabelStore,
    add_rasters,
    consolidate,
    grid_coordinates,
)

SERIES = "series.zarr"
UNITS = "seconds since 1970-01-01"
ALONG_TIME = ("labels", "confidence", "time")


@dataclass(frozen=True)
class Date:
    """One date of a series: when, the run that mapped it, and the pixels of each class in it."""

    time: str
    run: str
    key: str | None
    pixels: dict[str, int]

    @property
    def stamp(self) -> np.datetime64:
        """The time as the store holds it."""
        return np.datetime64(self.time, "s")


def append(series_dir: str | Path, run_dir: str | Path, time: str | datetime, *, replace: bool = False) -> Path:
    """Append the map of a run to a series, in one step.

    The first run makes the series: grid, chunks and dtype are those of its map. Giving the same run for the same date
    again changes nothing, so that whoever appends may simply try again.

    Parameters
    ----------
    series_dir
        Directory of the series; made where there is none. The store in it is ``series.zarr``, its legend
        ``classes.json``, its STAC collection ``collection.json``.
    run_dir
        A published run on the grid of the series, with the same vocabulary: one model, or one catalogue.
    time
        Date and time of the map, as ISO 8601 or `datetime`; without a zone it is UTC.
    replace
        Put the run in the place of another one that the series holds for that date.

    Returns
    -------
    Path
        The store.

    Raises
    ------
    MisfitError
        The run is on another grid, or its ids have another meaning than those of the series.
    InputError
        The run is incomplete; or the series holds another run for that date and `replace` is False. After either the
        series is as it was.
    """
    folder, result = Path(series_dir).absolute(), open_result(Path(run_dir).absolute())
    if result.record.blocks.failed:
        raise InputError(
            f"{run_dir}: lacks {result.record.blocks.failed} blocks; give its command again to complete it"
        )
    date = _date_of(result, folder, parse_time(time))
    with _locked(folder):
        _clear_up(folder)
        dates = read_dates(folder) if (folder / SERIES).exists() else []
        at = next((i for i, held in enumerate(dates) if held.time == date.time), len(dates))
        if at < len(dates) and not replace:
            if dates[at].key != date.key or date.key is None:
                raise InputError(
                    f"{folder}: holds another run for {date.time} already ({dates[at].run}); "
                    f"append with replace to put {run_dir} in its place"
                )
        else:
            if len(dates) > (at < len(dates)):  # others than the one to be replaced
                _check_same_kind(folder, result)
            _add(folder, [*dates[:at], date, *dates[at + 1 :]], at, result)
            for gone in {each.run for each in dates[at : at + 1]} - {date.run}:
                leave_collection(folder / gone)
        _describe(folder, date.run)
    return folder / SERIES


def parse_time(time: str | datetime) -> str:
    """Return a time as ISO 8601 in UTC, to the second, without its zone.

    Raises
    ------
    InputError
        It is no time.

    Examples
    --------
    >>> parse_time("2021-03"), parse_time("2021-03-05T12:00+02:00")
    ('2021-03-01T00:00:00', '2021-03-05T10:00:00')
    """
    text = f"{time}-01" if isinstance(time, str) and len(time) == len("2021-03") else time
    try:
        moment = datetime.fromisoformat(text) if isinstance(text, str) else text
    except ValueError as error:
        raise InputError(f"time {time!r}: is no date; expected 2021-03, 2021-03-05 or 2021-03-05T12:00") from error
    if moment.tzinfo is not None:
        moment = moment.astimezone(UTC).replace(tzinfo=None)
    return moment.isoformat(timespec="seconds")


def open_series(path: str | Path, max_px: int | None = None) -> xr.Dataset:
    """Open a series, lazily: ``labels`` and ``confidence`` ``(time, y, x)``, by date, as integers, with their CRS.

    Parameters
    ----------
    path
        Directory of the series, or its store.
    max_px
        Open the finest level that is at most so wide and high, or the coarsest; of levels, only labels are there.
    """
    path = Path(path)
    store = path / SERIES if (path / SERIES).exists() else path
    read_dates(store.parent)  # for its errors
    if max_px is None:
        return open_store(store).sortby("time")
    held = LabelStore.open(store)
    sizes = [max(held.shape), *(max(level.shape[-2:]) for level in held.levels())]
    fits = next((i for i, size in enumerate(sizes) if size <= max_px), len(sizes) - 1)
    return open_store(store, f"{LEVELS}/{fits}" if fits else None).sortby("time")


def read_dates(series_dir: str | Path) -> list[Date]:
    """Return the dates of a series in the order in which they came; InputError where there is none."""
    return [Date(**each) for each in _read_attributes(Path(series_dir))["dates"]]


def read_legend(series_dir: str | Path) -> Legend:
    """Return the classes of all dates, with their pixels over all of them; names and colours are the newest."""
    return _legend(read_dates(series_dir), _read_attributes(Path(series_dir))["classes"])


def _read_attributes(folder: Path) -> dict[str, Any]:
    try:
        attrs = dict(zarr.open_group(folder / SERIES, mode="r").attrs)
    except (OSError, ValueError) as error:
        raise InputError(f"{folder}: holds no series; expected a directory with {SERIES}") from error
    if missing := [name for name in ("dates", "classes", "vocabulary") if name not in attrs]:
        raise InputError(f"{folder / SERIES}: is no series made by ktextures; it lacks {', '.join(missing)}")
    return attrs


def _legend(dates: Sequence[Date], classes: Mapping[str, Mapping[str, str]]) -> Legend:
    counts: dict[int, int] = {}
    for date in dates:
        for class_id, pixels in date.pixels.items():
            counts[int(class_id)] = counts.get(int(class_id), 0) + pixels
    return Legend.from_counts(
        counts,
        names={int(i): each["name"] for i, each in classes.items()},
        colours={int(i): each["colour"] for i, each in classes.items()},
    )


def _describe(folder: Path, new: str) -> None:
    """Write the legend and the STAC collection, which follow from what the store holds; `new` is the run that came."""
    legend, dates = read_legend(folder), read_dates(folder)
    legend.to_json(folder / LEGEND)
    runs = [(datetime.fromisoformat(date.time).replace(tzinfo=UTC), date.run) for date in dates]
    write_collection(folder, SERIES, runs, legend, new=new)


def _date_of(result: Result, folder: Path, time: str) -> Date:
    pixels = {str(each.id): each.pixels for each in result.legend.classes}
    return Date(time, os.path.relpath(result.path, folder), result.record.key, pixels)


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """Have the series to oneself; another process that appends is waited for."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock = (folder / ".lock").open("a", encoding="utf-8")
    except OSError as error:
        raise InputError(f"{folder}: cannot be written ({error.strerror}); give another directory") from error
    with lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _staged(folder: Path) -> Path:
    return folder / f".{SERIES}.partial"


def _outgoing(folder: Path) -> Path:
    return folder / f".{SERIES}.old"


def _clear_up(folder: Path) -> None:
    """Undo what an append left that was killed: the series is the one that readers saw last."""
    if _outgoing(folder).exists() and not (folder / SERIES).exists():
        _outgoing(folder).rename(folder / SERIES)
    for path in (_staged(folder), _outgoing(folder)):
        if path.exists():
            shutil.rmtree(path)


def _check_same_kind(folder: Path, result: Result) -> None:
    held, new = LabelStore.open(folder / SERIES), LabelStore.open(result.path / LABELS)
    if (held.shape, held.dtype) != (new.shape, new.dtype) or not same_grid(held.geobox, new.geobox):
        raise MisfitError(
            f"{result.path}: is on another grid than the series {folder}: {describe_grid(new.geobox)} {new.dtype}; "
            f"expected {describe_grid(held.geobox)} {held.dtype}; run it on the same area and pixels"
        )
    said = _read_attributes(folder)["vocabulary"]
    if said is None or said != result.record.vocabulary:
        raise MisfitError(
            f"{result.path}: its ids mean other classes than those of the series {folder} "
            f"({result.record.vocabulary or 'its own'}; expected {said or 'those of one model or catalogue'}); "
            f"make all dates with one --model or one --catalogue"
        )


def _add(folder: Path, dates: Sequence[Date], at: int, result: Result) -> None:
    """Make the series that holds the run at position `at`, and let readers see it."""
    store, staged = folder / SERIES, _staged(folder)
    source = LabelStore.open(result.path / LABELS)
    _create(staged, source, dates, _attributes(folder, dates, result))
    _copy(source, staged, at)
    if not store.exists():
        staged.rename(store)
    elif at == len(dates) - 1 and len(dates) > len(read_dates(folder)) and _arrays(staged) == _arrays(store):
        _reveal(staged, store, at)
    else:
        _exchange(folder, staged, at, len(dates))


def _attributes(folder: Path, dates: Sequence[Date], result: Result) -> dict[str, Any]:
    known = _read_attributes(folder)["classes"] if (folder / SERIES).exists() else {}
    own = {str(each.id): {"name": each.name, "colour": each.colour} for each in result.legend.classes}
    found: dict[str, Any] = dict(LabelStore.open(result.path / LABELS).group.attrs)
    kept: dict[str, Any] = {name: found[name] for name in ("license", "attribution") if name in found}
    return {
        FORMAT_ATTRIBUTE: FORMAT_VERSION,
        "title": "k-texture classes, a series",
        "history": "\n".join(f"{date.time} {date.run}" for date in dates),
        **kept,
        "vocabulary": result.record.vocabulary,
        "classes": known | own,
        "dates": [asdict(date) for date in dates],
    }


def _create(path: Path, source: LabelStore, dates: Sequence[Date], attrs: Mapping[str, Any]) -> None:
    time = xr.DataArray([date.stamp.astype("datetime64[ns]") for date in dates], dims="time")
    # One date a chunk, so that none is written again when another comes.
    time.encoding = {"units": UNITS, "calendar": "proleptic_gregorian", "dtype": "int64", "chunks": (1,)}
    time.encoding["_FillValue"] = None
    time.attrs = {"standard_name": "time", "axis": "T", "comment": "in the order in which the dates came"}
    coords: dict[str, Any] = {**grid_coordinates(source.geobox), "time": time}
    said = {"Conventions": CONVENTIONS, **attrs, **describe_levels(source.geobox)}
    xr.Dataset(coords=coords, attrs=said).to_zarr(path, mode="w-", zarr_format=3, consolidated=False)
    group = zarr.open_group(path, mode="r+")
    sizes = {"time": len(dates), "y": source.shape[0], "x": source.shape[1]}
    legend = _legend(dates, attrs["classes"])
    add_rasters(group, sizes, chunk_px=source.chunk_px, dtype=source.dtype.name, legend=legend)
    for level, geobox in enumerate(coarser(source.geobox), 1):
        sizes = {"time": len(dates), "y": int(geobox.shape[0]), "x": int(geobox.shape[1])}
        create_level(LabelStore.open(path), level, sizes, {**grid_coordinates(geobox), "time": time})
        consolidate(path / LEVELS / str(level))  # a reader may open it alone
    consolidate(path)


def _copy(source: LabelStore, path: Path, at: int) -> None:
    group = zarr.open_group(path, mode="r+")
    for window in source.strips():
        group["labels"][at, *window.slices] = source.read(window)  # type: ignore[index]
        group["confidence"][at, *window.slices] = source.read_confidence(window)  # type: ignore[index]
    reduce_levels(LabelStore.open(path, "r+"), (at,))


def _levels(path: Path) -> list[str]:
    """Return the groups of the levels of a store."""
    return [f"{LEVELS}/{level}" for level in range(1, 1 + len(LabelStore.open(path).levels()))]


def _arrays(path: Path) -> list[str]:
    """Return the arrays of a store that grow with the dates."""
    return [*ALONG_TIME, *(f"{level}/{name}" for level in _levels(path) for name in ("labels", "time"))]


def _reveal(staged: Path, store: Path, at: int) -> None:
    """Move a date into place: its chunks, then the metadata of its arrays, and last what all readers look at."""
    arrays, levels = _arrays(staged), _levels(staged)
    for name in arrays:
        chunks = store / name / "c" / str(at)
        _remove(chunks)  # of an append that was killed
        if (staged / name / "c" / str(at)).exists():
            chunks.parent.mkdir(parents=True, exist_ok=True)
            (staged / name / "c" / str(at)).rename(chunks)
    for name in (*arrays, *levels):
        os.replace(staged / name / "zarr.json", store / name / "zarr.json")
    os.replace(staged / "zarr.json", store / "zarr.json")
    shutil.rmtree(staged)


def _exchange(folder: Path, staged: Path, at: int, count: int) -> None:
    """Put a whole new store in the place of the old one; the chunks of the other dates are shared, not copied.

    The levels of a series that has none yet are made of its labels.
    """
    known = _arrays(folder / SERIES)
    for other in set(range(count)) - {at}:
        for name in known:
            chunks = Path(name) / "c" / str(other)
            if not name.endswith("time") and (folder / SERIES / chunks).exists():
                shutil.copytree(folder / SERIES / chunks, staged / chunks, copy_function=_link)
        if known != _arrays(staged):
            reduce_levels(LabelStore.open(staged, "r+"), (other,))
    (folder / SERIES).rename(_outgoing(folder))
    staged.rename(folder / SERIES)
    shutil.rmtree(_outgoing(folder))


def _link(source: str, target: str) -> None:
    try:
        os.link(source, target)
    except OSError:  # another file system, or one that has no links
        shutil.copy2(source, target)


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
