"""How much texture do told exposures have? That of the ones that a camera took, or less.

Of every scene, the network sees the darkest and the brightest exposure, reduced as for a photo, and
tells those between. The figures are mean ratios of contrast, told over taken, in bands of the luma:
what a Gaussian blur of so many pixels takes away, after that of half as many. They are told apart
by how bright the brightest exposure is at a place.
"""

import argparse
import os
import sys

import cv2
import numpy as np
from tqdm import tqdm

sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.abspath(__file__))))

import itertools

import between
import fusion
import opts
import upsample
import utils
from brackets import find_scenes
from portable import OnnxBetween

BLURS = (1, 2, 4, 8)  # pixels; standard deviations of the bands' blurs
APART = 0.12  # mean luma by which an exposure differs from the two ends, at least
LEAST = 0.03  # share of a picture that a kind of place has, at least
PLACES = {
    "clipped": lambda y: cv2.erode((y > 0.95).astype(np.uint8), np.ones((3, 3))) > 0,
    "bright": lambda y: (y > 0.75) & (y <= 0.95),
    "middle": lambda y: (y > 0.35) & (y <= 0.75),
}


def bands(y):
    """Returns the bands of a luma, one for each of BLURS."""
    blurred = [y, *(cv2.GaussianBlur(y, (0, 0), blur) for blur in BLURS)]
    return [finer - coarser for finer, coarser in itertools.pairwise(blurred)]


def ratios(network, images):
    """Yields (place, logarithms of the ratios of contrast) of every exposure between."""
    images = upsample.reduce_pictures(images, upsample.reduction(images, fusion.SMALL))
    stack = utils.to_ycbcr(*images)
    levels = stack[:, 0].mean(axis=(1, 2))
    order = np.argsort(levels)
    stack, levels = stack[order], levels[order]
    view = between.look(network, stack[[0, -1]][None])
    for taken, level in zip(stack[1:-1, 0], levels[1:-1], strict=True):
        if min(level - levels[0], levels[-1] - level) < APART:
            continue
        told = between.tell(network, view, np.array([level], np.float32))[0]
        told = between.raised(told, levels[-1] - levels[0])[0]
        pairs = list(zip(bands(told), bands(taken), strict=True))
        for place, holds in PLACES.items():
            mask = holds(stack[-1, 0])
            if mask.mean() >= LEAST:
                yield (
                    place,
                    [np.log(np.abs(a[mask]).mean() / np.abs(b[mask]).mean()) for a, b in pairs],
                )


def main(argv=None):
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--folder", required=True, help="folder of scenes of three and more exposures"
    )
    parser.add_argument("--model", default=opts.BETWEEN, help="checkpoint beside its ONNX files")
    options = parser.parse_args(argv)

    network = OnnxBetween(options.model)
    found = {place: [] for place in PLACES}
    for _, files in tqdm(find_scenes(options.folder), unit="scene", disable=None):
        if len(files) < 3:
            continue
        for place, values in ratios(network, [utils.read_image(file) for file in files]):
            found[place].append(values)
    print(f"contrast, told over taken, by the blur in pixels: {', '.join(map(str, BLURS))}")
    for place, values in found.items():
        if values:
            means = " ".join(f"{ratio:5.2f}" for ratio in np.exp(np.mean(values, axis=0)))
            print(f"{place:8} {means}  ({len(values)} exposures)")


if __name__ == "__main__":
    main()
