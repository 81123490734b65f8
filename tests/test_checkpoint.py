"""Checkpoint files of ours, of the earlier implementation and of neither."""

import collections
import math
import os
import pickle

import numpy as np
import pytest
import torch
from conftest import luma
from torch import nn

import checkpoint
from checkpoint import State, load_between, load_checkpoint, load_model, save_checkpoint
from model import NETWORKS, DeepFuse, build


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


@pytest.mark.parametrize("name", ["deepfuse", "pyramid"])
def test_width_and_name_are_kept_in_a_checkpoint(tmp_path, name):
    network = build(name, width=4).eval()
    path = tmp_path / "net.pth"
    save_checkpoint(str(path), {"model": network.state_dict(), "network": network.settings})
    loaded = load_model(str(path))
    assert type(loaded) is NETWORKS[name]
    y = luma(2, 1, 1, 70, 70).unbind()
    torch.testing.assert_close(loaded(*y), network(*y), atol=1e-5, rtol=0)
    assert loaded.c3[0].weight.shape == (8, 8, 7, 7)


def test_a_network_of_photos_is_kept_in_a_checkpoint_and_fuses_no_luma(tmp_path, model):
    network = build("between", width=4).eval()
    path, other = tmp_path / "between.pth", tmp_path / "luma.pth"
    save_checkpoint(str(path), {"model": network.state_dict(), "network": network.settings})
    save_checkpoint(str(other), {"model": model.state_dict(), "network": model.settings})
    assert load_between(str(path)).settings == {"name": "between", "width": 4}
    with pytest.raises(ValueError, match="a network of photos, which fuses no luma"):
        load_model(str(path))
    with pytest.raises(ValueError, match="a network that fuses luma, for --look paper"):
        load_between(str(other))


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
        ({**state(), "network": 7}, "its network is no dictionary"),
        ({**state(), "run": [1, 2]}, "its run is no dictionary"),
        ({**state(), "options": "x"}, "its options is no dictionary"),
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


def test_the_latest_before_becomes_the_previous(tmp_path, monkeypatch):
    latest, previous = (tmp_path / f"{name}.pth" for name in ("latest", "previous"))

    def save(number):
        checkpoint.save_latest(str(latest), {"model": {}, "number": number})

    def numbers():
        return [load_checkpoint(path)["number"] for path in (latest, previous)]

    save(1)
    assert os.listdir(tmp_path) == ["latest.pth"]
    save(2)
    assert numbers() == [2, 1]

    def no_link(*_):
        raise PermissionError("file systems such as FAT have no links")

    monkeypatch.setattr(os, "link", no_link)
    save(3)
    assert numbers() == [3, 2]
    assert sorted(os.listdir(tmp_path)) == ["latest.pth", "previous.pth"]


def test_the_best_does_without_what_only_training_needs(tmp_path):
    entries = {"model": {}, "trained": {}, "optimizer": {}, "scaler": {}, "run": {}, "epoch": 3}
    checkpoint.save_best(str(tmp_path / "best.pth"), entries)
    assert list(load_checkpoint(tmp_path / "best.pth")) == ["model", "run", "epoch"]


def test_what_cannot_be_written_names_the_file(tmp_path):
    path = tmp_path / "none" / "latest.pth"
    with pytest.raises(OSError, match="cannot be written") as caught:
        save_checkpoint(str(path), {"model": {}})
    assert str(caught.value) == f"{path}: cannot be written (No such file or directory)"


def test_an_epoch_that_is_finished_starts_the_next():
    state = State(epoch=4, step=7, loss_sum=3.0, loss=[0.1] * 4, lr=[1.0] * 4, seconds=[2.0] * 4)
    state.finish_epoch(0.5, 0.25, 1.5)
    assert (state.epoch, state.step, state.loss_sum) == (5, 0, 0.0)
    assert (state.loss[-1], state.lr[-1], state.seconds[-1]) == (0.5, 0.25, 1.5)


def test_the_recorded_code_is_that_of_all_files(tmp_path, monkeypatch):
    for name in ("checkpoint.py", "train.py"):
        (tmp_path / name).write_text("pass\n")
    monkeypatch.setattr(checkpoint, "__file__", str(tmp_path / "checkpoint.py"))

    def record():
        return checkpoint.run_record({"lr": 0.1, "init": None}, 1, torch.device("cpu"))

    before = record()
    assert before["command"] == "train.py --lr 0.1"
    assert before["processes"] == 1
    assert record() == before
    (tmp_path / "train.py").write_text("pass  # changed\n")
    assert record()["code"] != before["code"]


def test_summary_of_a_file_of_the_earlier_implementation(original, tmp_path):
    path = tmp_path / "latest.pth"
    torch.save({"model": original.state_dict(), "loss": [0.5, 0.25]}, path)
    lines = list(checkpoint.summary(path))
    assert lines[0] == f"file: {path}"
    assert lines[1].startswith("network: DeepFuse (name deepfuse, batch_norm False, padding zeros")
    assert lines[2] == "training loss of the last epoch: 0.2500"
    assert lines[3].startswith("here: computes in ")
    assert len(lines) == 4


@pytest.mark.parametrize("value", [math.nan, -1.0])
def test_statistics_that_make_no_network_are_refused(original, tmp_path, value):
    path = tmp_path / "bad.pth"
    for state in (original.state_dict(), DeepFuse(batch_norm=True).state_dict()):
        (key, *_) = (key for key in state if key.endswith("running_var"))
        state[key][0] = value
        ours = not any(key.startswith("layer") for key in state)
        torch.save({"model": state, **({"network": {"batch_norm": True}} if ours else {})}, path)
        with pytest.raises(ValueError, match=r"bad\.pth: has weights that are not finite"):
            load_model(path)


def test_zip_files_of_unknown_kinds_are_no_checkpoints(tmp_path):
    path = tmp_path / "x.pth"
    np.savez(path.with_suffix(".npz"), arr_0=np.zeros(3))
    data = bytearray(path.with_suffix(".npz").read_bytes())
    place = data.index(b"PK\x01\x02")
    data[place + 6 : place + 8] = (244).to_bytes(2, "little")  # the version that it needs
    path.write_bytes(data)
    with pytest.raises(ValueError, match=r"x\.pth: "):
        load_model(path)
