"""How well are the constants of tone known? Fits them to renditions, and leaves each one out.

Every scene is fused, and the tone of finish.py is fitted with each of a grid of constants around
its own. The figure is the PSNR of luma against the rendition, in pictures reduced by 2.
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

import evaluate
import finish
import fusion
import model
import opts
import utils
from arrays import halve
from checkpoint import load_model
from scores import psnr

GRID = {  # finish.py's names and the values that are tried
    "DARKEST": (0.8, 1.0, 1.2),
    "BRIGHTEST": (0.4, 0.55, 0.7),
    "SPREAD": (0.17, 0.2, 0.23),
}


def luma(image):
    """Returns luma reduced by 2, (1, 1, h, w)."""
    return halve(utils.to_luma(image))


def fit(y_f, lumas, rendition):
    """Returns the PSNR of the finished luma for every choice of constants."""
    found = []
    for values in itertools.product(*GRID.values()):
        for name, value in zip(GRID, values, strict=True):
            setattr(finish, name, value)
        tone = finish.fit_tone(y_f, lumas)
        y = finish.apply_tone(tone, y_f, lumas, tone.planes)
        found.append(psnr(*(x[0, 0] * 255 for x in (y, rendition))))
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
    network = model.prepare(load_model(opts.PYRAMID))
    rows = []
    for scene in tqdm(scenes, unit="scene", disable=None):
        images = [utils.read_image(path) for path in scene.files]
        fused = fusion.fuse(network, images, look="photo", finish=0, dtype=np.float32)
        lumas = np.concatenate([luma(image) for image in images])
        rows.append(fit(luma(fused), lumas, luma(utils.read_image(scene.rendition))))
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
