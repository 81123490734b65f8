"""How well are the constants of tone known? Fits them to renditions, and leaves each one out.

Every scene's exposures are completed, and finished with each of a grid of constants around those of
finish.py. The figure is the PSNR of luma against the rendition, in pictures reduced as for a photo.
Cross-validated is the mean over the scenes when each is finished with the constants that serve the
others best.
"""

import argparse
import itertools
import os
import sys

import numpy as np
from tqdm import tqdm

sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.abspath(__file__))))

import between
import evaluate
import finish
import fusion
import opts
import upsample
import utils
from portable import OnnxBetween
from scores import psnr

GRID = {  # finish.py's names and the values that are tried
    "NATURAL_MEAN": (0.49, 0.515, 0.54),
    "SPREAD": (0.18, 0.21, 0.24),
    "PULL": (0.6, 0.75, 0.9),
}


def reduced(images):
    """Returns pictures as a photo is made of them."""
    return upsample.reduce_pictures(images, upsample.reduction(images, fusion.SMALL))


def fit(stack, rendition):
    """Returns the PSNR of the finished luma for every choice of constants."""
    found = []
    for values in itertools.product(*GRID.values()):
        for name, value in zip(GRID, values, strict=True):
            setattr(finish, name, value)
        found.append(psnr(finish.finished(stack)[0] * 255, rendition * 255))
    return found


def main(argv=None):
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--folder", required=True, help="folder of scenes")
    parser.add_argument("--reference", required=True, help="folder of one rendition a scene")
    parser.add_argument("--stack", action="store_true", help="take all exposures of a scene")
    options = parser.parse_args(argv)

    own = tuple(getattr(finish, name) for name in GRID)
    choices = list(itertools.product(*GRID.values()))
    scenes = evaluate.find_scenes_to_score(options.folder, options.stack)
    scenes = evaluate.with_renditions(scenes, options.reference)
    network = OnnxBetween(opts.BETWEEN)
    rows = []
    for scene in tqdm(scenes, unit="scene", disable=None):
        images = [utils.read_image(path) for path in scene.files]
        stack = between.complete(network, utils.to_ycbcr(*reduced(images)))
        (rendition,) = reduced([utils.read_image(scene.rendition)])
        rows.append(fit(stack, utils.to_luma(rendition)[0, 0]))
    found = np.array(rows)
    best = found.mean(axis=0).argmax()
    left_out = [np.delete(found, i, axis=0).mean(axis=0).argmax() for i in range(len(found))]
    print(f"{len(found)} scenes, {len(choices)} choices of {', '.join(GRID)}; PSNR of luma")
    print(f"of finish.py {own}: {found[:, choices.index(own)].mean():.2f}")
    print(f"best of all {choices[best]}: {found[:, best].mean():.2f}")
    print(f"cross-validated: {found[np.arange(len(found)), left_out].mean():.2f}")
    print(f"chosen without one scene: {sorted({choices[i] for i in left_out})}")


if __name__ == "__main__":
    main()
