"""The house: which file may import which, one name for one thing, docstrings that can be read once.

`python -m pytest tests/test_house.py -k floor -s` prints the floors with their rooms.
"""

import ast
import re
import subprocess
import sys
from collections import defaultdict
from pathlib import Path

import pytest
from conftest import with_torch

ROOT = Path(__file__).parent.parent
# Files import files of lower floors alone, so that no circle is possible.
FLOORS = (
    ("opts", "script", "machine", "arrays", "tiles", "headers", "muon", "processes", "maker_notes"),
    ("metadata", "colour", "windows", "pyramid", "integers", "precision"),
    ("raw", "decoders", "carried"),
    ("utils", "loss", "portable"),
    ("ghosts", "between", "finish"),
    ("model",),
    ("earlier", "align", "scores", "brackets", "blind", "checkpoint"),
    ("upsample", "ranks"),
    ("fusion", "dataset", "gain_map"),
    ("photos", "engine", "grouping", "cluster"),
    ("task",),
    ("train", "inference", "evaluate", "export", "demo", "collect", "hubconf"),
)
FLOOR = {room: number for number, floor in enumerate(FLOORS) for room in floor}
TREES = {room: ast.parse((ROOT / f"{room}.py").read_text()) for room in FLOOR}
FUNCTIONS = ast.FunctionDef | ast.ClassDef
# Docstrings begin with a verb or a noun. A file's first line is a question, and an exception.
NO_BEGINNINGS = ("What", "Whether", "How", "Of", "Those", "That", "As", "By", "Where", "Which")
DECODED = re.compile(rf"({'|'.join(NO_BEGINNINGS)})\b")


def imports(tree):
    """Yields the names of all modules that a file imports, also within functions."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield node.module


def rooms_below(room):
    return sorted(set(imports(TREES[room])) & set(FLOOR))


def test_every_room_has_a_floor():
    for number in reversed(range(len(FLOORS))):
        print(f"\nfloor {number}")
        for room in FLOORS[number]:
            print(f"  {room:12} {', '.join(rooms_below(room)) or '-'}")
    assert {path.stem for path in ROOT.glob("*.py")} == set(FLOOR)


@pytest.mark.parametrize("room", FLOOR)
def test_imports_go_down(room):
    upward = [other for other in rooms_below(room) if FLOOR[other] >= FLOOR[room]]
    assert not upward, f"{room}.py imports {', '.join(upward)}, which is not below it"


@with_torch
def test_fusing_a_pair_loads_neither_datasets_nor_training():
    """Nor evaluate.py torchvision. inference.py waits for PyTorch only when it has to."""
    code = """
import sys
import inference
print('torch' in sys.modules, 'PIL' in sys.modules)
import evaluate, hubconf
print({'torchvision', 'matplotlib', 'dataset', 'engine', 'train'} & set(sys.modules))
"""
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True)
    assert done.stdout == "False False\nset()\n"


def test_one_name_is_one_function():
    homes = defaultdict(list)
    for room, tree in TREES.items():
        for node in tree.body:
            if isinstance(node, FUNCTIONS) and node.name != "main":
                homes[node.name].append(room)
    assert {name: rooms for name, rooms in homes.items() if len(rooms) > 1} == {}


def test_one_name_is_one_constant():
    homes = defaultdict(set)
    for room, tree in TREES.items():
        for node in tree.body:
            for target in node.targets if isinstance(node, ast.Assign) else ():
                names = target.elts if isinstance(target, ast.Tuple) else [target]
                for name in names:
                    if isinstance(name, ast.Name) and name.id.isupper():
                        homes[name.id].add(room)
    assert {name: rooms for name, rooms in homes.items() if len(rooms) > 1} == {}


def test_a_file_begins_with_its_question():
    for room, tree in TREES.items():
        assert ast.get_docstring(tree).splitlines()[0].partition("?")[1], room


def test_docstrings_begin_with_a_verb_or_a_noun():
    for room, tree in TREES.items():
        for node in ast.walk(tree):
            if isinstance(node, FUNCTIONS):
                text = ast.get_docstring(node) or ""
                assert not DECODED.match(text), f"{room}.py: {node.name}: {text.splitlines()[0]}"


def test_public_functions_have_types_and_docstrings():
    for room, tree in TREES.items():
        for node in tree.body:
            if isinstance(node, ast.FunctionDef) and not node.name.startswith("_"):
                where = f"{room}.py: {node.name}"
                assert node.returns is not None, f"{where}: does not say what it returns"
                assert ast.get_docstring(node), f"{where}: has no docstring"


def test_no_test_imports_another():
    for path in (ROOT / "tests").glob("*.py"):
        others = [name for name in imports(ast.parse(path.read_text())) if name]
        assert not [name for name in others if name.startswith("test_")], path
