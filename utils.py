"""How do pictures get in and out? Reading, writing and colour conversion.

Outside, a picture is an array as files hold it: (H, W, 3) RGB or (H, W) grey; uint8, uint16 or
float in [0, 1]. Inside, it is float32 planes (1, C, H, W) in [0, 1] with the channels Y, Cb, Cr,
or Y alone.
"""

import contextlib
import glob
import importlib.util
import io
import math
import os
import re
import tempfile
import threading
import warnings
from collections.abc import Iterator, Sequence
from typing import IO, Any, NamedTuple, TypeVar

import cv2
import numpy as np

import decoders
import raw
from colour import Space, desaturated, hdr_of, space_of
from decoders import exchange_red_and_blue, turn_upright
from headers import Header, hdr_refusal, header_of_file, read_header
from metadata import (
    METADATA,
    XMP_HEADER,
    exif_values,
    jpeg_with_iptc,
    orientation,
    png_with_xmp,
    read_exif,
    read_profile,
    storable_metadata,
    tiff_with,
    updated,
)

LUMA = (0.299, 0.587, 0.114)  # weights of R, G, B; ITU-R BT.601
LZW = 5  # TIFF's number of this compression; OpenCV 4's default loses floats' last digits
NEUTRAL = 0.5  # Cb and Cr of grey; 128 in the paper's 8-bit terms
TO_YCBCR = np.array(  # the matrix that takes (R, G, B, 1) to (Y, Cb, Cr)
    [
        [*LUMA, 0],
        [*np.subtract((0, 0, 1), LUMA) / (2 * (1 - LUMA[2])), NEUTRAL],
        [*np.subtract((1, 0, 0), LUMA) / (2 * (1 - LUMA[0])), NEUTRAL],
    ]
)
FROM_YCBCR = np.linalg.inv([*TO_YCBCR, (0, 0, 0, 1)])[:3]
DTYPES = (np.uint8, np.uint16, np.float32, np.float64)  # types of pixels that can be read
T = TypeVar("T")

QUALITY = 95  # default quality of JPEG, WebP and AVIF, 1 to 100
THUMBNAIL = 240  # width on contact sheets, in pixels
CAPTION = 20  # height of the text below a thumbnail, in pixels
DEEP = (".png", ".tif", ".tiff", ".jp2", ".avif")  # formats that are written with more than 8 bits
AVIF_BITS = 10  # of deep results; programs that show AVIF read no more
FAILURES = (OSError, ValueError, RuntimeError, MemoryError, cv2.error)  # each costs one scene
FLOATS_ALONE = (".exr", ".hdr", ".pfm")  # formats that hold floats alone
FLOAT = (".tif", ".tiff", *FLOATS_ALONE)  # formats that are written with floats
TRANSPARENT = (".png", ".tif", ".tiff", ".webp", ".avif", ".exr")  # those written with alpha
LONGEST = {".jpg": 65500, ".jpeg": 65500, ".webp": 16383, ".avif": 65536}  # pixels a side
PROBE = 64  # pixels a side of the picture that tries out a format; JPEG 2000 needs 32


class Picture(NamedTuple):
    """A decoded picture file.

    pixels: (H, W, 3) RGB or (H, W) grey, of uint8, uint16, float32 or float64. alpha: (H, W) of the
    same type, or None. metadata: bytes under some of the names "EXIF", "ICC", "IPTC" and "XMP".
    space: the colour space of its file, None for sRGB. dtype: the type of its file, where pixels
    have another.
    """

    pixels: np.ndarray
    alpha: np.ndarray | None
    metadata: dict[str, bytes]
    space: Space | None = None
    dtype: np.dtype | None = None


def header_of(path: str | os.PathLike[str]) -> Header | None:
    """Returns the Header of a picture file, as headers.read_header does, or as raw_header."""
    return raw.raw_header(path) if raw.is_raw(path) else read_header(path)


def upright_size(path: str | os.PathLike[str]) -> tuple[int, int] | None:
    """Returns the (height, width) of a picture as it is shown, from its header; None if unknown."""
    header = header_of(path)
    if header is None:
        return None
    turned = not raw.is_raw(path) and orientation(read_exif(path)) >= 5
    return (header.width, header.height) if turned else (header.height, header.width)


def space_of_file(path: str | os.PathLike[str], header: Header | None = None) -> Space | None:
    """Returns the colour space of a picture file, without decoding a pixel; None for sRGB.

    header: the file's, where it is known already.
    """
    header = header or header_of(path)
    if header is None or raw.is_raw(path):
        return None
    return space_of(read_profile(path), header.cicp, header.gamma)


def read_images(paths: Sequence[str | os.PathLike[str]]) -> list[np.ndarray]:
    """Reads the pixels of one scene's picture files, RAW files developed alike.

    Raises as read_picture.
    """
    development = raw.common_development(paths)
    return [read_picture(path, development).pixels for path in paths]


def read_image(path: str | os.PathLike[str]) -> np.ndarray:
    """Reads the pixels of a picture file, see read_picture."""
    return read_picture(path).pixels


def read_picture(
    path: str | os.PathLike[str], development: raw.Development | None = None, half: bool = False
) -> Picture:
    """Reads a picture file in the depth that it is stored in.

    The picture is turned upright as its EXIF orientation says, and its metadata are updated
    accordingly. development, half: of RAW files, as raw.develop takes them.

    Raises OSError where the file cannot be read, ValueError naming it and the reason where it is no
    picture or is cut short, and where a RAW file cannot be developed, and MemoryError.
    """
    if raw.is_raw(path):
        pixels, exif = raw.develop(path, development, half), raw.read_raw_exif(path)
        return Picture(pixels, None, updated({"EXIF": exif} if exif else {}, pixels.shape))
    with open(path, "rb") as file:
        data = file.read()
    if not data:
        raise ValueError(f"{path}: the file is empty")
    header = header_of_file(io.BytesIO(data))
    image, upright, found = decoders.decode(path, data, header)
    del data
    if image.dtype not in DTYPES:
        raise ValueError(f"{path}: {image.dtype} pixels are not supported")
    if header is not None:
        image = decoders.as_meant(image, header)
    if "EXIF" in found and not upright:
        image = turn_upright(image, orientation(exif_values(found["EXIF"])))
    alpha = None
    if image.ndim == 3 and image.shape[2] in (2, 4):
        alpha = np.ascontiguousarray(image[..., -1])
        image = np.ascontiguousarray(image[..., :-1].squeeze(axis=2 if image.shape[2] == 2 else ()))
        if not alpha.any():
            alpha = None  # Some formats have a fourth byte that means nothing.
    icc = found.get("ICC", b"")
    if kind := hdr_of(icc):
        raise ValueError(f"{path}: {hdr_refusal(kind)}")
    space = space_of(icc, *((header.cicp, header.gamma) if header else ()))
    return Picture(image, alpha, updated(found, image.shape), space)


def as_grey(image: np.ndarray) -> np.ndarray:
    """Returns a picture as 8-bit grey (H, W)."""
    with np.errstate(invalid="ignore"):  # Fusing says better what is wrong with NaN.
        image = to_8_bit(image)
    return image if image.ndim == 2 else cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)


def reduce(picture: np.ndarray, scale: float) -> np.ndarray:
    """Returns a picture reduced by a factor of at most 1, to at least one pixel a side."""
    if scale == 1:
        return picture
    # Without a size, OpenCV scales both sides by exactly this factor, as rescale assumes.
    size = (
        None
        if min(picture.shape[:2]) * scale >= 1
        else [max(round(side * scale), 1) for side in picture.shape[1::-1]]
    )
    return cv2.resize(picture, size, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)


def reduced_quickly(picture: np.ndarray, side: int) -> np.ndarray:
    """Returns a picture in 8 bits, reduced to a longer side of about `side` pixels at most.

    Some rows of large pictures are left out: enough for a glance, in a third of the time.
    """
    factor = -(-max(picture.shape[:2]) // side)
    height, width = (max(length // factor, 1) for length in picture.shape[:2])
    step = 1 if factor % 2 else factor // 2
    part = picture[: height * factor : step, : width * factor]
    return to_8_bit(cv2.resize(part, (width, height), interpolation=cv2.INTER_AREA))


def check_writable(path: str | os.PathLike[str]) -> None:
    """Raises OSError naming the file where no file could be written under that name."""
    folder = os.path.dirname(path) or "."
    if not os.path.isdir(folder):
        raise OSError(f"{path}: there is no folder {folder}")
    if os.path.isdir(path):
        raise OSError(f"{path}: is a folder")
    # A file is written beside `path`, and then takes its place.
    if not all(os.access(place, os.W_OK) for place in (folder, path) if os.path.exists(place)):
        raise OSError(f"{path}: no permission to write")


def check_picture_writable(
    path: str,
    dtype: np.dtype | type = np.uint8,
    grey: bool = False,
    alpha: bool = False,
    size: tuple[int, int] | None = None,
) -> None:
    """Raises OSError or ValueError naming the file where write_image could not write a picture.

    dtype, grey, alpha: the kind of picture; a small one of this kind is encoded to find out. size:
    its (height, width), where known.
    """
    extension = picture_extension(path)
    longest = LONGEST.get(extension, math.inf)
    if size and max(size) > longest:
        raise ValueError(
            f"{path}: {size[1]}x{size[0]} pixels are too many for {extension}, which has {longest} "
            "a side at most; try .png or .tif"
        )
    probe = np.zeros((PROBE, PROBE) if grey else (PROBE, PROBE, 3), dtype)
    opaque = np.ones((PROBE, PROBE), dtype) if alpha and extension in TRANSPARENT else None
    try:
        encode(path, probe, opaque, {}, QUALITY)
    except ValueError as error:
        kind = "grey" if grey else "colour"
        raise ValueError(
            f"{path}: {kind} pictures cannot be stored as {extension}; try .png, .jpg or .tif"
        ) from error


def picture_extension(path: str) -> str:
    """Returns the extension of a picture file to write, in small letters.

    Raises OSError as check_writable does, and ValueError where the extension names no format that
    can be written.
    """
    check_writable(path)
    extension = os.path.splitext(path)[1]
    if extension.lower() == ".exr":
        if importlib.util.find_spec("OpenEXR") is None:
            raise ValueError(f"{path}: EXR needs OpenEXR: pip install -r requirements-exr.txt")
        return ".exr"
    known = False
    with contextlib.suppress(cv2.error):  # OpenCV 4 raises it for EXR.
        # OpenCV looks for an encoder by the name's ending alone.
        known = bool(extension) and cv2.haveImageWriter(f"picture{extension}")
    if not known:
        raise ValueError(f"{path}: unknown picture format {extension!r}; try .png, .jpg or .tif")
    return extension.lower()


@contextlib.contextmanager
def replacing(
    path: str | os.PathLike[str], mode: str = "wb", flush: bool = False, **options: Any
) -> Iterator[IO[Any]]:
    """Opens a temporary file that becomes `path` once complete, or is removed after an error.

    It is a new file: what lay at its place, a link perhaps, is not written to.

    mode and options are open's. flush: puts the file on the disk before it becomes `path`, so that
    `path` is whole even after a power failure. Raises OSError naming `path`, not the
    temporary file.
    """
    target = os.path.realpath(path)  # A link stays one.
    temporary = f"{target}.tmp{os.getpid()}_{threading.get_ident()}"
    try:
        with contextlib.suppress(FileNotFoundError):
            os.remove(temporary)
        with open(temporary, mode.replace("w", "x"), **options) as file:
            yield file
            if flush:
                file.flush()
                os.fsync(file.fileno())
        os.replace(temporary, target)
    except BaseException as error:
        with contextlib.suppress(OSError):
            os.remove(temporary)
        if isinstance(error, OSError):
            raise OSError(f"{path}: {error.strerror or error}") from error
        raise


def remove_unfinished(path: str | os.PathLike[str]) -> None:
    """Removes what a process that has died in `replacing` has left of a file."""
    for temporary in glob.glob(f"{glob.escape(os.path.realpath(path))}.tmp*"):
        if re.fullmatch(r"\d+_\d+", temporary.rpartition(".tmp")[2]):
            with contextlib.suppress(OSError):
                os.remove(temporary)


def write_image(
    path: str,
    image: np.ndarray,
    alpha: np.ndarray | None = None,
    metadata: dict[str, bytes] | None = None,
    quality: int = QUALITY,
) -> None:
    """Writes an RGB or grey array, its format chosen by the file's extension.

    alpha, metadata: as a Picture has them; a warning names what the format cannot store.
    quality: 1 to 100, of JPEG, WebP and AVIF.

    The file is complete or not there. Raises OSError and ValueError naming the file where it cannot
    be written.
    """
    write_file(path, file_of(path, image, alpha, metadata, quality))


def file_of(
    path: str,
    image: np.ndarray,
    alpha: np.ndarray | None = None,
    metadata: dict[str, bytes] | None = None,
    quality: int = QUALITY,
) -> bytes | np.ndarray:
    """Returns the bytes of the file that write_image writes; arguments and errors are its own.

    Depths that a format cannot store are reduced: float to 16 bit except in formats of floats, 16
    to 8 bit except in PNG, TIFF, JPEG 2000 and, in 10 bits, AVIF.
    """
    extension = picture_extension(path)
    if alpha is not None and extension not in TRANSPARENT:
        warnings.warn(f"{path}: written without alpha, which {extension} has not", stacklevel=2)
        alpha = None
    held = storable_metadata(path, extension, metadata or {})
    return encode(path, image, alpha, held, quality)


def write_file(path: str, data: bytes | np.ndarray) -> None:
    """Writes a file that is complete or not there; raises OSError naming it."""
    with replacing(path) as file:
        file.write(data)


def encode(
    path: str,
    image: np.ndarray,
    alpha: np.ndarray | None,
    metadata: dict[str, bytes],
    quality: int,
) -> bytes | np.ndarray:
    """Returns the bytes of a picture file; arguments as write_image's, all of them storable.

    Raises ValueError naming the file where OpenCV cannot store such a picture in its format.
    """
    extension = os.path.splitext(path)[1].lower()
    tiff = extension in (".tif", ".tiff")
    image = as_storable(image, extension)
    alpha = None if alpha is None else as_storable(alpha, extension)
    if extension == ".exr":
        try:
            return encode_exr(image, alpha)
        except (OSError, RuntimeError) as error:  # OpenEXR raises the latter on a full disk.
            raise OSError(f"{path}: cannot be written ({error})") from error
    metadata = updated(metadata, image.shape)
    options = {
        ".jpg": [cv2.IMWRITE_JPEG_QUALITY, quality],
        ".jpeg": [cv2.IMWRITE_JPEG_QUALITY, quality],
        ".webp": [cv2.IMWRITE_WEBP_QUALITY, quality],
        ".avif": [cv2.IMWRITE_AVIF_QUALITY, quality],
        ".tif": [cv2.IMWRITE_TIFF_COMPRESSION, LZW],
        ".tiff": [cv2.IMWRITE_TIFF_COMPRESSION, LZW],
    }.get(extension, [])
    deep = image.dtype == np.uint16
    if extension == ".avif" and deep:
        options += [cv2.IMWRITE_AVIF_DEPTH, AVIF_BITS]
        image = to_avif_levels(image)
        alpha = None if alpha is None else to_avif_levels(alpha)
    kinds, chunks = [], []
    for name, chunk in () if tiff else metadata.items():
        if name == "IPTC" or (name == "XMP" and extension == ".png"):
            continue  # OpenCV does not write the one, and the other wrongly.
        if name == "XMP" and extension in (".jpg", ".jpeg"):
            chunk = XMP_HEADER + chunk
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
    if tiff and (metadata or alpha is not None):
        return tiff_with(data.tobytes(), metadata, alpha is not None)
    if "XMP" in metadata and extension == ".png":
        return png_with_xmp(data.tobytes(), metadata["XMP"])
    if "IPTC" in metadata:
        return jpeg_with_iptc(data.tobytes(), metadata["IPTC"])
    return data


def to_avif_levels(image: np.ndarray) -> np.ndarray:
    """Returns 16-bit values in the levels of AVIF_BITS, as OpenCV expects them."""
    return np.rint(image * ((2**AVIF_BITS - 1) / 65535)).astype(np.uint16)


def encode_exr(image: np.ndarray, alpha: np.ndarray | None) -> bytes:
    """Returns the bytes of an OpenEXR file of float32 pixels, as they are; it is compressed (ZIP).

    image: float32 RGB (H, W, 3) or grey (H, W). alpha: float32 (H, W), or None.
    """
    import OpenEXR

    planes = cv2.split(image) if image.ndim == 3 else [image]
    names = ["R", "G", "B"] if image.ndim == 3 else ["Y"]
    channels = dict(zip(names, planes, strict=True)) | ({} if alpha is None else {"A": alpha})
    header = {"compression": OpenEXR.ZIP_COMPRESSION, "type": OpenEXR.scanlineimage}
    with tempfile.TemporaryDirectory() as folder:  # OpenEXR writes to named files alone.
        path = os.path.join(folder, "picture.exr")
        OpenEXR.File(header, {k: np.ascontiguousarray(x) for k, x in channels.items()}).write(path)
        with open(path, "rb") as file:
            return file.read()


def as_storable(image: np.ndarray, extension: str) -> np.ndarray:
    """Returns a picture in the deepest type that a format can store, at most its own."""
    if extension in FLOATS_ALONE:
        return as_type(image, np.float32)
    if image.dtype.kind == "f" and extension not in FLOAT:
        image = quantise(image, np.uint16)
    if image.dtype == np.uint16 and extension not in DEEP:
        image = to_8_bit(image)
    return image


def to_ycbcr(*images: np.ndarray) -> np.ndarray:
    """Converts N arrays, (H, W, 3) RGB or (H, W) grey, to float32 planes (N, 3 or 1, H, W).

    Its values, in [0, 1], are Y, Cb, Cr of ITU-R BT.601, full range, as in JPEG (JFIF):
    Cb = (B - Y)/1.772 + 1/2 and Cr = (R - Y)/1.402 + 1/2. A grey picture is its own Y. Integers are
    divided by their type's largest value. Raises ValueError where sizes differ.
    """
    if images[0].ndim == 2:
        return to_luma(*images)
    planes = np.empty((len(images), 3, *common_size(images)), np.float32)
    for image, out in zip(images, planes, strict=True):
        matrix = TO_YCBCR / [*[white_level(image.dtype)] * 3, 1]
        cv2.split(cv2.transform(image.astype(np.float32), matrix), list(out))
    return planes


def to_luma(*images: np.ndarray) -> np.ndarray:
    """Converts N arrays, (H, W, 3) RGB or (H, W) grey, to the Y of to_ycbcr, (N, 1, H, W)."""
    planes = np.empty((len(images), 1, *common_size(images)), np.float32)
    for image, (out,) in zip(images, planes, strict=True):
        if image.ndim == 2:
            np.divide(image, np.float32(white_level(image.dtype)), out=out, casting="same_kind")
        else:
            weights = TO_YCBCR[:1, :3] / white_level(image.dtype)
            cv2.transform(image.astype(np.float32), weights, dst=out)
    return planes


def common_size(images: Sequence[np.ndarray]) -> tuple[int, int]:
    """Returns the (height, width) of pictures; ValueError where it, or being grey, differs."""
    shape = images[0].shape
    for image in images:
        if image.shape != shape:
            raise ValueError(f"pictures of one shape are needed, not {shape} and {image.shape}")
    return shape[0], shape[1]


def middle(ordered: Sequence[T]) -> T:
    """Returns the middle one of what goes from dark to bright; of two such ones, the darker."""
    return ordered[(len(ordered) - 1) // 2]


def white_level(dtype: np.dtype | type) -> int:
    """Returns the value that stands for 1 in a type: 255, 65535, or 1 for floats."""
    return np.iinfo(dtype).max if np.dtype(dtype).kind == "u" else 1


def from_ycbcr(
    ycbcr: np.ndarray, dtype: np.dtype | type, keep_hue: bool = False, clip: bool = True
) -> np.ndarray:
    """Converts planes like to_ycbcr's, (1, 3 or 1, H, W), back to a picture of the given type.

    Values are clipped to the range, unless floats are not to be, and, for integers, rounded to the
    nearest level. keep_hue: a colour outside of the range loses chroma until it fits, instead; its
    luma must be in [0, 1].
    """
    if ycbcr.shape[1] == 1:
        return quantise(ycbcr[0, 0], dtype)
    # Rounding would give grey a tint now and then. Near 8, floats are multiples of 2^-20, which is
    # a sixteenth of a 16-bit level.
    chroma = ycbcr[0, 1:] + (8 - NEUTRAL)
    chroma -= 8
    levels = white_level(dtype)
    planes = cv2.merge([ycbcr[0, 0], *chroma])
    image = cv2.transform(planes, FROM_YCBCR[:, :3] * levels)
    lowest, highest, *_ = cv2.minMaxLoc(image.reshape(len(image), -1))
    if clip and (lowest < 0 or highest > levels):
        if keep_hue:
            outside = np.flatnonzero(cv2.inRange(image, (0, 0, 0), (levels, levels, levels)) == 0)
            colours, y = image.reshape(-1, 3), ycbcr[0, 0].reshape(-1, 1)
            colours[outside] = desaturated(colours[outside], y[outside] * levels, levels)
        np.clip(image, 0, levels, out=image)
    return image.astype(dtype) if levels == 1 else np.rint(image, out=image).astype(dtype)


def quantise(image: np.ndarray, dtype: np.dtype | type) -> np.ndarray:
    """Converts floats, clipped to [0, 1], to `dtype`; unsigned integers take their full range."""
    if np.dtype(dtype).kind != "u":
        return np.clip(image, 0, 1).astype(dtype)
    levels = white_level(dtype)
    return np.rint(np.clip(image * image.dtype.type(levels), 0, levels)).astype(dtype)


def to_8_bit(image: np.ndarray) -> np.ndarray:
    """Converts a picture of any depth to uint8, rounded to the nearest level."""
    return as_type(image, np.uint8)


def as_type(image: np.ndarray, dtype: np.dtype | type) -> np.ndarray:
    """Converts a picture of any depth to another type, rounded to the nearest level."""
    if image.dtype == dtype:
        return image
    if image.dtype.kind == "u":
        image = image / white_level(image.dtype)
    return quantise(image, dtype)


def thumbnail(picture: np.ndarray, width: int = THUMBNAIL) -> np.ndarray:
    """Returns a picture reduced, or enlarged, to a width in pixels: 8-bit RGB (h, width, 3)."""
    size = (width, max(1, round(picture.shape[0] * width / picture.shape[1])))
    small = cv2.resize(to_8_bit(picture), size, interpolation=cv2.INTER_AREA)
    return np.repeat(small[..., None], 3, axis=2) if small.ndim == 2 else small


def contact_sheet_row(
    pictures: Sequence[np.ndarray], captions: Sequence[str], width: int = THUMBNAIL
) -> np.ndarray:
    """Returns pictures of one size as a row of captioned thumbnails, 8-bit RGB (h, w, 3).

    width: of a thumbnail, in pixels.
    """
    cells = []
    for picture, caption in zip(pictures, captions, strict=True):
        caption = caption.encode(errors="replace").decode()  # OpenCV crashes on broken letters.
        label = np.full((CAPTION, width, 3), 255, np.uint8)
        cv2.putText(label, caption, (2, 14), cv2.FONT_HERSHEY_SIMPLEX, 0.4, (0, 0, 0))
        cells.append(np.concatenate([thumbnail(picture, width), label]))
    return np.concatenate(cells, axis=1)
