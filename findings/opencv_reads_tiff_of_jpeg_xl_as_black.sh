#!/usr/bin/env bash
# An 8-bit TIFF compressed as JPEG XL or JPEG 2000 is a black picture to OpenCV, not an unreadable one.
#
# Seen with opencv-python 5.0.0.93, tifffile 2026.3.3 and imagecodecs 2026.3.6 on 2026-11-30 (Linux):
# imdecode returns an array of the right size whose values are all 0. Its libtiff has no decoder for
# compression 50002 and 34712. In 16 bits, and of compressions it has a name for (ZSTD, LZMA, LERC), the
# same call returns None. A program that only asks whether it got an array takes black for the picture.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q "opencv-python==5.0.0.93" "tifffile==2026.3.3" "imagecodecs==2026.3.6" "numpy==2.4.6"
"$folder/venv/bin/python" - <<'PYTHON'
import io
import os

os.environ["OPENCV_LOG_LEVEL"] = "SILENT"

import cv2
import numpy as np
import tifffile

grey = np.tile(np.arange(60, 240, dtype=np.uint8), (64, 1))
print("OpenCV", cv2.__version__, "tifffile", tifffile.__version__)
for kind in ("uint8", "uint16"):
    for compression in ("jpegxl", "jpeg2000", "zstd", "lzma"):
        values = np.dstack([grey] * 3).astype(kind) * (257 if kind == "uint16" else 1)
        file = io.BytesIO()
        tifffile.imwrite(file, values, photometric="rgb", compression=compression)
        file.seek(0)
        assert np.abs(tifffile.imread(file).astype(int) - values).mean() < 0.02 * values.max()
        found = cv2.imdecode(np.frombuffer(file.getvalue(), np.uint8), cv2.IMREAD_UNCHANGED)
        seen = "None" if found is None else f"values from {found.min()} to {found.max()}"
        print(f"{kind}, {compression}: {seen}")
        black = kind == "uint8" and compression in ("jpegxl", "jpeg2000")
        assert (found is not None and not found.any()) if black else found is None
PYTHON
