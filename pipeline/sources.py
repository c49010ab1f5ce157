"""What SOURCE on the command line stands for: a list of raster files.

Each source is a GeoTIFF, a folder (its ``.tif`` and ``.tiff``, not those of its subfolders, sorted by name), a glob
(sorted), the ``s3://`` address of a GeoTIFF or of the prefix right below which several lie, or a text file (``.txt``,
``.lst``) with one path or address a line, relative to the text file, ``#`` for comments. A Planet UDM2 file is never
imagery: ``X_udm2.tif`` beside ``X.tif`` or ``X_AnalyticMS_SR.tif`` is its mask.
"""

from __future__ import annotations

import glob
import os
import re
from collections.abc import Iterable, Sequence
from pathlib import Path

from pipeline import files, objects
from pipeline.errors import InputError

RASTER_SUFFIXES = (".tif", ".tiff")
LIST_SUFFIXES = (".txt", ".lst")
MAX_LIST_BYTES = 1 << 26

_REMOTE = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+://|/vsi|[A-Z]{2,}[A-Z0-9_]*:")
_GLOB = re.compile(r"[*?\[]")
_UDM2 = re.compile(r"(?P<scene>.+)_udm2(_[a-z]+)*", re.IGNORECASE)


def list_rasters(sources: str | Path | Sequence[str | Path]) -> list[Path]:
    """Return the raster files that sources stand for, in order and each once.

    Raises
    ------
    InputError
        If a source is missing, remote, empty, or of a kind that is not read.
    """
    if isinstance(sources, (str, Path)):
        sources = [sources]
    found = [path for source in sources for path in _expand(source)]
    if not found:
        raise InputError("SOURCE: none given; expected GeoTIFF files, a folder, a glob or a text file with paths")
    return list(dict.fromkeys(Path(os.path.abspath(path)) for path in found))  # keeps links


def _expand(source: str | Path) -> list[Path]:
    text = os.fspath(source)
    if objects.is_url(text):
        return _expand_objects(text)
    if _REMOTE.match(text):
        raise InputError(f"{text}: only local files and s3:// are read; download it and give its path")
    path = Path(text).expanduser()
    if path.is_dir():
        return _expand_folder(path)
    if not path.exists() and _GLOB.search(text):
        return _expand_glob(text)
    if not path.exists():
        raise InputError(f"{text}: no such file or folder; check the path")
    if path.suffix.lower() in LIST_SUFFIXES:
        return _expand_list(path)
    if is_udm2(path):
        raise InputError(f"{text}: is a UDM2 mask, not imagery; give its scene, the mask beside it is found")
    return [path]


def _expand_objects(url: str) -> list[Path]:
    path = objects.to_path(url)
    if path.suffix.lower() in RASTER_SUFFIXES and not is_udm2(path):
        return [path]
    rasters = [found for found in objects.list_folder(path) if _is_imagery(found)]
    if not rasters:
        raise InputError(f"{url}: no .tif or .tiff right below it; give the prefix of the rasters, or their addresses")
    return rasters


def _expand_folder(folder: Path) -> list[Path]:
    rasters = [path for path in sorted(folder.iterdir()) if _is_imagery(path)]
    if not rasters:
        inside = " (its subfolders are not searched)" if any(path.is_dir() for path in folder.iterdir()) else ""
        raise InputError(f"{folder}: holds no .tif or .tiff file{inside}; give the folder of the rasters, or a glob")
    return rasters


def _expand_glob(pattern: str) -> list[Path]:
    paths = [Path(path) for path in sorted(glob.glob(os.path.expanduser(pattern), recursive=True))]
    rasters = [path for path in paths if _is_imagery(path)]
    if not rasters:
        raise InputError(f"{pattern}: matches no .tif or .tiff file ({len(paths)} others); check the pattern")
    return rasters


def _is_imagery(path: Path) -> bool:
    # Dot files are what file systems leave behind (._quad.tif), not images.
    hidden = path.name.startswith(".")
    return (
        path.suffix.lower() in RASTER_SUFFIXES
        and not hidden
        and not is_udm2(path)
        and (objects.is_object(path) or path.is_file())
    )


def _expand_list(listing: Path) -> list[Path]:
    if listing.stat().st_size > MAX_LIST_BYTES:
        raise InputError(f"{listing}: is larger than {MAX_LIST_BYTES >> 20} MiB, a list of paths was expected")
    try:
        text = listing.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise InputError(f"{listing}: is not UTF-8 text, one path a line was expected; check the file") from error
    lines = [(number, line.strip()) for number, line in enumerate(text.splitlines(), 1)]
    paths = [_listed(listing, number, line) for number, line in lines if line and not line.startswith("#")]
    if not paths:
        raise InputError(f"{listing}: lists no path; expected one a line")
    return paths


def _listed(listing: Path, number: int, line: str) -> Path:
    if objects.is_url(line):
        return objects.to_path(line)
    if _REMOTE.match(line):
        raise InputError(f"{listing}, line {number}: {line[:200]}: only local files are read; download it")
    path = listing.parent / Path(line).expanduser()
    if not path.is_file():
        raise InputError(f"{listing}, line {number}: {line[:200]}: no such file; paths count from the text file")
    if is_udm2(path):
        raise InputError(f"{listing}, line {number}: {line[:200]}: is a UDM2 mask, not imagery; remove the line")
    return path


def is_udm2(path: Path) -> bool:
    """Whether a name is that of a UDM2 mask.

    Examples
    --------
    >>> is_udm2(Path("20200925_161029_69_2223_3B_udm2_clip.tif"))
    True
    """
    return path.suffix.lower() in RASTER_SUFFIXES and _UDM2.fullmatch(path.stem) is not None


def pair_udm2(rasters: Iterable[Path]) -> dict[Path, Path]:
    """Return the UDM2 beside each scene that has one.

    A UDM2 ``X_udm2.tif`` belongs to the scenes of its folder that are named ``X`` or begin with ``X_``; of several
    the longest ``X`` counts.
    """
    rasters = list(rasters)
    beside = {folder: _udm2_by_scene(folder) for folder in {path.parent for path in rasters}}
    pairs = {path: _best_match(path.stem, beside[path.parent]) for path in rasters}
    return {path: udm2 for path, udm2 in pairs.items() if udm2 is not None}


def _udm2_by_scene(folder: Path) -> dict[str, Path]:
    matches = ((_UDM2.fullmatch(path.stem), path) for path in files.list_folder(folder) if is_udm2(path))
    return {match["scene"]: path for match, path in matches if match and not path.name.startswith(".")}


def _best_match(stem: str, masks: dict[str, Path]) -> Path | None:
    # Prefixes end at underscores, so a lookup per underscore is enough, however many files lie beside.
    parts = stem.split("_")
    prefixes = ("_".join(parts[:n]) for n in range(len(parts), 0, -1))
    return next((masks[prefix] for prefix in prefixes if prefix in masks), None)
