"""How does a fused picture become a photograph? By the tone and the colour that people choose.

Fusion evens out the brightness of large areas: where a scene is bright or dark, its fused luma says
less than each exposure does. Tone gives that back. Colour follows: a network says which chroma each
pixel would have in a photo that exposes it well.
"""

from typing import NamedTuple

import cv2
import torch

import loss
import utils
from model import ColourNetwork, device_of
from tiles import NETWORK_TILES, Area, enlarge, in_tiles, to_device

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
        self.level: torch.Tensor | None = None
        self.trend = torch.zeros(())

    def smoothed(self, values: torch.Tensor) -> torch.Tensor:
        """Returns the next picture's values, shape (n,), smoothed."""
        if self.level is None or self.level.shape != values.shape:
            jumps = True
        else:
            jumps = bool((values - self.level - self.trend).abs().max() > JUMP)
        if self.level is None or jumps:
            self.level, self.trend = values, torch.zeros_like(values)
            return values
        expected = self.level + self.trend
        level = torch.lerp(expected, values, LEVEL_SHARE)
        self.trend = torch.lerp(self.trend, level - self.level, TREND_SHARE)
        self.level = level
        return level


class Tone(NamedTuple):
    """A correction of fused luma, for one scene.

    weights: of the roots of the exposures' lumas, (K, 1, 1, 1). level: added to their sum, which is
    the scene's tone. planes: (1, 4, h, w), of a reduced picture: the correction is the tone times
    the first plus the second, and the fused luma times the third plus the fourth, see apply_tone.
    amount: 1 for the whole correction, 0 for none.
    """

    weights: torch.Tensor
    level: float
    planes: torch.Tensor
    amount: float


def fit_tone(
    y_f: torch.Tensor, lumas: torch.Tensor, amount: float = 1.0, steady: Steady | None = None
) -> Tone:
    """Returns the Tone of a scene from its reduced pictures.

    The scene's tone is a sum of the roots of the exposures' lumas: one rising, smooth curve for
    each. It keeps the order of brightness of the whole scene, which fusion flattens. Its spread s
    is multiplied by (SPREAD / s)^2, within SMALLEST and STRETCH, but not reduced below y_f's. Its
    mean is y_f's, brought half-way to NATURAL_MEAN by at most LARGEST_SHIFT. The correction is its
    difference from y_f, smoothed along the tone's edges, so that the detail remains that of y_f,
    and a share of that detail.

    Both come from guided filters: K. He, J. Sun, X. Tang, "Guided Image Filtering", ECCV 2010.

    y_f: fused luma (1, 1, h, w); lumas: those of K exposures, (K, 1, h, w); in [0, 1], on the CPU.
    steady: of a sequence, whose next picture this is; it smooths weights and mean.
    """
    level = torch.tensor([mean_and_spread(luma)[0] for luma in lumas]).reshape(-1, 1, 1, 1)
    darkest, brightest = level.min(), level.max()
    place = (level - (darkest + brightest) / 2) / (brightest - darkest).clamp(min=1e-3)
    weights = ((DARKEST + BRIGHTEST) / 2 - (DARKEST - BRIGHTEST) * place) * (2 / len(lumas))
    spread = max(mean_and_spread(scene_tone(lumas, weights))[1], 1e-3)
    factor = min(max((SPREAD / spread) ** 2, SMALLEST), STRETCH)
    mean, fused_spread = mean_and_spread(y_f)
    weights *= max(factor, min(fused_spread / spread, 1))
    largest = LARGEST_SHIFT * 4 * mean * (1 - mean)  # none for black and white pictures
    mean += min(max((NATURAL_MEAN - mean) / 2, -largest), largest)
    if steady:
        *scaled, mean = steady.smoothed(torch.tensor([*weights.flatten(), mean])).tolist()
        weights = torch.tensor(scaled).reshape(weights.shape)
    tone = scene_tone(lumas, weights)
    offset = mean - mean_and_spread(tone)[0]
    tone = tone + offset
    side = 2 * (max(y_f.shape[-2:]) // PARTS) + 1
    wide = guided(tone, limited(tone - y_f, y_f, lumas), side, RIDGE)
    # A guided filter of y_f by itself keeps its edges; what it takes away is detail.
    near = guided(y_f, y_f, DETAIL_WINDOW, DETAIL_RIDGE)
    kept = torch.tensor([1.0, 0.0]).reshape(1, 2, 1, 1)
    return Tone(weights, offset, torch.cat([wide, (kept - near) * DETAIL], dim=1), amount)


def mean_and_spread(image: torch.Tensor) -> tuple[float, float]:
    """Returns the mean and the standard deviation of all values of a tensor on the CPU.

    They are the same however many threads there are, unlike PyTorch's.
    """
    mean, spread = cv2.meanStdDev(image.reshape(image.shape[-2:]).numpy())
    return mean.item(), spread.item()


def guided(guide: torch.Tensor, image: torch.Tensor, side: int, ridge: float) -> torch.Tensor:
    """Returns the guided filter of an image as factors of the guide and constants, (1, 2, h, w).

    guide, image: (1, 1, h, w) on the CPU. side: pixels a side of the windows. ridge: squared
    contrast of the guide below which it is not followed.
    """
    maps = torch.cat([guide, image, guide * guide, guide * image], dim=1)
    mean, mean_image, square, product = window_mean(maps, side).split(1, dim=1)
    factor = (product - mean * mean_image) / (square - mean * mean + ridge)
    return window_mean(torch.cat([factor, mean_image - factor * mean], dim=1), side)


def apply_tone(
    tone: Tone, y_f: torch.Tensor, lumas: torch.Tensor, planes: torch.Tensor
) -> torch.Tensor:
    """Returns the finished luma of a part of a picture, (1, 1, h, w) in [0, 1].

    y_f, lumas: fused luma and exposures as in fit_tone, here of that part. planes: the Tone's for
    that part, (1, 4, h, w).
    """
    scene = scene_tone(lumas, tone.weights) + tone.level
    slope, constant, detail, detail_constant = planes.split(1, dim=1)
    correction = slope * scene + constant + detail * y_f + detail_constant
    correction = limited(correction, y_f, lumas) + ends(y_f, lumas)
    return torch.add(y_f, correction, alpha=tone.amount).clamp_(0, 1)


def ends(y: torch.Tensor, lumas: torch.Tensor) -> torch.Tensor:
    """Returns what keeps luma off black and white, (1, 1, h, w).

    It lifts black by END where some exposure is brighter than a quarter, and lowers white by END
    where some exposure is as much darker; in between it falls as the eighth power.
    """
    y = y.clamp(0, 1)
    white, black = (x.square().square().square() for x in (y, 1 - y))  # The power's own is slow.
    lift = (4 * lumas.amax(dim=0, keepdim=True)).clamp_(max=1) * black
    drop = (4 - 4 * lumas.amin(dim=0, keepdim=True)).clamp_(max=1) * white
    return (lift - drop) * END


def scene_tone(lumas: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
    """Returns the weighted sum of the exposures' roots, (1, 1, h, w)."""
    return (lumas.sqrt() * weights).sum(dim=0, keepdim=True)


def limited(correction: torch.Tensor, y_f: torch.Tensor, lumas: torch.Tensor) -> torch.Tensor:
    """Bounds a correction so that nothing becomes black or white, and no order is reversed.

    What is black or white in all exposures stays so: it is brightened by the brightest exposure's
    luma at most, and darkened by the darkest one's distance from white.
    """
    lowest = torch.maximum((TOE - y_f).clamp(max=0) * ROOM, lumas.amin(dim=0, keepdim=True) - 1)
    highest = torch.minimum((1 - TOE - y_f).clamp(min=0) * ROOM, lumas.amax(dim=0, keepdim=True))
    return torch.minimum(torch.maximum(correction, lowest), highest)


def window_mean(image: torch.Tensor, side: int) -> torch.Tensor:
    """Returns the mean over the window around every pixel, borders repeated.

    image: (1, C, H, W) on the CPU. side: pixels a side of the window. Returns (1, C, H, W).
    """
    window = (side, side)
    means = torch.empty(image.shape, dtype=image.dtype)
    for plane, out in zip(image[0].numpy(), means[0].numpy(), strict=True):
        cv2.blur(plane, window, dst=out, borderType=cv2.BORDER_REPLICATE)
    return means


def colour_factors(network: ColourNetwork, stack: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    """Returns factors and tint of the network for a whole reduced picture, (1, K + 2, h, w).

    The network is asked for the colours of a luma nearer to mid-grey: those of a well-exposed
    picture, which neither clipping nor noise has made pale, are what people choose. Where these do
    not fit the luma, it is asked for the colours of the luma itself, and both are mixed so that
    they just fit: a golden sky would otherwise become pink, the pale red of a darker one.

    stack: exposures (K, 3, h, w) of Y, Cb, Cr; y: finished luma (1, 1, h, w); on the CPU.
    """
    planes = factors_for_luma(network, stack, ASKED[0] + ASKED[1] * (y - 0.5))
    offset = rgb_offset(taught_chroma(stack[:, 1:], planes))
    outside = (offset > 1 - y[0]) | (offset < -y[0])
    if outside.any(dim=0).float().mean() < FEW:
        return planes
    halves = map(loss.halve, (stack, y))  # for speed
    whole = slice(0, y.shape[-2]), slice(0, y.shape[-1])
    natural = enlarge(factors_for_luma(network, *halves), 2, whole)
    change = rgb_offset(taught_chroma(stack[:, 1:], natural)) - offset
    room = torch.where(offset > 0, 1 - y[0], -y[0])
    nearer = outside & (change * offset < 0)  # The luma's own colours are nearer to fitting.
    share = torch.where(nearer, (room - offset) / change, 0).clamp(0, 1)
    return planes.lerp_(natural, share.amax(dim=0))


def rgb_offset(cbcr: torch.Tensor) -> torch.Tensor:
    """Returns what chroma (2, h, w) adds to luma in R, G and B, (3, h, w)."""
    matrix = torch.from_numpy(utils.FROM_YCBCR[:, 1:3]).to(cbcr.dtype)
    return torch.einsum("ij,jhw->ihw", matrix, cbcr - utils.NEUTRAL)


def factors_for_luma(network: ColourNetwork, stack: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    """Returns what colour_factors does for the colours of a luma (1, 1, h, w).

    The network is not asked for less than the darkest exposure has: lamps keep the colour that this
    one shows. Chroma of what is nearly black in an exposure counts less, because it is that of
    noise and JPEG.
    """
    device = device_of(network)
    lumas = stack[:, :1]
    wanted = torch.maximum(y, lumas.amin(dim=0, keepdim=True))
    belief = lumas.square() / (lumas.square() + BLACK**2)  # (K, 1, h, w)
    stack = torch.cat([lumas, (stack[:, 1:] - 0.5) * belief + 0.5], dim=1)
    planes = torch.empty(1, len(stack) + 2, *y.shape[-2:])

    def work(outer: Area, inner: Area, place: Area) -> None:
        seen = to_device(stack[None, ..., outer[0], outer[1]], device)
        factors, tint = network.factors(seen, to_device(wanted[(..., *outer)], device))
        part = torch.cat([factors[:, :, 0], tint], dim=1).cpu()
        planes[(..., *place)] = part[(..., *inner)]

    in_tiles(work, y.shape[-2:], NETWORK_TILES[4], network.radius, device)
    planes[0, :-2] *= belief[:, 0]
    return planes


def taught_chroma(chroma: torch.Tensor, planes: torch.Tensor) -> torch.Tensor:
    """Returns the chroma of a part of a picture, (2, h, w), around 1/2.

    chroma: Cb and Cr of the exposures, (K, 2, h, w). planes: colour_factors of that part.
    """
    total = planes[0, -2:].clone()
    for offset, factor in zip(chroma - 0.5, planes[0, :-2], strict=True):
        total.addcmul_(offset, factor[None])
    return total.add_(0.5)


def smooth_chroma(cbcr: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    """Smooths chroma along luma's edges (guided filter), to calm noise and JPEG's blocks.

    cbcr: (2, h, w); y: (1, 1, h, w); on the CPU. Returns (2, h, w).
    """
    planes = []
    for plane in cbcr:
        factor, constant = guided(y, plane[None, None], SMOOTHING_WINDOW, SMOOTHING_RIDGE)[0]
        planes.append(factor * y[0, 0] + constant)
    return torch.stack(planes)
