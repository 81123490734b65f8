"""What do the numbers in a picture file mean? Its header says their type, white, order and colours.

Pillow reads most headers without decoding a pixel. What it does not tell, such as the depth of AVIF
and JPEG 2000 files, is read from the file's own boxes, chunks and tags. Functions import Pillow,
because importing takes 0.03 s, which --help can do without.
"""

import contextlib
import importlib.util
import os
import struct
import threading
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any, BinaryIO, NamedTuple

import numpy as np

if TYPE_CHECKING:
    from PIL.ImageFile import ImageFile
    from PIL.TiffImagePlugin import ImageFileDirectory_v2

TIFF = (b"II*\0", b"MM\0*")  # first bytes of a TIFF file, in either byte order
BIG_TIFF = (b"II+\0", b"MM\0+")  # first bytes of one with 64-bit offsets
PNG = b"\x89PNG\r\n\x1a\n"
JPEG, SCAN = b"\xff\xd8", 0xDA  # first bytes of JPEG, and its marker of a scan
JPEG_2000 = (b"\0\0\0\x0cjP  \r\n\x87\n", b"\xff\x4f\xff\x51")  # a file with boxes, a codestream
JPEG_XL = (b"\0\0\0\x0cJXL \r\n\x87\n", b"\xff\x0a")
AVIF_BRANDS = (b"avif", b"avis")
HEIF_BRANDS = (b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1")
OTHERS = {  # first bytes of files that are often taken for pictures, and what they are
    b"8BPS": "a Photoshop document",
    b"%PDF": "a PDF document",
    b"v/1\x01": "an OpenEXR file",
    b"II\xbc\x01": "a JPEG XR file",
    b"<svg": "an SVG drawing",
    b"<?xml": "an XML document",
    b"DDS ": "a DDS texture",
}
# Tags of TIFF: width, height, bits, compression, ...
WIDTH, HEIGHT, BITS, COMPRESSION, PHOTOMETRIC = 0x0100, 0x0101, 0x0102, 0x0103, 0x0106
SAMPLES, PLANAR, SAMPLE_FORMAT, EXTRA_SAMPLES = 0x0115, 0x011C, 0x0153, 0x0152
WHITE_IS_ZERO, BLACK_IS_ZERO, RGB, PALETTE, YCBCR = 0, 1, 2, 3, 6  # values of PHOTOMETRIC
CMYK = 5
UNSIGNED, FLOATS = 1, 3  # values of SAMPLE_FORMAT
ASSOCIATED, UNASSOCIATED = 1, 2  # values of EXTRA_SAMPLES; of 1, colours are multiplied by alpha
TILE_WIDTH = 0x0142
PLACES = ((286, 282), (287, 283))  # tags of TIFF: XPosition and XResolution, and those of Y
JPEG_IN_TIFF = 7
OPENCV_READS = (1, 2, 3, 4, 5, 8, JPEG_IN_TIFF, 32773, 32946)  # compressions that OpenCV reads
COMPRESSIONS = {
    6: "old JPEG",
    JPEG_IN_TIFF: "JPEG",
    34712: "JPEG 2000",
    34887: "LERC",
    34892: "lossy JPEG",
    34925: "LZMA",
    50000: "ZSTD",
    50001: "WebP",
    50002: "JPEG XL",
    52546: "JPEG XL",
}
HDR = {16: "PQ", 18: "HLG"}  # transfer functions of HDR pictures (ITU-T H.273)
PIXEL_LIMIT = threading.Lock()  # held while Pillow's limit of pixels is lifted


class Header(NamedTuple):
    """The size and type of the array that is decoded from a picture file, and what its values mean.

    Height and width are as stored, before the orientation turns the picture. grey: True for
    pictures without colour; even these are decoded to four channels if they have alpha. white: the
    value of white, where it is not the type's largest. reader: the library that decodes the file
    right: OpenCV unless named. inverted: True where 0 is white. associated: True where colours are
    multiplied by alpha. cicp: primaries and transfer function by their numbers in ITU-T H.273.
    gamma: the exponent that encoded the values, of PNG's gAMA. refusal: why no library here can
    decode the file right.
    """

    height: int
    width: int
    channels: int
    dtype: np.dtype
    grey: bool
    white: int | None = None
    reader: str = "OpenCV"
    inverted: bool = False
    associated: bool = False
    cicp: tuple[int, int] | None = None
    gamma: float | None = None
    refusal: str = ""

    @property
    def size(self) -> int:
        """Bytes of the decoded picture."""
        return self.height * self.width * self.channels * self.dtype.itemsize

    @property
    def floats(self) -> bool:
        """True where pixels are floats."""
        return self.dtype.kind == "f"


def read_header(path: str | os.PathLike[str]) -> Header | None:
    """Reads the Header of a picture file; None for damaged files and unknown formats.

    Raises OSError where the file cannot be opened.
    """
    with open(path, "rb") as file:
        return header_of_file(file)


def header_of_file(file: BinaryIO) -> Header | None:
    """Returns the Header of an open picture file; None as read_header."""
    file.seek(0)
    start = file.read(32)
    file.seek(0)
    header = None
    with contextlib.suppress(Exception):  # Pillow and others raise many types on damaged files.
        header = header_by_kind(file, start)
    if header and header.cicp and header.cicp[1] in HDR:
        return header._replace(refusal=header.refusal or hdr_refusal(HDR[header.cicp[1]]))
    return header


def hdr_refusal(kind: str) -> str:
    """Returns why a picture with this transfer function of HDR is not read."""
    return f"an HDR picture ({kind}), which is not fused; save it for ordinary screens (SDR)"


def header_by_kind(file: BinaryIO, start: bytes) -> Header:
    """Returns the Header of an open picture file that starts so; raises many types."""
    if start[:4] == BIG_TIFF[1]:
        text = "TIFF with 64-bit offsets in big-endian order is not read; write it anew"
        return Header(0, 0, 3, np.dtype(np.uint8), False, refusal=text)
    if start[:4] in (*TIFF, *BIG_TIFF):
        return tiff_header(file)
    if start.startswith(PNG):
        return png_header(file)
    if start.startswith(JPEG_2000):
        return jpeg_2000_header(file)
    read = {"AVIF": avif_header, "HEIC": heif_header, "JPEG XL": jpeg_xl_header}
    kind = kind_of(start)
    return read[kind](file) if kind in read else pillow_header(open_lazily(file))


def kind_of(start: bytes) -> str:
    """Returns the name of a picture file's kind by its first 32 bytes; "" where not of these."""
    if start[4:8] == b"ftyp":
        brands = {start[8:12], *(start[k : k + 4] for k in range(16, len(start), 4))}
        if brands.intersection(AVIF_BRANDS):
            return "AVIF"
        return "HEIC" if brands.intersection(HEIF_BRANDS) else "a video"
    if start.startswith(JPEG_XL):
        return "JPEG XL"
    return next((name for mark, name in OTHERS.items() if start.startswith(mark)), "")


def is_tiff(file: BinaryIO) -> bool:
    """Returns True where a file, open at its start, begins as TIFF does."""
    start = file.read(4)
    file.seek(0)
    return start in (*TIFF, *BIG_TIFF)


def open_lazily(file: BinaryIO) -> "ImageFile":
    """Returns Pillow's picture of an open file, without decoding a pixel.

    Image.open refuses pictures of more than Image.MAX_IMAGE_PIXELS, as a guard against files that
    exhaust memory; panoramas have more. The limit is a global of Pillow, and several threads read
    headers at once. Without the lock, one thread could restore the None that another has set.

    Raises many types where the file is damaged or of an unknown format.
    """
    from PIL import Image

    with PIXEL_LIMIT:
        limit, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, None
        try:
            return Image.open(file)
        finally:
            Image.MAX_IMAGE_PIXELS = limit


def pillow_header(image: "ImageFile") -> Header:
    """Returns the Header of a picture that Pillow has opened.

    Pillow's mode is the same for 8-bit and 16-bit colour; the decoder's arguments tell them apart.
    """
    packing = image.tile[0][3] if image.tile else ""  # "RGB;16B", ("RGB", 65535) or ("L", 0, 1)
    packing, *more = packing if isinstance(packing, tuple) else (packing,)
    # Portable anymaps name the value of white, which OpenCV leaves as it is.
    white = more[0] if image.format == "PPM" and more and isinstance(more[0], int) else None
    deep = "16" in f"{image.mode}{packing}" or (white or 0) > 255
    grey = image.mode in ("1", "L", "LA", "I", "I;16", "F") and image.format != "GIF"
    transparent = image.mode in ("LA", "RGBA") or (
        image.mode in ("P", "RGB") and "transparency" in image.info
    )
    dtype = np.dtype(np.float32 if image.mode == "F" else np.uint16 if deep else np.uint8)
    channels = 4 if transparent else 1 if grey else 3
    return Header(image.height, image.width, channels, dtype, grey, white)


def png_header(file: BinaryIO) -> Header:
    """Returns the Header of a PNG file open at its start (PNG, third edition, section 11).

    Pillow raises on PNG files whose profile takes more than a megabyte.
    """
    facts = dict(png_chunks(file, (b"IHDR", b"tRNS", b"cICP", b"gAMA", b"sRGB", b"iCCP")))
    width, height, bits, kind = struct.unpack_from(">IIBB", facts[b"IHDR"])
    transparent = kind in (4, 6) or b"tRNS" in facts
    grey = kind in (0, 4)
    cicp = facts.get(b"cICP")
    gamma = None
    if b"gAMA" in facts and not {b"cICP", b"sRGB", b"iCCP"} & set(facts):
        gamma = struct.unpack(">I", facts[b"gAMA"])[0] / 1e5 or None
    return Header(
        height,
        width,
        4 if transparent else 1 if grey else 3,
        np.dtype(np.uint16 if bits == 16 else np.uint8),
        grey,
        cicp=(cicp[0], cicp[1]) if cicp else None,
        gamma=gamma,
    )


def png_chunks(png: BinaryIO, wanted: tuple[bytes, ...]) -> Iterator[tuple[bytes, bytes]]:
    """Yields (name, data) of a PNG file's chunks of these names, wherever they stand."""
    png.seek(8)
    while len(start := png.read(8)) == 8:
        size, name = struct.unpack(">I4s", start)
        if name in wanted:
            yield name, png.read(size)
            png.seek(4, os.SEEK_CUR)
        else:
            png.seek(size + 4, os.SEEK_CUR)


def jpeg_segments(data: bytes) -> Iterator[tuple[int, int, int]]:
    """Yields (marker, start, end) of a JPEG file's segments, up to the first scan's header."""
    place = 2
    while place + 4 <= len(data) and data[place] == 0xFF:
        marker = data[place + 1]
        if marker == 0xFF:  # a byte of filling
            place += 1
            continue
        end = place + 2 + int.from_bytes(data[place + 2 : place + 4], "big")
        if end > len(data):
            return
        yield marker, place + 4, end
        if marker == SCAN:
            return
        place = end


def behind_metadata(jpeg: bytes) -> int:
    """Returns the place behind a JPEG file's segments of metadata, APP0 to APP15."""
    return max((end for marker, _, end in jpeg_segments(jpeg) if 0xE0 <= marker <= 0xEF), default=2)


def with_segments(jpeg: bytes, segments: Iterable[tuple[int, bytes]]) -> bytes:
    """Returns a JPEG file with segments, (marker, contents) each, behind its other metadata."""
    place = behind_metadata(jpeg)
    added = b"".join(
        struct.pack(">BBH", 0xFF, marker, len(body) + 2) + body for marker, body in segments
    )
    return jpeg[:place] + added + jpeg[place:]


def boxes(data: bytes, start: int = 0, end: int | None = None) -> Iterator[tuple[bytes, int, int]]:
    """Yields (name, start, end) of the contents of ISO boxes in data (ISO/IEC 14496-12, 4.2)."""
    end = len(data) if end is None else min(end, len(data))
    while start + 8 <= end:
        size, name = struct.unpack_from(">I4s", data, start)
        body = start + 8
        if size == 1:
            (size,) = struct.unpack_from(">Q", data, body)
            body += 8
        stop = end if size == 0 else start + size
        if stop < body:
            return
        yield name, body, min(stop, end)
        start = stop


def box(data: bytes, *names: bytes) -> bytes:
    """Returns the contents of a box within boxes, by their names; b"" where there is none."""
    start, end = 0, len(data)
    for name in names:
        found = next((place for kind, *place in boxes(data, start, end) if kind == name), None)
        if found is None:
            return b""
        start, end = found
        if name == b"meta":
            start += 4  # version and flags
    return data[start:end]


def avif_header(file: BinaryIO) -> Header:
    """Returns the Header of an AVIF file open at its start; Pillow does not tell its depth."""
    image = open_lazily(file)
    file.seek(0)
    properties = primary_properties(file.read())
    bits = 8
    if b"pixi" in properties:  # version, flags, number of channels, bits of each
        bits = max(properties[b"pixi"][5:])
    elif b"av1C" in properties:
        flags = properties[b"av1C"][2]
        bits = 8 if not flags & 0x40 else 12 if flags & 0x20 else 10
    header = pillow_header(image)
    return header._replace(
        dtype=np.dtype(np.uint16 if bits > 8 else np.uint8),
        white=2**bits - 1,
        cicp=nclx(properties.get(b"colr", b"")),
    )


def primary_properties(data: bytes) -> dict[bytes, bytes]:
    """Returns the properties {name: contents} of the main picture of an AVIF or HEIF file.

    ISO/IEC 23008-12, sections 6.5 and 9.3. Of several colour boxes, nclx wins.
    """
    main = box(data, b"meta", b"pitm")
    item = int.from_bytes(main[4:6] if main[:1] == b"\0" else main[4:8], "big")
    container = box(data, b"meta", b"iprp", b"ipco")
    listed = [(name, container[start:end]) for name, start, end in boxes(container)]
    links = box(data, b"meta", b"iprp", b"ipma")
    version, wide = links[0], links[3] & 1
    (count,) = struct.unpack_from(">I", links, 4)
    place = 8
    found: dict[bytes, bytes] = {}
    for _ in range(count):
        size = 2 if version == 0 else 4
        number = int.from_bytes(links[place : place + size], "big")
        place += size
        entries = links[place]
        place += 1
        for _ in range(entries):
            index = int.from_bytes(links[place : place + 1 + wide], "big")
            place += 1 + wide
            index &= 0x7FFF if wide else 0x7F
            if number == item and 1 <= index <= len(listed):
                name, contents = listed[index - 1]
                if name != b"colr" or contents[:4] == b"nclx" or name not in found:
                    found[name] = contents
    return found


def nclx(colour: bytes) -> tuple[int, int] | None:
    """Returns primaries and transfer function from a colour box's contents; None without them."""
    if colour[:4] != b"nclx":
        return None
    return struct.unpack_from(">HH", colour, 4)


def heif_header(file: BinaryIO) -> Header:
    """Returns the Header of a HEIC file open at its start; its size is (0, 0) without pillow-heif.

    libheif shifts the values of 10 and 12 bits to the upper end of 16.
    """
    if importlib.util.find_spec("pillow_heif") is None:
        text = "HEIC needs pillow-heif: pip install -r requirements-heif.txt"
        return Header(0, 0, 3, np.dtype(np.uint8), False, reader="pillow-heif", refusal=text)
    import pillow_heif

    image = pillow_heif.open_heif(file, convert_hdr_to_8bit=False)
    bits = image.info.get("bit_depth", 8)
    colours = image.info.get("nclx_profile") or {}
    known = {"color_primaries", "transfer_characteristics"} <= set(colours)
    width, height = image.size
    grey = image.mode in ("L", "L;16", "I;16")
    return Header(
        height,
        width,
        1 if grey else 4 if "A" in image.mode or "a" in image.mode else 3,
        np.dtype(np.uint16 if bits > 8 else np.uint8),
        grey,
        white=(2**bits - 1) << (16 - bits) if bits > 8 else None,
        reader="pillow-heif",
        associated="a" in image.mode,
        cicp=(int(colours["color_primaries"]), int(colours["transfer_characteristics"]))
        if known
        else None,
    )


def jpeg_xl_header(file: BinaryIO) -> Header:
    """Returns the Header of a JPEG XL file open at its start (ISO/IEC 18181-1, annex D).

    Alpha is not looked for. Raises ValueError where the header has what is not read here.
    """
    start = file.read(2)
    file.seek(0)
    code = start if start == JPEG_XL[1] else b""
    data = file.read(4096) if code else file.read()
    if not code:
        data = box(data, b"jxlc") or box(data, b"jxlp")[4:]
    number, place = int.from_bytes(data[2:64], "little"), 0

    def read(bits: int) -> int:
        nonlocal place
        value = number >> place & (1 << bits) - 1
        place += bits
        return value

    def length() -> int:
        return 8 * (read(5) + 1) if small else read((9, 13, 18, 30)[read(2)]) + 1

    small = read(1)
    height = length()
    ratio = read(3)
    share = (0, 1, 1.2, 4 / 3, 1.5, 16 / 9, 1.25, 2)[ratio]
    width = int(height * share + 1e-9) if ratio else length()
    bits, floats = 8, False
    if not read(1):  # not all is as by default
        if read(1):  # orientation and more
            read(3)
            if read(3):
                raise ValueError("a preview, an animation or a size of its own")
        floats = bool(read(1))
        choice = read(2)
        bits = (32, 16, 24)[choice] if floats and choice < 3 else 0
        if not bits:
            bits = read(6) + 1 if choice == 3 else (8, 10, 12)[choice]
    missing = any(importlib.util.find_spec(name) is None for name in ("imagecodecs", "pillow_jxl"))
    need = "JPEG XL needs imagecodecs: pip install -r requirements-jxl.txt"
    return Header(
        height,
        width,
        3,
        np.dtype(np.float32 if floats else np.uint16 if bits > 8 else np.uint8),
        False,
        white=None if floats else 2**bits - 1,
        reader="imagecodecs",
        refusal=need if missing else "",
    )


def jpeg_2000_header(file: BinaryIO) -> Header:
    """Returns the Header of a JPEG 2000 file open at its start (ISO/IEC 15444-1, A.5.1)."""
    data = file.read()
    start = data.find(b"\xff\x4f\xff\x51")  # the codestream begins with its size and its depths
    width, height, left, top = struct.unpack_from(">IIII", data, start + 8)
    (channels,) = struct.unpack_from(">H", data, start + 40)
    depths = set(data[start + 42 : start + 42 + 3 * channels : 3])
    bits = max(depths) % 128 + 1
    if len(depths) > 1 or max(depths) > 127 or not 8 <= bits <= 16 or channels == 2:
        kind = "signed values" if max(depths) > 127 else f"{channels} channels of {bits} bits"
        refusal = f"JPEG 2000 of {kind} is not read; convert it to PNG or TIFF"
    else:
        refusal = ""
    dtype = np.dtype(np.uint16 if bits > 8 else np.uint8)
    return Header(
        height - top,
        width - left,
        channels,
        dtype,
        channels == 1,
        white=2**bits - 1,
        refusal=refusal,
    )


def tiff_header(file: BinaryIO) -> Header:
    """Returns the Header of a TIFF file open at its start, of floats too, which Pillow may refuse.

    Raises many types where the file is damaged.
    """
    entries = tiff_entries(file)
    channels = first(entries.get(SAMPLES, 1))
    bits = first(entries.get(BITS, 1))
    photometric = first(entries.get(PHOTOMETRIC, RGB if channels >= 3 else BLACK_IS_ZERO))
    sample_format = first(entries.get(SAMPLE_FORMAT, UNSIGNED))
    extra = first(entries.get(EXTRA_SAMPLES))
    floats = sample_format == FLOATS
    dtype = np.dtype(f"{'f' if floats else 'u'}{max(-(-bits // 8), 4 if floats else 1)}")
    reader, refusal = tiff_reader(entries, channels, bits, photometric, sample_format)
    if photometric == PALETTE:
        channels = 3
    elif channels == 2:  # OpenCV leaves out the alpha of grey.
        channels = 4 if reader != "OpenCV" else 1
    return Header(
        entries[HEIGHT],
        entries[WIDTH],
        channels,
        dtype,
        photometric in (WHITE_IS_ZERO, BLACK_IS_ZERO),
        white=None if floats else tiff_white(bits, reader),
        reader=reader,
        # Libraries invert pictures of 8 bits, except tifffile.
        inverted=photometric == WHITE_IS_ZERO and (bits > 8 or reader == "tifffile"),
        associated=extra == ASSOCIATED and reader != "Pillow",
        refusal=refusal,
    )


def tiff_white(bits: int, reader: str) -> int | None:
    """Returns the value of white in integers of a TIFF file, as its reader gives them."""
    if reader == "tifffile":
        return 2**bits - 1
    # OpenCV shifts 10, 12 and 14 bits to the upper end of 16.
    return (2**bits - 1) << (16 - bits) if 8 < bits < 16 else None


def tiff_reader(
    entries: "ImageFileDirectory_v2",
    channels: int,
    bits: int,
    photometric: int,
    sample_format: int,
) -> tuple[str, str]:
    """Returns the library that reads such a TIFF file right, and why none does, "" if one does.

    OpenCV reads others, too, but wrongly: planar ones of 16 bits and of floats come out as noise,
    JPEG XL as black, 8 bits with alpha multiplied by it. Pillow reads the last ones right.
    """
    compression = first(entries.get(COMPRESSION, 1))
    planar = first(entries.get(PLANAR, 1)) == 2 and channels > 1
    name = COMPRESSIONS.get(compression, f"compression {compression}")
    grey = photometric in (WHITE_IS_ZERO, BLACK_IS_ZERO)
    if not grey and photometric not in (RGB, PALETTE, YCBCR, CMYK):
        colours = {8: "CIELab", 9: "CIELab", 10: "CIELab", 32844: "LogL", 32845: "LogLuv"}
        kind = colours.get(photometric, "a camera's")
        return "", f"TIFF of {kind} colours is not read; convert it to RGB"
    if sample_format not in (UNSIGNED, FLOATS) or (bits > 16 and sample_format != FLOATS):
        sign = "" if sample_format == UNSIGNED else "signed "
        return "", f"TIFF of {sign}{bits}-bit integers is not read; convert it to 16 bits or floats"
    known = compression in OPENCV_READS and (compression != JPEG_IN_TIFF or bits == 8)
    usual = bits in (1, 8) or 8 < bits <= 16 or (sample_format == FLOATS and bits in (32, 64))
    halves = sample_format == FLOATS and bits <= 16
    alike = len(set(np.ravel(entries.get(BITS, 1)))) == 1
    wanted = 1 if grey or photometric == PALETTE else 4 if photometric == CMYK else 3
    transparent = first(entries.get(EXTRA_SAMPLES)) in (ASSOCIATED, UNASSOCIATED)
    one_alpha = channels == wanted + 1 and not planar
    separate = transparent and (wanted == 3 or first(entries.get(EXTRA_SAMPLES)) == UNASSOCIATED)
    by_pillow = (one_alpha and separate) or (channels == wanted and TILE_WIDTH in entries)
    if by_pillow and known and alike and bits == 8 and not planar and compression != JPEG_IN_TIFF:
        return "Pillow", ""
    if wanted == 4 or photometric in (PALETTE, YCBCR):
        usual = usual and bits <= 8
    fits = channels == wanted or (wanted == 3 and one_alpha and not (bits == 8 and transparent))
    if known and alike and usual and fits and not halves and not (planar and bits > 8):
        return "OpenCV", ""
    kind = f"TIFF compressed as {name}" if not known else "TIFF of planes" if planar else ""
    kind = kind or f"TIFF of {channels} channels of {bits} bits"
    if photometric not in (WHITE_IS_ZERO, BLACK_IS_ZERO, RGB):
        return "", f"{kind} is not read; convert it to RGB"
    missing = any(importlib.util.find_spec(name) is None for name in ("tifffile", "imagecodecs"))
    need = f"{kind} needs tifffile: pip install -r requirements-tiff.txt"
    return "tifffile", need if missing else ""


def tiff_entries(file: BinaryIO) -> "ImageFileDirectory_v2":
    """Returns the tags of the first picture in a TIFF file open at its start.

    Raises many types where the file is damaged.
    """
    from PIL.TiffImagePlugin import ImageFileDirectory_v2

    start = file.read(16)
    entries = ImageFileDirectory_v2(start if start[:4] in BIG_TIFF else start[:8])
    file.seek(entries.next)
    entries.load(file)
    return entries


def tiff_place(path: str | os.PathLike[str]) -> tuple[int, int] | None:
    """Returns the (x, y) at which a TIFF file's picture lies on a larger canvas, in pixels.

    So says XPosition times XResolution, as Hugin's programs write it. None where it says nothing,
    and for other files.
    """
    with open(path, "rb") as file:
        if not is_tiff(file):
            return None
        try:
            entries = tiff_entries(file)
            x, y = (
                round(float(first(entries[position])) * float(first(entries[resolution])))
                for position, resolution in PLACES
            )
        except Exception:  # Pillow raises many types on damaged files.
            return None
    return x, y


def first(value: Any) -> Any:
    """Returns the first of several values, or a single value as it is."""
    return value[0] if isinstance(value, tuple) else value
