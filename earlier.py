"""How did earlier programs make a colour picture of fused luma? In 8-bit levels of their own.

Two programs are followed to the level: the one that the paper's authors released, in MATLAB, and
the earlier PyTorch implementation (SunnerLi/DeepFuse.pytorch). Both hold Y, Cb and Cr of the
exposures and of the result in 8 bits.
"""

from collections.abc import Callable
from typing import NamedTuple

import cv2
import numpy as np

import utils

SATURATED = 0.01  # share of pixels that imadjust makes black, and as many white
HALF_LEVEL = np.array([0, 0.5, 0.5], np.float32)[:, None, None]  # Level 128 of chroma is neutral.


class Program(NamedTuple):
    """The way from a part of an exposure to 8-bit YCbCr, and from the fused one to a picture.

    read: takes K arrays (h, w, 3) of RGB pixels of any type; returns Y, Cb, Cr in [0, 1],
    (K, 3, h, w), as utils.to_ycbcr does. write: takes such planes, (1, 3, h, w), and a type;
    returns pixels.
    """

    read: Callable[..., np.ndarray]
    write: Callable[[np.ndarray, np.dtype], np.ndarray]


def read_limited(*images: np.ndarray) -> np.ndarray:
    """Returns YCbCr in the levels of ITU-R BT.601, as MATLAB's rgb2ycbcr does for 8-bit pixels."""
    return in_limited_range(utils.to_ycbcr(*map(utils.to_8_bit, images)))


def write_limited(ycbcr: np.ndarray, dtype: np.dtype) -> np.ndarray:
    """Returns pixels of YCbCr, rounded to 8-bit levels, as MATLAB's ycbcr2rgb does."""
    return utils.as_type(utils.from_ycbcr(in_limited_range(ycbcr), np.uint8), dtype)


def in_limited_range(ycbcr: np.ndarray) -> np.ndarray:
    """Rounds Y to the levels 16 to 235, Cb and Cr to 16 to 240, of 255."""
    scale = np.array([219, 224, 224], np.float32)[:, None, None]
    offset = np.float32(16)
    return (np.rint(ycbcr * scale + offset).clip(0, 255) - offset) / scale


def read_full(*images: np.ndarray) -> np.ndarray:
    """Returns YCbCr in the levels 0 to 255, as OpenCV converts 8-bit pixels."""
    converted = [
        cv2.cvtColor(utils.to_8_bit(image), cv2.COLOR_RGB2YCrCb)[..., [0, 2, 1]] for image in images
    ]
    ycbcr = np.stack(converted).transpose(0, 3, 1, 2).astype(np.float32)
    return (ycbcr - HALF_LEVEL) / 255


def write_full(ycbcr: np.ndarray, dtype: np.dtype) -> np.ndarray:
    """Returns pixels of YCbCr that is cut off to 8-bit levels, as OpenCV converts them."""
    levels = (ycbcr[0] * 255 + HALF_LEVEL).clip(0, 255)
    # What only float rounding has put below a level is not cut off.
    ycbcr8 = (levels + 1e-3).transpose(1, 2, 0).astype(np.uint8)
    return utils.as_type(cv2.cvtColor(ycbcr8[..., [0, 2, 1]], cv2.COLOR_YCrCb2RGB), dtype)


RELEASED = Program(read_limited, write_limited)
EARLIER = Program(read_full, write_full)


def adjusted(y: np.ndarray) -> np.ndarray:
    """Stretches luma as MATLAB's imadjust does: SATURATED pixels at either end become 0 or 1.

    y: whole pictures' luma, (1, 1, H, W) in [0, 1]; it is rounded to 8 bits first, as it is in the
    file that the released program writes before it calls imadjust.
    """
    levels = np.rint(y * 255)
    share = np.bincount(levels.ravel().astype(np.uint8), minlength=256).cumsum() / y.size
    low, high = int(np.argmax(share > SATURATED)), int(np.argmax(share >= 1 - SATURATED))
    if low == high:
        low, high = 0, 255
    return ((levels - low) / (high - low)).clip(0, 1)


def global_chroma(chroma: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Returns the exposures' mean by one weight for each and for Cb and Cr, for the whole picture.

    chroma: a part of Cb and Cr, (K, 2, h, w) in [0, 1]. weights: mean distances from grey of the
    whole pictures, (K, 2, 1, 1). Returns (2, h, w). This is the earlier implementation's chroma.
    """
    total = weights.sum(axis=0, keepdims=True)
    equal = np.full_like(weights, 1 / len(weights))
    shares = np.divide(weights, total, out=equal, where=total > 0)
    return (shares * chroma).sum(axis=0)
