"""How do several processes share a list of tasks? Each is given one after the other."""

import contextlib
import multiprocessing
import os
import signal
import time
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from multiprocessing import resource_tracker
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from typing import Any, TypeVar

GRACE = 0.3  # seconds that processes have to remove unfinished files when they are stopped

Task = TypeVar("Task")


class Worker:
    """A process that does tasks, one at a time.

    started: True once it is prepared. task: the one at work, or None.
    """

    def __init__(self, prepare: Callable[[], Callable[..., Any]]) -> None:
        # A process that is forked would lack the threads of OpenCV and PyTorch.
        context = multiprocessing.get_context("spawn")
        self.connection, other = context.Pipe()
        self.process = context.Process(target=serve, args=(prepare, other), daemon=True)
        self.started = False
        self.task: Any = None
        with without_interrupts():  # Ctrl-C reaches all of a terminal's processes.
            self.process.start()
        other.close()

    def give(self, task: Any) -> None:
        """Sends a task, on which the process works from now on."""
        self.task = task
        with contextlib.suppress(ConnectionError):  # Where the process has died, answer says so.
            self.connection.send(task)

    def answer(self) -> Any:
        """Returns what the process sends: a task's result or, while it starts, None or an error."""
        try:
            return self.connection.recv()
        except (EOFError, ConnectionError):
            self.process.join()
            code = self.process.exitcode or 0
            if code < 0:
                reason = f"was ended by signal {-code}"
                if -code == getattr(signal, "SIGKILL", None):
                    reason += ", perhaps for lack of memory"
            else:
                reason = f"ended with status {code}"
            return ChildProcessError(f"its process {reason}")


@contextlib.contextmanager
def without_interrupts() -> Iterator[None]:
    """Keeps SIGINT waiting for the end of the context; processes started in it never see one.

    Windows cannot do that.
    """
    if not hasattr(signal, "pthread_sigmask"):
        yield
        return
    resource_tracker.ensure_running()  # Started with the process, it would unblock the signal.
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def in_processes(
    prepare: Callable[[], Callable[[Task], Any]], tasks: Iterable[Task], count: int
) -> Generator[tuple[Task, Any], None, None]:
    """Yields (task, what its function returned) in the order in which tasks are done.

    A process that dies, as it does when its function raises, costs one task: a ChildProcessError
    stands for its result, and another process takes its place. All end with the generator.

    prepare: called once in every process; returns the function that does a task there. It, tasks
    and results are pickled, so that a script that comes here must not do so when it is imported.
    count: processes, at most.

    Raises the OSError, ValueError, MemoryError or ModuleNotFoundError that `prepare` raises, and
    ChildProcessError where no process starts.
    """
    waiting = deque(tasks)
    workers: dict[Any, Worker] = {}  # by their connections
    processes = []
    any_started, failure = False, None

    def start() -> None:
        worker = Worker(prepare)
        workers[worker.connection] = worker
        processes.append(worker.process)

    try:
        for _ in range(min(count, len(waiting))):
            start()
        while workers:
            for ready in wait(list(workers)):
                worker = workers[ready]
                starts, task, result = not worker.started, worker.task, worker.answer()
                failed = isinstance(result, Exception)
                if failed and starts:
                    failure = result
                else:
                    any_started = worker.started = True
                if waiting and not failed:
                    worker.give(waiting.popleft())
                else:
                    del workers[ready]
                    worker.connection.close()
                if waiting and failed and not starts:
                    start()
                if not starts:
                    yield task, result
        if failure and not any_started:
            raise failure
        yield from ((task, failure) for task in waiting)  # No process is left for these.
    finally:
        stop(processes)


def stop(processes: Sequence[BaseProcess]) -> None:
    """Ends processes; those that take longer than GRACE are killed."""
    deadline = time.monotonic() + GRACE
    for process in processes:
        process.terminate()
    for process in processes:
        process.join(max(deadline - time.monotonic(), 0))
    for process in processes:
        if process.is_alive():
            process.kill()
            process.join()


def serve(prepare: Callable[[], Callable[..., Any]], connection: Connection) -> None:
    """Does, in a process of its own, the tasks that come through a connection, until it closes."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # so that files are cleaned up
    try:
        try:
            work = prepare()
        except (OSError, ValueError, MemoryError, ModuleNotFoundError) as error:
            connection.send(error)
            os._exit(1)
        connection.send(None)
        while True:
            try:
                task = connection.recv()
            except (EOFError, ConnectionError):
                break
            result = work(task)
            try:
                connection.send(result)
            except ConnectionError:  # Whoever asked has ended.
                break
    except KeyboardInterrupt:
        pass
    os._exit(0)  # Unloading PyTorch would take another 0.15 s.
