#!/usr/bin/env bash
# White of a 10-bit file is 1023 or 65472 in a uint16 array and no library says which.
#
# Seen on 2026-11-30 (Linux) with opencv-python 5.0.0.93, pillow-heif 1.8.1 (libheif 1.23), imagecodecs
# 2026.3.6 and tifffile 2026.3.3: OpenCV returns 10-bit AVIF and JPEG 2000 as they are stored, up to 1023,
# but 10-bit TIFF shifted left by six bits, up to 65472. pillow-heif shifts HEIC to 65472 under the name
# "RGB;16"; imagecodecs returns 10-bit JPEG XL up to 1023. All arrays are uint16. Divided by 65535, the first kind
# is black, the second 0.1 % too dark: white is 0.99904, so that a test for clipped pixels finds none.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q "opencv-python==5.0.0.93" "pillow-heif==1.8.1" "imagecodecs==2026.3.6" "tifffile==2026.3.3" "numpy==2.4.6"
"$folder/venv/bin/python" - <<'PYTHON'
import io

import cv2
import imagecodecs
import numpy as np
import pillow_heif
import tifffile

white = np.full((64, 64, 3), 1023, np.uint16)
tiff, heic = io.BytesIO(), io.BytesIO()
tifffile.imwrite(tiff, white, photometric="rgb", bitspersample=10)
scaled = np.full((64, 64, 3), 65535, np.uint16)
pillow_heif.from_bytes("RGB;16", (64, 64), scaled.tobytes()).save(heic, quality=-1)


def by_opencv(data):
    return cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)


found = {
    "AVIF by OpenCV": by_opencv(imagecodecs.avif_encode(white, level=100, bitspersample=10)),
    "JPEG 2000 by OpenCV": by_opencv(imagecodecs.jpeg2k_encode(white, level=0, bitspersample=10)),
    "TIFF by OpenCV": by_opencv(tiff.getvalue()),
    "HEIC by pillow-heif": np.asarray(pillow_heif.open_heif(heic, convert_hdr_to_8bit=False)),
    "JPEG XL by imagecodecs": imagecodecs.jpegxl_decode(
        imagecodecs.jpegxl_encode(white, lossless=True, bitspersample=10)
    ),
}
expected = dict(zip(found, (1023, 1023, 65472, 65472, 1023)))
for name, pixels in found.items():
    assert pixels.dtype == np.uint16
    print(f"{name}: white is {pixels.max()}")
    assert pixels.max() == expected[name], "another white now"
PYTHON
