"""How are fused pictures scored?"""

import math

import cv2
import numpy as np
import torch

import loss
import utils


def score_all(fused, sources, device="cpu"):
    """All scores of a fused picture, higher being better or more: {name: value}.

    fused, sources: 8-bit gray pictures, uint8 arrays (H, W). MEF-SSIM is multi-scale; the last four
    describe the fused picture alone, on the 0 to 255 scale, and noise raises them too.
    """
    return {
        "MEF-SSIM": mefb_score(fused, sources, device),
        "Q^AB/F": edge_preservation(fused, sources),
        "EN": entropy(fused),
        "SF": spatial_frequency(fused),
        "AG": average_gradient(fused),
        "SD": float(fused.std()),
    }


def colour_difference(fused, exposure):
    """Mean distance in CIELAB's a* and b* from an exposure, where that is neither dark nor clipped.

    8-bit RGB pictures (H, W, 3). NaN where there is no exposure, none of its pixels can be used, or
    the pictures are grey or differ in size.
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


def entropy(fused):
    """Shannon entropy of the histogram of 256 levels, in bits."""
    share = np.bincount(fused.ravel(), minlength=256) / fused.size
    share = share[share > 0]
    return float(-(share * np.log2(share)).sum())


def spatial_frequency(fused):
    """Root of the mean squared differences of neighbours, rows' and columns' added.

    A. M. Eskicioglu, P. S. Fisher, "Image quality measures and their performance", IEEE
    Transactions on Communications 43(12), 1995. Both sums are divided by the number of pixels.
    """
    x = fused.astype(np.float64)
    squares = (np.diff(x, axis=0) ** 2).sum() + (np.diff(x, axis=1) ** 2).sum()
    return float(np.sqrt(squares / x.size))


def average_gradient(fused):
    """Mean over all pixels but the last row and column of sqrt((dx^2 + dy^2)/2).

    G. Cui, H. Feng, Z. Xu, Q. Li, Y. Chen, "Detail preserved fusion of visible and infrared images
    using regional saliency extraction and multi-scale image decomposition", Optics Communications
    341, 2015; dx and dy are differences to the next pixel.
    """
    x = fused.astype(np.float64)
    dy, dx = np.diff(x, axis=0)[:, :-1], np.diff(x, axis=1)[:-1]
    return float(np.sqrt((dx**2 + dy**2) / 2).mean())


def edge_preservation(fused, sources):
    """Q^AB/F: how much of the sources' edges, their strength and direction, the fused picture has.

    C. S. Xydeas, V. Petrovic, "Objective image fusion performance measure", Electronics Letters
    36(4), 2000, with its constants and L = 1; in [0, 1]. The sum goes over all sources, be they two
    or more. Sobel filters, the picture's border mirrored; 0 where no source has an edge.
    """
    strength_f, angle_f = edges(fused)
    total = weights = 0.0
    for source in sources:
        strength, angle = edges(source)
        high = np.maximum(strength, strength_f)
        relative = np.minimum(strength, strength_f) / np.where(high > 0, high, 1)
        # Angles pi apart are one direction.
        direction = np.abs(np.abs(angle - angle_f) - np.pi / 2) / (np.pi / 2)
        kept = 0.9994 / (1 + np.exp(-15 * (relative - 0.5)))
        kept *= 0.9879 / (1 + np.exp(-22 * (direction - 0.8)))
        total += (kept * strength).sum()
        weights += strength.sum()
    return float(total / weights) if weights else 0.0


def edges(gray):
    """Strength and direction, in [-pi/2, pi/2], of the Sobel gradient of every pixel."""
    x = cv2.Sobel(gray, cv2.CV_64F, 1, 0)
    y = cv2.Sobel(gray, cv2.CV_64F, 0, 1)
    vertical = np.where(y != 0, np.pi / 2, 0.0)
    return np.hypot(x, y), np.where(x != 0, np.arctan(y / np.where(x != 0, x, 1)), vertical)


def to_gray(image):
    """RGB or grey picture to 8-bit gray, rounded, as the MEF-SSIM authors' program sees it.

    That program is MATLAB's and calls rgb2gray, whose BT.601 weights have more digits than the
    standard's.
    """
    image = utils.to_8_bit(image)
    if image.ndim == 2:
        return image
    weights = np.array([0.298936021293775, 0.587043074451121, 0.114020904255103])
    return np.floor(image @ weights + 0.5).astype(np.uint8)


def mefb_score(fused, images, device="cpu"):
    """MEFB's MEF-SSIM: multi-scale, of 8-bit gray pictures, uint8 arrays (H, W); a float."""
    stack = torch.from_numpy(np.stack([fused, *images])).to(device)[None] / 255
    with torch.inference_mode():
        return loss.mef_ssim(stack[:, :1], stack[:, 1:]).item()
