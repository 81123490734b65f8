"""Notes of cameras on brackets: as exiftool tells them, and read from files by exiftool itself."""

import shutil
import struct

import numpy as np
import pytest
from PIL import Image

import grouping
from maker_notes import Noted, noted_by, read_notes

MAKE, SHOT, MAKER_NOTE = 0x010F, 0x8769, 0x927C
SONY, RELEASE_MODE, SEQUENCE = b"SONY DSC \0\0\0", 0xB049, 0xB04A


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ({"Make": "SONY", "ReleaseMode": 5, "SequenceNumber": 2}, Noted(True, 2)),
        ({"Make": "SONY", "ReleaseMode": 2, "SequenceNumber": 2}, Noted(False)),  # a burst
        ({"Make": "SONY", "ReleaseMode": 5, "SequenceNumber": 0}, Noted(True)),
        ({"Make": "SONY"}, Noted()),
        ({"Make": "Panasonic", "BracketSettings": 4, "SequenceNumber": 5}, Noted(True, 5)),
        ({"Make": "Panasonic", "BracketSettings": 0, "SequenceNumber": 5}, Noted(False)),
        ({"Make": "FUJIFILM", "AutoBracketing": 1, "SequenceNumber": 3}, Noted(True, 3)),
        ({"Make": "FUJIFILM", "AutoBracketing": 0, "SequenceNumber": 0}, Noted(False)),
        ({"Make": "OLYMPUS CORPORATION", "DriveMode": "5 2 1 0 0"}, Noted(True, 2)),
        ({"Make": "OLYMPUS CORPORATION", "DriveMode": "5 2 64 0 0"}, Noted(False)),  # of focus
        ({"Make": "OM Digital Solutions", "DriveMode": "0 0 0 0 4"}, Noted(False)),
        ({"Make": "Canon", "BracketMode": 1}, Noted(True)),
        ({"Make": "Canon", "BracketMode": 0}, Noted(False)),
        ({"Make": "NIKON CORPORATION", "ShootingMode": 16 + 1 + 32}, Noted(True)),
        ({"Make": "NIKON CORPORATION", "ShootingMode": 16 + 64}, Noted(False)),  # of white
        ({"Make": "NIKON CORPORATION", "ShootingMode": "nonsense"}, Noted()),
        ({"Make": "Maker", "ReleaseMode": 5, "SequenceNumber": 2}, Noted()),
    ],
)
def test_every_maker_in_its_way(values, expected):
    assert noted_by(values) == expected


def photo(path, second, mode, number, gain=1.0):
    """Writes a picture as a camera of Sony does, with its notes on brackets."""
    fields = [(RELEASE_MODE, mode), (SEQUENCE, number)]
    entries = b"".join(struct.pack("<HHIHH", tag, 3, 1, value, 0) for tag, value in fields)
    described = Image.Exif()
    described.update({MAKE: "SONY", 0x0110: "ILCE"})
    described.get_ifd(SHOT).update(
        {
            0x9003: f"2026:11:30 12:00:{second:02}",
            0x829A: 0.01 * gain,
            MAKER_NOTE: SONY + struct.pack("<H", len(fields)) + entries + bytes(4),
        }
    )
    levels = np.linspace(20, 120, 64 * 48).reshape(48, 64, 1) * np.ones(3) * gain
    Image.fromarray(levels.clip(0, 255).astype(np.uint8)).save(path, exif=described)
    return str(path)


@pytest.mark.skipif(not shutil.which("exiftool"), reason="exiftool is not installed")
def test_notes_of_files(tmp_path):
    one = photo(tmp_path / "-one.jpg", 0, 5, 1)
    two = photo(tmp_path / "two pictures.jpg", 1, 5, 2)
    other = photo(tmp_path / "ünother.jpg", 2, 0, 0)
    plain = str(tmp_path / "plain.jpg")
    Image.new("RGB", (32, 32)).save(plain)
    missing = str(tmp_path / "missing.jpg")
    notes = read_notes([one, two, other, plain, missing])
    assert notes == {one: Noted(True, 1), two: Noted(True, 2), other: Noted(False)}


def test_without_exiftool_there_are_no_notes(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    assert read_notes([photo(tmp_path / "1.jpg", 0, 5, 1)]) == {}


@pytest.mark.skipif(not shutil.which("exiftool"), reason="exiftool is not installed")
def test_numbers_split_what_exif_would_join(tmp_path):
    """Five exposures, one a second: EXIF would make one bracket of them."""
    shots = zip((0.5, 1, 2, 0.7, 1.4), (1, 2, 3, 1, 2), strict=True)
    for k, (gain, number) in enumerate(shots):
        photo(tmp_path / f"{k}.jpg", k, 5, number, gain)
    card = grouping.sort_card(tmp_path, None, tmp_path / "fused")
    assert [len(files) for files in card.scenes.values()] == [3, 2]
