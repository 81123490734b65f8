#!/usr/bin/env bash
# OpenCV reads TIFF files of planes right in 8 bits, and as noise in 16 bits and in floats, without a word.
#
# Seen with opencv-python 5.0.0.93, tifffile 2026.3.3 and numpy 2.4.6 on 2026-11-30 (Linux): of a picture
# stored with PlanarConfiguration 2, as scanners and scientific programs do, imdecode and imread with
# IMREAD_UNCHANGED return an array of the right size and type. In 8 bits it is the picture, to the last
# level; in 16 bits and float32 the planes lie in it as if their values belonged to pixels, one after
# another, so that differences reach three quarters of the range. 8 bits go through libtiff's RGBA
# interface, which knows planes; deeper ones are read strip by strip, which does not.
# Look at tag 284 before believing such an array.
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

ramp = np.linspace(0.1, 0.9, 60)
scene = np.stack(np.broadcast_arrays(ramp[None], ramp[::-1][None], 0.5 * ramp[:50, None]), axis=2)
print("OpenCV", cv2.__version__, "tifffile", tifffile.__version__)
for kind, white in (("u1", 255), ("u2", 65535), ("f4", 1)):
    values = np.rint(scene * white).astype(kind) if white > 1 else scene.astype(kind)
    file = io.BytesIO()
    planes = values.transpose(2, 0, 1)
    tifffile.imwrite(file, planes, photometric="rgb", planarconfig="separate")
    found = cv2.imdecode(np.frombuffer(file.getvalue(), np.uint8), cv2.IMREAD_UNCHANGED)[..., ::-1]
    assert found.shape == values.shape and found.dtype == values.dtype
    with np.errstate(all="ignore"):
        wrong = float(np.mean(found != values))
    print(f"{kind}: {wrong:.0%} of the values are wrong")
    assert (wrong == 0) == (kind == "u1"), "OpenCV reads planes in another way now"
PYTHON
