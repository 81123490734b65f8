"""How does a network get into other programs? As an ONNX file, checked against PyTorch.

The file takes luma and returns luma; tone, colour and refinement are not in it.
"""

import argparse
import importlib.util
import math
import sys
import warnings
from collections.abc import Sequence
from typing import cast

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

import utils
from checkpoint import load_model
from model import LumaNetwork, PyramidDeepFuse, tilted_mean
from opts import ExportOptions, one_line, run

PACKAGES = ("onnx", "onnxscript", "onnxruntime")
LARGEST_DIFFERENCE = 1e-4  # from PyTorch's luma in [0, 1]; float rounding makes some 1e-6


class OfStack(nn.Module):
    """A network as a function of one tensor, all exposures' luma (1, K, H, W) in [0, 1].

    levels: of a pyramid, the number of its levels. A file cannot decide it by the picture's size.
    """

    def __init__(self, network: LumaNetwork, levels: int):
        super().__init__()
        self.network = network
        self.levels = levels

    def forward(self, exposures: torch.Tensor) -> torch.Tensor:
        stack = exposures.split(1, dim=1)
        if not isinstance(self.network, PyramidDeepFuse):
            return self.network(*stack)
        pyramid = [stack]
        for _ in range(self.levels - 1):
            pyramid.append(tuple(F.avg_pool2d(y, 2, ceil_mode=True) for y in pyramid[-1]))
        fused = self.network.fuse_level(pyramid[-1], tilted_mean(pyramid[-1]))
        for level in reversed(pyramid[:-1]):
            height, width = level[0].shape[-2:]
            context = F.interpolate(fused, scale_factor=2, mode="bilinear")[..., :height, :width]
            fused = self.network.fuse_level(level, context)
        return fused


def levels_for(network: LumaNetwork, side: int) -> int:
    """Returns the number of a pyramid's levels for pictures of a shorter side, else 1."""
    levels = 1
    while isinstance(network, PyramidDeepFuse) and not network.is_coarsest(side, side):
        side, levels = -(-side // 2), levels + 1
    return levels


def to_onnx(network: OfStack, count: int, side: int) -> bytes:
    """Returns the ONNX file of a network for `count` exposures of any size.

    side: shorter side of the example by which the network is traced. The file's input is named
    "exposures", its output "fused".
    """
    example = torch.rand(1, count, side, side + side // 3)
    free = ({2: torch.export.Dim.DYNAMIC, 3: torch.export.Dim.DYNAMIC},)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # PyTorch's exporter warns of its own code.
        program = torch.onnx.export(
            network,
            (example,),
            dynamo=True,
            dynamic_shapes=free,
            input_names=["exposures"],
            output_names=["fused"],
            verbose=False,
        )
    return cast(torch.onnx.ONNXProgram, program).model_proto.SerializeToString()


def largest_difference(
    onnx: bytes, network: LumaNetwork, count: int, sizes: Sequence[tuple[int, int]]
) -> float:
    """Returns the largest difference of an ONNX file's luma from PyTorch's, on random pictures.

    The pictures are smooth as well as noisy. sizes: their (height, width). The difference is
    infinite where the luma is no number.
    """
    import onnxruntime

    session = onnxruntime.InferenceSession(onnx, providers=["CPUExecutionProvider"])
    generator = torch.Generator().manual_seed(0)
    worst = 0.0
    for height, width in sizes:
        coarse = torch.rand(1, count, 5, 7, generator=generator)
        exposures = F.interpolate(coarse, (height, width), mode="bilinear")
        exposures = (exposures + 0.1 * torch.rand(exposures.shape, generator=generator)) / 1.1
        with torch.no_grad():
            expected = network(*exposures.split(1, dim=1)).numpy()
        (found,) = session.run(["fused"], {"exposures": exposures.numpy()})
        if not np.isfinite(found).all():
            return math.inf
        worst = max(worst, float(np.abs(found - expected).max()))
    return worst


def export(options: argparse.Namespace) -> None:
    """Writes the ONNX file that the options of export.py ask for.

    Raises OSError or ValueError where packages are missing, where the checkpoint or the file cannot
    be used, and where ONNX and PyTorch differ by more than LARGEST_DIFFERENCE.
    """
    missing = [name for name in PACKAGES if importlib.util.find_spec(name) is None]
    if missing:
        raise ValueError(f"needs {' and '.join(missing)}: pip install -r requirements-export.txt")
    utils.check_writable(options.res)
    network = load_model(options.model)
    levels = levels_for(network, options.side)
    sizes = [(options.side, options.side + 1), (options.side + 40, options.side)]
    try:
        onnx = to_onnx(OfStack(network, levels), options.count, options.side)
        difference = largest_difference(onnx, network, options.count, sizes)
    except RuntimeError as error:
        raise ValueError(f"{options.model}: cannot be exported: {one_line(error)}") from error
    if difference > LARGEST_DIFFERENCE:
        raise ValueError(f"{options.model}: ONNX differs from PyTorch by up to {difference:.1g}")
    with utils.replacing(options.res) as file:
        file.write(onnx)
    if not options.quiet:
        print(
            f"{options.res}: {options.count} exposures, luma (1, {options.count}, H, W) in [0, 1]"
        )
        print(f"largest difference from PyTorch: {difference:.1g}")


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the program; returns its exit status."""
    return run("export.py", export, ExportOptions().parse(argv))


if __name__ == "__main__":
    sys.exit(main())
