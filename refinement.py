"""How is fused luma refined? By gradient ascent on its own MEF-SSIM, in closed form.

The gradient of MEF-SSIM is, like the score, made of windowed means, so that neither training's
machinery nor its memory is needed.
"""

from collections.abc import Iterable, Sequence
from typing import NamedTuple

import torch
from torch.nn import functional as F

import loss
from tiles import PLAIN_TILE, WORKERS, Area, cut, several_threads, with_halo

MOMENTUM = 0.8  # share of a step that is kept for the next one
LUMINANCE_WEIGHT = 0.05  # weight of the luminance term in the objective


def refine_luma(
    y_f: torch.Tensor,
    sources: torch.Tensor,
    steps: int,
    image_means: torch.Tensor | None = None,
    finest: int = 0,
) -> torch.Tensor:
    """Raises fused luma's own multi-scale MEF-SSIM, and keeps it natural, by gradient ascent.

    y_f: (1, 1, H, W), the luma to start from; sources: (1, K, H, W); both in [0, 1].
    image_means: mean luma of whole pictures, (1, K, 1, 1), where `sources` are parts of them.
    finest: the scale of MEF-SSIM that y_f has: 0, or 1 for pictures reduced to half their size.
        Scale 0 is three quarters of the work, and has a fourteenth of the weight.

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
    scales = min(loss.possible_scales(*shape), len(loss.EXPONENTS) - finest)
    if not scales or not steps:
        return y_f.clone()
    if image_means is None:
        image_means = sources.mean(dim=(2, 3), keepdim=True)
    levels = loss.scale_levels(sources, scales)
    size = PLAIN_TILE if y_f.device.type == "cpu" else max(shape)
    areas = [
        (i, place)
        for i, level in enumerate(levels)
        for place in cut((slice(0, level.shape[-2]), slice(0, level.shape[-1])), size)
    ]

    def prepare(area: tuple[int, Area]) -> Part:
        i, place = area
        outer, inner = with_halo(place, loss.WINDOW - 1, levels[i].shape[-2:])
        seen = levels[i][(..., *outer)]
        x, mean, b, variance = loss.desired_at_scale(seen)
        mean = as_centres((b * mean).sum(dim=1, keepdim=True))[0]
        exponent = loss.EXPONENTS[finest + i]
        weight = as_centres(torch.full_like(variance, 2 * exponent))[0]
        constant = as_centres(variance)[0] + loss.C_2
        l_hat = None
        if i == 0:
            l_hat = as_centres(loss.desired_luminance(seen, image_means, loss.gaussian_mean))[0]
        where = i, exponent, outer, inner, place
        return Part(*where, x[0], as_centres(b)[0], mean, constant, weight, l_hat)

    with several_threads(y_f.device, WORKERS if y_f.device.type == "cpu" else 1) as each:
        parts = list(each(prepare, areas))
        velocity = torch.zeros_like(y_f)
        for step in range(steps):
            seen = loss.scale_levels(y_f + MOMENTUM * velocity, scales)
            lumas = [part.cut(seen) for part in parts]
            if is_renewed(step):
                models = list(each(linearise, lumas, parts))
                curvature = joined(parts, [model.bend for model in models], seen)
            gradient = joined(parts, each(Linear.gradient, models, lumas), seen)
            velocity = velocity.mul_(MOMENTUM).add_(gradient.div_(curvature))
            y_f = (y_f + velocity).clamp_(0, 1)
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
    x: torch.Tensor
    b: torch.Tensor
    mean: torch.Tensor
    constant: torch.Tensor
    weight: torch.Tensor
    l_hat: torch.Tensor | None

    def cut(self, levels: Sequence[torch.Tensor]) -> torch.Tensor:
        """Returns this tile of a picture at all scales, less 0.5, (1, h, w)."""
        return levels[self.scale][(0, ..., *self.outer)] - 0.5


def as_centres(windows: torch.Tensor) -> torch.Tensor:
    """Puts the value of every window at its centre, and 0 where a picture has no window."""
    return F.pad(windows, [loss.WINDOW // 2] * 4)


class Linear(NamedTuple):
    """The gradient in one Part as a linear function of the luma; planes (1, h, w).

    agreement, constant: of windows, at their centres. of_y, of_x: of pixels. bend: the curvature.
    """

    agreement: torch.Tensor
    constant: torch.Tensor
    of_y: torch.Tensor
    of_x: torch.Tensor
    bend: torch.Tensor

    def gradient(self, y: torch.Tensor) -> torch.Tensor:
        """Returns the gradient at a luma, given less 0.5; both (1, h, w)."""
        windows = loss.window_sums(y).mul_(self.agreement).add_(self.constant)
        return loss.window_sums(windows).add_(self.of_x).addcmul_(self.of_y, y, value=-1)


def linearise(y: torch.Tensor, part: Part) -> Linear:
    """Returns the gradient around a luma, given less 0.5, (1, h, w).

    A window's term is Q = n/d, with n and d of loss.compare. With y_hat = sum_k b_k (x_k - l_k) and
    E for a window's mean, dn = 2 E[y_hat dy], and dd = 2 E[(y - E[y]) dy]. So the derivative by a
    pixel is 2/d (y_hat - Q (y - E[y])), summed over its windows by their weights. The Gaussian is
    symmetric, so that loss.window_sums gives both means of pixels and sums over windows.
    """
    count = len(part.x)
    mean, square, products = loss.window_sums(torch.cat([y, y * y, y * part.x])).split(
        [1, 1, count]
    )
    denominator = square.addcmul_(mean, mean, value=-1).add_(part.constant)
    numerator = mean * part.mean
    for k in range(count):
        numerator.addcmul_(part.b[k], products[k], value=-1)
    q = numerator.mul_(-2).add_(loss.C_2).div_(denominator)
    maps = y.new_empty(count + 2, *y.shape[1:])
    of_y, bend, of_x = maps.split([1, 1, count])
    torch.div(part.weight, denominator, out=bend)
    torch.mul(bend, part.b, out=of_x)
    torch.mul(bend, q, out=of_y)
    agreement, constant = of_y.clone(), bend * -part.mean
    if part.l_hat is not None:
        l_f = mean.add_(0.5)
        numerator, denominator = loss.compare_luminance(l_f, part.l_hat)
        pull = part.weight * (LUMINANCE_WEIGHT / part.exponent) / denominator
        slope = numerator.div_(denominator).mul_(pull)
        # The term's derivative is pull * l_hat - slope * l_f, where l_f = E[y] + 0.5.
        agreement -= slope
        constant.addcmul_(pull, part.l_hat).sub_(slope, alpha=0.5)
        bend += pull
    of_y, bend, *of_x = loss.window_sums(maps).split(1)
    total = of_x[0].mul_(part.x[0])
    for k in range(1, count):
        total.addcmul_(of_x[k], part.x[k])
    return Linear(agreement, constant, of_y, total, bend)


def joined(
    parts: Sequence[Part], planes: Iterable[torch.Tensor], levels: Sequence[torch.Tensor]
) -> torch.Tensor:
    """Returns the sum over the scales of what the Parts found, a plane each, (1, 1, H, W).

    levels: a picture at all scales, for their sizes.
    """
    wholes = [torch.empty_like(level) for level in levels]
    for part, plane in zip(parts, planes, strict=True):
        wholes[part.scale][(0, ..., *part.place)] = plane[(..., *part.inner)]
    total = wholes[-1]
    for whole in wholes[-2::-1]:
        total = whole.add_(loss.unhalve(total, whole.shape[-2:]))
    return total
