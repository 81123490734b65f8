"""How is what was done to a small picture done to the large one? By linear models of windows."""

from collections.abc import Callable, Sequence

import cv2
import numpy as np

import utils
from arrays import halve, local_mean
from tiles import PLAIN_TILE, Area, enlarge, in_tiles

LINEAR_WINDOW = 17  # pixels of reduced pictures; side of the windows of linear models
RIDGE = 1e-5  # pull of these models towards the exposures' plain mean


def reduction(images: Sequence[np.ndarray], side: int) -> int:
    """Returns the factor by which pictures are reduced to a longer side of about `side` pixels."""
    return max(round(max(images[0].shape[:2]) / side), 1)


def reduce_pictures(images: Sequence[np.ndarray], factor: int) -> list[np.ndarray]:
    """Returns all images as means of factor x factor squares, rounded to the images' type.

    Squares that the picture's border cuts off are filled up with its outermost pixels.
    """
    height, width = (-(-side // factor) for side in images[0].shape[:2])
    reduced = [np.empty((height, width, *image.shape[2:]), image.dtype) for image in images]

    def work(_outer: Area, _inner: Area, place: Area) -> None:
        rows, columns = (side.stop - side.start for side in place)
        for image, small in zip(images, reduced, strict=True):
            part = image[scaled(place, factor)]
            missing = rows * factor - part.shape[0], columns * factor - part.shape[1]
            if any(missing):
                part = cv2.copyMakeBorder(part, 0, missing[0], 0, missing[1], cv2.BORDER_REPLICATE)
            size = (columns, rows)
            small[place] = cv2.resize(part, size, interpolation=cv2.INTER_AREA)

    in_tiles(work, (height, width), max(PLAIN_TILE // factor, 1), 0)
    return reduced


def halve_pictures(images: Sequence[np.ndarray]) -> np.ndarray:
    """Returns the luma of all images at half their size, see arrays.halve, (K, 1, h, w)."""
    height, width = (-(-side // 2) for side in images[0].shape[:2])
    planes = np.empty((len(images), 1, height, width), np.float32)

    def work(_outer: Area, _inner: Area, place: Area) -> None:
        planes[(..., *place)] = halve(read_lumas(images, scaled(place, 2)))

    in_tiles(work, (height, width), PLAIN_TILE // 2, 0)
    return planes


def scaled(place: Area, factor: int) -> Area:
    """Returns the Area of a full picture that an Area of the reduced one stands for."""
    rows, columns = (slice(side.start * factor, side.stop * factor) for side in place)
    return rows, columns


def read_lumas(images: Sequence[np.ndarray], area: Area) -> np.ndarray:
    """Returns the luma of one part of all images, (K, 1, h, w) in [0, 1]."""
    return utils.to_luma(*(image[area] for image in images))


def mean_of_tiles(images: Sequence[np.ndarray], read: Callable[[Area], np.ndarray]) -> np.ndarray:
    """Returns the mean over all pixels of what `read` gives for one part of all images.

    read: returns (K, C, h, w). The result has shape (K, C, 1, 1).
    """
    sums = {}

    def work(_outer: Area, _inner: Area, place: Area) -> None:
        part = read(place)
        sums[place[0].start, place[1].start] = part.sum(axis=(2, 3), dtype=np.float64)

    height, width = images[0].shape[:2]
    in_tiles(work, (height, width), PLAIN_TILE, 0)
    # Tiles finish in any order; the sum's rounding must not depend on it.
    total = sum((sums[corner] for corner in sorted(sums)), np.zeros(()))
    return (total / (height * width)).astype(np.float32)[..., None, None]


def transferred(
    sources: np.ndarray, fused: np.ndarray, factor: int
) -> Callable[[np.ndarray, Area], np.ndarray]:
    """Returns a function that applies to full pictures what was done to reduced ones.

    Around every pixel, the result is expressed as a linear function of the reduced exposures. The
    same function of the full exposures has their detail. The function takes the full exposures'
    planes (K, C, h, w) of an Area, and returns (1, C, h, w).

    Linear models of windows by least squares: K. He, J. Sun, X. Tang, "Guided Image Filtering",
    ECCV 2010, here with K guides; their use for enlarging: K. He, J. Sun, "Fast Guided Filter",
    arXiv:1505.00996.

    sources: C planes of the reduced exposures, (K, C, h, w); fused: those of the result, (1, C, h,
    w). factor: by which they are reduced.
    """
    count, channels = sources.shape[:2]
    coefficients = np.empty((1, count + channels, *fused.shape[-2:]), np.float32)

    def work(outer: Area, inner: Area, place: Area) -> None:
        part = linear_models(sources[(..., *outer)], fused[(..., *outer)], LINEAR_WINDOW)
        coefficients[(..., *place)] = part[(..., *inner)]

    in_tiles(work, fused.shape[-2:], PLAIN_TILE, 2 * (LINEAR_WINDOW // 2))

    def apply(planes: np.ndarray, place: Area) -> np.ndarray:
        gain = enlarge(coefficients, factor, place)  # (1, K + C, h, w)
        result = gain[:, count:]
        for k, plane in enumerate(planes):
            result = result + gain[:, k : k + 1] * plane
        return result

    return apply


def linear_models(sources: np.ndarray, fused: np.ndarray, window: int) -> np.ndarray:
    """Fits f_c = sum_k a_k x_kc + b_c by least squares in the window around every pixel.

    The channels c share the a_k. RIDGE times sum_k (a_k - 1/K)^2 is added to the mean of the
    squares: where a window does not determine the coefficients, they tend to those of the
    exposures' mean.

    sources: x, (K, C, H, W); fused: f, (1, C, H, W); window: pixels a side. Returns (1, K + C, H,
    W): a_1 ... a_K and b_1 ... b_C, each averaged over the windows that hold the pixel.
    """
    count = len(sources)
    offset = fused - sources.mean(axis=0, keepdims=True)
    mean, mean_offset = local_mean(sources, window), local_mean(offset, window)
    upper = [(j, k) for j in range(count) for k in range(j, count)]
    products = np.stack([(sources[j] * sources[k]).sum(axis=0) for j, k in upper])[None]
    matrix = np.empty((count, count, *sources.shape[-2:]), np.float32)
    for product, (j, k) in zip(local_mean(products, window)[0], upper, strict=True):
        matrix[j, k] = matrix[k, j] = product - (mean[j] * mean[k]).sum(axis=0) + RIDGE * (j == k)
    right = (local_mean(sources * offset, window) - mean * mean_offset).sum(axis=1)  # (K, H, W)
    gain = solve(matrix, right)[:, None]
    constant = mean_offset - (gain * mean).sum(axis=0, keepdims=True)
    planes = np.concatenate([gain.swapaxes(0, 1) + 1 / count, constant], axis=1)
    return local_mean(planes, window)


def solve(matrix: np.ndarray, right: np.ndarray) -> np.ndarray:
    """Solves matrix x = right for x by elimination, at all pixels at once.

    np.linalg.solve calls LAPACK for every pixel and takes many times as long.

    matrix: (K, K, ...), symmetric and positive definite, so that no pivots are needed; right and
    result: (K, ...). Both arguments are overwritten.
    """
    count = len(right)
    for i in range(count):
        for j in range(i + 1, count):
            share = matrix[j, i] / matrix[i, i]
            matrix[j, i:] -= share * matrix[i, i:]
            right[j] -= share * right[i]
    for i in reversed(range(count)):
        for j in range(i + 1, count):
            right[i] -= matrix[i, j] * right[j]
        right[i] /= matrix[i, i]
    return right
