"""What do NumPy's arrays and PyTorch's tensors share? Enough for one formula to serve both.

Photos are fused without PyTorch, whose start takes longer than their fusion; training and GPUs need
it. Functions that serve both take and return either kind, never a mixture. They use what has one
name in both libraries, operators and `axis` above all, and what is here.
"""

from typing import TYPE_CHECKING, Any, TypeAlias

import cv2
import numpy as np

if TYPE_CHECKING:
    import torch

Array: TypeAlias = Any  # np.ndarray or torch.Tensor


def namespace(x: Array) -> Any:
    """Returns the module of an array's functions, numpy or torch."""
    if isinstance(x, np.ndarray):
        return np
    import torch

    return torch


def softmax(x: Array) -> Array:
    """Returns exp(x), divided by its sum over the second axis."""
    if not isinstance(x, np.ndarray):
        return x.softmax(1)
    powers = np.exp(x - x.max(axis=1, keepdims=True))
    return powers / powers.sum(axis=1, keepdims=True)


def halve(x: Array) -> Array:
    """Returns the means of 2x2 pixels; the last row or column of an odd side is repeated."""
    # On a CPU, PyTorch's avg_pool2d takes 5 times as long.
    xp = namespace(x)
    first, second = x[..., ::2, :], x[..., 1::2, :]
    if x.shape[-2] % 2:
        second = xp.concatenate([second, x[..., -1:, :]], axis=-2)
    rows = first + second
    first, second = rows[..., ::2], rows[..., 1::2]
    if x.shape[-1] % 2:
        second = xp.concatenate([second, rows[..., -1:]], axis=-1)
    return (first + second) / 4


def local_mean(image: Array, side: int) -> Array:
    """Returns the mean over a square around every pixel, borders repeated.

    image: (N, C, H, W). side: pixels a side of the square, odd. Returns (N, C, H, W).
    """
    if isinstance(image, np.ndarray):
        planes = image.reshape(-1, *image.shape[-2:])
        means = np.empty(planes.shape, planes.dtype)
        for plane, out in zip(planes, means, strict=True):
            cv2.blur(plane, (side, side), dst=out, borderType=cv2.BORDER_REPLICATE)
        return means.reshape(image.shape)
    from torch.nn import functional as F

    image = F.pad(image, [side // 2] * 4, mode="replicate")
    return run_sums(run_sums(image, side, dim=-2), side, dim=-1) / side**2


def run_sums(x: "torch.Tensor", length: int, dim: int) -> "torch.Tensor":
    """Returns the sum of every `length` neighbours in a row along a dimension.

    Runs of 1, 2, 4, ... neighbours are put together as the binary digits of `length` say. It takes
    two additions for every digit; on a CPU, F.avg_pool2d takes ten times as long.
    """
    count = x.shape[dim] - length + 1
    parts, start = [], 0
    for digit in range(length.bit_length()):
        run = 2**digit
        if digit:
            size = x.shape[dim] - run // 2
            x = x.narrow(dim, 0, size) + x.narrow(dim, run // 2, size)
        if length & run:
            parts.append(x.narrow(dim, start, count))
            start += run
    return sum(parts[1:], start=parts[0])
