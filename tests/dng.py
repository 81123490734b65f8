"""Writes small DNG files, RAW files that LibRaw opens (Adobe, DNG 1.4)."""

import struct

import numpy as np

SHORT, LONG, RATIONAL, SRATIONAL, BYTE, ASCII = 3, 4, 5, 10, 1, 2
# sRGB's linear primaries as a camera's: XYZ (D65) to camera RGB, row by row
COLOUR_MATRIX = [3.2406, -1.5372, -0.4986, -0.9689, 1.8758, 0.0415, 0.0557, -0.2040, 1.0570]
WHITE = 16383


def mosaic(picture):
    """Linear RGB (H, W, 3) in [0, 1] as the values of an RGGB filter, uint16 (H, W)."""
    values = np.empty(picture.shape[:2])
    values[0::2, 0::2] = picture[0::2, 0::2, 0]
    values[0::2, 1::2] = picture[0::2, 1::2, 1]
    values[1::2, 0::2] = picture[1::2, 0::2, 1]
    values[1::2, 1::2] = picture[1::2, 1::2, 2]
    return np.rint(np.clip(values, 0, 1) * WHITE).astype(np.uint16)


def write_dng(
    path, picture, neutral=(1, 1, 1), orientation=1, time=None, seconds=0.01, crop=None, stops=None
):
    """Writes linear RGB (H, W, 3) in [0, 1], as a camera would have seen it, as a DNG file.

    neutral: the camera's RGB of what is white. time: of EXIF; without it, there is no EXIF. crop:
    left, top, width, height of DefaultCrop. stops: BaselineExposure.
    """
    values = mosaic(picture * np.asarray(neutral, float))
    height, width = values.shape
    entries = [
        (254, LONG, [0]),
        (256, LONG, [width]),
        (257, LONG, [height]),
        (258, SHORT, [16]),
        (259, SHORT, [1]),
        (262, SHORT, [32803]),
        (271, ASCII, b"DeepFuse\0"),
        (272, ASCII, b"Render\0"),
        (273, LONG, [0]),  # the place of the pixels, filled in below
        (274, SHORT, [orientation]),
        (277, SHORT, [1]),
        (278, LONG, [height]),
        (279, LONG, [values.nbytes]),
        (284, SHORT, [1]),
        (33421, SHORT, [2, 2]),
        (33422, BYTE, bytes([0, 1, 1, 2])),
        (50706, BYTE, bytes([1, 4, 0, 0])),
        (50708, ASCII, b"DeepFuse Render\0"),
        (50714, SHORT, [0]),
        (50717, LONG, [WHITE]),
        (50721, SRATIONAL, COLOUR_MATRIX),
        (50728, RATIONAL, list(neutral)),
        (50778, SHORT, [21]),
    ]
    if crop:
        entries[-2:-2] = [(50719, LONG, crop[:2]), (50720, LONG, crop[2:])]
    if stops is not None:
        entries.insert(-1, (50730, SRATIONAL, [stops]))
    entries.sort()
    if time:
        entries.insert(13, (34665, LONG, [0]))
    start = 8 + directory_size(entries)
    exif = b""
    if time:
        entries = [(t, k, [start]) if t == 34665 else (t, k, v) for t, k, v in entries]
        values_of_exif = [
            (33434, RATIONAL, [seconds]),
            (34855, SHORT, [100]),
            (36867, ASCII, f"{time}\0".encode()),
        ]
        exif = directory(values_of_exif, start)
    entries = [(t, k, [start + len(exif)]) if t == 273 else (t, k, v) for t, k, v in entries]
    data = b"II*\0" + struct.pack("<I", 8) + directory(entries, 8) + exif + values.tobytes()
    with open(path, "wb") as file:
        file.write(data)
    return path


def packed(kind, values):
    if kind in (ASCII, BYTE):
        return bytes(values)
    if kind in (RATIONAL, SRATIONAL):
        sign = "i" if kind == SRATIONAL else "I"
        return b"".join(struct.pack(f"<2{sign}", round(v * 10000), 10000) for v in values)
    return struct.pack(f"<{len(values)}{'H' if kind == SHORT else 'I'}", *values)


def directory_size(entries):
    large = sum(len(d) + len(d) % 2 for _, k, v in entries if len(d := packed(k, v)) > 4)
    return 2 + 12 * len(entries) + 4 + large


def directory(entries, start):
    """A TIFF directory at a place in the file, followed by the values that do not fit into it."""
    place = start + 2 + 12 * len(entries) + 4
    head, tail = struct.pack("<H", len(entries)), b""
    for tag, kind, values in entries:
        data = packed(kind, values)
        count = len(data) if kind in (ASCII, BYTE) else len(values)
        if len(data) <= 4:
            field = data.ljust(4, b"\0")
        else:
            field = struct.pack("<I", place + len(tail))
            tail += data + bytes(len(data) % 2)
        head += struct.pack("<HHI", tag, kind, count) + field
    return head + bytes(4) + tail
