"""What do files say beside their pixels? EXIF, ICC profiles and XMP.

Pillow reads EXIF without decoding a pixel. Functions import it, because importing takes 0.03 s,
which --help can do without. EXIF is changed in place by code of our own: Pillow
would move MakerNotes, whose offsets then point elsewhere.
"""

import contextlib
import io
import math
import os
import re
import struct
import warnings
import zlib
from collections.abc import Mapping, Sequence
from typing import IO, TYPE_CHECKING, Any, BinaryIO, cast

import cv2
import numpy as np

import headers

if TYPE_CHECKING:
    from PIL.Image import Exif

JPEG_SEGMENT = 65_500  # bytes of metadata that one segment of a JPEG file can hold
DESCRIBED = (".jpg", ".jpeg", ".png", ".webp", ".avif")  # formats whose metadata OpenCV writes
METADATA = {
    "EXIF": cv2.IMAGE_METADATA_EXIF,
    "ICC": cv2.IMAGE_METADATA_ICCP,
    "XMP": cv2.IMAGE_METADATA_XMP,
}
APP13 = 0xED  # JPEG's marker of that segment
PNG_XMP = b"XML:com.adobe.xmp"  # keyword of PNG's chunk of XMP
XMP_HEADER = b"http://ns.adobe.com/xap/1.0/\0"  # stands before XMP in JPEG files alone
TURNED = ("HEIC", "JPEG XL")  # kinds of files whose libraries turn pictures, whatever EXIF says
BYTE_ORDERS = {b"II": "<", b"MM": ">"}  # struct's sign by the first bytes of EXIF or TIFF
TIFF_TAGS = {"ICC": 0x8773, "XMP": 0x02BC, "IPTC": 0x83BB}
PHOTOSHOP, IPTC_BLOCK = b"Photoshop 3.0\0", 0x0404  # JPEG's segment of IPTC, and the block in it
ORIENTATION, EXIF_DIRECTORY, GPS_DIRECTORY = 0x0112, 0x8769, 0x8825
SOFTWARE, ISO = 0x0131, 0x8827
# Tags of description, maker, model, software, date, artist and copyright.
DESCRIPTIONS = (0x010E, 0x010F, 0x0110, SOFTWARE, 0x0132, 0x013B, 0x8298)
OFFSETS = (0x927C, 0xA005)  # tags of the Exif directory that hold offsets, MakerNote first
WIDTHS, HEIGHTS = (0x0100, 0xA002), (0x0101, 0xA003)
THUMBNAILS = ((0x0201, 0x0202), (0x0111, 0x0117))  # tags of offset and size: of a JPEG, of strips
SIZES = {1: 1, 2: 1, 3: 2, 4: 4, 5: 8, 7: 1, 9: 4, 10: 8}  # bytes of a value by its EXIF type
JPEG_MARKER = re.compile(rb"\xff[^\x00\xd0-\xd7\xff]")  # the marker that ends the data of a scan


def read_exif(path: str | os.PathLike[str]) -> dict[int, Any]:
    """Reads the EXIF of a picture file as {tag: value}, of its main and its Exif directory.

    A value is a number, text or bytes, the first one if a tag has several; None stands for a number
    that is not finite. Damaged entries are left out. No pixel is decoded. Raises OSError where the
    file cannot be opened.
    """
    from PIL import Image

    with open(path, "rb") as file, contextlib.suppress(Exception):  # Pillow raises many types.
        start = file.read(32)
        file.seek(0)
        chunks = headers.png_chunks(file, (b"eXIf",)) if start.startswith(headers.PNG) else ()
        if headers.is_tiff(file):
            exif = Image.Exif()
            exif.load_from_fp(file)
        elif headers.kind_of(start) in TURNED:
            return exif_values(other_metadata(file.read()).get("EXIF", b""))
        elif chunk := dict(chunks).get(b"eXIf"):  # Pillow finds it before the pixels alone.
            return exif_values(chunk)
        else:
            file.seek(0)
            # PNG's own method would decode the pixels.
            exif = Image.Image.getexif(headers.open_lazily(file))
        return plain_values(exif)
    return {}


def exif_values(exif: bytes) -> dict[int, Any]:
    """Returns the values of EXIF as read_exif does."""
    from PIL import Image

    parsed = Image.Exif()
    with contextlib.suppress(Exception):  # Pillow raises many types.
        parsed.load(exif)
    return plain_values(parsed)


def plain_values(exif: "Exif") -> dict[int, Any]:
    """Returns the values of Pillow's Exif as read_exif does."""
    values: dict[int, Any] = {}
    for directory in (lambda: exif, lambda: exif.get_ifd(EXIF_DIRECTORY)):
        with contextlib.suppress(Exception):  # Pillow raises many types.
            for tag, value in directory().items():
                value = headers.first(value)
                if isinstance(value, str):
                    value = value.partition("\0")[0]
                elif not isinstance(value, int | bytes):  # a fraction, whose divisor may be 0
                    value = float(value)
                    value = value if math.isfinite(value) else None
                values.setdefault(tag, value)
    return values


def orientation(values: dict[int, Any]) -> int:
    """Returns the orientation, 1 (upright) to 8, from values of read_exif or exif_values."""
    value = values.get(ORIENTATION)
    return value if isinstance(value, int) and 1 <= value <= 8 else 1


def as_metadata(kinds: Sequence[int], chunks: Sequence[Any]) -> dict[str, bytes]:
    """Converts OpenCV's lists of metadata to a Picture's; drops ICC chunks that are no profiles."""
    names = {number: name for name, number in METADATA.items()}
    metadata: dict[str, bytes] = {}
    for kind, chunk in zip(kinds, chunks, strict=True):
        chunk = np.ravel(chunk).tobytes()
        name = names.get(kind)
        if name == "XMP":
            chunk = chunk[: chunk.rfind(b">") + 1].removeprefix(XMP_HEADER)
        if name == "ICC" and not is_profile(chunk):
            continue  # Such segments of a JPEG file hold other things too.
        if name and chunk:
            metadata[name] = chunk
    return metadata


def pillow_metadata(file: IO[bytes]) -> dict[str, bytes]:
    """Returns the metadata of an open JPEG or AVIF file, without decoding its pixels.

    They are as_metadata's. The orientation in an AVIF file's EXIF is that of its boxes.
    """
    with contextlib.suppress(Exception):  # Pillow raises many types.
        return as_found(headers.open_lazily(cast(BinaryIO, file)).info)
    return {}


def png_xmp(data: bytes) -> dict[str, bytes]:
    """Returns the XMP of a PNG file's bytes, {} without it (XMP, part 3, 1.1.5).

    OpenCV 5.0 reads and writes XMP in tEXt chunks, and beyond the end of what it is given.
    """
    for name, text in headers.png_chunks(io.BytesIO(data), (b"iTXt", b"tEXt")):
        keyword, _, rest = text.partition(b"\0")
        if keyword != PNG_XMP:
            continue
        if name == b"tEXt":
            return {"XMP": rest[: rest.rfind(b">") + 1]}
        parts = rest[2:].split(b"\0", 2)  # behind how it is compressed: language, keyword, text
        if len(parts) == 3:
            with contextlib.suppress(zlib.error):
                return {"XMP": zlib.decompress(parts[2]) if rest[:1] == b"\1" else parts[2]}
    return {}


def png_with_xmp(data: bytes, xmp: bytes) -> bytes:
    """Returns a PNG file with XMP added, in a chunk behind its header."""
    body = b"iTXt" + PNG_XMP + bytes(5) + xmp  # not compressed, no language, no other keyword
    chunk = struct.pack(">I", len(body) - 4) + body + struct.pack(">I", zlib.crc32(body))
    behind = 8 + 25  # the signature, and the header with its length and its checksum
    return data[:behind] + chunk + data[behind:]


def as_found(info: Mapping[Any, Any]) -> dict[str, bytes]:
    """Converts Pillow's dictionary of a picture's facts to a Picture's metadata."""
    found = {
        "EXIF": (info.get("exif") or b"").removeprefix(b"Exif\0\0"),
        "ICC": info.get("icc_profile") or b"",
        "XMP": info.get("xmp") or b"",
    }
    chunks = [np.frombuffer(chunk, np.uint8) for chunk in found.values()]
    iptc = info.get("photoshop")
    iptc = iptc.get(IPTC_BLOCK) if isinstance(iptc, dict) else None
    return as_metadata([METADATA[name] for name in found], chunks) | (
        {"IPTC": iptc} if iptc else {}
    )


def other_metadata(data: bytes) -> dict[str, bytes]:
    """Returns the metadata of files whose pixels OpenCV reads without them, or not at all.

    These are AVIF, HEIC, JPEG XL and JPEG 2000. EXIF of HEIC and JPEG XL says upright, as their
    libraries turn pictures by what stands outside of EXIF.
    """
    found: dict[str, bytes] = {}
    kind = headers.kind_of(data[:32])
    with contextlib.suppress(Exception):  # The libraries raise many types, also ImportError.
        if kind == "AVIF":
            return pillow_metadata(io.BytesIO(data))
        if kind == "HEIC":
            import pillow_heif

            found = as_found(pillow_heif.open_heif(io.BytesIO(data)).info)
        elif kind == "JPEG XL":
            from pillow_jxl.JpegXLImagePlugin import JXLImageFile

            found = as_found(JXLImageFile(io.BytesIO(data)).info)
            if xmp := headers.box(data, b"xml "):
                found["XMP"] = xmp
        elif data.startswith(headers.JPEG_2000):
            colours = headers.box(data, b"jp2h", b"colr")
            if colours[:1] == b"\2" and is_profile(colours[3:]):
                found["ICC"] = colours[3:]
    if kind in TURNED and "EXIF" in found:
        found["EXIF"] = with_orientation(found["EXIF"], 1)
    return found


def read_profile(path: str | os.PathLike[str]) -> bytes:
    """Returns the ICC profile of a picture file, b"" without one. No pixel is decoded."""
    with open(path, "rb") as file, contextlib.suppress(Exception):  # Pillow raises many types.
        start = file.read(32)
        file.seek(0)
        if headers.is_tiff(file):
            entry = headers.tiff_entries(file).get(TIFF_TAGS["ICC"], b"")
            return entry if is_profile(entry) else b""
        if headers.kind_of(start) in TURNED or start.startswith(headers.JPEG_2000):
            return other_metadata(file.read()).get("ICC", b"")
        return pillow_metadata(file).get("ICC", b"")
    return b""


def is_profile(chunk: bytes) -> bool:
    """Returns True where signature and length are those of an ICC profile (ICC.1, 7.2)."""
    return chunk[36:40] == b"acsp" and int.from_bytes(chunk[:4], "big") == len(chunk)


def tiff_metadata(data: bytes) -> dict[str, bytes]:
    """Returns EXIF, ICC and XMP from TIFF bytes, as OpenCV reads none of them; {} for others."""
    metadata = {}
    if data[:4] in headers.TIFF and len(data) >= 8:
        order = BYTE_ORDERS[data[:2]]
        entries, _ = read_directory(data, order, *struct.unpack_from(order + "I", data, 4))
        for name, tag in TIFF_TAGS.items():
            if tag in entries:
                kind, count, offset = entries[tag]
                chunk = data[offset : offset + SIZES.get(kind, 1) * count]
                if name != "ICC" or is_profile(chunk):
                    metadata[name] = chunk
        exif = tiff_exif(io.BytesIO(data))
        if exif:
            metadata["EXIF"] = exif
    return metadata


def jpeg_iptc(data: bytes) -> dict[str, bytes]:
    """Returns IPTC of a JPEG file's bytes, as OpenCV reads none of it; {} without it."""
    for marker, start, end in headers.jpeg_segments(data):
        if marker == APP13 and data[start:end].startswith(PHOTOSHOP):
            place = start + len(PHOTOSHOP)
            while place + 12 <= end and data[place : place + 4] == b"8BIM":
                (number,) = struct.unpack_from(">H", data, place + 4)
                place += 6 + (data[place + 6] + 2) // 2 * 2  # a name, of an even number of bytes
                (size,) = struct.unpack_from(">I", data, place)
                if number == IPTC_BLOCK and place + 4 + size <= end:
                    return {"IPTC": data[place + 4 : place + 4 + size]}
                place += 4 + size + size % 2
    return {}


def jpeg_with_iptc(data: bytes, iptc: bytes) -> bytes:
    """Returns a JPEG file with IPTC added, behind its other metadata."""
    block = b"8BIM" + struct.pack(">HHI", IPTC_BLOCK, 0, len(iptc)) + iptc + bytes(len(iptc) % 2)
    return headers.with_segments(data, [(APP13, PHOTOSHOP + block)])


def tiff_exif(file: IO[bytes], directory: bytes | None = None, iso: int | None = None) -> bytes:
    """Returns EXIF made from an open TIFF file, for other formats; b"" where the file has none.

    It lacks the orientation, because OpenCV turns TIFF files, and MakerNotes, whose offsets would
    no longer be right. directory: TIFF data whose main directory is the Exif directory, where the
    file's own has none. iso: tag of the main directory that holds the ISO where EXIF lacks it.
    """
    from PIL import Image

    tiff, exif = Image.Exif(), Image.Exif()
    with contextlib.suppress(Exception):  # Pillow raises many types.
        tiff.load_from_fp(file)
        values = tiff.get_ifd(EXIF_DIRECTORY)
        if directory:
            other = Image.Exif()
            other.load(directory)
            values = dict(other)
        if iso is not None and iso in tiff:
            values.setdefault(ISO, tiff[iso])
        exif.update({tag: tiff[tag] for tag in DESCRIPTIONS if tag in tiff})
        exif.get_ifd(EXIF_DIRECTORY).update({k: values[k] for k in values if k not in OFFSETS})
        if GPS_DIRECTORY in tiff:
            exif.get_ifd(GPS_DIRECTORY).update(tiff.get_ifd(GPS_DIRECTORY))
        described = bool(values) or len(exif) > (SOFTWARE in exif)  # Every program writes its name.
        return exif.tobytes().removeprefix(b"Exif\0\0") if described else b""
    return b""


def tiff_with(data: bytes, metadata: dict[str, bytes], alpha: bool) -> bytes:
    """Returns a TIFF file, as OpenCV encodes it, with ICC and XMP added.

    alpha: says that its last channel is alpha, by which colours are not multiplied.

    Its directory is written anew at the end. TIFF 6.0, section 2; ICC.1, annex B.4; XMP, part 3.
    """
    order = BYTE_ORDERS[data[:2]]
    (start,) = struct.unpack_from(order + "I", data, 4)
    (count,) = struct.unpack_from(order + "H", data, start)
    old = data[start + 2 : start + 2 + 12 * count]
    entries = [old[place : place + 12] for place in range(0, len(old), 12)]
    tiff = bytearray(data)
    for name, tag in TIFF_TAGS.items():
        if name in metadata:
            kind = 7 if name == "ICC" else 1  # undefined, or bytes
            tiff += bytes(len(tiff) % 2)
            entries.append(struct.pack(order + "HHII", tag, kind, len(metadata[name]), len(tiff)))
            tiff += metadata[name]
    if alpha:
        tag, kind = headers.EXTRA_SAMPLES, 3  # a short number
        entries.append(struct.pack(order + "HHIHH", tag, kind, 1, headers.UNASSOCIATED, 0))
    tiff += bytes(len(tiff) % 2)
    struct.pack_into(order + "I", tiff, 4, len(tiff))
    entries.sort(key=lambda entry: struct.unpack_from(order + "H", entry))
    tiff += struct.pack(order + "H", len(entries)) + b"".join(entries) + bytes(4)
    return bytes(tiff)


def updated(metadata: dict[str, bytes], shape: tuple[int, ...]) -> dict[str, bytes]:
    """Returns the metadata for an upright picture of a shape (H, W, ...), without thumbnails.

    A thumbnail would show one whole exposure, though the result may be cropped or deghosted. An ICC
    profile of other channels, such as CMYK, does not fit the pixels that are read.
    """
    changed = dict(metadata)
    channels = {b"RGB "} if len(shape) == 3 else {b"RGB ", b"GRAY"}
    if "ICC" in metadata and metadata["ICC"][16:20] not in channels:  # ICC.1, 7.2.6
        del changed["ICC"]
    if "EXIF" in metadata:
        changed["EXIF"] = updated_exif(metadata["EXIF"], shape)
    return changed


def updated_exif(exif: bytes, shape: tuple[int, ...]) -> bytes:
    """Returns EXIF for an upright picture of a shape (H, W, ...), thumbnail and previews blanked.

    Everything else stays at its place, because MakerNotes hold offsets that only their makers know.
    Damaged parts stay as they are. EXIF 2.32, section 4.5.
    """
    data = bytearray(exif)
    order = BYTE_ORDERS.get(exif[:2])
    if order is not None and len(exif) >= 8:
        (start,) = struct.unpack_from(order + "I", data, 4)
        entries, end = read_directory(data, order, start)
        directories = [entries]
        for offset in read_integers(data, order, entries.get(EXIF_DIRECTORY)):
            directories.append(read_directory(data, order, offset)[0])
        values = {ORIENTATION: 1}
        values |= dict.fromkeys(WIDTHS, shape[1]) | dict.fromkeys(HEIGHTS, shape[0])
        for entries in directories:
            for tag in values.keys() & entries.keys():
                kind, _, offset = entries[tag]
                with contextlib.suppress(struct.error, KeyError):
                    struct.pack_into(order + {3: "H", 4: "I"}[kind], data, offset, values[tag])
        blank_directories(data, order, end, {start})
    blank_jpegs(data)
    return bytes(data)


def with_orientation(exif: bytes, value: int) -> bytes:
    """Returns EXIF with another orientation where it has one."""
    data = bytearray(exif)
    order = BYTE_ORDERS.get(exif[:2])
    if order is not None and len(exif) >= 8:
        (start,) = struct.unpack_from(order + "I", data, 4)
        kind, _, offset = read_directory(data, order, start)[0].get(ORIENTATION, (0, 0, 0))
        if kind == 3:  # a short number
            struct.pack_into(order + "H", data, offset, value)
    return bytes(data)


def read_directory(data: bytes | bytearray, order: str, start: int) -> tuple[dict[Any, Any], int]:
    """Returns the entries {tag: (type, count, offset of the value)} of an EXIF or TIFF directory.

    Returns also the place behind them, where the offset of the next directory stands. Entries
    beyond the end of the data are left out.
    """
    entries: dict[int, tuple[int, int, int]] = {}
    if start + 2 > len(data):
        return entries, len(data)
    (count,) = struct.unpack_from(order + "H", data, start)
    end = start + 2 + 12 * count
    for place in range(start + 2, min(end, len(data) - 11), 12):
        tag, kind, number, offset = struct.unpack_from(order + "HHII", data, place)
        if SIZES.get(kind, 1) * number <= 4:
            offset = place + 8
        entries.setdefault(tag, (kind, number, offset))
    return entries, end


def read_integers(data: bytes | bytearray, order: str, entry: tuple[Any, ...] | None) -> list[int]:
    """Returns the integers of a directory's entry; [] where it is missing or of another type."""
    kind, count, offset = entry or (0, 0, 0)
    size = {3: 2, 4: 4}.get(kind, 0)
    if not size or offset + size * count > len(data):
        return []
    return list(struct.unpack_from(f"{order}{count}{'H' if size == 2 else 'I'}", data, offset))


def blank_directories(data: bytearray, order: str, place: int, seen: set[int]) -> None:
    """Fills EXIF's directories of thumbnails and their pictures with zeros.

    place: where the offset of the first one stands. seen: offsets of directories to keep.
    """
    while place + 4 <= len(data):
        (start,) = struct.unpack_from(order + "I", data, place)
        blank(data, place, 4)
        if start == 0 or start in seen:
            return
        seen.add(start)
        entries, end = read_directory(data, order, start)
        for tags in THUMBNAILS:
            offsets, sizes = (read_integers(data, order, entries.get(tag)) for tag in tags)
            for offset, size in zip(offsets, sizes, strict=False):  # damaged ones differ in number
                blank(data, offset, size)
        place = end
        blank(data, start, end - start)


def blank_jpegs(data: bytearray) -> None:
    """Fills the JPEG streams in EXIF, such as the previews of MakerNotes, with zeros."""
    place = 0
    while (place := data.find(b"\xd8\xff", place + 1)) > 0:
        start = place - 1  # Minolta changes the first byte of its previews.
        end = end_of_jpeg(data, start)
        if end is not None:
            blank(data, start, end - start)


def end_of_jpeg(data: bytearray, start: int) -> int | None:
    """Returns the place behind a JPEG stream, even one cut short; None where none is at `start`.

    A stream consists of segments, each with its length; the data of a scan follow some of them.
    ITU-T T.81, annex B.
    """
    place, pictured = start + 2, False
    while place + 4 <= len(data) and data[place] == 0xFF:
        marker, length = struct.unpack_from(">BH", data, place + 1)
        if marker == 0xFF:  # a byte of filling
            place += 1
            continue
        if marker == 0xD9:
            break
        place += 2 + length
        if marker == 0xDA:
            pictured = True
            following = JPEG_MARKER.search(data, place)
            place = following.start() if following else len(data)
    if data[place : place + 2] == b"\xff\xd9":
        place += 2
    return min(place, len(data)) if pictured else None


def blank(data: bytearray, start: int, size: int) -> None:
    """Fills bytes with zeros, except EXIF's first 8, without which the rest cannot be read."""
    start, end = max(start, 8), min(start + size, len(data))
    data[start:end] = bytes(max(end - start, 0))


def holds_profile(path: str) -> bool:
    """Returns True where this program writes ICC profiles into files of this extension."""
    return path.lower().endswith((*DESCRIBED, ".tif", ".tiff"))


def storable_metadata(path: str, extension: str, metadata: dict[str, bytes]) -> dict[str, bytes]:
    """Returns the metadata that this format can store; a warning names what is left out."""
    if extension in DESCRIBED:
        held = {*METADATA, *(["IPTC"] if extension in (".jpg", ".jpeg") else [])}
    else:
        held = set(TIFF_TAGS) if extension in (".tif", ".tiff") else set()
    largest = JPEG_SEGMENT if extension in (".jpg", ".jpeg") else math.inf
    foreign = set(metadata) - held
    large = {name for name, chunk in metadata.items() if len(chunk) > largest}
    for lost, reason in ((foreign, "this program writes none to"), (large, "too large for")):
        if lost:
            listed = " and ".join(sorted(lost))
            warnings.warn(f"{path}: {listed} not written, {reason} {extension}", stacklevel=3)
    return {name: metadata[name] for name in metadata if name not in foreign | large}
