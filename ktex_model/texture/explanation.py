"""Explanation: textures generated from noise stand for the classes, and cells go to the texture that explains them.

Masks times textures make a simulated image. What a class looks like, borders and neighbours included, is then measured
on the simulated image and on the original alike, and every cell is assigned by that: the loop of the k-textures
method, with statistics in the place of gradients. Where a texture is far from its class, both together are wide, and
the class counts for less than those that are explained.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ktex_model.model import NO_CLASS
from ktex_model.texture.assignment import (
    Cells,
    assign,
    fit_moments,
    fit_trend,
    remove_trend,
    take_off,
    upsample,
)
from ktex_model.texture.bank import Bank
from ktex_model.texture.clustering import Ints
from ktex_model.texture.config import TextureConfig
from ktex_model.texture.features import Rotation, decompose
from ktex_model.texture.filters import Floats, pick, pool
from ktex_model.texture.generators import Generators, fit_generators
from ktex_model.texture.model import TextureModel

LOSS_PX = 16
"""Side of the windows in which the simulated image is compared."""


@dataclass(frozen=True)
class Explanation:
    """What the textures make of the classes.

    Attributes
    ----------
    maps
        For each window ``(y, x)`` int64: the class of each pixel; -1 where not valid.
    generators, share
        Fitted to these; ``(k,)`` float32 shares of the pixels.
    agreement
        Share of the cells that keep their class where generated textures have a say, from round to round; last the
        share that the final textures alone give the final class.
    loss
        Of the simulated image, see `simulation_loss`.
    """

    maps: tuple[Ints, ...]
    generators: Generators
    share: Floats
    agreement: tuple[float, ...]
    loss: float


def explain(
    bank: Bank, cells: Cells, labels: Ints, rotation: Rotation, config: TextureConfig, seed: int
) -> Explanation:
    """Fit generators to the labels and assign the cells by what they generate, `config.texture_loops` times.

    The last time every pixel is assigned, so that borders are drawn at full resolution. A further assignment, by the
    generated textures alone, is made to see how far they explain the final classes; it is not kept.
    """
    shapes = [levels.valid.shape for levels in bank.windows]
    trend = fit_trend(cells, labels, config.k)
    flat = take_off(cells, trend)
    moments, agreement = fit_moments(flat.features, labels, config.k), list[float]()
    for _ in range(config.texture_loops):
        maps = upsample(cells.maps(labels), cells.stride, shapes)
        seen = _generated(bank, cells, maps, rotation, config, seed).seen
        both = np.concatenate([flat.features, seen])
        moments = fit_moments(both, np.concatenate([labels, labels]), config.k)
        explained = assign(flat, moments, config.refining)
        agreement.append(float((explained == labels).mean()))
        labels = explained
    pixels = take_off(bank.cells(1), trend)
    maps = pixels.maps(assign(pixels, moments, config.refining))
    labels = np.concatenate([pick(laid, cells.stride)[mask] for laid, mask in zip(maps, cells.masks, strict=True)])
    last = _generated(bank, cells, maps, rotation, config, seed)
    flat, told = remove_trend(cells, labels, config.k), fit_moments(last.seen, labels, config.k)
    agreement.append(float((assign(flat, told, config.refining) == labels).mean()))
    return Explanation(tuple(maps), last.generators, last.share, tuple(agreement), last.loss)


@dataclass(frozen=True)
class _Generated:
    """Textures of classes, the features ``(n, feature)`` of the simulated image at the cells, and its loss."""

    generators: Generators
    share: Floats
    seen: Floats
    loss: float


def _generated(
    bank: Bank,
    cells: Cells,
    maps: Sequence[Ints],
    rotation: Rotation,
    config: TextureConfig,
    seed: int,
) -> _Generated:
    """Fit generators to classes ``(y, x)`` of the windows, and describe the image that they simulate."""
    generators = fit_generators(
        bank.windows, maps, config.k, radius=config.texture_radius_px, rounds=config.texture_rounds, seed=seed
    )
    count = np.bincount(np.concatenate([laid[laid >= 0] for laid in maps]), minlength=config.k)
    share = (count / count.sum()).astype(np.float32)
    simulated = describe_simulation(TextureModel(config, rotation, {}, generators, share), bank, maps, seed)
    seen = np.concatenate(
        [pick(features, cells.stride)[mask] for features, mask in zip(simulated, cells.masks, strict=True)]
    )
    return _Generated(generators, share, seen, simulation_loss(bank, simulated))


def describe_simulation(model: TextureModel, bank: Bank, labels: Sequence[Ints], seed: int) -> list[Floats]:
    """Return the features ``(y, x, feature)`` of the simulated image of each window, from ``(y, x)`` labels."""
    out = []
    for laid in labels:
        seen = laid >= 0
        image = model.simulate(np.where(seen, laid, NO_CLASS).astype(np.uint8), seed)
        out.append(bank.describe(decompose(model.rotation.forward(image), seen)))
    return out


def simulation_loss(bank: Bank, simulated: Sequence[Floats]) -> float:
    """Return how far the simulated image is from the original in feature space.

    The mean squared difference of the means and standard deviations of the standardised features in windows of
    `LOSS_PX`. 0 would be reached by the original itself.
    """
    total, count = 0.0, 0
    for levels, real, fake in zip(bank.windows, bank.features, simulated, strict=True):
        for a, b in zip(_windows(fake, levels.valid), _windows(real, levels.valid), strict=True):
            total, count = total + float(((a - b) ** 2).sum()), count + a.size
    return total / count


def _windows(features: Floats, seen: np.ndarray) -> tuple[Floats, Floats]:
    mean, held = pool(features, seen, LOSS_PX)
    square, _ = pool(features**2, seen, LOSS_PX)
    return mean[held], np.sqrt(np.maximum(square[held] - mean[held] ** 2, 0))
