"""What do files say beside their pixels? Headers, EXIF, ICC profiles and XMP."""

import contextlib
import math
import mmap
import struct
import warnings
from typing import NamedTuple

import cv2
import numpy as np

JPEG_SEGMENT = 65_500  # bytes of metadata that one can hold
DESCRIBED = (".jpg", ".jpeg", ".png", ".webp", ".avif")  # and those whose metadata OpenCV writes
TIFF = (b"II*\0", b"MM\0*")  # how such a file begins
TIFF_TAGS = {"ICC": 0x8773, "XMP": 0x02BC}  # where it has them
TIFF_BITS, TIFF_CHANNELS, TIFF_FORMAT = 0x0102, 0x0115, 0x0153
METADATA = {
    "EXIF": cv2.IMAGE_METADATA_EXIF,
    "ICC": cv2.IMAGE_METADATA_ICCP,
    "XMP": cv2.IMAGE_METADATA_XMP,
}
XMP_HEADER = b"http://ns.adobe.com/xap/1.0/\0"  # before it in JPEG alone
BYTE_ORDERS = {b"II": "<", b"MM": ">"}  # how EXIF and TIFF begin, and what struct calls it
ORIENTATION = 0x0112  # tags of EXIF
WIDTHS, HEIGHTS = (0x0100, 0xA002), (0x0101, 0xA003)
EXIF_DIRECTORY = 0x8769
SIZES = {1: 1, 2: 1, 3: 2, 4: 4, 5: 8, 7: 1, 9: 4, 10: 8}  # bytes of a value by its EXIF type


class Header(NamedTuple):
    """What a picture file says of itself. size: bytes of a pixel once it is decoded.

    Height and width are as stored, before the EXIF orientation turns the picture.
    """

    height: int
    width: int
    size: int
    floats: bool = False


def read_header(path):
    """The Header of a JPEG, PNG, TIFF, WebP or BMP file; None of others and of damaged ones.

    Raises OSError where the file cannot be read.
    """
    readers = {b"\xff\xd8": jpeg_header, b"\x89PNG": png_header, b"BM": bmp_header}
    readers |= {b"RIFF": webp_header} | dict.fromkeys(TIFF, tiff_header)
    with (
        open(path, "rb") as file,
        # An empty file cannot be mapped (ValueError); the others are what damaged ones raise.
        contextlib.suppress(ValueError, struct.error, IndexError, KeyError, TypeError),
        mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data,  # no more is read than needed
    ):
        for start, reader in readers.items():
            if data[: len(start)] == start:
                return reader(data)
    return None


def jpeg_header(data):
    place = 2
    while data[place] == 0xFF:
        marker, length = struct.unpack_from(">BH", data, place + 1)
        if 0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC):  # start of frame
            height, width, channels = struct.unpack_from(">HHB", data, place + 5)
            return Header(height, width, 1 if channels == 1 else 3)
        place += 2 + length
    return None


def png_header(data):
    width, height, bits, colour = struct.unpack_from(">IIBB", data, 16)
    channels = {0: 1, 2: 3, 3: 3, 4: 4, 6: 4}[colour]  # as OpenCV decodes it
    return Header(height, width, channels * max(bits // 8, 1))


def tiff_header(data):
    height, width, bits = (exif_value(data, tag) for tag in (HEIGHTS[0], WIDTHS[0], TIFF_BITS))
    channels = exif_value(data, TIFF_CHANNELS) or 1
    floats = exif_value(data, TIFF_FORMAT) == 3
    return Header(+height, +width, channels * max((bits or 1) // 8, 1), floats)


def webp_header(data):
    kind = data[12:16]
    if kind == b"VP8X":
        width, height = (1 + int.from_bytes(data[i : i + 3], "little") for i in (24, 27))
    elif kind == b"VP8L":
        (packed,) = struct.unpack_from("<I", data, 21)
        width, height = 1 + (packed & 0x3FFF), 1 + (packed >> 14 & 0x3FFF)
    else:
        width, height = (side & 0x3FFF for side in struct.unpack_from("<HH", data, 26))
    return Header(height, width, 3)


def bmp_header(data):
    width, height = struct.unpack_from("<ii", data, 18)
    return Header(abs(height), width, 3)


def read_exif(path):
    """The EXIF of a picture file, for exif_value, decoded no more than needed; b"" without any."""
    with open(path, "rb") as file:
        data = file.read()
    if data[:4] in TIFF:
        return data
    try:
        image, kinds, chunks = cv2.imdecodeWithMetadata(
            np.frombuffer(data, np.uint8), cv2.IMREAD_REDUCED_GRAYSCALE_8
        )
    except cv2.error:
        return b""
    return as_metadata(kinds, chunks).get("EXIF", b"") if image is not None else b""


def as_metadata(kinds, chunks):
    """OpenCV's metadata as a Picture's, less what is not what it is said to be."""
    names = {number: name for name, number in METADATA.items()}
    metadata = {}
    for kind, chunk in zip(kinds, chunks, strict=True):
        chunk = np.ravel(chunk).tobytes()
        name = names.get(kind)
        if name == "XMP":
            # OpenCV 5.0 reads a byte too many from PNG.
            chunk = chunk[: chunk.rfind(b">") + 1].removeprefix(XMP_HEADER)
        if name == "ICC" and not is_profile(chunk):
            continue  # JPEG's segments of that kind hold other things too
        if name and chunk:
            metadata[name] = chunk
    return metadata


def is_profile(chunk):
    return chunk[36:40] == b"acsp" and int.from_bytes(chunk[:4], "big") == len(chunk)


def tiff_metadata(data):
    """ICC and XMP of a TIFF file, which OpenCV does not read; {} of other files."""
    metadata = {}
    if data[:4] in TIFF:
        entries, _, _ = exif_entries(data)
        for name, tag in TIFF_TAGS.items():
            if tag in entries:
                _, count, offset = entries[tag]
                chunk = data[offset : offset + count]
                if name == "XMP" or is_profile(chunk):
                    metadata[name] = chunk
    return metadata


def tiff_with(data, metadata):
    """A TIFF file, as OpenCV writes it, with ICC and XMP: its directory is written anew at the end.

    TIFF 6.0, section 2; ICC.1, annex B.4; XMP, part 3.
    """
    order = BYTE_ORDERS[data[:2]]
    (start,) = struct.unpack_from(order + "I", data, 4)
    (count,) = struct.unpack_from(order + "H", data, start)
    old = data[start + 2 : start + 2 + 12 * count]
    entries = [old[place : place + 12] for place in range(0, len(old), 12)]
    data = bytearray(data)
    for name, tag in TIFF_TAGS.items():
        if name in metadata:
            kind = 1 if name == "XMP" else 7  # bytes, or undefined
            data += bytes(len(data) % 2)
            entries.append(struct.pack(order + "HHII", tag, kind, len(metadata[name]), len(data)))
            data += metadata[name]
    data += bytes(len(data) % 2)
    struct.pack_into(order + "I", data, 4, len(data))
    entries.sort(key=lambda entry: struct.unpack_from(order + "H", entry))
    data += struct.pack(order + "H", len(entries)) + b"".join(entries) + bytes(4)
    return bytes(data)


def exif_entries(exif):
    """The entries of the main and Exif directories: {tag: (type, count, offset of its value)}.

    exif: EXIF, or a TIFF file, which is built alike. Returns with it the byte order, struct's, and
    where the offset of the next directory, EXIF's of the thumbnail, stands. What is damaged is left
    out.
    """
    order = BYTE_ORDERS.get(exif[:2])
    entries, follows = {}, None
    if order is None:
        return entries, order, follows
    with contextlib.suppress(struct.error):
        (start,) = struct.unpack_from(order + "I", exif, 4)
        directories = [start]
        for directory in directories:
            (count,) = struct.unpack_from(order + "H", exif, directory)
            for place in range(directory + 2, directory + 2 + 12 * count, 12):
                tag, kind, number = struct.unpack_from(order + "HHI", exif, place)
                offset = place + 8
                if SIZES.get(kind, 1) * number > 4:
                    (offset,) = struct.unpack_from(order + "I", exif, offset)
                entries.setdefault(tag, (kind, number, offset))
                if tag == EXIF_DIRECTORY and len(directories) == 1:
                    directories += struct.unpack_from(order + "I", exif, place + 8)
            if directory == start:
                follows = directory + 2 + 12 * count
    return entries, order, follows


def exif_value(exif, tag):
    """A tag's number (the first, if several), or its text; None where there is none."""
    entries, order, _ = exif_entries(exif)
    if tag not in entries:
        return None
    kind, _, offset = entries[tag]
    try:
        if kind == 2:
            return exif[offset : exif.index(b"\0", offset)].decode("ascii", "replace")
        if kind in (5, 10):
            above, below = struct.unpack_from(order + ("II" if kind == 5 else "ii"), exif, offset)
            return above / below if below else None
        return struct.unpack_from(order + {3: "H", 4: "I", 9: "i"}[kind], exif, offset)[0]
    except (struct.error, ValueError, KeyError):
        return None


def orientation(exif):
    """EXIF's orientation, 1 (upright) to 8."""
    return exif_value(exif, ORIENTATION) or 1


def describe_anew(exif, shape):
    """EXIF of an upright picture of a shape (H, W, ...), without the old one's thumbnail."""
    entries, order, follows = exif_entries(exif)
    exif = bytearray(exif)
    values = {ORIENTATION: 1}
    values |= dict.fromkeys(WIDTHS, shape[1]) | dict.fromkeys(HEIGHTS, shape[0])
    with contextlib.suppress(struct.error):
        for tag, value in values.items():
            if tag in entries and entries[tag][0] in (3, 4):
                kind, _, offset = entries[tag]
                struct.pack_into(order + {3: "H", 4: "I"}[kind], exif, offset, value)
        if follows is not None and follows + 4 <= len(exif):
            struct.pack_into(order + "I", exif, follows, 0)
    return bytes(exif)


def storable_metadata(path, extension, metadata):
    """What of the metadata a format can hold; the rest is left out with a warning."""
    if extension in DESCRIBED:
        held = METADATA
    else:
        held = TIFF_TAGS if extension in (".tif", ".tiff") else ()
    largest = JPEG_SEGMENT if extension in (".jpg", ".jpeg") else math.inf
    foreign = set(metadata) - set(held)
    large = {name for name, chunk in metadata.items() if len(chunk) > largest}
    for lost, reason in ((foreign, "OpenCV cannot to"), (large, "too large for")):
        if lost:
            listed = " and ".join(sorted(lost))
            warnings.warn(f"{path}: {listed} not written, {reason} {extension}", stacklevel=3)
    return {name: metadata[name] for name in metadata if name not in foreign | large}
