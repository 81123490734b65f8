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

import fusion
import inference
import loss
import opts
import utils
from model import DeepFuse, load_model, save_checkpoint

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
    return fusion.prepare(load_model(files["--model"]))


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
def test_refinement_and_chroma(files, pair, panel):
    flags = ["--refine", "3", "--chroma", "relative"] + ["--panel"] * panel
    assert run(files, *flags) == 0
    fused = fusion.fuse(network(files), pair, refine=3, chroma="relative")
    result = utils.read_image(files["--res"])
    assert np.array_equal(result[:, 150:225] if panel else result, fused)


@pytest.mark.parametrize("flag", ["--fast", "--full"])
def test_fast_and_full(files, pair, flag):
    assert run(files, flag, "--precision", "float32") == 0
    prepared = fusion.prepare(load_model(files["--model"]), "float32")
    expected = fusion.fuse(prepared, pair, fast=flag == "--fast")
    assert np.array_equal(utils.read_image(files["--res"]), expected)


def test_16_bit_in_16_bit_out(files, pair):
    for name, image in zip(("--image1", "--image2"), pair, strict=True):
        utils.write_image(files[name], image.astype(np.uint16) * 257)
    assert run(files) == 0
    assert utils.read_image(files["--res"]).dtype == np.uint16


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
    score = loss.score(utils.to_gray(result), [utils.to_gray(under), utils.to_gray(over)])
    assert score > 0.97
    assert os.path.getsize(opts.WEIGHTS) < 1e6


def test_quick_imports():
    """Fusing loads nothing that only training needs."""
    code = "import inference, sys; print({'torchvision', 'matplotlib'} & set(sys.modules))"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, check=True, capture_output=True, text=True
    )
    assert done.stdout.strip() == "set()"


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
    yield "--image2", str(tmp_path / "small.png"), "75x61 and 75x60"
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
    "flags", [["--H", "10"], ["--W", "0", "--H", "5"], ["--bogus"], ["--full", "--fast"]]
)
def test_bad_flags_get_one_line(files, flags, capsys):
    with pytest.raises(SystemExit) as caught:
        run(files, *flags)
    assert caught.value.code == 2
    err = capsys.readouterr().err
    assert flags[0] in err
    assert err.count("\n") == 1


def test_sizes_that_cannot_be_had(files, capfd):
    assert run(files, "--H", "1000000", "--W", "1000000") == 2
    err = capfd.readouterr().err
    assert err.startswith("inference.py: --H 1000000 --W 1000000: ")
    assert err.count("\n") == 1
