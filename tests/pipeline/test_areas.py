"""Areas on the ellipsoid, against geodesic polygons."""

from __future__ import annotations

import numpy as np
import pytest
from affine import Affine
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from pyproj import CRS, Geod, Transformer

from pipeline.areas import FEW, class_areas, pixel_areas
from pipeline.blocks import Window
from pipeline.demo import quad_transform


def geodesic_area(transform: Affine, crs: CRS, window: Window) -> float:
    """Area of a window, m2, from a polygon of geodesics through many points of its border."""
    steps = np.linspace(0, 1, 51)[:-1]
    corners = [(window.x0, window.y0), (window.x1, window.y0), (window.x1, window.y1), (window.x0, window.y1)]
    points = [
        transform @ (x0 + (x1 - x0) * step, y0 + (y1 - y0) * step)
        for (x0, y0), (x1, y1) in zip(corners, corners[1:] + corners[:1], strict=True)
        for step in steps
    ]
    lon, lat = Transformer.from_crs(crs, CRS(4326), always_xy=True).transform(*zip(*points, strict=True))
    return abs(Geod(ellps="WGS84").polygon_area_perimeter(lon, lat)[0])


GRIDS = {
    "quads at 18 south": (quad_transform(1308, 917), 3857),
    "UTM": (Affine(30, 0, 300_000, 0, -30, 4_120_000), 32612),
    "degrees": (Affine(1e-4, 0, -60, 0, -1e-4, -9), 4326),
    "turned": (Affine(8, 3, 700_000, 3, -8, 100_000), 32618),
    "antimeridian": (Affine(10, 0, 499_000, 0, -10, 7_000_000), 32601),
    "polar": (Affine(100, 0, -30_000, 0, -100, 30_000), 3031),
}


@pytest.mark.parametrize("name", GRIDS)
def test_pixels_have_their_area_on_the_ellipsoid(name: str) -> None:
    transform, code = GRIDS[name]
    window = Window(40, 10, 340, 290)
    areas = pixel_areas(transform, CRS(code), window)
    assert areas.shape == (5, 5)
    counts = np.outer([64] * 4 + [44], [64] * 4 + [24])
    assert (areas * counts).sum() == pytest.approx(geodesic_area(transform, CRS(code), window), rel=2e-5)
    first = Window(40, 10, 41, 11)
    assert areas[0, 0] == pytest.approx(geodesic_area(transform, CRS(code), first), rel=3e-3)


def test_a_pixel_of_web_mercator_shrinks_with_latitude() -> None:
    equator, south = (pixel_areas(quad_transform(1308, y), CRS(3857), Window(0, 0, 64, 64))[0, 0] for y in (1024, 917))
    assert equator == pytest.approx(4.777314267823516**2, rel=0.01)
    assert south / equator == pytest.approx(np.cos(np.radians(18.2)) ** 2, rel=0.01)


@settings(deadline=None, max_examples=20)
@given(height=st.integers(1, 200), width=st.integers(1, 200), few=st.booleans(), seed=st.integers(0, 99))
def test_areas_of_classes_add_up_to_their_pixels(height: int, width: int, few: bool, seed: int) -> None:
    classes = np.array([0, 3, 255] if few else [*range(2 * FEW), 255], np.uint8)
    values = np.random.default_rng(seed).choice(classes, (height, width))

    def read(window: Window) -> NDArray[np.uint8]:
        return values[window.slices]

    transform, crs = quad_transform(1308, 917), CRS(3857)
    found = class_areas(read, values.shape, transform, crs)
    pixel = pixel_areas(transform, crs, Window(0, 0, height, width)).mean()
    assert set(found) == set(np.unique(values).tolist())
    for value, area in found.items():
        assert area == pytest.approx((values == value).sum() * pixel, rel=1e-3)


@pytest.mark.parametrize("classes", [3, 2 * FEW])
def test_pixels_count_by_the_area_of_their_own_cell(classes: int) -> None:
    values = np.random.default_rng(0).integers(0, classes, (150, 200)).astype(np.uint8)
    transform, crs = Affine(0.05, 0, 10, 0, -0.05, 60), CRS(4326)  # ten degrees across: no two cells are alike
    areas = pixel_areas(transform, crs, Window(0, 0, *values.shape))
    expected = dict.fromkeys(range(classes), 0.0)
    for (y, x), value in np.ndenumerate(values):
        expected[int(value)] += areas[y // 64, x // 64]
    found = class_areas(lambda window: values[window.slices], values.shape, transform, crs)
    assert found == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize("classes", [3, 2 * FEW])
def test_values_count_wherever_they_are_first_seen(classes: int) -> None:
    values = np.random.default_rng(0).integers(0, classes, (400, 90)).astype(np.uint8)
    values[399, 80], values[70, 3], values[200:210] = 200, 254, 255
    found = class_areas(lambda window: values[window.slices], values.shape, quad_transform(1308, 917), CRS(3857))
    pixel = pixel_areas(quad_transform(1308, 917), CRS(3857), Window(0, 0, 400, 90)).mean()
    expected = {value: count * pixel for value, count in zip(*np.unique(values, return_counts=True), strict=True)}
    assert found == pytest.approx({int(value): area for value, area in expected.items()}, rel=1e-3)


def test_wide_labels_have_the_areas_of_narrow_ones() -> None:
    narrow = np.random.default_rng(0).choice(np.array([0, 3, 255], np.uint8), (150, 90))
    wide = np.array([0, *[7] * 2, 40_000, *[7] * 251, 65535], np.uint16)[narrow]
    grid = narrow.shape, quad_transform(1308, 917), CRS(3857)
    found = class_areas(lambda window: narrow[window.slices], *grid)
    same = class_areas(lambda window: wide[window.slices], *grid)
    assert same == {0: found[0], 40_000: found[3], 65535: found[255]}


def test_only_labels_are_counted() -> None:
    with pytest.raises(TypeError, match="`values` must be uint8 or uint16; got int32"):
        class_areas(lambda window: np.zeros(window.shape, np.int32), (4, 4), quad_transform(1308, 917), CRS(3857))
