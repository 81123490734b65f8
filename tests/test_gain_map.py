"""Gain maps: other programs read them, the photo is the same, and only what was brighter shines."""

import io
import struct

import cv2
import imagecodecs
import numpy as np
import pytest
import pyvips
from conftest import exif, profile, scene
from PIL import Image

import colour
import gain_map
import headers
import inference
import utils


@pytest.fixture(scope="module")
def bracket(tmp_path_factory):
    """Three exposures of a room whose lamp is ten times as bright as white; their paths."""
    folder = tmp_path_factory.mktemp("bracket")
    light = scene(240, 320, seed=3) * 0.5
    cv2.circle(light, (80, 90), 25, (10.0, 8.0, 6.0), -1)
    paths = []
    for number, gain in enumerate((0.08, 0.4, 2.0)):
        paths.append(str(folder / f"{number}.jpg"))
        values = utils.quantise(colour.linear_to_srgb((light * gain).clip(0, 1)), np.uint8)
        held = {"EXIF": exif(1, 320, 240), "XMP": credit_xmp()}
        utils.write_image(paths[-1], values, metadata=held, quality=98)
    return paths


def credit_xmp():
    return (
        b'<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF '
        b'xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#"><rdf:Description rdf:about="" '
        b'xmlns:xmp="http://ns.adobe.com/xap/1.0/" xmp:Rating="4"/></rdf:RDF></x:xmpmeta>'
    )


def fuse(paths, result, *flags):
    command = ["--images", *paths, "--res", str(result), "--quiet", "--deghost", "no", *flags]
    assert inference.main(command) == 0
    return result.read_bytes()


def parts(data):
    """The two JPEG files in one, by its index (CIPA DC-007), read without our own writer's help."""
    place = data.index(b"MPF\0") + 4
    (start,) = struct.unpack_from(">I", data, place + 4)
    (count,) = struct.unpack_from(">H", data, place + start)
    for row in range(count):
        tag, _, size, offset = struct.unpack_from(">HHII", data, place + start + 2 + 12 * row)
        if tag == 0xB002:
            assert size == 32
            entries = [struct.unpack_from(">IIIHH", data, place + offset + 16 * k) for k in (0, 1)]
    (_, length, _, *_), (_, map_length, distance, *_) = entries
    assert place + distance == length
    assert len(data) == length + map_length
    return data[:length], data[length:]


def iso_values(map_file):
    """ISO 21496-1's fractions: headrooms, smallest, largest gain, gamma and offsets."""
    place = map_file.index(gain_map.ISO_21496) + len(gain_map.ISO_21496)
    least, writer, flags = struct.unpack_from(">HHB", map_file, place)
    assert (least, writer, flags) == (0, 0, 0x40)
    numbers = struct.unpack_from(">IIIIiIiIIIiIiI", map_file, place + 5)
    return [a / b for a, b in zip(numbers[::2], numbers[1::2], strict=True)]


def pixels(data):
    return cv2.cvtColor(cv2.imdecode(np.frombuffer(data, np.uint8), 1), cv2.COLOR_BGR2RGB)


def hdr_of(data):
    """What an HDR screen shows, in linear light, by a reader of the tests' own."""
    photo, map_file = parts(data)
    _, largest, lowest, highest, gamma, sdr, hdr = iso_values(map_file)
    assert (lowest, gamma, largest) == (0, 1, highest)
    levels = cv2.imdecode(np.frombuffer(map_file, np.uint8), cv2.IMREAD_GRAYSCALE) / 255
    base = pixels(photo)
    levels = cv2.resize(levels, base.shape[1::-1], interpolation=cv2.INTER_LINEAR)
    linear = colour.srgb_to_linear(base / 255)
    return (linear + sdr) * 2 ** (levels * highest)[..., None] - hdr


def test_the_photo_is_the_same(bracket, tmp_path):
    plain = fuse(bracket, tmp_path / "plain.jpg")
    photo, map_file = parts(fuse(bracket, tmp_path / "x.jpg", "--gain_map"))
    # From the tables and the frame on, byte for byte; before, segments are added.
    assert photo[photo.index(b"\xff\xdb") :] == plain[plain.index(b"\xff\xdb") :]
    assert map_file.startswith(b"\xff\xd8")
    found, expected = (utils.read_picture(tmp_path / f"{name}.jpg") for name in ("x", "plain"))
    assert np.array_equal(found.pixels, expected.pixels)
    assert found.metadata["EXIF"] == expected.metadata["EXIF"]
    assert b'xmp:Rating="4"' in found.metadata["XMP"]


def test_libultrahdr_reads_the_same_gains(bracket, tmp_path):
    data = fuse(bracket, tmp_path / "x.jpg", "--gain_map")
    expected = hdr_of(data)
    found = imagecodecs.ultrahdr_decode(data)[..., :3].astype(np.float64)
    assert found.shape == expected.shape
    assert expected.max() > 3
    # The library decodes JPEG files by itself, and enlarges their chroma in another way.
    found, expected = (
        cv2.blur(picture @ gain_map.LUMINANCE, (9, 9)) for picture in (found, expected)
    )
    bright = expected > 0.02
    assert np.quantile(np.abs(found / expected - 1)[bright], 0.99) < 0.01


def test_pyvips_reads_the_same_facts(bracket, tmp_path):
    data = fuse(bracket, tmp_path / "x.jpg", "--gain_map", "--headroom", "3")
    _, largest, *_ = iso_values(parts(data)[1])
    image = pyvips.Image.new_from_buffer(data, "")
    assert image.get("gainmap-max-content-boost") == pytest.approx([2**largest] * 3, rel=1e-4)
    assert image.get("gainmap-hdr-capacity-max") == pytest.approx(2**largest, rel=1e-4)
    assert image.get("gainmap-gamma") == [1, 1, 1]
    assert image.get("gainmap-offset-sdr") == pytest.approx([1 / 64] * 3)


def test_only_the_lamp_shines(bracket, tmp_path):
    """Its gain is near the headroom; the room's is none, also close to the lamp: no halo."""
    _, map_file = parts(fuse(bracket, tmp_path / "x.jpg", "--gain_map"))
    _, largest, *_ = iso_values(map_file)
    gain = cv2.imdecode(np.frombuffer(map_file, np.uint8), 0) / 255 * largest
    rows, columns = np.indices(gain.shape)
    distance = np.hypot(rows - 90, columns - 80)
    assert gain[distance < 20].min() > 1.5
    assert gain[distance < 20].max() < 2.5
    assert np.ptp(gain[distance < 20]) < 0.3
    assert gain[distance > 32].max() < 0.1


@pytest.mark.parametrize("headroom", [1, 2, 4])
def test_headroom(bracket, tmp_path, headroom):
    data = fuse(bracket, tmp_path / "x.jpg", "--gain_map", "--headroom", str(headroom))
    _, largest, *_ = iso_values(parts(data)[1])
    assert 0.5 * headroom < largest < headroom


def test_no_gain_where_nothing_is_brighter(tmp_path):
    paths = []
    for number, gain in enumerate((0.5, 1.0)):
        light = (0.1 + 0.3 * scene(120, 160, seed=5)) * gain
        paths.append(str(tmp_path / f"{number}.png"))
        utils.write_image(paths[-1], utils.quantise(colour.linear_to_srgb(light), np.uint8))
    data = fuse(paths, tmp_path / "x.jpg", "--gain_map")
    assert cv2.imdecode(np.frombuffer(parts(data)[1], np.uint8), 0).max() == 0
    assert imagecodecs.ultrahdr_decode(data)[..., :3].max() <= 1.01


def test_light_is_the_scenes():
    """Merged from exposures, it is proportional to the scene's light over six stops."""
    light = np.geomspace(0.004, 1, 300)[None].repeat(40, axis=0)
    images = [
        utils.quantise(colour.linear_to_srgb((light * gain).clip(0, 1)), np.uint8)
        for gain in (16.0, 1.0, 4.0)
    ]
    found = gain_map.light_of(images)
    shares = found / light
    assert np.ptp(np.log2(shares[:, :290])) < 0.15
    rgb = [np.repeat(image[..., None], 3, axis=2) for image in images]
    assert np.allclose(gain_map.light_of(rgb), found, rtol=1e-4)


def test_hidden_pictures_are_no_exposures(bracket, tmp_path):
    """The gain map of an input is neither fused nor kept."""
    inputs = []
    for number, path in enumerate(bracket):
        inputs.append(tmp_path / f"{number}.jpg")
        photo = utils.read_picture(path)
        behind = gain_map.encoded(np.full((60, 80), 1.0, np.float32))
        held = photo.metadata | {"XMP": gain_map.container_xmp(b"", len(behind))}
        data = bytes(utils.file_of("x.jpg", photo.pixels, None, held, 98))
        inputs[-1].write_bytes(gain_map.one_file(data, behind))
        assert headers.read_header(inputs[-1])[:3] == (240, 320, 3)
        assert utils.read_image(inputs[-1]).shape == (240, 320, 3)
    fuse([str(path) for path in inputs], tmp_path / "x.png")
    assert b"hdr" not in utils.read_picture(tmp_path / "x.png").metadata.get("XMP", b"")


@pytest.mark.parametrize("name", ["x.png", "x.tif", "x.avif"])
def test_other_formats_are_refused_at_once(bracket, tmp_path, capsys, name):
    command = ["--images", *bracket, "--res", str(tmp_path / name), "--gain_map"]
    assert inference.main(command) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert "has no --gain_map" in error
    assert not (tmp_path / name).exists()


@pytest.mark.parametrize("flags", [["--headroom", "3"], ["--gain_map", "--panel"]])
def test_flags_that_do_not_go_together(bracket, tmp_path, flags):
    with pytest.raises(SystemExit) as caught:
        inference.main(["--images", *bracket[:2], "--res", str(tmp_path / "x.jpg"), *flags])
    assert caught.value.code == 2


def test_grey_and_wide_photos_have_gain_maps(tmp_path):
    light = scene(120, 160, seed=3)
    light[40:60, 50:80] = 8
    for kind in ("grey", "wide"):
        paths = []
        for number, gain in enumerate((0.1, 2.0)):
            values = utils.quantise(colour.linear_to_srgb((light * gain).clip(0, 1)), np.uint8)
            paths.append(str(tmp_path / f"{kind}{number}.png"))
            icc = {"ICC": profile("Display P3")} if kind == "wide" else {}
            utils.write_image(paths[-1], values[..., 0] if kind == "grey" else values, metadata=icc)
        data = fuse(paths, tmp_path / f"{kind}.jpg", "--gain_map")
        gains = cv2.imdecode(np.frombuffer(parts(data)[1], np.uint8), 0)
        assert gains[45:55, 55:75].min() > 150
        assert (utils.read_image(tmp_path / f"{kind}.jpg").ndim == 2) == (kind == "grey")
        assert pyvips.Image.new_from_buffer(data, "").get_fields().count("gainmap-gamma") == 1


def test_the_map_is_turned_and_cropped_with_the_photo(tmp_path):
    """Exposures on their side: the photo and its map are upright."""
    light = scene(120, 160, seed=3) * 0.5
    light[10:30, 100:140] = 9
    paths = []
    for number, gain in enumerate((0.1, 2.0)):
        values = utils.quantise(colour.linear_to_srgb((light * gain).clip(0, 1)), np.uint8)
        file = io.BytesIO()
        described = Image.Exif()
        described[0x0112] = 6
        Image.fromarray(values).save(file, "JPEG", exif=described, quality=98)
        (tmp_path / f"{number}.jpg").write_bytes(file.getvalue())
        paths.append(str(tmp_path / f"{number}.jpg"))
    data = fuse(paths, tmp_path / "x.jpg", "--gain_map")
    photo, map_file = parts(data)
    assert pixels(photo).shape == (160, 120, 3)
    gains = cv2.imdecode(np.frombuffer(map_file, np.uint8), 0)
    assert gains.shape == (160, 120)
    assert gains[105:135, 95:105].min() > 100
    assert gains[:90].max() < 40
