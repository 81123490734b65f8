"""How much does a time lapse flicker? Lightness from one finished bracket to the next.

The sequence is made here: a room that becomes four times as bright, in which a bright disc passes,
as a pair of exposures each time, whose exposure times are off by some per cent.
"""

import argparse
import os
import sys

import cv2
import numpy as np

sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.abspath(__file__))))

import fusion
import opts
import portable
import utils
from finish import Steady

INACCURACY = 0.06  # standard deviation of an exposure's brightness, as a share of it


def sequence(count):
    """Yields a pair of exposures, uint8 (240, 360, 3) each, for every moment."""
    generator = np.random.default_rng(0)
    samples = os.path.join(os.path.dirname(opts.FOLDER), "samples")
    over = utils.read_image(os.path.join(samples, "over.jpg"))
    base = (cv2.resize(over, (360, 240), interpolation=cv2.INTER_AREA) / 255) ** 2.2
    for moment in np.arange(count) / count:
        light = cv2.circle(base.copy(), (int(360 * moment), 60), 25, (0.9, 0.9, 0.9), -1)
        gains = np.array([0.1, 1.5]) * 0.5 * 4**moment
        gains *= 1 + INACCURACY * generator.standard_normal(2)
        yield [utils.quantise(np.clip(light * gain, 0, 1) ** (1 / 2.2), np.uint8) for gain in gains]


def mean_lightness(image):
    """Returns the mean of L* of CIELAB of uint8 RGB."""
    return float(cv2.cvtColor(np.float32(image) / 255, cv2.COLOR_RGB2LAB)[..., 0].mean())


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    parser.add_argument("--count", type=int, default=300, help="brackets of the sequence")
    options = parser.parse_args()
    network = portable.OnnxBetween(opts.BETWEEN)
    print("mean lightness: first, last, mean change, mean change of the change (flicker)")
    for name, steady in (("as they are", None), ("--steady", Steady())):
        values = np.array(
            [
                mean_lightness(
                    fusion.fuse(network, images, fusion.Options(look="photo", steady=steady))
                )
                for images in sequence(options.count)
            ]
        )
        change, flicker = (np.abs(np.diff(values, n)).mean() for n in (1, 2))
        print(f"{name:12} {values[0]:6.2f} {values[-1]:6.2f} {change:7.3f} {flicker:7.3f}")


if __name__ == "__main__":
    main()
