import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ktex_model.signature import SIGNATURE_VERSION, signature_features, signature_length


def _image(shape=(32, 40), bands=4, seed=0):
    return np.random.default_rng(seed).uniform(0.1, 0.9, (*shape, bands)).astype(np.float32)


@pytest.mark.parametrize("bands", [1, 2, 3, 4, 5, 8])
def test_length_is_what_is_measured_and_short(bands):
    features, valid = signature_features(_image(bands=bands), np.ones((32, 40), dtype=bool))
    assert features.shape == (8, 10, signature_length(bands))
    assert features.dtype == np.float32
    assert valid.all()
    assert signature_length(bands) <= 24


def test_band_means_and_energies_have_the_values_of_a_hand_made_image():
    # Columns 0.2, 0.6, 0.2, ...: mean 0.4, and within 2 px a variance of 0.04; nothing at coarser scales.
    stripes = np.tile([0.2, 0.6], (16, 8))[..., None].astype(np.float32)
    features, _ = signature_features(stripes, np.ones((16, 16), dtype=bool))
    mean, fine, middle, coarse, across, *others = features[1, 1]
    assert mean == pytest.approx(np.log(0.41), abs=1e-5)
    assert fine == pytest.approx(np.log(0.04), abs=1e-3)
    assert middle == pytest.approx(np.log(1e-6), abs=0.1)
    assert coarse == pytest.approx(np.log(1e-6), abs=0.1)
    # All differences are between columns: 0.16 over a floor of 1e-6.
    assert across == pytest.approx(np.log(0.16 / 1e-6), abs=0.01)
    # Pairs of columns have one mean, and both diagonals cross one column.
    np.testing.assert_allclose(others, 0, atol=1e-4)


def test_features_of_this_version_stay_what_they_are():
    """Who changes features has to raise the version, and then these numbers."""
    features, _ = signature_features(_image((16, 16), 2), np.ones((16, 16), dtype=bool))
    assert SIGNATURE_VERSION == 2
    level = [-0.8040, -0.4335, -2.9967, -4.9912, -6.3322, -3.1110, -4.6997, -5.3164]
    expected = [*level, -0.1108, -0.2955, 0.0603, -0.1186]
    np.testing.assert_allclose(features[1, 2], expected, atol=2e-4)


def test_turning_the_image_turns_orientation_only():
    image = _image()
    valid = np.ones(image.shape[:2], dtype=bool)
    straight, _ = signature_features(image, valid)
    turned, _ = signature_features(image.transpose(1, 0, 2), valid.T)
    turned = turned.transpose(1, 0, 2)
    np.testing.assert_allclose(turned[..., :-4], straight[..., :-4], atol=1e-4)
    np.testing.assert_allclose(turned[..., -4:-2], -straight[..., -4:-2], atol=1e-4)
    np.testing.assert_allclose(turned[..., -2:], straight[..., -2:], atol=1e-4)


@pytest.mark.parametrize("wave_px", [3, 6])
def test_a_texture_that_rises_and_its_mirror_image_differ_in_the_diagonals_alone(wave_px):
    y, x = np.indices((64, 64))
    noise = np.random.default_rng(3).normal(0, 0.02, (64, 64))
    rising = (0.5 + 0.2 * np.sin(2 * np.pi * (x + y) / (wave_px * np.sqrt(2))) + noise)[..., None].astype(np.float32)
    valid = np.ones((64, 64), dtype=bool)
    rises, falls = (np.median(signature_features(i, valid)[0], axis=(0, 1)) for i in (rising, rising[:, ::-1]))
    np.testing.assert_allclose(falls[:-2], rises[:-2], atol=0.1)
    np.testing.assert_allclose(falls[-2:], -rises[-2:], atol=0.1)
    # Steps along its waves are small, those across them large.
    assert rises[-2] > 2


def test_scales_are_told_apart():
    rng = np.random.default_rng(1)
    ones = np.ones((64, 64), dtype=bool)
    fine = rng.uniform(0.3, 0.7, (64, 64, 1)).astype(np.float32)
    wide = np.repeat(np.repeat(rng.uniform(0.3, 0.7, (16, 16, 1)), 4, 0), 4, 1).astype(np.float32)
    of_fine, of_wide = (np.median(signature_features(i, ones)[0], axis=(0, 1)) for i in (fine, wide))
    assert of_fine[1] > of_wide[1] + 3
    assert of_wide[3] > of_fine[3] + 1


@settings(deadline=None, max_examples=15)
@given(seed=st.integers(0, 1000), bands=st.sampled_from([1, 4, 6]))
def test_invalid_pixels_count_for_nothing(seed, bands):
    rng = np.random.default_rng(seed)
    image = _image((23, 29), bands, seed)
    valid = rng.random((23, 29)) < 0.7
    other = np.where(valid[..., None], image, rng.choice([np.nan, 9.0, -1.0])).astype(np.float32)
    for one, two in zip(signature_features(image, valid), signature_features(other, valid), strict=True):
        np.testing.assert_array_equal(one, two)


def test_features_depend_on_the_pixels_around_only():
    # Whatever lies two cells away changes nothing, so that equal pixels have equal features in any window.
    whole = _image((48, 48))
    part = whole[8:40, 12:44]
    ones = np.ones((48, 48), dtype=bool)
    full, _ = signature_features(whole, ones)
    cut, _ = signature_features(part, ones[8:40, 12:44])
    np.testing.assert_allclose(full[2:10, 3:11][2:-2, 2:-2], cut[2:-2, 2:-2], atol=1e-4)


def test_cells_are_valid_from_half_on_and_zero_where_not():
    valid = np.zeros((8, 8), dtype=bool)
    valid[:2, :4] = True
    valid[:4, 4:5] = True
    features, cells = signature_features(_image((8, 8)), valid)
    assert cells.tolist() == [[True, False], [False, False]]
    assert not features[~cells].any()
    assert features[0, 0].any()


def test_what_does_not_fit_is_refused():
    with pytest.raises(ValueError, match=r"`image` must be \(y, x, band\)"):
        signature_features(np.zeros((8, 8, 1), np.float32), np.ones((8, 9), bool))
    with pytest.raises(ValueError, match="`stride` must be a multiple of 4; got 6"):
        signature_features(np.zeros((8, 8, 1), np.float32), np.ones((8, 8), bool), stride=6)
    with pytest.raises(ValueError, match="`bands` must be at least 1; got 0"):
        signature_length(0)
