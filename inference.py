"""How are photos fused from the command line? One scene, or all of a folder at a time.

Functions import what needs PyTorch, because that takes a second: --help and mistaken flags do not
wait for it.
"""

import argparse
import contextlib
import ctypes.util
import functools
import os
import sys
import threading
from collections import deque
from collections.abc import Callable, Container, Generator, Iterable, Iterator, Sequence
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import cv2
from tqdm import tqdm

import fusion
import photos
import utils
from brackets import find_all_brackets
from finish import Steady
from opts import TestOptions, keep_freed_memory, one_line, run, warn_in_lines
from photos import Recipe
from processes import in_processes

Job = tuple[list[str], str]  # a scene's files, and the path of its result

AHEAD = 2  # scenes of a folder that are read ahead, and as many that wait to be written
BLIND = 4  # processes at most, where it is not known how much memory is free
GPU_LIBRARIES = ("cuda", "nvcuda", "amdhip64")  # those of drivers, on Linux and on Windows
SCENES_EACH = 3  # scenes of a folder for every process, at least: each takes a second to start


def inference(options: argparse.Namespace) -> int:
    """Fuses picture files, or all brackets of a folder, with the options of inference.py.

    Returns the exit status: 1 where some brackets of a folder could not be fused, else 0. A folder
    can start processes, see processes.in_processes. Raises OSError or ValueError naming the file
    where a picture or the checkpoint cannot be used or the result cannot be written.
    """
    if options.describe:
        from checkpoint import summary

        print("\n".join(summary(options.model)))
        return 0
    recipe = photos.recipe_of(options)
    load = functools.partial(photos.network_for, options)
    if options.folder is not None:
        return fuse_folder(options, recipe, load)
    photos.check_results(options.res, options.images, recipe)
    originals = set(map(os.path.realpath, options.images))
    check_overwrites_none(written_files(options.res, recipe), originals)
    with ThreadPoolExecutor(1) as pool:
        reading = pool.submit(photos.read_scene, options.images, recipe)
        network = load()
        pictures = reading.result()
    write = photos.fuse_scene(network, options.images, pictures, options.res, recipe)
    del pictures, reading  # Encoding may need their memory.
    write()
    return 0


def fuse_folder(
    options: argparse.Namespace, recipe: Recipe, load: Callable[[], fusion.Network]
) -> int:
    """Fuses all brackets of a folder; returns and raises as inference does.

    load: returns the network. The folder of the results is made, see made_folder.
    """
    scenes, problems = find_all_brackets(options.folder, options.group, options.res)
    with made_folder(options.res):
        work = plan_results(scenes, options.folder, options.res, options.name, recipe)
        if options.skip_existing:
            work = [
                (files, path)
                for files, path in work
                if not all(map(os.path.exists, written_files(path, recipe)))
            ]
        device = "cpu" if options.portable else options.device
        jobs = 1 if options.steady else options.jobs or possible_jobs(work, recipe, device)
        if jobs > 1:
            threads = max(usable_cores() // jobs, 1)
            prepare = functools.partial(prepare_process, load, recipe, threads)
            fused = in_processes(prepare, work, jobs)
        else:
            network = load()
            if options.steady:
                recipe = recipe._replace(fuse={**recipe.fuse, "steady": Steady()})
            fused = fuse_in_turn(network, work, recipe)
        return finish_folder(fused, len(work), problems, bar=not options.quiet)


@contextlib.contextmanager
def made_folder(path: str) -> Iterator[None]:
    """Makes a folder where there is none, and removes it after an error that leaves it empty."""
    new = not os.path.isdir(path)
    os.makedirs(path, exist_ok=True)
    try:
        yield
    except BaseException:
        with contextlib.suppress(OSError):  # It may have results.
            if new:
                os.rmdir(path)
        raise


def plan_results(
    scenes: dict[str, list[str]], folder: str, results: str, name: str, recipe: Recipe
) -> list[Job]:
    """Plans the results of a folder's scenes {name: files}.

    results: the folder of the results. name: a result's file name with {scene} in it. Raises
    OSError or ValueError where a result could not be written, two scenes would have one result, or
    a result would overwrite a photo.
    """
    if os.path.isdir(results) and os.path.samefile(results, folder):
        raise ValueError(f"{results}: results need a folder other than that of the photos")
    originals = {os.path.realpath(file) for files in scenes.values() for file in files}
    work: list[Job] = []
    taken: set[str] = set()
    for scene, files in scenes.items():
        path = os.path.join(results, name.replace("{scene}", scene))
        photos.check_results(path, files, recipe)
        written = written_files(path, recipe)
        check_overwrites_none(written, originals)
        if taken.intersection(written):
            raise ValueError(f"{path}: would be the result of several scenes; see --name")
        taken.update(written)
        work.append((files, path))
    return work


def written_files(path: str, recipe: Recipe) -> list[str]:
    """Returns the files that a scene's result consists of."""
    return [path, photos.preview_path(path)] if recipe.preview else [path]


def check_overwrites_none(written: Iterable[str], originals: Container[str]) -> None:
    """Raises ValueError where a file to write is one of the photos, given by their real paths."""
    for file in written:
        if os.path.realpath(file) in originals:
            raise ValueError(f"{file}: is one of the photos")


def possible_jobs(work: Sequence[Job], recipe: Recipe, device: str) -> int:
    """Returns the number of processes that fuse scenes at a time, as cores and memory allow.

    It is 1 where there seems to be a GPU, which PyTorch is not asked for, and for so few scenes
    that starting takes longer. Where free memory is unknown, it is BLIND at most.
    """
    gpu = any(map(ctypes.util.find_library, GPU_LIBRARIES))
    if device.startswith("cuda") or (device == "auto" and gpu):
        return 1
    count = min(usable_cores(), len(work) // SCENES_EACH)
    free = photos.available_memory()
    if free is None:
        count = min(count, BLIND)
    elif count > 1:

        def size(job: Job) -> int:
            return sum(os.path.getsize(file) for file in job[0] if os.path.exists(file))

        with contextlib.suppress(OSError, ValueError):  # Reading says which file is unusable.
            files = max(work, key=size)[0]
            needed = photos.needed_memory(files, photos.known_headers(files), recipe)
            # Every scene is fused only where there is room for all but the pictures once more.
            count = min(count, int((free - recipe.rest(len(files))) / needed))
    return max(count, 1)


def usable_cores() -> int:
    """Returns the number of cores that this process may use, in its container on Linux."""
    count = os.cpu_count() or 1
    if hasattr(os, "sched_getaffinity"):
        count = len(os.sched_getaffinity(0))
    with contextlib.suppress(OSError, ValueError):
        quota, period = map(int, Path(photos.CGROUP, "cpu.max").read_text().split())
        count = min(count, max(quota // period, 1))
    return count


def prepare_process(
    load: Callable[[], fusion.Network], recipe: Recipe, threads: int
) -> Callable[[Job], str | None]:
    """Makes this process one of several, on `threads` cores; returns its function.

    The function does a Job, as in_processes asks for it. It returns None, or why the Job failed.
    """
    keep_freed_memory()
    warn_in_lines("inference.py")
    tqdm.set_lock(threading.RLock())  # Its own one is for several processes, and outlives them.
    network = load()
    cv2.setNumThreads(threads)
    if "torch" in sys.modules:
        import torch

        torch.set_num_threads(threads)

    def fuse(files: list[str], path: str) -> None:
        pictures = photos.read_scene(files, recipe)
        photos.fuse_scene(network, files, pictures, path, recipe)()

    return lambda job: attempt(fuse, *job)[1]


def attempt(step: Callable, *arguments) -> tuple[Any, str | None]:
    """Returns (what a step of fusing a scene returned, None), or (None, why it failed)."""
    try:
        return step(*arguments), None
    except utils.FAILURES as error:
        return None, one_line(error)


def fuse_in_turn(
    network: fusion.Network, work: Iterable[Job], recipe: Recipe
) -> Generator[tuple[Job, str | None], None, None]:
    """Fuses scenes in this process, and yields them as in_processes does with prepare_process.

    Reading, fusing and writing overlap.
    """

    def fuse(files: list[str], path: str, reading: Future) -> Callable[[], None]:
        return photos.fuse_scene(network, files, reading.result(), path, recipe)

    writing: deque[tuple[Job, Future]] = deque()
    with ThreadPoolExecutor(AHEAD) as readers, ThreadPoolExecutor(1) as writer:
        for files, path, reading in read_ahead(readers, work, recipe):
            write, failure = attempt(fuse, files, path, reading)
            if write:
                writing.append(((files, path), writer.submit(write)))
            else:
                yield (files, path), failure
            while len(writing) > AHEAD:
                job, written = writing.popleft()
                yield job, attempt(written.result)[1]
        for job, written in writing:
            yield job, attempt(written.result)[1]


def finish_folder(
    fused: Generator[tuple[Job, str | Exception | None], None, None],
    count: int,
    problems: Iterable[str],
    bar: bool,
) -> int:
    """Works off a folder's scenes, and says which have failed; returns the exit status, 1 if any.

    fused: yields (Job, None or the reason of failure) for `count` scenes.
    problems: messages on unusable files and folders; each counts as a scene. bar: shows progress,
    and says at the end how many there were.
    """
    failures: list[str] = []

    def fail(message: str) -> None:
        failures.append(message)
        with tqdm.external_write_mode():
            print(f"inference.py: {message}", file=sys.stderr)

    problems = list(problems)
    for problem in problems:
        fail(problem)
    with (
        contextlib.closing(fused),
        tqdm(total=count, unit="scene", disable=None if bar else True) as progress,
    ):
        for (_, path), failure in fused:
            if isinstance(failure, ChildProcessError):
                for file in (path, photos.preview_path(path)):
                    utils.remove_unfinished(file)
            if failure is not None:
                fail(f"{path}: not made: {failure}")
            progress.update()
    total = count + len(problems)
    if failures:
        print(f"inference.py: {len(failures)} of {total} scenes were not fused", file=sys.stderr)
    elif bar:
        print(f"{total} scenes fused")
    return 1 if failures else 0


def read_ahead(
    readers: Executor, work: Iterable[Job], recipe: Recipe
) -> Iterator[tuple[list[str], str, Future]]:
    """Yields (files, path, future of the Pictures) of every scene; reads AHEAD scenes at a time."""
    ahead: deque[tuple[list[str], str, Future]] = deque()
    for files, path in work:
        ahead.append((files, path, readers.submit(photos.read_scene, files, recipe)))
        if len(ahead) == AHEAD:
            yield ahead.popleft()
    while ahead:
        yield ahead.popleft()


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the program; returns its exit status."""
    return run("inference.py", inference, TestOptions().parse(argv))


if __name__ == "__main__":
    status = main()
    with contextlib.suppress(BrokenPipeError):  # Whoever read along may have stopped.
        sys.stdout.flush()
        sys.stderr.flush()
    os._exit(status)  # All is written; unloading PyTorch would take another 0.15 s.
