"""The command that fuses a pair of files, and how it answers mistakes."""

import math
import os
import pickle
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from conftest import blocks, exif, expose, huge_png, motion, moving, see, write_bracket
from PIL import Image

import align
import fusion
import ghosts
import grouping
import inference
import model
import opts
import photos
import scores
import utils
from brackets import find_pictures
from checkpoint import load_between, load_model, save_checkpoint
from headers import Header
from metadata import exif_values
from model import DeepFuse
from portable import OnnxBetween

ROOT = Path(__file__).parent.parent


@pytest.fixture
def files(pair, tmp_path):
    """Flags of a good command; its files are the only ones in tmp_path."""
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
    return inference.main([*(part for item in files.items() for part in item), *flags])


def network(files):
    return model.prepare(load_model(files["--model"]))


def test_result_is_the_fused_picture_at_native_size(files, pair):
    assert run(files) == 0
    expected = fusion.fuse(network(files), pair)
    assert np.array_equal(utils.read_image(files["--res"]), expected)


def test_order_of_the_files_does_not_matter(files):
    run(files)
    first = utils.read_image(files["--res"])
    run({**files, "--image1": files["--image2"], "--image2": files["--image1"]})
    assert np.array_equal(utils.read_image(files["--res"]), first)


def test_resize(files):
    assert run(files, "--H", "40", "--W", "90") == 0
    assert utils.read_image(files["--res"]).shape == (40, 90, 3)


def test_panel_shows_under_first(files, pair):
    for one, other in (("--image1", "--image2"), ("--image2", "--image1")):
        assert run({**files, "--image1": files[one], "--image2": files[other]}, "--panel") == 0
        panel = utils.read_image(files["--res"])
        assert panel.shape == (61, 4 * 75, 3)
        assert np.array_equal(panel[:, :75], pair[0])


@pytest.mark.parametrize("panel", [False, True])
def test_a_checkpoint_of_a_network_of_photos(files, pair, panel):
    files["--model"] = opts.BETWEEN
    assert run(files, "--look", "photo", *["--panel"] * panel) == 0
    fused = fusion.fuse(
        model.prepare(load_between(opts.BETWEEN)), pair, fusion.Options(look="photo")
    )
    result = utils.read_image(files["--res"])
    assert np.array_equal(result[:, 150:225] if panel else result, fused)


@pytest.mark.parametrize(
    ("flags", "finish"), [([], 1), (["--finish", "0.5"], 0.5), (["--finish", "0"], 0)]
)
def test_without_a_model(files, pair, flags, finish):
    """A newcomer gets the best photo, by a network that needs no PyTorch."""
    del files["--model"]
    assert run(files, *flags) == 0
    network = OnnxBetween(opts.BETWEEN)
    expected = fusion.fuse(network, pair, fusion.Options(look="photo", finish=finish))
    assert np.array_equal(utils.read_image(files["--res"]), expected)


def test_the_papers_look_has_the_papers_network(files, pair):
    del files["--model"]
    assert run(files, "--look", "paper") == 0
    expected = fusion.fuse(model.prepare(load_model(opts.WEIGHTS)), pair)
    assert np.array_equal(utils.read_image(files["--res"]), expected)


@pytest.mark.parametrize(
    ("flags", "loads"),
    [
        ([], False),
        (["--finish", "0.5", "--depth", "16", "--preview", "--align=no", "--deghost"], False),
        (["--device", "cpu"], False),
        (["--panel"], True),
        (["--precision", "float32"], True),
        (["--look", "paper"], True),
    ],
)
def test_a_photo_needs_no_pytorch(files, flags, loads):
    del files["--model"]
    command = [part for item in files.items() for part in item] + flags
    code = f"import sys, inference; inference.main({command!r}); print('torch' in sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, check=True, capture_output=True, text=True
    )
    assert done.stdout.strip() == str(loads)
    assert os.path.exists(files["--res"])


def test_fast(files, pair):
    assert run(files, "--fast", "--precision", "float32") == 0
    prepared = model.prepare(load_model(files["--model"]), "float32")
    expected = fusion.fuse(prepared, pair, fusion.Options(fast=True))
    assert np.array_equal(utils.read_image(files["--res"]), expected)


def test_16_bit_in_16_bit_out(files, pair):
    for name, image in zip(("--image1", "--image2"), pair, strict=True):
        utils.write_image(files[name], image.astype(np.uint16) * 257)
    assert run(files) == 0
    assert utils.read_image(files["--res"]).dtype == np.uint16


@pytest.mark.slow
@pytest.mark.parametrize("weights", [None, "pyramid.pth"])
def test_the_repositorys_weights_fuse_the_sample_pair(tmp_path, weights):
    """As a command, with the defaults that a newcomer gets, and with the other weights."""
    command = [sys.executable, str(ROOT / "inference.py")]
    if weights:
        command += ["--model", str(ROOT / "weights" / weights)]
    for flag, name in (("--image1", "under.jpg"), ("--image2", "over.jpg")):
        command += [flag, str(ROOT / "samples" / name)]
    subprocess.run(command, cwd=tmp_path, check=True)
    result = utils.read_image(str(tmp_path / "result.png"))
    under = utils.read_image(str(ROOT / "samples" / "under.jpg"))
    over = utils.read_image(str(ROOT / "samples" / "over.jpg"))
    assert result.shape == under.shape
    assert min(under.shape[:2]) >= 800
    assert under.mean() < result.mean() < over.mean()
    score = scores.mefb_score(scores.to_grey(result), [scores.to_grey(under), scores.to_grey(over)])
    assert score > 0.97
    assert os.path.getsize(opts.WEIGHTS) < 1e6


def test_quick_imports():
    """Fusing loads nothing that only training needs, and reading not even PyTorch."""
    code = """
import sys
import inference, photos
print('torch' in sys.modules)
options = inference.TestOptions().parse(['--images', 'a.png', 'b.png'])
options.portable = False
photos.network_for(options)
print({'torchvision', 'matplotlib'} & set(sys.modules))
"""
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, check=True, capture_output=True, text=True
    )
    assert done.stdout.split() == ["False", "set()"]


class RunsCode:
    def __reduce__(self):
        return os.mkdir, ("code_ran",)


def mistakes(tmp_path, files, pair):
    """Flag, its bad value, and what the message says after the file's name."""

    def file(name, data):
        (tmp_path / name).write_bytes(data)
        return str(tmp_path / name)

    good = Path(files["--image1"]).read_bytes()
    for flag in ("--image1", "--image2"):
        yield flag, str(tmp_path / "none.png"), "No such file"
        yield flag, str(tmp_path), "Is a directory"
        yield flag, file("empty.png", b""), "empty"
        yield flag, file("text.png", b"text"), "not a picture"
        yield flag, file("cut.png", good[: len(good) // 2]), "cut short"
    weights = Path(files["--model"]).read_bytes()
    yield "--model", str(tmp_path / "none.pth"), "No such file"
    yield "--model", files["--image1"], "not a checkpoint"
    yield "--model", opts.BETWEEN, "a network of photos, which fuses no luma"
    yield "--model", file("cut.pth", weights[: len(weights) // 2]), "damaged"
    torch.save({"model": RunsCode()}, tmp_path / "code.pth")
    yield "--model", str(tmp_path / "code.pth"), "would run code"
    yield "--model", file("pickle.pth", pickle.dumps({"model": RunsCode()})), "not a checkpoint"
    torch.save({"model": {"c1.0.weight": torch.zeros(1)}}, tmp_path / "keys.pth")
    yield "--model", str(tmp_path / "keys.pth"), "Missing key"
    yield "--res", str(tmp_path / "none" / "x.png"), "no folder"
    yield "--res", str(tmp_path), "is a folder"
    yield "--res", str(tmp_path / "x.doc"), "unknown picture format"
    torch.save(
        {"model": {k: v * math.nan for k, v in load_model(files["--model"]).state_dict().items()}},
        tmp_path / "nan.pth",
    )
    yield "--model", str(tmp_path / "nan.pth"), "not finite"
    yield "--device", "cuda:99", "not available"
    yield "--device", "meta", "neither a CPU nor a CUDA GPU"
    utils.write_image(str(tmp_path / "small.png"), pair[0][:-1])
    yield "--image2", str(tmp_path / "small.png"), "75x61 and 75x60; pictures that nearly fit"
    utils.write_image(str(tmp_path / "turned.png"), np.rot90(pair[0]))
    yield "--image2", str(tmp_path / "turned.png"), "75x61 and 61x75; one lacks the EXIF orient"
    utils.write_image(str(tmp_path / "grey.png"), pair[0][..., 0])
    yield "--image2", str(tmp_path / "grey.png"), "some pictures are grey"


def test_mistakes_get_one_line_and_leave_nothing(tmp_path, files, pair, capfd, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for flag, value, reason in mistakes(tmp_path, files, pair):
        before = sorted(os.listdir(tmp_path))
        assert run({**files, flag: value}) == 2, (flag, value)
        err = capfd.readouterr().err
        assert err.startswith("inference.py: "), err
        assert value in err
        assert reason in err
        assert err.count("\n") == 1, err
        assert sorted(os.listdir(tmp_path)) == before


def test_a_failed_run_leaves_the_old_result(files, pair):
    run(files)
    before = Path(files["--res"]).read_bytes()
    assert run({**files, "--image2": files["--model"]}) == 2
    assert Path(files["--res"]).read_bytes() == before


@pytest.mark.parametrize(
    "flags",
    [
        ["--H", "10"],
        ["--W", "0", "--H", "5"],
        ["--bogus"],
        ["--look", "photo", "--fast"],
        ["--images", "a.png", "b.png"],
        ["--folder", "photos"],
        ["--group", "3"],
        ["--no_crop"],
        ["--align=perhaps"],
        ["--quality", "101"],
        ["--finish", "3", "--look", "photo"],
        ["--finish", "0.5"],
        ["--look", "earlier", "--fast"],
        ["--steady"],
        ["--depth", "12"],
    ],
)
def test_bad_flags_get_one_line(files, flags, capsys):
    with pytest.raises(SystemExit) as caught:
        run(files, *flags)
    assert caught.value.code == 2
    err = capsys.readouterr().err
    assert flags[0].partition("=")[0] in err
    assert err.count("\n") == 1


@pytest.mark.parametrize(
    ("flags", "reason"),
    [
        ([], "give --image1 and --image2, or --images, or --folder"),
        (["--image1", "a.png"], "--image2"),
        (["--images", "a.png", "b.png", "c.png", "--panel"], "two exposures"),
        (["--folder", "photos", "--name", "x.jpg"], "{scene}"),
        (["--images", "a.png", "b.png", "--name", "{scene}.png"], "--name is for --folder"),
        (["--folder", "photos", "--name", "a/{scene}.jpg"], "{scene}"),
        (["--images", "a.png", "b.png", "--panel", "--preview"], "--panel and --preview"),
    ],
)
def test_flags_that_say_too_little(flags, reason, capsys):
    with pytest.raises(SystemExit) as caught:
        inference.main(flags)
    assert caught.value.code == 2
    err = capsys.readouterr().err
    assert reason in err
    assert err.count("\n") == 1


def test_sizes_that_cannot_be_had(files, capfd, monkeypatch):
    assert run(files, "--H", "1000000", "--W", "1000000") == 2
    assert ", resized to 1000000x1000000, need some 9000.7 GB" in capfd.readouterr().err
    monkeypatch.setattr(photos, "available_memory", lambda: None)
    assert run(files, "--H", "1000000", "--W", "1000000") == 2
    err = capfd.readouterr().err
    assert err.startswith("inference.py: --H 1000000 --W 1000000: ")
    assert err.count("\n") == 1


def test_too_little_memory_is_said_before_the_work(tmp_path, files, capfd, monkeypatch):
    monkeypatch.setattr(photos, "available_memory", lambda: 2e9)
    huge = str(huge_png(tmp_path / "huge.png", 20_000, 20_000))
    assert run({**files, "--image1": huge, "--image2": huge}) == 2
    reason = "pictures of 20000x20000 pixels need some 4.3 GB of memory, 2.0 GB are free"
    assert capfd.readouterr().err == f"inference.py: {huge} and {huge}: {reason}\n"
    assert not os.path.exists(files["--res"])
    assert run(files) == 0
    monkeypatch.setattr(photos, "available_memory", lambda: None)
    assert run(files) == 0
    assert run({**files, "--image1": huge}) == 2
    assert "damaged or cut short" in capfd.readouterr().err


@pytest.mark.parametrize(
    ("flags", "pictures"),
    [
        ([], 4 + 1),  # both, as many in register, and what a decoder needs
        (["--align", "no", "--deghost=no"], 2 + 1),
        (["--H", "200", "--W", "300"], 2 + 100 * (4 + 1)),
        (["--deghost", "no", "--depth", "float"], 4 + 4),
        (["--look", "paper"], 2 + 1),
    ],
)
def test_memory_that_fusing_needs(files, flags, pictures):
    paths = [files["--image1"], files["--image2"]]
    headers = [Header(20, 30, 3, np.dtype(np.uint8), False)] * 2
    recipe = photos.recipe_of(opts.TestOptions().parse(["--images", *paths, *flags]))
    rest = photos.REST + 2 * photos.EACH
    rest += photos.TORCH if "paper" in flags else 0
    assert photos.needed_memory(paths, headers, recipe) == rest + pictures * 20 * 30 * 3
    assert photos.needed_memory(paths, [], recipe) == rest


@pytest.mark.skipif(sys.platform != "linux", reason="other systems are not asked")
def test_available_memory(tmp_path):
    assert 1e7 < photos.available_memory() < 1e13
    machine = photos.available_memory(tmp_path / "none")
    for name, text in [
        ("max", "50000000\n"),
        ("current", "45000000\n"),
    ]:
        (tmp_path / f"memory.{name}").write_text(text)
    assert photos.available_memory(tmp_path) == 5_000_000 < machine
    # What has been read from files is given back when it is needed.
    (tmp_path / "memory.stat").write_text("anon 3000000\nfile 42000000\ninactive_file 40000000\n")
    assert photos.available_memory(tmp_path) == 45_000_000
    (tmp_path / "memory.stat").write_text("damaged")
    assert photos.available_memory(tmp_path) == 5_000_000
    (tmp_path / "memory.max").write_text("max\n")
    assert photos.available_memory(tmp_path) > 50_000_000


@pytest.mark.parametrize(
    ("name", "grey"),
    [("x.ppm", True), ("x.gif", True), ("x.pgm", False), ("x.pbm", False)],
)
def test_results_that_no_format_stores_are_refused_before_reading(
    tmp_path, files, pair, capfd, name, grey
):
    """Neither the damaged second exposure nor the missing network is noticed before."""
    for flag, image in zip(("--image1", "--image2"), pair, strict=True):
        utils.write_image(files[flag], image[..., 1] if grey else image)
    with open(files["--image2"], "r+b") as file:
        file.truncate(file.seek(0, os.SEEK_END) - 50)
    result = str(tmp_path / name)
    assert run({**files, "--res": result, "--model": "none.pth"}) == 2
    kind = "grey" if grey else "colour"
    reason = f"{kind} pictures cannot be stored as {name[1:]}; try .png, .jpg or .tif"
    assert capfd.readouterr().err == f"inference.py: {result}: {reason}\n"
    assert not os.path.exists(result)


@pytest.mark.parametrize("name", ["x.pgm", "x.PGM", "x.jp2", "x.hdr", "x.png", "x.tif"])
def test_results_of_grey_pictures(tmp_path, files, pair, name):
    for flag, image in zip(("--image1", "--image2"), pair, strict=True):
        utils.write_image(files[flag], image[..., 1])
    assert run({**files, "--res": str(tmp_path / name)}) == 0
    assert os.path.getsize(tmp_path / name) > 1000


@pytest.mark.parametrize(("flags", "levels"), [([], False), (["--depth", "8"], True)])
def test_formats_of_floats_get_floats(tmp_path, files, flags, levels):
    assert run({**files, "--res": str(tmp_path / "x.pfm")}, *flags) == 0
    result = utils.read_image(str(tmp_path / "x.pfm"))
    assert result.dtype == np.float32
    assert np.allclose(result * 255, np.rint(result * 255), atol=1e-3) == levels


def test_memory_that_runs_out_gets_one_line(files, capfd, monkeypatch):
    def hungry(*_args, **_options):
        raise MemoryError("tiles do not fit")

    monkeypatch.setattr(fusion, "fuse", hungry)
    assert run(files) == 2
    assert capfd.readouterr().err == "inference.py: not enough memory: tiles do not fit\n"
    assert not os.path.exists(files["--res"])


def fuse_files(files, paths, *flags):
    """Runs the command on some picture files; the checkpoint and result are the fixture's."""
    kept = ("--model", "--res", "--device")
    arguments = [part for flag in kept for part in (flag, files[flag])]
    return inference.main(["--images", *map(str, paths), *arguments, *flags])


def test_a_stack_in_any_order(tmp_path, files):
    paths = write_bracket(tmp_path / "scene")
    images = [utils.read_image(str(path)) for path in paths]
    expected = fusion.fuse(load_model(files["--model"]), images)
    for order in ((0, 1, 2), (2, 0, 1)):
        assert fuse_files(files, [paths[k] for k in order], "--precision", "float32") == 0
        result = utils.read_image(files["--res"]).astype(int)
        assert np.abs(result - expected).max() <= 1  # sums in another order


def as_file(path, data):
    path.write_bytes(data)
    return path


def cmyk_jpeg(grey):
    """A JPEG of four components, all of them alike, as print shops use: OpenCV writes none."""
    data = cv2.imencode(".jpg", grey, [cv2.IMWRITE_JPEG_OPTIMIZE, 0])[1].tobytes()
    frame, scan = data.index(b"\xff\xc0"), data.index(b"\xff\xda")
    size = data[frame + 5 : frame + 9]
    tables = data[2:frame] + data[frame + 13 : scan]
    components = b"".join(bytes([i, 0x11, 0]) for i in (1, 2, 3, 4))
    header = b"\xff\xc0\x00\x14\x08" + size + b"\x04" + components
    adobe = b"\xff\xee\x00\x0eAdobe\x00\x64" + bytes(5)
    coded = data[scan + 10 : -2]
    scans = b"".join(
        b"\xff\xda\x00\x08\x01" + bytes([i, 0, 0, 63, 0]) + coded for i in (1, 2, 3, 4)
    )
    return b"\xff\xd8" + adobe + tables + header + scans + b"\xff\xd9"


def animated_webp(path, frames):
    animation = cv2.Animation()
    animation.frames = [cv2.cvtColor(frame, cv2.COLOR_RGB2BGRA) for frame in frames]
    animation.durations = np.array([100] * len(frames))
    assert cv2.imwriteanimation(str(path), animation)
    return path


def unusual_brackets(folder, pair):
    """(name, picture files, what the command answers: None where it fuses them)."""

    def png(name, image):
        path = folder / f"{name}.png"
        path.parent.mkdir(exist_ok=True)
        utils.write_image(str(path), image)
        return path

    under, over = (png(f"p{k}", image) for k, image in enumerate(pair))
    black, white = (png(f"c{v}", np.full_like(pair[0], v)) for v in (0, 255))
    grey = [scores.to_grey(image) for image in pair]
    jpegs = [as_file(folder / f"cmyk{k}.jpg", cmyk_jpeg(image)) for k, image in enumerate(grey)]
    webp = animated_webp(folder / "animated.webp", [pair[0], pair[1]])
    name = "Täst · 夜 with spaces"
    yield "one exposure", [under], "two or more pictures, not 1"
    yield "twenty exposures", [under, over] * 10, None
    yield "identical exposures", [under, under], None
    yield "black and white", [black, white], None
    yield "two black ones", [black, black], None
    yield "a black one", [black, over], None
    yield "CMYK", jpegs, None
    yield "animated WebP, the first picture of it", [webp, over], None
    yield "non-ASCII names", [png(f"{name}/{name}{k}", image) for k, image in enumerate(pair)], None
    yield "single pixels", [png(f"1x1{k}", image[:1, :1]) for k, image in enumerate(pair)], None
    yield "a panorama", [png(f"wide{k}", np.tile(i, (1, 60, 1))) for k, i in enumerate(pair)], None
    deep = png("deep", pair[0].astype(np.uint16) * 257)
    yield "depths mixed", [deep, over], None


@pytest.mark.slow
def test_unusual_brackets(tmp_path, files, pair, capfd):
    (tmp_path / "in").mkdir()
    for name, paths, reason in unusual_brackets(tmp_path / "in", pair):
        Path(files["--res"]).unlink(missing_ok=True)
        status = fuse_files(files, paths)
        err = capfd.readouterr().err
        if reason:
            assert status == 2, name
            assert reason in err, name
            assert str(paths[0]) in err
            assert err.count("\n") == 1
            assert not Path(files["--res"]).exists()
        else:
            assert status == 0, name
            assert not err, name
            first = utils.read_image(str(paths[0]))
            result = utils.read_image(files["--res"])
            assert result.shape == first.shape, name
            if name in ("identical exposures", "two black ones"):
                assert np.abs(result.astype(int) - first).mean() < 60, name


def test_a_read_only_target(tmp_path, files, capfd):
    if os.getuid() == 0:
        pytest.skip("root may write everywhere")
    (tmp_path / "locked").mkdir(mode=0o500)
    assert run({**files, "--res": str(tmp_path / "locked" / "x.png")}) == 2
    assert "no permission" in capfd.readouterr().err


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="limits of file sizes are POSIX's")
def test_a_full_disk(tmp_path, files):
    """As a process whose files may not grow beyond a kilobyte: the old result stays."""
    run(files)
    before = Path(files["--res"]).read_bytes()
    names = sorted(os.listdir(tmp_path))
    limit = "import resource, sys; resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))"
    script = f"{limit}; import inference; sys.exit(inference.main(sys.argv[1:]))"
    flags = [part for item in files.items() for part in item]
    done = subprocess.run(
        [sys.executable, "-c", script, *flags],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 2
    assert files["--res"] in done.stderr
    assert done.stderr.count("\n") == 1
    assert Path(files["--res"]).read_bytes() == before
    assert sorted(os.listdir(tmp_path)) == names


@pytest.mark.slow
@pytest.mark.parametrize("flags", [[], ["--fast"]])
def test_smooth_gradients_have_no_bands(tmp_path, files, flags):
    """A 16-bit gradient comes out with far more than 256 levels, and ever rising."""
    ramp = np.tile(np.linspace(0.1, 0.5, 1500), (60, 1))
    paths = [tmp_path / "a.tif", tmp_path / "b.tif"]
    for path, gain in zip(paths, (1, 1.9), strict=True):
        utils.write_image(str(path), utils.quantise(np.dstack([ramp * gain] * 3), np.uint16))
    weights = ["--model", opts.WEIGHTS]
    result = tmp_path / "result.tif"
    assert fuse_files(files, paths, *weights, "--res", str(result), *flags) == 0
    fused = utils.read_image(str(result))
    assert fused.dtype == np.uint16
    row = fused[30, 50:-50, 0].astype(int)
    assert len(np.unique(row)) > 1000
    assert np.diff(row).min() > -64  # a quarter of a level of 255: bfloat16's grain
    assert np.diff(row).max() < 257  # bands would be steps of a level


def test_depth_and_quality(tmp_path, files, pair):
    result = tmp_path / "deep.png"
    assert run({**files, "--res": str(result)}, "--depth", "16") == 0
    deep = utils.read_image(str(result))
    expected = fusion.fuse(network(files), pair, fusion.Options(dtype=np.uint16))
    assert np.array_equal(deep, expected)
    assert len(np.unique(deep)) > 256
    result = tmp_path / "float.tif"
    assert run({**files, "--res": str(result)}, "--depth", "float") == 0
    assert utils.read_image(str(result)).dtype == np.float32
    sizes = []
    for quality in ("20", "90"):
        result = tmp_path / "x.jpg"
        assert run({**files, "--res": str(result)}, "--quality", quality) == 0
        sizes.append(result.stat().st_size)
    assert sizes[0] < sizes[1] / 2


def test_preview_lies_beside_the_result(tmp_path, files):
    assert run(files, "--preview") == 0
    sheet = utils.read_image(str(tmp_path / "result_preview.jpg"))
    assert sheet.shape[1] == 3 * 480


def test_alpha_is_kept_where_it_is_common(tmp_path, files, pair, capfd):
    alpha = np.arange(61 * 75, dtype=np.uint8).reshape(61, 75)
    paths = [tmp_path / "a.png", tmp_path / "b.png"]
    for path, image in zip(paths, pair, strict=True):
        utils.write_image(str(path), image, alpha=alpha)
    assert fuse_files(files, paths) == 0
    assert np.array_equal(utils.read_picture(files["--res"]).alpha, alpha)
    assert capfd.readouterr().err == ""


@pytest.mark.parametrize("place", [0, 1, 2])
def test_transparent_pixels_are_left_out(tmp_path, place):
    """As other programs' registration leaves them. The result is opaque where any exposure is."""
    radiance = see(blocks(380, 500, seed=1), motion())
    paths = [tmp_path / f"{k}.tif" for k in range(3)]
    images = [expose(radiance, gain) for gain in (0.3, 1, 4)]
    whole = tmp_path / "whole.tif"
    for path, image in zip(paths, images, strict=True):
        utils.write_image(str(path), image)
    assert inference.main(["--images", *map(str, paths), "--res", str(whole)]) == 0
    for everywhere in (True, False):
        for k, (path, image) in enumerate(zip(paths, images, strict=True)):
            alpha = np.full(image.shape[:2], 255, np.uint8)
            if k == place:
                alpha[:, :60] = 0
            if not everywhere:
                alpha[:20] = 0
            shown = image * (alpha > 0)[..., None]
            utils.write_image(str(path), shown.astype(np.uint8), alpha=alpha)
        result = tmp_path / "fused.tif"
        assert inference.main(["--images", *map(str, paths), "--res", str(result)]) == 0
        fused = utils.read_picture(str(result))
        expected = utils.read_image(str(whole)).astype(float)
        below = slice(20, None)
        assert np.abs(fused.pixels - expected)[below, :60].mean() < 12
        assert np.abs(fused.pixels - expected)[below, 60:].mean() < 8
        if everywhere:
            assert fused.alpha is None
        else:
            assert (fused.alpha[:20] == 0).all()
            assert (fused.alpha[20:] == 255).all()


def test_metadata_are_the_middle_exposures(tmp_path, files, capfd):
    paths = write_bracket(tmp_path / "scene", extension=".jpg")
    for number, path in enumerate(paths):
        image = utils.read_image(str(path))
        utils.write_image(str(path), image, metadata={"EXIF": exif(1, number, number)})
    middle = exif_values(utils.read_picture(str(paths[1])).metadata["EXIF"])
    result = str(tmp_path / "result.jpg")
    assert fuse_files(files, paths, "--res", result) == 0
    found = exif_values(utils.read_picture(result).metadata["EXIF"])
    assert found == middle | {0x0131: "DeepFuse"}
    assert not capfd.readouterr().err
    assert fuse_files(files, paths, "--res", str(tmp_path / "result.tif")) == 0
    assert "EXIF not written" in capfd.readouterr().err


@pytest.fixture(scope="module")
def hand_held(tmp_path_factory):
    """Three exposures of a moved camera, as files."""
    folder = tmp_path_factory.mktemp("hand_held")
    radiance = blocks(380, 500, seed=1)
    paths = []
    for k, (move, gain) in enumerate((({"shift": (6, -3)}, 0.3), ({}, 1), ({"rotation": 1}, 4))):
        paths.append(folder / f"{k}.png")
        utils.write_image(str(paths[-1]), expose(see(radiance, motion(**move)), gain))
    return paths


@pytest.mark.slow
def test_alignment(hand_held, tmp_path, files, capfd):
    assert fuse_files(files, hand_held, "--align", "--verbose") == 0
    precision, *lines = capfd.readouterr().err.splitlines()
    assert "computes in" in precision
    assert len(lines) == 4
    assert lines[3].endswith(": fused from 0.png, 1.png, 2.png")
    assert lines[2].endswith("2.png: the reference")
    assert "moved by 6.0" in lines[0] or "moved by 5.9" in lines[0]
    assert "1.0 degrees" in lines[1] or "1.00" in lines[1]
    result = utils.read_image(files["--res"])
    images = [utils.read_image(str(path)) for path in hand_held]
    expected = fusion.fuse(network(files), align.align(images)[0])
    assert np.array_equal(result, expected)
    assert result.shape < images[0].shape
    assert fuse_files(files, hand_held, "--align", "--no_crop") == 0
    assert utils.read_image(files["--res"]).shape == images[0].shape


@pytest.mark.parametrize("number", [None, 1, 3])
def test_another_reference(files, brackets, monkeypatch, number):
    """Counted from dark to bright, whatever the order of the files."""
    seen = []
    find_movement = ghosts.find_movement
    monkeypatch.setattr(
        ghosts,
        "find_movement",
        lambda images, k: seen.append(images[k].mean()) or find_movement(images, k),
    )
    paths = sorted((brackets / "scene2").iterdir())
    images = utils.read_images(paths)
    index = ghosts.telling_exposure(images) if number is None else number - 1
    flags = [] if number is None else ["--reference", str(number)]
    assert fuse_files(files, [paths[2], paths[0], paths[1]], "--deghost", *flags) == 0
    expected = [utils.reduced_quickly(image, ghosts.COARSE).mean() for image in images]
    assert seen[0] == expected[index]


def test_a_reference_that_is_not_there(files, brackets, capfd):
    paths = sorted((brackets / "scene2").iterdir())
    assert fuse_files(files, paths, "--deghost", "--reference", "4") == 2
    assert capfd.readouterr().err == "inference.py: --reference 4: there are 3 exposures\n"


def test_what_cannot_be_aligned(hand_held, tmp_path, files, capfd):
    strange = expose(see(blocks(380, 500, seed=2), motion()), 1)
    utils.write_image(str(tmp_path / "strange.png"), strange)
    paths = [hand_held[1], tmp_path / "strange.png"]
    assert fuse_files(files, paths, "--align") == 2
    err = capfd.readouterr().err
    assert f"{paths[0]} cannot be aligned with {paths[1]}" in err or f"{paths[1]} cannot" in err
    assert err.count("\n") == 1
    assert not Path(files["--res"]).exists()
    photo = ["--images", *map(str, paths), "--res", files["--res"]]
    assert inference.main(photo) == 2  # Without being asked, too.
    err = capfd.readouterr().err
    assert "does not go with" in err
    assert "different scenes" in err
    assert err.count("\n") == 1
    assert not Path(files["--res"]).exists()
    assert inference.main([*photo, "--align", "no", "--deghost", "no"]) == 0


def test_an_exposure_of_another_scene_is_left_out(hand_held, tmp_path, capfd):
    """The result is that of the others, byte for byte, with one line that says so."""
    strange = tmp_path / "strange.png"
    utils.write_image(str(strange), expose(see(blocks(380, 500, seed=2), motion()), 0.7))
    results = [str(tmp_path / name) for name in ("with.png", "without.png")]
    few = list(map(str, hand_held))
    assert inference.main(["--images", *few, "--res", results[1]]) == 0
    assert capfd.readouterr().err == ""
    assert inference.main(["--images", str(strange), *few, "--res", results[0]]) == 0
    err = capfd.readouterr().err
    assert err.startswith(f"inference.py: {strange}: left out: it does not go with {few[2]}")
    assert err.count("\n") == 1
    assert Path(results[0]).read_bytes() == Path(results[1]).read_bytes()


def test_cropped_tiff_files_are_placed_on_their_canvas(tmp_path):
    """By XPosition and YPosition, as Hugin's programs write them."""
    view = see(blocks(380, 500, seed=1), motion())
    paths = []
    for k, (gain, x, y) in enumerate(((0.3, 10, 0), (1, 0, 0), (4, 0, 20))):
        paths.append(str(tmp_path / f"{k}.tif"))
        picture = Image.fromarray(expose(view, gain)[y:, x : x + 380])
        tags = {286: x / 150, 287: y / 150, 282: 150.0, 283: 150.0}
        picture.save(paths[-1], tiffinfo=tags)
    result = str(tmp_path / "fused.tif")
    assert inference.main(["--images", *paths, "--res", result, "--verbose"]) == 0
    fused = utils.read_picture(result)
    assert fused.pixels.shape[:2] == (view.shape[0], 390)
    assert fused.alpha is None  # Every pixel is in some exposure.
    whole = [expose(view, gain) for gain in (0.3, 1, 4)]
    recipe = photos.recipe_of(opts.TestOptions().parse(["--images", *paths]))
    pictures = photos.read_scene(paths, recipe)
    for picture, image, (x, y) in zip(pictures, whole, ((10, 0), (0, 0), (0, 20)), strict=True):
        assert np.array_equal(picture.pixels[y:, x : x + 380], image[y:, x : x + 380])
        assert picture.alpha[y:, x : x + 380].all()
        assert picture.alpha.mean() < 255


@pytest.mark.parametrize("odd", [0, 1, 2])
def test_one_exposure_upside_down_is_turned(tmp_path, capfd, odd):
    view = see(blocks(380, 500, seed=1), motion())
    paths = [str(tmp_path / f"{k}.png") for k in range(3)]
    for k, (path, gain) in enumerate(zip(paths, (0.3, 1, 4), strict=True)):
        image = expose(view, gain)
        utils.write_image(path, np.ascontiguousarray(image[::-1, ::-1]) if k == odd else image)
    result = str(tmp_path / "fused.png")
    assert inference.main(["--images", *paths, "--res", result]) == 0
    err = capfd.readouterr().err
    assert err.startswith(f"inference.py: {paths[odd]}: is turned, since it lies upside down")
    assert err.count("\n") == 1
    fused, shown = (utils.as_grey(x).astype(float) for x in (utils.read_image(result), image))
    height, width = fused.shape
    assert height > 290
    assert np.corrcoef(fused.ravel(), shown[:height, :width].ravel())[0, 1] > 0.6


def test_photos_are_put_together_without_a_flag(hand_held, tmp_path, capfd):
    flags = ["--images", *map(str, hand_held), "--res", str(tmp_path / "fused.png"), "--verbose"]
    assert inference.main(flags) == 0
    assert "moved by" in capfd.readouterr().err
    shape = utils.read_image(hand_held[0]).shape
    assert utils.read_image(flags[-2]).shape < shape
    assert inference.main([*flags, "--no_crop"]) == 0
    assert utils.read_image(flags[-2]).shape == shape
    capfd.readouterr()
    assert inference.main([*flags, "--look", "paper"]) == 0
    assert "moved by" not in capfd.readouterr().err


def test_a_scene_in_register_stays_as_it_is(tmp_path, capfd):
    """The same bytes as with both switched off."""
    view = see(blocks(380, 500, seed=1), motion())
    rng = np.random.default_rng(0)
    paths = []
    for k, gain in enumerate((0.1, 1, 4)):
        noisy = np.clip(expose(view, gain) + rng.normal(0, 1, view.shape), 0, 255)
        paths.append(str(tmp_path / f"{k}.png"))
        utils.write_image(paths[-1], noisy.astype(np.uint8))
    results = []
    for flags in ([], ["--align", "no", "--deghost", "no"]):
        result = tmp_path / f"fused{len(flags)}.png"
        assert inference.main(["--images", *paths, "--res", str(result), *flags]) == 0
        results.append(result.read_bytes())
    assert results[0] == results[1]
    assert capfd.readouterr().err == ""


def test_movement(tmp_path, files, capfd):
    images, _, _ = moving(blocks(380, 500, seed=1))
    paths = [tmp_path / f"m{k}.png" for k in range(3)]
    for path, image in zip(paths, images, strict=True):
        utils.write_image(str(path), image)
    assert fuse_files(files, paths, "--deghost", "--verbose") == 0
    precision, *lines = capfd.readouterr().err.splitlines()
    assert "computes in" in precision
    assert [line.endswith(": 0.0% replaced as moved") for line in lines[:3]] == [True, True, False]
    expected = fusion.fuse(network(files), ghosts.deghost(images)[0])
    assert np.array_equal(utils.read_image(files["--res"]), expected)


def test_a_steady_folder_is_one_sequence(tmp_path, files, brackets, monkeypatch):
    seen = []
    fuse = fusion.fuse

    def watched(network, images, options, out):
        seen.append(options.steady)
        return fuse(network, images, options, out)

    monkeypatch.setattr(fusion, "fuse", watched)
    files["--model"] = opts.BETWEEN
    flags = ["--look", "photo", "--name", "{scene}.png"]
    assert fuse_folder(files, brackets, tmp_path / "steady", *flags, "--steady") == 0
    assert len(seen) == 3
    assert seen[0] is seen[1] is seen[2] is not None


def fuse_folder(files, folder, results, *flags):
    arguments = ["--model", files["--model"], "--device", "cpu", "--folder", str(folder)]
    return inference.main([*arguments, "--res", str(results), *flags])


def test_a_folder_of_scenes(brackets, tmp_path, files, capfd):
    results = tmp_path / "results"
    assert fuse_folder(files, brackets, results, "--name", "{scene}.png", "--preview") == 0
    assert capfd.readouterr().err == "inference.py: 3 brackets fused\n"
    scenes = sorted(os.listdir(brackets))
    assert sorted(os.listdir(results)) == sorted(
        name for scene in scenes for name in (f"{scene}.png", f"{scene}_preview.jpg")
    )
    for scene in scenes:
        images = [utils.read_image(path) for path in find_pictures(brackets / scene)]
        fused = utils.read_image(str(results / f"{scene}.png"))
        assert np.array_equal(fused, fusion.fuse(network(files), images))


def test_failed_scenes_are_named_and_the_others_fused(tmp_path, files, capfd):
    folder, results = tmp_path / "in", tmp_path / "in" / "out"
    for name in ("a", "b", "c", "d"):
        write_bracket(folder / name)
    (folder / "b" / "2.png").write_bytes(b"damaged")
    for number in (1, 2):
        (folder / "c" / f"{number}.png").unlink()
    assert fuse_folder(files, folder, results, "--quiet") == 1
    lines = capfd.readouterr().err.splitlines()
    assert len(lines) == 2
    assert "b_fused.jpg: not made: " in lines[0]
    assert "2.png" in lines[0]
    assert lines[1] == "inference.py: 2 brackets fused, 1 failed, 1 single photo left alone"
    assert sorted(os.listdir(results)) == ["a_fused.jpg", "d_fused.jpg"]
    # Again, with what was wrong mended: the folder of results is no scene, and what is there stays.
    write_bracket(folder / "e")
    shutil.copy(folder / "a" / "2.png", folder / "b" / "2.png")
    before = (results / "a_fused.jpg").stat().st_mtime_ns
    shutil.rmtree(folder / "c")
    assert fuse_folder(files, folder, results, "--quiet", "--skip_existing") == 0
    assert not capfd.readouterr().err
    assert sorted(os.listdir(results)) == [f"{name}_fused.jpg" for name in "abde"]
    assert (results / "a_fused.jpg").stat().st_mtime_ns == before


def test_several_processes_make_the_same_results(tmp_path, files, capfd):
    folder = tmp_path / "in"
    for number in range(5):
        write_bracket(folder / str(number), gains=(0.3 + 0.1 * number, 1.0, 8.0))
    (folder / "3" / "2.png").write_bytes(b"damaged")
    files["--model"] = opts.BETWEEN
    flags = ["--look", "photo", "--name", "{scene}.png", "--quiet"]
    for jobs in ("1", "2"):
        assert fuse_folder(files, folder, tmp_path / jobs, *flags, "--jobs", jobs) == 1
        lines = capfd.readouterr().err.splitlines()
        assert "3.png: not made: " in lines[0]
        assert "2.png" in lines[0]
        assert lines[1:] == ["inference.py: 4 brackets fused, 1 failed"]
    names = sorted(os.listdir(tmp_path / "1"))
    assert names == sorted(os.listdir(tmp_path / "2")) == ["0.png", "1.png", "2.png", "4.png"]
    for name in names:
        one, other = (utils.read_image(str(tmp_path / jobs / name)).astype(int) for jobs in "12")
        assert np.abs(one - other).max() <= 1  # Sums may be rounded in another order.


def test_several_processes_without_a_network(brackets, tmp_path, files, capfd):
    missing = {**files, "--model": "none.pth"}
    assert fuse_folder(missing, brackets, tmp_path / "out", "--jobs", "2", "--quiet") == 2
    assert capfd.readouterr().err == "inference.py: none.pth: No such file or directory\n"


def ends(group):
    """Returns True once no process of a group is left, False after a while."""
    end = time.monotonic() + 20
    while time.monotonic() < end:
        try:
            os.killpg(group, 0)
        except ProcessLookupError:
            return True
        time.sleep(0.01)
    return False


@pytest.mark.skipif(os.name == "nt", reason="signals are others on Windows")
@pytest.mark.parametrize(
    ("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGHUP, 129)]
)
def test_signals_stop_all_processes(tmp_path, files, number, status):
    """Ctrl-C reaches all processes of a terminal; the others, only the one that was started."""
    folder, results = tmp_path / "in", tmp_path / "out"
    for scene in range(60):
        write_bracket(folder / str(scene), 300, 400, gains=(0.3, 1.0, 8.0))
    command = [sys.executable, str(ROOT / "inference.py"), "--model", files["--model"]]
    command += ["--folder", str(folder), "--res", str(results), "--jobs", "2", "--device", "cpu"]
    with subprocess.Popen(
        command,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    ) as process:
        end = time.monotonic() + 60
        while not list(results.glob("*_fused.jpg")) and time.monotonic() < end:
            time.sleep(0.01)
        if number == signal.SIGINT:
            os.killpg(process.pid, number)
        else:
            process.send_signal(number)
        assert process.wait(20) == status
        assert ends(process.pid)
        assert "Traceback" not in process.stderr.read()
    fused = [name for name in os.listdir(results) if name.endswith("_fused.jpg")]
    assert 0 < len(fused) < 60
    assert fused == os.listdir(results)
    for name in fused:
        assert utils.read_image(str(results / name)).shape == (300, 400, 3)


def test_processes_are_as_many_as_cores_and_memory_allow(brackets, tmp_path, files, monkeypatch):
    options = ["--folder", str(brackets), "--model", files["--model"], "--align"]
    recipe = photos.recipe_of(opts.TestOptions().parse(options))
    scenes = [(find_pictures(brackets / scene), scene) for scene in os.listdir(brackets)]
    largest = max(scenes, key=lambda scene: len(scene[0]))[0]
    needed = photos.needed_memory(largest, photos.known_headers(largest), recipe)
    for cores, free, count, expected in [
        (4, None, 12, 4),
        (16, None, 60, inference.BLIND),
        (4, needed * 3 + recipe.rest(len(largest)) + 1e6, 12, 3),
        (4, needed * 0.5, 12, 1),
        (16, None, 7, 2),
        (16, None, 2, 1),
        (1, None, 12, 1),
    ]:
        monkeypatch.setattr(inference, "usable_cores", lambda cores=cores: cores)
        monkeypatch.setattr(photos, "available_memory", lambda free=free: free)
        work = (scenes * 30)[:count]
        assert inference.possible_jobs(work, recipe, "cpu") == expected
    assert inference.possible_jobs(scenes * 12, recipe, "cuda:0") == 1
    monkeypatch.setattr(inference, "usable_cores", lambda: 2)
    monkeypatch.setattr(photos, "available_memory", lambda: 0)
    missing = [(["none.jpg"], "none")] * 6  # Reading them will say so.
    assert inference.possible_jobs(missing, recipe, "cpu") == 2


def test_photos_of_one_folder_in_groups(tmp_path, files, capfd):
    folder = tmp_path / "card"
    write_bracket(folder, extension=".jpg", gains=(0.3, 1.0, 8.0, 0.31, 1.01, 8.1))
    assert fuse_folder(files, folder, tmp_path / "out") == 2
    err = capfd.readouterr().err
    assert "1.jpg: does not say when and how it was exposed; --group N" in err
    assert fuse_folder(files, folder, tmp_path / "out", "--group", "3", "--quiet") == 0
    assert sorted(os.listdir(tmp_path / "out")) == ["1_fused.jpg", "4_fused.jpg"]


def test_results_never_overwrite_photos(tmp_path, files, capfd):
    folder = tmp_path / "card"
    paths = write_bracket(folder, extension=".jpg", gains=(0.3, 8.0))
    before = [path.read_bytes() for path in paths]
    flags = ["--group", "2", "--name", "{scene}.jpg", "--quiet"]
    assert fuse_folder(files, folder, folder, *flags) == 2
    assert "need a folder other than that of the photos" in capfd.readouterr().err
    (tmp_path / "link").symlink_to(folder)
    assert fuse_folder(files, folder, tmp_path / "link", *flags) == 2
    assert [path.read_bytes() for path in paths] == before


def test_a_photo_is_no_result_of_its_own(files, capfd):
    before = Path(files["--image1"]).read_bytes()
    files["--res"] = files["--image1"]
    assert run(files) == 2
    assert capfd.readouterr().err == f"inference.py: {files['--res']}: is one of the photos\n"
    assert Path(files["--image1"]).read_bytes() == before


def test_what_a_killed_process_leaves_is_removed(tmp_path, capfd):
    kept = ["a1.jpg.tmp77", "a[1].jpg.tmp_mine"]
    for name in ("a[1].jpg.tmp77_1", "a[1]_preview.jpg.tmp77_5", *kept):
        (tmp_path / name).touch()
    task = (["1.jpg", "2.jpg"], str(tmp_path / "a[1].jpg"))
    fused = (done for done in [(task, ChildProcessError("its process ended"))])
    card = grouping.Card({}, [], {}, [])
    assert inference.finish_folder(fused, 1, card, bar=False) == 1
    assert "a[1].jpg: not made: its process ended" in capfd.readouterr().err
    assert sorted(os.listdir(tmp_path)) == kept


def test_what_cannot_be_read_costs_no_other_bracket(tmp_path, files, capfd):
    folder = tmp_path / "card"
    write_bracket(folder / "scene")
    (folder / "1.jpg").symlink_to(tmp_path / "nowhere")
    (folder / "2.jpg").touch()
    (folder / "3.jpg").mkdir()
    assert fuse_folder(files, folder, tmp_path / "out") == 0
    lines = capfd.readouterr().err.splitlines()
    assert lines[0].endswith("1.jpg: No such file or directory")
    assert lines[1].endswith("2.jpg: not a picture that can be read, or damaged or cut short")
    assert lines[2] == "inference.py: 1 bracket fused, 2 files not read"
    assert os.listdir(tmp_path / "out") == ["scene_fused.jpg"]


def test_what_cannot_be_grouped_is_named_and_the_rest_fused(tmp_path, files, capfd):
    folder = tmp_path / "card"
    write_bracket(folder / "scene")
    shutil.copy(folder / "scene" / "1.png", folder / "index.png")
    assert fuse_folder(files, folder, tmp_path / "out", "--quiet") == 0
    lines = capfd.readouterr().err.splitlines()
    assert len(lines) == 1
    assert "index.png: does not say when" in lines[0]
    assert os.listdir(tmp_path / "out") == ["scene_fused.jpg"]


def test_brackets_of_one_name_are_refused(tmp_path, files, capfd):
    folder = tmp_path / "card"
    write_bracket(folder, gains=(0.3, 8.0))
    for number in (1, 2):
        image = utils.read_image(str(folder / f"{number}.png"))
        utils.write_image(str(folder / f"{number}.tif"), image)
    assert fuse_folder(files, folder, tmp_path / "out", "--group", "2", "--quiet") == 0
    write_bracket(folder / "1", gains=(0.4, 7.0))
    assert fuse_folder(files, folder, tmp_path / "out", "--group", "2") == 2
    assert "two brackets have the name 1" in capfd.readouterr().err


def test_folders_whose_results_cannot_be_stored(tmp_path, files, capfd):
    """Known from the headers of one scene, before a picture is decoded or the network is loaded."""
    folder, results = tmp_path / "in", tmp_path / "out"
    write_bracket(folder / "colours")
    for path in write_bracket(folder / "grey"):
        utils.write_image(str(path), utils.read_image(str(path))[..., 1])
    missing = {**files, "--model": "none.pth"}
    assert fuse_folder(missing, folder, results, "--name", "{scene}.ppm") == 2
    result = os.path.join(results, "grey.ppm")
    reason = "grey pictures cannot be stored as .ppm; try .png, .jpg or .tif"
    assert capfd.readouterr().err == f"inference.py: {result}: {reason}\n"
    assert not os.path.exists(results)
    results.mkdir()
    assert fuse_folder(missing, folder, results) == 2
    assert os.listdir(results) == []  # It was there before.
    assert fuse_folder(files, folder, results, "--name", "{scene}.pnm", "--quiet") == 0
    assert sorted(os.listdir(results)) == ["colours.pnm", "grey.pnm"]


def test_panels_of_a_folder_need_pairs(brackets, tmp_path, files, capfd):
    assert fuse_folder(files, brackets, tmp_path / "out", "--panel", "--quiet") == 1
    lines = capfd.readouterr().err.splitlines()
    assert sum("--panel is for two exposures, not 3" in line for line in lines) == 2
    assert os.listdir(tmp_path / "out") == ["scene10_fused.jpg"]


def test_floats_are_checked_before_they_are_aligned(tmp_path, files, pair, capfd):
    paths = [tmp_path / "a.tif", tmp_path / "b.tif"]
    for path, image in zip(paths, pair, strict=True):
        cv2.imwrite(str(path), image.astype(np.float32) / 128)
    assert fuse_files(files, paths, "--align") == 2
    assert "float pictures must lie in [0, 1]" in capfd.readouterr().err


def test_an_empty_name_is_refused(capfd):
    """As an unset variable of a shell gives it."""
    for flags in (["--folder", ""], ["--images", "a.png", ""], ["--describe", "--model", ""]):
        with pytest.raises(SystemExit) as caught:
            inference.main(flags)
        assert caught.value.code == 2
        assert " is empty (--help" in capfd.readouterr().err


def test_a_result_that_is_there_has_its_preview(tmp_path, files):
    """Otherwise, --skip_existing would take the scene for done."""
    result, path = np.zeros((5, 6, 3), np.uint8), tmp_path / "a.png"
    tall = np.zeros((70_000, 1, 3), np.uint8)
    with pytest.raises(ValueError, match=r"a_preview\.jpg"):
        photos.write_result(str(path), result, None, {}, 95, tall, None)
    assert not path.exists()
    write_bracket(tmp_path / "in" / "a")
    for flags in ([], ["--preview"]):
        flags += ["--quiet", "--skip_existing"]
        assert fuse_folder(files, tmp_path / "in", tmp_path / "out", *flags) == 0
    assert sorted(os.listdir(tmp_path / "out")) == ["a_fused.jpg", "a_fused_preview.jpg"]


@pytest.mark.skipif(sys.platform != "linux", reason="other systems have other names")
def test_previews_of_names_in_another_code(tmp_path, files):
    image = os.fsencode(tmp_path) + b"/d\xe9.png"
    shutil.copy(files["--image1"], image)
    files["--image1"] = os.fsdecode(image)
    assert run(files, "--preview") == 0


def test_hidden_folders_are_no_brackets(tmp_path, files):
    for name in ("a", ".thumbs"):
        write_bracket(tmp_path / "in" / name)
    assert fuse_folder(files, tmp_path / "in", tmp_path / "out", "--quiet") == 0
    assert os.listdir(tmp_path / "out") == ["a_fused.jpg"]


def test_a_folder_says_how_many_scenes_it_had(brackets, tmp_path, files, capfd):
    for flags in (["--verbose"], ["--quiet"]):
        assert fuse_folder(files, brackets, tmp_path / "out", *flags) == 0
        captured = capfd.readouterr()
        assert captured.out == ""
        for text in (
            "inference.py: 3 brackets fused\n",
            "scene2_fused.jpg: fused from 1.png, 2.png, 3.png\n",
        ):
            assert (text in captured.err) == (flags == ["--verbose"])


def test_what_was_written_is_said_at_a_terminal(files, capsys, monkeypatch):
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    for flags, said in (([], 1), (["--quiet"], 0)):
        assert run(files, *flags) == 0
        captured = capsys.readouterr()
        assert captured.out == ""
        text = f"{files['--res']}: fused from 2 exposures, 75x61 pixels\n"
        assert captured.err.count(text) == said


def test_a_depth_that_a_format_has_not_is_said(files, capfd):
    files["--res"] = files["--res"].replace(".png", ".jpg")
    assert run(files, "--depth", "16") == 0
    text = f"inference.py: {files['--res']}: .jpg cannot hold the asked --depth\n"
    assert capfd.readouterr().err == text


def test_pictures_without_an_option_are_explained(capsys):
    with pytest.raises(SystemExit):
        inference.main(["a.jpg", "b.jpg"])
    assert "a.jpg b.jpg; every value follows an option" in capsys.readouterr().err


def test_a_photo_is_known_under_another_name(files, capfd):
    """As on disks that ignore case, where IMG.JPG and img.jpg are one file."""
    before = Path(files["--image1"]).read_bytes()
    other = Path(files["--image1"]).with_name("other.png")
    os.link(files["--image1"], other)
    files["--res"] = str(other)
    assert run(files) == 2
    assert capfd.readouterr().err == f"inference.py: {other}: is one of the photos\n"
    assert other.read_bytes() == before
