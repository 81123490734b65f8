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
from tiles import STRIP

COARSE = 500  # pixels; longer side of the reduced pictures in which movement is looked for
QUICK = 300  # pixels; the same where a reference is looked for
TOLERANCE = 10  # levels of 255; noise and rounding may move a bright pixel so far, either way
CERTAIN = 12.0  # levels beyond TOLERANCE, as an area's mean, that prove movement
POSSIBLE = 3.0  # levels beyond TOLERANCE that show movement next to a proven one
DIM, LEAST = 80, 0.1  # level of 255 below which all these are less; their least share, at black
NOISE = 6.0  # levels; a colour may leave the usual one so far, and by
UNUSUAL = 2.0  # times the mean distance by which its colour leaves it elsewhere
STRANGE = 6.0  # levels beyond these two, as an area's mean, without which nothing is proven
ODD = 2.0  # levels beyond these two that show movement next to a proven one
EXTENT = 7  # pixels of reduced pictures; side of an area that is checked for movement
CLOSED = 15  # pixels of reduced pictures; width of gaps in what moved that are closed
POCKET = 0.25  # share of what moved; smaller areas that it surrounds are taken to move with it
SOFT = 2.5  # width of the soft border of replaced areas, in pixels of reduced pictures
REACHES = (64.0, 16.0, 4.0)  # pixels of reduced pictures; of the surroundings that tell
GRID = 33  # colours a channel of a ColourGrid; a power of 2, and 1
PRIOR = 8.0  # pixels' worth of trust in what the coarser of two grids says
MOST = 0.9  # share of a picture; where more seems to have moved, it is of another scene
WORTH = 0.005  # share of the picture that has to move for another reference to be looked for
VAGUE = 40  # levels of another exposure that belong to one; with more, it tells too little
QUARREL = 0.25  # share of what moved in the first reference about which the others may differ
BETTER = 0.8  # share of its cost below which another reference is preferred
GLARE = 60.0  # levels that a large clipped area may add at its middle, half of it at its border
REACH = (3.0, 12.0)  # pixels of reduced pictures; standard deviations of its spread
BLACK, WHITE = 16, 250  # levels of 255; a pixel below or from there on tells too little
NEARLY_WHITE = 230  # level of 255; a colour whose channels all lie above may be any brighter one
LIGHT = 96  # levels of 255; a pixel from there on has little noise
PATCH = 9  # pixels of reduced pictures; side of the least area that another exposure tells of


def middle_exposure(images: Sequence[np.ndarray]) -> int:
    """Returns the index of the picture of middle brightness; of two such ones, the darker."""
    return utils.middle(by_brightness(images))


def telling_exposure(images: Sequence[np.ndarray]) -> int:
    """Returns the index of the picture that tells most: light, and not clipped, in most places.

    A dark pixel counts less, since it has more noise. Of two alike, the darker one.
    """
    greys = [few_pixels(image) for image in images]
    told = [((grey < WHITE) * np.minimum(grey / LIGHT, 1)).mean() for grey in greys]
    return max(by_brightness(images), key=lambda k: told[k])


def by_brightness(images: Sequence[np.ndarray]) -> list[int]:
    """Returns the indices of pictures from the darkest to the brightest."""
    brightness = [few_pixels(image).mean() for image in images]
    return [int(k) for k in np.argsort(brightness, kind="stable")]


def few_pixels(image: np.ndarray) -> np.ndarray:
    """Returns some of a picture's pixels, evenly spread, as 8-bit grey."""
    step = max(max(image.shape[:2]) // QUICK, 1)
    return utils.as_grey(image[::step, ::step])


def deghost(
    images: Sequence[np.ndarray], reference: int | None = None
) -> tuple[list[np.ndarray], list[float]]:
    """Replaces what moved in aligned exposures by what a reference shows there.

    Where an exposure shows something else than the reference's scene, it gets what it would show
    of that scene, see Rendering. The replaced area thus has the exposure's brightness and colours,
    and a soft border, so that fusing finds no step there. Where the reference is white or black,
    another exposure that does not contradict it is the reference.

    images: two or more pictures of one size, all grey or all RGB.
    reference: index of the picture whose scene is shown; by default the exposure that tells most
        or, where something moved, best_reference.
    Returns the pictures, and the share of each that was replaced.
    """
    small = [utils.reduced_quickly(image, COARSE) for image in images]
    first = telling_exposure(images) if reference is None else reference
    moved, sources = find_movement(small, first)
    if reference is None and np.mean(moved, axis=(1, 2)).max() >= WORTH:
        best = best_reference(images)
        if best != first:
            moved, sources = find_movement(small, best)
    result = []
    for k, image in enumerate(images):
        for source in np.unique(sources[moved[k]]):
            static = or_all(~(moved[k] | moved[source]))
            place = moved[k] & (sources == source)
            image = replace(image, images[source], place, (small[k], small[source]), static)
        result.append(image)
    return result, [float(mask.mean()) for mask in moved]


def find_movement(
    images: Sequence[np.ndarray], reference: int
) -> tuple[list[np.ndarray], np.ndarray]:
    """Finds where exposures show something else than the scene that is kept.

    images: in 8 bits. Returns a mask of each, bool (H, W), and the index of the exposure that tells
    of the scene at every pixel, (H, W).
    """
    moved = [
        np.zeros(image.shape[:2], bool) if k == reference else movement(images[reference], image)
        for k, image in enumerate(images)
    ]
    sources = best_sources(images, moved, reference)
    others = [int(k) for k in np.unique(sources) if k != reference]
    found = [mask.copy() for mask in moved]
    for source in others:
        place = sources == source
        for k in range(len(images)):
            if k not in (reference, source):
                found[k] |= movement(images[source], images[k]) & place
    result = []
    for mask, image in zip(found, images, strict=True):
        filled = without_pockets(mask)
        if filled.any():
            fits = fits_white(images[reference], image, or_all(~mask))
            filled &= ~mostly_inside(fits, filled)
        result.append(filled)
    return result, sources


def mostly_inside(mask: np.ndarray, other: np.ndarray) -> np.ndarray:
    """Returns the connected areas of a mask of which more than half lies in another mask."""
    count, labels = cv2.connectedComponents(mask.astype(np.uint8), connectivity=4)
    inside, areas = (np.bincount(labels[x], minlength=count) for x in (other, labels >= 0))
    within = inside > areas / 2
    within[0] = False  # all that is not in the mask
    return within[labels]


def fits_white(reference: np.ndarray, other: np.ndarray, static: np.ndarray) -> np.ndarray:
    """Returns a mask of the larger areas where a reference is white and another exposure bright.

    What the reference cannot tell there, the other one may show: it does not contradict it. Of an
    area that is white within something that moves, such as a sunlit jacket, nothing else tells.

    reference, other: 8-bit pictures. static: mask of the pixels from which levels are learned.
    """
    here, there = utils.as_grey(reference), utils.as_grey(other)
    lowest, _, _ = level_map(here[static], there[static])
    fits = (here >= WHITE) & (there >= lowest[WHITE])
    disc = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (PATCH, PATCH))
    return cv2.morphologyEx(fits.astype(np.uint8), cv2.MORPH_OPEN, disc) > 0


def best_sources(
    images: Sequence[np.ndarray], moved: Sequence[np.ndarray], reference: int
) -> np.ndarray:
    """Returns the index of the exposure that tells of the reference's scene at each pixel, (H, W).

    It is the reference, or where that is white the next darker one that is not, and where that is
    black the next brighter one that is not; not one that shows something else there.
    """
    order = by_brightness(images)
    place = order.index(reference)
    greys = [utils.as_grey(image) for image in images]
    rank = np.full(greys[reference].shape, place, np.uint8)
    white, black = greys[reference] >= WHITE, greys[reference] < BLACK
    for unknown, ranks in ((white, range(place)), (black, range(len(order) - 1, place, -1))):
        for r in ranks:  # The last that tells is the nearest to the reference.
            k = order[r]
            tells = (greys[k] >= BLACK) & (greys[k] < WHITE) & ~moved[k]
            rank[unknown & tells] = r
    sources = np.array(order)[cv2.medianBlur(rank, PATCH)]
    contrary = np.take_along_axis(np.array(moved), sources[None], axis=0)[0]
    return np.where(contrary, reference, sources)


def without_pockets(mask: np.ndarray) -> np.ndarray:
    """Returns a mask with the small areas that it surrounds, so that one thing has one source."""
    if not mask.any():
        return mask
    disc = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (CLOSED, CLOSED))
    closed = cv2.morphologyEx(mask.astype(np.uint8), cv2.MORPH_CLOSE, disc)
    _, labels, statistics, _ = cv2.connectedComponentsWithStats(1 - closed, connectivity=4)
    areas = statistics[:, cv2.CC_STAT_AREA]
    small = areas < POCKET * closed.sum()
    small[0] = True  # the mask itself
    return small[labels]


def best_reference(images: Sequence[np.ndarray]) -> int:
    """Returns the index of the exposure whose scene is shown in place of what moved.

    It is the one that tells most, unless something moved there that the others do not show, who
    agree with each other. Then it is that one of these for which the least is replaced, where it
    tells what the others should show.
    """
    first = telling_exposure(images)
    if len(images) < 3:
        return first
    small = [utils.reduced_quickly(image, QUICK) for image in images]
    number = range(len(images))

    def differ(i: int, j: int) -> np.ndarray:
        return movement(small[i], small[j]) | movement(small[j], small[i])

    odd = {frozenset((first, k)): differ(first, k) for k in number if k != first}
    in_first = np.any(list(odd.values()), axis=0)
    if in_first.mean() < WORTH:
        return first
    pairs = {frozenset(pair): differ(*pair) for pair in itertools.combinations(number, 2)}
    elsewhere = np.any([mask for pair, mask in pairs.items() if pair not in odd], axis=0)
    if (in_first & elsewhere).sum() > QUARREL * in_first.sum():
        return first
    costs = [reference_cost(k, small, pairs) for k in number]
    best = int(np.argmin(costs))
    return best if costs[best] < BETTER * costs[first] else first


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
    differently at another exposure. What the brighter of the two may owe to glare does not count.

    reference, other: 8-bit pictures. static: mask of the pixels from which level maps are computed.
    """
    luma = utils.as_grey(reference), utils.as_grey(other)
    brighter = int(luma[1].mean() > luma[0].mean())
    light = [np.zeros(static.shape, np.float32)] * 2
    light[brighter] = glare(luma[brighter])
    excess = level_excess(*luma, static, *light)
    if reference.ndim == 3 and (cv2.blur(excess, (EXTENT, EXTENT)) > CERTAIN).any():
        pairs = zip(planes(reference), planes(other), strict=True)
        channels = [level_excess(ours, theirs, static, *light) for ours, theirs in pairs]
        excess = cv2.min(excess, np.max(channels, axis=0))
    return cv2.blur(excess, (EXTENT, EXTENT))


def glare(grey: np.ndarray) -> np.ndarray:
    """Returns the levels that light from clipped areas may add around them, float32 (H, W)."""
    clipped = (grey >= WHITE).astype(np.float32)
    return GLARE * np.max([cv2.GaussianBlur(clipped, (0, 0), reach) for reach in REACH], axis=0)


def level_excess(
    reference: np.ndarray,
    other: np.ndarray,
    static: np.ndarray,
    glare_here: np.ndarray,
    glare_there: np.ndarray,
) -> np.ndarray:
    """Returns by how much a plane leaves its level map's range, float32 (H, W), >= 0.

    The unit is a level of bright pixels; of dark ones fewer levels, of less noise, say as much.
    glare_here, glare_there: levels that glare may have added to the reference and to the other.
    """
    lowest, highest, mean = level_map(reference[static], other[static])
    other = other.astype(np.float32)
    without = np.clip(reference - glare_here, 0, 255).astype(np.uint8)
    around = np.ones((3, 3), np.uint8)  # Edges lie between pixels, and not always the same ones.
    too_dark = cv2.erode(cv2.LUT(without, lowest.astype(np.float32)), around) - other
    too_bright = cv2.dilate(cv2.LUT(reference, highest.astype(np.float32)), around)
    too_bright = other - glare_there - too_bright
    unit = cv2.LUT(reference, levels_that_count(mean).astype(np.float32))
    return np.maximum(cv2.max(too_dark, too_bright) / unit - TOLERANCE, 0)


def levels_that_count(level: np.ndarray) -> np.ndarray:
    """Returns how many levels of 255 at a level say as much as one of a bright pixel does."""
    return np.clip(LEAST + (1 - LEAST) * level / DIM, LEAST, 1)


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

    def level_at(rank: np.ndarray) -> np.ndarray:
        return np.clip(np.searchsorted(ranks, rank - 1e-9), 0, 255).astype(np.float64)

    room = np.ceil(TOLERANCE * levels_that_count(levels)).astype(int)
    lowest = level_at(below[np.clip(levels - room, 0, 255)])
    highest = level_at(above[np.clip(levels + room, 0, 255)])
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
        shown = np.clip(between_levels(self.levels, colours) + offsets, 0, 255)
        # A clipped channel stands for all that is brighter, up to the sun. Where another one of the
        # colour is not clipped, such as of skin in sunlight, it stands for little more than its own
        # level; else red alone would become very bright.
        low = np.minimum(shown, self.levels[:, -2] + NOISE)
        least = colours.min(axis=1).astype(np.float64)
        white = np.clip((least - NEARLY_WHITE) / (255 - NEARLY_WHITE), 0, 1)
        return low + white[:, None] * (shown - low)

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


def replace(
    image: np.ndarray,
    source: np.ndarray,
    moved: np.ndarray,
    small: tuple[np.ndarray, np.ndarray],
    static: np.ndarray,
) -> np.ndarray:
    """Returns a picture that shows another one's scene in a mask, with a soft border.

    The reduced picture tells the colours, in which a dark exposure's noise would be seen; the full
    one adds the detail of its luma.

    moved: the mask, bool, of reduced size. small: both pictures, reduced, in 8 bits. static: mask
    of where both show the scene.
    """
    height, width = image.shape[:2]
    near = cv2.dilate(moved.astype(np.uint8), np.ones((5, 5)), iterations=2 * EXTENT) > 0
    soft, shown = softened(moved), rendered(*small, static, near)
    here, there = utils.as_grey(small[1]), utils.as_grey(small[0])
    levels = level_map(here[static], there[static])[2].astype(np.float32)
    levels[WHITE:] = levels[WHITE]  # What is clipped has no detail, and noise must not get it.
    shown -= cv2.LUT(here, levels)[..., None]
    white = utils.white_level(image.dtype)
    result = image.copy()
    for start in range(0, height, STRIP):  # Strips keep the memory for floats small.
        rows = slice(start, min(start + STRIP, height))
        share = enlarged(soft, rows, height, width)
        at = share > 0
        if not at.any():
            continue
        detail = cv2.LUT(utils.as_grey(source[rows]), levels)[at][:, None]
        scene = flat(enlarged(shown, rows, height, width))[at.ravel()] + detail
        own, share = flat(image[rows])[at.ravel()], share[at][:, None]
        blend = own / white * (1 - share) + scene.clip(0, 255) / 255 * share
        result[rows][at] = utils.quantise(blend, image.dtype).reshape(-1, *image.shape[2:])
    return result


def rendered(
    image: np.ndarray, source: np.ndarray, static: np.ndarray, near: np.ndarray
) -> np.ndarray:
    """Returns what an exposure would show of a source's scene, (H, W, C) float32, levels of 255.

    White and black of the source can be anything in the exposure: there it is what its surroundings
    are, such as the sky behind leaves.

    image, source: reduced, in 8 bits. static: mask of where both show the scene. near: mask of
    where the scene is wanted; elsewhere, it is black.
    """
    rendering = Rendering.learn(source, image, static)
    shown = np.zeros((*source.shape[:2], len(rendering.levels)), np.float32)
    shown[near] = rendering.of(flat(source)[near.ravel()])
    grey = utils.as_grey(source)
    unknown = ((grey >= WHITE) | (grey < BLACK)).astype(np.float32)
    known = static & (unknown > 0)
    if (known & near).any():
        left = np.zeros_like(shown)
        left[known] = flat(image)[known.ravel()] - rendering.of(flat(source)[known.ravel()])
        soft = cv2.GaussianBlur(unknown, (0, 0), SOFT)[..., None]
        shown += spread(left, known) * soft
    return shown


def spread(values: np.ndarray, known: np.ndarray) -> np.ndarray:
    """Returns values (H, W, C) of a mask's pixels as means of the nearest ones everywhere."""
    result = np.zeros_like(values)
    for reach in REACHES:  # The nearer the more they count.
        share = cv2.GaussianBlur(known.astype(np.float32), (0, 0), reach)[..., None]
        mean = cv2.GaussianBlur(values * known[..., None], (0, 0), reach).reshape(values.shape)
        trust = share / (share + 0.05)
        result = result * (1 - trust) + mean / np.maximum(share, 1e-6) * trust
    return result


def enlarged(plane: np.ndarray, rows: slice, height: int, width: int) -> np.ndarray:
    """Returns some rows of a plane (h, w, ...) enlarged to a height and a width."""
    y, x = plane.shape[0] / height, plane.shape[1] / width
    # Whole coordinates are pixels' centres, so corners lie at halves.
    to_plane = np.array([[x, 0, (x - 1) / 2], [0, y, (rows.start + 0.5) * y - 0.5]])
    return cv2.warpAffine(
        plane,
        to_plane,
        (width, rows.stop - rows.start),
        flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP,
        borderMode=cv2.BORDER_REPLICATE,
    )


def softened(mask: np.ndarray) -> np.ndarray:
    """Returns a mask as shares, float32 (h, w), with a soft border.

    The border lies outside of the mask, so that nothing of a ghost is left inside.
    """
    return np.clip(cv2.GaussianBlur(mask.astype(np.float32), (0, 0), SOFT) * 2, 0, 1)


def show_elsewhere(
    image: np.ndarray, source: np.ndarray, hidden: np.ndarray, known: np.ndarray
) -> np.ndarray:
    """Returns a picture that shows another one's scene, in its own brightness, in a mask.

    hidden: the mask, bool (H, W). known: mask of where both pictures show the scene.
    """
    small, small_source = (utils.reduced_quickly(x, COARSE) for x in (image, source))
    size = small.shape[1::-1]
    # A reduced pixel is hidden where a part of it is, and known where all of it is.
    hidden, known = (
        cv2.resize(mask.astype(np.float32), size, interpolation=cv2.INTER_AREA)
        for mask in (hidden, known)
    )
    return replace(image, source, hidden > 0, (small, small_source), or_all(known == 1))
