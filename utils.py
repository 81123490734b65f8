"""How do pictures get in and out? Reading, writing and colour conversion.

Outside, a picture is an array as files hold it: (H, W, 3) RGB or (H, W) grey; uint8, uint16 or
float in [0, 1]. Inside, it is a float32 tensor (1, C, H, W) in [0, 1] with the channels Y, Cb, Cr,
or Y alone. PyTorch is imported where a tensor is made: reading and writing do not wait for it.
"""

import contextlib
import math
import mmap
import os
import re
import struct
import warnings
from typing import NamedTuple

import cv2
import numpy as np

# What is wrong with a file is said once, by read_image. OpenCV 5 has moved the function.
(cv2.setLogLevel if hasattr(cv2, "setLogLevel") else cv2.utils.logging.setLogLevel)(0)

LUMA = (0.299, 0.587, 0.114)  # of R, G, B; ITU-R BT.601
LZW = 5  # TIFF's number for it; OpenCV 4 stores floats with loss unless told otherwise
NEUTRAL = 0.5  # Cb and Cr of grey; 128 in the paper's 8-bit terms
TO_YCBCR = np.array(  # of (R, G, B, 1)
    [
        [*LUMA, 0],
        [*np.subtract((0, 0, 1), LUMA) / (2 * (1 - LUMA[2])), NEUTRAL],
        [*np.subtract((1, 0, 0), LUMA) / (2 * (1 - LUMA[0])), NEUTRAL],
    ]
)
FROM_YCBCR = np.linalg.inv([*TO_YCBCR, (0, 0, 0, 1)])[:3]
JPEG_SEGMENT = 65_500  # bytes of metadata that one can hold
QUALITY = 95  # of JPEG, WebP and AVIF
THUMBNAIL = 240  # width on contact sheets, in pixels
CAPTION = 20  # height of the text below a thumbnail, in pixels

EXTENSIONS = (".jpg", ".jpeg", ".png", ".tif", ".tiff", ".bmp", ".webp", ".avif", ".ppm")
DEEP = (".png", ".tif", ".tiff", ".jp2")  # formats of 16 bits,
FLOAT = (".tif", ".tiff", ".exr", ".hdr", ".pfm")  # of floats,
TRANSPARENT = (".png", ".tif", ".tiff", ".webp", ".avif")  # with alpha,
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


class Picture(NamedTuple):
    """What a file holds. pixels: (H, W, 3) RGB or (H, W) grey; alpha: (H, W) of that type or None.

    metadata: some of "EXIF", "ICC" and "XMP", as bytes.
    """

    pixels: np.ndarray
    alpha: np.ndarray | None
    metadata: dict


def read_image(path):
    """The pixels of a picture file, see read_picture."""
    return read_picture(path).pixels


def read_picture(path):
    """Reads a picture file in the depth that it is stored in: a Picture.

    Turned upright as its EXIF orientation says, which the metadata say no more then. Raises OSError
    where the file cannot be read, ValueError naming it and the reason where it is no picture or is
    cut short.
    """
    with open(path, "rb") as file:
        data = file.read()
    if not data:
        raise ValueError(f"{path}: the file is empty")
    # libpng writes to stderr by itself; a PNG cut short is found before it does.
    complete = not data.startswith(b"\x89PNG") or b"IEND\xaeB\x60\x82" in data
    # With alpha, OpenCV leaves pictures as they lie in the file; it turns JPEG, which has none.
    jpeg = data.startswith(b"\xff\xd8")
    flags = cv2.IMREAD_ANYDEPTH | cv2.IMREAD_ANYCOLOR if jpeg else cv2.IMREAD_UNCHANGED
    image, kinds, chunks = None, (), ()
    if complete:
        with contextlib.suppress(cv2.error):
            image, kinds, chunks = cv2.imdecodeWithMetadata(np.frombuffer(data, np.uint8), flags)
    if image is None:
        raise ValueError(f"{path}: not a picture that can be read, or damaged or cut short")
    if image.dtype not in (np.uint8, np.uint16, np.float32, np.float64):
        raise ValueError(f"{path}: {image.dtype} pixels are not supported")
    metadata = as_metadata(kinds, chunks) | tiff_metadata(data)
    alpha = None
    if not jpeg:
        image = turn_upright(image, orientation(metadata.get("EXIF", b"")))
    if image.ndim == 3 and image.shape[2] == 4:
        alpha = np.ascontiguousarray(image[..., 3])
        grey = data.startswith(b"\x89PNG") and data[25] == 4  # its header's type of colour
        image = np.ascontiguousarray(image[..., 0] if grey else image[..., :3])
        if not alpha.any():
            alpha = None  # of formats with a fourth byte that means nothing
    if "EXIF" in metadata:
        metadata["EXIF"] = describe_anew(metadata["EXIF"], image.shape)
    if image.ndim == 3:
        exchange_red_and_blue(image)
    return Picture(image, alpha, metadata)


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


def turn_upright(image, orientation):
    """A picture as its EXIF orientation, 1 to 8, wants it shown."""
    if orientation in (5, 6, 7, 8):
        image = cv2.transpose(image)
    flip = {2: 1, 3: -1, 4: 0, 6: 1, 7: -1, 8: 0}.get(orientation)
    return image if flip is None else cv2.flip(image, flip)


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


def find_scenes(folder):
    """Scene folders below `folder`: a list of (path, picture files), both in natural order.

    Sub-folders without pictures are not scenes. Raises OSError where the folder cannot be listed,
    ValueError where it has no scene.
    """
    paths = [os.path.join(folder, name) for name in sorted(os.listdir(folder), key=natural)]
    scenes = [(path, find_pictures(path)) for path in paths if os.path.isdir(path)]
    scenes = [(path, files) for path, files in scenes if files]
    if not scenes:
        raise ValueError(f"{folder}: has no sub-folder with pictures (one folder a scene)")
    return scenes


def find_pictures(folder):
    """The files of a folder with a picture's extension, hidden ones aside, in natural order."""
    return [
        os.path.join(folder, file)
        for file in sorted(os.listdir(folder), key=natural)
        if file.lower().endswith(EXTENSIONS) and not file.startswith(".")
    ]


def natural(name):
    """Sort key by which 2.jpg comes before 10.jpg."""
    parts = re.split(r"([0-9]+)", name.lower())  # every second part is a number
    return [int(part) if i % 2 else part for i, part in enumerate(parts)]


def exchange_red_and_blue(image):
    """RGB to BGR or back, in place and in strips, so that no second picture is in memory."""
    for start in range(0, len(image), 64):
        strip = image[start : start + 64]
        strip[:] = cv2.merge(cv2.split(strip)[::-1])


def check_writable(path):
    """Raises OSError naming the file where no file could be written under that name."""
    folder = os.path.dirname(path) or "."
    if not os.path.isdir(folder):
        raise OSError(f"{path}: there is no folder {folder}")
    if os.path.isdir(path):
        raise OSError(f"{path}: is a folder")
    if not os.access(path if os.path.exists(path) else folder, os.W_OK):
        raise OSError(f"{path}: no permission to write")


def check_picture_writable(path):
    """check_writable, and ValueError where the extension names no format that can be written."""
    check_writable(path)
    extension = os.path.splitext(path)[1]
    # OpenCV looks for an encoder by the name's ending alone.
    if not extension or not cv2.haveImageWriter(f"picture{extension}"):
        raise ValueError(f"{path}: unknown picture format {extension!r}; try .png, .jpg or .tif")


@contextlib.contextmanager
def replacing(path, mode="wb", **options):
    """A file to write that becomes `path` once it is complete, and else leaves no trace.

    mode and options are open's. Raises OSError naming `path`, not the temporary file.
    """
    temporary = f"{path}.tmp{os.getpid()}"
    try:
        with open(temporary, mode, **options) as file:
            yield file
        os.replace(temporary, path)
    except BaseException as error:
        with contextlib.suppress(OSError):
            os.remove(temporary)
        if isinstance(error, OSError):
            raise OSError(f"{path}: {error.strerror or error}") from error
        raise


def write_image(path, image, alpha=None, metadata=None, quality=QUALITY):
    """Writes an RGB or grey array, its format chosen by the file's extension.

    alpha, metadata: as a Picture has them; what the format cannot hold is left out with a warning.
    quality: 1 to 100, of JPEG, WebP and AVIF.

    Depths that a format cannot hold are reduced: float to 16 bit except in formats of floats, 16 to
    8 bit except in PNG, TIFF and JPEG 2000. The file is complete or not there. Raises OSError and
    ValueError as check_picture_writable does.
    """
    check_picture_writable(path)
    extension = os.path.splitext(path)[1].lower()
    if alpha is not None and extension not in TRANSPARENT:
        warnings.warn(f"{path}: written without alpha, which {extension} has not", stacklevel=2)
        alpha = None
    metadata = storable_metadata(path, extension, metadata or {})
    tiff = extension in (".tif", ".tiff")
    image, alpha = (as_storable(plane, extension) for plane in (image, alpha))
    options = {
        ".jpg": [cv2.IMWRITE_JPEG_QUALITY, quality],
        ".jpeg": [cv2.IMWRITE_JPEG_QUALITY, quality],
        ".webp": [cv2.IMWRITE_WEBP_QUALITY, quality],
        ".avif": [cv2.IMWRITE_AVIF_QUALITY, quality],
        ".tif": [cv2.IMWRITE_TIFF_COMPRESSION, LZW],
        ".tiff": [cv2.IMWRITE_TIFF_COMPRESSION, LZW],
    }.get(extension, [])
    kinds, chunks = [], []
    for name, chunk in () if tiff else metadata.items():
        if name == "XMP" and extension in (".jpg", ".jpeg"):
            chunk = XMP_HEADER + chunk
        if name == "EXIF":
            chunk = describe_anew(chunk, image.shape)
        kinds.append(METADATA[name])
        chunks.append(np.frombuffer(chunk, np.uint8))
    if alpha is not None:
        colours = [image] * 3 if image.ndim == 2 else cv2.split(image)[::-1]
        image = cv2.merge([*colours, alpha])
    elif image.ndim == 3:
        image = image.copy()
        exchange_red_and_blue(image)
    try:
        if kinds:
            encoded, data = cv2.imencodeWithMetadata(extension, image, kinds, chunks, options)
        else:
            encoded, data = cv2.imencode(extension, image, options)
    except cv2.error as error:
        raise ValueError(f"{path}: {error.err}") from error
    if not encoded:
        raise ValueError(f"{path}: this picture cannot be stored as {extension}")
    if tiff and metadata:
        data = tiff_with(data.tobytes(), metadata)
    with replacing(path) as file:
        file.write(data)


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


def as_storable(image, extension):
    """A picture, or None, in the deepest type up to its own that a format can hold."""
    if image is not None and image.dtype.kind == "f" and extension not in FLOAT:
        image = quantise(image, np.uint16)
    if image is not None and image.dtype == np.uint16 and extension not in DEEP:
        image = to_8_bit(image)
    return image


def to_ycbcr(image):
    """Array (H, W, 3) RGB or (H, W) grey to a float32 tensor (1, 3 or 1, H, W) in [0, 1].

    Y, Cb, Cr of ITU-R BT.601, full range, as in JPEG (JFIF): Cb = (B - Y)/1.772 + 1/2 and
    Cr = (R - Y)/1.402 + 1/2. A grey picture is its own Y. Integers are divided by their type's
    largest value.
    """
    import torch

    if image.ndim == 2:
        return to_luma(image)
    ycbcr = cv2.transform(image.astype(np.float32), TO_YCBCR / [*[highest(image)] * 3, 1])
    return torch.from_numpy(ycbcr).permute(2, 0, 1)[None].contiguous()


def to_luma(image):
    """The Y of to_ycbcr: (H, W, 3) RGB or (H, W) grey to (1, 1, H, W)."""
    import torch

    if image.ndim == 2:
        luma = image / np.float32(highest(image))
    else:
        luma = cv2.transform(image.astype(np.float32), TO_YCBCR[:1, :3] / highest(image))
    return torch.from_numpy(luma.astype(np.float32, copy=False))[None, None]


def highest(image):
    """The value that stands for 1 in an array's type."""
    return np.iinfo(image.dtype).max if image.dtype.kind == "u" else 1


def from_ycbcr(ycbcr, dtype):
    """The inverse of to_ycbcr: a tensor (1, 3 or 1, H, W) to an array of the given type.

    Clipped to the range and, for integers, rounded to the nearest level.
    """
    if ycbcr.shape[1] == 1:
        return quantise(ycbcr[0, 0].numpy(), dtype)
    image = cv2.merge([plane.numpy() for plane in ycbcr[0]])
    return quantise(cv2.transform(image, FROM_YCBCR), dtype)


def quantise(image, dtype):
    """Float array in [0, 1], clipped, as `dtype`: unsigned integers over their full range."""
    if np.dtype(dtype).kind != "u":
        return np.clip(image, 0, 1).astype(dtype)
    levels = np.iinfo(dtype).max
    return np.rint(np.clip(image * image.dtype.type(levels), 0, levels)).astype(dtype)


def to_8_bit(image):
    """A picture of any depth as uint8, rounded to the nearest level."""
    return as_type(image, np.uint8)


def as_type(image, dtype):
    """A picture of any depth in another, rounded to the nearest level."""
    if image.dtype == dtype:
        return image
    if image.dtype.kind == "u":
        image = image / np.iinfo(image.dtype).max
    return quantise(image, dtype)


def to_gray(image):
    """RGB or grey picture to 8-bit gray, rounded, as the MEF-SSIM authors' program sees it.

    That program is MATLAB's and calls rgb2gray, whose BT.601 weights have more digits than the
    standard's.
    """
    image = to_8_bit(image)
    if image.ndim == 2:
        return image
    weights = np.array([0.298936021293775, 0.587043074451121, 0.114020904255103])
    return np.floor(image @ weights + 0.5).astype(np.uint8)


def contact_sheet_row(pictures, captions, width=THUMBNAIL):
    """Pictures of one size as a row of captioned thumbnails, (h, w, 3) 8-bit RGB."""
    shape = pictures[0].shape
    size = (width, max(1, round(shape[0] * width / shape[1])))
    cells = []
    for picture, caption in zip(pictures, captions, strict=True):
        small = cv2.resize(to_8_bit(picture), size, interpolation=cv2.INTER_AREA)
        small = np.repeat(small[..., None], 3, axis=2) if small.ndim == 2 else small
        label = np.full((CAPTION, width, 3), 255, np.uint8)
        cv2.putText(label, caption, (2, 14), cv2.FONT_HERSHEY_SIMPLEX, 0.4, (0, 0, 0))
        cells.append(np.concatenate([small, label]))
    return np.concatenate(cells, axis=1)
