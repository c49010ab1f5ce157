"""Writing a data set of samples: GeoTIFF chips in folders by fold, a description for programs and a card for people."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import rasterio
from affine import Affine
from numpy.typing import NDArray

from pipeline.blocks import Tell, Window
from pipeline.errors import InputError
from pipeline.imagery import reopen_scene
from pipeline.pixels import Pixels
from pipeline.report.diagnostics import Diagnostics
from pipeline.results import Result, open_result
from pipeline.samples.card import write_card
from pipeline.samples.chips import Chip, Rules, choose_chips, read_mask
from pipeline.samples.folds import FOLDS
from pipeline.samples.mapping import IGNORE, ClassMapping
from pipeline.stores import LabelStore
from pipeline.workspace import write_json

DESCRIPTION = "dataset.json"
FORMAT = "ktextures-samples"


def write_samples(
    directory: Path,
    classes: Path,
    to: Path,
    rules: Rules,
    tell: Tell | None = None,
) -> dict[str, Any]:
    """Make a data set from a published run; it is there whole or not at all.

    Parameters
    ----------
    directory
        A published run, whose imagery is still where the run read it.
    classes
        YAML file of the analyst's classes (see `ClassMapping.read`).
    to
        Directory of the data set; new or empty.
    rules
        What a sample must be like.
    tell
        Called with the chips that are written and all of them.

    Returns
    -------
    dict
        What ``dataset.json`` holds.

    Raises
    ------
    InputError
        The run, the mapping, the rules or the directory are wrong; nothing is written.
    """
    result = open_result(directory)
    mapping = ClassMapping.read(classes, result.legend.ids)
    if to.exists() and (not to.is_dir() or any(to.iterdir())):
        raise InputError(f"--to {to}: is not an empty directory; give a new one")
    scene, store = reopen_scene(result.record), LabelStore.open(result.path / "labels.zarr")
    chips = choose_chips(store, mapping, rules)
    to.parent.mkdir(parents=True, exist_ok=True)
    partial = Path(tempfile.mkdtemp(dir=to.parent, prefix=f".{to.name}."))
    try:
        for done, chip in enumerate(chips, 1):
            pixels, mask = scene.read(chip.window), read_mask(store, chip.window, mapping, rules.confidence)
            _write_chip(
                partial, chip, pixels, np.where(pixels.valid, mask, IGNORE).astype(np.uint8), store, scene.bands
            )
            if tell is not None:
                tell(done, len(chips))
        found = describe(result, mapping, rules, chips)
        write_json(partial / DESCRIPTION, found)
        write_card(partial / "README.md", found)
        partial.chmod(0o755)
        os.replace(partial, to)
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        raise
    return found


def _write_chip(
    root: Path, chip: Chip, pixels: Pixels, mask: NDArray[np.uint8], store: LabelStore, bands: Sequence[str]
) -> None:
    for kind, data, names in (("images", pixels.data, bands), ("masks", mask[np.newaxis], ("class",))):
        path = root / chip.fold / kind / chip.name
        path.parent.mkdir(parents=True, exist_ok=True)
        profile = _profile(store, chip.window, data) | ({"nodata": IGNORE} if kind == "masks" else {})
        with rasterio.open(path, "w", **profile) as file:
            file.write(data)
            for number, name in enumerate(names, 1):
                file.set_band_description(number, name)


def _profile(store: LabelStore, window: Window, data: NDArray[Any]) -> dict[str, Any]:
    box = store.geobox
    return {
        "driver": "GTiff",
        "count": data.shape[0],
        "height": data.shape[1],
        "width": data.shape[2],
        "dtype": data.dtype,
        "crs": None if box.crs is None else box.crs.to_wkt(),
        "transform": box.affine @ Affine.translation(window.x0, window.y0),
        "compress": "deflate",
    }


def describe(result: Result, mapping: ClassMapping, rules: Rules, chips: Sequence[Chip]) -> dict[str, Any]:
    """Return what a data set holds, and what it was made of."""
    record, diagnostics = result.record, Diagnostics.read(result.path)
    folds = {
        fold: {
            "chips": sum(chip.fold == fold for chip in chips),
            "pixels": {
                name: sum(chip.counts[value] for chip in chips if chip.fold == fold)
                for value, name in enumerate(mapping.names)
            },
        }
        for fold in FOLDS
    }
    said = {name: record.settings.get(name) for name in ("license", "attribution")}
    return {
        "format": FORMAT,
        "version": 1,
        "classes": [
            {"value": value, "name": name, "ids": list(ids)} for value, (name, ids) in enumerate(mapping.classes)
        ],
        "ignore": IGNORE,
        "bands": list(diagnostics.bands),
        "low": list(diagnostics.low),
        "high": list(diagnostics.high),
        "rules": asdict(rules),
        "folds": folds,
        "unmapped_ids": sorted(set(result.legend.ids) - set(mapping.ids)),
        "run": {"key": record.key, "created": record.created.isoformat(), "settings_digest": record.settings_digest},
        "sources": [each.path for each in record.inputs],
        **{name: value for name, value in said.items() if value},
    }
