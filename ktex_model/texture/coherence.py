"""Coherent components: what regions differ in, found without knowing the regions.

What belongs to a region stays the same from one place to the next; noise, and the swing of a texture itself, do not.
The components are those directions in feature space in which smoothed features vary most in units of how much they
change over a distance: minimum noise fractions (Green et al. 1988), maximum autocorrelation factors (Switzer and Green
1984). Where texture says little, as with coarse pixels, they are colours; where colours are shared, they are textures:
the weight of one against the other is the scene's own.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from ktex_model.texture.assignment import Cells
from ktex_model.texture.filters import Floats, blur

COMPONENTS = 10
"""Most components that starts are clustered from."""

_LEAST = 1e-3
"""Least change of a component, in units of the largest: what never changes at all has no measure."""


def smoothed(cells: Cells, values: Floats, sigma_px: float) -> Floats:
    """Return means of ``(n, column)`` values over the cells around each cell of its window."""
    out = []
    for mask, part in cells.parts():
        laid = np.zeros((*mask.shape, values.shape[1]), np.float32)
        laid[mask] = values[part]
        out.append(blur(laid, mask, [sigma_px / cells.stride])[0][mask])
    return np.concatenate(out)


def coherent_components(cells: Cells, sigma_px: float, distance_px: int) -> Floats:
    """Return the coherent components of the cells, most coherent first.

    Parameters
    ----------
    cells
        Features to take them from.
    sigma_px
        Std of the smoothing before.
    distance_px
        Over which what belongs to a region should stay the same.

    Returns
    -------
    ``(n, COMPONENTS)`` float32, or fewer columns; each changes by 1 over the distance, so that Euclidean distances
    weigh each by what it tells.
    """
    values = smoothed(cells, cells.features, sigma_px)
    values = values - values.mean(0)
    total = values.T @ values / len(values)
    shared = shared_covariance(cells, values, max(1, distance_px // cells.stride))
    change, directions = np.linalg.eigh(total - shared)
    change = np.maximum(change, _LEAST * max(float(change[-1]), 1e-12))
    unit = directions / np.sqrt(change)
    kept, turned = np.linalg.eigh(unit.T @ shared @ unit)
    lead = np.argsort(kept)[::-1][:COMPONENTS]
    return np.asarray(values @ (unit @ turned[:, lead]), np.float32)


def shared_covariance(cells: Cells, values: Floats, step: int) -> NDArray[np.float64]:
    """Return the symmetric covariance ``(column, column)`` of values `step` cells apart in the same window."""
    total, count = np.zeros((values.shape[1],) * 2), 0
    for mask, part in cells.parts():
        laid = np.zeros((*mask.shape, values.shape[1]), np.float32)
        laid[mask] = values[part]
        for one, other, both in (
            (laid[:-step], laid[step:], mask[:-step] & mask[step:]),
            (laid[:, :-step], laid[:, step:], mask[:, :-step] & mask[:, step:]),
        ):
            total += one[both].T @ other[both]
            count += int(both.sum())
    return (total + total.T) / (2 * max(count, 1))
