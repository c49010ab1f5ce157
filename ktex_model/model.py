"""What goes into a k-textures model and what comes out, whatever the preset."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

NO_CLASS = 255
"""Value of labels and margins where a pixel is invalid."""

MARGIN_SCALE = 200
"""A margin of 1 is stored as this number."""

Progress = Callable[[int, int, float], None]
"""Called with (steps done, steps expected, loss) now and then during training."""


Windows = tuple[Sequence[int], Sequence[int]]
"""The windows that a run labels, which form a grid: heights of its rows, widths of its columns."""


@dataclass(frozen=True)
class Sample:
    """A piece of a scene to learn from.

    Attributes
    ----------
    image
        ``(y, x, band)`` float32 in 0..1, radiometrically scaled by one rule for the whole run.
    valid
        ``(y, x)`` bool; what is not valid is never learnt from, whatever its values.
    known
        ``(y, x)`` int16, the class that a pixel had at an earlier date, 0..k-1; -1 where that is not known. None where
        nothing is known at all. It is no truth: the ground may have changed.
    """

    image: NDArray[np.float32]
    valid: NDArray[np.bool_]
    known: NDArray[np.int16] | None = None


@dataclass(frozen=True)
class Prediction:
    """Labels of a window.

    Attributes
    ----------
    labels
        ``(y, x)`` uint8, 0..k-1; 255 where invalid.
    margin
        ``(y, x)`` uint8, 0..200: how far the best class stands before the second, of the two (200 = certain); 255
        where invalid.
    """

    labels: NDArray[np.uint8]
    margin: NDArray[np.uint8]


@dataclass(frozen=True)
class History:
    """What happened in training: JSON-able, and part of the run record.

    `stages` holds one dict for each stage of training, each with ``name``, ``seconds``, ``steps`` and what that
    stage measures (losses as lists of floats). `stop_reason` is one sentence. `loss` is the feature-space loss of
    the simulated image at the end.
    """

    preset: str
    stop_reason: str
    seconds: float
    loss: float
    stages: tuple[dict[str, object], ...] = field(default=())


class Model(Protocol):
    """A trained model: a function from pixels to classes, and from classes to textures."""

    @property
    def preset(self) -> str:
        """``texture`` or ``paper``."""

    @property
    def k(self) -> int:
        """Number of classes, 2..128."""

    @property
    def bands(self) -> int:
        """Number of bands that an image must have."""

    @property
    def context_px(self) -> int:
        """How far beyond a pixel the image can change its label."""

    def predict(
        self,
        image: NDArray[np.float32],
        valid: NDArray[np.bool_],
        inner: tuple[slice, slice] | None = None,
        windows: Windows | None = None,
    ) -> Prediction:
        """Label the window `inner` of an image ``(y, x, band)``; all of it where `inner` is None.

        Work is cut into tiles of one shape that start at the corner of `inner`: the one that serves all `windows` of
        a run best, so that nothing is compiled twice, or `inner` alone where none are named. Equal surroundings give
        equal labels, to the bit, whatever the tiles. Beyond the image, and where it is not valid, the network sees the
        fill value of its training.
        """

    def textures(self, shape: tuple[int, int], seed: int = 0) -> NDArray[np.float32]:
        """Generate each class's texture from noise: ``(k, y, x, band)`` float32 in 0..1."""

    def simulate(
        self, labels: NDArray[np.uint8], seed: int = 0, origin: tuple[int, int] = (0, 0)
    ) -> NDArray[np.float32]:
        """Return the simulated image ``(y, x, band)``: the sum of masks times textures; 0 where no class is.

        The first pixel is at the place `origin` ``(y, x)`` of a scene. Noise belongs to places, so that parts of a
        scene, simulated one by one, fit together up to rounding.
        """


@dataclass(frozen=True)
class Trained:
    """What `train` returns."""

    model: Model
    history: History


Samples = Sequence[Sample]
