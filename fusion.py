"""How does an exposure stack become one picture? Arrays in, fused array out.

Luma goes through the network, chroma is fused by formula (DeepFuse, ICCV 2017, eq. 6).
"""

import functools

import numpy as np
import torch
from torch.nn import functional as F
from tqdm import tqdm

import loss
import utils
from model import PyramidDeepFuse

TILE = 512  # pixels a side; bounds the memory that the network's features need
REFINEMENT_HALO = 96  # pixels by which tiles overlap in refinement, so that it leaves no seams
MOMENTUM = 0.8  # of refinement


@torch.inference_mode()
def fuse(model, images, tile=TILE, progress=False, refine=0, chroma="paper"):
    """Fuses two or more exposures of one scene, in any order.

    model: a DeepFuse or PyramidDeepFuse in eval mode, on any device.
    images: arrays of one size, (H, W, 3) RGB or (H, W) grey; uint8, uint16 or float in [0, 1].
    tile: the picture is worked on in squares of so many pixels, overlapping by the network's
        receptive radius, so that the result does not depend on it but for float rounding;
        refinement's are twice as wide and depend on it by less than a grey level of 255.
    progress: a bar on stderr, where that is a terminal.
    refine: steps of refine_luma on the network's luma.
    chroma: "paper" for fuse_chroma, "relative" for fuse_relative_chroma.

    Returns the fused picture, with the images' size and colour, in their deepest type.
    Raises ValueError where there are fewer than two images, or they differ in size or colour or
    hold floats outside [0, 1].
    """
    if chroma not in ("paper", "relative"):
        raise ValueError(f"chroma must be 'paper' or 'relative', not {chroma!r}")
    check(images)
    device = next(model.parameters()).device
    shape = images[0].shape[:2]
    bar = functools.partial(tqdm, unit="tile", leave=False, disable=None if progress else True)

    def read(area):
        return torch.cat([utils.to_ycbcr(image[area]) for image in images]).to(device)

    fuse_luma = luma_function(model, images, tile)
    halo = model.radius
    if refine:
        plane = torch.empty(1, 1, *shape)
        for outer, inner, place in bar(tiles(*shape, tile, halo), "network"):
            plane[(..., *place)] = fuse_luma(read(outer), outer)[(..., *inner)].cpu()

        def fuse_luma(stack, outer):
            return refine_luma(plane[(..., *outer)].to(device), stack[:, 0][None], refine)

        tile, halo = 2 * tile, REFINEMENT_HALO
    fused = np.empty(images[0].shape, np.result_type(*images))
    for outer, inner, place in bar(tiles(*shape, tile, halo), "refining" if refine else "network"):
        stack = read(outer)  # (K, 3, h, w)
        y = fuse_luma(stack, outer)
        relative = chroma == "relative"
        cbcr = fuse_relative_chroma(stack, y[0]) if relative else fuse_chroma(stack[:, 1:])
        ycbcr = torch.cat([y, cbcr[None]], dim=1)
        fused[place] = utils.from_ycbcr(ycbcr[(..., *inner)], fused.dtype)
    return fused


def luma_function(model, images, tile):
    """The function that fuses a tile's luma: (stack (K, C, h, w), its place) -> (1, 1, h, w)."""
    if not isinstance(model, PyramidDeepFuse):
        return lambda stack, _: model(*stack[:, :1].split(1))
    device = next(model.parameters()).device
    lumas = [utils.to_ycbcr(image)[:, :1].to(device) for image in images]
    context = model.context(lumas, functools.partial(fuse_level, model, tile))
    return lambda stack, place: model.fuse_level(stack[:, :1].split(1), context[(..., *place)])


def fuse_level(model, tile, stack, context):
    """model.fuse_level in tiles, which bound the memory that it needs."""
    fused = torch.empty_like(context)
    for outer, inner, place in tiles(*context.shape[-2:], tile, model.radius):
        part = model.fuse_level([y[(..., *outer)] for y in stack], context[(..., *outer)])
        fused[(..., *place)] = part[(..., *inner)]
    return fused


def tiles(height, width, size, halo):
    """Squares that cover a picture: a list of (outer, inner, place), pairs of slices each.

    outer: what a tile reads of the picture, up to `halo` pixels more on each side; inner: the tile
    within that; place: the tile within the picture.
    """

    def along(length):
        for start in range(0, length, size):
            end = min(start + size, length)
            first = max(start - halo, 0)
            outer = slice(first, min(end + halo, length))
            yield outer, slice(start - first, end - first), slice(start, end)

    return [
        tuple(zip(row, column, strict=True)) for row in along(height) for column in along(width)
    ]


@torch.inference_mode(False)
@torch.enable_grad()
def refine_luma(y_f, sources, steps):
    """Gradient ascent on fused luma's own multi-scale MEF-SSIM.

    y_f: (1, 1, H, W), where to start; sources: (1, K, H, W); both in [0, 1]. Returns luma like y_f.
    Pictures smaller than MEF-SSIM's window at the coarsest scale are refined at fewer scales, and
    such as are smaller than one window are returned as they are.

    The objective is sum_i b_i Q_i over the scales, which near Q_i = 1 is the score's product to
    first order and, being a sum over windows, lets tiles be refined apart from each other. With
    denominators d that change little, Q falls as var(y_f - y_hat)/d from its maximum: the gradient
    is divided by the curvature of that, pixel by pixel, which takes equal shares of a step in
    textured and in flat areas and leaves the latter's noise alone. The nearest published relative
    is K. Ma et al., "Multi-Exposure Image Fusion by Optimizing a Structural Similarity Index", IEEE
    Transactions on Computational Imaging 4(1), 2018.
    """
    y_f, sources = y_f.clone(), sources.clone()  # of inference mode; these take gradients
    height, width = y_f.shape[-2:]
    scales = loss.possible_scales(height, width)
    if not scales:
        return y_f
    description = loss.describe(sources, scales)
    velocity = torch.zeros_like(y_f)
    for _ in range(steps):
        y = (y_f + MOMENTUM * velocity).requires_grad_()
        objective, curvature = 0.0, 0.0
        for i, level in enumerate(loss.pyramid(y, scales)):
            numerator, denominator = loss.compare(level, description[i])
            # A window of scale i stands for 4^i pixels.
            objective = objective + loss.EXPONENTS[i] * 4**i * (numerator / denominator).sum()
            spread = loss.spread(2 / denominator.detach())
            enlarged = F.interpolate(spread, scale_factor=2**i) if i else spread
            curvature = curvature + loss.EXPONENTS[i] * enlarged[..., :height, :width]
        (gradient,) = torch.autograd.grad(objective, y)
        velocity = MOMENTUM * velocity + gradient / curvature
        y_f = (y_f + velocity).clamp(0, 1)
    return y_f


def fuse_chroma(chroma):
    """Weighted mean of the exposures' chroma, each weighted by its distance from grey, per pixel.

    DeepFuse, eq. 6: c = sum_k c_k |c_k - tau| / sum_k |c_k - tau|, and tau where all equal tau.
    Takes shape (K, ...), returns shape (...).
    """
    offset = chroma - utils.NEUTRAL
    weight = offset.abs()
    total = weight.sum(dim=0)
    mean = (offset * weight).sum(dim=0) / total
    return torch.where(total > 0, mean, 0) + utils.NEUTRAL


def fuse_relative_chroma(stack, y_f):
    """Chroma in proportion to luma, so that what the fused picture brightens keeps its colour.

    A surface's chroma grows with its exposure as its luma does; what differs in clipped and in
    noisy pixels counts little: c = tau + y_f sum_k w_k (c_k - tau)/y_k / sum_k w_k, per pixel, with
    w_k = y_k exp(-(y_k - 1/2)^2 / (2 * 0.2^2)) |c_k - tau|, the well-exposedness of T. Mertens,
    J. Kautz, F. Van Reeth, "Exposure Fusion", Pacific Graphics 2007, times the paper's weight.

    stack: (K, 3, H, W) of Y, Cb, Cr; y_f: fused luma (1, H, W). Returns (2, H, W).
    """
    y, offset = stack[:, :1], stack[:, 1:] - utils.NEUTRAL
    weight = y * torch.exp(-((y - 0.5) ** 2) / (2 * 0.2**2)) * (offset.abs() + 1e-3)
    black = 0.1  # towards such luma, chroma is ever less in proportion and ever more noise
    relative = (weight * offset / (y + black)).sum(dim=0) / weight.sum(dim=0).clamp(min=1e-9)
    return relative * (y_f.clamp(0, 1) + black) + utils.NEUTRAL


@torch.inference_mode()
def panel(model, under, over, target="patch", **options):
    """Four pictures side by side: under | over | fused | y_hat, the last being MEF-SSIM's target.

    Takes two arrays, and options, as fuse does; returns one array of four times their width.
    y_hat, of the given target (see loss.y_hat), has the paper's chroma. It is computed on the whole
    picture.
    Raises ValueError as fuse does, and where the pictures are smaller than MEF-SSIM's window.
    """
    check([under, over])
    if min(under.shape[:2]) < loss.WINDOW:
        raise ValueError(f"y_hat needs pictures of at least {loss.WINDOW} pixels a side")
    stack = [utils.to_ycbcr(image) for image in (under, over)]
    fused = fuse(model, [under, over], **options)
    y_hat = loss.y_hat(torch.cat([image[:, :1] for image in stack], dim=1), target)
    chroma = fuse_chroma(torch.stack([image[:, 1:] for image in stack]))
    target = utils.from_ycbcr(torch.cat([y_hat, chroma], dim=1), fused.dtype)
    sources = [utils.from_ycbcr(image, fused.dtype) for image in stack]
    return np.concatenate([*sources, fused, target], axis=1)


def check(images):
    if len(images) < 2:
        raise ValueError(f"fusion needs two or more pictures, not {len(images)}")
    shape = images[0].shape
    if len(shape) not in (2, 3) or shape[2:] not in ((), (3,)) or 0 in shape:
        raise ValueError(f"expected pictures of shape (H, W) or (H, W, 3), not {shape}")
    for image in images:
        if image.shape[:2] != shape[:2]:
            raise ValueError(
                "the pictures differ in size: "
                f"{shape[1]}x{shape[0]} and {image.shape[1]}x{image.shape[0]}"
            )
        if image.ndim != len(shape):
            raise ValueError("some pictures are grey and some in colour")
        if image.dtype.kind == "f":
            if not (image.min() >= 0 and image.max() <= 1):  # false for NaN too
                raise ValueError("float pictures must lie in [0, 1]")
        elif image.dtype not in (np.uint8, np.uint16):
            raise ValueError(f"pictures must be uint8, uint16 or float, not {image.dtype}")
