"""Alternating assignment and refit: each class is a robust bell in feature space, neighbours tend to agree."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from ktex_model.texture.clustering import Ints
from ktex_model.texture.filters import Floats, Mask, gaussian

FREEDOM = 5.0
"""Degrees of freedom of the Student t likelihood: low enough that odd pixels do not pull a class."""

PRIOR_CELLS = 4.0
"""How many cells' worth of the features' own variance is added to each class."""

TREND_MIN_PX = 300
"""Smaller windows show too little of a trend to tell it from what lies in them (docs/method.md): those that are drawn
from large scenes are."""

TREND_RIDGE = 0.02
"""Pull of the trend's slopes towards 0, in units of cells: a scene without illumination keeps its colours."""


@dataclass(frozen=True)
class Cells:
    """The valid cells of several windows, one after the other.

    Attributes
    ----------
    features
        ``(n, feature)`` float32, standardised over all windows.
    masks
        For each window ``(y, x)`` bool: where its cells lie, in reading order.
    stride
        Pixels between cells.
    """

    features: Floats
    masks: tuple[Mask, ...]
    stride: int

    def maps(self, labels: Ints) -> list[Ints]:
        """Lay out one label per cell on the windows; -1 where not valid."""
        out = []
        for mask, part in self.parts():
            laid = np.full(mask.shape, -1, np.int64)
            laid[mask] = labels[part]
            out.append(laid)
        return out

    def parts(self) -> list[tuple[Mask, slice]]:
        """Return each window's mask with the slice of its cells."""
        ends = np.cumsum([0, *(int(mask.sum()) for mask in self.masks)])
        return [(mask, slice(int(a), int(b))) for mask, a, b in zip(self.masks, ends[:-1], ends[1:], strict=True)]


@dataclass(frozen=True)
class Moments:
    """Each class in feature space.

    Attributes
    ----------
    count
        ``(k,)`` cells; a class without any takes none.
    mean
        ``(k, feature)`` float64.
    covariance
        ``(k, feature, feature)`` float64, positive definite.
    """

    count: NDArray[np.float64]
    mean: NDArray[np.float64]
    covariance: NDArray[np.float64]


def fit_moments(features: Floats, labels: Ints, k: int) -> Moments:
    """Return count, mean and shrunk covariance of each class of ``(n, feature)`` standardised features."""
    size = features.shape[1]
    count = np.bincount(labels, minlength=k).astype(np.float64)
    mean, covariance = np.zeros((k, size)), np.tile(np.eye(size), (k, 1, 1))
    for c in np.flatnonzero(count):
        members = features[labels == c].astype(np.float64)
        mean[c] = members.mean(0)
        centred = members - mean[c]
        covariance[c] = shrink(centred.T @ centred / count[c], count[c])
    return Moments(count, mean, covariance)


def shrink(covariance: NDArray[np.float64], count: float) -> NDArray[np.float64]:
    """Pull a covariance of standardised features towards the identity: by 2 %, more where cells are few."""
    share = 0.02 + 0.98 * PRIOR_CELLS / (PRIOR_CELLS + count)
    return (1 - share) * covariance + share * np.eye(len(covariance))


@dataclass(frozen=True)
class Trend:
    """What moves all classes of a window alike from one side to the other: illumination, haze.

    Attributes
    ----------
    slopes
        For each window ``(2, feature)`` float32: how far each feature rises from the window's middle to its lower and
        to its right side; 0 in small windows, and in those without cells.
    """

    slopes: tuple[Floats, ...]


def fit_trend(cells: Cells, labels: Ints, k: int) -> Trend:
    """Fit a plane to each feature of each window.

    It is fitted inside classes, to how cells differ from the mean of their class by where they lie from the middle, so
    that classes on one side of a window are not taken for a trend. A curved trend follows the classes themselves where
    they are few. Windows have no offset of their own: a window may well be one class.
    """
    slopes = []
    for mask, part in cells.parts():
        if min(mask.shape) * cells.stride < TREND_MIN_PX or part.start == part.stop:
            slopes.append(np.zeros((2, cells.features.shape[1]), np.float32))
            continue
        places = _places(mask)
        inside = _within_classes(places, labels[part], k)
        normal = inside.T @ inside + TREND_RIDGE * len(places) * np.eye(2, dtype=np.float32)
        fitted = np.linalg.solve(normal, inside.T @ _within_classes(cells.features[part], labels[part], k))
        slopes.append(fitted.astype(np.float32))
    return Trend(tuple(slopes))


def take_off(cells: Cells, trend: Trend) -> Cells:
    """Return the cells without a trend, which may have been fitted on another lattice of the same windows."""
    flat = cells.features.copy()
    for (mask, part), slopes in zip(cells.parts(), trend.slopes, strict=True):
        if slopes.any():
            flat[part] -= _places(mask) @ slopes
    return replace(cells, features=flat)


def _places(mask: Mask) -> Floats:
    """Return where the cells of a window lie, ``(n, 2)``: -1 to 1 from its upper and left to its lower and right."""
    middle = (np.array(mask.shape) - 1) / 2
    return ((np.argwhere(mask) - middle) / (middle + 0.5)).astype(np.float32)


def remove_trend(cells: Cells, labels: Ints, k: int) -> Cells:
    """Return the cells without the trend that their classes show."""
    return take_off(cells, fit_trend(cells, labels, k))


def _within_classes(values: Floats, labels: Ints, k: int) -> Floats:
    """Return ``(n, column)`` values less the mean of their class."""
    member = np.zeros((len(labels), k), np.float32)
    member[np.arange(len(labels)), labels] = 1
    means = (member.T @ values) / np.maximum(member.sum(0), 1)[:, None]
    return np.asarray(values - means[labels], np.float32)


def mean_log_likelihood(cells: Cells, labels: Ints, k: int) -> float:
    """Return how well the classes explain their own cells once trends are off, in nats a cell, up to a constant."""
    flat = remove_trend(cells, labels, k).features
    own = log_likelihood(flat, fit_moments(flat, labels, k))
    return float(own[np.arange(len(labels)), labels].mean(dtype=np.float64))


def log_likelihood(features: Floats, moments: Moments) -> Floats:
    """Return the log of the Student t density ``(n, k)`` up to a constant; -inf-like for classes without cells."""
    size = features.shape[1]
    out = np.full((len(features), len(moments.count)), np.float32(-1e9))
    for c in np.flatnonzero(moments.count):
        factor = np.linalg.cholesky(moments.covariance[c])
        whitening = np.linalg.inv(factor).T.astype(np.float32)
        distance = ((features @ whitening - (moments.mean[c] @ whitening).astype(np.float32)) ** 2).sum(1)
        log_det = 2 * np.log(np.diag(factor)).sum()
        out[:, c] = -0.5 * (log_det + (FREEDOM + size) * np.log1p(distance / FREEDOM))
    return out


def softmax(logits: Floats) -> Floats:
    """Return shares ``(n, k)`` that add up to 1."""
    shares = np.exp(logits - logits.max(1, keepdims=True))
    return np.asarray(shares / shares.sum(1, keepdims=True), np.float32)


@dataclass(frozen=True)
class Sight:
    """How a cell's class is decided.

    Attributes
    ----------
    smooth_px
        Std in pixels of the neighbourhood that takes part.
    coupling
        Weight of the neighbourhood against the cell's own features.
    sharpness
        Weight of all features together, in units of one feature: neighbouring cells see nearly the same, so that
        their likelihoods must not count as if each were news.
    steps
        Mean-field steps: how often what the neighbourhood says is passed on, so that a narrow one, which keeps edges,
        reaches far where all agree.
    """

    smooth_px: float
    coupling: float
    sharpness: float
    steps: int = 3


def settle_neighbours(unary: Floats, mask: Mask, sight: Sight, stride: int) -> Ints:
    """Assign the cells of one window so that neighbours tend to agree.

    Mean field of a Potts model with a Gaussian neighbourhood.

    Parameters
    ----------
    unary
        ``(n, k)`` what each cell says by itself.
    mask
        ``(y, x)`` bool: where the cells lie.
    sight, stride
        The neighbourhood, its weight and the number of steps; pixels between cells.
    """
    sigma = sight.smooth_px / stride
    density = np.maximum(gaussian(mask[..., None].astype(np.float32), sigma)[mask], np.float32(1e-6))
    q = softmax(unary)
    for _ in range(sight.steps):
        laid = np.zeros((*mask.shape, unary.shape[1]), np.float32)
        laid[mask] = q
        around = gaussian(laid, sigma)[mask] / density
        q = softmax(np.asarray(unary + np.float32(sight.coupling) * around, np.float32))
    return np.asarray(q.argmax(1), np.int64)


@dataclass(frozen=True)
class Assigned:
    """Labels of cells, and how much they still changed from round to round."""

    labels: Ints
    changes: tuple[float, ...] = ()


def assign(cells: Cells, moments: Moments, sight: Sight) -> Ints:
    """Assign every cell to a class, given the classes' moments; windows do not see each other."""
    temper = np.float32(sight.sharpness / cells.features.shape[1])
    labels = np.empty(len(cells.features), np.int64)
    for mask, part in cells.parts():
        if part.start < part.stop:
            unary = log_likelihood(cells.features[part], moments) * temper
            labels[part] = settle_neighbours(unary, mask, sight, cells.stride)
    return labels


def alternate(cells: Cells, labels: Ints, k: int, *, rounds: int, settle: float, sight: Sight) -> Assigned:
    """Refit trends and classes and assign cells in turn, until under a share `settle` of the cells changes."""
    state = Assigned(labels)
    for _ in range(rounds):
        flat = remove_trend(cells, state.labels, k)
        new = assign(flat, fit_moments(flat.features, state.labels, k), sight)
        changed = float((new != state.labels).mean())
        state = replace(state, labels=new, changes=(*state.changes, changed))
        if changed < settle:
            break
    return state


def upsample(maps: Sequence[Ints], factor: int, shapes: Sequence[tuple[int, int]]) -> list[Ints]:
    """Repeat each cell of each map `factor` times along y and x, cut to the given shapes."""
    return [
        np.repeat(np.repeat(labels, factor, 0), factor, 1)[: shape[0], : shape[1]]
        for labels, shape in zip(maps, shapes, strict=True)
    ]
