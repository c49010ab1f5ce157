"""Laws of a trained texture model: it finds textures, sees only its context, and ignores what is not valid."""

from __future__ import annotations

import dataclasses
import itertools
import json
from pathlib import Path

import keras
import numpy as np
import pytest
import scipy
from numpy.typing import NDArray
from sklearn.cluster import KMeans
from sklearn.metrics import adjusted_rand_score

import ktex_model
from ktex_model import weights
from ktex_model.model import MARGIN_SCALE, NO_CLASS, Prediction, Sample, Trained
from ktex_model.texture import TextureConfig, TextureModel, distillation, prediction, tiles, train, training
from ktex_model.texture.network import build, inputs_of, set_fitted
from pipeline.blocks import BlockGrid

QUICK = {"steps": 150, "batch": 1, "crop_px": 128, "texture_radius_px": 8, "texture_rounds": 1, "learning_rate": 6e-3}


def noise(rng: np.random.Generator, shape: tuple[int, int], spread: tuple[int, int]) -> NDArray[np.float64]:
    """White noise averaged over a box of `spread` pixels along y and x, of unit variance."""
    field = rng.standard_normal((shape[0] + spread[0], shape[1] + spread[1]))
    for axis, size in enumerate(spread):
        sums = np.cumsum(field, axis)
        field = np.take(sums, range(size, sums.shape[axis]), axis) - np.take(sums, range(sums.shape[axis] - size), axis)
    return (field - field.mean()) / field.std()


def scene(bands: int = 4, side: int = 160, seed: int = 0) -> tuple[Sample, NDArray[np.int64]]:
    """Three textures of one mean colour and contrast: fine grain, lying streaks, coarse blobs."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:side, :side]
    truth = np.where(x + 12 * np.sin(y / 25) > side / 2, np.where(y > side / 2, 2, 1), 0)
    fields = [noise(rng, (side, side), spread) for spread in ((1, 1), (1, 9), (7, 7))]
    field = np.take_along_axis(np.stack(fields), truth[None], 0)[0]
    tint = np.linspace(0.8, 1.2, bands)
    image = 0.4 + 0.08 * field[..., None] * tint + 0.01 * rng.standard_normal((side, side, bands))
    return Sample(np.clip(image, 0, 1).astype(np.float32), np.ones((side, side), np.bool_)), truth


def holed() -> tuple[Sample, NDArray[np.bool_]]:
    sample, _ = scene(bands=3, side=96)
    valid = sample.valid.copy()
    valid[30:50, 20:70] = False
    valid[80:, :11] = False
    return Sample(sample.image, valid), ~valid


@pytest.fixture(scope="module")
def trained() -> Trained:
    return train([scene()[0]], TextureConfig(3, 4, **QUICK))


def equal(one: Prediction, other: Prediction) -> bool:
    return bool((one.labels == other.labels).all() and (one.margin == other.margin).all())


def test_separates_textures_of_one_colour_where_colours_cannot(trained: Trained) -> None:
    sample, truth = scene()
    by_colour = KMeans(3, n_init=2, random_state=0).fit_predict(sample.image.reshape(-1, 4))
    assert adjusted_rand_score(truth.ravel(), by_colour) < 0.3
    ours = trained.model.predict(sample.image, sample.valid)
    assert adjusted_rand_score(truth.ravel(), ours.labels.ravel()) > 0.8
    assert set(np.unique(ours.labels)) == {0, 1, 2}
    assert ours.margin.max() <= 200
    assert ours.labels.dtype == ours.margin.dtype == np.uint8


def test_generalises_to_another_draw_of_the_same_textures(trained: Trained) -> None:
    sample, truth = scene(seed=5)
    assert adjusted_rand_score(truth.ravel(), trained.model.predict(sample.image, sample.valid).labels.ravel()) > 0.7


@pytest.mark.parametrize("dilations", [(1, 1, 1), (2, 2, 1)])
def test_a_change_moves_no_label_beyond_the_context(trained: Trained, dilations: tuple[int, ...]) -> None:
    assert isinstance(trained.model, TextureModel)
    rng = np.random.default_rng(3)
    # Weights drawn at random: a trained network may be too sure of itself to show how far it sees.
    drawn = {
        name: (rng.standard_normal(value.shape) / np.sqrt(max(1, value[..., 0].size))).astype(np.float32)
        if name.startswith("network/")
        else value
        for name, value in trained.model.tensors().items()
    }
    model = TextureModel.from_tensors(dataclasses.replace(trained.model.config, dilations=dilations), drawn)
    image = rng.random((224, 224, 4)).astype(np.float32)
    valid = np.ones((224, 224), np.bool_)
    before = model.predict(image, valid)
    reached = 0
    for y, x in ((112, 113), (109, 110), (111, 112)):
        changed = image.copy()
        changed[y, x] += 1e4
        after = model.predict(changed, valid)
        moved = (after.margin != before.margin) | (after.labels != before.labels)
        rows, columns = np.nonzero(moved)
        assert len(rows)
        reached = max(reached, int(np.abs(rows - y).max()), int(np.abs(columns - x).max()))
    assert model.context_px // 2 < reached <= model.context_px


def test_labels_depend_neither_on_the_window_read_nor_on_the_tiles(
    trained: Trained, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, context, side = trained.model, trained.model.context_px, tiles.SMALL_TILE_PX
    rng = np.random.default_rng(4)
    image = rng.random((side + 150, side + 161, 4)).astype(np.float32)
    valid = rng.random(image.shape[:2]) > 0.02
    inner = slice(45, 45 + side + 40), slice(51, 51 + side + 30)
    whole = model.predict(image, valid, inner)
    tight = slice(45 - context, 45 + side + 40 + context), slice(51 - context, 51 + side + 30 + context)
    here = slice(context, context + side + 40), slice(context, context + side + 30)
    assert equal(whole, model.predict(image[tight], valid[tight], here))
    # Four tiles instead of one, and one that is wider than the window.
    limit = prediction.get_limit(trained.model.config.architecture)  # type: ignore[attr-defined]
    monkeypatch.setattr(limit, "side", 256)
    assert equal(whole, model.predict(image, valid, inner))
    monkeypatch.setattr(limit, "side", 576)
    assert equal(whole, model.predict(image, valid, inner, ([576, 300], [400])))
    assert not model.predict(image, valid, (slice(9, 9), slice(0, 8))).labels.size


def test_beyond_the_image_is_the_same_as_not_valid(trained: Trained) -> None:
    image = np.random.default_rng(5).random((70, 90, 4)).astype(np.float32)
    valid = np.ones(image.shape[:2], np.bool_)
    margin = ((40, 40), (40, 40))
    padded = trained.model.predict(
        np.pad(image, (*margin, (0, 0)), constant_values=7.0), np.pad(valid, margin), (slice(40, 110), slice(40, 130))
    )
    assert equal(trained.model.predict(image, valid), padded)


def test_values_that_are_not_valid_change_nothing_and_trainings_repeat_to_the_bit() -> None:
    sample, hole = holed()
    config = TextureConfig(3, 3, **QUICK | {"steps": 4})
    other = sample.image.copy()
    other[hole] = np.nan
    other[hole, 0] = 1e6
    one, two = train([sample], config), train([Sample(other, sample.valid)], config)
    for name, tensor in one.model.tensors().items():  # type: ignore[attr-defined]
        np.testing.assert_array_equal(tensor, two.model.tensors()[name], err_msg=name)  # type: ignore[attr-defined]
    prediction = one.model.predict(sample.image, sample.valid)
    assert equal(prediction, one.model.predict(other, sample.valid))
    assert (prediction.labels[hole] == NO_CLASS).all()
    assert (prediction.margin[hole] == NO_CLASS).all()
    assert (prediction.labels[~hole] < 3).all()


def test_models_share_what_is_compiled_for_a_step_and_for_a_shape_of_tile() -> None:
    sample = scene(bands=1, side=96)[0]
    config = TextureConfig(2, 1, **QUICK | {"steps": 1})
    for cache in (prediction.compile_tile, distillation.get_student):
        cache.cache_clear()
    models = [train([sample], config, seed).model for seed in (0, 1)]
    wide = np.tile(sample.image, (1, 4, 1))
    for model in 2 * models:
        for columns in (slice(0, 96), slice(0, 300)):
            model.predict(wide, np.ones(wide.shape[:2], bool), (slice(0, 96), columns))
    assert distillation.get_student.cache_info().misses == 1
    assert prediction.compile_tile.cache_info().misses == 2


def test_one_tile_is_compiled_for_all_blocks_of_a_grid(trained: Trained) -> None:
    model, rng = trained.model, np.random.default_rng(6)
    grid = BlockGrid((640 + 290, 640 + 170), 320, overlap_px=8, context_px=model.context_px)
    assert len({block.wide.shape for block in grid}) == 9
    image, valid = rng.random((*grid.shape, 4)).astype(np.float32), np.ones(grid.shape, bool)
    whole = model.predict(image, valid)
    prediction.compile_tile.cache_clear()
    for block in grid:
        read = block.read.slices
        found = model.predict(image[read], valid[read], block.wide_in_read.slices, grid.windows)
        np.testing.assert_array_equal(found.labels, whole.labels[block.wide.slices])
        np.testing.assert_array_equal(found.margin, whole.margin[block.wide.slices])
    assert prediction.compile_tile.cache_info().misses == 1


@pytest.mark.parametrize("free_bytes", [1, 1 << 40])
def test_how_many_crops_memory_holds_changes_nothing_that_is_learnt(
    free_bytes: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    sample = scene(bands=1, side=96)[0]
    config = TextureConfig(2, 1, **QUICK | {"steps": 5})
    before = train([sample], config)
    assert distillation.steps_at_once(config, free_bytes) == (1 if free_bytes == 1 else distillation.STEPS_AT_ONCE)
    monkeypatch.setattr(distillation, "host_memory", lambda: free_bytes)
    after = train([sample], config)
    for name, tensor in before.model.tensors().items():  # type: ignore[attr-defined]
        np.testing.assert_array_equal(tensor, after.model.tensors()[name], err_msg=name)  # type: ignore[attr-defined]


def test_round_trip_through_files(trained: Trained, tmp_path: Path) -> None:
    model = trained.model
    assert isinstance(model, TextureModel)
    digest = ktex_model.save(model, tmp_path / "model")
    config = ktex_model.load_config(tmp_path / "model", digest)
    assert config == model.config
    again = ktex_model.load(tmp_path / "model", digest)
    assert isinstance(again, TextureModel)
    assert ktex_model.save(again, tmp_path / "again") == digest
    sample, _ = scene(seed=2)
    assert equal(model.predict(sample.image, sample.valid), again.predict(sample.image, sample.valid))
    np.testing.assert_array_equal(model.textures((20, 30), seed=3), again.textures((20, 30), seed=3))
    assert (again.preset, again.k, again.bands, again.context_px) == ("texture", 3, 4, config.context_px)
    with pytest.raises(ValueError, match="must hold rotation/mean"):
        TextureModel.from_tensors(model.config, {})
    with pytest.raises(ValueError, match="must have digest"):
        ktex_model.load(tmp_path / "model", "0" * 64)


def widened(model: TextureModel) -> dict[str, NDArray[np.generic]]:
    """The tensors of a model, its edges' kernel of side 1 laid into the middle of one of side 3."""
    tensors = model.tensors()
    return tensors | {"network/edges/kernel": np.pad(tensors["network/edges/kernel"], ((1, 1), (1, 1), (0, 0), (0, 0)))}


def test_a_record_of_before_the_network_could_be_set_means_that_of_then(trained: Trained, tmp_path: Path) -> None:
    assert isinstance(trained.model, TextureModel)
    earlier = dataclasses.replace(trained.model.config, dilations=(2, 2, 1), edge_side=3)
    model = TextureModel.from_tensors(earlier, widened(trained.model))
    record = dataclasses.asdict(earlier)
    del record["dilations"], record["edge_side"]
    weights.write(tmp_path / "earlier", record, model.tensors())
    again = ktex_model.load(tmp_path / "earlier")
    assert again.config == earlier  # type: ignore[attr-defined]
    sample, _ = scene(seed=2)
    assert equal(model.predict(sample.image, sample.valid), again.predict(sample.image, sample.valid))


def test_a_wider_kernel_of_edges_that_is_empty_but_in_the_middle_changes_no_label(trained: Trained) -> None:
    assert isinstance(trained.model, TextureModel)
    wide = TextureModel.from_tensors(dataclasses.replace(trained.model.config, edge_side=3), widened(trained.model))
    sample, _ = scene(seed=2)
    one, other = (model.predict(sample.image, sample.valid) for model in (trained.model, wide))
    assert (one.labels == other.labels).mean() > 0.9999
    assert np.abs(one.margin.astype(int) - other.margin.astype(int)).max() <= 1


def test_labels_and_margins_are_those_of_the_logits_between_cells(trained: Trained) -> None:
    assert isinstance(trained.model, TextureModel)
    model, (sample, _) = trained.model, scene(seed=5, side=96)
    context = model.context_px
    tensors = {name.removeprefix("network/"): value for name, value in model.tensors().items()}
    network = keras.Model(*build(model.config.architecture, (96 + 2 * context,) * 2))
    set_fitted(network, {name: value for name, value in tensors.items() if "/" in name and "generators" not in name})
    seen = np.pad(inputs_of(sample.image, sample.valid, model.rotation.mean), ((context, context),) * 2 + ((0, 0),))
    logits = keras.ops.convert_to_numpy(network(seen[None]))[0].astype(np.float64)
    # The middle of pixel i lies at i / 2 - 1 / 4 in cells, whose middles are whole numbers.
    at = np.stack(np.meshgrid(*(np.arange(context, context + 96) / 2 - 0.25,) * 2, indexing="ij"))
    between = np.stack([scipy.ndimage.map_coordinates(logits[..., c], at, order=1) for c in range(model.k)], -1)
    leading = np.sort(between, -1)[..., -2:]
    second, first = scipy.special.softmax(leading, -1).transpose(2, 0, 1)
    found = model.predict(sample.image, sample.valid)
    clear = first - second > 1e-4
    np.testing.assert_array_equal(found.labels[clear], between.argmax(-1)[clear])
    assert np.abs(found.margin - MARGIN_SCALE * (first - second)).max() <= 0.51


def test_more_bands_and_windows_of_any_shape() -> None:
    bands = 6
    sample, truth = scene(bands, side=128)
    cuts = [(slice(0, 128), slice(0, 71)), (slice(0, 61), slice(71, 128)), (slice(61, 128), slice(71, 128))]
    samples = [Sample(sample.image[cut], sample.valid[cut]) for cut in cuts]
    model = train(samples, TextureConfig(3, bands, **QUICK | {"steps": 300})).model
    labels = model.predict(sample.image, sample.valid).labels
    assert adjusted_rand_score(truth.ravel(), labels.ravel()) > 0.6
    assert model.textures((9, 12)).shape == (3, 9, 12, bands)


def test_few_valid_pixels_of_one_band_are_enough() -> None:
    sample, _ = scene(bands=1, side=128)
    valid = np.random.default_rng(0).random((128, 128)) < 0.01
    config = TextureConfig(4, 1, **QUICK | {"steps": 2})
    model = train([Sample(sample.image, valid), Sample(sample.image, valid & False)], config).model
    assert (model.predict(sample.image, valid).labels[valid] < 4).all()


def test_an_even_image_is_one_class_and_the_others_stay_empty() -> None:
    image = np.full((40, 60, 2), 0.3, np.float32)
    valid = np.ones((40, 60), np.bool_)
    trained = train([Sample(image, valid)], TextureConfig(5, 2, **QUICK | {"steps": 3}))
    assert (trained.model.predict(image, valid).labels == 0).all()
    assert trained.model.tensors()["share"].tolist() == [1, 0, 0, 0, 0]  # type: ignore[attr-defined]
    np.testing.assert_allclose(trained.model.textures((8, 8)), 0.3, atol=1e-4)


def test_classes_are_numbered_from_dark_to_bright() -> None:
    image = np.repeat(np.array([0.8, 0.2, 0.5], np.float32), 40)[None, :, None] * np.ones((80, 1, 2), np.float32)
    image += 0.01 * np.random.default_rng(0).standard_normal(image.shape).astype(np.float32)
    valid = np.ones(image.shape[:2], np.bool_)
    model = train([Sample(image, valid)], TextureConfig(3, 2, **QUICK)).model
    labels = model.predict(image, valid).labels
    assert [int(np.median(labels[:, at])) for at in (20, 60, 100)] == [2, 0, 1]


def test_history_tells_why_it_stopped_and_how_well_the_textures_explain(trained: Trained) -> None:
    history = trained.history
    assert "assignments" in history.stop_reason
    assert "150 steps" in history.stop_reason
    stages = {str(stage["name"]): stage for stage in history.stages}
    assert list(stages) == ["features", "starts", "refine", "generators", "network"]
    assert float(str(stages["generators"]["agreement"])) > 0.9
    losses = stages["network"]["losses"]
    assert isinstance(losses, list)
    assert losses[-1] < losses[0]
    # A flat image with the classes' mean colours is further off: its features are those of no texture at all.
    assert 0 < history.loss < 0.5
    json.dumps(dataclasses.asdict(history))


def test_large_samples_are_learnt_from_in_windows_and_every_step_is_told() -> None:
    sample, _ = scene(bands=1, side=160)
    big = Sample(np.tile(sample.image, (4, 4, 1)), np.ones((640, 640), np.bool_))
    few = {"steps": 3, "fit_px": 200_000, "rounds": 1, "refine_rounds": 0, "settle": 0.0}
    calls: list[tuple[int, int, float]] = []
    history = train(
        [big], TextureConfig(2, 1, **QUICK | few), seed=4, progress=lambda *call: calls.append(call)
    ).history
    assert 150_000 <= int(str(history.stages[0]["pixels"])) <= 250_000
    assert "ended at the limit of 1 rounds" in history.stop_reason
    done, expected = [call[0] for call in calls], [call[1] for call in calls]
    assert all(before < after for before, after in itertools.pairwise(done))
    assert done[-1] == expected[-1]


@pytest.mark.parametrize(
    ("agreements", "cycles", "kept"), [([1.0], 1, 0), ([0.5, 0.9], 2, 1), ([0.5, 0.4], 2, 0), ([0.1, 0.2], 2, 1)]
)
def test_a_network_that_errs_on_more_than_borders_is_taught_on_and_the_better_is_kept(
    agreements: list[float], cycles: int, kept: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    sample, _ = scene(bands=1, side=96)
    told, judged, calls = list(agreements), [], list[tuple[int, int, float]]()

    def judge(model: TextureModel, *_: object) -> float:
        judged.append(model.tensors()["network/half/kernel"])
        return told.pop(0)

    monkeypatch.setattr(training, "network_agreement", judge)
    config = TextureConfig(2, 1, **QUICK | {"steps": 42})
    found = train([sample], config, progress=lambda *call: calls.append(call))
    stage = next(stage for stage in found.history.stages if stage["name"] == "network")
    assert (stage["agreements"], stage["agreement"]) == (agreements, max(agreements))
    assert stage["steps"] == (42, 42 + 21)[cycles - 1]
    assert ("42 steps and 21 more, as it erred on" in found.history.stop_reason) == (cycles == 2)
    np.testing.assert_array_equal(found.model.tensors()["network/half/kernel"], judged[kept])  # type: ignore[attr-defined]
    assert len({each.tobytes() for each in judged}) == cycles
    before, after = {call[1] for call in calls[:-2]}, {call[1] for call in calls[-2:]}
    assert before == {calls[0][1]}
    assert after == {calls[0][1] + (0, 21)[cycles - 1]}
    assert calls[-1][0] == calls[-1][1]


def test_borders_are_pixels_beside_another_class() -> None:
    laid = np.random.default_rng(0).integers(-1, 3, (9, 12))
    near = 0
    for y, x in np.argwhere(laid >= 0):
        around = [laid[v, u] for v, u in ((y - 1, x), (y + 1, x), (y, x - 1), (y, x + 1)) if 0 <= v < 9 and 0 <= u < 12]
        near += any(each >= 0 and each != laid[y, x] for each in around)
    assert training.border_share([laid]) == near / (laid >= 0).sum()
    assert training.border_share([np.zeros((3, 3), np.int64)]) == 0


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"k": 1}, "k must be 2 to 128; got 1"),
        ({"k": 129}, "k must be 2 to 128; got 129"),
        ({"bands": 0}, "bands must be at least 1"),
        ({"preset": "paper"}, "preset must be 'texture'"),
        ({"steps": 0}, "steps must be at least 1"),
        ({"settle": -1.0}, "settle must not be negative"),
        ({"smooth_px": 0.0}, "must be positive"),
        ({"crop_px": 50}, "multiple of 4"),
        ({"dilations": (1, 1)}, "dilations must be 3 numbers"),
        ({"edge_side": 2}, "edge_side must be 1 or 3; got 2"),
    ],
)
def test_config_is_checked(change: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        TextureConfig(**{"k": 3, "bands": 4} | change)  # type: ignore[arg-type]


def test_k_may_be_128_of_which_most_stay_empty() -> None:
    image = np.repeat(np.array([0.1, 0.5, 0.9], np.float32), 20)[None, :, None] * np.ones((60, 1, 1), np.float32)
    valid = np.ones(image.shape[:2], np.bool_)
    model = train([Sample(image, valid)], TextureConfig(128, 1, **QUICK | {"steps": 1, "rounds": 2})).model
    used = np.flatnonzero(model.tensors()["share"])  # type: ignore[attr-defined]
    assert set(np.unique(model.predict(image, valid).labels)) <= set(used.tolist())
    assert len(used) < 128


def test_what_does_not_fit_is_refused(trained: Trained) -> None:
    sample, _ = scene(bands=2, side=40)
    config = TextureConfig(2, 2)
    with pytest.raises(ValueError, match=r"shape \(y, x, 3\)"):
        train([sample], TextureConfig(2, 3))
    with pytest.raises(ValueError, match="validity must have the shape"):
        train([Sample(sample.image, sample.valid[1:])], config)
    with pytest.raises(ValueError, match="must be finite"):
        train([Sample(sample.image * np.float32(np.nan), sample.valid)], config)
    with pytest.raises(ValueError, match="hold a valid pixel; got none in 1"):
        train([Sample(sample.image, ~sample.valid)], config)
    with pytest.raises(ValueError, match=r"`image` must have shape \(y, x, 4\)"):
        trained.model.predict(sample.image, sample.valid)
    image = np.zeros((40, 40, 4), np.float32)
    with pytest.raises(ValueError, match="`valid` must have the shape"):
        trained.model.predict(image, sample.valid[1:])
    with pytest.raises(ValueError, match="`inner` must lie in an image"):
        trained.model.predict(image, sample.valid, (slice(0, 41), slice(0, 40)))


def test_a_single_valid_pixel_is_enough_to_end() -> None:
    image = np.full((40, 40, 2), 0.5, np.float32)
    valid = np.zeros((40, 40), np.bool_)
    valid[20, 20] = True
    trained = train([Sample(image, valid)], TextureConfig(k=2, bands=2, rounds=2, steps=1, batch=1, crop_px=32))
    labels = trained.model.predict(image, valid).labels
    assert labels[20, 20] < 2
    assert (labels[~valid] == 255).all()
