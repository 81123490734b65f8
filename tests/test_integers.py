"""Convolutions in 8-bit integers."""

import cv2
import numpy as np
import pytest
import torch
from conftest import scene

import fusion
import inference
import utils
from checkpoint import load_model
from integers import INSTRUCTIONS, IntegerConvolution, made_pairs, rounded_weights, to_integers
from model import DeepFuse, ReleasedDeepFuse, prepare
from opts import PYRAMID, WEIGHTS

HAS = getattr(torch.cpu, "get_capabilities", dict)()
needs_instructions = pytest.mark.skipif(
    not (any(map(HAS.get, INSTRUCTIONS)) and hasattr(torch.ops.onednn, "qconv2d_pointwise")),
    reason="this processor, or this version of PyTorch, does not convolve 8-bit integers",
)


def pair(height=330, width=420):
    """Smooth shades, edges and noise under two exposures, as luma (1, 1, H, W) each."""
    radiance = np.linspace(0.02, 2, width) * np.linspace(1, 3, height)[:, None]
    radiance[height // 3 : height // 2, width // 3 : width // 2] *= 4
    details = cv2.resize(scene(100, 200, 0).mean(axis=2), (width, height // 3))
    radiance[-(height // 3) :] *= details
    return [
        torch.from_numpy((gain * radiance).clip(0, 1).astype(np.float32))[None, None]
        for gain in (0.15, 1.2)
    ]


@needs_instructions
@pytest.mark.parametrize("weights", [WEIGHTS, PYRAMID])
def test_integers_are_near_floats(weights):
    network, images = load_model(weights), pair()
    with torch.inference_mode():
        exact = prepare(network, "float32")(*images)
        difference = 255 * (prepare(network, "int8")(*images) - exact)
    assert difference.abs().mean() <= 0.4
    assert (difference.abs() > 2).float().mean() <= 0.001
    assert difference.mean().abs() <= 0.15


@needs_instructions
def test_a_smooth_area_keeps_its_brightness(monkeypatch):
    """With one threshold for all pixels, it does not."""
    network = load_model(WEIGHTS)
    greys = [[torch.full((1, 1, 60, 60), gain * y) for gain in (0.3, 1)] for y in (0.2, 0.5, 0.9)]

    def largest_change():
        exact, rounded = prepare(network, "float32"), prepare(network, "int8")
        with torch.inference_mode():
            return max(float((rounded(*y) - exact(*y)).mean().abs()) * 255 for y in greys)

    with_thresholds = largest_change()
    monkeypatch.setattr("integers.thresholds", lambda *_: torch.full((1, 1, 1, 1), 0.5))
    assert with_thresholds < 0.4 < largest_change()


@needs_instructions
@pytest.mark.parametrize("padding", ["replicate", "zeros"])
def test_networks_of_the_earlier_kind_compute_in_integers(padding):
    torch.manual_seed(0)
    network = DeepFuse(batch_norm=True, padding=padding).eval()
    images = pair(100, 120)
    with torch.inference_mode():
        exact, rounded = (prepare(network, kind)(*images) for kind in ("float32", "int8"))
    difference = 255 * (rounded - exact).abs()[0, 0]
    assert 0 < difference.mean() < 2
    assert difference[0].mean() < 2 * difference.mean()  # At the border, padding counts.
    assert isinstance(prepare(network, "int8").c3[0], IntegerConvolution)


def test_rounded_weights_keep_the_sum_of_every_kernel():
    torch.manual_seed(0)
    weight = torch.randn(8, 3, 7, 7)
    levels, steps = rounded_weights(weight)
    assert levels.dtype == torch.int8
    back = levels * steps[:, None, None, None]
    assert ((back - weight).abs() <= 1.001 * steps[:, None, None, None]).all()
    change = (back - weight).sum(dim=(2, 3)).abs()
    assert (change <= 0.501 * steps[:, None]).all()
    plain = (weight / steps[:, None, None, None]).round() * steps[:, None, None, None]
    assert not ((plain - weight).sum(dim=(2, 3)).abs() <= 0.501 * steps[:, None]).all()


def test_made_pictures_are_the_same_every_time():
    pairs = made_pairs()
    assert all(map(torch.equal, pairs, made_pairs()))
    assert min(p.min() for p in pairs) < 0.02
    assert max(p.max() for p in pairs) == 1
    assert all((brighter >= darker).all() for darker, brighter in pairs)


def test_integers_are_refused_where_they_would_be_wrong(monkeypatch):
    with pytest.raises(ValueError, match="released computes in float32, not int8"):
        prepare(ReleasedDeepFuse(), "int8")
    monkeypatch.setattr(torch.cpu, "get_capabilities", dict, raising=False)
    with pytest.raises(ValueError, match="precision int8: this processor has no instructions"):
        prepare(DeepFuse(), "int8")
    network = DeepFuse()
    with pytest.raises(ValueError, match="precision int8"):
        to_integers(network, [network.c2, network.c3], torch.float32)
    assert isinstance(network.c2[0], torch.nn.Conv2d)


@needs_instructions
def test_inference_in_integers(tmp_path, capfd):
    files = [str(tmp_path / f"{k}.png") for k in range(2)]
    for file, luma in zip(files, pair(), strict=True):
        utils.write_image(
            file, utils.quantise(luma[0, 0, ..., None].expand(-1, -1, 3).numpy(), np.uint8)
        )
    results = {}
    for precision in ("float32", "int8"):
        result = str(tmp_path / f"{precision}.png")
        flags = ["--images", *files, "--res", result, "--look", "paper", "--device", "cpu"]
        assert inference.main([*flags, "--precision", precision, "--verbose"]) == 0
        assert f"computes in {precision}" in capfd.readouterr().err
        results[precision] = utils.read_image(result).astype(int)
    difference = np.abs(results["int8"] - results["float32"])
    assert 0 < difference.mean() < 0.6
    assert (difference > 3).mean() < 0.001


@needs_instructions
def test_tiles_hardly_matter_to_integers():
    network = prepare(load_model(WEIGHTS), "int8")
    images = [
        utils.quantise(y[0, 0, ..., None].expand(-1, -1, 3).numpy(), np.uint8) for y in pair()
    ]
    whole, parts = (
        fusion.fuse(network, images, fusion.Options(tile=tile)).astype(int) for tile in (512, 97)
    )
    assert np.abs(whole - parts).max() <= 3
    assert np.abs(whole - parts).mean() < 0.5


@needs_instructions
def test_features_below_zero_have_levels_of_their_own():
    """As of another activation than ReLU and its leaky kin."""
    torch.manual_seed(0)
    network = load_model(WEIGHTS)
    for layer in (network.c1, network.c2, network.c3, network.c4):
        layer[2] = torch.nn.SiLU()
    with torch.inference_mode():
        exact, rounded = (prepare(network, kind)(*pair()) for kind in ("float32", "int8"))
    assert 255 * (rounded - exact).abs().mean() < 0.5
