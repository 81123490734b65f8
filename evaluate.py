"""How well does fusion do on a folder of scenes? Scores methods beside each other.

A plain average, OpenCV's MergeMertens, checkpoints and results already on disk are scored in one
run. Every result is rounded to 8 bits, as in a picture file, before it is scored.
"""

from opts import EvaluateOptions
from script import need_torch

if __name__ == "__main__":  # before the imports below, which take seconds
    need_torch("evaluate.py", EvaluateOptions().parse)


import argparse
import contextlib
import csv
import functools
import math
import os
import re
import statistics
import sys
from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple

import cv2
import numpy as np
import torch
from tqdm import tqdm

import fusion
import loss
import utils
from blind import BlindComparison, binomial_interval, count_verdicts
from brackets import find_brackets, find_pictures
from checkpoint import load_model
from model import choose_device, prepare
from opts import BETWEEN
from portable import OnnxBetween
from scores import (
    blotches,
    largest_spread,
    lightness_quantiles,
    lost_detail,
    mef_ssim_c,
    middle_difference,
    places_seen,
    q_cv,
    rendition_scores,
    score_all,
    scores_of_places,
    shown_detail,
    to_grey,
    vif,
)
from script import one_line, run

Scores = dict[str, dict[str, dict[str, float]]]  # method -> scene -> score -> value


class Scene(NamedTuple):
    """A scene to score.

    name, folder: the name and the path of its folder.
    files: the exposures that are fused.
    middle: the middle one of all its files, or None where there are fewer than three.
    rendition: the file of its finished rendition, or None.
    """

    name: str
    folder: str
    files: list[str]
    middle: str | None
    rendition: str | None = None


Method = Callable[[Scene, list[np.ndarray]], np.ndarray]  # from uint8 exposures to a fused picture


def evaluate(options: argparse.Namespace) -> tuple[Scores, dict[str, str]]:
    """Scores all methods with the options of evaluate.py.

    Writes --csv and --save after every scene, and --sheet at the end. Returns the scores, and
    {scene: reason} for scenes that failed, for which no method has scores. The scores are those of
    scores.score_all, middle_difference, mef_ssim_c, blotches, vif, q_cv, lost_detail,
    lightness_quantiles, scores_of_places and, with --reference, rendition_scores. Raises OSError or
    ValueError naming the file where an option, a checkpoint or a picture's size, as its header has
    it, is mistaken.
    """
    device = choose_device(options.device)
    if options.csv:
        utils.check_writable(options.csv)
    if options.sheet:
        utils.check_picture_writable(options.sheet)
    computed = computed_methods(options, device)
    scenes = find_scenes_to_score(options.folder, options.stack)
    if options.reference:
        scenes = with_renditions(scenes, options.reference)
    check_sizes(scenes, options.score_size)
    methods = computed | methods_on_disk(options.fused, scenes, taken=computed)
    blind = start_blind(options.blind, methods) if options.blind else None
    scores: Scores = {name: {} for name in methods}
    failed: dict[str, str] = {}
    rows = []
    for scene in tqdm(scenes, unit="scene", disable=True if options.quiet else None):
        try:
            images = [utils.to_8_bit(image) for image in utils.read_images(scene.files)]
            fusion.check_images(images)
            row = score_scene(scene, images, methods, options.score_size, device, blind)
        except utils.FAILURES as error:
            failed[scene.name] = one_line(error)
            with tqdm.external_write_mode():
                print(f"evaluate.py: {scene.folder}: {failed[scene.name]}", file=sys.stderr)
            continue
        for name, (values, _) in row.items():
            scores[name][scene.name] = values
        if options.csv:
            write_csv(options.csv, scores)
        if options.sheet:
            rows.append(sheet_row(scene, images, row))
    if rows:
        write_sheet(options.sheet, rows)
    return scores, failed


def computed_methods(options: argparse.Namespace, device: torch.device) -> dict[str, Method]:
    """Returns the methods that this program runs: average, MergeMertens, checkpoints, photos."""

    def fusing(model: fusion.Network, **how: Any) -> Method:
        return lambda _, images: fusion.fuse(model, images, fusion.Options(**how))

    methods: dict[str, Method] = {
        "average": lambda _, images: average(images),
        "MergeMertens": lambda _, images: merge_mertens(images),
    }
    for path in options.model:
        model = prepare(load_model(path, device), options.precision)
        methods[path] = fusing(model, fast=options.fast)
    if options.photo:
        methods["photo"] = fusing(OnnxBetween(BETWEEN), look="photo", finish=options.finish)
    if options.jpeg:
        methods = {name: as_jpeg(method, options.jpeg) for name, method in methods.items()}
    if options.save:
        folders = {name: os.path.join(options.save, folder_name(name)) for name in methods}
        for name, folder in folders.items():
            if list(folders.values()).count(folder) > 1:
                raise ValueError(f"{folder}: would hold the pictures of several checkpoints")
            methods[name] = saving(methods[name], folder)
    return methods


def as_jpeg(method: Method, quality: int) -> Method:
    """Returns the method with its pictures as JPEG files have them, in scenes of JPEG files."""

    def fuse_and_compress(scene: Scene, images: list[np.ndarray]) -> np.ndarray:
        fused = method(scene, images)
        if not all(file.lower().endswith((".jpg", ".jpeg")) for file in scene.files):
            return fused
        shown = fused if fused.ndim == 2 else cv2.cvtColor(fused, cv2.COLOR_RGB2BGR)
        _, data = cv2.imencode(".jpg", shown, [cv2.IMWRITE_JPEG_QUALITY, quality])
        result = np.asarray(cv2.imdecode(data, cv2.IMREAD_UNCHANGED))
        return result if fused.ndim == 2 else cv2.cvtColor(result, cv2.COLOR_BGR2RGB)

    return fuse_and_compress


def saving(method: Method, folder: str) -> Method:
    """Returns the method that also writes its pictures to a folder, which is made here."""
    os.makedirs(folder, exist_ok=True)

    def fuse_and_save(scene: Scene, images: list[np.ndarray]) -> np.ndarray:
        fused = method(scene, images)
        utils.write_image(os.path.join(folder, f"{scene.name}.png"), fused)
        return fused

    return fuse_and_save


def methods_on_disk(
    folders: Sequence[tuple[str, str]], scenes: Sequence[Scene], taken: Iterable[str]
) -> dict[str, Method]:
    """Returns the methods that read other programs' results; folders: (name, folder) each.

    Raises ValueError where a name is taken, and where a scene's picture is missing or, by its
    header, of another size.
    """

    def reading(paths: dict[str, str]) -> Method:
        return lambda scene, _: utils.to_8_bit(utils.read_image(paths[scene.name]))

    methods = {}
    for name, folder in folders:
        if name in taken:
            raise ValueError(f"--fused: {name!r} is the name of another method")
        paths = match_results(folder, [scene.name for scene in scenes])
        for scene in scenes:
            check_size_on_disk(scene, paths[scene.name])
        methods[name] = reading(paths)
    return methods


def with_renditions(scenes: Sequence[Scene], folder: str) -> list[Scene]:
    """Returns the scenes that have a rendition in a folder, found by their names, with its file.

    Raises OSError where the folder cannot be listed, and ValueError where no scene has a rendition,
    one has several, or one has, by its header, another size than its scene.
    """
    found = match_files(folder, [scene.name for scene in scenes])
    kept = [scene for scene in scenes if found[scene.name]]
    if not kept:
        raise ValueError(f"{folder}: has no picture of any scene")
    paths = match_results(folder, [scene.name for scene in kept])
    for scene in kept:
        check_size_on_disk(scene, paths[scene.name])
    return [scene._replace(rendition=paths[scene.name]) for scene in kept]


def start_blind(arguments: Sequence[str], methods: Iterable[str]) -> BlindComparison:
    """Returns the comparison of --blind; ValueError where a method is not among those that run."""
    for name in arguments[1:]:
        if name not in methods:
            raise ValueError(f"--blind: {name!r} is none of the methods {', '.join(methods)}")
    return BlindComparison(*arguments)


def find_scenes_to_score(folder: str, whole: bool) -> list[Scene]:
    """Returns the scenes of a folder, with their pair or, where `whole`, all their exposures."""
    stacks = find_brackets(folder, whole=True)
    scenes = []
    for path, files in find_brackets(folder, whole).items():
        stack = stacks[path]
        middle = utils.middle(stack) if len(stack) > 2 else None
        scenes.append(Scene(os.path.basename(path), path, files, middle))
    return scenes


def check_sizes(scenes: Sequence[Scene], score_size: int | None) -> None:
    """Raises ValueError where, by their headers, pictures of a scene cannot be fused or scored.

    A picture whose size is unknown is no mistake here; its scene may fail when it is read.
    """
    for scene in scenes:
        sizes = []
        for file in scene.files:
            with contextlib.suppress(OSError, ValueError):
                size = utils.upright_size(file)
                sizes += [size] if size else []
        try:
            for size in sizes[1:]:
                fusion.check_same_size(size, sizes[0])
            if sizes:
                scale = min(1, (score_size or math.inf) / max(sizes[0]))
                loss.check_size(*(max(round(side * scale), 1) for side in sizes[0]))
        except ValueError as error:
            raise ValueError(f"{scene.folder}: {error}") from error


def listed(size: tuple[int, ...]) -> str:
    """Returns a size (height, width) as people write it, width first."""
    return f"{size[1]}x{size[0]}"


def check_size_on_disk(scene: Scene, path: str) -> None:
    """Raises ValueError where, by their headers, a picture on disk and its scene differ in size."""
    size, expected = utils.upright_size(path), utils.upright_size(scene.files[0])
    if size and expected and size != expected:
        reason = ""
        if size == expected[::-1]:
            reason = "; it lacks the EXIF orientation of the scene's pictures"
        sizes = f"has {listed(size)} pixels, the scene {listed(expected)}"
        raise ValueError(f"{scene.folder}: {path} {sizes}{reason}")


def score_scene(
    scene: Scene,
    images: list[np.ndarray],
    methods: dict[str, Method],
    score_size: int | None,
    device: torch.device,
    blind: BlindComparison | None = None,
) -> dict[str, tuple[dict[str, float], np.ndarray]]:
    """Fuses and scores a scene by every method: {method: (scores, thumbnail of its picture)}.

    One fused picture is in memory at a time. blind: takes the pictures of its two methods.
    """
    if blind:
        blind.begin()
    grey = [scored_grey(image, score_size) for image in images]
    colour = [reduced(image, score_size) for image in images]
    shown, spread, seen = shown_detail(grey), largest_spread(colour), places_seen(colour)
    middle = middle_picture(scene, images)
    rendition = None
    if scene.rendition:
        rendition = reduced(utils.to_8_bit(utils.read_image(scene.rendition)), score_size)
    row = {}
    for name, method in methods.items():
        fused = method(scene, images)
        if fused.shape[:2] != images[0].shape[:2]:
            raise ValueError(f"{name} gives {listed(fused.shape)} pixels")
        small, small_grey = reduced(fused, score_size), scored_grey(fused, score_size)
        values = score_all(small_grey, grey, device) | middle_difference(fused, middle)
        values |= {"MEF-SSIMc": mef_ssim_c(small, colour), "blotches": blotches(small, spread)}
        values |= {"VIF": vif(small, colour), "Q_CV": q_cv(small, colour)}
        values |= lost_detail(small_grey, shown) | lightness_quantiles(small)
        values |= scores_of_places(small, seen)
        if rendition is not None:
            values |= rendition_scores(small, rendition)
        row[name] = values, utils.thumbnail(fused)
        if blind:
            blind.add(scene.name, name, fused)
    return row


def scored_grey(image: np.ndarray, side: int | None) -> np.ndarray:
    """Returns a picture as it is scored: grey, reduced to a longer side of `side` pixels."""
    return reduced(to_grey(image), side)


def reduced(image: np.ndarray, side: int | None) -> np.ndarray:
    """Returns a picture reduced to a longer side of `side` pixels, None for its native size."""
    return image if side is None else utils.reduce(image, min(1, side / max(image.shape[:2])))


def middle_picture(scene: Scene, images: Sequence[np.ndarray]) -> np.ndarray | None:
    """Returns the scene's middle exposure in 8 bits, one of `images` where it is among them."""
    if scene.middle is None:
        return None
    if scene.middle in scene.files:
        return images[scene.files.index(scene.middle)]
    return utils.to_8_bit(utils.read_image(scene.middle))


def folder_name(method: str) -> str:
    """Returns a method's name, which may be a checkpoint's path, as the name of one folder."""
    return re.sub(r"[^\w.-]+", "_", method.replace(".pth", "")).strip("._")


def average(images: Sequence[np.ndarray]) -> np.ndarray:
    """Returns the mean of uint8 pictures, rounded."""
    total = np.zeros(images[0].shape, np.uint32)
    for image in images:
        total += image
    return utils.quantise(total / len(images) / 255, np.uint8)


def merge_mertens(images: Sequence[np.ndarray]) -> np.ndarray:
    """Fuses by OpenCV's MergeMertens with its default weights; its result is clipped to [0, 1]."""
    return utils.quantise(cv2.createMergeMertens().process(images), np.uint8)


def match_results(folder: str, scenes: Sequence[str]) -> dict[str, str]:
    """Finds the picture of every scene in a folder: {scene: file}; see match_files.

    Raises OSError where the folder cannot be listed, and ValueError naming a scene that has no
    file or several.
    """
    found = match_files(folder, scenes)
    for scene, paths in found.items():
        if len(paths) != 1:
            count = "no picture" if not paths else f"{len(paths)} pictures"
            raise ValueError(f"{folder}: has {count} of scene {scene}")
    return {scene: path for scene, (path,) in found.items()}


def match_files(folder: str, scenes: Sequence[str]) -> dict[str, list[str]]:
    """Finds the pictures of every scene in a folder: {scene: files}.

    A file belongs to a scene if its name, without extension, begins with the scene's in any letter
    case, and neither a letter nor a digit follows. Of several matching scenes, the longest name
    counts. Raises OSError where the folder cannot be listed.
    """
    found: dict[str, list[str]] = {scene: [] for scene in scenes}
    for path in find_pictures(folder):
        stem = os.path.splitext(os.path.basename(path))[0].lower()
        matches = [
            scene
            for scene in scenes
            if stem.startswith(scene.lower()) and not stem[len(scene) :][:1].isalnum()
        ]
        if matches:
            found[max(matches, key=len)].append(path)
    return found


def sheet_row(scene: Scene, images: Sequence[np.ndarray], row: dict[Any, Any]) -> np.ndarray:
    """Returns a scene's line of the contact sheet: all results, then the exposures."""
    results = {f"{values['MEF-SSIM']:.4f} {name}": small for name, (values, small) in row.items()}
    exposures = {
        f"{scene.name}: {os.path.basename(path)}": utils.thumbnail(image)
        for path, image in zip(scene.files, images, strict=True)
    }
    cells = [*results.items(), *exposures.items()]
    return utils.contact_sheet_row([small for _, small in cells], [text for text, _ in cells])


def write_sheet(path: str, rows: Sequence[np.ndarray]) -> None:
    """Writes rows of thumbnails as one picture, white where a row is shorter."""
    width = max(row.shape[1] for row in rows)
    white = functools.partial(np.pad, constant_values=255)
    utils.write_image(
        path,
        np.concatenate([white(row, ((0, 0), (0, width - row.shape[1]), (0, 0))) for row in rows]),
    )


def print_tables(scores: Scores) -> None:
    """Prints every scene's MEF-SSIM, a summary of all scores, and the methods' wins."""
    methods = list(scores)
    print("Methods:")
    for number, method in enumerate(methods, start=1):
        print(f"  {number}  {method}")
    print_scenes(scores)
    print_summary(scores)
    width = max(map(len, methods))
    print("\nScenes in which the method of the row has a higher MEF-SSIM than that of the column:")
    print(f"{'':{width}} " + " ".join(f"{n:>3}" for n in range(1, len(methods) + 1)))
    for method in methods:
        print(f"{method:{width}} " + " ".join(f"{n:>3}" for n in wins(scores, method)))


def print_scenes(scores: Scores) -> None:
    """Prints the MEF-SSIM of every scene, a column a method."""
    scenes = list(next(iter(scores.values())))
    width = max(map(len, (*scenes, "MEF-SSIM")))
    print(f"\n{'MEF-SSIM':{width}} " + " ".join(f"{n:>7}" for n in range(1, len(scores) + 1)))
    for scene in scenes:
        values = (by_scene[scene]["MEF-SSIM"] for by_scene in scores.values())
        print(f"{scene:{width}} " + " ".join(f"{value:7.4f}" for value in values))


def print_summary(scores: Scores) -> None:
    """Prints a line a method: mean, median and minimum of MEF-SSIM, the mean of other scores."""
    lines = [list(by_scene.values()) for by_scene in scores.values()]
    names = [  # Scores that no scene has are left out.
        name
        for name in lines[0][0]
        if not all(math.isnan(values[name]) for line in lines for values in line)
    ]
    heads = ["mean", "median", "minimum", *names[1:]]
    width = max(map(len, scores))
    print(f"\n{'':{width}} {'MEF-SSIM':>8} {'':17} mean")
    print(f"{'method':{width}} " + " ".join(f"{head:>8}" for head in heads))
    for method, line in zip(scores, lines, strict=True):
        q = [values["MEF-SSIM"] for values in line]
        columns = [statistics.mean(q), statistics.median(q), min(q)]
        for name in names[1:]:
            known = [values[name] for values in line if not math.isnan(values[name])]
            columns.append(statistics.mean(known) if known else math.nan)
        cells = zip(columns, heads, strict=True)
        print(f"{method:{width}} " + " ".join(f"{x:{max(len(head), 8)}.4f}" for x, head in cells))


def wins(scores: Scores, method: str) -> list[int]:
    """Counts the scenes in which a method has a higher MEF-SSIM, against each method in turn."""
    ours = scores[method]
    return [
        sum(ours[scene]["MEF-SSIM"] > theirs[scene]["MEF-SSIM"] for scene in ours)
        for theirs in scores.values()
    ]


def write_csv(path: str, scores: Scores) -> None:
    """Writes a line with all scores for every method and scene."""
    with utils.replacing(path, "w", newline="") as file:
        writer = csv.writer(file)
        first = next(iter(scores["average"].values()))
        writer.writerow(["method", "scene", *first])
        for method, scenes in scores.items():
            for scene, values in scenes.items():
                writer.writerow([method, scene, *(f"{value:.6f}" for value in values.values())])


def print_verdicts(path: str) -> None:
    """Prints how often each of two methods was preferred, and the interval that this leaves."""
    methods, preferred, ties = count_verdicts(path)
    decided = sum(preferred)
    print(f"{decided + ties} verdicts, {ties} of them ties")
    for method, wins in zip(methods, preferred, strict=True):
        low, high = binomial_interval(wins, decided)
        print(f"  {wins:3} for {method} (95 % interval: {low:.0%} to {high:.0%} of those decided)")


def evaluate_and_report(options: argparse.Namespace) -> int:
    """Scores and prints; returns the exit status, 1 where a scene could not be scored."""
    if options.judged:
        print_verdicts(options.judged)
        return 0
    scores, failed = evaluate(options)
    if any(scores.values()):
        print_tables(scores)
    if failed:
        total = len(failed) + len(scores["average"])
        print(f"evaluate.py: {len(failed)} of {total} scenes were not scored", file=sys.stderr)
    return 1 if failed else 0


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the program; returns its exit status."""
    return run("evaluate.py", evaluate_and_report, EvaluateOptions().parse(argv))


if __name__ == "__main__":
    sys.exit(main())
