"""The made scene: NICFI layout, known truth, colours that do not tell the textures apart."""

from __future__ import annotations

import math
import re
from pathlib import Path

import numpy as np
import pytest
import rasterio
from rasterio.enums import ColorInterp
from sklearn.cluster import MiniBatchKMeans
from sklearn.metrics import adjusted_rand_score

from pipeline.demo import TEXTURES, Demo, draw_texture, make_demo, quad_transform

RES_M = 2 * math.pi * 6378137 / (256 * 2**15)
HALF_M = math.pi * 6378137


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Demo:
    return make_demo(tmp_path_factory.mktemp("demo"))


def assemble(demo: Demo) -> tuple[np.ndarray, np.ndarray]:
    """Return the mosaic (band, y, x) and the truth (y, x), put together by coordinates alone."""
    with rasterio.open(demo.truth_path) as file:
        truth, origin = file.read(1), file.transform
    mosaic = np.zeros((5, *truth.shape), np.uint16)
    for path in demo.paths:
        with rasterio.open(path) as file:
            col, row = ~origin @ (file.transform.c, file.transform.f)
            y, x = round(row), round(col)
            mosaic[:, y : y + file.height, x : x + file.width] = file.read()
    return mosaic, truth


def test_quads_have_the_layout_of_nicfi_basemaps(demo: Demo) -> None:
    assert len(demo.paths) == 4
    for path in demo.paths:
        with rasterio.open(path) as file:
            assert file.dtypes == ("uint16",) * 5
            assert file.nodatavals == (None,) * 5
            assert file.crs.to_epsg() == 3857
            assert file.colorinterp == (
                ColorInterp.blue,
                ColorInterp.green,
                ColorInterp.red,
                ColorInterp.undefined,
                ColorInterp.alpha,
            )
            assert file.shape == (512, 512)
            assert set(np.unique(file.read(5))) <= {0, 65535}


def test_quads_lie_on_the_global_grid_where_their_names_say(demo: Demo) -> None:
    for path in demo.paths:
        x, y = (int(part) for part in re.fullmatch(r"L15-(\d+)E-(\d+)N\.tif", path.name).groups())  # type: ignore[union-attr]
        with rasterio.open(path) as file:
            assert file.res == pytest.approx((RES_M, RES_M), rel=1e-9)
            col = (file.bounds.left + HALF_M) / RES_M
            row_from_south = (file.bounds.bottom + HALF_M) / RES_M
        assert col == pytest.approx(512 * x, abs=0.01)
        assert row_from_south == pytest.approx(512 * y, abs=0.01)


def test_real_quads_are_divided_evenly() -> None:
    for quad_px in (64, 512, 4096):
        finer = 4096 // quad_px
        real, made = quad_transform(639, 942), quad_transform(639 * finer, 942 * finer + finer - 1, quad_px)
        assert (made.c - real.c) / RES_M == pytest.approx(0, abs=0.01)
        assert (made.f - real.f) / RES_M == pytest.approx(0, abs=0.01)


def test_alpha_is_valid_exactly_where_there_is_truth(demo: Demo) -> None:
    mosaic, truth = assemble(demo)
    assert np.array_equal(mosaic[4] == 65535, truth != 255)
    assert (mosaic[:4][:, truth == 255] == 0).all()
    values = mosaic[:4][:, truth != 255]
    assert 1 <= values.min() <= values.max() <= 10_000


def test_the_sea_cuts_through_several_quads(demo: Demo) -> None:
    shares = []
    for path in demo.paths:
        with rasterio.open(path) as file:
            shares.append(float((file.read(5) == 0).mean()))
    assert sum(0 < share < 1 for share in shares) >= 2


@pytest.mark.parametrize("seed", range(3))
def test_each_texture_covers_much_and_lies_in_most_quads(seed: int, tmp_path: Path) -> None:
    _, truth = assemble(make_demo(tmp_path, seed=seed))
    quads = [truth[y : y + 512, x : x + 512] for y in (0, 512) for x in (0, 512)]
    assert set(np.unique(truth)) == {*range(len(TEXTURES)), 255}
    for label in range(len(TEXTURES)):
        assert (truth == label).mean() > 0.05
        assert sum((quad == label).sum() > 60 * 60 for quad in quads) >= 3


def test_pairs_share_their_colour_and_their_spread(demo: Demo) -> None:
    mosaic, truth = assemble(demo)
    colours = {label: mosaic[:4][:, truth == label] for label in range(6)}
    for one, other in ((0, 1), (2, 3), (4, 5)):
        assert colours[one].mean(1) == pytest.approx(colours[other].mean(1), rel=0.04)
        assert colours[one].std(1) == pytest.approx(colours[other].std(1), rel=0.1)
    assert colours[0].mean(1)[3] > 1.2 * colours[2].mean(1)[3]
    assert colours[4].mean(1)[2] > 1.5 * colours[2].mean(1)[2]


def test_colours_do_not_give_the_textures_away(demo: Demo) -> None:
    mosaic, truth = assemble(demo)
    pixels = mosaic[:4][:, truth != 255].T[::7].astype(np.float32)
    found = MiniBatchKMeans(6, n_init=3, random_state=0).fit_predict(pixels / pixels.std(0))
    assert adjusted_rand_score(truth[truth != 255][::7], found) <= 0.45


def test_quads_differ_in_illumination_by_a_few_percent(demo: Demo) -> None:
    means = {0: [], 3: []}  # type: dict[int, list[float]]
    mosaic, truth = assemble(demo)
    for y in (0, 512):
        for x in (0, 512):
            window = (slice(y, y + 512), slice(x, x + 512))
            for label, found in means.items():
                if (truth[window] == label).sum() > 10_000:
                    found.append(float(mosaic[3][window][truth[window] == label].mean()))
    for found in means.values():
        assert 1.005 < max(found) / min(found) < 1.2


def test_the_seed_decides_every_pixel(tmp_path: Path) -> None:
    scenes = [
        assemble(make_demo(tmp_path / name, seed=seed, quads=(1, 2), quad_px=128))
        for name, seed in (("a", 7), ("b", 7), ("c", 8))
    ]
    assert np.array_equal(scenes[0][0], scenes[1][0])
    assert np.array_equal(scenes[0][1], scenes[1][1])
    assert not np.array_equal(scenes[0][0], scenes[2][0])
    assert not np.array_equal(scenes[0][1], scenes[2][1])


def test_the_truth_lies_where_no_source_is_looked_for(demo: Demo) -> None:
    folder = demo.paths[0].parent
    assert sorted(folder.glob("*.tif")) == sorted(demo.paths)
    assert demo.truth_path.parent.parent == folder
    with rasterio.open(demo.truth_path) as file:
        assert (file.dtypes, file.nodata, file.shape) == (("uint8",), 255, (1024, 1024))
        assert file.tags(1)["CLASS_1"] == "plantation rows"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [({"quads": (0, 2)}, "`quads` must be at least"), ({"quad_px": 500}, "`quad_px` must be a power of two")],
)
def test_what_cannot_be_made_is_refused(arguments: dict[str, object], message: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=message):
        make_demo(tmp_path, **arguments)  # type: ignore[arg-type]
    assert not any(tmp_path.iterdir())


def test_only_known_textures_are_drawn() -> None:
    with pytest.raises(ValueError, match="`name` must be one of"):
        draw_texture("lava", (8, 8), np.random.default_rng(0))
