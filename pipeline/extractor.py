"""Training an extractor on scenes of the user's own, with a card that says what it learnt from."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from ktex_model import extractors
from ktex_model.model import Sample
from pipeline.errors import InputError
from pipeline.imagery import open_source
from pipeline.plan import make_plan
from pipeline.settings import Settings
from pipeline.train import scene_samples, scene_windows

CARD = "CARD.md"


def read_scenes(sources: Sequence[str], settings: Settings) -> tuple[list[Sample], tuple[str, ...], list[str]]:
    """Read a sample of each source, which is a scene of its own: a file, or a folder or glob that makes one mosaic.

    Returns
    -------
    samples, bands, lines
        The lines of the card: what was read of each file, with its sha256.

    Raises
    ------
    InputError
        A source makes no scene, or one has other bands than the first.
    """
    samples: list[Sample] = []
    lines: list[str] = []
    bands: tuple[str, ...] = ()
    for source in sources:
        scene = open_source([source], settings)
        if bands and scene.bands != bands:
            raise InputError(
                f"{source}: has the bands {','.join(scene.bands)}; {sources[0]} has {','.join(bands)}; "
                "an extractor sees the same bands in every scene: give --bands"
            )
        bands = scene.bands
        plan = make_plan(scene, settings, Path("extractor"), source)
        found = scene_samples(plan, scene_windows(plan))
        samples += found
        pixels = sum(int(sample.valid.sum()) for sample in found)
        lines += [
            f"| {Path(file.path).name} | {pixels:,} | {file.sha256 or file.etag} |" for file in scene.fingerprints()
        ]
    return samples, bands, lines


def train_extractor(
    sources: Sequence[str],
    out: Path,
    settings: Settings,
    *,
    steps: int,
    width: float,
    command: str,
    progress: Callable[[int, int, float], None] | None = None,
) -> str:
    """Train an extractor and write it with its card; returns its digest.

    Raises
    ------
    InputError
        A source or the directory is not fit for it; nothing has been written.
    """
    _check_place(out)
    samples, bands, lines = read_scenes(sources, settings)
    begun = time.process_time()
    extractor, losses = extractors.train_autoencoder(
        samples, len(bands), settings.seed, steps, width=width, progress=progress
    )
    seconds = time.process_time() - begun
    (out / CARD).unlink(missing_ok=True)
    digest = extractors.save(extractor, out)
    kept = sum(tensor.size for tensor in extractor.tensors.values())
    (out / CARD).write_text(
        "\n".join(
            [
                f"# Extractor for {','.join(bands)}",
                "",
                "The encoder, VGG-shaped, of a variational auto-encoder; up to `block5_conv3`, at 16 px.",
                "",
                f"- Command: `{command}`",
                f"- Scaling: {settings.scaling}, fitted to each scene; input 0..1; band order {','.join(bands)}",
                f"- Width {width} of VGG-16's filters, {kept:,} weights, digest `{digest}`",
                f"- {steps} steps of {extractors.BATCH} crops of {extractors.CROP_PX} px, seed {settings.seed}, "
                f"{seconds:.0f} CPU s",
                f"- Loss: {np.mean(losses[:20]):.5f} in the first 20 steps, {np.mean(losses[-20:]):.5f} in the last",
                "",
                "| file | pixels read | sha256 |",
                "|------|-------------|--------|",
                *lines,
                "",
            ]
        ),
        encoding="utf-8",
    )
    return digest


def _check_place(out: Path) -> None:
    if not out.exists():
        return
    names = {path.name for path in out.iterdir()} if out.is_dir() else {out.name}
    if names - {CARD, "model.json", "weights.safetensors"}:
        raise InputError(f"--out {out}: holds something other than an extractor; give a new directory")
