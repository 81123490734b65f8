"""Colours are what profiles say: to sRGB, fused there, and back."""

import struct

import cv2
import imagecodecs
import numpy as np
import pytest
from conftest import SPACES, picture, png_with, primaries_in_d50, profile, scene

import colour
import inference
import utils

WIDE = ("Display P3", "Adobe RGB", "ProPhoto")


def by_littlecms(values, source, target):
    """Colours in [0, 1], converted by littlecms in floats."""
    options = {"colorspace": "rgb", "outcolorspace": "rgb", "outdtype": "float32"}
    return imagecodecs.cms_transform(values.astype(np.float32), source, target, **options)


@pytest.mark.parametrize("name", WIDE)
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.float32])
def test_profiles_are_obeyed(name, dtype):
    """As littlecms obeys them, which samples curves and is off by a thousandth."""
    values = picture(dtype, (40, 50, 3))
    found = colour.to_srgb(values, colour.space_of(profile(name)))
    white = utils.white_level(dtype)
    expected = by_littlecms(values / white, profile(name), profile("sRGB"))
    assert found.dtype == np.float32
    inside = (expected > 0) & (expected < 1)
    assert inside.mean() > 0.5
    assert np.abs(found - expected)[inside].max() < 0.002


@pytest.mark.parametrize("name", WIDE)
@pytest.mark.parametrize(("dtype", "levels"), [(np.uint8, 0), (np.uint16, 60)])
def test_there_and_back(name, dtype, levels):
    """Colours that sRGB does not have are kept; near black, 16 bits are finer than floats are."""
    values = picture(dtype, (64, 65, 3))
    space = colour.space_of(profile(name))
    there = colour.to_srgb(values, space)
    assert there.min() < 0
    back = colour.from_srgb(there, space, dtype)
    assert np.abs(back.astype(int) - values).max() <= levels
    bright = values.min(axis=2) > values.max() // 20
    assert np.abs(back.astype(int) - values)[bright].max() <= levels // 20


@pytest.mark.parametrize("name", WIDE)
def test_grey_stays_grey(name):
    grey = np.repeat(np.arange(256, dtype=np.uint8)[None, :, None], 3, axis=2)
    there = colour.to_srgb(grey, colour.space_of(profile(name)))
    assert np.ptp(there, axis=2).max() < 1e-6


def test_srgb_is_left_alone():
    """Also where a program has rounded its profile, or sampled its curve."""
    table = np.rint(colour.srgb_to_linear(np.linspace(0, 1, 1024)) * 65535).astype(">u2")
    sampled = b"curv" + bytes(4) + struct.pack(">I", 1024) + table.tobytes()
    curve = colour.curve_of(sampled)
    assert colour.is_srgb(colour.Space((curve,) * 3, np.eye(3) + 0.001, True))
    assert colour.space_of(profile("sRGB")) is None
    assert colour.space_of(imagecodecs.cms_profile("srgb")) is None
    assert colour.space_of(b"") is None
    assert colour.space_of(b"", (1, 13)) is None
    assert colour.space_of(b"", None, 0.45455) is None


@pytest.mark.parametrize(
    ("kind", "numbers", "point", "value"),
    [
        (0, (2.0,), 0.5, 0.25),
        (1, (2.0, 1.25, -0.25), 0.1, 0.0),
        (1, (2.0, 1.25, -0.25), 0.6, 0.25),
        (2, (2.0, 1.0, -0.2, 0.1), 0.1, 0.1),
        (2, (2.0, 1.0, -0.2, 0.1), 0.7, 0.35),
        (3, (2.0, 1.0, 0.0, 0.5, 0.5), 0.4, 0.2),
        (3, (2.0, 1.0, 0.0, 0.5, 0.5), 0.6, 0.36),
        (4, (2.0, 1.0, 0.0, 0.5, 0.5, 0.1, 0.05), 0.4, 0.25),
        (4, (2.0, 1.0, 0.0, 0.5, 0.5, 0.1, 0.05), 0.6, 0.46),
    ],
)
def test_parametric_curves(kind, numbers, point, value):
    """Function types of ICC.1, table 68, on both sides of their breaks, computed by hand."""
    body = b"".join(struct.pack(">i", round(number * 65536)) for number in numbers)
    curve = colour.curve_of(b"para" + bytes(4) + struct.pack(">HH", kind, 0) + body)
    assert curve(np.array([point])) == pytest.approx(value, abs=1e-4)


def test_damaged_profiles_do_no_harm():
    data = profile("Adobe RGB")
    rng = np.random.default_rng(0)
    values = picture(shape=(4, 5, 3))
    for _ in range(300):
        changed = bytearray(data)
        for place in rng.integers(16, len(changed), 3):
            changed[place] = rng.integers(256)
        space = colour.space_of(bytes(changed[: rng.integers(100, len(changed) + 1)]))
        if space is not None:
            with np.errstate(all="ignore"):
                colour.to_srgb(values, space)


def tagged(tmp_path, name, gains=(0.3, 3.0), dtype=np.uint16, extension=".tif"):
    """Two exposures of one scene in a space, made by littlecms; returns their paths."""
    paths = []
    for number, gain in enumerate(gains):
        light = (scene(150, 200, seed=3) * gain).clip(0, 1)
        values = np.rint(colour.linear_to_srgb(light) * 65535).astype(np.uint16) / 65535
        if name != "sRGB":
            values = by_littlecms(values, profile("sRGB"), profile(name)).clip(0, 1)
        paths.append(str(tmp_path / f"{name}{number}{extension}"))
        pixels = utils.quantise(values, dtype)
        utils.write_image(paths[-1], pixels, metadata={"ICC": profile(name)}, quality=100)
    return paths


def lab(path):
    """A file's colours in CIELab, with its profile obeyed."""
    found = utils.read_picture(path)
    icc = found.metadata.get("ICC", profile("sRGB"))
    values = by_littlecms(
        found.pixels / utils.white_level(found.pixels.dtype), icc, profile("sRGB")
    )
    return cv2.cvtColor(values.clip(0, 1), cv2.COLOR_RGB2Lab)


def fuse(paths, result, *flags):
    assert inference.main(["--images", *paths, "--res", str(result), "--quiet", *flags]) == 0
    return str(result)


@pytest.mark.parametrize("look", ["photo", "paper"])
@pytest.mark.parametrize("name", WIDE)
def test_one_photo_whatever_the_space(tmp_path, name, look):
    """Within dE .5 on average and 1.5 nearly everywhere; the result has the files' profile."""
    expected = lab(fuse(tagged(tmp_path, "sRGB"), tmp_path / "x.tif", "--look", look))
    result = fuse(tagged(tmp_path, name), tmp_path / "y.tif", "--look", look)
    found = utils.read_picture(result)
    assert found.metadata["ICC"] == profile(name)
    assert found.pixels.dtype == np.uint16
    difference = np.linalg.norm(lab(result) - expected, axis=2)
    assert difference.mean() < 0.5
    assert np.quantile(difference, 0.95) < 1.5


def test_exposures_of_different_spaces(tmp_path):
    expected = lab(fuse(tagged(tmp_path, "sRGB"), tmp_path / "x.tif"))
    mixed = [tagged(tmp_path, "ProPhoto")[0], tagged(tmp_path, "sRGB")[1]]
    difference = np.linalg.norm(lab(fuse(mixed, tmp_path / "y.tif")) - expected, axis=2)
    assert difference.mean() < 0.5


def test_colours_that_srgb_does_not_have_are_kept(tmp_path):
    """A flower's red of Display P3 remains one, and does not become sRGB's."""
    paths = []
    for number, gain in enumerate((0.3, 0.9)):
        pixels = np.full((120, 160, 3), gain)  # of a natural brightness, which is kept
        pixels[30:90, 40:120] = (gain, 0.05, 0.05)
        paths.append(str(tmp_path / f"{number}.png"))
        values = utils.quantise(pixels, np.uint8)
        utils.write_image(paths[-1], values, metadata={"ICC": profile("Display P3")})
    found = utils.read_picture(fuse(paths, tmp_path / "x.png"))
    there = colour.to_srgb(found.pixels, colour.space_of(found.metadata["ICC"]))
    assert there[60, 80].min() < -0.02
    # Where a format holds no profile, the colours are sRGB's nearest of the same hue.
    plain = utils.read_picture(fuse(paths, tmp_path / "x.bmp"))
    assert plain.metadata == {}
    nearest = utils.from_ycbcr(utils.to_ycbcr(there), np.float32, keep_hue=True)
    assert np.abs(plain.pixels / 255 - nearest).mean() < 0.01


def test_grey_pictures_have_curves(tmp_path):
    paths = []
    for number, gain in enumerate((0.3, 3)):
        values = (scene(90, 120, seed=3)[..., 0] * gain).clip(0, 1)
        for name, encoded in (("s", colour.linear_to_srgb(values)), ("p", values ** (1 / 1.8))):
            icc = profile("sRGB" if name == "s" else "ProPhoto", grey=True)
            paths.append(str(tmp_path / f"{name}{number}.png"))
            utils.write_image(paths[-1], utils.quantise(encoded, np.uint16), metadata={"ICC": icc})
    one = utils.read_image(fuse(paths[::2], tmp_path / "x.png")) / 65535
    other = utils.read_image(fuse(paths[1::2], tmp_path / "y.png")) / 65535
    assert other.ndim == 2
    assert np.abs(colour.srgb_to_linear(one) - other**1.8).max() < 0.004


def chunk_of(name):
    """A PNG chunk that gives a space's curve or numbers, and sRGB's pixels written so."""
    return {"gAMA": struct.pack(">I", 100_000), "cICP": bytes([12, 13, 0, 1])}[name]


def test_gama_and_cicp_of_png_are_obeyed(tmp_path):
    values = utils.quantise(scene(60, 80, seed=3), np.uint8)
    data = cv2.imencode(".png", values)[1].tobytes()
    for name, curves in (("gAMA", 1.0), ("cICP", None)):
        path = tmp_path / f"{name}.png"
        path.write_bytes(png_with(data, (name.encode(), chunk_of(name))))
        space = utils.read_picture(path).space
        assert not space.profile
        assert utils.space_of_file(path).matrix == pytest.approx(space.matrix)
        if curves:
            assert space.curves[0](np.array([0.3])) == pytest.approx(0.3)
        else:
            expected = colour.space_of(profile("Display P3")).matrix
            assert np.abs(space.matrix - expected).max() < 0.001


@pytest.mark.parametrize(("transfer", "name"), [(16, "PQ"), (18, "HLG")])
def test_hdr_pictures_are_refused(tmp_path, capsys, transfer, name):
    data = cv2.imencode(".png", picture(np.uint16, (40, 50, 3)))[1].tobytes()
    (tmp_path / "x.png").write_bytes(png_with(data, (b"cICP", bytes([9, transfer, 0, 1]))))
    deep = imagecodecs.avif_encode(
        picture(np.uint16, (40, 50, 3)) >> 6, bitspersample=10, transfer=transfer, primaries=9
    )
    (tmp_path / "x.avif").write_bytes(deep)
    for path in (tmp_path / "x.png", tmp_path / "x.avif"):
        with pytest.raises(ValueError, match=f"x.*: an HDR picture .{name}"):
            utils.read_picture(path)


def test_profiles_of_hdr_are_refused(tmp_path):
    """Profiles may name the transfer function of HDR in a tag of their own."""
    icc = profile("Display P3").replace(b"cprt", b"cicp").replace(
        b"text" + bytes(4) + b"none\0", b"cicp" + bytes(4) + bytes([9, 16, 0, 1])
    ) + bytes(3)
    icc = struct.pack(">I", len(icc)) + icc[4:]
    place = icc.index(b"cicp" + struct.pack(">I", icc.index(b"cicp\0\0\0\0")))
    icc = icc[: place + 8] + struct.pack(">I", 12) + icc[place + 12 :]
    assert colour.hdr_of(icc) == "PQ"
    utils.write_image(str(tmp_path / "x.jpg"), picture(), metadata={"ICC": icc})
    with pytest.raises(ValueError, match="an HDR picture"):
        utils.read_picture(tmp_path / "x.jpg")


def table_profile(name):
    """A profile that says the same as a space's by tables alone (ICC.1, 10.10, lut16Type)."""
    *_, (exponent,) = SPACES[name]
    curve = np.linspace(0, 1, 1024) ** exponent
    corners = np.stack(np.meshgrid(*[[0.0, 1.0]] * 3, indexing="ij"), axis=-1).reshape(8, 3)
    points = corners @ primaries_in_d50(name).T * 32768
    table = b"mft2" + bytes(4) + bytes([3, 3, 2, 0])
    table += struct.pack(">9i", *np.ravel(np.eye(3, dtype=int) * 65536)) + struct.pack(
        ">HH", 1024, 2
    )
    for values in (*[curve * 65535] * 3, points, *[np.array([0, 65535])] * 3):
        table += np.rint(values).astype(">u2").tobytes()
    data = bytearray(profile(name))
    count, place = struct.unpack_from(">I", data, 128)[0], data.index(b"rTRC")
    assert count
    data[place : place + 12] = b"A2B0" + struct.pack(">II", len(data), len(table))
    data += table
    data[:4] = struct.pack(">I", len(data))
    return bytes(data)


def test_profiles_of_tables(tmp_path, monkeypatch, capsys):
    """They are obeyed by littlecms; without it, a warning says that they are not."""
    icc = table_profile("Adobe RGB")
    assert colour.needs_library(icc)
    paths = {"tables": [], "curves": []}
    for number, gain in enumerate((0.3, 3)):
        pixels = utils.quantise(scene(60, 80, seed=3) * gain, np.uint16)
        for kind, files in paths.items():
            files.append(str(tmp_path / f"{kind}{number}.png"))
            held = icc if kind == "tables" else profile("Adobe RGB")
            utils.write_image(files[-1], pixels, metadata={"ICC": held})
    found = fuse(paths["tables"], tmp_path / "x.png")
    assert capsys.readouterr().err == ""
    assert utils.read_picture(found).metadata == {}
    expected = lab(fuse(paths["curves"], tmp_path / "y.png"))
    difference = np.linalg.norm(lab(found) - expected, axis=2)
    assert np.median(difference) < 1  # Colours that sRGB does not have are lost here.
    monkeypatch.setattr(colour, "has_library", lambda: False)
    assert "requirements-colour.txt" not in capsys.readouterr().err
    found = fuse(paths["tables"], tmp_path / "z.png")
    assert "requirements-colour.txt" in capsys.readouterr().err
    assert utils.read_picture(found).metadata == {"ICC": icc}


def test_png_of_the_usual_gamma_is_srgb(tmp_path):
    data = cv2.imencode(".png", picture())[1].tobytes()
    (tmp_path / "x.png").write_bytes(png_with(data, (b"gAMA", struct.pack(">I", 45455))))
    assert utils.read_picture(tmp_path / "x.png").space is None
