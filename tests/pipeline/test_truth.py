"""Scores of a published map: against a truth on its own grid only, and into its record."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pytest
import rasterio
from affine import Affine
from numpy.typing import NDArray
from odc.geo.geobox import GeoBox
from sklearn.metrics import adjusted_mutual_info_score, adjusted_rand_score

from pipeline.blocks import Window
from pipeline.errors import InputError
from pipeline.record import Blocks, Input, Metrics, RunRecord, make_record
from pipeline.stores import LabelStore, create_labels
from pipeline.truth import score_against

TRANSFORM = Affine(10, 0, 500_000, 0, -10, 4_000_000)
SHAPE = (90, 70)


def publish(directory: Path, labels: NDArray[np.uint8]) -> None:
    create_labels(directory / "labels.zarr", GeoBox(labels.shape, TRANSFORM, "EPSG:32612"), chunk_px=32, attrs={})
    store = LabelStore.open(directory / "labels.zarr", "r+")
    store.write(Window(0, 0, *labels.shape), labels, np.where(labels == 255, 255, 200).astype(np.uint8))
    metrics = Metrics(
        pixels_valid=int((labels != 255).sum()), pixels_per_second=1.0, classes=3, classes_effective=2.5,
        seam_change_rate=None, interior_change_rate=None, seam_excess=None, seam_excess_before_cut=None,
        overlap_disagreement=None, alignment=None,
    )  # fmt: skip
    record = make_record(
        "done",
        created=datetime.now(UTC),
        settings={},
        inputs=[Input(path="a.tif", sha256="0" * 64)],
        blocks=Blocks(done=1),
        metrics=metrics,
    )
    record.write(directory / "run.json")


def write_truth(path: Path, truth: NDArray[np.uint8], transform: Affine = TRANSFORM, **profile: object) -> Path:
    height, width = truth.shape
    with rasterio.open(
        path, "w", driver="GTiff", height=height, width=width, count=1, dtype=truth.dtype, transform=transform,
        crs="EPSG:32612", **{"nodata": 255, **profile},
    ) as file:  # fmt: skip
        file.write(truth, 1)
    return path


@pytest.fixture
def labels() -> NDArray[np.uint8]:
    rng = np.random.default_rng(1)
    labels = rng.integers(0, 3, SHAPE).astype(np.uint8)
    labels[:20, :10] = 255
    return labels


def test_scores_are_those_of_scikit_learn_and_go_into_the_record(labels: NDArray[np.uint8], tmp_path: Path) -> None:
    truth = np.where(np.random.default_rng(2).random(SHAPE) < 0.8, labels, 1).astype(np.uint8)
    truth[-10:] = 9
    publish(tmp_path, labels)
    found = score_against(tmp_path, write_truth(tmp_path / "truth.tif", truth, nodata=9))
    known = (labels != 255) & (truth != 9)
    assert found.ari == pytest.approx(adjusted_rand_score(truth[known], labels[known]), abs=1e-9)
    assert found.ami == pytest.approx(adjusted_mutual_info_score(truth[known], labels[known]), abs=1e-6)
    assert 0.8 < found.hungarian_accuracy < 1
    metrics = RunRecord.read(tmp_path / "run.json").metrics
    assert metrics is not None
    assert metrics.truth == found


def test_names_of_classes_do_not_matter(labels: NDArray[np.uint8], tmp_path: Path) -> None:
    renamed = np.where(labels == 255, 255, (labels + 1) % 3).astype(np.uint8)
    publish(tmp_path, labels)
    found = score_against(tmp_path, write_truth(tmp_path / "truth.tif", renamed))
    assert (found.ari, found.hungarian_accuracy, found.miou) == pytest.approx((1, 1, 1))


@pytest.mark.parametrize(
    ("transform", "shape"),
    [(TRANSFORM @ Affine.translation(0.5, 0), SHAPE), (TRANSFORM @ Affine.scale(1.01), SHAPE), (TRANSFORM, (90, 71))],
)
def test_a_truth_on_another_grid_is_refused(
    transform: Affine, shape: tuple[int, int], labels: NDArray[np.uint8], tmp_path: Path
) -> None:
    publish(tmp_path, labels)
    path = write_truth(tmp_path / "truth.tif", np.zeros(shape, np.uint8), transform)
    with pytest.raises(InputError, match=r"truth\.tif: the truth must lie on the grid of the map"):
        score_against(tmp_path, path)


def test_what_is_no_truth_is_refused(labels: NDArray[np.uint8], tmp_path: Path) -> None:
    publish(tmp_path, labels)
    with pytest.raises(InputError, match=r"none\.tif: the truth cannot be read"):
        score_against(tmp_path, tmp_path / "none.tif")
    empty = write_truth(tmp_path / "empty.tif", np.full(SHAPE, 255, np.uint8))
    with pytest.raises(InputError, match="share no pixel"):
        score_against(tmp_path, empty)
    wide = write_truth(tmp_path / "wide.tif", np.zeros(SHAPE, np.uint16), nodata=0)  # type: ignore[arg-type]
    with pytest.raises(InputError, match="must have one uint8 band; got 1 of uint16"):
        score_against(tmp_path, wide)


def test_a_run_that_is_not_published_is_not_scored(labels: NDArray[np.uint8], tmp_path: Path) -> None:
    publish(tmp_path, labels)
    record = RunRecord.read(tmp_path / "run.json")
    record.model_copy(update={"state": "running", "exit_code": None, "metrics": None}).write(tmp_path / "run.json")
    with pytest.raises(InputError, match="has not been published"):
        score_against(tmp_path, write_truth(tmp_path / "truth.tif", labels))
