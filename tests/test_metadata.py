"""Headers, EXIF, profiles and XMP, read from files and written to them."""

import contextlib
import io
import struct
import warnings
import zlib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import cv2
import numpy as np
import pytest
from conftest import XMP, exif, huge_png, icc, picture
from PIL import Image, ImageFile

import decoders
import grouping
import headers
import metadata
import utils


@pytest.mark.parametrize("order", "<>")
def test_exif_values(order):
    data = exif(orientation=3, order=order)
    values = metadata.exif_values(data)
    assert metadata.orientation(values) == 3
    assert values[0x9003] == "2026:11:24 12:00:00"
    assert values[0x829A] == 1 / 250
    assert values[0xA002] == 6
    assert 0x9999 not in values
    anew = metadata.updated_exif(data, (10, 20, 3))
    values = metadata.exif_values(anew)
    assert metadata.orientation(values) == 1
    assert (values[0xA002], values[0xA003]) == (20, 10)
    assert data[34:38] != bytes(4)
    assert anew[34:38] == bytes(4)  # no thumbnail follows


@pytest.mark.filterwarnings("ignore::UserWarning:PIL")
def test_damaged_exif_does_no_harm(tmp_path):
    thumbnail = cv2.imencode(".jpg", picture(shape=(12, 16, 3)))[1].tobytes()
    rng = np.random.default_rng(0)
    plain = cv2.imencode(".jpg", picture())[1].tobytes()
    path = tmp_path / "x.jpg"
    for data in (exif(), with_thumbnail(thumbnail), with_thumbnail(thumbnail, ">")):
        for length in range(0, len(data), 1 + len(data) // 200):
            metadata.updated_exif(data[:length], (5, 5))
            assert metadata.orientation(metadata.exif_values(data[:length])) in (1, 6)
        for number in range(300):
            damaged = bytearray(data)
            for place in rng.integers(0, min(len(data), 200), 3):
                damaged[place] = rng.integers(256)
            assert len(metadata.updated_exif(bytes(damaged), (5, 5))) == len(data)
            assert metadata.orientation(metadata.exif_values(bytes(damaged))) in range(1, 9)
            if number % 5 == 0:
                path.write_bytes(with_segment(plain, bytes(damaged)))
                metadata.read_exif(path)
                grouping.read_shot(str(path), grouping.Card({}, [], {}, []))
                utils.read_picture(path)


def with_segment(jpeg, chunk):
    """A JPEG file with EXIF."""
    segment = b"Exif\0\0" + chunk
    return jpeg[:2] + b"\xff\xe1" + struct.pack(">H", len(segment) + 2) + segment + jpeg[2:]


def with_thumbnail(thumbnail=b"", order="<", strips=(), preview=b""):
    """EXIF with a thumbnail, as a JPEG or as strips of pixels, and a MakerNote around a preview."""
    note = b"MAKER\0" + bytes(range(1, 100)) + preview + bytes(range(100, 1, -1))

    def entry(tag, kind, count, value):
        return struct.pack(order + "HHII", tag, kind, count, value)

    def directory(entries, following):
        size = struct.pack(order + "H", len(entries))
        return size + b"".join(entries) + struct.pack(order + "I", following)

    header = (b"II" if order == "<" else b"MM") + struct.pack(order + "HI", 42, 8)
    # The main directory has 2 + 2 * 12 + 4 = 30 bytes, the Exif directory 18, the thumbnail's 42.
    place = 8 + 30 + 18 + 42
    sizes = struct.pack(f"{order}{len(strips)}I", *map(len, strips))
    start = place + len(note) + 2 * len(sizes)
    offsets = [start + sum(map(len, strips[:k])) for k in range(len(strips))]
    main = directory([entry(0x0131, 2, 4, 0), entry(0x8769, 4, 1, 38)], following=56)
    shot = directory([entry(0x927C, 7, len(note), place)], following=0)
    if strips:
        tables = place + len(note)
        small = [entry(0x0111, 4, len(strips), tables), entry(0x0112, 4, 1, 1)]
        small.append(entry(0x0117, 4, len(strips), tables + len(sizes)))
    else:
        small = [entry(0x0103, 4, 1, 6), entry(0x0201, 4, 1, start)]
        small.append(entry(0x0202, 4, 1, len(thumbnail)))
    offsets = struct.pack(f"{order}{len(strips)}I", *offsets)
    values = note + offsets + sizes + b"".join(strips) + thumbnail
    return header + main + shot + directory(small, following=0) + values


def embedded_pictures(data):
    """The shapes of the pictures that OpenCV decodes from the JPEG streams in some bytes."""
    starts = [i for i in range(len(data)) if data[i : i + 3] == b"\xff\xd8\xff"]
    decoded = [cv2.imdecode(np.frombuffer(data[i:], np.uint8), cv2.IMREAD_COLOR) for i in starts]
    return [image.shape[:2] for image in decoded if image is not None]


@pytest.mark.parametrize("order", "<>")
@pytest.mark.parametrize("kind", ["JPEG", "progressive JPEG", "JPEG cut short", "strips"])
def test_thumbnails_are_not_kept(tmp_path, kind, order):
    """Whoever has the result must not see the exposures; MakerNotes stay where they are."""
    progressive = [cv2.IMWRITE_JPEG_PROGRESSIVE, int(kind == "progressive JPEG")]
    small = picture(shape=(30, 40, 3))
    thumbnail = cv2.imencode(".jpg", small, progressive)[1].tobytes()
    strips = (small[:20].tobytes(), small[20:].tobytes())
    if kind == "JPEG cut short":
        thumbnail = thumbnail[:-30]
    chunk = with_thumbnail(thumbnail, order) if kind != "strips" else b""
    if kind == "strips":
        chunk = with_thumbnail(order=order, strips=strips)
    changed = metadata.updated_exif(chunk, (5, 6))
    note = metadata.exif_values(chunk)[0x927C]
    assert metadata.exif_values(changed)[0x927C] == note
    assert changed.index(note) == chunk.index(note)
    assert len(changed) == len(chunk)
    for secret in (thumbnail[2:], *strips):
        assert not any(secret[i : i + 16] in changed for i in range(0, len(secret) - 16, 16)), (
            "bytes of the thumbnail are left"
        )
    assert changed[56 : 56 + 42] == bytes(42)  # its directory
    for extension in (".jpg", ".png", ".webp"):
        path = str(tmp_path / f"x{extension}")
        utils.write_image(path, picture(shape=(50, 60, 3)), metadata={"EXIF": chunk})
        data = Path(path).read_bytes()
        assert embedded_pictures(data) == [(50, 60)] * (extension == ".jpg")
        assert note in data


@pytest.mark.parametrize("first", [b"\xff", b"\x02"])
def test_previews_in_makernotes_are_not_kept(tmp_path, first):
    """As JPEG streams, and with another first byte, as Minolta writes them."""
    preview = cv2.imencode(".jpg", picture(shape=(30, 40, 3)))[1].tobytes()
    chunk = with_thumbnail(preview, preview=first + preview[1:])
    changed = metadata.updated_exif(chunk, (5, 6))
    assert preview[1:] not in changed
    note, before = (metadata.exif_values(data)[0x927C] for data in (changed, chunk))
    blanked = slice(105, 105 + len(preview))
    assert note[blanked] == bytes(len(preview))
    assert note[:105] + note[105 + len(preview) :] == before[:105] + before[105 + len(preview) :]
    path = str(tmp_path / "x.jpg")
    utils.write_image(path, picture(shape=(50, 60, 3)), metadata={"EXIF": chunk})
    data = Path(path).read_bytes()
    assert embedded_pictures(data) == [(50, 60)]
    assert embedded_pictures(data.replace(b"\x02\xd8\xff", b"\xff\xd8\xff")) == [(50, 60)]


@pytest.mark.parametrize(
    ("channels", "shapes"),
    [(b"RGB ", {(5, 6), (5, 6, 3)}), (b"GRAY", {(5, 6)}), (b"CMYK", set()), (b"Lab ", set())],
)
def test_profiles_of_other_channels_are_not_kept(channels, shapes):
    profile = icc()[:16] + channels + icc()[20:]
    kept = {s for s in ((5, 6), (5, 6, 3)) if metadata.updated({"ICC": profile}, s)}
    assert kept == shapes


@pytest.mark.parametrize("extension", [".jpg", ".png", ".webp", ".avif"])
def test_metadata_round_trip(tmp_path, extension):
    held = {"EXIF": exif(1), "ICC": icc(), "XMP": XMP}
    path = str(tmp_path / f"x{extension}")
    image = picture()
    utils.write_image(path, image, metadata=held)
    data = Path(path).read_bytes()
    expected = metadata.updated_exif(held["EXIF"], image.shape)
    assert expected in data
    assert XMP in data
    if extension == ".png":
        _, _, rest = data[data.index(b"iCCP") + 4 :].partition(b"\0\0")  # name, method
        assert zlib.decompressobj().decompress(rest) == held["ICC"]
    else:
        assert held["ICC"] in data
    back = utils.read_picture(path).metadata
    assert back["EXIF"] == expected
    if extension != ".avif":  # OpenCV reads its EXIF alone.
        assert back["XMP"] == XMP
    if extension in (".jpg", ".webp"):
        assert back["ICC"] == held["ICC"]
    assert metadata.read_exif(path) == metadata.exif_values(expected)


def test_xmp_of_png_stands_where_others_look_for_it(tmp_path):
    """In an iTXt chunk, alone: OpenCV writes another kind, with what lies behind it in memory."""
    path = str(tmp_path / "x.png")
    utils.write_image(path, picture(), metadata={"XMP": XMP})
    with Image.open(path) as image:
        assert image.info["xmp"] == XMP
    assert utils.read_picture(path).metadata["XMP"] == XMP
    ours = (tmp_path / "x.png").read_bytes()
    packed = b"iTXt" + metadata.PNG_XMP + b"\0\1\0\0\0" + zlib.compress(XMP)
    plain = b"tEXt" + metadata.PNG_XMP + b"\0" + XMP
    for body in (packed, plain):
        chunk = struct.pack(">I", len(body) - 4) + body + struct.pack(">I", zlib.crc32(body))
        (tmp_path / "x.png").write_bytes(
            ours[:33] + chunk + cv2.imencode(".png", picture())[1].tobytes()[33:]
        )
        assert utils.read_picture(path).metadata == {"XMP": XMP}


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
    assert metadata.read_exif(path)[0x0100] == 30


def test_what_a_format_cannot_store_is_said(tmp_path):
    image, alpha = picture(), picture(shape=(20, 30))
    both = {"XMP": XMP, "EXIF": exif()}
    with pytest.warns(UserWarning, match=r"x\.bmp: EXIF and XMP not written"):
        utils.write_image(str(tmp_path / "x.bmp"), image, metadata=both)
    with pytest.warns(UserWarning, match=r"x\.tif: EXIF not written"):
        utils.write_image(str(tmp_path / "x.tif"), image, metadata=both)
    with pytest.warns(UserWarning, match=r"x\.jpg: written without alpha"):
        utils.write_image(str(tmp_path / "x.jpg"), image, alpha=alpha)
    assert utils.read_image(str(tmp_path / "x.tif")).shape == image.shape


def made_by_opencv():
    """(name, bytes) of picture files in the types that OpenCV writes, 31 pixels high, 57 wide."""
    for dtype in (np.uint8, np.uint16, np.float32):
        for channels in (1, 3, 4):
            image = picture(dtype, (31, 57, channels))
            for extension in (".jpg", ".png", ".tif", ".webp", ".bmp", ".avif", ".ppm", ".pgm"):
                small = dtype == np.uint8 or extension in (".png", ".tif", ".ppm", ".pgm")
                if small and (dtype != np.float32 or extension == ".tif"):
                    lzw = [cv2.IMWRITE_TIFF_COMPRESSION, 5] if extension == ".tif" else []
                    done, data = cv2.imencode(extension, image, lzw)
                    if done:
                        yield f"{np.dtype(dtype)} x {channels}{extension}", data.tobytes()


def made_by_pillow():
    """(name, bytes) of picture files in Pillow's modes."""
    colours = Image.fromarray(picture(shape=(31, 57, 3)))
    deep = Image.fromarray(picture(np.uint16, (31, 57)))
    modes = {mode: colours.convert(mode) for mode in ("1", "L", "P", "LA", "RGB", "RGBA", "CMYK")}
    for mode, image in {**modes, "I;16": deep, "F": colours.convert("F")}.items():
        for name in ("JPEG", "PNG", "TIFF", "WEBP", "BMP", "AVIF", "PPM", "GIF"):
            for options in ({}, {"transparency": 1 if mode == "P" else (1, 2, 3)}):
                if options and (name != "PNG" or mode not in ("P", "RGB")):
                    continue
                with contextlib.suppress(OSError, ValueError):  # A format has not all modes.
                    file = io.BytesIO()
                    image.save(file, name, **options)
                    yield f"{mode} {options} {name}", file.getvalue()


def made_by_hand():
    """(name, bytes) of TIFF files in both byte orders, plain and with offsets of 64 bits."""
    for dtype in (np.uint8, np.uint16, np.float32, np.float64):
        for channels in (1, 3):
            for order in "<>":
                for big in (False, True)[: 1 + (order == "<")]:  # all that Pillow reads
                    image = picture(dtype, (31, 57, channels))
                    pixels = image.astype(image.dtype.newbyteorder(order)).tobytes()
                    yield (
                        f"{np.dtype(dtype)} x {channels} {order} {big}.tif",
                        tiff(pixels, channels, image.dtype, order, big),
                    )


def tiff(pixels, channels, dtype, order, big):
    """A TIFF file of 31 x 57 pixels in one strip (TIFF 6.0, section 2; BigTIFF)."""
    word = "Q" if big else "I"  # of counts and offsets

    def entry(tag, kind, *values):
        form = {3: "H", 4: "I"}[kind]
        packed = struct.pack(f"{order}{len(values)}{form}", *values)
        if len(packed) > struct.calcsize(word):
            packed = struct.pack(order + word, values_at)
        packed = packed.ljust(struct.calcsize(word), b"\0")
        return struct.pack(order + "HH" + word, tag, kind, len(values)) + packed

    head = (b"II" if order == "<" else b"MM") + struct.pack(order + "H", 43 if big else 42)
    head += struct.pack(order + "HH", 8, 0) if big else b""
    values_at = len(head) + struct.calcsize(order + word)
    bits = struct.pack(f"{order}{channels}H", *[8 * dtype.itemsize] * channels)
    start = values_at + 8 + len(pixels)
    entries = [
        entry(256, 3, 57),
        entry(257, 3, 31),
        entry(258, 3, *[8 * dtype.itemsize] * channels),
        entry(259, 3, 1),
        entry(262, 3, 2 if channels == 3 else 1),
        entry(273, 4, values_at + 8),
        entry(277, 3, channels),
        entry(278, 3, 31),
        entry(279, 4, len(pixels)),
        entry(339, 3, *[3 if dtype.kind == "f" else 1]),
    ]
    count = struct.pack(order + ("Q" if big else "H"), len(entries))
    directory = count + b"".join(entries) + bytes(struct.calcsize(word))
    return head + struct.pack(order + word, start) + bits.ljust(8, b"\0") + pixels + directory


@pytest.mark.parametrize("maker", [made_by_opencv, made_by_pillow, made_by_hand])
def test_headers_say_what_decoding_gives(tmp_path, maker):
    path = tmp_path / "picture"
    checked = 0
    for name, data in maker():
        path.write_bytes(data)
        jpeg = data.startswith(b"\xff\xd8")
        flags = cv2.IMREAD_ANYDEPTH | cv2.IMREAD_ANYCOLOR if jpeg else cv2.IMREAD_UNCHANGED
        pixels, _ = decoders.decode_bytes(data, flags)
        if pixels is None:
            continue  # OpenCV does not read all that Pillow writes.
        header = headers.read_header(path)
        assert header is not None, name
        if "avif" in name.lower() and pixels.ndim == 2 and not header.grey:
            continue  # Pillow 11 takes grey AVIF for colour.
        if header.reader != "OpenCV":
            continue
        assert (header.height, header.width) == pixels.shape[:2] == (31, 57), name
        assert header.dtype == pixels.dtype, name
        assert header.size == pixels.nbytes, name
        assert header.floats == (pixels.dtype.kind == "f"), name
        assert header.grey == (utils.read_image(path).ndim == 2), name
        checked += 1
    assert checked >= 20


def test_panoramas_are_not_refused(tmp_path):
    """Pillow's limit of pixels is lifted while a header is read, by any of several threads."""
    path = huge_png(tmp_path / "huge.png", 20_000, 40_000)
    before = Image.MAX_IMAGE_PIXELS
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with ThreadPoolExecutor(8) as pool:
            found = list(pool.map(headers.read_header, [path] * 400))
    assert {header[:3] for header in found} == {(20_000, 40_000, 3)}
    assert before == Image.MAX_IMAGE_PIXELS


def test_exif_is_read_without_pixels(tmp_path):
    """A JPEG file that ends behind its headers still says when it was taken."""
    path = tmp_path / "x.jpg"
    utils.write_image(str(path), picture(), metadata={"EXIF": exif(1)})
    data = path.read_bytes()
    path.write_bytes(data[: data.index(b"\xff\xda") + 14])
    assert metadata.read_exif(path)[0x9003] == "2026:11:24 12:00:00"
    assert headers.read_header(path)[:3] == (20, 30, 3)


def test_exif_behind_the_pixels_of_png(tmp_path, monkeypatch):
    """It is found, and in no PNG file are the pixels decoded to look for it."""
    decoded = []
    monkeypatch.setattr(ImageFile.ImageFile, "load", decoded.append)
    data = cv2.imencode(".png", picture())[1].tobytes()
    chunk = b"eXIf" + exif(1)
    chunk = struct.pack(">I", len(chunk) - 4) + chunk + struct.pack(">I", zlib.crc32(chunk))
    path = tmp_path / "x.png"
    path.write_bytes(data[:-12] + chunk + data[-12:])
    assert metadata.read_exif(path)[0x9003] == "2026:11:24 12:00:00"
    path.write_bytes(data)
    assert metadata.read_exif(path) == {}
    assert not decoded


def test_exif_of_tiff(tmp_path):
    path = tmp_path / "x.tif"
    described = Image.Exif()
    described.load(exif(1))
    Image.fromarray(picture()).save(path, exif=described.tobytes())
    assert metadata.read_exif(path)[0x9003] == "2026:11:24 12:00:00"
    assert metadata.read_exif(path)[0x829A] == 1 / 250


@pytest.mark.parametrize("extension", [".jpg", ".png"])
def test_exif_of_tiff_goes_to_other_formats(tmp_path, extension):
    described = Image.Exif()
    described.update({0x0110: "Camera", 0x0112: 6})
    described.get_ifd(0x8769).update({0x829A: 1 / 250, 0x9003: "2026:11:24 12:00:00"})
    described.get_ifd(0x8769).update({0x9204: -2.0, 0x927C: b"MAKER" + bytes(60), 0xA002: 30})
    described.get_ifd(0x8825).update({1: "N", 2: (52.0, 30.0, 1.5)})
    Image.fromarray(picture()).save(tmp_path / "x.tif", exif=described.tobytes())
    source = utils.read_picture(tmp_path / "x.tif")
    assert source.pixels.shape == (30, 20, 3)  # turned once
    result = str(tmp_path / f"x{extension}")
    utils.write_image(result, source.pixels, metadata=source.metadata)
    assert np.array_equal(utils.read_image(result).shape, source.pixels.shape)
    values = metadata.read_exif(result)
    kept = {0x0110: "Camera", 0x829A: 1 / 250, 0x9003: "2026:11:24 12:00:00", 0xA002: 20}
    kept |= {0x9204: -2.0}
    assert kept.items() <= values.items()
    assert 0x927C not in values
    assert Image.open(result).getexif().get_ifd(0x8825)[2] == (52.0, 30.0, 1.5)
    Image.fromarray(picture()).save(tmp_path / "plain.tif")
    assert utils.read_picture(tmp_path / "plain.tif").metadata == {}


@pytest.mark.filterwarnings("ignore::UserWarning:PIL")
def test_damaged_exif_of_tiff_does_no_harm(tmp_path):
    described = Image.Exif()
    described.load(exif(1))
    file = io.BytesIO()
    Image.fromarray(picture(shape=(4, 4, 3))).save(file, "TIFF", exif=described.tobytes())
    rng = np.random.default_rng(0)
    for _ in range(300):
        damaged = bytearray(file.getvalue())
        for place in rng.integers(4, len(damaged), 4):
            damaged[place] = rng.integers(256)
        metadata.tiff_metadata(bytes(damaged))
        (tmp_path / "x.tif").write_bytes(damaged)
        headers.read_header(tmp_path / "x.tif")
        metadata.read_exif(tmp_path / "x.tif")


def test_files_that_cannot_be_opened(tmp_path):
    for read in (headers.read_header, metadata.read_exif):
        with pytest.raises(FileNotFoundError):
            read(tmp_path / "none.jpg")
        with pytest.raises(IsADirectoryError):
            read(tmp_path)
    (tmp_path / "text.jpg").write_text("not a picture")
    assert headers.read_header(tmp_path / "text.jpg") is None
    assert metadata.read_exif(tmp_path / "text.jpg") == {}


@pytest.mark.parametrize("kind", [b"VP8 ", b"VP8L", b"VP8X"])
def test_webp_headers(tmp_path, kind):
    alpha = np.tile(np.arange(57, dtype=np.uint8), (31, 1)) if kind == b"VP8X" else None
    path = str(tmp_path / "picture.webp")
    utils.write_image(
        path, picture(np.uint8, (31, 57, 3)), alpha, None, 101 if kind == b"VP8L" else 90
    )
    with open(path, "rb") as file:
        assert file.read(16)[12:] == kind
    assert headers.read_header(path)[:2] == (31, 57)


@pytest.mark.filterwarnings("ignore::UserWarning:PIL")
@pytest.mark.parametrize("start", [b"\xff\xd8\xff", b"\x89PNG\r\n", b"II*\0", b"RIFF", b"BM", b"?"])
def test_damaged_files_have_no_header(tmp_path, start):
    path = tmp_path / "picture"
    path.write_bytes(start)
    assert headers.read_header(path) is None
    path.write_bytes(b"")
    assert headers.read_header(path) is None
    path.write_bytes(start + bytes(8))
    assert headers.read_header(path) is None


def test_descriptions_of_tiff_need_no_exif_directory(tmp_path):
    path, plain = str(tmp_path / "a.tif"), str(tmp_path / "b.tif")
    tags = {0x010F: "Maker", 0x0132: "2026:11:24 12:00:00", 0x0131: "a program"}
    Image.fromarray(picture()).save(path, tiffinfo=tags)
    Image.fromarray(picture()).save(plain, tiffinfo={0x0131: "a program"})
    values = metadata.exif_values(utils.read_picture(path).metadata["EXIF"])
    assert {tag: values[tag] for tag in tags} == tags
    assert "EXIF" not in utils.read_picture(plain).metadata
