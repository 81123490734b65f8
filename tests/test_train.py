"""Training: what it writes, that it learns, and that stopping and resuming leaves no trace."""

import csv
import json
import multiprocessing
import os
import shlex
import shutil
import signal
import subprocess
import sys
import time
import types
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from conftest import write_bracket
from kill_training import kill_often

import fusion
import inference
import scores
import train
import utils
from checkpoint import State, load_between, load_checkpoint, load_model
from engine import Learner
from loss import BetweenLoss
from model import DeepFuse, prepare
from opts import TrainOptions
from ranks import Processes

ROOT = Path(__file__).parent.parent


def arguments(brackets, det, **changes):
    options = {
        "folder": brackets,
        "det": det,
        "crop_size": 48,
        "batch_size": 2,
        "workers": 0,
        "device": "cpu",
        "precision": "float32",
        "warmup": 2,
        **changes,
    }
    return [
        "--quiet",
        *(str(part) for key, value in options.items() for part in (f"--{key}", value)),
    ]


def run(brackets, det, **changes):
    assert train.main(arguments(brackets, det, **changes)) == 0
    return load_checkpoint(str(det / "model" / "latest.pth"))


def assert_same_run(one, other):
    assert one["loss"] == other["loss"]
    assert one["epoch"] == other["epoch"]
    assert one["val"] == other["val"]
    for key, value in one["model"].items():
        assert torch.equal(value, other["model"][key]), key
    moments, others = (c["optimizer"]["state"] for c in (one, other))
    for index, values in moments.items():
        assert all(torch.equal(values[name], others[index][name]) for name in values)


def test_results(brackets, tmp_path):
    val = tmp_path / "val"
    write_bracket(val / "scene", seed=7)
    det = tmp_path / "det"
    checkpoint = run(brackets, det, epoch=4, val_folder=val, val_epoch=2, record_epoch=3)
    assert checkpoint["epoch"] == 4
    assert len(checkpoint["loss"]) == 4
    assert list(checkpoint["val"]) == [2, 4]
    names = ["cache", "image", "log.csv", "loss.png", "model", "run.json"]
    assert sorted(os.listdir(det)) == names
    assert sorted(os.listdir(det / "model")) == ["best.pth", "latest.pth", "previous.pth"]
    assert sorted(os.listdir(det / "image")) == ["3.png", "4.png"]
    assert utils.read_image(str(det / "image" / "3.png")).shape == (48, 4 * 48, 3)
    assert utils.read_image(str(det / "loss.png")).ndim == 3
    with open(det / "log.csv", newline="") as file:
        lines = list(csv.DictReader(file))
    assert [int(line["epoch"]) for line in lines] == [1, 2, 3, 4]
    assert [float(line["loss"]) for line in lines] == checkpoint["loss"]
    assert [line["val_score"] != "" for line in lines] == [False, True, False, True]
    best = load_checkpoint(str(det / "model" / "best.pth"))
    assert best["val"][best["epoch"]] == max(checkpoint["val"].values())
    images = [utils.read_image(str(val / "scene" / name)) for name in ("1.png", "3.png")]
    assert best["val"][best["epoch"]] == score(det, images)


def score(det, images):
    model = prepare(load_model(str(det / "model" / "best.pth")), "float32")
    fused = fusion.fuse(model, images)
    return scores.mefb_score(fused, images)


def test_training_leaves_no_workers(brackets, tmp_path):
    """They end with it, not when the garbage collector finds them, which holds later runs up."""
    before = set(multiprocessing.active_children())
    run(brackets, tmp_path / "det", epoch=2, workers=2, record_epoch=1)
    assert set(multiprocessing.active_children()) <= before


def test_a_network_of_photos_is_trained_and_validated(brackets, tmp_path, capsys):
    """By exposures between others; scenes that have none are left out."""
    val = tmp_path / "val"
    paths = write_bracket(val / "scene", seed=7)
    write_bracket(val / "pair", seed=8, gains=(0.3, 8.0))
    det = tmp_path / "det"
    changes = {"network": "between", "epoch": 2, "val_folder": val, "val_epoch": 1}
    checkpoint = run(brackets, det, **changes, record_epoch=1, width=8)
    assert "scene10: skipped, it has 2 pictures only" in capsys.readouterr().err
    assert len(checkpoint["data"]) == 2
    assert checkpoint["network"] == {"name": "between", "width": 8}
    assert utils.read_image(str(det / "image" / "2.png")).shape == (48, 4 * 48, 3)
    with pytest.raises(ValueError, match="a network of photos, which fuses no luma"):
        load_model(det / "model" / "best.pth")
    network = load_between(det / "model" / "best.pth")
    dark, teacher, bright = (
        torch.from_numpy(utils.to_ycbcr(utils.read_image(str(path)))) for path in paths
    )
    with torch.no_grad():
        told = network(torch.stack([dark, bright], dim=1), teacher[:, 0].mean(dim=(1, 2)))
    value = 1 - BetweenLoss().sample_losses(told, teacher).item()
    assert max(checkpoint["val"].values()) == pytest.approx(value, abs=1e-6)


@pytest.mark.slow
def test_the_loss_of_a_network_of_photos_goes_down(brackets, tmp_path):
    changes = {"network": "between", "epoch": 60, "pairs": "extreme", "lr": 5e-3}
    losses = run(brackets, tmp_path / "det", **changes)["loss"]
    assert sum(losses[-5:]) < 0.7 * sum(losses[:5])


@pytest.mark.parametrize(
    ("changes", "message"),
    [({"batch_norm": None}, "--batch_norm: not for"), ({"val_folder": "pairs"}, "no scene has")],
)
def test_what_a_network_of_photos_cannot_do(brackets, tmp_path, capsys, changes, message):
    write_bracket(tmp_path / "pairs" / "scene", gains=(0.3, 8.0))
    argv = arguments(brackets, tmp_path / "det", network="between")
    for name, value in changes.items():
        argv += [f"--{name}", *([str(tmp_path / value)] if value else [])]
    assert train.main(argv) == 2
    assert message in capsys.readouterr().err


@pytest.mark.slow
def test_loss_goes_down(brackets, tmp_path):
    losses = run(brackets, tmp_path / "det", epoch=40, batch_size=3, lr=5e-4)["loss"]
    assert sum(losses[-5:]) < 0.5 * sum(losses[:5])


@pytest.mark.slow
@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"batch_norm": None, "loss": "global", "schedule": "constant"},
        {"precision": "bfloat16", "workers": 2},
        {
            "network": "pyramid",
            "stacks": 0.5,
            "zoom": 1.5,
            "gamma": 1.3,
            "widen": 1.0,
            "draws": 2,
            "batch_size": 4,
            "noise": 0.02,
            "loss_power": 1.25,
            "optimizer": "muon",
            "ema": 0.9,
        },
        {
            "network": "between",
            "batch_size": 1,
            "width": 8,
            "zoom": 1.5,
            "pairs": "far",
            "degrade": None,
            "noise": 0.02,
            "ema": 0.9,
        },
    ],
)
def test_resumed_equals_uninterrupted(brackets, tmp_path, changes):
    flags = [f"--{key}" for key, value in changes.items() if value is None]
    changes = {key: value for key, value in changes.items() if value is not None}

    val = tmp_path / "val"
    write_bracket(val / "scene", height=50, width=50, seed=7)

    def go(det, stop_after=None, **more):
        argv = arguments(brackets, det, epoch=4, val_epoch=1, **changes, **more) + flags
        argv += ["--val_folder", str(val)]
        options = TrainOptions().parse(argv)
        if stop_after is None:
            train.train(options)
        else:
            train_until(options, stop_after)
        return load_checkpoint(str(det / "model" / "latest.pth"))

    whole = go(tmp_path / "whole")
    for stop_after in (3, 4):  # steps: in the middle of the second epoch, and at its end
        det = tmp_path / f"stopped{stop_after}"
        stopped = go(det, stop_after)
        assert (stopped["epoch"], stopped["step"]) == divmod(stop_after, 2)
        resumed = go(det, resume=det / "model" / "latest.pth")
        assert_same_run(whole, resumed)
        with open(tmp_path / "whole" / "log.csv") as one, open(det / "log.csv") as other:
            columns = [
                [{**line, "seconds": ""} for line in csv.DictReader(file)] for file in (one, other)
            ]
        assert columns[0] == columns[1]
        best = [load_checkpoint(str(d / "model" / "best.pth")) for d in (tmp_path / "whole", det)]
        assert best[0]["epoch"] == best[1]["epoch"]
        assert all(map(torch.equal, best[0]["model"].values(), best[1]["model"].values()))


def train_until(options, steps):
    """Trains with a SIGINT, as Ctrl-C sends it, during the given step."""
    descend = Learner.descend
    taken = 0

    def counting(*args):
        nonlocal taken
        taken += 1
        if taken == steps:
            os.kill(os.getpid(), signal.SIGINT)
        return descend(*args)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Learner, "descend", counting)
        train.train(options)


def test_workers_make_no_difference(brackets, tmp_path):
    assert_same_run(
        run(brackets, tmp_path / "0", epoch=3, workers=0),
        run(brackets, tmp_path / "2", epoch=3, workers=2),
    )


def test_average_of_the_weights(brackets, tmp_path):
    """w <- d w + (1 - d) trained, d = min(decay, n/(n + 9)) at step n; decay 0 is no average."""
    trained = [
        run(brackets, tmp_path / f"{n}", epoch=n, batch_size=3, schedule="constant", ema=0.15)
        for n in (1, 2, 3)
    ]
    expected = dict(trained[0]["trained"])
    for checkpoint, d in zip(trained[1:], (1 / 10, 0.15), strict=True):
        for key, value in checkpoint["trained"].items():
            expected[key] = d * expected[key] + (1 - d) * value
    for key, value in expected.items():
        torch.testing.assert_close(trained[2]["model"][key], value, atol=1e-6, rtol=0)
    plain = run(brackets, tmp_path / "plain", epoch=3, batch_size=3, schedule="constant")
    for key, value in plain["model"].items():
        assert torch.equal(value, plain["trained"][key])
        assert torch.equal(value, trained[2]["trained"][key])


def test_kernels_are_centred_or_not(brackets, tmp_path):
    for flags in ([], ["--uncentred"]):
        det = tmp_path / f"det{len(flags)}"
        assert train.main([*arguments(brackets, det, epoch=2), *flags]) == 0
        weights = load_checkpoint(str(det / "model" / "latest.pth"))["model"]
        for name in ("c2", "c3", "c4", "c5"):
            mean = weights[f"{name}.0.weight"].mean(dim=(1, 2, 3)).abs().max()
            assert (mean < 1e-6) == (not flags)
        assert weights["c1.0.weight"].mean(dim=(1, 2, 3)).abs().max() > 1e-3


def test_start_from_weights(brackets, tmp_path):
    first = run(brackets, tmp_path / "first", epoch=2, network="pyramid")
    init = tmp_path / "first" / "model" / "latest.pth"
    second = run(brackets, tmp_path / "second", epoch=1, network="pyramid", init=init, lr=0)
    for key, value in first["model"].items():
        # Centring what is centred takes a rounding error away.
        torch.testing.assert_close(second["model"][key], value, atol=1e-7, rtol=0)


def test_seed_decides(brackets, tmp_path):
    one = run(brackets, tmp_path / "a", epoch=1, seed=1)
    assert_same_run(one, run(brackets, tmp_path / "b", epoch=1, seed=1))
    assert one["loss"] != run(brackets, tmp_path / "c", epoch=1, seed=2)["loss"]


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_signals_save_and_exit_cleanly(brackets, tmp_path, number):
    """To the whole process group, the workers too: as terminals send Ctrl-C, clusters SIGTERM."""
    det = tmp_path / "det"
    argv = arguments(brackets, det, epoch=100000, workers=2)
    process = subprocess.Popen(
        [sys.executable, str(ROOT / "train.py"), *argv],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    latest = det / "model" / "latest.pth"
    while not latest.exists():
        assert process.poll() is None, process.stderr.read()
        time.sleep(0.1)
    os.killpg(process.pid, number)
    out, err = process.communicate(timeout=60)
    assert (process.returncode, err) == (0, "")
    assert f"--resume {latest}" in out
    assert load_checkpoint(str(latest))["epoch"] >= 1
    assert set(os.listdir(det / "model")) <= {"latest.pth", "previous.pth"}
    assert (det / "loss.png").exists()


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_killed_at_random_moments(tmp_path):
    """The short version of kill_training.py."""
    hits, _ = kill_often(tmp_path, kills=4, epochs=20)
    assert hits == 4


@pytest.mark.slow
def test_a_full_disk_leaves_the_checkpoint_of_before(brackets, tmp_path):
    """As a process whose files may not grow beyond some size: between that of a log and weights."""
    det = tmp_path / "det"
    run(brackets, det, epoch=1)
    latest = det / "model" / "latest.pth"
    before = latest.read_bytes()
    limit = "import resource, sys; resource.setrlimit(resource.RLIMIT_FSIZE, (100000, 100000))"
    script = f"{limit}; import train; sys.exit(train.main(sys.argv[1:]))"
    argv = arguments(brackets, det, epoch=3, resume=latest)
    done = subprocess.run(
        [sys.executable, "-c", script, *argv], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 1
    assert done.stderr.startswith(f"train.py: {latest}: cannot be written")
    assert done.stderr.endswith("the checkpoint of before is still there\n")
    assert done.stderr.count("\n") == 1
    assert latest.read_bytes() == before
    assert sorted(os.listdir(det / "model")) == ["best.pth", "latest.pth", "previous.pth"]


def test_a_damaged_checkpoint_names_the_one_before(brackets, tmp_path, capsys):
    det = tmp_path / "det"
    run(brackets, det, epoch=3)
    latest, previous = (det / "model" / f"{name}.pth" for name in ("latest", "previous"))
    whole = latest.read_bytes()
    latest.write_bytes(whole[: len(whole) // 2])
    argv = arguments(brackets, det, epoch=4)
    assert train.main([*argv, "--resume", str(latest)]) == 2
    err = capsys.readouterr().err
    assert f"{latest}: damaged" in err
    assert f"--resume {previous} is whole, of epoch 2" in err
    assert err.count("\n") == 1
    assert train.main([*argv, "--resume", str(previous)]) == 0
    assert load_checkpoint(str(latest))["epoch"] == 4


def torchrun(argv, *flags, script=ROOT / "train.py"):
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node=2"]
    return subprocess.Popen(
        [*command, *flags, str(script), *argv],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


@pytest.fixture(scope="module")
def six_scenes(tmp_path_factory):
    folder = tmp_path_factory.mktemp("six")
    for number in range(6):
        write_bracket(folder / f"scene{number}", seed=number)
    return folder


@pytest.mark.slow
def test_two_processes_equal_one_of_twice_the_batch(six_scenes, tmp_path):
    """10 steps, of which every second is so small that one process has nothing to do."""
    script = ROOT / "tests" / "train_in_double.py"
    shared = {"epoch": 5, "ema": 0.5, "lr": 1e-4}
    alone = arguments(six_scenes, tmp_path / "one", batch_size=4, **shared)
    subprocess.run([sys.executable, str(script), *alone], check=True)
    one, two = in_two_processes(six_scenes, tmp_path, script=script, **shared)
    assert len(two["loss"]) == 5
    assert two["loss"] == pytest.approx(one["loss"], rel=0, abs=1e-11)
    for key, value in one["model"].items():
        assert value.dtype == torch.float64
        torch.testing.assert_close(two["model"][key], value, atol=1e-11, rtol=0)


def in_two_processes(brackets, folder, script=ROOT / "train.py", **shared):
    """Trains in folder / "two"; returns the checkpoints of folder / "one" and of it."""
    process = torchrun(arguments(brackets, folder / "two", batch_size=2, **shared), script=script)
    _, err = process.communicate(timeout=300)
    assert process.returncode == 0, err
    one, two = (load_checkpoint(str(folder / d / "model" / "latest.pth")) for d in ("one", "two"))
    assert two["run"]["processes"] == 2
    return one, two


@pytest.mark.slow
def test_two_processes_validate_and_write_as_one(six_scenes, tmp_path):
    """In float32, and for so few steps that rounding does not grow."""
    val = tmp_path / "val"
    for number in range(3):
        write_bracket(val / f"{number}", height=50, width=50, seed=number)
    shared = {"epoch": 2, "val_folder": val, "val_epoch": 1, "ema": 0.5, "lr": 1e-4}
    run(six_scenes, tmp_path / "one", batch_size=4, **shared)
    one, two = in_two_processes(six_scenes, tmp_path, **shared)
    assert two["loss"] == pytest.approx(one["loss"], abs=1e-5)
    assert two["val"] == pytest.approx(one["val"], abs=1e-4)  # of 8-bit pictures
    assert list(two["val"]) == [1, 2]
    for key, value in one["model"].items():
        torch.testing.assert_close(two["model"][key], value, atol=1e-4, rtol=0)
    names = [sorted(os.listdir(tmp_path / d)) for d in ("one", "two")]
    assert names[0] == names[1]


def processes_of(launcher):
    """The training processes that torchrun has started: {rank: pid}."""
    found = {}
    for entry in Path("/proc").iterdir():
        try:
            fields = (entry / "stat").read_text().rpartition(")")[2].split()
            parts = (entry / "environ").read_bytes().split(b"\0")
        except (OSError, ValueError):
            continue
        ranks = [part for part in parts if part.startswith(b"RANK=")]
        if int(fields[1]) == launcher and ranks:
            found[int(ranks[0][5:])] = int(entry.name)
    return found


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
@pytest.mark.parametrize("restarts", [0, 1])
def test_a_process_that_dies(six_scenes, tmp_path, restarts):
    """It ends the others within a minute, or all are started again and go on."""
    det = tmp_path / "det"
    epochs = 100000 if restarts == 0 else 40
    argv = arguments(six_scenes, det, batch_size=1, epoch=epochs)
    process = torchrun(argv, f"--max_restarts={restarts}", "--monitor_interval=1")
    latest = det / "model" / "latest.pth"
    while not latest.exists():
        assert process.poll() is None, process.stderr.read()
        time.sleep(0.05)
    os.kill(processes_of(process.pid)[1], signal.SIGKILL)
    _, err = process.communicate(timeout=300 if restarts else 60)
    if restarts:
        assert process.returncode == 0, err
        assert load_checkpoint(str(latest))["epoch"] == 40
    else:
        assert process.returncode != 0
        assert load_checkpoint(str(latest))["epoch"] >= 1


def test_batch_norm_in_several_processes_needs_gpus(brackets, tmp_path):
    """Where statistics would not be those of the whole batch."""
    options = TrainOptions().parse([*arguments(brackets, tmp_path / "det"), "--batch_norm"])
    processes = types.SimpleNamespace(count=2, device=torch.device("cpu"), first=True)
    with pytest.raises(ValueError, match="--batch_norm: in several processes on GPUs only"):
        train.train_in(processes, options)


def test_the_run_is_described(brackets, tmp_path, capsys):
    det = tmp_path / "det"
    argv = [
        part
        for part in arguments(brackets, det, epoch=1, seed=3, batch_size=1)
        if part != "--quiet"
    ]
    assert train.main(argv) == 0
    checkpoint = load_checkpoint(str(det / "model" / "best.pth"))
    command = checkpoint["run"]["command"]
    assert command.startswith("train.py --folder ")
    assert "--seed 3" in command
    assert command in capsys.readouterr().out
    again = TrainOptions().parse(shlex.split(command)[1:])
    assert vars(again) == checkpoint["options"]
    assert set(checkpoint["run"]["versions"]) == {"python", "torch", "numpy", "opencv"}
    assert list(checkpoint["data"]) == ["scene1", "scene2", "scene10"]
    with open(det / "run.json") as file:
        assert json.load(file)["command"] == command
    assert inference.main(["--describe", "--model", str(det / "model" / "best.pth")]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[1].startswith("network: DeepFuse (")
    assert "epochs: 1" in lines
    assert f"command: {command}" in lines
    assert any(line.startswith("data: 3 scenes, fingerprint ") for line in lines)


def test_the_end_says_the_scores_and_where_the_checkpoint_lies(brackets, tmp_path, capsys):
    write_bracket(tmp_path / "val" / "scene", seed=7)
    det = tmp_path / "det"
    argv = arguments(brackets, det, epoch=2, val_folder=tmp_path / "val", val_epoch=1)
    assert train.main([part for part in argv if part != "--quiet"]) == 0
    last = capsys.readouterr().out.splitlines()[-1]
    state = load_checkpoint(str(det / "model" / "latest.pth"))
    best = max(state["val"], key=state["val"].get)
    assert last == (
        f"epoch 2: loss {state['loss'][-1]:.4f}, best validation score {state['val'][best]:.4f} "
        f"(epoch {best}); {det / 'model' / 'best.pth'}"
    )


def test_validation_data_that_are_trained_on_are_warned_of(brackets, tmp_path, capsys):
    """The same folder, or a copy of one scene under another name."""
    shutil.copytree(brackets / "scene2", tmp_path / "val" / "other")
    write_bracket(tmp_path / "val" / "scene", seed=9)
    for folder, count in ((brackets, 3), (tmp_path / "val", 1)):
        run(brackets, tmp_path / f"det{count}", epoch=1, val_folder=folder)
        assert capsys.readouterr().err.count(": is trained on as well; ") == count


def test_data_that_changed_are_refused(brackets, tmp_path, capsys):
    folder = tmp_path / "data"
    shutil.copytree(brackets, folder)
    det = tmp_path / "det"
    run(folder, det, epoch=1)
    latest = det / "model" / "latest.pth"
    shutil.copy(folder / "scene2" / "3.png", folder / "scene2" / "4.png")
    assert train.main(arguments(folder, det, epoch=2, resume=latest)) == 2
    err = capsys.readouterr().err
    assert "3 scenes, now there are 3; 1 differ, the first of them scene2" in err


def test_tensorboard_is_asked_for_in_vain(brackets, tmp_path, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    argv = arguments(brackets, tmp_path / "det", epoch=1)
    assert train.main([*argv, "--tensorboard"]) == 2
    assert "the package tensorboard is not installed" in capsys.readouterr().err
    assert not (tmp_path / "det").exists()


def test_tensorboard_is_written_to(brackets, tmp_path, monkeypatch):
    """Where it is installed; here a stand-in takes its place."""
    written = []

    class SummaryWriter:
        def __init__(self, folder):
            written.append(folder)

        def add_scalar(self, name, value, epoch):
            written.append((name, epoch, value))

        def flush(self):
            pass

    module = types.ModuleType("tensorboard")
    module.SummaryWriter = SummaryWriter
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", module)
    argv = arguments(brackets, tmp_path / "det", epoch=2)
    assert train.main([*argv, "--tensorboard"]) == 0
    losses = load_checkpoint(str(tmp_path / "det" / "model" / "latest.pth"))["loss"]
    assert written[0] == str(tmp_path / "det" / "tensorboard")
    assert [entry for entry in written if entry[0] == "loss"] == [
        ("loss", 1, losses[0]),
        ("loss", 2, losses[1]),
    ]


def test_divergence_stops_with_a_message_and_saves_nothing(brackets, tmp_path, capsys):
    argv = arguments(brackets, tmp_path / "det", epoch=1, batch_size=1, lr=1e30, warmup=0)
    assert train.main(argv) == 1
    err = capsys.readouterr().err
    assert err.startswith("train.py: epoch 1, step 2: the loss is nan")
    assert err.count("\n") == 1
    assert os.listdir(tmp_path / "det" / "model") == []


def test_fewer_than_five_epochs_write_every_file(brackets, tmp_path):
    run(brackets, tmp_path / "det", epoch=1)
    assert sorted(os.listdir(tmp_path / "det" / "model")) == ["best.pth", "latest.pth"]
    assert os.listdir(tmp_path / "det" / "image") == ["1.png"]


def cases(brackets, tmp_path):
    """Name, options that replace good ones, and what the message names."""
    (tmp_path / "empty").mkdir()
    (tmp_path / "file").write_text("x")
    foreign = tmp_path / "foreign.pth"
    torch.save({"model": {}, "loss": []}, foreign)
    yield "folder missing", {"folder": tmp_path / "none"}, f"{tmp_path / 'none'}: No such file"
    yield "folder empty", {"folder": tmp_path / "empty"}, f"{tmp_path / 'empty'}: has no sub-folder"
    yield "folder is a file", {"folder": tmp_path / "file"}, f"{tmp_path / 'file'}: Not a directory"
    yield "val_folder", {"val_folder": tmp_path / "empty"}, f"{tmp_path / 'empty'}: has no sub-fo"
    yield "det", {"det": tmp_path / "file" / "x"}, f"{tmp_path / 'file'}"
    yield "resume missing", {"resume": tmp_path / "no.pth"}, f"{tmp_path / 'no.pth'}: No such file"
    yield "resume no checkpoint", {"resume": tmp_path / "file"}, f"{tmp_path / 'file'}: "
    yield "resume foreign", {"resume": foreign}, f"{foreign}: training cannot resume from it"
    yield "init missing", {"init": tmp_path / "no.pth"}, f"{tmp_path / 'no.pth'}: No such file"
    other = tmp_path / "other.pth"
    torch.save({"model": DeepFuse().state_dict()}, other)
    message = f"{other}: holds another network than the one to train"
    yield "init of another network", {"init": other, "network": "pyramid"}, message
    for flag, value in (("loss", "global"), ("scales", 1), ("luminance_weight", 5)):
        message = f"--{flag}: not for --network between"
        yield f"{flag} of between", {"network": "between", flag: value}, message
    message = "--loss global is defined for pairs"
    yield "stacks", {"stacks": 0.5, "loss": "global"}, message
    message = "a batch needs 4 scenes, and there are 3"
    yield "batch larger than the data", {"batch_size": 4}, message
    message = "crops of 100 pixels are larger than all scenes"
    yield "large crops", {"crop_size": 100}, message
    write_bracket(tmp_path / "nan" / "scene")
    pixels = np.full((96, 120, 3), np.nan, np.float32)
    nan = tmp_path / "nan" / "scene" / "4.tif"
    cv2.imwrite(str(nan), pixels)
    yield "NaN", {"folder": tmp_path / "nan"}, f"{nan}: has pixels that are not finite numbers"
    yield "device", {"device": "cuda:99"}, "device cuda:99: not available"


def test_mistakes_get_one_line(brackets, tmp_path, capsys):
    for name, changes, message in cases(brackets, tmp_path):
        argv = arguments(brackets, **{"det": tmp_path / "det", "epoch": 1, **changes})
        assert train.main(argv) == 2, name
        err = capsys.readouterr().err
        assert err.startswith(f"train.py: {message}"), (name, err)
        assert err.count("\n") == 1, (name, err)
        assert not (tmp_path / "det").exists(), name


def test_resuming_another_run_is_refused(brackets, tmp_path, capsys):
    det = tmp_path / "det"
    run(brackets, det, epoch=1)
    latest = det / "model" / "latest.pth"
    for flags, message in [
        (["--batch_norm"], "was trained with --batch_norm False, not True"),
        (["--batch_size", "3"], "was trained with --batch_size 2, not 3"),
        (["--lr", "0.1"], "was trained with --lr 0.002, not 0.1"),
        (["--folder", str(brackets), str(brackets)], "was trained on 3 scenes, now there are 6"),
        (["--lr", "0.1", "--seed", "5"], "was trained with --seed 0, not 5; --lr 0.002, not 0.1"),
    ]:
        argv = arguments(brackets, det, epoch=2, resume=latest)
        assert train.main([*argv, *flags]) == 2
        err = capsys.readouterr().err
        assert err.startswith(f"train.py: {latest}: {message}")
        assert err.count("\n") == 1
    damaged = load_checkpoint(str(latest))
    damaged["optimizer"] = {}
    torch.save(damaged, latest)
    assert train.main(arguments(brackets, det, epoch=2, resume=latest)) == 2
    assert "its state of training does not fit" in capsys.readouterr().err


def test_a_run_of_an_earlier_version_is_resumed(brackets, tmp_path, capsys):
    """It lacks the options that were not there yet, which are as they are by default."""
    det = tmp_path / "det"
    run(brackets, det, epoch=1)
    latest = det / "model" / "latest.pth"
    checkpoint = load_checkpoint(str(latest))
    for name in ("widen", "draws", "loss_power", "optimizer"):
        del checkpoint["options"][name]
    torch.save(checkpoint, latest)
    argv = arguments(brackets, det, epoch=2, resume=latest)
    assert train.main([*argv, "--optimizer", "muon"]) == 2
    assert "was trained with --optimizer adam, not muon" in capsys.readouterr().err
    assert train.main(argv) == 0
    assert load_checkpoint(str(latest))["epoch"] == 2


def test_resuming_in_other_processes_is_refused(brackets, tmp_path, capsys):
    """The batches, and so the steps of an epoch, would be others."""
    det = tmp_path / "det"
    run(brackets, det, epoch=1)
    latest = det / "model" / "latest.pth"
    checkpoint = load_checkpoint(str(latest))
    checkpoint["run"]["processes"] = 2
    torch.save(checkpoint, latest)
    assert train.main(arguments(brackets, det, epoch=2, resume=latest)) == 2
    assert "was trained with 2 process(es), not 1" in capsys.readouterr().err


def test_validation_pictures_are_checked_before_training(brackets, tmp_path, capsys):
    write_bracket(tmp_path / "val" / "scene")
    second = str(tmp_path / "val" / "scene" / "3.png")
    for height, reason in ((50, "differ in size"), (40, "needs pictures of at least 41")):
        utils.write_image(second, utils.read_image(second)[:height])
        if height == 40:
            first = str(tmp_path / "val" / "scene" / "1.png")
            utils.write_image(first, utils.read_image(first)[:height])
        argv = arguments(brackets, tmp_path / "det", epoch=1, val_folder=tmp_path / "val")
        assert train.main(argv) == 2
        err = capsys.readouterr().err
        assert second in err
        assert reason in err
    assert not (tmp_path / "det").exists()


@pytest.mark.parametrize(
    "flags",
    [["--epoch", "0"], ["--batch_size", "-1"], ["--crop_size", "x"], ["--lr", "nan"], ["--bogus"]],
)
def test_bad_flags_get_one_line(flags, capsys):
    with pytest.raises(SystemExit) as caught:
        train.main(["--folder", "x", *flags])
    assert caught.value.code == 2
    err = capsys.readouterr().err
    assert flags[0] in err
    assert err.count("\n") == 1


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU")
def test_training_on_cuda(brackets, tmp_path):
    losses = run(brackets, tmp_path / "det", epoch=40, device="cuda", precision="auto")["loss"]
    assert sum(losses[-5:]) < 0.5 * sum(losses[:5])


def test_a_restarted_run_resumes_its_own_checkpoint(tmp_path):
    """Not that of an earlier run in the same folder."""
    options = TrainOptions().parse(["--folder", "x", "--det", str(tmp_path)])
    processes = Processes("cpu")
    processes.attempt = 1
    assert train.with_restart(options, processes).resume is None
    (tmp_path / "model").mkdir()
    latest, record = tmp_path / "model" / "latest.pth", tmp_path / "run.json"
    latest.touch()
    ours, another = os.getppid(), os.getppid() + 1
    for launcher, age, resumed in (
        (ours, 60, None),
        (ours, -60, str(latest)),
        (another, -60, None),
        ("damaged", -60, None),
    ):
        record.write_text(f'{{"launcher": {launcher}}}')
        os.utime(latest, (time.time() - age,) * 2)
        assert train.with_restart(options, processes).resume == resumed
    record.write_text(f'{{"launcher": {ours}}}')
    os.utime(latest, (time.time() + 60,) * 2)
    processes.attempt = 0
    assert train.with_restart(options, processes).resume is None
    assert options.resume is None


def test_another_run_does_not_overwrite_checkpoints(brackets, tmp_path, capfd):
    det = tmp_path / "det"
    run(brackets, det, epoch=1)
    before = {name: (det / "model" / name).read_bytes() for name in ("latest.pth", "best.pth")}
    run(brackets, det, epoch=2, resume=det / "model" / "latest.pth")
    assert capfd.readouterr().err == ""
    after = {name: (det / "model" / name).read_bytes() for name in before}
    assert after != before
    run(brackets, det, epoch=1, seed=1)
    assert capfd.readouterr().err.count(": of another run; kept as ") == 2
    for name, data in after.items():
        assert (det / "model" / f"former_{name}").read_bytes() == data


def test_a_figure_that_cannot_be_written_costs_no_epoch(brackets, tmp_path, capfd):
    det = tmp_path / "det"
    (det / "image" / "2.png").mkdir(parents=True)
    assert train.main(arguments(brackets, det, epoch=3, record_epoch=2)) == 2
    assert "2.png: is a folder" in capfd.readouterr().err
    assert load_checkpoint(str(det / "model" / "latest.pth"))["epoch"] == 2


def test_a_lack_of_memory_gets_one_line(brackets, tmp_path, capfd):
    assert train.main(arguments(brackets, tmp_path / "det", epoch=1, width=10**9)) == 2
    err = capfd.readouterr().err
    assert err.startswith("train.py: not enough memory: ")
    assert err.count("\n") == 1


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_a_worker_that_is_killed_gets_one_line(brackets, tmp_path):
    det = tmp_path / "det"
    argv = arguments(brackets, det, epoch=100000, workers=1)
    with subprocess.Popen(
        [sys.executable, str(ROOT / "train.py"), *argv], stderr=subprocess.PIPE, text=True
    ) as process:
        while not (det / "model" / "latest.pth").exists():
            assert process.poll() is None
            time.sleep(0.1)
        children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
        for child in children:
            os.kill(int(child), signal.SIGKILL)
        status = process.wait(60)
        err = process.stderr.read()
    assert status == 1, err
    assert err.startswith("train.py: a process that prepares crops has ended")
    assert err.count("\n") == 1


@pytest.mark.parametrize("error", [ConnectionResetError(104, "reset"), EOFError()])
def test_a_worker_whose_connection_ends_first_is_said_to_have_ended(
    brackets, tmp_path, monkeypatch, capfd, error
):
    def ends(processes, options):
        raise error

    monkeypatch.setattr(train, "train_in", ends)
    assert train.main(arguments(brackets, tmp_path / "det")) == 1
    assert "a process that prepares crops has ended" in capfd.readouterr().err


def test_exposures_are_validated_on_grey_pictures_too(tmp_path):
    """Of several depths: the darkest exposure is the one that looks darkest."""
    for name in ("a", "b"):
        write_bracket(tmp_path / "data" / name)
    paths = write_bracket(tmp_path / "val" / "c")
    for k, path in enumerate(paths):
        grey = utils.read_image(str(path))[..., 1]
        utils.write_image(str(path), utils.as_type(grey, np.uint16) if k == 0 else grey)
    options = {"network": "between", "width": 8, "epoch": 1, "val_folder": tmp_path / "val"}
    state = run(tmp_path / "data", tmp_path / "det", val_epoch=1, **options)
    assert 0.3 < state["val"][1] < 1


@pytest.mark.parametrize(
    ("val", "validated", "best"),
    [
        ({}, False, True),  # the last epoch of a run without scores
        ({}, True, False),
        ({2: 0.9, 4: 0.95}, True, True),
        ({2: 0.95, 4: 0.9}, True, False),
        ({4: 0.9}, True, True),
        ({2: 0.9}, True, False),
    ],
)
def test_the_best_epoch(val, validated, best):
    assert train.is_best(State(epoch=4, val=val), 4, validated) == best
    if not val:
        assert not train.is_best(State(epoch=3), 4, validated)


def test_a_restart_that_finds_nothing_to_resume_is_recorded(brackets, tmp_path, monkeypatch):
    """The first attempt may end before it has left anything; the third resumes the second."""
    monkeypatch.setenv("TORCHELASTIC_RESTART_COUNT", "1")
    run(brackets, tmp_path, epoch=1)
    assert train.launcher_of(tmp_path / "run.json") == os.getppid()
