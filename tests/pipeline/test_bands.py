"""Band maps: what is declared is taken, what is not is asked for, and alpha is never a feature."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.bands import BandMap, BandProfile, check_bands, infer_bands, parse_bands
from pipeline.errors import InputError


def profile(interps: str, *, dtype: str = "uint8", descriptions: str | None = None) -> BandProfile:
    names = tuple(interps.split())
    described = tuple(None if d == "-" else d for d in descriptions.split()) if descriptions else (None,) * len(names)
    return BandProfile("a.tif", len(names), dtype, names, described)


@pytest.mark.parametrize(
    ("text", "indexes", "alpha"),
    [("nicfi", (3, 2, 1, 4), 5), ("rgbn", (1, 2, 3, 4), None), ("bgrn", (3, 2, 1, 4), None), ("RGB", (1, 2, 3), None)],
)
def test_named_maps_give_red_first(text, indexes, alpha):
    parsed = parse_bands(text)
    assert parsed.indexes == indexes
    assert parsed.names == ("R", "G", "B", "N")[: len(indexes)]
    assert parsed.alpha == alpha


@settings(deadline=None, max_examples=30)
@given(st.permutations(["R=3", "G=2", "B=1", "N=4", "alpha=5"]))
def test_the_order_of_pairs_does_not_matter(pairs):
    assert parse_bands(",".join(pairs)) == parse_bands("nicfi")


def test_free_names_follow_the_known_ones():
    assert parse_bands("swir=6, b=1 ,VV=9").bands == (("B", 1), ("swir", 6), ("VV", 9))


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("", "not understood"), ("landsat", "not understood"), ("R=0", "not understood"), ("R=3,G", "'G'"),
        ("R=1,r=2", "R twice"), ("R=1,G=1", "one band twice"), ("R=1,alpha=1", "one band twice"),
        ("alpha=1", "no band but alpha"), ("R=1;G=2", "not understood"), ("R=-1", "not understood"),
    ],
)  # fmt: skip
def test_misread_maps_are_refused_in_one_line(text, found):
    with pytest.raises(InputError, match=r"--bands .*expected nicfi, rgbn, bgrn, rgb or pairs") as error:
        parse_bands(text)
    assert found in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        (profile("red green blue"), "R=1,G=2,B=3"),
        (profile("red green blue alpha"), "R=1,G=2,B=3,alpha=4"),
        (profile("blue green red nir"), "R=3,G=2,B=1,N=4"),
        (profile("blue green red undefined alpha", dtype="uint16"), "R=3,G=2,B=1,N=4,alpha=5"),
        (profile("gray undefined undefined undefined", descriptions="red green blue nir"), "R=1,G=2,B=3,N=4"),
        (profile("red green blue undefined", descriptions="- - - near_infrared"), "R=1,G=2,B=3,N=4"),
        (profile("red green blue", descriptions="tile1 tile2 tile3"), "R=1,G=2,B=3"),
        (profile("gray undefined", descriptions="VV VH"), "VV=1,VH=2"),
        (profile("gray"), "gray=1"),
        (profile("gray alpha"), "gray=1,alpha=2"),
        (profile("gray undefined undefined", descriptions="Red Green Alpha"), "R=1,G=2,alpha=3"),
        (
            profile("gray " + "undefined " * 7, descriptions="coastal_blue blue green_i green yellow red rededge nir"),
            "R=6,G=4,B=2,N=8,coastal_blue=1,green_i=3,yellow=5,rededge=7",
        ),
    ],
)  # fmt: skip
def test_declared_bands_are_taken(source, expected):
    assert str(infer_bands(source)) == expected


@pytest.mark.parametrize(
    "source",
    [
        profile("gray undefined undefined undefined"),
        profile("gray undefined undefined"),
        profile("red green blue undefined"),
        profile("blue green red undefined", dtype="uint16"),
        profile("blue green red undefined alpha"),
        profile("undefined"),
        profile("palette"),
        profile("alpha"),
        profile("red red blue"),
        profile("gray undefined", descriptions="red red"),
        profile("red green blue alpha alpha"),
        profile("red green blue undefined", descriptions="- - - cloud_mask"),
    ],
)
def test_bands_in_doubt_are_asked_for(source):
    with pytest.raises(InputError, match=r"a\.tif: which band is which is not clear .*found .*colour.*--bands"):
        infer_bands(source)


def test_no_count_of_undescribed_bands_decides():
    for count, dtype in itertools.product(range(2, 10), ("uint8", "uint16", "float32")):
        with pytest.raises(InputError, match="not clear"):
            infer_bands(profile("gray " + "undefined " * (count - 1), dtype=dtype))


@pytest.mark.parametrize("interps", ["red green blue alpha", "alpha red green blue"])
def test_alpha_is_never_a_feature(interps):
    with pytest.raises(InputError, match=r"declares it as alpha .*-colorinterp_\d undefined"):
        check_bands(parse_bands("rgbn"), profile(interps))


def test_a_file_s_alpha_serves_though_the_map_leaves_it_out():
    assert check_bands(parse_bands("rgb"), profile("red green blue alpha")).alpha == 4
    assert check_bands(parse_bands("rgb"), profile("red green blue undefined")).alpha is None
    assert check_bands(BandMap((("R", 1),), 2), profile("red undefined alpha")).alpha == 2


@pytest.mark.parametrize("text", ["nicfi", "R=5", "R=1,alpha=5"])
def test_maps_that_need_more_bands_are_refused(text):
    with pytest.raises(InputError, match=r"a\.tif: the band map .* needs 5 bands, the file has 4"):
        check_bands(parse_bands(text), profile("gray undefined undefined undefined"))
