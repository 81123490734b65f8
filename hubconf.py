"""How is DeepFuse loaded by torch.hub? Pretrained networks that fuse arrays.

network = torch.hub.load(".", "photo", source="local")
fused = network.fuse([under, over])

It imports modules of this folder by names such as model and utils. A program that has imported
modules of its own under these names has to load it first.
"""

import collections.abc
import typing

import numpy as np

# torch.hub takes every public callable here for a network, so only modules are imported.
import checkpoint
import fusion
import model
import opts

dependencies = ["torch", "cv2", "numpy", "tqdm"]


class _Fuser:
    """A pretrained network with a method `fuse`.

    network: in eval mode, made ready by model.prepare. look: what it is for, see fusion.fuse.
    """

    def __init__(self, network: fusion.Network, look: str = "paper"):
        self.network = network
        self.look = look

    def fuse(
        self, images: collections.abc.Sequence[np.ndarray], **options: typing.Any
    ) -> np.ndarray:
        """Fuses two or more exposures; returns and raises what fusion.fuse does.

        options: of fusion.Options, such as finish=0.5.
        """
        options = {"look": self.look, **options}
        return fusion.fuse(self.network, images, fusion.Options(**options))


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
    return deepfuse(opts.PYRAMID, device, precision)


def photo() -> _Fuser:
    """Returns what makes the best photo, without PyTorch; OSError where its weights are missing."""
    return _Fuser(fusion.photographer(), look="photo")
