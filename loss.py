"""How good is a fused picture? MEF-SSIM as a score, a loss, a picture (y_hat). And one told?

The windows of MEF-SSIM are those of windows.py.
"""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F

from windows import (
    EXPONENTS,
    WINDOW,
    box_mean,
    coefficients_of,
    compare,
    compare_luminance,
    desired_luminance,
    desired_windows,
    possible_scales,
    scale_levels,
)

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
        self, network: Callable[..., Any], stack: torch.Tensor, noise: torch.Tensor | float
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


class BetweenLoss(nn.Module):
    """Distance of an exposure that a network tells from the one that the camera took, its teacher.

    The teacher lies between the others, which the network sees. Its mean luma is what the network
    is asked for. The loss compares the pixels, means of COARSE x COARSE pixels, where noise does
    not hide a tint, the luma's steps from pixel to pixel, and how large these are on the mean of
    such a square: a network that is not sure where texture lies would tell none.
    """

    SHARE = 0.6  # side of the square that a sample's loss is computed on, by the crop's
    COARSE = 8

    def losses(
        self, network: Callable[..., Any], stack: torch.Tensor, noise: torch.Tensor | float
    ) -> torch.Tensor:
        """Returns every sample's loss, shape (N,). PyTorch's generator draws teacher and square.

        stack: three or more exposures, dark to bright, (N, K, 3, H, W) of Y, Cb, Cr in [0, 1].
        noise: (N, K, H, W) or 0; it is added to the luma of the exposures that the network sees.
        """
        count, (height, width) = stack.shape[1], stack.shape[-2:]
        k = 1 + int(torch.randint(count - 2, ()))
        side = max(round(self.SHARE * min(height, width)), 1)
        top, left = (int(torch.randint(length - side + 1, ())) for length in (height, width))
        area = slice(top, top + side), slice(left, left + side)
        seen = stack.clone()
        seen[:, :, 0] += noise
        others = [i for i in range(count) if i != k]
        teacher = stack[:, k]
        told = network(seen[:, others], teacher[:, 0].mean(dim=(1, 2)), area)
        return self.sample_losses(told, teacher[(..., *area)])

    def sample_losses(self, told: torch.Tensor, teacher: torch.Tensor) -> torch.Tensor:
        """Returns every sample's loss, shape (N,). told, teacher: (N, 3, H, W) of Y, Cb, Cr."""
        difference = told - teacher
        coarse = F.avg_pool2d(difference, self.COARSE, ceil_mode=True)
        steps = sum(difference[:, 0].diff(dim=axis).abs().mean(dim=(1, 2)) for axis in (1, 2))
        texture = sum(
            (self.texture(told, axis) - self.texture(teacher, axis)).abs().mean(dim=(1, 2))
            for axis in (1, 2)
        )
        return self.distance(difference) + self.distance(coarse) + steps / 2 + texture

    def texture(self, image: torch.Tensor, axis: int) -> torch.Tensor:
        """Returns the mean step of luma along an axis in every square, (N, H, W) / COARSE."""
        return F.avg_pool2d(image[:, 0].diff(dim=axis).abs(), self.COARSE, ceil_mode=True)

    @staticmethod
    def distance(difference: torch.Tensor) -> torch.Tensor:
        """Returns the mean of |Y| and three times the length of Cb and Cr, shape (N,)."""
        chroma = (difference[:, 1:].square().sum(dim=1) + 1e-6).sqrt() - 1e-3
        return (difference[:, 0].abs() + 3 * chroma).mean(dim=(1, 2))


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
