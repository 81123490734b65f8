"""Pictures in and out, and their colour."""

import os

import cv2
import numpy as np
import pytest

import utils


def picture(dtype=np.uint8, shape=(20, 30, 3)):
    return utils.quantise(np.random.default_rng(0).random(shape), dtype)


@pytest.mark.parametrize("extension", [".png", ".tif", ".TIFF", ".bmp", ".webp", ".jpg"])
@pytest.mark.parametrize("shape", [(20, 30, 3), (20, 30)])
def test_8_bit_files_round_trip(tmp_path, extension, shape):
    path = str(tmp_path / f"x{extension}")
    image = cv2.GaussianBlur(picture(shape=shape), (0, 0), 3)
    utils.write_image(path, image)
    back = utils.read_image(path)
    if extension == ".webp" and image.ndim == 2:
        back = back[..., 0]  # WebP knows no grey
    assert back.shape == image.shape
    # JPEG and WebP are lossy.
    tolerance = 12 if extension in (".jpg", ".webp") else 0
    assert np.abs(back.astype(int) - image).max() <= tolerance
    assert os.listdir(tmp_path) == [f"x{extension}"]


@pytest.mark.parametrize("extension", [".png", ".tif"])
def test_16_bit_files_round_trip(tmp_path, extension):
    path = str(tmp_path / f"x{extension}")
    image = picture(np.uint16)
    utils.write_image(path, image)
    assert np.array_equal(utils.read_image(path), image)


def test_depths_that_a_format_cannot_hold_are_reduced(tmp_path):
    image = picture(np.uint16)
    for name, value, expected in [
        ("a.bmp", image, np.rint(image / 257).astype(np.uint8)),
        ("b.png", (image / 65535).astype(np.float32), image),
        ("c.tif", (image / 65535).astype(np.float32), (image / 65535).astype(np.float32)),
    ]:
        utils.write_image(str(tmp_path / name), value)
        assert np.array_equal(utils.read_image(str(tmp_path / name)), expected), name


def test_colours_are_rgb(tmp_path):
    image = np.zeros((8, 8, 3), np.uint8)
    image[..., 0] = 255
    utils.write_image(str(tmp_path / "red.png"), image)
    assert cv2.imread(str(tmp_path / "red.png"))[0, 0].tolist() == [0, 0, 255]


def test_alpha_is_dropped_and_orientation_applied(tmp_path):
    path = str(tmp_path / "alpha.png")
    cv2.imwrite(path, np.full((4, 6, 4), 100, np.uint8))
    assert utils.read_image(path).shape == (4, 6, 3)
    data = cv2.imencode(".jpg", np.full((4, 6, 3), 100, np.uint8))[1].tobytes()
    # An APP1 segment with one EXIF entry: orientation 6, turned by a quarter.
    exif = b"Exif\0\0MM\0*\0\0\0\x08\0\x01\x01\x12\0\x03\0\0\0\x01\0\x06\0\0\0\0\0\0"
    segment = b"\xff\xe1" + (len(exif) + 2).to_bytes(2, "big") + exif
    path = tmp_path / "turned.jpg"
    path.write_bytes(data[:2] + segment + data[2:])
    assert utils.read_image(str(path)).shape == (6, 4, 3)


@pytest.mark.parametrize("extension", [".jpg", ".png", ".tif", ".webp", ".bmp"])
@pytest.mark.parametrize("kept", [0, 1, 0.02, 0.3, 0.9, -12])
def test_damaged_files_are_refused_in_silence(tmp_path, capfd, extension, kept):
    """`kept` is a share of the file, or a number of bytes (1, or all but 12)."""
    data = cv2.imencode(extension, picture(shape=(80, 90, 3)))[1].tobytes()
    size = kept if isinstance(kept, int) else int(len(data) * kept)
    path = tmp_path / f"cut{extension}"
    path.write_bytes(data[:size])
    with pytest.raises(ValueError, match="empty" if kept == 0 else "cut short") as caught:
        utils.read_image(str(path))
    assert str(caught.value).startswith(f"{path}: ")
    assert capfd.readouterr().err == ""


def test_no_picture_at_all(tmp_path):
    path = tmp_path / "text.jpg"
    path.write_text("not a picture")
    with pytest.raises(ValueError, match="not a picture"):
        utils.read_image(str(path))
    with pytest.raises(FileNotFoundError):
        utils.read_image(str(tmp_path / "none.jpg"))
    with pytest.raises(IsADirectoryError):
        utils.read_image(str(tmp_path))


def test_results_that_cannot_be_written(tmp_path):
    for path, reason in [
        (tmp_path / "none" / "x.png", "no folder"),
        (tmp_path, "is a folder"),
        (tmp_path / "x.docx", "unknown picture format"),
        (tmp_path / "x", "unknown picture format"),
    ]:
        with pytest.raises((OSError, ValueError), match=reason) as caught:
            utils.write_image(str(path), picture())
        assert str(path) in str(caught.value)
    assert os.listdir(tmp_path) == []


def test_ycbcr_is_jpegs():
    """Against OpenCV's 8-bit conversion, which is JPEG's; it rounds, channel by channel."""
    image = picture()
    ours = utils.to_ycbcr(image)[0].permute(1, 2, 0).numpy() * 255
    y, cr, cb = np.moveaxis(cv2.cvtColor(image, cv2.COLOR_RGB2YCrCb).astype(float), 2, 0)
    # 8-bit neutral chroma is 128, ours is 127.5.
    reference = np.stack([y, cb - 0.5, cr - 0.5], axis=-1)
    assert np.abs(ours - reference).max() < 1


def test_grey_has_neutral_chroma():
    image = np.repeat(np.arange(256, dtype=np.uint8)[:, None, None], 3, axis=2)
    ycbcr = utils.to_ycbcr(image)[0].numpy()
    assert np.allclose(ycbcr[0, :, 0], np.arange(256) / 255, atol=1e-7)
    assert np.allclose(ycbcr[1:], utils.NEUTRAL, atol=1e-7)


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
@pytest.mark.parametrize("shape", [(64, 64, 3), (64, 64)])
def test_colour_conversion_round_trips_exactly(dtype, shape):
    image = picture(dtype, shape)
    assert np.array_equal(utils.from_ycbcr(utils.to_ycbcr(image), dtype), image)


def test_rounding_and_clipping():
    values = np.array([-0.1, 0.4999 / 255, 0.5001 / 255, 254.6 / 255, 1.5])
    assert utils.quantise(values, np.uint8).tolist() == [0, 0, 1, 255, 255]
    assert utils.quantise(np.array([0, 1]), np.uint16).tolist() == [0, 65535]


def test_gray_is_matlabs():
    image = np.array([[[255, 0, 0], [0, 255, 0], [0, 0, 255], [9, 9, 9]]], np.uint8)
    assert utils.to_gray(image).tolist() == [[76, 150, 29, 9]]
    assert utils.to_gray(image.astype(np.uint16) * 257).tolist() == [[76, 150, 29, 9]]
