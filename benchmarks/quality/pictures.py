"""Pictures of a made scene: the image, its truth, what methods make of it, and each class's generated texture.

``python -m benchmarks.quality.pictures --scene oriented --out docs/images``
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import linear_sum_assignment

from benchmarks.quality.methods import list_methods
from benchmarks.quality.scenes import RECIPES, Scene, make_scene
from ktex_model import Sample, TextureConfig, train
from ktex_model.model import NO_CLASS
from pipeline.legend import colour_of
from pipeline.metrics import Contingency

SHOWN_PX = 256
PATCH_PX = 96
DPI = 100


def main(arguments: Sequence[str] | None = None) -> int:
    """Draw what the command line asks for."""
    import matplotlib as mpl

    mpl.use("Agg")
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    options.add_argument("--scene", choices=list(RECIPES), default="oriented")
    options.add_argument("--size-px", type=int, default=512)
    options.add_argument("--seed", type=int, default=0)
    options.add_argument("--paper-epochs", type=int, default=40)
    options.add_argument("--out", type=Path, default=Path("docs/images"))
    asked = options.parse_args(arguments)
    asked.out.mkdir(parents=True, exist_ok=True)
    scene = make_scene(asked.scene, asked.size_px)
    methods = list_methods(asked.paper_epochs)
    sample = Sample(scene.images[0], scene.valids[0])
    model = train([sample], TextureConfig(k=scene.k, bands=scene.images[0].shape[2]), asked.seed).model
    ours = model.predict(sample.image, sample.valid).labels
    maps = {
        "k-means on colours": methods["k-means colour"](scene, asked.seed).labels[0],
        "k-means on Gabor energies": methods["k-means Gabor"](scene, asked.seed).labels[0],
        f"paper, {asked.paper_epochs} passes": methods["paper"](scene, asked.seed).labels[0],
        "texture (ours)": ours,
    }
    draw_maps(scene, maps, model.simulate(ours, seed=asked.seed), asked.out / f"method-{asked.scene}-maps.png")
    draw_textures(
        scene, ours, model.textures((PATCH_PX, PATCH_PX), asked.seed), asked.out / f"method-{asked.scene}-textures.png"
    )
    return 0


def draw_maps(scene: Scene, maps: dict[str, NDArray[np.uint8]], simulated: NDArray[np.float32], path: Path) -> None:
    """Draw image, truth, maps in the truth's colours, and the simulated image side by side."""
    from matplotlib import pyplot

    truth = scene.truths[0]
    panels = [("image", _rgb(scene.images[0])), ("truth", _coloured(truth))]
    for name, labels in maps.items():
        counts = Contingency()
        counts.add(labels, truth)
        panels.append((f"{name}, ARI {counts.scores().ari:.2f}", _coloured(_matched(labels, truth))))
    panels.append(("simulated image (ours)", _rgb(simulated)))
    figure, axes = pyplot.subplots(2, 4, figsize=(13, 7), dpi=DPI, layout="constrained")
    for axis in axes.flat:
        axis.set_axis_off()
    for axis, (title, picture) in zip(axes.flat, panels, strict=False):
        axis.imshow(picture[:SHOWN_PX, :SHOWN_PX])
        axis.set_title(title, fontsize=10)
    figure.savefig(path)
    pyplot.close(figure)


def draw_textures(scene: Scene, labels: NDArray[np.uint8], textures: NDArray[np.float32], path: Path) -> None:
    """Draw of each class the real pixels where it is most alone, and its generated texture."""
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(2, len(textures), figsize=(13, 4.6), dpi=DPI, layout="constrained")
    for c, texture in enumerate(textures):
        y, x = _purest(labels == c)
        mask = (labels == c)[y : y + PATCH_PX, x : x + PATCH_PX]
        real = np.where(mask[..., None], _rgb(scene.images[0])[y : y + PATCH_PX, x : x + PATCH_PX], 1.0)
        for row, (title, picture) in enumerate((("real", real), ("generated", _rgb(texture)))):
            axes[row, c].imshow(picture)
            axes[row, c].set_title(f"class {c}, {title}", fontsize=10)
            axes[row, c].set_axis_off()
    figure.savefig(path)
    pyplot.close(figure)


def _purest(member: NDArray[np.bool_]) -> tuple[int, int]:
    sums = np.pad(member.astype(np.int64).cumsum(0).cumsum(1), ((1, 0), (1, 0)))
    inside = sums[PATCH_PX:, PATCH_PX:] - sums[:-PATCH_PX, PATCH_PX:] - sums[PATCH_PX:, :-PATCH_PX]
    y, x = np.unravel_index((inside + sums[:-PATCH_PX, :-PATCH_PX]).argmax(), inside.shape)
    return int(y), int(x)


def _matched(labels: NDArray[np.uint8], truth: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Renumber labels so that as many pixels as possible bear the number of their true class."""
    size = int(max(labels[labels != NO_CLASS].max(), truth[truth != NO_CLASS].max())) + 1
    both = (labels != NO_CLASS) & (truth != NO_CLASS)
    counts = np.bincount(labels[both].astype(np.int64) * size + truth[both], minlength=size * size)
    _, columns = linear_sum_assignment(-counts.reshape(size, size))
    table = np.full(256, NO_CLASS, np.uint8)
    table[:size] = columns
    return table[labels]


def _coloured(labels: NDArray[np.uint8]) -> NDArray[np.uint8]:
    table = np.array([list(bytes.fromhex(colour_of(c)[1:])) for c in range(NO_CLASS)] + [[255] * 3], np.uint8)
    return table[labels]


def _rgb(image: NDArray[np.float32]) -> NDArray[np.float32]:
    """Show near infrared, red and green: the pairs of classes share their colours there too."""
    return np.clip(image[..., [3, 0, 1]] * np.array([1.4, 2.0, 2.0], np.float32), 0, 1)


if __name__ == "__main__":
    sys.exit(main())
