"""Generated textures beside the real ones, seen through filters that training did not use."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

import numpy as np
from numpy.typing import NDArray
from scipy import fft, ndimage

from benchmarks.quality.scenes import Field
from ktex_model.model import NO_CLASS

if TYPE_CHECKING:
    from ktex_model.texture.assignment import Cells
    from ktex_model.texture.bank import Bank
    from ktex_model.texture.config import TextureConfig
    from ktex_model.texture.model import TextureModel

SIDE_PX = 5
"""Side of the filters: all products of two cosines (DCT-II) but the constant one, of every band."""

TEXTURE_PX = 256
"""Side of the generated texture of each class."""

LEAST_PX = 500
"""A class that fills the filters' windows at fewer pixels is not compared: its own covariance is not known."""


class Generates(Protocol):
    """A model that generates the texture of a class."""

    def texture(self, c: int, shape: tuple[int, int], seed: int = 0) -> NDArray[np.float32]:
        """Return ``(y, x, band)``."""


@dataclass(frozen=True)
class Gap:
    """How far the covariance of one class's filter responses is from that of its real pixels.

    Relative: the Frobenius norm of the difference over that of the real covariance.

    Attributes
    ----------
    linear
        Of the responses.
    magnitude
        Of their absolute values, which hold what is left of form.
    halves
        Of the responses in the upper half of the class's pixels against those in the lower half: what one sample of a
        real texture is from another.
    pixels
        At which the filters see the class alone.
    """

    linear: float
    magnitude: float
    halves: float
    pixels: int


def compare_textures(
    model: Generates, images: Sequence[Field], labels: Sequence[NDArray[np.uint8]], k: int, seed: int = 1
) -> list[Gap]:
    """Return the gap of each class that has pixels enough, from images ``(y, x, band)`` and labels ``(y, x)``."""
    responses = [respond(image) for image in images]
    gaps = []
    for c in range(k):
        inside = [_inner(ndimage.binary_erosion(laid == c, np.ones((SIDE_PX, SIDE_PX)))) for laid in labels]
        real = np.concatenate([seen[mask] for seen, mask in zip(responses, inside, strict=True)])
        if len(real) < LEAST_PX:
            continue
        made = respond(model.texture(c, (TEXTURE_PX, TEXTURE_PX), seed)).reshape(-1, real.shape[1])
        gaps.append(
            Gap(
                _gap(made, real),
                _gap(np.abs(made), np.abs(real)),
                _gap(real[: len(real) // 2], real[len(real) // 2 :]),
                len(real),
            )
        )
    return gaps


def label_by_textures(
    model: TextureModel,
    images: Sequence[Field],
    valids: Sequence[NDArray[np.bool_]],
    labels: Sequence[NDArray[np.uint8]],
    seed: int = 1,
) -> tuple[NDArray[np.uint8], ...]:
    """Assign every pixel by what the generated textures look like where the labels are, and by nothing else.

    The statistics of the classes are those of the image that textures and labels simulate, from noise that training
    did not use; no pixel of the scene has a part in them.

    Returns
    -------
    For each image ``(y, x)`` uint8; 255 where not valid.
    """
    from ktex_model.texture.bank import fit_bank
    from ktex_model.texture.explanation import describe_simulation
    from ktex_model.texture.features import decompose
    from ktex_model.texture.filters import pick

    seen = [decompose(model.rotation.forward(image), valid) for image, valid in zip(images, valids, strict=True)]
    bank = fit_bank(seen)
    maps = [np.where(laid == NO_CLASS, -1, laid.astype(np.int64)) for laid in labels]
    cells = bank.cells(2)
    simulated = describe_simulation(model, bank, maps, seed)
    features, classes = (
        np.concatenate([pick(each, cells.stride)[mask] for each, mask in zip(parts, cells.masks, strict=True)])
        for parts in (simulated, maps)
    )
    found = assign_by(features, classes, cells, bank, model.config)
    return tuple(np.where(laid < 0, NO_CLASS, laid).astype(np.uint8) for laid in found)


def assign_by(
    features: NDArray[np.float32], classes: NDArray[np.int64], cells: Cells, bank: Bank, config: TextureConfig
) -> list[NDArray[np.int64]]:
    """Assign every pixel of a bank by the moments of `features` ``(n, feature)`` of the classes ``(n,)`` of its cells.

    Returns
    -------
    For each window ``(y, x)``; -1 where not valid.
    """
    from ktex_model.texture import assignment

    told = assignment.fit_moments(features, classes, config.k)
    pixels = assignment.take_off(bank.cells(1), assignment.fit_trend(cells, classes, config.k))
    return pixels.maps(assignment.assign(pixels, told, config.refining))


def respond(image: Field) -> Field:
    """Return the responses ``(y - 4, x - 4, filter)`` of all filters at the pixels where they see the image alone."""
    cosines = fft.dct(np.eye(SIDE_PX), norm="ortho", axis=0)
    out = []
    for band in np.moveaxis(image, -1, 0):
        for i, along_y in enumerate(cosines):
            once = ndimage.correlate1d(band, along_y, 0)
            out += [ndimage.correlate1d(once, along_x, 1) for j, along_x in enumerate(cosines) if (i, j) != (0, 0)]
    return np.asarray(_inner(np.stack(out, -1)), np.float32)


def _inner(values: NDArray[np.generic]) -> NDArray[np.generic]:
    reach = SIDE_PX // 2
    return values[reach:-reach, reach:-reach]


def _gap(one: Field, other: Field) -> float:
    a, b = (np.cov(values, rowvar=False) for values in (one, other))
    return float(np.linalg.norm(a - b) / np.linalg.norm(b))
