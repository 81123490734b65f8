"""Registration and movement, on scenes whose motion is known."""

import cv2
import numpy as np
import pytest
from conftest import SIZE, blocks, expose, motion, see, with_torch

import align
import inference
import utils


def distances(found, expected, shape=SIZE):
    height, width = shape
    grid = np.stack(np.meshgrid(np.linspace(0, width - 1, 9), np.linspace(0, height - 1, 9)), -1)
    points = grid.reshape(-1, 2)
    apart = align.project(found, points) - align.project(expected, points)
    return np.hypot(*apart.T)


@pytest.fixture(scope="module")
def radiance():
    return blocks(SIZE[0] + 80, SIZE[1] + 80, seed=1)


@pytest.mark.parametrize(
    ("gain", "move"),
    [
        (8.0, {"shift": (7.3, -4.6)}),
        (8.0, {"rotation": 2.0}),
        (0.1, {"shift": (-12, 5), "rotation": -1.5}),
        (4.0, {"shift": (3, 3), "rotation": 0.7, "perspective": (0.01, -0.006)}),
    ],
)
def test_known_motion_is_found(radiance, gain, move):
    homography = motion(**move)
    reference = expose(see(radiance, np.eye(3)), 1.0)
    other = expose(see(radiance, homography), gain)
    found, _ = align.register_all([other, reference], 1)
    assert np.median(distances(found.homography, homography)) < 0.2
    assert found.correlation > 0.8
    centre = np.array([[(SIZE[1] - 1) / 2, (SIZE[0] - 1) / 2]])
    expected = (align.project(homography, centre) - centre)[0]
    np.testing.assert_allclose(found.shift, expected, atol=0.2)
    assert found.rotation == pytest.approx(move.get("rotation", 0), abs=0.2)


def test_aligned_pictures_lie_on_each_other(radiance):
    moves = [motion(shift=(6, -3), rotation=1), np.eye(3), motion(shift=(-4, 5), rotation=-0.5)]
    images = [
        expose(see(radiance, move), gain) for move, gain in zip(moves, (0.3, 1, 4), strict=True)
    ]
    aligned, registrations, area = align.align(images, 1)
    assert registrations[1].homography == pytest.approx(np.eye(3))
    assert aligned[1] is not None
    assert {image.shape for image in aligned} == {images[1][area].shape}
    assert 270 < aligned[0].shape[0] < 300
    for image, gain in ((aligned[0], 0.3), (aligned[2], 4)):
        truth = expose(see(radiance, np.eye(3)), gain)[area].astype(float)
        assert np.abs(image - truth).mean() < 3
        # Nothing invented at the borders either.
        assert np.abs(image - truth)[[0, -1]].mean() < 6
        assert np.abs(image - truth)[:, [0, -1]].mean() < 6
    whole, _, area = align.align(images, 1, crop=False)
    assert area == (slice(0, SIZE[0]), slice(0, SIZE[1]))
    assert {image.shape for image in whole} == {(*SIZE, 3)}
    # Outside of the first exposure, the scene as the reference shows it, in its brightness.
    truth = expose(see(radiance, np.eye(3)), 0.3).astype(float)
    assert np.abs(whole[0] - truth)[:2, -4:].mean() < 4


def test_still_exposures_are_returned_as_they_are(radiance):
    images = [expose(see(radiance, np.eye(3)), gain) for gain in (0.5, 1, 3)]
    aligned, registrations, _ = align.align(images)
    for image, before, registration in zip(aligned, images, registrations, strict=True):
        assert np.array_equal(image, before)
        assert np.abs(registration.shift).max() < align.STILL


@pytest.mark.parametrize("dtype", [np.uint16, np.float32])
def test_depth_colour_and_size_of_grey_and_deep_pictures(radiance, dtype):
    views = [see(radiance, motion(shift=(3, 2))), see(radiance, np.eye(3))[5:, :-3]]
    images = [utils.quantise(view[..., 0], dtype) for view in views]
    aligned, _, _ = align.align(images, reference=1)
    assert {image.dtype for image in aligned} == {np.dtype(dtype)}
    assert aligned[0].shape == aligned[1].shape
    assert aligned[0].min() >= 0
    scale = np.iinfo(dtype).max if dtype == np.uint16 else 1
    assert np.abs(aligned[0].astype(float) - aligned[1]).mean() < 0.02 * scale
    assert len(np.unique(aligned[0])) > 1000  # not by way of eight bits


def test_what_does_not_fit_is_refused(radiance):
    reference = expose(see(radiance, np.eye(3)), 1.0)
    other = expose(see(blocks(SIZE[0] + 80, SIZE[1] + 80, seed=2), np.eye(3)), 2.0)
    with pytest.raises(
        ValueError, match=r"exposure 2 cannot be aligned with exposure 1: .*different"
    ):
        align.align([reference, other], reference=0)
    white = np.full_like(reference, 255)
    with pytest.raises(ValueError, match=r"a.jpg cannot be aligned with b.jpg: .*little detail"):
        align.align([white, reference], reference=1, names=["a.jpg", "b.jpg"])
    strange, _, still = align.register_all([other, reference, white], 1, needed=True)
    assert "different scenes" in strange
    assert still.still  # Nothing tells that it has moved.


def test_what_is_in_register_is_left_where_it_is(radiance):
    """With noise, few levels, something that moves, and nothing in common but a lamp's outline."""
    rng = np.random.default_rng(0)
    view = see(radiance, np.eye(3))
    exposures = []
    for gain in (0.02, 1, 6):
        noisy = expose(view, gain) + rng.normal(0, 2, view.shape)
        exposures.append(np.clip(noisy, 0, 255).astype(np.uint8))
    exposures[2][60:140, 100:180] = exposures[2][60:140, 190:270].copy()
    assert all(found.still for found in align.register_all(exposures, 1, needed=True))
    lamp = np.zeros((300, 400, 3), np.float32) + 0.02
    cv2.circle(lamp, (170, 130), 40, (3, 3, 3), -1)
    pair = [expose(lamp, 0.3), expose(lamp, 4)]
    assert all(found.still for found in align.register_all(pair, 1, needed=True))


def test_an_extreme_pair_is_registered_by_what_both_show(radiance):
    """Eight stops apart, the darker one noisy: mostly black in one, or white in the other."""
    rng = np.random.default_rng(0)
    homography = motion(shift=(9, -6), rotation=0.8)
    dark = expose(see(radiance, homography), 0.02) + rng.normal(0, 1, (*SIZE, 3))
    bright = expose(see(radiance, np.eye(3)), 5)
    dark = np.clip(dark, 0, 255).astype(np.uint8)
    assert (utils.as_grey(dark) < 20).mean() > 0.3
    found, _ = align.register_all([dark, bright], 1, needed=True)
    assert np.median(distances(found.homography, homography)) < 0.3


@pytest.mark.parametrize("count", [3, 9])
def test_drift_is_measured_from_the_reference(radiance, count):
    """Neighbours lie near each other, the first and the last do not."""
    moves = [motion(shift=(1.5 * k, 0.8 * k), rotation=0.1 * k) for k in range(count)]
    gains = np.geomspace(0.3, 4, count)
    images = [expose(see(radiance, m), g) for m, g in zip(moves, gains, strict=True)]
    reference = count // 2
    back = np.linalg.inv(moves[reference])
    for found, move in zip(align.register_all(images, reference, needed=True), moves, strict=True):
        assert np.median(distances(found.homography, move @ back)) < 0.3


def test_an_exposure_upside_down_is_turned(radiance):
    view = see(radiance, np.eye(3))
    images = [expose(view, 1), expose(view[::-1, ::-1], 3)]
    found = align.register_all(images, 0, needed=True)[1]
    assert abs(found.rotation) == pytest.approx(180, abs=0.2)
    assert found.correlation > 0.8


def test_reducing_scales_both_sides_alike():
    """As rescale supposes: ramps along both sides tell. And no side is reduced to nothing."""
    for shape in ((667, 1003), (1003, 667)):
        slopes = []
        for axis in (0, 1):
            reduced = utils.reduce(np.indices(shape, np.float32)[axis], 0.3)
            ramp = np.take(reduced, 40, axis=1 - axis)
            slopes.append((ramp[150] - ramp[50]) / 100)
        assert slopes[0] == pytest.approx(slopes[1], rel=1e-5)
        assert slopes[0] == pytest.approx(1 / 0.3, rel=1e-3)
    assert utils.reduce(np.zeros((1, 3000), np.uint8), 0.3).shape == (1, 900)


def test_pictures_that_are_too_large():
    with pytest.raises(ValueError, match="up to 32767 pixels"):
        align.align([np.zeros((8, 40_000), np.uint8)] * 2)


def test_an_extreme_exposure_is_registered_by_way_of_its_neighbour(radiance, monkeypatch):
    moves = [np.eye(3), motion(shift=(4, 2)), motion(shift=(8, 4))]
    images = [
        expose(see(radiance, move), gain) for move, gain in zip(moves, (0.5, 1, 2), strict=True)
    ]
    match = align.match

    def nothing_in_common(picture, reference, least=0.0):
        if picture.mean() - reference.mean() > 50:
            raise ValueError("too few")
        return match(picture, reference, least)

    monkeypatch.setattr(align, "match", nothing_in_common)
    found = align.register_all(images, 0)
    assert images[2].mean() - images[0].mean() > 50
    assert np.median(distances(found[2].homography, moves[2])) < 0.3


def test_exposures_without_a_common_area():
    apart = motion(shift=(SIZE[1] + 5, 0))
    with pytest.raises(ValueError, match="no area in common"):
        align.common_area([np.eye(3), apart], [SIZE, SIZE])


def test_levels_are_brought_together():
    """Noise aside, both exposures then show the same; what either clips is one level."""
    light = np.random.default_rng(0).uniform(0, 1, (300, 400)) ** 2
    bright, dark = utils.quantise(light * 3, np.uint8), utils.quantise(light / 8, np.uint8)
    of_dark, of_bright = align.brought_together(dark, bright)
    assert np.abs(of_dark[dark] - of_bright[bright]).mean() < 2
    clipped = bright == 255
    assert np.ptp(of_dark[dark[clipped]]) < 8
    assert np.corrcoef(of_bright[bright][~clipped], bright[~clipped])[0, 1] > 0.98


@with_torch
def test_a_shift_is_said_once_a_scene(tmp_path, capfd):
    radiance = blocks(400, 500, seed=1)
    paths = [str(tmp_path / f"{name}.png") for name in "abc"]
    for path, gain, x in zip(paths, (0.3, 1, 4), (0, 4, 20), strict=True):
        utils.write_image(path, expose(radiance[:300, x : x + 400], gain))
    flags = ["--images", *paths, "--res", str(tmp_path / "fused.png"), "--look", "paper"]
    assert inference.main(flags) == 0
    text = f"{paths[0]} and {paths[2]}: seem to lie 20 pixels apart; --align brings exposures"
    assert capfd.readouterr().err == f"inference.py: {text} into register\n"
    assert inference.main([*flags, "--align"]) == 0
    assert capfd.readouterr().err == ""
