"""How do the networks of a photo run without PyTorch? By OpenCV, from ONNX files.

PyTorch needs longer to start than a photo to be fused. The networks here compute what those of
model.py do, but for rounding, with NumPy's arrays instead of tensors. Their files hold the layers
with the weights of a checkpoint, as `export.py --layers` writes them.
"""

import os
from collections.abc import Sequence

import cv2
import numpy as np

from arrays import local_mean
from pyramid import LOCAL


class OnnxLayers:
    """Layers from K exposures' channels, (K, C, H, W), to what they give, for any K.

    Raises OSError where the file is missing, and ValueError where OpenCV cannot use it.
    """

    def __init__(self, path: str | os.PathLike):
        with open(path, "rb") as file:
            self.data = np.frombuffer(file.read(), np.uint8)
        try:
            cv2.dnn.readNetFromONNX(self.data)
        except cv2.error as error:
            raise ValueError(f"{path}: OpenCV cannot use it: {error.err}") from error

    def __call__(self, x: np.ndarray) -> np.ndarray:
        # OpenCV's networks keep all of their features, hundreds of MB. A new one takes 0.5 ms.
        net = cv2.dnn.readNetFromONNX(self.data)
        net.setInput(np.ascontiguousarray(x, np.float32))
        return net.forward()


class OnnxPyramid:
    """Fuses luma like model.PyramidDeepFuse."""

    name = "pyramid"
    tile = 320  # pixels a side of a tile of a picture, so that features fit in the cache
    REACH = 12  # pixels by which the layers' output is smaller than their input, on every side
    radius = REACH + LOCAL // 2

    def __init__(self, path: str | os.PathLike):
        self.layers = OnnxLayers(path)

    def fuse_level(self, stack: Sequence[np.ndarray], context: np.ndarray) -> np.ndarray:
        """Fuses one level like model.PyramidDeepFuse.fuse_level; all are (1, 1, H, W)."""
        seen = np.concatenate([np.concatenate([y, context], axis=1) for y in stack]) * 2 - 1
        detail = self.layers(padded(seen, self.REACH))
        return context + (detail - local_mean(detail, LOCAL)) / 2


class OnnxColour:
    """Gives a wanted luma its chroma like model.ColourNetwork."""

    tile = 256  # pixels a side of a tile of a picture, so that features fit in the cache
    LOCAL = 9  # pixels; side of the squares whose mean a stream sees too
    radius = LOCAL // 2 + 1

    def __init__(self, path: str | os.PathLike):
        self.layers = OnnxLayers(path)

    def factors(self, stack: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Returns what model.ColourNetwork.factors does for a single sample.

        stack: (1, K, 3, H, W); y: (1, 1, H, W). Returns (1, K, 1, H, W) and (1, 2, H, W).
        """
        x = stack[0] - 0.5
        mean = local_mean(x, self.LOCAL)
        wanted = np.broadcast_to(y - 0.5, (len(x), *y.shape[1:]))
        seen = np.concatenate([x, mean, wanted], axis=1) * 2
        answers = self.layers(padded(seen, 1))  # (K, 2, H, W)
        tint = (answers[:, 1:] * mean[:, 1:]).sum(axis=0)
        return answers[None, :, :1] + 1 / len(x), tint[None]


def padded(x: np.ndarray, margin: int) -> np.ndarray:
    """Returns planes with their outermost pixels repeated on every side."""
    return np.pad(x, [(0, 0), (0, 0), (margin, margin), (margin, margin)], mode="edge")
