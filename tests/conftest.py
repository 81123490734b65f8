"""Exposure brackets, luma and networks that the tests make for themselves."""

import cv2
import numpy as np
import pytest
import torch

import utils
from model import DeepFuse


def scene(height, width, seed):
    """A textured RGB radiance map, (height, width, 3) in [0, 1], with bright and dark areas."""
    rng = np.random.default_rng(seed)
    noise = rng.random((height, width, 3)).astype(np.float32)
    texture = sum(cv2.GaussianBlur(noise, (0, 0), sigma) * sigma for sigma in (1, 3, 9))
    texture = (texture - texture.min()) / np.ptp(texture)
    ramp = np.linspace(0.02, 1, width, dtype=np.float32)[None, :, None]
    return texture * ramp


def expose(radiance, gain):
    return utils.quantise((radiance * gain) ** (1 / 2.2), np.uint8)


def write_bracket(folder, height=96, width=120, seed=0, gains=(0.3, 1.0, 8.0), extension=".png"):
    """Writes 1.png, 2.png, ... darkest first; returns the paths."""
    folder.mkdir(parents=True)
    paths = []
    for number, gain in enumerate(gains, start=1):
        paths.append(folder / f"{number}{extension}")
        utils.write_image(str(paths[-1]), expose(scene(height, width, seed), gain))
    return paths


@pytest.fixture
def pair():
    """An under- and an over-exposed uint8 RGB picture of odd size."""
    radiance = scene(61, 75, seed=3)
    return [expose(radiance, 0.3), expose(radiance, 8.0)]


@pytest.fixture(scope="session")
def brackets(tmp_path_factory):
    """A folder of three scenes of different sizes and lengths."""
    folder = tmp_path_factory.mktemp("brackets")
    write_bracket(folder / "scene2", seed=1)
    write_bracket(folder / "scene10", height=80, width=150, seed=2, gains=(0.3, 8.0))
    write_bracket(folder / "scene1", height=130, width=70, seed=3, extension=".jpg")
    return folder


def luma(*shape, seed=0):
    """Noise of the given shape, values in [0, 1]."""
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed))


@pytest.fixture
def model():
    """An untrained network in eval mode."""
    torch.manual_seed(0)
    return DeepFuse().eval()
