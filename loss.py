"""How good is a fused picture? MEF-SSIM as a score, a loss and a picture (y_hat); a loss of colour.

K. Ma, K. Zeng, Z. Wang, "Perceptual Quality Assessment for Multi-Exposure Image Fusion", IEEE TIP
24(11), 2015. In every 11x11 window the sources x_k are split into mean l_k, contrast c_k and
structure s_k. The highest contrast and the weighted structure make the desired window y_hat. The
fused window is compared with y_hat as SSIM does, without luminance.

y_hat is a linear combination of the sources, y_hat = sum_k b_k (x_k - l_k), with one set of b_k for
every window. All quantities below are therefore sums of windowed means and covariances.
"""

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import cv2
import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

WINDOW = 11  # pixels a side
SIGMA = 1.5  # pixels; standard deviation of SSIM's Gaussian window
GAUSSIAN = cv2.getGaussianKernel(WINDOW, SIGMA)[:, 0]  # a side of that window; its sum is 1
BOX = np.ones(WINDOW)  # a side of the window that counts all pixels alike
SCALE_WEIGHTS = (0.0448, 0.2856, 0.3001)  # weights of the scales, finest first
EXPONENTS = [weight / sum(SCALE_WEIGHTS) for weight in SCALE_WEIGHTS]
CONTRAST_FLOOR = 0.001 / 255  # on the scale [0, 1]; added to every c_k
MAX_EXPONENT = 10  # highest power of the contrasts in the structures' weights
DARK, CLIPPED = 0.05, 0.96  # on the scale [0, 1]; luma and channels that tell no colour
XYZ_OF_SRGB = (  # IEC 61966-2-1
    (0.4124, 0.3576, 0.1805),
    (0.2126, 0.7152, 0.0722),
    (0.0193, 0.1192, 0.9505),
)
C_1, C_2 = 0.01**2, 0.03**2  # SSIM's constants, which keep its terms finite
LOWEST_SCORE = 0.01  # score of one scale; below it, tangent_log replaces the logarithm


def mef_ssim(
    y_f: torch.Tensor,
    sources: torch.Tensor,
    scales: int = 3,
    target: str = "patch",
    luminance_weight: float = 0.0,
) -> torch.Tensor:
    """Scores fused luma against its exposure stack by MEF-SSIM, one score a sample.

    y_f: fused luma, shape (N, 1, H, W), values in [0, 1].
    sources: exposure stack, shape (N, K, H, W), values in [0, 1], K >= 2.
    scales: 1 for Q of the paper, 3 for the product of Q_i^b_i that the MEFB benchmark reports.
    target: "patch" for Ma et al.; "global" for the linear blend that the earlier implementation
        trains against (see global_coefficients), for K = 2 only.
    luminance_weight: the weight w in Q - w * (1 - L), where L is SSIM's luminance term, see
        compare_luminance.

    Returns shape (N,), at most 1, computed in float32 or wider whatever the inputs' type is.
    Raises ValueError where shapes do not fit or the picture is smaller than the coarsest window.
    """
    y_f, sources = checked_inputs(y_f, sources, scales)
    penalty: float | torch.Tensor = 0.0
    if luminance_weight:
        numerator, denominator = compare_luminance(box_mean(y_f), desired_luminance(sources))
        penalty = luminance_weight * (1 - (numerator / denominator).mean(dim=(1, 2, 3)))
    q = []
    levels = zip(scale_levels(y_f, scales), desired_windows(sources, scales, target), strict=True)
    for level, desired in levels:
        numerator, denominator, _ = compare(level, desired)
        q.append((numerator / denominator).mean(dim=(1, 2, 3)))
    return combine_scales(q) - penalty


def combine_scales(q: Sequence[torch.Tensor]) -> torch.Tensor:
    """Returns the product of Q_i^b_i over all scales, finest first; Q itself for one scale."""
    if len(q) == 1:
        return q[0]
    logs = [b * tangent_log(q_i) for b, q_i in zip(EXPONENTS, q, strict=True)]
    return sum(logs[1:], logs[0]).exp()


def y_hat(sources: torch.Tensor, target: str = "patch") -> torch.Tensor:
    """Returns the desired picture, with which the fused one is compared, at the finest scale.

    For "patch", every window has sum_k b_k (x_k - l_k) plus the mean of its l_k, and a pixel is the
    mean over the windows that hold it; values may leave [0, 1]. For "global", y_hat is the blend.

    sources: shape (N, K, H, W), values in [0, 1]. Returns shape (N, 1, H, W).
    """
    sources = sources.to(torch.promote_types(sources.dtype, torch.float32))
    b = coefficients_of(target)(sources)
    if target == "global":
        return (b * sources).sum(dim=1, keepdim=True)
    mean = box_mean(sources)  # l_k at every window
    level = mean.mean(dim=1, keepdim=True) - (b * mean).sum(dim=1, keepdim=True)
    maps = F.pad(torch.cat([b, level, torch.ones_like(level)], dim=1), [WINDOW - 1] * 4)
    b, level, covered = box_mean(maps).split([b.shape[1], 1, 1], dim=1)
    return ((b * sources).sum(dim=1, keepdim=True) + level) / covered


class MEF_SSIM_Loss(nn.Module):
    """1 - MEF-SSIM as a loss, averaged over the batch, and the y_hat picture.

    The options are mef_ssim's. forward takes two source lumas, the fused luma and, after it, any
    further sources, each (N, 1, H, W) in [0, 1]; for target "global" y_1 is the under- and y_2
    the over-exposed one. Returns (loss, y_hat): a scalar and, without gradient, (N, 1, H, W).
    Training calls `losses`, which computes no y_hat.
    """

    def __init__(
        self, scales: int = 3, target: str = "patch", luminance_weight: float = 0.0
    ) -> None:
        super().__init__()
        self.scales = scales
        self.target = target
        self.luminance_weight = luminance_weight

    def sample_losses(self, y_f: torch.Tensor, sources: torch.Tensor) -> torch.Tensor:
        """Returns every sample's loss, shape (N,). Takes tensors and raises as mef_ssim does."""
        return 1 - mef_ssim(y_f, sources, self.scales, self.target, self.luminance_weight)

    def losses(
        self, network: Callable, stack: torch.Tensor, noise: torch.Tensor | float
    ) -> torch.Tensor:
        """Returns every sample's loss, shape (N,), of the luma that a network fuses.

        stack: Y, Cb, Cr of the exposures, (N, K, 3, H, W) in [0, 1]. noise: (N, K, H, W) or 0; the
        network sees it added to the luma, but the loss does not.
        """
        y = stack[:, :, 0]  # (N, K, H, W)
        return self.sample_losses(network(*(y + noise).split(1, dim=1)), y)

    def forward(
        self, y_1: torch.Tensor, y_2: torch.Tensor, y_f: torch.Tensor, *more: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        sources = torch.cat([y_1, y_2, *more], dim=1)
        loss = self.sample_losses(y_f, sources).mean()
        with torch.no_grad():
            return loss, y_hat(sources, self.target)


class ColourLoss(nn.Module):
    """Distance of a network's chroma from that of an exposure between the others, its teacher.

    The network sees the other exposures and, as the wanted luma, the teacher's. The loss is the
    chroma_distance where the teacher is neither dark nor clipped, divided by 100.
    """

    def losses(
        self, network: Callable, stack: torch.Tensor, noise: torch.Tensor | float
    ) -> torch.Tensor:
        """Returns every sample's loss, shape (N,). PyTorch's generator draws the teacher.

        stack: three or more exposures, dark to bright, (N, K, 3, H, W) of Y, Cb, Cr in [0, 1].
        noise: (N, K, H, W) or 0; it is added to the luma of the exposures that the network sees.
        """
        count = stack.shape[1]
        k = 1 + int(torch.randint(count - 2, ()))
        seen = stack.clone()
        seen[:, :, 0] += noise
        others = [i for i in range(count) if i != k]
        cbcr = network(seen[:, others], stack[:, k, :1])
        return self.sample_losses(cbcr, stack[:, k])

    def sample_losses(self, cbcr: torch.Tensor, teacher: torch.Tensor) -> torch.Tensor:
        """Returns every sample's loss, shape (N,), at most some 1.

        cbcr: (N, 2, H, W); teacher: (N, 3, H, W); both in [0, 1].
        """
        distance = chroma_distance(torch.cat([teacher[:, :1], cbcr], dim=1), teacher)
        counts = ((teacher[:, 0] > DARK) & (to_rgb(teacher).amax(dim=1) < CLIPPED)).float()
        total = counts.sum(dim=(1, 2)).clamp(min=1)
        return (distance * counts).sum(dim=(1, 2)) / (100 * total)


def chroma_distance(ycbcr: torch.Tensor, other: torch.Tensor) -> torch.Tensor:
    """Returns the distance of two pictures' colours in a* and b* of CIELAB (D65), (N, H, W).

    ycbcr, other: (N, 3, H, W) of Y, Cb, Cr in [0, 1], taken for sRGB.
    """
    difference = to_ab(ycbcr) - to_ab(other)
    # The root's slope has a bound, where colours are equal too.
    return (difference.square().sum(dim=1) + 0.01).sqrt() - 0.1


def to_ab(ycbcr: torch.Tensor) -> torch.Tensor:
    """Converts (N, 3, H, W) of Y, Cb, Cr in [0, 1] to a* and b* of CIELAB (D65), (N, 2, H, W)."""
    rgb = to_rgb(ycbcr).clamp(1e-4, 1)
    linear = torch.where(rgb > 0.04045, ((rgb + 0.055) / 1.055) ** 2.4, rgb / 12.92)
    matrix = torch.tensor(XYZ_OF_SRGB, dtype=rgb.dtype, device=rgb.device)
    matrix = matrix / matrix.sum(dim=1, keepdim=True)  # White has X = Y = Z = 1.
    xyz = torch.einsum("ij,njhw->nihw", matrix, linear)
    root = torch.where(
        xyz > (6 / 29) ** 3, xyz.clamp(min=1e-6) ** (1 / 3), xyz * 841 / 108 + 4 / 29
    )
    x, y, z = root.unbind(dim=1)
    return torch.stack([500 * (x - y), 200 * (y - z)], dim=1)


def to_rgb(ycbcr: torch.Tensor) -> torch.Tensor:
    """Converts (N, 3, H, W) of Y, Cb, Cr in [0, 1] (JFIF) to RGB, which may leave [0, 1]."""
    y, cb, cr = ycbcr[:, 0], ycbcr[:, 1] - 0.5, ycbcr[:, 2] - 0.5
    red, blue = y + 1.402 * cr, y + 1.772 * cb
    return torch.stack([red, (y - 0.299 * red - 0.114 * blue) / 0.587, blue], dim=1)


def coefficients_of(target: str) -> Callable[[torch.Tensor], torch.Tensor]:
    """Returns the function that gives a target's b_k; ValueError where there is no such target."""
    if target not in ("patch", "global"):
        raise ValueError(f"target must be 'patch' or 'global', not {target!r}")
    return patch_coefficients if target == "patch" else global_coefficients


def patch_coefficients(sources: torch.Tensor) -> torch.Tensor:
    """Returns the b_k of Ma et al.'s y_hat = c_hat * s_hat for every window.

    sources: (N, K, H, W) in [0, 1]. Returns (N, K, H-10, W-10).
    """
    count = sources.shape[1]
    _, covariance = moments(sources, box_mean)  # {(j, k): (N, h, w)}, j <= k
    variance = torch.stack([covariance[k, k] for k in range(count)], dim=1)
    # A constant window's variance comes out as rounding noise. Taken for structure, it would be
    # divided by its own size. An 8-bit window's variance is 0 or at least twice this threshold.
    eps = torch.finfo(sources.dtype).eps
    varies = variance > eps / 2
    deviation = varies * variance.clamp(min=eps / 2).sqrt()  # (N, K, h, w)

    def norm(b):
        """Returns ||sum_k b_k (x_k - l_k)|| of every window; b has to bring it to order 1."""
        total = 0.0
        for j, k in covariance:
            limit = deviation[:, j] * deviation[:, k]
            if j == k:
                total = total + b[:, j] ** 2 * limit
            else:  # Rounding may break the Cauchy-Schwarz inequality.
                value = covariance[j, k].clamp(-limit, limit)
                total = total + 2 * b[:, j] * b[:, k] * value
        # Structures that cancel leave rounding noise; the floor keeps it small.
        return (WINDOW**2 * total).clamp(min=eps**0.75).sqrt()[:, None]

    total_contrast = WINDOW * deviation.sum(dim=1, keepdim=True)
    consistency = norm((1 / (total_contrast + eps)).expand_as(deviation))  # R, (N, 1, h, w)
    # In floating point tan(pi/2) is not infinity, so the exponent is limited by tan's argument.
    highest = math.atan(MAX_EXPONENT) * 2 / math.pi
    exponent = torch.tan(math.pi / 2 * consistency.clamp(max=highest))
    contrast = WINDOW * deviation + CONTRAST_FLOOR  # c_k
    # This is (c_k * 255 / 11)^q, normalised over k; a softmax can neither overflow nor vanish.
    weight = torch.softmax(exponent * (contrast * (255 / WINDOW)).log(), dim=1)
    s_bar = varies * weight / contrast  # sum_k w_k s_k, as coefficients of x_k - l_k
    c_hat = contrast.amax(dim=1, keepdim=True)
    return s_bar * c_hat / norm(s_bar)


def global_coefficients(sources: torch.Tensor) -> torch.Tensor:
    """Returns the coefficients of the blend that the earlier implementation trains against.

    Its target is y_hat = c_hat * s_hat + (y_2 + mu)/2 with mu = (y_1 + y_2)/2. The two structures
    cancel to a sign there. What is left is 0.75 y_1 + 0.25 y_2 where y_1 has the larger norm, else
    1.25 y_2 - 0.25 y_1. The earlier implementation takes one norm over the whole batch. Here it is
    taken over a sample, so that a sample's loss does not depend on the others.

    sources: (N, 2, H, W) in [0, 1]. Returns (N, 2, 1, 1). Raises ValueError unless there are two.
    """
    if sources.shape[1] != 2:
        raise ValueError(f"target 'global' is defined for 2 sources, not {sources.shape[1]}")
    norm = torch.linalg.vector_norm(sources * 2 - 1, dim=(2, 3), keepdim=True)  # (N, 2, 1, 1)
    under = torch.where(norm[:, :1] > norm[:, 1:], 0.75, -0.25).to(sources.dtype)
    return torch.cat([under, 1 - under], dim=1)


class Desired(NamedTuple):
    """The desired windows y_hat = sum_k b_k (x_k - l_k) at one scale.

    x: the sources less 0.5, (N, K, H, W).
    mean: the Gaussian-weighted means of x, (N, K, h, w).
    b: the coefficients, (N, K, h, w) or (N, K, 1, 1).
    variance: the Gaussian-weighted variance of y_hat, (N, 1, h, w).
    """

    x: torch.Tensor
    mean: torch.Tensor
    b: torch.Tensor
    variance: torch.Tensor


def desired_windows(sources: torch.Tensor, scales: int = 3, target: str = "patch") -> list[Desired]:
    """Returns the Desired windows of every scale, finest first.

    They serve any number of comparisons with these sources, (N, K, H, W) in [0, 1].
    """
    return [desired_at_scale(level, target) for level in scale_levels(sources, scales)]


def desired_at_scale(sources: torch.Tensor, target: str = "patch") -> Desired:
    """Returns the Desired windows of sources (N, K, H, W), which are at their scale already."""
    b = coefficients_of(target)(sources)
    mean, covariance = moments(sources, gaussian_mean)
    terms = [
        (1 if j == k else 2) * b[:, j] * b[:, k] * value for (j, k), value in covariance.items()
    ]
    return Desired(sources - 0.5, mean, b, sum(terms[1:], terms[0])[:, None])


def compare(y_f: torch.Tensor, desired: Desired) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Compares fused luma with y_hat by SSIM's contrast-structure term, in every window of a scale.

    y_f: (N, 1, H, W) in [0, 1]. Returns the term's numerator and denominator, and the windows'
    means of y_f, each (N, 1, H-10, W-10).
    """
    y = y_f - 0.5
    means = gaussian_mean(torch.cat([y, y * y, y * desired.x], dim=1))
    mean, square, products = means.split([1, 1, desired.x.shape[1]], dim=1)
    covariance = (desired.b * (products - mean * desired.mean)).sum(dim=1, keepdim=True)
    return 2 * covariance + C_2, desired.variance + square - mean**2 + C_2, mean + 0.5


def desired_luminance(
    sources: torch.Tensor,
    image_means: torch.Tensor | None = None,
    window_mean: Callable[[torch.Tensor], torch.Tensor] | None = None,
) -> torch.Tensor:
    """Returns a natural brightness l_hat for every 11x11 window.

    A source weighs more the nearer its local and global means are to mid-grey (K. Ma et al., "Deep
    Guided Learning for Fast Multi-Exposure Image Fusion", IEEE TIP 29, 2020).

    sources: (N, K, H, W) in [0, 1]. Returns (N, 1, H-10, W-10).
    image_means: the global means, (N, K, 1, 1), if the sources are parts of larger pictures.
    window_mean: gaussian_mean or, by default, box_mean.
    """
    local = (window_mean or box_mean)(sources)
    if image_means is None:
        image_means = sources.mean(dim=(2, 3), keepdim=True)
    v = torch.softmax(-((image_means - 0.5) ** 2 + (local - 0.5) ** 2) / (2 * 0.2**2), dim=1)
    return (v * local).sum(dim=1, keepdim=True)


def compare_luminance(l_f: torch.Tensor, l_hat: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Compares windows' fused means l_f with the desired l_hat by SSIM's luminance term.

    Returns the term's numerator and denominator, of the means' shape.
    """
    return 2 * l_f * l_hat + C_1, l_f**2 + l_hat**2 + C_1


def moments(
    stack: torch.Tensor, window_mean: Callable[[torch.Tensor], torch.Tensor]
) -> tuple[torch.Tensor, dict[tuple[int, int], torch.Tensor]]:
    """Returns windowed means less 0.5, and the windowed covariances of all channel pairs.

    Pixels are centred first, because E[xy] - E[x]E[y] loses digits where means are large.

    stack: (N, C, H, W) in [0, 1]. Returns (N, C, h, w) and {(j, k): (N, h, w)} for j <= k.
    """
    count = stack.shape[1]
    pairs = [(j, k) for j in range(count) for k in range(j, count)]
    x = (stack - 0.5).unbind(dim=1)
    means = window_mean(torch.stack([*x, *(x[j] * x[k] for j, k in pairs)], dim=1))
    mean, products = means[:, :count], means[:, count:].unbind(dim=1)
    return mean, {
        (j, k): product - mean[:, j] * mean[:, k]
        for (j, k), product in zip(pairs, products, strict=True)
    }


def scale_levels(x: torch.Tensor, scales: int) -> list[torch.Tensor]:
    """Returns the picture at every scale, finest first."""
    levels = [x]
    while len(levels) < scales:
        levels.append(halve(levels[-1]))
    return levels


def box_mean(x: torch.Tensor) -> torch.Tensor:
    """Returns every channel's mean over every valid 11x11 window, (N, C, H-10, W-10)."""
    # Division after the sum keeps the mean of a constant such as 1 or 0.5 exact.
    return separable(x, BOX) / WINDOW**2


def gaussian_mean(x: torch.Tensor) -> torch.Tensor:
    """Returns every channel's Gaussian-weighted mean over every window, (N, C, H-10, W-10)."""
    return separable(x, GAUSSIAN)


def separable(x: torch.Tensor, kernel: np.ndarray) -> torch.Tensor:
    """Correlates every channel with the window kernel x kernel^T, at valid positions only."""
    if x.device.type == "cpu" and not (x.requires_grad and torch.is_grad_enabled()):
        return filtered(x, kernel)
    if x.shape[1] == 1 < len(x):  # Several channels are faster than as many samples.
        return separable(x.transpose(0, 1), kernel).transpose(0, 1)
    channels = x.shape[1]
    if x.device.type == "cpu":
        # On a CPU, a depthwise convolution is many times faster in channels-last order. On CUDA
        # that order would lead to cuDNN's TF32, which is not float32.
        x = x.contiguous(memory_format=torch.channels_last)
    taps = torch.as_tensor(kernel, dtype=x.dtype, device=x.device)
    column = taps.view(1, 1, -1, 1).expand(channels, 1, -1, 1)
    row = taps.view(1, 1, 1, -1).expand(channels, 1, 1, -1)
    with torch.autocast(x.device.type, enabled=False):
        return F.conv2d(F.conv2d(x, column, groups=channels), row, groups=channels)


def filtered(x: torch.Tensor, kernel: np.ndarray) -> torch.Tensor:
    """Does what separable does, on a CPU and without gradients."""
    margin = len(kernel) // 2
    sums = opencv_sums(x.detach().flatten(0, 1), kernel).unflatten(0, x.shape[:2])
    height, width = x.shape[-2:]
    return sums[..., margin : height - margin, margin : width - margin]


def window_sums(planes: torch.Tensor) -> torch.Tensor:
    """Returns planes' Gaussian-weighted sums around every pixel, without gradients, (C, H, W).

    Where a window holds a pixel's value, the sums are also the transpose: every pixel's sum over
    the windows that hold it. Beyond the border, planes are 0.
    """
    if planes.device.type == "cpu":
        return opencv_sums(planes, GAUSSIAN)
    return gaussian_mean(F.pad(planes, [WINDOW // 2] * 4)[None])[0]


def opencv_sums(planes: torch.Tensor, kernel: np.ndarray) -> torch.Tensor:
    """Correlates planes (C, H, W) with kernel x kernel^T by OpenCV; 0 beyond the border.

    On one core, it takes a quarter of the time of PyTorch's convolutions on two.
    """
    sums = torch.empty_like(planes, memory_format=torch.contiguous_format)
    for plane, out in zip(planes.contiguous().numpy(), sums.numpy(), strict=True):
        cv2.sepFilter2D(plane, -1, kernel, kernel, dst=out, borderType=cv2.BORDER_CONSTANT)
    return sums


def halve(x: torch.Tensor) -> torch.Tensor:
    """Returns the means of 2x2 pixels; the last row or column of an odd side is repeated."""
    # On a CPU, F.avg_pool2d takes 5 times as long.
    first, second = x[..., ::2, :], x[..., 1::2, :]
    if x.shape[-2] % 2:
        second = torch.cat([second, x[..., -1:, :]], dim=-2)
    rows = first + second
    first, second = rows[..., ::2], rows[..., 1::2]
    if x.shape[-1] % 2:
        second = torch.cat([second, rows[..., -1:]], dim=-1)
    return (first + second) / 4


def unhalve(maps: torch.Tensor, shape: Sequence[int]) -> torch.Tensor:
    """Gives every pixel the value of the pixel that it is part of after halve.

    A row or column that halve repeats gets it twice, so that the result is the transpose of halve,
    times 4. shape: height and width of the finer picture.
    """
    height, width = shape
    maps = F.interpolate(maps, scale_factor=2)[..., :height, :width]
    if height % 2:
        maps[..., -1, :] *= 2
    if width % 2:
        maps[..., -1] *= 2
    return maps


def tangent_log(q: torch.Tensor) -> torch.Tensor:
    """Returns log(q), continued below LOWEST_SCORE by its tangent.

    An untrained network can score below zero, where a product of powers has no value. With the
    tangent the loss stays finite, and still falls as q rises.
    """
    return q.clamp(min=LOWEST_SCORE).log() + (q - LOWEST_SCORE).clamp(max=0) / LOWEST_SCORE


def checked_inputs(
    y_f: torch.Tensor, sources: torch.Tensor, scales: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """Returns mef_ssim's inputs in float32 or wider; ValueError where they do not fit."""
    if scales not in (1, 3):
        raise ValueError(f"scales must be 1 or 3, not {scales}")
    if y_f.dim() != 4 or sources.dim() != 4 or y_f.shape[1] != 1 or sources.shape[1] < 2:
        raise ValueError(
            "expected fused luma (N, 1, H, W) and sources (N, K >= 2, H, W), not "
            f"{tuple(y_f.shape)} and {tuple(sources.shape)}"
        )
    if y_f.shape[0] != sources.shape[0] or y_f.shape[2:] != sources.shape[2:]:
        raise ValueError(
            f"fused luma {tuple(y_f.shape)} and sources {tuple(sources.shape)} differ in size"
        )
    check_size(y_f.shape[2], y_f.shape[3], scales)
    dtype = torch.promote_types(torch.promote_types(y_f.dtype, sources.dtype), torch.float32)
    return y_f.to(dtype), sources.to(dtype)


def check_size(height: int, width: int, scales: int = 3) -> None:
    """Raises ValueError where a picture is smaller than the window at the coarsest scale."""
    if possible_scales(height, width) < scales:
        smallest = (WINDOW - 1) * 2 ** (scales - 1) + 1
        raise ValueError(
            f"MEF-SSIM at {scales} scale(s) needs pictures of at least {smallest} pixels a side, "
            f"not {width}x{height}"
        )


def possible_scales(height: int, width: int) -> int:
    """Returns the number of scales, 0 to 3, at which a picture is no smaller than the window."""
    side = min(height, width)
    return sum(side > (WINDOW - 1) * 2**i for i in range(len(SCALE_WEIGHTS)))
