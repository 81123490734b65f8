"""How do pictures get in and out? Reading, writing and colour conversion.

Outside, a picture is an array as files hold it: (H, W, 3) RGB or (H, W) grey; uint8, uint16 or
float in [0, 1]. Inside, it is a float32 tensor (1, C, H, W) in [0, 1] with the channels Y, Cb, Cr,
or Y alone. PyTorch is imported where a tensor is made: reading and writing do not wait for it.
"""

import contextlib
import os
import warnings
from typing import NamedTuple

import cv2
import numpy as np

from metadata import (
    METADATA,
    XMP_HEADER,
    as_metadata,
    describe_anew,
    orientation,
    storable_metadata,
    tiff_metadata,
    tiff_with,
)

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
QUALITY = 95  # of JPEG, WebP and AVIF
THUMBNAIL = 240  # width on contact sheets, in pixels
CAPTION = 20  # height of the text below a thumbnail, in pixels
DEEP = (".png", ".tif", ".tiff", ".jp2")  # formats of 16 bits,
FLOAT = (".tif", ".tiff", ".exr", ".hdr", ".pfm")  # of floats,
TRANSPARENT = (".png", ".tif", ".tiff", ".webp", ".avif")  # with alpha,


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
    found = as_metadata(kinds, chunks) | tiff_metadata(data)
    alpha = None
    if not jpeg:
        image = turn_upright(image, orientation(found.get("EXIF", b"")))
    if image.ndim == 3 and image.shape[2] == 4:
        alpha = np.ascontiguousarray(image[..., 3])
        grey = data.startswith(b"\x89PNG") and data[25] == 4  # its header's type of colour
        image = np.ascontiguousarray(image[..., 0] if grey else image[..., :3])
        if not alpha.any():
            alpha = None  # of formats with a fourth byte that means nothing
    if "EXIF" in found:
        found["EXIF"] = describe_anew(found["EXIF"], image.shape)
    if image.ndim == 3:
        exchange_red_and_blue(image)
    return Picture(image, alpha, found)


def turn_upright(image, orientation):
    """A picture as its EXIF orientation, 1 to 8, wants it shown."""
    if orientation in (5, 6, 7, 8):
        image = cv2.transpose(image)
    flip = {2: 1, 3: -1, 4: 0, 6: 1, 7: -1, 8: 0}.get(orientation)
    return image if flip is None else cv2.flip(image, flip)


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
def replacing(path, mode="wb", flush=False, **options):
    """A file to write that becomes `path` once it is complete, and else leaves no trace.

    flush: whether it is on the disk before it does. mode and options are open's. Raises OSError
    naming `path`, not the temporary file.
    """
    temporary = f"{path}.tmp{os.getpid()}"
    try:
        with open(temporary, mode, **options) as file:
            yield file
            if flush:
                file.flush()
                os.fsync(file.fileno())
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
    held = storable_metadata(path, extension, metadata or {})
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
    for name, chunk in () if tiff else held.items():
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
    if tiff and held:
        data = tiff_with(data.tobytes(), held)
    with replacing(path) as file:
        file.write(data)


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
