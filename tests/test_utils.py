"""Pictures in and out, and their colour."""

import contextlib
import importlib.util
import os
import struct
import subprocess
import sys
import threading
import zlib

import cv2
import numpy as np
import pytest
from conftest import XMP, exif, icc, picture

import decoders
import metadata
import scores
import utils


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


def test_files_of_float64_round_trip(tmp_path):
    image = picture(np.uint16) / 65535
    utils.write_image(str(tmp_path / "x.tif"), image)
    back = utils.read_image(str(tmp_path / "x.tif"))
    assert back.dtype == np.float64
    assert np.array_equal(back, image)


def test_a_pixel_with_alpha(tmp_path):
    cv2.imwrite(str(tmp_path / "x.png"), np.array([[[1, 2, 3, 4]]], np.uint8))
    assert utils.read_image(str(tmp_path / "x.png")).tolist() == [[[3, 2, 1]]]


@pytest.mark.parametrize("other", [(4, 6, 3), (5, 6), (5, 7, 3)])
def test_ycbcr_of_pictures_that_differ(other):
    pictures = [np.zeros((5, 6, 3), np.uint8), np.zeros(other, np.uint8)]
    for convert in (utils.to_ycbcr, utils.to_luma):
        with pytest.raises(ValueError, match="of one shape are needed"):
            convert(*pictures)


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


def turned_jpeg(path, image, orientation):
    """A JPEG file with an EXIF segment that says how to turn it."""
    data = cv2.imencode(".jpg", image)[1].tobytes()
    segment = b"Exif\0\0" + exif(orientation)
    segment = b"\xff\xe1" + (len(segment) + 2).to_bytes(2, "big") + segment
    path.write_bytes(data[:2] + segment + data[2:])


@pytest.mark.parametrize("orientation", range(1, 9))
def test_orientation_is_applied_once(tmp_path, orientation):
    """In JPEG, which OpenCV turns, as in PNG, which we do; and not again in what is written."""
    image = np.zeros((8, 16), np.uint8)
    image[:4, :4] = 250  # the corner at the top left
    path = tmp_path / "turned.jpg"
    turned_jpeg(path, image, orientation)
    jpeg = utils.read_picture(str(path))
    assert metadata.orientation(metadata.exif_values(jpeg.metadata["EXIF"])) == 1
    written = str(tmp_path / "written.png")
    utils.write_image(written, jpeg.pixels, metadata=jpeg.metadata)
    assert np.array_equal(utils.read_image(written), jpeg.pixels)
    chunks = [np.frombuffer(exif(orientation), np.uint8)]
    data = cv2.imencodeWithMetadata(".png", image, [cv2.IMAGE_METADATA_EXIF], chunks)[1]
    (tmp_path / "turned.png").write_bytes(data.tobytes())
    png = utils.read_image(str(tmp_path / "turned.png"))
    assert png.shape == ((8, 16) if orientation < 5 else (16, 8))
    assert np.abs(png.astype(int) - jpeg.pixels).max() < 40
    bright = {1: (0, 0), 2: (0, -1), 3: (-1, -1), 4: (-1, 0)}  # where the corner is seen
    bright |= {5: (0, 0), 6: (0, -1), 7: (-1, -1), 8: (-1, 0)}
    assert png[bright[orientation]] == 250


@pytest.mark.parametrize("extension", [".png", ".tif", ".webp"])
@pytest.mark.parametrize("shape", [(20, 30, 3), (20, 30)])
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_alpha_round_trip(tmp_path, extension, shape, dtype):
    path = str(tmp_path / f"x{extension}")
    image, alpha = picture(dtype, shape), picture(dtype, shape[:2])
    utils.write_image(path, image, alpha=alpha)
    back = utils.read_picture(path)
    if extension != ".webp":
        pixels = back.pixels if len(shape) == 3 else back.pixels[..., 0]
        assert np.array_equal(pixels, image)
        assert np.array_equal(back.alpha, alpha)
    assert back.alpha.shape == shape[:2]


def test_kinds_of_png(tmp_path):
    """Grey with alpha, a palette, one bit: what OpenCV does not write, as libpng's users do."""

    def png(name, bits, colour, rows, *chunks):
        def chunk(kind, data):
            crc = zlib.crc32(kind + data)
            return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", crc)

        header = struct.pack(">IIBBBBB", 4, 2, bits, colour, 0, 0, 0)
        parts = [(b"IHDR", header), *chunks, (b"IDAT", zlib.compress(rows)), (b"IEND", b"")]
        path = tmp_path / name
        path.write_bytes(b"\x89PNG\r\n\x1a\n" + b"".join(chunk(*part) for part in parts))
        return utils.read_picture(str(path))

    both = png("grey_alpha.png", 8, 4, b"\0" + bytes(range(8)) + b"\0" + bytes(range(8, 16)))
    assert both.pixels.tolist() == [[0, 2, 4, 6], [8, 10, 12, 14]]
    assert both.alpha.tolist() == [[1, 3, 5, 7], [9, 11, 13, 15]]
    palette = png(
        "palette.png", 8, 3, b"\0\0\1\2\0\0\2\1\0\0", (b"PLTE", bytes([9, 8, 7, 1, 2, 3, 4, 5, 6]))
    )
    assert palette.pixels[0].tolist() == [[9, 8, 7], [1, 2, 3], [4, 5, 6], [9, 8, 7]]
    assert palette.alpha is None
    bits = png("bits.png", 1, 0, b"\0\xa0\0\x50")
    assert bits.pixels.tolist() == [[255, 0, 255, 0], [0, 255, 0, 255]]


def test_unused_fourth_bytes_are_no_alpha(tmp_path):
    path = str(tmp_path / "x.png")
    cv2.imwrite(path, np.dstack([picture(), np.zeros((20, 30), np.uint8)]))
    assert utils.read_picture(path).alpha is None


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


@pytest.mark.parametrize("orientation", [1, 3, 6])
@pytest.mark.parametrize("shape", [(80, 90, 3), (80, 90)])
def test_large_jpegs_are_read_like_small_ones(tmp_path, monkeypatch, capfd, orientation, shape):
    path = tmp_path / "large.jpg"
    turned_jpeg(path, picture(shape=shape), orientation)
    small = utils.read_picture(path)
    held = small.metadata | {"ICC": icc(), "XMP": XMP}
    utils.write_image(str(path), small.pixels, metadata=held)
    small = utils.read_picture(path)
    assert small.metadata == held
    decode = decoders.decode_bytes
    monkeypatch.setattr(decoders, "LARGE", small.pixels.nbytes - 1)
    monkeypatch.setattr(decoders, "decode_bytes", None)
    large = utils.read_picture(path)
    assert np.array_equal(large.pixels, small.pixels)
    assert large.metadata == held
    monkeypatch.setattr(decoders, "decode_bytes", decode)
    # OpenCV opens not every name, and not every file that looks cut short is.
    other = tmp_path / os.fsdecode(b"gr\xf6\xdfer.jpg")
    other.write_bytes(path.read_bytes() + b"\xff\xda")
    assert np.array_equal(utils.read_picture(other).pixels, small.pixels)
    path.write_bytes(path.read_bytes()[:-60])
    with pytest.raises(ValueError, match="cut short"):
        utils.read_picture(path)
    assert capfd.readouterr().err == ""


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux limits memory so")
@pytest.mark.parametrize("extension", [".jpg", ".png"])
def test_pictures_that_do_not_fit_into_memory(tmp_path, extension):
    path = tmp_path / f"large{extension}"
    cv2.imwrite(str(path), np.zeros((8000, 8000, 3), np.uint8))
    code = f"""
import resource
import utils
with open("/proc/self/statm") as file:
    used = int(file.read().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (used + 2**26, -1))
try:
    utils.read_picture({str(path)!r})
except MemoryError as error:
    print(error)
"""
    root = os.path.dirname(utils.__file__)
    done = subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, text=True)
    assert "Failed to allocate" in done.stdout


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


@pytest.mark.parametrize("extension", [".ppm", ".pgm", ".pbm", ".gif", ".jp2", ".hdr", ".avif"])
@pytest.mark.parametrize("grey", [False, True])
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.float32])
def test_what_can_be_written_is_known_before(tmp_path, extension, grey, dtype):
    """A small picture is encoded as the real one would be."""
    path = str(tmp_path / f"x{extension}")
    try:
        utils.check_picture_writable(path, dtype, grey)
    except ValueError:
        with pytest.raises(ValueError, match="cannot be stored as"):
            utils.write_image(path, picture(dtype, (70, 90) if grey else (70, 90, 3)))
        assert os.listdir(tmp_path) == []
    else:
        assert os.listdir(tmp_path) == []
        utils.write_image(path, picture(dtype, (70, 90) if grey else (70, 90, 3)))
        assert os.listdir(tmp_path) == [f"x{extension}"]


@pytest.mark.skipif(importlib.util.find_spec("OpenEXR") is None, reason="needs OpenEXR")
@pytest.mark.parametrize("grey", [False, True])
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.float32])
@pytest.mark.parametrize("transparent", [False, True])
def test_openexr_holds_floats_as_they_are(tmp_path, grey, dtype, transparent):
    import OpenEXR

    path = str(tmp_path / "x.EXR")
    utils.check_picture_writable(path, dtype, grey, transparent)
    image = picture(dtype, (21, 34) if grey else (21, 34, 3))
    alpha = picture(dtype, (21, 34)) if transparent else None
    utils.write_image(path, image, alpha)
    assert os.listdir(tmp_path) == ["x.EXR"]
    with OpenEXR.File(path, separate_channels=True) as file:
        found = {name: channel.pixels for name, channel in file.channels().items()}
    planes = {"Y": image} if grey else dict(zip("RGB", np.moveaxis(image, 2, 0), strict=True))
    planes |= {"A": alpha} if transparent else {}
    assert set(found) == set(planes)
    for name, plane in planes.items():
        np.testing.assert_allclose(found[name], plane / utils.white_level(image.dtype), rtol=1e-6)


def test_without_openexr_one_line_says_how_to_get_it(tmp_path, monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ValueError, match=r"x\.exr: EXR needs OpenEXR: pip install -r"):
        utils.write_image(str(tmp_path / "x.exr"), picture())


@pytest.mark.parametrize("flush", [False, True])
def test_a_file_is_replaced_whole_or_not_at_all(tmp_path, monkeypatch, flush):
    path = tmp_path / "x.txt"
    path.write_text("old")
    flushed = []
    monkeypatch.setattr(os, "fsync", lambda number: flushed.append(path.read_text()))
    with contextlib.suppress(KeyError), utils.replacing(path, "w", flush) as file:
        file.write("half")
        raise KeyError
    assert path.read_text() == "old"
    with utils.replacing(path, "w", flush, encoding="utf-8") as file:
        file.write("new")
        assert path.read_text() == "old"
    assert path.read_text() == "new"
    assert flushed == ["old"] * flush  # on the disk before it has the name
    assert os.listdir(tmp_path) == ["x.txt"]
    monkeypatch.setattr(os, "fsync", failing)
    with (
        pytest.raises(OSError, match=r"x\.txt: disk full"),
        utils.replacing(path, "w", True) as file,
    ):
        file.write("newer")
    assert path.read_text() == "new"
    assert os.listdir(tmp_path) == ["x.txt"]


@pytest.mark.skipif(sys.platform == "win32", reason="links need a right of their own on Windows")
def test_a_link_is_followed(tmp_path):
    (tmp_path / "disk").mkdir()
    (tmp_path / "x.txt").symlink_to(tmp_path / "disk" / "x.txt")
    with utils.replacing(tmp_path / "x.txt", "w") as file:
        file.write("new")
    assert (tmp_path / "x.txt").is_symlink()
    assert (tmp_path / "disk" / "x.txt").read_text() == "new"


@pytest.mark.skipif(sys.platform == "win32", reason="links need a right of their own on Windows")
def test_what_lies_in_the_way_is_not_written_to(tmp_path):
    other = tmp_path / "other.txt"
    other.write_text("mine")
    path = tmp_path / "x.txt"
    (tmp_path / f"x.txt.tmp{os.getpid()}_{threading.get_ident()}").symlink_to(other)
    with utils.replacing(path, "w") as file:
        file.write("new")
    assert path.read_text() == "new"
    assert other.read_text() == "mine"


def failing(_):
    raise OSError(28, "disk full")


def test_ycbcr_is_jpegs():
    """Against OpenCV's 8-bit conversion, which is JPEG's; it rounds, channel by channel."""
    image = picture()
    ours = utils.to_ycbcr(image)[0].transpose(1, 2, 0) * 255
    y, cr, cb = np.moveaxis(cv2.cvtColor(image, cv2.COLOR_RGB2YCrCb).astype(float), 2, 0)
    # 8-bit neutral chroma is 128, ours is 127.5.
    reference = np.stack([y, cb - 0.5, cr - 0.5], axis=-1)
    assert np.abs(ours - reference).max() < 1


def test_grey_has_neutral_chroma():
    image = np.repeat(np.arange(256, dtype=np.uint8)[:, None, None], 3, axis=2)
    ycbcr = utils.to_ycbcr(image)[0]
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


def test_grey_is_matlabs():
    image = np.array([[[255, 0, 0], [0, 255, 0], [0, 0, 255], [9, 9, 9]]], np.uint8)
    assert scores.to_grey(image).tolist() == [[76, 150, 29, 9]]
    assert scores.to_grey(image.astype(np.uint16) * 257).tolist() == [[76, 150, 29, 9]]
