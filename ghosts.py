"""What moved between exposures of one scene, and what would they show without it?

Pictures are (H, W, 3) RGB or (H, W) grey; uint8, uint16 or float in [0, 1]. One of them, the
reference, shows the scene that is kept.
"""

import itertools
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import cv2
import numpy as np

import utils

COARSE = 1000  # pixels; longer side of the reduced pictures in which movement is looked for
QUICK = 300  # pixels; the same where a reference is looked for
TOLERANCE = 10  # levels of 255; noise and rounding may move a pixel so far, either way
CERTAIN = 12.0  # levels beyond TOLERANCE, as an area's mean, that prove movement
POSSIBLE = 3.0  # levels beyond TOLERANCE that show movement next to a proven one
NOISE = 6.0  # levels; a colour may leave the usual one so far, and by
UNUSUAL = 2.0  # times the mean distance by which its colour leaves it elsewhere
STRANGE = 6.0  # levels beyond these two, as an area's mean, without which nothing is proven
ODD = 2.0  # levels beyond these two that show movement next to a proven one
DISSENT = 2.0  # times these two, for a colour in which another witness and the reference differ
CLIPPED, UNKNOWN = 2.0, 15.0  # levels from black or white; by which these may be farther off
EXTENT = 9  # pixels of reduced pictures; side of an area that is checked for movement
SOFT = 4.0  # width of the soft border of replaced areas, in pixels of reduced pictures
GRID = 33  # colours a channel of a ColourGrid; a power of 2, and 1
PRIOR = 8.0  # pixels' worth of trust in what the coarser of two grids says
MOST = 0.9  # share of a picture; where more seems to have moved, it is of another scene
WORTH = 0.005  # share of the picture that has to move for another reference to be looked for
VAGUE = 40  # levels of another exposure that belong to one; with more, it tells too little
QUARREL = 0.25  # share of what moved in the middle exposure about which the others may differ
BETTER = 0.8  # share of the middle exposure's cost below which another reference is preferred


def middle_exposure(images: Sequence[np.ndarray]) -> int:
    """Returns the index of the picture of middle brightness; of two such ones, the darker."""
    return by_brightness(images)[(len(images) - 1) // 2]


def by_brightness(images: Sequence[np.ndarray]) -> list[int]:
    """Returns the indices of pictures from the darkest to the brightest."""
    brightness = [utils.as_grey(image[::8, ::8]).mean() for image in images]
    return [int(k) for k in np.argsort(brightness, kind="stable")]


def deghost(
    images: Sequence[np.ndarray], reference: int | None = None
) -> tuple[list[np.ndarray], list[float]]:
    """Replaces what moved in aligned exposures by what the reference shows there.

    Where an exposure shows something else than the reference's scene, it gets what it would show
    of that scene, see Witness. The replaced area thus has the exposure's brightness and
    colours, and a soft border, so that fusing finds no step there. The exposures that are next to
    it in brightness tell more of the scene than the reference alone, where they show it too.

    images: two or more pictures of one size, all grey or all RGB.
    reference: index of the picture whose scene is shown; best_reference by default.
    Returns the pictures, and the share of each that was replaced.
    """
    if reference is None:
        reference = best_reference(images)
    small = [small_8_bit(image, COARSE) for image in images]
    moved = [np.zeros(other.shape[:2], bool) for other in small]
    for k, other in enumerate(small):
        if k != reference:
            moved[k] = movement(small[reference], other)
    order = by_brightness(images)
    result = []
    for k, image in enumerate(images):
        if moved[k].any():
            place = order.index(k)
            near = [s for s in order[max(place - 1, 0) : place + 2] if s not in (k, reference)]
            witnesses = [
                Witness.learn(images[s], small[s], small[k], moved[s], moved[k])
                for s in (reference, *near)
            ]
            image = replace(image, moved[k], witnesses)
        result.append(image)
    return result, [float(mask.mean()) for mask in moved]


def best_reference(images: Sequence[np.ndarray]) -> int:
    """Returns the index of the exposure whose scene is shown in place of what moved.

    It is the middle exposure, unless something moved there that the others do not show, who agree
    with each other. Then it is that one of these for which the least is replaced, where it tells
    what the others should show.
    """
    middle = middle_exposure(images)
    if len(images) < 3:
        return middle
    small = [small_8_bit(image, QUICK) for image in images]
    number = range(len(images))

    def differ(i: int, j: int) -> np.ndarray:
        return movement(small[i], small[j]) | movement(small[j], small[i])

    odd = {frozenset((middle, k)): differ(middle, k) for k in number if k != middle}
    in_middle = np.any(list(odd.values()), axis=0)
    if in_middle.mean() < WORTH:
        return middle
    pairs = {frozenset(pair): differ(*pair) for pair in itertools.combinations(number, 2)}
    elsewhere = np.any([mask for pair, mask in pairs.items() if pair not in odd], axis=0)
    if (in_middle & elsewhere).sum() > QUARREL * in_middle.sum():
        return middle
    costs = [reference_cost(k, small, pairs) for k in number]
    best = int(np.argmin(costs))
    return best if costs[best] < BETTER * costs[middle] else middle


def reference_cost(
    reference: int, images: Sequence[np.ndarray], pairs: Mapping[frozenset[int], np.ndarray]
) -> float:
    """Returns the share of pictures that a reference replaces, or about which it is in doubt.

    It is where two others differ and it agrees with both, and where too many of another exposure's
    levels belong to its own.

    images: in 8 bits. pairs: masks of where pairs of them differ.
    """
    own = {pair: mask for pair, mask in pairs.items() if reference in pair}
    differs = {k: own[frozenset((reference, k))] for k in range(len(images)) if k != reference}
    cost = sum(float(mask.mean()) for mask in own.values())
    anywhere = np.any(list(pairs.values()), axis=0)
    static = or_all(~anywhere)
    luma = [utils.as_grey(image) for image in images]
    for k in differs:
        lowest, highest, _ = level_map(luma[reference][static], luma[k][static])
        vague = (highest - lowest > VAGUE)[luma[reference]]
        cost += float((anywhere & vague).mean())
    contrary = [
        mask & ~np.any([differs[k] for k in pair], axis=0)
        for pair, mask in pairs.items()
        if pair not in own
    ]
    return cost + float(np.any(contrary, axis=0).mean())


def small_8_bit(image: np.ndarray, side: int) -> np.ndarray:
    """Returns a picture in 8 bits, reduced to a longer side of `side` pixels at most."""
    return utils.reduce(utils.to_8_bit(image), min(side / max(image.shape[:2]), 1))


def or_all(mask: np.ndarray) -> np.ndarray:
    """Returns a mask, or one of all pixels in place of an empty one."""
    return mask if mask.any() else np.ones_like(mask)


def planes(image: np.ndarray) -> Sequence[np.ndarray]:
    """Returns a picture's channels."""
    return [image] if image.ndim == 2 else cv2.split(image)


def movement(reference: np.ndarray, other: np.ndarray) -> np.ndarray:
    """Returns a mask, bool (H, W): True where another exposure shows something else.

    Two kinds of evidence prove movement together: levels that no exposure of the same scene could
    have, whatever its response to light (level_evidence), and colours that this exposure does not
    have elsewhere for the reference's colour (colour_evidence). Next to proven movement, one of
    them is enough, such as for the rest of a person.

    reference, other: 8-bit pictures.
    """
    disc = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (EXTENT, EXTENT))

    def large(mask: np.ndarray) -> np.ndarray:
        return cv2.morphologyEx(mask.astype(np.uint8), cv2.MORPH_OPEN, disc) > 0

    def grown(mask: np.ndarray) -> np.ndarray:
        return cv2.dilate(mask.astype(np.uint8), disc, iterations=2) > 0

    static = np.ones(reference.shape[:2], bool)
    for _ in range(2):  # The second time, what moved does not disturb what is learned.
        levels = level_evidence(reference, other, static)
        certain = large(levels > CERTAIN)
        if not certain.any():
            return certain
        moved = grown(touching(levels > POSSIBLE, certain))
        if moved.mean() > MOST:
            break
        colours = colour_evidence(reference, other, ~moved)
        certain &= large(colours > STRANGE)
        moved = grown(touching((levels > POSSIBLE) | (colours > ODD), certain))
        if moved.mean() > MOST:
            break
        static = ~moved
    return moved


def touching(mask: np.ndarray, certain: np.ndarray) -> np.ndarray:
    """Returns the connected areas of a mask that touch certain pixels."""
    _, labels = cv2.connectedComponents(mask.astype(np.uint8))
    return np.isin(labels, np.setdiff1d(labels[certain], [0]))


def level_evidence(reference: np.ndarray, other: np.ndarray, static: np.ndarray) -> np.ndarray:
    """Returns the levels by which an exposure leaves what any exposure could show, (H, W).

    Both luma and a colour channel have to. Luma's level map fails on saturated colours, whose
    channels clip one by one. A channel's level map fails where a camera renders a colour
    differently at another exposure.

    reference, other: 8-bit pictures. static: mask of the pixels from which level maps are computed.
    """
    excess = level_excess(utils.as_grey(reference), utils.as_grey(other), static)
    if reference.ndim == 3:
        pairs = zip(planes(reference), planes(other), strict=True)
        channels = [level_excess(ours, theirs, static) for ours, theirs in pairs]
        excess = cv2.min(excess, np.max(channels, axis=0))
    return cv2.blur(excess, (EXTENT, EXTENT))


def level_excess(reference: np.ndarray, other: np.ndarray, static: np.ndarray) -> np.ndarray:
    """Returns the levels by which a plane leaves its level map's range, float32 (H, W), >= 0."""
    lowest, highest, _ = level_map(reference[static], other[static])
    other = other.astype(np.float32)
    too_dark = cv2.LUT(reference, lowest.astype(np.float32)) - other
    too_bright = other - cv2.LUT(reference, highest.astype(np.float32))
    return np.maximum(cv2.max(too_dark, too_bright) - TOLERANCE, 0)


def colour_evidence(reference: np.ndarray, other: np.ndarray, static: np.ndarray) -> np.ndarray:
    """Returns the levels by which an exposure leaves its usual rendering of a colour, (H, W).

    The more a colour's rendering varies, the farther a pixel has to be from it.

    reference, other: 8-bit pictures. static: mask of the pixels from which both are learned.
    """
    rendering = Rendering.learn(reference, other, static)
    colours, known = flat(reference), static.ravel()
    places, distance = rendering.distances(colours, flat(other))
    usual = ColourGrid.fit(places.where(known), distance[known]).at(places)
    excess = (distance - NOISE - UNUSUAL * usual).max(axis=1).reshape(reference.shape[:2])
    return cv2.blur(np.maximum(excess, 0).astype(np.float32), (EXTENT, EXTENT))


def flat(image: np.ndarray) -> np.ndarray:
    """Returns the pixels of a picture, (H W, C)."""
    return image.reshape(-1, 1 if image.ndim == 2 else image.shape[2])


def level_map(
    reference: np.ndarray, other: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Finds the levels of another exposure that belong to every level of a reference.

    Exposure is a monotone function of light, and the scene is the same. So a level has the same
    rank in both, and their histograms tell the function (M. Grossberg, S. Nayar, "Determining the
    Camera Response from Images: What Is Knowable?", IEEE TPAMI 25(11), 2003). A level that
    many pixels of the reference share, such as a clipped one, belongs to a range of levels.

    reference, other: uint8, one-dimensional, of the same pixels.
    Returns the lowest, highest and mean level of the other exposure for each of 256 levels, (256,).
    """
    share = np.bincount(reference, minlength=256) / len(reference)
    share_other = np.bincount(other, minlength=256) / len(other)
    above = np.cumsum(share)
    below = above - share
    ranks = np.cumsum(share_other)
    levels = np.arange(256)

    def level_at(rank):
        return np.clip(np.searchsorted(ranks, rank - 1e-9), 0, 255).astype(np.float64)

    lowest = level_at(below[np.clip(levels - TOLERANCE, 0, 255)])
    highest = level_at(above[np.clip(levels + TOLERANCE, 0, 255)])
    # The mean level between two ranks is a difference of the integral of level_at.
    integral = np.concatenate([[0], np.cumsum(share_other * levels)])
    edges = np.concatenate([[0], ranks])
    ends = [np.interp(rank, edges, integral) for rank in (below, above)]
    known = share > 0
    mean = np.interp(levels, levels[known], ((ends[1] - ends[0])[known] / share[known]))
    return lowest, highest, mean


class Places(NamedTuple):
    """Pixels' places in a ColourGrid: its 2 ** C points around each, by which it is interpolated.

    points: (2 ** C, P), their indices; weights: (2 ** C, P), which add up to 1 in each pixel.
    """

    points: np.ndarray
    weights: np.ndarray

    @classmethod
    def of(cls, ranks: np.ndarray) -> "Places":
        """Returns the places of pixels from the ranks of their levels, (C, P) in [0, 1]."""
        points, weights = [np.zeros(1, np.int32)], [np.ones(1, np.float32)]
        for rank in ranks.astype(np.float32) * (GRID - 1):
            low = np.minimum(rank.astype(np.int32), GRID - 2)
            share = rank - low
            points = [point * GRID + place for point in points for place in (low, low + 1)]
            weights = [weight * part for weight in weights for part in (1 - share, share)]
        return cls(np.stack(points), np.stack(weights))

    def where(self, mask: np.ndarray) -> "Places":
        """Returns the places of the pixels of a mask (P,)."""
        return Places(self.points[:, mask], self.weights[:, mask])


class ColourGrid(NamedTuple):
    """A smooth function of colour, known at GRID colours a channel, between which it is linear.

    values: (GRID ** C, V), V values at the colours of C channels.
    """

    values: np.ndarray

    @classmethod
    def fit(cls, places: Places, values: np.ndarray) -> "ColourGrid":
        """Returns the means of pixels' values (P, V) about their places.

        Coarser and coarser grids say what is not known where there are few pixels.
        """
        channels = len(places.points).bit_length() - 1
        sums = np.zeros((GRID**channels, values.shape[1] + 1))
        for point, weight in zip(places.points, places.weights, strict=True):
            for v, column in enumerate((*values.T, 1)):
                sums[:, v] += np.bincount(point, weight * column, len(sums))
        pyramid = [sums.reshape(*[GRID] * channels, -1)]
        while len(pyramid[-1]) > 2:
            pyramid.append(halved(pyramid[-1]))
        total = pyramid[-1].reshape(-1, sums.shape[1]).sum(axis=0)
        means = np.broadcast_to(total[:-1] / total[-1], (*[1] * channels, values.shape[1]))
        for level in reversed(pyramid):
            prior = doubled(means) if len(means) > 1 else means
            means = (level[..., :-1] + PRIOR * prior) / (level[..., -1:] + PRIOR)
        return cls(means.reshape(len(sums), -1).astype(np.float32))

    def at(self, places: Places) -> np.ndarray:
        """Returns the values (P, V) at pixels' places."""
        pairs = zip(places.points, places.weights, strict=True)
        return np.sum([weight[:, None] * self.values[point] for point, weight in pairs], axis=0)


def halved(sums: np.ndarray) -> np.ndarray:
    """Returns a ColourGrid's sums at every second point of each channel."""
    for axis in range(sums.ndim - 1):
        along = np.moveaxis(sums, axis, 0).copy()
        between = along[1::2] / 2
        along = along[::2]
        along[:-1] += between
        along[1:] += between
        sums = np.moveaxis(along, 0, axis)
    return sums


def doubled(means: np.ndarray) -> np.ndarray:
    """Returns a ColourGrid's means at every point, from those at every second one."""
    for axis in range(means.ndim - 1):
        along = np.moveaxis(means, axis, 0)
        finer = np.empty((2 * len(along) - 1, *along.shape[1:]))
        finer[::2] = along
        finer[1::2] = (along[:-1] + along[1:]) / 2
        means = np.moveaxis(finer, 0, axis)
    return means


class Rendering(NamedTuple):
    """The colours of another exposure that belong to a reference's.

    They are the mean levels of every channel's level_map, and for each colour as a whole the mean
    offset from these: cameras render colours differently at another exposure, and channels clip
    one by one.

    levels: (C, 256), the mean levels. ranks: (C, 256), in [0, 1], the share of pixels below each of
    the reference's levels. offsets: by these ranks.
    """

    levels: np.ndarray
    ranks: np.ndarray
    offsets: ColourGrid

    @classmethod
    def learn(cls, reference: np.ndarray, other: np.ndarray, static: np.ndarray) -> "Rendering":
        """Learns from the pixels of a mask of two 8-bit pictures."""
        colours, others = flat(reference)[static.ravel()], flat(other)[static.ravel()]
        levels = [level_map(*pair)[2] for pair in zip(colours.T, others.T, strict=True)]
        shares = [np.bincount(channel, minlength=256) / len(channel) for channel in colours.T]
        ranks = np.clip([np.cumsum(share) - share / 2 for share in shares], 0, 1)
        plain = cls(np.array(levels), ranks, ColourGrid(np.empty((0, len(levels)))))
        offsets = others - between_levels(plain.levels, colours)
        return plain._replace(offsets=ColourGrid.fit(plain.places(colours), offsets))

    def places(self, colours: np.ndarray) -> Places:
        """Returns the places of colours (P, C), in levels of 255, in the grid of offsets."""
        return Places.of(between_levels(self.ranks, colours).T)

    def of(self, colours: np.ndarray, places: Places | None = None) -> np.ndarray:
        """Returns the other exposure's colours (P, C) for a reference's, in levels of 255.

        places: of these colours, where they are known already.
        """
        offsets = self.offsets.at(places or self.places(colours))
        return np.clip(between_levels(self.levels, colours) + offsets, 0, 255)

    def distances(self, colours: np.ndarray, others: np.ndarray) -> tuple[Places, np.ndarray]:
        """Returns the places of colours, and how far another exposure's leave theirs, (P, C)."""
        places = self.places(colours)
        return places, np.abs(others - self.of(colours, places))


def between_levels(table: np.ndarray, colours: np.ndarray) -> np.ndarray:
    """Returns what tables of levels (C, 256) say of colours (P, C) in levels of 255."""
    if colours.dtype == np.uint8:
        return np.stack([row[channel] for row, channel in zip(table, colours.T, strict=True)], 1)
    pairs = zip(table, colours.T, strict=True)
    return np.stack([np.interp(channel, np.arange(256), row) for row, channel in pairs], 1)


class Witness(NamedTuple):
    """A picture of the scene that is kept, and what another exposure would show of it.

    picture: of full size. moved: mask, bool, of reduced size: where it shows something else.
    rendering: its colours in the exposure. usual: the mean distances, by colour, by which the
    exposure leaves them where both show the scene. brighter: True for a picture brighter than it.
    """

    picture: np.ndarray
    moved: np.ndarray
    rendering: Rendering
    usual: ColourGrid
    brighter: bool

    @classmethod
    def learn(
        cls,
        picture: np.ndarray,
        small: np.ndarray,
        other: np.ndarray,
        moved: np.ndarray,
        other_moved: np.ndarray,
    ) -> "Witness":
        """Learns from where neither mask is True; small, other: both pictures, reduced, 8-bit."""
        static = or_all(~(moved | other_moved))
        rendering, known = Rendering.learn(small, other, static), static.ravel()
        places, distance = rendering.distances(flat(small)[known], flat(other)[known])
        usual = ColourGrid.fit(places, distance)
        return cls(picture, moved, rendering, usual, bool(small.mean() > other.mean()))

    def colours(self, rows: slice, at: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Returns the exposure's colours (P, C) in levels of 255, and their usual distances.

        rows: a strip of the full picture. at: mask of its pixels.
        """
        colours = flat(self.picture[rows])[at.ravel()]
        white = utils.white_level(self.picture.dtype)
        if white != 255:
            colours = colours * (255 / white)
        places = self.rendering.places(colours)
        # White of a brighter picture, and black of a darker one, can be anything in the exposure.
        room = 255 - colours.max(axis=1) if self.brighter else colours.min(axis=1)
        usual = self.usual.at(places) + UNKNOWN * (room < CLIPPED)[:, None]
        return self.rendering.of(colours, places), usual


def replace(image: np.ndarray, moved: np.ndarray, witnesses: Sequence[Witness]) -> np.ndarray:
    """Returns a picture that shows the witnesses' scene in a mask, with a soft border.

    It shows their mean, in which each has the weight of its usual distance's inverse square. The
    first is the reference; another one counts where it agrees with it, as far as both usually do.
    So it tells most where the reference is black or noisy.

    moved: the mask, bool, of reduced size.
    """
    height, width = image.shape[:2]
    soft = softened(moved, width, height)
    reference, *others = witnesses
    hidden = [softened(witness.moved, width, height) for witness in others]
    white = utils.white_level(image.dtype)
    result = image.copy()
    for start in range(0, height, 64):  # Strips keep the memory for floats small.
        rows = slice(start, start + 64)
        at = soft[rows] > 0
        if not at.any():
            continue
        share, own = soft[rows][at][:, None], flat(image[rows])[at.ravel()]
        first, first_usual = reference.colours(rows, at)
        weight = 1 / (first_usual**2 + 1)
        total, weights = weight * first, weight
        for witness, elsewhere in zip(others, hidden, strict=True):
            colours, usual = witness.colours(rows, at)
            limits = DISSENT * (NOISE + UNUSUAL * (usual + first_usual))
            agrees = (np.abs(colours - first) <= limits).all(axis=1, keepdims=True)
            weight = agrees * (1 - elsewhere[rows][at][:, None]) / (usual**2 + 1)
            total, weights = total + weight * colours, weights + weight
        blend = own / white * (1 - share) + total / weights / 255 * share
        result[rows][at] = utils.quantise(blend, image.dtype).reshape(-1, *image.shape[2:])
    return result


def softened(mask: np.ndarray, width: int, height: int) -> np.ndarray:
    """Returns a mask of reduced size as shares, float32 (height, width), with a soft border.

    The border lies outside of the mask, so that nothing of a ghost is left inside.
    """
    soft = cv2.GaussianBlur(mask.astype(np.float32), (0, 0), SOFT)
    soft = np.clip(soft * 2, 0, 1)
    return cv2.resize(soft, (width, height), interpolation=cv2.INTER_LINEAR)


def show_elsewhere(image: np.ndarray, reference: np.ndarray, inside: np.ndarray) -> np.ndarray:
    """Returns a picture with the reference's scene, in the picture's brightness, outside a mask."""
    small, small_reference = (small_8_bit(x, COARSE) for x in (image, reference))
    size = small.shape[1::-1]
    shown = cv2.resize(inside.astype(np.uint8), size, interpolation=cv2.INTER_NEAREST) > 0
    nowhere = np.zeros_like(shown)
    witness = Witness.learn(reference, small_reference, small, nowhere, ~shown)
    return replace(image, ~shown, [witness])
