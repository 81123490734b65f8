"""Metadata are true of the result: credits are carried, what tells of other pictures is not."""

import struct
from xml.etree import ElementTree

import numpy as np
import pytest
from conftest import exif, expose, scene
from PIL import Image

import carried
import inference
import metadata
import utils

CREDITS = b"""
  dc:format="image/jpeg" xmp:Rating="4" xmp:CreatorTool="Camera 1.0" photoshop:City="Oslo"
  xmpRights:Marked="True" exif:GPSLatitude="59,54.8N" lr:dummy="x" tiff:Orientation="6"
  crs:Exposure2012="+1.00" crs:HasCrop="True" hdrgm:Version="1.0" GCamera:MotionPhoto="1"
  GDepth:Format="RangeInverse" xmpMM:DocumentID="xmp.did:1" photoshop:ICCProfile="Display P3"
  xmpNote:HasExtendedXMP="0123" GPano:ProjectionType="equirectangular">"""
NAMESPACES = {
    "crs": "http://ns.adobe.com/camera-raw-settings/1.0/",
    "hdrgm": "http://ns.adobe.com/hdr-gain-map/1.0/",
    "GCamera": "http://ns.google.com/photos/1.0/camera/",
    "GDepth": "http://ns.google.com/photos/1.0/depthmap/",
    "Container": "http://ns.google.com/photos/1.0/container/",
    "Item": "http://ns.google.com/photos/1.0/container/item/",
    "xmpMM": "http://ns.adobe.com/xap/1.0/mm/",
    "xmpNote": "http://ns.adobe.com/xmp/note/",
    "unknown": "http://example.com/never-heard-of/1.0/",
    **{name: uri for name, (uri, _) in carried.KEPT.items()},
    **carried.PLACED,
    "rdf": carried.RDF,
}
XMP = (
    b'<?xpacket begin="" id="W5M0MpCehiHzreSzNTczkc9d"?><x:xmpmeta xmlns:x="adobe:ns:meta/">'
    b'<rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#">'
    b'<rdf:Description rdf:about=""'
    + b"".join(
        f' xmlns:{name}="{uri}"'.encode() for name, uri in NAMESPACES.items() if name != "rdf"
    )
    + CREDITS
    + b"""<dc:creator><rdf:Seq><rdf:li>J. Doe</rdf:li></rdf:Seq></dc:creator>
    <dc:subject><rdf:Bag><rdf:li>bridge</rdf:li><rdf:li>dusk</rdf:li></rdf:Bag></dc:subject>
    <Container:Directory><rdf:Seq><rdf:li rdf:parseType="Resource"><Container:Item
      Item:Semantic="GainMap" Item:Length="99"/></rdf:li></rdf:Seq></Container:Directory>
    <mwg-rs:Regions rdf:parseType="Resource"><mwg-rs:RegionList/></mwg-rs:Regions>
    <unknown:Secret>of another picture</unknown:Secret>
    </rdf:Description><rdf:Description rdf:about=""
      xmlns:hdrgm="http://ns.adobe.com/hdr-gain-map/1.0/" hdrgm:GainMapMax="2.3"/>
    </rdf:RDF></x:xmpmeta>
    <?xpacket end="w"?>"""
)


def properties(xmp):
    """The names of XMP's properties, with their prefixes, and the texts of all of it."""
    tree = ElementTree.fromstring(xmp[xmp.index(b"<x:xmpmeta") : xmp.rindex(b"<?xpacket")])
    prefixes = {uri: name for name, uri in NAMESPACES.items()}
    names = set()
    for description in tree.iter(f"{{{carried.RDF}}}Description"):
        for name in (*description.attrib, *(child.tag for child in description)):
            uri, local = name[1:].split("}")
            names.add(f"{prefixes[uri]}:{local}")
    return names - {"rdf:about"}, " ".join(tree.itertext())


@pytest.mark.parametrize("whole", [True, False])
def test_xmp_has_what_is_true_of_the_result(whole):
    names, texts = properties(carried.kept_xmp(XMP, whole))
    assert names == {
        *("dc:format", "dc:creator", "dc:subject", "xmp:Rating", "xmp:CreatorTool"),
        *("photoshop:City", "xmpRights:Marked", "exif:GPSLatitude"),
        *(("GPano:ProjectionType", "mwg-rs:Regions") if whole else ()),
    }
    assert {"Doe", "bridge", "dusk"} <= set(texts.split())
    assert b'CreatorTool="DeepFuse"' in carried.kept_xmp(XMP, whole)


def test_xmp_that_says_nothing_is_left_out():
    empty = XMP[: XMP.index(CREDITS)] + b"/></rdf:RDF></x:xmpmeta>"
    assert carried.kept_xmp(empty, True) == b""


@pytest.mark.parametrize(
    "damaged",
    [b"", b"no XMP", XMP[:700], XMP.replace(b"</rdf:RDF>", b""), b"<a>" * 9, b"\xff\xfe<a\0"],
)
def test_damaged_xmp_is_left_out(damaged):
    with pytest.warns(UserWarning, match="damaged XMP"):
        assert carried.kept_xmp(damaged, True) == b""


def dataset(record, number, value):
    return bytes([0x1C, record, number]) + struct.pack(">H", len(value)) + value


IPTC = (
    dataset(1, 90, b"\x1b%G")
    + dataset(2, 25, b"bridge")
    + dataset(2, 65, b"Camera")
    + dataset(2, 80, b"J. Doe")
    + dataset(2, 202, bytes(300))
)


def test_iptc_has_no_preview():
    kept = dataset(1, 90, b"\x1b%G") + dataset(2, 25, b"bridge") + dataset(2, 80, b"J. Doe")
    assert carried.kept_iptc(IPTC) == kept
    long = bytes([0x1C, 2, 120]) + struct.pack(">HI", 0x8004, 40_000) + bytes(40_000)
    assert carried.kept_iptc(long + kept) == long + kept
    for end in range(len(IPTC)):
        assert IPTC.startswith(carried.kept_iptc(IPTC[:end])[:8])


def software(data):
    return metadata.exif_values(data)[0x0131]


def with_maker_note(software_text, order="<"):
    """EXIF whose MakerNote holds an offset from its beginning, as makers' do."""
    mark = {"<": b"II", ">": b"MM"}[order]
    text = software_text.encode() + b"\0" if software_text is not None else b""
    entries = [(0x010F, 2, 6, 0), (0x8769, 4, 1, 0)]
    if software_text is not None:
        entries.insert(1, (0x0131, 2, len(text), 0))
    start = 8 + 2 + 12 * len(entries) + 4
    maker, texts = start, start + 6
    sub = texts + len(text) + len(text) % 2
    note = sub + 2 + 12 + 4
    places = {0x010F: maker, 0x0131: texts, 0x8769: sub}
    data = mark + struct.pack(order + "HI", 42, 8) + struct.pack(order + "H", len(entries))
    for tag, kind, count, _ in entries:
        if tag == 0x0131 and count <= 4:
            data += struct.pack(order + "HHI", tag, kind, count) + text.ljust(4, b"\0")
        else:
            data += struct.pack(order + "HHII", tag, kind, count, places[tag])
    data += bytes(4) + b"Maker\0" + text + bytes(len(text) % 2)
    data += struct.pack(order + "H", 1) + struct.pack(order + "HHII", 0x927C, 7, 8, note) + bytes(4)
    return data + b"NOTE" + struct.pack(order + "I", note)


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("text", [None, "", "1.0", "17.2.1 or longer", "iOS 17.2"])
def test_software_is_this_program(text, order):
    """And MakerNotes stay at their place, since they hold offsets."""
    before = with_maker_note(text, order)
    after = carried.with_software(before)
    assert software(after) == "DeepFuse"
    values = metadata.exif_values(after)
    assert values[0x010F] == "Maker"
    assert values[0x927C] == metadata.exif_values(before)[0x927C]
    assert after.index(b"NOTE") == before.index(b"NOTE")
    assert software(carried.with_software(after)) == "DeepFuse"
    assert len(carried.with_software(after)) == len(after)


def test_damaged_exif_stays_as_it_is():
    rng = np.random.default_rng(0)
    data = with_maker_note("1.0")
    for _ in range(500):
        changed = bytearray(data[: rng.integers(0, len(data) + 1)])
        for place in rng.integers(0, max(len(changed), 1), 3):
            if changed:
                changed[place] = rng.integers(256)
        carried.carried({"EXIF": bytes(changed)}, (4, 6, 3), False)


def phone_file(path, image):
    """A JPEG file as phones and editors leave it: metadata of all kinds, a picture behind it."""
    held = {"EXIF": exif(1, 120, 96), "XMP": XMP, "IPTC": IPTC}
    utils.write_image(str(path), image, metadata=held)
    data = path.read_bytes()
    utils.write_image(str(path), image[::4, ::4])
    path.write_bytes(data + path.read_bytes())
    return str(path)


@pytest.mark.parametrize("extension", [".jpg", ".tif", ".png"])
def test_results_of_phones_files(tmp_path, extension):
    radiance = scene(96, 120, 0)
    paths = [
        phone_file(tmp_path / f"{number}.jpg", expose(radiance, gain))
        for number, gain in enumerate((0.3, 2.0))
    ]
    assert utils.read_picture(paths[0]).metadata["IPTC"] == IPTC
    result = str(tmp_path / f"result{extension}")
    assert inference.main(["--images", *paths, "--res", result, "--quiet"]) == 0
    found = utils.read_picture(result).metadata
    names, _ = properties(found["XMP"])
    assert "xmp:Rating" in names
    assert not [name for name in names if name.split(":")[0] in ("crs", "hdrgm", "Container")]
    if extension == ".tif":
        assert "IPTC" in found
    else:
        assert software(found["EXIF"]) == "DeepFuse"
    if extension == ".jpg":
        assert found["IPTC"] == carried.kept_iptc(IPTC)
        with Image.open(result) as image:
            assert image.info["photoshop"][metadata.IPTC_BLOCK] == found["IPTC"]


def test_places_are_lost_with_a_crop():
    """The subject's area in EXIF names pixels of the whole picture."""
    described = Image.Exif()
    described.get_ifd(0x8769)[0x9214] = (40, 30, 8, 6)
    data = described.tobytes().removeprefix(b"Exif\0\0")
    kept = carried.carried({"EXIF": data}, (4, 6, 3), True)
    lost = carried.carried({"EXIF": data}, (4, 6, 3), False)
    for found, area in ((kept, (40, 30, 8, 6)), (lost, (0, 0, 0, 0))):
        parsed = Image.Exif()
        parsed.load(found["EXIF"])
        assert tuple(parsed.get_ifd(0x8769)[0x9214]) == area


@pytest.mark.parametrize(
    "hostile", [b"<?xpacket " * 60000, b"<a:Thumbnails>" * 40000, b"<a:Thumbnails " * 40000]
)
def test_long_xmp_is_read_in_linear_time(hostile):
    """Half a megabyte took two minutes where expressions were looked for from every place."""
    with pytest.warns(UserWarning, match="damaged XMP"):
        assert carried.kept_xmp(hostile, True) == b""
    assert metadata.updated({"XMP": hostile}, (5, 6)) == {"XMP": hostile}


def test_thumbnails_and_orientation_in_xmp_are_left_out():
    thumbnail = b"<xmp:Thumbnails><rdf:Alt/></xmp:Thumbnails><dc:creator>"
    kept = carried.kept_xmp(XMP.replace(b"<dc:creator>", thumbnail), True)
    assert b"creator" in kept
    assert b"Thumbnails" not in kept
    assert b"Orientation" not in kept
