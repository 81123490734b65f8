"""Pictures, brackets, metadata and networks that the tests make for themselves."""

import ast
import functools
import importlib.util
import os
import signal
import struct
import sys
import zlib
from pathlib import Path

# The tests run side by side; threads that wait must not keep another test from its core.
os.environ.setdefault("OMP_WAIT_POLICY", "passive")
# nohup has SIGHUP ignored, in processes that tests start too; those of a handler have the default.
if hasattr(signal, "SIGHUP") and signal.getsignal(signal.SIGHUP) == signal.SIG_IGN:
    signal.signal(signal.SIGHUP, lambda *_: None)

import cv2
import numpy as np
import pytest

import inference
import utils

ROOT = Path(__file__).parent.parent

with_torch = pytest.mark.skipif(
    importlib.util.find_spec("torch") is None, reason="needs PyTorch, which photos do without"
)


@functools.cache
def lacks_a_package(file):
    """True of a file that begins by importing what is not installed, or a file of ours that does.

    So after the README's first command the tests of photos remain.
    """
    names = set()
    for node in ast.parse(file.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.Import):
            names |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            names.add(node.module.partition(".")[0])
    ours = {name: ROOT / f"{name}.py" for name in names if (ROOT / f"{name}.py").exists()}
    others = names - {*ours, "conftest"} - {*sys.stdlib_module_names}
    found = all(map(importlib.util.find_spec, others))
    return not found or any(map(lacks_a_package, ours.values()))


TESTS = Path(__file__).parent.glob("test_*.py")
collect_ignore = [file.name for file in TESTS if lacks_a_package(file)]


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


SIZE = (300, 420)  # height, width of the pictures of hand-held cameras


def blocks(height, width, seed):
    """A radiance map with edges as well as texture: overlapping rectangles of random brightness."""
    rng = np.random.default_rng(seed)
    picture = scene(height, width, seed) * 0.3
    for _ in range(150):
        x, y = rng.integers(0, width), rng.integers(0, height)
        w, h = rng.integers(8, 60, 2)
        picture[y : y + h, x : x + w] *= rng.uniform(0.3, 3, 3)
    return cv2.GaussianBlur(np.clip(picture, 0, 1).astype(np.float32), (0, 0), 0.7)


def motion(shift=(0, 0), rotation=0.0, perspective=(0, 0), shape=SIZE):
    """A homography about the picture's centre; perspective: relative enlargement at its edge."""
    height, width = shape
    centre = np.array([[1, 0, (width - 1) / 2], [0, 1, (height - 1) / 2], [0, 0, 1.0]])
    angle = np.radians(rotation)
    turn = np.array(
        [
            [np.cos(angle), -np.sin(angle), shift[0]],
            [np.sin(angle), np.cos(angle), shift[1]],
            [2 * perspective[0] / width, 2 * perspective[1] / width, 1],
        ]
    )
    return centre @ turn @ np.linalg.inv(centre)


def see(radiance, homography, shape=SIZE):
    """What a camera moved by a homography sees: of a larger radiance map, so without a border."""
    margin = [(n - m) // 2 for n, m in zip(radiance.shape[:2], shape, strict=True)]
    offset = np.array([[1, 0, margin[1]], [0, 1, margin[0]], [0, 0, 1.0]])
    return cv2.warpPerspective(
        radiance,
        offset @ np.linalg.inv(homography),
        shape[::-1],
        flags=cv2.INTER_CUBIC | cv2.WARP_INVERSE_MAP,
    ).clip(0, 1)


def moving(radiance, dtype=np.uint8):
    """Three exposures, an object pasted into the brightest; the pictures, the truth, its mask."""
    view = see(radiance, np.eye(3))
    images = [utils.quantise((view * gain) ** (1 / 2.2), dtype) for gain in (0.3, 1, 3)]
    object_ = utils.quantise((see(radiance, motion(shift=(0, 30))) * 0.4) ** (1 / 2.2), dtype)
    mask = cv2.ellipse(np.zeros(SIZE, np.uint8), (200, 150), (30, 60), 0, 0, 360, 1, -1) > 0
    truth = images[2].copy()
    images[2][mask] = object_[mask]
    return images, truth, mask


def picture(dtype=np.uint8, shape=(20, 30, 3)):
    """A picture of noise."""
    return utils.quantise(np.random.default_rng(0).random(shape), dtype)


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


def icc():
    """A small profile that libpng takes: a header, and tags that all have one value."""
    tags = b"".join(
        name + struct.pack(">II", 132 + 9 * 12, 20)
        for name in (
            b"rXYZ",
            b"gXYZ",
            b"bXYZ",
            b"rTRC",
            b"gTRC",
            b"bTRC",
            b"wtpt",
            b"cprt",
            b"desc",
        )
    )
    body = struct.pack(">I", 9) + tags + b"XYZ \0\0\0\0" + struct.pack(">iii", 63190, 65536, 54061)
    profile = bytearray(128) + body
    profile[:4] = len(profile).to_bytes(4, "big")
    profile[8:24] = b"\x02\x10\0\0mntrRGB XYZ "
    profile[36:40] = b"acsp"
    profile[68:80] = struct.pack(">iii", 63190, 65536, 54061)
    return bytes(profile)


# Primaries' x and y: R, G, B; white; and a curve: an exponent, or the numbers of sRGB's.
SRGB_CURVE = (2.4, 1 / 1.055, 0.055 / 1.055, 1 / 12.92, 0.04045)
SPACES = {
    "sRGB": (0.64, 0.33, 0.30, 0.60, 0.15, 0.06, 0.3127, 0.3290, SRGB_CURVE),
    "Display P3": (0.680, 0.320, 0.265, 0.690, 0.150, 0.060, 0.3127, 0.3290, SRGB_CURVE),
    "Adobe RGB": (0.64, 0.33, 0.21, 0.71, 0.15, 0.06, 0.3127, 0.3290, (563 / 256,)),
    "ProPhoto": (0.7347, 0.2653, 0.1596, 0.8404, 0.0366, 0.0001, 0.3457, 0.3585, (1.8,)),
}
BRADFORD = np.array(
    [[0.8951, 0.2664, -0.1614], [-0.7502, 1.7135, 0.0367], [0.0389, -0.0685, 1.0296]]
)


def primaries_in_d50(name):
    """XYZ of a space's primaries, as columns, adapted to the white of profiles (ICC.1, annex E)."""
    *points, _ = SPACES[name]
    x, y = np.reshape(points, (4, 2)).T
    columns = np.stack([x, y, 1 - x - y]) / y
    columns, white = columns[:, :3], columns[:, 3]
    cones = BRADFORD @ white, BRADFORD @ (0.9642, 1, 0.8249)
    adapt = np.linalg.inv(BRADFORD) @ np.diag(cones[1] / cones[0]) @ BRADFORD
    return adapt @ (columns * np.linalg.solve(columns, white))


def profile(name, grey=False):
    """An ICC profile of one of SPACES, of curves and a matrix, or of a curve alone."""

    def fixed(values):
        return b"".join(struct.pack(">i", round(value * 65536)) for value in values)

    *_, curve = SPACES[name]
    if len(curve) == 1:
        curve = b"curv" + bytes(4) + struct.pack(">IH", 1, round(curve[0] * 256)) + bytes(2)
    else:
        curve = b"para" + bytes(4) + struct.pack(">HH", 3, 0) + fixed(curve)
    points = primaries_in_d50(name).T
    tags = {b"wtpt": b"XYZ " + bytes(4) + fixed((0.9642, 1, 0.8249))}
    if grey:
        tags[b"kTRC"] = curve
    else:
        for letter, point in zip(b"rgb", points, strict=True):
            tags[bytes([letter]) + b"XYZ"] = b"XYZ " + bytes(4) + fixed(point)
            tags[bytes([letter]) + b"TRC"] = curve
    text = name.encode()
    tags[b"desc"] = b"desc" + bytes(4) + struct.pack(">I", len(text) + 1) + text + bytes(79)
    tags[b"cprt"] = b"text" + bytes(4) + b"none\0"
    place = 128 + 4 + 12 * len(tags)
    directory, body = struct.pack(">I", len(tags)), b""
    for tag, data in tags.items():
        directory += tag + struct.pack(">II", place + len(body), len(data))
        body += data + bytes(-len(data) % 4)
    head = bytearray(128)
    head[4:8], head[8:12] = b"lcms", struct.pack(">I", 0x02400000)
    head[12:24] = b"mntr" + (b"GRAY" if grey else b"RGB ") + b"XYZ "
    head[36:40] = b"acsp"
    head[68:80] = fixed((0.9642, 1, 0.8249))
    data = bytes(head) + directory + body
    return struct.pack(">I", len(data)) + data[4:]


XMP = (
    b'<?xpacket begin="" id="W5M0MpCehiHzreSzNTczkc9d"?><x:xmpmeta xmlns:x="adobe:ns:meta/">'
    b'</x:xmpmeta><?xpacket end="w"?>'
)


def huge_png(path, height, width):
    """Writes the beginning of a large PNG file; returns the path."""
    header = b"IHDR" + struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    header = struct.pack(">I", 13) + header + struct.pack(">I", zlib.crc32(header))
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + header + struct.pack(">I", 99) + b"IDAT")
    return path


def png_with(data, *chunks):
    """A PNG file with chunks added behind its header."""
    added = b""
    for name, body in chunks:
        added += struct.pack(">I", len(body)) + name + body
        added += struct.pack(">I", zlib.crc32(name + body))
    return data[:33] + added + data[33:]


def luma(*shape, seed=0):
    """Noise of the given shape, values in [0, 1]."""
    import torch

    return torch.rand(shape, generator=torch.Generator().manual_seed(seed))


def released_weights():
    """Arrays like those of the file that the paper's authors released, with random numbers."""
    from model import ReleasedDeepFuse

    generator = np.random.default_rng(0)
    return {
        f"arr_{i}": generator.normal(0, np.prod(shape[1:]) ** -0.5, shape).astype(np.float32)
        for i, shape in enumerate(ReleasedDeepFuse.SHAPES)
    }


@pytest.fixture
def model():
    """An untrained network in eval mode."""
    import torch

    from model import DeepFuse

    torch.manual_seed(0)
    return DeepFuse().eval()


@pytest.fixture
def files(pair, tmp_path):
    """Flags of a good command; its files are the only ones in tmp_path."""
    torch = pytest.importorskip("torch")

    from checkpoint import save_checkpoint
    from model import DeepFuse

    under, over, model = (str(tmp_path / name) for name in ("under.png", "over.png", "m.pth"))
    utils.write_image(under, pair[0])
    utils.write_image(over, pair[1])
    torch.manual_seed(0)
    network = DeepFuse()
    save_checkpoint(model, {"model": network.state_dict(), "network": network.settings})
    return {
        "--image1": under,
        "--image2": over,
        "--model": model,
        "--res": str(tmp_path / "result.png"),
        "--device": "cpu",
    }


def run(files, *flags):
    """Runs inference.py with the fixture's flags and more."""
    return inference.main([*(part for item in files.items() for part in item), *flags])


def fuse_files(files, paths, *flags):
    """Runs the command on some picture files; the checkpoint and result are the fixture's."""
    kept = ("--model", "--res", "--device")
    arguments = [part for flag in kept for part in (flag, files[flag])]
    return inference.main(["--images", *map(str, paths), *arguments, *flags])


def fuse_folder(files, folder, results, *flags):
    """Runs inference.py on a folder with the fixture's checkpoint."""
    arguments = ["--model", files["--model"], "--device", "cpu", "--folder", str(folder)]
    return inference.main([*arguments, "--res", str(results), *flags])


def network_of(files):
    """The fixture's network, as inference.py runs it."""
    from checkpoint import load_model
    from model import prepare

    return prepare(load_model(files["--model"]))
