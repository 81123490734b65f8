"""The benchmark runs; what it measures is not asserted."""

import csv
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import with_torch, write_bracket

ROOT = Path(__file__).parent.parent
pytestmark = pytest.mark.slow


@with_torch
def test_benchmark_of_inference(tmp_path):
    table = tmp_path / "benchmark.csv"
    methods = ["luma: full, auto", "photo"]
    command = [sys.executable, ROOT / "benchmarks" / "inference.py", "--sizes", "0.05"]
    command += ["--repeat", "1", "--csv", table, "--methods", *methods]
    subprocess.run(command, check=True)
    with open(table, newline="") as file:
        rows = list(csv.DictReader(file))
    names = [row["method"] for row in rows]
    assert names[: len(methods)] == methods
    assert "command: inference.py --look paper" in names
    assert all(float(row["seconds"]) > 0 for row in rows)
    assert all(float(row["peak MB"]) > 20 for row in rows[: len(methods)])


@with_torch
def test_benchmark_of_alignment(tmp_path):
    for seed in range(2):
        write_bracket(tmp_path / str(seed), height=200, width=300, seed=seed)
    command = [sys.executable, ROOT / "benchmarks" / "alignment.py", "--folder", tmp_path]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    lines = {line.split("  ")[0]: line.split() for line in done.stdout.splitlines()}
    assert lines["align.py"][1] == lines["AlignMTB"][1] == "4"
    assert float(lines["align.py"][2]) < float(lines["AlignMTB"][2])
    for place in ("another", "the middle"):
        assert sum(line.startswith(f"object in {place} exposure: ") for line in lines) == 1


@with_torch
def test_benchmark_of_tone(tmp_path):
    (tmp_path / "renditions").mkdir()
    for seed in range(3):
        files = write_bracket(tmp_path / "scenes" / str(seed), height=100, width=120, seed=seed)
        shutil.copy(files[1], tmp_path / "renditions" / f"{seed}.png")
    command = [sys.executable, ROOT / "benchmarks" / "tone.py", "--folder", tmp_path / "scenes"]
    command += ["--reference", tmp_path / "renditions"]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    found = [float(line.split()[-1]) for line in done.stdout.splitlines()[1:4]]
    own, best, cross_validated = found
    assert best >= own > 10
    assert best >= cross_validated


def test_benchmark_of_panoramas():
    command = [sys.executable, ROOT / "benchmarks" / "panorama.py", "--scenes", "room"]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    overlap, alike, step, joined = map(float, done.stdout.splitlines()[1].split()[1:])
    assert alike < 0.6 < overlap
    assert joined < 0.1 < step


@with_torch
def test_benchmark_of_training():
    command = [sys.executable, ROOT / "benchmarks" / "training.py", "--crop_size", "48"]
    command += ["--batch_size", "2", "--steps", "3", "--workers", "0"]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    lines = done.stdout.splitlines()
    assert lines[1].startswith("earlier way ")
    assert lines[2].startswith("train.py, float32 ")
    assert float(lines[2].split()[-2]) > 0


def test_benchmark_of_texture(tmp_path):
    for seed in range(2):
        write_bracket(tmp_path / str(seed), height=200, width=300, seed=seed)
    command = [sys.executable, ROOT / "benchmarks" / "texture.py", "--folder", tmp_path]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    rows = [line.split() for line in done.stdout.splitlines()[1:]]
    assert rows
    assert all(0.3 < float(ratio) < 3 for row in rows for ratio in row[1:5])
