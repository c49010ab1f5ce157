"""What a report finds when it looks at the outputs of a run and at its imagery: all its measurements in one value."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from odc.geo.geobox import GeoBox

from pipeline.blocks import BlockGrid, Window
from pipeline.borders import Border, measure_borders
from pipeline.census import measure_areas
from pipeline.errors import InputError
from pipeline.geotiff import close_idle
from pipeline.ground import read_image
from pipeline.legend import Legend
from pipeline.pixels import Pixels, Scene
from pipeline.record import RunRecord
from pipeline.report.diagnostics import DIAGNOSTICS, Diagnostics
from pipeline.report.encode import pack, picture_uri, png_uri
from pipeline.report.likeness import Features, Likeness, compare, describe_patch
from pipeline.report.patches import find_places
from pipeline.report.textures import TEXTURES
from pipeline.report.views import CONFIDENCE_STEP, MapView, Stretch, fade, picture, read_map
from pipeline.stores import LabelStore

PARTS = ("labels.tif", "confidence.tif", "labels.zarr", "classes.json", DIAGNOSTICS)
Meanwhile = Callable[[], str | None]
"""Waits for others, and returns the picture of the ground if they have drawn it."""

PATCHES = 4
MANY_CLASSES = 40
"""Of more classes than these, one patch each is shown, so that the page stays small."""

FORBIDDEN = "This report shows no pixels of the imagery, as its licence may ask for."


@dataclass(frozen=True)
class Imagery:
    """The scene of a run, and whether its pixels may be shown; where it cannot be read, `scene` is None and why.

    `ground` is the scene on the grid of the view, where it has been read already, and `stretch` how it is coloured.
    """

    scene: Scene | None
    shown: bool = True
    reason: str = ""
    ground: Pixels | None = None
    stretch: Stretch | None = None

    @property
    def absence(self) -> str:
        """Why no pixels are shown; empty where they are."""
        return self.reason if self.scene is None else "" if self.shown else FORBIDDEN


@dataclass(frozen=True)
class Patch:
    """A real patch: its picture, in which other classes are faded, and in words where it lies."""

    uri: str
    caption: str


@dataclass(frozen=True, eq=False)
class Survey:
    """All that was measured and drawn from pixels.

    Attributes
    ----------
    shape, box, grid
        Of the map: its size in pixels, its place, and the blocks that it was made of.
    view, packed
        The map at a size for looking; its labels and its confidence as the page carries them.
    image
        The imagery on the grid of the view, a picture as an address; None where it is not shown.
    areas
        Square metres by class; None without a coordinate system.
    patches, textures
        By class: pictures of real patches, and of the generated texture, as addresses.
    alike
        Pairs of classes, the most alike first.
    no_pixels
        Why no imagery is shown; empty where it is.
    """

    shape: tuple[int, int]
    box: GeoBox
    grid: BlockGrid
    legend: Legend
    diagnostics: Diagnostics
    view: MapView
    packed: tuple[str, str]
    image: str | None
    areas: Mapping[int, float] | None
    borders: tuple[Border, ...]
    patches: Mapping[int, tuple[Patch, ...]]
    textures: Mapping[int, str]
    alike: tuple[Likeness, ...]
    no_pixels: str

    @property
    def confidence(self) -> float | None:
        """Median confidence of the map, 0..1; None where no pixel has a class."""
        seen = self.view.confidence[self.view.confidence != 255]
        return float(np.median(seen)) * CONFIDENCE_STEP / 200 if seen.size else None


def survey(
    directory: Path,
    record: RunRecord,
    imagery: Imagery,
    meanwhile: Meanwhile | None = None,
    borders: Sequence[Border] | None = None,
) -> Survey:
    """Look at the outputs of a run, published or about to be; raises InputError where one is missing.

    `meanwhile` is what others make at the same time: it is called last, and returns when the generated textures are
    there. `borders` are those of the blocks, where they have been measured already.
    """
    if missing := [name for name in PARTS if not (directory / name).exists()]:
        raise InputError(f"{directory}: {', '.join(missing)} of this run is missing; run again with --fresh")
    legend = Legend.from_json(directory / "classes.json")
    diagnostics, store = Diagnostics.read(directory), LabelStore.open(directory / "labels.zarr")
    grid = BlockGrid(store.shape, int(str(record.settings["block_px"])))
    view = read_map(directory)
    areas = _known_areas(record, legend) or measure_areas(store)
    image, patches, features = _look(imagery, view, store, legend, diagnostics)
    if borders is None:
        borders = measure_borders(store.read, grid, store.nodata)
    packed = pack(view.labels), pack(view.confidence)
    drawn = None if meanwhile is None else meanwhile()
    if image is None or not imagery.shown:
        drawn = None
    elif drawn is None:
        drawn = draw(*image)
    return Survey(
        shape=store.shape,
        box=store.geobox,
        grid=grid,
        legend=legend,
        diagnostics=diagnostics,
        view=view,
        packed=packed,
        image=drawn,
        areas=None if areas is None else {int(class_id): area for class_id, area in areas.items()},
        borders=tuple(borders),
        patches=patches,
        textures=read_textures(directory, legend),
        alike=tuple(compare(features)),
        no_pixels=imagery.absence,
    )


def _known_areas(record: RunRecord, legend: Legend) -> dict[str, float] | None:
    """Return the areas that the run measured; None where it did not, or where classes have been merged since."""
    areas = None if record.metrics is None else record.metrics.areas_m2
    return areas if areas and {int(each) for each in areas} == set(legend.ids) else None


def read_textures(directory: Path, legend: Legend) -> dict[int, str]:
    """Return the pictures of the generated textures of a run's classes."""
    paths = {class_id: directory / TEXTURES / f"{class_id}.png" for class_id in legend.ids}
    return {class_id: png_uri(path.read_bytes()) for class_id, path in paths.items() if path.is_file()}


def _look(
    imagery: Imagery, view: MapView, store: LabelStore, legend: Legend, diagnostics: Diagnostics
) -> tuple[tuple[Pixels, Stretch] | None, dict[int, tuple[Patch, ...]], dict[int, list[Features]]]:
    """Look at the imagery: the map's ground and the patches, where they may be shown, and the features of patches."""
    patches: dict[int, tuple[Patch, ...]] = {}
    features: dict[int, list[Features]] = {}
    if imagery.scene is None:
        return None, patches, features
    image = imagery.ground or read_image(imagery.scene, view.factor)
    stretch = imagery.stretch or Stretch.fit(image, diagnostics.bands)
    places = find_places(view, legend.ids, store.shape, PATCHES if len(legend) <= MANY_CLASSES else 1)
    low, high = (np.array(side, np.float32)[:, None, None] for side in (diagnostics.low, diagnostics.high))
    for class_id, windows in places.items():
        shown = []
        for window in windows:
            pixels, of_class = imagery.scene.read(window), store.read(window) == class_id
            scaled = np.clip((pixels.data.astype(np.float32) - low) / (high - low), 0, 1)
            described = describe_patch(np.ascontiguousarray(np.moveaxis(scaled, 0, -1)), of_class & pixels.valid)
            features.setdefault(class_id, []).append(described)
            if imagery.shown:
                seen = fade(picture(pixels, stretch), of_class)
                shown.append(Patch(picture_uri(seen), _caption(window, float(of_class.mean()))))
        patches[class_id] = tuple(shown)
        close_idle()  # patches lie far apart
    return (image, stretch), patches, features


def draw(ground: Pixels, stretch: Stretch) -> str:
    """Return the picture of the scene at a size for looking, as an address."""
    return picture_uri(picture(ground, stretch))


def _caption(window: Window, share: float) -> str:
    return f"{window.shape[0]} px patch at row {window.y0}, column {window.x0}; {share:.0%} of it is this class"
