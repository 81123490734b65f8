"""How does a network get into other programs? As an ONNX file, checked against PyTorch.

The file takes luma and returns luma; tone, colour and refinement are not in it. With --layers, it
holds a network's layers alone, which portable.py runs.
"""

import argparse
import importlib.util
import math
import os
import sys
import tempfile
import warnings
from collections.abc import Sequence
from typing import cast

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

import utils
from checkpoint import load_model, load_network
from model import ColourNetwork, LumaNetwork, PyramidDeepFuse, fold_batch_norm
from opts import ExportOptions, one_line, run
from portable import OnnxColour, OnnxPyramid
from pyramid import is_coarsest, tilted_mean

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
    while isinstance(network, PyramidDeepFuse) and not is_coarsest(side, side):
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


def layers_to_onnx(network: PyramidDeepFuse | ColourNetwork) -> bytes:
    """Returns the ONNX file of a network's layers, see portable.OnnxLayers.

    Neither the input's padding nor what follows the last layer is in it. K streams' sum, scaled by
    2/K, is twice their mean.
    """
    from onnx import TensorProto, helper, numpy_helper

    nodes: list = []
    weights = [numpy_helper.from_array(np.array(2, np.float32), "two")]

    def add(kind: str, *inputs: str, **attributes) -> str:
        output = f"{kind}_{len(nodes)}"
        nodes.append(helper.make_node(kind, inputs, [output], **attributes))
        return output

    def layer(name: str, x: str) -> str:
        for module in network.get_submodule(name).modules():
            match module:
                case nn.Conv2d():
                    for part in ("weight", "bias"):
                        values = module.get_parameter(part).detach().contiguous().numpy()
                        weights.append(numpy_helper.from_array(values, f"{name}.{part}"))
                    sides = list(module.kernel_size)
                    x = add("Conv", x, f"{name}.weight", f"{name}.bias", kernel_shape=sides)
                case nn.LeakyReLU():
                    x = add("LeakyRelu", x, alpha=module.negative_slope)
                case nn.ReLU():
                    x = add("Relu", x)
                case nn.Tanh():
                    x = add("Tanh", x)
        return x

    features = layer("c2", layer("c1", "exposures"))
    merged = add("Mul", add("ReduceMean", features, axes=[0], keepdims=1), "two")
    merged = layer("c3", merged)
    if isinstance(network, ColourNetwork):
        merged = add("Add", features, merged)
    answer = layer("c5", layer("c4", merged))
    channels = network.get_parameter("c1.0.weight").shape[1]
    value = helper.make_tensor_value_info
    graph = helper.make_graph(
        nodes,
        "layers",
        [value("exposures", TensorProto.FLOAT, ["K", channels, "H", "W"])],
        [value(answer, TensorProto.FLOAT, ["N", "C", "h", "w"])],
        weights,
    )
    opset = helper.make_opsetid("", 13)
    return helper.make_model(graph, opset_imports=[opset], ir_version=8).SerializeToString()


def difference_of_layers(onnx: bytes, network: PyramidDeepFuse | ColourNetwork) -> float:
    """Returns the largest difference of layers in portable.py from PyTorch's network, on noise.

    It is no number where an answer is none.
    """
    rng = np.random.default_rng(0)
    stack, y = rng.random((1, 3, 3, 60, 83), np.float32), rng.random((1, 1, 60, 83), np.float32)
    tensors = torch.from_numpy(stack), torch.from_numpy(y)
    found: tuple[np.ndarray, ...]
    expected: tuple[torch.Tensor, ...]
    with tempfile.TemporaryDirectory() as folder, torch.no_grad():
        path = os.path.join(folder, "layers.onnx")
        with open(path, "wb") as file:
            file.write(onnx)
        if isinstance(network, ColourNetwork):
            found, expected = OnnxColour(path).factors(stack, y), network.factors(*tensors)
        else:
            lumas = stack[0, :, None, :1]  # 3 of (1, 1, 60, 83)
            found = (OnnxPyramid(path).fuse_level(list(lumas), y),)
            expected = (network.fuse_level([*map(torch.from_numpy, lumas)], tensors[1]),)
    pairs = zip(found, expected, strict=True)
    return float(np.max([np.abs(one - other.numpy()).max() for one, other in pairs]))


def whole_network(options: argparse.Namespace) -> tuple[bytes, str, float]:
    """Returns the ONNX file of a network, its input in words, and its difference from PyTorch."""
    network, count, side = load_model(options.model), options.count, options.side
    levels = levels_for(network, side)
    sizes = [(side, side + 1), (side + 40, side)]
    try:
        onnx = to_onnx(OfStack(network, levels), count, side)
        difference = largest_difference(onnx, network, count, sizes)
    except RuntimeError as error:
        raise ValueError(f"{options.model}: cannot be exported: {one_line(error)}") from error
    return onnx, f"{count} exposures, luma (1, {count}, H, W) in [0, 1]", difference


def layers_alone(options: argparse.Namespace) -> tuple[bytes, str, float]:
    """Returns what whole_network does, for the layers of a network alone."""
    network = load_network(options.model)
    if not isinstance(network, ColourNetwork | PyramidDeepFuse):
        raise ValueError(f"{options.model}: --layers is for pyramids and networks that colour")
    if network.settings.get("padding") == "zeros":
        raise ValueError(f"{options.model}: --layers is for networks with --padding replicate")
    if isinstance(network, PyramidDeepFuse) and network.settings["batch_norm"]:
        network = cast(PyramidDeepFuse, fold_batch_norm(network))
    onnx = layers_to_onnx(network)
    channels = network.get_parameter("c1.0.weight").shape[1]
    seen = f"layers for any number of exposures, (K, {channels}, H, W)"
    return onnx, seen, difference_of_layers(onnx, network)


def export(options: argparse.Namespace) -> None:
    """Writes the ONNX file that the options of export.py ask for.

    Raises OSError or ValueError where packages are missing, where the checkpoint or the file cannot
    be used, and where ONNX and PyTorch differ by more than LARGEST_DIFFERENCE.
    """
    packages = PACKAGES[:1] if options.layers else PACKAGES
    missing = [name for name in packages if importlib.util.find_spec(name) is None]
    if missing:
        raise ValueError(f"needs {' and '.join(missing)}: pip install -r requirements-export.txt")
    utils.check_writable(options.res)
    onnx, seen, difference = (layers_alone if options.layers else whole_network)(options)
    if not difference <= LARGEST_DIFFERENCE:  # This is true for NaN too.
        raise ValueError(f"{options.model}: ONNX differs from PyTorch by up to {difference:.1g}")
    with utils.replacing(options.res) as file:
        file.write(onnx)
    if not options.quiet:
        print(f"{options.res}: {seen}")
        print(f"largest difference from PyTorch: {difference:.1g}")


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the program; returns its exit status."""
    return run("export.py", export, ExportOptions().parse(argv))


if __name__ == "__main__":
    sys.exit(main())
