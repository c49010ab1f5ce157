"""Scene radiometry: a gain and an offset for each file, from the pixels that files share.

Two files that show one place differ there by how each was lit, seen and corrected. Per pair and band the ratio of
spreads and the difference of means is taken of those shared pixels that follow one line; the gains, and then the
offsets, of all files are the least squares over all pairs. In each group of files that hang together the gains have a
geometric mean of 1 and the offsets a mean of 0, so that no file is the measure of the others and their order does not
matter. A file that shares nothing stays as it is.

References
----------
Ratio of spreads as the symmetric slope (reduced major axis): Schott et al. (1988), pseudo-invariant features.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import sparse
from scipy.sparse.linalg import lsmr

from pipeline.pixels import Pixels

Float = NDArray[np.float64]

MIN_SHARED_PX = 200
GAINS = (0.5, 2.0)
"""What a gain is clipped to: more is another sensor or season, not illumination."""

_ROUNDS = 3
_OUTLIER = 3.0
_MIN_CORRELATION = 0.5
_TABLED = (np.uint8, np.uint16)


@dataclass(frozen=True)
class Correction:
    """What each band of a file is multiplied by, and what is added then."""

    gain: tuple[float, ...]
    offset: tuple[float, ...]

    def apply(self, pixels: Pixels) -> Pixels:
        """Return corrected pixels of the same type: integers are rounded, and clipped to what the type holds.

        Examples
        --------
        >>> pixels = Pixels(np.array([[[10, 200]]], np.uint8), np.ones((1, 2), bool))
        >>> Correction((1.5,), (-2.0,)).apply(pixels).data.ravel().tolist()
        [13, 255]
        """
        data = pixels.data
        if not len(data):
            return pixels  # nothing was there to read
        result = np.empty_like(data)
        for band, (gain, offset) in enumerate(zip(self.gain, self.offset, strict=True)):
            if data.dtype in _TABLED:  # so few values that each is computed once
                values = np.arange(np.iinfo(data.dtype).max + 1, dtype=np.float64)
                result[band] = _rounded(gain * values + offset, data.dtype)[data[band]]
            else:
                result[band] = _rounded(gain * data[band].astype(np.float64) + offset, data.dtype)
        return Pixels(result, pixels.valid)


def _rounded(values: Float, dtype: np.dtype[Any]) -> NDArray[Any]:
    if not np.issubdtype(dtype, np.integer):
        return values.astype(dtype)
    limits = np.iinfo(dtype)
    return np.rint(np.clip(values, limits.min, limits.max)).astype(dtype)


@dataclass(frozen=True, eq=False)
class Shared:
    """What the shared pixels of two files say, each array ``(band,)``.

    Attributes
    ----------
    a, b
        Numbers of the two files.
    mean_a, mean_b, spread_a, spread_b
        Of the pixels that follow one line.
    pixels, trust
        How many those are; and their number times the squared correlation, 0 where one tells too little of the other
        for a gain.
    """

    a: int
    b: int
    mean_a: Float
    mean_b: Float
    spread_a: Float
    spread_b: Float
    pixels: Float
    trust: Float


def compare(a: int, b: int, first: NDArray[Any], second: NDArray[Any]) -> Shared | None:
    """Compare two files on shared pixels.

    Parameters
    ----------
    a, b
        Numbers of the files.
    first, second
        ``(band, n)`` values of the same pixels, all valid. Saturated ones are left out.

    Returns
    -------
    Shared or None
        None where fewer than `MIN_SHARED_PX` pixels can be compared.
    """
    if first.shape[1] < MIN_SHARED_PX:
        return None
    found = [_compare_band(x, y) for x, y in zip(first, second, strict=True)]
    if any(each is None for each in found):
        return None
    return Shared(a, b, *np.array(found, dtype=np.float64).T)


def _compare_band(x: NDArray[Any], y: NDArray[Any]) -> tuple[float, ...] | None:
    keep = np.isfinite(x) & np.isfinite(y)
    step = 0.0
    if np.issubdtype(x.dtype, np.integer):
        limits, step = np.iinfo(x.dtype), 1.0
        keep &= (x > limits.min) & (x < limits.max) & (y > limits.min) & (y < limits.max)
    x, y = x[keep].astype(np.float64), y[keep].astype(np.float64)
    if len(x) < MIN_SHARED_PX:
        return None
    centre = np.median(x), np.median(y)
    slope = max(float(np.subtract(*np.quantile(y, (0.75, 0.25)))), step) / max(
        float(np.subtract(*np.quantile(x, (0.75, 0.25)))), step, 1e-12
    )
    near = np.ones(len(x), dtype=bool)
    for _ in range(_ROUNDS):
        # What changed between the two, a cloud or a cut field, lies off the line.
        away = np.abs(y - centre[1] - slope * (x - centre[0]))
        near = away <= np.maximum(_OUTLIER * 1.4826 * np.median(away), step)
        centre = x[near].mean(), y[near].mean()
        slope = float(y[near].std()) / max(float(x[near].std()), 1e-12)
    spread_x, spread_y, n = float(x[near].std()), float(y[near].std()), float(near.sum())
    told = float(np.mean((x[near] - centre[0]) * (y[near] - centre[1]))) / max(spread_x * spread_y, 1e-24)
    trust = n * told**2 if told >= _MIN_CORRELATION and min(spread_x, spread_y) > step else 0.0
    return float(centre[0]), float(centre[1]), spread_x, spread_y, n, trust


@dataclass(frozen=True)
class Balanced:
    """What the files of a scene are corrected by, and what that brought.

    Attributes
    ----------
    corrections
        By path; files that share nothing with others have none.
    pairs
        How many pairs of files were compared.
    before, after
        By how much the means of two files differ where they overlap, per band, on average of pairs by pixels.
    """

    corrections: Mapping[str, Correction]
    pairs: int
    before: tuple[float, ...]
    after: tuple[float, ...]

    def to_json(self) -> dict[str, Any]:
        """Return plain values."""
        files = [
            {"path": path, "gain": list(each.gain), "offset": list(each.offset)}
            for path, each in self.corrections.items()
        ]
        return {"pairs": self.pairs, "before": list(self.before), "after": list(self.after), "files": files}


def balance(paths: Sequence[str], bands: int, shared: Sequence[Shared]) -> Balanced:
    """Find the corrections of all files from what pairs of them share.

    Examples
    --------
    >>> one = np.ones(1)
    >>> pair = Shared(0, 1, 8 * one, 18 * one, 2 * one, 2 * one, 500 * one, 400 * one)
    >>> found = balance(["a.tif", "b.tif", "c.tif"], 1, [pair])
    >>> {path: round(each.offset[0], 6) for path, each in found.corrections.items()}, found.before, found.pairs
    ({'a.tif': 5.0, 'b.tif': -5.0}, (10.0,), 1)
    """
    if not shared:
        return Balanced({}, 0, (), ())
    a, b = np.array([s.a for s in shared]), np.array([s.b for s in shared])
    mean_a, mean_b = np.array([s.mean_a for s in shared]), np.array([s.mean_b for s in shared])
    ratio = np.log(np.array([s.spread_b for s in shared]) / np.array([s.spread_a for s in shared]))
    pixels, trust = np.array([s.pixels for s in shared]), np.array([s.trust for s in shared])
    gain, offset = np.ones((len(paths), bands)), np.zeros((len(paths), bands))
    for band in range(bands):
        told = trust[:, band] > 0
        solved = _solve(len(paths), a[told], b[told], ratio[told, band], trust[told, band])
        gain[:, band] = np.clip(np.exp(solved), *GAINS)
        between = gain[b, band] * mean_b[:, band] - gain[a, band] * mean_a[:, band]
        offset[:, band] = _solve(len(paths), a, b, between, pixels[:, band])
    before, left = mean_a - mean_b, gain[a] * mean_a + offset[a] - gain[b] * mean_b - offset[b]
    corrections = {
        paths[i]: Correction(tuple(gain[i].tolist()), tuple(offset[i].tolist()))
        for i in sorted({*a.tolist(), *b.tolist()})
    }
    return Balanced(
        corrections,
        len(shared),
        *(tuple(np.average(np.abs(each), axis=0, weights=pixels).tolist()) for each in (before, left)),
    )


def _solve(count: int, a: NDArray[np.intp], b: NDArray[np.intp], difference: Float, weight: Float) -> Float:
    """Return the least squares of ``v[a] - v[b] = difference``: that of least norm, so that each group has mean 0."""
    if not len(a):
        return np.zeros(count)
    root, row = np.sqrt(weight / weight.max()), np.arange(len(a))
    entries = np.concatenate([root, -root]), (np.concatenate([row, row]), np.concatenate([a, b]))
    matrix = sparse.csr_array(entries, shape=(len(a), count))
    solution: Float = lsmr(matrix, root * difference, atol=1e-12, btol=1e-12, conlim=0, maxiter=20 * count + 100)[0]
    return solution
