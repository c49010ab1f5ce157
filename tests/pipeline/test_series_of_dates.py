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
from rio_cogeo.cogeo import cog_validate

from pipeline.run import segment
from pipeline.settings import Settings
from pipeline.watch import WatchConfig, watch
from tests.pipeline import grey_model

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore:Use `@` matmul:PendingDeprecationWarning")]

K = 5


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


def test_three_dates(real_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
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

    collection = pystac.Collection.from_file(str(out / "collection.json"))
    JsonSchemaSTACValidator().validate_core(json.loads((out / "collection.json").read_text()), "Collection", "1.1.0")
    items = sorted(collection.get_items(), key=lambda item: item.id)
    assert [item.id for item in items] == ["2010-06-29", "2012-07-31", "2014-07-20"]
    for item, image in zip(items, images, strict=True):
        found = json.loads((out / "runs" / item.id / "item.json").read_text())
        JsonSchemaSTACValidator().validate_core(found, "Feature", "1.1.0")
        assert item.datetime is not None
        assert item.datetime.date().isoformat() == item.id
        assert any(Path(link.target).name == image.name for link in item.get_links("derived_from"))
        cog = out / "runs" / item.id / "labels.tif"
        assert cog_validate(cog, quiet=True)[0]
        assert item.get_assets()["labels"].get_absolute_href() == str(cog)
