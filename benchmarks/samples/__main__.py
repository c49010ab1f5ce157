"""Train a small U-Net on samples that a map gives, and on the labelled pixels alone; score both in other places.

One place is mapped without labels. A handful of its pixels are labelled: they say which ids of the map are which class,
`ktex samples` makes chips of that, and a U-Net is trained on them. Another U-Net is trained on the same labelled pixels
alone, and a third, as a bound, on the whole truth of the place. All are scored on the places that they never saw.
"""

from __future__ import annotations

import json
import sys
import tempfile
import warnings
from collections.abc import Iterator, Sequence
from contextlib import redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rasterio.errors import NotGeoreferencedWarning

from benchmarks.quality.real import WV_TILES
from benchmarks.report import begin_record, describe_run, format_table, parser, write_record
from benchmarks.samples.places import (
    CLASSES,
    DATES,
    NO_CLASS,
    Mask,
    Place,
    draw_pixels,
    find_places,
    map_classes,
    write_mapping,
)
from benchmarks.samples.unet import Student, score

K = 8
CHIP_PX, OVERLAP_PX = 64, 32
STEPS = 120
FULL = {"seeds": (0, 1, 2), "dates": DATES, "pixels": (10, 40), "steps": STEPS}
QUICK = {"seeds": (0,), "dates": DATES[:1], "pixels": (10,), "steps": 60}
ARMS = {
    "one class": "the better of the two constant answers",
    "pixels": "U-Net on the labelled pixels alone",
    "samples": "U-Net on the samples of the map",
    "truth": "U-Net on the whole truth of the place",
}
Corners = list[tuple[int, int]]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run what the command line asks for."""
    options = parser("samples", __doc__ or "")
    options.add_argument("--dates", nargs="+", choices=DATES, help="only these acquisitions: autumn, leaf-on")
    options.add_argument("--tiles", nargs="+", type=int, choices=WV_TILES, help="only these places to learn from")
    options.add_argument("--seeds", nargs="+", type=int, metavar="N", help="only these seeds")
    asked = options.parse_args(arguments)
    settings: dict[str, Any] = {**(QUICK if asked.quick else FULL), "tiles": WV_TILES}
    settings |= {name: tuple(given) for name in ("dates", "seeds", "tiles") if (given := getattr(asked, name))}
    record = begin_record("samples", {**settings, "k": K, "chip_px": CHIP_PX, "overlap_px": OVERLAP_PX})
    record["rows"] = []
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
        warnings.simplefilter("ignore", NotGeoreferencedWarning)
        student = Student(4, len(CLASSES))
        for row in measure(Path(folder), student, settings):
            record["rows"].append(row)
            print(row, file=sys.stderr, flush=True)
            write_record(asked.json, record)
    text = f"{tabulate(record['rows'])}\n\n{describe_run(record)}\n"
    print(text)
    if asked.markdown is not None:
        asked.markdown.write_text(text)
    return 0


def measure(folder: Path, student: Student, settings: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Yield a row for each network: what it learnt from, and how it did in the places that it never saw."""
    for date in settings["dates"]:
        places = find_places(date)
        for place in (each for each in places if each.tile in settings["tiles"]):
            others = [each for each in places if each.tile != place.tile]
            for seed in settings["seeds"]:
                said = {"date": date, "tile": place.tile, "seed": seed}
                out = folder / f"{date}-{place.tile}-{seed}"
                for row in _measure_place(out, student, place, others, seed, settings):
                    yield said | row


def _measure_place(
    out: Path, student: Student, place: Place, others: Sequence[Place], seed: int, settings: dict[str, Any]
) -> Iterator[dict[str, Any]]:
    from pipeline import Settings, segment
    from pipeline.results import Result

    result: Result = segment(place.image, Settings(bands="rgbn", k=K, seed=seed, engine="serial"), out / "run")
    image, truth, labels = place.read_image(), place.read_truth(), result.labels.to_numpy()
    corners = lay_corners(truth.shape)
    truths = [each.read_truth() for each in others]
    yield {"arm": "one class", **max((_constant(truths, value) for value in (0, 1)), key=lambda row: row["miou"])}
    for number in settings["pixels"]:
        known = draw_pixels(truth, number, np.random.default_rng((seed, place.tile, number)))
        samples = make_samples(out / str(number), out / "run", map_classes(labels, known))
        exam = Exam(student, truths, [samples.scale(each.read_image()) for each in others], settings["steps"], seed)
        images = cut(samples.scale(image), corners)
        told = samples.masks != NO_CLASS
        yield {
            "arm": "samples",
            "pixels": number,
            **exam.take(samples.images, samples.masks),
            "labelled": float(told.sum() / told.size),
            "right": float((cut(truth, samples.corners) == samples.masks)[told].mean()),
        }
        yield {"arm": "pixels", "pixels": number, **exam.take(images, cut(known, corners))}
    yield {"arm": "truth", **exam.take(images, cut(truth, corners))}


@dataclass(frozen=True, eq=False)
class Exam:
    """How a network is taught and marked: the images and truths of the other places, and steps and seed."""

    student: Student
    truths: list[Mask]
    images: list[NDArray[np.float32]]
    steps: int
    seed: int

    def take(self, images: NDArray[np.float32], masks: Mask) -> dict[str, float]:
        """Train on chips from scratch, and score in the other places."""
        self.student.train(images, masks, self.steps, self.seed)
        return score(self.truths, [self.student.predict(image) for image in self.images], len(CLASSES))


def _constant(truths: list[Mask], value: int) -> dict[str, float]:
    return score(truths, [np.full_like(truth, value) for truth in truths], len(CLASSES))


def lay_corners(shape: tuple[int, ...]) -> Corners:
    """Return row and column of the upper left corners of all chips of a place."""
    step = CHIP_PX - OVERLAP_PX
    return [(y, x) for y in range(0, shape[0] - CHIP_PX + 1, step) for x in range(0, shape[1] - CHIP_PX + 1, step)]


def cut(values: NDArray[Any], corners: Corners) -> NDArray[Any]:
    """Cut chips out of an image or a mask of a whole place."""
    return np.stack([values[y : y + CHIP_PX, x : x + CHIP_PX] for y, x in corners])


@dataclass(frozen=True, eq=False)
class Samples:
    """Samples as a network takes them, and where they lie.

    Attributes
    ----------
    images, masks
        ``(n, y, x, band)`` 0..1 and ``(n, y, x)``; 255 where no class is known.
    low, high
        Values of each band that 0 and 1 stand for.
    """

    images: NDArray[np.float32]
    masks: Mask
    corners: Corners
    low: NDArray[np.float32]
    high: NDArray[np.float32]

    def scale(self, image: NDArray[np.float32]) -> NDArray[np.float32]:
        """Scale another image as these are."""
        return np.clip((image - self.low) / (self.high - self.low), 0, 1)


def make_samples(folder: Path, run: Path, mapping: dict[str, list[int]]) -> Samples:
    """Make samples of a run as a user does, by command, and read them by the loader."""
    from flows.cli import main as ktex
    from pipeline.samples import load_samples

    folder.mkdir()
    write_mapping(folder / "classes.yaml", mapping)
    options = f"--chip-px {CHIP_PX} --overlap-px {OVERLAP_PX} --place-px 256 --folds 1,0,0 --min-share 0".split()
    with redirect_stdout(sys.stderr):
        code = ktex(
            ["samples", str(run), "--classes", str(folder / "classes.yaml"), "--to", str(folder / "to"), *options]
        )
    if code:
        raise RuntimeError(f"ktex samples ended with {code} for {mapping}")
    batches = list(load_samples(folder / "to", "train").as_numpy_iterator())
    images, masks = (np.concatenate([batch[i] for batch in batches]) for i in (0, 1))
    # A class without ids has no value in the masks: those of the others follow each other.
    table = np.full(256, NO_CLASS, np.uint8)
    named = [value for value, name in enumerate(CLASSES) if mapping[name]]
    table[: len(named)] = named
    paths = sorted((folder / "to" / "train" / "images").glob("chip_*.tif"))
    corners = [(int(row), int(column)) for _, row, column in (path.stem.split("_") for path in paths)]
    found = json.loads((folder / "to" / "dataset.json").read_text())
    return Samples(images, table[masks], corners, np.float32(found["low"]), np.float32(found["high"]))


def tabulate(rows: Sequence[dict[str, Any]]) -> str:
    """Lay out means over places and seeds, and how often samples beat the pixels that they are made of."""
    table = []
    for date in dict.fromkeys(row["date"] for row in rows):
        for arm, number in dict.fromkeys((row["arm"], row.get("pixels")) for row in rows):
            found = [row for row in rows if (row["date"], row["arm"], row.get("pixels")) == (date, arm, number)]
            mious = [row["miou"] for row in found]
            table.append(
                [
                    date,
                    ARMS[arm],
                    number,
                    float(np.mean(mious)),
                    float(np.std(mious)),
                    float(np.min(mious)),
                    float(np.mean([row["accuracy"] for row in found])),
                    float(np.mean([row["right"] for row in found])) if arm == "samples" else None,
                    _wins(rows, date, number) if arm == "samples" else None,
                ]
            )
    columns = ["date", "learnt from", "pixels", "mean IoU", "sd", "worst", "accuracy", "labels right", "beats pixels"]
    return format_table(columns, table)


def _wins(rows: Sequence[dict[str, Any]], date: str, number: int) -> str:
    """Count the places and seeds in which samples did better than the same labelled pixels alone."""
    by_arm = {
        arm: [row["miou"] for row in rows if (row["date"], row["arm"], row.get("pixels")) == (date, arm, number)]
        for arm in ("samples", "pixels")
    }
    wins = sum(one > other for one, other in zip(by_arm["samples"], by_arm["pixels"], strict=True))
    return f"{wins} of {len(by_arm['samples'])}"


if __name__ == "__main__":
    sys.exit(main())
