"""What is the network? DeepFuse's luma CNN, and its layers on a pyramid; a photo's network.

K. R. Prabhakar, V. S. Srikar, R. V. Babu, "DeepFuse: A Deep Unsupervised Approach for Exposure
Fusion with Extreme Exposure Image Pairs", ICCV 2017, Fig. 2. PyramidDeepFuse applies the same
layers from coarse to fine and sees the whole picture instead of 25 pixels. ReleasedDeepFuse is the
network that the authors released, which is another one.
"""

import copy
import itertools
from collections.abc import Callable, Sequence
from typing import Any, TypeVar, cast

import torch
from torch import nn
from torch.nn import functional as F
from torch.nn.utils.fusion import fuse_conv_bn_eval

import between
from arrays import local_mean
from between import HALVINGS, STEP
from integers import to_integers
from precision import choose_precision
from pyramid import LOCAL_MEAN_SIDE, is_coarsest, tilted_mean
from tiles import Area

TRAINED_TILT = 1.5  # largest tilt in training, where crops vary more than whole pictures


class DeepFuse(nn.Module):
    """Fuses the luma of K >= 2 exposures of one static scene.

    As every network for luma, it has a name, settings to build it from, a radius, fuse_tile, and
    says whether it is coarse_to_fine (fuse_tile sees the coarser level's result), and whether it
    stretches (the luma of the whole picture is stretched to [0, 1] in the end).

    C1 and C2 look at every exposure with the same weights (tied streams). Their features are added,
    and C3 to C5 reconstruct the fused luma.

    batch_norm: puts a BatchNorm after every convolution, as in the earlier implementation.
    padding: "replicate" pads once, before C1, by repeating the outermost pixels; "zeros" pads the
        input of every convolution with zeros, as in the earlier implementation.
    width: channels of C1 and C4, half those of C2 and C3; 16 in the paper.
    """

    name = "deepfuse"
    in_channels = 1  # C1 sees the luma.
    coarse_to_fine = False
    stretches = False

    def __init__(self, batch_norm: bool = False, padding: str = "replicate", width: int = 16):
        super().__init__()
        if padding not in ("replicate", "zeros"):
            raise ValueError(f"padding must be 'replicate' or 'zeros', not {padding!r}")
        self.settings: dict[str, Any] = {
            "name": self.name,
            "batch_norm": batch_norm,
            "padding": padding,
            "width": width,
        }

        def layer(
            in_channels: int, out_channels: int, kernel_size: int, activation: nn.Module
        ) -> nn.Sequential:
            same = kernel_size // 2 if padding == "zeros" else 0
            conv = nn.Conv2d(in_channels, out_channels, kernel_size, padding=same)
            nn.init.kaiming_normal_(conv.weight, a=0.01, nonlinearity="leaky_relu")
            nn.init.zeros_(conv.bias)  # type: ignore[arg-type]
            norm = nn.BatchNorm2d(out_channels) if batch_norm else nn.Identity()
            return nn.Sequential(conv, norm, activation)

        self.c1 = layer(self.in_channels, width, 5, nn.LeakyReLU(0.01, inplace=True))
        self.c2 = layer(width, 2 * width, 7, nn.ReLU(inplace=True))
        self.c3 = layer(2 * width, 2 * width, 7, nn.LeakyReLU(0.01, inplace=True))
        self.c4 = layer(2 * width, width, 5, nn.LeakyReLU(0.01, inplace=True))
        self.c5 = layer(width, 1, 5, nn.Tanh())

    @property
    def reach(self) -> int:
        """Receptive radius of the layers themselves, in pixels."""
        return sum(
            convolution_of(layer).kernel_size[0] // 2
            for layer in (self.c1, self.c2, self.c3, self.c4, self.c5)
        )

    @property
    def radius(self) -> int:
        """Receptive radius in pixels: an output pixel depends on inputs at most this far away."""
        return self.reach

    def forward(self, y_1: torch.Tensor, y_2: torch.Tensor, *more: torch.Tensor) -> torch.Tensor:
        """Fuses two or more luma pictures; their order does not matter.

        The sum of the streams is scaled by 2/K. A pair is thus merged by the paper's plain sum, and
        a longer stack has features of the same magnitude.

        Takes K tensors of shape (N, 1, H, W), values in [0, 1]; returns the fused luma, of the same
        shape and range.

        Raises ValueError where the shapes differ or are not (N, 1, H, W).
        """
        return self.fuse_tile(check_luma(y_1, y_2, *more))

    def fuse_tile(
        self, stack: Sequence[torch.Tensor], context: torch.Tensor | None = None
    ) -> torch.Tensor:
        """Fuses parts of pictures, right from `radius` pixels within their borders on.

        stack: K tensors (N, 1, H, W) in [0, 1]. context: for a network that is coarse_to_fine, the
        luma that the next coarser level has fused, enlarged. Returns the fused luma, (N, 1, H, W).
        """
        fused = self.merge([y * 2 - 1 for y in stack])
        return (fused.to(stack[0].dtype) + 1) / 2  # The layers may compute in a narrower type.

    def merge(self, streams: Sequence[torch.Tensor]) -> torch.Tensor:
        """Runs the layers on K tensors (N, in_channels, H, W) in [-1, 1]; returns (N, 1, H, W)."""
        x = torch.cat(list(streams))  # (K*N, in_channels, H, W)
        if self.settings["padding"] == "replicate":
            x = F.pad(x, [self.reach] * 4, mode="replicate")
        features = self.c2(self.c1(x)).chunk(len(streams))  # K of (N, 2 * width, ...)
        merged = sum(features[1:], start=features[0])
        if len(streams) != 2:
            merged = merged * (2 / len(streams))
        return self.c5(self.c4(self.c3(merged)))


class PyramidDeepFuse(DeepFuse):
    """DeepFuse's layers on a pyramid of the exposures, from its coarsest level to the finest.

    Every level is half as wide and high as the next finer one. A stream sees an exposure and, as a
    second channel, the coarser level's fused luma or, at the coarsest level, tilted_mean. The
    layers compute detail, whose local mean is subtracted before it is added to the second channel.
    So brightness remains that of tilted_mean, however many levels there are. All levels share their
    weights. The network sees a picture of any size as a whole, at about 4/3 of DeepFuse's cost.
    """

    name = "pyramid"
    in_channels = 2  # C1 sees the luma, and the coarser level's fused luma.
    coarse_to_fine = True

    def __init__(self, batch_norm: bool = False, padding: str = "replicate", width: int = 16):
        super().__init__(batch_norm, padding, width)
        nn.init.zeros_(convolution_of(self.c5).weight)  # Training starts from tilted_mean.

    @property
    def radius(self) -> int:
        """Receptive radius within a level, in its pixels."""
        return self.reach + LOCAL_MEAN_SIDE // 2

    def forward(self, y_1: torch.Tensor, y_2: torch.Tensor, *more: torch.Tensor) -> torch.Tensor:
        """Fuses luma like DeepFuse.forward; the result may leave [0, 1] a little."""
        stack = check_luma(y_1, y_2, *more)
        return self.fuse_tile(stack, self.context(stack, self.fuse_tile))

    def fuse_tile(
        self, stack: Sequence[torch.Tensor], context: torch.Tensor | None = None
    ) -> torch.Tensor:
        """Fuses one level, from K exposures and the coarser level's result; all (N, 1, H, W)."""
        assert context is not None
        detail = self.merge([torch.cat([y, context], dim=1) * 2 - 1 for y in stack])
        detail = detail.to(context.dtype)  # The layers may compute in a narrower type.
        return context + (detail - local_mean(detail, LOCAL_MEAN_SIDE)) / 2

    def context(
        self,
        stack: Sequence[torch.Tensor],
        fuse_tile: Callable[[Sequence[torch.Tensor], torch.Tensor], torch.Tensor],
    ) -> torch.Tensor:
        """Returns the luma that the next coarser level has fused, at the size of `stack`.

        fuse_tile: self.fuse_tile, or a function that computes the same in parts.
        """
        height, width = stack[0].shape[-2:]
        if is_coarsest(height, width):
            tilt = None
            if self.training:
                # A crop may be brighter or darker than its picture: every tilt may occur, small
                # ones most often.
                tilt = TRAINED_TILT * (2 * torch.rand_like(stack[0][:, :, :1, :1]) - 1) ** 3
            return tilted_mean(stack, tilt)
        coarser = [F.avg_pool2d(y, 2, ceil_mode=True) for y in stack]
        fused = fuse_tile(coarser, self.context(coarser, fuse_tile))
        return F.interpolate(fused, scale_factor=2, mode="bilinear")[..., :height, :width]


class ReleasedDeepFuse(nn.Module):
    """Fuses luma with the network that the paper's authors released; Fig. 2 shows another one.

    It has six convolutions without bias, over inputs padded with zeros. A leaky ReLU follows each,
    the last one too. The features of the second are added over the exposures. The network sees luma
    in MATLAB's 8-bit levels, 16 to 235. Its output is stretched so that the darkest pixel of the
    whole picture becomes 0 and the brightest 1.
    """

    name = "released"
    coarse_to_fine = False
    stretches = True
    SHAPES = (  # of the kernels: channels out, channels in, height, width
        (32, 1, 3, 3),
        (64, 32, 5, 5),
        (64, 64, 7, 7),
        (32, 64, 5, 5),
        (16, 32, 5, 5),
        (1, 16, 7, 7),
    )

    def __init__(self) -> None:
        super().__init__()
        self.settings: dict[str, Any] = {"name": self.name}

        def layer(out_channels: int, in_channels: int, side: int, _: int) -> nn.Sequential:
            conv = nn.Conv2d(in_channels, out_channels, side, padding=side // 2, bias=False)
            nn.init.kaiming_normal_(conv.weight, a=0.01, nonlinearity="leaky_relu")
            return nn.Sequential(conv, nn.LeakyReLU(0.01, inplace=True))

        self.c1, self.c2, self.c3, self.c4, self.c5, self.c6 = (layer(*x) for x in self.SHAPES)

    @property
    def radius(self) -> int:
        """Receptive radius in pixels, but for the stretch."""
        return sum(side // 2 for *_, side in self.SHAPES)

    def forward(self, y_1: torch.Tensor, y_2: torch.Tensor, *more: torch.Tensor) -> torch.Tensor:
        """Fuses luma like DeepFuse.forward; the tensors must hold whole pictures."""
        return stretched(self.fuse_tile((y_1, y_2, *more)))

    def fuse_tile(
        self, stack: Sequence[torch.Tensor], context: torch.Tensor | None = None
    ) -> torch.Tensor:
        """Returns what the network makes of parts before the stretch, (N, 1, H, W) of any range."""
        levels = torch.cat(check_luma(*stack)).mul(219).add_(16).round_()
        features = self.c2(self.c1(levels)).chunk(len(stack))
        merged = sum(features[1:], start=features[0])
        if len(stack) != 2:
            merged = merged * (2 / len(stack))
        return self.c6(self.c5(self.c4(self.c3(merged))))


def stretched(y: torch.Tensor) -> torch.Tensor:
    """Stretches every picture (N, 1, H, W) to [0, 1]; one of a single value becomes 0."""
    lowest, highest = (
        extreme(y, dim=(1, 2, 3), keepdim=True) for extreme in (torch.amin, torch.amax)
    )
    return (y - lowest) / (highest - lowest).clamp(min=torch.finfo(y.dtype).tiny)


class BetweenNetwork(nn.Module):
    """Tells an exposure between others, from K >= 2 exposures of one scene.

    It is built in the paper's manner: tied streams look at every exposure, and their features are
    added. First on a quarter of the size and coarser, for the surroundings: what no exposure shows
    at a place, because one is clipped there and the other black, the surroundings tell. Then on
    every pixel, where each exposure gets factors of its luma and its chroma, and of their means
    over squares of LOCAL and WIDE pixels. Grey therefore stays grey. What the network adds freely
    to the luma is smooth, because the surroundings alone decide it. See between.py for what it
    sees, and how factors make an exposure.

    width: channels of the layers that see the surroundings; those of a pixel have three quarters.
    """

    name = "between"
    GAIN = 8.0  # bound of every factor
    FREE = 0.25  # bound of the luma that is added

    def __init__(self, width: int = 32):
        super().__init__()
        self.settings: dict[str, Any] = {"name": self.name, "width": width}

        def layer(
            in_channels: int, out_channels: int, side: int = 1, stride: int = 1
        ) -> nn.Sequential:
            padding = side // 2 if stride == 1 else 0
            conv = nn.Conv2d(in_channels, out_channels, side, stride, padding)
            nn.init.kaiming_normal_(conv.weight, a=0.01, nonlinearity="leaky_relu")
            nn.init.zeros_(conv.bias)  # type: ignore[arg-type]
            return nn.Sequential(conv, nn.LeakyReLU(0.01, inplace=True))

        def ladder() -> nn.ModuleList:
            return nn.ModuleList(layer(width, width, 3) for _ in range(HALVINGS))

        narrow = max(width * 3 // 4, 1)
        # A stream of the surroundings sees Y, Cb, Cr and the exposure's mean luma.
        self.c1 = layer(4, width, STEP, STEP)
        self.c2 = layer(width, width, 3)
        self.down, self.up = ladder(), ladder()
        self.scene = layer(width, width)  # of the coarsest features' mean
        self.c3 = layer(width, width, 3)
        self.around = nn.Conv2d(width, 2 * narrow, 1, bias=False)  # for C5, and for C8
        # A pixel's stream sees Y, Cb, Cr, their two means, the exposure's mean luma, the wanted one
        # and their difference.
        self.c4 = layer(12, narrow)
        self.c5 = nn.Conv2d(narrow, narrow, 1)
        self.c6 = layer(narrow, narrow)
        self.c7 = nn.Conv2d(narrow, 5, 1)  # factors of Y, its local mean; chroma, its two means
        self.c8 = nn.Conv2d(1, narrow, 1)  # of the wanted mean luma
        self.c9 = nn.Conv2d(narrow, 1, 1)  # luma that is added
        for last in (self.c7, self.c9):
            for parameter in last.parameters():
                nn.init.zeros_(parameter)  # Training starts from the exposures' mean.

    def forward(
        self, stack: torch.Tensor, wanted: torch.Tensor, area: Area | None = None
    ) -> torch.Tensor:
        """Returns the exposure of a wanted mean luma: Y, Cb, Cr, (N, 3, h, w).

        stack: exposures in any order, (N, K, 3, H, W) of Y, Cb, Cr in [0, 1]. wanted: (N,), in
        [0, 1]. area: the part of the picture that is told, all by default. The result may leave
        [0, 1] a little.
        """
        return between.tell(self, between.look(self, stack, area), wanted)

    def surroundings(self, seen: torch.Tensor, count: int) -> torch.Tensor:
        """Returns features for C5 and C8, (N, 2 * narrow, H / STEP, W / STEP).

        seen: (K*N, 4, H, W), whose sides are multiples of STEP * 2^HALVINGS. count: K.
        """
        x = added(self.c2(self.c1(seen)), count)
        finer = []
        for layer in self.down:
            finer.append(x)
            x = layer(F.avg_pool2d(x, 2))
        x = x + self.scene(x.mean(dim=(2, 3), keepdim=True))
        for layer, skipped in zip(self.up, reversed(finer), strict=True):
            x = skipped + layer(F.interpolate(x, scale_factor=2, mode="bilinear"))
        return self.around(self.c3(x))

    def factors(self, seen: torch.Tensor, around: torch.Tensor, count: int) -> torch.Tensor:
        """Returns every exposure's factors, (K*N, 5, h, w).

        seen: (K*N, 12, h, w). around: what `surroundings` gives, of that size. count: K.
        """
        features = self.c4(seen)
        merged = self.c5(added(features, count)) + around[:, : self.c5.out_channels]
        merged = F.leaky_relu(merged, 0.01).repeat(count, 1, 1, 1)
        return self.GAIN * torch.tanh(self.c7(self.c6(features + merged)) / self.GAIN)

    def free(self, around: torch.Tensor, asked: torch.Tensor) -> torch.Tensor:
        """Returns the luma that is added, (N, 1, h, w).

        around: what `surroundings` gives. asked: the wanted mean luma, (N, 1, 1, 1).
        """
        features = F.leaky_relu(around[:, self.c5.out_channels :] + self.c8(asked), 0.01)
        return self.FREE * torch.tanh(self.c9(features) / self.FREE)


def added(features: torch.Tensor, count: int) -> torch.Tensor:
    """Returns the sum of K streams' features, (K*N, C, H, W), scaled by 2/K, (N, C, H, W)."""
    return features.unflatten(0, (count, -1)).sum(dim=0) * (2 / count)


def convolution_of(layer: nn.Sequential) -> nn.Conv2d:
    """Returns the convolution that a layer begins with."""
    return cast(nn.Conv2d, layer[0])


LumaNetwork = DeepFuse | ReleasedDeepFuse
NETWORKS: dict[str, type[LumaNetwork] | type[BetweenNetwork]] = {
    network.name: network
    for network in (DeepFuse, PyramidDeepFuse, ReleasedDeepFuse, BetweenNetwork)
}
Network = TypeVar("Network", DeepFuse, LumaNetwork, BetweenNetwork)


def build(name: str = DeepFuse.name, **settings: Any) -> LumaNetwork | BetweenNetwork:
    """Returns a new network; ValueError where there is none of that name.

    settings: arguments of the network's constructor.
    """
    if name not in NETWORKS:
        raise ValueError(f"there is no network {name!r}; there are {', '.join(NETWORKS)}")
    return NETWORKS[name](**settings)


def check_luma(*stack: torch.Tensor) -> tuple[torch.Tensor, ...]:
    """Returns the stack; ValueError where it is not luma of one shape (N, 1, H, W)."""
    shape = stack[0].shape
    if any(y.shape != shape for y in stack) or len(shape) != 4 or shape[1] != 1:
        raise ValueError(
            "luma must be tensors of one shape (N, 1, H, W), not "
            + ", ".join(str(tuple(y.shape)) for y in stack)
        )
    return stack


def fold_batch_norm(model: Network) -> Network:
    """Returns the network without BatchNorm that equals `model` in eval mode.

    The convolution before a BatchNorm takes over its running statistics, scale and shift.
    """
    settings = {**model.settings, "batch_norm": False}
    del settings["name"]
    folded = type(model)(**settings)
    model.eval()
    for name in ("c1", "c2", "c3", "c4", "c5"):
        layer = getattr(model, name)
        getattr(folded, name)[0] = fuse_conv_bn_eval(layer[0], layer[1])
    return folded.eval()


def prepare(model: Network, precision: str = "auto") -> Network:
    """Returns a network that fuses faster and equals `model` but for rounding.

    precision: type of C2 to C4, which do 99 % of the arithmetic: "float32", "bfloat16", "float16",
        or "auto" for the one that is fast on the network's device, see precision.py; "int8" for
        C2 and C3 in 8-bit integers on a CPU, see integers.py, and C4 as with "auto". C1 and C5
        stay in float32, so that neither the pictures nor the result are rounded to the few levels
        of 16-bit floats. Networks without these layers compute in float32: a ReleasedDeepFuse, as
        the release does, a BetweenNetwork, which is fast enough, and others.

    Raises ValueError where these are asked for another type, and where the device lacks a type.
    """
    device = device_of(model)
    if not isinstance(model, DeepFuse):
        if precision not in ("auto", "float32"):
            raise ValueError(f"the network {model.name} computes in float32, not {precision}")
        return copy.deepcopy(model).eval().to(memory_format=torch.channels_last)
    integers = precision == "int8"
    if integers and device.type != "cpu":
        raise ValueError("precision int8 is for CPUs")
    dtype = choose_precision("auto" if integers else precision, device)
    if model.settings.get("batch_norm"):
        model = fold_batch_norm(model)
    model = copy.deepcopy(model).eval().to(device).to(memory_format=torch.channels_last)
    if integers:
        to_integers(model, [model.c2, model.c3], dtype)
    else:
        for layer in (model.c2, model.c3):
            layer.to(dtype)
        model.c1.register_forward_hook(lambda _, _x, y: y.to(dtype))
    model.c4.to(dtype)
    model.c4.register_forward_hook(lambda _, _x, y: y.float())
    if device.type == "cpu":
        model.c5[0] = ShiftedSum(convolution_of(model.c5))
    return model


class ShiftedSum(nn.Module):
    """A convolution to one channel, as one matrix product and a sum of shifted planes.

    A CPU's convolution kernels compute sixteen output channels at once; with one, most would idle.
    """

    def __init__(self, convolution: nn.Conv2d):
        super().__init__()
        weight = convolution.weight.detach()[0]  # (C, k, k)
        self.kernel_size = weight.shape[1:]
        self.padding = [int(side) for side in convolution.padding]
        self.taps = weight.flatten(1).T.contiguous()  # (k*k, C)
        self.bias = convolution.bias.detach()  # type: ignore[union-attr]

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Convolves (N, C, H, W) to (N, 1, H', W')."""
        x = F.pad(x, [self.padding[1]] * 2 + [self.padding[0]] * 2)
        count, channels, height, width = x.shape
        planes = self.taps @ x.permute(1, 0, 2, 3).reshape(channels, -1)
        planes = planes.reshape(*self.kernel_size, count, height, width)
        rows, columns = height - self.kernel_size[0] + 1, width - self.kernel_size[1] + 1
        total = self.bias.expand(count, rows, columns).clone()
        for i in range(self.kernel_size[0]):
            for j in range(self.kernel_size[1]):
                total += planes[i, j, :, i : i + rows, j : j + columns]
        return total[:, None]


def is_finite(model: nn.Module) -> bool:
    """Returns True where all parameters and statistics are finite numbers."""
    tensors = itertools.chain(model.parameters(), model.buffers())
    return all(bool(torch.isfinite(tensor).all()) for tensor in tensors)


def device_of(model: nn.Module) -> torch.device:
    """Returns the device of a network's weights."""
    return next(model.parameters()).device


def choose_device(name: str) -> torch.device:
    """Returns the device of that name; "auto" is CUDA where there is a GPU, else the CPU.

    Raises ValueError where this machine has no such device.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.zeros(1, device=device)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        raise ValueError(f"device {name}: not available on this machine") from error
    if device.type not in ("cpu", "cuda"):
        raise ValueError(f"device {name}: neither a CPU nor a CUDA GPU")
    return device
