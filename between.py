"""Which exposures are missing between others? A network tells them: any of a wanted mean luma.

Two exposures that lie six or more stops apart show little between: where one is clipped, the other
is dark and noisy. Brackets of three and more have shown a network what a camera sees there.

The network is of model.py or portable.py; what surrounds its layers is here and serves NumPy's
arrays and PyTorch's tensors alike, see arrays.py.
"""

from collections.abc import Sequence
from typing import NamedTuple, Protocol

import numpy as np

import utils
from arrays import Array, halve, local_mean, namespace
from tiles import Area, enlarge, whole_area

LEVELS = 5  # exposures of a complete stack
# Where a network is not sure, it tells what is likeliest, which is pale and smooth. Chroma and the
# finest texture are raised by these, times the mean luma by which a gap is wider than NEAR.
PALE = 0.15
SMOOTH = 0.6
NEAR = 0.15  # difference of mean lumas up to which what is between two exposures is their mean
LOCAL, WIDE = 3, 17  # pixels of half the size; sides of squares whose means the network sees too
STEP = 4  # pixels a side that are one pixel of the surroundings
HALVINGS = 3  # of the surroundings


class Network(Protocol):
    """The layers of a network that tells exposures; see model.BetweenNetwork for the shapes."""

    def surroundings(self, seen: Array, count: int) -> Array:
        """Returns features of the surroundings, the same for every wanted exposure."""

    def factors(self, seen: Array, around: Array, count: int) -> Array:
        """Returns every exposure's factors at every pixel."""

    def free(self, around: Array, asked: Array) -> Array:
        """Returns the luma that is added, of the surroundings' size."""


class View(NamedTuple):
    """A part of a scene as a network sees it, whatever exposure is wanted.

    exposures: K, their number. x: the exposures, (K*N, 3, h, w) of Y, Cb, Cr, chroma around
    0. half: of half the size, where factors are told, and means: its means over LOCAL and WIDE
    pixels. level: the mean luma of each whole exposure, (K*N, 1, 1, 1). coarse: the surroundings'
    features. area: x in the picture; outer: `half` in the halved picture.
    """

    exposures: int
    x: Array
    half: Array
    means: Sequence[Array]
    level: Array
    coarse: Array
    area: Area
    outer: Area


def complete(network: Network, stack: np.ndarray, levels: np.ndarray | None = None) -> np.ndarray:
    """Returns exposures at LEVELS equal steps of mean luma, dark to bright, (LEVELS, 3, h, w).

    The first and the last are the darkest and the brightest of the scene. Between two exposures
    that lie near each other, what is missing is mixed of both; else the network tells it from all
    exposures. How many there are therefore does not matter, only how far they reach.

    stack: exposures in any order, (K, 3, h, w) of Y, Cb, Cr in [0, 1]. levels: the mean lumas of
    the exposures over all pictures that are to be alike, (K,), dark to bright; by default this
    one's.
    """
    level = stack[:, 0].mean(axis=(1, 2))
    order = np.argsort(level, kind="stable")
    stack, level = stack[order], level[order] if levels is None else levels.astype(np.float32)
    view = None
    result = [stack[0]]
    for wanted in np.linspace(level[0], level[-1], LEVELS, dtype=np.float32)[1:-1]:
        k = min(int(np.searchsorted(level, wanted, side="right")), len(level) - 1)
        gap = level[k] - level[k - 1]
        if gap <= NEAR:
            share = (wanted - level[k - 1]) / max(gap, np.float32(1e-6))
            result.append(stack[k - 1] + share * (stack[k] - stack[k - 1]))
            continue
        if view is None:
            view = look(network, stack[None], level=level)
        result.append(raised(tell(network, view, np.array([wanted]))[0], gap))
    return np.stack([*result, stack[-1]])


def raised(told: np.ndarray, gap: np.floating) -> np.ndarray:
    """Returns a told exposure with the chroma and the texture of a taken one, (3, h, w) in [0, 1].

    told: (3, h, w) of Y, Cb, Cr. gap: difference of mean luma of the exposures that it lies
    between.
    """
    wide = gap - np.float32(NEAR)
    texture = told[:1] - local_mean(told[None, :1], LOCAL)[0]
    chroma = told[1:] - np.float32(utils.NEUTRAL)
    more = np.concatenate([np.float32(SMOOTH) * texture, np.float32(PALE) * chroma])
    return (told + wide * more).clip(0, 1)


def look(
    network: Network, stack: Array, area: Area | None = None, level: Array | None = None
) -> View:
    """Returns what a network sees of exposures in any order, (N, K, 3, H, W) in [0, 1].

    area: the part of the picture that is to be told; all of it by default. level: the mean lumas
    of the exposures, (K,); by default the picture's own.
    """
    count, shape = stack.shape[1], stack.shape[-2:]
    area = area or whole_area(shape)
    x = stack.swapaxes(0, 1).reshape(-1, *stack.shape[2:]) - offset(stack)
    if level is None:
        level = x[:, :1].mean(axis=(2, 3), keepdims=True)
    level = level.reshape(-1, 1, 1, 1)
    planes = namespace(x).concatenate([x, level + 0 * x[:, :1]], axis=1)
    coarse = network.surroundings(filled_up(planes, STEP * 2**HALVINGS), count=count)
    half = halve(x)
    # Neighbouring pixels are told too, so that parts do not differ from the whole.
    rows, columns = (
        slice(max(side.start // 2 - 1, 0), min(-(-side.stop // 2) + 1, length))
        for side, length in zip(area, half.shape[-2:], strict=True)
    )
    means = [local_mean(half, side)[..., rows, columns] for side in (LOCAL, WIDE)]
    part = half[..., rows, columns]
    return View(count, x[(..., *area)], part, means, level, coarse, area, (rows, columns))


def tell(network: Network, view: View, wanted: Array) -> Array:
    """Returns the exposure of a wanted mean luma, (N, 3, h, w) of Y, Cb, Cr.

    wanted: (N,), in [0, 1]. The result may leave [0, 1] a little.
    """
    xp = namespace(view.x)
    count, half, (local, wide) = view.exposures, view.half, view.means
    asked = wanted.reshape(-1, 1, 1, 1)
    each = xp.concatenate([asked] * count, axis=0)
    constants = [view.level, each, each - view.level]
    plane = 0 * half[:, :1]
    seen = xp.concatenate([half, local, wide, *(value + plane for value in constants)], axis=1)
    around = bilinear(view.coarse, STEP // 2, view.outer)
    factors = network.factors(seen, around, count=count)  # (K*N, 5, ...)
    free = bilinear(network.free(view.coarse, asked), STEP // 2, view.outer)
    tint = factors[:, 3:4] * local[:, 1:] + factors[:, 4:5] * wide[:, 1:]
    rest = summed(xp.concatenate([factors[:, 1:2] * local[:, :1], tint], axis=1), count)
    rest[:, :1] += free
    rows, columns = (
        slice(side.start - 2 * outer.start, side.stop - 2 * outer.start)
        for side, outer in zip(view.area, view.outer, strict=True)
    )
    of_y, rest = (bilinear(maps, 2, (rows, columns)) for maps in (factors[:, :1], rest))
    of_chroma = bilinear(factors[:, 2:3], 2, (rows, columns))
    own = [
        (of_y + 1 / count) * view.x[:, :1],
        (of_chroma + 1 / count) * view.x[:, 1:],
    ]
    told = summed(xp.concatenate(own, axis=1), count) + rest
    return told + offset(told)


def summed(x: Array, count: int) -> Array:
    """Returns the sum over K exposures, (N, C, h, w), of (K*N, C, h, w)."""
    return x.reshape(count, -1, *x.shape[1:]).sum(axis=0)


def offset(x: Array) -> Array:
    """Returns what is grey in Y, Cb, Cr, and black: 0, 1/2, 1/2, (3, 1, 1)."""
    values = np.array([0, utils.NEUTRAL, utils.NEUTRAL], np.float32).reshape(3, 1, 1)
    if isinstance(x, np.ndarray):
        return values
    return x.new_tensor(values)


def filled_up(planes: Array, side: int) -> Array:
    """Returns planes with their last rows and columns repeated, up to multiples of `side`.

    There are two of these at least: OpenCV 5.0 enlarges a single row wrongly.
    """
    rows, columns = (max(-(-length // side), 2) * side - length for length in planes.shape[-2:])
    if isinstance(planes, np.ndarray):
        return np.pad(planes, [(0, 0), (0, 0), (0, rows), (0, columns)], mode="edge")
    from torch.nn import functional as F

    return F.pad(planes, [0, columns, 0, rows], mode="replicate")


def bilinear(maps: Array, factor: int, area: Area) -> Array:
    """Returns one part of bilinearly enlarged maps, (N, C, h, w), see tiles.enlarge."""
    if isinstance(maps, np.ndarray):
        planes = maps.reshape(1, -1, *maps.shape[-2:])
        parts = enlarge(planes, factor, area)
        return parts.reshape(*maps.shape[:2], *parts.shape[-2:])
    from torch.nn import functional as F

    # With a neighbour on every side, parts do not differ from the whole.
    maps = F.pad(maps, [1] * 4, mode="replicate")
    rows, columns = (slice(side.start // factor, -(-side.stop // factor) + 2) for side in area)
    maps = F.interpolate(maps[..., rows, columns], scale_factor=factor, mode="bilinear")
    starts = [side.start % factor + factor for side in area]
    rows, columns = (
        slice(start, start + side.stop - side.start)
        for start, side in zip(starts, area, strict=True)
    )
    return maps[..., rows, columns]
