#!/usr/bin/env bash
# XMP that OpenCV writes into a PNG is no XMP to Pillow: it stands in a chunk of another kind.
#
# Seen with opencv-python 5.0.0.93 and Pillow 12.3.0 on 2026-11-30 (Linux): XMP's specification puts it into an
# iTXt chunk of the keyword XML:com.adobe.xmp. imencodeWithMetadata puts it into a tEXt chunk of that
# keyword, and imdecodeWithMetadata reads both kinds. Pillow shows it among the texts, and has no XMP: what
# OpenCV has written and reads again seems right, until another program looks. With WebP, both agree.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q "opencv-python==5.0.0.93" "Pillow==12.3.0" "numpy==2.4.6"
"$folder/venv/bin/python" - <<'PYTHON'
import io

import cv2
import numpy as np
import PIL
from PIL import Image, PngImagePlugin

xmp = b'<x:xmpmeta xmlns:x="adobe:ns:meta/"/>'
picture = np.zeros((40, 40, 3), np.uint8)
print("OpenCV", cv2.__version__, "Pillow", PIL.__version__)
for name in (".png", ".webp"):
    chunk = np.frombuffer(xmp + b"\0", np.uint8)  # a text ends with a zero
    data = cv2.imencodeWithMetadata(name, picture, [cv2.IMAGE_METADATA_XMP], [chunk])[1].tobytes()
    kind = "tEXt" if b"tEXtXML:com.adobe.xmp" in data else "iTXt" if b"iTXt" in data else "-"
    found = "xmp" in Image.open(io.BytesIO(data)).info
    print(f"{name} by OpenCV: chunk {kind}; Pillow has XMP: {found}")
    assert found == (name == ".webp"), "Pillow finds OpenCV's XMP otherwise now"
texts = PngImagePlugin.PngInfo()
texts.add_itxt("XML:com.adobe.xmp", xmp.decode())
file = io.BytesIO()
Image.fromarray(picture).save(file, "PNG", pnginfo=texts)
assert Image.open(io.BytesIO(file.getvalue())).info["xmp"] == xmp
_, kinds, _ = cv2.imdecodeWithMetadata(np.frombuffer(file.getvalue(), np.uint8), flags=-1)
found = cv2.IMAGE_METADATA_XMP in [int(kind) for kind in kinds]
print(".png by Pillow: OpenCV has XMP:", found)
assert found, "OpenCV reads Pillow's XMP no longer"
PYTHON
