#!/usr/bin/env bash
# Pillow's rationals of TIFF and EXIF cannot be multiplied, added or divided by each other.
#
# Seen with Pillow 12.3.0 on 2026-11-30 (Python 3.11, Linux): a cropped TIFF file, such as Hugin's nona
# writes, lies at XPosition times XResolution pixels of its canvas, and that product of two tags raises
# TypeError, "unsupported operand type(s) for *: 'IFDRational' and 'IFDRational'". IFDRational hands its
# operators on to Fraction, which does not know the other IFDRational; and of two operands of one type,
# Python does not try the second one's operator. A rational times an int or a float works, so that
# code which was tried with these fails on files that have both tags. Convert both with float().
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q "Pillow==12.3.0"
"$folder/venv/bin/python" - "$folder/cropped.tif" <<'PYTHON'
import sys

import PIL
from PIL import Image

X_RESOLUTION, X_POSITION = 282, 286
picture = Image.new("RGB", (30, 20))
picture.save(sys.argv[1], tiffinfo={X_RESOLUTION: 150.0, X_POSITION: 0.2})
with Image.open(sys.argv[1]) as read:
    position, resolution = read.tag_v2[X_POSITION], read.tag_v2[X_RESOLUTION]
print("Pillow", PIL.__version__, "-", type(position).__name__, position, "and", resolution)
try:
    print("product:", position * resolution)
except TypeError as error:
    print("product: TypeError,", error)
else:
    sys.exit("two rationals can be multiplied now")
print("of floats:", float(position) * float(resolution), "and by an int:", position * 150)
assert round(float(position) * float(resolution)) == round(position * 150) == 30
PYTHON
