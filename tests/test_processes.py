"""Tasks that several processes share."""

import functools
import multiprocessing
import os
import signal
import threading
import time

import pytest

import processes
from processes import in_processes


def square(task):
    """Squares a number; at the numbers of these names, does something worse."""
    if task == "fail":
        raise RuntimeError("a mistake in the program")
    if task == "die":
        os.kill(os.getpid(), signal.SIGKILL)
    if task == "sleep":
        time.sleep(60)
    return os.getpid(), task * task


def prepare(error=None):
    if error == "die":
        os._exit(3)
    if error:
        raise error
    return square


def meet(place):
    """Returns a function that waits until as many processes as `place` has room for are there."""

    def work(task):
        (place / str(os.getpid())).touch()
        end = time.monotonic() + 60
        while len(os.listdir(place)) < 2 and time.monotonic() < end:
            time.sleep(0.01)
        return len(os.listdir(place))

    return work


def prepare_once(place):
    """Works in one process alone."""
    (place / str(os.getpid())).touch()
    if len(os.listdir(place)) > 1:
        raise ValueError("no other process starts")
    return square


def prepare_all_but_one(place):
    """Fails at once in the first process, and works a little later in the others."""
    try:
        (place / "first").mkdir()
    except FileExistsError:
        time.sleep(0.3)
        return square
    os._exit(3)


@pytest.fixture(autouse=True)
def no_process_is_left():
    yield
    assert not multiprocessing.active_children()


def test_every_task_is_done_once_and_not_here():
    done = list(in_processes(prepare, range(9), 2))
    assert {task: result for task, (_, result) in done} == {i: i * i for i in range(9)}
    assert len(done) == 9
    assert os.getpid() not in {pid for _, (pid, _) in done}


def test_processes_work_at_the_same_time(tmp_path):
    assert list(in_processes(functools.partial(meet, tmp_path), [0, None], 2)) in (
        [(0, 2), (None, 2)],
        [(None, 2), (0, 2)],
    )


def test_no_more_processes_than_tasks(monkeypatch):
    started = []
    start = processes.Worker.__init__
    monkeypatch.setattr(processes.Worker, "__init__", lambda *a: started.append(1) or start(*a))
    assert list(in_processes(prepare, [], 4)) == []
    assert [task for task, _ in in_processes(prepare, [7], 4)] == [7]
    assert len(started) == 1


@pytest.mark.skipif(os.name == "nt", reason="Windows has no SIGKILL")
def test_tasks_for_which_no_process_is_left(tmp_path):
    tasks = [1, "die", 2, 3]
    done = list(in_processes(functools.partial(prepare_once, tmp_path), tasks, 1))
    assert [task for task, _ in done] == tasks
    assert done[0][1][1] == 1
    assert "signal 9, perhaps for lack of memory" in str(done[1][1])
    assert [str(result) for _, result in done[2:]] == ["no other process starts"] * 2


def test_from_another_thread():
    done = []
    thread = threading.Thread(target=lambda: done.extend(in_processes(prepare, [3], 1)))
    thread.start()
    thread.join()
    assert done[0][1][1] == 9


@pytest.mark.parametrize("error", [ValueError("no such network"), OSError(2, "missing", "a.pth")])
def test_what_a_process_cannot_prepare_is_raised(error):
    with pytest.raises(type(error)) as caught:
        list(in_processes(functools.partial(prepare, error), range(3), 2))
    assert str(caught.value) == str(error)


def test_processes_that_do_not_start():
    with pytest.raises(ChildProcessError, match="ended with status 3"):
        list(in_processes(functools.partial(prepare, "die"), range(3), 2))


def test_one_process_that_does_not_start_costs_no_task(tmp_path):
    done = dict(in_processes(functools.partial(prepare_all_but_one, tmp_path), range(4), 3))
    assert {task: result for task, (_, result) in done.items()} == {0: 0, 1: 1, 2: 4, 3: 9}


@pytest.mark.skipif(os.name == "nt", reason="Windows has no SIGKILL")
@pytest.mark.parametrize("bad", ["die", "fail"])
def test_a_process_that_dies_costs_one_task(bad, capfd):
    done = dict(in_processes(prepare, [1, bad, 2, 3, bad, 4], 2))
    assert isinstance(done.pop(bad), ChildProcessError)
    assert {task: result for task, (_, result) in done.items()} == {1: 1, 2: 4, 3: 9, 4: 16}
    assert ("a mistake in the program" in capfd.readouterr().err) == (bad == "fail")


def test_processes_end_with_the_generator():
    fused = in_processes(prepare, [1, "sleep", "sleep", "sleep"], 2)
    next(fused)
    start = time.monotonic()
    fused.close()
    assert time.monotonic() - start < 30  # and not 60, as long as the tasks sleep
