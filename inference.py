"""How are photos fused from the command line? One scene, or all of a folder at a time.

Functions import what needs PyTorch, because that takes a second: --help and mistaken flags do not
wait for it.
"""

import argparse
import contextlib
import functools
import os
import sys
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from typing import Any

from tqdm import tqdm

import photos
from brackets import find_all_brackets
from opts import TestOptions, one_line, run
from photos import Networks, Recipe

AHEAD = 2  # scenes of a folder that are read ahead, and as many that wait to be written


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
        networks = load()
        if options.steady:
            from finish import Steady

            recipe = recipe._replace(fuse={**recipe.fuse, "steady": Steady()})
        return fuse_folder(networks, work, problems, recipe, bar=not options.quiet)
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


def fuse_folder(
    networks: Networks,
    work: Sequence[tuple[list[str], str]],
    problems: Iterable[str],
    recipe: Recipe,
    bar: bool,
) -> int:
    """Fuses scenes [(files, path of the result)]; reading, fusing and writing overlap.

    problems: messages on unusable files and folders; each counts as a scene. bar: shows progress.
    Returns the exit status, 1 where a scene failed.
    """
    failures: list[str] = []

    def fail(message: str) -> None:
        failures.append(message)
        with tqdm.external_write_mode():
            print(f"inference.py: {message}", file=sys.stderr)

    def attempt(path: str, step: Callable, *arguments) -> Any:
        try:
            return step(*arguments)
        except photos.FAILURES as error:
            fail(f"{path}: not made: {one_line(error)}")
            return None

    def fuse(files: list[str], path: str, reading: Future) -> Callable[[], None]:
        return photos.fuse_scene(networks, files, reading.result(), path, recipe)

    problems = list(problems)
    for problem in problems:
        fail(problem)
    writing: deque[tuple[str, Future]] = deque()
    with (
        ThreadPoolExecutor(AHEAD) as readers,
        ThreadPoolExecutor(1) as writer,
        tqdm(total=len(work), unit="scene", disable=None if bar else True) as progress,
    ):
        for files, path, reading in read_ahead(readers, work, recipe):
            write = attempt(path, fuse, files, path, reading)
            if write:
                writing.append((path, writer.submit(write)))
            while len(writing) > AHEAD:
                path, written = writing.popleft()
                attempt(path, written.result)
            progress.update()
        for path, written in writing:
            attempt(path, written.result)
    if failures:
        total = len(work) + len(problems)
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
