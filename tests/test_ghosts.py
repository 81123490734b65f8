"""Movement between exposures, on scenes in which something is known to move."""

import cv2
import numpy as np
import pytest
from conftest import SIZE, blocks, expose, moving, see

import ghosts
import utils


@pytest.fixture(scope="module")
def radiance():
    return blocks(SIZE[0] + 200, SIZE[1] + 200, seed=0)


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.float32])
def test_what_moved_is_replaced(radiance, dtype):
    images, truth, mask = moving(radiance, dtype)
    result, shares = ghosts.deghost(images)
    assert result[1] is images[1]
    assert result[0] is images[0]
    assert shares[:2] == [0, 0]
    assert mask.mean() / 2 < shares[2] < mask.mean() * 3

    def residual(picture):
        return np.abs(picture[mask].astype(float) - truth[mask]).mean()

    assert residual(result[2]) < 0.1 * residual(images[2])
    assert result[2].dtype == dtype


@pytest.mark.parametrize("deep", [1, 2])
def test_what_moved_is_replaced_in_exposures_of_different_depth(radiance, deep):
    images, truth, mask = moving(radiance)
    images[deep] = images[deep].astype(np.uint16) * 257
    result = ghosts.deghost(images)[0][2]
    assert result.dtype == images[2].dtype
    assert np.abs(utils.to_8_bit(result)[mask].astype(float) - truth[mask]).mean() < 8


def test_grey_pictures_and_the_wanted_reference(radiance):
    images, _, mask = moving(radiance)
    images = [image[..., 1] for image in images]
    result, shares = ghosts.deghost(images, reference=2)
    assert shares[2] == 0
    assert min(shares[:2]) > mask.mean() / 2  # the object is shown in all
    assert result[0].shape == images[0].shape


def test_static_exposures_are_returned_as_they_are(radiance):
    view = see(radiance, np.eye(3))
    noise = np.random.default_rng(0).normal(0, 2, (3, *view.shape))
    images = [
        np.clip(expose(view, gain) + grain, 0, 255).astype(np.uint8)
        for gain, grain in zip((0.2, 1, 5), noise, strict=True)
    ]
    result, shares = ghosts.deghost(images)
    assert shares == [0, 0, 0]
    for image, before in zip(result, images, strict=True):
        assert image is before


def test_level_map_finds_the_function_between_exposures():
    rng = np.random.default_rng(0)
    light = rng.uniform(0, 1, 200_000)
    reference = utils.quantise(light * 1.5, np.uint8)  # the brightest third is clipped
    other = utils.quantise(light**2, np.uint8)
    lowest, highest, mean = ghosts.level_map(reference, other)
    levels = np.arange(20, 250)
    expected = (levels / 255 / 1.5) ** 2 * 255
    assert np.abs(mean[levels] - expected).max() < 1.5
    assert (lowest[levels] <= expected + 1).all()
    assert (highest[levels] >= expected - 1).all()
    assert lowest[255] < 255 * (2 / 3) ** 2 + 1
    assert highest[255] == 255
    assert mean[255] == pytest.approx(255 * np.mean(np.linspace(2 / 3, 1, 1000) ** 2), abs=1.5)


@pytest.mark.parametrize("odd", [0, 1, 2])
def test_the_reference_shows_what_most_exposures_show(radiance, odd):
    """An object in one exposure alone is not shown, even in the middle one."""
    gains = (0.5, 1, 2)
    view = see(radiance, np.eye(3))
    images = [expose(view, gain) for gain in gains]
    truth = images[odd].copy()
    images[odd][100:160, 120:200] = expose(view[100:160, 220:300][::-1] + 0.3, gains[odd])
    reference = ghosts.best_reference(images)
    assert reference != odd
    result, shares = ghosts.deghost(images)
    assert [share > 0 for share in shares] == [k == odd for k in range(3)]
    before, after = (
        np.abs(x[100:160, 120:200].astype(float) - truth[100:160, 120:200]).mean()
        for x in (images[odd], result[odd])
    )
    assert after < 0.1 * before


def test_the_reference_tells_most(radiance):
    """Neither black nor white; of two exposures mostly the brighter one, whose noise is less."""
    view = see(radiance, np.eye(3))
    images = [expose(view, gain) for gain in (40, 0.05, 1)]
    assert ghosts.telling_exposure(images) == ghosts.best_reference(images) == 2
    black, white = np.zeros_like(images[0]), np.full_like(images[0], 255)
    for pair in ([images[1], images[2]], [black, images[2]], [white, images[2]]):
        assert ghosts.telling_exposure(pair) == 1
    images[2][50:90, 50:90] = 255 - images[2][50:90, 50:90]
    assert ghosts.best_reference([images[1], images[2]]) == 1


@pytest.mark.parametrize("count", [2, 3, 9])
def test_noise_is_no_movement(radiance, count):
    """Not even where a frame is nearly black, and its noise is that of JPEG files."""
    rng = np.random.default_rng(0)
    view = see(radiance, np.eye(3)) * 0.5
    images = []
    for gain in np.geomspace(0.02, 4, count):
        noisy = np.clip(expose(view, gain) + rng.normal(0, 4, view.shape), 0, 255)
        _, coded = cv2.imencode(".jpg", noisy.astype(np.uint8), [cv2.IMWRITE_JPEG_QUALITY, 70])
        images.append(cv2.imdecode(coded, cv2.IMREAD_COLOR))
    assert ghosts.deghost(images)[1] == [0] * count


def test_glare_is_no_movement():
    """Light spreads from a window that the brighter exposure clips; the darker one has none."""
    room = np.full((300, 400, 3), 0.05, np.float32)
    room += np.random.default_rng(0).uniform(0, 0.03, (30, 40, 1)).repeat(10, 0).repeat(10, 1)
    room[80:220, 140:260] = 1
    spread = room + 0.03 * cv2.GaussianBlur((room > 0.5).astype(np.float32), (0, 0), 12)
    assert ghosts.deghost([expose(room, 0.5), expose(spread, 6)])[1] == [0, 0]


def test_one_thing_has_one_source(radiance):
    """Where it happens to fit the reference, inside of what moved, it is replaced as well."""
    mask = np.zeros((100, 100), bool)
    mask[20:80, 20:80] = True
    mask[40:60, 45:50] = mask[0:4, 0:4] = False
    filled = ghosts.without_pockets(mask)
    assert filled[20:80, 20:80].all()
    assert not filled[90:, :].any()
    assert not ghosts.without_pockets(np.zeros((9, 9), bool)).any()


def test_colours_that_change_with_exposure_are_rendered(radiance):
    """A camera's response that mixes channels: no level map finds it, but the colours tell."""
    view = see(radiance, np.eye(3))
    mix = np.array([[0.8, 0.2, 0], [0.1, 0.8, 0.1], [0, 0.2, 0.8]])
    reference, other = expose(view, 0.5), expose(view @ mix, 1.5)
    hidden = np.zeros(view.shape[:2], bool)
    hidden[100:200, 150:250] = True
    rendering = ghosts.Rendering.learn(reference, other, ~hidden)
    colours, truth = reference[hidden], other[hidden].astype(float)
    by_levels = ghosts.between_levels(rendering.levels, colours)
    error = np.abs(rendering.of(colours) - truth).mean()
    assert error < 0.5 * np.abs(by_levels - truth).mean()
    assert error < 3
    # Levels between those of 8 bits lie between their colours.
    assert np.allclose(rendering.of(colours.astype(float)), rendering.of(colours))


@pytest.mark.parametrize("channels", [1, 3])
def test_a_colour_grid_has_the_means_of_its_pixels(channels):
    rng = np.random.default_rng(0)
    ranks = rng.uniform(0, 1, (channels, 60_000))
    places = ghosts.Places.of(ranks)
    assert np.allclose(places.weights.sum(axis=0), 1, atol=1e-6)
    values = ranks.T @ rng.normal(0, 30, (channels, 2)) + 5
    found = ghosts.ColourGrid.fit(places, values).at(places)
    inside = np.abs(ranks - 0.5).max(axis=0) < 0.4
    # The coarser grids draw sparse cells towards the mean of their neighbours.
    assert np.abs(found - values)[inside].mean() < 0.35
    constant = ghosts.ColourGrid.fit(places.where(np.arange(60_000) < 100), np.full((100, 1), 7.0))
    assert np.allclose(constant.at(places), 7)


def test_colours_that_are_not_seen_have_the_offset_of_near_ones():
    seen = ghosts.Places.of(np.repeat([[4 / 32, 5 / 32]], 500, axis=1))
    grid = ghosts.ColourGrid.fit(seen, np.repeat([[1.0], [3.0]], 500, axis=0))
    known = ghosts.Places.of(np.array([[4 / 32, 5 / 32, 4.5 / 32]]))
    assert grid.at(known).ravel() == pytest.approx([1, 3, 2], abs=0.05)
    assert grid.at(ghosts.Places.of(np.array([[1.0]]))).item() == pytest.approx(2, abs=1.1)


def test_an_exposure_of_another_scene_is_replaced_whole(radiance):
    view = see(radiance, np.eye(3))
    images = [expose(view, 0.5), expose(view, 1), expose(view[::-1, ::-1], 2)]
    result, shares = ghosts.deghost(images, 1)
    assert shares[2] > 0.5
    assert result[2].shape == images[2].shape


def with_shadow(radiance):
    """Five exposures; a square of them is so dark that the middle one shows little of it."""
    view = see(radiance, np.eye(3))
    square = np.zeros(view.shape[:2], bool)
    square[80:200, 100:260] = True
    view[square] *= 0.01
    noise = np.random.default_rng(0).normal(0, 1.5, (5, *view.shape))
    images = [
        np.clip(expose(view, gain) + grain, 0, 255).astype(np.uint8)
        for gain, grain in zip((0.06, 0.25, 1, 4, 16), noise, strict=True)
    ]
    place = slice(110, 170), slice(140, 220)
    things = [expose(radiance[-60:, -80:] + 0.2, gain) for gain in (1, 16)]
    return images, place, things


def trace(result, images, place):
    return np.abs(result[place].astype(float) - images[place]).mean()


def test_another_exposure_tells_what_is_black_in_the_reference(radiance):
    images, place, things = with_shadow(radiance)
    ghost = [image.copy() for image in images]
    ghost[3][place] = things[0]
    alone = trace(ghosts.deghost([ghost[2], ghost[3]], 0)[0][1], images[3], place)
    both = trace(ghosts.deghost(ghost, 2)[0][3], images[3], place)
    assert both < 0.7 * alone
    assert alone < 0.3 * trace(ghost[3], images[3], place)


def test_a_darker_exposure_tells_what_is_white_in_the_reference(radiance):
    """Something passes the window in the darkest of three; the middle one shows what is there."""
    view = see(radiance, np.eye(3)) * 0.4
    view[60:220, 80:280] *= 40
    images = [expose(view, gain) for gain in (0.02, 0.08, 2)]
    place = slice(100, 170), slice(120, 200)
    assert (images[2][place] == 255).mean() > 0.9
    ghost = [image.copy() for image in images]
    ghost[0][place] = images[0][10:80, 10:90]
    result, shares = ghosts.deghost(ghost, 2)
    assert [share > 0 for share in shares] == [True, False, False]
    assert trace(result[0], images[0], place) < 0.15 * trace(ghost[0], images[0], place)


def test_a_source_does_not_contradict_the_reference(radiance):
    images, place, things = with_shadow(radiance)
    ghost = [image.copy() for image in images]
    for k, thing in zip((3, 4), things, strict=True):
        ghost[k][place] = thing
    small = [utils.reduced_quickly(image, ghosts.COARSE) for image in ghost]
    moved, sources = ghosts.find_movement(small, 2)
    assert not (moved[4] & (sources == 4)).any()
    assert not (moved[3] & (sources == 3)).any()


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.float32])
def test_a_hidden_place_shows_another_picture_in_its_own_brightness(radiance, dtype):
    view = see(radiance, np.eye(3))
    image, source = (utils.as_type(expose(view, gain), dtype) for gain in (0.3, 1.5))
    hidden = np.zeros(view.shape[:2], bool)
    hidden[:, 250:] = True
    holed = image * ~hidden[..., None]
    filled = ghosts.show_elsewhere(holed, source, hidden, ~hidden)
    assert filled.dtype == image.dtype
    apart = np.abs(utils.to_8_bit(filled).astype(float) - utils.to_8_bit(image))
    assert apart[hidden].mean() < 4
    assert apart[:, :240].max() == 0


def test_white_of_the_reference_becomes_what_surrounds_it(radiance):
    """A bird before the sky in the darker exposure; the sky is white in the brighter one."""
    view = see(radiance, np.eye(3)) * 0.3
    view[:150] = [0.9, 1.1, 1.4]
    view[:150, 210:] *= 0.6
    dark, bright = expose(view, 0.4), expose(view, 8)
    ghost = dark.copy()
    place = slice(40, 90), slice(40, 110)
    ghost[place] = 20
    result, shares = ghosts.deghost([ghost, bright], 1)
    assert shares[0] > 0
    assert (bright[place] == 255).all()
    assert trace(result[0], dark, place) < 4


def test_what_fits_the_white_of_the_reference_is_left(radiance):
    """A sunlit jacket: white in the brighter exposure, and cloth in the darker one."""
    view = see(radiance, np.eye(3)) * 0.4
    view[60:240, 100:320] = 1 + 0.3 * see(radiance, np.eye(3))[60:240, 100:320]
    dark, bright = expose(view, 0.4), expose(view, 8)
    dark[100:140, 150:200] = 10  # something dark before it
    fits = ghosts.fits_white(bright, dark, np.ones(view.shape[:2], bool))
    assert fits[70:90, 110:310].all()
    assert not fits[105:135, 155:195].any()
    assert not fits[:50, :90].any()


def test_areas_mostly_inside_of_others():
    mask, other = np.zeros((2, 60, 80), bool)
    mask[10:20, 10:30] = mask[40:50, 10:70] = True
    other[5:25, 5:26] = other[40:50, 10:30] = True
    found = ghosts.mostly_inside(mask, other)
    assert found[10:20, 10:30].all()
    assert found.sum() == 200


def sunlit():
    """Colours of a scene, (N, 3), as two exposures show them, two and a half stops apart."""
    rng = np.random.default_rng(0)
    light = rng.random((4000, 1)) ** 3 * 12 * (1 + 0.1 * rng.standard_normal((4000, 3)))
    encoded = [np.clip(gain * light, 0, 1) ** (1 / 2.2) for gain in (0.18, 1.0)]
    dark, bright = ((255 * image).round().astype(np.uint8) for image in encoded)
    return dark, bright


def test_skin_in_sunlight_does_not_turn_red():
    """Its red is clipped, and white is far brighter in the darker exposure than it is."""
    dark, bright = sunlit()
    static = np.ones((1, len(dark)), bool)
    rendering = ghosts.Rendering.learn(bright[None], dark[None], static)
    (white, skin) = rendering.of(np.array([[255, 255, 255], [255, 222, 205]], np.uint8))
    assert white.min() > 140
    assert skin[0] < 1.35 * skin[1]


def test_what_is_clipped_gets_no_noise():
    """Of what is nearly white, a level more or less is much light in a darker exposure."""
    dark, bright = (image.reshape(40, 100, 3).repeat(8, 0).repeat(8, 1) for image in sunlit())
    bright[:, :400] = np.random.default_rng(1).integers(251, 256, (320, 400, 1))
    small = [cv2.resize(image, (200, 80), interpolation=cv2.INTER_AREA) for image in (dark, bright)]
    moved = np.zeros((80, 200), bool)
    moved[:, :90] = True
    shown = ghosts.replace(dark, bright, moved, (small[0], small[1]), ~moved)[:, 40:320]
    assert shown.std(axis=(0, 1)).max() < 6
