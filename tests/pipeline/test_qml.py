"""The QGIS style says of each class what the legend says, and is well-formed whatever a class is called."""

from __future__ import annotations

from xml.etree import ElementTree

from hypothesis import given
from hypothesis import strategies as st

from pipeline.legend import Legend
from pipeline.qml import to_qml

NAMES = st.text(st.characters(exclude_categories=["C", "Z"]), min_size=1, max_size=20)


@given(st.dictionaries(st.integers(0, 254), NAMES, max_size=20))
def test_names_and_colours_come_through(names: dict[int, str]) -> None:
    legend = Legend.from_counts(dict.fromkeys(names, 1), names=names)
    found = ElementTree.fromstring(to_qml(legend)).findall("pipe/rasterrenderer/colorPalette/paletteEntry")
    said = {int(each.attrib["value"]): (each.attrib["label"], each.attrib["color"].upper()) for each in found}
    assert said == {each.id: (each.name, each.colour) for each in legend.classes}
    assert {each.attrib["alpha"] for each in found} <= {"255"}
