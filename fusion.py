"""How does an exposure stack become one picture? Arrays in, fused array out.

Luma goes through the network, chroma is fused by formula (DeepFuse, ICCV 2017, eq. 6). Everything
is done tile by tile, so that memory beyond the pictures themselves is bounded.
"""

import cv2
import numpy as np
import torch
from torch.nn import functional as F

import loss
import utils
from model import PyramidDeepFuse
from tiles import CPU, PLAIN_TILE, SMALLEST_TILE, WORKERS, in_tiles, tile_size, to_device

REFINEMENT_TILE = 1024
REFINEMENT_HALO = 96  # pixels by which tiles overlap in refinement, so that it leaves no seams
MOMENTUM = 0.8  # of refinement
LUMINANCE_WEIGHT = 0.05  # of the luminance term in it
FAST_FROM = 4_000_000  # pixels of a picture, from which fast fusion scores higher
FAST_STEPS = 5  # of refinement, of reduced pictures
REDUCED = 1000  # pixels: about the long side at which fast fusion runs the network
WINDOW = 17  # side of the windows of fast fusion's linear models, in reduced pixels
RIDGE = 1e-5  # how much they prefer the exposures' plain mean


@torch.inference_mode()
def fuse(
    model,
    images,
    tile=None,
    progress=False,
    refine=None,
    chroma="paper",
    fast=None,
    strength=1.0,
    dtype=None,
    overwrite=False,
):
    """Fuses two or more exposures of one scene, in any order.

    model: a DeepFuse or PyramidDeepFuse in eval mode, on any device; see prepare.
    images: arrays of one size, (H, W, 3) RGB or (H, W) grey; uint8, uint16 or float in [0, 1].
    tile: the picture is worked on in squares of so many pixels, overlapping by the network's
        receptive radius, so that the result does not depend on it but for float rounding. By
        default what suits the device; where memory runs out, half as much. Refinement has larger
        ones, on which it depends by less than a grey level of 255.
    progress: a bar on stderr, where that is a terminal.
    refine: steps of refine_luma on the network's luma; by default FAST_STEPS where fast, else 0.
    chroma: "paper" for fuse_chroma, "relative" for fuse_relative_chroma.
    fast: whether to run the network on reduced pictures, see fast_luma_function; by default where
        the pictures have FAST_FROM pixels.
    strength: the share of the network's luma in the result; the rest is the exposures' mean.
    dtype: of the result; by default the images' deepest.
    overwrite: whether the first image's array may become the result, which spares its memory where
        fast.

    Returns the fused picture, with the images' size and colour.
    Raises ValueError where there are fewer than two images, or they differ in size or colour or
    hold floats outside [0, 1].
    """
    if chroma not in ("paper", "relative"):
        raise ValueError(f"chroma must be 'paper' or 'relative', not {chroma!r}")
    check_images(images)
    device = next(model.parameters()).device
    shape = images[0].shape[:2]
    tile = tile or tile_size(model)
    if fast is None:
        fast = shape[0] * shape[1] >= FAST_FROM
    if refine is None:
        refine = FAST_STEPS if fast else 0
    halo = model.radius
    if fast:
        fuse_luma = fast_luma_function(model, images, tile, refine)
        tile, halo = PLAIN_TILE, 0
    elif refine:
        plane = network_luma(model, images, tile, progress)
        tile, halo = max(tile, REFINEMENT_TILE), REFINEMENT_HALO
        picture = mean_lumas(images).to(device)

        def fuse_luma(lumas, outer):
            y_f, lumas = (to_device(part, device) for part in (plane[(..., *outer)], lumas))
            return refine_luma(y_f, lumas.transpose(0, 1), refine, picture).cpu()
    else:
        fuse_luma = luma_function(model, images, tile)
    dtype = np.dtype(dtype or np.result_type(*images))
    if overwrite and fast and images[0].dtype == dtype:
        fused = images[0]
    else:
        fused = np.empty(images[0].shape, dtype)

    def work(outer, inner, place):
        stack = torch.cat([utils.to_ycbcr(image[outer]) for image in images])  # (K, 3 or 1, h, w)
        y = fuse_luma(stack[:, :1], outer)[(..., *inner)]
        stack = stack[(..., *inner)]
        if strength != 1:
            y = torch.lerp(stack[:, :1].mean(dim=0, keepdim=True), y, strength)
        if chroma == "relative":
            cbcr = fuse_relative_chroma(stack, y[0])
        else:
            cbcr = fuse_chroma(stack[:, 1:])
        fused[place] = utils.from_ycbcr(torch.cat([y, cbcr[None]], dim=1), fused.dtype)

    # Refinement needs much memory for a tile; its own arithmetic has several threads.
    workers = 1 if refine and not fast else WORKERS
    in_tiles(work, shape, tile, halo, device, progress, workers)
    return fused


def read_lumas(images, area):
    """Luma of the part `area` (two slices) of all images: (K, 1, h, w) on the CPU."""
    return torch.cat([utils.to_luma(image[area]) for image in images])


def luma_function(model, images, tile):
    """The function that fuses a tile's luma: (lumas (K, 1, h, w), its place) -> (1, 1, h, w)."""
    device = next(model.parameters()).device
    if not isinstance(model, PyramidDeepFuse):
        return lambda lumas, _: model(*to_device(lumas, device).split(1)).cpu()

    def fuse_level(lumas, context):
        stack = to_device(lumas, device).split(1)
        return model.fuse_level(stack, to_device(context, device)).cpu()

    shape = images[0].shape[:2]
    if model.is_coarsest(*shape):
        context = model.context(read_lumas(images, (slice(None), slice(None))).split(1), None)
        return lambda lumas, place: fuse_level(lumas, context[(..., *place)])

    def fuse_in_tiles(stack, context):
        fused, lumas = torch.empty_like(context), torch.cat(stack)

        def work(outer, inner, place):
            part = fuse_level(lumas[(..., *outer)], context[(..., *outer)])
            fused[(..., *place)] = part[(..., *inner)]

        in_tiles(work, context.shape[-2:], tile, model.radius, device)
        return fused

    coarser = reduce_lumas(images, 2).split(1)
    fused = fuse_in_tiles(coarser, model.context(coarser, fuse_in_tiles))
    return lambda lumas, place: fuse_level(lumas, enlarge(fused, 2, place))


def network_luma(model, images, tile, progress=False):
    """The network's luma of whole pictures, (1, 1, H, W)."""
    device = next(model.parameters()).device
    fuse_luma = luma_function(model, images, tile)
    plane = torch.empty(1, 1, *images[0].shape[:2])

    def work(outer, inner, place):
        plane[(..., *place)] = fuse_luma(read_lumas(images, outer), outer)[(..., *inner)]

    in_tiles(work, plane.shape[-2:], tile, model.radius, device, progress)
    return plane


def reduce_lumas(images, factor):
    """Luma of all images, reduced to the means of factor x factor squares: (K, 1, h, w).

    The last row and column are of what is left of the pictures there.
    """
    height, width = images[0].shape[:2]
    reduced = torch.empty(len(images), 1, -(-height // factor), -(-width // factor))

    def work(place, *_):
        area = tuple(slice(side.start * factor, side.stop * factor) for side in place)
        reduced[(..., *place)] = F.avg_pool2d(read_lumas(images, area), factor, ceil_mode=True)

    in_tiles(work, reduced.shape[-2:], max(PLAIN_TILE // factor, 1), 0, CPU)
    return reduced


def mean_lumas(images):
    """Mean luma of every image, (1, K, 1, 1)."""
    sums = {}

    def work(place, *_):
        lumas = read_lumas(images, place)
        sums[place[0].start, place[1].start] = lumas.sum(dim=(2, 3), dtype=torch.float64)

    height, width = images[0].shape[:2]
    in_tiles(work, (height, width), PLAIN_TILE, 0, CPU)
    total = sum(sums[corner] for corner in sorted(sums))  # in an order that does not depend on time
    return (total / (height * width)).float()[None, ..., None]


def fast_luma_function(model, images, tile, refine):
    """As luma_function, with the network run on reduced pictures, of some REDUCED pixels.

    Around every pixel, the reduced fused luma is expressed as a linear function of the reduced
    exposures, which is then applied to the full ones, so that the result has their detail. As
    fused patches are weighted sums of the exposures' patches (MEF-SSIM's y_hat), little is lost.
    Linear models of windows by least squares: K. He, J. Sun, X. Tang, "Guided Image Filtering",
    ECCV 2010, here of K guides; their use for enlarging: K. He, J. Sun, "Fast Guided Filter",
    arXiv:1505.00996.
    """
    device = next(model.parameters()).device
    factor = max(round(max(images[0].shape[:2]) / REDUCED), 1)
    lumas = reduce_lumas(images, factor)
    # Beside large pictures, less memory for the network matters more than its last per cents.
    y_f = network_luma(model, [luma[0].numpy() for luma in lumas], max(tile // 2, SMALLEST_TILE))
    sources = lumas.transpose(0, 1)  # (1, K, h, w)
    if refine:
        y_f = refine_luma(y_f.to(device), sources.to(device), refine).cpu()
    model_of_window = torch.empty(1, len(images) + 1, *y_f.shape[-2:])

    def work(outer, inner, place):
        part = linear_models(sources[(..., *outer)], y_f[(..., *outer)])
        model_of_window[(..., *place)] = part[(..., *inner)]

    in_tiles(work, y_f.shape[-2:], PLAIN_TILE, 2 * (WINDOW // 2), CPU)

    def fuse_luma(lumas, place):
        gain = enlarge(model_of_window, factor, place)  # (1, K + 1, h, w)
        y = gain[:, -1:]
        for k, luma in enumerate(lumas):
            y = torch.addcmul(y, gain[:, k : k + 1], luma)
        return y

    return fuse_luma


def linear_models(sources, y_f):
    """Least-squares fit y_f = sum_k a_k y_k + b in the window around every pixel.

    sources: (1, K, H, W); y_f: (1, 1, H, W). Returns a_1 ... a_K, b, (1, K + 1, H, W), each the
    mean over the windows that hold the pixel. Where a window does not determine them, they tend
    to those of the exposures' mean: RIDGE times sum_k (a_k - 1/K)^2 is added to the squares' mean.
    """
    count = sources.shape[1]
    offset = y_f - sources.mean(dim=1, keepdim=True)
    mean, mean_offset = window_mean(sources), window_mean(offset)
    upper = [(j, k) for j in range(count) for k in range(j, count)]
    products = [sources[:, j] * sources[:, k] for j, k in upper]
    products = window_mean(torch.stack(products, dim=1))
    matrix = sources.new_empty(count, count, *sources.shape[-2:])
    for product, (j, k) in zip(products[0], upper, strict=True):
        matrix[j, k] = matrix[k, j] = product - mean[0, j] * mean[0, k] + RIDGE * (j == k)
    right = (window_mean(sources * offset) - mean * mean_offset)[0]  # (K, H, W)
    gain = solve(matrix, right)[None]
    constant = mean_offset - (gain * mean).sum(dim=1, keepdim=True)
    return window_mean(torch.cat([gain + 1 / count, constant], dim=1))


def window_mean(image):
    """Mean over the window around every pixel; borders repeated. (1, C, H, W) on the CPU."""
    window = (WINDOW, WINDOW)
    planes = [cv2.blur(x.numpy(), window, borderType=cv2.BORDER_REPLICATE) for x in image[0]]
    return torch.from_numpy(np.stack(planes))[None]


def solve(matrix, right):
    """x of matrix x = right by elimination, at all pixels at once.

    matrix: (K, K, ...), symmetric and positive definite, so that no pivots are needed; right and
    result: (K, ...). Both are overwritten. For matrices as small as these torch.linalg.solve, which
    calls LAPACK for each, takes many times as long.
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


def enlarge(image, factor, area):
    """The part `area` (two slices) of an image (1, C, H, W) enlarged bilinearly by an integer."""
    outer, inner = [], []
    for side, length in zip(area, image.shape[-2:], strict=True):
        # With its neighbours, without which the part's edges would differ.
        first = max(side.start // factor - 1, 0)
        outer.append(slice(first, min(-(-side.stop // factor) + 1, length)))
        inner.append(slice(side.start - first * factor, side.stop - first * factor))
    planes = image[(0, slice(None), *outer)].numpy()
    planes = [cv2.resize(x, None, fx=factor, fy=factor)[(*inner,)] for x in planes]
    return torch.from_numpy(np.stack(planes))[None]


@torch.inference_mode(False)
@torch.enable_grad()
def refine_luma(y_f, sources, steps, picture=None):
    """Gradient ascent on fused luma's own multi-scale MEF-SSIM and natural brightness.

    y_f: (1, 1, H, W), where to start; sources: (1, K, H, W); both in [0, 1]. Returns luma like y_f.
    picture: see loss.desired_luminance.
    Pictures smaller than MEF-SSIM's window at the coarsest scale are refined at fewer scales, and
    such as are smaller than one window are returned as they are.

    The objective is sum_i b_i Q_i over the scales, which near Q_i = 1 is the score's product to
    first order and, being a sum over windows, lets tiles be refined apart from each other; and
    LUMINANCE_WEIGHT times SSIM's luminance term. With denominators d that change little, Q falls
    as var(y_f - y_hat)/d from its maximum, and the luminance term as (l_f - l_hat)^2/d: the
    gradient is divided by the curvature of that, pixel by pixel, which takes equal shares of a step
    in textured and in flat areas and leaves the latter's noise alone. Luminance has the score's
    Gaussian windows, that pixels at the border weigh alike in both. The nearest published
    relative is K. Ma et al., "Multi-Exposure Image Fusion by Optimizing a Structural Similarity
    Index", IEEE Transactions on Computational Imaging 4(1), 2018.
    """
    y_f, sources = y_f.clone(), sources.clone()  # of inference mode; these take gradients
    height, width = y_f.shape[-2:]
    scales = loss.possible_scales(height, width)
    if not scales:
        return y_f
    if picture is not None:
        picture = picture.clone()
    description = loss.desired_windows(sources, scales)
    l_hat = loss.desired_luminance(sources, picture, loss.gaussian_mean)
    velocity = torch.zeros_like(y_f)
    for _ in range(steps):
        y = (y_f + MOMENTUM * velocity).requires_grad_()
        objective, curvature = 0.0, 0.0
        for i, level in enumerate(loss.pyramid(y, scales)):
            numerator, denominator, l_f = loss.compare(level, description[i])
            # A window of scale i stands for 4^i pixels.
            objective = objective + loss.EXPONENTS[i] * 4**i * (numerator / denominator).sum()
            bend = loss.EXPONENTS[i] * 2 / denominator.detach()
            if i == 0:
                numerator, denominator = loss.compare_luminance(l_f, l_hat)
                objective = objective + LUMINANCE_WEIGHT * (numerator / denominator).sum()
                bend = bend + LUMINANCE_WEIGHT * 2 / denominator.detach()
            spread = loss.spread(bend)
            enlarged = F.interpolate(spread, scale_factor=2**i) if i else spread
            curvature = curvature + enlarged[..., :height, :width]
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
    total = weight.sum(dim=0).clamp_(min=torch.finfo(weight.dtype).tiny)
    return (offset * weight).sum(dim=0).div_(total).add_(utils.NEUTRAL)


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
    check_images([under, over])
    if min(under.shape[:2]) < loss.WINDOW:
        raise ValueError(f"y_hat needs pictures of at least {loss.WINDOW} pixels a side")
    stack = [utils.to_ycbcr(image) for image in (under, over)]
    fused = fuse(model, [under, over], **options)
    y_hat = loss.y_hat(torch.cat([image[:, :1] for image in stack], dim=1), target)
    chroma = fuse_chroma(torch.stack([image[:, 1:] for image in stack]))
    target = utils.from_ycbcr(torch.cat([y_hat, chroma], dim=1), fused.dtype)
    sources = [utils.from_ycbcr(image, fused.dtype) for image in stack]
    return np.concatenate([*sources, fused, target], axis=1)


def check_images(images, one_size=True):
    """ValueError where pictures cannot be fused; one_size: whether they must have one size."""
    if len(images) < 2:
        raise ValueError(f"fusion needs two or more pictures, not {len(images)}")
    shape = images[0].shape
    if len(shape) not in (2, 3) or shape[2:] not in ((), (3,)) or 0 in shape:
        raise ValueError(f"expected pictures of shape (H, W) or (H, W, 3), not {shape}")
    for image in images:
        if one_size and image.shape[:2] != shape[:2]:
            raise ValueError(
                "the pictures differ in size: "
                f"{shape[1]}x{shape[0]} and {image.shape[1]}x{image.shape[0]}"
                f"{explain(image.shape[:2], shape[:2])}"
            )
        if image.ndim != len(shape):
            raise ValueError("some pictures are grey and some in colour")
        if image.dtype.kind == "f":
            if not (image.min() >= 0 and image.max() <= 1):  # false for NaN too
                raise ValueError("float pictures must lie in [0, 1]")
        elif image.dtype not in (np.uint8, np.uint16):
            raise ValueError(f"pictures must be uint8, uint16 or float, not {image.dtype}")


def explain(size, other):
    """What two sizes (H, W) that should be one have come from, where it can be told."""
    if size == other[::-1]:
        return "; one lacks the EXIF orientation that turns it as the other"
    if all(abs(a - b) <= 0.02 * b for a, b in zip(size, other, strict=True)):
        return "; pictures that nearly fit can be brought to one size by alignment (--align)"
    return ""
