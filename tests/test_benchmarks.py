"""The benchmark runs; what it measures is not asserted."""

import csv
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent


def test_benchmark_of_inference(tmp_path):
    table = tmp_path / "benchmark.csv"
    methods = ["luma: earlier way", "luma: full, auto", "fast", "MergeMertens"]
    command = [sys.executable, ROOT / "benchmarks" / "inference.py", "--sizes", "0.05"]
    command += ["--repeat", "1", "--csv", table, "--methods", *methods]
    subprocess.run(command, check=True)
    with open(table, newline="") as file:
        rows = list(csv.DictReader(file))
    names = [row["method"] for row in rows]
    assert names[: len(methods)] == methods
    assert "command: inference.py --fast" in names
    assert all(float(row["seconds"]) > 0 for row in rows)
    assert all(float(row["peak MB"]) > 100 for row in rows[: len(methods)])
