"""Training: assignments, generators and the mask network, one after the other."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from ktex_model.model import History, Progress, Sample, Trained
from ktex_model.texture.assignment import Assigned, Cells, alternate, assign, fit_moments
from ktex_model.texture.bank import Bank, fit_bank
from ktex_model.texture.clustering import Ints
from ktex_model.texture.config import TextureConfig
from ktex_model.texture.distillation import FURTHER_STEPS, Lessons
from ktex_model.texture.exchange import exchange_classes
from ktex_model.texture.explanation import Explanation, explain
from ktex_model.texture.features import Rotation, decompose, fit_rotation
from ktex_model.texture.filters import Floats, pick
from ktex_model.texture.known import REFINE_ROUNDS, Known, kept_share, known_cells, start_from
from ktex_model.texture.model import TextureModel
from ktex_model.texture.starts import START_RUNS, choose

WINDOW_PX = 256
"""Side of the windows that are drawn from samples larger than `TextureConfig.fit_px`: small, so that all parts of a
scene are among them; windows of 512 px left whole images of a mosaic of few out."""


@dataclass
class StageLog:
    """Stages as they end, and the progress so far."""

    expected: int
    progress: Progress | None
    stages: list[dict[str, object]] = field(default_factory=list)
    done: int = 0
    begun: float = field(default_factory=time.perf_counter)
    last: float = field(default_factory=time.perf_counter)

    def stage(self, name: str, steps: int, **measures: object) -> None:
        """Enter a stage that has ended."""
        now = time.perf_counter()
        self.stages.append({"name": name, "seconds": round(now - self.last, 3), "steps": steps, **measures})
        self.last = now

    def step(self, loss: float, steps: int = 1) -> None:
        """Tell of steps that were taken."""
        self.done = min(self.done + steps, self.expected)
        if self.progress is not None:
            self.progress(self.done, self.expected, loss)


def train(samples: Sequence[Sample], config: TextureConfig, seed: int = 0, progress: Progress | None = None) -> Trained:
    """Learn k textures from samples, without labels.

    Parameters
    ----------
    samples
        Pieces of one scene; their shapes may differ. What is not valid has no influence.
    config
        Number of classes and bands, and how to train.
    seed
        Not negative. Equal samples, config and seed give equal tensors on the CPU.
    progress
        Called as the alternation from a start has settled, with the share of cells that still changed class; then
        with the loss of the simulated image, and every 20 steps with that of the mask network. More steps are expected
        from when it turns out that they are needed.

    Returns
    -------
    The model and its history. Where enough is known of the samples the classes begin with the known ones, under their
    numbers, and numbers that are free go to what is new. Else they are numbered from dark to bright by the mean of
    their pixels; classes that the samples did not need come last and are never given.

    Raises
    ------
    ValueError
        If the samples do not have the config's bands, hold no valid pixel, hold valid pixels that are not finite, or
        are known by classes that the config does not have.
    """
    check_samples(samples, config)
    log = StageLog(START_RUNS + (config.refine_rounds > 0) + 1 + config.steps, progress)
    samples = draw_windows(samples, config.fit_px, np.random.default_rng((seed, 3)))
    rotation = fit_rotation(samples)
    bank = fit_bank([decompose(rotation.forward(sample.image), sample.valid) for sample in samples])
    log.stage("features", 1, pixels=sum(int(sample.valid.sum()) for sample in samples))
    begun = begin_with_known(bank, [sample.known for sample in samples], config, seed, log)
    if begun is not None:
        cells, labels, settled = begun
    else:
        cells, labels, settled = find_classes(bank, rotation.scale, config, seed, log)
        labels = order_by_brightness(samples, cells, labels, config.k)
    found = explain(bank, cells, labels, rotation, config, seed)
    log.stage(
        "generators",
        len(found.agreement),
        agreement=found.agreement[-1],
        agreements=list(found.agreement),
        simulation_loss=found.loss,
    )
    log.step(found.loss)
    model, taught = teach_network(samples, found, rotation, config, seed, log)
    history = History(
        preset=config.preset,
        stop_reason=f"{settled}; {taught}.",
        seconds=time.perf_counter() - log.begun,
        loss=found.loss,
        stages=tuple(log.stages),
    )
    return Trained(model, history)


def check_samples(samples: Sequence[Sample], config: TextureConfig) -> None:
    """Refuse samples that cannot be learnt from."""
    for sample in samples:
        if sample.image.ndim != 3 or sample.image.shape[2] != config.bands:
            raise ValueError(f"samples must have shape (y, x, {config.bands}); got {sample.image.shape}")
        if sample.valid.shape != sample.image.shape[:2]:
            raise ValueError(f"validity must have the shape {sample.image.shape[:2]}; got {sample.valid.shape}")
        if not np.isfinite(sample.image[sample.valid]).all():
            raise ValueError("valid pixels must be finite; got NaN or infinity")
        if sample.known is not None:
            if sample.known.shape != sample.valid.shape:
                raise ValueError(f"known classes must have the shape {sample.valid.shape}; got {sample.known.shape}")
            if sample.known.max(initial=-1) >= config.k:
                raise ValueError(f"known classes must be below k = {config.k}; got {sample.known.max()}")
    if not any(sample.valid.any() for sample in samples):
        raise ValueError(f"samples must hold a valid pixel; got none in {len(samples)} samples")


def draw_windows(samples: Sequence[Sample], fit_px: int, rng: np.random.Generator) -> list[Sample]:
    """Return the samples that hold valid pixels, or windows drawn from all over them where they exceed `fit_px`."""
    held = [sample for sample in samples if sample.valid.any()]
    if sum(sample.valid.size for sample in held) <= fit_px:
        return held
    windows = [
        cut(sample, slice(y, y + WINDOW_PX), slice(x, x + WINDOW_PX))
        for sample in held
        for y in range(0, sample.valid.shape[0], WINDOW_PX)
        for x in range(0, sample.valid.shape[1], WINDOW_PX)
    ]
    windows = [window for window in windows if window.valid.any()]
    sizes = np.array([window.valid.size for window in windows])
    # Systematic with a random start: the windows are spread over the scene as evenly as their order allows.
    wanted = max(1, round(len(windows) * fit_px / int(sizes.sum())))
    chosen = ((np.arange(wanted) + rng.random()) * len(windows) / wanted).astype(int)
    return [windows[i] for i in chosen]


def cut(sample: Sample, rows: slice, columns: slice) -> Sample:
    """Return a window of a sample."""
    known = None if sample.known is None else sample.known[rows, columns]
    return Sample(sample.image[rows, columns], sample.valid[rows, columns], known)


def begin_with_known(
    bank: Bank, known: Sequence[Known | None], config: TextureConfig, seed: int, log: StageLog
) -> tuple[Cells, Ints, str] | None:
    """Begin with the classes that the ground is known by; None where too little of it is known."""
    if all(each is None for each in known):
        return None
    cells = bank.cells(_stride(bank, config.k))
    before = known_cells(known, cells)
    if before is None:
        return None
    labels, gains = start_from(cells, before, config.k, config.finding, np.random.default_rng((seed, 17)))
    kept = kept_share(before, labels)
    log.step(1 - kept, START_RUNS)
    log.stage(
        "known",
        1,
        cells=len(cells.features),
        known=round(float((before >= 0).mean()), 6),
        classes=len(np.unique(before[before >= 0])),
        kept=round(kept, 6),
        gains=gains,
    )
    settled = f"begun with classes of an earlier date ({kept:.1%} of the cells that they are known by kept their class)"
    if config.refine_rounds == 0:
        return cells, labels, settled
    fine, refined = refine(bank, cells, labels, config, REFINE_ROUNDS, log)
    return fine, refined.labels, settled


def find_classes(
    bank: Bank, spread: Floats, config: TextureConfig, seed: int, log: StageLog
) -> tuple[Cells, Ints, str]:
    """Choose a start on a coarse lattice, exchange classes, and refine on a lattice twice as fine.

    `spread` are the stds of the principal bands, see `starts.propose`.
    """
    cells = bank.cells(_stride(bank, config.k))

    def quietly(labels: Ints, k: int, rounds: int) -> Assigned:
        return alternate(cells, labels, k, rounds=rounds, settle=config.settle, sight=config.finding)

    def run(labels: Ints, k: int, rounds: int) -> Assigned:
        result = quietly(labels, k, rounds)
        log.step(result.changes[-1] if result.changes else 0.0)
        return result

    rng = np.random.default_rng((seed, 5))

    def exchange(start: Assigned, drawn: np.random.Generator) -> tuple[Assigned, list[float]]:
        return exchange_classes(cells, start, config.k, drawn, quietly) if config.rounds > 1 else (start, [])

    best, report = choose(cells, spread, config.k, rng, run, config.rounds, exchange)
    log.stage("starts", int(str(report.pop("steps"))), cells=len(cells.features), **report)
    if config.refine_rounds == 0:
        return cells, best.labels, _settled(best, config)
    fine, refined = refine(bank, cells, best.labels, config, config.refine_rounds, log)
    return fine, refined.labels, _settled(refined, config)


def refine(
    bank: Bank, cells: Cells, labels: Ints, config: TextureConfig, rounds: int, log: StageLog
) -> tuple[Cells, Assigned]:
    """Draw borders: assign cells of half the stride by the classes of the coarse ones, and alternate on them."""
    fine = bank.cells(max(1, cells.stride // 2))
    begun = assign(fine, fit_moments(cells.features, labels, config.k), config.finding)
    refined = alternate(fine, begun, config.k, rounds=rounds, settle=config.settle, sight=config.refining)
    log.step(refined.changes[-1])
    log.stage("refine", len(refined.changes), cells=len(fine.features), changes=list(refined.changes))
    return fine, refined


def _stride(bank: Bank, k: int) -> int:
    """Return the coarsest stride that leaves enough cells to tell k classes."""
    for stride in (4, 2):
        if sum(int(pick(levels.valid, stride).sum()) for levels in bank.windows) >= max(1000, 50 * k):
            return stride
    return 1


def _settled(result: Assigned, config: TextureConfig) -> str:
    changed, rounds = result.changes[-1], len(result.changes)
    if changed < config.settle:
        return f"assignments settled ({changed:.2%} of the cells changed in round {rounds}, under {config.settle:.2%})"
    return f"assignments ended at the limit of {rounds} rounds ({changed:.2%} of the cells still changed)"


def order_by_brightness(samples: Sequence[Sample], cells: Cells, labels: Ints, k: int) -> Ints:
    """Renumber classes from dark to bright, so that ids hang on chance as little as they can; empty ones last."""
    pixels = np.concatenate(
        [
            pick(sample.image, cells.stride)[mask].mean(-1, dtype=np.float64)
            for sample, mask in zip(samples, cells.masks, strict=True)
        ]
    )
    count = np.bincount(labels, minlength=k)
    brightness = np.where(count > 0, np.bincount(labels, pixels, minlength=k) / np.maximum(count, 1), np.inf)
    rank = np.empty(k, np.int64)
    rank[np.argsort(brightness, kind="stable")] = np.arange(k)
    return rank[labels]


def teach_network(
    samples: Sequence[Sample], found: Explanation, rotation: Rotation, config: TextureConfig, seed: int, log: StageLog
) -> tuple[TextureModel, str]:
    """Teach the mask network what was found; once more, where it then errs on more pixels than lie at a border.

    Those at borders are what it may well get wrong, as it decides on cells of 2 px. One that errs more often has not
    learnt the classes themselves: now and then first weights lead there, and where many classes are told apart by
    little, all do. Of the two networks the one that agrees more is kept.

    Returns
    -------
    The model, and why it was not trained longer.
    """
    lessons = Lessons(samples, found.maps, rotation, config, seed, log.step)

    def teach(steps: int) -> tuple[float, TextureModel]:
        model = TextureModel(config, rotation, lessons.teach(steps), found.generators, found.share)
        return network_agreement(model, samples, found.maps), model

    agreement, model = teach(config.steps)
    agreements, steps, allowed = [agreement], config.steps, border_share(found.maps)
    further = int(config.steps * FURTHER_STEPS)
    told = f"the mask network ran its {config.steps} steps"
    if further and 1 - agreement > allowed:
        log.expected += further
        steps += further
        again, other = teach(further)
        agreements.append(again)
        told += (
            f" and {further} more, as it erred on {1 - agreement:.2%} of the pixels and {allowed:.2%} lie at borders"
        )
        agreement, model = max((agreement, model), (again, other), key=lambda each: each[0])
    log.stage("network", steps, losses=lessons.losses, agreement=agreement, agreements=agreements, borders=allowed)
    return model, told


def border_share(maps: Sequence[Ints]) -> float:
    """Return the share of assigned pixels that have a neighbour of another class, right, left, above or below.

    Examples
    --------
    >>> border_share([np.array([[0, 0, 1, -1], [0, 0, 1, 1]])])
    0.5714285714285714
    """
    near, count = 0, 0
    for laid in maps:
        marked = np.zeros(laid.shape, bool)
        for one, other in ((np.s_[:-1], np.s_[1:]), (np.s_[:, :-1], np.s_[:, 1:])):
            differ = (laid[one] != laid[other]) & (laid[one] >= 0) & (laid[other] >= 0)
            marked[one] |= differ
            marked[other] |= differ
        near, count = near + int(marked.sum()), count + int((laid >= 0).sum())
    return near / count


def network_agreement(model: TextureModel, samples: Sequence[Sample], labels: Sequence[Ints]) -> float:
    """Return the share of assigned pixels to which the mask network gives the same class."""
    same, count = 0, 0
    for sample, laid in zip(samples, labels, strict=True):
        predicted = model.predict(sample.image, sample.valid).labels
        seen = laid >= 0
        same, count = same + int((predicted == laid)[seen].sum()), count + int(seen.sum())
    return same / count
