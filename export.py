"""How does a network get into other programs? As an ONNX file, checked against PyTorch.

The file takes luma and returns luma; chroma is not in it. With --layers, there are three files,
of the layers of a photo's network alone, which portable.py runs.
"""

from opts import ExportOptions
from script import need_torch

if __name__ == "__main__":  # before the imports below, which take seconds
    need_torch("export.py", ExportOptions().parse)


import argparse
import importlib.util
import math
import os
import sys
import tempfile
import warnings
from collections.abc import Sequence
from typing import Any, cast

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

import between
import utils
from checkpoint import load_between, load_model
from model import BetweenNetwork, LumaNetwork, PyramidDeepFuse
from portable import PARTS, OnnxBetween, onnx_beside
from pyramid import is_coarsest, tilted_mean
from script import one_line, run

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
        fused = self.network.fuse_tile(pyramid[-1], tilted_mean(pyramid[-1]))
        for level in reversed(pyramid[:-1]):
            height, width = level[0].shape[-2:]
            context = F.interpolate(fused, scale_factor=2, mode="bilinear")[..., :height, :width]
            fused = self.network.fuse_tile(level, context)
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


def layers_to_onnx(network: BetweenNetwork) -> dict[str, bytes]:
    """Returns the ONNX files of a network's layers, {part: file}, see portable.OnnxBetween."""
    return {
        "surroundings": surroundings_to_onnx(network),
        "factors": factors_to_onnx(network),
        "free": free_to_onnx(network),
    }


class Graph:
    """An ONNX graph under construction."""

    def __init__(self) -> None:
        self.nodes: list[Any] = []
        self.weights: list[Any] = []

    def constant(self, values: object, dtype: type = np.float32) -> str:
        """Adds an array; returns its name."""
        from onnx import numpy_helper

        name = f"constant_{len(self.weights)}"
        self.weights.append(numpy_helper.from_array(np.ascontiguousarray(values, dtype), name))
        return name

    def add(self, kind: str, *inputs: str, **attributes: Any) -> str:
        """Adds an operation; returns the name of its output."""
        from onnx import helper

        output = f"{kind}_{len(self.nodes)}"
        self.nodes.append(helper.make_node(kind, inputs, [output], **attributes))
        return output

    def layer(self, module: nn.Module, x: str) -> str:
        """Adds a convolution, or one and its activation; returns the name of the output."""
        for part in module.modules():
            match part:
                case nn.Conv2d():
                    sides, steps = list(part.kernel_size), list(part.stride)
                    margin = [int(side) for side in part.padding]
                    parameters = [part.weight] if part.bias is None else [part.weight, part.bias]
                    names = [self.constant(values.detach().numpy()) for values in parameters]
                    x = self.add(
                        "Conv", x, *names, kernel_shape=sides, strides=steps, pads=margin * 2
                    )
                case nn.LeakyReLU():
                    x = self.leaky(x)
        return x

    def leaky(self, x: str) -> str:
        """Adds a leaky ReLU."""
        return self.add("LeakyRelu", x, alpha=0.01)

    def streams_added(self, x: str) -> str:
        """Adds the sum over K streams, scaled by 2/K: twice their mean."""
        return self.add("Mul", self.add("ReduceMean", x, axes=[0], keepdims=1), self.constant(2))

    def bounded(self, x: str, bound: float) -> str:
        """Adds b tanh(x / b)."""
        inner = self.add("Tanh", self.add("Mul", x, self.constant(1 / bound)))
        return self.add("Mul", inner, self.constant(bound))

    def file(self, answer: str, **inputs: tuple[Any, ...]) -> bytes:
        """Returns the graph as a file; inputs: the shape of each, with names for free sides."""
        from onnx import TensorProto, helper

        value = helper.make_tensor_value_info
        graph = helper.make_graph(
            self.nodes,
            "layers",
            [value(name, TensorProto.FLOAT, list(shape)) for name, shape in inputs.items()],
            [value(answer, TensorProto.FLOAT, ["n", "c", "h", "w"])],
            self.weights,
        )
        opset = helper.make_opsetid("", 13)
        return helper.make_model(graph, opset_imports=[opset], ir_version=8).SerializeToString()


def surroundings_to_onnx(network: BetweenNetwork) -> bytes:
    """Returns the ONNX file of BetweenNetwork.surroundings."""
    graph = Graph()
    x = graph.streams_added(graph.layer(network.c2, graph.layer(network.c1, "seen")))
    finer = []
    for layer in network.down:
        finer.append(x)
        half = graph.add("AveragePool", x, kernel_shape=[2, 2], strides=[2, 2])
        x = graph.layer(layer, half)
    x = graph.add("Add", x, graph.layer(network.scene, graph.add("GlobalAveragePool", x)))
    twice = graph.constant([1, 1, 2, 2])
    for layer, skipped in zip(network.up, reversed(finer), strict=True):
        larger = graph.add(
            "Resize",
            x,
            "",
            twice,
            mode="linear",
            coordinate_transformation_mode="half_pixel",
        )
        x = graph.add("Add", skipped, graph.layer(layer, larger))
    around = graph.layer(network.around, graph.layer(network.c3, x))
    return graph.file(around, seen=("K", 4, "H", "W"))


def factors_to_onnx(network: BetweenNetwork) -> bytes:
    """Returns the ONNX file of BetweenNetwork.factors, which takes C5's half of `around`."""
    graph = Graph()
    features = graph.layer(network.c4, "seen")
    merged = graph.layer(network.c5, graph.streams_added(features))
    merged = graph.leaky(graph.add("Add", merged, "around"))
    answers = graph.layer(network.c7, graph.layer(network.c6, graph.add("Add", features, merged)))
    narrow = network.c5.out_channels
    return graph.file(
        graph.bounded(answers, network.GAIN),
        seen=("K", network.c4[0].in_channels, "H", "W"),
        around=("N", narrow, "H", "W"),
    )


def free_to_onnx(network: BetweenNetwork) -> bytes:
    """Returns the ONNX file of BetweenNetwork.free, which takes C8's half of `around`."""
    graph = Graph()
    features = graph.leaky(graph.add("Add", graph.layer(network.c8, "asked"), "around"))
    free = graph.bounded(graph.layer(network.c9, features), network.FREE)
    return graph.file(
        free, around=("N", network.c5.out_channels, "h", "w"), asked=("N", 1, "h", "w")
    )


def difference_of_layers(folder: str, network: BetweenNetwork) -> float:
    """Returns the largest difference of an exposure told with PyTorch and without, on noise.

    folder: holds the files of "network.pth". The difference is no number where an answer is none.
    """
    rng = np.random.default_rng(0)
    stack, wanted = rng.random((1, 3, 3, 60, 83), np.float32), np.array([0.4], np.float32)
    layers = OnnxBetween(os.path.join(folder, "network.pth"))
    found = between.tell(layers, between.look(layers, stack), wanted)
    with torch.no_grad():
        expected = network(torch.from_numpy(stack), torch.from_numpy(wanted)).numpy()
    return float(np.abs(found - expected).max())


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


def layers_alone(options: argparse.Namespace) -> tuple[dict[str, bytes], float]:
    """Returns the ONNX files of a photo's network, {part: file}, and the difference from PyTorch.

    The files are read as portable.py reads them.
    """
    network = load_between(options.model)
    files = layers_to_onnx(network)
    with tempfile.TemporaryDirectory() as folder:
        for part, data in files.items():
            with open(onnx_beside(os.path.join(folder, "network.pth"), part), "wb") as file:
                file.write(data)
        return files, difference_of_layers(folder, network)


def export(options: argparse.Namespace) -> None:
    """Writes the ONNX file that the options of export.py ask for.

    Raises OSError or ValueError where packages are missing, where the checkpoint or the file cannot
    be used, and where ONNX and PyTorch differ by more than LARGEST_DIFFERENCE.
    """
    packages = PACKAGES[:1] if options.layers else PACKAGES
    missing = [name for name in packages if importlib.util.find_spec(name) is None]
    if missing:
        raise ValueError(f"needs {' and '.join(missing)}: pip install -r requirements-export.txt")
    if options.layers:
        paths = [onnx_beside(options.res, part) for part in PARTS]
        for path in paths:
            utils.check_writable(path)
        files, difference = layers_alone(options)
        written = dict(zip(paths, files.values(), strict=True))
        seen = "layers for any number of exposures"
    else:
        utils.check_writable(options.res)
        onnx, seen, difference = whole_network(options)
        written = {options.res: onnx}
    if not difference <= LARGEST_DIFFERENCE:  # This is true for NaN too.
        raise ValueError(f"{options.model}: ONNX differs from PyTorch by up to {difference:.1g}")
    for path, onnx in written.items():
        with utils.replacing(path) as file:
            file.write(onnx)
        if not options.quiet:
            print(f"{path}: {seen}")
    if not options.quiet:
        print(f"largest difference from PyTorch: {difference:.1g}")


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the program; returns its exit status."""
    return run("export.py", export, ExportOptions().parse(argv))


if __name__ == "__main__":
    sys.exit(main())
