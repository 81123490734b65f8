"""How well does fusion do on a folder of scenes? Scores methods by multi-scale MEF-SSIM.

Beside the given checkpoints it runs a plain average and OpenCV's MergeMertens. Every method's
result is rounded to 8 bits before it is scored, as it is when it is written to a file.
"""

import csv
import os
import re
import statistics
import sys

import cv2
import numpy as np
from tqdm import tqdm

import fusion
import loss
import utils
from dataset import find_pairs
from model import choose_device, load_model
from opts import EvaluateOptions, run


def evaluate(options):
    """Scores all methods as an EvaluateOptions namespace says.

    Returns {method: {scene: MEF-SSIM}}. Raises OSError or ValueError naming the file where a
    picture or checkpoint cannot be used.
    """
    device = choose_device(options.device)
    methods = {"average": average, "MergeMertens": merge_mertens}
    for path in options.model:
        model = load_model(path, device)
        methods[path] = lambda images, model=model: fusion.fuse(model, images)
    if options.csv:
        utils.check_writable(options.csv)
    if options.save:
        for name in methods:
            os.makedirs(os.path.join(options.save, folder_name(name)), exist_ok=True)
    scores = {name: {} for name in methods}
    pairs = find_pairs(options.folder)
    for folder, paths in tqdm(pairs.items(), unit="scene", disable=True if options.quiet else None):
        scene = os.path.basename(folder)
        images = [utils.to_8_bit(utils.read_image(path)) for path in paths]
        try:
            fusion.check(images)
            gray = [utils.to_gray(image) for image in images]
            for name, method in methods.items():
                fused = method(images)
                scores[name][scene] = loss.score(utils.to_gray(fused), gray, device)
                if options.save:
                    file = os.path.join(options.save, folder_name(name), f"{scene}.png")
                    utils.write_image(file, fused)
        except ValueError as error:
            raise ValueError(f"{folder}: {error}") from error
    return scores


def folder_name(method):
    """A checkpoint's path as the name of one folder."""
    return re.sub(r"[^\w.-]+", "_", os.path.splitext(method)[0]).strip("._")


def average(images):
    return utils.quantise(np.mean(images, axis=0) / 255, np.uint8)


def merge_mertens(images):
    """OpenCV's exposure fusion with its default weights; its result may leave [0, 1]."""
    return utils.quantise(cv2.createMergeMertens().process(images), np.uint8)


def print_table(scores):
    print(f"{'MEF-SSIM, multi-scale':40} {'mean':>8} {'median':>8} {'minimum':>8}")
    for name, values in scores.items():
        values = values.values()
        columns = (statistics.mean(values), statistics.median(values), min(values))
        print(f"{name:40} " + " ".join(f"{value:8.4f}" for value in columns))


def write_csv(path, scores):
    with utils.replacing(path, "w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["scene", *scores])
        for scene in next(iter(scores.values())):
            writer.writerow([scene, *(f"{values[scene]:.6f}" for values in scores.values())])


def evaluate_and_report(options):
    scores = evaluate(options)
    print_table(scores)
    if options.csv:
        write_csv(options.csv, scores)


def main(argv=None):
    return run("evaluate.py", evaluate_and_report, EvaluateOptions().parse(argv))


if __name__ == "__main__":
    sys.exit(main())
