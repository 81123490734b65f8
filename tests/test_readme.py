"""The commands of README.md and the documents, run as they stand on small data.

A document's blocks run from top to bottom in one folder, as a reader would run them.
"""

import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from conftest import released_weights, write_bracket
from dng import write_dng

import evaluate
import export
import inference
import train
import utils
from portable import PARTS, onnx_beside

ROOT = Path(__file__).parent.parent
DOCUMENTS = ("README.md", *(f"docs/{p.name}" for p in sorted((ROOT / "docs").glob("*.md"))))
DOCUMENTS += ("weights/README.md",)
SCRIPTS = {
    "train.py": train,
    "inference.py": inference,
    "evaluate.py": evaluate,
    "export.py": export,
}
# Later flags win over earlier ones: these cut the commands that begin so.
SHORT = {
    "train.py": ["--epoch", "1", "--crop_size", "48", "--workers", "0", "--quiet"],
    "benchmarks/folder.py": ["--count", "2", "--size", "0.1", "--large", "0.5"],
    "benchmarks/inference.py": ["--sizes", "0.05", "--repeat", "1", "--methods", "photo"],
    "benchmarks/timelapse.py": ["--count", "3"],
    "export.py --model": ["--side", "100"],
    "benchmarks/training.py": ["--crop_size", "48", "--batch_size", "2", "--steps", "3"],
}
# test_train.py, .ci/run, and what needs a network
ELSEWHERE = ("torchrun", "python3", "pip", ".venv/bin/pip", ".venv/bin/python", "git")


def blocks(document):
    """All code blocks of a document: (language, text), from top to bottom."""
    text = (ROOT / document).read_text()
    return re.findall(r"^```(bash|python)\n(.*?)^```", text, re.M | re.S)


def commands(text):
    """The commands of a bash block, as lists of words."""
    for line in text.splitlines():
        yield from (shlex.split(part) for part in line.split("&&"))


def all_commands(document):
    return [words for kind, text in blocks(document) if kind == "bash" for words in commands(text)]


def values_of(flag, words):
    """The words between a flag and the next one."""
    if flag not in words:
        return []
    rest = words[words.index(flag) + 1 :]
    end = next((i for i, word in enumerate(rest) if word.startswith("--")), len(rest))
    return rest[:end]


def furnish(folder, document):
    """Makes what the document's commands expect to find: samples, brackets, results, weights."""
    shutil.copytree(ROOT / "samples", folder / "samples")
    (folder / "docs" / "images").mkdir(parents=True)
    pair = [utils.read_image(str(ROOT / "samples" / f"{name}.jpg")) for name in ("under", "over")]
    dark, bright = (image[::2, ::2] for image in pair)
    pictures = {"dark": dark, "middle": dark // 2 + bright // 2, "bright": bright}
    for name, image in pictures.items():
        utils.write_image(str(folder / f"{name}.jpg"), image)
    everything = all_commands(document)
    made = [word for words in everything if words[0] == "mkdir" for word in words[1:]]
    made += [word for words in everything for word in values_of("--save", words)]
    for words in everything:
        for name in (*values_of("--folder", words), *values_of("--val_folder", words)):
            if not any(word.startswith(name) for word in made):
                furnish_brackets(folder / name, 16 if "train.py" in words else 2)
        for name in values_of("--fused", words) + values_of("--reference", words):
            results = name.partition("=")[2] or name
            if not results.startswith(tuple(made)):
                (folder / results).mkdir(parents=True, exist_ok=True)
                source = folder / values_of("--folder", words)[0]
                for scene in ("scene0", "scene1"):
                    shutil.copy(source / scene / "1.png", folder / results / f"{scene}.png")
        for name in words:
            if name.endswith(".pth") and not name.startswith("train_result"):
                (folder / name).parent.mkdir(parents=True, exist_ok=True)
                trained = (kind for kind in ("pyramid", "between") if kind in name)
                network = next(trained, "deepfuse")
                shutil.copy(ROOT / "weights" / f"{network}.pth", folder / name)
            if name.endswith(".dng"):
                write_dng(folder / name, pictures["dark"] / 255)
            if name.endswith(".npz"):
                np.savez(folder / name, **released_weights())


def furnish_brackets(folder, count):
    for number in range(count):
        if not (folder / f"scene{number}").exists():
            write_bracket(folder / f"scene{number}", height=150, width=200, seed=number)


@pytest.fixture(scope="module")
def workplaces(tmp_path_factory):
    """The folder in which a document's commands are run, made when it is asked for."""
    known = {}

    def workplace(document):
        if document not in known:
            known[document] = tmp_path_factory.mktemp("workplace")
            furnish(known[document], document)
        return known[document]

    return workplace


def run(words):
    """Runs a command: our scripts in this process, other ones as they stand."""
    # test_demo.py and test_collect.py test these
    if words[0] in ELSEWHERE or words[1:] == ["demo.py"] or words[1] == "collect.py":
        return
    if words[0] != "python":
        subprocess.run(words, check=True)
        return
    script, arguments = words[1], words[2:]
    for start, flags in SHORT.items():
        if " ".join(words[1:]).startswith(start):
            arguments = [*arguments, *flags]
    if script in SCRIPTS:
        assert SCRIPTS[script].main(arguments) == 0
    else:
        subprocess.run([sys.executable, str(ROOT / script), *arguments], check=True)
    for flag in ("--res", "--csv", "--sheet"):
        for name in values_of(flag, arguments):
            parts = PARTS if "--layers" in arguments else ()
            for path in [onnx_beside(name, part) for part in parts] or [name]:
                assert Path(path).stat().st_size > 0


CASES = [
    pytest.param(document, number, id=f"{document}-{number}", marks=pytest.mark.slow)
    for document in DOCUMENTS
    for number in range(len(blocks(document)))
]


@pytest.mark.parametrize(("document", "number"), CASES)
def test_block_works(document, number, workplaces, monkeypatch):
    monkeypatch.chdir(workplaces(document))
    kind, text = blocks(document)[number]
    if kind == "python":
        exec(compile(text, document, "exec"), {})
        return
    for words in commands(text):
        run(words)


def test_every_script_is_shown():
    """Documents without commands, or a changed way of writing them, would test nothing."""
    shown = {words[1] for document in DOCUMENTS for words in all_commands(document) if words[1:]}
    scripts = {f"benchmarks/{path.name}" for path in (ROOT / "benchmarks").glob("*.py")}
    assert shown >= {*SCRIPTS, *scripts, "docs/side_by_side.py"}


@pytest.mark.parametrize("document", [*DOCUMENTS, "CONTRIBUTING.md", "CHANGELOG.md"])
def test_links_lead_somewhere(document):
    """Links to files, and to headings, as GitHub makes their anchors."""
    text = (ROOT / document).read_text()
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        if target.startswith("http"):
            continue
        name, _, heading = target.partition("#")
        path = (ROOT / document).parent / name if name else ROOT / document
        assert path.exists(), target
        if heading:
            heads = re.findall(r"^#+ (.*)$", path.read_text(), re.M)
            anchors = [re.sub(r"[^\w\- ]", "", head.lower()).replace(" ", "-") for head in heads]
            assert heading in anchors, target


def test_readme_is_short():
    assert len((ROOT / "README.md").read_bytes()) <= 11 * 1024
