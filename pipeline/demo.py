"""A made scene of known truth: a mosaic of quads in the layout of Planet NICFI basemaps.

Six textures in three pairs: the two of a pair share their mean colour and the way in which it varies, and differ in
scale or direction alone. Colours therefore cannot tell them apart, texture can. Each quad has its own illumination on
top of a drift over the whole scene, and a sea without data cuts through several quads.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import rasterio
from affine import Affine
from numpy.typing import NDArray
from rasterio.enums import ColorInterp
from scipy import ndimage

from pipeline.blocks import Window

ORIGIN_M = 20037508.342789244
"""Half the width of the EPSG:3857 world, in metres."""

RES_M = 4.777314267823516
"""Pixel of zoom level 15, in metres of EPSG:3857."""

WORLD_PX = 8_388_608
"""Pixels on each axis of the global grid of zoom level 15."""

QUAD_PX = 4096
"""Side of a real basemap quad."""

CORNER = (1308, 917)
"""``(x, y)`` of the real quad that the scene starts in, x from the west, y from the south: the east of Madagascar."""

NO_TRUTH = 255
ALPHA_VALID = 65535

Field = NDArray[np.float32]
Mask = NDArray[np.bool_]


class Texture(NamedTuple):
    """One class of the truth: what it is called, its mean colour and how far it varies around it."""

    name: str
    mean_dn: tuple[int, int, int, int]
    spread_dn: tuple[int, int, int, int]


_GREEN = ((310, 560, 330, 2900), (60, 110, 75, 520))
_OLIVE = ((620, 930, 1010, 2250), (120, 165, 215, 300))
_BRIGHT = ((1150, 1420, 1740, 2380), (210, 250, 290, 330))

TEXTURES = (
    Texture("forest canopy", *_GREEN),
    Texture("plantation rows", *_GREEN),
    Texture("fields", *_OLIVE),
    Texture("scrub", *_OLIVE),
    Texture("bare ground", *_BRIGHT),
    Texture("town", *_BRIGHT),
)
"""The classes by id; 0 and 1, 2 and 3, 4 and 5 share their colours (B, G, R, N)."""


@dataclass(frozen=True)
class Demo:
    """What `make_demo` wrote.

    Attributes
    ----------
    paths
        The quads, north to south and west to east.
    truth_path
        The truth: uint8 ids 0..k-1, nodata 255, on the grid of the mosaic.
    k
        Number of textures in the scene.
    """

    paths: tuple[Path, ...]
    truth_path: Path
    k: int


class _Quad(NamedTuple):
    name: str
    window: Window


def quad_transform(x: int, y: int, quad_px: int = QUAD_PX) -> Affine:
    """Return the transform of quad `x` from the west, `y` from the south, of a global grid of `quad_px` quads.

    Examples
    --------
    >>> transform = quad_transform(639, 942)
    >>> round(transform.c, 3), round(transform.f, 3)
    (-7533633.508, -1584998.219)
    """
    side_m = quad_px * RES_M
    return Affine(RES_M, 0.0, x * side_m - ORIGIN_M, 0.0, -RES_M, (y + 1) * side_m - ORIGIN_M)


def make_demo(directory: str | Path, *, seed: int = 0, quads: tuple[int, int] = (2, 2), quad_px: int = 512) -> Demo:
    """Write a mosaic of quads into `directory` and its truth into the folder ``truth`` beneath it.

    The quads are 5 x uint16 (blue, green, red, near infrared, alpha), EPSG:3857, on the global grid of zoom level 15,
    without a nodata tag: validity is the alpha band, 65535 or 0. Quads of fewer than 4096 pixels divide the real ones,
    and their names count on that finer grid: ``L15-10464E-7337N.tif`` with 512 pixels lies in the real quad 1308-917.
    The same seed writes the same pixels.

    Parameters
    ----------
    directory
        Made if absent; files of the same names are replaced.
    seed
        What the scene is drawn from.
    quads
        Rows and columns of quads.
    quad_px
        Side of a quad in pixels; a power of two, 64 to 4096, so that quads stay on the lattice.

    Raises
    ------
    ValueError
        Where `quads` or `quad_px` is out of range.
    """
    if min(quads) < 1:
        raise ValueError(f"`quads` must be at least one row and one column; got {quads}")
    if quad_px not in {2**n for n in range(6, 13)}:
        raise ValueError(f"`quad_px` must be a power of two, 64 to 4096; got {quad_px}")
    directory = Path(directory)
    shape = quads[0] * quad_px, quads[1] * quad_px
    land = draw_land(shape, seed)
    truth = np.where(land, draw_regions(shape, seed), NO_TRUTH).astype(np.uint8)
    dn = paint(truth, seed)
    truth_path = directory / "truth" / "truth.tif"
    truth_path.parent.mkdir(parents=True, exist_ok=True)
    paths = []
    for number, quad in enumerate(_lay_out(quads, quad_px)):
        lit = illuminate(dn[(slice(None), *quad.window.slices)], quad.window, shape, (seed, number))
        path = directory / quad.name
        _write_quad(path, lit, land[quad.window.slices], _corner_transform(quads, quad_px, quad.window))
        paths.append(path)
    _write_truth(truth_path, truth, _corner_transform(quads, quad_px, Window(0, 0, *shape)))
    return Demo(tuple(paths), truth_path, len(TEXTURES))


def draw_land(shape: tuple[int, int], seed: int) -> Mask:
    """Draw where there is land, ``(y, x)`` bool: all but a sea in the east with a wavy coast."""
    rng = np.random.default_rng((seed, 1))
    y = np.arange(shape[0])[:, None] / shape[0]
    x = np.arange(shape[1])[None, :] / shape[1]
    coast = 0.93 - 0.16 * y + 0.03 * np.sin(2 * np.pi * (1.6 * y + rng.random()))
    roughness = _noise(shape, rng, 24.0) * 0.016
    return np.asarray(x < coast + roughness)


def draw_regions(shape: tuple[int, int], seed: int, cell_px: int = 170) -> NDArray[np.uint8]:
    """Draw the classes, ``(y, x)`` uint8: warped cells about `cell_px` across, each six neighbours all different."""
    rng = np.random.default_rng((seed, 2))
    rows, cols = (max(3, round(size / cell_px)) for size in shape)
    pitch = shape[0] / rows, shape[1] / cols
    sites = np.stack(np.meshgrid(np.arange(rows), np.arange(cols), indexing="ij"), axis=-1) + 0.5
    sites = (sites + rng.uniform(-0.22, 0.22, sites.shape)) * pitch
    warp = [_noise(shape, rng, 14.0) * 8.0 + _noise(shape, rng, 4.0) * 2.0 for _ in range(2)]
    y = np.arange(shape[0])[:, None] + warp[0]
    x = np.arange(shape[1])[None, :] + warp[1]
    nearest = np.full(shape, np.inf, np.float32)
    regions = np.zeros(shape, np.uint8)
    for (site_y, site_x), label in zip(sites.reshape(-1, 2), _deal(rows, cols, rng).ravel(), strict=True):
        distance = (y - site_y) ** 2 + (x - site_x) ** 2
        regions[distance < nearest] = label
        nearest = np.minimum(nearest, distance)
    return regions


def paint(truth: NDArray[np.uint8], seed: int) -> Field:
    """Paint each class with its texture.

    Returns ``(band, y, x)`` float32, B, G, R, N in reflectance times 10,000; 0 where there is no truth. Over all of
    its pixels a class has exactly its mean colour and, but for noise, its spread.
    """
    dn = np.zeros((4, *truth.shape), np.float32)
    noise = np.random.default_rng((seed, 3))
    for label, texture in enumerate(TEXTURES):
        mask = truth == label
        if not mask.any():
            continue
        pattern = draw_texture(texture.name, truth.shape, np.random.default_rng((seed, 4, label)))[mask]
        pattern = np.clip((pattern - pattern.mean()) / (pattern.std() + 1e-6), -2.2, 2.2)
        pattern -= pattern.mean()
        for band in range(4):
            grain = noise.normal(0.0, 0.25, pattern.size).astype(np.float32)
            dn[band, mask] = texture.mean_dn[band] + texture.spread_dn[band] * (pattern + grain - grain.mean())
    return dn


def draw_texture(name: str, shape: tuple[int, int], rng: np.random.Generator) -> Field:
    """Draw one texture over the whole scene, ``(y, x)`` float32, in arbitrary units."""
    y, x = (axis.astype(np.float32) for axis in np.indices(shape))
    match name:
        case "forest canopy":
            return _noise(shape, rng, 1.4) - 0.6 * _noise(shape, rng, 3.0)
        case "plantation rows":
            across = x * np.float32(np.cos(0.5)) + y * np.float32(np.sin(0.5)) + 1.5 * _noise(shape, rng, 20.0)
            return np.asarray(np.sin(2 * np.pi * across / 9.0) + 0.35 * _noise(shape, rng, 1.5))
        case "fields":
            return _parcels(y, x, rng, (28.0, 22.0), 0.2) + 0.15 * _noise(shape, rng, 1.0)
        case "scrub":
            return np.asarray(np.tanh(1.6 * _noise(shape, rng, 2.6)) + 0.3 * _noise(shape, rng, 1.0))
        case "bare ground":
            return 0.8 * _noise(shape, rng, 9.0) + 0.5 * _noise(shape, rng, (1.0, 6.0))
        case "town":
            return _parcels(y, x, rng, (7.0, 7.0), -0.35) - 1.3 * _streets(y, x, 14.0, -0.35)
    raise ValueError(f"`name` must be one of {[texture.name for texture in TEXTURES]}; got {name!r}")


def illuminate(dn: Field, window: Window, shape: tuple[int, int], seed: tuple[int, int]) -> NDArray[np.uint16]:
    """Light one quad, ``(band, y, x)``: a drift over the scene, and a gain, its slope and an offset of its own."""
    rng = np.random.default_rng((*seed, 5))
    y, x = ((axis + 0.5) for axis in np.indices(dn.shape[1:]))
    scene_y, scene_x = (y + window.y0) / shape[0], (x + window.x0) / shape[1]
    drift = 1.0 + 0.04 * np.sin(np.pi * (scene_x + 0.5 * scene_y)) - 0.02
    slope = rng.uniform(-0.02, 0.02, 2)
    tilt = slope[0] * (y / dn.shape[1] - 0.5) + slope[1] * (x / dn.shape[2] - 0.5)
    gain = 1.0 + rng.uniform(-0.03, 0.03) + rng.uniform(-0.008, 0.008, (dn.shape[0], 1, 1))
    offset = rng.uniform(-12.0, 12.0, (dn.shape[0], 1, 1))
    lit = dn * (drift * (gain + tilt)) + offset
    return np.asarray(np.clip(np.rint(lit), 1, 10_000), np.uint16)


def _noise(shape: tuple[int, int], rng: np.random.Generator, sigma_px: float | tuple[float, float]) -> Field:
    """Smooth noise of mean 0 and spread 1."""
    smooth = ndimage.gaussian_filter(rng.standard_normal(shape, dtype=np.float32), sigma_px, mode="wrap")
    return np.asarray((smooth - smooth.mean()) / smooth.std(), np.float32)


def _turn(y: Field, x: Field, angle: float) -> tuple[Field, Field]:
    cos, sin = np.float32(np.cos(angle)), np.float32(np.sin(angle))
    return y * cos - x * sin, y * sin + x * cos


def _parcels(y: Field, x: Field, rng: np.random.Generator, side_px: tuple[float, float], angle: float) -> Field:
    """Draw rectangles of constant random value, with the rows shifted against each other."""
    along, across = _turn(y, x, angle)
    row = np.floor(along / side_px[0]).astype(np.int64)
    shift = rng.random(1024, dtype=np.float32)[row % 1024]
    col = np.floor(across / side_px[1] + shift).astype(np.int64)
    return np.asarray(rng.standard_normal((1024, 1024), dtype=np.float32)[row % 1024, col % 1024])


def _streets(y: Field, x: Field, pitch_px: float, angle: float) -> Field:
    """Draw a grid of lines two pixels wide: 1 on a line, 0 beside it."""
    along, across = _turn(y, x, angle)
    return ((along % pitch_px < 2.0) | (across % pitch_px < 2.0)).astype(np.float32)


def _deal(rows: int, cols: int, rng: np.random.Generator) -> NDArray[np.uint8]:
    """Deal classes to cells: a new shuffle of all of them for every 2 x 3 cells."""
    dealt = np.zeros((rows + rows % 2, cols + -cols % 3), np.uint8)
    for row in range(0, dealt.shape[0], 2):
        for col in range(0, dealt.shape[1], 3):
            dealt[row : row + 2, col : col + 3] = rng.permutation(len(TEXTURES)).reshape(2, 3)
    return dealt[:rows, :cols]


def _lay_out(quads: tuple[int, int], quad_px: int) -> Iterator[_Quad]:
    x0, y_top = _corner(quads, quad_px)
    for row in range(quads[0]):
        for col in range(quads[1]):
            top, left = row * quad_px, col * quad_px
            window = Window(top, left, top + quad_px, left + quad_px)
            yield _Quad(f"L15-{x0 + col:04d}E-{y_top - row:04d}N.tif", window)


def _corner(quads: tuple[int, int], quad_px: int) -> tuple[int, int]:
    """Return x and y of the upper left quad, on the grid of `quad_px` quads."""
    finer = QUAD_PX // quad_px
    return CORNER[0] * finer, CORNER[1] * finer + quads[0] - 1


def _corner_transform(quads: tuple[int, int], quad_px: int, window: Window) -> Affine:
    return quad_transform(*_corner(quads, quad_px), quad_px) @ Affine.translation(window.x0, window.y0)


def _write_quad(path: Path, dn: NDArray[np.uint16], valid: Mask, transform: Affine) -> None:
    alpha = np.where(valid, ALPHA_VALID, 0).astype(np.uint16)
    bands = np.concatenate([np.where(valid, dn, 0).astype(np.uint16), alpha[None]])
    profile = {**_profile(bands.shape[1:], transform), "count": 5, "dtype": "uint16", "predictor": 2}
    with rasterio.open(path, "w", **profile) as file:
        file.write(bands)
        file.colorinterp = (
            ColorInterp.blue,
            ColorInterp.green,
            ColorInterp.red,
            ColorInterp.undefined,
            ColorInterp.alpha,
        )


def _write_truth(path: Path, truth: NDArray[np.uint8], transform: Affine) -> None:
    profile = {**_profile(truth.shape, transform), "count": 1, "dtype": "uint8", "nodata": NO_TRUTH}
    with rasterio.open(path, "w", **profile) as file:
        file.write(truth, 1)
        file.update_tags(1, **{f"CLASS_{label}": texture.name for label, texture in enumerate(TEXTURES)})


def _profile(shape: tuple[int, ...], transform: Affine) -> dict[str, object]:
    tile_px = min(512, shape[0], shape[1])
    return {
        "driver": "GTiff",
        "height": shape[0],
        "width": shape[1],
        "crs": "EPSG:3857",
        "transform": transform,
        "tiled": True,
        "blockxsize": tile_px,
        "blockysize": tile_px,
        "compress": "deflate",
    }
