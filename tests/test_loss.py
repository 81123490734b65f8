"""MEF-SSIM against published values, a literal loop over windows, and its own properties."""

import csv
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import luma

import arrays
import loss
import scores
import utils
import windows
from loss import MEF_SSIM_Loss, mef_ssim, y_hat

REFERENCE = Path(__file__).parent.parent.parent / "shared" / "reference"


def published_stack(h, w, s, k):
    """The pictures whose scores the metric authors' own program has printed; values 0 to 255."""
    i, j = np.arange(h)[:, None], np.arange(w)[None]
    base = 127.5 + 80 * np.sin(i / (5 + s)) * np.cos(j / (9 - s))
    base = base + 40 * np.sin(i * j / (61 + 10 * s))
    gain, offset = {
        2: ((0.4, 1.9), (-15, 35)),
        3: ((0.35, 1, 2.2), (-10, 0, 30)),
    }[k]
    stack = np.stack(
        [np.clip(np.floor(g * base + o + 0.5), 0, 255) for g, o in zip(gain, offset, strict=True)]
    )
    mean = np.floor(stack.mean(axis=0) + 0.5)
    return stack, mean, np.floor(np.clip(base, 0, 255) + 0.5)


def tensors(fused, stack, dtype=torch.float64):
    return (
        torch.tensor(fused, dtype=dtype)[None, None] / 255,
        torch.tensor(stack, dtype=dtype)[None] / 255,
    )


# The values have 8 digits; float32 loses some of its 7 in differences of squares.
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-8), (torch.float32, 1e-5)])
@pytest.mark.parametrize(
    ("size", "single", "multi_mean", "multi_base"),
    [
        ((64, 96, 0, 2), 0.90862376, 0.92040259, 0.78462859),
        ((97, 131, 1, 2), 0.90943776, 0.92498948, 0.78799643),
        ((80, 75, 2, 3), 0.84379474, 0.89215364, 0.97704345),
    ],
)
def test_published_values(size, single, multi_mean, multi_base, dtype, tolerance):
    stack, mean, base = published_stack(*size)
    y_mean, sources = tensors(mean, stack, dtype)
    y_base, _ = tensors(base, stack, dtype)
    assert mef_ssim(y_mean, sources, scales=1).item() == pytest.approx(single, abs=tolerance)
    assert mef_ssim(y_mean, sources).item() == pytest.approx(multi_mean, abs=tolerance)
    assert mef_ssim(y_base, sources).item() == pytest.approx(multi_base, abs=tolerance)


@pytest.mark.slow
@pytest.mark.skipif(not REFERENCE.exists(), reason="needs the authors' scores of photographs")
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-6), (torch.float32, 1e-4)])
def test_reference_photographs(dtype, tolerance):
    with open(REFERENCE / "scores.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert rows
    for row in rows:
        paths = sorted(REFERENCE.glob(f"{row['scene']}_source*.png"))
        stack = np.stack([scores.to_grey(utils.read_image(str(path))) for path in paths])
        fused = REFERENCE / f"{row['scene']}_fused_{row['fused']}.png"
        fused = scores.to_grey(utils.read_image(str(fused)))
        y_f, sources = tensors(fused, stack, dtype)
        for scale, name in enumerate(("scale1", "scale2", "scale3")):
            if scale:
                y_f, sources = arrays.halve(y_f), arrays.halve(sources)
            value = mef_ssim(y_f, sources, scales=1).item()
            assert value == pytest.approx(float(row[name]), abs=tolerance), (row, name)
        value = mef_ssim(*tensors(fused, stack, dtype)).item()
        assert value == pytest.approx(float(row["mef_ms_ssim"]), abs=tolerance), row
        if dtype == torch.float32:
            assert scores.mefb_score(fused, stack) == pytest.approx(value, abs=1e-6)


def literal_windows(stack):
    """y_hat of every 11x11 window by the definition, one window after the other; 0 to 255."""
    count, height, width = stack.shape
    windows = {}
    for top in range(height - 10):
        for left in range(width - 10):
            x = stack[:, top : top + 11, left : left + 11].reshape(count, -1)
            mean = x.mean(axis=1, keepdims=True)
            norms = np.linalg.norm(x - mean, axis=1)
            contrast = norms + 0.001
            total = np.linalg.norm((x - mean).sum(axis=0))
            consistency = total / norms.sum() if norms.sum() else 1.0
            q = min(np.tan(np.pi / 2 * min(consistency, 1 - 1e-12)), 10)
            weight = (contrast / 11) ** q
            weight /= weight.sum()
            s_bar = ((weight / contrast)[:, None] * (x - mean)).sum(axis=0)
            norm = np.linalg.norm(s_bar)
            y = contrast.max() * s_bar / norm if norm else s_bar
            windows[top, left] = y.reshape(11, 11), mean.mean()
    return windows


@pytest.mark.parametrize("count", [2, 3, 4])
def test_score_and_y_hat_equal_a_literal_loop(count):
    rng = np.random.default_rng(count)
    stack = rng.integers(0, 256, (count, 19, 23)).astype(float)
    stack[0, :, :12] = 0  # one source is black, in part
    stack[:, 12:, 11:] = 255  # all are saturated
    fused = rng.integers(0, 256, (19, 23)).astype(float)

    offset = np.arange(-5, 6)
    gaussian = np.exp(-(offset[:, None] ** 2 + offset[None] ** 2) / (2 * 1.5**2))
    gaussian /= gaussian.sum()
    c = (0.03 * 255) ** 2
    scores, total, covered = [], np.zeros((19, 23)), np.zeros((19, 23))
    for (top, left), (y, level) in literal_windows(stack).items():
        here = slice(top, top + 11), slice(left, left + 11)
        y = y - (gaussian * y).sum()
        f = fused[here] - (gaussian * fused[here]).sum()
        covariance, variances = (gaussian * y * f).sum(), (gaussian * (y**2 + f**2)).sum()
        scores.append((2 * covariance + c) / (variances + c))
        y, level = literal_windows(stack[:, here[0], here[1]])[0, 0]
        total[here] += y + level
        covered[here] += 1

    y_f, sources = tensors(fused, stack)
    # The literal loop knows no epsilon; ours are below 1e-9 of what they are added to.
    assert mef_ssim(y_f, sources, scales=1).item() == pytest.approx(np.mean(scores), abs=1e-7)
    expected = torch.from_numpy(total / covered / 255)
    torch.testing.assert_close(y_hat(sources)[0, 0], expected, atol=1e-7, rtol=0)


def random_stack(n=2, count=2, height=43, width=47, dtype=torch.float64):
    generator = torch.Generator().manual_seed(count)
    shape = (n, count + 1, height, width)
    x = torch.rand(shape, generator=generator, dtype=dtype)
    return x[:, :1], x[:, 1:]


@pytest.mark.parametrize("options", [{}, {"target": "global"}, {"luminance_weight": 0.3}])
@pytest.mark.parametrize("scales", [1, 3])
def test_gradient_by_y_f(options, scales):
    y_f, sources = random_stack(n=1)
    y_f.requires_grad_()
    assert torch.autograd.gradcheck(
        lambda y: mef_ssim(y, sources, scales=scales, **options), (y_f,), fast_mode=True
    )


def test_gradient_by_sources():
    y_f, sources = random_stack(n=1, count=3, height=13, width=14)
    sources.requires_grad_()
    assert torch.autograd.gradcheck(
        lambda x: mef_ssim(y_f, x, scales=1), (sources,), fast_mode=True
    )


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("levels", [(0, 0), (1, 1), (0, 1), (0.5, 0.25), (0, None), (1, None)])
def test_flat_sources_give_finite_values_and_gradients(levels, dtype):
    noise, _ = random_stack(n=1, dtype=dtype)
    sources = torch.cat(
        [noise if level is None else torch.full_like(noise, level) for level in levels], dim=1
    )
    for y_f in (noise, torch.zeros_like(noise), torch.ones_like(noise)):
        y_f, x = y_f.clone().requires_grad_(), sources.clone().requires_grad_()
        value = mef_ssim(y_f, x, luminance_weight=0.1)
        value.sum().backward()
        assert torch.isfinite(value).all()
        assert torch.isfinite(y_f.grad).all()
        assert torch.isfinite(x.grad).all()
        assert torch.isfinite(y_hat(sources)).all()


def test_float32_agrees_with_float64_where_sources_are_nearly_flat():
    """Saturated sources with a few stray pixels, where rounding could pass for structure."""
    rng = np.random.default_rng(0)
    stack = np.zeros((3, 60, 70))
    stack[1] = 255
    stack[0][rng.random((60, 70)) < 0.02] = 1
    stack[1][rng.random((60, 70)) < 0.02] = 254
    stack[2] = 200 + (rng.random((60, 70)) < 0.01)
    fused = rng.integers(90, 93, (60, 70))
    # 1e-4 is asked of float32 on photographs; rounding taken for structure misses it a hundredfold.
    assert mef_ssim(*tensors(fused, stack, torch.float32)).item() == pytest.approx(
        mef_ssim(*tensors(fused, stack)).item(), abs=1e-4
    )


def test_identical_pictures_score_one():
    y_f, _ = random_stack()
    # c_hat holds the contrast floor of 0.001, so that not even the target scores exactly 1.
    value = mef_ssim(y_f, y_f.expand(-1, 3, -1, -1))
    torch.testing.assert_close(value, torch.ones_like(value), atol=1e-6, rtol=0)


def test_order_of_sources_does_not_matter():
    y_f, sources = random_stack(count=3)
    torch.testing.assert_close(mef_ssim(y_f, sources), mef_ssim(y_f, sources.flip(1)))
    torch.testing.assert_close(y_hat(sources), y_hat(sources.flip(1)))


@pytest.mark.parametrize("target", ["patch", "global"])
def test_a_samples_score_does_not_depend_on_its_batch(target):
    y_f, sources = random_stack(n=3)
    sources[1] *= 0.2
    alone = torch.cat(
        [mef_ssim(y_f[i : i + 1], sources[i : i + 1], target=target) for i in range(3)]
    )
    torch.testing.assert_close(mef_ssim(y_f, sources, target=target), alone)


def test_global_target_is_the_original_formula():
    """c_hat * s_hat + (y_2 + mu)/2 with norms over the whole picture, spelled out."""
    _, sources = random_stack(n=1)
    for stack in (sources * 0.4 + 0.3 * torch.tensor([0, 1]).view(1, 2, 1, 1), sources**3):
        y_1, y_2 = (stack * 2 - 1).unbind(dim=1)  # that implementation works on [-1, 1]
        mu = (y_1 + y_2) / 2
        d = [y_1 - mu, y_2 - mu]
        w_1, w_2 = y_1.norm(), y_2.norm()
        s_bar = (w_1 * d[0] / d[0].norm() + w_2 * d[1] / d[1].norm()) / (w_1 + w_2)
        expected = d[0].norm() * s_bar / s_bar.norm() + (y_2 + mu) / 2
        torch.testing.assert_close(y_hat(stack, "global")[:, 0], (expected + 1) / 2)


def test_unknown_target():
    y_f, sources = random_stack()
    for call in (lambda: mef_ssim(y_f, sources, target="Patch"), lambda: y_hat(sources, "x")):
        with pytest.raises(ValueError, match="target must be"):
            call()


def test_global_target_is_for_pairs():
    with pytest.raises(ValueError, match="2 sources, not 3"):
        mef_ssim(*random_stack(count=3), target="global")


def luminance(y_f, l_hat):
    numerator, denominator = windows.compare_luminance(windows.box_mean(y_f), l_hat)
    return (numerator / denominator).mean(dim=(1, 2, 3))


def test_luminance_is_one_at_the_desired_mean_and_falls_beside_it():
    flat = torch.full((1, 1, 20, 20), 0.2)
    sources = torch.cat([flat, flat + 0.6], dim=1)  # as far from mid-grey below as above
    l_hat = windows.desired_luminance(sources)
    near, far = (luminance(flat * 0 + level, l_hat) for level in (0.5, 0.1))
    assert near.item() == pytest.approx(1, abs=1e-6)
    c = 0.01**2
    assert far.item() == pytest.approx((2 * 0.1 * 0.5 + c) / (0.1**2 + 0.5**2 + c), abs=1e-6)
    y_f = flat * 0 + 0.1
    penalised = mef_ssim(y_f, sources, scales=1, luminance_weight=0.5)
    expected = mef_ssim(y_f, sources, scales=1) - 0.5 * (1 - far)
    torch.testing.assert_close(penalised, expected)


def test_multi_scale_scores_below_zero_keep_a_useful_gradient():
    y_f, _ = random_stack(n=1)
    sources = y_f.expand(-1, 2, -1, -1)
    inverted = (1 - y_f).requires_grad_()
    value = mef_ssim(inverted, sources)
    value.backward()
    assert 0 < value.item() < 0.01
    assert (inverted.grad * (y_f - inverted)).sum() > 0  # uphill is towards the target


def test_loss_module_returns_loss_and_y_hat():
    y_f, sources = random_stack(count=3)
    y_1, y_2, y_3 = sources.split(1, dim=1)
    value, target = MEF_SSIM_Loss()(y_1, y_2, y_f, y_3)
    # The module computes in the widest of its inputs' types, float32 at least.
    torch.testing.assert_close(value, 1 - mef_ssim(y_f, sources).mean())
    torch.testing.assert_close(target, y_hat(sources))


def test_the_teacher_is_an_exposure_between_the_others():
    """It is the answer without loss; the others are what the network sees."""
    stack = luma(2, 4, 3, 30, 30) * 0.2 + 0.4
    stack[:, :, 0] += torch.linspace(-0.2, 0.2, 4).reshape(1, 4, 1, 1)
    noise = 0.01 * torch.ones(2, 4, 30, 30)
    teachers = set()
    for seed in range(20):
        torch.manual_seed(seed)

        def network(seen, wanted, area):
            means = stack[:, :, 0].mean(dim=(2, 3))  # (2, 4)
            k = next(k for k in range(4) if torch.equal(wanted, means[:, k]))
            teachers.add(k)
            others = [i for i in range(4) if i != k]
            assert torch.equal(seen[:, :, 1:], stack[:, others, 1:])
            torch.testing.assert_close(seen[:, :, 0], stack[:, others, 0] + 0.01)
            return stack[:, k][(..., *area)]

        assert loss.BetweenLoss().losses(network, stack, noise).abs().max() < 1e-6
    assert teachers == {1, 2}


def test_a_tint_counts_more_than_noise_of_its_size():
    teacher = torch.full((1, 3, 32, 32), 0.5)
    tint, noise = teacher.clone(), teacher.clone()
    tint[:, 1] += 0.02
    noise[:, 1] += 0.02 * (2 * torch.randint(2, (32, 32)) - 1)
    criterion = loss.BetweenLoss()
    assert criterion.sample_losses(teacher, teacher).item() == pytest.approx(0, abs=1e-6)
    assert criterion.sample_losses(tint, teacher) > 1.5 * criterion.sample_losses(noise, teacher)
    sharp = torch.rand(1, 3, 32, 32)
    blurred = sharp.mean(dim=(2, 3), keepdim=True).expand_as(sharp)
    assert criterion.sample_losses(blurred, sharp) > 0.1


def test_texture_out_of_place_is_nearer_than_none():
    """Pixel by pixel it is not: where a network is not sure, it would blur."""
    teacher = torch.full((1, 3, 64, 64), 0.5)
    teacher[:, 0] += 0.1 * (torch.rand(64, 64, generator=torch.Generator().manual_seed(0)) - 0.5)
    moved, blurred = teacher.roll(1, dims=3), torch.full_like(teacher, 0.5)
    criterion = loss.BetweenLoss()
    assert criterion.distance(moved - teacher) > criterion.distance(blurred - teacher)
    assert criterion.sample_losses(moved, teacher) < criterion.sample_losses(blurred, teacher)


def test_half_precision_is_scored_in_float32():
    y_f, sources = random_stack(dtype=torch.float32)
    value = mef_ssim(y_f.bfloat16(), sources.bfloat16())
    assert value.dtype == torch.float32
    torch.testing.assert_close(value, mef_ssim(y_f.bfloat16().float(), sources.bfloat16().float()))


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU")
def test_cuda_equals_cpu():
    y_f, sources = random_stack(dtype=torch.float32)
    # float32 arithmetic on both, in another order
    torch.testing.assert_close(
        mef_ssim(y_f.cuda(), sources.cuda()).cpu(), mef_ssim(y_f, sources), atol=1e-5, rtol=0
    )


@pytest.mark.parametrize(
    ("y_f", "sources", "message"),
    [
        ((1, 1, 40, 60), (1, 2, 40, 60), "at least 41 pixels a side, not 60x40"),
        ((1, 1, 50, 60), (1, 1, 50, 60), "K >= 2"),
        ((1, 1, 50, 60), (1, 2, 50, 61), "differ in size"),
        ((2, 1, 50, 60), (1, 2, 50, 60), "differ in size"),
    ],
)
def test_inputs_that_do_not_fit(y_f, sources, message):
    with pytest.raises(ValueError, match=message):
        mef_ssim(torch.rand(y_f), torch.rand(sources))


def test_smallest_sizes_work():
    y_f, sources = random_stack(height=41, width=41)
    assert mef_ssim(y_f, sources).shape == (2,)
    assert mef_ssim(y_f[..., :11, :11], sources[..., :11, :11], scales=1).shape == (2,)
