"""Members of classes: measured in patches of each block, freed of the drift between blocks, thinned for keeping."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from ktex_model.model import NO_CLASS
from pipeline.align.measure import measure
from pipeline.align.values import BlockSignature
from pipeline.catalogue.values import Float, Members, Sites

PATCH_PX = 64
"""Least side of a patch: large enough for a texture to show, small enough for several patches in a small scene."""
MAX_PATCHES = 4
"""Most patches along a side of a block."""
MIN_PIXELS = 64
"""A class with fewer pixels in a patch is not measured there."""
MAX_KEPT = 256
"""Members of one class that are kept."""

_RIDGE = 1.0
_ROUNDS = 30


def measure_members(
    whole: BlockSignature,
    labels: NDArray[np.uint8],
    features: NDArray[np.float32],
    cell_valid: NDArray[np.bool_],
    *,
    stride: int = 4,
) -> Members:
    """Describe each class of a block in each of its patches.

    Parameters
    ----------
    whole
        The classes of the block as `pipeline.align.measure` describes them. A class that is nowhere large enough for
        a patch is described by all of the block.
    labels, features, cell_valid, stride
        As for `pipeline.align.measure`.

    Returns
    -------
    Members
        Under local ids. Classes that fill no valid cell are left out.
    """
    found = []
    for y0, y1 in patches(labels.shape[0], stride):
        for x0, x1 in patches(labels.shape[1], stride):
            cells = slice(y0 // stride, -(-y1 // stride)), slice(x0 // stride, -(-x1 // stride))
            part = labels[y0:y1, x0:x1]
            if (part != NO_CLASS).any():
                said = measure(whole.index, part, features[cells], cell_valid[cells], stride=stride)
                found.append(members_of(said, said.pixels >= MIN_PIXELS))
    seen = np.concatenate([each.ids for each in found]) if found else np.zeros(0, np.int64)
    found.append(members_of(whole, ~np.isin(whole.ids, seen)))
    return join(found)


def members_of(said: BlockSignature, chosen: NDArray[np.bool_]) -> Members:
    """Return the chosen classes of a signature as members; those without features are left out."""
    use = chosen & np.isfinite(said.features).all(axis=1)
    return Members(said.ids[use], said.pixels[use], said.features[use].astype(np.float64))


def join(parts: Sequence[Members]) -> Members:
    """Return the members and the sites of one or more parts."""
    return Members(
        np.concatenate([each.ids for each in parts]),
        np.concatenate([each.pixels for each in parts]),
        np.concatenate([each.features for each in parts]),
        Sites(*(np.concatenate([getattr(each.sites, name) for each in parts]) for name in ("keys", "ids"))),
    )


def patches(size: int, stride: int = 4) -> list[tuple[int, int]]:
    """Cut a side into equal patches of whole cells, at most 4, each of 64 px or more.

    >>> patches(200), patches(100), patches(4096)[-1]
    ([(0, 68), (68, 136), (136, 200)], [(0, 100)], (3072, 4096))
    """
    count = min(MAX_PATCHES, max(1, size // PATCH_PX))
    step = math.ceil(size / count / stride) * stride
    return [(start, min(start + step, size)) for start in range(0, size, step)]


def remove_drift(members: Members, block: NDArray[np.intp]) -> Members:
    """Take off what moves all classes of a block together, by two-way fixed effects of class and block.

    Blocks are drawn towards no offset at all by as much as one member weighs, so that a block of a single class,
    which could be anything, keeps most of what it has.

    Parameters
    ----------
    members
        With the ids that hold all over the scene.
    block
        ``(M,)``: number of the block of each member.

    Examples
    --------
    >>> ids, block = np.tile([0, 1], 50), np.repeat(np.arange(50), 2)
    >>> drift = np.linspace(-1, 1, 50)[block]
    >>> seen = Members(ids, np.full(100, 99), (ids * 5 + drift)[:, None])
    >>> float(np.ptp(remove_drift(seen, block).features[ids == 0])) < 1
    True
    """
    if len(members) == 0:
        return members
    _, label = np.unique(members.ids, return_inverse=True)
    weight = np.sqrt(members.pixels.astype(np.float64))
    typical = float(weight.mean())
    offsets = np.zeros((int(block.max()) + 1, members.features.shape[1]))
    for _ in range(_ROUNDS):
        means = _means(members.features - offsets[block], label, weight, 0.0)
        offsets = _means(members.features - means[label], block, weight, _RIDGE * typical)
    return replace(members, features=members.features - offsets[block])


def _means(values: Float, group: NDArray[np.intp], weight: Float, ridge: float) -> Float:
    """Return ``(G, D)`` weighted means of the groups, drawn towards 0 by `ridge`."""
    total = np.bincount(group, weight) + ridge
    columns = [np.bincount(group, weight * column) for column in values.T]
    result: Float = np.stack(columns, axis=1) / np.maximum(total, 1e-12)[:, None]
    return result


def whitening_of(members: Members) -> Float:
    """Return ``(D, D)``: features times this have variance 1 inside a class.

    The worst tenth of members is dropped, because some are wrong. Where there are few members, their covariance is
    drawn towards its diagonal, and that towards a part of the variance between classes.
    """
    dims = members.features.shape[1]
    if len(members) == 0:
        return np.eye(dims)
    _, label = np.unique(members.ids, return_inverse=True)
    weight = np.sqrt(members.pixels.astype(np.float64))
    residual = members.features - _means(members.features, label, weight, 0.0)[label]
    total = members.features - members.features.mean(axis=0)
    prior = np.full(dims, max(0.05 * float((total**2).mean()), 1e-6))
    size = np.einsum("nd,nd->n", residual / prior, residual)
    keep = size <= np.quantile(size, 0.9)
    freedom = max(float(keep.sum() - len(np.unique(label))), 0.0)
    found = residual[keep].T @ residual[keep] / max(freedom, 1.0)
    strength = freedom / (freedom + 10.0)
    cov = strength * found + (1 - strength) * np.diag(prior)
    trust = freedom / (freedom + 2.0 * dims)
    cov = trust * cov + (1 - trust) * np.diag(np.diag(cov)) + 1e-2 * np.diag(prior)
    values, vectors = np.linalg.eigh(cov)
    result: Float = vectors / np.sqrt(values) @ vectors.T
    return result


def thin(members: Members, seed: int = 0) -> Members:
    """Keep at most 256 members of each class, drawn without regard to what they are, and all sites."""
    rng = np.random.default_rng(seed)
    kept = []
    for each in np.unique(members.ids):
        of = np.flatnonzero(members.ids == each)
        kept.append(of if len(of) <= MAX_KEPT else np.sort(rng.choice(of, MAX_KEPT, replace=False)))
    return members.of(np.concatenate(kept) if kept else np.zeros(0, np.intp))
