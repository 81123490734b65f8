"""A real scheduler and two workers, on this machine: nothing is lost where one is killed."""

import contextlib
import importlib.util
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from conftest import write_bracket

import cluster
import inference
import utils

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("distributed") is None, reason="needs distributed"
)
ROOT = Path(__file__).parent.parent


@contextlib.contextmanager
def processes(folder, workers=2):
    """A scheduler and its workers; yields its address and the workers' processes."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    environment["DASK_DISTRIBUTED__COMM__TIMEOUTS__CONNECT"] = "30s"
    started = []

    def start(module, *arguments):
        log = open(folder / f"{len(started)}.log", "wb")  # noqa: SIM115 - the process writes to it
        command = [sys.executable, "-m", f"distributed.cli.dask_{module}", *arguments]
        process = subprocess.Popen(command, env=environment, cwd=folder, stdout=log, stderr=log)
        started.append(process)
        return process

    try:
        start("scheduler", "--host", "127.0.0.1", "--port", "0", "--no-dashboard")
        address = wait_for(folder / "0.log", r"Scheduler at:\s+(tcp://[\d.:]+)")
        options = ["--nthreads", "1", "--no-nanny", "--no-dashboard", "--memory-limit", "0"]
        running = [start("worker", address, *options) for _ in range(workers)]
        for number in range(1, workers + 1):
            wait_for(folder / f"{number}.log", r"Registered to:\s+(\S+)")
        yield address, running
    finally:
        for process in started:
            process.kill()
            process.wait()


def wait_for(log, pattern):
    end = time.monotonic() + 60
    while time.monotonic() < end:
        found = re.search(pattern, log.read_text(errors="replace"))
        if found:
            return found[1]
        time.sleep(0.1)
    raise AssertionError(log.read_text(errors="replace"))


@pytest.fixture(scope="module")
def card(tmp_path_factory):
    """Forty brackets, one of them with a damaged file."""
    folder = tmp_path_factory.mktemp("card")
    for number in range(40):
        write_bracket(folder / f"{number:02}", 90, 120, seed=number % 7)
    (folder / "17" / "2.png").write_bytes(b"damaged")
    return folder


@pytest.mark.skipif(os.name == "nt", reason="signals are others on Windows")
def test_a_worker_that_dies_costs_nothing(card, tmp_path):
    with processes(tmp_path) as (address, workers):
        command = [sys.executable, str(ROOT / "inference.py"), "--folder", str(card)]
        command += ["--res", str(tmp_path / "out"), "--cluster", address]
        with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as program:
            end = time.monotonic() + 60
            while len(list((tmp_path / "out").glob("*_fused.jpg"))) < 5 and time.monotonic() < end:
                time.sleep(0.01)
            workers[0].send_signal(signal.SIGKILL)
            _, error = program.communicate(timeout=120)
    assert program.returncode == 1, error
    lines = error.splitlines()
    assert len(lines) == 2, error
    assert "17_fused.jpg: not made: " in lines[0]
    assert "2.png" in lines[0]
    assert lines[1] == "inference.py: 39 brackets fused, 1 failed"
    names = sorted(os.listdir(tmp_path / "out"))
    assert names == [f"{number:02}_fused.jpg" for number in range(40) if number != 17]


def test_files_are_sent_where_no_storage_is_shared(card, tmp_path):
    """The results are those of this machine, with their previews."""
    with processes(tmp_path, workers=1) as (address, _):
        few = tmp_path / "few"
        few.mkdir()
        for number in (3, 17):
            (few / str(number)).symlink_to(card / f"{number:02}")
        flags = ["--folder", str(few), "--name", "{scene}.png", "--preview", "--quiet"]
        there = ["--res", str(tmp_path / "there"), "--cluster", address, "--send_files"]
        assert inference.main([*flags, *there]) == 1
        assert inference.main([*flags, "--res", str(tmp_path / "here")]) == 1
    assert sorted(os.listdir(tmp_path / "there")) == ["3.png", "3_preview.jpg"]
    one, other = (
        utils.read_image(str(tmp_path / place / "3.png")).astype(int) for place in ("there", "here")
    )
    assert np.abs(one - other).max() <= 1  # Sums may be rounded in another order.


def test_skipped_results_are_not_asked_for(card, tmp_path, capsys):
    """With nothing left to do, an unreachable scheduler is still said."""
    flags = ["--folder", str(card), "--res", str(tmp_path), "--cluster", "tcp://127.0.0.1:9"]
    cluster_wait, cluster.WAITING = cluster.WAITING, 1
    try:
        assert inference.main([*flags, "--quiet"]) == 2
    finally:
        cluster.WAITING = cluster_wait
    error = capsys.readouterr().err
    assert error.startswith("inference.py: tcp://127.0.0.1:9: no scheduler answers")
    assert error.count("\n") == 1


def test_without_distributed_one_line_says_how_to_get_it(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(cluster.importlib.util, "find_spec", lambda _: None)
    flags = ["--folder", str(tmp_path), "--cluster", "tcp://127.0.0.1:9"]
    assert inference.main(flags) == 2
    assert "pip install -r requirements-cluster.txt" in capsys.readouterr().err


@pytest.mark.parametrize("flags", [["--jobs", "2"], ["--steady"]])
def test_a_cluster_has_its_own_order(tmp_path, flags):
    with pytest.raises(SystemExit):
        inference.main(["--folder", str(tmp_path), "--cluster", "tcp://127.0.0.1:9", *flags])
