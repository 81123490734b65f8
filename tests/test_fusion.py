"""Arrays in, fused array out."""

import numpy as np
import pytest
import torch

import fusion
import loss
import utils
from model import DeepFuse


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    return DeepFuse().eval()


def test_chroma_is_weighted_by_its_distance_from_grey():
    # Offsets from tau on the 8-bit scale, K = 2: (+30, -10) gives (30*30 - 10*10)/40 = 20.
    offset = torch.tensor([[30.0, 0, 0, -50], [-10, 0, 7, -50]]) / 255
    expected = torch.tensor([20.0, 0, 7, -50]) / 255
    torch.testing.assert_close(fusion.fuse_chroma(offset + 0.5) - 0.5, expected)
    torch.testing.assert_close(fusion.fuse_chroma(offset.flip(0) + 0.5) - 0.5, expected)
    three = torch.tensor([10.0, -20, 30]) / 255
    value = fusion.fuse_chroma(three + 0.5) - 0.5
    assert value.item() * 255 == pytest.approx((100 - 400 + 900) / 60, abs=1e-4)


def literal_fusion(model, images, dtype):
    """The definition on the whole picture at once, with chroma pixel by pixel in float64."""
    stack = [utils.to_ycbcr(image) for image in images]
    with torch.no_grad():
        y = model(*(image[:, :1] for image in stack))
    chroma = np.stack([image[0, 1:].numpy().astype(float) for image in stack])
    fused = np.full(chroma.shape[1:], 0.5)
    for index in np.ndindex(fused.shape):
        c = chroma[(slice(None), *index)]
        if np.abs(c - 0.5).sum() > 0:
            fused[index] = (c * np.abs(c - 0.5)).sum() / np.abs(c - 0.5).sum()
    ycbcr = torch.cat([y, torch.from_numpy(fused).float()[None]], dim=1)
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
    whole = fusion.fuse(model, pair, tile=1000).astype(int)
    # Other sizes may use other convolution kernels; rounding then differs by one 16-bit level.
    assert np.abs(fusion.fuse(model, pair, tile=tile) - whole).max() <= 1


@pytest.mark.parametrize("shape", [(1, 1), (1, 40), (13, 2)])
def test_any_size(model, shape):
    images = [np.full((*shape, 3), level, np.uint8) for level in (20, 230)]
    assert fusion.fuse(model, images).shape == (*shape, 3)


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
    grey = [utils.to_gray(image) for image in pair]
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
    luma = torch.cat([utils.to_ycbcr(image)[:, :1] for image in pair], dim=1)
    y_hat = loss.y_hat(luma)[0, 0].numpy()
    shown = utils.to_ycbcr(parts[3])[0, 0].numpy()
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
        ([np.zeros((4, 4), np.int32)] * 2, "uint8, uint16 or float, not int32"),
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
