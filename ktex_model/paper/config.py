"""The parameters of the preset `paper`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

KERAS_WEIGHTS = "keras"
NO_WEIGHTS = "none"


@dataclass(frozen=True)
class PaperConfig:
    """Parameters of the model of Wagner et al. 2022; the defaults are the published ones where they are known.

    Attributes
    ----------
    k
        Number of classes, 2..128.
    bands
        Number of bands of an image.
    rgb
        Which bands are red, green and blue, from 0; None where there are none: the VGG-16 part of the loss is
        then off. Never guessed.
    imagenet_weights
        ``keras``: VGG-16 weights as Keras downloads and verifies them; ``none``: that part of the loss is off; else
        a directory that `ktex_model.extractors.save` wrote.
    autoencoder
        Directory of a trained encoder for `bands` bands, or ``shipped``: the one of the package, for R,G,B,N; None: one
        is trained on the samples themselves.
    autoencoder_width, autoencoder_steps
        Size (1 = as many filters as VGG-16) and training steps of an encoder that is trained here. The size of the
        published one is not known; a quarter trains on a CPU.
    epochs
        Passes over all tiles; each is one optimiser step.
    batch_tiles
        Tiles that go through the network at a time; None: all at once, as published. With fewer, gradients are
        summed over the pass before the one step; all is then as published but for batch normalisation, whose
        statistics are those of the tiles that went together.
    patience
        Stop after so many epochs without a lower loss; None: never.
    learning_rate, clipnorm
        Of Adam.
    momentum
        Of batch normalisation. At the published 0.99 the statistics of prediction need some 500 epochs to arrive at
        those of training.
    recompute_statistics
        Whether to set the statistics of prediction from all tiles at the end (not published).
    """

    EARLIER: ClassVar[Mapping[str, Any]] = {}
    """What models have whose record does not say it."""

    preset: str = "paper"
    k: int = 6
    bands: int = 4
    rgb: tuple[int, int, int] | None = (0, 1, 2)
    imagenet_weights: str = KERAS_WEIGHTS
    autoencoder: str | None = None
    autoencoder_width: float = 0.25
    autoencoder_steps: int = 500
    epochs: int = 10_240
    batch_tiles: int | None = None
    patience: int | None = None
    learning_rate: float = 1e-3
    clipnorm: float = 1.0
    momentum: float = 0.99
    recompute_statistics: bool = False

    def __post_init__(self) -> None:
        if self.rgb is not None:
            red, green, blue = self.rgb
            object.__setattr__(self, "rgb", (int(red), int(green), int(blue)))
        self._check_image()
        self._check_training()

    @property
    def context_px(self) -> int:
        """How far beyond a pixel the image can change its label: the published mask network is one of pixels."""
        return 0

    @property
    def uses_imagenet(self) -> bool:
        """Whether the VGG-16 part of the loss is on."""
        return self.rgb is not None and self.imagenet_weights != NO_WEIGHTS

    def _check_image(self) -> None:
        if self.preset != "paper":
            raise ValueError(f"`preset` must be 'paper'; got {self.preset!r}")
        if not 2 <= self.k <= 128:
            raise ValueError(f"`k` must be 2..128; got {self.k}")
        if self.bands < 1:
            raise ValueError(f"`bands` must be 1 or more; got {self.bands}")
        if self.rgb is not None and (len(set(self.rgb)) != 3 or not all(0 <= band < self.bands for band in self.rgb)):
            raise ValueError(
                f"`rgb` must name three of the {self.bands} bands, from 0, or be None; got {self.rgb}: with None the"
                " VGG-16 part of the loss is off"
            )

    def _check_training(self) -> None:
        least = {"epochs": 1, "batch_tiles": 1, "patience": 1, "autoencoder_steps": 1}
        for name, low in least.items():
            value = getattr(self, name)
            if value is not None and value < low:
                raise ValueError(f"`{name}` must be {low} or more; got {value}")
        for name in ("learning_rate", "clipnorm", "autoencoder_width"):
            if not getattr(self, name) > 0:
                raise ValueError(f"`{name}` must be positive; got {getattr(self, name)}")
        if not 0 <= self.momentum < 1:
            raise ValueError(f"`momentum` must be 0 or more and under 1; got {self.momentum}")
