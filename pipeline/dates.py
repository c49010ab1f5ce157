"""Acquisition dates: files of several dates are not one mosaic."""

from __future__ import annotations

import calendar
import re
from collections.abc import Iterator, Sequence
from pathlib import Path

from pipeline.errors import InputError

YEARS = range(1972, 2101)
ANY_DATE = "any"
MAX_LISTED = 12

_DAY = r"(\d{4})(\d{2})(\d{2})|(\d{4})-(\d{2})-(\d{2})|(\d{4})_(\d{2})_(\d{2})"
_MONTH = r"(\d{4})[-_](\d{2})"
# Digits may not go on, nor may an id of two numbers (0639-0941) or a time of day be cut in the middle.
_DATES = re.compile(rf"(?<![\d.])(?:{_DAY}|{_MONTH})(?!\d)")
_TAG = re.compile(r"(\d{4}):(\d{2}):(\d{2})\b")
_REQUEST = re.compile(r"(\d{4})(?:-?(\d{2})(?:-?(\d{2}))?)?")


def date_in_text(text: str) -> str | None:
    """Return the first plausible date in a name: ``2012-07-31``, or ``2021-02`` for a month.

    A name may hold a second one (when the file was made, when a period ends): the first is the acquisition.
    Years go from 1972 to 2100, so that most ids are not taken for dates.

    Examples
    --------
    >>> date_in_text("m_4709963_se_14_1_20120731")
    '2012-07-31'
    >>> date_in_text("planet_medres_normalized_analytic_2021-03_mosaic")
    '2021-03'
    >>> date_in_text("L15-0639E-0942N") is None
    True
    """
    return next(_plausible(_DATES, text), None)


def date_in_tag(text: str | None) -> str | None:
    """Return the day of a TIFF DateTime tag, ``2020:09:25 16:10:29``, or None.

    Examples
    --------
    >>> date_in_tag("2020:09:25 16:10:29")
    '2020-09-25'
    """
    return next(_plausible(_TAG, text or ""), None)


def _plausible(pattern: re.Pattern[str], text: str) -> Iterator[str]:
    for match in pattern.finditer(text):
        year, month, *day = (int(group) for group in match.groups() if group)
        if year not in YEARS or not 1 <= month <= 12:
            continue
        if day and not 1 <= day[0] <= calendar.monthrange(year, month)[1]:
            continue
        yield "-".join([f"{year:04d}", f"{month:02d}", *(f"{d:02d}" for d in day)])


def date_of_file(path: Path, tag_datetime: str | None = None) -> str | None:
    """Return the date of a file: from its name, else from its folder's name, else from its DateTime tag."""
    return date_in_text(path.stem) or date_in_text(path.parent.name) or date_in_tag(tag_datetime)


def select_date(dates: Sequence[str | None], request: str | None, names: Sequence[str]) -> list[int]:
    """Return the positions of the files that make one mosaic.

    Parameters
    ----------
    dates
        Date of each file, None where it has none.
    request
        ``2012``, ``2012-07`` or ``2012-07-31``: keep the files whose date begins so. ``any``: keep all.
        None: keep all, of which there may be one date only; files without a date go with any.
    names
        The files, for messages.

    Raises
    ------
    InputError
        If several dates remain (lists them), or none.

    Examples
    --------
    >>> select_date(["2010-06-29", "2012-07-31"], "2012", ["a", "b"])
    [1]
    """
    if request == ANY_DATE:
        return list(range(len(dates)))
    wanted = _normalise(request) if request is not None else ""
    kept = [i for i, date in enumerate(dates) if (date or "").startswith(wanted)]
    if not kept:
        found = _listed(dates) or "none in the names or tags of the files"
        raise InputError(f"--date {request}: no file of {len(names)} (first {names[0]}) has it; found: {found}")
    remaining = {dates[i] for i in kept} - {None}
    if len(remaining) > 1:
        raise InputError(
            f"{names[kept[0]]} and the other files have {len(remaining)} dates, which are not one mosaic: "
            f"{_listed([dates[i] for i in kept])}; choose with --date, or say --date {ANY_DATE} to mix them"
        )
    return kept


def _normalise(request: str) -> str:
    match = _REQUEST.fullmatch(request.strip())
    if match is None:
        raise InputError(f"--date {request!r}: is no date; expected 2012, 2012-07, 2012-07-31 or {ANY_DATE}")
    return "-".join(group for group in match.groups() if group)


def _listed(dates: Sequence[str | None]) -> str:
    known = sorted({date for date in dates if date})
    rest = f" and {len(known) - MAX_LISTED} more" if len(known) > MAX_LISTED else ""
    return ", ".join(known[:MAX_LISTED]) + rest
