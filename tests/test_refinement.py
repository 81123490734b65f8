"""Gradient ascent on the score: the gradient itself, its step, and where steps lead."""

import numpy as np
import pytest
import torch
from conftest import expose, scene

import arrays
import loss
import refinement
import utils
import windows


def exposures(count=2, height=190, width=231):
    """Lumas of one scene at several exposures, (1, count, height, width)."""
    radiance = scene(height, width, seed=5)
    images = [expose(radiance, gain) for gain in (0.3, 8.0, 1.0)[:count]]
    return np.ascontiguousarray(utils.to_luma(*images).swapaxes(0, 1))


def mean_of(sources):
    return sources.mean(axis=1, keepdims=True)


def score(y_f, sources):
    return float(loss.mef_ssim(torch.from_numpy(y_f), torch.from_numpy(sources)))


def objective(y, sources, l_hat, scales):
    """The sum that refine_luma's docstring states, by the functions of the score."""
    total = 0.0
    levels = zip(
        windows.scale_levels(y, scales), windows.desired_windows(sources, scales), strict=True
    )
    for i, (level, desired) in enumerate(levels):
        numerator, denominator, l_f = windows.compare(level, desired)
        total = total + windows.EXPONENTS[i] * 4**i * (numerator / denominator).sum()
        if i == 0:
            numerator, denominator = windows.compare_luminance(l_f, l_hat)
            total = total + refinement.LUMINANCE_WEIGHT * (numerator / denominator).sum()
    return total


@pytest.mark.parametrize(("height", "width"), [(61, 76), (54, 47), (30, 101), (11, 20)])
@pytest.mark.parametrize("count", [2, 3])
def test_closed_form_is_the_gradient(monkeypatch, height, width, count):
    """In float64, at odd sizes, in tiles, at as many scales as the size allows."""
    monkeypatch.setattr(refinement, "PLAIN_TILE", 40)
    generator = torch.Generator().manual_seed(0)
    sources = torch.rand(1, count, height, width, generator=generator, dtype=torch.float64)
    y = sources.mean(dim=1, keepdim=True) * 0.5 + 0.25
    scales = min(windows.possible_scales(height, width), 3)
    l_hat = windows.desired_luminance(sources, window_mean=windows.gaussian_mean)
    free = y.clone().requires_grad_()
    (expected,) = torch.autograd.grad(objective(free, sources, l_hat, scales), free)
    gradient, curvature = refinement.slopes(y.numpy(), sources.numpy())
    np.testing.assert_allclose(gradient, expected[0, 0].numpy(), atol=1e-10, rtol=1e-10)
    assert curvature.min() > 0
    step = refinement.refine_luma(y.numpy(), sources.numpy())
    np.testing.assert_allclose(step[0, 0], (y[0, 0].numpy() + gradient / curvature).clip(0, 1))


def test_tiles_do_not_change_it_nor_do_ten_runs(monkeypatch):
    sources = exposures()
    whole = refinement.refine_luma(mean_of(sources), sources)
    monkeypatch.setattr(refinement, "PLAIN_TILE", 37)
    tiled = [refinement.refine_luma(mean_of(sources), sources) for _ in range(10)]
    np.testing.assert_allclose(tiled[0], whole, atol=1e-5)
    assert all(np.array_equal(again, tiled[0]) for again in tiled)


@pytest.mark.parametrize(("height", "width"), [(188, 228), (189, 229), (191, 231)])
def test_the_last_row_and_column_are_like_those_before_them(height, width):
    """The score counts them twice where halving repeats them; steps must not be twice as long."""
    sources = np.pad(
        exposures(2, height - 1, width - 1), [(0, 0), (0, 0), (0, 1), (0, 1)], mode="edge"
    )
    refined = refinement.refine_luma(mean_of(sources), sources)
    for picture in (refined, refined.swapaxes(2, 3)):
        assert np.abs(picture[..., -1, :] - picture[..., -2, :]).max() < 16 / 255


@pytest.mark.parametrize(("height", "width"), [(6, 8), (7, 9), (7, 8)])
def test_unhalve_is_the_transpose_of_halve(height, width):
    """Times 4: the sum of a picture's halves times maps is that of the picture times unhalved."""
    rng = np.random.default_rng(0)
    x = rng.random((1, height, width))
    small = arrays.halve(x)
    maps = rng.random(small.shape)
    expected = 4 * (small * maps).sum()
    assert (x * refinement.unhalve(maps, (height, width))).sum() == pytest.approx(expected)


@pytest.mark.parametrize("side", [1, 10])
def test_pictures_smaller_than_a_window_stay_as_they_are(side):
    rng = np.random.default_rng(0)
    sources, start = rng.random((1, 2, side, 50)), rng.random((1, 1, side, 50))
    assert np.array_equal(refinement.refine_luma(start, sources), start)


@pytest.mark.parametrize("count", [2, 3])
def test_steps_raise_the_score(count):
    sources = exposures(count)
    y_f, scores = mean_of(sources), []
    for _ in range(6):
        scores.append(score(y_f, sources))
        y_f = refinement.refine_luma(y_f, sources)
    assert scores == sorted(scores)
    assert scores[1] > scores[0] + 0.02


def test_steps_lead_to_what_is_desired():
    """From anywhere, to nearly 1 where one picture is desired."""
    one = np.random.default_rng(0).random((1, 1, 90, 101)) * 0.5 + 0.2
    sources = np.concatenate([one, one], axis=1)
    y_f = np.full(one.shape, 0.45)
    assert score(y_f, sources) < 0.3
    for _ in range(40):
        y_f = refinement.refine_luma(y_f, sources)
    assert score(y_f, sources) > 0.95


def test_a_step_keeps_brightness_and_leaves_flat_areas_alone():
    flat = np.full((1, 1, 60, 60), 0.1)
    sources = np.concatenate([flat, flat + 0.6], axis=1)
    refined = refinement.refine_luma(flat + 0.3, sources)
    np.testing.assert_allclose(refined, flat + 0.3, atol=1 / 255)
    sources = exposures()
    refined = refinement.refine_luma(mean_of(sources), sources)
    assert abs(refined.mean() - sources.mean()) < 0.02
    assert refined.min() >= 0
    assert refined.max() <= 1


def test_refinement_makes_brightness_more_natural_at_no_loss_of_score(monkeypatch):
    sources = exposures()
    l_hat = windows.desired_luminance(sources)

    def refined():
        y_f = mean_of(sources) * np.float32(0.7)
        for _ in range(10):
            y_f = refinement.refine_luma(y_f, sources)
        numerator, denominator = windows.compare_luminance(windows.box_mean(y_f), l_hat)
        return score(y_f, sources), float((numerator / denominator).mean())

    together, luminance = refined()
    monkeypatch.setattr(refinement, "LUMINANCE_WEIGHT", 0)
    alone, luminance_alone = refined()
    assert luminance > luminance_alone + 0.002
    assert together > alone - 0.002
