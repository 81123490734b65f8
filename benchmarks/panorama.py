"""How well do photos of one place fit together? Views that overlap, and the seam of a circle.

The scenes are the project's samples: three views of each, cut out beside each other, and a full
circle, made of the scene and its mirror image.
"""

import argparse
import itertools
import os
import sys

import cv2
import numpy as np

sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.abspath(__file__))))

import fusion
import opts
import photos
import portable
import upsample
import utils

SCENES = {
    "room": ("under.jpg", "over.jpg"),
    "night": ("night/1.jpg", "night/2.jpg", "night/3.jpg"),
    "square": ("square/1.jpg", "square/2.jpg", "square/3.jpg"),
}
WIDTH, VIEW, STEP = 720, 400, 160  # pixels: of a scene, of a view, and from one view to the next
ROWS = 32  # whose mean step at the seam is looked at


def exposures(names, width):
    """Reads a scene's exposures, reduced to a width."""
    folder = os.path.join(os.path.dirname(opts.FOLDER), "samples")
    images = [utils.read_image(os.path.join(folder, name)) for name in names]
    return [utils.reduce(image, width / image.shape[1]) for image in images]


def lightness(image):
    """Returns L* of CIELAB of uint8 RGB, (H, W)."""
    return cv2.cvtColor(np.float32(image) / 255, cv2.COLOR_RGB2LAB)[..., 0]


def fused(network, images, **options):
    """Returns the lightness of the photo of exposures."""
    return lightness(fusion.fuse(network, images, fusion.Options(look="photo", **options)))


def overlap(network, images, together):
    """Returns the mean absolute difference of lightness where neighbouring views overlap."""
    views = [[image[:, k * STEP : k * STEP + VIEW] for image in images] for k in range(3)]
    alike = None
    if together:
        factor = upsample.reduction(views[0], fusion.SMALL)
        reduced = [upsample.reduce_pictures(view, factor) for view in views]
        alike = fusion.Alike.of(network, reduced)
    found = [fused(network, view, alike=alike) for view in views]
    differences = [
        np.abs(one[:, STEP:] - other[:, : VIEW - STEP]).mean()
        for one, other in itertools.pairwise(found)
    ]
    return max(differences)


def seam(network, images, joined):
    """Returns the mean step of lightness at a circle's seam, less that of the same place within."""
    steps = []
    for shift in (WIDTH // 4, WIDTH // 4 + WIDTH // 2):  # The seam, and the same place elsewhere.
        circle = [
            np.roll(np.concatenate([image, image[:, ::-1]], axis=1), shift * 2, axis=1)
            for image in images
        ]
        whole = circle[0].shape[1]
        ring = whole // photos.RING
        if joined:
            circle = [photos.in_a_ring(image, ring) for image in circle]
        light = fused(network, circle)
        light = photos.out_of_ring(light, ring) if joined else light
        place = 0 if not steps else whole // 2
        steps.append(light[:, place] - light[:, place - 1])
    difference = steps[0] - steps[1]
    return np.abs(
        difference[: len(difference) // ROWS * ROWS].reshape(-1, ROWS).mean(axis=1)
    ).mean()


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    parser.add_argument("--scenes", nargs="+", choices=list(SCENES), default=list(SCENES))
    options = parser.parse_args()
    network = portable.OnnxBetween(opts.BETWEEN)
    print("lightness (L*): overlap, with --alike, step at the seam, with --wrap")
    for name in options.scenes:
        images = exposures(SCENES[name], WIDTH)
        values = [overlap(network, images, together) for together in (False, True)]
        values += [seam(network, images, joined) for joined in (False, True)]
        print(f"{name:8}" + "".join(f"{value:7.2f}" for value in values))


if __name__ == "__main__":
    main()
