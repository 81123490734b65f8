"""How is DeepFuse loaded by torch.hub? Pretrained networks that fuse arrays.

network = torch.hub.load(".", "photo", source="local")
fused = network.fuse([under, over])

It imports modules of this folder by names such as model and utils. A program that has imported
modules of its own under these names has to load it first.
"""

import numpy as np

# torch.hub takes every public callable here for a network, so only modules are imported.
import checkpoint
import fusion
import model
import opts

dependencies = ["torch", "cv2", "numpy", "tqdm"]


class _Fuser:
    """A pretrained network with a method `fuse`.

    network: any but ColourNetwork in eval mode, made ready by model.prepare. options: those of
    fusion.fuse that are not its defaults.
    """

    def __init__(self, network: model.LumaNetwork, **options):
        self.network = network
        self.options = options

    def fuse(self, images: list[np.ndarray], **options) -> np.ndarray:
        """Fuses two or more exposures; takes, returns and raises what fusion.fuse does."""
        return fusion.fuse(self.network, images, **{**self.options, **options})


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


def photo(device: str = "auto", precision: str = "auto") -> _Fuser:
    """Returns what makes the best photo: the pyramid, refined, with a photo's tone and colour.

    device, precision and what is raised as in deepfuse.
    """
    colour = checkpoint.load_colour(opts.COLOUR, model.choose_device(device))
    options = {"look": "photo", "colour": model.prepare(colour, precision)}
    network = checkpoint.load_model(opts.PYRAMID, model.choose_device(device))
    return _Fuser(model.prepare(network, precision), **options)
