"""Maps for people: the names and colours of the legend, and nothing else."""

from __future__ import annotations

from pathlib import Path

import matplotlib as mpl
import numpy as np
import pytest

import pipeline
from pipeline.errors import InputError
from pipeline.levels import write_levels
from pipeline.stores import LabelStore
from tests.pipeline.published import publish

mpl.use("Agg")
pytestmark = pytest.mark.filterwarnings("ignore:Use `@` matmul:PendingDeprecationWarning")


def test_a_plot_has_the_colours_and_names_of_the_legend(tmp_path: Path) -> None:
    from matplotlib import pyplot

    labels = np.array([[0, 0, 9], [9, 255, 2]], np.uint8)
    result = pipeline.open_result(publish(tmp_path / "run", labels, names={9: "open water"}))
    image = result.plot(ax=pyplot.figure().gca())
    drawn = image.to_rgba(image.get_array(), bytes=True)
    for class_id in (0, 2, 9):
        colours = {tuple(map(int, colour)) for colour in drawn[labels == class_id]}
        assert colours == {(*bytes.fromhex(result.legend[class_id].colour[1:]), 255)}
    assert drawn[1, 1, 3] == 0, "nodata is left blank"
    assert [text.get_text() for text in image.colorbar.ax.get_yticklabels()] == ["class 0", "class 2", "open water"]
    assert image.axes.get_xlabel() == "x [metre]"
    pyplot.close("all")


def test_classes_are_picked_by_name(tmp_path: Path) -> None:
    labels = np.array([[0, 0, 9], [9, 255, 2]], np.uint8)
    result = pipeline.open_result(publish(tmp_path / "run", labels, names={9: "open water"}))
    np.testing.assert_array_equal(result.pick("open water", 2), np.isin(labels, (9, 2)))
    np.testing.assert_array_equal(result.pick("open_water"), labels == 9)
    assert result.pick(0).rio.crs.to_epsg() == 32618
    assert result.pick(0).chunks is not None
    with pytest.raises(InputError, match="'forest': is not in the legend; it has class 0, class 2, open water"):
        result.pick("forest")


def test_plots_are_drawn_from_a_level_that_fits(tmp_path: Path) -> None:
    run = publish(tmp_path / "run", np.zeros((1030, 30), np.uint8))
    write_levels(LabelStore.open(run / "labels.zarr", "r+"))
    result = pipeline.open_result(run)
    assert [result.level(size).shape for size in (2000, 1030, 1029, 515, 3)] == [
        (1030, 30), (1030, 30), (515, 15), (515, 15), (258, 8),
    ]  # fmt: skip
