#!/usr/bin/env bash
# OpenCV's MergeMertens gives other bits from run to run, on the same pictures, with two threads or more.
#
# Seen with opencv-python 5.0.0.93 and numpy 2.4.6 on 2026-11-30 (Linux, two cores): of 30 calls with
# two threads, some 15 different results, up to 4e-7 of a range of 1 apart; with one thread, all 30 are
# the same. A likely reason: the exposures are added up in the order in which the threads end, and
# sums of floats depend on their order. A result cannot be compared by its bytes, or by a hash, with
# an earlier one.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q "opencv-python==5.0.0.93" "numpy==2.4.6"
"$folder/venv/bin/python" - <<'PYTHON'
import cv2
import numpy as np

rng = np.random.default_rng(0)
scene = cv2.GaussianBlur(rng.random((400, 600, 3), np.float32), (0, 0), 2)
scene = (scene - scene.min()) / (scene.max() - scene.min())
gains = (0.2, 0.5, 1.0, 2.0, 4.0)
exposures = [(255 * np.clip(scene * gain, 0, 1)).astype(np.uint8) for gain in gains]
merge = cv2.createMergeMertens()


def results(threads):
    cv2.setNumThreads(threads)
    return [merge.process(exposures) for _ in range(30)]


print("OpenCV", cv2.__version__)
different = {}
for threads in (1, 2):
    found = results(threads)
    different[threads] = len({image.tobytes() for image in found})
    largest = max(np.abs(image - found[0]).max() for image in found)
    print(f"{threads} thread(s): {different[threads]} different results of 30, by up to {largest:.1e}")
assert different[1] == 1, "one thread no longer gives one result"
assert different[2] > 1, "two threads give one result now"
PYTHON
