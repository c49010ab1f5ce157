"""From contents to one page that needs nothing else: template, styles, scripts and data in a single file.

The page may load nothing: its content policy allows the styles and the script in it, by their digests, and pictures
that it carries itself. Names come from files and people, so the template escapes everything.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import Any

import jinja2
from markupsafe import Markup

from pipeline.legend import LegendClass
from pipeline.report.contents import Contents
from pipeline.report.survey import Survey
from pipeline.report.views import CONFIDENCE_STEP

_PAGE = files("pipeline.report") / "page"
STYLES = ("base.css", "map.css", "cards.css")
SCRIPTS = ("model.js", "map.js", "edits.js", "main.js")


@dataclass(frozen=True)
class MapData:
    """What the map in the page is drawn from."""

    facts: Mapping[str, Any]
    labels: str
    confidence: str
    image: str | None

    @classmethod
    def make(cls, found: Survey) -> MapData:
        """Pack the view of a survey with its legend and its blocks."""
        view, box, (rows, columns) = found.view, found.box, found.grid.counts
        height, width = view.labels.shape
        facts = {
            "width": width,
            "height": height,
            "factor": view.factor,
            "nodata": view.nodata,
            "bytes": view.labels.dtype.itemsize,
            "confidence": CONFIDENCE_STEP / 200,
            "transform": [float(value) for value in box.affine[:6]],
            "degrees": bool(box.crs is not None and box.crs.geographic),
            "rows": [found.grid.block((row, 0)).core.y0 for row in range(1, rows)],
            "columns": [found.grid.block((0, column)).core.x0 for column in range(1, columns)],
            "classes": [_class_facts(each, found.areas) for each in found.legend.classes],
        }
        return cls(facts, *found.packed, found.image)


def _class_facts(each: LegendClass, areas: Mapping[int, float] | None) -> dict[str, Any]:
    return {
        "id": each.id,
        "name": each.name,
        "color": each.colour,
        "share": each.share,
        "pixels": each.pixels,
        "km2": None if areas is None else areas.get(each.id, 0.0) / 1e6,
    }


def render(contents: Contents, data: MapData, *, key: str) -> str:
    """Return the page as HTML; `key` names the run, so that a browser remembers its changes apart from others'."""
    aspect = data.facts["width"] / data.facts["height"]
    style, script = f":root {{ --map-aspect: {aspect:.4f}; }}\n{_joined(STYLES)}", _joined(SCRIPTS)
    return _template().render(
        c=contents,
        by_id={card.id: card for card in contents.classes},
        data={**data.facts, "key": key},
        packed=data,
        policy=content_policy(style, script),
        style=Markup(style),  # noqa: S704  (files of this package)
        script=Markup(script),  # noqa: S704
    )


def _joined(names: tuple[str, ...]) -> str:
    return "\n".join((_PAGE / name).read_text("utf-8") for name in names)


@cache
def _template() -> jinja2.Template:
    environment = jinja2.Environment(
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        loader=jinja2.FunctionLoader(lambda name: (_PAGE / name).read_text("utf-8")),
    )
    return environment.get_template("report.html.j2")


def content_policy(style: str, script: str) -> str:
    """Return a policy that lets a page run this style and this script and load nothing.

    >>> content_policy("", "")[:49]
    "default-src 'none'; img-src data: blob:; script-s"
    """
    return (
        "default-src 'none'; img-src data: blob:; "
        f"script-src 'sha256-{_digest(script)}'; style-src 'sha256-{_digest(style)}'; "
        "base-uri 'none'; form-action 'none'"
    )


def _digest(text: str) -> str:
    return base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
