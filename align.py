"""How do hand-held exposures come to lie on each other? Registration; arrays in, arrays out.

Pictures are (H, W, 3) RGB or (H, W) grey; uint8, uint16 or float in [0, 1]. A homography is a
(3, 3) matrix that takes a point (x, y, 1) of the reference to the same point of another exposure.
(0, 0) is the centre of the first pixel.
"""

import contextlib
import functools
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import cv2
import numpy as np

import ghosts
import utils

LARGEST = 32767  # pixels a side; OpenCV resamples no larger pictures
FINEST = 2000  # pixels; longer side of the largest reduced pictures that are compared
FITTING_SIDE = 500  # pixels; the same of those that tell whether exposures fit
SHIFT_SIDE = 125  # pixels; the same of those in which a shift is looked for, at least
FREEDOM = {125: (2, 4, 4, 4), 250: (4, 4, 4), 500: (8, 8, 8)}  # of MOTIONS, the first ones, by size
LAST = (8, 8)  # at larger sizes
BLOCKS = 30  # blocks along the width, each of which tells of its displacement
LEAST_BLOCK = 8  # pixels; least side of a block
NARROW_BLUR, WIDE_BLUR = (
    1.0,
    3.0,
)  # pixels; deviations of two Gaussians that are compared
GRAIN = 1.0  # levels of 255; noise of pictures, at least
FLOOR = 0.05  # pixels; error of a block's displacement, at least
# Usual sizes of hand movements, as shares of half of the longer side: of each motion of MOTIONS.
# Shift and rotation may have any.
USUAL = np.array([np.inf, np.inf, 0.01, np.inf, 0.002, 0.002, 0.006, 0.006])
OUTLIER = 4.7  # times the robust standard deviation, from which on a block counts nothing
FEATURES = 4000  # features of each picture, at most
LEAST_FEATURES = 8  # matched features that must agree
LEAST_CONTRAST = 0.5  # levels of 255; contrast of what two exposures both show, at least
FIT = 0.2  # least correlation of two exposures of one scene in register; of others it is below 0.05
CLEAR = 0.5  # correlation above which no better way to register is looked for
# Pixels of movement that are seen at a glance, by the longer side of reduced pictures.
NOTICED = {125: 0.3, 250: 0.15, 500: 0.15}
PLENTY = 2000  # pixels; longer side of pictures for which the largest of these are looked at
STILL = 0.1  # pixels; a smaller movement is not worth the loss by interpolation
FRACTIONS = 1024  # of a pixel, in which the corners of a registered exposure are told
NEEDED = 1.0  # pixels; a movement by less is not seen
LEAST_GAIN = 0.03  # share of the missing correlation that a needed registration adds

# Motions of points (x, y), each a displacement p (u, v) and p * sign in cells (i, j) of a matrix.
MOTIONS = [
    [(0, 2, 1)],  # shift
    [(1, 2, 1)],
    [(0, 0, 1), (1, 1, 1)],  # zoom
    [(0, 1, -1), (1, 0, 1)],  # rotation
    [(0, 0, 1), (1, 1, -1)],  # shear
    [(0, 1, 1), (1, 0, 1)],
    [(2, 0, -1)],  # perspective
    [(2, 1, -1)],
]


class Registration(NamedTuple):
    """The place of an exposure against the reference.

    homography: (3, 3), from the reference's pixels to the exposure's.
    shift: (x, y) of the picture's centre, in pixels.
    rotation: in degrees, clockwise as seen.
    correlation: of the detail that both show, in register.
    """

    homography: np.ndarray
    shift: tuple[float, float]
    rotation: float
    correlation: float

    @property
    def still(self) -> bool:
        """True where the exposure has been left where it is."""
        return bool(np.array_equal(self.homography, np.eye(3)))


def align(
    images: Sequence[np.ndarray],
    reference: int | None = None,
    crop: bool = True,
    names: Sequence[str] | None = None,
) -> tuple[list[np.ndarray], list[Registration], tuple[slice, slice]]:
    """Registers exposures of one scene to one of them, and resamples them accordingly.

    images: two or more pictures, all grey or all RGB; sizes may differ.
    reference: index of the picture to which the others are registered; by default the exposure
        that tells most, see ghosts.telling_exposure.
    crop: see lay_on.
    names: of the pictures, for messages; by default "exposure 1" and so on.

    Returns the aligned pictures, which have one size, a Registration of each, and the rows and
    columns of the reference that they show. An exposure that has not moved is not resampled.
    Raises ValueError where an exposure cannot be registered, and where pictures are larger than
    OpenCV can resample.
    """
    check_registrable(images)
    if reference is None:
        reference = ghosts.telling_exposure(images)
    names = names or [f"exposure {k + 1}" for k in range(len(images))]
    found = []
    for name, outcome in zip(names, register_all(images, reference), strict=True):
        if isinstance(outcome, str):
            raise ValueError(f"{name} cannot be aligned with {names[reference]}: {outcome}")
        found.append(outcome)
    aligned, area = lay_on(images, found, reference, crop)
    return aligned, found, area


def check_registrable(images: Sequence[np.ndarray]) -> None:
    """Raises ValueError where pictures are larger than OpenCV can resample."""
    if too_large(images):
        raise ValueError(f"pictures can be aligned up to {LARGEST} pixels a side")


def too_large(images: Sequence[np.ndarray]) -> bool:
    """Returns True for pictures of which OpenCV cannot resample one."""
    return max(max(image.shape[:2]) for image in images) > LARGEST


def lay_on(
    images: Sequence[np.ndarray],
    registrations: Sequence[Registration],
    reference: int,
    crop: bool = True,
) -> tuple[list[np.ndarray], tuple[slice, slice]]:
    """Resamples registered exposures as seen from the reference, given by its index.

    crop: crops to the rectangle that all exposures cover. Otherwise pictures get the reference's
        size, and show the reference where an exposure shows nothing.

    Returns the pictures, and the rows and columns of the reference that they show.
    """
    height, width = images[reference].shape[:2]
    area = (slice(0, height), slice(0, width))
    if crop:
        area = common_area([r.homography for r in registrations], [i.shape[:2] for i in images])
    aligned = []
    for image, registration in zip(images, registrations, strict=True):
        resampled = resample(image, registration.homography, images[reference].shape)
        if not crop and resampled is not image:
            inside = covered(image.shape[:2], registration.homography, (height, width))
            if not inside.all():
                resampled = ghosts.show_elsewhere(resampled, images[reference], ~inside, inside)
        aligned.append(resampled[area])
    return aligned, area


def register_all(
    images: Sequence[np.ndarray], reference: int, needed: bool = False
) -> list[Registration | str]:
    """Registers every picture to the reference, given by its index.

    A picture that has too little in common with the reference is registered to its neighbour in
    brightness towards the reference instead, and the two steps are combined.

    needed: leaves exposures where they are that are in register as far as can be seen, or that
        show too little to tell, or are too large to be resampled.
    Returns a Registration of each picture, or the reason why there is none.
    """
    moved = list(range(len(images)))
    if needed:
        moved = [] if too_large(images) else not_in_register(images, reference)
        if not moved:
            return [to_registration(STAYS, 1, images[reference].shape)] * len(images)
    scale = min(FINEST / max(max(image.shape[:2]) for image in images), 1)
    views = [utils.as_grey(utils.reduce(image, scale)) for image in images]
    least = NEEDED * scale if needed else 0.0
    order = ghosts.by_brightness(images)
    middle = order.index(reference)
    found: dict[int, Match | str] = {reference: STAYS}
    for k in [*order[middle + 1 :], *reversed(order[:middle])]:
        if k not in moved:
            found[k] = STAYS
            continue
        place = order.index(k)
        neighbour = order[place - 1] if place > middle else order[place + 1]
        found[k] = by_way_of(views, k, reference, neighbour, found[neighbour], least)
    shape = images[reference].shape
    outcomes = [found[k] for k in range(len(images))]
    return [
        outcome if isinstance(outcome, str) else to_registration(outcome, scale, shape)
        for outcome in outcomes
    ]


def not_in_register(images: Sequence[np.ndarray], reference: int) -> list[int]:
    """Returns the indices of pictures that seem, at a glance, not to lie on the reference."""
    side = max(NOTICED) if max(images[reference].shape) >= PLENTY else max(NOTICED) // 2
    views = [utils.as_grey(utils.reduced_quickly(image, side)) for image in images]
    here = views[reference]

    def seems_to_move(k: int) -> bool:
        if k == reference:
            return False
        if images[k].shape[:2] != images[reference].shape[:2]:
            return True
        return not Pair.of(views[k], here).seems_still()

    with ThreadPoolExecutor() as pool:
        return [k for k, moves in enumerate(pool.map(seems_to_move, range(len(views)))) if moves]


def by_way_of(
    views: Sequence[np.ndarray],
    picture: int,
    reference: int,
    neighbour: int,
    between: "Match | str",
    least: float,
) -> "Match | str":
    """Matches a view to the reference's or else to a neighbour's, whose own match is `between`.

    Returns the Match to the reference, by the way on which detail correlates better, or why there
    is none.
    """
    found: Match | ValueError
    try:
        found = match(views[picture], views[reference], least)
        if found.correlation >= CLEAR:
            return found
    except ValueError as error:
        found = error
    if neighbour != reference and not isinstance(between, str):
        with contextlib.suppress(ValueError):
            step = match(views[picture], views[neighbour], least)
            fit = min(step.correlation, between.correlation)
            if isinstance(found, ValueError) or fit > found.correlation:
                return Match(step.homography @ between.homography, fit)
    if isinstance(found, Match):
        return found
    return STAYS if least and isinstance(found, TooLittleDetail) else str(found)


class TooLittleDetail(ValueError):
    """Says that two pictures show too little in common to tell whether they fit."""

    def __str__(self) -> str:
        return "the two have too little detail in common"


class Match(NamedTuple):
    """A homography from one picture's pixels to another's, and how well their detail correlates."""

    homography: np.ndarray
    correlation: float


STAYS = Match(np.eye(3), 1.0)


def match(picture: np.ndarray, reference: np.ndarray, least: float = 0.0) -> Match:
    """Finds where a reference's pixels lie in another exposure of the scene, both 8-bit grey.

    Phase correlation gives a shift or, where that does not fit, matched features give a homography.
    It is corrected at growing sizes, and accepted where what both show then correlates.

    least: a movement by less, in pixels, is not looked for, nor one by which nothing is gained.
    Raises ValueError with the reason where they do not fit, or TooLittleDetail.
    """
    pair = Pair.of(picture, reference)
    if pair.contrast() < LEAST_CONTRAST:
        raise TooLittleDetail
    before = pair.correlation(np.eye(3))
    best = Match(np.eye(3), before)
    for first in FIRST:
        start = first(pair)
        if start is not None:
            homography = pair.corrected(start, SHIFT_SIDE, FITTING_SIDE)
            fit = pair.correlation(homography)
            if fit > best.correlation:
                best = Match(homography, fit)
        if best.correlation >= CLEAR:
            break
    if best.correlation < FIT:
        raise ValueError("the two seem to show different scenes")
    gain = (best.correlation - before) / max(1 - before, 1e-6)
    if least and (gain < LEAST_GAIN or distance_moved(best.homography, reference.shape) < least):
        return Match(np.eye(3), before)
    return best._replace(homography=pair.corrected(best.homography, 2 * FITTING_SIDE, FINEST))


class Pair(NamedTuple):
    """A reference and another exposure, 8-bit grey, and what their levels are brought to.

    levels: two tables (256,) of float32 levels of 255, of the reference and of the other.
    """

    reference: np.ndarray
    picture: np.ndarray
    levels: tuple[np.ndarray, np.ndarray]

    @classmethod
    def of(cls, picture: np.ndarray, reference: np.ndarray) -> "Pair":
        """Returns the Pair, with its levels, which the pictures' histograms tell."""
        scale = min(FITTING_SIDE / max(reference.shape), 1)
        small = [utils.reduce(x, scale) for x in (reference, picture)]
        return cls(reference, picture, brought_together(*small))

    def at(self, scale: float) -> list[np.ndarray]:
        """Returns reference and picture, reduced by a scale of at most 1, their levels together."""
        views = zip((self.reference, self.picture), self.levels, strict=True)
        return [cv2.LUT(utils.reduce(view, scale), levels) for view, levels in views]

    def scale(self, side: float) -> float:
        """Returns the scale at which the reference has a longer side of `side` pixels at most."""
        return min(side / max(self.reference.shape), 1)

    def contrast(self) -> float:
        """Returns the standard deviation of the detail that tells least, in levels of 255."""
        return min(float(detail(view).std()) for view in self.at(self.scale(FITTING_SIDE)))

    def correlation(self, homography: np.ndarray) -> float:
        """Returns the correlation of the detail of both, where a homography has both."""
        scale = self.scale(FITTING_SIDE)
        reference, picture = self.at(scale)
        here, there, inside = lay_over(reference, picture, rescale(homography, scale))
        here, there = here[inside], there[inside]
        power = float((here * here).sum()) * float((there * there).sum())
        return float((here * there).sum()) / max(power, 1e-6) ** 0.5

    def seems_still(self) -> bool:
        """Returns True where both fit, and corrections would move them by less than NOTICED."""
        if self.correlation(np.eye(3)) < FIT:
            return False
        for side, least in NOTICED.items():
            if side / 2 >= max(self.reference.shape):
                break
            reference, picture = self.at(self.scale(side))
            motion = small_motion(np.eye(3), reference, picture, 4)
            if distance_moved(motion, reference.shape) > least:
                return False
        return True

    def corrected(self, homography: np.ndarray, side: int, last: int) -> np.ndarray:
        """Returns a homography with corrections at growing sizes, from `side` to `last` pixels."""
        while side <= last:
            scale = self.scale(side)
            reference, picture = self.at(scale)
            homography = rescale(homography, scale)
            for freedom in FREEDOM.get(side, LAST):
                homography = homography @ small_motion(homography, reference, picture, freedom)
            homography = rescale(homography, 1 / scale)
            if scale == 1:
                break
            side *= 2
        return homography


def brought_together(reference: np.ndarray, picture: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Finds tables that give the levels of two exposures of a scene the same meaning.

    Exposure is a monotone function of light, so a level has the same rank in both, even where one
    has moved a little. The levels are those of the brighter one. What either cannot tell apart,
    such as what it clips, becomes one level in both, so that the border of a lamp or of the sky
    is where both see it.

    reference, picture: uint8. Returns a table of each, (256,), float32, in levels of 255.
    """
    shares = [np.bincount(x.ravel(), minlength=256) / x.size for x in (reference, picture)]
    ends = [share.cumsum() for share in shares]
    edges = np.unique(np.concatenate([[0.0], *ends]))
    width, middle = np.diff(edges), (edges[:-1] + edges[1:]) / 2
    # Ranks between two edges have one level in each picture.
    ranks = [np.searchsorted(end, middle).clip(0, 255) for end in ends]
    means = [share @ np.arange(256) for share in shares]
    bright, dark = ranks if means[0] > means[1] else ranks[::-1]

    def mean_by_level(level: np.ndarray, value: np.ndarray) -> np.ndarray:
        total = np.bincount(level, width, 256)
        known = total > 0
        mean = np.bincount(level, width * value, 256)[known] / total[known]
        return np.interp(np.arange(256), np.flatnonzero(known), mean)

    merged = mean_by_level(dark, bright)[dark]
    of_bright = mean_by_level(bright, merged)
    of_dark = mean_by_level(dark, of_bright[bright])
    tables = (of_bright, of_dark) if means[0] > means[1] else (of_dark, of_bright)
    return tables[0].astype(np.float32), tables[1].astype(np.float32)


def detail(view: np.ndarray) -> np.ndarray:
    """Returns what a plane shows between two scales, without its large-scale levels."""
    return cv2.GaussianBlur(view, (0, 0), NARROW_BLUR) - cv2.GaussianBlur(view, (0, 0), WIDE_BLUR)


def lay_over(
    reference: np.ndarray, picture: np.ndarray, homography: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Returns the detail of two planes, the second as seen from the first, and where both show it.

    The last is a mask, bool (h, w).
    """
    there, inside = picture, np.ones(reference.shape, bool)
    if picture.shape != reference.shape or moves(homography, reference.shape):
        size = reference.shape[::-1]
        flags = cv2.INTER_CUBIC | cv2.WARP_INVERSE_MAP
        there = cv2.warpPerspective(
            picture, homography, size, flags=flags, borderMode=cv2.BORDER_REPLICATE
        )
        inside = covered(picture.shape, homography, reference.shape)
    return detail(reference), detail(there), inside


def small_motion(
    homography: np.ndarray, reference: np.ndarray, picture: np.ndarray, freedom: int
) -> np.ndarray:
    """Returns the small motion (3, 3) by which a homography has to be followed.

    Every block tells of its displacement by its gradients (B. Lucas, T. Kanade, "An Iterative Image
    Registration Technique", IJCAI 1981), along edges less than across them. The likeliest motion is
    found by least squares, in which a block counts by what its detail and its noise let it tell,
    and nothing where it moves on its own (Tukey's biweight). Motions that hands do not make count
    against it, see USUAL.

    reference, picture: float32 planes (h, w), whose levels have been brought together. freedom: how
        many of MOTIONS it may be of, from the first on.
    """
    here, there, inside = lay_over(reference, picture, homography)
    centres, displacements, information = block_displacements(here, there, inside)
    height, width = reference.shape
    unit = max(height, width) / 2
    middle = np.array([width - 1, height - 1]) / 2
    parameters = likeliest((centres - middle) / unit, displacements, information, unit, freedom)
    matrix = np.zeros((3, 3))
    for value, cells in zip(parameters / unit, MOTIONS[:freedom], strict=True):
        for i, j, sign in cells:
            matrix[i, j] += sign * value
    matrix += np.eye(3)
    normalise = np.array([[1, 0, -middle[0]], [0, 1, -middle[1]], [0, 0, unit]]) / unit
    return np.linalg.inv(normalise) @ matrix @ normalise


def block_displacements(
    here: np.ndarray, there: np.ndarray, inside: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Measures how far the blocks of a picture lie from where they should.

    here, there: detail of the same place in both pictures, (h, w); inside: mask of where both are.
    Returns, of N blocks, centres (N, 2), displacements (N, 2), in pixels, and their inverse
    covariances (N, 2, 2).
    """
    height, width = here.shape
    block = max(width // BLOCKS, LEAST_BLOCK)
    across, down = max(width // block, 1), max(height // block, 1)
    between = (here + there) / 2
    slope_x = cv2.Sobel(between, cv2.CV_32F, 1, 0, scale=1 / 8)
    slope_y = cv2.Sobel(between, cv2.CV_32F, 0, 1, scale=1 / 8)
    change = here - there
    products = (
        slope_x * slope_x,
        slope_x * slope_y,
        slope_y * slope_y,
        slope_x * change,
        slope_y * change,
        change * change,
        np.ones_like(here),
    )
    mask = inside.astype(np.float32)

    def block_sums(plane: np.ndarray) -> np.ndarray:
        means = cv2.resize(plane * mask, (across, down), interpolation=cv2.INTER_AREA)
        return means.ravel().astype(np.float64) * (height * width / (across * down))

    xx, xy, yy, xc, yc, cc, count = map(block_sums, products)
    x, y = np.meshgrid(
        (np.arange(across) + 0.5) * width / across - 0.5,
        (np.arange(down) + 0.5) * height / down - 0.5,
    )
    valid = count > 0.3 * block**2
    centres = np.stack([x.ravel(), y.ravel()], axis=1)[valid]
    tensor = np.stack([xx, xy, xy, yy], axis=1)[valid].reshape(-1, 2, 2)
    tensor += np.eye(2) * (1e-3 * (xx + yy)[valid] + 1e-3)[:, None, None]
    slopes = np.stack([xc, yc], axis=1)[valid]
    displacements = np.linalg.solve(tensor, slopes[..., None])[..., 0]
    left = np.maximum(cc[valid] - (displacements * slopes).sum(axis=1), 0)
    variance = (left / count[valid] + GRAIN**2) * 4 * NARROW_BLUR**2  # Neighbours' noise is alike.
    covariance = variance[:, None, None] * np.linalg.inv(tensor) + FLOOR**2 * np.eye(2)
    return centres, displacements, np.linalg.inv(covariance)


def likeliest(
    points: np.ndarray,
    displacements: np.ndarray,
    information: np.ndarray,
    unit: float,
    freedom: int,
) -> np.ndarray:
    """Returns the likeliest sizes of MOTIONS (8,), in pixels at a distance of `unit`.

    points: (N, 2), in units from the middle; displacements: (N, 2), in pixels; information: their
    inverse covariances (N, 2, 2), of which only the proportions are trusted.
    """
    x, y = points.T
    zero, one = np.zeros_like(x), np.ones_like(x)
    u = np.stack([one, zero, x, -y, x, y, x * x, x * y], axis=1)
    v = np.stack([zero, one, y, x, -y, x, x * y, y * y], axis=1)
    motions = np.stack([u, v], axis=1)[..., :freedom]
    informed = np.swapaxes(motions, 1, 2) @ information  # (N, 8, 2)
    squares, products = informed @ motions, (informed @ displacements[..., None])[..., 0]
    usual = np.diag(1 / (USUAL[:freedom] * unit) ** 2 + 1e-9)
    weight, scale = np.ones(len(points)), 1.0
    parameters = np.zeros(freedom)
    for _ in range(15 if len(points) else 0):
        matrix = np.tensordot(weight / scale**2, squares, 1) + usual
        parameters = np.linalg.solve(matrix, weight / scale**2 @ products)
        rest = displacements - motions @ parameters
        distance = np.sqrt(np.einsum("ni,nij,nj->n", rest, information, rest))
        scale = max(0.85 * float(np.median(distance)), 1)  # of two dimensions, if Gaussian
        weight = np.clip(1 - (distance / (OUTLIER * scale)) ** 2, 0, None) ** 2
    return parameters


def matched_shift(pair: Pair, side: int) -> np.ndarray | None:
    """Returns a first homography, a shift, by phase correlation of edges; None where sizes differ.

    C. Kuglin, D. Hines, "The Phase Correlation Image Alignment Method", IEEE Conference on
    Cybernetics and Society, 1975.
    """
    scale = pair.scale(side)
    reference, picture = pair.at(scale)
    if reference.shape != picture.shape:
        return None
    edges = []
    for view in (reference, picture):
        smooth = cv2.GaussianBlur(view, (0, 0), NARROW_BLUR)
        slopes = [cv2.Sobel(smooth, cv2.CV_32F, *order) for order in ((1, 0), (0, 1))]
        edges.append(cv2.magnitude(*slopes))
    window = cv2.createHanningWindow(reference.shape[::-1], cv2.CV_32F)
    shift, _ = cv2.phaseCorrelate(edges[0], edges[1], window)
    homography = np.eye(3)
    homography[:2, 2] = shift
    return rescale(homography, 1 / scale)


def matched_features(pair: Pair) -> np.ndarray | None:
    """Returns a first homography, from SIFT features; None where too few match."""
    scale = pair.scale(2 * FITTING_SIDE)
    views = [view.round().astype(np.uint8) for view in pair.at(scale)]
    equalise = cv2.createCLAHE(clipLimit=4.0, tileGridSize=(8, 8)).apply
    sift = cv2.SIFT.create(nfeatures=FEATURES, contrastThreshold=0.02)
    (points, features), (others, other_features) = (
        sift.detectAndCompute(equalise(view), None) for view in views
    )
    if min(len(points), len(others)) < LEAST_FEATURES:
        return None
    matches = cv2.BFMatcher(cv2.NORM_L2).knnMatch(features, other_features, k=2)
    clear = [m[0] for m in matches if len(m) == 2 and m[0].distance < 0.8 * m[1].distance]
    source = np.array([points[m.queryIdx].pt for m in clear]).reshape(-1, 2)
    target = np.array([others[m.trainIdx].pt for m in clear]).reshape(-1, 2)
    if len(clear) < LEAST_FEATURES:
        return None
    partial, inside = cv2.estimateAffinePartial2D(source, target, ransacReprojThreshold=3.0)
    if partial is None or inside.sum() < LEAST_FEATURES:
        return None
    return rescale(np.vstack([partial, [0, 0, 1]]), 1 / scale)


FIRST = (
    functools.partial(matched_shift, side=SHIFT_SIDE),
    functools.partial(matched_shift, side=2 * SHIFT_SIDE),
    matched_features,
)


def distance_moved(homography: np.ndarray, shape: Sequence[int]) -> float:
    """Returns how far a homography moves the pixels of a shape (H, W), root mean square."""
    height, width = shape[:2]
    x, y = np.meshgrid(np.linspace(0, width - 1, 5), np.linspace(0, height - 1, 5))
    points = np.stack([x.ravel(), y.ravel()], axis=1)
    return float(np.sqrt(((project(homography, points) - points) ** 2).sum(axis=1).mean()))


def to_registration(match: Match, scale: float, shape: Sequence[int]) -> Registration:
    """Returns the Registration of a Match of pictures reduced by a scale.

    shape: (H, W) of the reference.
    """
    homography = match.homography
    if not np.array_equal(homography, np.eye(3)):
        homography = rescale(homography, 1 / scale)
        # Sums differ in their last bits from run to run; results should not.
        here = corners(shape[:2])
        there = (project(homography, here) * FRACTIONS).round() / FRACTIONS
        homography = cv2.getPerspectiveTransform(here.astype(np.float32), there.astype(np.float32))
    x, y = (shape[1] - 1) / 2, (shape[0] - 1) / 2
    there, there_right = project(homography, np.array([[x, y], [x + shape[1] / 4, y]]))
    shift = there - [x, y]
    direction = there_right - there
    rotation = float(np.degrees(np.arctan2(direction[1], direction[0])))
    return Registration(homography, (float(shift[0]), float(shift[1])), rotation, match.correlation)


def rescale(homography: np.ndarray, factor: float) -> np.ndarray:
    """Returns the homography of pictures enlarged by a factor."""
    # Whole coordinates are pixels' centres, so corners lie at halves.
    enlarge = np.array([[factor, 0, (factor - 1) / 2], [0, factor, (factor - 1) / 2], [0, 0, 1]])
    return enlarge @ homography @ np.linalg.inv(enlarge)


def project(homography: np.ndarray, points: np.ndarray) -> np.ndarray:
    """Returns where a homography takes points, (N, 2)."""
    there = np.column_stack([points, np.ones(len(points))]) @ homography.T
    return there[:, :2] / there[:, 2:]


def corners(shape: Sequence[int]) -> np.ndarray:
    """Returns the centres of the corner pixels, in order around the picture, (4, 2)."""
    height, width = shape
    return np.array([[0, 0], [width - 1, 0], [width - 1, height - 1], [0, height - 1]], float)


def common_area(
    homographies: Sequence[np.ndarray], shapes: Sequence[Sequence[int]]
) -> tuple[slice, slice]:
    """Returns the rows and columns of the reference that exposures of shapes (H, W) all cover.

    Raises ValueError where there is no such rectangle.
    """
    left = top = 0.0
    right = bottom = np.inf
    for homography, shape in zip(homographies, shapes, strict=True):
        # The exposure's corners, in the reference; it may lie upside down there.
        x, y = np.sort(project(np.linalg.inv(homography), corners(shape)), axis=0).T
        left, top = max(left, x[1]), max(top, y[1])
        right, bottom = min(right, x[2]), min(bottom, y[2])
    tolerance = STILL
    left, top = int(np.ceil(left - tolerance)), int(np.ceil(top - tolerance))
    right, bottom = int(np.floor(right + tolerance)), int(np.floor(bottom + tolerance))
    if right < left or bottom < top:
        raise ValueError("the aligned pictures have no area in common")
    return slice(top, bottom + 1), slice(left, right + 1)


def moves(homography: np.ndarray, shape: Sequence[int]) -> bool:
    """Returns True where a homography moves pixels of a shape (H, W) by STILL or more."""
    there = corners(shape[:2])
    return bool(np.abs(project(homography, there) - there).max() >= STILL)


def resample(image: np.ndarray, homography: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """Returns an exposure as seen from the reference, whose picture has a shape (H, W, ...).

    Its border is repeated outside of what it shows. An exposure that has not moved is returned as
    it is.
    """
    height, width = shape[:2]
    if image.shape == shape and not moves(homography, shape):
        return image
    warped = cv2.warpPerspective(
        image,
        homography,
        (width, height),
        flags=cv2.WARP_INVERSE_MAP | cv2.INTER_CUBIC,
        borderMode=cv2.BORDER_REPLICATE,
    )
    if warped.dtype.kind == "f":  # Cubic interpolation overshoots.
        np.clip(warped, min(image.min(), 0), max(image.max(), 1), out=warped)
    return warped


def covered(
    shape: Sequence[int], homography: np.ndarray, reference_shape: Sequence[int]
) -> np.ndarray:
    """Returns a mask of the reference, bool (H, W): True where an exposure of a shape covers it."""
    inside = cv2.warpPerspective(
        np.ones(shape, np.uint8),
        homography,
        reference_shape[::-1],
        flags=cv2.WARP_INVERSE_MAP | cv2.INTER_NEAREST,
    )
    return inside > 0
