"""How many classes a scene holds: what each number of classes finds in a sample of it, rated without labels."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ktex_model.model import NO_CLASS, Sample
from pipeline.coherence import Pairs
from pipeline.errors import InputError
from pipeline.imagery import open_source
from pipeline.metrics import Contingency
from pipeline.plan import make_plan, model_config
from pipeline.preparation import describe_source
from pipeline.scene import Source
from pipeline.settings import Settings
from pipeline.train import scene_samples, scene_windows

SEEDS = 2

Maps = Sequence[NDArray[np.uint8]]


@dataclass(frozen=True)
class Rating:
    """What one number of classes finds.

    Attributes
    ----------
    k
        Number of classes that were looked for.
    score
        How much a class tells about those around it, in nats; see `pipeline.coherence`. None where one class is all.
    seeds, halves
        Adjusted Rand index between the assignments of two seeds; between those of half the windows alone and of all.
    smallest
        Share of the smallest class in the sample; 0 where a class is not used.
    loss
        How far the simulated image is from the original in feature space.
    """

    k: int
    score: float | None
    seeds: float
    halves: float | None
    smallest: float
    loss: float

    def to_json(self) -> dict[str, float | int | None]:
        """Return plain values."""
        return asdict(self)


def parse_numbers(text: str) -> list[int]:
    """Read numbers of classes: ``3:16`` (both included), ``4,6,8`` or ``5``.

    Raises
    ------
    InputError
        It is something else, or not within 2 to 128.

    Examples
    --------
    >>> parse_numbers("3:5"), parse_numbers("8,4")
    ([3, 4, 5], [4, 8])
    """
    wrong = f"--k {text}: must be FIRST:LAST, or numbers with commas, each 2 to 128, such as 3:16"
    try:
        if ":" in text:
            first, last = (int(part) for part in text.split(":"))
            numbers = list(range(first, last + 1))
        else:
            numbers = sorted({int(part) for part in text.split(",")})
    except ValueError as error:
        raise InputError(wrong) from error
    if not numbers or numbers[0] < 2 or numbers[-1] > 128:
        raise InputError(wrong)
    return numbers


def read_samples(source: Source, settings: Settings) -> list[Sample]:
    """Read the sample of a scene that numbers of classes are tried on; raises InputError where that cannot be."""
    if settings.preset != "texture":
        raise InputError(f"--preset {settings.preset}: numbers of classes are tried with preset 'texture' alone")
    plan = make_plan(open_source(source, settings), settings, Path("advice"), describe_source(source))
    return scene_samples(plan, scene_windows(plan))


def rate_numbers(
    samples: list[Sample],
    numbers: Sequence[int],
    settings: Settings,
    bands: tuple[str, ...],
    progress: Callable[[int, int], None] | None = None,
) -> Iterator[Rating]:
    """Yield the rating of each number of classes."""
    for done, k in enumerate(numbers):
        yield rate_number(samples, model_config(settings.model_copy(update={"k": k}), bands), settings.seed)
        if progress is not None:
            progress(done + 1, len(numbers))


def rate_number(samples: list[Sample], config: Any, seed: int) -> Rating:
    """Rate one number of classes."""
    from ktex_model.texture.advice import assign_samples
    from ktex_model.texture.training import draw_windows

    # Drawn once: all seeds and halves have to label the same windows to be compared.
    samples = draw_windows(samples, config.fit_px, np.random.default_rng((seed, 3)))
    config = replace(config, fit_px=max(config.fit_px, sum(sample.valid.size for sample in samples)))
    runs = [assign_samples(samples, config, seed + i, simulate=i == 0) for i in range(SEEDS)]
    halves = [
        agreement(assign_samples(half, config, seed, simulate=False).labels, runs[0].labels[first::2])
        for first, half in ((0, samples[::2]), (1, samples[1::2]))
        if len(samples) > 1
    ]
    shares = np.bincount(np.concatenate([laid[laid != NO_CLASS] for laid in runs[0].labels]), minlength=config.k)
    pairs = Pairs(nodata=NO_CLASS)
    for laid in runs[0].labels:
        pairs.add(laid)
    return Rating(
        k=config.k,
        score=pairs.score(),
        seeds=float(np.mean([agreement(a.labels, b.labels) for a, b in combinations(runs, 2)])),
        halves=float(np.mean(halves)) if halves else None,
        smallest=float(shares.min() / shares.sum()),
        loss=float(runs[0].loss or 0.0),
    )


def agreement(one: Maps, other: Maps) -> float:
    """Return the adjusted Rand index between two assignments of the same windows."""
    counts = Contingency()
    for a, b in zip(one, other, strict=True):
        counts.add(a, b)
    return counts.scores().ari
