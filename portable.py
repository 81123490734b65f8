"""How does the network of a photo run without PyTorch? By OpenCV, from ONNX files.

PyTorch needs longer to start than a photo to be fused. OnnxBetween computes what
model.BetweenNetwork does, but for rounding, with NumPy's arrays instead of tensors. Its files hold
the layers with the weights of a checkpoint, as `export.py --layers` writes them.
"""

import os

import cv2
import numpy as np

PARTS = ("surroundings", "factors", "free")  # of the network, a file each


class OnnxLayers:
    """Layers of an ONNX file, as a function of arrays by their names.

    Raises OSError where the file is missing, and ValueError where OpenCV cannot use it.
    """

    def __init__(self, path: str | os.PathLike[str]):
        with open(path, "rb") as file:
            self.data = np.frombuffer(file.read(), np.uint8)
        try:
            cv2.dnn.readNetFromONNX(self.data)
        except cv2.error as error:
            raise ValueError(f"{path}: OpenCV cannot use it: {error.err}") from error

    def __call__(self, **inputs: np.ndarray) -> np.ndarray:
        # OpenCV's networks keep all of their features, hundreds of MB. A new one takes 0.5 ms.
        net = cv2.dnn.readNetFromONNX(self.data)
        for name, x in inputs.items():
            net.setInput(np.ascontiguousarray(x, np.float32), name)
        return net.forward()


class OnnxBetween:
    """Tells exposures like model.BetweenNetwork; a between.Network of arrays, for one sample.

    path: of the checkpoint beside which the files lie, see onnx_beside. Raises what OnnxLayers
    does.
    """

    def __init__(self, path: str):
        self.layers = {part: OnnxLayers(onnx_beside(path, part)) for part in PARTS}

    def surroundings(self, seen: np.ndarray, count: int) -> np.ndarray:
        """Returns what model.BetweenNetwork.surroundings does."""
        return self.layers["surroundings"](seen=seen)

    def factors(self, seen: np.ndarray, around: np.ndarray, count: int) -> np.ndarray:
        """Returns what model.BetweenNetwork.factors does."""
        return self.layers["factors"](seen=seen, around=around[:, : around.shape[1] // 2])

    def free(self, around: np.ndarray, asked: np.ndarray) -> np.ndarray:
        """Returns what model.BetweenNetwork.free does."""
        around = around[:, around.shape[1] // 2 :]
        asked = np.broadcast_to(asked, (1, 1, *around.shape[2:]))
        return self.layers["free"](around=around, asked=asked)


def onnx_beside(checkpoint: str, part: str) -> str:
    """Returns the path of the ONNX file of one part of a checkpoint's network, beside it."""
    return f"{os.path.splitext(checkpoint)[0]}_{part}.onnx"
