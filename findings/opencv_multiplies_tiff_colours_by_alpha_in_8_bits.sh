#!/usr/bin/env bash
# OpenCV multiplies colours of a TIFF by an alpha that does not belong to them, in 8 bits, not in 16.
#
# Seen with opencv-python 5.0.0.93 and tifffile 2026.3.3 on 2026-11-30 (Linux): of one picture with
# unassociated alpha (ExtraSamples 2: colours are not multiplied), IMREAD_UNCHANGED gives the colours in
# 16 bits, and the colours times alpha in 8 bits, with alpha beside them. What was 200 at an alpha of a
# half is 100. libtiff's RGBA interface returns associated alpha, and OpenCV passes it on. Whoever
# composes the result multiplies a second time: semi-transparent borders get dark seams.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q "opencv-python==5.0.0.93" "tifffile==2026.3.3" "numpy==2.4.6"
"$folder/venv/bin/python" - <<'PYTHON'
import io

import cv2
import numpy as np
import tifffile

print("OpenCV", cv2.__version__, "tifffile", tifffile.__version__)
found = {}
for kind, white in (("u1", 255), ("u2", 65535)):
    values = np.empty((40, 50, 4), kind)
    values[..., :3] = round(0.8 * white)
    values[..., 3] = round(0.5 * white)
    file = io.BytesIO()
    tifffile.imwrite(file, values, photometric="rgb", extrasamples=["unassalpha"])
    pixel = cv2.imdecode(np.frombuffer(file.getvalue(), np.uint8), cv2.IMREAD_UNCHANGED)[20, 20]
    found[kind] = pixel / white
    print(f"{kind}: stored 0.80 with alpha 0.50, read {found[kind].round(2)}")
assert abs(found["u1"][0] - 0.4) < 0.01, "8 bits are no longer multiplied by alpha"
assert abs(found["u2"][0] - 0.8) < 0.01, "16 bits are multiplied by alpha now"
PYTHON
