"""Laws of the whole path: from files to published outputs, with a model that is not the point."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
import xarray as xr
import zarr
from numpy.typing import NDArray

from ktex_model.texture import TextureConfig
from pipeline import InputError, RunFailedError, Settings, open_result, segment
from pipeline import predict as predict_module
from pipeline import run as run_module
from pipeline.blocks import Block, BlockGrid
from pipeline.plan import Plan
from pipeline.report import stage as report_stage
from pipeline.workspace import WORK
from tests.pipeline import grey_model
from tests.pipeline.rasters import GRID, position_code, shift, write_raster

pytestmark = pytest.mark.filterwarnings("ignore:Use `@` matmul:PendingDeprecationWarning")

SMALL = {"block_px": 64, "chunk_px": 32, "overlap_px": 8, "engine": "serial", "bands": "G=1", "scaling": "byte"}


@pytest.fixture
def trainings(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    monkeypatch.setattr(TextureConfig, "context_px", 0)
    yield grey_model.install(monkeypatch)
    grey_model.SHUFFLE["salt"] = 0
    grey_model.load_model.cache_clear()


def make_scene(path: Path, shape: tuple[int, int] = (140, 140), seed: int = 0, k: int = 4) -> NDArray[np.uint8]:
    """Write patches of k grey levels, 24 px wide, with a hole of nodata; returns the true classes, 255 in the hole."""
    rng = np.random.default_rng(seed)
    coarse = rng.integers(0, k, (shape[0] // 24 + 1, shape[1] // 24 + 1))
    truth = np.kron(coarse, np.ones((24, 24), int))[: shape[0], : shape[1]].astype(np.uint8)
    grey = (truth.astype(int) * 2 + 1) * 255 // (2 * k) + rng.integers(-8, 9, shape)
    truth[5:20, 100:130] = 255
    write_raster(path, np.where(truth == 255, 0, grey).astype(np.uint8), nodata=0)
    return truth


def content(directory: Path) -> dict[str, str]:
    """Digest every published file but those that tell of the run itself, whose times differ from run to run."""
    telling = {"run.json", "item.json", "report.html", "diagnostics.json"}
    files = [path for path in sorted(directory.rglob("*")) if path.is_file() and path.name not in telling]
    # The store says when it was made; what it holds is compared chunk by chunk.
    files = [path for path in files if WORK not in path.parts and path.name != "zarr.json"]
    return {str(path.relative_to(directory)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def test_outputs_agree_and_open_everywhere(tmp_path: Path, trainings: list[str]) -> None:
    truth = make_scene(tmp_path / "scene.tif")
    result = segment(tmp_path / "scene.tif", Settings(k=4, global_classes=4, **SMALL), tmp_path / "out")
    out = tmp_path / "out"
    assert len(trainings) == 1 + 4, "the anchor, and each block"
    assert not (out / WORK).exists()
    names = {path.name for path in out.iterdir()}
    assert names >= {
        "labels.zarr",
        "labels.tif",
        "labels.tif.aux.xml",
        "labels.qml",
        "confidence.tif",
        "classes.json",
        "item.json",
        "run.json",
        "quicklook.png",
        "models",
    }
    labels = result.labels.to_numpy()
    np.testing.assert_array_equal(labels == 255, truth == 255)
    pairs = set(zip(truth[truth != 255].tolist(), labels[truth != 255].tolist(), strict=True))
    assert len(pairs) == len({label for _, label in pairs}) == 4, "each true class has one id over all blocks"
    with rasterio.open(out / "labels.tif") as cog:
        np.testing.assert_array_equal(cog.read(1), labels)
        assert (cog.crs, cog.transform, cog.nodata) == ("EPSG:32622", GRID, 255)
    data = xr.open_zarr(out / "labels.zarr", decode_coords="all", mask_and_scale=False)
    np.testing.assert_array_equal(data["labels"].to_numpy(), labels)
    assert data["labels"].rio.crs.to_epsg() == 32622


def test_the_figures_of_the_record_are_those_of_the_written_labels(tmp_path: Path, trainings: list[str]) -> None:
    truth = make_scene(tmp_path / "scene.tif")
    metrics = segment(tmp_path / "scene.tif", Settings(k=4, global_classes=4, **SMALL), tmp_path / "out").record.metrics
    assert metrics is not None
    labels = zarr.open_group(tmp_path / "out" / "labels.zarr", mode="r")["labels"][:]
    counts = np.bincount(labels[labels != 255])
    shares = counts[counts > 0] / counts.sum()
    assert metrics.pixels_valid == (truth != 255).sum() == counts.sum()
    assert metrics.classes == 4
    assert metrics.classes_effective == pytest.approx(np.exp(-(shares * np.log(shares)).sum()))
    across = [(labels[63], labels[64]), (labels[:, 63], labels[:, 64])]
    valid = sum(((a != 255) & (b != 255)).sum() for a, b in across)
    changes = sum(((a != b) & (a != 255) & (b != 255)).sum() for a, b in across)
    assert metrics.seam_change_rate == pytest.approx(changes / valid)
    assert metrics.overlap_disagreement == 0, "the grey model labels shared pixels alike, so aligned ids agree"
    assert metrics.pixels_per_second is not None


def test_other_permutations_of_the_ids_of_each_block_give_the_same_map(tmp_path: Path, trainings: list[str]) -> None:
    make_scene(tmp_path / "scene.tif")
    contents = []
    for salt in (0, 1, 2):
        grey_model.SHUFFLE["salt"] = salt
        segment(tmp_path / "scene.tif", Settings(k=4, **SMALL), tmp_path / str(salt))
        contents.append(content(tmp_path / str(salt)))
    assert contents[0] == contents[1] == contents[2]


def test_a_position_coded_mosaic_survives_from_source_to_cog(
    tmp_path: Path, trainings: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    code = position_code((140, 140))[0]
    for name, rows, columns in (
        ("a", slice(0, 90), slice(0, 140)),
        ("b", slice(80, 140), slice(0, 75)),
        ("c", slice(85, 140), slice(70, 140)),
    ):
        write_raster(
            tmp_path / "quads" / f"{name}.tif",
            code[rows, columns],
            affine=shift(GRID, rows.start, columns.start),
            nodata=0,
        )

    told = list[Any]()

    class Coder(grey_model.GreyModel):
        """Gives each pixel the remainder of its position."""

        def predict(self, image: Any, valid: Any, inner: Any = None, windows: Any = None) -> Any:
            told.append(windows)
            values = np.rint(image[inner or (slice(None), slice(None))][..., 0] * 10_000).astype(int)
            return grey_model.Prediction((values % 97).astype(np.uint8), np.full(values.shape, 200, np.uint8))

    monkeypatch.setattr(predict_module, "load_model", lambda *_: Coder(97, 1, 0))
    write_scaled = {**SMALL, "scaling": "reflectance", "k": 97, "mode": "global"}
    code_in_range = code % 9_973
    for path in (tmp_path / "quads").iterdir():
        with rasterio.open(path, "r+") as quad:
            quad.write(np.where(quad.read(1) % 9_973 == 0, 9_973, quad.read(1) % 9_973).astype(np.uint16), 1)
    code_in_range[code_in_range == 0] = 9_973
    result = segment(tmp_path / "quads", Settings(**write_scaled), tmp_path / "out")
    grid = BlockGrid((140, 140), SMALL["block_px"])
    assert len(told) == len(grid) > 1
    assert set(told) == {grid.windows}, "all blocks state the windows of their grid, and share a shape of tile"
    expected = (code_in_range % 97).astype(np.uint8)
    np.testing.assert_array_equal(result.labels.to_numpy(), expected)
    with rasterio.open(tmp_path / "out" / "labels.tif") as cog:
        np.testing.assert_array_equal(cog.read(1), expected)


def test_tiling_does_not_change_a_map_of_one_model(tmp_path: Path, trainings: list[str]) -> None:
    make_scene(tmp_path / "scene.tif")
    settings = {**SMALL, "k": 4, "mode": "global"}
    whole = segment(tmp_path / "scene.tif", Settings(**{**settings, "block_px": 256, "chunk_px": 256}), tmp_path / "a")
    parts = segment(tmp_path / "scene.tif", Settings(**settings), tmp_path / "b")
    np.testing.assert_array_equal(whole.labels.to_numpy(), parts.labels.to_numpy())
    assert parts.record.metrics is not None
    assert parts.record.metrics.alignment is None
    applied = segment(tmp_path / "scene.tif", Settings(**SMALL, model=tmp_path / "b"), tmp_path / "c")
    np.testing.assert_array_equal(applied.labels.to_numpy(), parts.labels.to_numpy())
    assert len(trainings) == 2


class Killed(BaseException):
    """Stands for a signal: no handler of errors may swallow it."""


@pytest.mark.parametrize("stage", ["train", "predict", "cut", "write", "report", "publish"])
def test_a_killed_run_resumes_and_ends_with_the_same_bytes(
    tmp_path: Path, trainings: list[str], monkeypatch: pytest.MonkeyPatch, stage: str
) -> None:
    make_scene(tmp_path / "scene.tif")
    settings = Settings(k=4, keep_work=False, **SMALL)
    segment(tmp_path / "scene.tif", settings, tmp_path / "whole")
    trainings.clear()
    kill(monkeypatch, stage)
    with pytest.raises(Killed):
        segment(tmp_path / "scene.tif", settings, tmp_path / "killed")
    assert not (tmp_path / "killed" / "run.json").exists()
    monkeypatch.undo()
    monkeypatch.setattr(TextureConfig, "context_px", 0)
    trained_again = grey_model.install(monkeypatch)
    result = segment(tmp_path / "scene.tif", settings, tmp_path / "killed")
    assert content(tmp_path / "killed") == content(tmp_path / "whole")
    assert len(trainings) + len(trained_again) == 1 + 4, "no block is trained twice"
    expected_reused = {"train": 2, "predict": 2}.get(stage, 4)
    assert result.record.blocks.reused == expected_reused
    assert result.record.blocks.done == 4 - expected_reused


def kill(monkeypatch: pytest.MonkeyPatch, stage: str) -> None:
    """Make the process die in the middle of a stage: after two of its blocks, or before it begins."""
    before = {
        "write": (run_module, "write_outputs"),
        "report": (report_stage, "write_report"),
        "publish": (run_module, "make_run_record"),
    }
    if stage in before:

        def die(*_: Any, **__: Any) -> None:
            raise Killed

        monkeypatch.setattr(*before[stage], die)
        return
    module, name = {
        "train": (predict_module, "train_block"),
        "predict": (predict_module, "predict_block"),
        "cut": (run_module, "assemble_block"),
    }[stage]
    work = getattr(module, name)
    done = []

    def work_twice(*arguments: Any) -> Any:
        if len(done) == 2:
            raise Killed
        done.append(1)
        return work(*arguments)

    monkeypatch.setattr(module, name, work_twice)


def test_a_finished_run_is_not_done_again(tmp_path: Path, trainings: list[str]) -> None:
    make_scene(tmp_path / "scene.tif")
    segment(tmp_path / "scene.tif", Settings(k=4, **SMALL), tmp_path / "out")
    before = (tmp_path / "out" / "run.json").read_bytes()
    segment(tmp_path / "scene.tif", Settings(k=4, **SMALL), tmp_path / "out")
    assert len(trainings) == 1 + 4
    assert (tmp_path / "out" / "run.json").read_bytes() == before


def test_another_input_of_the_same_name_is_another_run(tmp_path: Path, trainings: list[str]) -> None:
    make_scene(tmp_path / "scene.tif")
    segment(tmp_path / "scene.tif", Settings(k=4, **SMALL), tmp_path / "out")
    make_scene(tmp_path / "scene.tif", seed=1)
    with pytest.raises(InputError, match="other input files, or changed ones"):
        segment(tmp_path / "scene.tif", Settings(k=4, **SMALL), tmp_path / "out")


def test_a_block_that_fails_is_left_out_named_and_tried_again(
    tmp_path: Path, trainings: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    truth = make_scene(tmp_path / "scene.tif")
    work = predict_module.predict_block

    def fail(plan: Plan, block: Block) -> Any:
        if block.index == (1, 1):
            raise OSError("disk on fire")
        return work(plan, block)

    monkeypatch.setattr(predict_module, "predict_block", fail)
    settings = Settings(k=4, **SMALL)
    result = segment(tmp_path / "scene.tif", settings, tmp_path / "out")
    assert (result.record.state, result.record.exit_code) == ("incomplete", 3)
    assert result.record.blocks.failed_names == ["0001_0001"]
    labels = result.labels.to_numpy()
    assert (labels[80:, 80:] == 255).all()
    assert (labels[:56, :56] != 255).all()
    monkeypatch.setattr(predict_module, "predict_block", work)
    again = segment(tmp_path / "scene.tif", settings, tmp_path / "out")
    assert again.record.state == "done"
    assert len(trainings) == 1 + 4
    np.testing.assert_array_equal(again.labels.to_numpy() == 255, truth == 255)
    segment(tmp_path / "scene.tif", settings, tmp_path / "at-once")
    assert content(tmp_path / "out") == content(tmp_path / "at-once")


def test_where_every_block_fails_the_run_fails(
    tmp_path: Path, trainings: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    make_scene(tmp_path / "scene.tif")

    def fail(*_: Any) -> None:
        raise OSError("disk on fire")

    monkeypatch.setattr(predict_module, "predict_block", fail)
    with pytest.raises(RunFailedError, match=r"every block failed; the first was 0000_0000, in stage predict: disk on"):
        segment(tmp_path / "scene.tif", Settings(k=4, **SMALL), tmp_path / "out")
    assert not (tmp_path / "out" / "run.json").exists()


def test_an_array_is_a_source_like_any_other(tmp_path: Path, trainings: list[str]) -> None:
    make_scene(tmp_path / "scene.tif")
    settings = Settings(k=4, **SMALL)
    files = segment(tmp_path / "scene.tif", settings, tmp_path / "files")
    with rasterio.open(tmp_path / "scene.tif") as source:
        array = xr.DataArray(
            source.read(),
            dims=("band", "y", "x"),
            coords={
                "y": GRID.f + GRID.e * (np.arange(140) + 0.5),
                "x": GRID.c + GRID.a * (np.arange(140) + 0.5),
            },
        )
    array = array.rio.write_crs("EPSG:32622").rio.write_nodata(0)
    for name, each in (("numpy", array), ("dask", array.chunk({"y": 50, "x": 60}))):
        result = segment(each, settings, tmp_path / name)
        np.testing.assert_array_equal(result.labels.to_numpy(), files.labels.to_numpy())
        assert result.labels.rio.crs == files.labels.rio.crs


def test_blocks_without_valid_pixels_stay_empty(tmp_path: Path, trainings: list[str]) -> None:
    truth = make_scene(tmp_path / "scene.tif", (64, 256))
    with rasterio.open(tmp_path / "scene.tif", "r+") as scene:
        grey = scene.read(1)
        grey[:, 64:192] = 0
        scene.write(grey, 1)
    result = segment(tmp_path / "scene.tif", Settings(k=4, global_classes=4, **SMALL), tmp_path / "out")
    labels = result.labels.to_numpy()
    assert (labels[:, 64:192] == 255).all()
    assert len(trainings) == 1 + 2
    sides = np.r_[0:64, 192:256]
    pairs = set(
        zip(
            truth[:, sides][truth[:, sides] != 255].tolist(),
            labels[:, sides][truth[:, sides] != 255].tolist(),
            strict=True,
        )
    )
    assert len(pairs) == len({label for _, label in pairs}) == 4, "islands that never touch share one vocabulary"


def test_nothing_is_written_where_the_input_is_wrong(tmp_path: Path, trainings: list[str]) -> None:
    write_raster(tmp_path / "void.tif", np.zeros((40, 40), np.uint8), nodata=0)
    make_scene(tmp_path / "scene.tif")
    cases: list[tuple[str, dict[str, Any], str]] = [
        ("void.tif", {}, "no valid pixel"),
        ("scene.tif", {"scaling": "paper"}, r"--scaling paper: .*bands"),
        ("scene.tif", {"options": {"stepss": 3}}, "options of preset 'texture': .*stepss"),
        ("scene.tif", {"model": tmp_path / "absent"}, "holds no model"),
    ]
    for name, changes, message in cases:
        with pytest.raises(InputError, match=message) as caught:
            segment(tmp_path / name, Settings(**{**SMALL, **changes}), tmp_path / "out")
        assert "\n" not in str(caught.value)
        assert not (tmp_path / "out").exists()


def test_a_model_must_fit_the_scene(tmp_path: Path, trainings: list[str]) -> None:
    make_scene(tmp_path / "scene.tif")
    segment(tmp_path / "scene.tif", Settings(**SMALL, k=4), tmp_path / "local")
    with pytest.raises(InputError, match="was run in 'local' mode and has a model for each block"):
        segment(tmp_path / "scene.tif", Settings(**SMALL, model=tmp_path / "local"), tmp_path / "out")
    one = tmp_path / "local" / "models" / "0000_0001"
    with pytest.raises(InputError, match="has k = 4; got 5; leave --k out"):
        segment(tmp_path / "scene.tif", Settings(**SMALL, k=5, model=one), tmp_path / "out")
    with pytest.raises(InputError, match="was trained on bands G; the scene has R"):
        segment(tmp_path / "scene.tif", Settings(**{**SMALL, "bands": "R=1"}, model=one), tmp_path / "out")
    segment(tmp_path / "scene.tif", Settings(**SMALL, model=one), tmp_path / "out")
    card = json.loads((one / "scaling.json").read_text())
    (one / "scaling.json").write_text(json.dumps({**card, "scaling": {}}))
    with pytest.raises(InputError, match="cannot be read"):
        segment(tmp_path / "scene.tif", Settings(**SMALL, model=one), tmp_path / "out2")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"preset": "paper"}, "has preset = texture; got paper; leave --preset out"),
        ({"scaling": "reflectance"}, "has scaling = byte; got reflectance; leave --scaling out"),
        ({"mode": "local"}, "has mode = global; got local; leave --mode out"),
        ({"global_classes": 3}, "is applied as it is; leave global-classes out"),
        ({"options": {"steps": 3}}, "is applied as it is; leave options out"),
    ],
)
def test_what_contradicts_a_given_model_is_refused(
    changes: dict[str, Any], message: str, tmp_path: Path, trainings: list[str]
) -> None:
    make_scene(tmp_path / "scene.tif")
    segment(tmp_path / "scene.tif", Settings(**SMALL, k=4, mode="global"), tmp_path / "global")
    with pytest.raises(InputError, match=message):
        segment(tmp_path / "scene.tif", Settings(**{**SMALL, **changes}, model=tmp_path / "global"), tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_the_record_of_an_applied_model_says_what_the_model_is(tmp_path: Path, trainings: list[str]) -> None:
    make_scene(tmp_path / "scene.tif")
    segment(tmp_path / "scene.tif", Settings(**SMALL, k=4, mode="global"), tmp_path / "global")
    plain = {name: value for name, value in SMALL.items() if name != "scaling"}
    settings = segment(
        tmp_path / "scene.tif", Settings(**plain, model=tmp_path / "global"), tmp_path / "out"
    ).record.settings
    assert [settings[name] for name in ("k", "mode", "scaling", "preset")] == [4, "global", "byte", "texture"]


def test_a_fresh_run_of_another_kind_leaves_nothing_of_the_old(tmp_path: Path, trainings: list[str]) -> None:
    make_scene(tmp_path / "scene.tif")
    for mode, there, gone in (
        ("global", "model", "models"),
        ("local", "models", "model"),
        ("global", "model", "models"),
    ):
        segment(tmp_path / "scene.tif", Settings(**SMALL, k=4, mode=mode), tmp_path / "out", fresh=True)
        assert (tmp_path / "out" / there).is_dir()
        assert not (tmp_path / "out" / gone).exists()


def test_a_scheduler_that_is_not_there_is_found_before_anything_is_written(
    tmp_path: Path, trainings: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pipeline.engine.connection.CONNECT_S", 1)
    make_scene(tmp_path / "scene.tif")
    with pytest.raises(InputError, match="no Dask scheduler answers there"):
        segment(tmp_path / "scene.tif", Settings(**SMALL, scheduler="tcp://127.0.0.1:9"), tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_the_published_losses_are_found_before_anything_is_written(
    tmp_path: Path, trainings: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from ktex_model import extractors

    def refuse(source: str) -> None:
        raise ValueError(f"VGG-16 weights ({source}) cannot be downloaded: put them there")

    monkeypatch.setattr(extractors, "imagenet", refuse)
    write_raster(tmp_path / "rgb.tif", np.random.default_rng(0).integers(1, 255, (3, 80, 80)).astype(np.uint8))
    settings = Settings(**{**SMALL, "bands": "rgb"}, preset="paper")
    with pytest.raises(InputError, match=r"--preset paper: VGG-16 weights \(keras\) cannot be downloaded"):
        segment(tmp_path / "rgb.tif", settings, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_what_was_published_is_opened_or_refused(tmp_path: Path, trainings: list[str]) -> None:
    make_scene(tmp_path / "scene.tif")
    segment(tmp_path / "scene.tif", Settings(k=4, **SMALL), tmp_path / "out")
    assert open_result(tmp_path / "out").record.state == "done"
    shutil.rmtree(tmp_path / "out" / "labels.zarr")
    with pytest.raises(InputError, match=r"labels\.zarr of this run is missing"):
        open_result(tmp_path / "out")


def test_assembly_takes_confidence_from_the_owner(tmp_path: Path, trainings: list[str]) -> None:
    make_scene(tmp_path / "scene.tif")
    result = segment(tmp_path / "scene.tif", Settings(k=4, global_classes=4, **SMALL), tmp_path / "out")
    confidence, labels = result.confidence.to_numpy(), result.labels.to_numpy()
    np.testing.assert_array_equal(confidence == 255, labels == 255)
    assert confidence[labels != 255].max() <= 180
