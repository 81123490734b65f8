"""torch.hub's entry points, called as their users call them."""

from pathlib import Path

import numpy as np
import pytest
import torch

import fusion
import hubconf
from checkpoint import load_model
from model import prepare

ROOT = Path(__file__).parent.parent


@pytest.mark.parametrize("name", ["deepfuse", "pyramid"])
def test_hub_loads_the_weights_and_fuses(name, pair):
    network = torch.hub.load(str(ROOT), name, source="local", device="cpu")
    weights = load_model(str(ROOT / "weights" / f"{name}.pth"))
    expected = fusion.fuse(prepare(weights), pair, strength=0.8)
    assert np.array_equal(network.fuse(pair, strength=0.8), expected)


def test_only_networks_are_offered():
    """torch.hub lists every public callable."""
    names = [name for name, value in vars(hubconf).items() if callable(value)]
    assert [name for name in names if not name.startswith("_")] == ["deepfuse", "pyramid"]


def test_hub_takes_another_checkpoint():
    with pytest.raises(FileNotFoundError):
        torch.hub.load(str(ROOT), "deepfuse", source="local", weights="none.pth")
