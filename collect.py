"""How does anyone collect scenes like those of the weights? From clones of public repositories.

weights/SOURCES.tsv lists them. Many hold several scenes in one folder; pictures of one scene are
told by their content.
"""

import argparse
import csv
import glob
import os
import shutil
import subprocess
import sys
import tempfile
import warnings
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np
from tqdm import tqdm

import utils
from brackets import find_pictures
from opts import CollectOptions
from script import one_line, run

HOST = "https://github.com"
FOLDERS = ("train", "val")  # where scenes go
# Folders of under- and of over-exposed pictures that lie side by side.
PARTNERS = {"under": "over", "ue_ds": "oe_ds", "testA": "testB", "trainA": "trainB"}
COMPARED_SIDE = 96  # pixels; longer side of the pictures that are compared
SEEN = (8, 247)  # levels of 255 between which a pixel is neither black nor white
SHARED = 0.05  # share of the pixels that two exposures both show, at least
ALIKE_RANKS = 0.8  # rank correlation from which on two pictures are exposures of one scene
NEIGHBOURS = 12  # pictures; those of one scene follow each other, with fewer in between
APART = 4  # levels of 255 by which the means of exposures differ, at least
COLLECTED_SIDE = 1200  # pixels; longer side of the collected pictures


class Source(NamedTuple):
    """A folder of a repository that has scenes.

    repository: owner and name. path: in the repository. train, val: numbers of its scenes that are
    listed for these folders. exposures: number in the largest listed scene.
    """

    repository: str
    path: str
    train: int
    val: int
    exposures: int


class Exposure(NamedTuple):
    """A picture file and its content as grey (h, w) of COMPARED_SIDE pixels, in 0 to 255."""

    path: str
    thumbnail: np.ndarray


def read_sources(path: str | os.PathLike[str]) -> list[Source]:
    """Reads a table with a line a scene, as weights/SOURCES.tsv is.

    Leaves out scenes for other folders than FOLDERS: HDR-Eye has a download of its own. Raises
    OSError where the table cannot be read, and ValueError where it is no such table.
    """
    listed = defaultdict(list)
    try:
        with open(path, newline="", encoding="utf-8") as file:
            for row in csv.DictReader(file, delimiter="\t"):
                folder = os.path.basename(row["folder"])
                check_inside(row["repository"], row["path"])
                if folder in FOLDERS:
                    scene = folder, int(row["exposures"])
                    listed[row["repository"], row["path"]].append(scene)
    except (KeyError, TypeError, ValueError, csv.Error) as error:
        raise ValueError(f"{path}: no table of sources: {error}") from error
    if not listed:
        raise ValueError(f"{path}: lists no scene")
    sources = []
    for (repository, place), scenes in listed.items():
        counts = Counter(folder for folder, _ in scenes)
        largest = max(exposures for _, exposures in scenes)
        sources.append(Source(repository, place, counts["train"], counts["val"], largest))
    return sources


def check_inside(*paths: str) -> None:
    """Raises ValueError where one of the paths leads out of the folder that it starts from."""
    for path in paths:
        if os.path.isabs(path) or ".." in path.replace("\\", "/").split("/"):
            raise ValueError(f"{path!r} leads out of the folder")


def clone(sources: Iterable[Source], clones: str, bar: bool = True, host: str = HOST) -> None:
    """Clones the repositories that are not there: the listed folders alone, without history.

    Warns of those that cannot be had. bar: shows progress. Raises OSError where there is no git.
    """
    environment = {**os.environ, "GIT_TERMINAL_PROMPT": "0"}
    paths: dict[str, set[str]] = defaultdict(set)
    for source in sources:
        parent, name = os.path.split(source.path)
        partner = os.path.join(parent, PARTNERS[name]) if name in PARTNERS else source.path
        paths[source.repository] |= {source.path, partner}
    for repository, wanted in tqdm(paths.items(), unit="repository", disable=None if bar else True):
        target = os.path.join(clones, repository)
        if os.path.exists(target):
            continue
        unfinished = f"{target}.part"
        shutil.rmtree(unfinished, ignore_errors=True)
        patterns = []
        for folder in sorted("" if path == "." else f"/{path}" for path in wanted):
            patterns += [f"{folder}/*", f"!{folder}/*/"]
        git = ["git", "-C", unfinished]
        lean = ["--depth", "1", "--filter=blob:none", "--no-checkout"]
        for command in (
            ["git", "clone", "-q", *lean, f"{host}/{repository}", unfinished],
            [*git, "sparse-checkout", "set", "--no-cone", *patterns],
            [*git, "checkout", "-q"],
        ):
            done = subprocess.run(command, capture_output=True, text=True, env=environment)
            if done.returncode:
                reason = " ".join(done.stderr.split())
                warnings.warn(f"{repository}: not cloned: {reason}", stacklevel=2)
                break
        else:
            os.replace(unfinished, target)


def scenes_of(source: Source, clones: str) -> list[list[str]]:
    """Returns the scenes in a clone, each as its picture files, from dark to bright.

    Raises OSError where the clone lacks the folder, and ValueError where pairs are not complete.
    """
    folder = os.path.join(clones, source.repository, source.path)
    parent, name = os.path.split(folder)
    files = find_pictures(folder)
    if name in PARTNERS:
        partners = find_pictures(os.path.join(parent, PARTNERS[name]))
        if len(files) != len(partners):
            raise ValueError(f"{folder}: {len(files)} pictures, but {len(partners)} partners")
        return [list(pair) for pair in zip(files, partners, strict=True)]
    exposures = []
    for file in files:
        try:
            exposures.append(Exposure(file, thumbnail_of(file)))
        except (OSError, ValueError) as error:
            warnings.warn(one_line(error), stacklevel=2)
    groups = group_by_scene(exposures)
    if source.train + source.val == 1:
        groups = sorted(groups, key=len)[-1:]  # Of results and logos beside it, none is as long.
    scenes = [choose_exposures(group, source.exposures) for group in groups]
    return [[exposure.path for exposure in scene] for scene in scenes if len(scene) > 1]


def thumbnail_of(path: str) -> np.ndarray:
    """Reads a picture file as an Exposure's thumbnail."""
    grey = utils.as_grey(utils.read_image(path)).astype(np.float32)
    return utils.reduce(grey, min(1, COMPARED_SIDE / max(grey.shape)))


def group_by_scene(exposures: Sequence[Exposure]) -> list[list[Exposure]]:
    """Groups pictures that are exposures of one scene; their order is kept.

    A picture joins the group of the one before it that it is most alike, see likeness.
    """
    groups: list[list[Exposure]] = []
    home: list[list[Exposure]] = []  # the group of every picture
    for i, exposure in enumerate(exposures):
        near = range(max(i - NEIGHBOURS, 0), i)
        alike = [likeness(exposure.thumbnail, exposures[j].thumbnail) for j in near]
        if alike and max(alike) >= ALIKE_RANKS:
            home.append(home[near[int(np.argmax(alike))]])
            home[-1].append(exposure)
        else:
            groups.append([exposure])
            home.append(groups[-1])
    return groups


def likeness(one: np.ndarray, other: np.ndarray) -> float:
    """Returns the rank correlation of the pixels that two thumbnails both show, at most 1.

    A longer exposure of a scene keeps the order of its brightness. Another scene does not, nor
    does a picture that a program has toned. 0 stands for other sizes, for too few pixels and for
    pictures of one value.
    """
    if one.shape != other.shape:
        return 0.0
    seen = (np.minimum(one, other) >= SEEN[0]) & (np.maximum(one, other) <= SEEN[1])
    if seen.mean() < SHARED:
        return 0.0
    rank, other_rank = mean_ranks(one[seen]), mean_ranks(other[seen])
    if not rank.any() or not other_rank.any():
        return 0.0
    norms = np.linalg.norm(rank) * np.linalg.norm(other_rank)
    return float(rank @ other_rank / norms)


def mean_ranks(values: np.ndarray) -> np.ndarray:
    """Returns the ranks of values, (n,), around 0; equal values have their mean rank."""
    _, places, counts = np.unique(values, return_inverse=True, return_counts=True)
    middle = np.cumsum(counts) - (counts - 1) / 2
    return middle[places] - (len(values) + 1) / 2


def choose_exposures(exposures: Sequence[Exposure], count: int) -> list[Exposure]:
    """Returns at most `count` exposures of a scene, from dark to bright, evenly spaced in order.

    Of exposures whose means differ by less than APART, only the first counts.
    """
    chosen: list[Exposure] = []
    for exposure in sorted(exposures, key=lambda exposure: exposure.thumbnail.mean()):
        if not chosen or exposure.thumbnail.mean() - chosen[-1].thumbnail.mean() >= APART:
            chosen.append(exposure)
    places = np.linspace(0, len(chosen) - 1, min(count, len(chosen))).round().astype(int)
    return [chosen[place] for place in places]


def write_scene(files: Iterable[str], folder: str) -> None:
    """Writes a scene's pictures as 1.jpg, 2.jpg ..., 8-bit and of COLLECTED_SIDE pixels at most.

    Replaces a folder of an earlier run once all are written. Raises OSError or ValueError as
    reading and writing do.
    """
    parent, name = os.path.split(folder)
    os.makedirs(parent, exist_ok=True)
    # Nothing takes a hidden folder for a scene, even if this process is killed.
    with tempfile.TemporaryDirectory(prefix=".", dir=parent) as unfinished:
        new = os.path.join(unfinished, name)
        os.mkdir(new)
        for number, file in enumerate(files, start=1):
            image = utils.to_8_bit(utils.read_image(file))
            image = utils.reduce(image, min(1, COLLECTED_SIDE / max(image.shape[:2])))
            utils.write_image(os.path.join(new, f"{number}.jpg"), image)
        shutil.rmtree(folder, ignore_errors=True)
        os.replace(new, folder)


def collect_source(source: Source, clones: str, results: str) -> Counter[str]:
    """Writes a source's scenes, and returns how many went to each of FOLDERS.

    Of a source with scenes in both, the last ones go to val, as many as are listed. A scene that
    cannot be read is left out, with a warning, and scenes that an earlier run found beyond these
    are removed. Raises OSError or ValueError where the source cannot be used.
    """
    scenes = scenes_of(source, clones)
    name = f"{source.repository}/{source.path}".replace("/", "_").strip("_.")
    counts: Counter[str] = Counter()
    places = set()
    for number, files in enumerate(scenes, start=1):
        last = number > len(scenes) - source.val
        folder = "val" if last or not source.train else "train"
        place = os.path.join(results, folder, f"{name}_{number}")
        places.add(place)
        try:
            write_scene(files, place)
            counts[folder] += 1
        except (OSError, ValueError) as error:
            warnings.warn(f"{place}: not collected: {one_line(error)}", stacklevel=2)
    for place in glob.glob(os.path.join(glob.escape(results), "*", f"{name}_*")):
        ending = os.path.basename(place)[len(name) + 1 :]
        if place not in places and ending.isdecimal():
            shutil.rmtree(place)
    return counts


def collect(options: argparse.Namespace) -> int:
    """Collects scenes as the options of collect.py say; returns 1 where a source gave none.

    Raises OSError or ValueError where the table cannot be read.
    """
    sources = read_sources(options.sources)
    if options.clone:
        clone(sources, options.clones, bar=not options.quiet)
    if not any(os.path.isdir(os.path.join(options.clones, s.repository)) for s in sources):
        raise ValueError(f"{options.clones}: has no clone of these sources; --clone makes them")
    found: Counter[str] = Counter()
    failed = 0
    for source in tqdm(sources, unit="source", disable=True if options.quiet else None):
        try:
            counts = collect_source(source, options.clones, options.res)
        except (OSError, ValueError) as error:
            warnings.warn(one_line(error), stacklevel=1)
            counts = Counter()
        failed += not counts
        found += counts
    if not options.quiet:
        print(", ".join(f"{folder}: {found[folder]} scenes" for folder in FOLDERS))
        print(f"{failed} of {len(sources)} sources gave none")
    return 1 if failed else 0


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the program; returns its exit status."""
    return run("collect.py", collect, CollectOptions().parse(argv))


if __name__ == "__main__":
    sys.exit(main())
