"""Making the report of a run, as its last stage or again from what it published."""

from __future__ import annotations

import logging
import os
from collections.abc import Sequence
from pathlib import Path

import rasterio

from pipeline.borders import Border
from pipeline.checksums import checksums, note_edit
from pipeline.errors import InputError
from pipeline.imagery import reopen_scene
from pipeline.legend import Legend
from pipeline.pixels import Scene
from pipeline.quicklook import write_quicklook
from pipeline.record import RunRecord
from pipeline.report.contents import compile_contents
from pipeline.report.render import MapData, render
from pipeline.report.survey import Imagery, Meanwhile, survey
from pipeline.stac import ITEM, write_item
from pipeline.stores import LabelStore
from pipeline.workspace import RECORD, check_writable

logger = logging.getLogger(__name__)

REPORT = "report.html"
QUICKLOOK = "quicklook.png"
_CACHE_MB = 64
PIXELS = '<script type="text/plain" id="image">'
"""What a page begins its imagery with."""


def write_report(
    directory: Path,
    record: RunRecord,
    imagery: Imagery,
    *,
    title: str,
    meanwhile: Meanwhile | None = None,
    borders: Sequence[Border] | None = None,
) -> Path:
    """Write ``report.html`` beside the outputs of a run; it is there whole or not at all.

    Parameters
    ----------
    directory
        Where the outputs of the run lie, published or about to be.
    record
        Its record, which need not be written yet.
    imagery
        The scene, for real patches and as the ground of the map.
    title
        Heading of the page; any text.
    meanwhile, borders
        What others make at the same time, and what has been measured already, as `survey` takes them.
    """
    with rasterio.Env(GDAL_CACHEMAX=_CACHE_MB):  # else GDAL keeps what it read, up to a share of the machine's memory
        found = survey(directory, record, imagery, meanwhile, borders)
    page = render(compile_contents(found, record, title), MapData.make(found), key=record.key or "")
    path = directory / REPORT
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    partial.write_text(page, encoding="utf-8")
    os.replace(partial, path)
    return path


def shows_pixels(page: Path) -> bool:
    """Whether a report holds pixels of the imagery."""
    return PIXELS in page.read_text(encoding="utf-8")


def remake_report(directory: Path, *, pixels: bool | None = None, title: str = "") -> tuple[Path, str]:
    """Make the report of a published run again, with its classes as they are named now.

    The imagery is read from where the run found it; where it is gone or has changed, the report does without it, and
    says so. Where pixels may not be shown, the quicklook is drawn anew, too, with the map alone.

    Parameters
    ----------
    directory
        A published run.
    pixels
        Whether pixels of the imagery may be shown; as the run was told where None.
    title
        Heading of the page; the directory's name where none is given.

    Returns
    -------
    tuple
        The page, and why it shows no pixels although it might; empty where it does.

    Raises
    ------
    InputError
        There is no published run, parts of it are missing, or its directory cannot be written.
    """
    record = RunRecord.read(directory / RECORD)
    if not record.is_published:
        raise InputError(f"{directory}: the run in it is {record.state!r}, not published; end it, then make its report")
    check_writable(directory)
    shown = bool(record.settings.get("show_pixels", True)) if pixels is None else pixels
    scene: Scene | None = None
    reason = ""
    try:
        scene = reopen_scene(record)
    except InputError as error:
        reason = f"This report shows no pixels of the imagery: {error}."
    before = checksums(directory)
    path = write_report(directory, record, Imagery(scene, shown, reason), title=title or directory.resolve().name)
    if not shown and (directory / QUICKLOOK).exists():
        store, legend = LabelStore.open(directory / "labels.zarr"), Legend.from_json(directory / "classes.json")
        write_quicklook(store, legend, directory / QUICKLOOK, None)
    if (directory / ITEM).exists():
        write_item(directory)  # which holds the page's checksum
    note_edit(directory, "report", before, checksums(directory))
    return path, reason


def follow_report(directory: Path, *, title: str = "") -> tuple[Path, str] | None:
    """Make the report of a run that was changed anew, where it has one; pixels that were left out stay out."""
    page = directory / REPORT
    if not page.exists():
        return None
    return remake_report(directory, pixels=None if shows_pixels(page) else False, title=title)
