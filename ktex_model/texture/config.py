"""What can be set of a texture model; every value is JSON-able."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from ktex_model.texture.assignment import Sight
from ktex_model.texture.network import DILATIONS, EDGE_SIDE, Architecture


@dataclass(frozen=True)
class TextureConfig:
    """Settings of the preset ``texture``.

    Attributes
    ----------
    k
        Number of classes, 2..128. A scene may use fewer: what it does not hold stays an empty class.
    bands
        Number of bands, at least 1.
    rounds
        Most rounds of assignment and refit from each start; ended earlier where under `settle` of the cells change.
    settle
        Share of cells that may still change when the assignment counts as settled.
    refine_rounds
        Rounds at half the stride after the best start was chosen.
    smooth_px, coupling, sharpness, spread_steps
        How a cell's class is decided while classes are found: std in pixels of the neighbourhood that takes part; its
        weight; the weight of the cell's features, in units of one feature; and mean-field steps.
    refine_smooth_px, refine_coupling, refine_sharpness, refine_spread_steps
        The same afterwards, when borders are drawn.
    fit_px
        Most pixels that are learnt from; of larger samples windows of 256 px are drawn.
    steps
        Training steps of the mask network.
    batch
        Crops in a step.
    crop_px
        Side of a crop; a multiple of 4.
    learning_rate
        At the start; it falls to 0 along a cosine.
    texture_radius_px
        How far the spatial colouring of a generated texture reaches.
    texture_rounds
        How often the marginals of a texture's levels are matched.
    texture_loops
        How often cells are assigned by the statistics of generated textures.
    dilations
        Of the three residual convolutions of the mask network.
    edge_side
        Side of the kernel that corrects the network's classes at half the resolution: 1 or 3.
    """

    EARLIER: ClassVar[Mapping[str, Any]] = {"dilations": (2, 2, 1), "edge_side": 3}
    """What models have whose record does not say it."""

    k: int
    bands: int
    rounds: int = 15
    settle: float = 0.003
    refine_rounds: int = 5
    smooth_px: float = 5.0
    coupling: float = 4.0
    sharpness: float = 2.3
    spread_steps: int = 3
    refine_smooth_px: float = 3.0
    refine_coupling: float = 5.0
    refine_sharpness: float = 5.0
    refine_spread_steps: int = 6
    fit_px: int = 1 << 20
    steps: int = 480
    batch: int = 1
    crop_px: int = 272
    learning_rate: float = 6e-3
    texture_radius_px: int = 12
    texture_rounds: int = 2
    texture_loops: int = 1
    dilations: tuple[int, ...] = DILATIONS
    edge_side: int = EDGE_SIDE
    preset: str = "texture"

    def __post_init__(self) -> None:
        object.__setattr__(self, "dilations", tuple(self.dilations))  # records hold lists
        if len(self.dilations) != len(DILATIONS) or min(self.dilations) < 1:
            raise ValueError(f"dilations must be {len(DILATIONS)} numbers of at least 1; got {self.dilations}")
        if not 2 <= self.k <= 128:
            raise ValueError(f"k must be 2 to 128; got {self.k}")
        if self.edge_side not in (1, 3):
            raise ValueError(f"edge_side must be 1 or 3; got {self.edge_side}")
        if self.bands < 1:
            raise ValueError(f"bands must be at least 1; got {self.bands}")
        if self.preset != "texture":
            raise ValueError(f"preset must be 'texture'; got {self.preset!r}")
        for name in ("rounds", "steps", "batch", "texture_radius_px", "fit_px", "spread_steps", "refine_spread_steps"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1; got {getattr(self, name)}")
        for name in ("refine_rounds", "texture_rounds", "texture_loops", "coupling", "refine_coupling", "settle"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name} must not be negative; got {getattr(self, name)}")
        for name in ("smooth_px", "refine_smooth_px", "sharpness", "refine_sharpness", "learning_rate"):
            if not getattr(self, name) > 0:
                raise ValueError(f"{name} must be positive; got {getattr(self, name)}")
        if self.crop_px < 32 or self.crop_px % 4:
            raise ValueError(f"crop_px must be a multiple of 4, at least 32; got {self.crop_px}")

    @property
    def finding(self) -> Sight:
        """How cells are assigned while classes are found."""
        return Sight(self.smooth_px, self.coupling, self.sharpness, self.spread_steps)

    @property
    def refining(self) -> Sight:
        """How cells are assigned when borders are drawn."""
        return Sight(self.refine_smooth_px, self.refine_coupling, self.refine_sharpness, self.refine_spread_steps)

    @property
    def architecture(self) -> Architecture:
        """What the mask network is built from."""
        return Architecture(self.k, self.bands, self.dilations, self.edge_side)

    @property
    def context_px(self) -> int:
        """How far beyond a pixel the image can change its label: a multiple of the network's coarsest stride."""
        return self.architecture.context_px
