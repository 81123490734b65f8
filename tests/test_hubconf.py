"""torch.hub's entry points, called as their users call them."""

from pathlib import Path

import numpy as np
import pytest
import torch

import fusion
import hubconf
import opts
from checkpoint import load_model
from model import prepare
from portable import OnnxBetween

ROOT = Path(__file__).parent.parent


@pytest.mark.parametrize("name", ["deepfuse", "pyramid"])
def test_hub_loads_the_weights_and_fuses(name, pair):
    network = torch.hub.load(str(ROOT), name, source="local", device="cpu")
    weights = load_model(str(ROOT / "weights" / f"{name}.pth"))
    expected = fusion.fuse(prepare(weights), pair)
    assert np.array_equal(network.fuse(pair), expected)


def test_hub_makes_photos(pair):
    photographer = torch.hub.load(str(ROOT), "photo", source="local")
    network = OnnxBetween(opts.BETWEEN)
    for more in ({}, {"finish": 0.5}):
        expected = fusion.fuse(network, pair, fusion.Options(look="photo", **more))
        assert np.array_equal(photographer.fuse(pair, **more), expected)


def test_only_networks_are_offered():
    """torch.hub lists every public callable."""
    names = [name for name, value in vars(hubconf).items() if callable(value)]
    assert [name for name in names if not name.startswith("_")] == ["deepfuse", "pyramid", "photo"]


def test_hub_takes_another_checkpoint():
    with pytest.raises(FileNotFoundError):
        torch.hub.load(str(ROOT), "deepfuse", source="local", weights="none.pth")
