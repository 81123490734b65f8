"""Gradient ascent on the score: the gradient itself, its steps, and where they lead."""

import pytest
import torch
from conftest import expose, scene
from torch.nn import functional as F

import loss
import refinement
import utils
import windows
from checkpoint import load_model
from opts import PYRAMID


def exposures(count=2, height=190, width=231):
    """Lumas of one scene at several exposures, (1, count, height, width)."""
    radiance = scene(height, width, seed=5)
    images = [expose(radiance, gain) for gain in (0.3, 8.0, 1.0)[:count]]
    return torch.from_numpy(utils.to_luma(*images)).transpose(0, 1).contiguous()


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
    monkeypatch.setattr(refinement, "MOMENTUM", 0)
    generator = torch.Generator().manual_seed(0)
    sources = torch.rand(1, count, height, width, generator=generator, dtype=torch.float64)
    y = sources.mean(dim=1, keepdim=True) * 0.5 + 0.25
    scales = min(windows.possible_scales(height, width), 3)
    l_hat = windows.desired_luminance(sources, window_mean=windows.gaussian_mean)
    free = y.clone().requires_grad_()
    (expected,) = torch.autograd.grad(objective(free, sources, l_hat, scales), free)
    found = []
    joined = refinement.joined

    def watched(*arguments):
        found.append(joined(*arguments).clone())
        return found[-1].clone()

    monkeypatch.setattr(refinement, "joined", watched)
    step = refinement.refine_luma(y, sources, 1)
    curvature, gradient = found
    torch.testing.assert_close(gradient, expected, atol=1e-10, rtol=1e-10)
    assert curvature.min() > 0
    torch.testing.assert_close(step, (y + gradient / curvature).clamp(0, 1))


def test_renewing_less_often_changes_hardly_a_pixel_by_a_level(monkeypatch):
    sources = exposures()
    with torch.no_grad():
        start = load_model(PYRAMID)(*sources.split(1, dim=1))
    refined = refinement.refine_luma(start, sources, 10)
    monkeypatch.setattr(refinement, "is_renewed", lambda step: True)
    exact = refinement.refine_luma(start, sources, 10)
    assert not torch.equal(refined, exact)
    assert ((refined - exact).abs() < 1 / 255).float().mean() > 0.999
    scores = [float(loss.mef_ssim(y_f, sources)) for y_f in (refined, exact)]
    assert scores[0] == pytest.approx(scores[1], abs=1e-4)


def test_tiles_do_not_change_it_nor_do_ten_runs(monkeypatch):
    sources = exposures()
    start = sources.mean(dim=1, keepdim=True)

    whole = refinement.refine_luma(start, sources, 5)
    monkeypatch.setattr(refinement, "PLAIN_TILE", 37)
    tiled = [refinement.refine_luma(start, sources, 5) for _ in range(10)]
    torch.testing.assert_close(tiled[0], whole, atol=1e-4, rtol=0)
    assert all(torch.equal(again, tiled[0]) for again in tiled)


@pytest.mark.parametrize(("height", "width"), [(188, 228), (189, 229), (191, 231)])
def test_the_last_row_and_column_are_like_those_before_them(height, width):
    """The score counts them twice where halving repeats them; steps must not be twice as long."""
    sources = F.pad(exposures(2, height - 1, width - 1), [0, 1, 0, 1], mode="replicate")
    refined = refinement.refine_luma(sources.mean(dim=1, keepdim=True), sources, 10)
    for picture in (refined, refined.mT):
        assert (picture[..., -1, :] - picture[..., -2, :]).abs().max() < 16 / 255


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU")
def test_a_gpu_gives_the_same():
    sources = exposures()
    start = sources.mean(dim=1, keepdim=True)
    expected = refinement.refine_luma(start, sources, 10)
    found = refinement.refine_luma(start.cuda(), sources.cuda(), 10).cpu()
    assert (found - expected).abs().max() < 1 / 255


@pytest.mark.parametrize("side", [1, 10])
def test_pictures_smaller_than_a_window_stay_as_they_are(side):
    sources = torch.rand(1, 2, side, 50)
    start = torch.rand(1, 1, side, 50)
    assert torch.equal(refinement.refine_luma(start, sources, 10), start)


def test_refinement_ascends_the_objective_that_the_score_is_of():
    """From anywhere, to nearly 1 where one picture is desired."""
    generator = torch.Generator().manual_seed(0)
    sources = torch.rand(1, 1, 90, 101, generator=generator).expand(-1, 2, -1, -1) * 0.5 + 0.2
    start = torch.full((1, 1, 90, 101), 0.45)
    scores = [
        float(loss.mef_ssim(refinement.refine_luma(start, sources, steps), sources))
        for steps in (0, 10, 40)
    ]
    assert scores[0] < 0.3
    assert scores[1] > 0.9
    assert scores[2] > 0.99


def test_refinement_keeps_brightness_and_leaves_flat_areas_alone():
    flat = torch.full((1, 1, 60, 60), 0.1)
    sources = torch.cat([flat, flat + 0.6], dim=1)
    refined = refinement.refine_luma(flat + 0.3, sources, 10)
    torch.testing.assert_close(refined, flat + 0.3, atol=1 / 255, rtol=0)
    sources = exposures()
    mean = sources.mean(dim=1, keepdim=True)
    refined = refinement.refine_luma(mean, sources, 10)
    assert abs(float(refined.mean() - mean.mean())) < 0.02
    assert refined.min() >= 0
    assert refined.max() <= 1


def test_refinement_makes_brightness_more_natural_at_no_loss_of_score(monkeypatch):
    sources = exposures()
    l_hat = windows.desired_luminance(sources)
    start = (sources.mean(dim=1, keepdim=True) * 0.7).clamp(0, 1)

    def refined():
        y_f = refinement.refine_luma(start, sources, 10)
        numerator, denominator = windows.compare_luminance(windows.box_mean(y_f), l_hat)
        return float(loss.mef_ssim(y_f, sources)), float((numerator / denominator).mean())

    score, luminance = refined()
    monkeypatch.setattr(refinement, "LUMINANCE_WEIGHT", 0)
    score_alone, luminance_alone = refined()
    assert luminance > luminance_alone + 0.005
    assert score > score_alone - 0.002
