"""How do hand-held exposures come to lie on each other? Registration; arrays in, arrays out.

Pictures are (H, W, 3) RGB or (H, W) grey; uint8, uint16 or float in [0, 1]. A homography is a
(3, 3) matrix that takes a point (x, y, 1) of the reference to the same point of another exposure.
(0, 0) is the centre of the first pixel.
"""

import itertools
import math
from collections.abc import Sequence
from typing import NamedTuple

import cv2
import numpy as np

import ghosts
import utils

LARGEST = 32767  # pixels a side; OpenCV resamples no larger pictures
COARSE = 1000  # pixels; longer side of the reduced pictures in which features are matched
STEP = 2.5  # factor by which pictures grow from one refinement to the next, up to full size
FEATURES = 4000  # features of each picture, at most
PATCH = (48, 160)  # pixels; limits of a patch's side, which is a twelfth of the longer side
PATCHES = 18  # patches along the longer side
CLIPPED = (4, 250)  # levels of 255; pixels outside of them show no detail
LEAST_VALID = 0.3  # share of a patch's pixels that must not be clipped
LEAST_CONTRAST = 2.0  # levels of 255; standard deviation of a patch that can be compared
LEAST_CORRELATION = 0.8  # correlation of two patches that show the same
LEAST_PATCHES = 8  # patches that must agree
LEAST_SHARE = 0.15  # share of the compared patches that must agree
GLANCE = 512  # pixels; longer side of the reduced pictures whose shift is estimated
SMALLEST_GLANCE = 200  # pixels; shorter side of these below which no shift is estimated
LEAST_RESPONSE = 0.1  # of phase correlation; below it, two pictures have too little in common
STILL = 0.1  # pixels; a smaller movement is not worth the loss by interpolation


class Registration(NamedTuple):
    """The place of an exposure against the reference.

    homography: (3, 3), from the reference's pixels to the exposure's.
    shift: (x, y) of the picture's centre, in pixels.
    rotation: in degrees, clockwise as seen.
    residual: median distance that remains between agreeing patches of both, in pixels.
    patches: number of patches that agree.
    """

    homography: np.ndarray
    shift: tuple[float, float]
    rotation: float
    residual: float
    patches: int


def align(
    images: Sequence[np.ndarray], reference: int | None = None, crop: bool = True
) -> tuple[list[np.ndarray], list[Registration], tuple[slice, slice]]:
    """Registers exposures of one scene to one of them, and resamples them accordingly.

    images: two or more pictures, all grey or all RGB; sizes may differ.
    reference: index of the picture to which the others are registered; by default the middle
        exposure.
    crop: crops to the rectangle that all exposures cover. Otherwise pictures get the reference's
        size, and show the reference where an exposure shows nothing.

    Returns the aligned pictures, which have one size, a Registration of each, and the rows and
    columns of the reference that they show. An exposure that has not moved is not resampled.
    Raises ValueError where an exposure, named by its number, cannot be registered, and where
    pictures are larger than OpenCV can resample.
    """
    if max(max(image.shape[:2]) for image in images) > LARGEST:
        raise ValueError(f"pictures can be aligned up to {LARGEST} pixels a side")
    if reference is None:
        reference = ghosts.middle_exposure(images)
    registrations = register_all([utils.as_grey(image) for image in images], reference)
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
                resampled = ghosts.show_elsewhere(resampled, images[reference], inside)
        aligned.append(resampled[area])
    return aligned, registrations, area


def apparent_shifts(images: Sequence[np.ndarray]) -> list[float]:
    """Estimates how far each exposure of a scene and the next lie apart, by their longer side.

    Phase correlation of their edges tells, in some milliseconds (C. Kuglin, D. Hines, "The Phase
    Correlation Image Alignment Method", IEEE Conference on Cybernetics and Society, 1975). Levels
    are equalised first, since exposures keep their order.

    images: two or more. The share is 0 where two have too little in common, and all are where
    pictures are small or differ in size.
    """
    shape = images[0].shape[:2]
    factor = -(-max(shape) // GLANCE)
    height, width = (side // factor for side in shape)
    if min(height, width) < SMALLEST_GLANCE or any(image.shape[:2] != shape for image in images):
        return [0.0] * (len(images) - 1)
    window = cv2.createHanningWindow((width, height), cv2.CV_32F)
    shares = []
    for pair in itertools.pairwise(visible_edges(image, factor) for image in images):
        shift, response = cv2.phaseCorrelate(*pair, window)
        share = math.hypot(*shift) / max(height, width)
        shares.append(share if response > LEAST_RESPONSE else 0.0)
    return shares


def visible_edges(picture: np.ndarray, factor: int) -> np.ndarray:
    """Returns the strength of edges in a picture reduced by a whole factor, float32 (h, w).

    It is logarithmic, as seeing is.
    """
    height, width = (side // factor * factor for side in picture.shape[:2])
    # OpenCV is three times as fast by whole factors, and two rows of every `factor` tell enough.
    step = 1 if factor % 2 else factor // 2
    size = (width // factor, height // factor)
    reduced = cv2.resize(picture[:height:step, :width], size, interpolation=cv2.INTER_AREA)
    grey = utils.as_grey(reduced)
    smooth = cv2.GaussianBlur(cv2.equalizeHist(grey), (0, 0), 1)
    slopes = [cv2.Sobel(smooth, cv2.CV_32F, *order) for order in ((1, 0), (0, 1))]
    return np.log1p(cv2.magnitude(*slopes))


def register_all(greys: Sequence[np.ndarray], reference: int) -> list[Registration]:
    """Registers every 8-bit grey picture to the reference, given by its index.

    A picture that has too little in common with the reference is registered to its neighbour in
    brightness towards the reference instead, and the two steps are combined.
    Raises ValueError where that fails too.
    """
    brightness = [picture.mean() for picture in greys]
    order = [int(k) for k in np.argsort(brightness, kind="stable")]
    middle = order.index(reference)
    shape = greys[reference].shape
    found = {reference: to_registration(np.eye(3), shape, 0.0, 0)}
    for k in [*order[middle + 1 :], *reversed(order[:middle])]:
        place = order.index(k)
        neighbour = order[place - 1] if place > middle else order[place + 1]
        try:
            found[k] = register(greys[k], greys[reference])
        except ValueError as error:
            if neighbour == reference:
                raise ValueError(f"exposure {k + 1} cannot be aligned: {error}") from error
            try:
                step = register(greys[k], greys[neighbour])
            except ValueError as error:
                raise ValueError(f"exposure {k + 1} cannot be aligned: {error}") from error
            homography = step.homography @ found[neighbour].homography
            found[k] = to_registration(homography, shape, step.residual, step.patches)
    return [found[k] for k in range(len(greys))]


def to_registration(
    homography: np.ndarray, shape: Sequence[int], residual: float, patches: int
) -> Registration:
    """Returns the Registration of a homography from a reference of a shape (H, W)."""
    homography = homography / homography[2, 2]
    x, y = (shape[1] - 1) / 2, (shape[0] - 1) / 2
    there, there_right = project(homography, np.array([[x, y], [x + shape[1] / 4, y]]))
    shift = there - [x, y]
    direction = there_right - there
    rotation = float(np.degrees(np.arctan2(direction[1], direction[0])))
    return Registration(homography, (float(shift[0]), float(shift[1])), rotation, residual, patches)


def register(picture: np.ndarray, reference: np.ndarray) -> Registration:
    """Finds the homography from a reference to another exposure of the scene; both 8-bit grey.

    Features matched in reduced pictures give a first homography. It is refined at growing sizes, up
    to the full one, by the displacements of small patches. A displacement maximises the enhanced
    correlation coefficient (G. Evangelidis, E. Psarakis, "Parametric Image Alignment Using Enhanced
    Correlation Coefficient Maximization", IEEE TPAMI 30(10), 2008). Exposures of a patch differ
    mainly by gain and offset, which do not change it. Clipped pixels are left out.

    Raises ValueError with the reason where the pictures do not fit.
    """
    long_side = max(reference.shape)
    scale = min(COARSE / long_side, 1)
    small, small_reference = utils.reduce(picture, scale), utils.reduce(reference, scale)
    homography = match_features(small, small_reference)
    while True:
        for _ in range(2):
            homography, residual, agree, compared = refine(homography, small, small_reference)
        if agree < LEAST_PATCHES or agree < LEAST_SHARE * compared:
            raise ValueError(f"only {agree} of {compared} places in it fit those of the reference")
        if scale == 1:
            break
        larger = min(scale * STEP, 1)
        homography = rescale(homography, larger / scale)
        scale = larger
        small, small_reference = utils.reduce(picture, scale), utils.reduce(reference, scale)
    return to_registration(homography, reference.shape, residual, agree)


def rescale(homography: np.ndarray, factor: float) -> np.ndarray:
    """Returns the homography of pictures enlarged by a factor."""
    # Whole coordinates are pixels' centres, so corners lie at halves.
    enlarge = np.array([[factor, 0, (factor - 1) / 2], [0, factor, (factor - 1) / 2], [0, 0, 1]])
    return enlarge @ homography @ np.linalg.inv(enlarge)


def match_features(picture: np.ndarray, reference: np.ndarray) -> np.ndarray:
    """Returns a first homography, from SIFT features of pictures with equalised local contrast.

    Raises ValueError with the reason where too few features match.
    """
    equalise = cv2.createCLAHE(clipLimit=4.0, tileGridSize=(8, 8)).apply
    sift = cv2.SIFT.create(nfeatures=FEATURES, contrastThreshold=0.02)
    points, features = sift.detectAndCompute(equalise(reference), None)
    other_points, other_features = sift.detectAndCompute(equalise(picture), None)
    if features is None or other_features is None or min(len(points), len(other_points)) < 4:
        raise ValueError("it or the reference has no detail to compare")
    matches = cv2.BFMatcher(cv2.NORM_L2).knnMatch(features, other_features, k=2)
    clear = [m[0] for m in matches if len(m) == 2 and m[0].distance < 0.8 * m[1].distance]
    source = np.array([points[m.queryIdx].pt for m in clear]).reshape(-1, 2)
    target = np.array([other_points[m.trainIdx].pt for m in clear]).reshape(-1, 2)
    homography, inliers = None, None
    if len(clear) >= 4:
        homography, inliers = cv2.findHomography(source, target, cv2.USAC_MAGSAC, 2.0)
    if homography is None or inliers is None or inliers.sum() < LEAST_PATCHES:
        raise ValueError("too few of its features are the reference's too")
    if inliers.sum() < 40:  # Eight parameters need more points.
        inside = inliers.ravel() > 0
        partial, _ = cv2.estimateAffinePartial2D(
            source[inside], target[inside], ransacReprojThreshold=3.0
        )
        if partial is not None:
            homography = np.vstack([partial, [0, 0, 1]])
    return homography


def refine(
    homography: np.ndarray, picture: np.ndarray, reference: np.ndarray
) -> tuple[np.ndarray, float, int, int]:
    """Corrects a homography by the displacements of patches.

    Returns the homography, the median displacement that remains in agreeing patches, in pixels, the
    number of agreeing patches, and the number of patches compared.
    """
    centres, displacements, compared = patch_displacements(homography, picture, reference)
    if len(centres) < LEAST_PATCHES:
        return homography, float("inf"), len(centres), compared
    height, width = reference.shape
    unit = max(height, width) / 2
    middle = np.array([width - 1, height - 1]) / 2
    correction, remaining = fit((centres - middle) / unit, displacements)
    normalise = np.array([[1 / unit, 0, -middle[0] / unit], [0, 1 / unit, -middle[1] / unit]])
    normalise = np.vstack([normalise, [0, 0, 1]])
    correction[:2, 2] /= unit
    correction[:2, :2] = np.eye(2) + correction[:2, :2] / unit
    correction[2] /= unit
    correction[2, 2] = 1
    homography = homography @ np.linalg.inv(normalise) @ correction @ normalise
    near = remaining < max(1, max(height, width) / 3000)
    residual = float(np.median(remaining[near])) if near.any() else float("inf")
    return homography, residual, int(near.sum()), compared


def patch_displacements(
    homography: np.ndarray, picture: np.ndarray, reference: np.ndarray
) -> tuple[np.ndarray, np.ndarray, int]:
    """Measures how far the reference's patches lie from where a homography puts them.

    Returns the patches' centres (N, 2), their displacements (N, 2), both in the reference's pixels,
    and the number of patches with detail in both pictures.
    """
    height, width = reference.shape
    side = min(int(np.clip(max(height, width) // 12, *PATCH)), height, width)
    spacing = max(max(height, width) / PATCHES, side / 2)
    places = [
        (int(x), int(y))
        for y in np.linspace(0, height - side, max(int(height / spacing), 1))
        for x in np.linspace(0, width - side, max(int(width / spacing), 1))
    ]
    criteria = (cv2.TERM_CRITERIA_EPS | cv2.TERM_CRITERIA_COUNT, 30, 1e-4)
    centres, displacements, compared = [], [], 0
    for x, y in places:
        here = reference[y : y + side, x : x + side]
        to_picture = homography @ np.array([[1, 0, x], [0, 1, y], [0, 0, 1.0]])
        there = cv2.warpPerspective(
            picture,
            to_picture,
            (side, side),
            flags=cv2.INTER_CUBIC | cv2.WARP_INVERSE_MAP,
            borderValue=0,  # so that what lies outside counts as clipped
        )
        valid = np.ones(here.shape, bool)
        for patch in (here, there):
            valid &= (patch >= CLIPPED[0]) & (patch <= CLIPPED[1])
        if (
            valid.mean() < LEAST_VALID
            or min(here[valid].std(), there[valid].std()) < LEAST_CONTRAST
        ):
            continue
        compared += 1
        mask = cv2.erode(valid.astype(np.uint8), np.ones((5, 5), np.uint8))
        try:
            correlation, shift = cv2.findTransformECC(
                here,
                there,
                np.eye(2, 3, dtype=np.float32),
                cv2.MOTION_TRANSLATION,
                criteria,
                mask,
                5,
            )
        except cv2.error:  # It does not converge where patches have nothing in common.
            continue
        displacement = shift[:, 2].astype(np.float64)
        if correlation >= LEAST_CORRELATION and np.abs(displacement).max() < side / 4:
            centres.append((x + (side - 1) / 2, y + (side - 1) / 2))
            displacements.append(displacement)
    return np.array(centres).reshape(-1, 2), np.array(displacements).reshape(-1, 2), compared


def fit(points: np.ndarray, displacements: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Fits a small projective motion to displaced points.

    Translation, similarity, affinity and homography are fitted by reweighted least squares (Tukey's
    biweight); for small motions each is linear. The one with the smallest Akaike criterion,
    corrected for small N, is taken, so that the motion has no more freedom than the points show.

    points: (N, 2), within [-1, 1]; displacements: (N, 2), in any unit.
    Returns the motion's (3, 3) matrix less the identity, for displacements in that unit, and the
    lengths of the displacements that remain, (N,).
    """
    x, y = points.T
    zero, one = np.zeros_like(x), np.ones_like(x)
    # A parameter p adds p (u, v) to a displacement, and p * sign to cells (i, j) of the matrix.
    columns = [
        (one, zero, [(0, 2, 1)]),
        (zero, one, [(1, 2, 1)]),
        (x, y, [(0, 0, 1), (1, 1, 1)]),
        (-y, x, [(0, 1, -1), (1, 0, 1)]),
        (x, -y, [(0, 0, 1), (1, 1, -1)]),
        (y, x, [(0, 1, 1), (1, 0, 1)]),
        (x * x, x * y, [(2, 0, -1)]),
        (x * y, y * y, [(2, 1, -1)]),
    ]
    design = np.stack([np.concatenate([u, v]) for u, v, _ in columns], axis=1)
    target = np.concatenate(displacements.T)
    count = len(points)
    # The closest fit tells the noise, by which all fits are judged.
    fits = {}
    for freedom in (2, 4, 6, 8):
        if count >= freedom + 2:
            fits[freedom] = biweight(design[:, :freedom], target)
    scale = max(min(noise for _, _, noise in fits.values()), 0.02)

    def criterion(freedom: int) -> float:
        capped = np.minimum(fits[freedom][1] / (3 * scale), 1) ** 2 * 9  # squares, in scale^2
        n = 2 * count
        return capped.sum() + 2 * freedom * n / max(n - freedom - 1, 1)

    parameters, remaining, _ = fits[min(fits, key=criterion)]
    matrix = np.zeros((3, 3))
    for value, (_, _, cells) in zip(parameters, columns, strict=False):
        for i, j, sign in cells:
            matrix[i, j] += sign * value
    return matrix, remaining


def biweight(design: np.ndarray, target: np.ndarray) -> tuple[np.ndarray, np.ndarray, float]:
    """Solves robust least squares for points whose x come first in `target`, then their y.

    Returns the parameters, the distance that remains at every point, and its robust scale.
    """
    weight = np.ones(len(target))
    count = len(target) // 2
    for _ in range(20):
        root = np.sqrt(weight)[:, None]
        parameters = np.linalg.lstsq(design * root, target * root[:, 0], rcond=None)[0]
        rest = target - design @ parameters
        remaining = np.hypot(rest[:count], rest[count:])
        scale = max(1.4826 * float(np.median(np.abs(rest))), 0.01)
        share = np.clip(1 - (remaining / (6 * scale)) ** 2, 0, None) ** 2
        weight = np.concatenate([share, share])
    return parameters, remaining, scale


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
        # The exposure's corners, in the reference.
        a, b, c, d = project(np.linalg.inv(homography), corners(shape))
        left, right = max(left, a[0], d[0]), min(right, b[0], c[0])
        top, bottom = max(top, a[1], b[1]), min(bottom, c[1], d[1])
    tolerance = STILL
    left, top = int(np.ceil(left - tolerance)), int(np.ceil(top - tolerance))
    right, bottom = int(np.floor(right + tolerance)), int(np.floor(bottom + tolerance))
    if right < left or bottom < top:
        raise ValueError("the aligned pictures have no area in common")
    return slice(top, bottom + 1), slice(left, right + 1)


def resample(image: np.ndarray, homography: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """Returns an exposure as seen from the reference, whose picture has a shape (H, W, ...).

    Its border is repeated outside of what it shows. An exposure that has not moved is returned as
    it is.
    """
    height, width = shape[:2]
    moved = project(homography, corners((height, width))) - corners((height, width))
    if image.shape == shape and np.abs(moved).max() < STILL:
        return image
    warped = cv2.warpPerspective(
        image,
        homography,
        (width, height),
        flags=cv2.WARP_INVERSE_MAP | cv2.INTER_LANCZOS4,
        borderMode=cv2.BORDER_REPLICATE,
    )
    return np.clip(warped, 0, 1) if warped.dtype.kind == "f" else warped


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
