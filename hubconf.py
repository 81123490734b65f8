"""How is DeepFuse loaded by torch.hub? Pretrained networks that fuse arrays.

network = torch.hub.load(".", "deepfuse", source="local")
fused = network.fuse([under, over])
"""

import os

import numpy as np

# torch.hub takes every public callable here for a network, so only modules are imported.
import checkpoint
import fusion
import model
import opts

dependencies = ["torch", "cv2", "numpy", "tqdm"]


class _Fuser:
    """A pretrained network with a method `fuse`.

    network: a DeepFuse or PyramidDeepFuse in eval mode, made ready by model.prepare.
    """

    def __init__(self, network: model.DeepFuse):
        self.network = network

    def fuse(self, images: list[np.ndarray], **options) -> np.ndarray:
        """Fuses two or more exposures; takes, returns and raises what fusion.fuse does."""
        return fusion.fuse(self.network, images, **options)


def deepfuse(weights: str = opts.WEIGHTS, device: str = "auto", precision: str = "auto") -> _Fuser:
    """Returns the paper's trained network, DeepFuse.

    weights: checkpoint file. device: "auto", "cpu", "cuda" or "cuda:N".
    precision: type of the convolutions, see model.prepare.
    Raises OSError or ValueError where the checkpoint or the device cannot be used.
    """
    network = checkpoint.load_model(weights, model.choose_device(device))
    return _Fuser(model.prepare(network, precision))


def pyramid(device: str = "auto", precision: str = "auto") -> _Fuser:
    """Returns the trained PyramidDeepFuse; device, precision and what is raised as in deepfuse."""
    weights = os.path.join(os.path.dirname(opts.WEIGHTS), "pyramid.pth")
    return deepfuse(weights, device, precision)
