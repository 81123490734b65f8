"""The promises of exposures told between others."""

import cv2
import numpy as np
import pytest
import torch
from conftest import expose, luma, scene

import between
import utils
from model import BetweenNetwork
from opts import BETWEEN
from portable import OnnxBetween


@pytest.fixture
def network():
    """An untrained network whose last layers are not zero."""
    torch.manual_seed(0)
    result = BetweenNetwork(8).eval()
    for layer in (result.c7, result.c9):
        torch.nn.init.normal_(layer.weight, std=0.3)
    return result


@pytest.fixture(scope="module")
def trained():
    return OnnxBetween(BETWEEN)


def exposures(gains, height=120, width=160, seed=5):
    radiance = scene(height, width, seed)
    return utils.to_ycbcr(*(expose(radiance, gain) for gain in gains))


def told(network, stack, wanted):
    """Returns an exposure of a stack (K, 3, h, w), without PyTorch."""
    return between.tell(network, between.look(network, stack[None]), np.float32([wanted]))[0]


def test_an_untrained_network_gives_the_mean():
    stack = luma(2, 3, 3, 30, 41)
    with torch.no_grad():
        mean = BetweenNetwork()(stack, torch.tensor([0.3, 0.6]))
    torch.testing.assert_close(mean, stack.mean(dim=1))


def test_grey_stays_grey(network, trained):
    stack = luma(1, 3, 3, 30, 30)
    stack[:, :, 1:] = 0.5
    assert torch.equal(network(stack, torch.tensor([0.4]))[:, 1:], torch.full((1, 2, 30, 30), 0.5))
    assert (told(trained, stack[0].numpy(), 0.4)[1:] == 0.5).all()


@pytest.mark.parametrize("count", [2, 3, 6])
def test_any_number_of_exposures_in_any_order(network, count):
    stack, wanted = luma(2, count, 3, 30, 41), torch.tensor([0.3, 0.6])
    result = network(stack, wanted)
    assert result.shape == (2, 3, 30, 41)
    torch.testing.assert_close(network(stack.flip(1), wanted), result, atol=1e-5, rtol=0)


def test_a_sample_does_not_depend_on_its_batch(network):
    stack, wanted = luma(3, 2, 3, 40, 33), torch.tensor([0.2, 0.4, 0.7])
    alone = [network(stack[k : k + 1], wanted[k : k + 1]) for k in range(3)]
    torch.testing.assert_close(torch.cat(alone), network(stack, wanted), atol=1e-5, rtol=0)


def test_factors_and_what_is_added_are_bounded(network):
    """However large the features are, gains are at most GAIN, and the added luma is FREE."""
    for parameter in network.parameters():
        parameter.data *= 5
    seen, around = luma(2, 12, 20, 20), luma(1, 12, 20, 20, seed=1)
    with torch.no_grad():
        factors = network.factors(seen, around, 2)
        free = network.free(around, torch.full((1, 1, 1, 1), 0.5))
    assert network.GAIN / 2 < factors.abs().max() <= network.GAIN
    assert free.abs().max() <= network.FREE


@pytest.mark.parametrize(
    "area",
    [
        (slice(0, 20), slice(10, 41)),
        (slice(7, 8), slice(3, 20)),
        (slice(12, 61), slice(31, 70)),
        (slice(0, 61), slice(0, 75)),
    ],
)
def test_a_part_is_told_like_the_whole(network, area):
    stack, wanted = luma(1, 2, 3, 61, 75), torch.tensor([0.4])
    whole = network(stack, wanted)[(..., *area)]
    torch.testing.assert_close(network(stack, wanted, area), whole, atol=1e-5, rtol=0)


def test_the_repositorys_network_tells_what_a_camera_shows(trained):
    """Of exposures five stops apart; nearer than any mix of both, and in the order asked for."""
    dark, *real, bright = exposures((0.25, 0.7, 2.0, 8.0))
    stack = np.stack([dark, bright])
    share = np.linspace(0, 1, 21)[:, None, None, None]
    for exposure in real:
        found = told(trained, stack, exposure[0].mean())
        mixed = np.abs(dark + share * (bright - dark) - exposure).mean(axis=(1, 2, 3)).min()
        assert np.abs(found - exposure).mean() < 0.7 * mixed
    levels = [told(trained, stack, wanted)[0].mean() for wanted in (0.3, 0.4, 0.5)]
    assert levels == sorted(levels)


def test_a_hole_between_clipped_and_black_stays_smooth(trained):
    """Half of the picture is black in one exposure and white in the other: nothing is invented."""
    dark, bright = exposures((0.3, 8.0), 128, 192)
    dark[0, :, :96], bright[0, :, :96] = 0, 1
    dark[1:, :, :96] = bright[1:, :, :96] = 0.5
    inside = told(trained, np.stack([dark, bright]), 0.45)[:, 8:-8, 8:60]
    assert 0 < inside[0].min() < inside[0].max() < 1
    for axis in (1, 2):
        assert np.abs(np.diff(inside, axis=axis)).max() < 0.02


def test_a_complete_stack_has_equal_steps_and_the_scenes_own_ends(trained):
    stack = exposures((0.25, 8.0))
    complete = between.complete(trained, stack[::-1])
    assert len(complete) == between.LEVELS
    assert np.array_equal(complete[[0, -1]], stack)
    levels = complete[:, 0].mean(axis=(1, 2))
    # The network is asked for these means; it may miss them a little.
    np.testing.assert_allclose(np.diff(levels), np.diff(levels).mean(), atol=0.04)
    assert complete.min() >= 0
    assert complete.max() <= 1


def test_a_stack_with_all_its_exposures_is_not_told_anything():
    dense = exposures(2.0 ** np.arange(-2, 3.1, 0.5))
    complete = between.complete(None, dense)  # a network would be called
    level = dense[:, 0].mean(axis=(1, 2))
    for wanted, image in zip(np.linspace(level[0], level[-1], 5), complete, strict=True):
        k = np.abs(level - wanted).argmin()
        assert image[0].mean() == pytest.approx(wanted, abs=1e-3)
        assert np.abs(image - dense[k]).mean() < 0.05


def test_a_wide_gap_raises_chroma_and_fine_texture_alone():
    """Grey stays grey, an even place even, and a narrow gap leaves all as it was told."""
    told = np.full((3, 24, 24), 0.5, np.float32)
    told[0, :, :12:2] += 0.1
    told[1] += 0.1
    assert np.array_equal(between.raised(told, np.float32(between.NEAR)), told)
    found = between.raised(told, np.float32(0.6))
    assert np.ptp(found[0, :, 1:10]) > 1.1 * np.ptp(told[0, :, 1:10])
    np.testing.assert_allclose(found[0, :, 14:], told[0, :, 14:], atol=1e-6)
    assert found[1].min() > told[1].max()
    np.testing.assert_allclose(found[2], 0.5, atol=1e-6)


def test_more_exposures_of_one_range_change_little(trained):
    """Nine exposures make the complete stack of three."""
    radiance = cv2.resize(scene(40, 50, 5).astype(np.float32), (300, 240))
    gains = (0.25, 1.4, 8.0), 0.25 * 2 ** np.linspace(0, 5, 9)
    stacks = [utils.to_ycbcr(*(expose(radiance, gain) for gain in some)) for some in gains]
    one, other = (between.complete(trained, stack) for stack in stacks)
    assert np.abs(one - other).mean() < 0.015
    assert abs(one[:, 1:].std() / other[:, 1:].std() - 1) < 0.1


def test_one_exposure_and_equal_ones_are_complete(trained):
    (image,) = exposures((1.0,))
    for stack in (image[None], np.stack([image] * 3)):
        complete = between.complete(trained, stack)
        np.testing.assert_allclose(complete, np.broadcast_to(image, complete.shape), atol=1e-6)
