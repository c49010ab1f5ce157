"""White noise that belongs to a place: what textures are generated from."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

PATCH_PX = 64
"""Side of the patches in which noise is drawn."""


def noise_window(seed: int, c: int, y0: int, x0: int, shape: tuple[int, int], bands: int) -> NDArray[np.float32]:
    """Return white noise ``(y, x, band)`` of class c that depends on the place alone, however it is cut."""
    side = PATCH_PX
    out = np.empty((*shape, bands), np.float32)
    for ty in range(y0 // side, (y0 + shape[0] - 1) // side + 1):
        for tx in range(x0 // side, (x0 + shape[1] - 1) // side + 1):
            rng = np.random.default_rng((seed, c, ty % (1 << 31), tx % (1 << 31)))
            patch = rng.standard_normal((side, side, bands), np.float32)
            top, left = max(y0, ty * side), max(x0, tx * side)
            bottom, right = min(y0 + shape[0], (ty + 1) * side), min(x0 + shape[1], (tx + 1) * side)
            out[top - y0 : bottom - y0, left - x0 : right - x0] = patch[
                top - ty * side : bottom - ty * side, left - tx * side : right - tx * side
            ]
    return out
