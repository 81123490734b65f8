"""What colours do a picture's numbers mean? Profiles, the way to sRGB and the way back.

Pictures of one scene are fused in sRGB's numbers, whatever their profiles. Colours that sRGB does
not have are numbers below 0 and above 1 there ("extended" as in IEC 61966-2-1, amendment 1), so
that nothing is lost on the way. Profiles of curves and a matrix are enough for this (ICC.1, 8.4).
"""

import importlib.util
import struct
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import cv2
import numpy as np

import headers
from tiles import STRIP

Curve = Callable[[np.ndarray], np.ndarray]  # from values in [0, 1] to linear light

# Columns: XYZ of sRGB's primaries, adapted to the white of profiles, D50 (sRGB's own profile).
SRGB_TO_XYZ = np.array(
    [
        [0.4360747, 0.3850649, 0.1430804],
        [0.2225045, 0.7168786, 0.0606169],
        [0.0139322, 0.0971045, 0.7141733],
    ]
)
PRIMARIES = {  # x, y of R, G, B by their number in ITU-T H.273, all with the white D65
    1: (0.640, 0.330, 0.300, 0.600, 0.150, 0.060),  # sRGB, BT.709
    5: (0.640, 0.330, 0.290, 0.600, 0.150, 0.060),  # BT.601 of 625 lines
    6: (0.630, 0.340, 0.310, 0.595, 0.155, 0.070),  # BT.601 of 525 lines
    7: (0.630, 0.340, 0.310, 0.595, 0.155, 0.070),
    9: (0.708, 0.292, 0.170, 0.797, 0.131, 0.046),  # BT.2020
    12: (0.680, 0.320, 0.265, 0.690, 0.150, 0.060),  # Display P3
}
D65 = (0.3127, 0.3290)
GAMMAS = {4: 2.2, 5: 2.8, 8: 1.0}  # exponents by transfer functions' numbers; others are as sRGB's
USUAL_GAMMA = 1 / 2.2  # of PNG files, which stands for sRGB
ALIKE_CURVES = 0.004  # largest difference from sRGB's curve and matrix that counts as none
CURVE_STEPS = 2**18  # samples of a curve that is inverted
VISIBLE = 0.01  # of a value; smaller excess is rounding, and not seen


class Space(NamedTuple):
    """A colour space: curves to linear light, one a channel, and a matrix to sRGB's linear light.

    curves: three, or one of grey pictures. matrix: (3, 3). profile: True where the file's ICC
    profile says so, which then describes a result in this space.
    """

    curves: tuple[Curve, ...]
    matrix: np.ndarray
    profile: bool


def space_of(
    icc: bytes = b"", cicp: tuple[int, int] | None = None, gamma: float | None = None
) -> Space | None:
    """Returns the Space of a picture, None where it is sRGB's or not known.

    icc: its profile. cicp, gamma: as a Header has them; they count where there is no profile.
    """
    space = None
    if icc:
        space = space_of_profile(icc)
    elif cicp and cicp[0] in PRIMARIES:
        curve = power(GAMMAS[cicp[1]]) if cicp[1] in GAMMAS else srgb_to_linear
        matrix = np.linalg.inv(primaries_to_xyz(1)) @ primaries_to_xyz(cicp[0])
        space = Space((curve,) * 3, matrix, False)
    elif gamma and abs(gamma - USUAL_GAMMA) > 0.01:
        space = Space((power(1 / gamma),) * 3, np.eye(3), False)
    return None if space is None or is_srgb(space) else space


def is_srgb(space: Space) -> bool:
    """Returns True where a space differs from sRGB by no more than profiles of sRGB do."""
    values = np.linspace(0, 1, 256)
    curves = [linear_to_srgb(curve(values)) for curve in space.curves]
    far = max(float(np.abs(curve - values)[8:].max()) for curve in curves)
    return far <= ALIKE_CURVES and bool(np.abs(space.matrix - np.eye(3)).max() <= ALIKE_CURVES)


def primaries_to_xyz(number: int) -> np.ndarray:
    """Returns the matrix from linear RGB of primaries with the white D65 to XYZ."""
    points = np.reshape([*PRIMARIES[number], *D65], (4, 2))
    columns = np.stack([points[:, 0], points[:, 1], 1 - points.sum(axis=1)]) / points[:, 1]
    return columns[:, :3] * np.linalg.solve(columns[:, :3], columns[:, 3])


def space_of_profile(icc: bytes) -> Space | None:
    """Returns the Space of an ICC profile of curves and a matrix; None of others.

    Damaged ones are others.
    """
    try:
        tags = tags_of(icc)
        if icc[16:20] == b"GRAY":
            return Space((curve_of(tags[b"kTRC"]),), np.eye(3), True)
        if icc[16:20] != b"RGB " or icc[20:24] != b"XYZ ":
            return None
        curves = tuple(curve_of(tags[name]) for name in (b"rTRC", b"gTRC", b"bTRC"))
        columns = [struct.unpack_from(">3i", tags[name], 8) for name in (b"rXYZ", b"gXYZ", b"bXYZ")]
        matrix = np.linalg.inv(SRGB_TO_XYZ) @ (np.array(columns).T / 65536)
        rows = matrix.sum(axis=1, keepdims=True)
        if not (rows > 0.5).all() or abs(np.linalg.det(matrix)) < 1e-3:
            return None
        return Space(curves, matrix / rows, True)  # Profiles are rounded, but grey stays grey.
    except (KeyError, struct.error, ValueError, IndexError, np.linalg.LinAlgError):
        return None


def hdr_of(icc: bytes) -> str:
    """Returns the name of the HDR transfer function that a profile names, "" without one."""
    try:
        tag = tags_of(icc).get(b"cicp", b"")
    except struct.error:
        return ""
    return headers.HDR.get(tag[9], "") if len(tag) >= 12 else ""


def needs_library(icc: bytes) -> bool:
    """Returns True of a profile, of RGB or grey, that is not of curves and a matrix."""
    return icc[16:20] in (b"RGB ", b"GRAY") and space_of_profile(icc) is None


def has_library() -> bool:
    """Returns True where imagecodecs, which brings littlecms, is installed."""
    return importlib.util.find_spec("imagecodecs") is not None


def by_library(pixels: np.ndarray, icc: bytes) -> np.ndarray:
    """Converts a picture of any profile to sRGB, clipped, in its own type, with littlecms.

    Where littlecms finds the profile damaged, the picture is returned as it is.
    """
    import imagecodecs

    kind = "rgb" if pixels.ndim == 3 else "minisblack"
    target = imagecodecs.cms_profile("srgb")
    try:
        return imagecodecs.cms_transform(pixels, icc, target, colorspace=kind, outcolorspace=kind)
    except Exception:  # littlecms raises one type of its own.
        return pixels


def tags_of(icc: bytes) -> dict[bytes, bytes]:
    """Returns the tags {signature: data} of an ICC profile (ICC.1, 7.3)."""
    (count,) = struct.unpack_from(">I", icc, 128)
    tags = {}
    for place in range(132, min(132 + 12 * count, len(icc) - 11), 12):
        name, start, size = struct.unpack_from(">4sII", icc, place)
        tags[name] = icc[start : start + size]
    return tags


def curve_of(tag: bytes) -> Curve:
    """Returns the Curve of a tag's data (ICC.1, 10.6 and 10.18); raises ValueError of others."""
    if tag[:4] == b"curv":
        (count,) = struct.unpack_from(">I", tag, 8)
        values = np.frombuffer(tag, ">u2", count, 12)
        if count == 0:
            return power(1.0)
        if count == 1:
            return power(values[0] / 256)
        table = values / 65535
        return lambda x: np.interp(x, np.linspace(0, 1, count), table)
    if tag[:4] == b"para":
        (kind,) = struct.unpack_from(">H", tag, 8)
        numbers = np.frombuffer(tag, ">i4", (1, 3, 4, 5, 7)[kind], 12) / 65536
        g, a, b, c, d, e, f = np.pad(numbers, (0, 7 - len(numbers)))
        if kind == 0:
            return power(g)
        if kind in (1, 2):  # c is added on both sides of the break
            c, d, e, f = 0.0, -b / a, c, c
        return lambda x: np.where(x >= d, np.maximum(a * x + b, 0) ** g + e, c * x + f)
    raise ValueError("a curve of another kind")


def power(exponent: float) -> Curve:
    """Returns the Curve x ** exponent."""
    return lambda x: np.asarray(x) ** exponent


def srgb_to_linear(values: np.ndarray) -> np.ndarray:
    """Returns the linear light of sRGB's values in [0, 1] (IEC 61966-2-1)."""
    return np.where(values <= 0.04045, values / 12.92, ((values + 0.055) / 1.055) ** 2.4)


def linear_to_srgb(light: np.ndarray) -> np.ndarray:
    """Returns sRGB's values of linear light, of negative light too (IEC 61966-2-1, amendment 1)."""
    size = np.abs(light)
    values = np.where(size <= 0.0031308, size * 12.92, 1.055 * size ** (1 / 2.4) - 0.055)
    return np.copysign(values, light)


def to_srgb(pixels: np.ndarray, space: Space) -> np.ndarray:
    """Converts a picture of a Space to extended sRGB, float32.

    pixels: (H, W, 3) RGB or (H, W) grey; uint8, uint16 or float in [0, 1].
    """
    curves = space.curves if pixels.ndim == 3 else space.curves[:1]
    tables: list[np.ndarray] = []
    if pixels.dtype.kind == "u":
        levels = np.linspace(0, 1, np.iinfo(pixels.dtype).max + 1)
        tables = [curve(levels).astype(np.float32) for curve in curves]

    def convert(strip: np.ndarray) -> np.ndarray:
        planes = cv2.split(strip)
        if tables:
            light = [table[plane] for table, plane in zip(tables, planes, strict=True)]
        else:
            light = [
                curve(plane).astype(np.float32) for curve, plane in zip(curves, planes, strict=True)
            ]
        linear = cv2.merge(light)
        if strip.ndim == 3:
            linear = cv2.transform(linear, space.matrix)
        return linear_to_srgb(linear)

    return in_strips(convert, pixels, np.float32)


def from_srgb(pixels: np.ndarray, space: Space | None, dtype: np.dtype | type) -> np.ndarray:
    """Converts a picture in extended sRGB to a Space, None for sRGB, in another type.

    Colours that the Space does not have lose chroma until they fit.
    """
    white = np.iinfo(dtype).max if np.dtype(dtype).kind == "u" else 1
    if space is not None:
        tables = [inverse(curve) for curve in space.curves]
        back = np.linalg.inv(space.matrix)

    def convert(strip: np.ndarray) -> np.ndarray:
        values = strip
        if space is not None:
            values = np.copysign(srgb_to_linear(np.abs(strip)), strip)
            values = cv2.transform(values, back) if strip.ndim == 3 else values
        values = fitted(values) if strip.ndim == 3 else values.clip(0, 1)
        if space is not None:
            places = np.sqrt(values) * np.float32(CURVE_STEPS - 1) + np.float32(0.5)
            places = places.astype(np.int32)
            planes = cv2.split(places)
            values = cv2.merge([table[x] for table, x in zip(tables, planes, strict=True)])
        values *= np.float32(white)
        return values if white == 1 else np.rint(values, out=values)

    return in_strips(convert, pixels, dtype)


def inverse(curve: Curve) -> np.ndarray:
    """Returns the values that give light from 0 to 1, at CURVE_STEPS steps of its square root.

    Equal steps of light would be too wide near black.
    """
    steps = np.linspace(0, 1, CURVE_STEPS)
    light = np.maximum.accumulate(curve(steps))
    return np.interp(steps**2, light, steps).astype(np.float32)


def exceeds_srgb(pixels: np.ndarray) -> bool:
    """Returns True of a picture in extended sRGB with colours that sRGB does not have."""
    if pixels.dtype.kind == "u":
        return False
    return bool(pixels.min() < -VISIBLE or pixels.max() > 1 + VISIBLE)


def fitted(colours: np.ndarray) -> np.ndarray:
    """Returns RGB colours, (h, w, 3), mixed with the grey of their mean until they fit [0, 1]."""
    result = colours.clip(0, 1)
    outside = (result != colours).any(axis=2)
    if outside.any():
        few = colours[outside]
        grey = few.mean(axis=1, keepdims=True).clip(0, 1)
        result[outside] = desaturated(few, grey, 1).clip(0, 1)
    return result


def desaturated(colours: np.ndarray, y: np.ndarray, white: float) -> np.ndarray:
    """Returns RGB colours (N, 3), mixed with their grey y, (N, 1), to fit [0, white]."""
    offset = colours - y
    room = np.where(offset > 0, white - y, y)
    share = room / np.maximum(np.abs(offset), 1e-9 * white)
    return y + offset * np.minimum(share.min(axis=1, keepdims=True), 1)


def in_strips(
    convert: Callable[[np.ndarray], np.ndarray], pixels: np.ndarray, dtype: np.dtype | type
) -> np.ndarray:
    """Returns a picture converted strip by strip, several at a time, in another type."""
    result = np.empty(pixels.shape, dtype)

    def work(start: int) -> None:
        result[start : start + STRIP] = convert(pixels[start : start + STRIP])

    with ThreadPoolExecutor() as pool:
        list(pool.map(work, range(0, len(pixels), STRIP)))
    return result
