"""Which pixels hold an observation: alpha, nodata, masks. Pure functions of samples.

Rules
-----
- alpha: 0 is invalid, anything else valid (analytic quads use 65535, byte ones 255).
- nodata: a pixel is nodata where *all* feature bands are: a real zero in one band (water in the near infrared) is kept.
- floats: a pixel with a NaN or infinity in *any* band is invalid, because nothing can be computed from it.
- mask raster: valid where band 1 is neither 0 nor the mask's own nodata.
- UDM2 (Planet's usable data mask): valid where band 1 (clear) is 1 and band 8 (UDM1 bits) reports neither black fill
  (bit 0) nor missing or suspect samples in a band (bits 2 to 6). Its cloud bit (1) is left out: band 1 supersedes it.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

UDM2_BANDS = 8
UDM2_CLEAR, UDM2_UDM1 = 1, 8
"""1-based bands of a UDM2 file that decide."""
UDM1_UNUSABLE = 0b0111_1101


def valid_from_samples(data: NDArray[Any], nodata: float | None) -> NDArray[np.bool_]:
    """Return where the feature bands hold an observation.

    Parameters
    ----------
    data
        ``(band, y, x)`` feature bands.
    nodata
        The nodata value in units of the data; None where there is none, NaN allowed.

    Returns
    -------
    ndarray
        ``(y, x)`` bool.

    Examples
    --------
    >>> valid_from_samples(np.array([[[0, 0, 7]], [[0, 5, 7]]]), 0)
    array([[False,  True,  True]])
    >>> valid_from_samples(np.array([[[np.nan, 1.0]], [[2.0, 1.0]]]), None)
    array([[False,  True]])
    """
    valid = np.ones(data.shape[1:], np.bool_)
    if data.dtype.kind == "f":
        valid &= np.isfinite(data).all(axis=0)
    if nodata is not None and not np.isnan(nodata):
        valid &= _any_differs(data, _as_dtype(nodata, data.dtype))
    return valid


def _any_differs(data: NDArray[Any], value: float) -> NDArray[np.bool_]:
    """Return where a band differs from a value; bands are looked at until nothing more can."""
    differs = np.zeros(data.shape[1:], np.bool_)
    for band in data:
        differs |= band != value
        if differs.all():
            break
    return differs


def _as_dtype(nodata: float, dtype: np.dtype[Any]) -> float:
    # A float32 file stores -3.4e38 rounded; an integer file may carry a tag that no pixel can equal.
    if dtype.kind == "f":
        return float(dtype.type(nodata))
    return int(nodata) if float(nodata).is_integer() else nodata  # else integers are compared as floats, slowly


def valid_from_alpha(alpha: NDArray[Any]) -> NDArray[np.bool_]:
    """Return where an alpha band ``(y, x)`` is not fully transparent."""
    valid: NDArray[np.bool_] = alpha != 0
    return valid


def valid_from_mask(mask: NDArray[Any], nodata: float | None) -> NDArray[np.bool_]:
    """Return where a mask ``(y, x)`` says valid: non-zero, finite and not its own nodata.

    Examples
    --------
    >>> valid_from_mask(np.array([[0, 1, 255]], np.uint8), 255)
    array([[False,  True, False]])
    """
    valid: NDArray[np.bool_] = (mask != 0) & valid_from_samples(mask[np.newaxis], nodata)
    return valid


def valid_from_udm2(clear: NDArray[Any], udm1: NDArray[Any]) -> NDArray[np.bool_]:
    """Return where a UDM2 calls a pixel usable, from its bands 1 and 8, both ``(y, x)`` uint8.

    Examples
    --------
    >>> valid_from_udm2(np.array([1, 1, 1, 0]), np.array([0, 0b10, 0b100, 0]))
    array([ True,  True, False, False])
    """
    valid: NDArray[np.bool_] = (clear == 1) & ((udm1 & UDM1_UNUSABLE) == 0)
    return valid
