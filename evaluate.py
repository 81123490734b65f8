"""How well does fusion do on a folder of scenes? Scores methods beside each other.

A plain average, OpenCV's MergeMertens, checkpoints and results already on disk are scored in one
run. Every result is rounded to 8 bits before it is scored, as it is when it is written to a file.
"""

import csv
import functools
import math
import os
import re
import statistics
import sys

import cv2
import numpy as np
from tqdm import tqdm

import align
import fusion
import utils
from brackets import find_brackets, find_pictures
from checkpoint import load_model
from model import choose_device, prepare
from opts import EvaluateOptions, run
from scores import colour_difference, score_all, to_gray


def evaluate(options):
    """Scores all methods as an EvaluateOptions namespace says.

    Returns {method: {scene: {score: value}}}, the scores being those of score_all and "dC", the
    colour_difference from the middle one of a scene's three or more files. Raises OSError
    or ValueError naming the file where a picture or checkpoint cannot be used.
    """
    device = choose_device(options.device)
    methods = {"average": average, "MergeMertens": merge_mertens}
    for path in options.model:
        model = prepare(load_model(path, device), options.precision)
        fuse = functools.partial(fusion.fuse, model, chroma=options.chroma, fast=options.fast)
        methods[path] = fuse
        if options.refine:
            methods[f"{path} +{options.refine}"] = functools.partial(fuse, refine=options.refine)
    for name, _ in options.fused:
        if name in methods:
            raise ValueError(f"--fused: {name!r} is the name of another method")
    if options.csv:
        utils.check_writable(options.csv)
    if options.sheet:
        utils.check_picture_writable(options.sheet)
    brackets = find_brackets(options.folder, options.stack)
    stacks = find_brackets(options.folder, whole=True)
    scenes = [os.path.basename(folder) for folder in brackets]
    on_disk = {name: match_results(folder, scenes) for name, folder in options.fused}
    scores = {name: {} for name in (*methods, *on_disk)}
    if options.save:
        for name in methods:
            os.makedirs(os.path.join(options.save, folder_name(name)), exist_ok=True)
    rows = []
    for folder, files in tqdm(
        brackets.items(), unit="scene", disable=True if options.quiet else None
    ):
        scene = os.path.basename(folder)
        images = [utils.to_8_bit(utils.read_image(path)) for path in files]
        try:
            fusion.check_images(images)
            results = {name: fuse(images) for name, fuse in methods.items()}
            for name, paths in on_disk.items():
                results[name] = read_result(paths[scene], images)
            gray = [scored_gray(image, options.score_size) for image in images]
            middle = middle_picture(stacks[folder], dict(zip(files, images, strict=True)))
            for name, fused in results.items():
                scores[name][scene] = {
                    **score_all(scored_gray(fused, options.score_size), gray, device),
                    "dC": colour_difference(fused, middle),
                }
        except ValueError as error:
            raise ValueError(f"{folder}: {error}") from error
        if options.save:
            for name in methods:
                path = os.path.join(options.save, folder_name(name), f"{scene}.png")
                utils.write_image(path, results[name])
        if options.sheet:
            captions = [f"{scores[name][scene]['MEF-SSIM']:.4f} {name}" for name in results]
            captions += [f"{scene}: {os.path.basename(path)}" for path in files]
            rows.append(utils.contact_sheet_row([*results.values(), *images], captions))
    if options.sheet:
        write_sheet(options.sheet, rows)
    return scores


def scored_gray(image, side):
    """Gray as it is scored: reduced to a longer side of so many pixels; None: at native size."""
    gray = to_gray(image)
    return gray if side is None else align.reduce(gray, min(1, side / max(gray.shape)))


def middle_picture(stack, decoded):
    """The middle one of three or more files, in 8 bits, else None. decoded: {file: picture}."""
    if len(stack) < 3:
        return None
    path = stack[len(stack) // 2]
    return decoded[path] if path in decoded else utils.to_8_bit(utils.read_image(path))


def folder_name(method):
    """A method's name, which may be a checkpoint's path, as the name of one folder."""
    return re.sub(r"[^\w.-]+", "_", method.replace(".pth", "")).strip("._")


def average(images):
    return utils.quantise(np.mean(images, axis=0) / 255, np.uint8)


def merge_mertens(images):
    """OpenCV's exposure fusion with its default weights; its result may leave [0, 1]."""
    return utils.quantise(cv2.createMergeMertens().process(images), np.uint8)


def match_results(folder, scenes):
    """The fused picture of every scene in a folder of results: {scene: file}.

    A file belongs to the scene that its name, less the extension and letter case aside, is or
    begins with, followed by neither letter nor digit; of several scenes, to the longest.
    Raises OSError where the folder cannot be listed, and ValueError naming a scene that has no
    file or several.
    """
    found = {scene: [] for scene in scenes}
    for path in find_pictures(folder):
        stem = os.path.splitext(os.path.basename(path))[0].lower()
        matches = [
            scene
            for scene in scenes
            if stem.startswith(scene.lower()) and not stem[len(scene) :][:1].isalnum()
        ]
        if matches:
            found[max(matches, key=len)].append(path)
    for scene, paths in found.items():
        if len(paths) != 1:
            count = "no picture" if not paths else f"{len(paths)} pictures"
            raise ValueError(f"{folder}: has {count} of scene {scene}")
    return {scene: path for scene, (path,) in found.items()}


def read_result(path, images):
    """A fused picture from disk in 8 bits; ValueError where its size is not the scene's."""
    fused = utils.to_8_bit(utils.read_image(path))
    if fused.shape[:2] != images[0].shape[:2]:
        (height, width), (expected_height, expected_width) = fused.shape[:2], images[0].shape[:2]
        raise ValueError(
            f"{path} has {width}x{height} pixels, the scene {expected_width}x{expected_height}"
        )
    return fused


def write_sheet(path, rows):
    """Writes rows of thumbnails as one picture, white where a row is shorter."""
    width = max(row.shape[1] for row in rows)
    white = functools.partial(np.pad, constant_values=255)
    rows = [white(row, ((0, 0), (0, width - row.shape[1]), (0, 0))) for row in rows]
    utils.write_image(path, np.concatenate(rows))


def print_tables(scores):
    """Every scene's MEF-SSIM, a summary of all scores, and who wins against whom, on stdout."""
    methods = list(scores)
    scenes = list(scores[methods[0]])
    print("Methods:")
    for number, method in enumerate(methods, start=1):
        print(f"  {number}  {method}")

    width = max(map(len, (*scenes, "MEF-SSIM")))
    print(f"\n{'MEF-SSIM':{width}} " + " ".join(f"{n:>7}" for n in range(1, len(methods) + 1)))
    for scene in scenes:
        values = (scores[method][scene]["MEF-SSIM"] for method in methods)
        print(f"{scene:{width}} " + " ".join(f"{value:7.4f}" for value in values))

    names = [  # less what is known of no scene
        name
        for name in scores[methods[0]][scenes[0]]
        if not all(math.isnan(scores[m][scene][name]) for m in methods for scene in scenes)
    ]
    heads = ["mean", "median", "minimum", *names[1:]]
    width = max(map(len, methods))
    print(f"\n{'':{width}} {'MEF-SSIM':>8} {'':17} mean")
    print(f"{'method':{width}} " + " ".join(f"{head:>8}" for head in heads))
    for method in methods:
        values = {name: [scores[method][scene][name] for scene in scenes] for name in names}
        q = values.pop("MEF-SSIM")
        columns = [statistics.mean(q), statistics.median(q), min(q)]
        for known in ([x for x in column if not math.isnan(x)] for column in values.values()):
            columns.append(statistics.mean(known) if known else math.nan)
        print(f"{method:{width}} " + " ".join(f"{value:8.4f}" for value in columns))

    print("\nScenes in which the method of the row has a higher MEF-SSIM than that of the column:")
    print(f"{'':{width}} " + " ".join(f"{n:>3}" for n in range(1, len(methods) + 1)))
    for method in methods:
        print(f"{method:{width}} " + " ".join(f"{n:>3}" for n in wins(scores, method)))


def wins(scores, method):
    """In how many scenes a method has a higher MEF-SSIM than each method."""
    ours = scores[method]
    return [
        sum(ours[scene]["MEF-SSIM"] > theirs[scene]["MEF-SSIM"] for scene in ours)
        for theirs in scores.values()
    ]


def write_csv(path, scores):
    """One line a scene and method, with all scores."""
    with utils.replacing(path, "w", newline="") as file:
        writer = csv.writer(file)
        first = next(iter(scores["average"].values()))
        writer.writerow(["method", "scene", *first])
        for method, scenes in scores.items():
            for scene, values in scenes.items():
                writer.writerow([method, scene, *(f"{value:.6f}" for value in values.values())])


def evaluate_and_report(options):
    scores = evaluate(options)
    print_tables(scores)
    if options.csv:
        write_csv(options.csv, scores)


def main(argv=None):
    return run("evaluate.py", evaluate_and_report, EvaluateOptions().parse(argv))


if __name__ == "__main__":
    sys.exit(main())
