"""Laws of samples: masks are the mapped labels, folds lie apart, and what is written can be read as said."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
import rasterio
from hypothesis import given, settings
from hypothesis import strategies as st

from flows.cli import main
from pipeline.blocks import Window
from pipeline.errors import InputError
from pipeline.results import Result
from pipeline.samples import ClassMapping, Rules, load_samples, write_samples
from pipeline.samples.chips import Chip, balance_chips, lay_chips
from pipeline.samples.folds import FOLDS, deal, divide
from tests.pipeline.made_run import make_run

RULES = Rules(chip_px=32, place_px=100, min_share=0.3, confidence=0.0)
MAPPING = "classes:\n  wood: [0, 2]\n  field: 1\n"


@pytest.fixture(scope="session")
def made(tmp_path_factory: pytest.TempPathFactory) -> Result:
    return make_run(tmp_path_factory.mktemp("made"))


@pytest.fixture
def mapping(tmp_path: Path) -> Path:
    path = tmp_path / "classes.yaml"
    path.write_text(MAPPING)
    return path


def chips_of(root: Path) -> dict[str, list[Path]]:
    return {fold: sorted((root / fold / "images").glob("*.tif")) for fold in FOLDS}


def test_masks_are_the_mapped_labels_where_they_are_sure_and_images_the_source(
    made: Result, mapping: Path, tmp_path: Path
) -> None:
    rules = Rules(chip_px=32, place_px=100, min_share=0.3, confidence=0.85)
    write_samples(made.path, mapping, tmp_path / "out", rules)
    labels, sure = made.labels.to_numpy(), made.confidence.to_numpy()
    expected = np.full(labels.shape, 255)
    for ids, value in (((0, 2), 0), ((1,), 1)):
        expected[np.isin(labels, ids) & (sure >= 170) & (sure != 255)] = value
    with rasterio.open(made.record.inputs[0].path) as file:
        source, transform = file.read(), file.transform
    seen = 0
    for fold, paths in chips_of(tmp_path / "out").items():
        for path in paths:
            found = re.fullmatch(r"chip_(?P<row>\d+)_(?P<column>\d+)\.tif", path.name)
            assert found is not None
            y, x = int(found["row"]), int(found["column"])
            window = slice(y, y + 32), slice(x, x + 32)
            with rasterio.open(path) as image, rasterio.open(tmp_path / "out" / fold / "masks" / path.name) as mask:
                np.testing.assert_array_equal(image.read(), source[:, *window])
                np.testing.assert_array_equal(mask.read(1), expected[window])
                assert image.transform == mask.transform
                assert image.transform @ (0, 0) == transform @ (x, y)
                assert image.crs == mask.crs == "EPSG:32622"
                assert image.descriptions == ("R", "G", "B", "N")
                assert (mask.nodata, mask.dtypes) == (255, ("uint8",))
                known = mask.read(1) != 255
            assert known.mean() >= 0.3
            seen += 1
    assert seen > 20


def test_folds_share_no_place_and_keep_their_distance(made: Result, mapping: Path, tmp_path: Path) -> None:
    rules = Rules(chip_px=32, overlap_px=16, place_px=100, gap_px=12, min_share=0.3, confidence=0.0)
    write_samples(made.path, mapping, tmp_path / "out", rules)
    owner = np.zeros((300, 340), int)
    for number, paths in enumerate(chips_of(tmp_path / "out").values(), 1):
        assert paths
        for path in paths:
            y, x = (int(part) for part in path.stem.split("_")[1:])
            around = owner[max(0, y - 11) : y + 43, max(0, x - 11) : x + 43]
            assert set(np.unique(around)) <= {0, number}
            owner[y : y + 32, x : x + 32] = number


@given(st.integers(1, 300), st.integers(1, 300), st.integers(10, 90))
@settings(deadline=None, max_examples=50)
def test_places_partition_the_scene_and_chips_lie_inside(height: int, width: int, side: int) -> None:
    covered = np.zeros((height, width), int)
    rules = Rules(chip_px=16, overlap_px=4, gap_px=3)
    for place in divide((height, width), side):
        covered[place.slices] += 1
        for chip in lay_chips(place, rules):
            assert chip.intersect(place) == chip
            assert chip.shape == (16, 16)
    assert (covered == 1).all()


@given(st.integers(3, 200), st.tuples(st.floats(0.1, 1), st.floats(0.05, 1), st.floats(0.05, 1)), st.integers(0, 9))
@settings(deadline=None, max_examples=80)
def test_places_are_dealt_by_their_shares(places: int, shares: tuple[float, float, float], seed: int) -> None:
    dealt = deal(places, shares, seed)
    assert len(dealt) == places
    assert set(dealt) == set(FOLDS)
    for fold, share in zip(FOLDS, shares, strict=True):
        exact = share / sum(shares) * places
        assert abs(dealt.count(fold) - exact) <= 2 or dealt.count(fold) == 1
    assert dealt == deal(places, shares, seed)


def test_balanced_samples_show_each_class_equally_often() -> None:
    counts = [(1000, 0, 24)] * 9 + [(500, 524, 0)] * 4 + [(0, 0, 1024)] * 2
    chips = [Chip(Window(i * 32, 0, i * 32 + 32, 32), "train", each) for i, each in enumerate(counts)]
    kept = balance_chips(chips, 3, seed=0)
    assert len(kept) == 6
    assert [sum(chip.counts == each for chip in kept) for each in dict.fromkeys(counts)] == [2, 2, 2]
    assert kept == balance_chips(chips, 3, seed=0) != balance_chips(chips, 3, seed=1)


def test_pure_samples_are_of_one_class(made: Result, mapping: Path, tmp_path: Path) -> None:
    found = write_samples(
        made.path, mapping, tmp_path / "out", Rules(chip_px=16, place_px=100, purity=1.0, confidence=0.0)
    )
    for path in (tmp_path / "out").glob("*/masks/*.tif"):
        with rasterio.open(path) as file:
            assert len(set(np.unique(file.read(1))) - {255}) == 1
    assert sum(fold["chips"] for fold in found["folds"].values()) > 10


def test_the_description_counts_what_is_there_and_the_card_tells_it(
    made: Result, mapping: Path, tmp_path: Path
) -> None:
    write_samples(made.path, mapping, tmp_path / "out", RULES)
    found = json.loads((tmp_path / "out" / "dataset.json").read_text())
    for fold, paths in chips_of(tmp_path / "out").items():
        masks = []
        for path in paths:
            with rasterio.open(tmp_path / "out" / fold / "masks" / path.name) as file:
                masks.append(file.read(1))
        counts = np.bincount(np.concatenate(masks).ravel(), minlength=256)
        assert found["folds"][fold] == {
            "chips": len(paths), "pixels": {"wood": int(counts[0]), "field": int(counts[1])}
        }  # fmt: skip
    assert found["unmapped_ids"] == [3]
    card = (tmp_path / "out" / "README.md").read_text()
    assert "| wood | 0 | 0, 2 |" in card
    assert "all_bands = ('R', 'G', 'B', 'N')" in card
    assert "no ground truth" in card


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::UserWarning")
def test_tensorflow_reads_the_samples(made: Result, mapping: Path, tmp_path: Path) -> None:
    found = write_samples(made.path, mapping, tmp_path / "out", RULES)
    batches = list(load_samples(tmp_path / "out", "train", batch=4).as_numpy_iterator())
    images, masks = (np.concatenate(each) for each in zip(*batches, strict=True))
    assert len(images) == found["folds"]["train"]["chips"]
    assert (images.dtype, images.shape[1:], masks.dtype, masks.shape[1:]) == ("float32", (32, 32, 4), "uint8", (32, 32))
    paths = chips_of(tmp_path / "out")["train"]
    with rasterio.open(paths[0]) as file:
        np.testing.assert_allclose(images[0], np.moveaxis(file.read(), 0, -1) / 255, atol=1e-6)
    shuffled = [np.concatenate([i for i, _ in load_samples(tmp_path / "out", "train", seed=s)]) for s in (0, 0, 1)]
    np.testing.assert_array_equal(shuffled[0], shuffled[1])
    assert not np.array_equal(shuffled[0], shuffled[2])
    np.testing.assert_allclose(np.sort(shuffled[0].mean((1, 2, 3))), np.sort(images.mean((1, 2, 3))), rtol=1e-5)
    with pytest.raises(InputError, match="has no fold 'other'"):
        load_samples(tmp_path / "out", "other")
    with pytest.raises(InputError, match="is no data set of samples"):
        load_samples(tmp_path, "train")


@pytest.mark.parametrize(
    ("text", "match"),
    [
        ("classes: [1", "cannot be read as YAML"),
        ("- 1", "must be 'classes:'"),
        ("classes: {}", "must be 'classes:'"),
        ("classes: {a: [0], b: [0]}", r"\[0\] belong to several"),
        ("classes: {a: [x]}", "must be whole numbers"),
        ("classes: {a: []}", "each with an id"),
        ("classes: {a: [0, 77]}", r"ids \[77\] are not in the map"),
    ],
)
def test_a_wrong_mapping_is_told_and_nothing_is_written(
    made: Result, mapping: Path, tmp_path: Path, text: str, match: str
) -> None:
    mapping.write_text(text)
    with pytest.raises(InputError, match=match):
        write_samples(made.path, mapping, tmp_path / "out", RULES)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("rules", "match"),
    [
        ({"chip_px": 8}, "--chip-px"),
        ({"overlap_px": 256}, "--overlap-px"),
        ({"purity": 1.5}, "--purity"),
        ({"shares": (0.0, 1.0, 0.0)}, "--folds"),
        ({"place_px": 200}, "--place-px"),
        ({"chip_px": 32, "place_px": 300}, "fewer than 3 folds"),
        ({"chip_px": 32, "confidence": 1.0}, "no chip of 32 px meets"),
    ],
)
def test_rules_that_cannot_be_met_are_told(
    made: Result, mapping: Path, tmp_path: Path, rules: dict[str, object], match: str
) -> None:
    with pytest.raises(InputError, match=match):
        write_samples(made.path, mapping, tmp_path / "out", Rules(**rules))  # type: ignore[arg-type]
    assert not (tmp_path / "out").exists()


def test_the_command_makes_samples_and_refuses_a_full_directory(
    made: Result, mapping: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["samples", str(made.path), "--classes", str(mapping), "--to", str(tmp_path / "out")]
    options = ["--chip-px", "32", "--place-px", "100", "--confidence", "0"]
    assert main([*command, *options]) == 0
    said = capsys.readouterr()
    assert "train" in said.out
    assert "ids 3 are in no class" in said.err
    assert re.search(r"^Writing chips: (\d+)/\1", said.err, re.MULTILINE)
    assert main([*command, *options]) == 2
    assert "is not an empty directory" in capsys.readouterr().err
    assert main([*command, "--folds", "1,2"]) == 2
    shutil.rmtree(tmp_path / "out")


def test_a_mapping_may_give_ids_under_a_key(tmp_path: Path) -> None:
    path = tmp_path / "classes.yaml"
    path.write_text("classes: {wood: {ids: [3, 1]}, water: 0}")
    found = ClassMapping.read(path, [0, 1, 3])
    assert (found.names, found.ids) == (["wood", "water"], [0, 1, 3])
