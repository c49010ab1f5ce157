"""Scaling of pixel values to 0..1: one rule for a whole run, never one per block."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

PAPER_BANDS = ("R", "G", "B", "N")
"""The bands that the paper's rule is defined for."""

_PAPER_HIGH = {"R": 2550.0, "G": 2550.0, "B": 2550.0, "N": 2550.0 * 3.937}
_PAPER_LEVEL = 254
_NAMES = ("paper", "reflectance", "byte", "percentile")

Limits = tuple[float, ...]


def _all_values(dtype: np.dtype[Any]) -> NDArray[Any] | None:
    """Return every value of an unsigned type, in order; None where they are too many."""
    return np.arange(np.iinfo(dtype).max + 1).astype(dtype) if dtype in (np.uint8, np.uint16) else None


@dataclass(frozen=True)
class Scaling:
    """A linear rule for each band, ``(value - low) / (high - low)`` clipped to 0..1.

    Attributes
    ----------
    name
        ``paper``, ``reflectance``, ``byte`` or ``percentile``. `paper` also quantises to 8 bit, with 254 as the
        highest level, and accepts uint16 only; `byte` accepts uint8 only.
    low, high
        For each band the stored values that become 0 and 1.
    """

    name: str
    low: Limits
    high: Limits

    def __post_init__(self) -> None:
        object.__setattr__(self, "low", tuple(float(value) for value in self.low))
        object.__setattr__(self, "high", tuple(float(value) for value in self.high))
        if self.name not in _NAMES:
            raise ValueError(f"`name` must be one of {_NAMES}; got {self.name!r}")
        if not self.low or len(self.low) != len(self.high):
            raise ValueError(f"`low` and `high` must have one value for each band; got {self.low} and {self.high}")
        if not all(math.isfinite(a) and math.isfinite(b) and a < b for a, b in zip(self.low, self.high, strict=True)):
            raise ValueError(f"`low` must be finite and below `high` in each band; got {self.low} and {self.high}")

    @property
    def bands(self) -> int:
        """Number of bands."""
        return len(self.low)

    def apply(self, values: NDArray[Any]) -> NDArray[np.float32]:
        """Scale ``(band, y, x)`` values; the result is ``(band, y, x)`` float32 in 0..1.

        NaN becomes 0: whether a pixel is valid is kept beside the values, not in them.

        Raises
        ------
        ValueError
            If the number of bands or the dtype is not what the rule is defined for.

        Examples
        --------
        >>> reflectance(1).apply(np.array([[[0, 5000, 12000]]], np.uint16)).tolist()
        [[[0.0, 0.5, 1.0]]]
        """
        values = np.asarray(values)
        if values.ndim != 3 or values.shape[0] != self.bands:
            raise ValueError(f"`values` must be (band, y, x) with {self.bands} bands; got shape {values.shape}")
        expected = {"paper": np.uint16, "byte": np.uint8}.get(self.name)
        if expected is not None and values.dtype != expected:
            raise ValueError(f"scaling {self.name!r} must have {np.dtype(expected)} values; got {values.dtype}")
        if values.dtype.kind not in "uif":
            raise ValueError(f"`values` must be real numbers; got {values.dtype}")
        scaled = np.empty(values.shape, np.float32)
        possible = _all_values(values.dtype)
        for band, found in enumerate(values):
            if possible is not None and found.size > possible.size:
                scaled[band] = self._scale(possible, band)[found]  # each value is scaled once
            else:
                scaled[band] = self._scale(found, band)
        return scaled

    def _scale(self, values: NDArray[Any], band: int) -> NDArray[np.float32]:
        """Scale values of one band."""
        low, high = self.low[band], self.high[band]
        if self.name == "paper":
            levels = np.floor(np.minimum(values * 255.0 / high, _PAPER_LEVEL) + 0.5)
            return np.asarray(levels / 255.0, np.float32)
        unit = (values.astype(np.float64) - low) / (high - low)
        return np.nan_to_num(np.clip(unit, 0.0, 1.0), nan=0.0).astype(np.float32)

    def invert(self, scaled: NDArray[np.float32]) -> NDArray[np.float32]:
        """Bring ``(band, y, x)`` values of 0..1 back to the units that they came from.

        What `apply` clipped stays at the limit.

        Examples
        --------
        >>> reflectance(2).invert(np.full((2, 1, 1), 0.5, np.float32)).ravel().tolist()
        [5000.0, 5000.0]
        """
        low, high = (np.array(limits, np.float32)[:, None, None] for limits in (self.low, self.high))
        return np.asarray(scaled * (high - low) + low, np.float32)

    def to_json(self) -> dict[str, Any]:
        """Return what `from_json` takes, made of JSON's own types."""
        return {key: list(value) if isinstance(value, tuple) else value for key, value in asdict(self).items()}

    @classmethod
    def from_json(cls, record: Mapping[str, Any]) -> Scaling:
        """Return the scaling that `to_json` recorded.

        Raises
        ------
        ValueError
            If keys are missing or unknown.

        Examples
        --------
        >>> Scaling.from_json(byte(3).to_json()) == byte(3)
        True
        """
        if set(record) != {"name", "low", "high"}:
            raise ValueError(f"a scaling must have the keys name, low and high; got {sorted(record)}")
        return cls(record["name"], tuple(record["low"]), tuple(record["high"]))


def paper(bands: Sequence[str]) -> Scaling:
    """Return the rule of Wagner et al. 2022 for Planet NICFI analytic values.

    R, G and B become ``min(v, 2540) / 10``, N becomes ``min(v / 3.937, 2540) / 10``; both are rounded to 8 bit, half
    up as GDAL does when it writes bytes, then divided by 255.

    Parameters
    ----------
    bands
        The names of the bands in their order: R, G, B and N, each once.

    Raises
    ------
    ValueError
        If the bands are others.

    Examples
    --------
    >>> paper("RGBN").apply(np.full((4, 1, 1), 1000, np.uint16))[:, 0, 0] * 255
    array([100., 100., 100.,  25.], dtype=float32)
    """
    if sorted(bands) != sorted(PAPER_BANDS):
        raise ValueError(
            f"scaling 'paper' must have the bands {PAPER_BANDS}; got {tuple(bands)}: use 'reflectance' or 'percentile'"
        )
    return Scaling("paper", (0.0,) * 4, tuple(_PAPER_HIGH[name] for name in bands))


def reflectance(bands: int) -> Scaling:
    """Return the rule for surface reflectance stored as 0..10,000.

    Examples
    --------
    >>> reflectance(2)
    Scaling(name='reflectance', low=(0.0, 0.0), high=(10000.0, 10000.0))
    """
    return Scaling("reflectance", (0.0,) * bands, (10_000.0,) * bands)


def byte(bands: int) -> Scaling:
    """Return the rule for 8-bit values, 0..255.

    Examples
    --------
    >>> byte(1).apply(np.array([[[0, 51, 255]]], np.uint8)).round(3).tolist()
    [[[0.0, 0.20000000298023224, 1.0]]]
    """
    return Scaling("byte", (0.0,) * bands, (255.0,) * bands)


def percentile(low: Sequence[float], high: Sequence[float]) -> Scaling:
    """Return the rule between limits that `percentile_limits` found in a sample of the whole scene.

    Examples
    --------
    >>> percentile([10], [20]).apply(np.array([[[5, 15, 30]]], np.int16)).tolist()
    [[[0.0, 0.5, 1.0]]]
    """
    return Scaling("percentile", tuple(low), tuple(high))


def percentile_limits(
    sample: NDArray[Any],
    valid: NDArray[np.bool_] | None = None,
    low: float = 0.5,
    high: float = 99.5,
) -> tuple[Limits, Limits]:
    """Find robust limits of each band.

    Parameters
    ----------
    sample
        ``(band, y, x)`` values from all over the scene.
    valid
        ``(y, x)`` bool; all finite pixels where None.
    low, high
        Percentiles, 0..100.

    Returns
    -------
    low, high
        One value for each band. A band that is constant within them gets limits one unit apart, so that it
        becomes 0.

    Raises
    ------
    ValueError
        If no pixel is valid or the percentiles are not in order.

    Examples
    --------
    >>> percentile_limits(np.arange(1001.0).reshape(1, 7, 143))
    ((5.0,), (995.0,))
    """
    if not 0 <= low < high <= 100:
        raise ValueError(f"percentiles must be 0 <= low < high <= 100; got {low} and {high}")
    sample = np.asarray(sample)
    if sample.ndim != 3:
        raise ValueError(f"`sample` must be (band, y, x); got shape {sample.shape}")
    usable = np.isfinite(sample).all(axis=0)
    if valid is not None:
        if valid.shape != sample.shape[1:]:
            raise ValueError(f"`valid` must have the shape {sample.shape[1:]} of the sample; got {valid.shape}")
        usable = usable & valid
    if not usable.any():
        raise ValueError("`sample` must hold valid pixels; got none")
    lows, highs = np.percentile(sample[:, usable].astype(np.float64), [low, high], axis=1)
    highs = np.where(highs > lows, highs, lows + 1.0)
    return tuple(lows.tolist()), tuple(highs.tolist())
