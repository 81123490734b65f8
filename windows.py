"""What does MEF-SSIM see in every window? The desired window y_hat, and how near a picture is.

K. Ma, K. Zeng, Z. Wang, "Perceptual Quality Assessment for Multi-Exposure Image Fusion", IEEE TIP
24(11), 2015. In every 11x11 window the sources x_k are split into mean l_k, contrast c_k and
structure s_k. The highest contrast and the weighted structure make the desired window y_hat. The
fused window is compared with y_hat as SSIM does, without luminance.

y_hat is a linear combination of the sources, y_hat = sum_k b_k (x_k - l_k), with one set of b_k for
every window. All quantities below are therefore sums of windowed means and covariances.
"""

import math
from collections.abc import Callable
from typing import NamedTuple

import cv2
import numpy as np
import torch
from torch.nn import functional as F

from arrays import halve

WINDOW = 11  # pixels a side
SIGMA = 1.5  # pixels; standard deviation of SSIM's Gaussian window
GAUSSIAN = cv2.getGaussianKernel(WINDOW, SIGMA)[:, 0]  # a side of that window; its sum is 1
BOX = np.ones(WINDOW)  # a side of the window that counts all pixels alike
SCALE_WEIGHTS = (0.0448, 0.2856, 0.3001)  # weights of the scales, finest first
EXPONENTS = [weight / sum(SCALE_WEIGHTS) for weight in SCALE_WEIGHTS]
CONTRAST_FLOOR = 0.001 / 255  # on the scale [0, 1]; added to every c_k
MAX_EXPONENT = 10  # highest power of the contrasts in the structures' weights
C_1, C_2 = 0.01**2, 0.03**2  # SSIM's constants, which keep its terms finite


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
    variance = torch.stack([covariance[k, k] for k in range(count)], 1)
    # A constant window's variance comes out as rounding noise. Taken for structure, it would be
    # divided by its own size. An 8-bit window's variance is 0 or at least twice this threshold.
    eps = float(torch.finfo(sources.dtype).eps)
    varies = variance > eps / 2
    deviation = varies * torch.sqrt(variance.clip(min=eps / 2))  # (N, K, h, w)

    def norm(b: torch.Tensor) -> torch.Tensor:
        """Returns ||sum_k b_k (x_k - l_k)|| of every window; b has to bring it to order 1."""
        total = deviation.new_zeros(())
        for j, k in covariance:
            limit = deviation[:, j] * deviation[:, k]
            if j == k:
                total = total + b[:, j] ** 2 * limit
            else:  # Rounding may break the Cauchy-Schwarz inequality.
                value = covariance[j, k].clip(-limit, limit)
                total = total + 2 * b[:, j] * b[:, k] * value
        # Structures that cancel leave rounding noise; the floor keeps it small.
        return torch.sqrt((WINDOW**2 * total).clip(min=eps**0.75))[:, None]

    total_contrast = WINDOW * deviation.sum(dim=1, keepdim=True)
    shares = (1 / (total_contrast + eps)).expand_as(deviation)
    consistency = norm(shares)  # R, (N, 1, h, w)
    # In floating point tan(pi/2) is not infinity, so the exponent is limited by tan's argument.
    highest = math.atan(MAX_EXPONENT) * 2 / math.pi
    exponent = torch.tan(math.pi / 2 * consistency.clip(max=highest))
    contrast = WINDOW * deviation + CONTRAST_FLOOR  # c_k
    # This is (c_k * 255 / 11)^q, normalised over k; a softmax can neither overflow nor vanish.
    weight = (exponent * torch.log(contrast * (255 / WINDOW))).softmax(1)
    s_bar = varies * weight / contrast  # sum_k w_k s_k, as coefficients of x_k - l_k
    c_hat = torch.amax(contrast, dim=1, keepdim=True)
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
    square = ((sources * 2 - 1) ** 2).sum(dim=(2, 3), keepdim=True)  # (N, 2, 1, 1)
    larger = square[:, :1] > square[:, 1:]
    under = larger * torch.ones_like(square[:, :1]) - 0.25
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
    mean, square, products = means[:, :1], means[:, 1:2], means[:, 2:]
    covariance = (desired.b * (products - mean * desired.mean)).sum(dim=1, keepdim=True)
    return 2 * covariance + C_2, desired.variance + square - mean**2 + C_2, mean + 0.5


def desired_luminance(sources: torch.Tensor) -> torch.Tensor:
    """Returns a natural brightness l_hat for every 11x11 window.

    A source weighs more the nearer its local and global means are to mid-grey (K. Ma et al., "Deep
    Guided Learning for Fast Multi-Exposure Image Fusion", IEEE TIP 29, 2020).

    sources: (N, K, H, W) in [0, 1]. Returns (N, 1, H-10, W-10).
    """
    local = box_mean(sources)
    image_means = sources.mean(dim=(2, 3), keepdim=True)
    v = (-((image_means - 0.5) ** 2 + (local - 0.5) ** 2) / (2 * 0.2**2)).softmax(1)
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
    x = [stack[:, k] - 0.5 for k in range(count)]
    planes = [*x, *(x[j] * x[k] for j, k in pairs)]
    means = window_mean(torch.stack(planes, 1))
    mean = means[:, :count]
    return mean, {
        (j, k): means[:, i] - mean[:, j] * mean[:, k] for i, (j, k) in enumerate(pairs, count)
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
        return torch.from_numpy(filtered(x.detach().numpy(), kernel))
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


def filtered(x: np.ndarray, kernel: np.ndarray) -> np.ndarray:
    """Does what separable does by OpenCV, in a quarter of the time of PyTorch's convolutions."""
    margin = len(kernel) // 2
    height, width = x.shape[-2:]
    sums = np.empty(x.shape, x.dtype)
    for plane, out in zip(
        x.reshape(-1, height, width), sums.reshape(-1, height, width), strict=True
    ):
        cv2.sepFilter2D(plane, -1, kernel, kernel, dst=out)
    return sums[..., margin : height - margin, margin : width - margin]


def possible_scales(height: int, width: int) -> int:
    """Returns the number of scales, 0 to 3, at which a picture is no smaller than the window."""
    side = min(height, width)
    return sum(side > (WINDOW - 1) * 2**i for i in range(len(SCALE_WEIGHTS)))
