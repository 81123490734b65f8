"""Pictures in and out, and their colour."""

import os
import struct
import zlib
from pathlib import Path

import cv2
import numpy as np
import pytest
from conftest import exif

import metadata
import scores
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


def icc():
    """A small profile that libpng takes: a header, and tags that all have one value."""
    tags = b"".join(
        name + struct.pack(">II", 132 + 9 * 12, 20)
        for name in (
            b"rXYZ",
            b"gXYZ",
            b"bXYZ",
            b"rTRC",
            b"gTRC",
            b"bTRC",
            b"wtpt",
            b"cprt",
            b"desc",
        )
    )
    body = struct.pack(">I", 9) + tags + b"XYZ \0\0\0\0" + struct.pack(">iii", 63190, 65536, 54061)
    profile = bytearray(128) + body
    profile[:4] = len(profile).to_bytes(4, "big")
    profile[8:24] = b"\x02\x10\0\0mntrRGB XYZ "
    profile[36:40] = b"acsp"
    profile[68:80] = struct.pack(">iii", 63190, 65536, 54061)
    return bytes(profile)


XMP = (
    b'<?xpacket begin="" id="W5M0MpCehiHzreSzNTczkc9d"?><x:xmpmeta xmlns:x="adobe:ns:meta/">'
    b'</x:xmpmeta><?xpacket end="w"?>'
)


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
    assert metadata.orientation(jpeg.metadata["EXIF"]) == 1
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


@pytest.mark.parametrize("order", "<>")
def test_exif_values(order):
    data = exif(orientation=3, order=order)
    assert metadata.orientation(data) == 3
    assert metadata.exif_value(data, 0x9003) == "2026:11:24 12:00:00"
    assert metadata.exif_value(data, 0x829A) == 1 / 250
    assert metadata.exif_value(data, 0xA002) == 6
    assert metadata.exif_value(data, 0x9999) is None
    anew = metadata.describe_anew(data, (10, 20, 3))
    assert metadata.orientation(anew) == 1
    assert (metadata.exif_value(anew, 0xA002), metadata.exif_value(anew, 0xA003)) == (20, 10)
    assert metadata.exif_entries(data)[2] == 34
    assert anew[34:38] == bytes(4)  # no thumbnail follows


def test_damaged_exif_does_no_harm():
    data = exif()
    for length in range(len(data)):
        metadata.describe_anew(data[:length], (5, 5))
        assert metadata.orientation(data[:length]) in (1, 6)
    rng = np.random.default_rng(0)
    for _ in range(300):
        damaged = bytearray(data)
        for place in rng.integers(2, len(data), 3):
            damaged[place] = rng.integers(256)
        metadata.describe_anew(bytes(damaged), (5, 5))
        metadata.exif_value(bytes(damaged), 0x9003)


@pytest.mark.parametrize("extension", [".jpg", ".png", ".webp", ".avif"])
def test_metadata_round_trip(tmp_path, extension):
    held = {"EXIF": exif(1), "ICC": icc(), "XMP": XMP}
    path = str(tmp_path / f"x{extension}")
    image = picture()
    utils.write_image(path, image, metadata=held)
    data = Path(path).read_bytes()
    expected = metadata.describe_anew(held["EXIF"], image.shape)
    assert expected in data
    assert XMP in data
    if extension == ".png":
        _, _, rest = data[data.index(b"iCCP") + 4 :].partition(b"\0\0")  # name, method
        assert zlib.decompressobj().decompress(rest) == held["ICC"]
    else:
        assert held["ICC"] in data
    back = utils.read_picture(path).metadata
    assert back["EXIF"] == expected
    if extension != ".avif":  # of which OpenCV reads EXIF alone
        assert back["XMP"] == XMP
    if extension in (".jpg", ".webp"):
        assert back["ICC"] == held["ICC"]
    assert metadata.read_exif(path) == back["EXIF"]


def test_metadata_too_large_for_jpeg_are_left_out(tmp_path):
    path = str(tmp_path / "x.jpg")
    with pytest.warns(UserWarning, match="XMP not written, too large for .jpg"):
        utils.write_image(path, picture(), metadata={"XMP": b"<" * 70_000 + b">", "ICC": icc()})
    assert utils.read_picture(path).metadata == {"ICC": icc()}


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.float32])
def test_profiles_of_tiff(tmp_path, dtype):
    held = {"ICC": icc(), "XMP": XMP + b">"}  # of odd length too
    path = str(tmp_path / "x.tif")
    utils.write_image(path, picture(dtype), metadata=held)
    back = utils.read_picture(path)
    assert np.array_equal(back.pixels, picture(dtype))
    assert back.metadata == held
    assert metadata.exif_value(metadata.read_exif(path), 0x0100) == 30


def test_what_a_format_cannot_hold_is_said(tmp_path):
    image, alpha = picture(), picture(shape=(20, 30))
    both = {"XMP": XMP, "EXIF": exif()}
    with pytest.warns(UserWarning, match=r"x\.bmp: EXIF and XMP not written"):
        utils.write_image(str(tmp_path / "x.bmp"), image, metadata=both)
    with pytest.warns(UserWarning, match=r"x\.tif: EXIF not written"):
        utils.write_image(str(tmp_path / "x.tif"), image, metadata=both)
    with pytest.warns(UserWarning, match=r"x\.jpg: written without alpha"):
        utils.write_image(str(tmp_path / "x.jpg"), image, alpha=alpha)
    assert utils.read_image(str(tmp_path / "x.tif")).shape == image.shape


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
    assert scores.to_gray(image).tolist() == [[76, 150, 29, 9]]
    assert scores.to_gray(image.astype(np.uint16) * 257).tolist() == [[76, 150, 29, 9]]


@pytest.mark.parametrize("shape", [(31, 57, 3), (31, 57)])
@pytest.mark.parametrize(
    ("extension", "dtype"),
    [
        (".jpg", np.uint8),
        (".png", np.uint8),
        (".png", np.uint16),
        (".tif", np.uint8),
        (".tif", np.uint16),
        (".tif", np.float32),
        (".webp", np.uint8),
        (".bmp", np.uint8),
    ],
)
def test_headers_say_what_decoding_gives(tmp_path, extension, dtype, shape):
    path = tmp_path / f"picture{extension}"
    utils.write_image(str(path), utils.as_type(picture(np.uint8, shape), dtype))
    pixels = utils.read_image(path)
    header = metadata.read_header(path)
    assert (header.height, header.width) == pixels.shape[:2]
    size = pixels.nbytes // (31 * 57)
    # WebP's and BMP's do not say whether a picture is grey.
    assert header.size == (3 if extension in (".webp", ".bmp") else size)


@pytest.mark.parametrize("kind", [b"VP8 ", b"VP8L", b"VP8X"])
def test_webp_headers(tmp_path, kind):
    alpha = np.tile(np.arange(57, dtype=np.uint8), (31, 1)) if kind == b"VP8X" else None
    path = str(tmp_path / "picture.webp")
    utils.write_image(
        path, picture(np.uint8, (31, 57, 3)), alpha, None, 101 if kind == b"VP8L" else 90
    )
    with open(path, "rb") as file:
        assert file.read(16)[12:] == kind
    assert metadata.read_header(path)[:2] == (31, 57)


@pytest.mark.parametrize("start", [b"\xff\xd8\xff", b"\x89PNG\r\n", b"II*\0", b"RIFF", b"BM", b"?"])
def test_damaged_files_have_no_header(tmp_path, start):
    path = tmp_path / "picture"
    path.write_bytes(start)
    assert metadata.read_header(path) is None
    path.write_bytes(b"")
    assert metadata.read_header(path) is None
    path.write_bytes(start + bytes(8))
    assert metadata.read_header(path) is None
