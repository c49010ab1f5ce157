"""Three dates of one place, dropped one after the other: one store, one meaning of the ids, a COG and an item each."""

from __future__ import annotations

import json
import os
import shutil
import time
from pathlib import Path
from typing import Any

import numpy as np
import pystac
import pytest
import rasterio
import xarray as xr
from numpy.typing import NDArray
from pystac.validation import JsonSchemaSTACValidator
from rasterio.windows import Window
from rio_cogeo.cogeo import cog_validate

from pipeline.results import open_result
from pipeline.run import segment
from pipeline.settings import Settings
from pipeline.watch import WatchConfig, watch
from pipeline.watch.maintenance import Upkeep, maintain
from pipeline.watch.refresh import refresh
from tests.pipeline import grey_model

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore:Use `@` matmul:PendingDeprecationWarning")]

K = 5
DATES = ("2010-06-29", "2012-07-31", "2014-07-20")


def run_here(source: list[str], out: str, settings: dict[str, Any]) -> object:
    return segment(source, Settings.parse(settings), out)


def expected(image: Path, model: Path) -> NDArray[np.uint8]:
    """What the first date's model says of an image: k steps of the first band between the limits of the first date."""
    scaling = json.loads((model / "scaling.json").read_text())["scaling"]
    low, high = (np.float32(scaling[side][0]) for side in ("low", "high"))
    with rasterio.open(image) as source:
        data = source.read()
    k, _, seed = json.loads((model / "grey.json").read_text())
    order = np.random.default_rng((seed, 0)).permutation(k).astype(np.uint8)
    steps = (np.clip((data[0].astype(np.float32) - low) / (high - low), 0, 1) * k).astype(int).clip(0, k - 1)
    return np.where((data != 0).any(axis=0), order[steps], 255).astype(np.uint8)


def test_three_dates_of_one_model(real_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    trainings = grey_model.install(monkeypatch)
    images = sorted((real_data / "naip-nd").glob("*.tif"))
    drop, out = tmp_path / "drop", tmp_path / "maps"
    drop.mkdir()
    config = WatchConfig.model_validate(
        {
            "name": "nd",
            "out": out,
            "ids": "model",
            "sources": [{"kind": "folder", "name": "drop", "path": drop}],
            "settings": {
                "k": K, "bands": "rgbn", "mode": "global", "block_px": 512, "chunk_px": 256, "engine": "serial",
            },
        }
    )  # fmt: skip
    for count, image in enumerate(images, 1):
        arrived = Path(shutil.copyfile(image, drop / image.name))
        os.utime(arrived, (time.time() - 3600,) * 2)
        done = watch(config, run_here)
        assert [each.what for each in done.outcomes] == ["published"], done
        assert done.seen == count
    assert len(trainings) == 1

    with xr.open_zarr(out / "series.zarr", mask_and_scale=False) as series:
        assert series.labels.dims == ("time", "y", "x")
        assert [str(date)[:10] for date in series.time.values] == ["2010-06-29", "2012-07-31", "2014-07-20"]
        for index, image in enumerate(images):
            differ = series.labels[index].to_numpy() != expected(image, out / "model")
            assert differ.mean() < 1e-4, "the ids of all dates are those of the first one's model"

    check_catalogue(out, images)


SIDE_PX, FROM_PX = 256, (256, 384)
"""A part with water and land, each about a quarter of it at all dates."""
QUICK = {"steps": 160, "rounds": 3, "refine_rounds": 1, "crop_px": 64, "batch": 2}


def crop(image: Path, to: Path) -> NDArray[np.uint8]:
    with rasterio.open(image) as source:
        window = Window(*FROM_PX[::-1], SIDE_PX, SIDE_PX)
        data: NDArray[np.uint8] = source.read(window=window)
        profile = source.profile | {"width": SIDE_PX, "height": SIDE_PX, "photometric": "MINISBLACK"}
        with rasterio.open(to, "w", **profile | {"transform": source.window_transform(window)}) as out:
            out.colorinterp = source.colorinterp
            out.write(data)
    os.utime(to, (time.time() - 3600,) * 2)
    return data


def test_three_dates_each_trained_anew_keep_their_ids_by_the_catalogue(real_data: Path, tmp_path: Path) -> None:
    """The real model, as `ids: catalogue` has it. What is water and what is land the infrared says, and no model."""
    images = sorted((real_data / "naip-nd").glob("*.tif"))
    drop, out = tmp_path / "drop", tmp_path / "maps"
    drop.mkdir()
    settings = {
        "k": 2, "bands": "rgbn", "mode": "global", "block_px": 256, "chunk_px": 64, "engine": "serial",
        "sample_windows": 2, "sample_px": 128, "options": QUICK,
    }  # fmt: skip
    sources = [{"kind": "folder", "name": "drop", "path": drop}]
    config = WatchConfig.model_validate({"name": "nd", "out": out, "sources": sources, "settings": settings})
    moisture = []
    for image in images:
        green, infrared = crop(image, drop / image.name)[[1, 3]].astype(float)
        moisture.append((green - infrared) / (green + infrared + 1e-9))
        done = watch(config, run_here)
        assert [(each.what, each.reason) for each in done.outcomes] == [("published", None)]
    assert len({open_result(out / "runs" / date).record.key for date in DATES}) == 3

    water, land = (np.array(moisture) > 0.2).all(axis=0), (np.array(moisture) < 0).all(axis=0)
    assert min(water.mean(), land.mean()) > 0.2
    with xr.open_zarr(out / "series.zarr", mask_and_scale=False) as series:
        assert series.labels.dims == ("time", "y", "x")
        assert [str(date)[:10] for date in series.time.values] == list(DATES)
        maps = series.labels.values
    wet, dry = (int(np.bincount(maps[0][place]).argmax()) for place in (water, land))
    assert wet != dry
    for labels in maps:
        assert (labels[water] == wet).mean() > 0.95, "water has one id at all dates"
        assert (labels[land] == dry).mean() > 0.95
    check_catalogue(out, images)
    assert refresh(config).changes == [], "all dates together say the same"
    assert maintain(config) == Upkeep(checked=3)


def check_catalogue(out: Path, images: list[Path]) -> None:
    """Three COGs and items in one valid STAC collection."""
    collection = pystac.Collection.from_file(str(out / "collection.json"))
    JsonSchemaSTACValidator().validate_core(json.loads((out / "collection.json").read_text()), "Collection", "1.1.0")
    items = sorted(collection.get_items(), key=lambda item: item.id)
    assert [item.id for item in items] == list(DATES)
    for item, image in zip(items, images, strict=True):
        found = json.loads((out / "runs" / item.id / "item.json").read_text())
        JsonSchemaSTACValidator().validate_core(found, "Feature", "1.1.0")
        assert item.datetime is not None
        assert item.datetime.date().isoformat() == item.id
        assert any(Path(link.target).name == image.name for link in item.get_links("derived_from"))
        cog = out / "runs" / item.id / "labels.tif"
        assert cog_validate(cog, quiet=True)[0]
        assert item.get_assets()["labels"].get_absolute_href() == str(cog)
