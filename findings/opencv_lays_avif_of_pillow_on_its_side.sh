#!/usr/bin/env bash
# An AVIF that Pillow saves with an EXIF orientation is upright to Pillow and on its side to OpenCV.
#
# Seen with Pillow 12.3.0 and opencv-python 5.0.0.93 on 2026-11-30 (Linux): saving with EXIF orientation
# 6, Pillow writes the turn into the file's irot box, as the format asks for, and takes the tag out of
# EXIF. Pillow itself and browsers turn the picture by the box. OpenCV turns pictures by EXIF alone and
# knows no irot, so that imread returns 120x80 pixels where 80x120 were meant, whatever its flags, and the
# metadata it returns say nothing of a turn either. With JPEG and WebP, the same two calls agree.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q "opencv-python==5.0.0.93" "Pillow==12.3.0" "numpy==2.4.6"
"$folder/venv/bin/python" - "$folder" <<'PYTHON'
import sys

import cv2
import numpy as np
import PIL
from PIL import Image, ImageOps

print("OpenCV", cv2.__version__, "Pillow", PIL.__version__)
exif = Image.Exif()
exif[0x0112] = 6  # turn by 90 degrees
picture = Image.fromarray(np.tile(np.arange(120, dtype=np.uint8)[None, :, None], (80, 1, 3)))
for name in ("jpg", "webp", "avif"):
    path = f"{sys.argv[1]}/x.{name}"
    picture.save(path, exif=exif)
    pillow = ImageOps.exif_transpose(Image.open(path)).size
    sizes = {
        cv2.imread(path, flags).shape[1::-1] for flags in (cv2.IMREAD_COLOR, cv2.IMREAD_ANYCOLOR)
    }
    print(f"{name}: Pillow {pillow}, OpenCV {sizes}")
    assert pillow == (80, 120)
    assert sizes == ({(120, 80)} if name == "avif" else {(80, 120)}), "OpenCV turns in another way now"
PYTHON
