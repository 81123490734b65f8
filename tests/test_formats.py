"""Files as other programs write them: read right, or refused by name."""

import contextlib
import io
import shutil
import struct
import zlib

import cv2
import imagecodecs
import numpy as np
import pillow_heif
import pillow_jxl  # noqa: F401 - tells Pillow of JPEG XL
import pytest
import tifffile
from conftest import exif, huge_png, picture, png_with, write_bracket
from PIL import Image

import decoders
import grouping
import headers
import inference
import utils

RAMP = np.linspace(0, 1, 64)
GREY = np.tile(RAMP, (48, 1))
COLOUR = np.dstack([GREY, GREY[:, ::-1], np.tile(np.linspace(0.2, 0.6, 48)[:, None], 64)])
ALPHA = np.tile(np.linspace(0.2, 1, 48)[:, None], 64)
DEPTHS = {"u1": 255, "u2": 65535, "f2": 1, "f4": 1, "f8": 1}


def stored(picture, kind, white=None):
    """A picture in [0, 1] in the type of a file."""
    white = white or DEPTHS[kind]
    return picture.astype(kind) if white == 1 else np.rint(picture * white).astype(kind)


def tiff(array, **options):
    file = io.BytesIO()
    tifffile.imwrite(file, array, **options)
    return file.getvalue()


def read(tmp_path, data, name="x"):
    path = tmp_path / name
    path.write_bytes(data)
    return utils.read_picture(path)


def shows(found, wanted, tolerance):
    """True where a picture's values, by their type's largest, are those wanted in [0, 1]."""
    assert found.shape == wanted.shape
    return np.abs(found / utils.white_level(found.dtype) - wanted).max() <= tolerance


@pytest.mark.parametrize("bits", [10, 12])
@pytest.mark.parametrize("wanted", [COLOUR, GREY], ids=["colour", "grey"])
@pytest.mark.parametrize("kind", ["avif", "jp2", "j2k"])
def test_white_of_deep_files_is_white(tmp_path, kind, wanted, bits):
    values = stored(wanted, "u2", 2**bits - 1)
    if kind == "avif":
        data = imagecodecs.avif_encode(values, level=100, bitspersample=bits)
    else:
        data = imagecodecs.jpeg2k_encode(values, level=0, bitspersample=bits, codecformat=kind)
    found = read(tmp_path, data).pixels
    assert found.dtype == np.uint16
    # AVIF has YCbCr, which costs a level or two of the file's.
    assert shows(found, wanted, (3 if kind == "avif" else 0.6) / 2**bits)
    assert headers.read_header(tmp_path / "x").dtype == np.uint16


@pytest.mark.parametrize("white", [15, 100, 255, 1023, 65535])
@pytest.mark.parametrize("wanted", [COLOUR, GREY], ids=["colour", "grey"])
def test_white_of_anymaps_is_white(tmp_path, wanted, white):
    start = f"P{6 if wanted.ndim == 3 else 5}\n64 48\n{white}\n".encode()
    data = start + stored(wanted, ">u2" if white > 255 else "u1", white).tobytes()
    assert shows(read(tmp_path, data, "x.ppm").pixels, wanted, 0.51 / white + 0.002)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_avif_is_turned_once(tmp_path, orientation):
    """Pillow writes irot and imir, and OpenCV obeys neither."""
    values = stored(COLOUR, "u1")
    described = Image.Exif()
    described[0x0112] = orientation
    Image.fromarray(values).save(tmp_path / "x.avif", quality=100, exif=described)
    found = utils.read_picture(tmp_path / "x.avif")
    wanted = decoders.turn_upright(COLOUR, orientation)
    assert np.abs(found.pixels / 255 - wanted).mean() < 0.02
    assert utils.upright_size(tmp_path / "x.avif") == wanted.shape[:2]
    utils.write_image(str(tmp_path / "y.avif"), found.pixels, metadata=found.metadata)
    again = utils.read_image(tmp_path / "y.avif")
    assert np.abs(again / 255 - wanted).mean() < 0.02


def test_deep_avif_stays_deep(tmp_path):
    path = str(tmp_path / "x.avif")
    utils.write_image(path, stored(COLOUR, "u2"), quality=100)
    found = utils.read_image(path)
    assert found.dtype == np.uint16
    assert shows(found, COLOUR, 0.01)
    assert len(np.unique(found[..., 0])) > 60


TIFFS = {
    "planes": ("u2", {"photometric": "rgb", "planarconfig": "separate"}),
    "planes of floats": ("f4", {"photometric": "rgb", "planarconfig": "separate"}),
    "white is 0": ("u1", {"photometric": "miniswhite"}),
    "white is 0, deep": ("u2", {"photometric": "miniswhite"}),
    "white is 0, floats": ("f4", {"photometric": "miniswhite"}),
    "white is 0, ZSTD": ("u1", {"photometric": "miniswhite", "compression": "zstd"}),
    "half floats": ("f2", {"photometric": "rgb"}),
    "ZSTD": ("u2", {"photometric": "rgb", "compression": "zstd"}),
    "LZMA": ("f4", {"photometric": "rgb", "compression": "lzma"}),
    "JPEG XL": ("u1", {"photometric": "rgb", "compression": "jpegxl"}),
    "JPEG XL, deep": ("u2", {"photometric": "rgb", "compression": "jpegxl"}),
    "JPEG 2000": ("u1", {"photometric": "rgb", "compression": "jpeg2000"}),
    "tiles": ("u1", {"photometric": "rgb", "tile": (16, 16)}),
    "64-bit offsets": ("u2", {"photometric": "rgb", "bigtiff": True}),
    "big-endian": ("u2", {"photometric": "rgb", "byteorder": ">"}),
    "12 bits": ("u2", {"photometric": "rgb", "bitspersample": 12}),
    "10 bits, grey": ("u2", {"photometric": "minisblack", "bitspersample": 10}),
}


@pytest.mark.parametrize("name", TIFFS)
def test_tiff(tmp_path, name):
    kind, options = TIFFS[name]
    grey = options["photometric"] != "rgb"
    wanted = GREY if grey else COLOUR
    values = stored(wanted, kind, 2 ** options.get("bitspersample", 0) - 1)
    if "white is 0" in name:
        values = stored(1 - wanted, kind)
    if "planarconfig" in options:
        values = values.transpose(2, 0, 1)
    found = read(tmp_path, tiff(values, **options)).pixels
    assert found.dtype == (np.float32 if kind == "f2" else kind)
    lossy = options.get("compression") in ("jpegxl", "jpeg2000")
    assert shows(found, wanted, 0.02 if lossy else 0.002)


@pytest.mark.parametrize("kind", ["u1", "u2", "f4"])
@pytest.mark.parametrize("alpha", ["unassalpha", "assocalpha"])
@pytest.mark.parametrize("wanted", [COLOUR, GREY], ids=["colour", "grey"])
def test_alpha_of_tiff(tmp_path, wanted, alpha, kind):
    """Colours are those of the scene, not multiplied by alpha."""
    held = (
        wanted * ALPHA.reshape(48, 64, *[1] * (wanted.ndim - 2)) if alpha[:3] == "ass" else wanted
    )
    values = stored(np.dstack([held, ALPHA]), kind)
    photometric = "rgb" if wanted.ndim == 3 else "minisblack"
    found = read(tmp_path, tiff(values, photometric=photometric, extrasamples=[alpha]))
    assert shows(found.alpha, ALPHA, 0.002)
    assert shows(found.pixels, wanted, 0.02 if kind == "u1" else 0.001)


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.float32])
def test_alpha_of_results_in_tiff_says_what_it_is(tmp_path, dtype):
    path = str(tmp_path / "x.tif")
    pixels, alpha = (utils.quantise(part, dtype) for part in (COLOUR, ALPHA))
    utils.write_image(path, pixels, alpha)
    with tifffile.TiffFile(path) as file:
        assert file.pages.first.extrasamples == (2,)  # not associated
        assert np.array_equal(file.asarray(), np.dstack([pixels, alpha]))
    found = utils.read_picture(path)
    assert np.array_equal(found.pixels, pixels)
    assert np.array_equal(found.alpha, alpha)


@pytest.mark.parametrize(
    ("values", "options", "reason"),
    [
        (stored(COLOUR, "u1"), {"photometric": "cielab"}, "CIELab"),
        (stored(COLOUR, "u2"), {"photometric": "cielab"}, "CIELab"),
        (stored(GREY, "u1").astype("i2"), {"photometric": "minisblack"}, "signed 16-bit"),
        (stored(GREY, "u1").astype("u4"), {"photometric": "minisblack"}, "32-bit integers"),
        (stored(np.dstack([COLOUR, GREY]), "u2"), {"photometric": "separated"}, "4 channels"),
    ],
)
def test_tiff_that_is_refused(tmp_path, values, options, reason):
    with pytest.raises(ValueError, match=reason) as caught:
        read(tmp_path, tiff(values, **options))
    assert str(caught.value).startswith(f"{tmp_path / 'x'}: ")


def test_without_the_optional_libraries(tmp_path, monkeypatch):
    """The message says what a file is, and how to get what reads it."""
    find = headers.importlib.util.find_spec
    optional = ("tifffile", "imagecodecs", "pillow_heif", "pillow_jxl")
    monkeypatch.setattr(
        headers.importlib.util, "find_spec", lambda name: None if name in optional else find(name)
    )
    for data, reason in (
        (
            tiff(stored(COLOUR, "u2"), photometric="rgb", compression="zstd"),
            "TIFF compressed as ZS",
        ),
        (tiff(stored(COLOUR, "f2"), photometric="rgb"), "TIFF of 3 channels of 16 bits needs"),
        (imagecodecs.jpegxl_encode(stored(COLOUR, "u1")), "JPEG XL needs .*requirements-jxl"),
        (heic(stored(COLOUR, "u1")), "HEIC needs .*requirements-heif"),
    ):
        with pytest.raises(ValueError, match=reason):
            read(tmp_path, data)


def test_other_documents_are_named(tmp_path):
    for data, reason in (
        (b"8BPS" + bytes(60), "Photoshop"),
        (b"%PDF-1.7" + bytes(60), "PDF"),
        (struct.pack(">I", 24) + b"ftypisom" + bytes(60), "a video"),
        (imagecodecs.jpeg8_encode(stored(GREY, "u2", 4095), bitspersample=12), "JPEG of 12 bits"),
        (imagecodecs.jpeg2k_encode(stored(GREY, "u2", 4000).astype("i2"), level=0), "signed"),
    ):
        with pytest.raises(ValueError, match=reason):
            read(tmp_path, data)


def damaged(data, place, size=64):
    changed = bytearray(data)
    changed[place : place + size] = bytes(size)
    return bytes(changed)


@pytest.mark.parametrize("extension", [".jpg", ".png", ".tif", ".avif"])
@pytest.mark.parametrize("share", [0.4, 0.7])
def test_damage_inside_is_found(tmp_path, capfd, extension, share):
    noise = utils.quantise(COLOUR * 0.9 + 0.1 * picture(shape=COLOUR.shape) / 255, np.uint8)
    data = cv2.imencode(extension, cv2.resize(noise, (300, 200)))[1].tobytes()
    read(tmp_path, data, f"whole{extension}")
    with pytest.raises(ValueError, match="damaged") as caught:
        read(tmp_path, damaged(data, int(share * len(data))), f"x{extension}")
    assert str(caught.value).startswith(f"{tmp_path / 'x'}{extension}: ")
    assert capfd.readouterr().err == ""


def test_filled_up_jpegs_are_no_damaged_ones(tmp_path, capfd):
    """Cameras fill up files before the mark of the end; libjpeg complains of that as of damage."""
    data = cv2.imencode(".jpg", picture(shape=(40, 60, 3)))[1].tobytes()
    filled = data[:-2] + bytes(500) + data[-2:]
    assert np.array_equal(read(tmp_path, filled).pixels, read(tmp_path, data).pixels)
    assert capfd.readouterr().err == ""


def test_what_others_say_while_a_file_is_decoded_is_passed_on(capfd):
    with decoders.heard() as said:
        with decoders.heard() as inner:
            decoders.os.write(2, b"Corrupt JPEG data: of a decoder\nof another thread\n")
        assert inner().startswith(b"Corrupt JPEG data")
        decoders.os.write(2, b"later\n")
    assert said().endswith(b"later\n")
    assert capfd.readouterr().err == "of another thread\nlater\n"


def test_png_with_a_large_profile_has_exif(tmp_path):
    """Pillow raises on a profile of more than a megabyte."""
    data = cv2.imencode(".png", picture())[1].tobytes()
    profile = b"large\0\0" + zlib.compress(np.random.default_rng(0).bytes(2**21))
    path = tmp_path / "x.png"
    path.write_bytes(png_with(data, (b"iCCP", profile), (b"eXIf", exif(1))))
    assert headers.read_header(path)[:3] == (20, 30, 3)
    assert decoders.exif_values(exif(1)).items() <= utils.read_exif(path).items()


def heic(values, **options):
    """A HEIC file of 8 or, for uint16, 10 bits."""
    file = io.BytesIO()
    mode = "RGB;16" if values.dtype == np.uint16 else "RGB"
    image = pillow_heif.from_bytes(mode, values.shape[1::-1], values.tobytes())
    image.save(file, quality=-1, chroma=444, matrix_coefficients=0, **options)
    return file.getvalue()


@pytest.mark.parametrize("kind", ["u1", "u2"])
def test_heic(tmp_path, kind):
    described = Image.Exif()
    described[0x0110] = "Phone"
    found = read(tmp_path, heic(stored(COLOUR, kind), exif=described.tobytes()), "x.heic")
    assert found.pixels.dtype == kind
    assert shows(found.pixels, COLOUR, 0.012)
    header = headers.read_header(tmp_path / "x.heic")
    assert (header.height, header.width, header.dtype) == (48, 64, np.dtype(kind))
    assert utils.read_exif(tmp_path / "x.heic")[0x0110] == "Phone"
    assert decoders.exif_values(found.metadata["EXIF"])[0x0110] == "Phone"


@pytest.mark.parametrize("kind", ["heic", "jxl"])
@pytest.mark.parametrize("orientation", [1, 3, 6, 8])
def test_heic_and_jpeg_xl_are_turned_once(tmp_path, kind, orientation):
    path = tmp_path / f"x.{kind}"
    described = Image.Exif()
    described[0x0112] = orientation
    image = Image.fromarray(stored(COLOUR, "u1"))
    if kind == "heic":
        pillow_heif.from_pillow(image).save(path, exif=described.tobytes(), quality=-1)
        wanted = decoders.turn_upright(COLOUR, orientation)  # pillow-heif writes a box of it.
    else:
        image.save(path, exif=described.tobytes(), lossless=True)
        wanted = COLOUR  # The EXIF of JPEG XL does not count, its codestream does.
    found = utils.read_picture(path)
    assert found.pixels.shape == wanted.shape
    assert np.abs(found.pixels / 255 - wanted).mean() < 0.02
    assert utils.upright_size(path) == wanted.shape[:2]
    assert decoders.orientation(utils.read_exif(path)) == 1


@pytest.mark.parametrize("bits", [8, 10, 12, 16])
@pytest.mark.parametrize("wanted", [COLOUR, GREY, np.dstack([COLOUR, ALPHA])], ids=["c", "g", "a"])
def test_jpeg_xl(tmp_path, wanted, bits):
    kind = "u1" if bits == 8 else "u2"
    values = stored(wanted, kind, 2**bits - 1)
    data = imagecodecs.jpegxl_encode(values, lossless=True, bitspersample=bits)
    found = read(tmp_path, data, "x.jxl")
    assert found.pixels.dtype == kind
    colours = wanted if wanted.ndim == 2 else wanted[..., :3]
    assert shows(found.pixels, colours, 0.51 / (2**bits - 1))
    if wanted.ndim == 3 and wanted.shape[2] == 4:
        assert shows(found.alpha, ALPHA, 0.51 / (2**bits - 1))
    header = headers.read_header(tmp_path / "x.jxl")
    assert header[:2] == (48, 64)
    assert header.dtype == kind


def test_folders_name_what_they_cannot_read(tmp_path, monkeypatch):
    (tmp_path / "a.heic").write_bytes(heic(stored(COLOUR, "u1")))
    utils.write_image(str(tmp_path / "b.jpg"), picture(), metadata={"EXIF": exif(1)})
    find = headers.importlib.util.find_spec
    monkeypatch.setattr(
        headers.importlib.util, "find_spec", lambda name: find(name) if name[0] != "p" else None
    )
    shutil.copy(tmp_path / "b.jpg", tmp_path / "c.jpg")
    with pytest.raises(ValueError, match="HEIC needs pillow-heif"):
        grouping.sort_card(tmp_path, None, tmp_path / "results")
    write_bracket(tmp_path / "scene")
    card = grouping.sort_card(tmp_path, None, tmp_path / "results")
    assert list(card.scenes) == ["scene"]
    assert card.singles == [str(tmp_path / "b.jpg")]
    assert list(card.left) == [str(tmp_path / "c.jpg")]
    assert "a.heic: HEIC needs pillow-heif" in card.problems[0]


def test_exposures_of_different_depths(tmp_path):
    """A scene of 8 and 16 bits gives the photo of 8 bits, in 16."""
    under, over = (utils.quantise(COLOUR * gain, np.uint8) for gain in (0.3, 1.0))
    for name, pixels in (("a", under), ("b", over), ("c", over.astype(np.uint16) * 257)):
        utils.write_image(str(tmp_path / f"{name}.png"), pixels)
    results = []
    for second in "bc":
        images = [str(tmp_path / f"{name}.png") for name in ("a", second)]
        results.append(str(tmp_path / f"result_{second}.png"))
        assert inference.main(["--images", *images, "--res", results[-1], "--quiet"]) == 0
    found = utils.read_image(results[1])
    assert found.dtype == np.uint16
    assert np.abs(utils.read_image(results[0]) / 255 - found / 65535).max() < 0.01


@pytest.mark.parametrize(
    ("name", "side", "flags"),
    [("x.jpg", 65501, []), ("x.webp", 16384, []), ("x.webp", 4096, ["--panel"])],
)
def test_results_too_large_for_a_format_are_refused_at_once(tmp_path, capsys, name, side, flags):
    """Before pixels are read: these files hold none."""
    images = [str(huge_png(tmp_path / f"{number}.png", 40, side)) for number in range(2)]
    command = ["--images", *images, "--res", str(tmp_path / name), *flags, "--device", "cpu"]
    assert inference.main(command) == 2
    assert "are too many for" in capsys.readouterr().err


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("kind", ["heic", "jxl", "avif", "jp2", "tiff", "planes", "png"])
def test_damaged_headers_do_no_harm(tmp_path, kind):
    """Damaged files are read or refused with a ValueError, whatever a library raises."""
    values = stored(COLOUR, "u1")
    data = {
        "heic": lambda: heic(values),
        "jxl": lambda: imagecodecs.jpegxl_encode(values),
        "avif": lambda: imagecodecs.avif_encode(values),
        "jp2": lambda: imagecodecs.jpeg2k_encode(values, level=40, codecformat="jp2"),
        "tiff": lambda: tiff(values, photometric="rgb", compression="zstd"),
        "planes": lambda: tiff(
            stored(COLOUR, "u2").transpose(2, 0, 1), photometric="rgb", planarconfig="separate"
        ),
        "png": lambda: png_with(
            cv2.imencode(".png", values)[1].tobytes(), (b"eXIf", exif(1)), (b"gAMA", bytes(4))
        ),
    }[kind]()
    rng = np.random.default_rng(0)
    for _ in range(40):
        changed = bytearray(data)
        for place in rng.integers(12, min(len(data), 400), 3):
            changed[place] = rng.integers(256)
        path = tmp_path / "x"
        path.write_bytes(changed)
        headers.read_header(path)
        utils.read_exif(path)
        with (
            pytest.raises(ValueError, match="x: ")
            if False
            else contextlib.suppress(ValueError, MemoryError)
        ):
            utils.read_picture(path)
