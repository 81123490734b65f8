"""The command that fuses a pair of files, and how it answers mistakes."""

import math
import os
import pickle
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import (
    ROOT,
    huge_png,
    network_of,
    run,
)

import fusion
import inference
import machine
import model
import opts
import photos
import scores
import utils
from checkpoint import load_between, load_model
from headers import Header
from portable import OnnxBetween


def test_result_is_the_fused_picture_at_native_size(files, pair):
    assert run(files) == 0
    expected = fusion.fuse(network_of(files), pair)
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
    assert 1e7 < machine.available_memory() < 1e13
    free = machine.available_memory(tmp_path / "none")
    for name, text in [
        ("max", "50000000\n"),
        ("current", "45000000\n"),
    ]:
        (tmp_path / f"memory.{name}").write_text(text)
    assert machine.available_memory(tmp_path) == 5_000_000 < free
    # What has been read from files is given back when it is needed.
    (tmp_path / "memory.stat").write_text("anon 3000000\nfile 42000000\ninactive_file 40000000\n")
    assert machine.available_memory(tmp_path) == 45_000_000
    (tmp_path / "memory.stat").write_text("damaged")
    assert machine.available_memory(tmp_path) == 5_000_000
    (tmp_path / "memory.max").write_text("max\n")
    assert machine.available_memory(tmp_path) > 50_000_000


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
