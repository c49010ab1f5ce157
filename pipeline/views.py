"""Maps for people in xarray: classes by their names, and plots in the colours of the legend."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import xarray as xr

from pipeline.errors import InputError
from pipeline.legend import Legend

if TYPE_CHECKING:
    from matplotlib.image import AxesImage


def find_classes(legend: Legend, *classes: str | int) -> list[int]:
    """Return the ids of classes given by name, by their word in ``flag_meanings``, or by id.

    Raises
    ------
    InputError
        The legend has no such class; names those that it has.

    Examples
    --------
    >>> legend = Legend.from_counts({0: 5, 3: 7}, names={3: "open water"})
    >>> find_classes(legend, "open water", "open_water", 0)
    [3, 3, 0]
    """
    known: dict[str | int, int] = {each.id: each.id for each in legend.classes}
    known |= dict(zip(legend.tokens, legend.ids, strict=True))
    known |= {each.name: each.id for each in legend.classes}
    if missing := [each for each in classes if each not in known]:
        names = ", ".join(each.name for each in legend.classes)
        raise InputError(f"class {missing[0]!r}: is not in the legend; it has {names}")
    return [known[each] for each in classes]


def plot_labels(labels: xr.DataArray, legend: Legend, **options: Any) -> AxesImage:
    """Plot a map ``(y, x)`` by xarray's own `imshow`, with the legend's colours and names at the colour bar.

    Parameters
    ----------
    labels
        Class ids; values that the legend does not hold are left blank.
    options
        For `xarray.DataArray.plot.imshow`, such as ``ax`` and ``figsize``.
    """
    try:
        from matplotlib.colors import ListedColormap
    except ImportError as error:
        raise InputError("plotting needs matplotlib, which is not installed; install it beside ktextures") from error
    places = np.full(int(np.iinfo(labels.dtype).max) + 1, np.nan, np.float32)
    places[legend.ids] = np.arange(len(legend))
    drawn = labels.copy(data=places[labels.to_numpy()])
    drawn.attrs = {"long_name": labels.attrs.get("long_name", "class")}
    image: Any = drawn.plot.imshow(
        cmap=ListedColormap([each.colour for each in legend.classes]),
        vmin=-0.5,
        vmax=len(legend) - 0.5,
        interpolation="nearest",
        cbar_kwargs={"ticks": np.arange(len(legend)), "label": ""},
        **options,
    )
    image.colorbar.set_ticklabels([each.name for each in legend.classes])
    drawn_image: AxesImage = image
    return drawn_image
