"""The networks: shapes, symmetries, what a pyramid sees, BatchNorm folded away."""

import math

import numpy as np
import pytest
import torch
from conftest import luma
from torch import nn
from torch.nn import functional as F

import fusion
import model as models
import utils
from arrays import local_mean
from model import (
    TRAINED_TILT,
    DeepFuse,
    PyramidDeepFuse,
    choose_device,
    fold_batch_norm,
)
from pyramid import LARGEST_TILT, NATURAL, tilted_mean


def test_about_89_thousand_parameters(model):
    # weights and biases of the paper's Fig. 2, layer by layer
    table = [(5, 1, 16), (7, 16, 32), (7, 32, 32), (5, 32, 16), (5, 16, 1)]
    expected = sum(k * k * i * o + o for k, i, o in table)
    assert sum(p.numel() for p in model.parameters()) == expected
    assert round(expected, -3) == 89000


@pytest.mark.parametrize("padding", ["replicate", "zeros"])
@pytest.mark.parametrize(("height", "width"), [(1, 1), (7, 30), (33, 40)])
def test_output_has_the_inputs_size_and_range(padding, height, width):
    y = DeepFuse(padding=padding).eval()(luma(2, 1, height, width), luma(2, 1, height, width))
    assert y.shape == (2, 1, height, width)
    assert y.min() >= 0
    assert y.max() <= 1


def test_order_of_a_pair_does_not_matter(model):
    y_1, y_2 = luma(2, 1, 30, 31, seed=1), luma(2, 1, 30, 31, seed=2)
    assert torch.equal(model(y_1, y_2), model(y_2, y_1))


def test_order_of_a_stack_does_not_matter(model):
    y = luma(4, 1, 1, 30, 31).unbind()
    # Sums of more than two features may round differently.
    torch.testing.assert_close(model(*y), model(y[2], y[0], y[3], y[1]), atol=1e-6, rtol=0)


def test_a_pair_is_merged_by_the_papers_sum(model):
    y_1, y_2 = luma(1, 1, 40, 40, seed=1), luma(1, 1, 40, 40, seed=2)
    padded = [nn.functional.pad(y * 2 - 1, [12] * 4, mode="replicate") for y in (y_1, y_2)]
    merged = model.c2(model.c1(padded[0])) + model.c2(model.c1(padded[1]))
    expected = model.c5(model.c4(model.c3(merged))) / 2 + 0.5
    torch.testing.assert_close(model(y_1, y_2), expected, atol=1e-6, rtol=0)


def test_a_stack_of_copies_equals_the_pair(model):
    y = luma(1, 1, 20, 20)
    torch.testing.assert_close(model(y, y, y), model(y, y), atol=1e-6, rtol=0)


def test_a_picture_does_not_depend_on_its_batch(model):
    y_1, y_2 = luma(3, 1, 30, 31, seed=1), luma(3, 1, 30, 31, seed=2)
    alone = torch.cat([model(y_1[i : i + 1], y_2[i : i + 1]) for i in range(3)])
    # The batch size may choose another convolution kernel.
    torch.testing.assert_close(model(y_1, y_2), alone, atol=1e-5, rtol=0)


def test_receptive_radius(model):
    assert model.radius == 12
    y_1 = luma(1, 1, 61, 61).requires_grad_()
    model(y_1, luma(1, 1, 61, 61, seed=1))[0, 0, 30, 30].backward()
    rows, columns = torch.nonzero(y_1.grad[0, 0], as_tuple=True)
    assert (rows.min(), rows.max()) == (18, 42)
    assert (columns.min(), columns.max()) == (18, 42)


@pytest.fixture
def pyramid():
    torch.manual_seed(0)
    network = PyramidDeepFuse().eval()
    nn.init.normal_(network.c5[0].weight, std=0.05)  # zero at first
    return network


def test_a_pyramid_starts_from_the_mean():
    y_1, y_2 = luma(1, 1, 150, 131, seed=1), luma(1, 1, 150, 131, seed=2)
    coarse = (y_1 + y_2) / 2
    for _ in range(2):  # 150x131 -> 75x66 -> 38x33
        coarse = nn.functional.avg_pool2d(coarse, 2, ceil_mode=True)
    for height, width in ((75, 66), (150, 131)):
        coarse = nn.functional.interpolate(coarse, scale_factor=2, mode="bilinear")
        coarse = coarse[..., :height, :width]
    torch.testing.assert_close(PyramidDeepFuse().eval()(y_1, y_2), coarse, atol=1e-6, rtol=0)


@pytest.mark.slow
def test_a_pyramid_sees_the_whole_picture(pyramid):
    y_1 = luma(1, 1, 600, 600).requires_grad_()
    pyramid(y_1, luma(1, 1, 600, 600, seed=1))[0, 0, 5, 5].backward()
    assert y_1.grad[0, 0, 590:, 590:].abs().sum() > 0


@pytest.mark.parametrize("side", [1, 3, 7, 9, 17])
def test_local_mean_is_the_mean_of_the_square(side):
    image = torch.rand(2, 3, 5, 20, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    padded = F.pad(image, [side // 2] * 4, mode="replicate")
    expected = padded.unfold(2, side, 1).unfold(3, side, 1).mean(dim=(4, 5))
    torch.testing.assert_close(local_mean(image, side), expected, atol=1e-12, rtol=0)


def test_a_pyramids_detail_has_no_local_mean(pyramid):
    """However many levels there are, brightness is that of what the coarsest starts from."""
    y = luma(3, 1, 1, 400, 500).unbind()
    fused, mean = pyramid(*y).detach(), sum(y) / 3
    assert (fused - mean).std() > 0.05
    # What is left comes from the borders and from enlarging.
    assert abs(float((fused - mean).mean())) < 2e-3


@pytest.mark.parametrize(("height", "width"), [(1, 1), (7, 30), (63, 200), (64, 64), (129, 131)])
def test_a_pyramids_output_has_the_inputs_size(pyramid, height, width):
    y = luma(2, 2, 1, height, width).unbind()
    fused = pyramid(*y)
    assert fused.shape == (2, 1, height, width)
    assert torch.isfinite(fused).all()
    torch.testing.assert_close(fused, pyramid(*y[::-1]), atol=1e-5, rtol=0)


@pytest.mark.parametrize(
    ("levels", "expected"),
    [
        ((0.1, 0.9), 0.5),  # natural as it is
        ((0.2, 0.4, 0.7), 1.3 / 3),
        ((0.2, 0.5), NATURAL[0]),
        ((0.5, 0.7), NATURAL[1]),
        ((0.1, 0.2), (0.1 + 0.2 * math.exp(LARGEST_TILT)) / (1 + math.exp(LARGEST_TILT))),
        ((0.8, 0.8), 0.8),
        ((0.0, 0.0), 0.0),
    ],
)
def test_the_mean_that_a_pyramid_starts_from(levels, expected):
    """Its brightness is natural where a moderate weighting of the exposures can make it so."""
    stack = [luma(1, 1, 9, 9, seed=k) for k in range(len(levels))]
    stack = [0.01 * (y - y.mean()) + level for y, level in zip(stack, levels, strict=True)]
    for order in (stack, stack[::-1]):
        # A pair of such batches: every sample is weighted for itself.
        batch = [torch.cat([y, torch.full_like(y, 0.5)]) for y in order]
        mean = tilted_mean(batch)
        assert mean.shape == (2, 1, 9, 9)
        assert mean[0].mean().item() == pytest.approx(expected, abs=1e-4)
        assert mean[1].mean().item() == pytest.approx(0.5, abs=1e-4)


def test_a_pyramid_in_training_starts_from_any_weighting():
    pyramid = PyramidDeepFuse()  # whose output is what it starts from
    stack = [torch.full((200, 1, 8, 8), level) for level in (0.2, 0.8)]
    torch.manual_seed(0)
    means = pyramid.train()(*stack).mean(dim=(1, 2, 3))
    darkest = 0.2 + 0.6 / (1 + math.exp(TRAINED_TILT))
    assert means.min().item() == pytest.approx(darkest, abs=0.01)
    assert means.max().item() == pytest.approx(1 - darkest, abs=0.01)
    assert torch.equal(pyramid.eval()(*stack), pyramid(*stack))


def test_a_pyramids_radius_within_a_level(pyramid):
    stack = luma(2, 1, 1, 91, 91, seed=1).unbind()
    context = luma(1, 1, 91, 91).requires_grad_()
    pyramid.fuse_tile(stack, context)[0, 0, 45, 45].backward()
    rows, columns = torch.nonzero(context.grad[0, 0], as_tuple=True)
    for axis in (rows, columns):
        assert (axis.min(), axis.max()) == (45 - pyramid.radius, 45 + pyramid.radius)


@pytest.mark.parametrize("network", [DeepFuse(), PyramidDeepFuse()])
@pytest.mark.parametrize("shapes", [[(1, 1, 8, 8), (1, 1, 8, 9)], [(1, 3, 8, 8)] * 2, [(8, 8)] * 2])
def test_luma_of_wrong_shape(network, shapes):
    with pytest.raises(ValueError, match="one shape"):
        network(*(torch.rand(shape) for shape in shapes))


def test_folded_batch_norm_equals_the_network():
    torch.manual_seed(2)
    model = DeepFuse(batch_norm=True)
    y = luma(8, 1, 40, 40)
    for _ in range(3):
        model(y[:4], y[4:])  # in training mode: gathers statistics
    folded = fold_batch_norm(model)
    assert not any(isinstance(module, nn.BatchNorm2d) for module in folded.modules())
    torch.testing.assert_close(folded(y[:4], y[4:]), model(y[:4], y[4:]), atol=1e-5, rtol=0)


def test_devices():
    assert choose_device("cpu").type == "cpu"
    assert choose_device("auto").type == ("cuda" if torch.cuda.is_available() else "cpu")
    for name in ("cuda:99", "toaster"):
        with pytest.raises(ValueError, match=name):
            choose_device(name)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU")
def test_cuda_equals_cpu(model):
    y_1, y_2 = luma(1, 1, 64, 64, seed=1), luma(1, 1, 64, 64, seed=2)
    expected = model(y_1, y_2)
    on_gpu = model.cuda()(y_1.cuda(), y_2.cuda()).cpu()
    # TF32 convolutions have 10 bits of mantissa.
    torch.testing.assert_close(on_gpu, expected, atol=5e-3, rtol=0)


LUMA_NETWORKS = [name for name in models.NETWORKS if name != models.BetweenNetwork.name]


@pytest.mark.parametrize("name", LUMA_NETWORKS)
def test_what_every_network_for_luma_promises(name):
    torch.manual_seed(0)
    network = models.build(name).eval()
    assert network.name == name
    assert type(models.build(**network.settings)) is type(network)
    stack = [torch.rand(1, 1, 90, 101) for _ in range(3)]
    with torch.inference_mode():
        fused = network(*stack)
        assert fused.shape == stack[0].shape
        torch.testing.assert_close(network(*stack[::-1]), fused, atol=1e-5, rtol=0)
        prepared = models.prepare(network, "float32")(*stack)
        torch.testing.assert_close(prepared, fused, atol=1e-4, rtol=0)
    assert network.radius >= 1
    assert network.coarse_to_fine in (True, False)
    assert network.stretches in (True, False)


def test_a_network_with_layers_of_its_own(pair):
    class Average(torch.nn.Module):
        name, coarse_to_fine, stretches, radius = "average", False, False, 1

        def __init__(self):
            super().__init__()
            self.settings = {"name": self.name}
            self.share = torch.nn.Parameter(torch.ones(()))

        def fuse_tile(self, stack, context=None):
            return self.share * sum(stack[1:], stack[0]) / len(stack)

    network = models.prepare(Average())
    fused = fusion.fuse(network, pair)
    mean = np.mean([utils.to_luma(image) for image in pair], axis=0)
    assert np.abs(utils.to_luma(fused) - mean).mean() < 0.004  # Some colours are clipped.
    with pytest.raises(ValueError, match="average computes in float32"):
        models.prepare(Average(), "int8")
