"""Photograph a render several times, as a camera bracketing a scene would.

Each linear picture is denoised once, and the pictures named are taken from it at the exposure
values given, against the render's own scale; those of one render fit on each other exactly. Where
there are several renders, of a scene in which something moves, each gives one picture. Needs
numpy, opencv-python-headless and pyoidn:

    python samples/expose.py RENDER_DIR.. OUT_DIR NAME=STOPS..

The pictures of this folder come from

    python samples/expose.py ROOM samples under=-1.6 over=3.15
    python samples/expose.py SQUARE/1 SQUARE/2 SQUARE/3 samples/square 1=-1.6 2=0.6 3=2.8
    python samples/expose.py NIGHT samples/night 1=-2.6 2=0 3=2.6
"""
import sys
from pathlib import Path

import cv2
import numpy as np
import pyoidn

FULL_WELL = 12000  # electrons at white: a mid-sized sensor at base sensitivity
READ_NOISE = 4.0  # electrons


def read(path):
    return np.ascontiguousarray(cv2.imread(str(path), cv2.IMREAD_UNCHANGED)[..., ::-1], np.float32)


def denoised(folder):
    """The render without its sampling noise, which no photograph has."""
    color, albedo, normal = (read(folder / f"{k}.pfm") for k in ("linear", "albedo", "normal"))
    return np.maximum(pyoidn.denoise(color, albedo=albedo, normal=normal, hdr=True), 0)


def sensor(light, rng):
    """What a sensor counts: shot noise and read noise, clipped at the full well."""
    counts = rng.poisson(np.minimum(light, 2) * FULL_WELL) + rng.normal(0, READ_NOISE, light.shape)
    return np.clip(counts / FULL_WELL, 0, 1)


def developed(linear):
    """sRGB encoding with a soft shoulder, so that highlights roll off before they clip."""
    knee, top = 0.6, 1.0
    over = np.maximum(linear - knee, 0) / (top - knee)
    rolled = knee + (top - knee) * (1.25 * over - 0.25 * over**2)
    curve = np.minimum(np.where(linear > knee, rolled, linear), 1)
    return np.where(curve <= 0.0031308, 12.92 * curve, 1.055 * curve ** (1 / 2.4) - 0.055)


def main():
    *sources, out = [Path(given) for given in sys.argv[1:] if "=" not in given]
    stops = dict(given.split("=") for given in sys.argv[1:] if "=" in given)
    scenes = [denoised(source) for source in sources]
    if len(scenes) == 1:
        scenes *= len(stops)
    out.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(1)
    for linear, (name, value) in zip(scenes, stops.items(), strict=True):
        picture = developed(sensor(linear * 2.0 ** float(value), rng))
        pixels = np.rint(picture[..., ::-1] * 255).astype(np.uint8)
        cv2.imwrite(str(out / f"{name}.jpg"), pixels, [cv2.IMWRITE_JPEG_QUALITY, 95])


main()
