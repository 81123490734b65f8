"""How is fused luma refined? By gradient ascent on its own MEF-SSIM, in closed form.

The gradient of MEF-SSIM is, like the score, made of windowed means, so that neither training's
machinery nor its memory is needed. Here it serves NumPy's arrays, and PyTorch's tensors on any
device, see arrays.py.
"""

from collections.abc import Iterable, Sequence
from typing import NamedTuple

import windows
from arrays import Array, device_of_array, empty, namespace, unhalve, zeros
from tiles import PLAIN_TILE, WORKERS, Area, cut, several_threads, whole_area, with_halo

MOMENTUM = 0.8  # share of a step that is kept for the next one
LUMINANCE_WEIGHT = 0.05  # weight of the luminance term in the objective


def refine_luma(
    y_f: Array,
    sources: Array,
    steps: int,
    image_means: Array | None = None,
) -> Array:
    """Raises fused luma's own multi-scale MEF-SSIM, and keeps it natural, by gradient ascent.

    y_f: (1, 1, H, W), the luma to start from; sources: (1, K, H, W); both in [0, 1].
    image_means: mean luma of whole pictures, (1, K, 1, 1), where `sources` are parts of them.

    Returns luma like y_f. Pictures smaller than MEF-SSIM's window at the coarsest scale are refined
    at fewer scales; those smaller than one window are returned as they are.

    The objective is sum_i b_i Q_i over the scales plus LUMINANCE_WEIGHT times SSIM's luminance
    term. Near Q_i = 1 the sum equals the score's product to first order; unlike the product, it is
    a sum over windows, so tiles can be refined separately.

    The gradient is divided by the objective's curvature, pixel by pixel. As long as the
    denominators d change little, Q falls as var(y_f - y_hat)/d from its maximum, and the luminance
    term as (l_f - l_hat)^2/d; both have the curvature 2/d. A step then moves textured and flat
    areas by equal shares, and leaves the noise of flat ones alone. Luminance uses the score's
    Gaussian windows, so that pixels near the border weigh the same in both terms.

    The nearest published relative is K. Ma et al., "Multi-Exposure Image Fusion by Optimizing a
    Structural Similarity Index", IEEE Transactions on Computational Imaging 4(1), 2018.
    """
    shape = y_f.shape[-2:]
    scales = min(windows.possible_scales(*shape), len(windows.EXPONENTS))
    if not scales or not steps:
        return y_f
    if image_means is None:
        image_means = sources.mean(axis=(2, 3), keepdims=True)
    levels = windows.scale_levels(sources, scales)
    device = device_of_array(y_f)
    on_cpu = device is None or device.type == "cpu"
    size = PLAIN_TILE if on_cpu else max(shape)
    areas = [
        (i, place)
        for i, level in enumerate(levels)
        for place in cut(whole_area(level.shape[-2:]), size)
    ]

    def prepare(area: tuple[int, Area]) -> Part:
        i, place = area
        outer, inner = with_halo(place, windows.WINDOW - 1, levels[i].shape[-2:])
        seen = levels[i][(..., *outer)]
        x, mean, b, variance = windows.desired_at_scale(seen)
        mean = windows.as_centres((b * mean).sum(axis=1, keepdims=True))[0]
        exponent = windows.EXPONENTS[i]
        weight = windows.as_centres(namespace(b).full_like(variance, 2 * exponent))[0]
        constant = windows.as_centres(variance)[0] + windows.C_2
        l_hat = None
        if i == 0:
            l_hat = windows.desired_luminance(seen, image_means, windows.gaussian_mean)
            l_hat = windows.as_centres(l_hat)[0]
        where = i, exponent, outer, inner, place
        return Part(*where, x[0], windows.as_centres(b)[0], mean, constant, weight, l_hat)

    with several_threads(device, WORKERS if on_cpu else 1) as each:
        parts = list(each(prepare, areas))
        velocity = zeros(y_f.shape, y_f)
        for step in range(steps):
            seen = windows.scale_levels(y_f + MOMENTUM * velocity, scales)
            lumas = [part.cut(seen) for part in parts]
            if is_renewed(step):
                models = list(each(linearise, lumas, parts))
                curvature = joined(parts, [model.bend for model in models], seen)
            gradient = joined(parts, each(Linear.gradient, models, lumas), seen)
            gradient /= curvature
            velocity *= MOMENTUM
            velocity += gradient
            y_f = (y_f + velocity).clip(0, 1)
    return y_f


def is_renewed(step: int) -> bool:
    """Returns True for the steps, counted from 0, that find curvature and gradient anew.

    In between windows keep their Q and d, which change little, and the gradient is linear in the
    luma. It takes two windowed sums a scale instead of eight more. After ten steps from a trained
    network's luma, nearly all pixels are within one level of 255 of what renewing always gives.
    """
    return step < 3 or step % 3 == 1


class Part(NamedTuple):
    """A tile of one scale with all that a step needs of the sources there.

    scale: 0 for the finest here. exponent: the b_i of that scale. outer, inner, place: Areas as
    tiles.in_tiles gives them. Planes of `outer`, with the value of a window at its centre and 0
    where there is no window: x, the sources less 0.5, (K, h, w); b, the b_k of
    y_hat = sum_k b_k (x_k - l_k); mean, sum_k b_k E[x_k]; constant, the variance of y_hat plus C_2;
    weight, 2 b_i; l_hat, at scale 0, the windows' desired luminance.
    """

    scale: int
    exponent: float
    outer: Area
    inner: Area
    place: Area
    x: Array
    b: Array
    mean: Array
    constant: Array
    weight: Array
    l_hat: Array | None

    def cut(self, levels: Sequence[Array]) -> Array:
        """Returns this tile of a picture at all scales, less 0.5, (1, h, w)."""
        return levels[self.scale][(0, ..., *self.outer)] - 0.5


class Linear(NamedTuple):
    """The gradient in one Part as a linear function of the luma; planes (1, h, w).

    agreement, constant: of windows, at their centres. of_y, of_x: of pixels. bend: the curvature.
    """

    agreement: Array
    constant: Array
    of_y: Array
    of_x: Array
    bend: Array

    def gradient(self, y: Array) -> Array:
        """Returns the gradient at a luma, given less 0.5; both (1, h, w)."""
        terms = windows.window_sums(y)
        terms *= self.agreement
        terms += self.constant
        gradient = windows.window_sums(terms)
        gradient += self.of_x
        gradient -= self.of_y * y
        return gradient


def linearise(y: Array, part: Part) -> Linear:
    """Returns the gradient around a luma, given less 0.5, (1, h, w).

    A window's term is Q = n/d, with n and d of windows.compare. With y_hat = sum_k b_k (x_k - l_k),
    and E for a window's mean, dn = 2 E[y_hat dy], and dd = 2 E[(y - E[y]) dy]. So the derivative by
    a pixel is 2/d (y_hat - Q (y - E[y])), summed over its windows by their weights. The Gaussian is
    symmetric, so that windows.window_sums gives both means of pixels and sums over windows.
    """
    xp = namespace(y)
    sums = windows.window_sums(xp.concatenate([y, y * y, y * part.x]))
    mean, square, products = sums[:1], sums[1:2], sums[2:]
    denominator = square
    denominator -= mean * mean
    denominator += part.constant
    numerator = mean * part.mean
    for b, product in zip(part.b, products, strict=True):
        numerator -= b * product
    q = (windows.C_2 - 2 * numerator) / denominator
    maps = empty((len(part.x) + 2, *y.shape[1:]), y)
    of_y, bend, of_x = maps[:1], maps[1:2], maps[2:]
    xp.divide(part.weight, denominator, out=bend)
    xp.multiply(bend, q, out=of_y)
    xp.multiply(bend, part.b, out=of_x)
    agreement, constant = bend * q, -bend * part.mean
    if part.l_hat is not None:
        l_f = mean + 0.5
        numerator, denominator = windows.compare_luminance(l_f, part.l_hat)
        pull = part.weight * (LUMINANCE_WEIGHT / part.exponent) / denominator
        slope = numerator / denominator * pull
        # The term's derivative is pull * l_hat - slope * l_f, where l_f = E[y] + 0.5.
        agreement -= slope
        constant += pull * part.l_hat - 0.5 * slope
        bend += pull
    of_y, bend, *of_x = windows.window_sums(maps)
    total = sum((of_x[k] * x for k, x in enumerate(part.x[1:], 1)), start=of_x[0] * part.x[0])
    return Linear(agreement, constant, of_y[None], total[None], bend[None])


def joined(parts: Sequence[Part], planes: Iterable[Array], levels: Sequence[Array]) -> Array:
    """Returns the sum over the scales of what the Parts found, a plane each, (1, 1, H, W).

    levels: a picture at all scales, for their sizes.
    """
    wholes = [empty(level.shape, level) for level in levels]
    for part, plane in zip(parts, planes, strict=True):
        wholes[part.scale][(0, ..., *part.place)] = plane[(..., *part.inner)]
    total = wholes[-1]
    for whole in wholes[-2::-1]:
        whole += unhalve(total, whole.shape[-2:])
        total = whole
    return total
