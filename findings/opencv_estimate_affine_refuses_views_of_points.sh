#!/usr/bin/env bash
# OpenCV's estimateAffine2D calls every second point of an array "not 2d", and findHomography takes it.
#
# Seen with opencv-python 5.0.0.93 and numpy 2.4.6 on 2026-12-01 (Linux): points[::2] of shape (250, 2),
# float32, raises "Points need to be 2d" with a count of -1, in estimateAffine2D, estimateAffinePartial2D
# and estimateTranslation2D; convexHull, boundingRect and minAreaRect fail with an assertion of a count.
# The same points are taken as a copy, as points[::2, None] of shape (250, 1, 2), without copying, and
# reversed, points[::-1]. findHomography and fitLine take the view itself. A likely reason: a view whose
# rows lie apart is handed on without a copy, and the check for 2-D points wants them in one piece.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q "opencv-python==5.0.0.93" "numpy==2.4.6"
"$folder/venv/bin/python" - <<'PYTHON'
import cv2
import numpy as np

points = (np.random.default_rng(0).random((500, 2)) * 100).astype(np.float32)
moved = (points * 1.1 + 3).astype(np.float32)
expected = np.array([[1.1, 0, 3], [0, 1.1, 3]])
views = {
    "points[::2]": slice(None, None, 2),
    "points[::-1]": slice(None, None, -1),
    "points[::2, None]": (slice(None, None, 2), None),
    "points[np.arange(0, 500, 2)], a copy": np.arange(0, 500, 2),
}
print("OpenCV", cv2.__version__)
refused = {}
for name, view in views.items():
    for function in (cv2.estimateAffine2D, cv2.findHomography):
        call = function.__name__, name
        try:
            found = function(points[view], moved[view])[0]
            assert np.abs(found[:2] - expected).max() < 0.01, found
            print(*call, points[view].shape, "is found")
        except cv2.error as error:
            refused[call] = str(error)
            print(*call, points[view].shape, "is refused:", *str(error).splitlines()[1:4])
assert list(refused) == [("estimateAffine2D", "points[::2]")], "other views are refused now"
assert "Points need to be 2d" in refused["estimateAffine2D", "points[::2]"]
PYTHON
