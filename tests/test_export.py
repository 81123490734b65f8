"""Networks as ONNX files, run by another program."""

import importlib.util
import os

import numpy as np
import pytest
import torch
from conftest import luma, released_weights

import export
from checkpoint import load_between, load_model
from model import DeepFuse, PyramidDeepFuse
from opts import BETWEEN, PYRAMID, WEIGHTS
from portable import PARTS, onnx_beside

missing = [name for name in export.PACKAGES if importlib.util.find_spec(name) is None]
needs_packages = pytest.mark.skipif(bool(missing), reason=f"needs {' and '.join(missing)}")


def run(*arguments):
    return export.main([*map(str, arguments)])


def fused(path, exposures):
    import onnxruntime

    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    return session.run(["fused"], {"exposures": exposures.numpy()})[0]


@needs_packages
@pytest.mark.parametrize("count", [2, 3])
def test_the_papers_network_takes_any_size(tmp_path, count, capsys):
    path = tmp_path / "network.onnx"
    assert run("--res", path, "--count", count, "--side", 40) == 0
    assert "largest difference from PyTorch" in capsys.readouterr().out
    network = load_model(WEIGHTS)
    for shape in ((30, 41), (120, 77)):
        exposures = luma(1, count, *shape)
        with torch.no_grad():
            expected = network(*exposures.split(1, dim=1)).numpy()
        np.testing.assert_allclose(fused(path, exposures), expected, atol=1e-5)


@needs_packages
def test_a_pyramid_has_the_levels_of_its_size(tmp_path):
    path = tmp_path / "network.onnx"
    assert run("--model", PYRAMID, "--res", path, "--side", 150, "--quiet") == 0
    network = load_model(PYRAMID)
    for shape in ((150, 170), (200, 133)):
        exposures = luma(1, 2, *shape)
        with torch.no_grad():
            expected = network(*exposures.split(1, dim=1)).numpy()
        np.testing.assert_allclose(fused(path, exposures), expected, atol=1e-5)
    assert fused(path, luma(1, 2, 500, 400)).shape == (1, 1, 500, 400)


@needs_packages
def test_a_network_without_finite_results_is_refused(tmp_path, capsys):
    network = DeepFuse()
    for parameter in network.parameters():
        parameter.data *= 1e25
    torch.save({"model": network.state_dict()}, tmp_path / "huge.pth")
    path = tmp_path / "network.onnx"
    assert run("--model", tmp_path / "huge.pth", "--res", path, "--side", 64) == 2
    assert "huge.pth: ONNX differs from PyTorch by up to inf" in capsys.readouterr().err
    assert not path.exists()


@pytest.mark.parametrize(("side", "levels"), [(63, 1), (64, 2), (127, 3), (128, 3), (512, 5)])
def test_levels(side, levels):
    assert export.levels_for(PyramidDeepFuse(), side) == levels
    assert export.levels_for(DeepFuse(), side) == 1


@needs_packages
def test_the_released_network(tmp_path):
    np.savez(tmp_path / "released.npz", **released_weights())
    path = tmp_path / "network.onnx"
    assert run("--model", tmp_path / "released.npz", "--res", path, "--side", 30, "--quiet") == 0
    assert fused(path, luma(1, 2, 25, 41)).min() == 0


@needs_packages
@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (["--model", BETWEEN], "a network of photos, which fuses no luma"),
        (["--model", WEIGHTS, "--layers"], "a network that fuses luma"),
        (["--layers", "--model", BETWEEN, "--res", "none/x.onnx"], "there is no folder none"),
        (["--model", "none.pth"], "No such file"),
        (["--res", "none/network.onnx"], "there is no folder none"),
    ],
)
def test_mistakes_get_one_line(tmp_path, monkeypatch, capsys, arguments, reason):
    monkeypatch.chdir(tmp_path)
    assert run(*arguments) == 2
    error = capsys.readouterr().err
    assert reason in error
    assert error.count("\n") == 1
    assert os.listdir(tmp_path) == []


def test_layers_have_no_count(capsys):
    with pytest.raises(SystemExit):
        run("--layers", "--count", 3)
    assert "leave out --count, --side" in capsys.readouterr().err


@needs_packages
def test_layers_that_differ_from_pytorch_are_not_written(tmp_path, monkeypatch, capsys):
    path = tmp_path / "layers.onnx"
    files = [onnx_beside(str(path), part) for part in PARTS]
    assert run("--layers", "--model", BETWEEN, "--res", path) == 0
    assert "largest difference from PyTorch" in capsys.readouterr().out
    assert sorted(map(str, tmp_path.iterdir())) == sorted(files)
    for file in files:
        os.remove(file)
    scaled = load_between(BETWEEN)
    scaled.c6[0].weight.data *= 1.1
    of_others = export.layers_to_onnx(scaled)
    monkeypatch.setattr(export, "layers_to_onnx", lambda network: of_others)
    assert run("--layers", "--model", BETWEEN, "--res", path) == 2
    assert "ONNX differs from PyTorch" in capsys.readouterr().err
    assert os.listdir(tmp_path) == []


@needs_packages
def test_a_file_that_differs_from_pytorch_is_not_written(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(export, "levels_for", lambda network, side: 1)
    path = tmp_path / "network.onnx"
    assert run("--model", PYRAMID, "--res", path, "--side", 150) == 2
    assert "ONNX differs from PyTorch" in capsys.readouterr().err
    assert not path.exists()


def test_missing_packages_are_named(monkeypatch, capsys):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    assert run() == 2
    reason = "needs onnx and onnxscript and onnxruntime: pip install -r requirements-export.txt"
    assert capsys.readouterr().err == f"export.py: {reason}\n"
