"""How do exposures become a photograph? By the brightness, tone and colour that people choose.

All of it happens on reduced pictures of a complete stack, see between.py: a few exposures at equal
steps of brightness. The complete stack answers what one needs to know of a place: its luma and its
chroma at any exposure. fusion.py applies to the full pictures what was done here.
"""

import itertools
import math

import cv2
import numpy as np

import utils
from arrays import local_mean

EXPOSED = 0.5  # distance from mid-grey at which a channel counts as badly exposed
TONE_WEIGHTS = (0.35, 0.0, 0.4, 0.0, 0.25)  # of the complete stack's lumas, dark to bright
NATURAL_MEAN = 0.515  # mean luma that a photo is brought towards
PULL = 0.75  # share of the way to that mean, from below; from above it is all of it
LARGEST_SHIFT = 0.3  # of a mean of 1/2; falls to 0 at 0 and 1
SPREAD = 0.21  # standard deviation that the tone is brought towards, by the slope of a curve
SLOPES = (0.9, 1.25)  # bounds of the slope at the tone's mean
TONE_PARTS = 24  # tone is smoothed in windows whose radius is the longer side divided by twice this
TONE_RIDGE = 0.014  # squared contrast of the tone below which its edges are not followed
DETAIL = 0.4  # by which local contrast is raised
DETAIL_WINDOW = 5  # pixels of a reduced picture; side of the windows of local contrast
DETAIL_RIDGE = 0.01  # squared contrast above which a step is an edge, and not raised
END = 0.03  # mean luma next to black and white from which on tone does not change
ASKED = (0.6, -0.1)  # luma at which a pixel's chroma is asked for, at mid-grey, and its slope
LEVEL_SHARE, TREND_SHARE = 0.2, 0.05  # of a new picture in Steady's level and trend
BINS = 1024  # steps of the histograms of tone
JUMP = 0.15  # of a value in a sequence, from which on another scene begins


class Steady:
    """Values of one picture after another of a sequence, smoothed in time.

    Each value is followed by a level and a trend (C. C. Holt, "Forecasting seasonals and trends by
    exponentially weighted moving averages", 1957), so that a steady change is followed without
    delay. A jump, of more than JUMP, and another number of values start a new sequence.
    """

    def __init__(self) -> None:
        self.level: np.ndarray | None = None
        self.trend = np.zeros(())

    def smoothed(self, values: np.ndarray) -> np.ndarray:
        """Returns the next picture's values, shape (n,), smoothed."""
        if self.level is None or self.level.shape != values.shape:
            jumps = True
        else:
            jumps = bool(np.abs(values - self.level - self.trend).max() > JUMP)
        if self.level is None or jumps:
            self.level, self.trend = values, np.zeros_like(values)
            return values
        expected = self.level + self.trend
        level = expected + LEVEL_SHARE * (values - expected)
        self.trend = self.trend + TREND_SHARE * (level - self.level - self.trend)
        self.level = level
        return level


def finished(
    stack: np.ndarray,
    amount: float = 1.0,
    steady: Steady | None = None,
    histogram: np.ndarray | None = None,
) -> np.ndarray:
    """Returns the photo of a complete stack, (3, h, w) of Y, Cb, Cr in [0, 1].

    Texture is that of Mertens' fusion. Brightness over large areas is corrected to that of the
    scene's tone, which keeps the order of brightness that fusion flattens.

    stack: exposures at equal steps, dark to bright, (M, 3, h, w). amount: 1 for the whole finish,
    0 for none. steady: of a sequence, whose next picture this is; it smooths the tone in time.
    histogram: see scene_tone.
    """
    lumas = stack[:, 0]
    y = merged_luma(stack).clip(0, 1)
    tone = scene_tone(lumas, steady, histogram)
    # What is black in all exposures remains so, and nothing is darker than in the darkest.
    change = np.minimum(correction(y, tone), lumas[-1])
    y = np.maximum(y + np.float32(amount) * change, lumas[0]).clip(0, 1)
    own = chroma_at(stack, y)
    asked = ASKED[0] + ASKED[1] * (y - 0.5)
    cbcr = own + np.float32(amount) * (chroma_at(stack, asked) - own)
    return np.concatenate([y[None], cbcr + np.float32(utils.NEUTRAL)])


def merged_luma(stack: np.ndarray) -> np.ndarray:
    """Returns the luma of exposures fused by Mertens' rule, (h, w).

    T. Mertens, J. Kautz, F. Van Reeth, "Exposure Fusion", Pacific Graphics 2007, without the weight
    of saturation, with the root of contrast, and with an EXPOSED of 0.5 instead of 0.2, of luma
    alone. OpenCV's own adds up exposures in the order in which its threads end, so that rounding
    differs from run to run.
    """
    weights = [mertens_weight(image) for image in stack]
    total = sum(weights)
    levels = int(math.log2(min(stack.shape[-2:])))
    merged = None
    for image, weight in zip(stack, weights, strict=True):
        detail = laplacian_pyramid(image[0], levels)
        shares = gaussian_pyramid(weight / total, levels)
        parts = [band * share for band, share in zip(detail, shares, strict=True)]
        merged = parts if merged is None else [sum(x) for x in zip(merged, parts, strict=True)]
    y, *finer = reversed(merged or [])
    for band in finer:
        y = cv2.pyrUp(y, dstsize=band.shape[::-1]) + band
    return y


def mertens_weight(image: np.ndarray) -> np.ndarray:
    """Returns an exposure's weight at every pixel, (h, w): well exposed and of much contrast."""
    rgb = utils.from_ycbcr(image[None], np.float32, keep_hue=True)
    distance = ((rgb - np.float32(0.5)) ** 2).sum(axis=2)
    contrast = np.sqrt(np.abs(cv2.Laplacian(image[0], cv2.CV_32F)))
    return np.exp(distance / np.float32(-2 * EXPOSED**2)) * contrast + np.float32(1e-12)


def gaussian_pyramid(plane: np.ndarray, levels: int) -> list[np.ndarray]:
    """Returns a plane and `levels` smaller ones, each half as wide and high as the one before."""
    planes = [plane]
    for _ in range(levels):
        planes.append(cv2.pyrDown(planes[-1]))
    return planes


def laplacian_pyramid(plane: np.ndarray, levels: int) -> list[np.ndarray]:
    """Returns what every level of a Gaussian pyramid shows more than the next, and the last."""
    planes = gaussian_pyramid(plane, levels)
    bands = [
        fine - cv2.pyrUp(coarse, dstsize=fine.shape[::-1])
        for fine, coarse in itertools.pairwise(planes)
    ]
    return [*bands, planes[-1]]


def tone_histogram(lumas: np.ndarray) -> np.ndarray:
    """Returns the shares of pixels by the plain tone of a complete stack, (M, h, w).

    The shares are of BINS steps from 0 to 1, (BINS,).
    """
    tone = plain_tone(lumas)
    counts, _ = np.histogram(tone, BINS, (0, 1))
    return counts / tone.size


def plain_tone(lumas: np.ndarray) -> np.ndarray:
    """Returns a weighted sum of a complete stack, a rising curve of the scene's light, (h, w)."""
    # A matrix product would leave BLAS's threads waiting in a loop, on cores that others need.
    return sum(np.float32(weight) * luma for weight, luma in zip(TONE_WEIGHTS, lumas, strict=True))


def scene_tone(
    lumas: np.ndarray, steady: Steady | None = None, histogram: np.ndarray | None = None
) -> np.ndarray:
    """Returns the brightness that a photo has over large areas, (h, w).

    A weighted sum of the exposures is a smooth, rising curve of the scene's light. Its mean is
    brought towards a natural one, from below by a part of the way alone: night remains darker than
    day. A curve then brings the contrast around the mean nearer to that of renditions that people
    chose.

    lumas: of a complete stack, dark to bright, (M, h, w) in [0, 1]. histogram: of tone_histogram,
    over all pictures that are to have one tone, instead of this one's.
    """
    tone = plain_tone(lumas)
    steps = (np.arange(BINS) + 0.5) / BINS
    mean = float(tone.mean()) if histogram is None else float(histogram @ steps)
    aim = mean + PULL * (NATURAL_MEAN - mean) if mean < NATURAL_MEAN else NATURAL_MEAN
    largest = LARGEST_SHIFT * 4 * mean * (1 - mean)  # none for black and white pictures
    wanted = min(max(aim, mean - largest), mean + largest)
    if steady:
        wanted = float(steady.smoothed(np.array([wanted], np.float32))[0])
    exponent = math.log(wanted) / math.log(mean) if END < mean < 1 - END else 1.0
    if exponent != 1:
        tone = tone**exponent
    if histogram is None:
        mean, spread = float(tone.mean()), float(tone.std())
    else:
        raised = steps**exponent
        mean = float(histogram @ raised)
        spread = math.sqrt(float(histogram @ (raised - mean) ** 2))
    mean = min(max(mean, END), 1 - END)
    slope = min(max(SPREAD / max(spread, 1e-3), SLOPES[0]), SLOPES[1])
    dark = mean * (tone / mean) ** slope
    bright = 1 - (1 - mean) * ((1 - tone) / (1 - mean)).clip(min=0) ** slope
    return np.where(tone < mean, dark, bright)


def correction(y: np.ndarray, tone: np.ndarray) -> np.ndarray:
    """Returns what brings fused luma to the scene's tone, and raises its local contrast, (h, w).

    The difference is smoothed along the tone's edges, so that the texture remains that of y.
    Guided filters: K. He, J. Sun, X. Tang, "Guided Image Filtering", ECCV 2010.
    """
    side = 2 * (max(y.shape) // (2 * TONE_PARTS)) + 1
    wide = along(tone, tone - y, side, TONE_RIDGE)
    # A guided filter of y by itself keeps its edges; what it takes away is detail.
    return wide + DETAIL * (y - along(y, y, DETAIL_WINDOW, DETAIL_RIDGE))


def along(guide: np.ndarray, image: np.ndarray, side: int, ridge: float) -> np.ndarray:
    """Returns an image smoothed along the edges of a guide, both (h, w), see guided."""
    factor, constant = guided(guide[None, None], image[None, None], side, ridge)[0]
    return factor * guide + constant


def guided(guide: np.ndarray, image: np.ndarray, side: int, ridge: float) -> np.ndarray:
    """Returns the guided filter of an image as factors of the guide and constants, (1, 2, h, w).

    guide, image: (1, 1, h, w). side: pixels a side of the windows. ridge: squared
    contrast of the guide below which it is not followed.
    """
    maps = np.concatenate([guide, image, guide * guide, guide * image], axis=1)
    mean, mean_image, square, product = np.split(local_mean(maps, side), 4, axis=1)
    factor = (product - mean * mean_image) / (square - mean * mean + ridge)
    return local_mean(np.concatenate([factor, mean_image - factor * mean], axis=1), side)


def chroma_at(stack: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Returns the chroma that every pixel has at the exposure that gives it a luma, (2, h, w).

    The chroma, around 0, is linear between two exposures. Beyond the darkest and the brightest, it
    is theirs.

    stack: dark to bright, (M, 3, h, w). y: the lumas, (h, w).
    """
    offset = np.float32(utils.NEUTRAL)
    cbcr = stack[0, 1:] - offset
    darker = stack[0, 0]
    for before, after in itertools.pairwise(stack):
        brighter = np.maximum(after[0], darker + np.float32(1e-4))  # in order, noise or not
        share = ((y - darker) / (brighter - darker)).clip(0, 1)
        cbcr += share * (after[1:] - before[1:])
        darker = brighter
    return cbcr
