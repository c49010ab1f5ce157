"""What a run will do, decided and checked before anything is written.

A plan is a value: the scene, its division into blocks, the radiometric rule, the settings and the folders. It
travels to the workers with every block.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

import ktex_model
import pipeline
from ktex_model import radiometry
from ktex_model.radiometry import Scaling
from pipeline.blocks import Block, BlockGrid, Window
from pipeline.catalogue.base import stored_scaling
from pipeline.errors import InputError
from pipeline.models import ModelRef, find_model
from pipeline.projection import BLOCK_SIDES, Projection, fit_block_px, machine_memory, project
from pipeline.scaled import ScaledImage
from pipeline.scene import InputFile, Pixels, Scene
from pipeline.settings import Settings
from pipeline.workspace import Folders

if TYPE_CHECKING:
    from ktex_model.paper import PaperConfig
    from ktex_model.texture import TextureConfig

    ModelConfig = PaperConfig | TextureConfig

MOST_ANCHORED = 4096
"""Scenes of more blocks hold too many textures for an anchor, which has no more classes than a block."""
OVERVIEW_PX = 1024


@dataclass(frozen=True)
class Plan:
    """All that a worker needs to know about a run.

    Attributes
    ----------
    scene, grid, scaling, settings, folders
        What is worked on, in which parts, by which rules, and where.
    given
        The model to apply, where none is trained.
    inputs
        The input files by path, as they were hashed.
    base
        Digest of all that the result depends on beside the inputs.
    """

    scene: Scene
    grid: BlockGrid
    scaling: Scaling
    settings: Settings
    folders: Folders
    given: ModelRef | None = None
    inputs: Mapping[str, InputFile] = field(default_factory=dict)
    base: str = ""

    @property
    def one_model(self) -> bool:
        """Whether one model serves all blocks, so that its ids need no alignment."""
        return self.given is not None or self.settings.mode == "global"

    @property
    def labels_at_once(self) -> bool:
        """Whether the labels of a block are those of the map as soon as its model has given them.

        So they are where one model serves all blocks, and no catalogue has to say first how its classes are called.
        """
        return self.one_model and self.settings.catalogue is None and not self.settings.simulated

    @property
    def anchored(self) -> bool:
        """Whether a model of the whole scene, the anchor, is trained beside those of the blocks, to compare these."""
        return _is_anchored(self.settings, one_model=self.one_model, blocks=len(self.grid))

    @property
    def k(self) -> int:
        """Number of classes of each model."""
        return self.settings.k if self.given is None else self.given.k

    def config(self) -> ModelConfig:
        """Return the configuration that this run trains with."""
        return model_config(self.settings, self.scene.bands)

    def seed(self, block: Block | None = None) -> int:
        """Return the seed of a block's model, or of the one model: from the run's seed and the block's position."""
        entropy = [self.settings.seed, *((1 + block.index[0], 1 + block.index[1]) if block else (0, 0))]
        return int(np.random.SeedSequence(entropy).generate_state(1)[0] & 0x7FFFFFFF)

    def key(self, *windows: Window) -> str:
        """Return what work on the pixels of some windows rests on: a digest of `base`, scaling and input files."""
        digest = hashlib.sha256(json.dumps([self.base, self.scaling.to_json()], sort_keys=True).encode())
        for window in windows:
            paths = [path for path in self.scene.files_in(window) if path in self.inputs]
            digest.update(repr([(path, self.inputs[path].identity) for path in paths]).encode())
            if self.scene.balanced is not None:  # a file more changes what others are corrected by
                digest.update(repr([self.scene.balanced.corrections.get(path) for path in paths]).encode())
        return digest.hexdigest()

    def read(self, window: Window) -> Pixels:
        """Read a window of the scene, from the very files that were hashed.

        Raises
        ------
        RunFailedError
            A file is damaged, gone, or another one than when the run began.
        """
        pixels = self.scene.read(window)
        for path in self.scene.files_in(window):
            if path in self.inputs:
                self.inputs[path].check_unchanged()
        return pixels

    def check_inputs(self) -> None:
        """Raise RunFailedError where an input is gone, or another than the one that was hashed."""
        for file in self.inputs.values():
            file.check_unchanged()

    def image(self, pixels: Pixels) -> NDArray[np.float32]:
        """Scale pixels ``(band, y, x)`` for the model: ``(y, x, band)`` float32 in 0..1."""
        return self.scaled(pixels)[:, :]

    def scaled(self, pixels: Pixels) -> ScaledImage:
        """Return what `image` does, to be scaled window by window as it is looked at."""
        if len(pixels.data) != self.scaling.bands:
            raise ValueError(f"`pixels` must have {self.scaling.bands} bands; got {len(pixels.data)}")
        return ScaledImage(pixels.data, self.scaling)


def model_config(settings: Settings, bands: tuple[str, ...]) -> ModelConfig:
    """Return the preset's configuration, with the options of the settings; InputError where they do not fit."""
    kind = ktex_model.TextureConfig if settings.preset == "texture" else ktex_model.PaperConfig
    options: dict[str, Any] = {
        name: tuple(value) if isinstance(value, list) else value for name, value in settings.options.items()
    }
    if settings.preset == "paper" and {"R", "G", "B"} <= set(bands):
        options.setdefault("rgb", tuple(bands.index(name) for name in "RGB"))
    try:
        config: ModelConfig = kind(k=settings.k, bands=len(bands), **options)
    except (TypeError, ValueError) as error:
        reason = str(error).rpartition("__init__() ")[2]
        raise InputError(f"options of preset {settings.preset!r}: {reason}; see {kind.__name__}") from error
    return config


def make_plan(scene: Scene, settings: Settings, out: Path, name: str = "the scene") -> Plan:
    """Decide how `scene` is worked on; raises InputError, with the scene's `name`, where that cannot be."""
    folders = Folders(out.absolute())
    given = None if settings.model is None else find_model(settings.model)
    if given is not None:
        given.check(scene.bands, settings)
        settings, context_px = given.settle(settings), given.context_px
    else:
        context_px = model_config(settings, scene.bands).context_px
    one_model = given is not None or settings.mode == "global"
    height, width = scene.geobox.shape
    if settings.fit_block:
        side = choose_block_px(scene, settings, context_px, one_model=one_model)
        settings = settings.model_copy(update={"block_px": side})
    grid = make_grid((int(height), int(width)), settings.block_px, settings, context_px, one_model=one_model)
    view = overview(scene, name)
    scaling = _choose_scaling(scene, settings, view, given)
    settings = settings.model_copy(update={"scaling": scaling.name})
    if given is None and settings.preset == "paper":
        _check_extractors(settings, scene.bands)
    return Plan(scene, grid, scaling, settings, folders, given)


def _check_extractors(settings: Settings, bands: tuple[str, ...]) -> None:
    """Find what the published losses need before any work begins; downloads what Keras does not have yet."""
    from ktex_model import extractors

    config = model_config(settings, bands)
    try:
        if getattr(config, "uses_imagenet", False):
            extractors.imagenet(config.imagenet_weights)  # type: ignore[union-attr]
        if getattr(config, "autoencoder", None):
            extractors.load(config.autoencoder)  # type: ignore[union-attr,arg-type]
    except (OSError, ValueError) as error:
        raise InputError(f"--preset paper: {' '.join(str(error).split())}") from error


def overview(scene: Scene, name: str) -> Pixels:
    """Return a decimated view of the scene with valid pixels in it; raises InputError where there are none at all."""
    view = scene.overview(OVERVIEW_PX)
    if view.valid.any():
        return view
    # The few pixels that decimation keeps may all be invalid where others are not: look at every one.
    height, width = (int(size) for size in scene.geobox.shape)
    step = 2048
    for y in range(0, height, step):
        for x in range(0, width, step):
            pixels = scene.read(Window(y, x, min(y + step, height), min(x + step, width)))
            if pixels.valid.any():
                return (
                    Pixels(pixels.data[:, ::2, ::2], pixels.valid[::2, ::2]) if pixels.valid[::2, ::2].any() else pixels
                )
    raise InputError(
        f"{name}: has no valid pixel: all is nodata, transparent or masked; check --bands, --mask, --aoi and the files"
    )


def _choose_scaling(scene: Scene, settings: Settings, view: Pixels, given: ModelRef | None) -> Scaling:
    """Take the rule of the catalogue, or of the model, where there is one; else fit it to the scene."""
    model = None if given is None else given.scaling
    stored = None if settings.catalogue is None else stored_scaling(settings, scene.bands, model)
    scaling = stored or model
    if scaling is None:
        return _fit_scaling(scene, settings, view)
    try:
        scaling.apply(view.data[:, :1, :1])
    except ValueError as error:
        raise InputError(f"--catalogue {settings.catalogue}: its radiometric rule does not fit: {error}") from error
    return scaling


def _fit_scaling(scene: Scene, settings: Settings, view: Pixels) -> Scaling:
    """Choose the one radiometric rule of the run; it is tried on the view, so that a misfit shows before the work."""
    try:
        match settings.scaling:
            case "paper":
                scaling = radiometry.paper(scene.bands)
            case "reflectance":
                scaling = radiometry.reflectance(len(scene.bands))
            case "byte":
                scaling = radiometry.byte(len(scene.bands))
            case "percentile":
                scaling = radiometry.percentile(*radiometry.percentile_limits(view.data, view.valid))
        scaling.apply(view.data[:, :1, :1])
    except ValueError as error:
        raise InputError(f"--scaling {settings.scaling}: {error}") from error
    return scaling


def choose_block_px(scene: Scene, settings: Settings, context_px: int, *, one_model: bool) -> int:
    """Return the largest side of a block with which the workers fit into memory; half the scene is enough."""
    height, width = (int(size) for size in scene.geobox.shape)
    sides = [side for side in BLOCK_SIDES if side % min(settings.chunk_px, side) == 0]
    grids = ((side, make_grid((height, width), side, settings, context_px, one_model=one_model)) for side in sides)
    cost = (
        (side, _project(grid, scene, settings, one_model=one_model, trains=settings.model is None))
        for side, grid in grids
    )
    return fit_block_px(cost, workers=settings.workers or os.cpu_count() or 1, memory_bytes=machine_memory())


def make_grid(
    shape: tuple[int, int], block_px: int, settings: Settings, context_px: int, *, one_model: bool
) -> BlockGrid:
    """Divide a scene; labels of neighbouring blocks overlap where they have to be aligned."""
    overlap_px = 0 if one_model else min(settings.overlap_px, block_px // 2)
    return BlockGrid(shape, block_px, overlap_px=overlap_px, context_px=context_px)


def grid_of(settings: Mapping[str, Any], shape: tuple[int, int]) -> BlockGrid:
    """Return the blocks that a published map was made of, by the settings in its record."""
    known = Settings.model_validate({name: each for name, each in settings.items() if name in Settings.model_fields})
    one_model = known.mode == "global" or known.model is not None
    return make_grid(shape, known.block_px or max(shape), known, 0, one_model=one_model)


def project_cost(plan: Plan) -> Projection:
    """Project what a run will take."""
    return _project(plan.grid, plan.scene, plan.settings, one_model=plan.one_model, trains=plan.given is None)


def _is_anchored(settings: Settings, *, one_model: bool, blocks: int) -> bool:
    return settings.anchor and not one_model and 1 < blocks <= MOST_ANCHORED


def _project(grid: BlockGrid, scene: Scene, settings: Settings, *, one_model: bool, trains: bool) -> Projection:
    return project(
        grid,
        bands=len(scene.bands),
        itemsize=scene.dtype.itemsize,
        one_model=one_model,
        trains=trains,
        sample_pixels=settings.sample_windows * settings.sample_px**2,
        simulates=settings.simulated,
        anchored=_is_anchored(settings, one_model=one_model, blocks=len(grid)),
    )


@cache
def code_version() -> str:
    """Return the version of the program: its release, and a digest of the sources that results depend on."""
    digest = hashlib.sha256()
    for package in (ktex_model, pipeline):
        root = Path(package.__path__[0])
        for path in sorted(root.rglob("*.py")):
            digest.update(path.relative_to(root).as_posix().encode() + b"\0" + path.read_bytes())
    return f"{version('ktextures')}+{digest.hexdigest()[:16]}"
