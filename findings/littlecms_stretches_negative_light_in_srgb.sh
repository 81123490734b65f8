#!/usr/bin/env bash
# Converted to sRGB in floats by littlecms, colours outside of sRGB become values as low as -5.
#
# Seen with imagecodecs 2026.3.6 (littlecms 2.18) on 2026-11-30 (Linux): a saturated green of Adobe RGB has
# a red of -0.4 in sRGB's linear light. Without clipping, one expects the curve mirrored at 0, as scRGB
# and CSS have it: about -0.66. littlecms goes on along the straight piece that sRGB's curve has near black, with a
# slope of 12.92, down to -5. Values above 1 are as expected. A float picture made so looks right where it
# is clipped, and ruins every mean, blur and resize before that.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q "imagecodecs==2026.3.6" "numpy==2.4.6"
"$folder/venv/bin/python" - <<'PYTHON'
import imagecodecs
import numpy as np

green = np.zeros((1, 4, 3), np.float32)
green[..., 1] = (0.25, 0.5, 0.75, 1)
adobe, srgb = (imagecodecs.cms_profile(name) for name in ("adobergb", "srgb"))
found = imagecodecs.cms_transform(
    green, adobe, srgb, colorspace="rgb", outcolorspace="rgb", outdtype="float32"
)[0]
light = -0.3982 * green[0, :, 1] ** (563 / 256)  # red of Adobe RGB's green in linear sRGB
size = np.abs(light)
mirrored = -np.where(size <= 0.0031308, 12.92 * size, 1.055 * size ** (1 / 2.4) - 0.055)
print(imagecodecs.cms_version())
for value, straight, other in zip(found[:, 0], 12.92 * light, mirrored):
    print(f"red {value:.3f}; along the straight piece {straight:.3f}; mirrored {other:.3f}")
assert np.abs(found[:, 0] - 12.92 * light).max() < 0.05, "negative light has another curve now"
PYTHON
