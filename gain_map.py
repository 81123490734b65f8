"""How does a screen show more than a photo holds? A gain map says how much brighter it was there.

The photo remains an ordinary JPEG file, the base. Behind it stands a second, grey one: by how many
stops an HDR screen is to show each place brighter (ISO_21496 21496-1; Ultra HDR image format 1.1).
"""

import struct
from collections.abc import Sequence
from xml.etree import ElementTree

import cv2
import numpy as np

import utils
from carried import PACKET, RDF, parsed_xmp
from colour import srgb_to_linear
from finish import along
from headers import behind_metadata, with_segments
from metadata import XMP_HEADER

FORMATS = (".jpg", ".jpeg")  # formats in which this program writes gain maps
MAP = 1500  # pixels; approximate longer side of a gain map
MAP_QUALITY = 90  # of its JPEG file
LUMINANCE = (0.2126, 0.7152, 0.0722)  # weights of linear R, G, B (ITU-R BT.709)
TOO_BRIGHT, TOO_DARK = 0.97, 0.05  # values of a channel beyond which it does not tell light
MIDTONES = (0.25, 0.7)  # lumas of the photo at which it is as bright as the scene
FEW = 0.002  # share of pixels that are too few for a median
SMOOTHED = 2  # radius of the windows in which a gain map is smoothed along its edges, in pixels
EDGE = 0.002  # squared contrast of a gain map, over its headroom, below which it is smoothed
OFFSET = 1 / 64  # added to light, so that black has a ratio
SMALLEST = 0.05  # stops; the range of a map without any gain
HDR_GAIN_MAP = "http://ns.adobe.com/hdr-gain-map/1.0/"
CONTAINER = "http://ns.google.com/photos/1.0/container/"
ITEM = "http://ns.google.com/photos/1.0/container/item/"
ISO_21496 = b"urn:iso:std:iso:ts:21496:-1\0"
MPF = b"MPF\0"
APP1, APP2 = 0xE1, 0xE2  # JPEG's markers of these segments
for prefix, uri in (("hdrgm", HDR_GAIN_MAP), ("Container", CONTAINER), ("Item", ITEM)):
    ElementTree.register_namespace(prefix, uri)


def light_of(images: Sequence[np.ndarray]) -> np.ndarray:
    """Returns the scene's relative light, float32 (h, w), of about MAP pixels; 1 clips no exposure.

    It is merged from all exposures, each where it is neither dark nor clipped: of the brightest
    places, from the darkest exposures. images: exposures in register, (H, W, 3) or (H, W).
    """
    factor = max(round(max(images[0].shape[:2]) / MAP), 1)
    lights, peaks = zip(*(luminance(averaged(image, factor)) for image in images), strict=True)
    order = sorted(range(len(images)), key=lambda k: float(lights[k].mean()))
    lights, peaks = [lights[k] for k in order], [peaks[k] for k in order]
    gain, total, weights = 1.0, np.zeros_like(lights[0]), np.zeros_like(lights[0])
    for k, (light, peak) in enumerate(zip(lights, peaks, strict=True)):
        if k:
            gain *= ratio(lights[k - 1], light, peaks[k - 1], peak)
        weight = np.minimum(peak / TOO_DARK, 1) ** 2 * np.clip((TOO_BRIGHT - peak) / 0.2, 0, 1)
        weight *= np.float32(gain)  # The longer the exposure, the less noise.
        total += weight * light / np.float32(gain)
        weights += weight
    # What all clip was at least as bright as the darkest tells.
    total += np.float32(1e-4) * lights[0]
    return total / (weights + np.float32(1e-4))


def averaged(image: np.ndarray, factor: int) -> np.ndarray:
    """Returns an exposure as means of squares, float32 RGB (h, w, 3) or grey in [0, 1]."""
    size = [-(-side // factor) for side in image.shape[1::-1]]
    small = image if factor == 1 else cv2.resize(image, size, interpolation=cv2.INTER_AREA)
    values = small.astype(np.float32) / np.float32(utils.white_level(image.dtype))
    return values.clip(0, 1)


def luminance(values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Returns linear luminance and the largest channel of sRGB's values, (h, w) each."""
    if values.ndim == 2:
        return srgb_to_linear(values).astype(np.float32), values
    light = cv2.transform(srgb_to_linear(values).astype(np.float32), np.array([LUMINANCE]))
    red, green, blue = cv2.split(values)
    return light, cv2.max(cv2.max(red, green), blue)


def ratio(dark: np.ndarray, bright: np.ndarray, peak_dark: np.ndarray, peak: np.ndarray) -> float:
    """Returns how many times as long the brighter of two exposures was, at least 1.

    It is the median of what both show; where they hardly share any pixels, that of what the
    brighter does not clip.
    """
    shown = (peak_dark > TOO_DARK) & (peak < TOO_BRIGHT)
    if shown.mean() < FEW:
        shown = peak < TOO_BRIGHT
    if not shown.any():
        return 1.0
    return max(float(np.median(bright[shown] / np.maximum(dark[shown], 1e-4))), 1.0)


def gain_of(light: np.ndarray, photo: np.ndarray, headroom: float) -> np.ndarray:
    """Returns the gain of every place in stops, float32 (h, w), from 0 to less than `headroom`.

    Where the photo is of middle brightness, it is taken to be as bright as the scene. What was
    brighter in the scene than white is in such a picture has a gain; nothing else has.

    light: of light_of. photo: the result, as its numbers are in sRGB.
    """
    values = cv2.resize(
        averaged(photo, max(round(max(photo.shape[:2]) / MAP), 1)),
        light.shape[::-1],
        interpolation=cv2.INTER_AREA,
    )
    shown, _ = luminance(values)
    luma = values if values.ndim == 2 else utils.to_luma(values)[0, 0]
    middle = (luma > MIDTONES[0]) & (luma < MIDTONES[1])
    if middle.mean() < FEW:
        middle = np.ones_like(middle)
    scale = np.median(shown[middle] / np.maximum(light[middle], 1e-6))
    stops = np.log2(np.maximum(light * np.float32(scale), 1))
    gain = np.float32(headroom) * (1 - np.exp(-stops / np.float32(headroom)))
    share = gain / np.float32(headroom)
    smooth = along(share, share, 2 * SMOOTHED + 1, EDGE)
    return (smooth * np.float32(headroom)).clip(0, headroom)


def encoded(gain: np.ndarray) -> bytes:
    """Returns the JPEG file of a gain map, with its metadata."""
    largest = max(float(gain.max()), SMALLEST)
    levels = utils.quantise(gain / np.float32(largest), np.uint8)
    data = cv2.imencode(".jpg", levels, [cv2.IMWRITE_JPEG_QUALITY, MAP_QUALITY])[1].tobytes()
    xmp = (
        f'<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF xmlns:rdf="{RDF}"><rdf:Description '
        f'rdf:about="" xmlns:hdrgm="{HDR_GAIN_MAP}" hdrgm:Version="1.0" hdrgm:GainMapMin="0" '
        f'hdrgm:GainMapMax="{largest:.6f}" hdrgm:Gamma="1" hdrgm:OffsetSDR="{OFFSET}" '
        f'hdrgm:OffsetHDR="{OFFSET}" hdrgm:HDRCapacityMin="0" '
        f'hdrgm:HDRCapacityMax="{largest:.6f}" hdrgm:BaseRenditionIsHDR="False"/>'
        "</rdf:RDF></x:xmpmeta>"
    )
    segments = ((APP1, XMP_HEADER + xmp.encode()), (APP2, ISO_21496 + iso_metadata(largest)))
    return with_segments(data, segments)


def iso_metadata(largest: float) -> bytes:
    """Returns the metadata of ISO_21496 21496-1, annex C, of a map of one channel, as fractions."""

    def fraction(value: float) -> bytes:
        return struct.pack(">II", round(value * 10**6), 10**6)

    one_channel_in_the_space_of_the_base = 0x40
    head = struct.pack(">HHB", 0, 0, one_channel_in_the_space_of_the_base)
    values = (0, largest, 0, largest, 1, OFFSET, OFFSET)
    return head + b"".join(map(fraction, values))


def container_xmp(xmp: bytes, length: int) -> bytes:
    """Returns XMP, b"" for none, that names a gain map of `length` bytes behind the photo."""
    tree = parsed_xmp(xmp) if xmp else None
    if tree is None:
        tree = ElementTree.Element("{adobe:ns:meta/}xmpmeta")
        ElementTree.SubElement(tree, f"{{{RDF}}}RDF")
    parent = next(tree.iter(f"{{{RDF}}}RDF"))
    description = ElementTree.SubElement(
        parent,
        f"{{{RDF}}}Description",
        {f"{{{RDF}}}about": "", f"{{{HDR_GAIN_MAP}}}Version": "1.0"},
    )
    directory = ElementTree.SubElement(description, f"{{{CONTAINER}}}Directory")
    sequence = ElementTree.SubElement(directory, f"{{{RDF}}}Seq")
    for semantic, size in (("Primary", {}), ("GainMap", {f"{{{ITEM}}}Length": str(length)})):
        entry = ElementTree.SubElement(
            sequence, f"{{{RDF}}}li", {f"{{{RDF}}}parseType": "Resource"}
        )
        facts = {f"{{{ITEM}}}Semantic": semantic, f"{{{ITEM}}}Mime": "image/jpeg", **size}
        ElementTree.SubElement(entry, f"{{{CONTAINER}}}Item", facts)
    return PACKET[0] + ElementTree.tostring(tree, encoding="utf-8") + PACKET[1]


def one_file(photo: bytes, gain_file: bytes) -> bytes:
    """Returns one JPEG file of a photo and its gain map, each a whole file (CIPA DC-007, MPF)."""
    version = (APP2, ISO_21496 + struct.pack(">HH", 0, 0))
    size_of_index = 4 + len(MPF) + 82
    place = len(with_segments(photo, [version])) - len(photo)
    header = behind_metadata(photo) + place + 4 + len(MPF)  # offsets count from here
    first = len(photo) + place + size_of_index
    index = b"MM\0*" + struct.pack(">IH", 8, 3)
    index += struct.pack(">HHI4s", 0xB000, 7, 4, b"0100")
    index += struct.pack(">HHII", 0xB001, 4, 1, 2)
    index += struct.pack(">HHII", 0xB002, 7, 32, 50) + bytes(4)
    index += struct.pack(">IIIHH", 0x030000, first, 0, 0, 0)  # the primary picture
    index += struct.pack(">IIIHH", 0, len(gain_file), first - header, 0, 0)
    return with_segments(photo, [version, (APP2, MPF + index)]) + gain_file
