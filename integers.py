"""How do C2 and C3 compute in 8-bit integers? With thresholds that differ from pixel to pixel.

They do 87 % of the arithmetic. Rounded to the nearest of 256 levels, features of a smooth area
would all be rounded the same way, and the area would change its brightness. So every pixel of a
square of 7x7 has another threshold, from which on features are rounded up (ordered dither; B. E.
Bayer, "An Optimum Method for Two-Level Rendition of Continuous-Tone Pictures", ICC 1973). A window
of C2's and C3's size holds each threshold once, so that what they add is averaged away.
"""

import math
from collections.abc import Callable

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

KERNEL_SIDE = 7  # pixels a side of a square of thresholds, as of the kernels
HIGHEST = 255  # level of the largest feature
USUAL_CHANNELS = 0.9  # share of the channels whose features below 0 have levels of their own
LARGEST_WEIGHT = 127  # level of the largest weight
MARGIN = 1.1  # largest feature without clipping, in times of the largest of made pictures
MADE_PAIRS, MADE_SIDE = 8, 96  # made pictures, and pixels a side
NOISE_SCALES = (2, 5, 16, 64)  # values a side of the noise of which they are made
INSTRUCTIONS = ("avx512_vnni", "avx_vnni", "amx_int8")  # Each of them multiplies 8-bit integers.


class IntegerConvolution(nn.Module):
    """A convolution of features and weights in 8 bits, whose sums have 32.

    convolution: of floats. lowest, highest: bounds of its inputs, (C,) each. dtype: of the result.
    """

    def __init__(
        self,
        convolution: nn.Conv2d,
        lowest: torch.Tensor,
        highest: torch.Tensor,
        dtype: torch.dtype,
    ):
        super().__init__()
        self.dtype = dtype
        self.kernel_size = convolution.kernel_size
        self.padding = [int(side) for side in convolution.padding]
        weight, bias = convolution.weight.detach(), convolution.bias
        assert bias is not None
        # Channels are brought to one range; the weights take over how much each of them counts.
        self.zero = level_of_zero(lowest, highest)
        steps = torch.maximum(highest / (HIGHEST - self.zero), -lowest / max(self.zero, 1))
        steps = (MARGIN * steps).clamp(min=1e-6)
        self.factors = (1 / steps)[None, :, None, None]
        levels, self.steps = rounded_weights(weight * steps[:, None, None])
        self.bias = bias.detach()
        self.zeros = torch.zeros(len(weight), dtype=torch.int32)
        self.packed = torch.ops.onednn.qconv_prepack(
            levels, self.steps, 1.0, self.zero, [1, 1], [0, 0], [1, 1], 1, None
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Convolves features (N, C, H, W) to (N, C', H', W')."""
        if any(self.padding):
            x = F.pad(x, [self.padding[1]] * 2 + [self.padding[0]] * 2)
        rounding = self.zero + thresholds(*x.shape[2:])
        levels = torch.addcmul(rounding, x, self.factors).clamp_(0, HIGHEST)
        # On a CPU, PyTorch converts floats to 8 bits sooner by way of 32.
        levels = levels.to(torch.int32).to(torch.uint8)
        return torch.ops.onednn.qconv2d_pointwise(
            levels.contiguous(memory_format=torch.channels_last),
            *(1.0, self.zero, self.packed, self.steps, self.zeros, self.bias),
            *([1, 1], [0, 0], [1, 1], 1, 1.0, 0, self.dtype, "none", [], ""),
        )


def level_of_zero(lowest: torch.Tensor, highest: torch.Tensor) -> int:
    """Returns the level of features of 0, so that most channels have room below it; 0 of ReLUs."""
    below = -lowest / (highest - lowest).clamp(min=1e-12)
    return min(math.ceil(HIGHEST * float(below.quantile(USUAL_CHANNELS))), HIGHEST // 2)


def thresholds(height: int, width: int) -> torch.Tensor:
    """Returns what is added to features in levels before their fractions are cut, (1, 1, H, W)."""
    y, x = np.mgrid[:KERNEL_SIDE, :KERNEL_SIDE]
    # Two Latin squares that together hold each of the 49 pairs once, neighbours far apart.
    order = (3 * x + 5 * y) % KERNEL_SIDE * KERNEL_SIDE + (2 * x + 3 * y) % KERNEL_SIDE
    square = torch.from_numpy((order + 0.5) / KERNEL_SIDE**2).float()
    rows, columns = (math.ceil(side / KERNEL_SIDE) for side in (height, width))
    return square.repeat(rows, columns)[None, None, :height, :width]


def rounded_weights(weight: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Returns weights in levels, int8 like `weight`, and the steps of output channels, (C',).

    The sum of every kernel stays as it is but for half a level: weights whose rounding changed it
    most are rounded the other way. So smooth areas keep their brightness.
    """
    steps = (weight.flatten(1).abs().amax(dim=1) / LARGEST_WEIGHT).clamp(min=1e-12)
    exact = weight.flatten(2) / steps[:, None, None]
    levels = exact.round()
    error = exact - levels
    missing = error.sum(dim=2, keepdim=True).round()
    rank = error.argsort(dim=2).argsort(dim=2)
    levels += (rank >= error.shape[2] - missing).float()
    levels -= (rank < -missing).float()
    return levels.clamp(-LARGEST_WEIGHT, LARGEST_WEIGHT).view_as(weight).to(torch.int8), steps


def made_pairs() -> list[torch.Tensor]:
    """Returns lumas of pairs of exposures, noise of several scales; each (2, 1, H, W) in [0, 1]."""
    rng = np.random.default_rng(0)
    pairs = []
    for i in range(MADE_PAIRS):
        light = torch.zeros(1, 1, MADE_SIDE, MADE_SIDE)
        for side in NOISE_SCALES:
            noise = torch.from_numpy(rng.random((1, 1, side, side), np.float32))
            mode = "nearest" if i % 2 else "bicubic"  # with edges, and without
            light += F.interpolate(noise, size=(MADE_SIDE, MADE_SIDE), mode=mode)
        light = torch.exp((light - light.mean()) * rng.uniform(0.5, 3))
        darker = math.exp(rng.uniform(-3, 1))
        brighter = darker * math.exp(rng.uniform(1, 5))
        pairs.append(torch.cat([darker * light, brighter * light]).clamp(0, 1))
    return pairs


@torch.inference_mode()
def bounds(model: nn.Module, layers: list[nn.Module]) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """Returns the lowest and the highest inputs of a network's layers in made pictures, (C,) each.

    The lowest is 0 or less, the highest 0 or more.
    """
    found = [(torch.zeros(()), torch.zeros(())) for _ in layers]

    def watch(k: int) -> Callable[[nn.Module, tuple[torch.Tensor]], None]:
        def note(_: nn.Module, inputs: tuple[torch.Tensor]) -> None:
            lowest, highest = found[k]
            x = inputs[0].transpose(0, 1).flatten(1)
            found[k] = lowest.minimum(x.amin(dim=1)), highest.maximum(x.amax(dim=1))

        return note

    handles = [layer.register_forward_pre_hook(watch(k)) for k, layer in enumerate(layers)]
    for pair in made_pairs():
        model(*pair[:, None])
    for handle in handles:
        handle.remove()
    return found


def to_integers(model: nn.Module, layers: list[nn.Sequential], dtype: torch.dtype) -> None:
    """Replaces the convolutions that layers of a network begin with by ones in integers.

    model: on the CPU, in float32 and eval mode. dtype: of the layers' results.

    Raises ValueError where this machine or this version of PyTorch lacks what it takes.
    """
    has: dict[str, bool] = getattr(torch.cpu, "get_capabilities", dict)()
    # Without these instructions, sums of products are cut off at 16 bits.
    if not any(has.get(name) for name in INSTRUCTIONS):
        raise ValueError("precision int8: this processor has no instructions for it")
    if not hasattr(torch.ops.onednn, "qconv2d_pointwise"):
        raise ValueError(f"precision int8: PyTorch {torch.__version__} has no layers for it")
    found = bounds(model, [layer[0] for layer in layers])
    for layer, (lowest, highest) in zip(layers, found, strict=True):
        assert isinstance(layer[0], nn.Conv2d)
        layer[0] = IntegerConvolution(layer[0], lowest, highest, dtype)
