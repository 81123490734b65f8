"""The network, and checkpoint files of ours, of the earlier implementation and of neither."""

import collections
import math
import os
import pickle

import numpy as np
import pytest
import torch
from torch import nn

from checkpoint import load_checkpoint, load_model, save_checkpoint
from model import (
    LARGEST_TILT,
    NATURAL,
    NETWORKS,
    TRAINED_TILT,
    DeepFuse,
    PyramidDeepFuse,
    build,
    choose_device,
    fold_batch_norm,
    tilted_mean,
)


def luma(*shape, seed=0):
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed))


@pytest.fixture
def model():
    torch.manual_seed(0)
    return DeepFuse().eval()


class Original(nn.Module):
    """The network of SunnerLi/DeepFuse.pytorch, from its published description; on [-1, 1]."""

    def __init__(self):
        super().__init__()

        def layer(in_channels, out_channels, size, activation):
            block = nn.Module()
            block.main = nn.Sequential(
                nn.Conv2d(in_channels, out_channels, size, padding=size // 2),
                nn.BatchNorm2d(out_channels),
                activation,
            )
            return block

        self.layer1 = layer(1, 16, 5, nn.LeakyReLU(0.01))
        self.layer2 = layer(16, 32, 7, nn.ReLU())
        self.layer4 = layer(32, 32, 7, nn.LeakyReLU(0.01))
        self.layer5 = layer(32, 16, 5, nn.LeakyReLU(0.01))
        self.layer6 = layer(16, 1, 5, nn.Tanh())

    def forward(self, y_1, y_2):
        stream_1 = self.layer2.main(self.layer1.main(y_1))
        stream_2 = self.layer2.main(self.layer1.main(y_2))
        merged = stream_1 + stream_2
        return self.layer6.main(self.layer5.main(self.layer4.main(merged)))


@pytest.fixture
def original():
    """An Original in eval mode, its BatchNorm statistics those of some training."""
    torch.manual_seed(1)
    network = Original()
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.weight, 0.5, 2)
            nn.init.normal_(module.bias)
            nn.init.normal_(module.running_mean)
            nn.init.uniform_(module.running_var, 0.2, 3)
    return network.eval()


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


def test_a_pyramid_sees_the_whole_picture(pyramid):
    y_1 = luma(1, 1, 600, 600).requires_grad_()
    pyramid(y_1, luma(1, 1, 600, 600, seed=1))[0, 0, 5, 5].backward()
    assert y_1.grad[0, 0, 590:, 590:].abs().sum() > 0


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
    pyramid.fuse_level(stack, context)[0, 0, 45, 45].backward()
    rows, columns = torch.nonzero(context.grad[0, 0], as_tuple=True)
    for axis in (rows, columns):
        assert (axis.min(), axis.max()) == (45 - pyramid.radius, 45 + pyramid.radius)


@pytest.mark.parametrize("name", NETWORKS)
def test_width_and_name_are_kept_in_a_checkpoint(tmp_path, name):
    network = build(name, width=4).eval()
    path = tmp_path / "net.pth"
    save_checkpoint(str(path), {"model": network.state_dict(), "network": network.settings})
    loaded = load_model(str(path))
    assert type(loaded) is NETWORKS[name]
    y = luma(2, 1, 1, 70, 70).unbind()
    torch.testing.assert_close(loaded(*y), network(*y), atol=1e-5, rtol=0)
    assert loaded.c3[0].weight.shape == (8, 8, 7, 7)


@pytest.mark.parametrize("network", [DeepFuse(), PyramidDeepFuse()])
@pytest.mark.parametrize("shapes", [[(1, 1, 8, 8), (1, 1, 8, 9)], [(1, 3, 8, 8)] * 2, [(8, 8)] * 2])
def test_luma_of_wrong_shape(network, shapes):
    with pytest.raises(ValueError, match="one shape"):
        network(*(torch.rand(shape) for shape in shapes))


def test_checkpoint_round_trip(model, tmp_path):
    path = tmp_path / "model.pth"
    save_checkpoint(str(path), {"model": model.state_dict(), "network": model.settings})
    loaded = load_model(str(path))
    y_1, y_2 = luma(1, 1, 20, 20, seed=1), luma(1, 1, 20, 20, seed=2)
    assert all(map(torch.equal, loaded.state_dict().values(), model.state_dict().values()))
    # Memory in another order may choose another convolution kernel.
    torch.testing.assert_close(loaded(y_1, y_2), model(y_1, y_2), atol=1e-5, rtol=0)
    assert not loaded.training
    assert os.listdir(tmp_path) == ["model.pth"]


def test_folded_batch_norm_equals_the_network(original):
    torch.manual_seed(2)
    model = DeepFuse(batch_norm=True)
    y = luma(8, 1, 40, 40)
    for _ in range(3):
        model(y[:4], y[4:])  # in training mode: gathers statistics
    folded = fold_batch_norm(model)
    assert not any(isinstance(module, nn.BatchNorm2d) for module in folded.modules())
    torch.testing.assert_close(folded(y[:4], y[4:]), model(y[:4], y[4:]), atol=1e-5, rtol=0)


@pytest.mark.parametrize("legacy", [False, True], ids=["zip", "before torch 1.6"])
@pytest.mark.parametrize("scalar", [float, np.float32, np.float64])
def test_original_checkpoint_equals_the_original_network(original, tmp_path, legacy, scalar):
    path = tmp_path / "latest.pth"
    torch.save(
        {"model": original.state_dict(), "loss": [scalar(0.5), scalar(0.25)]},
        path,
        _use_new_zipfile_serialization=not legacy,
    )
    assert load_checkpoint(str(path))["loss"] == [0.5, 0.25]
    model = load_model(str(path))
    y_1, y_2 = luma(2, 1, 40, 50, seed=1), luma(2, 1, 40, 50, seed=2)
    expected = (original(y_1 * 2 - 1, y_2 * 2 - 1) + 1) / 2
    # float32 rounding over five layers; the borders are included.
    torch.testing.assert_close(model(y_1, y_2), expected, atol=1e-5, rtol=0)


def test_numpy_scalars_of_numpy_1_load(original, tmp_path):
    """Files written under numpy 1 name a module that numpy 2 has renamed."""
    new, old = b"numpy._core.multiarray", b"numpy.core.multiarray"
    path = tmp_path / "latest.pth"
    torch.save(
        {"model": original.state_dict(), "loss": [np.float32(0.5)]},
        path,
        _use_new_zipfile_serialization=False,
    )
    data = path.read_bytes()
    assert (new in data) != (old in data)
    # The pickles of protocol 2 have no lengths around a global's name.
    path.write_bytes(data.replace(new, old) if new in data else data.replace(old, new))
    assert load_checkpoint(str(path))["loss"] == [0.5]


def state(**changes):
    entries = DeepFuse().state_dict()
    entries.update({key: value for key, value in changes.items() if value is not None})
    for key in [key for key, value in changes.items() if value is None]:
        del entries[key]
    return {"model": entries}


class RunsCode:
    def __reduce__(self):
        return os.mkdir, ("code_ran",)


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "damaged or not a checkpoint"),
        (b"no checkpoint at all", "not a checkpoint"),
        (pickle.dumps({"model": RunsCode()}), "not a checkpoint"),
        ({"model": RunsCode()}, "would run code"),
        ([1, 2], "no state_dict"),
        ({"weights": 1}, "no state_dict"),
        (collections.OrderedDict(DeepFuse().state_dict()), "no state_dict"),
        (state(**{"c3.0.bias": None}), "Missing key.*c3.0.bias"),
        (state(**{"c9.0.bias": torch.zeros(1)}), "Unexpected key.*c9.0.bias"),
        (state(**{"c3.0.bias": torch.zeros(7)}), "size mismatch for c3.0.bias"),
        (state(**{"c3.0.bias": "text"}), "c3.0.bias"),
        ({"model": {"layer1.main.0.weight": torch.zeros(16, 1, 5, 5)}}, "Missing key"),
        ({**state(), "network": {"depth": 3}}, "depth"),
        ({**state(), "network": 7}, "does not fit"),
        ({**state(), "network": {"name": "unet"}}, "no network 'unet'"),
        ({**state(), "network": {"name": "pyramid"}}, "size mismatch for c1.0.weight"),
    ],
)
def test_files_that_are_no_checkpoint(content, reason, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "bad.pth"
    if isinstance(content, bytes):
        path.write_bytes(content)
    else:
        torch.save(content, path)
    with pytest.raises(ValueError, match=reason) as caught:
        load_model(str(path))
    assert str(caught.value).startswith(f"{path}: ")
    assert not (tmp_path / "code_ran").exists()


@pytest.mark.parametrize("legacy", [False, True])
@pytest.mark.parametrize("kept", [0.1, 0.5, 0.99])
def test_truncated_checkpoint(model, tmp_path, kept, legacy):
    path = tmp_path / "cut.pth"
    torch.save({"model": model.state_dict()}, path, _use_new_zipfile_serialization=not legacy)
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * kept)])
    with pytest.raises(ValueError, match="damaged or not a checkpoint"):
        load_model(str(path))


def test_missing_checkpoint(tmp_path):
    with pytest.raises(FileNotFoundError):
        load_model(str(tmp_path / "none.pth"))


def test_failed_save_leaves_the_old_checkpoint(model, tmp_path):
    path = tmp_path / "latest.pth"
    save_checkpoint(str(path), {"model": model.state_dict()})
    before = path.read_bytes()
    with pytest.raises((pickle.PicklingError, AttributeError, TypeError)):
        save_checkpoint(str(path), {"model": model.state_dict(), "bad": lambda: None})
    assert path.read_bytes() == before
    assert os.listdir(tmp_path) == ["latest.pth"]


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
