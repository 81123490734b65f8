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
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from typing import Any

import cv2
from tqdm import tqdm

import photos
from brackets import find_all_brackets
from opts import TestOptions, keep_freed_memory, one_line, run, warn_in_lines
from photos import Networks, Recipe
from processes import in_processes

AHEAD = 2  # scenes of a folder that are read ahead, and as many that wait to be written
SCENES_EACH = 3  # scenes of a folder for every process, at least: each takes a second to start


def inference(options: argparse.Namespace) -> int:
    """Fuses picture files, or all brackets of a folder, with the options of inference.py.

    Returns the exit status: 1 where some brackets of a folder could not be fused, else 0. Raises
    OSError or ValueError naming the file where a picture or the checkpoint cannot be used or the
    result cannot be written.
    """
    if options.describe:
        from checkpoint import summary

        for path in (options.model, options.colour):
            if path:
                print("\n".join(summary(path)))
        return 0
    recipe = photos.recipe_of(options)
    load = functools.partial(
        photos.load_networks, options.model, options.colour, options.device, options.precision
    )
    if options.folder:
        scenes, problems = find_all_brackets(options.folder, options.group, options.res)
        work = plan_results(scenes, options.folder, options.res, options.name, recipe)
        if options.skip_existing:
            work = [(files, path) for files, path in work if not os.path.exists(path)]
        jobs = 1 if options.steady else options.jobs or possible_jobs(work, recipe, options.device)
        if jobs > 1:
            fused = in_processes(functools.partial(prepare_process, load, recipe), work, jobs)
        else:
            networks = load()
            if options.steady:
                from finish import Steady

                recipe = recipe._replace(fuse={**recipe.fuse, "steady": Steady()})
            fused = fuse_in_turn(networks, work, recipe)
        return finish_folder(fused, len(work), problems, bar=not options.quiet)
    photos.check_results(options.res, options.images, recipe)
    with ThreadPoolExecutor(1) as pool:
        reading = pool.submit(photos.read_scene, options.images, recipe)
        networks = load()
        pictures = reading.result()
    write = photos.fuse_scene(networks, options.images, pictures, options.res, recipe)
    del pictures, reading  # Encoding may need their memory.
    write()
    return 0


def plan_results(
    scenes: dict[str, list[str]], folder: str, results: str, name: str, recipe: Recipe
) -> list[tuple[list[str], str]]:
    """Plans the results of a folder's scenes {name: files}: [(files, path of the result)].

    results: the folder of the results, which is made. name: a result's file name with {scene} in
    it. Raises OSError or ValueError where a result could not be written, two scenes would have one
    result, or a result would overwrite a photo.
    """
    if os.path.isdir(results) and os.path.samefile(results, folder):
        raise ValueError(f"{results}: results need a folder other than that of the photos")
    os.makedirs(results, exist_ok=True)
    originals = {os.path.realpath(file) for files in scenes.values() for file in files}
    work: list[tuple[list[str], str]] = []
    taken: set[str] = set()
    for scene, files in scenes.items():
        path = os.path.join(results, name.replace("{scene}", scene))
        photos.check_results(path, files, recipe)
        written = [path, photos.preview_path(path)] if recipe.preview else [path]
        for file in written:
            if os.path.realpath(file) in originals:
                raise ValueError(f"{file}: is one of the photos")
        if taken.intersection(written):
            raise ValueError(f"{path}: would be the result of several scenes; see --name")
        taken.update(written)
        work.append((files, path))
    return work


def possible_jobs(work: Sequence[tuple[list[str], str]], recipe: Recipe, device: str) -> int:
    """Returns the number of processes that fuse scenes at a time, as cores and memory allow.

    It is 1 where one process may use a GPU, and for so few scenes that starting takes longer.
    """
    if device.startswith("cuda") or (device == "auto" and ctypes.util.find_library("cuda")):
        return 1
    count = min(usable_cores(), len(work) // SCENES_EACH)
    free = photos.available_memory()
    if count > 1 and free is not None:
        with contextlib.suppress(OSError, ValueError):  # Reading says which file is unusable.
            largest, _ = max(work, key=lambda scene: sum(map(os.path.getsize, scene[0])))
            *_, needed = photos.needed_memory(largest, recipe.copies)
            count = min(count, int(free / needed))
    return max(count, 1)


def usable_cores() -> int:
    """Returns the number of cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def prepare_process(
    load: Callable[[], Networks], recipe: Recipe
) -> Callable[[tuple[list[str], str]], str | None]:
    """Makes this process one of several, on one core; returns its function, see in_processes.

    The function fuses one of plan_results' scenes. It returns None, or why the scene failed.
    """
    keep_freed_memory()
    warn_in_lines("inference.py")
    tqdm.set_lock(threading.RLock())  # Its own one is for several processes, and outlives them.
    networks = load()
    import torch

    torch.set_num_threads(1)
    cv2.setNumThreads(1)

    def work(task: tuple[list[str], str]) -> str | None:
        files, path = task
        try:
            pictures = photos.read_scene(files, recipe)
            photos.fuse_scene(networks, files, pictures, path, recipe)()
        except photos.FAILURES as error:
            return one_line(error)
        return None

    return work


def fuse_in_turn(
    networks: Networks, work: Iterable[tuple[list[str], str]], recipe: Recipe
) -> Iterator[tuple[tuple[list[str], str], str | None]]:
    """Fuses scenes in this process, and yields them as in_processes does with prepare_process.

    Reading, fusing and writing overlap.
    """

    def attempt(step: Callable, *arguments) -> tuple[Any, str | None]:
        try:
            return step(*arguments), None
        except photos.FAILURES as error:
            return None, one_line(error)

    def fuse(files: list[str], path: str, reading: Future) -> Callable[[], None]:
        return photos.fuse_scene(networks, files, reading.result(), path, recipe)

    writing: deque[tuple[tuple[list[str], str], Future]] = deque()
    with ThreadPoolExecutor(AHEAD) as readers, ThreadPoolExecutor(1) as writer:
        for files, path, reading in read_ahead(readers, work, recipe):
            write, failure = attempt(fuse, files, path, reading)
            if write:
                writing.append(((files, path), writer.submit(write)))
            else:
                yield (files, path), failure
            while len(writing) > AHEAD:
                task, written = writing.popleft()
                yield task, attempt(written.result)[1]
        for task, written in writing:
            yield task, attempt(written.result)[1]


def finish_folder(
    fused: Iterable[tuple[tuple[list[str], str], str | Exception | None]],
    count: int,
    problems: Iterable[str],
    bar: bool,
) -> int:
    """Works off a folder's scenes, and says which have failed; returns the exit status, 1 if any.

    fused: yields ((files, path of the result), None or the reason of failure) for `count` scenes.
    problems: messages on unusable files and folders; each counts as a scene. bar: shows progress.
    """
    failures: list[str] = []

    def fail(message: str) -> None:
        failures.append(message)
        with tqdm.external_write_mode():
            print(f"inference.py: {message}", file=sys.stderr)

    problems = list(problems)
    for problem in problems:
        fail(problem)
    with tqdm(total=count, unit="scene", disable=None if bar else True) as progress:
        for (_, path), failure in fused:
            if failure is not None:
                fail(f"{path}: not made: {failure}")
            progress.update()
    if failures:
        total = count + len(problems)
        print(f"inference.py: {len(failures)} of {total} scenes were not fused", file=sys.stderr)
    return 1 if failures else 0


def read_ahead(
    readers: Executor, work: Iterable[tuple[list[str], str]], recipe: Recipe
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
