"""How do cameras' RAW files become pictures? Developed by LibRaw, all exposures of a scene alike.

rawpy, which brings LibRaw, is optional and imported where a RAW file is opened. EXIF is read
without it.
"""

import contextlib
import importlib.util
import io
import mmap
import os
import struct
from collections.abc import Iterator, Sequence
from typing import IO, TYPE_CHECKING, Any, NamedTuple, cast

import numpy as np

import headers
import metadata

if TYPE_CHECKING:
    import rawpy

RAW_EXTENSIONS = (
    *(".dng", ".cr2", ".cr3", ".nef", ".nrw", ".arw", ".raf"),
    *(".orf", ".rw2", ".pef", ".srw"),
)
GAMMA = (2.4, 12.92)  # sRGB's power and its slope near black
TIFF_LIKE = (b"IIRO", b"IIRS", b"MMOR", b"IIU\0")  # Olympus and Panasonic; else as in TIFF
PANASONIC_ISO = 0x0017  # tag of the main directory; their Exif directory lacks it
RAF_PREVIEW = 84  # where Fujifilm's files have the place and the size of their JPEG preview
LARGEST_BASELINE = 8.0  # stops; a larger BaselineExposure is a mistake
BOXES = 2**16  # bytes in which Canon's .cr3 files have their EXIF

# Tags of DNG (Adobe, DNG 1.7.1): directories beside the main one, the usable part, brightness
SUB_DIRECTORIES, CROP_ORIGIN, CROP_SIZE, BASELINE_EXPOSURE = 0x014A, 50719, 50720, 50730
MOSAICS = (32803, 34892)  # values of PHOTOMETRIC of pictures that are to be developed
JPEG_XL_IN_DNG = 52546

WhiteBalance = tuple[float, float, float, float]  # factors of R, G, B and the second G


class Development(NamedTuple):
    """White balance and a gain in linear light, with which all RAW files of a scene are developed.

    The gain is that of DNG's BaselineExposure: how much brighter the maker of the file wants it.
    """

    balance: WhiteBalance
    gain: float = 1.0


def is_raw(path: str | os.PathLike[str]) -> bool:
    """Returns True where the extension is one of RAW files."""
    return os.fspath(path).lower().endswith(RAW_EXTENSIONS)


def can_develop() -> bool:
    """Returns True where rawpy is installed."""
    return importlib.util.find_spec("rawpy") is not None


@contextlib.contextmanager
def opened(path: str | os.PathLike[str]) -> Iterator["rawpy.RawPy"]:
    """Opens a RAW file.

    Raises OSError where the file cannot be read, and ValueError naming it and the reason where
    rawpy is missing, and where LibRaw does not know the file, finds it damaged or cut short.
    """
    open(path, "rb").close()  # Python says best why a file cannot be read.
    if not can_develop():
        raise ValueError(f"{path}: RAW files need rawpy: pip install -r requirements-raw.txt")
    import rawpy

    try:
        with rawpy.imread(os.fspath(path)) as file:
            yield file
    except rawpy.LibRawFileUnsupportedError as error:
        text = "no RAW file, or of a camera that LibRaw does not know"
        if dng_tags(path).get(headers.COMPRESSION) == JPEG_XL_IN_DNG:
            text = (
                "a DNG compressed as JPEG XL, which this LibRaw does not read; convert it, such as "
            )
            text += "with Adobe's DNG Converter"
        raise ValueError(f"{path}: {text}") from error
    except rawpy.LibRawUnsufficientMemoryError as error:
        raise MemoryError(f"{path}: too large to be developed") from error
    except (rawpy.LibRawError, rawpy.NotSupportedError, RuntimeError, OSError) as error:
        reason = error.args[0] if error.args else error
        reason = reason.decode() if isinstance(reason, bytes) else reason
        raise ValueError(f"{path}: damaged, cut short or not supported ({reason})") from error


def raw_header(path: str | os.PathLike[str]) -> headers.Header:
    """Returns the Header of the picture that develop gives, upright and of 16 bits a channel.

    Raises as opened.
    """
    with opened(path) as file:
        rows, columns = usable_part(path, file)
        height, width = rows.stop - rows.start, columns.stop - columns.start
        if file.sizes.flip & 4:
            height, width = width, height
    return headers.Header(height, width, 3, np.dtype(np.uint16), False)


def dng_tags(path: str | os.PathLike[str]) -> dict[int, Any]:
    """Returns the tags of a DNG file's main directory and of its RAW picture's; {} of others."""
    from PIL.TiffImagePlugin import ImageFileDirectory_v2

    if not os.fspath(path).lower().endswith(".dng"):
        return {}
    with open(path, "rb") as file, contextlib.suppress(Exception):  # Pillow raises many types.
        main = headers.tiff_entries(file)
        tags = dict(main)
        offsets = main.get(SUB_DIRECTORIES, ())
        for offset in offsets if isinstance(offsets, tuple) else (offsets,):
            file.seek(0)
            entries = ImageFileDirectory_v2(file.read(8))
            file.seek(offset)
            entries.load(file)
            if entries.get(headers.PHOTOMETRIC) in MOSAICS:
                return tags | dict(entries)
        return tags
    return {}


def usable_part(path: str | os.PathLike[str], file: "rawpy.RawPy") -> tuple[slice, slice]:
    """Returns rows and columns, before the picture is turned, that DNG's DefaultCrop leaves.

    LibRaw leaves more: the pixels at the border, from which a mosaic's colours are told.
    """
    tags = dng_tags(path)
    height, width = file.sizes.height, file.sizes.width
    with contextlib.suppress(KeyError, TypeError, ValueError, ZeroDivisionError):
        left, top = (round(float(value)) for value in tags[CROP_ORIGIN])
        columns, rows = (round(float(value)) for value in tags[CROP_SIZE])
        if 0 <= left < left + columns <= width and 0 <= top < top + rows <= height:
            return slice(top, top + rows), slice(left, left + columns)
    return slice(0, height), slice(0, width)


def common_development(paths: Sequence[str | os.PathLike[str]]) -> Development | None:
    """Returns the Development of all RAW files of a scene; None without any.

    It is that of the exposure of middle brightness, as its camera chose it. Raises as opened.
    """
    paths = [path for path in paths if is_raw(path)]
    found = [own_development(path) for path in paths]
    if len(set(found)) < 2:
        return found[0] if found else None
    order = np.argsort([raw_brightness(path) for path in paths], kind="stable")
    return found[order[(len(paths) - 1) // 2]]


def own_development(path: str | os.PathLike[str]) -> Development:
    """Returns the Development that the camera chose, in daylight's balance where it chose none."""
    with opened(path) as file:
        red, green, blue, green_2 = file.camera_whitebalance
        if min(red, green, blue) <= 0:
            red, green, blue, green_2 = file.daylight_whitebalance
    gain = 1.0
    with contextlib.suppress(TypeError, ValueError, ZeroDivisionError, OverflowError):
        stops = float(headers.first(dng_tags(path).get(BASELINE_EXPOSURE, 0)))
        gain = 2.0**stops if abs(stops) <= LARGEST_BASELINE else 1.0
    return Development((red, green, blue, green_2 or green), gain)


def raw_brightness(path: str | os.PathLike[str]) -> float:
    """Returns the mean of a RAW file's values, of every eighth block of its colour filter."""
    with opened(path) as file:
        values = file.raw_image_visible
        rows, columns = (np.arange(side) // 6 % 8 == 0 for side in values.shape[:2])
        return float(values[rows][:, columns].mean())


def develop(
    path: str | os.PathLike[str], development: Development | None = None, half: bool = False
) -> np.ndarray:
    """Returns the upright picture of a RAW file, uint16 RGB (H, W, 3) in sRGB.

    Brightness is that of the exposure: nothing depends on what a file shows, so that exposures of
    one scene differ by exposure alone. development: the camera's where it is None. half: decodes at
    half the size, many times faster. Raises as opened.
    """
    balance, gain = development or own_development(path)
    with opened(path) as file:
        rows, columns = usable_part(path, file)
        flip = file.sizes.flip  # LibRaw forgets it on the way.
        pixels = file.postprocess(
            half_size=half,
            user_wb=list(balance),
            no_auto_bright=True,
            bright=gain,
            adjust_maximum_thr=0.0,  # Else a file's own largest value might become white.
            output_bps=16,
            gamma=GAMMA,
            user_flip=0,
        )
    scale = 2 if half else 1
    pixels = pixels[
        rows.start // scale : -(-rows.stop // scale),
        columns.start // scale : -(-columns.stop // scale),
    ]
    # LibRaw's bits: upside down, mirrored, transposed.
    pixels = pixels[:: -1 if flip & 2 else 1, :: -1 if flip & 1 else 1]
    pixels = np.ascontiguousarray(pixels.swapaxes(0, 1) if flip & 4 else pixels)
    # Of a camera without a colour filter there is one channel.
    return np.repeat(pixels, 3, axis=2) if pixels.shape[2] == 1 else pixels


def read_raw_exif(path: str | os.PathLike[str]) -> bytes:
    """Returns the EXIF of a RAW file, for other formats, without orientation; b"" without any.

    Raises OSError where the file cannot be read.
    """
    with open(path, "rb") as file:
        if not os.fstat(file.fileno()).st_size:
            return b""
        # Of the file, only what is looked at is read. Changes are not written to it.
        with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY) as data:
            return mapped_exif(data)


def mapped_exif(data: mmap.mmap) -> bytes:
    """Returns what read_raw_exif does, from a file that is mapped into memory."""
    if data[:4] in TIFF_LIKE:
        panasonic = data[:4] == TIFF_LIKE[-1]
        data[:4] = headers.TIFF[0] if data[:2] == b"II" else headers.TIFF[1]
        return metadata.tiff_exif(cast(IO[bytes], data), iso=PANASONIC_ISO if panasonic else None)
    if data[:4] in headers.TIFF:
        return metadata.tiff_exif(cast(IO[bytes], data))
    if data[:8] == b"FUJIFILM" and len(data) >= RAF_PREVIEW + 8:
        start, size = struct.unpack_from(">II", data, RAF_PREVIEW)
        return metadata.tiff_exif(io.BytesIO(exif_of_jpeg(data[start : start + size])))
    directory, other = boxes_of_canon(data[:BOXES])
    return metadata.tiff_exif(io.BytesIO(directory), other)


def exif_of_jpeg(jpeg: bytes) -> bytes:
    """Returns the EXIF of a JPEG file's bytes, b"" without any. EXIF 2.32, section 4.7."""
    start = jpeg.find(b"Exif\0\0")
    if start < 4:
        return b""
    (length,) = struct.unpack_from(">H", jpeg, start - 2)
    return jpeg[start + 6 : start - 2 + length]


def boxes_of_canon(data: bytes) -> list[bytes]:
    """Returns a .cr3 file's main and Exif directory, which are TIFF data each; empty without."""
    directories = []
    for name in (b"CMT1", b"CMT2"):
        start = data.find(name)
        size = struct.unpack_from(">I", data, start - 4)[0] if start >= 4 else 8
        directories.append(data[start + 4 : start - 4 + size] if size > 8 else b"")
    return directories


def read_exif_values(path: str | os.PathLike[str]) -> dict[int, Any]:
    """Returns EXIF's values of a picture file, RAW or not, as metadata.read_exif does."""
    if is_raw(path):
        return metadata.exif_values(read_raw_exif(path))
    return metadata.read_exif(path)
