"""Exposure brackets that the tests make for themselves."""

import struct

import cv2
import numpy as np
import pytest

import utils


def scene(height, width, seed):
    """A textured RGB radiance map, (height, width, 3) in [0, 1], with bright and dark areas."""
    rng = np.random.default_rng(seed)
    noise = rng.random((height, width, 3)).astype(np.float32)
    texture = sum(cv2.GaussianBlur(noise, (0, 0), sigma) * sigma for sigma in (1, 3, 9))
    texture = (texture - texture.min()) / np.ptp(texture)
    ramp = np.linspace(0.02, 1, width, dtype=np.float32)[None, :, None]
    return texture * ramp


def expose(radiance, gain):
    return utils.quantise((radiance * gain) ** (1 / 2.2), np.uint8)


def write_bracket(folder, height=96, width=120, seed=0, gains=(0.3, 1.0, 8.0), extension=".png"):
    """Writes 1.png, 2.png, ... darkest first; returns the paths."""
    folder.mkdir(parents=True)
    paths = []
    for number, gain in enumerate(gains, start=1):
        paths.append(folder / f"{number}{extension}")
        utils.write_image(str(paths[-1]), expose(scene(height, width, seed), gain))
    return paths


@pytest.fixture
def pair():
    """An under- and an over-exposed uint8 RGB picture of odd size."""
    radiance = scene(61, 75, seed=3)
    return [expose(radiance, 0.3), expose(radiance, 8.0)]


@pytest.fixture(scope="session")
def brackets(tmp_path_factory):
    """A folder of three scenes of different sizes and lengths."""
    folder = tmp_path_factory.mktemp("brackets")
    write_bracket(folder / "scene2", seed=1)
    write_bracket(folder / "scene10", height=80, width=150, seed=2, gains=(0.3, 8.0))
    write_bracket(folder / "scene1", height=130, width=70, seed=3, extension=".jpg")
    return folder


def exif(orientation=6, width=6, height=4, order=">"):
    """EXIF as cameras write it: orientation, size, time, exposure time and a thumbnail."""
    mark = b"MM" if order == ">" else b"II"
    time = b"2026:11:24 12:00:00\0"

    def entry(tag, kind, count, value):
        value = struct.pack(order + {3: "HH", 4: "I"}[kind], value, *[0] * (kind == 3))
        return struct.pack(order + "HHI", tag, kind, count) + value

    def directory(entries, following):
        return (
            struct.pack(order + "H", len(entries))
            + b"".join(entries)
            + struct.pack(order + "I", following)
        )

    # Offsets: header 8, main directory 2 + 2*12 + 4 = 30, Exif directory 2 + 4*12 + 4 = 54.
    times, exposure, thumbnail = 92, 112, 120
    main = directory(
        [entry(0x0112, 3, 1, orientation), entry(0x8769, 4, 1, 38)],
        following=thumbnail,
    )
    shot = directory(
        [
            struct.pack(order + "HHII", 0x829A, 5, 1, exposure),
            struct.pack(order + "HHII", 0x9003, 2, len(time), times),
            entry(0xA002, 4, 1, width),
            entry(0xA003, 4, 1, height),
        ],
        following=0,
    )
    header = mark + struct.pack(order + "HI", 42, 8)
    values = time + struct.pack(order + "II", 1, 250)
    return header + main + shot + values + directory([entry(0x0100, 4, 1, 160)], following=0)
