"""Mosaics of blocks with known truth, as the alignment sees them: class signatures and overlap counts.

A scene holds `classes` textures, one pair of which is alike. Each block labels its wide window on its own: with
independently warped borders, salt, its own permutation, over-splits, merges and, now and then, nonsense. Features
drift over the scene, jump from block to block and, in `cdrift`, drift differently from class to class. `STRESS` takes
single things further than any of `SCENARIOS`. The nuisances are mostly additive, which is what the solver models:
results here are necessary, never sufficient.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from pipeline.align.values import Alignment, BlockSignature, Overlap
from pipeline.blocks import BlockGrid, Index, Window

NODATA = 255


@dataclass(frozen=True)
class Scenario:
    """What goes wrong in a simulated mosaic; the defaults are `clean`.

    Attributes
    ----------
    drift
        Amplitude of the smooth additive drift of features over the scene, as the study has it: 1 is `DRIFT` times the
        spread between classes.
    radiometry
        Standard deviation of the offset of each block's features; seen by the overlaps.
    split, merge, bad
        Shares of classes cut in two, of classes that are confused (of the n classes that a block holds the two nearest
        are one with a probability of ``merge * n / 2``), and of blocks of random labels.
    class_drift
        Amplitude of a drift of each class on its own.
    nodata
        Share of the scene without pixels.
    noise
        Standard deviation of each node's features, in units of the spread between classes, which is the spread inside
        a class as well; more for nodes of few pixels.
    warp_px
        Standard deviation of the shift of borders, drawn anew for each block.
    overlap_px
        Width of the halo of each block.
    classes
        Number of textures.
    parts
        Number of mosaics side by side that do not touch, the features of each moved by a step of its own.
    """

    drift: float = 0.0
    radiometry: float = 0.0
    split: float = 0.0
    merge: float = 0.0
    bad: float = 0.0
    class_drift: float = 0.0
    nodata: float = 0.0
    noise: float = 0.25
    warp_px: float = 1.5
    overlap_px: int = 4
    classes: int = 8
    parts: int = 1


_STD = Scenario(drift=1.0, radiometry=0.3, split=0.15, merge=0.05, bad=0.01)
SCENARIOS = {
    "clean": Scenario(),
    "std": _STD,
    "drift3": replace(_STD, drift=3.0),
    "heavy": replace(_STD, split=0.35, merge=0.15, bad=0.05),
    "islands": replace(_STD, nodata=0.55),
    "islands_d3": replace(_STD, nodata=0.55, drift=3.0),
    "cdrift": replace(_STD, class_drift=1.0),
    "drift6": replace(_STD, drift=6.0),
}
STRESS = {
    "noise1": replace(_STD, noise=1.0),
    "bad15": replace(_STD, bad=0.15),
    "merge30": replace(_STD, merge=0.3),
    "split80": replace(_STD, split=0.8),
    "radiometry1.5": replace(_STD, radiometry=1.5),
    "drift8": replace(_STD, drift=8.0),
    "halo1": replace(_STD, overlap_px=1),
    "warp2": replace(_STD, warp_px=2.0),
    "classes3": replace(_STD, classes=3),
    "classes14": replace(_STD, classes=14),
    "apart": replace(_STD, parts=2),
}
"""What the study stressed its solver by, `std` but for one thing each."""
DRIFT = 0.48
"""Standard deviation over the scene of a drift of 1: so k-means of signatures scores as in the study, as does the
drift of classes in `cdrift`."""
PATCH_PX, REGION_PX, SEA_PX = 8.0, 60.0, 96.0
"""Smoothness of patches, of the regions that lack classes, and of the sea."""
REGION = 1.0
"""Weight of the regions against the patches."""
_GAP = 30
"""Blocks of nothing between two parts."""
_STEP = 2.0
"""Standard deviation of the step of a part, in units of the spread between classes."""


@dataclass(frozen=True)
class Mosaic:
    """A simulated mosaic.

    Attributes
    ----------
    grid
        Blocks of 32 px with 4 px of overlap, unless asked otherwise; parts lie side by side.
    signatures, overlaps
        What `pipeline.align.align` takes.
    labels
        Local labels ``(y, x)`` uint8 of each block's wide window; 255 is nodata.
    truth
        ``(y, x)`` uint8, 255 is nodata.
    node_truth
        For each block, the class that most pixels of each local id belong to.
    classes
        Number of textures that were drawn from.
    """

    grid: BlockGrid
    signatures: list[BlockSignature]
    overlaps: list[Overlap]
    labels: dict[Index, NDArray[np.uint8]]
    truth: NDArray[np.uint8]
    node_truth: dict[Index, NDArray[np.intp]]
    classes: int


def simulate(
    counts: tuple[int, int],
    scenario: Scenario,
    seed: int,
    *,
    classes: int | None = None,
    dims: int = 12,
    block_px: int = 32,
) -> Mosaic:
    """Make a mosaic of ``counts`` blocks, or as many in each of its parts; `classes` overrides the scenario's."""
    classes = scenario.classes if classes is None else classes
    rng = np.random.default_rng([seed, *counts])
    starts = np.arange(scenario.parts) * (counts[1] + _GAP)
    columns = int(starts[-1]) + counts[1]
    grid = BlockGrid((counts[0] * block_px, columns * block_px), block_px, overlap_px=scenario.overlap_px)
    truth = _scene(rng, grid.shape, classes, scenario.nodata)
    inside = np.isin(np.arange(columns), starts[:, None] + np.arange(counts[1]))
    truth[:, ~np.repeat(inside, block_px)] = NODATA
    means = _class_means(rng, classes, dims)
    drift = _smooth_drift(rng, grid.counts, dims) * (DRIFT * scenario.drift)
    for start in starts[1:]:
        drift[:, start : start + counts[1]] += rng.normal(size=dims) * _STEP
    slopes = rng.normal(size=(classes, 2, dims)) * scenario.class_drift
    labels, signatures, node_truth, offsets = {}, [], {}, {}
    for block in grid:
        if not inside[block.index[1]]:
            continue  # its wide window may reach into a part
        local = _label_block(rng, truth, block.wide, means, scenario)
        if np.all(local == NODATA):
            continue
        iy, ix = block.index
        labels[block.index] = local
        offsets[block.index] = rng.normal(size=dims) * scenario.radiometry
        there = np.array([iy / grid.counts[0] - 0.5, ix / grid.counts[1] - 0.5])
        here = means + drift[iy, ix] + offsets[block.index] + np.einsum("i,kid->kd", there, slopes)
        signature, majority = _sign(rng, block.index, local, truth[block.wide.slices], here, scenario.noise)
        signatures.append(signature)
        node_truth[block.index] = majority
    overlaps = _count_overlaps(rng, grid, signatures, labels, offsets)
    return Mosaic(grid, signatures, overlaps, labels, truth, node_truth, classes)


def node_scores(mosaic: Mosaic, found: Alignment) -> tuple[NDArray[np.intp], NDArray[np.intp], NDArray[np.int64]]:
    """Return true class, global id and pixel count of every node."""
    true = np.concatenate([mosaic.node_truth[s.index] for s in mosaic.signatures])
    given = np.concatenate([found.lookup[s.index][s.ids].astype(np.intp) for s in mosaic.signatures])
    return true, given, np.concatenate([s.pixels for s in mosaic.signatures])


def permute(mosaic: Mosaic, seed: int) -> tuple[list[BlockSignature], list[Overlap], dict[Index, NDArray[np.intp]]]:
    """Rename all local ids and shuffle all blocks; also return the new name of each id."""
    rng = np.random.default_rng(seed)
    new_names, signatures, orders = {}, [], {}
    for s in mosaic.signatures:
        names = rng.permutation(int(s.ids.max()) + 1)
        order = np.argsort(names[s.ids])
        new_names[s.index], orders[s.index] = names, order
        signatures.append(
            BlockSignature(s.index, names[s.ids][order], s.pixels[order], s.features[order], s.spread[order])
        )
    overlaps = []
    for o in mosaic.overlaps:
        table = o.table[orders[o.a]][:, orders[o.b]]
        flip = rng.random() < 0.5
        overlaps.append(Overlap(o.b, o.a, table.T.copy(), -o.delta, o.weight) if flip else replace(o, table=table))
    rng.shuffle(signatures)  # type: ignore[arg-type]
    rng.shuffle(overlaps)  # type: ignore[arg-type]
    return signatures, overlaps, new_names


def _scene(rng: np.random.Generator, shape: tuple[int, int], classes: int, nodata: float) -> NDArray[np.uint8]:
    """Return patches of classes, some of which are absent from whole regions, and sea between islands."""
    best = np.full(shape, -np.inf, dtype=np.float32)
    truth = np.zeros(shape, dtype=np.uint8)
    for k in range(classes):
        score = _field(rng, shape, PATCH_PX) + REGION * _field(rng, shape, REGION_PX)
        truth[score > best] = k
        best = np.maximum(best, score)
    if nodata > 0:
        sea = _field(rng, shape, SEA_PX)
        truth[sea < np.quantile(sea, nodata)] = NODATA
    return truth


def _field(rng: np.random.Generator, shape: tuple[int, int], sigma: float) -> NDArray[np.float32]:
    """Return smooth Gaussian noise of variance 1, made coarse and enlarged where it is very smooth."""
    step = max(1, int(sigma // 3))
    coarse = tuple(size // step + 4 for size in shape)
    field = ndimage.gaussian_filter(rng.normal(size=coarse).astype(np.float32), sigma / step, mode="wrap")
    field = ndimage.zoom(field / field.std(), step, order=1) if step > 1 else field / field.std()
    cut: NDArray[np.float32] = field[: shape[0], : shape[1]]
    return cut


def _class_means(rng: np.random.Generator, classes: int, dims: int) -> NDArray[np.float64]:
    means = rng.normal(size=(classes, dims))
    means[1] = means[0] + 0.45 * (means[1] - means[0])
    return means


def _smooth_drift(rng: np.random.Generator, counts: tuple[int, int], dims: int) -> NDArray[np.float64]:
    """Return a plane and a wave for each feature, of standard deviation 1 over the scene."""
    y, x = np.meshgrid(*(np.linspace(-1, 1, n) if n > 1 else np.zeros(1) for n in counts), indexing="ij")
    waves = np.stack([y, x, np.sin(np.pi * y), np.cos(np.pi * x), np.sin(np.pi * (x + y))], axis=-1)
    drift = waves @ rng.normal(size=(5, dims))
    return drift / max(float(drift.std()), 1e-9) if max(counts) > 1 else np.zeros_like(drift)


def _label_block(
    rng: np.random.Generator, truth: NDArray[np.uint8], wide: Window, means: NDArray[np.float64], scenario: Scenario
) -> NDArray[np.uint8]:
    """Label a window as an independent model would: warped, salted, split, merged, permuted, or all wrong."""
    classes = len(means)
    true = truth[wide.slices]
    valid = true != NODATA
    if not valid.any():
        return np.full_like(true, NODATA)
    if rng.random() < scenario.bad:
        random = np.argmax([_field(rng, true.shape, 4.0) for _ in range(5)], axis=0)
        return np.where(valid, random, NODATA).astype(np.uint8)
    y, x = np.indices(true.shape) + np.array(wide[:2])[:, None, None] + _warp(rng, true.shape, scenario.warp_px)
    y, x = (np.clip(np.rint(v), 0, size - 1).astype(int) for v, size in zip((y, x), truth.shape, strict=True))
    seen = truth[y, x]
    seen = np.where(seen == NODATA, true, seen)
    present = np.unique(seen[valid])
    salt = rng.random(true.shape) < 0.01
    seen = np.where(salt, rng.choice(present, true.shape), seen)
    if rng.random() < scenario.merge * len(present) / 2 and len(present) > 1:
        distance = np.linalg.norm(means[present][:, None] - means[present], axis=-1) + 1e9 * np.eye(len(present))
        keep, gone = present[list(np.unravel_index(np.argmin(distance), distance.shape))]
        seen = np.where(seen == gone, keep, seen)
    part = _field(rng, true.shape, 5.0) > 0
    for k in present[rng.random(len(present)) < scenario.split]:
        seen = np.where((seen == k) & part, k + classes, seen)
    used, dense = np.unique(seen[valid], return_inverse=True)
    labels = np.full(true.shape, NODATA, dtype=np.uint8)
    labels[valid] = rng.permutation(len(used))[dense]
    return labels


def _warp(rng: np.random.Generator, shape: tuple[int, int], px: float) -> NDArray[np.float64]:
    coarse = rng.normal(size=(2, 7, 7)) * px
    zoomed = ndimage.zoom(coarse, (1, shape[0] / 7, shape[1] / 7), order=1, grid_mode=True, mode="nearest")
    result: NDArray[np.float64] = zoomed[:, : shape[0], : shape[1]]
    return result


def _sign(
    rng: np.random.Generator,
    index: Index,
    local: NDArray[np.uint8],
    true: NDArray[np.uint8],
    here: NDArray[np.float64],
    noise: float,
) -> tuple[BlockSignature, NDArray[np.intp]]:
    """Return the signature of a block, and the majority class of each of its ids."""
    ok = local != NODATA
    shares = np.zeros((int(local[ok].max()) + 1, len(here)))
    np.add.at(shares, (local[ok], true[ok]), 1)
    pixels = shares.sum(1)
    ids = np.flatnonzero(pixels)
    features = shares[ids] @ here / pixels[ids, None]
    features += rng.normal(size=features.shape) * noise * np.sqrt(1 + 16 / pixels[ids, None])
    spread = np.full(features.shape, 1.0, dtype=np.float32)
    signature = BlockSignature(index, ids, pixels[ids].astype(np.int64), features.astype(np.float32), spread)
    return signature, shares[ids].argmax(1)


def _count_overlaps(
    rng: np.random.Generator,
    grid: BlockGrid,
    signatures: list[BlockSignature],
    labels: dict[Index, NDArray[np.uint8]],
    offsets: dict[Index, NDArray[np.float64]],
) -> list[Overlap]:
    by_index = {s.index: s for s in signatures}
    overlaps = []
    for a, b in grid.pairs():
        if a not in labels or b not in labels:
            continue
        shared = grid.block(a).wide.intersect(grid.block(b).wide)
        la = labels[a][shared.relative_to(grid.block(a).wide).slices]
        lb = labels[b][shared.relative_to(grid.block(b).wide).slices]
        ok = (la != NODATA) & (lb != NODATA)
        if not ok.any():
            continue
        table = np.zeros((len(by_index[a].ids), len(by_index[b].ids)), dtype=np.int64)
        np.add.at(table, (np.searchsorted(by_index[a].ids, la[ok]), np.searchsorted(by_index[b].ids, lb[ok])), 1)
        delta = (offsets[a] - offsets[b] + rng.normal(size=len(offsets[a])) * 0.05).astype(np.float32)
        overlaps.append(Overlap(a, b, table, delta, float(ok.sum())))
    return overlaps
