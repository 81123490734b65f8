"""What is the network, and how is it stored? DeepFuse's luma CNN and its checkpoints.

K. R. Prabhakar, V. S. Srikar, R. V. Babu, "DeepFuse: A Deep Unsupervised Approach for Exposure
Fusion with Extreme Exposure Image Pairs", ICCV 2017, Fig. 2. PyramidDeepFuse is the same layers on
a coarse-to-fine pyramid, for a view of the whole picture instead of 25 pixels.
"""

import copy

import torch
from torch import nn
from torch.nn import functional as F
from torch.nn.utils.fusion import fuse_conv_bn_eval

NATURAL = (0.38, 0.57)  # mean luma that tilted_mean aims at
LARGEST_TILT = 1.0  # the brightest of two then weighs e times the darkest
TRAINED_TILT = 1.5  # the largest that training shows; crops vary more than pictures


class DeepFuse(nn.Module):
    """Fuses the luma of K >= 2 exposures of one static scene.

    C1 and C2 look at every exposure with the same weights (tied streams), their features are
    added, and C3 to C5 reconstruct the fused luma.

    batch_norm: a BatchNorm after every convolution, as in the earlier implementation.
    padding: what lies beyond the border. "replicate" repeats the picture's outermost pixels, once,
        before C1; "zeros" fills every convolution's input with zeros, as in the earlier
        implementation.
    width: channels of C1 and C4; C2 and C3 have twice as many. The paper's is 16.
    """

    name = "deepfuse"
    in_channels = 1  # of C1: the luma

    def __init__(self, batch_norm=False, padding="replicate", width=16):
        super().__init__()
        if padding not in ("replicate", "zeros"):
            raise ValueError(f"padding must be 'replicate' or 'zeros', not {padding!r}")
        self.settings = {
            "name": self.name,
            "batch_norm": batch_norm,
            "padding": padding,
            "width": width,
        }

        def layer(in_channels, out_channels, kernel_size, activation):
            same = kernel_size // 2 if padding == "zeros" else 0
            conv = nn.Conv2d(in_channels, out_channels, kernel_size, padding=same)
            nn.init.kaiming_normal_(conv.weight, a=0.01, nonlinearity="leaky_relu")
            nn.init.zeros_(conv.bias)
            norm = nn.BatchNorm2d(out_channels) if batch_norm else nn.Identity()
            return nn.Sequential(conv, norm, activation)

        self.c1 = layer(self.in_channels, width, 5, nn.LeakyReLU(0.01, inplace=True))
        self.c2 = layer(width, 2 * width, 7, nn.ReLU(inplace=True))
        self.c3 = layer(2 * width, 2 * width, 7, nn.LeakyReLU(0.01, inplace=True))
        self.c4 = layer(2 * width, width, 5, nn.LeakyReLU(0.01, inplace=True))
        self.c5 = layer(width, 1, 5, nn.Tanh())

    @property
    def reach(self):
        """How far the layers see around a pixel, in pixels."""
        return sum(layer[0].kernel_size[0] // 2 for layer in self.children())

    @property
    def radius(self):
        """Receptive radius in pixels: an output pixel depends on inputs at most this far away."""
        return self.reach

    def forward(self, y_1, y_2, *more):
        """Fuses two or more luma pictures; their order does not matter.

        Takes K tensors of shape (N, 1, H, W), values in [0, 1]; returns the fused luma, same shape
        and range. The sum over exposures is scaled by 2/K, so that a pair is merged by the
        paper's plain sum and a longer stack has features of the same magnitude.

        Raises ValueError where the shapes differ or are not (N, 1, H, W).
        """
        stack = check_luma(y_1, y_2, *more)
        fused = self.merge([y * 2 - 1 for y in stack])
        return (fused.to(y_1.dtype) + 1) / 2  # whatever the layers compute in

    def merge(self, streams):
        """The layers: K tensors (N, in_channels, H, W) in [-1, 1] to one (N, 1, H, W)."""
        x = torch.cat(streams)  # (K*N, in_channels, H, W)
        if self.settings["padding"] == "replicate":
            x = F.pad(x, [self.reach] * 4, mode="replicate")
        features = self.c2(self.c1(x)).chunk(len(streams))  # K of (N, 32, ...)
        merged = sum(features[1:], start=features[0])
        if len(streams) != 2:
            merged = merged * (2 / len(streams))
        return self.c5(self.c4(self.c3(merged)))


class PyramidDeepFuse(DeepFuse):
    """DeepFuse's layers on a pyramid of the exposures, from its coarsest level to the finest.

    Every level is half as wide and high as the next finer one. There, a stream sees an exposure
    and, as a second channel, what the coarser level has fused (at the coarsest: tilted_mean).
    What the layers give is detail that is added to it: it has no local mean, so that brightness is
    that of the exposures' mean however many levels there are. All levels have the same weights. A
    picture of any size is seen as a whole, at 4/3 of the cost.
    """

    name = "pyramid"
    in_channels = 2  # of C1: the luma, and the coarser level's fused luma
    COARSEST = 32  # pixels: a level is halved while its shorter side is at least twice as long
    LOCAL = 17  # side of the square that a detail's local mean is of, in pixels of its level

    def __init__(self, batch_norm=False, padding="replicate", width=16):
        super().__init__(batch_norm, padding, width)
        nn.init.zeros_(self.c5[0].weight)  # training starts from the exposures' mean

    @property
    def radius(self):
        """As DeepFuse.radius, within a level."""
        return self.reach + self.LOCAL // 2

    def forward(self, y_1, y_2, *more):
        """As DeepFuse.forward; the result may leave [0, 1] a little."""
        stack = check_luma(y_1, y_2, *more)
        return self.fuse_level(stack, self.context(stack, self.fuse_level))

    def fuse_level(self, stack, context):
        """One level: K exposures and the coarser level's result, all (N, 1, H, W), to a finer."""
        detail = self.merge([torch.cat([y, context], dim=1) * 2 - 1 for y in stack])
        detail = detail.to(context.dtype)  # whatever the layers compute in
        return context + (detail - local_mean(detail, self.LOCAL)) / 2

    def is_coarsest(self, height, width):
        """Whether a picture of this size is not halved any more."""
        return min(height, width) < 2 * self.COARSEST

    def context(self, stack, fuse_level):
        """What the level above `stack` has fused, at the size of `stack`.

        fuse_level: self.fuse_level, or a function that computes the same in parts.
        """
        height, width = stack[0].shape[-2:]
        if self.is_coarsest(height, width):
            tilt = None
            if self.training:  # A crop's brightness is not its picture's: any may come, often none.
                tilt = TRAINED_TILT * (2 * torch.rand_like(stack[0][:, :, :1, :1]) - 1) ** 3
            return tilted_mean(stack, tilt)
        coarser = [F.avg_pool2d(y, 2, ceil_mode=True) for y in stack]
        fused = fuse_level(coarser, self.context(coarser, fuse_level))
        return F.interpolate(fused, scale_factor=2, mode="bilinear")[..., :height, :width]


def tilted_mean(stack, tilt=None):
    """Weighted mean of K exposures (N, 1, H, W), by default of natural brightness: (N, 1, H, W).

    The weights are one number an exposure, exp(t z_k) with z_k the place of its mean luma L_k
    between the darkest's, -1/2, and the brightest's, 1/2.
    tilt: t, shape (N, 1, 1, 1). By default 0, equal weights, where that gives a mean luma within
    NATURAL, else the nearest that does, up to LARGEST_TILT.
    """
    y = torch.cat(stack, dim=1)  # (N, K, H, W)
    level = y.mean(dim=(2, 3), keepdim=True)
    darkest, brightest = level.amin(dim=1, keepdim=True), level.amax(dim=1, keepdim=True)
    place = (level - (darkest + brightest) / 2) / (brightest - darkest).clamp(min=1e-3)

    def weights(tilt):
        return torch.softmax(tilt * place, dim=1)

    if tilt is None:
        mean = level.mean(dim=1, keepdim=True)
        target = mean.clamp(*NATURAL)
        low = torch.full_like(target, -LARGEST_TILT)
        high = -low
        for _ in range(20):  # bisection: the mean luma grows with t
            tilt = (low + high) / 2
            bright = (weights(tilt) * level).sum(dim=1, keepdim=True) > target
            low, high = torch.where(bright, low, tilt), torch.where(bright, tilt, high)
        tilt = (low + high) / 2 * (target != mean)
    return (weights(tilt) * y).sum(dim=1, keepdim=True)


def local_mean(image, side):
    """Mean over the square of an odd side around every pixel; borders repeated. (N, C, H, W)."""
    image = F.pad(image, [side // 2] * 4, mode="replicate")
    for window in ((side, 1), (1, side)):
        image = F.avg_pool2d(image, window, stride=1)
    return image


NETWORKS = {network.name: network for network in (DeepFuse, PyramidDeepFuse)}


def build(name=DeepFuse.name, **settings):
    """The network of that name with its constructor's settings; ValueError where there is none."""
    if name not in NETWORKS:
        raise ValueError(f"there is no network {name!r}; there are {', '.join(NETWORKS)}")
    return NETWORKS[name](**settings)


def check_luma(*stack):
    """The stack, or ValueError where it is not luma of one shape (N, 1, H, W)."""
    shape = stack[0].shape
    if any(y.shape != shape for y in stack) or len(shape) != 4 or shape[1] != 1:
        raise ValueError(
            "luma must be tensors of one shape (N, 1, H, W), not "
            + ", ".join(str(tuple(y.shape)) for y in stack)
        )
    return stack


def fold_batch_norm(model):
    """Returns the network without BatchNorm that equals `model` in eval mode.

    Every BatchNorm's running statistics, scale and shift go into the convolution before it.
    """
    folded = build(**{**model.settings, "batch_norm": False})
    for name, layer in model.eval().named_children():
        getattr(folded, name)[0] = fuse_conv_bn_eval(layer[0], layer[1])
    return folded.eval()


def prepare(model, precision="auto"):
    """The network made ready for fusing fast: the same function, but for rounding.

    precision: of C2 to C4, which are 99 % of the arithmetic: "float32", "bfloat16", "float16", or
    "auto" for what the network's device is fast in. C1 and C5 stay in float32, so that neither the
    pictures nor the result are rounded to a half's few levels.
    """
    device = next(model.parameters()).device
    dtype = choose_precision(precision, device)
    if model.settings["batch_norm"]:
        model = fold_batch_norm(model)
    model = copy.deepcopy(model).eval().to(device, memory_format=torch.channels_last)
    for layer in (model.c2, model.c3, model.c4):
        layer.to(dtype)
    model.c1.register_forward_hook(lambda _, _x, y: y.to(dtype))
    model.c4.register_forward_hook(lambda _, _x, y: y.float())
    if device.type == "cpu":
        model.c5[0] = ShiftedSum(model.c5[0])
    return model


class ShiftedSum(nn.Module):
    """A convolution to one channel as one matrix product and a sum of shifted planes.

    Convolution kernels compute sixteen output channels at once; with one they idle.
    """

    def __init__(self, convolution):
        super().__init__()
        weight = convolution.weight.detach()[0]  # (C, k, k)
        self.kernel_size = weight.shape[1:]
        self.padding = convolution.padding
        self.taps = weight.flatten(1).T.contiguous()  # (k*k, C)
        self.bias = convolution.bias.detach()

    def forward(self, x):
        """(N, C, H, W) to (N, 1, H', W'), as the convolution does."""
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


def is_finite(model):
    """Whether all parameters are finite numbers."""
    return all(bool(torch.isfinite(parameter).all()) for parameter in model.parameters())


def choose_device(name):
    """The torch device of that name, "auto" being CUDA where there is a GPU, else the CPU.

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


def choose_precision(name, device):
    """The dtype of the convolutions; auto is the one that this device is fast in."""
    if name != "auto":
        return getattr(torch, name)
    if device.type == "cuda":
        return torch.bfloat16 if torch.cuda.is_bf16_supported() else torch.float16
    # Older versions of torch do not tell; float32 is right everywhere.
    has = getattr(torch.cpu, "get_capabilities", dict)()
    return torch.bfloat16 if has.get("avx512_bf16") or has.get("amx_bf16") else torch.float32
