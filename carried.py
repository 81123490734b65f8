"""Which metadata of an exposure are true of the photo that is made from it?

Lists say what is kept, not what is left out, so that nothing unknown speaks of another picture:
a gain map, a motion photo, a depth map, the settings by which a program develops a file.
"""

import struct
import warnings
from typing import Any, NamedTuple
from xml.etree import ElementTree

from metadata import (
    BYTE_ORDERS,
    EXIF_DIRECTORY,
    JPEG_SEGMENT,
    SIZES,
    SOFTWARE,
    blank,
    read_directory,
    read_integers,
)

PROGRAM = "DeepFuse"
SUBJECT_AREA, SUBJECT_LOCATION = 0x9214, 0xA214  # tags of places in the picture
RDF = "http://www.w3.org/1999/02/22-rdf-syntax-ns#"
XMP_BASIC = "http://ns.adobe.com/xap/1.0/"
EXTENDED_IPTC = "http://iptc.org/std/Iptc4xmpExt/2008-02-29/"
ANY: tuple[str, ...] = ()  # stands for all names of a namespace
KEPT = {  # prefixes of namespaces, and the names kept of each
    "dc": ("http://purl.org/dc/elements/1.1/", ANY),
    "xmp": (XMP_BASIC, ("CreateDate", "Label", "Rating", "Identifier", "Nickname", "BaseURL")),
    "xmpRights": ("http://ns.adobe.com/xap/1.0/rights/", ANY),
    "Iptc4xmpCore": ("http://iptc.org/std/Iptc4xmpCore/1.0/xmlns/", ANY),
    "Iptc4xmpExt": (EXTENDED_IPTC, ANY),
    "plus": ("http://ns.useplus.org/ldf/xmp/1.0/", ANY),
    "cc": ("http://creativecommons.org/ns#", ANY),
    "photoshop": (
        "http://ns.adobe.com/photoshop/1.0/",
        (
            *("AuthorsPosition", "CaptionWriter", "Category", "City", "Country", "Credit"),
            *("DateCreated", "Headline", "Instructions", "Source", "State"),
            *("SupplementalCategories", "TransmissionReference", "Urgency"),
        ),
    ),
    "tiff": (
        "http://ns.adobe.com/tiff/1.0/",
        ("Artist", "Copyright", "DateTime", "ImageDescription", "Make", "Model"),
    ),
    "exif": (
        "http://ns.adobe.com/exif/1.0/",
        (
            *("ApertureValue", "BrightnessValue", "DateTimeDigitized", "DateTimeOriginal"),
            *("ExposureBiasValue", "ExposureMode", "ExposureProgram", "ExposureTime", "FNumber"),
            *("Flash", "FocalLength", "FocalLengthIn35mmFilm", "GPSAltitude", "GPSAltitudeRef"),
            *("GPSImgDirection", "GPSImgDirectionRef", "GPSLatitude", "GPSLongitude"),
            *("GPSMapDatum", "GPSTimeStamp", "GPSVersionID", "ISOSpeedRatings", "LightSource"),
            *("MaxApertureValue", "MeteringMode", "ShutterSpeedValue", "SubjectDistance"),
            *("UserComment", "WhiteBalance"),
        ),
    ),
    "exifEX": ("http://cipa.jp/exif/1.0/", ANY),
    "aux": (
        "http://ns.adobe.com/exif/1.0/aux/",
        ("Firmware", "Lens", "LensID", "LensInfo", "LensSerialNumber", "SerialNumber"),
    ),
    "lr": ("http://ns.adobe.com/lightroom/1.0/", ("hierarchicalSubject", "weightedFlatSubject")),
    "digiKam": (
        "http://www.digikam.org/ns/1.0/",
        ("CaptionsAuthorNames", "CaptionsDateTimeStamps", "ColorLabel", "PickLabel", "TagsList"),
    ),
    "MicrosoftPhoto": ("http://ns.microsoft.com/photo/1.0/", ("LastKeywordXMP", "Rating")),
    "mwg-kw": ("http://www.metadataworkinggroup.com/schemas/keywords/", ANY),
    "drone-dji": ("http://www.dji.com/drone-dji/1.0/", ANY),
    "Camera": ("http://pix4d.com/camera/1.0/", ANY),
}
PLACED = {  # namespaces that name places in the picture; kept where it shows what it did
    "GPano": "http://ns.google.com/photos/1.0/panorama/",
    "mwg-rs": "http://www.metadataworkinggroup.com/schemas/regions/",
    "MP": "http://ns.microsoft.com/photo/1.2/",
}
PART_NAMESPACES = {  # prefixes of namespaces that stand within others alone
    "x": "adobe:ns:meta/",
    "rdf": RDF,
    "stArea": "http://ns.adobe.com/xmp/sType/Area#",
    "stDim": "http://ns.adobe.com/xap/1.0/sType/Dimensions#",
    "MPRI": "http://ns.microsoft.com/photo/1.2/t/RegionInfo#",
    "MPReg": "http://ns.microsoft.com/photo/1.2/t/Region#",
}
for prefix, (uri, _) in KEPT.items():
    ElementTree.register_namespace(prefix, uri)
for prefix, uri in (PLACED | PART_NAMESPACES).items():
    ElementTree.register_namespace(prefix, uri)
PACKET = (
    b'<?xpacket begin="\xef\xbb\xbf" id="W5M0MpCehiHzreSzNTczkc9d"?>',
    b'<?xpacket end="w"?>',
)
PREVIEWS = (200, 201, 202)  # IPTC's data sets of a preview
PROGRAMS = (65, 70)  # those of the originating program and its version


def carried(metadata: dict[str, bytes], shape: tuple[int, ...], whole: bool) -> dict[str, bytes]:
    """Returns the metadata of an exposure that are true of the result made from it.

    metadata: a Picture's. shape: of the result, (H, W, ...). whole: True where the result shows
    what the exposure does, neither cropped nor resized; otherwise places in it are not kept.
    """
    kept = dict(metadata)
    if "EXIF" in kept:
        exif = kept["EXIF"] if whole else without_places(kept["EXIF"])
        kept["EXIF"] = with_software(exif)
    if "XMP" in kept:
        xmp = kept_xmp(kept.pop("XMP"), whole)
        if xmp:
            kept["XMP"] = xmp
    if "IPTC" in kept:
        kept["IPTC"] = kept_iptc(kept["IPTC"])
    return kept


def kept_xmp(xmp: bytes, whole: bool) -> bytes:
    """Returns XMP with the properties of KEPT alone and, for a whole picture, PLACED.

    It is b"" where none is left, and, with a warning, where it is damaged. XMP, part 1, 7.
    """
    tree = parsed_xmp(xmp)
    if tree is None:
        warnings.warn("damaged XMP is left out", stacklevel=2)
        return b""
    found = False
    for parent in tree.iter(f"{{{RDF}}}RDF"):
        for description in list(parent):
            for name in [*description.attrib]:
                if not is_kept(name, whole) and not name.startswith(f"{{{RDF}}}"):
                    del description.attrib[name]
            for child in list(description):
                if not is_kept(child.tag, whole):
                    description.remove(child)
            if len(description) or any(RDF not in name for name in description.attrib):
                found = True
            else:
                parent.remove(description)
    if not found:
        return b""
    first = next(iter(tree.iter(f"{{{RDF}}}Description")))
    first.set(f"{{{XMP_BASIC}}}CreatorTool", PROGRAM)
    return PACKET[0] + ElementTree.tostring(tree, encoding="utf-8") + PACKET[1]


def parsed_xmp(xmp: bytes) -> ElementTree.Element | None:
    """Returns the element of XMP that holds all others; None where it is damaged."""
    start, end = xmp.find(b"<"), xmp.rfind(b">") + 1
    try:
        return ElementTree.fromstring(xmp[start:end])
    except (ElementTree.ParseError, ValueError, LookupError):
        return None


def is_full_circle(xmp: bytes) -> bool:
    """Returns True where GPano says that a picture is a panorama of 360 degrees, edge to edge."""
    tree = parsed_xmp(xmp) if b"GPano" in xmp or PLACED["GPano"].encode() in xmp else None
    if tree is None:
        return False
    facts: dict[str, str] = {}
    for description in tree.iter(f"{{{RDF}}}Description"):
        facts |= description.attrib
        facts |= {child.tag: (child.text or "").strip() for child in description}

    def fact(name: str) -> str:
        return facts.get(f"{{{PLACED['GPano']}}}{name}", "")

    width, whole = fact("CroppedAreaImageWidthPixels"), fact("FullPanoWidthPixels")
    return fact("ProjectionType").lower() == "equirectangular" and width == whole


def is_kept(name: str, whole: bool) -> bool:
    """Returns True of the name of a property, {namespace}name, that is kept."""
    namespace, _, local = name.removeprefix("{").partition("}")
    if namespace == EXTENDED_IPTC and local == "ImageRegion":
        return whole
    if namespace in PLACED.values():
        return whole
    names = dict(KEPT.values()).get(namespace)
    return names is not None and (names == ANY or local in names)


def kept_iptc(iptc: bytes) -> bytes:
    """Returns IPTC without previews and the names of other programs (IIM, version 4.2)."""
    kept, place = b"", 0
    while place + 5 <= len(iptc) and iptc[place] == 0x1C:
        record, number = iptc[place + 1], iptc[place + 2]
        (size,) = struct.unpack_from(">H", iptc, place + 3)
        end = place + 5 + size
        if size & 0x8000:  # the size of the size
            begin = place + 5 + (size & 0x7FFF)
            end = begin + int.from_bytes(iptc[place + 5 : begin], "big")
        if end > len(iptc):
            break
        if record == 1 or (record == 2 and number not in (*PREVIEWS, *PROGRAMS)):
            kept += iptc[place:end]
        place = end
    return kept


class MainDirectory(NamedTuple):
    """EXIF's main directory: struct's sign of the byte order, its place, entries and end."""

    order: str
    start: int
    entries: dict[Any, Any]
    end: int


def main_directory(exif: bytes | bytearray) -> MainDirectory | None:
    """Returns the main directory of EXIF; None where it is damaged."""
    order = BYTE_ORDERS.get(bytes(exif[:2]))
    if order is None or len(exif) < 8:
        return None
    (start,) = struct.unpack_from(order + "I", exif, 4)
    entries, end = read_directory(exif, order, start)
    return MainDirectory(order, start, entries, end) if entries and end <= len(exif) else None


def without_places(exif: bytes) -> bytes:
    """Returns EXIF whose places of the subject are blank."""
    data = bytearray(exif)
    main = main_directory(exif)
    if main:
        for offset in read_integers(data, main.order, main.entries.get(EXIF_DIRECTORY)):
            entries, _ = read_directory(data, main.order, offset)
            for tag in (SUBJECT_AREA, SUBJECT_LOCATION):
                kind, count, place = entries.get(tag, (1, 0, 0))
                blank(data, place, SIZES.get(kind, 1) * count)
    return bytes(data)


def with_software(exif: bytes) -> bytes:
    """Returns EXIF that names this program as its software.

    The name takes the place of another where it fits. Else it is put behind the rest, and the main
    directory anew behind it: all that MakerNotes point at must stay at its place. EXIF that would
    no longer fit into a JPEG file stays as it is.
    """
    main = main_directory(exif)
    if main is None:
        return exif
    order, start, entries, end = main
    name = PROGRAM.encode() + b"\0"
    data = bytearray(exif)
    _, count, place = entries.get(SOFTWARE, (0, 0, 0))
    if len(name) <= count <= len(data) - place:
        data[place : place + count] = name.ljust(count, b"\0")
        return bytes(data)
    data += bytes(len(data) % 2)
    rows = [bytes(exif[at : at + 12]) for at in range(start + 2, end - 11, 12)]
    rows = [row for row in rows if struct.unpack_from(order + "H", row)[0] != SOFTWARE]
    rows.append(struct.pack(order + "HHII", SOFTWARE, 2, len(name), len(data)))
    rows.sort(key=lambda row: struct.unpack_from(order + "H", row))
    data += name + bytes(len(name) % 2)
    struct.pack_into(order + "I", data, 4, len(data))
    following = exif[end : end + 4].ljust(4, b"\0")
    data += struct.pack(order + "H", len(rows)) + b"".join(rows) + following
    return exif if len(exif) <= JPEG_SEGMENT < len(data) else bytes(data)
