"""How does an exposure stack become one picture? Arrays in, fused array out.

Luma goes through the network, chroma is fused by formula (DeepFuse, ICCV 2017, eq. 6).
"""

import numpy as np
import torch
from tqdm import tqdm

import loss
import utils

TILE = 512  # pixels a side; bounds the memory that the network's features need


@torch.inference_mode()
def fuse(model, images, tile=TILE, progress=False):
    """Fuses two or more exposures of one scene, in any order.

    model: a DeepFuse in eval mode, on any device.
    images: arrays of one size, (H, W, 3) RGB or (H, W) grey; uint8, uint16 or float in [0, 1].
    tile: the picture is worked on in squares of so many pixels, overlapping by the network's
        receptive radius, so that the result does not depend on it but for float rounding.
    progress: a bar on stderr, where that is a terminal.

    Returns the fused picture, with the images' size and colour, in their deepest type.
    Raises ValueError where there are fewer than two images, or they differ in size or colour or
    hold floats outside [0, 1].
    """
    check(images)
    device = next(model.parameters()).device
    height, width = images[0].shape[:2]
    fused = np.empty(images[0].shape, np.result_type(*images))
    corners = [(top, left) for top in range(0, height, tile) for left in range(0, width, tile)]
    for top, left in tqdm(corners, unit="tile", leave=False, disable=None if progress else True):
        rows, inner_rows = with_halo(top, tile, height, model.radius)
        columns, inner_columns = with_halo(left, tile, width, model.radius)
        stack = [utils.to_ycbcr(image[rows, columns]).to(device) for image in images]
        ycbcr = fuse_ycbcr(model, stack)[..., inner_rows, inner_columns]
        fused[top : top + tile, left : left + tile] = utils.from_ycbcr(ycbcr, fused.dtype)
    return fused


def fuse_ycbcr(model, stack):
    """Fuses K tensors (1, 3, H, W) of Y, Cb, Cr, or (1, 1, H, W) of Y, into one such tensor."""
    y = model(*(image[:, :1] for image in stack))
    return torch.cat([y, fuse_chroma(torch.stack([image[:, 1:] for image in stack]))], dim=1)


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


@torch.inference_mode()
def panel(model, under, over, target="patch"):
    """Four pictures side by side: under | over | fused | y_hat, the last being MEF-SSIM's target.

    Takes two arrays as fuse does, returns one of four times their width. y_hat, of the given
    target (see loss.y_hat), has the fused picture's chroma. It is computed on the whole picture.
    Raises ValueError as fuse does, and where the pictures are smaller than MEF-SSIM's window.
    """
    check([under, over])
    if min(under.shape[:2]) < loss.WINDOW:
        raise ValueError(f"y_hat needs pictures of at least {loss.WINDOW} pixels a side")
    stack = [utils.to_ycbcr(image) for image in (under, over)]
    fused = fuse(model, [under, over])
    y_hat = loss.y_hat(torch.cat([image[:, :1] for image in stack], dim=1), target)
    chroma = fuse_chroma(torch.stack([image[:, 1:] for image in stack]))
    target = utils.from_ycbcr(torch.cat([y_hat, chroma], dim=1), fused.dtype)
    sources = [utils.from_ycbcr(image, fused.dtype) for image in stack]
    return np.concatenate([*sources, fused, target], axis=1)


def with_halo(start, length, end, halo):
    """Slices along one side: what a tile reads of the picture, and the tile within what is read."""
    first = max(start - halo, 0)
    last = min(start + length + halo, end)
    return slice(first, last), slice(start - first, min(start + length, end) - first)


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
