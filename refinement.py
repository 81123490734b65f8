"""How is fused luma refined? By a step of gradient ascent on its own MEF-SSIM, in closed form."""

from collections.abc import Sequence

import numpy as np

import windows
from tiles import PLAIN_TILE, WORKERS, Area, cut, several_threads, whole_area, with_halo

LUMINANCE_WEIGHT = 0.05  # weight of the luminance term in the objective


def refine_luma(y_f: np.ndarray, sources: np.ndarray) -> np.ndarray:
    """Raises fused luma's own multi-scale MEF-SSIM, and keeps it natural, by a gradient step.

    y_f: (1, 1, H, W), the luma to start from; sources: (1, K, H, W); both in [0, 1].

    Returns luma like y_f. Pictures smaller than MEF-SSIM's window at the coarsest scale are refined
    at fewer scales; those smaller than one window are returned as they are.

    The objective is sum_i b_i Q_i over the scales plus LUMINANCE_WEIGHT times SSIM's luminance
    term. Near Q_i = 1 the sum equals the score's product to first order; unlike the product, it is
    a sum over windows, so tiles can be refined separately.

    The gradient is divided by the objective's curvature, pixel by pixel. As long as the
    denominators d change little, Q falls as var(y_f - y_hat)/d from its maximum, and the luminance
    term as (l_f - l_hat)^2/d; both have the curvature 2/d. A step then moves textured and flat
    areas by equal shares, and leaves the noise of flat ones alone.

    The nearest published relative is K. Ma et al., "Multi-Exposure Image Fusion by Optimizing a
    Structural Similarity Index", IEEE Transactions on Computational Imaging 4(1), 2018.
    """
    gradient, curvature = slopes(y_f, sources)
    return (y_f + gradient / curvature).clip(0, 1) if gradient.size else y_f


def slopes(y_f: np.ndarray, sources: np.ndarray) -> np.ndarray:
    """Returns the objective's gradient and curvature at every pixel, (2, H, W).

    Takes what refine_luma does. Pictures smaller than a window have none, (2, 0, 0).
    """
    scales = min(windows.possible_scales(*y_f.shape[-2:]), len(windows.EXPONENTS))
    if not scales:
        return np.empty((2, 0, 0), y_f.dtype)
    image_means = sources.mean(axis=(2, 3), keepdims=True)
    levels = windows.scale_levels(sources, scales)
    lumas = windows.scale_levels(y_f, scales)
    wholes = [np.empty((2, *level.shape[-2:]), level.dtype) for level in levels]

    def work(area: tuple[int, Area]) -> None:
        i, place = area
        outer, inner = with_halo(place, windows.WINDOW - 1, levels[i].shape[-2:])
        parts = lumas[i][(0, ..., *outer)], levels[i][(..., *outer)]
        found = slopes_at_scale(*parts, windows.EXPONENTS[i], None if i else image_means)
        wholes[i][(..., *place)] = found[(..., *inner)]

    areas = [
        (i, place)
        for i, level in enumerate(levels)
        for place in cut(whole_area(level.shape[-2:]), PLAIN_TILE)
    ]
    with several_threads(None, WORKERS) as each:
        list(each(work, areas))
    total = wholes[-1]
    for finer in wholes[-2::-1]:
        finer += unhalve(total, finer.shape[-2:])
        total = finer
    return total


def slopes_at_scale(
    y_f: np.ndarray, sources: np.ndarray, exponent: float, image_means: np.ndarray | None
) -> np.ndarray:
    """Returns the gradient and the curvature of one scale's term, (2, h, w).

    y_f: (1, h, w) and sources: (1, K, h, w), which are at their scale. exponent: the scale's b_i.
    image_means: means of the whole sources, (1, K, 1, 1), at the scale with the luminance term.

    A window's term is Q = n/d, with n and d of windows.compare. With y_hat = sum_k b_k (x_k - l_k),
    and E for a window's mean, dn = 2 E[y_hat dy], and dd = 2 E[(y - E[y]) dy]. So the derivative by
    a pixel is 2/d (y_hat - Q (y - E[y])), summed over its windows by their weights. The Gaussian is
    symmetric, so that windows.window_sums gives both means of pixels and sums over windows. Planes
    of windows have the value of a window at its centre, and 0 where there is none.
    """
    desired = windows.desired_at_scale(sources)
    weight = windows.as_centres(np.full_like(desired.variance, 2 * exponent))[0]
    variance = windows.as_centres(desired.variance)[0]
    mean_of_x = windows.as_centres((desired.b * desired.mean).sum(axis=1, keepdims=True))[0]
    y, x, b = y_f - 0.5, desired.x[0], windows.as_centres(desired.b)[0]
    sums = windows.window_sums(np.concatenate([y, y * y, y * x]))
    mean, square, products = sums[:1], sums[1:2], sums[2:]
    denominator = square - mean * mean + (variance + windows.C_2)
    covariance = mean * mean_of_x
    for share, product in zip(b, products, strict=True):
        covariance -= share * product
    q = (windows.C_2 - 2 * covariance) / denominator
    bend = weight / denominator
    of_mean, constant = bend * q, -bend * mean_of_x
    maps = np.concatenate([of_mean, bend, bend * b])
    if image_means is not None:
        # Luminance has the score's Gaussian windows, so that pixels near the border weigh the same
        # in both terms.
        l_hat = windows.desired_luminance(sources, image_means, windows.gaussian_mean)
        l_hat, l_f = windows.as_centres(l_hat)[0], mean + 0.5
        numerator, denominator = windows.compare_luminance(l_f, l_hat)
        pull = weight * (LUMINANCE_WEIGHT / exponent) / denominator
        fall = numerator / denominator * pull
        # The term's derivative is pull * l_hat - fall * l_f, where l_f = E[y] + 0.5.
        of_mean -= fall
        constant += pull * l_hat - 0.5 * fall
        maps[1:2] += pull
    of_y, curvature, *of_x = windows.window_sums(maps)
    gradient = windows.window_sums(mean * of_mean + constant)
    gradient += sum((of_x[k] * x[k] for k in range(1, len(x))), start=of_x[0] * x[0])
    gradient -= of_y * y
    return np.concatenate([gradient, curvature[None]])


def unhalve(maps: np.ndarray, shape: Sequence[int]) -> np.ndarray:
    """Gives every pixel the value of the pixel that it is part of after arrays.halve.

    A row or column that halve repeats gets it twice, so that the result is the transpose of halve,
    times 4. maps: (C, h, w). shape: height and width of the finer picture.
    """
    height, width = shape
    finer = maps.repeat(2, axis=-2)[..., :height, :].repeat(2, axis=-1)[..., :width]
    if height % 2:
        finer[..., -1, :] *= 2
    if width % 2:
        finer[..., -1] *= 2
    return finer
