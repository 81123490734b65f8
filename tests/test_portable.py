"""The network of photos without PyTorch, beside that of PyTorch."""

import importlib.util
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import expose, luma, scene

import between
import export
import fusion
import portable
from checkpoint import load_between
from opts import BETWEEN

needs_onnx = pytest.mark.skipif(importlib.util.find_spec("onnx") is None, reason="needs onnx")


@pytest.fixture(scope="module")
def network():
    return portable.OnnxBetween(BETWEEN)


@pytest.mark.parametrize("count", [2, 3, 5])
@pytest.mark.parametrize("shape", [(1, 1), (7, 90), (61, 75), (150, 131)])
def test_told_exposures(network, count, shape):
    stack, wanted = luma(1, count, 3, *shape), torch.tensor([0.4])
    with torch.no_grad():
        expected = load_between(BETWEEN)(stack, wanted).numpy()
    found = between.tell(network, between.look(network, stack.numpy()), wanted.numpy())
    np.testing.assert_allclose(found, expected, atol=1e-5)


@pytest.mark.parametrize("options", [{}, {"finish": 0.0}, {"finish": 0.7}])
@pytest.mark.parametrize("gains", [(0.3, 8.0), (0.2, 1.0, 6.0)])
@pytest.mark.parametrize("shape", [(190, 231), (700, 900)])
def test_photos_are_those_of_pytorch(network, shape, gains, options):
    radiance = scene(*shape, seed=5)
    images = [expose(radiance, gain) for gain in gains]
    one, other = (
        fusion.fuse(net, images, fusion.Options(look="photo", **options)).astype(int)
        for net in (network, load_between(BETWEEN))
    )
    difference = np.abs(one - other)
    assert (difference > 1).mean() < 1e-4
    assert (difference > 0).mean() < 0.01


def test_ten_runs_and_several_threads_give_the_same(network):
    images = [expose(scene(190, 231, seed=5), gain) for gain in (0.3, 8.0)]

    def photo(_):
        return fusion.fuse(network, images, fusion.Options(look="photo"))

    first = photo(None)
    with ThreadPoolExecutor(3) as pool:
        assert all(np.array_equal(first, other) for other in pool.map(photo, range(10)))


@needs_onnx
def test_the_files_hold_the_layers_of_the_checkpoint(tmp_path):
    res = tmp_path / "between.onnx"
    assert export.main(["--layers", "--model", BETWEEN, "--res", str(res)]) == 0
    for part in portable.PARTS:
        ours, written = (
            Path(portable.onnx_beside(str(path), part)).read_bytes() for path in (BETWEEN, res)
        )
        assert ours == written


def test_files_that_cannot_be_used(tmp_path):
    with pytest.raises(OSError, match="none_surroundings"):
        portable.OnnxBetween(str(tmp_path / "none.pth"))
    for name, data in (("empty", b""), ("text", b"no network"), ("cut", None)):
        path = tmp_path / f"{name}.onnx"
        with open(portable.onnx_beside(BETWEEN, "surroundings"), "rb") as file:
            path.write_bytes(file.read()[:5000] if data is None else data)
        with pytest.raises(ValueError, match=f"{name}.onnx: OpenCV cannot use it"):
            portable.OnnxLayers(path)


def test_one_call_makes_a_photo(network):
    images = [expose(scene(190, 231, seed=5), gain) for gain in (0.3, 8.0)]
    options = fusion.Options(look="photo", finish=0.5)
    expected = fusion.fuse(network, images, options)
    assert np.array_equal(fusion.make_photo(images, finish=0.5), expected)
