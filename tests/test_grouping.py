"""Photos of a card: what EXIF proposes, and what a look at them decides."""

import csv
import itertools
import os
import shutil

import cv2
import numpy as np
import pytest
from conftest import blocks, expose, write_bracket
from PIL import Image

import grouping
import inference
import utils
from grouping import Shot, split_by_exif
from maker_notes import Noted


def shot(start, seconds, bias=0.0, iso=100, **more):
    exposure = np.log2(seconds) - 6 + np.log2(iso / 100)
    return Shot(f"{start}", float(start), seconds, exposure, bias, **more)


LONG, DARK = 1 / 15, 1 / 240


@pytest.mark.parametrize(
    "brackets",
    [
        # By bias, the exposure that it is relative to having changed.
        [
            [shot(0, 1 / 60), shot(1, DARK, -2), shot(2, LONG, 2)],
            [shot(14, 1 / 80), shot(15, 1 / 320, -2), shot(16, 1 / 20, 2)],
        ],
        # By hand: the bias is always 0.
        [[shot(0, 1 / 60), shot(1, LONG)], [shot(2, 1 / 60), shot(3, LONG)]],
        # Long ones: from start to start it is longer than the pause.
        [[shot(0, 60), shot(61, 15), shot(77, 4)]],
        # A camera that measures its noise: it is busy for as long as it exposes.
        [[shot(0, 15), shot(31, 60), shot(153, 4)], [shot(163, 15), shot(194, 60)]],
        # By ISO.
        [[shot(0, 1 / 60), shot(1, 1 / 60, iso=400), shot(2, 1 / 60, iso=1600)]],
        # One bracket after another of the same exposures, after a pause.
        [[shot(0, 1 / 60), shot(1, LONG)], [shot(50, 1 / 30), shot(51, 1 / 8)]],
        # Another compensation, six seconds later.
        [
            [shot(0, 1 / 100), shot(1, 1 / 400, -2), shot(2, 1 / 25, 2)],
            [shot(8, 1 / 50, 1), shot(9, 1 / 200, -1), shot(10, 1 / 13, 3)],
        ],
        # A shot to meter the light comes five seconds before.
        [[shot(0, 1 / 90)], [shot(5, 1 / 400, -2), shot(6, 1 / 100), shot(7, 1 / 25, 2)]],
        # The same, where the bracket is slow itself: it has the light meter's exposure once more.
        [[shot(0, 1 / 100)], [shot(5, 1 / 400, -2), shot(7, 1 / 100), shot(9, 1 / 25, 2)]],
        # Whole seconds: a pause of two may be one of one.
        [[shot(0, DARK), shot(1, 1 / 60), shot(3, LONG)], [shot(4, DARK), shot(5, 1 / 60)]],
        # A slow hand changes the exposure, every time.
        [
            [shot(0, 1 / 100), shot(9, 1 / 25), shot(16, 1 / 6)],
            [shot(40, 1 / 90), shot(48, 1 / 20)],
        ],
        # The shutter ends at 30 s: two frames of one exposure, which differ in what was asked.
        [[shot(0, 15, 0), shot(31, 30, 2), shot(93, 30, 4)]],
        # A flash.
        [
            [shot(0, 1 / 40, -2), shot(2, 1 / 10)],
            [shot(4, 1 / 60, flash=True)],
            [shot(6, 1 / 10, 0)],
        ],
        # Portrait after landscape, and another focal length.
        [
            [shot(0, 1 / 60, frame=(40, 60, 1)), shot(1, LONG, frame=(40, 60, 1))],
            [shot(2, DARK, frame=(40, 60, 6)), shot(3, 1 / 8, frame=(40, 60, 6))],
        ],
        [[shot(0, 1 / 60, focal=24.0)], [shot(1, LONG, focal=35.0), shot(2, 1 / 8, focal=35.0)]],
        # The camera notes numbers: they begin again, and a slow hand is no other bracket.
        [
            [shot(0, DARK, noted=Noted(True, 1)), shot(1, 1 / 60, noted=Noted(True, 2))],
            [shot(2, 1 / 30, noted=Noted(True, 1)), shot(60, 1 / 8, noted=Noted(True, 2))],
        ],
        # It notes that it does not bracket.
        [
            [shot(0, 1 / 125, noted=Noted(False))],
            [shot(1, DARK, noted=Noted(True)), shot(2, 1 / 60, noted=Noted(True))],
        ],
    ],
)
def test_what_exif_proposes(brackets):
    assert split_by_exif([shot for bracket in brackets for shot in bracket]) == brackets


def scene(number):
    return blocks(96, 128, seed=number) * 0.7 + 0.02


def photo(path, number, gain, time="12:00:00", exposure=None, bias=0.0, size=None, **more):
    """Writes an exposure of one of several scenes as a camera does; returns its path."""
    picture = expose(scene(number), gain)
    if size:
        picture = cv2.resize(picture, size)
    described = Image.Exif()
    described.update({0x010F: more.pop("make", "Maker"), 0x0110: "Camera"})
    shot = described.get_ifd(0x8769)
    shot.update({0x9003: f"2026:11:30 {time}", 0x829A: exposure or 0.01 * gain, 0x9204: bias})
    shot.update({0x829D: 8.0, 0x8827: 100, **more.pop("tags", {})})
    described.update(more.pop("main", {}))
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(picture).save(path, exif=described, quality=95)
    return str(path)


def bracket(folder, names, number, second, gains=(1.0, 0.25, 4.0), step=1, **more):
    """Writes one frame a second, of one scene."""
    return [
        photo(folder / f"{name}.jpg", number, gain, f"12:00:{second + k * step:02}", **more)
        for k, (name, gain) in enumerate(zip(names, gains, strict=True))
    ]


def names(groups):
    return [[os.path.splitext(os.path.basename(file))[0] for file in files] for files in groups]


def sort(folder, group=None):
    return grouping.sort_card(folder, group, folder / "fused")


def test_two_cameras_on_one_card(tmp_path):
    bracket(tmp_path, ["A1", "A2", "A3"], 1, 0, make="One")
    bracket(tmp_path, ["B1", "B2", "B3"], 2, 0, make="Other")
    assert names(sort(tmp_path).scenes.values()) == [["A1", "A2", "A3"], ["B1", "B2", "B3"]]


def test_another_scene_is_another_bracket(tmp_path):
    """EXIF alone says one bracket of four exposures, one a second."""
    bracket(tmp_path, ["1", "2"], 1, 0, gains=(0.25, 1))
    bracket(tmp_path, ["3", "4"], 2, 2, gains=(0.5, 4))
    card = sort(tmp_path)
    assert names(card.scenes.values()) == [["1", "2"], ["3", "4"]]
    assert not card.singles


def test_single_shots_on_automatic_are_singles(tmp_path):
    """Different scenes, and one scene twice in one exposure."""
    for number in range(4):
        photo(
            tmp_path / f"{number}.jpg",
            number,
            1.0,
            f"12:00:{2 * number:02}",
            exposure=1 / (50 + 40 * number),
        )
    photo(tmp_path / "again.jpg", 3, 1.1, "12:00:07", exposure=1 / 175)
    bracket(tmp_path, ["x", "y", "z"], 7, 30)
    card = sort(tmp_path)
    assert names(card.scenes.values()) == [["x", "y", "z"]]
    assert sorted(names([card.singles])[0]) == ["0", "1", "2", "3", "again"]


def test_a_late_frame_completes_its_bracket(tmp_path):
    """By hand, 40 s later; a shot to meter the light, exposed as one of it, stays alone."""
    bracket(tmp_path, ["1", "2"], 1, 0, gains=(0.25, 1))
    photo(tmp_path / "3.jpg", 1, 4.0, "12:00:41")
    photo(tmp_path / "4.jpg", 2, 0.9, "12:05:00", exposure=0.011)
    bracket(tmp_path, ["5", "6"], 2, 6, gains=(1.0, 4.0))
    for name in "56":
        described = Image.open(tmp_path / f"{name}.jpg").getexif()
        described.get_ifd(0x8769)[0x9003] = f"2026:11:30 12:05:0{name}"
        Image.open(tmp_path / f"{name}.jpg").save(tmp_path / f"{name}.jpg", exif=described)
    card = sort(tmp_path)
    assert names(card.scenes.values()) == [["1", "2", "3"], ["5", "6"]]
    assert names([card.singles]) == [["4"]]


def test_sub_seconds_order_photos_whose_counter_restarts(tmp_path):
    order = ["0998", "0999", "0001", "0002"]
    for k, name in enumerate(order):
        tags = {0x9291: f"{10 + 20 * k}"}
        photo(tmp_path / f"{name}.jpg", k // 2, (1.0, 4.0)[k % 2], tags=tags)
    assert names(sort(tmp_path).scenes.values()) == [["0998", "0999"], ["0001", "0002"]]


def test_copies_edits_and_earlier_results_count_nothing(tmp_path):
    paths = bracket(tmp_path, ["IMG_1", "IMG_2", "IMG_3"], 1, 0)
    shutil.copy(paths[0], tmp_path / "IMG_1 (1).jpg")
    Image.open(paths[1]).save(tmp_path / "IMG_2.tif", exif=Image.open(paths[1]).getexif())
    photo(tmp_path / "IMG_1_fused.jpg", 1, 1.0, main={0x0131: "DeepFuse"})
    card = sort(tmp_path)
    assert names(card.scenes.values()) == [["IMG_1", "IMG_2", "IMG_3"]]
    assert {os.path.basename(file): why.split()[0] for file, why in card.left.items()} == {
        "IMG_1 (1).jpg": "a",
        "IMG_2.tif": "has",
        "IMG_1_fused.jpg": "a",
    }
    assert not card.singles


def test_a_cameras_folder_is_no_bracket(tmp_path):
    """Two brackets in DCIM/100CAM; a sub-folder of one bracket keeps its name, pauses or not."""
    bracket(tmp_path / "DCIM" / "100CAM", "abc", 1, 0)
    bracket(tmp_path / "DCIM" / "100CAM", "def", 2, 8)
    bracket(tmp_path / "by_hand", "xyz", 3, 0, step=25)
    card = sort(tmp_path)
    assert {name: names([files])[0] for name, files in card.scenes.items()} == {
        "by_hand": ["x", "y", "z"],
        "100CAM_a": ["a", "b", "c"],
        "100CAM_d": ["d", "e", "f"],
    }


def test_folders_without_exif(tmp_path):
    """One scene is one bracket, exposures that are alike included; two scenes are two."""
    write_bracket(tmp_path / "one", gains=(0.3, 1.0, 1.02, 8.0))
    for number, (k, gain) in enumerate(itertools.product((1, 2), (0.25, 1, 4))):
        path = tmp_path / "two" / f"{number}.png"
        path.parent.mkdir(exist_ok=True)
        utils.write_image(str(path), expose(scene(k), gain))
    card = sort(tmp_path)
    assert {name: len(files) for name, files in card.scenes.items()} == {
        "one": 4,
        "two_0": 3,
        "two_3": 3,
    }


def test_looks_alone(tmp_path):
    """In the order of names, whatever EXIF says: another scene, or the same exposure again."""
    number = 0
    for k, gains in ((1, (1, 0.25, 4)), (1, (1, 0.25, 4)), (2, (0.3, 2)), (5, (1,))):
        for gain in gains:
            number += 1
            # Copies would count nothing.
            utils.write_image(
                str(tmp_path / f"{number}.png"), expose(scene(k), gain * (1 + number / 1e3))
            )
    with pytest.raises(ValueError, match="--group auto"):
        sort(tmp_path)
    card = sort(tmp_path, "auto")
    assert names(card.scenes.values()) == [["1", "2", "3"], ["4", "5", "6"], ["7", "8"]]
    assert names([card.singles]) == [["9"]]


def test_photos_of_one_folder_by_their_exif(tmp_path):
    """Whatever the names, a bracket ends where an exposure comes again."""
    order = np.random.default_rng(0).permutation(6)
    for name, k in enumerate(order):
        gain = (0.25, 1.0, 4.0)[k % 3] * (1 + k / 100)
        photo(
            tmp_path / f"{name}.jpg", 1, gain, f"12:00:{k:02}", exposure=0.01 * (0.25, 1, 4)[k % 3]
        )
    taken = [str(np.flatnonzero(order == k)[0]) for k in range(6)]
    assert names(sort(tmp_path).scenes.values()) == [taken[:3], taken[3:]]


@pytest.fixture
def card(tmp_path):
    """A card of two brackets, a single photo, a copy and a file that is no picture."""
    bracket(tmp_path / "card", "abc", 1, 0)
    bracket(tmp_path / "card", "def", 2, 10)
    photo(tmp_path / "card" / "g.jpg", 3, 1.0, "12:00:40")
    shutil.copy(tmp_path / "card" / "a.jpg", tmp_path / "card" / "copy of a.jpg")
    (tmp_path / "card" / "h.jpg").write_text("no picture")
    return tmp_path / "card"


def run(card, *flags):
    return inference.main(["--folder", str(card), "--res", str(card.parent / "out"), *flags])


def test_a_card_is_sorted_and_the_end_says_it_all(card, capsys):
    assert run(card) == 0
    out, err = capsys.readouterr()
    assert out == ""
    assert "h.jpg: not a picture" in err
    assert err.endswith(
        "inference.py: 2 brackets fused, 1 single photo left alone, 1 copy left out, "
        "1 file not read\n"
    )
    assert sorted(os.listdir(card.parent / "out")) == ["a_fused.jpg", "d_fused.jpg"]


def test_a_dry_run_makes_nothing(card, capsys):
    path = card.parent / "sorted.csv"
    assert run(card, "--dry_run", "--csv", str(path)) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[:2] == ["a: a.jpg b.jpg c.jpg", "d: d.jpg e.jpg f.jpg"]
    assert lines[2].startswith("single: ")
    assert "copy of a.jpg: a copy of" in lines[3]
    assert not (card.parent / "out").exists()
    with open(path, encoding="utf-8", newline="") as file:
        rows = [
            (os.path.basename(row["file"]), row["kind"], row["bracket"])
            for row in csv.DictReader(file)
        ]
    assert rows[:6] == [(f"{name}.jpg", "bracket", "a" if name < "d" else "d") for name in "abcdef"]
    assert rows[6] == ("g.jpg", "single", "")
    assert [row[1] for row in rows[7:]] == ["left", "problem"]


def test_singles_are_copied_when_asked(card):
    assert run(card, "--singles", "copy", "--quiet") == 0
    assert sorted(os.listdir(card.parent / "out")) == ["a_fused.jpg", "d_fused.jpg", "g.jpg"]
    assert (card.parent / "out" / "g.jpg").read_bytes() == (card / "g.jpg").read_bytes()


def test_a_card_of_single_photos(tmp_path, capsys):
    for number in range(3):
        photo(tmp_path / "card" / f"{number}.jpg", number, 1.0, f"12:0{number}:00")
    assert run(tmp_path / "card") == 2
    assert "has no bracket, only single photos (3)" in capsys.readouterr().err


@pytest.mark.parametrize("value", ["1", "x", "0"])
def test_groups_are_numbers_or_auto(tmp_path, value, capsys):
    with pytest.raises(SystemExit):
        inference.main(["--folder", str(tmp_path), "--group", value])
    assert f"'{value}' is not an integer of at least 2" in capsys.readouterr().err
