"""How do pictures get in and out? Reading, writing and colour conversion.

Outside, a picture is an array as files hold it: (H, W, 3) RGB or (H, W) grey; uint8, uint16 or
float in [0, 1]. Inside, it is a float32 tensor (1, C, H, W) in [0, 1] with the channels Y, Cb, Cr,
or Y alone.
"""

import contextlib
import os

import cv2
import numpy as np
import torch

# What is wrong with a file is said once, by read_image. OpenCV 5 has moved the function.
(cv2.setLogLevel if hasattr(cv2, "setLogLevel") else cv2.utils.logging.setLogLevel)(0)

LUMA = (0.299, 0.587, 0.114)  # of R, G, B; ITU-R BT.601
LZW = 5  # TIFF's number for it; OpenCV 4 stores floats with loss unless told otherwise
NEUTRAL = 0.5  # Cb and Cr of grey; 128 in the paper's 8-bit terms


def read_image(path):
    """Reads a picture file as (H, W, 3) RGB or (H, W) grey in the depth that it is stored in.

    Turned upright as its EXIF orientation says; alpha is dropped. Raises OSError where the file
    cannot be read, ValueError naming it and the reason where it is no picture or is cut short.
    """
    with open(path, "rb") as file:
        data = file.read()
    if not data:
        raise ValueError(f"{path}: the file is empty")
    # libpng writes to stderr by itself; a PNG cut short is found before it does.
    complete = not data.startswith(b"\x89PNG") or b"IEND\xaeB\x60\x82" in data
    image = None
    if complete:
        try:
            flags = cv2.IMREAD_ANYDEPTH | cv2.IMREAD_ANYCOLOR
            image = cv2.imdecode(np.frombuffer(data, np.uint8), flags)
        except cv2.error:
            image = None
    if image is None:
        raise ValueError(f"{path}: not a picture that can be read, or damaged or cut short")
    if image.dtype not in (np.uint8, np.uint16, np.float32, np.float64):
        raise ValueError(f"{path}: {image.dtype} pixels are not supported")
    if image.ndim == 3:
        exchange_red_and_blue(image)
    return image


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


def write_image(path, image):
    """Writes an RGB or grey array, its format chosen by the file's extension.

    Depths that a format cannot hold are reduced: float to 16 bit except in TIFF, 16 to 8 bit
    except in PNG, TIFF and JPEG 2000. JPEG and WebP have quality 95. The file is complete or not
    there. Raises OSError and ValueError as check_picture_writable does.
    """
    check_picture_writable(path)
    extension = os.path.splitext(path)[1].lower()
    if image.dtype.kind == "f" and extension not in (".tif", ".tiff"):
        image = quantise(image, np.uint16)
    if image.dtype == np.uint16 and extension not in (".png", ".tif", ".tiff", ".jp2"):
        image = to_8_bit(image)
    options = {
        ".jpg": [cv2.IMWRITE_JPEG_QUALITY, 95],
        ".jpeg": [cv2.IMWRITE_JPEG_QUALITY, 95],
        ".webp": [cv2.IMWRITE_WEBP_QUALITY, 95],
        ".tif": [cv2.IMWRITE_TIFF_COMPRESSION, LZW],
        ".tiff": [cv2.IMWRITE_TIFF_COMPRESSION, LZW],
    }.get(extension, [])
    bgr = image.copy()
    if image.ndim == 3:
        exchange_red_and_blue(bgr)
    try:
        encoded, data = cv2.imencode(extension, bgr, options)
    except cv2.error as error:
        raise ValueError(f"{path}: {error.err}") from error
    if not encoded:
        raise ValueError(f"{path}: this picture cannot be stored as {extension}")
    with replacing(path) as file:
        file.write(data)


def to_ycbcr(image, device="cpu"):
    """Array (H, W, 3) RGB or (H, W) grey to a float32 tensor (1, 3 or 1, H, W) in [0, 1].

    Y, Cb, Cr of ITU-R BT.601, full range, as in JPEG (JFIF): Cb = (B - Y)/1.772 + 1/2 and
    Cr = (R - Y)/1.402 + 1/2. A grey picture is its own Y. Integers are divided by their type's
    largest value. The conversion runs on the device that the tensor is on.
    """
    highest = np.iinfo(image.dtype).max if image.dtype.kind == "u" else 1
    planes = [
        torch.from_numpy(plane).to(device).to(torch.float32).div_(highest)
        for plane in cv2.split(np.ascontiguousarray(image))
    ]
    if image.ndim == 2:
        return planes[0][None, None]
    red, green, blue = planes
    ycbcr = red.new_empty(1, 3, *red.shape)
    y, cb, cr = ycbcr[0]
    torch.mul(red, LUMA[0], out=y).add_(green, alpha=LUMA[1]).add_(blue, alpha=LUMA[2])
    torch.sub(blue, y, out=cb).div_(2 * (1 - LUMA[2])).add_(NEUTRAL)
    torch.sub(red, y, out=cr).div_(2 * (1 - LUMA[0])).add_(NEUTRAL)
    return ycbcr


def from_ycbcr(ycbcr, dtype):
    """The inverse of to_ycbcr: a tensor (1, 3 or 1, H, W) to an array of the given type.

    Clipped to the range and, for integers, rounded to the nearest level.
    """
    planes = [ycbcr[0, 0]]
    if ycbcr.shape[1] == 3:
        y, cb, cr = ycbcr[0, 0], ycbcr[0, 1] - NEUTRAL, ycbcr[0, 2] - NEUTRAL
        red = torch.add(y, cr, alpha=2 * (1 - LUMA[0]))
        blue = torch.add(y, cb, alpha=2 * (1 - LUMA[2]))
        green = torch.sub(y, red, alpha=LUMA[0]).sub_(blue, alpha=LUMA[2]).div_(LUMA[1])
        planes = [red, green, blue]
    planes = [plane.clamp(0, 1) for plane in planes]
    if np.dtype(dtype).kind == "u":
        planes = [plane.mul_(np.iinfo(dtype).max).round_() for plane in planes]
    kind = getattr(torch, np.dtype(dtype).name)
    planes = [plane.to(kind).cpu().numpy() for plane in planes]
    return planes[0] if len(planes) == 1 else cv2.merge(planes)


def quantise(image, dtype):
    """Float array in [0, 1], clipped, as `dtype`: unsigned integers over their full range."""
    image = np.clip(image, 0, 1)
    if np.dtype(dtype).kind == "u":
        image = np.rint(image * np.float64(np.iinfo(dtype).max))
    return image.astype(dtype)


def to_8_bit(image):
    """A picture of any depth as uint8, rounded to the nearest level."""
    if image.dtype == np.uint8:
        return image
    return quantise(image / 65535 if image.dtype == np.uint16 else image, np.uint8)


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
