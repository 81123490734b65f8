"""How are photos fused from the command line? One scene, or all of a folder at a time.

Functions import what needs PyTorch, because that takes a second: --help and mistaken flags do not
wait for it.
"""

import argparse
import contextlib
import csv
import ctypes.util
import functools
import os
import shutil
import sys
import threading
from collections import Counter, deque
from collections.abc import Callable, Collection, Container, Generator, Iterable, Iterator, Sequence
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from typing import Any

import cv2
from tqdm import tqdm

import fusion
import grouping
import photos
import utils
from cluster import check_installed, on_cluster
from finish import Steady
from machine import available_memory, usable_cores
from opts import FOLDER, TestOptions
from photos import Recipe
from processes import in_processes
from script import keep_freed_memory, one_line, run, warn_in_lines

Identity = str | tuple[int, int]  # of a file, see identity
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
    originals = set(map(identity, options.images))
    check_overwrites_none(written_files(options.res, recipe), originals)
    with ThreadPoolExecutor(1) as pool:
        reading = pool.submit(photos.read_scene, options.images, recipe)
        network = load()
        pictures = reading.result()
    write = photos.fuse_scene(network, options.images, pictures, options.res, recipe)
    del pictures, reading  # Encoding may need their memory.
    write()
    if not options.quiet and sys.stderr.isatty():
        header = utils.header_of(options.res)
        size = f", {header.width}x{header.height} pixels" if header else ""
        print(f"{options.res}: fused from {len(options.images)} exposures{size}", file=sys.stderr)
    return 0


def fuse_folder(
    options: argparse.Namespace, recipe: Recipe, load: Callable[[], fusion.Network]
) -> int:
    """Fuses all brackets of a folder; returns and raises as inference does.

    load: returns the network. The folder of the results is made, see made_folder.
    """
    if options.cluster:
        check_installed()
    card = grouping.sort_card(options.folder, options.group, options.res)
    if options.csv:
        write_card(options.csv, card)
    if options.dry_run:
        tell_card(card)
        return 0
    with made_folder(options.res):
        work = plan_results(card.scenes, options.folder, options.res, options.name, recipe)
        if options.skip_existing:
            work = [
                (files, path)
                for files, path in work
                if not all(map(os.path.exists, written_files(path, recipe)))
            ]
        if options.singles == "copy":
            copy_singles(card.singles, options.res)
        if options.alike:
            alike = what_is_alike(load(), card.scenes.values(), not options.quiet)
            recipe = photos.with_options(recipe, alike=alike)
        if options.cluster:
            prepare = functools.partial(prepare_process, load_there(options), recipe, None)
            fused = on_cluster(options.cluster, prepare, work, options.send_files)
            return finish_folder(fused, len(work), card, not options.quiet, tidy=True)
        device = "cpu" if options.portable else options.device
        jobs = 1 if options.steady else options.jobs or possible_jobs(work, recipe, device)
        if jobs > 1:
            threads = max(usable_cores() // jobs, 1)
            prepare = functools.partial(prepare_process, load, recipe, threads)
            fused = in_processes(prepare, work, jobs)
        else:
            network = load()
            if options.steady:
                recipe = photos.with_options(recipe, steady=Steady())
            fused = fuse_in_turn(network, work, recipe)
        return finish_folder(fused, len(work), card, bar=not options.quiet)


def load_there(options: argparse.Namespace) -> Callable[[], fusion.Network]:
    """Returns a function that loads the network on another machine, from its own clone's weights.

    A checkpoint that is none of these has the same path there.
    """
    folder, name = os.path.split(options.model)
    return functools.partial(own_network, options, name if folder == FOLDER else None)


def own_network(options: argparse.Namespace, name: str | None) -> fusion.Network:
    """Returns the network of options, from a file of this machine's own weights if it is named."""
    if name is not None:
        options.model = os.path.join(FOLDER, name)
    return photos.network_for(options)


def what_is_alike(
    network: fusion.Network, scenes: Collection[Sequence[str]], bar: bool
) -> fusion.Alike:
    """Returns what all brackets of a folder have in common; brackets that fail are left out.

    Raises ValueError where the brackets differ in their numbers of exposures.
    """
    stacks = []
    for files in tqdm(scenes, desc="looking", unit="bracket", disable=None if bar else True):
        stack, _ = attempt(photos.reduced_scene, files)  # Fusing says why.
        if stack is not None:
            stacks.append(stack)
    return fusion.Alike.of(network, stacks)


def card_rows(card: grouping.Card) -> Iterator[tuple[str, str, str]]:
    """Yields (file, what it is, the bracket's name or why it is left) of a card's photos."""
    for name, files in card.scenes.items():
        yield from ((file, "bracket", name) for file in files)
    yield from ((file, "single", "") for file in card.singles)
    yield from ((file, "left", reason) for file, reason in card.left.items())
    yield from (("", "problem", problem) for problem in card.problems)


def write_card(path: str, card: grouping.Card) -> None:
    """Writes how a card's photos are sorted as CSV; raises OSError naming the file."""
    utils.check_writable(path)
    with utils.replacing(path, "w", newline="", encoding="utf-8") as file:
        rows = csv.writer(file)
        rows.writerow(("file", "kind", "bracket"))
        rows.writerows(card_rows(card))


def tell_card(card: grouping.Card) -> None:
    """Prints how a card's photos are sorted."""
    for name, files in card.scenes.items():
        print(f"{name}: {' '.join(map(os.path.basename, files))}")
    for file in card.singles:
        print(f"single: {file}")
    for file, reason in card.left.items():
        print(f"left: {file}: {reason}")
    for problem in card.problems:
        print(f"not read: {problem}")


def copy_singles(files: Sequence[str], folder: str) -> None:
    """Copies photos of no bracket into the folder of the results; raises OSError naming one."""
    for file in files:
        target = os.path.join(folder, os.path.basename(file))
        utils.check_writable(target)
        if not os.path.exists(target):
            shutil.copy2(file, target)


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
    originals = {identity(file) for files in scenes.values() for file in files}
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


def check_overwrites_none(written: Iterable[str], originals: Container[Identity]) -> None:
    """Raises ValueError where a file to write is one of the photos, given by their identities."""
    for file in written:
        if identity(file) in originals:
            raise ValueError(f"{file}: is one of the photos")


def identity(path: str) -> Identity:
    """Returns what a file has under all of its names, and on disks that ignore case; a new path."""
    try:
        found = os.stat(path)
    except OSError:
        return os.path.realpath(path)
    return found.st_dev, found.st_ino


def possible_jobs(work: Sequence[Job], recipe: Recipe, device: str) -> int:
    """Returns the number of processes that fuse scenes at a time, as cores and memory allow.

    It is 1 where there seems to be a GPU, which PyTorch is not asked for, and for so few scenes
    that starting takes longer. Where free memory is unknown, it is BLIND at most.
    """
    gpu = any(map(ctypes.util.find_library, GPU_LIBRARIES))
    if device.startswith("cuda") or (device == "auto" and gpu):
        return 1
    count = min(usable_cores(), len(work) // SCENES_EACH)
    free = available_memory()
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


def prepare_process(
    load: Callable[[], fusion.Network], recipe: Recipe, threads: int | None
) -> Callable[[Job], str | None]:
    """Makes this process one of several, on `threads` cores or all; returns its function.

    The function does a Job, as in_processes asks for it. It returns None, or why the Job failed.
    """
    keep_freed_memory()
    warn_in_lines("inference.py")
    tqdm.set_lock(threading.RLock())  # Its own one is for several processes, and outlives them.
    network = load()
    if threads is not None:
        cv2.setNumThreads(threads)
    if threads is not None and "torch" in sys.modules:
        import torch

        torch.set_num_threads(threads)

    def fuse(files: list[str], path: str) -> None:
        pictures = photos.read_scene(files, recipe)
        photos.fuse_scene(network, files, pictures, path, recipe)()

    return lambda job: attempt(fuse, *job)[1]


def attempt(step: Callable[..., Any], *arguments: Any) -> tuple[Any, str | None]:
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

    def fuse(files: list[str], path: str, reading: Future[Any]) -> Callable[[], None]:
        return photos.fuse_scene(network, files, reading.result(), path, recipe)

    writing: deque[tuple[Job, Future[Any]]] = deque()
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
    card: grouping.Card,
    bar: bool,
    tidy: bool = False,
) -> int:
    """Works off a folder's brackets, and says which have failed; returns the exit status, 1 if any.

    fused: yields (Job, None or the reason of failure) for `count` brackets. bar: shows progress.
    tidy: removes what processes that died have left, also of brackets that others have fused. One
    line at the end says what has become of all photos.
    """
    failures = 0

    def tell(message: str) -> None:
        with tqdm.external_write_mode():
            print(f"inference.py: {message}", file=sys.stderr)

    for problem in card.problems:
        tell(problem)
    with (
        contextlib.closing(fused),
        tqdm(total=count, unit="bracket", disable=None if bar else True) as progress,
    ):
        for (_, path), failure in fused:
            # A process may have died at it, even where another one has done it since.
            if tidy or isinstance(failure, ChildProcessError):
                for file in (path, photos.preview_path(path)):
                    utils.remove_unfinished(file)
            if failure is not None:
                failures += 1
                tell(f"{path}: not made: {failure}")
            progress.update()
    summary = end_line(count, failures, card)
    if failures or bar:
        tell(summary)
    return 1 if failures else 0


def end_line(count: int, failures: int, card: grouping.Card) -> str:
    """Returns what has become of all photos of a folder, as one line."""

    def several(number: int, noun: str) -> str:
        plural = "copies" if noun == "copy" else f"{noun}s"
        return f"{number} {noun if number == 1 else plural}"

    parts = [f"{several(count - failures, 'bracket')} fused"]
    if failures:
        parts.append(f"{failures} failed")
    if card.singles:
        parts.append(f"{several(len(card.singles), 'single photo')} left alone")
    reasons = Counter("copy" if why.startswith("a copy") else why for why in card.left.values())
    nouns = {"copy": "copy", "a result of an earlier run": "earlier result"}
    parts += [
        f"{several(number, nouns.get(why, 'edit'))} left out" for why, number in reasons.items()
    ]
    if card.problems:
        parts.append(f"{several(len(card.problems), 'file')} not read")
    return ", ".join(parts)


def read_ahead(
    readers: Executor, work: Iterable[Job], recipe: Recipe
) -> Iterator[tuple[list[str], str, Future[Any]]]:
    """Yields (files, path, future of the Pictures) of every scene; reads AHEAD scenes at a time."""
    ahead: deque[tuple[list[str], str, Future[Any]]] = deque()
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
