"""The promises of a finished photo: tone and colour."""

import cv2
import numpy as np
import pytest
import torch
from conftest import expose, luma, scene

import finish
import fusion
import tiles
import utils
from checkpoint import load_colour, load_model
from finish import apply_tone, fit_tone, scene_tone
from model import ColourNetwork, prepare
from opts import COLOUR, PYRAMID


@pytest.fixture(scope="module")
def pyramid():
    return prepare(load_model(PYRAMID), "float32")


@pytest.fixture(scope="module")
def colour():
    return prepare(load_colour(COLOUR), "float32")


def photo(pyramid, colour, images, **options):
    return fusion.fuse(pyramid, images, look="photo", colour=colour, **options)


def exposures(height=120, width=160, seed=5, gains=(0.3, 8.0)):
    radiance = scene(height, width, seed)
    return [expose(radiance, gain) for gain in gains]


def lumas(images):
    return utils.to_luma(*images)


def mean(stack):
    """Returns the exposures' mean, (1, 1, h, w)."""
    return stack.mean(axis=0, keepdims=True)


def finished(y_f, stack, amount=1.0):
    tone = fit_tone(y_f, stack, amount)
    return apply_tone(tone, y_f, stack, tone.planes)


def flat(level):
    """Returns luma of one value."""
    return np.full((1, 1, 64, 64), level, np.float32)


def test_the_scenes_tone_rises_with_every_exposure():
    stack = luma(3, 1, 40, 40).numpy()
    tone = fit_tone(mean(stack), stack)
    assert tone.weights.min() > 0
    for k in range(3):
        others = np.full((3, 1, 1, 256), 0.4, np.float32)
        others[k] = np.linspace(0, 1, 256)
        assert (np.diff(scene_tone(others, tone.weights)) > 0).all()


@pytest.mark.parametrize("gains", [(0.3, 8.0), (0.5, 2.0), (0.2, 1.0, 4.0)])
def test_what_gets_brighter_in_all_exposures_gets_no_darker(pyramid, gains):
    """A ramp of radiance, over which fused luma rises as well."""
    ramp = np.linspace(0, 1, 300, dtype=np.float32)[None].repeat(60, axis=0)
    stack = lumas([utils.quantise((ramp * gain) ** (1 / 2.2), np.float32) for gain in gains])
    y = finished(mean(stack), stack)
    assert np.diff(y).min() > -1e-4


def test_nothing_that_an_exposure_shows_is_black_or_white():
    """Even where the luma that is finished is."""
    stack = lumas(exposures())
    for level in (0.0, 1.0):
        y = finished(np.full_like(stack[:1], level), stack)
        if level:
            assert y[stack.min(axis=0, keepdims=True) < 0.7].max() < 249.5 / 255
        else:
            assert y[stack.max(axis=0, keepdims=True) > 0.3].min() > 5.5 / 255


def test_black_and_white_and_grey_pictures(pyramid, colour):
    for level in (0, 128, 255):
        images = [np.full((50, 60, 3), level, np.uint8)] * 2
        result = photo(pyramid, colour, images).astype(int)
        assert np.ptp(result) == 0
        assert abs(result[0, 0, 0] - level) <= (15 if level == 128 else 0)
    grey = [image[..., 1] for image in exposures()]
    result = photo(pyramid, colour, grey)
    assert result.shape == grey[0].shape
    # Equal channels remain equal, and as bright as without colour.
    in_colour = photo(pyramid, colour, [cv2.merge([image] * 3) for image in grey])
    assert np.ptp(in_colour, axis=2).max() == 0
    assert np.abs(in_colour[..., 0].astype(int) - result).max() <= 1


def test_a_photo_of_much_contrast_stays_and_a_flat_one_gains():
    """Two frames of nearly the same exposure, of a standard deviation of 0.23, and of 0.06."""
    waves = np.sin(np.linspace(0, 6 * np.pi, 120))[:, None] * np.cos(np.linspace(0, 9, 120))
    for contrast, lowest, highest in ((0.46, 0.88, 1.1), (0.12, 1.1, 1.6)):
        y = (0.5 + contrast * waves).astype(np.float32)[None, None]
        stack = np.concatenate([y, 0.95 * y])
        factor = finished(y, stack).std() / y.std()
        assert lowest < factor < highest


def test_what_all_exposures_show_as_black_or_white_stays_so():
    """The sky of an overcast day is white in all, and the rest has no reason to be darker."""
    stack = lumas(exposures())
    stack[..., :40, :], stack[..., -20:, :] = 1, 0
    y_f = mean(stack)
    y = finished(y_f, stack)
    assert (y[..., :40, :] > 254.5 / 255).all()
    assert (y[..., -20:, :] < 0.5 / 255).all()


@pytest.mark.parametrize("level", [0.1, 0.3, 0.5, 0.9])
def test_night_stays_night(level):
    noise = 0.1 * luma(1, 60, 60).numpy()
    stack = np.stack([level * 0.8 + noise, level + noise])
    y_f = mean(stack)
    shift = finished(y_f, stack).mean() - y_f.mean()
    assert abs(shift) < finish.LARGEST_SHIFT + 0.02


def test_frames_of_a_time_lapse_have_nearly_the_same_tone():
    """A step of exposure by a fiftieth and noise of a grey level move it by less than a level."""
    radiance = scene(120, 160, seed=6)
    frames = []
    for gain, seed in ((1.0, 1), (1.02, 2)):
        rng = np.random.default_rng(seed)
        images = [expose(radiance, gain * exposure) for exposure in (0.3, 8.0)]
        noisy = [image + rng.normal(0, 1, image.shape) for image in images]
        stack = lumas([utils.quantise(image / 255, np.float32) for image in noisy])
        frames.append((stack, fit_tone(mean(stack), stack)))
    (stack, one), (_, other) = frames
    y_f = mean(stack)
    ours, theirs = (apply_tone(tone, y_f, stack, tone.planes) for tone in (one, other))
    assert np.abs(ours - theirs).mean() < 1 / 255
    assert np.abs(ours - theirs).max() < 3 / 255


def test_the_amount_scales_the_finish(pyramid, colour):
    images = [utils.as_type(image, np.float32) for image in exposures()]
    none, half, whole = (
        photo(pyramid, colour, images, finish=x, refine=0, fast=False) for x in (0.0, 0.5, 1.0)
    )
    fused = fusion.fuse(pyramid, images)
    # Only what leaves the range is treated differently.
    inside = ((fused > 0) & (fused < 1)).all(axis=2)
    assert np.abs(none - fused)[inside].max() < 1e-5
    middle = (none + whole) / 2
    inside &= ((whole > 0.01) & (whole < 0.99) & (none > 0.01) & (none < 0.99)).all(axis=2)
    assert inside.mean() > 0.5
    assert np.abs(half - middle)[inside].max() < 0.02
    assert np.abs(whole - none).mean() > 0.02


@pytest.mark.parametrize("fast", [False, True])
def test_tiles_of_a_photo_have_no_seams(pyramid, colour, fast, monkeypatch):
    images = [image.astype(np.uint16) * 257 for image in exposures(190, 231)]
    whole = photo(pyramid, colour, images, refine=0, fast=fast).astype(int)
    monkeypatch.setattr(fusion, "PLAIN_TILE", 50)
    monkeypatch.setattr(tiles, "NETWORK_TILES", {4: 40})
    parts = photo(pyramid, colour, images, refine=0, fast=fast, tile=40)
    assert np.abs(parts - whole).max() <= 4  # of 65535


@pytest.mark.parametrize("fast", [False, True])
def test_a_large_picture_is_finished_like_a_small_one(pyramid, colour, fast, monkeypatch):
    """Above REDUCED pixels, tone and colour come from reduced pictures."""
    monkeypatch.setattr(fusion, "REDUCED", 160)
    small = exposures()
    large = [cv2.resize(image, None, fx=3, fy=3, interpolation=cv2.INTER_CUBIC) for image in small]
    expected = photo(pyramid, colour, small, refine=0).astype(float)
    result = photo(pyramid, colour, large, refine=0, fast=fast)
    assert result.shape == large[0].shape
    result = cv2.resize(result, None, fx=1 / 3, fy=1 / 3, interpolation=cv2.INTER_AREA)
    assert np.abs(result - expected).mean() < 4  # of 255; fused luma itself differs
    unfinished = photo(pyramid, colour, small, refine=0, finish=0.0)
    assert np.abs(unfinished - expected).mean() > 8


def test_a_photo_of_16_bits_has_more_levels_than_one_of_8(pyramid, colour):
    images = [utils.quantise(image / np.float32(255), np.uint16) for image in exposures()]
    images = [cv2.GaussianBlur(image, (0, 0), 3) for image in images]
    result = photo(pyramid, colour, images)
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


def test_taught_chroma_is_the_networks_answer(colour):
    """But for what is nearly black, and what the darkest exposure shows brighter than asked for.

    The colours are pale enough to fit their luma.
    """
    stack = utils.to_ycbcr(*exposures())
    stack[:, 0] = 0.15 + 0.3 * stack[:, 0]
    stack[:, 1:] = 0.5 + 0.4 * (stack[:, 1:] - 0.5)
    y = mean(stack[:, :1])
    planes = finish.colour_factors(colour, stack, y)
    middle, slope = finish.ASKED
    asked = middle + slope * (y - 0.5)
    with torch.no_grad():
        expected = colour(torch.from_numpy(stack[None]), torch.from_numpy(asked))[0]
    taught = finish.taught_chroma(stack[:, 1:], planes)
    np.testing.assert_allclose(taught, expected, atol=1e-3)


def test_noise_of_what_is_nearly_black_gives_no_colour(colour):
    """A white wall, black but for noise of colour in the darker exposure, remains grey."""
    dark = np.full((64, 64, 3), (3, 2, 1), np.uint8)
    bright = np.full((64, 64, 3), 250, np.uint8)
    stack = utils.to_ycbcr(dark, bright)
    planes = finish.colour_factors(colour, stack, flat(0.6))
    assert np.abs(finish.taught_chroma(stack[:, 1:], planes) - 0.5).max() < 1.5 / 255


def test_a_lamp_keeps_its_colour(colour):
    """It is yellow in the darker exposure, and clipped to white in the brighter one."""
    lamp, white = (np.full((64, 64, 3), rgb, np.uint8) for rgb in ((255, 235, 150), (255,) * 3))
    stack = utils.to_ycbcr(lamp, white)
    planes = finish.colour_factors(colour, stack, flat(0.95))
    kept = (finish.taught_chroma(stack[:, 1:], planes) - 0.5)[0] / (stack[0, 1] - 0.5)
    assert kept.min() > 0.45  # 0.33 where the network is asked for less than the lamp has
    assert kept.max() < 1.2


def test_a_golden_sky_remains_golden(colour):
    """Its colour at mid-grey is a deep orange, which, as bright as the sky, would be pink."""
    sky = [np.full((64, 64, 3), rgb, np.uint8) for rgb in ((109, 32, 10), (247, 169, 71), 255)]
    stack = utils.to_ycbcr(*sky)
    y = flat(0.75)
    middle, slope = finish.ASKED
    asked = finish.factors_for_luma(colour, stack, middle + slope * (y - 0.5))
    found = finish.colour_factors(colour, stack, y)
    pink, golden = (
        utils.from_ycbcr(
            np.concatenate([y, finish.taught_chroma(stack[:, 1:], planes)[None]], axis=1),
            np.float32,
            keep_hue=True,
        ).mean(axis=(0, 1))
        for planes in (asked, found)
    )
    _, green, blue = sky[1][0, 0] / 255.0
    assert golden[1] == pytest.approx(green, abs=0.05)
    assert abs(golden[2] - blue) < 0.7 * abs(pink[2] - blue)


def test_few_colours_that_do_not_fit_are_left(colour):
    """Where hardly any pixel is outside, the network is not asked again."""
    stack = utils.to_ycbcr(*exposures())
    stack[:, 1:] = 0.5 + 0.4 * (stack[:, 1:] - 0.5)
    y = mean(stack[:, :1])
    y[..., 0, 0] = 1
    middle, slope = finish.ASKED
    asked = finish.factors_for_luma(colour, stack, middle + slope * (y - 0.5))
    assert np.array_equal(finish.colour_factors(colour, stack, y), asked)
    offset = finish.rgb_offset(finish.taught_chroma(stack[:, 1:], asked))
    assert 0 < (y[0] + offset > 1).any(axis=0).sum() < 9


def test_smoothing_calms_noise_and_keeps_edges_of_luma():
    """Chroma that changes where luma does keeps its step; noise without luma loses half."""
    y = np.full((1, 1, 40, 40), 0.3, np.float32)
    y[..., 20:] = 0.7
    cbcr = np.where(y[0] > 0.5, np.float32(0.6), np.float32(0.45))
    noise = 0.02 * (luma(2, 40, 40).numpy() - 0.5)
    smooth = finish.smooth_chroma(cbcr + noise, y) - cbcr
    assert np.abs(smooth[:, :, 18:22]).max() < 0.01
    assert smooth.std() < 0.5 * noise.std()


def test_the_repositorys_network_gives_clipped_colour_back(colour):
    """Orange rock, white in the brighter exposure, has more of the middle one's chroma."""
    radiance = np.full((40, 40, 3), (0.5, 0.25, 0.1), np.float32)
    dark, middle, bright = (utils.to_ycbcr(expose(radiance, gain)) for gain in (0.3, 1.0, 12.0))
    with torch.no_grad():
        stack = torch.from_numpy(np.stack([dark, bright], axis=1))
        taught = colour(stack, torch.from_numpy(middle[:, :1])).numpy()
    paper = fusion.fuse_chroma(np.stack([dark[0, 1:], bright[0, 1:]]))
    error, paper_error = (np.abs(cbcr - middle[:, 1:]).mean() for cbcr in (taught, paper))
    assert error < 0.6 * paper_error


def test_the_order_of_a_stack_does_not_matter(pyramid, colour):
    images = exposures(gains=(0.2, 0.6, 2.0, 6.0))
    result = photo(pyramid, colour, images).astype(int)
    assert result.shape == images[0].shape
    reversed_result = photo(pyramid, colour, images[::-1])
    assert np.abs(reversed_result - result).max() <= 1  # Sums are rounded in another order.


def test_an_untrained_colour_network_gives_the_mean():
    network = ColourNetwork()
    stack = luma(1, 3, 3, 20, 20)
    with torch.no_grad():
        cbcr = network(stack, luma(1, 1, 20, 20, seed=1))
    torch.testing.assert_close(cbcr, stack[:, :, 1:].mean(dim=1))


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


def test_a_sequence_does_not_flicker(pyramid, colour):
    """Exposures are off by a fifth; lightness then changes from picture to picture."""
    factors = 1 + 0.2 * np.random.default_rng(0).standard_normal((20, 2))
    sequence = [exposures(gains=(0.3 * under, 8 * over)) for under, over in factors]

    def change(steady):
        pictures = [photo(pyramid, colour, images, steady=steady) for images in sequence]
        return np.abs(np.diff([picture.mean() for picture in pictures])).mean()

    assert change(finish.Steady()) < change(None) / 2
