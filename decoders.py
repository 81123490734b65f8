"""How are the bytes of a picture file decoded? By OpenCV, or by the library that does it right.

Optional libraries are imported where a file needs them.
"""

import contextlib
import io
import logging
import os
import re
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from typing import Any, NamedTuple

import cv2
import numpy as np

import headers
from headers import Header
from metadata import (
    JPEG_MARKER,
    as_metadata,
    exif_values,
    jpeg_iptc,
    orientation,
    other_metadata,
    pillow_metadata,
    png_xmp,
    tiff_metadata,
)
from tiles import STRIP

# OpenCV 5 has moved this function.
set_log_level = cv2.setLogLevel if hasattr(cv2, "setLogLevel") else cv2.utils.logging.setLogLevel
SILENT, ERRORS = 0, 2  # levels of OpenCV's log
# OpenCV's messages would only repeat what read_image raises.
set_log_level(SILENT)
LARGE = 150e6  # bytes; of larger pictures, memory holds as few as can be
TABLES = 0xC4  # JPEG's marker of Huffman tables
ZEROS = 32  # bytes of a scan
COMPLAINTS = (b"Corrupt JPEG data", b"TIFF_Error", b"libpng error")  # what decoders say of damage
PADDING = b"extraneous bytes before marker 0xd9"  # what libjpeg says of what fills up a file, too
# A program that decodes the file on its standard input, so that what is said is of this file alone.
ALONE = (
    "import sys, cv2, numpy as np;"
    "(cv2.setLogLevel if hasattr(cv2, 'setLogLevel') else cv2.utils.logging.setLogLevel)(2);"
    "cv2.imdecode(np.frombuffer(sys.stdin.buffer.read(), np.uint8), cv2.IMREAD_UNCHANGED)"
)


class Decoded(NamedTuple):
    """A decoded picture, its values as the file has them.

    pixels: (H, W, 3) RGB, (H, W, 4) with alpha, or (H, W) grey. upright: True where the decoder has
    turned it as the file says. metadata: as a Picture has them.
    """

    pixels: np.ndarray
    upright: bool
    metadata: dict[str, bytes]


def decode(path: str | os.PathLike[str], data: bytes, header: Header | None) -> Decoded:
    """Decodes a picture file's bytes.

    header: the file's. Raises ValueError naming the file where it is no picture, or damaged, or
    none that the libraries here decode right, and MemoryError where there is too little memory.
    """
    kind = headers.kind_of(data[:32])
    if header is not None and header.refusal:
        raise ValueError(f"{path}: {header.refusal}")
    if data.startswith(headers.JPEG) and (refusal := jpeg_refusal(data)):
        raise ValueError(f"{path}: {refusal}")
    reader = header.reader if header else "OpenCV"
    decoded = None
    if reader == "OpenCV":
        decoded = decode_by_opencv(path, data, header)
    else:
        functions = {
            "Pillow": decode_by_pillow,
            "tifffile": decode_by_tifffile,
            "pillow-heif": decode_by_pillow_heif,
            "imagecodecs": decode_by_imagecodecs,
        }
        try:
            decoded = functions[reader](data)
        except MemoryError:
            raise
        except Exception:  # These libraries raise many types.
            decoded = None
    if decoded is None:
        what = f"{kind}, or" if kind else "not a picture that can be read, or"
        raise ValueError(f"{path}: {what} damaged or cut short")
    return decoded


def jpeg_refusal(data: bytes) -> str:
    """Returns why a JPEG file is not decoded, by what stands before its pixels; "" where it is.

    Zeros are no data of a scan where the code of zeros alone is not that of a block's end in all
    components: they would be blocks full of equal coefficients. A disk's lost blocks are filled
    with them, and libjpeg does not always notice. ITU-T T.81, annexes B.2 and F.1.2.
    """
    baseline, flat = False, True
    for marker, start, end in headers.jpeg_segments(data):
        if 0xC0 <= marker <= 0xCF and marker not in (TABLES, 0xC8, 0xCC):
            bits = data[start]
            if bits != 8:
                return f"JPEG of {bits} bits is not read; convert it to PNG or TIFF"
            baseline = marker in (0xC0, 0xC1)
        elif marker == TABLES:
            flat = flat and all_flat(data[start:end])
        elif marker == headers.SCAN:
            zeros = data.find(bytes(ZEROS), end)
            if zeros >= 0 and baseline and not flat:
                behind = re.compile(rb"[^\0]").search(data, zeros)
                following = behind.start() if behind else len(data)
                last = JPEG_MARKER.search(data, end)
                if following < (last.start() if last else len(data)):
                    return f"damaged inside ({following - zeros} zeros in a scan)"
            return ""
    return ""


def all_flat(tables: bytes) -> bool:
    """Returns True where zeros alone are the end of a block in these Huffman tables of AC."""
    place = 0
    while place + 17 <= len(tables):
        count = sum(tables[place + 1 : place + 17])
        if (
            tables[place] >> 4 and tables[place + 17 : place + 18] != b"\0"
        ):  # the first code's symbol
            return False
        place += 17 + count
    return True


def decode_by_opencv(
    path: str | os.PathLike[str], data: bytes, header: Header | None
) -> Decoded | None:
    """Does what decode does, with OpenCV; returns None where it cannot.

    A large JPEG file is read by its name, with memory for one picture instead of two.
    """
    # IMREAD_UNCHANGED keeps alpha, but does not turn pictures. JPEG has no alpha; OpenCV turns it.
    jpeg = data.startswith(headers.JPEG)
    flags = cv2.IMREAD_ANYDEPTH | cv2.IMREAD_ANYCOLOR if jpeg else cv2.IMREAD_UNCHANGED
    large = header is not None and header.size > LARGE
    # imread opens names with other letters on some systems only. Of a file that is cut short, it
    # says nothing, and fills up with grey what is missing.
    by_name = jpeg and large and os.fspath(path).isascii() and not is_cut_short(data)
    with heard() as said:
        if by_name:
            image, found = read_jpeg(path, flags)
        else:
            image, found = decode_bytes(data, flags)
    if image is None:
        return None
    if any(mark in said() for mark in COMPLAINTS) and (fault := fault_of(data)):
        raise ValueError(f"{path}: damaged inside ({fault})")
    if data.startswith(headers.PNG) and data[25] == 4 and image.ndim == 3:  # grey with alpha
        image = np.ascontiguousarray(image[..., [0, 3]])
    elif image.ndim == 3:
        exchange_red_and_blue(image)
    return Decoded(image, jpeg or data[:4] in (*headers.TIFF, *headers.BIG_TIFF), found)


def decode_bytes(data: bytes, flags: int) -> tuple[np.ndarray | None, dict[str, bytes]]:
    """Decodes a picture file's bytes to its pixels, in OpenCV's order of channels, and metadata.

    flags: as cv2.imread's. Pixels are None where the file is damaged or of an unknown format.
    Raises MemoryError where they do not fit into memory.
    """
    # libpng writes to stderr by itself; a PNG cut short is found before it does.
    if data.startswith(headers.PNG) and b"IEND\xaeB`\x82" not in data:
        return None, {}
    try:
        # Flags by name, because OpenCV 4 and 5 order the arguments differently.
        image, kinds, chunks = cv2.imdecodeWithMetadata(np.frombuffer(data, np.uint8), flags=flags)
    except cv2.error as error:
        check_memory_sufficed(error)
        return None, {}
    if image is None:
        return None, {}
    found = as_metadata(kinds, chunks) | tiff_metadata(data) | jpeg_iptc(data)
    if data.startswith(headers.PNG):
        found.pop("XMP", None)
        found |= png_xmp(data)
    return image, found | other_metadata(data)


def read_jpeg(
    path: str | os.PathLike[str], flags: int
) -> tuple[np.ndarray | None, dict[str, bytes]]:
    """Does what decode_bytes does, for a whole JPEG file, with memory for one picture."""
    try:
        image = cv2.imread(os.fspath(path), dst=None, flags=flags)
    except cv2.error as error:
        check_memory_sufficed(error)
        return None, {}
    with open(path, "rb") as file:
        return image, pillow_metadata(file)


def is_cut_short(jpeg: bytes) -> bool:
    """Returns True unless the mark of a JPEG file's end follows the last one of a scan."""
    return jpeg.rfind(b"\xff\xd9") <= jpeg.rfind(b"\xff\xda")


def check_memory_sufficed(error: cv2.error) -> None:
    """Raises MemoryError where an error of OpenCV is due to a lack of memory."""
    if error.code == cv2.Error.StsNoMem:
        raise MemoryError(error.err) from error


class Listener:
    """Hears what libraries write to stderr while any thread decodes.

    libjpeg, libpng and libtiff tell of damage nowhere else. What else is written meanwhile, by
    other threads, is passed on when the last one ends.
    """

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.listeners = 0
        self.stderr = -1
        self.path = ""

    def start(self) -> int:
        """Starts listening; returns the number of bytes that have been heard before.

        Raises OSError, ValueError or AttributeError where the program has no stderr.
        """
        with self.lock:
            if not self.listeners:
                sys.stderr.flush()
                self.stderr = os.dup(2)
                file, self.path = tempfile.mkstemp()
                os.close(file)
                file = os.open(self.path, os.O_WRONLY | os.O_APPEND)
                os.dup2(file, 2)
                os.close(file)
                set_log_level(ERRORS)
            self.listeners += 1
            return os.path.getsize(self.path)

    def stop(self, before: int) -> bytes:
        """Stops listening; returns what has been heard since `start` returned `before`."""
        with self.lock:
            self.listeners -= 1
            if not self.listeners:
                set_log_level(SILENT)
                sys.stderr.flush()
                os.dup2(self.stderr, 2)
                os.close(self.stderr)
            with open(self.path, "rb") as file:
                said = file.read()
            if not self.listeners:
                os.remove(self.path)
                foreign = [line for line in said.splitlines(True) if not is_decoders(line)]
                if foreign:
                    os.write(2, b"".join(foreign))
            return said[before:]


LISTENER = Listener()


def is_decoders(line: bytes) -> bool:
    """Returns True of a line on stderr that a decoder has written."""
    return line.startswith((b"libpng", b"Corrupt JPEG", b"[ERROR:", b"Premature end", b"\n"))


@contextlib.contextmanager
def heard() -> Iterator[Any]:
    """Listens to decoders; yields a function that returns what they have said, afterwards."""
    said = b""
    try:
        place = LISTENER.start()
    except (OSError, ValueError, AttributeError):  # There is no stderr, as in programs of a window.
        yield lambda: said
        return
    try:
        yield lambda: said
    finally:
        said = LISTENER.stop(place)


def fault_of(data: bytes) -> str:
    """Returns what OpenCV's decoders say of damage in a file, decoded by itself; "" for none."""
    process = subprocess.run([sys.executable, "-c", ALONE], input=data, capture_output=True)
    for line in process.stderr.splitlines():
        if PADDING in line and is_padded(data, int(line.split()[3])):
            continue
        for mark in COMPLAINTS:
            if mark in line:
                return line[line.index(mark) :].decode(errors="replace").strip()
    return ""


def is_padded(jpeg: bytes, count: int) -> bool:
    """Returns True where the last `count` bytes of a JPEG file's scan only fill it up."""
    end = jpeg.rfind(b"\xff\xd9")
    return len(set(jpeg[end - count : end])) <= 1


def decode_by_pillow(data: bytes) -> Decoded:
    """Decodes a TIFF file with Pillow, which turns it."""
    image = headers.open_lazily(io.BytesIO(data))
    image.load()
    mode = {"RGBa": "RGBA", "La": "LA"}.get(image.mode, image.mode)
    return Decoded(np.array(image.convert(mode)), True, tiff_metadata(data))


class Refusing(logging.Handler):
    """Raises ValueError where tifffile only logs that it makes up missing pixels."""

    def emit(self, record: logging.LogRecord) -> None:
        """Raises for messages on missing data; others are of no interest."""
        if re.search("segments|missing data|incorrect Strip|incorrect Tile", record.getMessage()):
            raise ValueError(record.getMessage())


REFUSING = Refusing()


def decode_by_tifffile(data: bytes) -> Decoded:
    """Decodes the first picture of a TIFF file with tifffile."""
    import tifffile

    logging.getLogger("tifffile").addHandler(REFUSING)
    with tifffile.TiffFile(io.BytesIO(data)) as file:
        page = file.pages.first
        pixels = page.asarray()
        if page.axes.startswith("S"):
            pixels = np.moveaxis(pixels, 0, -1)
        colours = 3 if page.photometric == headers.RGB else 1
        if pixels.ndim == 3:
            alpha = [colours] if page.extrasamples and page.extrasamples[0] else []
            pixels = np.ascontiguousarray(pixels[..., [*range(colours), *alpha]])
    if pixels.dtype == np.float16:
        pixels = pixels.astype(np.float32)
    found = tiff_metadata(data)
    how = orientation(exif_values(data))
    if 0 in pixels.shape:
        raise ValueError("no pixels")
    return Decoded(turn_upright(pixels, how), True, found)


def decode_by_pillow_heif(data: bytes) -> Decoded:
    """Decodes a HEIC file with pillow-heif, which turns it."""
    import pillow_heif

    image = pillow_heif.open_heif(io.BytesIO(data), convert_hdr_to_8bit=False)
    return Decoded(np.array(image), True, other_metadata(data))


def decode_by_imagecodecs(data: bytes) -> Decoded:
    """Decodes a JPEG XL file with imagecodecs, which turns it."""
    import imagecodecs

    pixels = np.array(imagecodecs.jpegxl_decode(data))
    return Decoded(pixels, True, other_metadata(data))


def turn_upright(image: np.ndarray, how: int) -> np.ndarray:
    """Turns and mirrors a picture as an EXIF orientation, 1 to 8, says."""
    if how in (5, 6, 7, 8):
        image = cv2.transpose(image)
    flip = {2: 1, 3: -1, 4: 0, 6: 1, 7: -1, 8: 0}.get(how)
    return image if flip is None else cv2.flip(image, flip)


def exchange_red_and_blue(image: np.ndarray) -> None:
    """Turns RGB into BGR or back, in place, with alpha or without."""
    for start in range(0, len(image), STRIP):
        strip = image[start : start + STRIP]
        if image.dtype == np.float64:  # OpenCV does not convert it.
            strip[..., :3] = strip[..., 2::-1].copy()
        elif image.shape[2] == 4:
            strip[:] = cv2.cvtColor(strip, cv2.COLOR_BGRA2RGBA)
        else:
            strip[:] = cv2.cvtColor(strip, cv2.COLOR_BGR2RGB)


def as_meant(pixels: np.ndarray, header: Header) -> np.ndarray:
    """Returns pixels whose white is their type's largest value, and not multiplied by alpha.

    pixels: as decoded from a file of this Header, with alpha last where there are 2 or 4 channels.
    """
    largest = np.iinfo(pixels.dtype).max if pixels.dtype.kind == "u" else 1
    transparent = pixels.ndim == 3 and pixels.shape[2] in (2, 4)
    if header.white and header.white != largest:
        levels = np.arange(largest + 1) * (largest / header.white)
        pixels = np.rint(levels).clip(0, largest).astype(pixels.dtype)[pixels]
    if header.inverted:
        part = pixels[..., :-1] if transparent else pixels
        np.subtract(largest, part, out=part, casting="unsafe")
    if header.associated and transparent:
        for row in pixels:
            alpha = np.maximum(row[:, -1:].astype(np.float64), 1e-9 * largest)
            divided = (row[:, :-1] * (largest / alpha)).clip(0, largest)
            row[:, :-1] = np.rint(divided) if pixels.dtype.kind == "u" else divided
    return pixels
