"""Arrays in, fused array out."""

import os
import re
import threading

import numpy as np
import pytest
import torch
from conftest import expose, scene

import fusion
import loss
import scores
import tiles
import upsample
import utils
from arrays import halve
from checkpoint import load_model
from finish import Steady
from model import BetweenNetwork, DeepFuse, PyramidDeepFuse, ShiftedSum, prepare
from opts import WEIGHTS

CPU = torch.device("cpu")


def as_stack(images):
    """Returns pictures as tensors of Y, Cb, Cr, each (1, 3, H, W)."""
    return [torch.from_numpy(utils.to_ycbcr(image)) for image in images]


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    return DeepFuse().eval()


@pytest.fixture(scope="module")
def pyramid():
    torch.manual_seed(0)
    network = PyramidDeepFuse().eval()
    torch.nn.init.normal_(network.c5[0].weight, std=0.05)  # zero at first
    return network


def test_chroma_is_weighted_by_its_distance_from_grey():
    # Offsets from tau on the 8-bit scale, K = 2: (+30, -10) gives (30*30 - 10*10)/40 = 20.
    offset = np.array([[30.0, 0, 0, -50], [-10, 0, 7, -50]]) / 255
    expected = np.array([20.0, 0, 7, -50]) / 255
    np.testing.assert_allclose(fusion.fuse_chroma(offset + 0.5) - 0.5, expected, atol=1e-9)
    np.testing.assert_allclose(fusion.fuse_chroma(offset[::-1] + 0.5) - 0.5, expected, atol=1e-9)
    three = np.array([10.0, -20, 30]) / 255
    value = fusion.fuse_chroma(three + 0.5) - 0.5
    assert value * 255 == pytest.approx((100 - 400 + 900) / 60, abs=1e-4)


def test_looks(model, pair):
    paper = fusion.fuse(model, pair)
    assert np.array_equal(paper, fusion.fuse(model, pair, fusion.Options(look="paper", fast=False)))
    between = BetweenNetwork()
    assert not np.array_equal(paper, fusion.fuse(between, pair, fusion.Options(look="photo")))
    for network, look in ((model, "photo"), (between, "paper"), (between, "earlier")):
        with pytest.raises(ValueError, match=f"{look!r} is made by another network"):
            fusion.fuse(network, pair, fusion.Options(look=look))


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"look": "Paper"}, "look must be one of paper, photo, earlier, not 'Paper'"),
        ({"look": "photo", "fast": True}, "look 'photo' is not fast"),
        ({"look": "earlier", "fast": True}, "look 'earlier' is not fast"),
        ({"finish": float("nan")}, "finish must lie in 0 to 2, not nan"),
        ({"finish": -0.1}, "finish must lie in 0 to 2"),
        ({"tile": -5}, "tile must be 1 or more, not -5"),
        ({"tile": 0}, "tile must be 1 or more, not 0"),
        ({"dtype": np.int32}, "dtype must be uint8, uint16 or a float, not int32"),
        ({"steady": Steady()}, "look 'paper' is neither steady nor alike"),
    ],
)
def test_options_that_make_no_sense(options, reason):
    with pytest.raises(ValueError, match=re.escape(reason)):
        fusion.Options(**options)


def literal_fusion(model, images, dtype):
    """The definition on the whole picture at once, with chroma pixel by pixel in float64."""
    stack = as_stack(images)
    with torch.no_grad():
        y = model(*(image[:, :1] for image in stack))
    chroma = np.stack([image[0, 1:].numpy().astype(float) for image in stack])
    fused = np.full(chroma.shape[1:], 0.5)
    for index in np.ndindex(fused.shape):
        c = chroma[(slice(None), *index)]
        if np.abs(c - 0.5).sum() > 0:
            fused[index] = (c * np.abs(c - 0.5)).sum() / np.abs(c - 0.5).sum()
    ycbcr = np.concatenate([y, fused[None]], axis=1, dtype=np.float32)
    return utils.from_ycbcr(ycbcr, dtype)


def test_fusion_is_its_definition(model, pair):
    difference = fusion.fuse(model, pair).astype(int) - literal_fusion(model, pair, np.uint8)
    # A value at the midpoint of two levels may round either way.
    assert np.abs(difference).max() <= 1
    assert (difference != 0).mean() < 1e-3


@pytest.mark.parametrize("padding", ["replicate", "zeros"])
@pytest.mark.parametrize("tile", [1, 20, 33, 64])
def test_tiles_equal_the_whole(pair, tile, padding):
    model = DeepFuse(padding=padding).eval()
    pair = [image.astype(np.uint16) * 257 for image in pair]
    if tile == 1:
        pair = [image[:9, :9] for image in pair]
    whole = fusion.fuse(model, pair, fusion.Options(tile=1000)).astype(int)
    # Other sizes may use other convolution kernels; rounding then differs by one 16-bit level.
    assert np.abs(fusion.fuse(model, pair, fusion.Options(tile=tile)) - whole).max() <= 1


def large_pair(dtype=np.uint16, height=190, width=231):
    radiance = scene(height, width, seed=5)
    pair = [expose(radiance, gain).astype(dtype) for gain in (0.3, 8.0)]
    return [image * dtype(np.iinfo(dtype).max // 255) for image in pair]


@pytest.mark.parametrize("tile", [31, 64, 100])
def test_tiles_of_a_pyramid_equal_the_whole(pyramid, tile):
    pair = large_pair()
    whole = fusion.fuse(pyramid, pair, fusion.Options(tile=1000)).astype(int)
    assert np.abs(fusion.fuse(pyramid, pair, fusion.Options(tile=tile)) - whole).max() <= 1
    stack = as_stack(pair)
    with torch.no_grad():
        y = pyramid(*(image[:, :1] for image in stack))
    chroma = fusion.fuse_chroma(np.stack([image[:, 1:] for image in stack]))
    expected = utils.from_ycbcr(np.concatenate([y, chroma], axis=1), np.uint16)
    assert np.abs(whole - expected).max() <= 1


@pytest.mark.parametrize("how", [{}, {"fast": True}, {"look": "photo"}])
@pytest.mark.parametrize("shape", [(1, 1), (1, 40), (13, 2), (12, 12), (25, 90), (3, 2100)])
def test_any_size(model, pyramid, shape, how):
    rng = np.random.default_rng(0)
    images = [rng.integers(low, low + 60, (*shape, 3)).astype(np.uint8) for low in (0, 190)]
    for network in [BetweenNetwork()] if how.get("look") == "photo" else [model, pyramid]:
        fused = fusion.fuse(network, images, fusion.Options(**how))
        assert fused.shape == (*shape, 3)


def level_difference(one, other):
    return np.abs(one.astype(int) - other)


@pytest.mark.parametrize("weights", ["deepfuse.pth", "pyramid.pth"])
@pytest.mark.parametrize("precision", ["float32", "bfloat16", "auto"])
def test_prepared_networks_fuse_the_same(weights, precision):
    network = load_model(os.path.join(os.path.dirname(WEIGHTS), weights))
    pair = large_pair(np.uint8)
    expected = fusion.fuse(network, pair)
    difference = level_difference(fusion.fuse(prepare(network, precision), pair), expected)
    assert (difference > 1).mean() <= 0.001
    if precision == "float32":
        assert (difference > 0).mean() < 0.01
    # What was prepared is a copy.
    assert np.array_equal(fusion.fuse(network, pair), expected)


@pytest.mark.parametrize("padding", ["replicate", "zeros"])
def test_batch_norm_is_folded(pair, padding):
    torch.manual_seed(0)
    network = DeepFuse(batch_norm=True, padding=padding)
    network(*(torch.rand(2, 1, 40, 40) for _ in range(2)))  # gives it running statistics
    prepared = prepare(network.eval(), "float32")
    assert not any(isinstance(layer, torch.nn.BatchNorm2d) for layer in prepared.modules())
    assert level_difference(fusion.fuse(prepared, pair), fusion.fuse(network, pair)).max() <= 1


def test_a_bfloat16_network_gives_16_bit_pictures():
    """No banding: C5 is not rounded to the 256 levels that bfloat16 has towards white."""
    torch.manual_seed(0)
    ramp = np.tile(np.linspace(30000, 65535, 4000), (30, 1)).astype(np.uint16)
    fused = fusion.fuse(prepare(DeepFuse(), "bfloat16"), [ramp // 4, ramp])
    assert len(np.unique(fused[15])) > 1000


@pytest.mark.parametrize("padding", [0, 2])
def test_shifted_sum_is_the_convolution(padding):
    torch.manual_seed(0)
    convolution = torch.nn.Conv2d(3, 1, (5, 3), padding=padding)
    x = torch.rand(2, 3, 9, 12)
    torch.testing.assert_close(ShiftedSum(convolution)(x), convolution(x).detach())


@pytest.mark.parametrize("error", [MemoryError(), RuntimeError("DefaultCPUAllocator: no memory")])
def test_less_memory_gives_smaller_tiles(error):
    """Of a device that has memory for 40 x 40 pixels, and runs out half-way."""
    done = np.zeros((150, 130), int)
    failures = []

    def work(outer, inner, place):
        if outer[0].start > 0 and (outer[0].stop - outer[0].start) > 40:
            failures.append(outer)
            raise error
        block = np.ones_like(done[outer])
        done[place] += block[inner]

    tiles.in_tiles(work, done.shape, 64, halo=4, device=CPU)
    assert (done == 1).all()
    assert 1 <= len(failures) <= 6  # of 43 to 58 pixels, each once; half as large, they fit
    with pytest.raises(MemoryError):
        tiles.in_tiles(lambda *_: (_ for _ in ()).throw(error), (50, 50), 64, 0, CPU)


def test_threads_share_the_tiles_and_those_of_pytorch():
    seen = []
    threads = torch.get_num_threads()
    torch.set_num_threads(2)
    both = threading.Barrier(2, timeout=60)  # which one thread alone would not pass

    def work(_outer, _inner, place):
        both.wait()
        seen.append((str(place), torch.get_num_threads()))

    places = [str((slice(0, 20), columns)) for columns in (slice(0, 25), slice(25, 50))]
    try:
        tiles.in_tiles(work, (20, 50), 25, 0, CPU)
        assert sorted(seen) == [(place, 1) for place in places]
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(threads)


def test_the_result_can_take_the_first_pictures_place(model):
    pair = large_pair(np.uint8)
    expected = fusion.fuse(model, pair, fusion.Options(fast=True))
    first = pair[0].copy()
    assert fusion.fuse(model, pair, fusion.Options(fast=True)) is not pair[0]
    assert np.array_equal(pair[0], first)
    fused = fusion.fuse(model, pair, fusion.Options(fast=True), out=pair[0])
    assert fused is pair[0]
    assert np.array_equal(fused, expected)


def test_no_tile_overwrites_what_its_neighbour_reads(model):
    """With halos the result has to wait until all tiles are done, as NumPy's out= does."""
    pair = large_pair(np.uint8)
    expected = fusion.fuse(model, pair, fusion.Options(tile=64, fast=False))
    assert fusion.fuse(model, pair, fusion.Options(tile=64, fast=False), out=pair[1]) is pair[1]
    assert np.array_equal(pair[1], expected)


def test_out_has_to_fit(model, pair):
    out = np.zeros(pair[0].shape, np.uint16)
    fused = fusion.fuse(model, pair, out=out)
    assert fused is out
    assert np.array_equal(out, fusion.fuse(model, pair, fusion.Options(dtype=np.uint16)))
    eight = fusion.Options(dtype=np.uint8)
    for options, bad in ((fusion.PAPER, out[:-1]), (fusion.PAPER, out[..., 0]), (eight, out)):
        with pytest.raises(ValueError, match="out must have shape"):
            fusion.fuse(model, pair, options, bad)


def test_other_errors_are_not_taken_for_memory():
    def work(*_):
        raise RuntimeError("something else")

    with pytest.raises(RuntimeError, match="something else"):
        tiles.in_tiles(work, (50, 50), 64, 0, CPU)


@pytest.mark.parametrize("factor", [1, 2, 5])
def test_parts_are_enlarged_as_the_whole_is(factor):
    image = np.random.default_rng(0).random((1, 2, 9, 14), np.float32)
    tensor = torch.from_numpy(image)
    whole = torch.nn.functional.interpolate(tensor, scale_factor=factor, mode="bilinear")
    for place in tiles.cut((slice(0, 9 * factor - 1), slice(0, 14 * factor)), 7):
        part = fusion.enlarge(image, factor, place)
        np.testing.assert_allclose(part, whole[(..., *place)], atol=1e-5)  # OpenCV's


def test_halved_pictures_are_means(pair):
    image = pair[0][:60, :75]
    both = upsample.halve_pictures([image, pair[1][:60, :75]])
    assert np.array_equal(both[:1], halve(utils.to_luma(image)))
    grey = scores.to_grey(image)
    halved = upsample.halve_pictures([grey, grey])
    expected = grey[:, :74].reshape(30, 2, 37, 2).mean(axis=(1, 3)) / 255
    np.testing.assert_allclose(halved[1, 0, :, :37], expected, atol=1e-6)
    edge = grey[:, 74].reshape(30, 2).mean(axis=1) / 255
    np.testing.assert_allclose(halved[1, 0, :, 37], edge, atol=1e-6)


@pytest.mark.parametrize("count", [1, 2, 4])
def test_solve(count):
    rng = np.random.default_rng(0)
    root = rng.normal(size=(6, count, count))
    matrix = root @ root.transpose(0, 2, 1) + 0.1 * np.eye(count)
    right = rng.normal(size=(6, count))
    expected = np.linalg.solve(matrix, right[..., None])[..., 0]
    x = upsample.solve(matrix.transpose(1, 2, 0).copy(), right.T.copy())
    np.testing.assert_allclose(x.T, expected, rtol=1e-9)


@pytest.mark.parametrize("channels", [1, 2])
def test_linear_models_find_a_linear_function_and_else_the_mean(channels):
    sources = np.random.default_rng(0).random((3, channels, 40, 50), np.float32)
    gain, constant = np.array([0.7, -0.2, 0.4], np.float32), np.float32([0.05, -0.1][:channels])
    fused = np.tensordot(gain, sources, 1) + constant[:, None, None]
    models = upsample.linear_models(sources, fused[None], 17)
    expected = np.concatenate([gain, constant])[:, None, None]
    # within what RIDGE, against a variance of 1/12, and float32's rounding change
    np.testing.assert_allclose(models - expected, 0, atol=1e-3)
    flat = np.full((2, channels, 40, 50), 0.2, np.float32)
    models = upsample.linear_models(flat, flat[:1] + 0.1, 17)
    expected = np.array([0.5, 0.5, *[0.1] * channels])[:, None, None]
    # float32's rounding of a variance of 0, about 1e-8, against RIDGE
    np.testing.assert_allclose(models - expected, 0, atol=2e-3)


def smooth_pair(height=400, width=610):
    """Detail of 20 pixels and more, which reducing keeps."""
    radiance = torch.from_numpy(scene(height // 10, width // 10, seed=5)).float()
    radiance = radiance.permute(2, 0, 1)[None]
    radiance = torch.nn.functional.interpolate(radiance, (height, width), mode="bicubic")
    radiance = radiance[0].permute(1, 2, 0).clamp(min=0).numpy()
    return [expose(radiance, gain) for gain in (0.3, 8.0)]


def grey_score(fused, images):
    return scores.mefb_score(scores.to_grey(fused), [scores.to_grey(image) for image in images])


def test_fast_fusion_is_near_the_full_one_and_keeps_detail(monkeypatch):
    network = load_model(WEIGHTS)
    pair = smooth_pair()
    monkeypatch.setattr(fusion, "REDUCED", 200)
    fast = fusion.fuse(network, pair, fusion.Options(fast=True))
    assert fast.shape == pair[0].shape
    fine = large_pair(np.uint8, 400, 610)
    shrunk = fusion.fuse(network, [image[::3, ::3] for image in fine])
    blurred = np.repeat(np.repeat(shrunk, 3, axis=0), 3, axis=1)[:400, :610]
    score = grey_score(fusion.fuse(network, fine, fusion.Options(fast=True)), fine)
    assert grey_score(fast, pair) > 0.97
    assert score > 0.98
    assert score > grey_score(blurred, fine) + 0.05


def test_fast_fusion_does_not_depend_on_tiles(pyramid, monkeypatch):
    monkeypatch.setattr(fusion, "REDUCED", 70)
    pair = large_pair()
    whole = fusion.fuse(pyramid, pair, fusion.Options(fast=True, tile=1000))
    assert (
        level_difference(
            fusion.fuse(pyramid, pair, fusion.Options(fast=True, tile=40)), whole
        ).max()
        <= 1
    )


def test_linear_models_in_tiles_are_those_of_the_whole(model, monkeypatch):
    pair = large_pair()
    whole = fusion.fuse(model, pair, fusion.Options(fast=True))
    monkeypatch.setattr(fusion, "PLAIN_TILE", 50)
    tiled = fusion.fuse(model, pair, fusion.Options(fast=True, tile=256))
    assert np.abs(tiled.astype(int) - whole).max() <= 1  # of 65535 levels


def test_result_in_another_depth(model, pair):
    deep = fusion.fuse(model, pair, fusion.Options(dtype=np.uint16))
    assert deep.dtype == np.uint16
    assert np.abs(utils.to_8_bit(deep).astype(int) - fusion.fuse(model, pair)).max() <= 1
    assert len(np.unique(deep)) > 256


def test_order_does_not_matter(model, pair):
    assert np.array_equal(fusion.fuse(model, pair), fusion.fuse(model, pair[::-1]))


def test_more_than_two(model, pair):
    middle = np.clip(pair[0].astype(int) * 2, 0, 255).astype(np.uint8)
    fused = fusion.fuse(model, [*pair, middle])
    assert fused.shape == pair[0].shape
    assert not np.array_equal(fused, fusion.fuse(model, pair))


def test_types_agree(model, pair):
    as_8_bit = fusion.fuse(model, pair)
    as_16_bit = fusion.fuse(model, [image.astype(np.uint16) * 257 for image in pair])
    as_float = fusion.fuse(model, [image.astype(np.float32) / 255 for image in pair])
    assert (as_8_bit.dtype, as_16_bit.dtype, as_float.dtype) == (np.uint8, np.uint16, np.float32)
    # float32 rounding of the inputs' values
    assert np.abs(as_16_bit / 65535 - as_float).max() < 1e-4
    assert np.abs(as_8_bit / 255 - as_float).max() <= 0.5 / 255 + 1e-4
    assert fusion.fuse(model, [pair[0], pair[1].astype(np.uint16) * 257]).dtype == np.uint16


def test_grey_in_grey_out(model, pair):
    grey = [scores.to_grey(image) for image in pair]
    fused = fusion.fuse(model, grey)
    assert fused.shape == grey[0].shape
    colour = fusion.fuse(model, [np.repeat(image[..., None], 3, axis=2) for image in grey])
    # Y of a grey RGB picture is that grey within rounding.
    assert np.abs(colour.astype(int) - fused[..., None]).max() <= 1


def test_16_bit_is_computed_in_16_bit(model):
    ramp = np.tile(np.linspace(0, 65535, 4000), (30, 1)).astype(np.uint16)
    fused = fusion.fuse(model, [ramp // 4, ramp])
    assert len(np.unique(fused[15])) > 1000


def test_panel(model, pair):
    width = pair[0].shape[1]
    parts = np.split(fusion.panel(model, *pair), 4, axis=1)
    assert np.array_equal(parts[0], pair[0])
    assert np.array_equal(parts[1], pair[1])
    assert np.array_equal(parts[2], fusion.fuse(model, pair))
    luma = torch.cat([image[:, :1] for image in as_stack(pair)], dim=1)
    y_hat = loss.y_hat(luma)[0, 0].numpy()
    shown = utils.to_ycbcr(parts[3])[0, 0]
    inside = ((parts[3] > 0) & (parts[3] < 255)).all(axis=2)
    assert inside.mean() > 0.5
    # rounding to 8 bits, three channels
    assert np.abs(shown - y_hat)[inside].max() < 1 / 255
    assert parts[3].shape[1] == width


@pytest.mark.parametrize(
    ("images", "message"),
    [
        ([np.zeros((4, 4, 3), np.uint8)], "two or more pictures, not 1"),
        ([np.zeros((4, 5, 3), np.uint8), np.zeros((4, 6, 3), np.uint8)], "5x4 and 6x4"),
        ([np.zeros((4, 4, 3), np.uint8), np.zeros((4, 4), np.uint8)], "grey and some in colour"),
        ([np.zeros((4, 4, 4), np.uint8)] * 2, "expected pictures of shape"),
        ([np.zeros((0, 4, 3), np.uint8)] * 2, "expected pictures of shape"),
        ([np.zeros((4, 4), np.int32)] * 2, "uint8, uint16, float32 or float64, not int32"),
        ([np.zeros((4, 4), np.float16)] * 2, "uint8, uint16, float32 or float64, not float16"),
        ([np.full((4, 4), 1.5)] * 2, "must lie in"),
        ([np.full((4, 4), np.nan)] * 2, "must lie in"),
    ],
)
def test_images_that_cannot_be_fused(model, images, message):
    with pytest.raises(ValueError, match=message):
        fusion.fuse(model, images)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU")
def test_cuda_equals_cpu(model, pair):
    expected = fusion.fuse(model, pair).astype(int)
    on_gpu = fusion.fuse(model.to("cuda"), pair)
    model.to("cpu")
    assert np.abs(on_gpu - expected).max() <= 1
