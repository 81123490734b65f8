"""Training survives being killed at any moment. Run as a script for many kills: it takes minutes.

A short run is killed (SIGKILL) again and again and resumed each time, at random moments and within
checkpoint writes. Every latest.pth must load, no epoch that was finished may be lost, and what
comes out at last must be, bit by bit, what an uninterrupted run gives.
"""

import argparse
import functools
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT))

from conftest import write_bracket  # noqa: E402

from checkpoint import load_checkpoint  # noqa: E402


def kill_often(folder, kills, epochs, seed=0):
    """Trains to the end whatever happens. Returns how many kills hit and how many in a write."""
    data, val = folder / "data", folder / "val"
    for number in range(4):
        write_bracket(data / f"scene{number}", seed=number)
    write_bracket(val / "scene", height=50, width=50, seed=9)
    flags = ["--folder", data, "--val_folder", val, "--val_epoch", 2, "--crop_size", 48]
    flags += ["--batch_size", 2, "--workers", 1, "--device", "cpu", "--epoch", epochs, "--quiet"]
    flags += ["--ema", 0.9, "--noise", 0.02, "--cache", folder / "cache", "--record_epoch", 3]

    def command(det, *more):
        return [sys.executable, *map(str, [ROOT / "train.py", *flags, "--det", det, *more])]

    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    subprocess.run(command(folder / "whole"), check=True, env=environment)
    whole = load_checkpoint(str(folder / "whole" / "model" / "latest.pth"))
    dice = random.Random(seed)
    det = folder / "killed"
    latest = det / "model" / "latest.pth"
    hits = in_writes = reached = 0
    while True:
        resume = ["--resume", latest] if latest.exists() else []
        process = subprocess.Popen(command(det, *resume), env=environment)
        if hits < kills:
            # Start-up takes seconds; the moment is drawn from when training is under way.
            wait_for(process, functools.partial(has_begun, det, process.pid))
            if dice.random() < 0.5:
                wait_for(process, lambda: list((det / "model").glob("latest.pth.tmp*")))
            else:
                time.sleep(dice.random() * 0.5)
            if process.poll() is None:
                process.send_signal(signal.SIGKILL)
                process.wait()
                hits += 1
                in_writes += any((det / "model").glob("*.tmp*"))
        if process.wait() == 0:
            break
        if latest.exists():
            epoch = load_checkpoint(str(latest))["epoch"]
            assert epoch >= reached, f"epoch {reached} is lost"
            reached = epoch
    compare(folder, whole)
    assert not list((det / "model").glob("*.tmp*"))
    return hits, in_writes


def has_begun(det, pid):
    """Whether a process has begun training: it has written log.csv since it was started."""
    log = det / "log.csv"
    boot = time.time() - time.clock_gettime(time.CLOCK_BOOTTIME)
    return log.exists() and log.stat().st_mtime > boot + start_time(pid)


def start_time(pid):
    """Seconds after boot at which a process was started."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return int(fields[19]) / os.sysconf("SC_CLK_TCK")


def wait_for(process, condition, seconds=60):
    end = time.monotonic() + seconds
    while not condition() and process.poll() is None and time.monotonic() < end:
        time.sleep(0.0005)


def compare(folder, whole):
    killed = load_checkpoint(str(folder / "killed" / "model" / "latest.pth"))
    for key in ("epoch", "loss", "val"):
        assert killed[key] == whole[key], key
    for part in ("model", "trained"):
        for key, value in whole[part].items():
            assert torch.equal(value, killed[part][key]), (part, key)
    best = [load_checkpoint(str(folder / d / "model" / "best.pth")) for d in ("whole", "killed")]
    assert best[0]["epoch"] == best[1]["epoch"]
    lines = [(folder / d / "log.csv").read_text().splitlines() for d in ("whole", "killed")]
    columns = [[line.split(",")[:4] for line in part] for part in lines]  # less the seconds
    assert columns[0] == columns[1]


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=30)
    parser.add_argument("--epochs", type=int, default=60)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        hits, in_writes = kill_often(Path(folder), options.kills, options.epochs)
    print(f"{hits} kills, {in_writes} of them within a checkpoint's write: nothing lost")
