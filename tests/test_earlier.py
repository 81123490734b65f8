"""Earlier programs, followed to the level: the authors' release and the earlier implementation."""

from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from conftest import luma, released_weights

import earlier
import fusion
import utils
from checkpoint import load_model, read_released, summary
from model import DeepFuse, ReleasedDeepFuse, prepare

OFFICIAL = Path(__file__).parent.parent.parent / "shared" / "official"


@pytest.fixture(scope="module")
def released():
    torch.manual_seed(0)
    return ReleasedDeepFuse().eval()


@pytest.fixture
def weights():
    return released_weights()


def convolved(planes, kernels):
    """The leaky ReLU of a true convolution of (C, H, W) padded with zeros, pixel by pixel."""
    side = kernels.shape[-1]
    padded = np.pad(planes, [(0, 0), *[(side // 2, side // 2)] * 2])
    result = np.empty((len(kernels), *planes.shape[1:]))
    for i, j in np.ndindex(planes.shape[1:]):
        window = padded[:, i : i + side, j : j + side][:, ::-1, ::-1]
        result[:, i, j] = np.tensordot(kernels, window, 3)
    return np.where(result > 0, result, 0.01 * result)


@pytest.mark.parametrize("count", [2, 3])
def test_released_network_is_its_definition(weights, tmp_path, count):
    np.savez(tmp_path / "model.npz", **weights)
    network = prepare(load_model(tmp_path / "model.npz"))
    levels = np.random.default_rng(1).integers(16, 236, (count, 17, 22))
    features = 0
    for plane in levels:
        features = features + convolved(convolved(plane[None], weights["arr_0"]), weights["arr_1"])
    features = features * 2 / count
    for i in range(2, 6):
        features = convolved(features, weights[f"arr_{i}"])
    expected = (features - features.min()) / (features.max() - features.min())
    stack = torch.from_numpy((levels - 16) / 219).float()[:, None, None]
    with torch.no_grad():
        found = network(*stack)
    np.testing.assert_allclose(found[0].numpy(), expected, atol=1e-5)


def test_exposures_of_one_value_are_black_and_not_nan(released):
    with torch.no_grad():
        result = released(*torch.zeros(2, 1, 1, 1, 1))
    assert result == 0


@pytest.mark.parametrize("precision", ["bfloat16", "float16"])
def test_released_network_computes_in_float32(released, precision):
    assert prepare(released, "auto").c3[0].weight.dtype == torch.float32
    with pytest.raises(ValueError, match=f"float32, not {precision}"):
        prepare(released, precision)


@pytest.mark.parametrize("colour", [True, False])
def test_tiles_see_the_whole_picture(released, colour):
    images = [(luma(50, 61, 3, seed=k).numpy() * 200).astype(np.uint8) for k in range(2)]
    images = images if colour else [image[..., 0] for image in images]
    whole = fusion.fuse(released, images)
    tiled = fusion.fuse(released, images, fusion.Options(tile=20)).astype(int)
    assert np.abs(tiled - whole).max() <= 1


def changed(weights, name, value):
    return {key: array for key, array in {**weights, name: value}.items() if array is not None}


@pytest.mark.parametrize(
    ("name", "value", "reason"),
    [
        ("arr_3", None, "has the arrays arr_0, .*arr_2, arr_4"),
        ("arr_6", np.zeros(1), "has the arrays"),
        ("arr_2", np.zeros((64, 64, 5, 5)), r"arr_2 is .*\(64, 64, 5, 5\), not .*\(64, 64, 7, 7\)"),
        ("arr_5", np.zeros((1, 16, 7, 7), int), "arr_5 is int64"),
        ("arr_1", np.array([{}]), "arr_1 is damaged .*allow_pickle"),
        ("arr_0", np.full((32, 1, 3, 3), np.nan), "not finite"),
    ],
)
def test_arrays_that_are_not_the_released_network(weights, tmp_path, name, value, reason):
    path = tmp_path / "DF_model.npz"
    np.savez(path, **changed(weights, name, value))
    with pytest.raises(ValueError, match=reason) as caught:
        load_model(path)
    assert str(caught.value).startswith(f"{path}: ")


@pytest.mark.parametrize("kept", [0.3, 0.99])
def test_cut_and_changed_files(weights, tmp_path, kept):
    path = tmp_path / "DF_model.npz"
    np.savez(path, **weights)
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * kept)])
    with pytest.raises(ValueError, match="damaged or not a checkpoint"):
        load_model(path)
    path.write_bytes(data[:5000] + bytes(1000) + data[6000:])
    with pytest.raises(ValueError, match="arr_1 is damaged"):
        load_model(path)


def test_released_network_is_known_by_its_content(weights, tmp_path):
    np.savez(tmp_path / "model.npz", **weights)
    path = (tmp_path / "model.npz").rename(tmp_path / "latest.pth")
    assert isinstance(load_model(path), ReleasedDeepFuse)
    assert "network: ReleasedDeepFuse (name released), 316976 parameters" in list(summary(path))


def test_imadjust():
    # 1 of 50 pixels is 2 %, so that 10 and 250 are the first levels beyond 1 % at either end.
    levels = np.full(50, 100)
    levels[0], levels[1] = 10, 250
    y = (levels / 255).reshape(1, 1, 5, 10)
    expected = ((levels - 10) / 240).reshape(y.shape)
    np.testing.assert_allclose(earlier.adjusted(y), expected)
    many = np.linspace(0, 1, 1001).reshape(1, 1, 7, 143)
    found = np.rint(earlier.adjusted(many) * 255)
    assert (found == 0).mean() == pytest.approx(0.01, abs=0.006)
    assert (found == 255).mean() == pytest.approx(0.01, abs=0.006)
    flat = np.full((1, 1, 4, 4), 0.2)
    np.testing.assert_allclose(earlier.adjusted(flat), flat)


# MATLAB's rgb2ycbcr: RGB in [0, 1] to Y, Cb, Cr in levels
TO_LEVELS = np.array([[65.481, 128.553, 24.966], [-37.797, -74.203, 112], [112, -93.786, -18.214]])
OFFSET = np.array([16, 128, 128])


def test_colour_of_the_released_program(released):
    """Y is stretched once more, and all is held in the levels 16 to 235 and 16 to 240."""
    images = [(luma(24, 37, 3, seed=k).numpy() * (120 + 100 * k)).astype(np.uint8) for k in (0, 1)]
    levels = [np.rint(image / 255 @ TO_LEVELS.T + OFFSET) for image in images]
    with torch.no_grad():
        y = released(
            *(torch.from_numpy((x[..., 0] - 16) / 219).float()[None, None] for x in levels)
        )
    y = np.rint(y[0, 0].numpy() * 255) / 255
    low, high = (np.quantile(y, q, method="inverted_cdf") for q in (0.01001, 0.99))
    y = 16 + 219 * np.clip((y - low) / (high - low), 0, 1)
    offsets = np.stack([x[..., 1:] - 128 for x in levels])
    total = np.abs(offsets).sum(axis=0)
    chroma = 128 + (offsets * np.abs(offsets)).sum(axis=0) / np.maximum(total, 1)
    ycbcr = np.rint(np.dstack([y, chroma]))
    rgb = np.clip((ycbcr - OFFSET) @ np.linalg.inv(TO_LEVELS).T, 0, 1) * 255
    difference = np.abs(fusion.fuse(released, images).astype(int) - np.rint(rgb))
    assert (difference > 1).mean() < 0.002  # A level of Cb that rounds the other way is 2 of blue.
    assert difference.max() <= 3


def test_look_of_the_earlier_implementation():
    """Chroma by one weight for a picture, and levels that are cut off; by OpenCV's conversions."""
    torch.manual_seed(1)
    network = DeepFuse(padding="zeros").eval()
    images = [(luma(40, 53, 3, seed=k).numpy() * (90 + 150 * k)).astype(np.uint8) for k in (0, 1)]
    held = [cv2.cvtColor(image, cv2.COLOR_RGB2YCrCb).astype(np.float32) for image in images]
    with torch.no_grad():
        y = network(*(torch.from_numpy(x[..., 0] / 255)[None, None] for x in held))[0, 0].numpy()
    weights = [np.abs(x[..., 1:] - 128).mean(axis=(0, 1)) for x in held]
    chroma = sum(w * x[..., 1:] for w, x in zip(weights, held, strict=True)) / sum(weights)
    ycrcb = np.dstack([y * 255 + 1e-3, chroma + 1e-3]).astype(np.uint8)
    expected = cv2.cvtColor(ycrcb, cv2.COLOR_YCrCb2RGB).astype(int)
    found = fusion.fuse(network, images, fusion.Options(look="earlier")).astype(int)
    assert (found != expected).mean() < 0.002  # A value between two levels may fall to either.
    assert np.abs(found - expected).max() <= 2
    paper = fusion.fuse(network, images).astype(int)
    assert np.abs(paper - expected).mean() > 2


def test_grey_stays_grey_in_the_earlier_look(model):
    grey = [
        np.repeat((luma(30, 31, 1, seed=k).numpy() * 255).astype(np.uint8), 3, 2) for k in (0, 1)
    ]
    result = fusion.fuse(model, grey, fusion.Options(look="earlier"))
    assert np.ptp(result.astype(int), axis=2).max() == 0


@pytest.mark.slow
@pytest.mark.skipif(not OFFICIAL.exists(), reason="needs the network that the authors released")
@pytest.mark.parametrize("name", ["forth4", "montsaint", "stream1"])
def test_parity_with_the_release(name):
    """Every pixel within a level of what the authors' program wrote."""
    picture = utils.read_image(str(OFFICIAL / f"{name}_input.png"))
    expected = utils.read_image(str(OFFICIAL / f"{name}_fused_luma.png"))
    exposures = [(picture[..., channel].astype(np.float32) - 16) / 219 for channel in (2, 0)]
    network = prepare(load_model(OFFICIAL / "DF_model_Epoch99.npz"))
    found = fusion.fuse(network, exposures, fusion.Options(dtype=np.uint8)).astype(int)
    assert np.abs(found - expected).max() <= 1
    assert (found != expected).mean() < 0.001


def test_kernels_are_turned(weights, tmp_path):
    np.savez(tmp_path / "model.npz", **weights)
    state = read_released(tmp_path / "model.npz")
    assert state["c6.0.weight"][0, 3, 0, 1] == weights["arr_5"][0, 3, 6, 5]
