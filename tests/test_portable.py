"""Networks without PyTorch, beside those of PyTorch."""

import importlib.util
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from conftest import expose, luma, scene

import export
import fusion
import photos
import portable
from checkpoint import load_colour, load_model
from opts import COLOUR, PYRAMID

needs_onnx = pytest.mark.skipif(importlib.util.find_spec("onnx") is None, reason="needs onnx")


@pytest.fixture(scope="module")
def networks():
    return photos.load_portable(PYRAMID, COLOUR)


@pytest.mark.parametrize("count", [2, 3, 5])
@pytest.mark.parametrize("shape", [(1, 1), (7, 90), (61, 75), (150, 131)])
def test_a_level_of_the_pyramid(networks, count, shape):
    stack = luma(count, 1, *shape).split(1)
    context = luma(1, 1, *shape, seed=3)
    with torch.no_grad():
        expected = load_model(PYRAMID).fuse_level(stack, context).numpy()
    found = networks.luma.fuse_level([y.numpy() for y in stack], context.numpy())
    np.testing.assert_allclose(found, expected, atol=2e-6)


@pytest.mark.parametrize("count", [2, 4])
def test_factors_of_colour(networks, count):
    stack, y = luma(1, count, 3, 60, 83), luma(1, 1, 60, 83, seed=3)
    with torch.no_grad():
        expected = load_colour(COLOUR).factors(stack, y)
    found = networks.colour.factors(stack.numpy(), y.numpy())
    for part, other in zip(found, expected, strict=True):
        np.testing.assert_allclose(part, other.numpy(), atol=1e-5)


def test_radii_are_those_of_the_checkpoints(networks):
    assert networks.luma.radius == load_model(PYRAMID).radius
    assert networks.colour.radius == load_colour(COLOUR).radius


@pytest.mark.parametrize("options", [{}, {"finish": 0.0}, {"finish": 0.7, "strength": 0.6}])
@pytest.mark.parametrize("gains", [(0.3, 8.0), (0.2, 1.0, 6.0)])
@pytest.mark.parametrize("shape", [(190, 231), (700, 900)])
def test_photos_are_those_of_pytorch(networks, shape, gains, options):
    radiance = scene(*shape, seed=5)
    images = [expose(radiance, gain) for gain in gains]
    one, other = (
        fusion.fuse(luma, images, look="photo", colour=colour, **options).astype(int)
        for luma, colour in (networks, (load_model(PYRAMID), load_colour(COLOUR)))
    )
    difference = np.abs(one - other)
    assert (difference > 1).mean() < 1e-4
    assert (difference > 0).mean() < 0.01


def test_ten_runs_and_several_threads_give_the_same(networks):
    images = [expose(scene(190, 231, seed=5), gain) for gain in (0.3, 8.0)]

    def photo(_):
        return fusion.fuse(networks.luma, images, look="photo", colour=networks.colour)

    first = photo(None)
    with ThreadPoolExecutor(3) as pool:
        assert all(np.array_equal(first, other) for other in pool.map(photo, range(10)))


@needs_onnx
@pytest.mark.parametrize("checkpoint", [PYRAMID, COLOUR])
def test_the_files_hold_the_layers_of_the_checkpoints(tmp_path, checkpoint):
    path = tmp_path / "layers.onnx"
    assert export.main(["--layers", "--model", checkpoint, "--res", str(path)]) == 0
    assert path.read_bytes() == (tmp_path / photos.onnx_beside(checkpoint)).read_bytes()


def test_files_that_cannot_be_used(tmp_path):
    with pytest.raises(OSError, match="none"):
        portable.OnnxPyramid(tmp_path / "none.onnx")
    for name, data in (("empty", b""), ("text", b"no network"), ("cut", None)):
        path = tmp_path / f"{name}.onnx"
        with open(photos.onnx_beside(PYRAMID), "rb") as file:
            path.write_bytes(file.read()[:5000] if data is None else data)
        with pytest.raises(ValueError, match=f"{name}.onnx: OpenCV cannot use it"):
            portable.OnnxPyramid(path)
