"""How does a fused picture become a photograph? By the tone and the colour that people choose.

Fusion evens out the brightness of large areas: where a scene is bright or dark, its fused luma says
less than each exposure does. Tone gives that back. Colour follows: a network says which chroma each
pixel would have in a photo that exposes it well.
"""

from typing import Any, NamedTuple

import cv2
import numpy as np

import utils
from arrays import Array, halve, local_mean, namespace
from tiles import Area, enlarge, in_tiles, network_device, on_arrays, tile_size, whole_area

DARKEST, BRIGHTEST = 1.0, 0.55  # weights of the roots of the darkest and brightest exposure's luma
NATURAL_MEAN = 0.495  # mean luma of the renditions that people chose
LARGEST_SHIFT = 0.05  # of a mean luma of 1/2 towards it, at most; falls to 0 at 0 and 1
SPREAD = 0.2  # of the tone; one of spread s is multiplied by (SPREAD / s)^2
SMALLEST, STRETCH = 0.75, 1.2  # bounds of that factor
PARTS = 12  # tone is smoothed in windows whose radius is the longer side divided by this
RIDGE = 0.014  # squared contrast of the scene's tone below which it is not followed
DETAIL = 0.38  # by which local contrast is raised
DETAIL_WINDOW = 5  # pixels of a reduced picture; side of the windows of local contrast
DETAIL_RIDGE = 0.01  # squared contrast above which a step is an edge, and not raised
ROOM = 0.6  # share of the way to black or to white that tone takes a pixel, at most
LEVEL_SHARE, TREND_SHARE = 0.2, 0.05  # of a new picture in Steady's level and trend
JUMP = 0.15  # of a value in a sequence, from which on another scene begins
TOE = 0.05  # luma; tone does not darken what is darker, nor brighten what is as near to white
END = 0.024  # distance from black and white that is kept where an exposure is not black or white
SMOOTHING_WINDOW = 5  # pixels; side of the windows in which chroma is smoothed along luma
SMOOTHING_HALO = 2 * (SMOOTHING_WINDOW // 2)  # pixels around a tile that smoothing needs
SMOOTHING_RIDGE = 1e-3  # squared contrast of luma below which chroma does not follow it
BLACK = 0.008  # luma at which half of an exposure's chroma is believed
FEW = 5e-4  # share of the pixels; if fewer have colours that do not fit, these only lose chroma
ASKED = (0.43, 0.3)  # luma that the network is asked for, at mid-grey, and its slope by the luma


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


class Tone(NamedTuple):
    """A correction of fused luma, for one scene.

    weights: of the roots of the exposures' lumas, (K, 1, 1, 1). level: added to their sum, which is
    the scene's tone. planes: (1, 4, h, w), of a reduced picture: the correction is the tone times
    the first plus the second, and the fused luma times the third plus the fourth, see apply_tone.
    amount: 1 for the whole correction, 0 for none.
    """

    weights: np.ndarray
    level: float
    planes: np.ndarray
    amount: float


def fit_tone(
    y_f: np.ndarray, lumas: np.ndarray, amount: float = 1.0, steady: Steady | None = None
) -> Tone:
    """Returns the Tone of a scene from its reduced pictures.

    The scene's tone is a sum of the roots of the exposures' lumas: one rising, smooth curve for
    each. It keeps the order of brightness of the whole scene, which fusion flattens. Its spread s
    is multiplied by (SPREAD / s)^2, within SMALLEST and STRETCH, but not reduced below y_f's. Its
    mean is y_f's, brought half-way to NATURAL_MEAN by at most LARGEST_SHIFT. The correction is its
    difference from y_f, smoothed along the tone's edges, so that the detail remains that of y_f,
    and a share of that detail.

    Both come from guided filters: K. He, J. Sun, X. Tang, "Guided Image Filtering", ECCV 2010.

    y_f: fused luma (1, 1, h, w); lumas: those of K exposures, (K, 1, h, w); in [0, 1].
    steady: of a sequence, whose next picture this is; it smooths weights and mean.
    """
    level = np.array([mean_and_spread(luma)[0] for luma in lumas]).reshape(-1, 1, 1, 1)
    darkest, brightest = level.min(), level.max()
    place = (level - (darkest + brightest) / 2) / max(brightest - darkest, 1e-3)
    weights = ((DARKEST + BRIGHTEST) / 2 - (DARKEST - BRIGHTEST) * place) * (2 / len(lumas))
    weights = weights.astype(np.float32)
    spread = max(mean_and_spread(scene_tone(lumas, weights))[1], 1e-3)
    factor = min(max((SPREAD / spread) ** 2, SMALLEST), STRETCH)
    mean, fused_spread = mean_and_spread(y_f)
    weights *= max(factor, min(fused_spread / spread, 1))
    largest = LARGEST_SHIFT * 4 * mean * (1 - mean)  # none for black and white pictures
    mean += min(max((NATURAL_MEAN - mean) / 2, -largest), largest)
    if steady:
        smoothed = steady.smoothed(np.array([*weights.flat, mean], np.float32))
        weights, mean = smoothed[:-1].reshape(weights.shape), smoothed[-1].item()
    tone = scene_tone(lumas, weights)
    offset = mean - mean_and_spread(tone)[0]
    tone = tone + offset
    small = halve(np.concatenate([tone, limited(tone - y_f, y_f, lumas)]))  # for speed
    side = 2 * (max(small.shape[-2:]) // PARTS) + 1
    wide = enlarge(guided(small[:1], small[1:], side, RIDGE), 2, whole_area(y_f.shape[-2:]))
    # A guided filter of y_f by itself keeps its edges; what it takes away is detail.
    near = guided(y_f, y_f, DETAIL_WINDOW, DETAIL_RIDGE)
    kept = np.array([1, 0], np.float32).reshape(1, 2, 1, 1)
    planes = np.concatenate([wide, (kept - near) * np.float32(DETAIL)], axis=1)
    return Tone(weights, offset, planes, amount)


def mean_and_spread(image: np.ndarray) -> tuple[float, float]:
    """Returns the mean and the standard deviation of all values of one plane."""
    mean, spread = cv2.meanStdDev(image.reshape(image.shape[-2:]))
    return mean.item(), spread.item()


def guided(guide: np.ndarray, image: np.ndarray, side: int, ridge: float) -> np.ndarray:
    """Returns the guided filter of an image as factors of the guide and constants, (1, 2, h, w).

    guide, image: (1, 1, h, w). side: pixels a side of the windows. ridge: squared
    contrast of the guide below which it is not followed.
    """
    maps = np.concatenate([guide, image, guide * guide, guide * image], axis=1)
    mean, mean_image, square, product = np.split(local_mean(maps, side), 4, axis=1)
    factor = (product - mean * mean_image) / (square - mean * mean + ridge)
    return local_mean(np.concatenate([factor, mean_image - factor * mean], axis=1), side)


def apply_tone(tone: Tone, y_f: np.ndarray, lumas: np.ndarray, planes: np.ndarray) -> np.ndarray:
    """Returns the finished luma of a part of a picture, (1, 1, h, w) in [0, 1].

    y_f, lumas: fused luma and exposures as in fit_tone, here of that part. planes: the Tone's for
    that part, (1, 4, h, w).
    """
    scene = scene_tone(lumas, tone.weights) + tone.level
    slope, constant, detail, detail_constant = np.split(planes, 4, axis=1)
    correction = slope * scene + constant + detail * y_f + detail_constant
    correction = limited(correction, y_f, lumas) + ends(y_f, lumas)
    return (y_f + tone.amount * correction).clip(0, 1)


def ends(y: np.ndarray, lumas: np.ndarray) -> np.ndarray:
    """Returns what keeps luma off black and white, (1, 1, h, w).

    It lifts black by END where some exposure is brighter than a quarter, and lowers white by END
    where some exposure is as much darker; in between it falls as the eighth power.
    """
    y = y.clip(0, 1)
    white, black = (((x**2) ** 2) ** 2 for x in (y, 1 - y))  # The eighth power itself is slow.
    lift = (4 * lumas.max(axis=0, keepdims=True)).clip(max=1) * black
    drop = (4 - 4 * lumas.min(axis=0, keepdims=True)).clip(max=1) * white
    return (lift - drop) * END


def scene_tone(lumas: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Returns the weighted sum of the exposures' roots, (1, 1, h, w)."""
    return (np.sqrt(lumas) * weights).sum(axis=0, keepdims=True)


def limited(correction: np.ndarray, y_f: np.ndarray, lumas: np.ndarray) -> np.ndarray:
    """Bounds a correction so that nothing becomes black or white, and no order is reversed.

    What is black or white in all exposures stays so: it is brightened by the brightest exposure's
    luma at most, and darkened by the darkest one's distance from white.
    """
    lowest = np.maximum((TOE - y_f).clip(max=0) * ROOM, lumas.min(axis=0, keepdims=True) - 1)
    highest = np.minimum((1 - TOE - y_f).clip(min=0) * ROOM, lumas.max(axis=0, keepdims=True))
    return np.minimum(np.maximum(correction, lowest), highest)


def colour_factors(network: Any, stack: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Returns factors and tint of the network for a whole reduced picture, (1, K + 2, h, w).

    The network is asked for the colours of a luma nearer to mid-grey: those of a well-exposed
    picture, which neither clipping nor noise has made pale, are what people choose. Where these do
    not fit the luma, it is asked for the colours of the luma itself, and both are mixed so that
    they just fit: a golden sky would otherwise become pink, the pale red of a darker one.

    stack: exposures (K, 3, h, w) of Y, Cb, Cr; y: finished luma (1, 1, h, w).
    """
    planes = factors_for_luma(network, stack, ASKED[0] + ASKED[1] * (y - 0.5))
    offset = rgb_offset(taught_chroma(stack[:, 1:], planes))
    outside = (offset > 1 - y[0]) | (offset < -y[0])
    if outside.any(axis=0).mean() < FEW:
        return planes
    halves = map(halve, (stack, y))  # for speed
    natural = enlarge(factors_for_luma(network, *halves), 2, whole_area(y.shape[-2:]))
    change = rgb_offset(taught_chroma(stack[:, 1:], natural)) - offset
    room = np.where(offset > 0, 1 - y[0], -y[0])
    nearer = outside & (change * offset < 0)  # The luma's own colours are nearer to fitting.
    share = np.divide(room - offset, change, out=np.zeros_like(change), where=nearer)
    return planes + (natural - planes) * share.clip(0, 1).max(axis=0)


def rgb_offset(cbcr: np.ndarray) -> np.ndarray:
    """Returns what chroma (2, h, w) adds to luma in R, G and B, (3, h, w)."""
    cb, cr = cbcr - utils.NEUTRAL
    # A matrix product would leave BLAS's threads waiting in a loop, on cores that others need.
    return np.stack([float(b) * cb + float(r) * cr for b, r in utils.FROM_YCBCR[:, 1:3]])


def factors_for_luma(network: Any, stack: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Returns what colour_factors does for the colours of a luma (1, 1, h, w).

    The network is not asked for less than the darkest exposure has: lamps keep the colour that this
    one shows. Chroma of what is nearly black in an exposure counts less, because it is that of
    noise and JPEG.
    """
    device = network_device(network)
    lumas = stack[:, :1]
    wanted = np.maximum(y, lumas.min(axis=0, keepdims=True))
    belief = lumas**2 / (lumas**2 + BLACK**2)  # (K, 1, h, w)
    stack = np.concatenate([lumas, (stack[:, 1:] - 0.5) * belief + 0.5], axis=1)
    planes = np.empty((1, len(stack) + 2, *y.shape[-2:]), np.float32)

    def factors_and_tint(stack: Array, y: Array) -> Array:
        factors, tint = network.factors(stack, y)
        return namespace(tint).concatenate([factors[:, :, 0], tint], axis=1)

    answer = on_arrays(factors_and_tint, device)

    def work(outer: Area, inner: Area, place: Area) -> None:
        part = answer(stack[None, ..., outer[0], outer[1]], wanted[(..., *outer)])
        planes[(..., *place)] = part[(..., *inner)]

    in_tiles(work, y.shape[-2:], tile_size(network), network.radius, device, workers=1)
    planes[0, :-2] *= belief[:, 0]
    return planes


def taught_chroma(chroma: np.ndarray, planes: np.ndarray) -> np.ndarray:
    """Returns the chroma of a part of a picture, (2, h, w), around 1/2.

    chroma: Cb and Cr of the exposures, (K, 2, h, w). planes: colour_factors of that part.
    """
    total = planes[0, -2:] + np.float32(0.5)
    for offset, factor in zip(chroma - np.float32(0.5), planes[0, :-2], strict=True):
        total += offset * factor
    return total


def smooth_chroma(cbcr: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Smooths chroma along luma's edges (guided filter), to calm noise and JPEG's blocks.

    cbcr: (2, h, w); y: (1, 1, h, w). Returns (2, h, w).
    """
    planes = []
    for plane in cbcr:
        factor, constant = guided(y, plane[None, None], SMOOTHING_WINDOW, SMOOTHING_RIDGE)[0]
        planes.append(factor * y[0, 0] + constant)
    return np.stack(planes)
