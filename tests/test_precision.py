"""Which number type is taken, and by whom."""

import pytest
import torch
from conftest import write_bracket

import checkpoint
import inference
import precision
import train
from opts import TrainOptions
from precision import choose_precision, fastest, layer_seconds, precision_note
from ranks import Processes

CPU = torch.device("cpu")


@pytest.mark.parametrize(
    ("float32", "bfloat16", "expected"),
    [
        (2.0, 1.0, torch.bfloat16),
        (1.0, 2.0, torch.float32),  # instructions for bfloat16, and slower in it all the same
        (1.05, 1.0, torch.float32),  # not worth its rounding
    ],
)
def test_auto_is_the_type_that_was_fast(float32, bfloat16, expected):
    assert fastest({torch.float32: float32, torch.bfloat16: bfloat16}) is expected


def test_types_are_measured_on_this_machine():
    seconds = layer_seconds()
    assert torch.float32 in seconds
    assert len(seconds) == 1 or all(0 < value < 10 for value in seconds.values())
    assert choose_precision("auto", CPU) is fastest(seconds)
    assert choose_precision("float16", CPU) is torch.float16


def test_the_choice_is_said_with_its_reason(monkeypatch, tmp_path, capfd):
    measured = {torch.float32: 0.002, torch.bfloat16: 0.001}
    monkeypatch.setattr(precision, "layer_seconds", lambda: measured)
    expected = "computes in bfloat16, because a layer took 2.0 ms in float32, 1.0 ms in bfloat16"
    assert precision_note("auto", CPU) == expected
    assert precision_note("float32", CPU) == "computes in float32"
    paths = write_bracket(tmp_path / "scene")
    flags = ["--images", *map(str, paths), "--look", "paper"]
    flags += ["--res", str(tmp_path / "x.png"), "--device", "cpu", "--verbose"]
    assert inference.main(flags) == 0
    assert f"deepfuse.pth: {expected}" in capfd.readouterr().err


def test_a_resumed_run_keeps_its_type(brackets, tmp_path, monkeypatch):
    """Also where another one is faster; --precision itself still changes it."""
    flags = ["--folder", str(brackets), "--det", str(tmp_path), "--crop_size", "48", "--quiet"]
    flags += [
        "--epoch",
        "1",
        "--batch_size",
        "2",
        "--workers",
        "0",
        "--device",
        "cpu",
        "--warmup",
        "2",
    ]
    assert train.main([*flags, "--precision", "bfloat16"]) == 0
    latest = str(tmp_path / "model" / "latest.pth")
    assert checkpoint.load_checkpoint(latest)["precision"] == "bfloat16"
    monkeypatch.setattr(precision, "layer_seconds", lambda: {torch.float32: 1.0})
    before = checkpoint.load_checkpoint(latest)
    for choice, expected in (("auto", torch.bfloat16), ("float32", torch.float32)):
        options = TrainOptions().parse([*flags, "--resume", latest, "--precision", choice])
        learner = train.make_learner(options, Processes("cpu"))
        assert learner.dtype is expected
    options.precision = "auto"
    for unknown in (None, "rand"):  # of an earlier version, and of nobody
        noted = {**before, "precision": unknown}
        assert train.training_precision(options, noted, Processes("cpu")) is torch.float32
