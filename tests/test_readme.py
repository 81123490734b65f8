"""The README's commands, run as they stand on small data."""

import re
import shlex
import shutil
from pathlib import Path

import pytest
from conftest import write_bracket

import evaluate
import inference
import train
import utils

ROOT = Path(__file__).parent.parent
SCRIPTS = {"train.py": train, "inference.py": inference, "evaluate.py": evaluate}
README = (ROOT / "README.md").read_text()


def commands():
    """Every line of a code block that runs one of the scripts: (script, arguments)."""
    for block in re.findall(r"^```bash\n(.*?)^```", README, re.M | re.S):
        for line in block.replace("\\\n", " ").splitlines():
            for part in line.split("&&"):
                words = shlex.split(part, comments=True)
                if len(words) > 1 and words[1] in SCRIPTS:
                    yield words[1], words[2:]


def test_every_script_is_shown():
    assert {script for script, _ in commands()} == set(SCRIPTS)


@pytest.fixture
def workplace(tmp_path, monkeypatch):
    """A folder where the names that the README's commands use exist."""
    shutil.copytree(ROOT / "samples", tmp_path / "samples")
    for script, arguments in commands():
        for flag in ("--folder", "--val_folder"):
            if flag in arguments:
                for name in paths_after(flag, arguments):
                    if not (tmp_path / name).exists():
                        write_bracket(tmp_path / name / "scene", seed=1)
                        write_bracket(tmp_path / name / "other", seed=2)
                        if script == "train.py" and flag == "--folder":  # as many as a batch
                            for number in range(14):
                                write_bracket(tmp_path / name / f"more{number}", seed=number)
        if "--fused" in arguments:
            for name in paths_after("--fused", arguments):
                results = tmp_path / name.partition("=")[2]
                results.mkdir(parents=True)
                for scene in ("scene", "other"):
                    shutil.copy(tmp_path / "MEFB/input" / scene / "1.png", results / f"{scene}.png")
    pair = [utils.read_image(str(ROOT / "samples" / f"{name}.jpg")) for name in ("under", "over")]
    pair = [image[::2, ::2] for image in pair]
    middle = (pair[0] // 2) + (pair[1] // 2)
    for name, image in zip(("dark", "middle", "bright"), (pair[0], middle, pair[1]), strict=True):
        utils.write_image(str(tmp_path / f"{name}.jpg"), image)
    for _, arguments in commands():
        for name in arguments:
            if name.endswith(".pth"):
                (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
                network = "pyramid" if "pyramid" in name else "deepfuse"
                shutil.copy(ROOT / "weights" / f"{network}.pth", tmp_path / name)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def paths_after(flag, arguments):
    rest = arguments[arguments.index(flag) + 1 :]
    end = next((i for i, word in enumerate(rest) if word.startswith("--")), len(rest))
    return rest[:end]


@pytest.mark.parametrize(("script", "arguments"), list(commands()))
def test_command_works(script, arguments, workplace):
    if script == "train.py":
        # The same command, cut short: later flags win over earlier ones.
        if "--resume" in arguments:
            position = arguments.index("--resume")
            short = ["--epoch", "1", "--crop_size", "48", "--workers", "0", "--quiet"]
            start = arguments[:position] + arguments[position + 2 :]
            assert train.main([*start, *short]) == 0
        arguments = [*arguments, "--epoch", "2", "--crop_size", "48", "--quiet"]
    assert SCRIPTS[script].main(arguments) == 0
    for flag in ("--res", "--csv", "--sheet"):
        if flag in arguments:
            assert (workplace / arguments[arguments.index(flag) + 1]).stat().st_size > 0


def test_python_works(workplace):
    (block,) = re.findall(r"^```python\n(.*?)^```", README, re.M | re.S)
    exec(compile(block, "README.md", "exec"), {})
    assert utils.read_image("fused.png").shape == utils.read_image("samples/under.jpg").shape
