"""How do several processes share a list of tasks? Each is given one after the other."""

import contextlib
import multiprocessing
import os
import signal
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from typing import Any, TypeVar

GRACE = 0.3  # seconds that processes have to remove unfinished files when they are stopped

Task = TypeVar("Task")


class Worker:
    """A process that does tasks, one at a time. task: the one at work; None while it starts."""

    def __init__(self, prepare: Callable[[], Callable]) -> None:
        # A process that is forked would lack the threads of OpenCV and PyTorch.
        context = multiprocessing.get_context("spawn")
        self.connection, other = context.Pipe()
        self.process = context.Process(target=serve, args=(prepare, other), daemon=True)
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
            reason = f"signal {-code}" if code < 0 else f"status {code}"
            return ChildProcessError(f"its process ended with {reason}; memory may have run out")


@contextlib.contextmanager
def without_interrupts() -> Iterator[None]:
    """Ignores SIGINT for a moment; a process that is started meanwhile ignores it for good."""
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def in_processes(
    prepare: Callable[[], Callable[[Task], Any]], tasks: Iterable[Task], count: int
) -> Iterator[tuple[Task, Any]]:
    """Yields (task, what its function returned) in the order in which tasks are done.

    A process that dies, as it does when its function raises, costs one task: a ChildProcessError
    stands for its result, and another process takes its place. All end with the generator.

    prepare: called once in every process; returns the function that does a task there. It, tasks
    and results are pickled. count: processes, at most.

    Raises what `prepare` raises, and ChildProcessError where a process dies before its first task.
    """
    waiting = deque(tasks)
    workers: dict[Any, Worker] = {}  # by their connections
    processes = []

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
                task, result = worker.task, worker.answer()
                died = isinstance(result, ChildProcessError)
                if task is None and isinstance(result, Exception):
                    raise result
                if waiting and not died:
                    worker.give(waiting.popleft())
                else:
                    del workers[ready]
                    worker.connection.close()
                if waiting and died:
                    start()
                if task is not None:
                    yield task, result
    finally:
        stop(processes)


def stop(processes: Sequence[BaseProcess]) -> None:
    """Ends processes; those that take longer than GRACE are killed."""
    for process in processes:
        process.terminate()
    for process in processes:
        process.join(GRACE)
        if process.is_alive():
            process.kill()


def serve(prepare: Callable[[], Callable], connection: Connection) -> None:
    """Does, in a process of its own, the tasks that come through a connection, until it closes."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # so that files are cleaned up
    try:
        try:
            work = prepare()
        except Exception as error:
            connection.send(error)
            return
        connection.send(None)
        while True:
            connection.send(work(connection.recv()))
    except (EOFError, ConnectionError, KeyboardInterrupt):
        os._exit(0)  # Unloading PyTorch would take another 0.15 s.
