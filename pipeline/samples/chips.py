"""Which windows become samples: labelled enough, pure enough, and as many of each class as asked for."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pipeline.blocks import Window
from pipeline.errors import InputError
from pipeline.samples.folds import FOLDS, PLACES, deal, divide
from pipeline.samples.mapping import IGNORE, ClassMapping
from pipeline.stores import LabelStore

PRESENT = 0.05
"""A class counts as shown by a chip that it has this share of."""


@dataclass(frozen=True)
class Rules:
    """What a sample must be like.

    Attributes
    ----------
    chip_px, overlap_px
        Side of a chip, and how far neighbours of one place overlap.
    min_share
        Least share of a chip's pixels that have a class.
    purity
        Least share of the most frequent class among them.
    confidence
        Least confidence of a pixel, 0..1; what is less sure is ignored.
    balance
        Whether each class is to be shown by equally many chips of a fold: as many as the rarest has.
    shares
        Shares of the places for training, validation and test.
    place_px, gap_px
        Side of a place, of which all chips are in one fold (None: a tenth of the scene, at least two chips), and how
        far chips of different places are apart.
    seed
        What places and chips are drawn by.
    """

    chip_px: int = 256
    overlap_px: int = 0
    min_share: float = 0.5
    purity: float = 0.0
    confidence: float = 0.5
    balance: bool = False
    shares: tuple[float, float, float] = (0.7, 0.15, 0.15)
    place_px: int | None = None
    gap_px: int = 0
    seed: int = 0

    def __post_init__(self) -> None:
        if self.chip_px < 16:
            raise InputError(f"--chip-px: must be at least 16; got {self.chip_px}")
        if not 0 <= self.overlap_px < self.chip_px:
            raise InputError(f"--overlap-px: must be 0 to less than the chip's {self.chip_px}; got {self.overlap_px}")
        for name in ("min_share", "purity", "confidence"):
            if not 0 <= getattr(self, name) <= 1:
                raise InputError(f"--{name.replace('_', '-')}: must be 0 to 1; got {getattr(self, name)}")
        if min(self.shares) < 0 or self.shares[0] <= 0:
            raise InputError(f"--folds: must be three shares, the first positive; got {self.shares}")
        if self.gap_px < 0 or (self.place_px is not None and self.place_px < self.chip_px + self.gap_px):
            raise InputError(
                f"--place-px: must hold a chip of {self.chip_px} and a gap of {self.gap_px}; got {self.place_px}"
            )

    def fitted_place_px(self, shape: tuple[int, int]) -> int:
        """Return the side of a place in a scene of this shape."""
        return self.place_px or max(max(shape) // PLACES, 2 * self.chip_px + self.gap_px)


@dataclass(frozen=True)
class Chip:
    """A sample: where it is, which fold it is in, and its pixels of each class."""

    window: Window
    fold: str
    counts: tuple[int, ...]

    @property
    def name(self) -> str:
        """Name of its files, such as ``chip_000512_001024.tif``: row and column of its upper left corner."""
        return f"chip_{self.window.y0:06d}_{self.window.x0:06d}.tif"

    def shows(self, value: int) -> bool:
        """Whether a class has its share of this chip."""
        return self.counts[value] >= PRESENT * self.window.size


def lay_chips(place: Window, rules: Rules) -> Iterator[Window]:
    """Yield the chips of a place, inside it by half the gap.

    >>> [tuple(chip) for chip in lay_chips(Window(0, 0, 40, 70), Rules(chip_px=32, overlap_px=8, gap_px=4))]
    [(2, 2, 34, 34), (2, 26, 34, 58)]
    """
    px, step, edge = rules.chip_px, rules.chip_px - rules.overlap_px, rules.gap_px - rules.gap_px // 2
    for y in range(place.y0 + edge, place.y1 - edge - px + 1, step):
        for x in range(place.x0 + edge, place.x1 - edge - px + 1, step):
            yield Window(y, x, y + px, x + px)


def read_mask(store: LabelStore, window: Window, mapping: ClassMapping, confidence: float) -> NDArray[np.uint8]:
    """Return the mask of a window, ``(y, x)`` uint8: values of the analyst's classes, 255 where none is known."""
    mask = mapping.table()[store.read(window)]
    if confidence > 0:
        sure = store.read_confidence(window)
        mask[(sure == IGNORE) | (sure < 200 * confidence)] = IGNORE
    return np.asarray(mask, np.uint8)


def choose_chips(store: LabelStore, mapping: ClassMapping, rules: Rules) -> list[Chip]:
    """Choose the samples of a map; labels are read chip by chip.

    Raises
    ------
    InputError
        No window is what the rules ask for.
    """
    fitting = {
        place: found
        for place in divide(store.shape, rules.fitted_place_px(store.shape))
        if (found := list(_fitting(store, place, mapping, rules)))
    }
    if not fitting:
        raise InputError(
            f"no chip of {rules.chip_px} px meets --min-share {rules.min_share}, --purity {rules.purity} and "
            f"--confidence {rules.confidence}; ask for less"
        )
    folds = deal(len(fitting), rules.shares, rules.seed)
    chips = [
        Chip(window, fold, counts)
        for fold, found in zip(folds, fitting.values(), strict=True)
        for window, counts in found
    ]
    return balance_chips(chips, len(mapping.classes), rules.seed) if rules.balance else chips


def _fitting(
    store: LabelStore, place: Window, mapping: ClassMapping, rules: Rules
) -> Iterator[tuple[Window, tuple[int, ...]]]:
    classes = len(mapping.classes)
    for window in lay_chips(place, rules):
        mask = read_mask(store, window, mapping, rules.confidence)
        counts = np.bincount(mask.ravel(), minlength=IGNORE + 1)[:classes]
        known = counts.sum()
        if known and known >= rules.min_share * mask.size and counts.max() >= rules.purity * known:
            yield window, tuple(int(count) for count in counts)


def balance_chips(chips: Sequence[Chip], classes: int, seed: int) -> list[Chip]:
    """Keep, of each fold, as many chips for each class as the rarest of those that it shows has.

    A chip stands for the rarest class that it shows; chips that show none stand for their most frequent one.
    """
    kept: list[Chip] = []
    for number, fold in enumerate(FOLDS):
        inside = [chip for chip in chips if chip.fold == fold]
        shown = [sum(chip.shows(value) for chip in inside) for value in range(classes)]
        stands = [
            min((value for value in range(classes) if chip.shows(value)), key=lambda value: shown[value],
                default=int(np.argmax(chip.counts)))
            for chip in inside
        ]  # fmt: skip
        groups = [[chip for chip, value in zip(inside, stands, strict=True) if value == each] for each in set(stands)]
        size = min((len(group) for group in groups), default=0)
        rng = np.random.default_rng((seed, 12, number))
        kept += [group[i] for group in groups for i in sorted(rng.permutation(len(group))[:size].tolist())]
    return sorted(kept, key=lambda chip: (FOLDS.index(chip.fold), chip.window.y0, chip.window.x0))
