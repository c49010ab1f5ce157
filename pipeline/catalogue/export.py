"""Legends in the formats of other programs."""

from __future__ import annotations

import csv
import io
import json
from typing import Literal

from pydantic import TypeAdapter

from pipeline.legend import Legend, LegendClass
from pipeline.qml import to_qml

Format = Literal["qml", "gdal", "csv", "json"]
FORMATS: dict[Format, str] = {
    "qml": "style of QGIS",
    "gdal": "colour file of gdaldem color-relief",
    "csv": "table",
    "json": "list of classes",
}

_CLASSES: TypeAdapter[tuple[LegendClass, ...]] = TypeAdapter(tuple[LegendClass, ...])


def export(legend: Legend, form: Format) -> str:
    """Return the classes of a legend, those that are only known too, as text of a format."""
    whole = Legend(legend.everything)
    match form:
        case "qml":
            return to_qml(whole)
        case "gdal":
            return to_gdal(whole)
        case "csv":
            return to_csv(whole)
        case "json":
            return json.dumps(_CLASSES.dump_python(whole.classes, mode="json"), indent=1, ensure_ascii=False) + "\n"


def to_gdal(legend: Legend) -> str:
    """Return a colour file for ``gdaldem color-relief -exact_color_entry -alpha``: value, red, green, blue, alpha.

    Examples
    --------
    >>> print(to_gdal(Legend.from_counts({3: 7}, names={3: "bare soil"})), end="")
    # 3: bare soil
    3 240 228 66 255
    nv 0 0 0 0
    """
    lines = []
    for each in legend.classes:
        red, green, blue = bytes.fromhex(each.colour[1:])
        lines += [f"# {each.id}: {each.name}", f"{each.id} {red} {green} {blue} 255"]
    return "\n".join([*lines, "nv 0 0 0 0", ""])


def to_csv(legend: Legend) -> str:
    """Return a table with a heading; names that a spreadsheet would take for a formula are quoted by an apostrophe.

    Examples
    --------
    >>> to_csv(Legend.from_counts({3: 7}, names={3: "=1+1"})).splitlines()[1]
    "3,'=1+1,#F0E442,7,1.0,,,"
    """
    text = io.StringIO()
    table = csv.writer(text, lineterminator="\n")
    table.writerow(["id", "name", "color", "pixels", "share", "parents", "first_seen", "last_seen"])
    for each in legend.classes:
        name = f"'{each.name}" if each.name[0] in "=+-@" else each.name
        parents = " ".join(str(parent) for parent in each.parents)
        table.writerow([each.id, name, each.colour, each.pixels, each.share, parents, each.first_seen, each.last_seen])
    return text.getvalue()
