"""Photos that their EXIF groups into brackets."""

import struct

import numpy as np
import pytest
from conftest import exif, write_bracket

import utils
from brackets import Shot, group_by_exif, starts_another


def shot(start, seconds, bias=0.0, iso=100):
    return Shot(f"{start}", float(start), seconds, (seconds, 8.0, iso), bias)


@pytest.mark.parametrize(
    "brackets",
    [
        # By bias, the exposure that it is relative to having changed.
        [
            [shot(0, 1 / 60), shot(1, 1 / 240, -2), shot(2, 1 / 15, 2)],
            [shot(14, 1 / 80), shot(15, 1 / 320, -2), shot(16, 1 / 20, 2)],
        ],
        # By hand: the bias is always 0.
        [[shot(0, 1 / 60), shot(1, 1 / 15)], [shot(2, 1 / 60), shot(3, 1 / 15)]],
        # Long ones: from start to start it is longer than the pause.
        [[shot(0, 60), shot(61, 15), shot(77, 4)]],
        # By ISO.
        [[shot(0, 1 / 60), shot(1, 1 / 60, iso=400), shot(2, 1 / 60, iso=1600)]],
        # One bracket after another of the same exposures, after a pause.
        [[shot(0, 1 / 60), shot(1, 1 / 15)], [shot(50, 1 / 30), shot(51, 1 / 8)]],
    ],
)
def test_where_brackets_end(brackets):
    shots = [shot for bracket in brackets for shot in bracket]
    found = []
    for taken in shots:
        if not found or starts_another(taken, found[-1]):
            found.append([])
        found[-1].append(taken)
    assert found == brackets


def test_photos_of_one_folder_by_their_exif(tmp_path):
    """By time and exposure: whatever the names, a bracket ends where an exposure comes again."""
    folder = tmp_path / "card"
    paths = write_bracket(folder, height=20, width=20, extension=".jpg", gains=(1.0,) * 8)
    shots = [  # seconds, exposure in 1/1000 s, the bracket
        (0, 4, "a"),
        (1, 16, "a"),
        (2, 64, "a"),
        (3, 4, "b"),
        (4, 16, "b"),
        (59, 64, "c"),
        (60 + 1, 16, "c"),
        (60 + 1, 4, "c"),
    ]
    order = np.random.default_rng(0).permutation(7).tolist()  # the last two keep their order
    order = [k for k in order if k < 6] + [6, 7]
    expected = {}
    for path, k in zip(paths, order, strict=True):
        second, exposure, bracket = shots[k]
        data = exif(1).replace(b"12:00:00", f"12:{second // 60:02}:{second % 60:02}".encode())
        data = data.replace(struct.pack(">II", 1, 250), struct.pack(">II", exposure, 1000))
        utils.write_image(str(path), utils.read_image(str(path)), metadata={"EXIF": data})
        expected.setdefault(bracket, []).append((k, str(path)))
    found, problems = group_by_exif([str(path) for path in paths])
    assert not problems
    assert found == [[path for _, path in sorted(expected[name])] for name in "abc"]
