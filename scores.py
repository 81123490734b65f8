"""How are fused pictures scored? Measures of 8-bit pictures, with and without their exposures."""

import math
from collections.abc import Sequence

import cv2
import numpy as np
import torch

import loss
import utils

MAPS = 40_000_000  # values, 4 bytes each, in the maps of one strip of windows; see mefb_score
# MATLAB's rgb2gray, which the MEF-SSIM authors' program calls: BT.601 with more digits.
GREY = np.array([0.298936021293775, 0.587043074451121, 0.114020904255103])  # of R, G, B


def to_grey(image: np.ndarray) -> np.ndarray:
    """Returns 8-bit grey, rounded, as the MEF-SSIM authors' program sees it.

    image: (H, W, 3) RGB or (H, W) grey; uint8, uint16 or float in [0, 1]. Returns uint8 (H, W).
    """
    image = utils.to_8_bit(image)
    if image.ndim == 2:
        return image
    return np.floor(image @ GREY + 0.5).astype(np.uint8)


def mefb_score(
    fused: np.ndarray, exposures: Sequence[np.ndarray], device: torch.device | str = "cpu"
) -> float:
    """Returns the multi-scale MEF-SSIM of 8-bit grey, which the MEFB benchmark reports.

    fused, exposures: pictures of one size, as to_grey takes them. device: computes the score.
    Windows are compared in strips of MAPS values, which bounds the memory for maps.
    Raises ValueError where the pictures differ in size or are smaller than the coarsest window.
    """
    grey = np.stack([to_grey(image) for image in (fused, *exposures)])
    loss.check_size(*grey.shape[1:])
    planes = torch.from_numpy(grey).to(device)[None] / 255  # (1, 1 + K, H, W)
    with torch.inference_mode():
        levels = loss.scale_levels(planes, len(loss.SCALE_WEIGHTS))
        return loss.combine_scales([mean_comparison(level) for level in levels]).item()


def mean_comparison(planes: torch.Tensor) -> torch.Tensor:
    """Returns the mean of SSIM's contrast-structure term over all windows of one scale, (1,).

    planes: the fused luma and its exposures, (1, 1 + K, H, W) in [0, 1].
    """
    rows, columns = (side - loss.WINDOW + 1 for side in planes.shape[2:])
    count = planes.shape[1] - 1
    # A window has K means and K (K + 1) / 2 covariances.
    strip = max(1, MAPS // (count * (count + 3) // 2) // columns)
    total = torch.zeros(1, dtype=torch.float64, device=planes.device)
    for top in range(0, rows, strip):
        bottom = min(top + strip, rows)
        part = planes[:, :, top : bottom + loss.WINDOW - 1]
        (desired,) = loss.desired_windows(part[:, 1:], scales=1)
        numerator, denominator, _ = loss.compare(part[:, :1], desired)
        total += (numerator / denominator).mean(dim=(1, 2, 3)).double() * (bottom - top)
    return (total / rows).to(planes.dtype)


def score_all(
    fused: np.ndarray, exposures: Sequence[np.ndarray], device: torch.device | str = "cpu"
) -> dict[str, float]:
    """Returns all scores of a fused picture, {name: score}.

    Multi-scale MEF-SSIM and Q^AB/F compare with the exposures; higher is better. The other four
    describe the fused picture alone, on the scale 0 to 255; detail raises them, but noise too.

    fused, exposures: 8-bit grey pictures of one size, uint8 (H, W).
    """
    return {
        "MEF-SSIM": mefb_score(fused, exposures, device),
        "Q^AB/F": edge_preservation(fused, exposures),
        "EN": entropy(fused),
        "SF": spatial_frequency(fused),
        "AG": average_gradient(fused),
        "SD": float(fused.std()),
    }


def colour_difference(fused: np.ndarray, exposure: np.ndarray | None) -> float:
    """Returns the mean distance in CIELAB's a* and b* of a fused picture from an exposure.

    Only pixels count that are neither dark nor clipped in the exposure.

    fused, exposure: 8-bit RGB (H, W, 3). Returns NaN where there is no exposure, where no pixel
    counts, and where the pictures are grey or differ in size.
    """
    if exposure is None or exposure.ndim == 2 or fused.shape != exposure.shape:
        return math.nan
    usable = ((exposure > 20) & (exposure < 235)).all(axis=2)
    if not usable.any():
        return math.nan
    lab, expected = (
        cv2.cvtColor(image.astype(np.float32) / 255, cv2.COLOR_RGB2LAB)
        for image in (fused, exposure)
    )
    return float(np.hypot(*(lab - expected)[usable][:, 1:].T).mean())


def entropy(fused: np.ndarray) -> float:
    """Returns the Shannon entropy, in bits, of the histogram of a uint8 picture's 256 levels."""
    share = np.bincount(fused.ravel(), minlength=256) / fused.size
    share = share[share > 0]
    return float(-(share * np.log2(share)).sum())


def spatial_frequency(fused: np.ndarray) -> float:
    """Returns the root of the summed mean squared differences along rows and along columns.

    A. M. Eskicioglu, P. S. Fisher, "Image quality measures and their performance", IEEE
    Transactions on Communications 43(12), 1995. Both sums are divided by the number of pixels.
    """
    x = fused.astype(np.float64)
    squares = (np.diff(x, axis=0) ** 2).sum() + (np.diff(x, axis=1) ** 2).sum()
    return float(np.sqrt(squares / x.size))


def average_gradient(fused: np.ndarray) -> float:
    """Returns the mean of sqrt((dx^2 + dy^2)/2) over all pixels but the last row and column.

    dx and dy are differences to the next pixel. G. Cui, H. Feng, Z. Xu, Q. Li, Y. Chen, "Detail
    preserved fusion of visible and infrared images using regional saliency extraction and
    multi-scale image decomposition", Optics Communications 341, 2015.
    """
    x = fused.astype(np.float64)
    dy, dx = np.diff(x, axis=0)[:, :-1], np.diff(x, axis=1)[:-1]
    return float(np.sqrt((dx**2 + dy**2) / 2).mean())


def edge_preservation(fused: np.ndarray, exposures: Sequence[np.ndarray]) -> float:
    """Returns Q^AB/F: how much of the exposures' edges the fused picture keeps, in [0, 1].

    An edge is kept in strength and direction. C. S. Xydeas, V. Petrovic, "Objective image fusion
    performance measure", Electronics Letters 36(4), 2000, with its constants and L = 1. The sum
    goes over all exposures, two or more. Sobel filters mirror the picture at its border.
    Returns 0 where no exposure has an edge.
    """
    strength_f, angle_f = edges(fused)
    total = weights = 0.0
    for exposure in exposures:
        strength, angle = edges(exposure)
        high = np.maximum(strength, strength_f)
        relative = np.minimum(strength, strength_f) / np.where(high > 0, high, 1)
        # Angles that differ by pi are one direction.
        direction = np.abs(np.abs(angle - angle_f) - np.pi / 2) / (np.pi / 2)
        kept = 0.9994 / (1 + np.exp(-15 * (relative - 0.5)))
        kept *= 0.9879 / (1 + np.exp(-22 * (direction - 0.8)))
        total += (kept * strength).sum()
        weights += strength.sum()
    return float(total / weights) if weights else 0.0


def edges(grey: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Returns strength and direction, in [-pi/2, pi/2], of every pixel's Sobel gradient."""
    x = cv2.Sobel(grey, cv2.CV_64F, 1, 0)
    y = cv2.Sobel(grey, cv2.CV_64F, 0, 1)
    vertical = np.where(y != 0, np.pi / 2, 0.0)
    return np.hypot(x, y), np.where(x != 0, np.arctan(y / np.where(x != 0, x, 1)), vertical)
