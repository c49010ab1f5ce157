"""The card of a data set: what it holds, how it was made, what it is good for and what it is not, for people."""

from __future__ import annotations

from pathlib import Path
from typing import Any

_CARD = """# Training samples

Chips of imagery with masks of {n} classes, made by ktextures from an unsupervised map of texture classes. The labels
are those of the map, as an analyst named its classes: **they are no ground truth**. What the map confuses,
they confuse.

| class | value | ids of the map | training | validation | test |
|---|---|---|---|---|---|
{rows}

Pixels of each class; {chips} chips of {px} x {px} px in all. Mask pixels of value {ignore} have no class: nodata, ids
that are not mapped ({unmapped}), and pixels whose confidence is under {confidence}.

## Layout

`train`, `validation` and `test` hold `images` and `masks` of the same names, GeoTIFFs on the grid of the map;
`chip_ROW_COLUMN.tif` says where in the map the upper left corner lies. Bands: {bands}, in the units of the source.
The folds lie in different places{gap}.

With torchgeo:

```python
from torchgeo.datasets import RasterDataset

class Images(RasterDataset):
    filename_glob = "chip_*.tif"
    filename_regex = r"chip_(?P<row>\\d+)_(?P<column>\\d+)\\.tif"
    all_bands = {band_tuple}

class Masks(Images):
    is_image = False
    all_bands = ("class",)

samples = Images("train/images") & Masks("train/masks")
```

With TensorFlow:

```python
from pipeline.samples import load_samples

batches = load_samples(".", "train", batch=16, seed=0)  # images (n, y, x, band) float32 0..1, masks (n, y, x) uint8
```

## Origin

Run {key}, {created}. Sources:

{sources}

{licence}
"""


def write_card(path: Path, found: dict[str, Any]) -> None:
    """Write the card of a data set from its description."""
    rules, folds = found["rules"], found["folds"]
    rows = "\n".join(
        f"| {_cell(each['name'])} | {each['value']} | {', '.join(map(str, each['ids']))} | "
        + " | ".join(f"{folds[fold]['pixels'][each['name']]:,}" for fold in folds)
        + " |"
        for each in found["classes"]
    )
    licence = "; ".join(found[name] for name in ("license", "attribution") if name in found)
    path.write_text(
        _CARD.format(
            n=len(found["classes"]),
            rows=rows,
            chips=sum(fold["chips"] for fold in folds.values()),
            px=rules["chip_px"],
            ignore=found["ignore"],
            unmapped=", ".join(map(str, found["unmapped_ids"])) or "none",
            confidence=rules["confidence"],
            bands=", ".join(found["bands"]),
            band_tuple=repr(tuple(found["bands"])),
            gap=f", {rules['gap_px']} px apart" if rules["gap_px"] else "",
            key=found["run"]["key"],
            created=found["run"]["created"],
            sources="\n".join(f"- `{source}`" for source in found["sources"]),
            licence=f"Licence and attribution of the imagery: {licence}." if licence
            else "The licence of the imagery holds for the chips as well.",
        ),
        encoding="utf-8",
    )  # fmt: skip


def _cell(name: str) -> str:
    return " ".join(name.split()).replace("|", "\\|")
