"""The promises of a finished photo: tone and colour."""

import cv2
import numpy as np
import pytest
from conftest import expose, scene

import finish
import fusion
import utils
from opts import BETWEEN
from portable import OnnxBetween


@pytest.fixture(scope="module")
def network():
    return OnnxBetween(BETWEEN)


def photo(network, images, **options):
    return fusion.fuse(network, images, fusion.Options(look="photo", **options))


def exposures(height=120, width=160, seed=5, gains=(0.3, 8.0)):
    radiance = scene(height, width, seed)
    return [expose(radiance, gain) for gain in gains]


def complete(gains=(0.25, 0.6, 1.4, 3.4, 8.0), seed=5):
    """Returns a stack with all its exposures, (5, 3, h, w)."""
    return utils.to_ycbcr(*exposures(seed=seed, gains=gains))


def ramps(values):
    """Returns five exposures' luma of a ramp of light, (5, h, w)."""
    light = np.broadcast_to(np.asarray(values, np.float32), (60, len(values)))
    return np.stack([(light * 4.0**k).clip(0, 1) ** np.float32(1 / 2.2) for k in range(-2, 3)])


def test_the_scenes_tone_rises_with_the_light():
    for darkest in (0.0, 0.02, 0.2):
        tone = finish.scene_tone(ramps(np.linspace(darkest, 1, 300)))
        assert np.diff(tone).min() > -1e-6
        assert 0 <= tone.min() <= tone.max() <= 1


@pytest.mark.parametrize("level", [0, 1])
def test_what_all_exposures_show_as_black_or_white_stays_so(network, level):
    """The sky of an overcast day is white in all, and the rest has no reason to be darker."""
    images = exposures(300, 400)
    for image in images:
        image[:150] = 255 * level
    fused = photo(network, images)[:120] / 255
    assert np.abs(fused - level).max() < 0.01


def test_black_and_white_and_grey_pictures(network):
    for level in (0, 128, 255):
        images = [np.full((50, 60, 3), level, np.uint8)] * 2
        result = photo(network, images).astype(int)
        assert np.ptp(result) <= 1
        assert abs(result[0, 0, 0] - level) <= (25 if level == 128 else 1)
    grey = [image[..., 1] for image in exposures()]
    result = photo(network, grey)
    assert result.shape == grey[0].shape
    # Equal channels remain equal, and as bright.
    in_colour = photo(network, [cv2.merge([image] * 3) for image in grey])
    assert np.ptp(in_colour, axis=2).max() == 0
    assert np.abs(in_colour[..., 0].astype(int) - result).max() <= 1


@pytest.mark.parametrize("brightest", [0.1, 0.25, 0.5, 0.8])
def test_night_stays_night(brightest):
    """The darker the brightest exposure, the darker is the photo, and never brighter by day."""
    lumas = np.stack([np.full((40, 60), brightest * k / 4, np.float32) for k in range(5)])
    lumas[:, :, :2] = 1  # lamps, clipped in all
    mean = finish.scene_tone(lumas)[:, 5:].mean()
    assert mean < finish.NATURAL_MEAN + 0.03
    if brightest <= 0.25:
        assert mean < 0.32


def test_a_bracket_that_ended_too_early_is_brightened():
    """Its brightest exposure is dark; the photo is nearly as bright as any, and no brighter."""
    whole = complete()[:, 0]
    early = whole * np.float32(0.4)
    bright, dark = (finish.scene_tone(lumas).mean() for lumas in (whole, early))
    assert finish.plain_tone(early).mean() < 0.25
    assert bright - 0.12 < dark < bright


def test_the_amount_scales_the_finish(network):
    images = [utils.as_type(image, np.float32) for image in exposures()]
    none, half, whole = (photo(network, images, finish=x) for x in (0.0, 0.5, 1.0))
    middle = (none + whole) / 2
    inside = ((whole > 0.02) & (whole < 0.98) & (none > 0.02) & (none < 0.98)).all(axis=2)
    assert inside.mean() > 0.5
    assert np.abs(half - middle)[inside].mean() < 0.01
    assert np.abs(whole - none).mean() > 0.02


def test_an_empty_exposure_counts_nothing(network):
    """A white or a black frame, or one with a few pixels that are neither."""
    images = exposures(gains=(0.3, 1.5, 8.0))
    expected = photo(network, images)
    white = np.full_like(images[0], 255)
    nearly = white.copy()
    nearly[:4, :10] = 128
    for empty in (white, np.zeros_like(white), nearly):
        assert np.array_equal(photo(network, [empty, *images]), expected)
    assert photo(network, [white, white]).min() == 255
    assert photo(network, [images[1], white]).std() > 30


def test_the_number_of_exposures_changes_neither_colour_nor_tone(network):
    """Of a scene of soft shapes, as photos are when they are reduced."""
    radiance = cv2.resize(
        scene(40, 50, 5).astype(np.float32), (300, 240), interpolation=cv2.INTER_LINEAR
    )
    three = [expose(radiance, gain) for gain in (0.25, 1.4, 8.0)]
    nine = [expose(radiance, gain) for gain in 0.25 * 2 ** np.linspace(0, 5, 9)]
    one, other = (
        cv2.cvtColor(np.float32(photo(network, images)) / 255, cv2.COLOR_RGB2LAB)
        for images in (three, nine)
    )
    assert abs(one[..., 0].mean() - other[..., 0].mean()) < 1
    chroma = [np.hypot(*np.moveaxis(lab[..., 1:], -1, 0)).mean() for lab in (one, other)]
    assert chroma[1] / chroma[0] == pytest.approx(1, abs=0.08)


def test_no_pixel_has_much_more_chroma_than_the_exposures_show(network):
    images = exposures(gains=0.25 * 2 ** np.linspace(0, 5, 9))
    labs = [cv2.cvtColor(np.float32(x) / 255, cv2.COLOR_RGB2LAB) for x in images]
    shown = np.max([np.hypot(lab[..., 1], lab[..., 2]) for lab in labs], axis=0)
    lab = cv2.cvtColor(np.float32(photo(network, images)) / 255, cv2.COLOR_RGB2LAB)
    assert (np.hypot(lab[..., 1], lab[..., 2]) > shown + 8).mean() < 0.01


def test_chroma_is_that_of_the_exposure_with_the_asked_luma():
    stack = complete()
    for k in range(5):
        found = finish.chroma_at(stack, stack[k, 0])
        # Where neighbours are equally dark or bright, the exposure is not determined.
        known = np.abs(np.diff(stack[:, 0], axis=0)).min(axis=0) > 0.01
        assert known.mean() > 0.2
        error = np.abs(found - (stack[k, 1:] - 0.5))[:, known]
        assert error.max() < 1e-3
    between = (stack[1] + stack[2]) / 2
    error = np.abs(finish.chroma_at(stack, between[0]) - (between[1:] - 0.5))
    assert error[:, known].max() < 1e-3


def test_chroma_beyond_the_exposures_is_theirs():
    stack = complete()
    for k, asked in ((0, -1.0), (-1, 2.0)):
        found = finish.chroma_at(stack, np.full(stack.shape[2:], asked, np.float32))
        np.testing.assert_allclose(found, stack[k, 1:] - 0.5, atol=1e-5)


def test_texture_of_small_bright_areas_is_kept(network):
    """A sign is clipped in all exposures but the darkest, which shows its stripes."""
    images = exposures(200, 300, gains=(0.3, 1.5, 8.0))
    stripes = np.where(np.arange(60) // 6 % 2, 225, 150).astype(np.uint8)
    images[0][70:110, 120:180] = stripes[None, :, None]
    for image in images[1:]:
        image[70:110, 120:180] = 255
    sign = photo(network, images)[72:108, 122:178]
    lightness = cv2.cvtColor(np.float32(sign) / 255, cv2.COLOR_RGB2LAB)[..., 0]
    assert lightness.std() > 3


def test_tiles_of_a_photo_have_no_seams(network, monkeypatch):
    images = [image.astype(np.uint16) * 257 for image in exposures(190, 231)]
    whole = photo(network, images).astype(int)
    monkeypatch.setattr(fusion, "PLAIN_TILE", 50)
    assert np.abs(photo(network, images) - whole).max() <= 4  # of 65535


def test_the_number_of_threads_changes_nothing(network):
    images = exposures(190, 231)
    threads = cv2.getNumThreads()
    expected = photo(network, images)
    try:
        cv2.setNumThreads(1)
        assert np.array_equal(photo(network, images), expected)
    finally:
        cv2.setNumThreads(threads)


def test_a_large_picture_is_made_like_a_small_one(network, monkeypatch):
    """Above SMALL pixels, all is found on reduced pictures."""
    monkeypatch.setattr(fusion, "SMALL", 160)
    small = exposures()
    large = [cv2.resize(image, None, fx=3, fy=3, interpolation=cv2.INTER_CUBIC) for image in small]
    expected = photo(network, small).astype(float)
    result = photo(network, large)
    assert result.shape == large[0].shape
    result = cv2.resize(result, None, fx=1 / 3, fy=1 / 3, interpolation=cv2.INTER_AREA)
    assert np.abs(result - expected).mean() < 4  # of 255
    assert np.abs(photo(network, small, finish=0.0) - expected).mean() > 8


def test_a_photo_of_16_bits_has_more_levels_than_one_of_8(network):
    images = [utils.quantise(image / np.float32(255), np.uint16) for image in exposures()]
    images = [cv2.GaussianBlur(image, (0, 0), 3) for image in images]
    result = photo(network, images)
    assert result.dtype == np.uint16
    assert len(np.unique(result)) > 2000


def test_colours_out_of_range_keep_their_hue_and_luma():
    colours = [[0.9, 0.3, 0.6], [0.1, 0.7, 0.4], [0.5, 0.52, 0.95], [0.5, 0.55, 0.45]]
    ycbcr = np.array(colours, np.float32).T.reshape(1, 3, 1, 4)
    fitted = utils.to_ycbcr(utils.from_ycbcr(ycbcr, np.float32, keep_hue=True))
    np.testing.assert_allclose(fitted[:, :1], ycbcr[:, :1], atol=1e-5)
    share = (fitted - 0.5)[:, 1:] / (ycbcr - 0.5)[:, 1:]
    np.testing.assert_allclose(share[:, 0], share[:, 1], atol=1e-4)
    assert (share[..., :3] < 0.95).all()
    assert share[..., 3].min() == pytest.approx(1, abs=1e-4)


def test_the_order_of_a_stack_does_not_matter(network):
    images = exposures(gains=(0.2, 0.6, 2.0, 6.0))
    result = photo(network, images).astype(int)
    assert result.shape == images[0].shape
    # Sums are rounded in another order.
    assert np.abs(photo(network, images[::-1]) - result).max() <= 1


def test_steady_follows_a_trend_without_delay_and_leaves_noise_out():
    steady = finish.Steady()
    ramp = np.linspace(0.3, 0.7, 120)
    values = [steady.smoothed(value[None]).item() for value in ramp]
    np.testing.assert_allclose(values[80:], ramp[80:], atol=0.003)
    noise = 0.02 * np.random.default_rng(0).standard_normal(300)
    steady = finish.Steady()
    smoothed = np.array([steady.smoothed(0.5 + value[None]).item() for value in noise])
    assert np.diff(smoothed).std() < np.diff(noise).std() / 4
    assert smoothed[50:].std() < noise.std() / 2


def test_steady_starts_anew_with_another_scene():
    steady = finish.Steady()
    for value in (0.3, 0.31, 0.32):
        steady.smoothed(np.array([value, 0.5]))
    for values in ([0.6, 0.5], [0.6, 0.9], [0.3, 0.4, 0.5]):
        assert steady.smoothed(np.array(values)).tolist() == pytest.approx(values)


def test_a_sequence_does_not_flicker(network):
    """Exposures are off by a fifth; lightness then changes from picture to picture."""
    factors = 1 + 0.2 * np.random.default_rng(0).standard_normal((20, 2))
    sequence = [exposures(gains=(0.1 * under, 3 * over)) for under, over in factors]

    def change(steady):
        pictures = [photo(network, images, steady=steady) for images in sequence]
        return np.abs(np.diff([picture.mean() for picture in pictures])).mean()

    assert change(finish.Steady()) < 0.6 * change(None)
