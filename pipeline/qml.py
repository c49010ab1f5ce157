"""The style of a map of classes for QGIS: which takes ``labels.qml`` with ``labels.tif`` by itself."""

from __future__ import annotations

from collections.abc import Sequence
from xml.etree import ElementTree

from pipeline.legend import Legend

_DOCTYPE = "<!DOCTYPE qgis PUBLIC 'http://mrcc.com/qgis.dtd' 'SYSTEM'>\n"


def to_qml(legend: Legend) -> str:
    """Return a QGIS style (``.qml``): each class of the legend opaque in its colour and under its name.

    Values that the legend does not hold, nodata among them, are left out and so are not drawn.

    Examples
    --------
    >>> text = to_qml(Legend.from_counts({3: 7}, names={3: "bare <soil>"}))
    >>> [line.strip() for line in text.splitlines() if "paletteEntry" in line]
    ['<paletteEntry value="3" color="#f0e442" alpha="255" label="bare &lt;soil&gt;" />']
    """
    return to_style([(each.id, each.colour, each.name) for each in legend.classes])


def to_style(entries: Sequence[tuple[int, str, str]]) -> str:
    """Return a QGIS style that draws each of some values in a colour, ``#RRGGBB``, and labels it."""
    root = ElementTree.Element("qgis", version="3.22", styleCategories="Symbology")
    pipe = ElementTree.SubElement(root, "pipe")
    renderer = ElementTree.SubElement(
        pipe, "rasterrenderer", type="paletted", band="1", opacity="1", alphaBand="-1", nodataColor=""
    )
    ElementTree.SubElement(renderer, "rasterTransparency")
    palette = ElementTree.SubElement(renderer, "colorPalette")
    for value, colour, label in entries:
        entry = {"value": str(value), "color": colour.lower(), "alpha": "255", "label": label}
        ElementTree.SubElement(palette, "paletteEntry", entry)
    # Drawn larger or smaller, ids must not be averaged.
    provider = ElementTree.SubElement(ElementTree.SubElement(pipe, "provider"), "resampling", enabled="false")
    provider.set("zoomedInResamplingMethod", "nearestNeighbour")
    provider.set("zoomedOutResamplingMethod", "nearestNeighbour")
    ElementTree.SubElement(root, "blendMode").text = "0"
    ElementTree.indent(root)
    return _DOCTYPE + ElementTree.tostring(root, encoding="unicode") + "\n"
