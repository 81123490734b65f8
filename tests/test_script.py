"""Settings of the process that runs a script."""

import argparse
import os
import subprocess
import sys
from pathlib import Path

import pytest

import script
from opts import number

ROOT = Path(__file__).parent.parent


def test_a_missing_package_gets_one_line(capsys):
    def work(_):
        raise ModuleNotFoundError("No module named 'torch'", name="torch")

    def mistake(_):
        import torsh  # noqa: F401

    assert script.run("inference.py", work, argparse.Namespace()) == 2
    expected = "inference.py: needs torch: pip install -r requirements.txt\n"
    assert capsys.readouterr().err == expected
    with pytest.raises(ModuleNotFoundError, match="torsh"):
        script.run("inference.py", mistake, argparse.Namespace())


@pytest.mark.parametrize("own", [{"GOMP_SPINCOUNT": "7"}, {"OMP_WAIT_POLICY": "active"}])
def test_a_users_own_setting_of_openmp_is_kept(monkeypatch, own):
    monkeypatch.setattr(os, "environ", {})
    script.limit_spinning()
    assert os.environ == {"GOMP_SPINCOUNT": str(script.SPINS)}
    monkeypatch.setattr(os, "environ", dict(own))
    script.limit_spinning()
    assert os.environ == own


@pytest.fixture
def without_torch(tmp_path):
    """The environment of programs that do not find PyTorch."""
    (tmp_path / "sitecustomize.py").write_text(
        "import sys\nsys.modules.update(dict.fromkeys(('torch', 'torchvision', 'matplotlib')))\n"
    )
    return {**os.environ, "PYTHONPATH": str(tmp_path)}


@pytest.mark.parametrize("name", ["train", "evaluate", "export", "inference", "demo", "collect"])
def test_help_is_answered_without_pytorch(name, without_torch):
    command = [sys.executable, ROOT / f"{name}.py", "--help"]
    done = subprocess.run(command, env=without_torch, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert f"usage: {name}.py" in done.stdout


@pytest.mark.parametrize(
    ("name", "flags"),
    [
        ("train", ["--folder", "samples"]),
        ("evaluate", ["--folder", "samples"]),
        ("export", ["--res", "x.onnx"]),
        ("inference", ["--images", "samples/square/0.jpg", "samples/square/1.jpg", "--look=paper"]),
    ],
)
def test_scripts_say_that_pytorch_is_missing(name, flags, without_torch):
    command = [sys.executable, f"{name}.py", *flags]
    done = subprocess.run(command, env=without_torch, capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 2
    assert done.stderr == f"{name}.py: needs torch: pip install -r requirements.txt\n"


@pytest.mark.parametrize("text", ["9" * 400, "-" + "9" * 400, "1e999", "nan", "x", ""])
@pytest.mark.parametrize("kind", [int, float])
def test_what_is_no_number_in_range(text, kind):
    with pytest.raises(argparse.ArgumentTypeError, match="in 0 to 7"):
        number(kind, 0, 7)(text)
