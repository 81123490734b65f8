"""How do many machines share a list of tasks? A scheduler of dask hands them out.

dask.distributed is optional. Its workers run in a clone of this project, see docs/pictures.md.
"""

import contextlib
import importlib.util
import logging
import os
import tempfile
import threading
import uuid
from collections import deque
from collections.abc import Callable, Generator, Iterable, Sequence
from typing import Any

WAITING = 15  # seconds for a scheduler to answer
TASKS_AHEAD = 2  # tasks that every worker has, so that it need not wait for the next
LOCK = threading.Lock()  # held while a worker prepares itself

Job = tuple[list[str], str]  # files to read, and the path of the result


def check_installed() -> None:
    """Raises ValueError where dask.distributed is missing."""
    if importlib.util.find_spec("distributed") is None:
        raise ValueError("--cluster needs distributed: pip install -r requirements-cluster.txt")


def on_cluster(
    address: str, prepare: Callable[[], Callable[[Job], Any]], jobs: Iterable[Job], send: bool
) -> Generator[tuple[Job, Any], None, None]:
    """Yields (job, what its function returned) in the order in which jobs are done.

    A worker that dies has its job done by another; one on which three have died fails. prepare:
    called once in every worker; returns the function that does a job there. send: sends files to
    the workers, and fetches results; otherwise their paths must lead to the same files everywhere.

    Raises OSError where the scheduler cannot be reached, or has no worker.
    """
    import distributed

    # What it warns of, such as a worker that dies, it also mends.
    logging.getLogger("distributed.client").setLevel(logging.ERROR)
    try:
        client = distributed.Client(address, timeout=WAITING, set_as_default=False)
    except (OSError, TimeoutError, ValueError) as error:
        raise OSError(f"{address}: no scheduler answers ({error})") from error
    with contextlib.closing(client):
        count = len(client.scheduler_info(n_workers=-1)["workers"])
        if not count:
            raise OSError(f"{address}: the scheduler has no worker")
        run = uuid.uuid4().hex  # Workers serve several runs, one after the other.
        waiting = deque(jobs)
        finished = distributed.as_completed(loop=client.loop)
        job_of = {}

        def submit() -> None:
            job = waiting.popleft()
            files, path = job
            absolute = [os.path.abspath(file) for file in files], os.path.abspath(path)
            contents = read_all(files) if send else None
            future = client.submit(do, run, prepare, absolute, contents, pure=False)
            job_of[future.key] = job, future
            finished.add(future)

        try:
            for _ in range(min(TASKS_AHEAD * count, len(waiting))):
                submit()
            for future in finished:
                job, _ = job_of.pop(future.key)
                yield job, outcome(future, job[1])
                if waiting:
                    submit()
        finally:
            for _, future in job_of.values():
                future.cancel()


def read_all(files: Sequence[str]) -> list[bytes | None]:
    """Returns the contents of files; None for one that cannot be read, of which fusing tells."""
    contents: list[bytes | None] = []
    for file in files:
        try:
            with open(file, "rb") as opened:
                contents.append(opened.read())
        except OSError:
            contents.append(None)
    return contents


def outcome(future: Any, path: str) -> Any:
    """Returns what a job's function returned, after writing the files that were sent back."""
    import utils

    error = future.exception()
    if error is not None:
        return ChildProcessError(f"its workers ended ({type(error).__name__})")
    result, sent = future.result()
    try:
        for ending, data in sent.items():
            utils.write_file(f"{os.path.splitext(path)[0]}{ending}", data)
    except OSError as failure:
        return str(failure)
    return result


def do(
    run: str,
    prepare: Callable[[], Callable[[Job], Any]],
    job: Job,
    contents: list[bytes | None] | None,
) -> tuple[Any, dict[str, bytes]]:
    """Does a job in a worker; returns its function's result, and files to be sent back.

    run: names the run, for which a worker prepares itself once. contents: of the job's files, None
    where the worker reads them itself. Files are named by what follows the result's name without
    extension.
    """
    import distributed

    worker: Any = distributed.get_worker()
    with LOCK:
        if getattr(worker, "prepared_run", None) != run:
            worker.prepared_run, worker.prepared = run, prepare()
        work = worker.prepared
    if contents is None:
        return work(job), {}
    files, path = job
    with tempfile.TemporaryDirectory() as folder:
        local = []
        for number, (file, data) in enumerate(zip(files, contents, strict=True)):
            # Files of one name may come from several folders.
            os.mkdir(os.path.join(folder, str(number)))
            local.append(os.path.join(folder, str(number), os.path.basename(file)))
            if data is not None:
                with open(local[-1], "wb") as opened:
                    opened.write(data)
        result = work((local, os.path.join(folder, os.path.basename(path))))
        stem = os.path.splitext(os.path.basename(path))[0]
        sent = {}
        for name in os.listdir(folder):
            if os.path.isfile(os.path.join(folder, name)):
                with open(os.path.join(folder, name), "rb") as opened:
                    sent[name.removeprefix(stem)] = opened.read()
    # Messages name the files as they are known here.
    if isinstance(result, str):
        for place, file in zip(local, files, strict=True):
            result = result.replace(place, file)
    return result, sent
