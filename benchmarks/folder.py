"""How many brackets a minute does a folder take, and how much memory a large pair?

Both are whole commands on JPEG files that are made here, see benchmarks/inference.py. enfuse, where
there is one, fuses the same brackets in a loop, as many at a time as there are cores.
"""

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor

from inference import ROOT, pictures

sys.path.insert(0, ROOT)

import utils

COMMAND = [sys.executable, os.path.join(ROOT, "inference.py"), "--quiet"]


def write_brackets(folder, megapixels, count):
    """Writes a pair as `count` brackets, a sub-folder each; returns [(under, over)] of paths."""
    images = pictures(megapixels)
    brackets = []
    for i in range(count):
        scene = os.path.join(folder, f"scene{i:03}")
        os.makedirs(scene)
        paths = [os.path.join(scene, name) for name in ("over.jpg", "under.jpg")]
        for path, image in zip(paths, images[::-1], strict=True):
            if i == 0:
                utils.write_image(path, image)
            else:
                shutil.copy(brackets[0][paths.index(path)], path)
        brackets.append(tuple(paths))
    return brackets


def brackets_a_minute(megapixels, count):
    """Yields (program, brackets a minute)."""
    with tempfile.TemporaryDirectory() as folder:
        card, results = (os.path.join(folder, name) for name in ("card", "fused"))
        brackets = write_brackets(card, megapixels, count)
        start = time.perf_counter()
        subprocess.run([*COMMAND, "--folder", card, "--res", results], check=True)
        yield "inference.py --folder", 60 * count / (time.perf_counter() - start)
        if not shutil.which("enfuse"):
            return

        def enfuse(paths):
            result = os.path.join(os.path.dirname(paths[0]), "fused.jpg")
            subprocess.run(["enfuse", "-o", result, *paths], check=True, capture_output=True)

        start = time.perf_counter()
        with ThreadPoolExecutor(os.cpu_count()) as pool:
            list(pool.map(enfuse, brackets))
        yield "enfuse in a loop", 60 * count / (time.perf_counter() - start)


def time_and_peak(megapixels):
    """Returns the seconds and the peak memory of a whole command that fuses one pair."""
    with tempfile.TemporaryDirectory() as folder:
        ((over, under),) = write_brackets(folder, megapixels, 1)
        result = os.path.join(folder, "fused.jpg")
        # A process of its own counts this child alone, and no memory of this process.
        code = (
            "import resource, subprocess, sys; subprocess.run(sys.argv[1:], check=True);"
            "print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)"
        )
        command = [*COMMAND, "--image1", under, "--image2", over, "--res", result]
        start = time.perf_counter()
        done = subprocess.run(
            [sys.executable, "-c", code, *command], check=True, capture_output=True, text=True
        )
        return time.perf_counter() - start, 1024 * int(done.stdout)


def main(argv=None):
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--count", type=int, default=50, help="brackets")
    parser.add_argument("--size", type=float, default=6, help="megapixels of a bracket's pictures")
    parser.add_argument("--large", type=float, default=100, help="megapixels of the large pair")
    options = parser.parse_args(argv)
    for name, rate in brackets_a_minute(options.size, options.count):
        print(f"{name:24} {rate:6.1f} brackets of {options.size:g} megapixels a minute")
    seconds, peak = time_and_peak(options.large)
    print(f"a pair of {options.large:g} megapixels: {seconds:.1f} s, {peak / 1e9:.2f}e9 bytes")


if __name__ == "__main__":
    main()
