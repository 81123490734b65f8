"""RAW files: developed alike, upright once, with EXIF; DNG files that are made here."""

import os
import struct

import numpy as np
import pytest
from conftest import scene
from dng import write_dng

import dataset
import evaluate
import grouping
import inference
import metadata
import raw
import utils
from brackets import find_pictures

needs_rawpy = pytest.mark.skipif(not raw.can_develop(), reason="needs rawpy")
NOON = "2026:11:27 12:00:00"


def shown(linear):
    """Linear values in sRGB's curve (IEC 61966-2-1)."""
    linear = np.clip(linear, 0, 1)
    return np.where(linear <= 0.0031308, linear * 12.92, 1.055 * linear ** (1 / 2.4) - 0.055)


def linear(pixels):
    """The inverse of shown, of 16-bit pixels."""
    values = pixels / 65535
    return np.where(values <= 0.04045, values / 12.92, ((values + 0.055) / 1.055) ** 2.4)


@pytest.fixture
def render():
    """A scene in linear colour, (H, W, 3), some of it above 1."""
    return scene(64, 96, seed=3) * 1.5


@pytest.fixture
def pair(tmp_path, render):
    """A folder of one scene, two exposures taken one after the other."""
    (tmp_path / "card").mkdir()
    for name, gain, time in (("a.dng", 0.2, NOON), ("b.dng", 1.0, NOON[:-1] + "1")):
        write_dng(tmp_path / "card" / name, render * gain, (0.5, 1, 0.7), time=time, seconds=gain)
    return tmp_path / "card"


def fuse(folder, *flags):
    return inference.main([*map(str, flags), "--res", str(folder / "result.jpg"), "--quiet"])


@needs_rawpy
@pytest.mark.parametrize("gain", [0.1, 0.6])
@pytest.mark.parametrize("neutral", [(1, 1, 1), (0.5, 1, 0.7)])
def test_colours_are_those_of_the_scene(tmp_path, render, gain, neutral):
    write_dng(tmp_path / "x.dng", render * gain, neutral)
    pixels = raw.develop(tmp_path / "x.dng")
    assert pixels.dtype == np.uint16
    difference = pixels / 65535 - shown(render * gain)
    assert np.abs(difference).mean() < 0.02  # The rest is the mosaic, whose colours are guessed.
    assert np.abs(difference.mean(axis=(0, 1))).max() < 0.005


@needs_rawpy
def test_exposures_differ_by_exposure_alone(tmp_path, render):
    """Neither brightness nor white is fitted to a file: half the light is half the value."""
    dark = np.clip(render, 0, 1) * 0.4
    write_dng(tmp_path / "dark.dng", dark)
    write_dng(tmp_path / "darker.dng", dark / 2)
    one, half = (linear(raw.develop(tmp_path / name)) for name in ("dark.dng", "darker.dng"))
    lit = one > 0.02
    # Where the mosaic's colours are guessed, a pixel may be guessed another way.
    assert np.quantile(np.abs(half[lit] / one[lit] - 0.5), 0.99) < 0.01


@needs_rawpy
def test_one_white_balance_that_of_the_middle(tmp_path, render):
    paths = [tmp_path / f"{i}.dng" for i in range(3)]
    neutrals = [(0.5, 1, 0.5), (0.4, 1, 0.6), (0.6, 1, 0.4)]
    for path, gain, neutral in zip(paths, (0.1, 0.9, 0.3), neutrals, strict=True):
        write_dng(path, render * gain, neutral)
    development = raw.common_development([*paths, tmp_path / "x.jpg"])
    assert development == raw.own_development(paths[2]) != raw.own_development(paths[0])
    assert development.balance[:3] == pytest.approx((1 / 0.6, 1, 1 / 0.4), rel=1e-3)
    assert raw.common_development([tmp_path / "x.jpg"]) is None
    alike = raw.develop(paths[0], development)
    # Red was 0.5 of a neutral's green in this file, and is taken for 0.6.
    expected = shown(render * 0.1 * np.divide((0.5, 1, 0.5), (0.6, 1, 0.4)))
    assert np.abs((alike / 65535 - expected).mean(axis=(0, 1))).max() < 0.005
    assert np.array_equal(utils.read_picture(paths[0], development).pixels, alike)


@needs_rawpy
@pytest.mark.parametrize(("orientation", "turns"), [(1, 0), (3, 2), (6, 3), (8, 1)])
def test_orientation_is_applied_once(tmp_path, render, orientation, turns):
    write_dng(tmp_path / "x.dng", render, orientation=orientation, time=NOON)
    upright = write_dng(tmp_path / "upright.dng", render)
    picture = utils.read_picture(tmp_path / "x.dng")
    assert np.array_equal(picture.pixels, np.rot90(raw.develop(upright), turns))
    assert metadata.orientation(metadata.exif_values(picture.metadata["EXIF"])) == 1


@needs_rawpy
@pytest.mark.parametrize(("orientation", "size"), [(1, (64, 96)), (3, (64, 96)), (6, (96, 64))])
def test_headers_tell_the_upright_size(tmp_path, render, orientation, size):
    path = write_dng(tmp_path / "x.dng", render, orientation=orientation, time=NOON)
    assert utils.header_of(path)[:2] == utils.upright_size(path) == size


@needs_rawpy
@pytest.mark.parametrize("orientation", [1, 3, 6, 8])
def test_the_default_crop_of_dng_is_obeyed(tmp_path, render, orientation):
    path = write_dng(tmp_path / "x.dng", render, orientation=orientation, crop=[10, 4, 60, 50])
    whole = raw.develop(write_dng(tmp_path / "whole.dng", render))
    turns = {1: 0, 3: 2, 6: 3, 8: 1}[orientation]
    assert np.array_equal(raw.develop(path), np.rot90(whole[4:54, 10:70], turns))
    assert utils.header_of(path)[:2] == raw.develop(path).shape[:2]
    assert raw.develop(path, None, True).shape[:2] == tuple(
        np.divide(raw.develop(path).shape[:2], 2)
    )
    beyond = write_dng(tmp_path / "beyond.dng", render, crop=[10, 4, 90, 50])
    assert np.array_equal(raw.develop(beyond), whole)


@needs_rawpy
@pytest.mark.parametrize("stops", [-1.0, 0.5, 1.5])
def test_the_baseline_exposure_of_dng_is_obeyed(tmp_path, render, stops):
    dark = np.clip(render, 0, 1) * 0.2
    plain = linear(raw.develop(write_dng(tmp_path / "plain.dng", dark)))
    found = linear(raw.develop(write_dng(tmp_path / "x.dng", dark, stops=stops)))
    assert np.abs(found - plain * 2**stops).max() < 0.002


@needs_rawpy
def test_one_baseline_exposure_that_of_the_middle(tmp_path, render):
    """A phone that brightens every exposure by its own measure would undo the bracket."""
    for name, gain, stops in (("a", 0.1, 2), ("b", 0.3, 1), ("c", 0.9, 0)):
        write_dng(tmp_path / f"{name}.dng", render * gain, stops=stops)
    paths = [tmp_path / f"{name}.dng" for name in "abc"]
    assert raw.common_development(paths).gain == 2
    dark, middle = (linear(picture) for picture in utils.read_images(paths)[:2])
    lit = (dark > 0.02) & (middle < 0.9)
    assert np.median(middle[lit] / dark[lit]) == pytest.approx(3, rel=0.02)


@needs_rawpy
def test_scores_and_training_read_a_scene_alike(pair, tmp_path, render, capsys):
    scene = tmp_path / "raws" / "scene"
    scene.mkdir(parents=True)
    for number, gain in enumerate((0.1, 0.3, 0.9)):
        write_dng(scene / f"{number}.dng", render * gain, (0.4 + gain / 5, 1, 0.5), orientation=6)
    paths = [str(path) for path in sorted(scene.iterdir())]
    development = raw.own_development(paths[1])
    expected = [raw.develop(path, development) for path in paths]
    assert all(map(np.array_equal, utils.read_images(paths), expected))
    stack = dataset.read_stack(paths)
    assert stack.shape == (3, 3, 96, 64)
    assert np.abs(stack[0] - expected[0].transpose(2, 0, 1) / 257).max() <= 0.5
    assert evaluate.main(["--folder", str(scene.parent), "--device", "cpu", "--quiet"]) == 0
    assert "MergeMertens" in capsys.readouterr().out


@needs_rawpy
def test_a_pair_is_fused_and_keeps_its_exif(pair):
    assert fuse(pair, "--images", pair / "a.dng", pair / "b.dng") == 0
    result = utils.read_picture(pair / "result.jpg")
    assert result.pixels.shape == (64, 96, 3)
    exif = metadata.exif_values(result.metadata["EXIF"])
    assert exif[0x9003] == NOON[:-1] + "1"  # that of the brighter one, which tells more
    assert exif[0x0110] == "Render"
    assert fuse(pair, "--images", pair / "a.dng", pair / "b.dng", "--depth", "16") == 0


@needs_rawpy
@pytest.mark.parametrize(("side", "half"), [(32, True), (48, True), (50, False)])
def test_small_results_are_decoded_at_half_the_size(pair, monkeypatch, side, half):
    seen = []
    develop = raw.develop
    monkeypatch.setattr(raw, "develop", lambda *how: seen.append(how[-1]) or develop(*how))
    flags = ["--images", pair / "a.dng", pair / "b.dng", "--H", side, "--W", 20]
    assert fuse(pair, *flags) == 0
    assert seen == [half, half]
    assert utils.read_image(pair / "result.jpg").shape == (side, 20, 3)
    assert raw.develop(pair / "a.dng", None, True).shape == (32, 48, 3)


def test_raw_files_win_over_pictures_of_their_names(pair, monkeypatch):
    for name in ("A.JPG", "c.jpg"):
        utils.write_image(str(pair / name.lower()), np.zeros((64, 96, 3), np.uint8))
        os.rename(pair / name.lower(), pair / name)

    def names():
        return [os.path.basename(path) for path in find_pictures(pair)]

    monkeypatch.setattr(raw, "can_develop", lambda: True)
    assert names() == ["a.dng", "b.dng", "c.jpg"]
    monkeypatch.setattr(raw, "can_develop", lambda: False)
    assert names() == ["A.JPG", "b.dng", "c.jpg"]


def test_brackets_of_raw_files_are_found_by_exif(pair, render):
    write_dng(pair / "c.dng", render, time="2026:11:27 12:30:00")
    write_dng(pair / "d.dng", render)
    card = grouping.sort_card(pair, None, pair / "fused")
    assert card.scenes == {"a": [str(pair / "a.dng"), str(pair / "b.dng")]}
    assert card.singles == [str(pair / "c.dng")]
    assert len(card.problems) == 1
    assert "d.dng: does not say when" in card.problems[0]


def test_without_rawpy_one_line_says_how_to_get_it(pair, monkeypatch, capsys):
    monkeypatch.setattr(raw, "can_develop", lambda: False)
    assert fuse(pair, "--images", pair / "a.dng", pair / "b.dng") == 2
    error = capsys.readouterr().err
    assert error.endswith("RAW files need rawpy: pip install -r requirements-raw.txt\n")
    assert error.count("\n") == 1
    assert not (pair / "result.jpg").exists()


@needs_rawpy
@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda data: data[: len(data) // 2], "damaged, cut short"),
        (lambda data: b"no RAW file at all" * 9, "no RAW file, or of a camera that LibRaw"),
        (lambda data: b"", "damaged, cut short"),
        (None, "No such file"),
    ],
)
def test_unusable_files(pair, capsys, change, reason):
    bad = pair / "b.dng"
    data = bad.read_bytes()
    bad.unlink()
    if change:
        bad.write_bytes(change(data))
    assert fuse(pair, "--images", pair / "a.dng", bad) == 2
    (line,) = [x for x in capsys.readouterr().err.splitlines() if x.startswith("inference.py")]
    assert reason in line
    assert str(bad) in line
    assert not (pair / "result.jpg").exists()


@needs_rawpy
def test_a_damaged_file_of_a_folder_costs_its_scene_only(pair, render, capsys):
    for name in ("good", "bad"):
        (pair / name).mkdir()
        for i, gain in enumerate((0.2, 1)):
            write_dng(pair / name / f"{i}.dng", render * gain)
    (pair / "bad" / "1.dng").write_bytes(b"cut")
    assert inference.main(["--folder", str(pair), "--res", str(pair / "fused"), "--quiet"]) == 1
    assert sorted(os.listdir(pair / "fused")) == ["a_fused.jpg", "good_fused.jpg"]
    assert "bad" in capsys.readouterr().err


def test_the_iso_of_panasonic(pair, tmp_path):
    """It stands in the main directory alone, under a number of its own."""
    data = b"IIU\0" + (pair / "a.dng").read_bytes()[4:]
    iso, unused = struct.pack("<HHI", 34855, 3, 1), struct.pack("<HHI", 254, 4, 1)
    data = data.replace(iso, struct.pack("<HHI", 34856, 3, 1), 1)
    data = data.replace(unused + bytes(2), struct.pack("<HHIH", 0x0017, 3, 1, 200), 1)
    (tmp_path / "x.rw2").write_bytes(data)
    assert raw.read_exif_values(tmp_path / "x.rw2")[0x8827] == 200


@needs_rawpy
def test_a_dng_of_jpeg_xl_is_named(pair, tmp_path):
    data = (pair / "a.dng").read_bytes()
    one, other = (struct.pack("<HHIHH", 259, 3, 1, kind, 0) for kind in (1, 52546))
    (tmp_path / "x.dng").write_bytes(data.replace(one, other, 1))
    with pytest.raises(ValueError, match=r"JPEG XL|damaged"):
        raw.develop(tmp_path / "x.dng")


def test_exif_of_other_containers(pair, tmp_path):
    """Olympus' and Panasonic's changed TIFF, Fujifilm's preview, and Canon's boxes."""
    data = (pair / "a.dng").read_bytes()
    expected = raw.read_exif_values(pair / "a.dng")
    assert expected[0x9003] == NOON
    for start, extension in ((b"IIRO", "orf"), (b"IIU\0", "rw2")):
        path = tmp_path / f"x.{extension}"
        path.write_bytes(start + data[4:])
        assert raw.read_exif_values(path) == expected
    segment = b"\xff\xd8\xff\xe1" + struct.pack(">H", len(data) + 8) + b"Exif\0\0" + data
    preview = segment + b"\xff\xd9"
    head = b"FUJIFILMCCD-RAW ".ljust(84, b"\0") + struct.pack(">II", 92, len(preview))
    (tmp_path / "x.raf").write_bytes(head + preview)
    assert raw.read_exif_values(tmp_path / "x.raf") == expected
    (offset,) = struct.unpack_from("<I", data, data.index(struct.pack("<HHI", 34665, 4, 1)) + 8)
    directories = [data[:4] + struct.pack("<I", start) + data[8:] for start in (8, offset)]
    # Canon's main directory has no Exif directory of its own.
    directories[0] = directories[0].replace(struct.pack("<H", 34665), struct.pack("<H", 34000), 1)
    boxes = b"".join(
        struct.pack(">I", len(content) + 8) + name + content
        for name, content in zip((b"CMT1", b"CMT2"), directories, strict=True)
    )
    (tmp_path / "x.cr3").write_bytes(b"\0\0\0\x18ftypcrx " + bytes(12) + boxes)
    found = raw.read_exif_values(tmp_path / "x.cr3")
    assert {tag: found[tag] for tag in (0x0110, 0x829A, 0x9003)} == {
        tag: expected[tag] for tag in (0x0110, 0x829A, 0x9003)
    }
    for content in (b"", b"FUJIFILM", b"CMT1", b"\0\0\0\x18ftypcrx CMT1CMT2"):
        (tmp_path / "x.cr3").write_bytes(content)
        assert raw.read_exif_values(tmp_path / "x.cr3") == {}
